"""The study with another seed, and what is kept of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unival import code, config, files, folders, provenance
from unival.engine.machine import runtime
from unival.errors import DIVERGED, UserError
from unival.study import evidence, processes
from unival.study.tables import NOTE, Repeat, Run, read_json

KEPT = ("metrics", "ablations", "runs")
"""Folders of `reports/` that stay."""
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
"""Freed memory stays, in huge pages: an update takes and frees what the one before it did, and without this a
twelfth of its time goes to page faults and translated addresses (benchmarks/results/study-cpu.md)."""


def repeat(
    scratch: Path, out: Path, data: str, study: str, seed: int, configs: Mapping[str, dict[str, Any]]
) -> None:
    """Run the processes of a seed, each once, and copy what is kept to `out`.

    Args:
        scratch: where finished seeds and unfinished work lie, under the digest of all they depend on.
        configs: `<stage>-<item>` -> resolved configuration, in their order.

    Raises:
        UserError: a process met bad input; it has said why.
        SystemExit: a process was stopped by a signal.
    """
    digest = files.digest([configs, evidence.data_digest(data), processes.code()])
    place = scratch / "repeats" / digest
    with files.locked(place.with_suffix(".lock"), f"seed {seed}: another process runs it: waiting"):
        if not (place / NOTE).is_file():
            _run(place.with_name(f"{digest}.work"), place, data, study, seed, configs)
        folders.copy(place, out)


def _run(
    work: Path, place: Path, data: str, study: str, seed: int, configs: Mapping[str, dict[str, Any]]
) -> None:
    """Run the processes in `work`, which keeps those that have ended; then move what stays to `place`."""
    for shared in (Path(data), Path("conf"), Path("params.yaml")):
        _link(work / shared, shared)
    failed = ""
    for number, (name, resolved) in enumerate(configs.items(), start=1):
        done = work / "done" / name
        if not done.is_file():
            print(f"seed {seed}: {name} ({number} of {len(configs)})", flush=True)
            status = _process(work, name, resolved, seed)
            if status == DIVERGED:
                failed = name
                break
            if status:
                raise SystemExit(status) if status > 128 else UserError(f"seed {seed}: {name} failed")
            files.write_text(done, "")
    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for folder in KEPT:
        if (work / "reports" / folder).is_dir() and not failed:
            folders.copy(work / "reports" / folder, part / folder)
    note = Repeat(
        seed=seed, study=study, data=evidence.data_digest(data), code=processes.code(),
        commit=provenance.git("rev-parse", "HEAD") or None, machine=_machine(work / "reports/runs"),
        failed=failed,
    )  # fmt: skip
    files.write_json(part / NOTE, asdict(note))
    part.rename(place)
    shutil.rmtree(work, ignore_errors=True)


def _machine(runs: Path) -> dict[str, Any]:
    """What the processes say they ran on, which is not what this one does; where they differ, each value."""
    facts: dict[str, list[Any]] = {}
    for path in sorted(runs.glob("*.json")):
        for name, fact in read_json(path, Run).machine.items():
            facts.setdefault(name, []).append(fact)
    return {name: found[0] if len(set(found)) == 1 else sorted(set(found)) for name, found in facts.items()}


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)  # it led to a folder that was moved
        link.symlink_to(target.resolve())


def _process(work: Path, name: str, resolved: Mapping[str, Any], seed: int) -> int:
    """Run one stage with `work` as its workspace; its exit status, of a signal 128 + its number."""
    path = work / "build/config" / f"{name}.yaml"
    files.write_text(path, config.dump(dict(resolved)))
    here, one = runtime.load(), runtime.load("cpu")
    # one core for each of several seeds: nothing waits, and no figure depends on how many run at once
    chosen = {runtime.VARIABLE: "cpu"} if here.torch_device() == one.torch_device() else {}
    kernels = os.environ.get("ATEN_CPU_CAPABILITY")  # of `unival kernels`: else both runs have one name
    environment = {
        "GLIBC_TUNABLES": MALLOC, **os.environ, **chosen,
        "DVC_ROOT": str(provenance.root()), "PYTHONPATH": str(code.SOURCE.parent),
        "UNIVAL_RUN_NAME": f"seed {seed}{f' on {kernels}' if kernels else ''}: {name}",
        "UNIVAL_OVERRIDES": f"seed={seed}",
    }  # fmt: skip
    command = [sys.executable, "-m", "unival", "run", str(resolved["stage"]), "--config", str(path.resolve())]
    status = subprocess.run(command, cwd=work, env=environment, check=False).returncode
    return 128 - status if status < 0 else status
