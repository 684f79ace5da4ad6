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

from unival.errors import Stopped, told

GRACE = 50
"""Seconds that ranks have to save a checkpoint when they are told to end. Below a minute, for the others of a
rank that died may wait for it on the GPU and have to be killed."""
LEAVE = 10
"""Seconds in which forked processes may leave once one of them has failed or left early."""
AGAIN = 5
"""Seconds after which they are told once more: what a signal's handler raises gets lost in a destructor."""
FORK = multiprocessing.get_context("fork")
ASKS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask for an end in good order."""


def torchrun(processes: int) -> list[str]:
    """Command that starts ranks on this machine."""
    command = [sys.executable, "-m", "unival.engine.machine.torchrun", f"--nproc-per-node={processes}"]
    return [*command, f"--shutdown-timeout={GRACE}"]


@contextmanager
def asked() -> Iterator[list[int]]:
    """Yields the signals of ASKS that came inside so far."""
    came: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ASKS}
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


def wait_for(command: Sequence[str], to_end: Callable[[], bool] = lambda: False, **settings: Any) -> int:
    """Run it; its exit status at the end.

    It hears of Ctrl-C and SIGTERM from this process alone, as SIGTERM, and when this process is killed.

    Args:
        to_end: called every second; whether it is to end as if by SIGTERM.
        settings: of `subprocess.Popen`.
    """
    with asked() as came:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent, **settings)
        told_to_end = False
        while True:
            try:
                return _status(child.wait(timeout=1.0), came)
            except subprocess.TimeoutExpired:
                if not told_to_end and (came or to_end()):
                    child.terminate()
                    told_to_end = True


def _end_with_parent() -> None:
    _prctl_pr_set_pdeathsig(signal.SIGTERM)


def fork(ranks: int, work: Callable[[], None]) -> int:
    """Do `work` on ranks forked from this process, which has imported everything; returns the exit status.

    A rank that fails ends the others. When this process gets Ctrl-C or SIGTERM they have GRACE seconds to
    save and leave, none after a second Ctrl-C; they end when it is killed.
    """
    with reserved_port() as port:
        place = {"WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
        return run_forked(ranks, partial(_rank, place), work, lambda: None)


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yields a port of this machine on which rank 0 can listen, and that nobody else is given meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it shares with who sets this, too
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def run_forked(processes: int, start: Any, work: Callable[[], None], watch: Callable[[], Any]) -> int:
    """`start(number, processes, work)` in forked processes; `watch` is called every second.

    Raises:
        Stopped: as this process was asked to, and the others had nothing to tell before they left.
    """
    children = [FORK.Process(target=start, args=(number, processes, work)) for number in range(processes)]
    with asked() as came:
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)  # until all are there, and can answer
        for child in children:
            child.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)
        status, deadline, again, running = 0, math.inf, 0.0, children
        while running:
            wait([child.sentinel for child in running], 1.0)
            watch()
            running = [child for child in children if child.exitcode is None]
            status = status or next((child.exitcode for child in children if child.exitcode), 0)
            now = time.monotonic()
            if came or status:
                deadline = min(deadline, now + (LEAVE if status else GRACE))
                at_once = now > deadline or came.count(signal.SIGINT) > 1
                if at_once or now > again:
                    for child in running:
                        (child.kill if at_once else child.terminate)()
                    again = now + AGAIN
    if came and status < 0:
        raise Stopped(came[0])
    return _status(status, came)


def _rank(place: dict[str, str], rank: int, ranks: int, work: Callable[[], None]) -> None:
    number = str(rank)
    os.environ.update(place, RANK=number, LOCAL_RANK=number, MASTER_ADDR="127.0.0.1")
    worker(rank, ranks, work)


def worker(number: int, processes: int, work: Callable[[], None]) -> None:
    """`work` as one of so many processes of this machine."""
    with told(of_many=True):
        _prctl_pr_set_pdeathsig(signal.SIGTERM)  # it ends with its parent
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent sends SIGTERM then
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKS)
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        work()
