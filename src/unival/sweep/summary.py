"""What came of a sweep: its points with the interval over their seeds, the best one, what mattered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unival import config, files
from unival.metrics.significance import Effect, over_seeds
from unival.report import words
from unival.report.page import Block, DataTable, Document, Figures, Points, Section, Text, TonedCell, to_html
from unival.sweep.jobs import JobState, shortened

FEWEST = 5
"""Scores from which on the importance of parameters is estimated."""


@dataclass(frozen=True)
class Point:
    """Jobs that differ in the seed alone."""

    values: Mapping[str, Any]
    """What differs between points."""
    jobs: Sequence[JobState]

    @property
    def label(self) -> str:
        """What it is called."""
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or "the only point"

    @property
    def scores(self) -> dict[str, float]:
        """Seed -> score."""
        return {_seed(job): job.score for job in self.jobs if job.score is not None}

    @property
    def score(self) -> float | None:
        """Their mean; None while a seed lacks."""
        found = self.scores
        return sum(found.values()) / len(found) if len(found) == len(self.jobs) else None

    def spread(self) -> Effect | None:
        """The mean with its interval; None with one seed."""
        return over_seeds(list(self.scores.values())) if len(self.scores) > 1 else None


def _values(job: JobState) -> dict[str, str]:
    return dict(word.removeprefix("set.").split("=", 1) for word in job.overrides if "=" in word)


def _is_seed(key: str) -> bool:
    return key.split(".")[-1] == "seed"


def _seed(job: JobState) -> str:
    return " ".join(value for key, value in _values(job).items() if _is_seed(key))


def points(found: Sequence[JobState]) -> list[Point]:
    """The points of a sweep: the best one first, those without a score last."""
    rows = [{key: value for key, value in _values(job).items() if not _is_seed(key)} for job in found]
    keys = dict.fromkeys(key for row in rows for key in row)
    varied = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    groups: dict[tuple[str | None, ...], list[JobState]] = {}
    for job, row in zip(found, rows, strict=True):
        groups.setdefault(tuple(row.get(key) for key in varied), []).append(job)
    short = shortened(varied)
    made = [
        Point({short[key]: _read(value) for key, value in zip(varied, values, strict=True)}, group)
        for values, group in groups.items()
    ]
    return sorted(made, key=lambda one: (one.score is None, -(one.score or 0.0)))


def _read(value: str | None) -> Any:
    """A number where it is one."""
    try:
        return config.parse(value, "override") if value is not None else None
    except Exception:  # a word of Hydra's grammar
        return value


def lines(found: Sequence[Point]) -> list[str]:
    """For the terminal: the verdict, and every point."""
    rows = [
        f"{words.number(point.score)}  {_interval(point):18}  {point.label}  ({', '.join(_places(point))})"
        for point in found
    ]
    return [*(text.replace("**", "").replace("`", "") for text in verdict(found)), *rows]


def _places(point: Point) -> list[str]:
    """Where the jobs lie, with the status of those that have not finished."""
    return [
        str(job.number) if job.status == "FINISHED" else f"{job.number} {job.status.lower()}"
        for job in point.jobs
    ]


def _interval(point: Point) -> str:
    spread = point.spread() if point.score is not None else None
    return words.interval(spread.low, spread.high) if spread else ""


def verdict(found: Sequence[Point]) -> list[str]:
    """Which point was best, and whether that can be told."""
    scored = [point for point in found if point.score is not None]
    if not scored:
        return ["No validation scores to rank points by: `unival compare` shows the jobs side by side."]
    best = scored[0]
    score = f"{words.number(best.score)} {_interval(best)}".strip()
    said = [f"**Best: {best.label}**, {score} on validation rows."]
    for second in scored[1:2]:
        both = [seed for seed in best.scores if seed in second.scores]
        if len(both) < 2:
            said.append("One seed a point: whether it is ahead by chance cannot be told; add `seed=0,1,2`.")
        else:
            ahead = over_seeds([best.scores[seed] - second.scores[seed] for seed in both])
            clear = "is clear" if ahead.low > 0 else "may be chance"
            said.append(
                f"Its lead over {second.label}, {words.change((ahead.value, ahead.low, ahead.high))} over "
                f"{len(both)} seeds, {clear}."
            )
    if len(scored) > 1:
        said.append("The best of several looks better than it is: how good it is, test rows tell.")
    return said


def metrics(found: Sequence[Point]) -> dict[str, float]:
    """Of the parent run."""
    best = found[0] if found and found[0].score is not None else None
    if best is None or best.score is None:
        return {}
    spread = best.spread()
    bounds = {"best/low": spread.low, "best/high": spread.high} if spread else {}
    return {"best/score": best.score, "best/job": float(best.jobs[0].number), **bounds}


def table(found: Sequence[Point]) -> list[dict[str, Any]]:
    """A line a job."""
    return [
        {"job": job.number, "status": job.status, **point.values, "seed": _seed(job), "score": job.score}
        for point in found
        for job in point.jobs
    ]


def write(found: Sequence[Point], title: str, path: Path) -> None:
    """The page, which holds its pictures."""
    with TemporaryDirectory() as folder:
        figures = Path(folder)
        lead = f"A sweep of {len(found)} points: {sum(len(point.jobs) for point in found)} jobs."
        sections = [
            Section("Verdict", [Points(verdict(found))]),
            Section("Points", [_points(found)]),
            Section("What mattered", list(_mattered(found, figures))),
            *([Section("Failed jobs", [Points(bad)])] if (bad := _failed(found)) else []),
        ]
        files.write_text(path, to_html(Document(title, lead, sections), figures))


def _points(found: Sequence[Point]) -> Block:
    names = list(found[0].values) if found else []
    rows: list[list[str | TonedCell]] = [
        [
            *(str(point.values[name]) for name in names),
            TonedCell(words.number(point.score), "good" if number == 0 and point.score is not None else ""),
            _interval(point) or "–",
            " ".join(words.number(score) for score in point.scores.values()) or "–",
            ", ".join(_places(point)),
        ]
        for number, point in enumerate(found)
    ]
    return DataTable([*names, "mean score", "95 % interval", "of each seed", "jobs"], rows)


def _failed(found: Sequence[Point]) -> list[str]:
    jobs = [job for point in found for job in point.jobs if job.status == "FAILED"]
    return [f"{job.number} (`{job.label}`): {job.said}" for job in jobs]


def _mattered(found: Sequence[Point], figures: Path) -> Iterator[Block]:
    scored = [point for point in found if point.score is not None]
    if len(scored) < 2:
        yield Text("Too few points have a score.")
        return
    from unival.sweep.parallel import parallel  # here: matplotlib takes a second

    yield Figures(parallel([(point.values, point.score or 0.0) for point in scored], figures))
    if sum(len(point.scores) for point in scored) < FEWEST:
        yield Text(f"Fewer than {FEWEST} scores: the importance of parameters is not estimated.")
        return
    try:
        shares = importance(scored)
    except ImportError:
        yield Text("Importance of parameters: `pip install 'unival[search]'`.")
        return
    rows = [[name, words.share(share)] for name, share in shares.items()]
    yield DataTable(["parameter", "share of the scores' variance"], rows)
    yield Text("By fANOVA, a functional analysis of variance over a random forest; it knows no seeds.")


def importance(scored: Sequence[Point]) -> dict[str, float]:
    """Share of each parameter in what the scores vary by parameters: fANOVA (Hutter et al. 2014).

    Raises:
        ImportError: Optuna is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {name: _range([point.values[name] for point in scored]) for name in scored[0].values}
    study = optuna.create_study(direction="maximize")
    for point in scored:
        for score in point.scores.values():
            params = {
                name: value if isinstance(space[name], optuna.distributions.FloatDistribution) else str(value)
                for name, value in point.values.items()
            }
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=score))
    if len({trial.value for trial in study.trials}) == 1:
        return dict.fromkeys(space, 0.0)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _range(values: Sequence[Any]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return CategoricalDistribution(list(dict.fromkeys(map(str, values))))
    low, high = min(values), max(values)
    return FloatDistribution(low, high, log=low > 0 and high / low >= 10)
