"""Processes that do one piece of work together: started by torchrun, or forked from this one."""

import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.multiprocessing.spawn import _prctl_pr_set_pdeathsig

from unival.errors import told

GRACE = 50
"""Seconds that ranks have to save a checkpoint when they are told to end. Below a minute, for the others of a
rank that died may wait for it on the GPU and have to be killed."""
LEAVE = 10
"""Seconds in which forked processes may leave once one of them has failed or left early."""
FORK = multiprocessing.get_context("fork")
ASKS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask for an end in good order."""


def torchrun(processes: int) -> list[str]:
    """Command that starts ranks on this machine."""
    command = [sys.executable, "-m", "unival.engine.machine.torchrun", f"--nproc-per-node={processes}"]
    return [*command, f"--shutdown-timeout={GRACE}"]


@contextmanager
def _asked(end: Callable[[bool], None]) -> Iterator[list[int]]:
    """Call `end` at Ctrl-C and SIGTERM inside, with True from the second Ctrl-C on; yields what came."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        end(came.count(signal.SIGINT) > 1)

    previous = {number: signal.signal(number, note) for number in ASKS}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _status(status: int, came: Sequence[int]) -> int:
    """What to exit with: a signal's number as shells report it, that of the signal which came here first."""
    if status < 0:
        status = 128 - status
    return 128 + came[0] if came and status >= 128 else status


def wait_for(command: Sequence[str], **settings: Any) -> int:
    """Run it; its exit status at the end. `settings`: of `subprocess.Popen`.

    It hears of Ctrl-C and SIGTERM from this process alone, as SIGTERM, and when this process is killed.
    """
    child: subprocess.Popen[bytes] | None = None

    def end(at_once: bool) -> None:
        if child is not None:
            child.terminate()

    with _asked(end) as came:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent, **settings)
        if came:  # while it started
            child.terminate()
        return _status(child.wait(), came)


def _end_with_parent() -> None:
    _prctl_pr_set_pdeathsig(signal.SIGTERM)


def fork(ranks: int, work: Callable[[], None]) -> int:
    """Do `work` on ranks forked from this process, which has imported everything; returns the exit status.

    A rank that fails ends the others. When this process gets Ctrl-C or SIGTERM they have GRACE seconds to
    save and leave, none after a second Ctrl-C; they end when it is killed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(ranks), "MASTER_PORT": str(probe.getsockname()[1])}
    return run_forked(ranks, partial(_rank, place), work, lambda: None)


def run_forked(processes: int, start: Any, work: Callable[[], None], watch: Callable[[], Any]) -> int:
    """`start(number, processes, work)` in forked processes; `watch` is called every second."""
    children = [FORK.Process(target=start, args=(number, processes, work)) for number in range(processes)]

    def end(at_once: bool) -> None:
        for child in children:
            if child.is_alive():
                (child.kill if at_once else child.terminate)()

    with _asked(end) as came:
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)  # until all are there, and can answer
        for child in children:
            child.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)
        status, deadline, running = 0, math.inf, children
        while running:
            wait([child.sentinel for child in running], 1.0)
            watch()
            running = [child for child in children if child.exitcode is None]
            failed = next((child.exitcode for child in children if child.exitcode), 0)
            if failed and not status:
                status = failed
                if not came:
                    end(at_once=False)
            if came or status:
                deadline = min(deadline, time.monotonic() + (LEAVE if status else GRACE))
            if time.monotonic() > deadline:
                end(at_once=True)
    return _status(status, came)


def _rank(place: dict[str, str], rank: int, ranks: int, work: Callable[[], None]) -> None:
    number = str(rank)
    os.environ.update(place, RANK=number, LOCAL_RANK=number, MASTER_ADDR="127.0.0.1")
    _work(ranks, work, of_many=False)


def worker(number: int, processes: int, work: Callable[[], None]) -> None:
    """`work` as one of so many processes of this machine."""
    _work(processes, work, of_many=True)


def _work(processes: int, work: Callable[[], None], of_many: bool) -> None:
    with told(of_many):
        _prctl_pr_set_pdeathsig(signal.SIGINT)  # what ends it with its parent
        # a shell's background jobs are started with the signal ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        work()
