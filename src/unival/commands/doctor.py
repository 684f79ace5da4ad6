"""`unival doctor`: what this machine has, and the fix for what is missing."""

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from unival import provenance, tracking
from unival.errors import UserError

PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "transformers", "mlflow", "dvc", "hydra", "av")
SECONDS = 3.0
"""A tracking server that takes longer counts as out of reach."""


class Check(NamedTuple):
    """One line of the answer."""

    state: Literal["ok", "none", "warn", "FAIL"]
    """none: an option that is not there. warn: something will surprise. FAIL: runs end in an error."""
    name: str
    text: str
    """What there is, or the fix."""


def main(arguments: list[str]) -> None:
    """Print one line per check.

    Raises:
        UserError: something that runs need is missing.
    """
    description = "Check this machine, with the fix for what is missing."
    argparse.ArgumentParser(prog="unival doctor", description=description).parse_args(arguments)
    failed = 0
    for check in checks():
        print(f"{check.state:4} {check.name}: {check.text}")
        failed += check.state == "FAIL"
    if failed:
        raise UserError(f"{failed} check{'s' * (failed > 1)} failed: the lines above name the fix")


def checks() -> Iterator[Check]:
    """All checks, one after the other."""
    yield _needed("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or newer)")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    lacking = f"missing {', '.join(missing)}: make setup"
    yield _needed("packages", not missing, lacking if missing else "all there")
    for name, fix in (("git", "install git"), ("dvc", "put .venv/bin first on PATH")):
        program = shutil.which(name)
        yield _needed(name, program is not None, program or fix)
    here = Path(".git").exists() and Path("dvc.yaml").exists()
    yield _needed("folder", here, str(Path.cwd()) if here else "run from the root of the repository")
    free = shutil.disk_usage(".").free // 2**30
    yield _needed("disk", free >= 5, f"{free} GiB free (5 needed)")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    yield Check("ok", "memory", f"{memory} GiB")
    if importlib.util.find_spec("torch") is not None:
        yield _gpu()
        yield _runtime()
    java = shutil.which("java")
    yield Check("ok" if java else "none", "java", java or "METEOR and SPICE are left out")
    yield _data()
    yield _tracking()
    yield from _repository()


def _needed(name: str, there: bool, text: str) -> Check:
    return Check("ok" if there else "FAIL", name, text)


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("ok", "gpu", torch.cuda.get_device_name())
    return Check("none", "gpu", "CPU only")


def _runtime() -> Check:
    from unival.engine.machine import runtime

    name = os.environ.get(runtime.VARIABLE) or "auto"
    try:
        machine = runtime.load()
        machine.check()
    except UserError as error:
        return Check("FAIL", runtime.VARIABLE, f"{name}: {error}")
    return Check("ok", runtime.VARIABLE, f"{name}: {machine.chosen()}")


def _data() -> Check:
    folder = os.environ.get("UNIVAL_DATA")
    if not folder:
        return Check("none", "UNIVAL_DATA", "not set: the digits and photos benchmarks need it")
    there = Path(folder).is_dir()
    return Check("ok" if there else "warn", "UNIVAL_DATA", folder if there else f"{folder}: no such folder")


def _tracking() -> Check:
    if os.environ.get("UNIVAL_TRACKING") == "off":
        return Check("none", "mlflow", "UNIVAL_TRACKING=off: no run is recorded")
    reason = tracking.unreachable(SECONDS)
    if reason:
        fix = "runs continue, and what they log waits on disk: start the store, then run unival sync"
        return Check("warn", "mlflow", f"{tracking.store_name()}: {reason}: {fix}")
    return Check("ok", "mlflow", tracking.store_name())


def _repository() -> Iterator[Check]:
    """What a queued experiment, which DVC runs in a copy of the commit, will not find; nor will others."""
    if provenance.git("rev-parse", "--is-shallow-repository") == "true":
        fix = "queued experiments can be lost: git fetch --unshallow"
        yield Check("warn", "history", f"a shallow clone: {fix}")
    if "remote " not in provenance.git("show", "HEAD:.dvc/config"):
        fix = "dvc exp push leaves files behind: dvc remote add --default <name> <folder>, and commit it"
        yield Check("none", "remote", f"none for DVC in this commit: {fix}")
    untracked = provenance.git("ls-files", "--others", "--exclude-standard", "--", "conf").splitlines()
    if untracked:
        shown = ", ".join(untracked[:3]) + (", ..." if len(untracked) > 3 else "")
        yield Check(
            "warn", "conf", f"{shown}: not in Git, so queued experiments do not have it: git add conf"
        )
