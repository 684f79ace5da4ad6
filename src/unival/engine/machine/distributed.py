"""Ranks: torchrun starts them, PyTorch connects them. One process is a world of one, without any set-up."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from unival.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""Others wait in a collective while rank 0 evaluates; torchrun ends them if it dies."""
PATIENCE = timedelta(minutes=5)
"""For all ranks to have imported what they need."""
MEETINGS = count()
"""How often this process joined others: torchrun's store outlives a meeting."""
LOOPBACK = ("127.0.0.1", "localhost")
"""Addresses of a meeting of which no other machine is to hear."""


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0 writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over the ranks, in float64, equal on all of them.

        The hosts add it up among themselves: none waits for its device.
        """
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """In-place sum of a tensor over the ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, on all of them; what `pickle` can write."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: float) -> float:
        """The value of rank 0 on all ranks."""
        return self.sum([value if self.is_main else 0.0])[0]


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the ranks that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), leave at the end.

    Raises:
        UserError: another rank died.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    device = _own(device)
    started_here = not dist.is_initialized()
    if started_here:
        rank = int(os.environ["RANK"])
        if os.environ["MASTER_ADDR"] in LOOPBACK:  # else Gloo listens where the host's name leads
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=_meeting(rank, size), rank=rank, world_size=size, timeout=TIMEOUT
        )
    try:
        with _others_told(dist.get_rank()):
            yield World(dist.get_rank(), size, device)
    finally:
        if started_here:
            dist.destroy_process_group()


def deal(jobs: int, do: Callable[[int], None], title: str, device: torch.device) -> None:
    """Call `do` with each number below `jobs` on one of the ranks that were started, as they ask for it.

    Meanwhile a rank is a world of its own: a job may train. Rank 0 returns when all have no more to do, which
    may take longer than any collective is waited for.

    Raises:
        UserError: another rank has stopped.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _own(device)
    with _others_told(rank):
        store = _meeting(rank, size)
        try:
            while (number := store.add("begun", 1) - 1) < jobs:
                with _alone():
                    do(number)
        except KeyboardInterrupt:
            if rank == 0:  # `slurm` counts the times without a further one, whichever rank began it
                begun = min(store.add("begun", 0), jobs)
                print(f"{title}: stopped: at job {begun} of {jobs}", file=sys.stderr, flush=True)
            raise
        store.add("left", 1)
        while rank == 0 and store.add("left", 0) < size:  # it may be the store's server
            time.sleep(0.1)


@contextmanager
def _alone() -> Iterator[None]:
    """Without the variables by which this process, and those that it starts, know to be a rank."""
    place = {name: os.environ.pop(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    try:
        yield
    finally:
        os.environ.update(place)


def _own(device: torch.device) -> torch.device:
    """The device of this rank, which is the current one from now on."""
    if device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


@contextmanager
def _others_told(rank: int) -> Iterator[None]:
    """What a rank meets when another one is gone is a UserError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "by peer" in str(error):
            reason = str(error).splitlines()[0]
            raise UserError(
                f"rank {rank}: another rank has stopped; its own message says why: {reason}"
            ) from error
        raise


def _meeting(rank: int, size: int) -> dist.Store:
    """The store through which ranks find each other, once all are there.

    PyTorch's own way waits where no signal is heard, and as long as for a collective: a rank that ended
    before it came would keep the others for half an hour.

    Raises:
        UserError: some did not come, or their place has a name that is not known here.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        socket.getaddrinfo(host, port)
    except socket.gaierror as error:
        raise UserError(
            f"rank {rank}: MASTER_ADDR={host}: {error.strerror}: give the first node's address, or a name "
            f"that {socket.gethostname()} knows"
        ) from error
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun does
    deadline = time.monotonic() + PATIENCE.total_seconds()
    key = f"unival/meeting{next(MEETINGS)}"
    store, problem = None, "they did not come"
    while time.monotonic() < deadline:
        try:
            if store is None:
                listens = None
                if not serves:  # PyTorch's own attempts fail loudly
                    socket.create_connection((host, port), timeout=1).close()
                elif host in LOOPBACK:  # its own socket listens on every network, whatever the address
                    listens = socket.create_server((host, port)).detach()
                store = dist.TCPStore(
                    host, port, size, serves, timedelta(seconds=1), wait_for_workers=False,
                    master_listen_fd=listens,
                )  # fmt: skip
                store.add(key, 1)
            if store.add(key, 0) == size:
                store.set_timeout(TIMEOUT)
                return dist.PrefixStore(key, store)
        except (OSError, dist.DistError) as error:
            problem = str(error).splitlines()[0]
        time.sleep(0.02)
    raise UserError(
        f"rank {rank}: waited {PATIENCE} for the other {size - 1} at {host}:{port}: {problem}: "
        "see their messages, and whether this node can reach that one"
    )
