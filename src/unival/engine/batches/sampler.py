"""The stateless sampler: the rows of a step are a pure function of (seed, step, rank, world size, mixture).

A stream is endless: pass e over its n rows is a permutation that depends on (seed, stream, e) alone. So no
row repeats before all were seen, resuming needs one integer, and the global batch of a step is the same for
every number of ranks and of accumulated micro-batches. It is dealt to them in turn, so that each gets its
share of every task; rows that are read in blocks by their position, so that each always gets the same lanes
(`lanes.py`).
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unival.engine.batches.lanes import Lanes
from unival.engine.batches.mixture import Mixture, Span


@dataclass(frozen=True, slots=True)
class RowRef:
    """One row of a step: which task, which row of its manifest, and where in its stream it was drawn."""

    task: str
    index: int
    stream: str
    position: int

    def rng(self, seed: int) -> np.random.Generator:
        """The random numbers of this draw (negatives, chosen references): the same on any rank."""
        return np.random.default_rng((seed, zlib.crc32(self.stream.encode()), self.position))


@lru_cache(maxsize=32)
def permutation(seed: int, stream: str, epoch: int, size: int) -> np.ndarray:
    """Order of the rows of a stream in one pass over it, int64 (size,)."""
    return np.random.default_rng((seed, epoch, zlib.crc32(stream.encode()))).permutation(size)


class Sampler:
    """Rows of any step."""

    def __init__(self, mixture: Mixture, seed: int) -> None:
        self.mixture = mixture
        self.seed = seed
        self.lanes = Lanes(seed, mixture.config.block) if mixture.config.block else None

    def global_rows(self, step: int) -> list[RowRef]:
        """All rows of step `step`, stream after stream."""
        return [self._row(span, position) for span, position in self._draws(step)]

    def rows(self, step: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> list[list[RowRef]]:
        """The micro-batches of one rank: `accumulate` lists of rows."""
        dealt: list[list[RowRef]] = [[] for _ in range(accumulate)]
        for number, (span, position) in enumerate(self._draws(step)):
            part = (position if self.lanes else number) % (world * accumulate)
            if part % world == rank:
                dealt[part // world].append(self._row(span, position))
        return dealt

    def _draws(self, step: int) -> Iterator[tuple[Span, int]]:
        """Stream and position of each draw of a step."""
        for span in self.mixture.spans(step):
            yield from ((span, position) for position in range(span.start, span.stop))

    def _row(self, span: Span, position: int) -> RowRef:
        size = self.mixture.size(span.tasks)
        if self.lanes:
            row = self.lanes.row(span.name, position, size)
        else:
            row = int(permutation(self.seed, span.name, position // size, size)[position % size])
        task, index = self.mixture.locate(span.tasks, row)
        return RowRef(task, index, span.name, position)
