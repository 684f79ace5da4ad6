"""Where a result comes from: commit, code, versions, machine, and what DVC says of the run."""

import getpass
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "timm", "numpy", "mlflow", "dvc", "hydra-core")
KERNELS = ("processor", "instructions", "torch")
"""Of a machine, what decides how sums are rounded: facts of `machine`."""
MAKE_RESULTS = ("src", "conf", "params.yaml", "dvc.yaml")
"""What a result is made by, and can be made again by."""
CODE = "UNIVAL_CODE"
"""Variable of a process whose code is a copy: `<commit>:<uncommitted>`, as `commit` has them."""


def root() -> Path:
    """The main repository: `$DVC_ROOT`, which names it even in a queued experiment's copy, else here."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def git(*arguments: str, **environment: str) -> str:
    """Output of a git command, empty when there is no repository or no git."""
    words, variables = ["git", *arguments], {**os.environ, **environment}
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> dict[str, str]:
    """The last commit, and `uncommitted`: the commit of `uncommitted_work`, empty where all is committed.

    In a folder that `check_out` has written these are what it was written from.
    """
    if CODE in os.environ:
        return dict(zip(("commit", "uncommitted"), os.environ[CODE].split(":"), strict=True))
    return {"commit": git("rev-parse", "HEAD"), "uncommitted": uncommitted_work()}


@cache
def uncommitted_work() -> str:
    """A commit of what makes results as it stands, on top of the last commit; empty where it stands there.

    It is on no branch and changes neither index nor files. The main repository keeps it under `refs/unival/`.
    """
    places = [place for place in MAKE_RESULTS if Path(place).exists()]
    if not git("status", "--porcelain", "--", *places):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        git("read-tree", "HEAD", **index)
        git("add", "--all", "--", *places, **index)
        tree = git("write-tree", **index)
    who, date = {"NAME": "unival", "EMAIL": "unival"}, git("log", "-1", "--format=%cI")
    author = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER")
              for key, value in (who | {"DATE": date}).items()}  # fmt: skip
    made = git("commit-tree", tree, "-p", "HEAD", "-m", "Uncommitted work that made a result", **author)
    if made:
        git("push", "--quiet", "--no-verify", str(root()), f"{made}:refs/unival/{made}")
    return made


def made_by(code: Mapping[str, str]) -> str:
    """The commit that the note of a result gives as its `code`; empty where it is not here any more."""
    commit = code.get("uncommitted") or code.get("commit") or ""
    return commit if commit and git("cat-file", "-t", commit) else ""


def alone(**more: str) -> dict[str, str]:
    """The environment of a process that is no part of what this one belongs to, and tracks nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    return {**kept, "UNIVAL_TRACKING": "off", **more}


def check_out(commit: str, folder: Path) -> None:
    """Write what made the results of a commit into a folder that is not there yet, whole or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tempfile.TemporaryFile() as archive:
        places = git("ls-tree", "--name-only", commit, "--", *MAKE_RESULTS).split()
        words = ["git", "archive", "--format=tar", commit, "--", *places]
        subprocess.run(words, stdout=archive, check=True)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(part, filter="data")
    part.rename(folder)


def tags() -> dict[str, str]:
    """Tags of an MLflow run: empty ones are left out."""
    command = f"python -m unival {' '.join(sys.argv[1:])}"
    tags_of_run = {
        "git.commit": commit()["commit"],
        "git.dirty": str(bool(uncommitted_work())).lower(),
        "git.uncommitted": uncommitted_work(),
        "dvc.stage": os.environ.get("DVC_STAGE", ""),
        "dvc.exp": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "sweep.id": os.environ.get("UNIVAL_SWEEP", ""),
        "hydra.overrides": os.environ.get("UNIVAL_OVERRIDES", ""),
        "repro.command": command,
        "mlflow.source.name": command,
        "mlflow.user": _user(),
    }
    return {key: value for key, value in tags_of_run.items() if value}


def _user() -> str:
    """Who runs this; empty where the machine has no name for it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, Any]:
    """What this process runs on, and how PyTorch computes there if the process has loaded it.

    A result has the same bytes where the kernels (processor, instructions, version), threads and ranks are
    the same; elsewhere sums are rounded in another order.
    """
    facts: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "ranks": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if torch := sys.modules.get("torch"):
        facts["torch"] = torch.__version__
        facts["instructions"] = torch.backends.cpu.get_cpu_capability()
        facts["threads"] = torch.get_num_threads()
    return facts


def kernels() -> dict[str, str]:
    """Those that this process computes with: a result is kept for later runs on the same ones alone."""
    import torch  # noqa: F401  # `machine` tells of PyTorch where it is loaded

    facts = machine()
    return {key: facts[key] for key in KERNELS}


@cache
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
        **commit(),
        "versions": versions(),
        "machine": machine(),
    }
