"""Where a result comes from: commit, code, versions, machine, and what DVC says of the run."""

import ast
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from unival import files

PACKAGES = ("torch", "transformers", "timm", "numpy", "mlflow", "dvc", "hydra-core")
SOURCE = Path(__file__).parent
SERVICES = frozenset({"unival.errors", "unival.provenance", "unival.scratch", "unival.tracking"})
"""Modules that no figure depends on: no part of `code_digest`, nor what they alone import."""


def root() -> Path:
    """The main repository: `$DVC_ROOT`, which names it even in a queued experiment's copy, else here."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def git(*arguments: str) -> str:
    """Output of a git command, empty when there is no repository or no git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def code_digest(*modules: str) -> str:
    """Digest of what modules of this package compute: of their code and of all they import of the package.

    Comments, docstrings, formatting and what is imported for types alone do not count.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name not in found and path is not None:
            tree = _Bare().visit(ast.parse(path.read_bytes()))
            found[name] = ast.unparse(tree)
            waiting += sorted(set(_imported(tree, name)) - SERVICES)
    return files.digest(found)


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


def _imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Names that may be modules of this package which the module imports, at whatever moment."""
    names = {module}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        path = _source(name)
        if "pkgutil" in names and path is not None and path.name == "__init__.py":  # it imports all of it
            for file in path.parent.rglob("*.py"):
                below = file.relative_to(path.parent).with_suffix("").parts
                yield ".".join([name, *(part for part in below if part != "__init__")])


def tags() -> dict[str, str]:
    """Tags of an MLflow run: empty ones are left out."""
    command = f"python -m unival {' '.join(sys.argv[1:])}"
    found = {
        "git.commit": git("rev-parse", "HEAD"),
        "git.dirty": str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower(),
        "dvc.stage": os.environ.get("DVC_STAGE", ""),
        "dvc.exp": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "sweep.id": os.environ.get("UNIVAL_SWEEP", ""),
        "hydra.overrides": os.environ.get("UNIVAL_OVERRIDES", ""),
        "repro.command": command,
        "mlflow.source.name": command,
    }
    return {key: value for key, value in found.items() if value}


def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What this process runs on, and how PyTorch computes there if the process has loaded it.

    A result has the same bytes where the kernels (processor, instructions, version), threads and ranks are
    the same; elsewhere sums are rounded in another order.
    """
    found: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if torch := sys.modules.get("torch"):
        found["torch"] = torch.__version__
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = torch.get_num_threads()
    return found


def _processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown"


def describe() -> dict[str, Any]:
    """Commit, versions and machine, for reports."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "versions": versions(),
        "machine": machine(),
    }
