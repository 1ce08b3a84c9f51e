"""Who may import whom (the house rules), read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tl_lightning

PACKAGE = Path(tl_lightning.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
FOREIGN = {  # module (or its package) -> what of this package it must not import
    "backbones": {"data", "strategies", "task"},
    "data": {"backbones", "strategies", "task"},
    "strategies": {"backbones", "data", "task"},
    "heads": {"backbones", "data", "strategies", "task", "objectives"},
    "objectives": {"backbones", "data", "strategies", "task", "heads"},
    "optim": {"backbones", "data", "strategies", "task", "heads", "objectives"},
    "task": {"data", "build", "run", "config"},
}
HYDRA_USERS = {"config", "build", "__main__", "studies"}


def _imported(path: Path) -> Iterator[str]:
    """Dotted names imported anywhere in a file, but for what only a type checker sees."""
    tree = ast.parse(path.read_text())
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_house_rules(path: Path) -> None:
    room, names = _room(path), list(_imported(path))
    ours = {name.split(".")[1] for name in names if name.startswith("tl_lightning.")}
    assert not ours & FOREIGN.get(room, set())
    if room not in HYDRA_USERS:
        assert not [name for name in names if name.split(".")[0] in ("hydra", "omegaconf")]
    assert not [name for name in names if name.split(".")[0] in ("tests", "experiments")]


def test_the_rules_speak_of_files_that_are_there() -> None:
    assert set(FOREIGN) | HYDRA_USERS <= {_room(path) for path in SOURCES}
    assert len(SOURCES) > 30
