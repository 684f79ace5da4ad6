"""Where a result comes from: commit, versions, machine, and what DVC says of the run."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "timm", "numpy", "mlflow", "dvc", "hydra-core")


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


def describe() -> dict[str, Any]:
    """Commit, versions and machine, for reports."""
    return {
        "commit": git("rev-parse", "HEAD"),
        "versions": versions(),
        "machine": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }
