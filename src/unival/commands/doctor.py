"""`unival doctor`: what this machine has, and the fix for what is missing."""

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from unival.errors import UserError

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "transformers", "mlflow", "dvc", "hydra", "av")


def main(arguments: list[str]) -> None:
    """Print one line per check.

    Raises:
        UserError: something that every run needs is missing.
    """
    description = "Check this machine, with the fix for what is missing."
    argparse.ArgumentParser(prog="unival doctor", description=description).parse_args(arguments)
    failed = 0
    for name, good, needed, text in _checks():
        print(f"{'ok  ' if good else 'FAIL' if needed else 'none'} {name}: {text}")
        failed += needed and not good
    if failed:
        raise UserError(f"{failed} check{'s' * (failed > 1)} failed: the lines above name the fix")


def _checks() -> list[tuple[str, bool, bool, str]]:
    """(name, passed, needed by every run, finding or fix)."""
    version = sys.version.split()[0]
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    repository = Path(".git").exists() and Path("dvc.yaml").exists()
    data = os.environ.get("UNIVAL_DATA")
    free = shutil.disk_usage(".").free // 2**30
    return [
        ("python", sys.version_info >= (3, 11), True, f"{version} (3.11 or newer)"),
        (
            "packages",
            not missing,
            True,
            f"missing {', '.join(missing)}: make setup" if missing else "all there",
        ),
        ("git", shutil.which("git") is not None, True, shutil.which("git") or "install git"),
        ("dvc", shutil.which("dvc") is not None, True, shutil.which("dvc") or "put .venv/bin first on PATH"),
        (
            "folder",
            repository,
            True,
            str(Path.cwd()) if repository else "run from the root of the repository",
        ),
        ("disk", free >= 5, True, f"{free} GiB free (5 needed)"),
        ("memory", True, False, f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30} GiB"),
        ("gpu", *_gpu()),
        (
            "java",
            shutil.which("java") is not None,
            False,
            shutil.which("java") or "METEOR and SPICE are left out",
        ),
        ("UNIVAL_DATA", bool(data), False, data or "not set: the digits and photos benchmarks need it"),
        ("UNIVAL_RUNTIME", True, False, os.environ.get("UNIVAL_RUNTIME", "auto")),
    ]


def _gpu() -> tuple[bool, bool, str]:
    if importlib.util.find_spec("torch") is None:
        return False, False, "unknown without torch"
    import torch

    there = torch.cuda.is_available()
    return there, False, torch.cuda.get_device_name() if there else "CPU only"
