"""The source of model and processor in a model folder, for `trust_remote_code=True` of transformers.

transformers copies a module of the folder and the modules beside it that it imports, and runs them as a
package of its own. So what `modeling` and `processing` import of this package is written flat, with relative
imports: `unival.model.encoder` as encoder.py. One module imports all the others: transformers finds them by
their imports of the form `from .name import`, and one entry keeps one copy of each class.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path

from unival import files

ENTRY = "modeling_unival"
_CLASSES = {
    "UnivalConfig": ["AutoConfig"],
    "UnivalForConditionalGeneration": [
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoModelForMultimodalLM",
        "AutoModelForSeq2SeqLM",
    ],
    "UnivalProcessor": ["AutoProcessor"],
}
"""Class -> the Auto classes that load it."""
AUTO_MAP = {auto: f"{ENTRY}.{name}" for name, autos in _CLASSES.items() for auto in autos}
"""What config.json and processor_config.json say of it."""
_PACKAGE = "unival"
_ROOTS = (f"{_PACKAGE}.model.modeling", f"{_PACKAGE}.model.processing")


def write_code(folder: Path) -> None:
    """Write the modules into a model folder."""
    for name, source in modules().items():
        files.write_text(folder / f"{name}.py", source)


@cache
def modules() -> dict[str, str]:
    """Name -> source of every module that is needed, and of the entry."""
    if __name__.split(".")[0] != _PACKAGE:  # this is such a copy
        beside = sorted(Path(__file__).parent.glob("*.py"))
        return {path.stem: path.read_text(encoding="utf-8") for path in beside if path.stem != "__init__"}
    sources: dict[str, str] = {}
    waiting = list(_ROOTS)
    while waiting:
        module = waiting.pop()
        name = _short(module)
        if name not in sources:
            spec = importlib.util.find_spec(module)
            assert spec is not None and spec.origin is not None
            sources[name], imported = _relative(Path(spec.origin).read_text(encoding="utf-8"))
            waiting += imported
    classes = ("modeling", "UnivalConfig, UnivalForConditionalGeneration"), ("processing", "UnivalProcessor")
    lines = [f"from .{name} import {what}" for name, what in classes]
    lines += [f"from .{name} import __name__ as _" for name in sorted(sources)]
    head = ["# SPDX-License-Identifier: Apache-2.0", '"""UnIVAL, for transformers."""']
    return {**sources, ENTRY: "\n".join([*head, "", *lines, ""])}


def _relative(source: str) -> tuple[str, list[str]]:
    """A module's source with relative imports of this package, and the modules that it imports of it."""
    lines = source.splitlines()
    imported = []
    for node in reversed(list(ast.walk(ast.parse(source)))):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != _PACKAGE:
            continue
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        whole = importlib.util.find_spec(inside[0]) if _is_package(str(node.module)) else None
        imported += inside if whole else [str(node.module)]
        names = ", ".join(f"{a.name} as {a.asname}" if a.asname else a.name for a in node.names)
        start = "." if whole else f".{_short(str(node.module))}"
        assert node.end_lineno is not None
        lines[node.lineno - 1 : node.end_lineno] = [f"{' ' * node.col_offset}from {start} import {names}"]
    return "\n".join([*lines, ""]), imported


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _short(module: str) -> str:
    return module.rsplit(".", 1)[-1]
