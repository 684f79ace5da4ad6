"""The machine: device, threads, workers and processes.

`conf/runtime/$UNIVAL_RUNTIME.yaml` (default `auto`) holds it. It never changes what is computed, is never
part of a resolved configuration, and so never makes a stage run again.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

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
    launcher: Literal["none", "torchrun"] = "none"
    """torchrun: the stage command starts one process per GPU (or `processes`) by itself."""
    processes: int = 0
    """Ranks on this machine under torchrun; 0: the number of GPUs, or 2 without any."""

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

    def launch(self, arguments: Sequence[str]) -> int | None:
        """Run `python -m unival <arguments>` on all ranks and wait, where this machine wants several.

        Returns its exit status; None when this process is to do the work itself.
        """
        if self.launcher == "none" or "RANK" in os.environ:
            return None
        processes = self.processes or (torch.cuda.device_count() if self.device != "cpu" else 0) or 2
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "unival", *arguments]
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)), **os.environ}
        return subprocess.run(command, env=environment, check=False).returncode


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
