"""A training stage as a SLURM job of one or more nodes, through `submitit`.

The stage command submits the job and waits for it. In the job each node runs torchrun. When SLURM takes the
nodes away or the time is up, the run saves a checkpoint and the job queues again under its number; the next
run goes on from the checkpoint.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unival.engine.machine.launch import GRACE, torchrun
from unival.errors import UserError

WAIT = GRACE + 10
"""Seconds for the ranks to save and leave; submitit lets SLURM's signal come 90 s before the end."""


@dataclass
class Ranks:
    """`python -m unival <arguments>` by torchrun on the nodes of a job; submitit calls it on each of them."""

    arguments: list[str]
    processes: int
    """Ranks of a node."""
    module: str = "unival"
    folder: str = field(default_factory=os.getcwd)
    child: "subprocess.Popen[bytes] | None" = None

    def __call__(self) -> int:
        """Run to the end; returns the exit status."""
        import submitit

        place = submitit.JobEnvironment()
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGUSR2))  # submitit would ignore it
        command = torchrun(self.processes)
        if place.num_nodes > 1:
            # all nodes must find the same port, and two jobs of a node different ones
            port = 20_000 + zlib.crc32(place.job_id.encode()) % 10_000
            command += [f"--nnodes={place.num_nodes}", f"--node-rank={place.node}"]
            command += [f"--master-addr={place.hostnames[0]}", f"--master-port={port}"]
        else:
            command += ["--standalone"]
        command += ["-m", self.module, *self.arguments]
        # SLURM sends SIGUSR2 to all processes of the job; it would end those that do not expect it
        self.child = subprocess.Popen(command, cwd=self.folder, preexec_fn=_ignore_notice)
        return self.child.wait()

    def checkpoint(self) -> Any:
        """Called on the first node when the job is to end: stop the run, and say what to queue again."""
        import submitit

        if self.child is not None and self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(WAIT)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return submitit.helpers.DelayedSubmission(replace(self, child=None))


def _ignore_notice() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def check(settings: Mapping[str, Any]) -> None:
    """Whether jobs can be submitted from here.

    Raises:
        UserError: submitit is not installed, or there is no SLURM.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError("runtime: launcher slurm needs submitit: pip install 'unival[slurm]'")
    if settings.get("cluster", "slurm") == "slurm" and shutil.which("sbatch") is None:
        raise UserError("runtime: launcher slurm: no command sbatch here: submit from a node that has SLURM")


def submit(arguments: Sequence[str], processes: int, settings: Mapping[str, Any], name: str) -> int:
    """Submit, wait, and return the exit status.

    Args:
        settings: parameters of `submitit.AutoExecutor` (nodes, gpus_per_node, timeout_min, slurm_partition,
            ...); `folder` (shared by the nodes, for logs) and `cluster` (`local`: here, without SLURM).

    Raises:
        UserError: see `check`; or the job came to nothing.
    """
    check(settings)
    import submitit

    values = {"tasks_per_node": 1, "name": name, **settings}
    folder, cluster = Path(values.pop("folder", "scratch/slurm")), values.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
        executor.update_parameters(**values)
        job = executor.submit(Ranks(list(arguments), processes))
    except (RuntimeError, NameError, TypeError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"runtime: slurm: {error}") from error
    print(f"{name}: job {job.job_id}, log {job.paths.stdout}", file=sys.stderr, flush=True)
    try:
        return max(map(int, job.results()), key=abs)
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"{name}: job {job.job_id} ended without a result: see {job.paths.stderr}") from error
    except BaseException:
        job.cancel(check=False)
        raise
