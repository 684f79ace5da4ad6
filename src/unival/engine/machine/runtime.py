"""The machine: device, threads, workers and processes.

`conf/runtime/$UNIVAL_RUNTIME.yaml` (default `auto`) holds it. It changes no more of a result than its
rounding (docs/training.md says where), is never part of a resolved configuration, and so never makes a stage
run again.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import multiprocessing
from tqdm import tqdm

from unival import config
from unival.engine.machine import slurm
from unival.engine.machine.distributed import deal
from unival.engine.machine.launch import fork, run_forked, torchrun, wait_for, worker
from unival.errors import UserError, nearest

FOLDER = Path("conf/runtime")
VARIABLE = "UNIVAL_RUNTIME"


@dataclass(frozen=True)
class Runtime:
    """Settings of one machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    threads: int = 0
    """Threads of one process's arithmetic; 0: what PyTorch finds, or OMP_NUM_THREADS. Sums depend on it."""
    workers: int = 0
    """Processes that load data, per rank; 0: a thread of the training process."""
    launcher: Literal["none", "torchrun", "fork", "slurm"] = "none"
    """How a stage starts its ranks. torchrun: a process per GPU (or `processes`). fork: on a machine
    without GPU, a process per core (`processes` at most). slurm: a job with `processes` on each node."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """What the job asks for: options of `sbatch`, by their names."""
    sharding: Literal["none", "full"] = "none"
    """Each of several ranks has the whole model (DDP), or a part of it (FSDP2) where it does not fit."""
    processes: int = 0
    """Ranks on this machine; 0: the number of GPUs, or 2 without any."""
    background_checkpoints: bool = False
    """Training goes on while a checkpoint is written, from a copy in main memory."""

    def torch_device(self) -> torch.device:
        """The device to use.

        Raises:
            UserError: a GPU is asked for and there is none.
        """
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise UserError(f"runtime: device cuda, but PyTorch finds no GPU: set {VARIABLE}=cpu or auto")
        return torch.device("cuda" if there and self.device != "cpu" else "cpu")

    def check(self) -> None:
        """Whether this machine has what the runtime asks for. The GPU of a SLURM job is on its nodes.

        Raises:
            UserError: no GPU, or no SLURM, with the fix.
        """
        if self.launcher == "slurm":
            slurm.check()
        else:
            self.torch_device()

    def apply(self) -> torch.device:
        """Set the number of threads; returns the device."""
        torch.set_num_threads(self.threads_each())
        return self.torch_device()

    def threads_each(self) -> int:
        """Threads of each process: PyTorch would start one for every core, whatever a container may use."""
        usual = torch.get_num_threads()
        return self.threads or (usual if "OMP_NUM_THREADS" in os.environ else min(usual, cpus()))

    def chosen(self) -> str:
        """What it comes to on this machine, in words."""
        if self.launcher in ("torchrun", "slurm"):
            each = f"{self.processes} processes" if self.processes else "a process for each GPU"
            return f"{self.launcher}, {each} on each node"
        device, ranks, threads = self.torch_device().type, self.cores(), self.threads_each()
        plural = "es" * (ranks > 1), "s" * (threads > 1)
        return f"{device}, {ranks} process{plural[0]} of {threads} thread{plural[1]}; CPUs to use: {cpus()}"

    def cores(self) -> int:
        """Processes that share the work on this machine's CPU; 1 where a GPU does it."""
        if self.launcher != "fork" or self.torch_device().type == "cuda":
            return 1
        return min(self.processes or 2, cpus())

    def launch(
        self, arguments: Sequence[str], work: Callable[[], None], logs: Path, single: bool = False
    ) -> int | None:
        """Run `unival <arguments>`, which does `work`, on all ranks and wait, if there are several.

        Args:
            arguments: the stage second.
            work: of a rank that is forked from this process.
            logs: folder of what jobs of SLURM say.
            single: a job of SLURM has one rank.

        Returns its exit status; None when this process is to do the work itself.

        Raises:
            UserError: SLURM refuses the job, or it ended without a status, cancelled for example.
        """
        if self.launcher == "none" or "RANK" in os.environ:
            return None
        if self.launcher == "fork":
            processes = self.cores()
            return fork(processes, work) if processes > 1 else None
        processes = self.processes or (torch.cuda.device_count() if self.device != "cpu" else 0) or 2
        if self.launcher == "slurm":
            ranks = slurm.ranks([sys.executable, "-m", "unival", *arguments], single)
            processes, settings = (1, {**self.slurm, "nodes": 1}) if single else (processes, self.slurm)
            if slurm.INSIDE in os.environ:
                return wait_for(ranks)
            name = f"unival-{arguments[1]}"
            status, nothing = slurm.submit({0: ranks}, processes, settings, name, logs / "%j.log")[0]
            if nothing:
                raise UserError(
                    f"{name}: its job {nothing}; the same command goes on from the last checkpoint"
                )
            return status
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpus() // processes)))
        return wait_for([*torchrun(processes), "--standalone", "-m", "unival", *arguments])


def cpus() -> int:
    """CPUs that this process may use: those of its affinity, at most a container's quota, rounded up."""
    from joblib import cpu_count

    return int(cpu_count())


def parallel(jobs: Sequence[Callable[[], Any]], title: str) -> None:
    """Call every job, on the ranks that were started, or the cores that the chosen runtime has for it.

    A job keeps its result on disk. Rank 0 returns when all are done, others may before.

    Raises:
        UserError: another rank has stopped.
        SystemExit: a job in another process met bad input or was killed; it has said why, and ends all.
    """
    runtime = load()
    device = runtime.apply()

    def do(number: int) -> None:
        jobs[number]()
        _give_back()

    if "RANK" in os.environ:
        deal(len(jobs), do, title, device)
        return
    print(f"{title}: {runtime.chosen()}", file=sys.stderr, flush=True)
    bar = tqdm(total=len(jobs), desc=title, unit="job", disable=None)
    if runtime.cores() == 1 or len(jobs) < 2:
        for number in range(len(jobs)):
            do(number)
            bar.update()
    else:
        taken, done = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)

        def work() -> None:
            while (number := _next(taken)) < len(jobs):
                do(number)
                _next(done)

        status = run_forked(runtime.cores(), worker, work, lambda: bar.update(done.value - bar.n))
        if status:
            sys.exit(status)
    bar.close()


def _give_back() -> None:
    """Return the memory that a job has left: each would add to the next one's peak.

    Models and batches are in reference cycles, and glibc keeps what was freed between blocks that are in use.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _next(counter: Any) -> int:
    """The value before it is counted up."""
    with counter.get_lock():
        counter.value += 1
        return counter.value - 1


def load_anywhere() -> Runtime:
    """As `load`; outside a checkout, where there is none to choose, the defaults."""
    return load() if FOLDER.is_dir() else Runtime()


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
