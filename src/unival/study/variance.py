"""Where the spread of a task's score comes from: training seed, choice of test media, shift, kernels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unival.metrics.significance import effect
from unival.study.evidence import TEST, Evidence, paired


@dataclass(frozen=True, kw_only=True)
class Variance:
    """Standard deviations of a task's score, in its own unit."""

    task: str
    model: str
    """The task's expert; without one the pretrained model."""
    seeds: int
    value: float
    """Mean over seeds, on the test split."""
    seed: float
    """Between seeds, on these media."""
    medium: float
    """Of the mean, by the choice of the media alone: however many seeds are trained."""
    shift: float | None
    """Between the means on shifted data; None with fewer than two shifts."""
    kernels: float | None
    """Between kernels of the processor, same seed; None where no seed was run on others."""


def table(evidence: Evidence) -> Iterator[Variance]:
    """A line for every task; none with one seed."""
    tasks = dict.fromkeys(task for seed in evidence.seeds.values() for task in seed.baselines)
    for task in tasks if len(evidence.seeds) > 1 else ():
        for model in (f"finetune/{task}", evidence.pretrained):
            line = _line(evidence, task, model)
            if line is not None:
                yield line
                break


def _line(evidence: Evidence, task: str, model: str) -> Variance | None:
    scores = evidence.scores([model], task, TEST)
    if scores is None or scores.empty:
        return None
    measured = effect([paired(scores)])
    shifted = [evidence.scores([model], task, split) for split in evidence.shifts([model], task)]
    means = [float(rows.to_numpy().mean()) for rows in shifted if rows is not None and len(rows)]
    return Variance(
        task=task,
        model=model,
        seeds=measured.seeds,
        value=round(measured.value, 6),
        seed=round(measured.seed_variance**0.5, 6),
        medium=round(measured.media_variance**0.5, 6),
        shift=round(float(np.std(means, ddof=1)), 6) if len(means) > 1 else None,
        kernels=_between_kernels(evidence, task, model),
    )


def _between_kernels(evidence: Evidence, task: str, model: str) -> float | None:
    """From the differences of the same seeds, each that of two draws of one distribution."""
    key = (model, task, TEST)
    differences = [
        float(other.scores[key].mean() - evidence.seeds[number].scores[key].mean())
        for number, other in evidence.kernels.items()
        if key in other.scores and key in evidence.seeds[number].scores
    ]
    return round(float(np.mean(np.square(differences)) / 2) ** 0.5, 6) if differences else None
