"""The machine: device, threads, workers and processes.

`conf/runtime/$UNIVAL_RUNTIME.yaml` (default `auto`) holds it. It never changes what is computed, is never
part of a resolved configuration, and so never makes a stage run again.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import joblib
import torch
from torch import multiprocessing
from tqdm import tqdm

from unival import config
from unival.errors import UserError, nearest

FOLDER = Path("conf/runtime")
VARIABLE = "UNIVAL_RUNTIME"


@dataclass(frozen=True)
class Runtime:
    """Settings of one machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    threads: int = 0
    """Threads of one process's arithmetic; 0: what PyTorch finds, or OMP_NUM_THREADS."""
    workers: int = 0
    """Processes that load data, per rank; 0: a thread of the training process."""
    launcher: Literal["none", "torchrun", "fork", "slurm"] = "none"
    """How a training stage starts its ranks. torchrun: a process per GPU (or `processes`). fork: on a machine
    without GPU, a process per core (`processes` at most). slurm: a job with `processes` on each node."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """What the job asks for: parameters of `unival.engine.slurm.submit`."""
    sharding: Literal["none", "full"] = "none"
    """Each of several ranks has the whole model (DDP), or a part of it (FSDP2) where it does not fit."""
    processes: int = 0
    """Ranks on this machine; 0: the number of GPUs, or 2 without any."""

    def torch_device(self) -> torch.device:
        """The device to use.

        Raises:
            UserError: a GPU is asked for and there is none.
        """
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise UserError(f"runtime: device cuda, but PyTorch finds no GPU: set {VARIABLE}=cpu or auto")
        return torch.device("cuda" if there and self.device != "cpu" else "cpu")

    def apply(self) -> torch.device:
        """Set the number of threads; returns the device."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return self.torch_device()

    def cores(self) -> int:
        """Processes that share the work on this machine's CPU; 1 where a GPU does it."""
        if self.launcher != "fork" or self.torch_device().type == "cuda":
            return 1
        there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.processes or 2, there)

    def launch(self, arguments: Sequence[str], main: Callable[[list[str]], None]) -> int | None:
        """Run `unival <arguments>`, which is `main(arguments)`, on all ranks and wait, if there are several.

        Returns its exit status; None when this process is to do the work itself.
        """
        if self.launcher == "none" or "RANK" in os.environ:
            return None
        if self.launcher == "fork":
            processes = self.cores()
            return fork(processes, lambda: main(list(arguments))) if processes > 1 else None
        processes = self.processes or (torch.cuda.device_count() if self.device != "cpu" else 0) or 2
        if self.launcher == "slurm":
            from unival.engine import slurm

            return slurm.submit(arguments, processes, self.slurm, f"unival-{arguments[1]}")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "unival", *arguments]
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
        return subprocess.run(command, env=environment, check=False).returncode


def parallel(jobs: Sequence[Callable[[], Any]], title: str) -> None:
    """Call every job, in the processes that the chosen runtime has for it; a job keeps its result on disk.

    A job must be picklable. The first error of a job ends all.
    """
    runtime = load()
    bar = tqdm(total=len(jobs), desc=title, unit="job", disable=None)
    if runtime.cores() == 1 or len(jobs) < 2:
        runtime.apply()
        for job in jobs:
            job()
            bar.update()
    else:
        pool = joblib.Parallel(n_jobs=runtime.cores(), return_as="generator_unordered", batch_size=1)
        for _ in pool(joblib.delayed(job)() for job in jobs):
            bar.update()
    bar.close()


def fork(ranks: int, work: Callable[[], None]) -> int:
    """Do `work` on ranks forked from this process, which has imported everything; returns the exit status.

    A rank that fails ends the others; they get SIGTERM when this process gets it, and end when it is killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.start_processes(
        _rank, (ranks, port, work), ranks, join=False, start_method="fork"
    )
    previous = signal.signal(signal.SIGTERM, lambda *_: [rank.terminate() for rank in context.processes])
    try:
        while not context.join():
            pass
    except multiprocessing.ProcessExitedException as error:
        # as a shell reports a process that a signal ended
        return error.exit_code if error.exit_code >= 0 else 128 - error.exit_code
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _rank(rank: int, ranks: int, port: int, work: Callable[[], None]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    work()


def load(name: str | None = None, folder: Path = FOLDER) -> Runtime:
    """The runtime called `name`, or the one of the environment.

    Raises:
        UserError: no such file, unknown key or value.
    """
    name = name or os.environ.get(VARIABLE) or "auto"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = [item.stem for item in folder.glob("*.yaml")]
        raise UserError(f"{VARIABLE}={name}: no file {path}: {nearest(name, known)}")
    return config.build(Runtime, config.load(path), str(path))
