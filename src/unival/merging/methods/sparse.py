"""Methods that keep a part of each task vector: TIES, DARE, breadcrumbs, Consensus.

tau_i = theta_i - theta_0 are task vectors, w_i the weights of the recipe (1 by default).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unival.merging import elementwise
from unival.merging.job import Job
from unival.merging.method import METHODS, Method, deltas_of, formula
from unival.merging.rng import keep_mask, mask_key
from unival.merging.select import kth_largest


@METHODS.register("ties")
class Ties(Method):
    """theta_0 + lambda elect(trim(tau_i)): keep the largest entries, elect signs, mean of those that agree.

    Yadav et al. 2023 (arXiv 2306.01708). The kept count is round(density n), at least one, and exact for
    distinct magnitudes; equal magnitudes at the threshold are all kept. Signs are elected without weights.
    """

    needs_base = True

    @property
    def kept(self) -> float:
        """The share of entries that is kept."""
        return float(self.options.density)

    def prepare(self, jobs: Sequence[Job]) -> None:
        self.whole: dict[str, float] | None = None
        if self.options.scope == "model" and self.kept < 1:
            names = sorted({name for job in jobs for name in job.models})
            totals = [sum(job.count for job in jobs if name in job.models) for name in names]
            ranks = [(i, kept_count(self.kept, total)) for i, total in enumerate(totals)]
            smallest = thresholds(jobs, names, totals, ranks, self.deltas)
            self.whole = dict(zip(names, smallest, strict=True))

    def start(self, job: Job) -> list[float]:
        """The smallest kept magnitude of each model."""
        if self.kept >= 1:
            return [0.0] * len(job.models)
        if self.whole is not None:
            return [self.whole[name] for name in job.models]
        ranks = [(i, kept_count(self.kept, job.count)) for i in range(len(job.models))]
        return thresholds([job], job.models, [job.count] * len(job.models), ranks, self.deltas)

    def deltas(self, job: Job, start: int, models: Sequence[Tensor], base: Tensor) -> list[Tensor]:
        """The task vectors before trimming."""
        return deltas_of(models, base)

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        deltas = self.deltas(job, start, models, base)
        if self.kept < 1:
            deltas = [elementwise.trim(delta, low) for delta, low in zip(deltas, state, strict=True)]
        merged = elementwise.elect(deltas, job.weights, self.options.merge == "mean")
        return merged.mul_(self.options.scale * job.scale).add_(base)


def dropped(method: Method, job: Job, start: int, models: Sequence[Tensor], base: Tensor) -> list[Tensor]:
    """mask * tau / density of every model, with masks keyed by (seed, model, tensor)."""
    deltas, density = deltas_of(models, base), method.options.density
    if density >= 1:
        return deltas
    out = []
    for name, delta in zip(job.models, deltas, strict=True):
        mask = keep_mask(mask_key(method.seed, name, job.name), start, len(delta), density)
        out.append(elementwise.drop_and_rescale(delta, torch.from_numpy(mask).to(delta), density))
    return out


@METHODS.register("dare")
class Dare(Method):
    """theta_0 + lambda sum_i w_i mask_i tau_i / density (Yu et al. 2024, arXiv 2311.03099).

    density 1 is task arithmetic, bit for bit.
    """

    needs_base = True

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        weights = [self.options.scale * job.scale * weight for weight in job.weights]
        if self.options.density >= 1:
            return elementwise.task_arithmetic(base, models, weights)
        out = base.clone()
        for delta, weight in zip(dropped(self, job, start, models, base), weights, strict=True):
            out.add_(delta, alpha=weight)
        return out


@METHODS.register("dare_ties")
class DareTies(Ties):
    """DARE first, then TIES on what is left (the order of Yu et al. 2024)."""

    @property
    def kept(self) -> float:
        return float(self.options.keep)

    def deltas(self, job: Job, start: int, models: Sequence[Tensor], base: Tensor) -> list[Tensor]:
        return dropped(self, job, start, models, base)


@METHODS.register("breadcrumbs")
class Breadcrumbs(Method):
    """Task arithmetic without the largest and the smallest changes (Davari & Belilovsky 2023, arXiv
    2312.06795).

    Per tensor of n elements: the floor(top n) largest |tau| are dropped, then round(density n) of the rest
    are kept, largest first (at least one, at most all that is left).
    """

    needs_base = True

    def start(self, job: Job) -> list[tuple[float, float]]:
        """(smallest, largest) kept magnitude of each model."""
        dropped = int(self.options.top * job.count)
        last = min(dropped + kept_count(self.options.density, job.count), job.count)
        ranks = [(i, rank) for i in range(len(job.models)) for rank in (last, dropped + 1)]
        totals = [job.count] * len(job.models)
        bounds = thresholds([job], job.models, totals, ranks, lambda _, __, *given: deltas_of(*given))
        return list(zip(bounds[::2], bounds[1::2], strict=True))

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        out = base.clone()
        for delta, (low, high), weight in zip(deltas_of(models, base), state, job.weights, strict=True):
            out.add_(elementwise.trim(delta, low, high), alpha=self.options.scale * job.scale * weight)
        return out


@formula("consensus", needs_base=True)
def consensus(method: Method, job: Job, models: list[Tensor], base: Tensor) -> Tensor:
    """theta_0 + lambda sum tau_i where k tasks or more use the entry (Wang et al. 2024, arXiv 2405.07813)."""
    options = method.options
    deltas = [d * w for d, w in zip(deltas_of(models, base), job.weights, strict=True)]
    merged = elementwise.consensus(deltas, options.threshold, min(options.agreeing, len(deltas)))
    return merged.mul_(options.scale * job.scale).add_(base)


def kept_count(density: float, total: int) -> int:
    """How many of `total` entries are kept: the nearest count, at least one."""
    return max(1, round(density * total))


def thresholds(
    jobs: Sequence[Job],
    names: Sequence[str],
    totals: Sequence[int],
    ranks: Sequence[tuple[int, int]],
    deltas: Callable[..., list[Tensor]],
) -> list[float]:
    """The rank-th largest |delta| of models over tensors; `ranks` are (number of the model, rank)."""
    place = {name: number for number, name in enumerate(names)}

    def magnitudes(
        job: Job, start: int, models: list[Tensor], base: Tensor | None
    ) -> list[np.ndarray | None]:
        step: list[np.ndarray | None] = [None] * len(names)
        for name, delta in zip(job.models, deltas(job, start, models, base), strict=True):
            step[place[name]] = delta.abs_().cpu().numpy()
        return step

    def blocks() -> Iterator[list[np.ndarray | None]]:
        for job in jobs:
            for start, models, base in job.blocks():
                yield magnitudes(job, start, models, base)

    samples: list[list[np.ndarray]] = [[] for _ in names]
    for job in jobs:
        for start, models, base in job.sample():
            for sample, block in zip(samples, magnitudes(job, start, models, base), strict=True):
                if block is not None:
                    sample.append(block.copy())
    return kth_largest(blocks, [np.concatenate(sample) for sample in samples], totals, ranks)
