"""The stateless sampler: the rows of a step are a pure function of (seed, step, rank, world size, mixture).

A stream is endless: pass e over its n rows is a permutation that depends on (seed, stream, e) alone. So no
row repeats before all were seen, resuming needs one integer, and the global batch of a step is the same for
every number of ranks and of accumulated micro-batches. It is dealt to them in turn, so that each gets its
share of every task.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unival.engine.batches.mixture import Mixture


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

    def global_rows(self, step: int) -> list[RowRef]:
        """All rows of step `step`, stream after stream."""
        refs = []
        for span in self.mixture.spans(step):
            size = self.mixture.size(span.tasks)
            for position in range(span.start, span.stop):
                order = permutation(self.seed, span.name, position // size, size)
                task, index = self.mixture.locate(span.tasks, int(order[position % size]))
                refs.append(RowRef(task, index, span.name, position))
        return refs

    def rows(self, step: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> list[list[RowRef]]:
        """The micro-batches of one rank: `accumulate` lists of rows."""
        refs = self.global_rows(step)
        parts = world * accumulate
        return [refs[micro * world + rank :: parts] for micro in range(accumulate)]
