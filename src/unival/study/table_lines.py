"""Lines of the result tables about single models and pairs, from the results of cells."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from unival.study.tables import CellScore, Comparison, Kind, PointScore, TaskScore

if TYPE_CHECKING:
    from unival.study.cells import CellSpec, Result

AGAINST: dict[Kind, tuple[Kind, ...]] = {"merged": ("finetuned", "pretrained"), "finetuned": ("pretrained",)}
"""What models are compared with, row by row."""
BLIND: tuple[Literal["swapped", "constant"], ...] = ("constant", "swapped")
"""Baselines that every task has and that do not see the medium."""


def task_score(result: "Result") -> TaskScore:
    """Of a result with baselines."""
    best = max(BLIND, key=lambda kind: result.baselines[kind].value)
    majority = result.baselines.get("majority")
    return TaskScore(
        model=result.spec.model,
        **result.columns,
        blind=result.baselines[best].rounded().value,
        blind_kind=best,
        majority=majority.rounded().value if majority else None,
        metrics={name: interval.rounded() for name, interval in result.metrics.items()},
    )


def cell_scores(result: "Result") -> Iterator[CellScore]:
    """A line for each metric."""
    spec = result.spec
    for metric, interval in result.metrics.items():
        yield CellScore(
            model=spec.model,
            kind=spec.kind,
            task=spec.task,
            split=spec.split,
            shift=spec.shift,
            severity=spec.severity or None,
            metric=metric,
            primary=metric == result.primary,
            **interval.rounded()._asdict(),
            n=result.n,
        )


def point_score(first: str, second: str, alpha: float, result: "Result") -> PointScore:
    """Of a result at `alpha` between two models."""
    return PointScore(
        first=first, second=second, alpha=round(alpha, 4), task=result.spec.task, **result.columns
    )


def comparisons(results: Sequence["Result"], resamples: int) -> Iterator[Comparison]:
    """Merged models against experts and pretrained model, experts against the latter, on the same rows."""

    def place(spec: "CellSpec") -> tuple[Any, ...]:
        return spec.task, spec.split, spec.shift, spec.severity

    others = {(r.spec.kind, place(r.spec)): r for r in results}
    for result in results:
        spec = result.spec
        for kind in AGAINST.get(spec.kind, ()):
            other = others.get((kind, place(spec)))
            if other is not None:
                difference, low, high = result.minus(other, resamples).rounded()
                yield Comparison(
                    model=spec.model,
                    against=other.spec.model,
                    task=spec.task,
                    split=spec.place,
                    metric=result.primary,
                    difference=difference,
                    low=low,
                    high=high,
                    n=result.n,
                )
