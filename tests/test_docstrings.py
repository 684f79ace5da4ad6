"""Public definitions say what they are, and public functions that refuse something say what and when."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
Definition = ast.FunctionDef | ast.ClassDef
CLASSES = {
    node.name: node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
}


def public(
    body: list[ast.stmt], owner: ast.ClassDef | None = None
) -> Iterator[tuple[str, Definition, ast.ClassDef | None]]:
    """(name, definition, class it stands in) of what another file may use."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield f"{owner.name}.{node.name}" if owner else node.name, node, owner
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, node)


def inherited(name: str, owner: ast.ClassDef | None) -> bool:
    """Whether a class of ours above `owner` documents the method that is overridden."""
    for base in owner.bases if owner else ():
        text = ast.unparse(base.value if isinstance(base, ast.Subscript) else base).split(".")[-1]
        above = CLASSES.get(text)
        if above is None or above is owner:
            continue
        if any(
            getattr(node, "name", "") == name and ast.get_docstring(node)
            for node in above.body
            if isinstance(node, ast.FunctionDef)
        ):
            return True
        if inherited(name, above):
            return True
    return False


def is_variant(node: Definition) -> bool:
    """An overload, or the setter of a property: told by the one that it belongs to."""
    return any(ast.unparse(mark).endswith(("overload", ".setter")) for mark in node.decorator_list)


def refuses(node: ast.AST) -> bool:
    """Whether the function itself raises UserError, not one inside it."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return ast.unparse(node.exc.func) == "UserError"
    inner = (child for child in ast.iter_child_nodes(node) if not isinstance(child, Definition))
    return any(refuses(child) for child in inner)


def lacking(path: Path) -> tuple[list[str], list[str]]:
    """Names without a docstring, and names that raise UserError without saying so."""
    bare, silent = [], []
    for name, node, owner in public(TREES[path].body):
        text = ast.get_docstring(node)
        if is_variant(node):
            continue
        if not text and not inherited(node.name, owner):
            bare.append(f"{name} (line {node.lineno})")
        if isinstance(node, ast.FunctionDef) and refuses(node) and "Raises:" not in (text or ""):
            silent.append(f"{name} (line {node.lineno})")
    return bare, silent


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_public_definitions_are_documented(path: Path) -> None:
    bare, silent = lacking(path)
    assert not bare, "say in a docstring what it is: what comes back, shapes, units"
    assert not silent, "say under `Raises:` what is refused, and when"
