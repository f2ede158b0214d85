"""Checkpoints of an earlier version of vaejax: what they hold, read into the state of today.

Orbax reads a tree only into one of exactly its structure. What has come to the state since, and is
none of the weights or moments, begins anew; a part of the weights that is empty counts for nothing.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

Key = tuple[str, ...]
# What a training has learnt: nothing of it may be left out or made up.
LEARNT = ("params", "ema", "opt_state")
_EMPTY: dict[str, Any] = {"Dict": {}, "List": [], "Tuple": ()}
_NAMED = 3  # arrays in a message


def restore(folder: Path, template: Any, fresh: Callable[[], Any]) -> Any:
    """Reads a tree that was saved with another structure.

    Args:
      folder: of the tree, in a checkpoint.
      template: of the tree today, arrays on the host.
      fresh: makes such a tree, for what the stored one lacks.
    Raises:
      ValueError: it lacks weights, has others, or of other shapes; names them.
    """
    wanted, (nested, shapes) = _leaves(template), _stored(folder)
    _check(folder, wanted, shapes)
    target = _filled(nested, wanted, ())
    found = _leaves(ocp.StandardCheckpointer().restore(folder.absolute(), target))
    new = {} if found.keys() >= wanted.keys() else _leaves(fresh())
    leaves = [found[key] if key in found else new[key] for key in wanted]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _check(folder: Path, wanted: Mapping[Key, Any], shapes: Mapping[Key, Key]) -> None:
    lacking = [key for key in wanted if key not in shapes and key[0] in LEARNT]
    unknown = [key for key in shapes if key not in wanted]
    others = [k for k in wanted if k in shapes and tuple(shapes[k]) != wanted[k].shape]
    said = {"it lacks": lacking, "it also has": unknown, "it has other sizes of": others}
    differs = "; ".join(f"{words} {_named(keys)}" for words, keys in said.items() if keys)
    if differs:
        raise ValueError(
            f"the weights in {folder} are of another version of vaejax ({differs}); train again in "
            "another --workdir"
        )


def _named(keys: list[Key]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join("/".join(key) for key in keys[:_NAMED]) + more


def _leaves(tree: Any) -> dict[Key, Any]:
    """The arrays of a tree by their way to them, in the order of the tree."""

    def name(step: Any) -> str:
        parts = (getattr(step, kind, None) for kind in ("key", "name", "idx"))
        return str(next(part for part in parts if part is not None))

    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(map(name, path)): leaf for path, leaf in found}


def _stored(folder: Path) -> tuple[Any, dict[Key, Any]]:
    """The tree that orbax says it has written, with None for arrays, and their shapes by key."""
    entries = json.loads((folder / "_METADATA").read_text())["tree_metadata"]
    root: dict[Any, Any] = {}
    shapes = {}
    for entry in entries.values():
        # A number where the tree has a sequence.
        *way, last = (
            int(key["key"]) if key["key_type"] == 1 else key["key"] for key in entry["key_metadata"]
        )
        about, at = entry["value_metadata"], root
        for key in way:
            at = at.setdefault(key, {})
        at[last] = _EMPTY.get(about["value_type"])
        if not about["skip_deserialize"]:
            shapes[tuple(map(str, (*way, last)))] = about["write_shape"]
    return root, shapes


def _filled(nested: Any, leaves: Mapping[Key, Any], at: Key) -> Any:
    """The stored tree with the leaves of the template, and lists where it has sequences."""
    if not isinstance(nested, dict) or not nested:
        return leaves.get(at, nested)
    inner = {key: _filled(value, leaves, (*at, str(key))) for key, value in nested.items()}
    if all(isinstance(key, int) for key in inner):
        return [inner[key] for key in sorted(inner)]
    return inner
