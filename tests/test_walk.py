"""docs/walk.md is the way that a clip and a key really take."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/walk.md").read_text()
WALKS = {text.splitlines()[0]: text for text in PAGE.split("\n## ")[1:]}


def steps_of(walk):
    """(file, name) of the functions of a walk, of each line that is counted the first."""
    lines = re.findall(r"^\d+\. \[`(\w+)`\]\(\.\./([\w/.]+)\)", WALKS[walk], re.M)
    return [(path, name) for name, path in lines]


def body(path, name):
    """A function with the private ones of its file that it calls, as a syntax tree each."""
    tree = ast.parse((ROOT / path).read_text())
    known = {node.name: node for node in tree.body if hasattr(node, "name")}
    found, waiting = {}, [name]
    while waiting:
        at = waiting.pop()
        if at in known and at not in found:
            found[at] = known[at]
            waiting += [called for called in names_in(known[at]) if called != name]
    return found.values()


def entries_of(tree, names):
    """What the tables of other files hold that a file imports and these names mention."""
    found = set()
    for node in tree.body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            path = ROOT / f"{node.module.replace('.', '/')}.py"
            if alias.name in names and alias.name.isupper() and path.exists():
                for other in ast.parse(path.read_text()).body:
                    targets = getattr(other, "targets", [getattr(other, "target", None)])
                    if [getattr(t, "id", "") for t in targets] == [alias.name]:
                        found |= names_in(other)
    return found


def names_in(node):
    """Every name and attribute that a piece of code mentions."""
    nodes = list(ast.walk(node))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {
        n.attr for n in nodes if isinstance(n, ast.Attribute)
    }


@pytest.mark.parametrize("walk", WALKS)
def test_each_step_is_called_by_one_above_it(walk):
    steps = steps_of(walk)
    assert len(steps) > 9
    reached = {steps[0][1]}
    for path, name in steps:
        assert name in reached, f"docs/walk.md, {walk}: nothing above calls {name} of {path}"
        nodes = body(path, name)
        assert nodes, f"docs/walk.md, {walk}: no {name} in {path}"
        names = set().union(*map(names_in, nodes))
        reached |= names | entries_of(ast.parse((ROOT / path).read_text()), names)


@pytest.mark.parametrize("walk", WALKS)
def test_each_step_leads_to_the_next_file(walk):
    """A module that a walk enters is imported by one that it has been in."""
    been = []
    for path, _ in steps_of(walk):
        module = path.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
        assert (
            not been
            or path in been
            or any(re.search(rf"\b{module}\b", (ROOT / earlier).read_text()) for earlier in been)
        ), f"docs/walk.md, {walk}: nothing above imports {path}"
        been.append(path)
