"""Exact k-th largest values of streams too large for memory.

A sample brackets the wanted value; one pass counts what lies above the bracket and collects what lies inside,
where the value is then found by partition. A bracket that missed is moved, so the answer is always exact.
Mass points (the zeros of frozen weights) are counted, not collected.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

MARGIN = 0.004
"""Half width of the first bracket, as a share of the sample."""

Blocks = Iterable[Sequence[np.ndarray | None]]
"""Per step one block of each stream, None for a stream that has nothing here."""


@dataclass
class Bracket:
    """One wanted value: the `rank`-th largest (from 1) of stream number `stream`."""

    stream: int
    rank: int
    sample: np.ndarray
    """Sorted ascending."""
    total: int
    low: float = -1.0
    high: float = np.inf
    strict: bool = True
    """Whether values equal to `low` are counted instead of collected."""
    above: int = 0
    reached: int = 0
    inside: list[np.ndarray] = field(default_factory=list)
    value: float | None = None

    def aim(self, margin: float) -> None:
        """Put the bracket around the rank's place in the sample."""
        # the rank counts from the largest, the sample ascends; 8 more on each side for samples so small
        # that the margin is less than one place
        size = len(self.sample)
        place = (1 - self.rank / max(self.total, 1)) * size
        low, high = int(place - margin * size) - 8, int(place + margin * size) + 8
        self.low = float(self.sample[low]) if 0 <= low < size else -1.0
        self.high = float(self.sample[high]) if 0 <= high < size else np.inf
        # a value that the sample holds again and again is a mass point: collected, it could fill the memory
        self.strict = self.low >= 0 and int(np.searchsorted(self.sample, self.low, "right")) - low > 8

    def open(self) -> None:
        """Start a pass. A bracket on one point becomes 'equal to it or above it'."""
        if self.low == self.high:
            self.high = self._next(self.low, np.inf)
            self.strict = True
        self.above = self.reached = 0
        self.inside = []

    def add(self, block: np.ndarray) -> None:
        """Count one block."""
        beyond = block >= self.high
        self.above += int(np.count_nonzero(beyond))
        # inside the bracket, and only there, the two conditions differ: one buffer is enough
        beyond ^= block > self.low if self.strict else block >= self.low
        self.inside.append(block[beyond])
        if self.strict:
            self.reached += int(np.count_nonzero(block == self.low))

    def close(self, margin: float) -> None:
        """End a pass: the value, or another bracket."""
        inside = np.concatenate(self.inside) if self.inside else np.empty(0, np.float32)
        place = self.rank - self.above
        # place of the wanted value from the top of what was collected: before it, in it, among those equal
        # to the lower end, or behind; a miss says on which side the next bracket must lie, so no side is
        # searched twice
        if place <= 0:
            old = self.high
            self.aim(margin)
            self.low, self.high, self.strict = old, max(self.high, old), True
        elif place <= len(inside):
            self.value = float(np.partition(inside, len(inside) - place)[len(inside) - place])
        elif place <= len(inside) + self.reached:
            self.value = self.low
        else:
            old = self.low
            self.aim(margin)
            self.low, self.high, self.strict = min(self.low, self._next(old, -1.0)), old, True
        self.inside = []

    def _next(self, value: float, towards: float) -> float:
        kind = self.sample.dtype.type
        return float(np.nextafter(kind(value), kind(towards)))


def kth_largest(
    blocks: Callable[[], Blocks],
    samples: Sequence[np.ndarray],
    totals: Sequence[int],
    ranks: Sequence[tuple[int, int]],
) -> list[float]:
    """The rank-th largest values of streams of non-negative float32 numbers.

    Args:
        blocks: starts a pass over all streams.
        samples: of each stream, about evenly taken; more of it makes a miss less likely.
        totals: elements in each stream.
        ranks: (stream, rank from 1) of each wanted value.

    Returns:
        One value per entry of `ranks`; exact also when values repeat.
    """
    ordered = [np.sort(sample) for sample in samples]
    brackets = [Bracket(stream, rank, ordered[stream], totals[stream]) for stream, rank in ranks]
    margin = MARGIN
    for bracket in brackets:
        bracket.aim(margin)
    while waiting := [bracket for bracket in brackets if bracket.value is None]:
        for bracket in waiting:
            bracket.open()
        for step in blocks():
            for bracket in waiting:
                block = step[bracket.stream]
                if block is not None:
                    bracket.add(block)
        margin *= 8
        for bracket in waiting:
            bracket.close(margin)
    return [bracket.value for bracket in brackets if bracket.value is not None]
