"""Which code a result hangs on: the module of a stage and whatever that imports of this package.

Digests are equal where the code reads the same: comments, docstrings, formatting and what is imported for
types alone do not count.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unival import files

SOURCE = Path(__file__).parent
SERVICES = frozenset(f"unival.{name}" for name in ("code", "errors", "provenance", "scratch", "tracking"))
"""Modules that no figure depends on: no part of `digest`, nor what they alone import."""


@cache
def digest(*modules: str) -> str:
    """Digest of what modules of this package compute: of their code and of all they import of the package."""
    contents: dict[str, list[str]] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name not in contents and path is not None:
            module = _read(path, name, path.stat().st_mtime_ns)
            contents[name] = [module.code, *(files.file_digest(file) for file in module.beside)]
            waiting += module.imported - SERVICES
            waiting += {parent for parent in module.parents - SERVICES if not _passes_on(parent)}
    return files.digest(contents)


@dataclass(frozen=True)
class _Module:
    """What is read of a file."""

    code: str
    """Without what has no effect."""
    imported: frozenset[str]
    """Names that may be modules which it imports, at whatever moment."""
    parents: frozenset[str]
    """Packages that these lie in."""
    beside: tuple[Path, ...]
    """Files in its folder that it names: a table, a style sheet."""
    passes_on: bool
    """It only gives shorter names, those of `__all__`, to what other modules define."""


@cache
def _read(path: Path, name: str, changed: int) -> _Module:
    """A module as of the time `changed` of its file."""
    tree = _Bare().visit(ast.parse(path.read_bytes()))
    imported, words = {name}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant):
            words.add(node.value)
    if "pkgutil" in imported:  # it imports all of the packages that it names
        imported |= {below for package in imported for below in _below(package)}
    parts = [one.split(".") for one in imported]
    parents = {".".join(words[:length]) for words in parts for length in range(1, len(words))}
    beside = [file for file in path.parent.iterdir() if file.suffix not in (".py", "") and file.name in words]
    return _Module(
        ast.unparse(tree), frozenset(imported), frozenset(parents), tuple(sorted(beside)),
        _only_reexports(tree.body),
    )  # fmt: skip


def _only_reexports(body: list[ast.stmt]) -> bool:
    match body:
        case [*imports, ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=names))]:
            passed = [node for node in imports if isinstance(node, ast.ImportFrom)]
            given = {alias.name for node in passed for alias in node.names}
            return len(passed) == len(imports) and given == {ast.literal_eval(name) for name in names}
    return False


def _passes_on(package: str) -> bool:
    """Whether who asked for a module in a package has no need of the package itself."""
    path = _source(package)
    return path is None or _read(path, package, path.stat().st_mtime_ns).passes_on


class _Bare(ast.NodeTransformer):
    """Leaves out what has no effect."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        literal = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if literal else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if types else self.generic_visit(node)


def _source(module: str) -> Path | None:
    """The file of a module of this package; None for other names."""
    place = SOURCE.parent / module.replace(".", "/")
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if module.split(".")[0] == SOURCE.name and path.is_file():
            return path
    return None


def _below(package: str) -> Iterator[str]:
    """All modules in a package."""
    path = _source(package)
    if path is not None and path.name == "__init__.py":
        for file in path.parent.rglob("*.py"):
            below = file.relative_to(path.parent).with_suffix("").parts
            yield ".".join([package, *(part for part in below if part != "__init__")])
