"""Tables of alternatives, name -> record, as choices of the command line.

A table is written down once, beside what it lists, as a dict with names for keys. Its module
imports JAX, which takes seconds; so the names are read off the source.
"""

import ast
from functools import lru_cache
from pathlib import Path

from tyro.constructors import PrimitiveConstructorSpec


@lru_cache
def names_in(module: str) -> tuple[str, ...]:
    """Names in the table of a module, in their order.

    Args:
      module: path from the package, and the table: "objective/priors.py:PRIORS".
    """
    path, _, table = module.partition(":")
    for node in ast.parse((Path(__file__).parent / path).read_text()).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if [ast.unparse(target) for target in targets] == [table]:
                return tuple(
                    str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)
                )
    raise AssertionError(f"no dict {table} in {path}")


def one_of(module: str, *others: str) -> PrimitiveConstructorSpec[str]:
    """The names of a table, and others before them, as the choices of an option:
    `Annotated[str, one_of(...)]`."""
    names = *others, *names_in(module)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(names) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value in names,
        str_from_instance=lambda value: [value],
        choices=names,
    )
