"""`reports/summary.json`: the results for programs. docs/summary.md says the same of its fields at length."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unival.metrics.bootstrap import Interval
from unival.report.verdicts import Verdict
from unival.study import tables
from unival.study.results import Results
from unival.study.tables import Ablation, CellScore, Kind, TaskScore
from unival.study.variance import Variance


@dataclass(frozen=True, kw_only=True)
class Score:
    """A model's primary metric on rows of a task."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    """Rows."""


@dataclass(frozen=True, kw_only=True)
class TaskSummary(Score):
    """The task's expert, or the pretrained model, on test rows."""

    blind: float
    majority: float | None


@dataclass(frozen=True, kw_only=True)
class Shifted(Score):
    """A model out of distribution."""

    model: str
    kind: Kind
    task: str
    split: str
    shift: str
    """Name of the corruption, or of the stored split."""
    severity: int | None
    in_distribution: float | None
    """Value of the same model and task on test rows."""


@dataclass(frozen=True, kw_only=True)
class Merge(Score):
    """A merged model on the task of one of its parents, beside that parent and the pretrained model."""

    model: str
    task: str
    expert: float | None
    minus_expert: Interval | None
    """Paired difference."""
    pretrained: float | None
    minus_pretrained: Interval | None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The last run of a process."""

    seconds: float
    peak_mib: int
    run_id: str | None
    machine: dict[str, Any]
    code: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the results were made from."""

    commit: str | None
    uncommitted: str
    """The commit that holds what was not committed (`unival.provenance.uncommitted_work`)."""
    versions: dict[str, str]
    machine: dict[str, Any]
    benchmark: str
    edition: str
    seeds: dict[str, Any]
    """Process -> seed of its configuration; of `ablate` a list."""
    data: dict[str, str]
    """Split -> digest of its files."""
    config_hashes: dict[str, str]
    missing: list[str]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The whole file."""

    read_first: list[str]
    """What went wrong without an error (`unival.report.silent`)."""
    claims: list[Verdict]
    variances: list[Variance]
    """Of every task, with two seeds or more."""
    tasks: dict[str, TaskSummary]
    ood: list[Shifted]
    merges: list[Merge]
    ablations: list[dict[str, Any]]
    """Columns of `unival.study.tables.Ablation`."""
    stages: dict[str, Stage]
    provenance: Provenance


def summarise(
    study: Results,
    claims: Sequence[Verdict],
    variances: Sequence[Variance],
    faults: Sequence[str],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """The whole file as a mapping; `origin`: commit, versions and machine (`unival.provenance.describe`)."""
    summary = Summary(
        read_first=list(faults),
        claims=list(claims),
        variances=list(variances),
        tasks={
            task: TaskSummary(**_score(score), blind=score.blind, majority=score.majority)
            for task, score in study.tasks.items()
        },
        ood=[_shifted(study, cell) for cell in study.primary(shifted=True)],
        merges=[_merge(study, cell) for cell in study.primary(kind="merged", shifted=False)],
        ablations=list(tables.flat(Ablation, study.ablations)),
        stages={
            name: Stage(
                seconds=run.seconds,
                peak_mib=run.peak_mib,
                run_id=run.run_id,
                machine=run.machine,
                code=run.code,
            )
            for name, run in study.runs.items()
        },
        provenance=Provenance(
            **origin,
            benchmark=study.facts.get("name", study.data.name),
            edition=study.edition,
            seeds=seeds(study),
            data={name: split.get("digest") for name, split in study.facts.get("splits", {}).items()},
            config_hashes={name: run.config_hash for name, run in study.runs.items()},
            missing=study.missing,
        ),
    )
    return asdict(summary)


def _score(row: CellScore | TaskScore) -> dict[str, Any]:
    return {"metric": row.metric, "value": row.value, "low": row.low, "high": row.high, "n": row.n}


def _shifted(study: Results, cell: CellScore) -> Shifted:
    inside = study.in_distribution(cell.model, cell.task)
    return Shifted(
        **_score(cell),
        model=cell.model,
        kind=cell.kind,
        task=cell.task,
        split=cell.split,
        shift=cell.shift or cell.split,
        severity=cell.severity,
        in_distribution=inside.value if inside else None,
    )


def _merge(study: Results, cell: CellScore) -> Merge:
    (expert, minus_expert), (pretrained, minus_pretrained) = (
        _beside(study, cell, other) for other in (f"finetune/{cell.task}", study.pretrained)
    )
    return Merge(
        **_score(cell),
        model=cell.model,
        task=cell.task,
        expert=expert,
        minus_expert=minus_expert,
        pretrained=pretrained,
        minus_pretrained=minus_pretrained,
    )


def _beside(study: Results, cell: CellScore, other: str) -> tuple[float | None, Interval | None]:
    """The score of another model on the same task, and the paired difference from it."""
    known = study.in_distribution(other, cell.task)
    paired = study.comparison(cell.model, other, cell.task)
    value = known.value if known else None
    return value, Interval(paired.difference, paired.low, paired.high) if paired else None


def seeds(study: Results) -> dict[str, Any]:
    """Process -> seed of its configuration."""
    seed_of = {name: _seed(config) for name, config in study.configs.items()}
    return {name: seed for name, seed in seed_of.items() if seed is not None}


def _seed(config: dict[str, Any]) -> Any:
    if "seeds" in config:
        return config["seeds"]
    benchmark = config.get("benchmark")
    options = benchmark.get("options") if isinstance(benchmark, dict) else None
    for place in (config, config.get("train"), benchmark, options):
        if isinstance(place, dict) and place.get("seed") is not None:
            return place["seed"]
    return None
