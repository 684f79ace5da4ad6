"""How much of each task a training step holds.

Balanced (task balancing, docs/reference.md 2.6): every stream has a fixed quota of rows a step. An
auxiliary stream has no quota: one of its rows follows every n-th row of the first stream, as in stage 1.
Proportional (the ablation): the rows of all streams are one pool, so a task weighs by its size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from unival.errors import UserError, nearest


@dataclass(frozen=True)
class StreamConfig:
    """The rows of one task."""

    task: str
    """Name of the task: which manifest and which prompts."""
    rows: int = 0
    """Quota: rows a step. 0 for an auxiliary stream."""
    every: int = 0
    """Auxiliary stream: one row for every n-th row of the first stream. 0 for a stream with a quota."""
    share: float = 1.0
    """Of the task's rows: only so many, the first of them, are ever drawn."""

    def __post_init__(self) -> None:
        if self.rows < 0 or self.every < 0 or bool(self.rows) == bool(self.every):
            raise ValueError(
                f"stream '{self.task}' has rows {self.rows} and every {self.every}: give one of them, above 0"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"stream '{self.task}' has share {self.share}: it must be above 0 and at most 1")


@dataclass(frozen=True)
class MixtureConfig:
    """What a step is made of."""

    rows: int
    """Rows a step over all ranks and accumulation, auxiliary streams not counted. A row gives two examples in
    pretraining and one in finetuning."""
    streams: list[StreamConfig]
    balanced: bool = True
    """Quotas; otherwise rows are drawn in proportion to the sizes of the streams."""
    block: int = 0
    """So many consecutive rows are read together, about those of a media shard, and each rank reads shards of
    its own (docs/cluster.md). 0: a pass is one permutation of all rows."""

    def __post_init__(self) -> None:
        if not self.streams:
            raise ValueError("streams is empty: name at least one task")
        if self.block < 0:
            raise ValueError(f"block is {self.block}: it must be 0 or above")
        names = [stream.task for stream in self.streams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stream '{name}' is listed {names.count(name)} times: give it one quota")
        if self.streams[0].every:
            raise ValueError(f"the first stream '{names[0]}' is the main one and needs `rows`, not `every`")
        total = sum(stream.rows for stream in self.streams)
        if total != self.rows:
            quotas = " + ".join(f"{stream.task} {stream.rows}" for stream in self.streams if stream.rows)
            raise ValueError(f"quotas {quotas} = {total}, but rows is {self.rows}: they must be equal")


def micro_batches(config: MixtureConfig, accumulate: int, ranks: int) -> int:
    """Micro-batches that each rank does in a step, of which `accumulate` are asked for over all ranks.

    Raises:
        UserError: fewer rows than micro-batches.
    """
    each = -(-accumulate // ranks)
    rows, whose = config.rows, ""
    if config.block and config.balanced:  # each stream is dealt by itself
        rows, whose = max(stream.rows for stream in config.streams), " of the largest stream"
    if rows < ranks * each:
        raise UserError(
            f"mixture: {rows} rows{whose} a step cannot be dealt to {ranks} ranks x {each} micro-batches: "
            "raise rows"
        )
    return each


@dataclass(frozen=True)
class Span:
    """The rows `start` to `stop` of an endless stream (or pool of streams) which belong to one step."""

    name: str
    tasks: tuple[str, ...]
    start: int
    stop: int


class Mixture:
    """Spans of a step. `sizes`: number of rows per task.

    Raises:
        UserError: a stream without data.
    """

    def __init__(self, config: MixtureConfig, sizes: Mapping[str, int]) -> None:
        self.config = config
        self.tasks = tuple(stream.task for stream in config.streams)
        for task in self.tasks:
            if task not in sizes:
                raise UserError(f"mixture: no data for stream '{task}': {nearest(task, sizes)}")
            if sizes[task] == 0:
                raise UserError(f"mixture: stream '{task}' has no rows: take it out or prepare data for it")
        self.sizes = {stream.task: math.ceil(stream.share * sizes[stream.task]) for stream in config.streams}

    def spans(self, step: int) -> list[Span]:
        """Which part of each stream step `step` (from 0) takes."""
        if not self.config.balanced:
            rows = self.config.rows
            return [Span("all", self.tasks, step * rows, (step + 1) * rows)]
        main = self.config.streams[0].rows
        spans = []
        for stream in self.config.streams:
            if stream.every:
                start, stop = (-(-done * main // stream.every) for done in (step, step + 1))
            else:
                start, stop = step * stream.rows, (step + 1) * stream.rows
            spans.append(Span(stream.task, (stream.task,), start, stop))
        return spans

    def repeated(self) -> list[str]:
        """What is to be said of streams with fewer rows than their quota."""
        streams = self.config.streams if self.config.balanced else []
        return [
            f"stream '{stream.task}' has {self.sizes[stream.task]} rows and a quota of {stream.rows} a step: "
            "a step holds some of them more than once"
            for stream in streams
            if self.sizes[stream.task] < stream.rows
        ]

    def locate(self, tasks: tuple[str, ...], index: int) -> tuple[str, int]:
        """(task, row) of row `index` of the pool of `tasks`."""
        bounds = accumulate((self.sizes[task] for task in tasks), initial=0)
        for task, (low, high) in zip(tasks, pairwise(bounds), strict=True):
            if index < high:
                return task, index - low
        raise IndexError(index)

    def size(self, tasks: tuple[str, ...]) -> int:
        """Rows of the pool of `tasks`."""
        return sum(self.sizes[task] for task in tasks)
