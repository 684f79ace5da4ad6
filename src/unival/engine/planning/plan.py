"""From what one micro-batch takes to what a whole run takes: memory, time, money, storage.

The updates themselves are run on fake tensors (`step.py`). Memory is linear in the rows of a micro-batch, so
that two sizes tell all others. Communication is added to the time of computation: no overlap is assumed.
"""

import math
from dataclasses import dataclass

from unival.engine.batches.mixture import micro_batches
from unival.engine.planning.devices import Device
from unival.engine.planning.step import (
    GRADIENTS,
    INPUTS,
    KINDS,
    OPTIMISER,
    PARTS,
    WEIGHTS,
    Footprint,
    Training,
    measure,
)
from unival.errors import UserError
from unival.record import MODALITIES, Modality

BUCKETS = "buckets"
"""Copies of the gradients that DDP sends."""


@dataclass(frozen=True)
class Site:
    """Where the run takes place."""

    device: Device
    ranks: int
    bandwidth: float
    """Bytes a second that one rank sends while it receives as many."""
    utilisation: float
    """Share of the device's rate that is reached."""
    price: float | None
    """Of a device and hour."""

    def __post_init__(self) -> None:
        if self.ranks < 1 or not self.bandwidth > 0 or not 0 < self.utilisation <= 1:
            raise UserError("ranks and bandwidth must be above 0, utilisation at most 1 and above 0")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise UserError("the price of a GPU hour must be a number, and not below 0")


@dataclass(frozen=True)
class Way:
    """One way to hold the run in memory."""

    checkpointing: bool
    sharded: bool
    peak: dict[str, int]
    """Bytes of each kind on one rank at its fullest; activations hold weights that sharding has gathered."""
    largest: int
    """Rows of the largest micro-batch that fits; 0: none."""
    needed: int
    """Bytes with a micro-batch of one row."""
    wire: int
    """Bytes that a rank sends in a step, and receives."""
    seconds: float
    """Of a step."""
    fits: bool
    """The micro-batch of the recipe."""


@dataclass(frozen=True)
class TrainingPlan:
    """What a run takes."""

    parameters: int
    trained: int
    steps: int
    rows: float
    """Of a step, over all ranks."""
    micro_batches: int
    """Of a rank and step."""
    micro_rows: int
    """Rows of a micro-batch."""
    flops: dict[str, float]
    """Of a step by part of the model, over all ranks, without what checkpointing computes again."""
    ways: list[Way]
    chosen: int
    """Number of the way that times are for: the fastest that fits, else the smallest."""
    hours: float
    cost: float | None
    checkpoints: int
    """Bytes of all that is kept on disk at once."""
    input_rate: float
    """Bytes a second that the loader of each rank delivers, decoded."""

    @property
    def way(self) -> Way:
        """That times are for."""
        return self.ways[self.chosen]


def shares(job: Training, parts: int) -> dict[Modality, float]:
    """Rows of each medium in one of the `parts` of a step. Where rows are drawn from one pool, its streams
    are taken to be as large as each other."""
    mixture, counts = job.train.mixture, dict.fromkeys(MODALITIES, 0.0)
    main = mixture.streams[0].rows
    for stream in mixture.streams:
        rows: float = main / stream.every if stream.every else stream.rows
        counts[job.media[stream.task]] += rows / parts
    return {medium: rows for medium, rows in counts.items() if rows}


def plan(job: Training, site: Site) -> TrainingPlan:
    """Work out a run.

    Raises:
        UserError: rows that cannot be dealt to so many ranks, or settings of the recipe that do not work.
    """
    train = job.train
    each = micro_batches(train.mixture, train.accumulate, site.ranks)
    exact = shares(job, each * site.ranks)
    media = {medium: max(1, round(rows)) for medium, rows in exact.items()}
    scale = {part: sum(exact.values()) / sum(media.values()) for part in PARTS}
    scale |= {medium: exact[medium] / media[medium] for medium in exact}
    ways, seen = [], []
    for sharded in (False,) if site.ranks == 1 or train.optimizer.name == "muon" else (False, True):
        settings = (True,) if train.gradient_checkpointing else (False, True)
        pairs = measure(job, media, each > 1, site.ranks if sharded else 1, settings)
        for checkpointing, pair in zip(settings, pairs, strict=True):
            seen.append(pair[0])
            flops = {part: each * pair[0].flops.get(part, 0) * scale[part] for part in PARTS}
            work = sum(flops.values()) + each * pair[0].recomputed
            rate = site.device.rate(train.precision) * site.utilisation
            ways.append(_way(checkpointing, sharded, pair, sum(media.values()), each, site, work / rate))
    chosen = next((n for n, way in enumerate(ways) if way.fits), len(ways) - 1)
    hours = train.steps * ways[chosen].seconds / 3600
    first = seen[0]
    state = first.peak[WEIGHTS] + first.peak[OPTIMISER]
    best = 1 if train.selection else 0
    return TrainingPlan(
        first.parameters,
        first.trained,
        train.steps,
        sum(exact.values()) * each * site.ranks,
        each,
        sum(media.values()),
        {part: site.ranks * count for part, count in flops.items()},
        ways,
        chosen,
        hours,
        None if site.price is None else hours * site.ranks * site.price,
        (train.keep + 1) * state + (best + 1) * first.peak[WEIGHTS],
        first.peak[INPUTS] * each * scale[PARTS[-1]] / ways[chosen].seconds,
    )


def _way(
    checkpointing: bool,
    sharded: bool,
    pair: tuple[Footprint, Footprint],
    rows: int,
    each: int,
    site: Site,
    work: float,
) -> Way:
    """`rows`: of the first of the two micro-batches; `each`: micro-batches of a step; `work`: seconds."""
    once = pair[0]
    buckets = once.trained * 4 if site.ranks > 1 and not sharded else 0
    peak = {kind: once.peak.get(kind, 0) for kind in KINDS} | {BUCKETS: buckets}
    total, more = (sum(measured.peak.values()) + buckets for measured in pair)
    row = (more - total) / rows
    fits = total <= site.device.usable
    # fewer rows at once make more micro-batches, whose gradients wait for those of the last
    waiting = max(0, 4 * once.trained - once.peak.get(GRADIENTS, 0)) if each == 1 and not fits else 0
    fixed = total + waiting - row * rows
    largest = max(0, int((site.device.usable - fixed) // row)) if row > 0 else rows
    # what a rank has of its own it need not send; an all-reduce is a reduce-scatter and an all-gather
    others = (site.ranks - 1) / site.ranks
    wire = others * (each * once.gathered + once.reduced if sharded else 2 * buckets)
    return Way(
        checkpointing, sharded, peak, largest, round(fixed + row), round(wire), work + wire / site.bandwidth,
        fits,
    )  # fmt: skip
