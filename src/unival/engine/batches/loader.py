"""Batches of each step, made while the model computes.

With workers 0 one thread works ahead: decoding and tensor building release the interpreter for most of their
time, and nothing has to travel between processes. With workers, PyTorch's loader does the same in processes.
A batch is a pure function of its step, so results do not depend on who made it.
"""

import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader, Dataset

from unival.engine.batches.collate import Batch, Collator
from unival.engine.batches.sampler import Sampler
from unival.engine.machine.launch import ASKS
from unival.errors import UserError

AHEAD = 3
"""Steps prepared in advance."""


class StepBatches(Dataset[list[Batch]]):
    """Item s: the micro-batches of step s of one rank."""

    def __init__(
        self, sampler: Sampler, collator: Collator, steps: int, rank: int, world: int, accumulate: int
    ) -> None:
        self.sampler = sampler
        self.collator = collator
        self.steps = steps
        self.rank, self.world, self.accumulate = rank, world, accumulate

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Batch]:
        parts = self.sampler.rows(step, self.rank, self.world, self.accumulate)
        return [self.collator(part, step) for part in parts]


class Loader:
    """Iterates over the steps from `start`; `waited` sums the seconds in which the model had no batch."""

    def __init__(self, batches: StepBatches, start: int, workers: int) -> None:
        self.batches = batches
        self.start = start
        self.workers = workers
        self.waited = 0.0

    def __iter__(self) -> Iterator[list[Batch]]:
        source = self._processes() if self.workers else self._thread()
        while True:
            started = time.perf_counter()
            item = next(source, None)
            self.waited += time.perf_counter() - started
            if item is None:
                return
            yield item

    def _thread(self) -> Iterator[list[Batch]]:
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            ready: deque[Future[list[Batch]]] = deque()
            try:
                for step in range(self.start, len(self.batches)):
                    ready.append(pool.submit(self.batches.__getitem__, step))
                    if len(ready) > AHEAD:
                        yield ready.popleft().result()
                while ready:
                    yield ready.popleft().result()
            finally:
                for future in ready:
                    future.cancel()

    def _processes(self) -> Iterator[list[Batch]]:
        made: DataLoader[list[Batch] | UserError] = DataLoader(
            _Told(self.batches),
            batch_size=None,
            sampler=range(self.start, len(self.batches)),
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            multiprocessing_context="fork",  # not every tokenizer can be pickled
            worker_init_fn=_outlast_signals,
        )
        iterator: Any = iter(made)
        try:
            for item in iterator:
                if isinstance(item, UserError):
                    raise item
                yield item
        finally:
            iterator._shutdown_workers()
            for worker in iterator._workers:  # one that hangs in a read has outlasted what PyTorch sent
                worker.kill()
                worker.join()


def _outlast_signals(worker: int) -> None:
    """A job's SIGTERM and a terminal's Ctrl-C reach all processes: this one goes on until the run leaves."""
    for number in ASKS:
        signal.signal(number, signal.SIG_IGN)


class _Told(Dataset["list[Batch] | UserError"]):
    """Gives a UserError back: PyTorch's loader would raise one whose message is a traceback."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> list[Batch] | UserError:
        try:
            return self.batches[step]
        except UserError as error:
            return error
