"""Processes that do one piece of work together: started by torchrun, or forked from this one."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import multiprocessing

from unival.errors import told

GRACE = 50
"""Seconds that ranks have to save a checkpoint when they are told to end. Below a minute, for the others of a
rank that died may wait for it on the GPU and have to be killed."""


def torchrun(processes: int) -> list[str]:
    """Command that starts ranks on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return [*command, f"--shutdown-timeout={GRACE}"]


def wait_for(command: Sequence[str]) -> int:
    """Run it; its exit status at the end. It is handed SIGTERM on; the SIGINT of a terminal goes to both."""
    child: subprocess.Popen[bytes] | None = None
    ended = False

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True
        if child is not None:
            child.terminate()

    previous = signal.signal(signal.SIGTERM, end)
    try:
        child = subprocess.Popen(command)
        if ended:  # while it started
            child.terminate()
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, previous)


def fork(ranks: int, work: Callable[[], None]) -> int:
    """Do `work` on ranks forked from this process, which has imported everything; returns the exit status.

    A rank that fails ends the others; they get SIGTERM when this process gets it, and end when it is killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(ranks), "MASTER_PORT": str(probe.getsockname()[1])}
    return run_forked(ranks, partial(_rank, place), work, lambda: None)


def run_forked(processes: int, start: Any, work: Callable[[], None], watch: Callable[[], Any]) -> int:
    """`start(number, processes, work)` in forked processes; `watch` is called every second."""
    context = multiprocessing.start_processes(
        start, (processes, work), processes, join=False, start_method="fork"
    )
    previous = signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in context.processes])
    try:
        while not context.join(timeout=1.0):
            watch()
    except multiprocessing.ProcessExitedException as error:
        # as a shell reports a process that a signal ended
        return error.exit_code if error.exit_code >= 0 else 128 - error.exit_code
    finally:
        watch()
        signal.signal(signal.SIGTERM, previous)
    return 0


def _rank(place: dict[str, str], rank: int, ranks: int, work: Callable[[], None]) -> None:
    number = str(rank)
    os.environ.update(place, RANK=number, LOCAL_RANK=number, MASTER_ADDR="127.0.0.1")
    worker(rank, ranks, work)


def worker(number: int, processes: int, work: Callable[[], None]) -> None:
    """`work` as one of so many processes of this machine."""
    # what ends it with its parent; a shell's background jobs are started with the signal ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    with told():
        work()
