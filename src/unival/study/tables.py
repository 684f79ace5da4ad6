"""The files of `reports/`: a dataclass for each, and one way to write and to read them.

The fields are the columns of a CSV file, in this order (of a JSON file: the keys): writers and readers cannot
differ. An interval is three columns: `share`, `share_low`, `share_high`. An empty cell is
None (of a text: the empty text), yes and no are 1 and 0. A line of `predictions/` is
`unival.engine.inference.predictions.PredictedRow`.

All intervals are 95 % bootstrap intervals (`unival.metrics.bootstrap`), differences are paired over rows.
"""

import json
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from unival import config, files
from unival.errors import UserError
from unival.metrics.bootstrap import Interval
from unival.study import typed_csv
from unival.study.typed_csv import FIX

Kind = Literal["finetuned", "merged", "pretrained", "interpolated"]
"""Of a model; interpolated: a point between two, which has no line in `cells.csv`."""
Row = TypeVar("Row")
CONFLICT = "conflict"
"""The table of `Conflict`, beside those of studies."""
NOTE = "seed.json"
"""The file of `Repeat`."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A task's entry in `metrics/tasks.json`: its expert (without one: the pretrained model) on test rows."""

    model: str
    """Folder below models/."""
    metric: str
    """Name of the primary metric."""
    value: float
    low: float
    high: float
    n: int
    """Test rows."""
    blind: float
    """The better of the two baselines that do not see the medium."""
    blind_kind: Literal["swapped", "constant"]
    """Which of them: the model with the media of other rows, or the best constant answers."""
    majority: float | None
    """The commonest training answer; None where the task has none."""
    metrics: dict[str, tuple[float, float, float]]
    """Every metric -> value, low, high."""

    @property
    def baseline(self) -> float:
        """What a model must beat: the better of the blind baseline and the majority answer."""
        return max(self.blind, self.majority or 0.0)


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """A line of `metrics/cells.csv`: one metric of a model on a task, a split and a shift."""

    model: str
    """Folder below models/."""
    kind: Kind
    task: str
    split: str
    shift: str
    """Corruption of the media; empty: none."""
    severity: int | None
    """Of the corruption, 1 to 5."""
    metric: str
    primary: bool
    """Whether this is the metric that stands for the task."""
    value: float
    low: float
    high: float
    n: int
    """Rows."""

    @property
    def shifted(self) -> bool:
        """Out of distribution: a stored split that is none of the benchmark's own, or a corruption."""
        return self.split != "test" or bool(self.shift)


@dataclass(frozen=True, kw_only=True)
class PointScore:
    """A line of `metrics/interpolation.csv`: a task at one point between two models."""

    first: str
    second: str
    alpha: float
    """Place between them: 0 is the first, 1 the second."""
    task: str
    metric: str
    """The primary one."""
    value: float
    low: float
    high: float
    n: int
    """Rows."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A line of `metrics/comparisons.csv`: a merged model or expert minus another one, same rows."""

    model: str
    against: str
    """The task's expert, or the pretrained model; of an expert, the pretrained model."""
    task: str
    split: str
    """With corruption and severity where there is one: `test-blur-3`."""
    metric: str
    """The primary one."""
    difference: float
    low: float
    high: float
    n: int
    """Rows."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A line of `metrics/leaderboard.csv`: a model over the tasks it was made for, or a merge beside it."""

    model: str
    """Folder below models/; `experts`: each task's own."""
    part: Literal["id", "ood"]
    """In distribution, or the mean over the shifted cells."""
    tasks: str
    """Their names, a space between them."""
    mean: Interval
    """Over tasks, of the primary metric."""
    share: Interval | None
    """Mean over tasks of the score relative to the expert's; None where an expert scored nothing."""
    worst: Interval | None
    """The smallest of these shares."""
    worst_task: str
    """Whose share this is; empty: not known."""
    front: bool | None = None
    """Whether no model is better in one of id and ood share and no worse in the other; None: not known."""
    robustness: float | None = None
    """Of ood: what the share has above the line from the pretrained model to the experts."""
    updates: int
    """Of finetuning behind the model: one for each step of each task."""


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """A line of `metrics/pairs.csv`: what lies between two models, on one task."""

    first: str
    second: str
    task: str
    barrier: Interval
    """The largest drop below the line between the scores of both ends."""
    barrier_at: float
    """Where it is: 0 is the first model, 1 the second."""
    middle: float | None = None
    """Score half-way; None, with all after it: no point there."""
    minus_best: Interval | None = None
    """The middle minus the better end."""
    p: float | None = None
    """Of `minus_best`, two-sided, after Holm's correction over the table."""
    minus_mean: Interval | None = None
    """The middle minus the mean of both ends."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """A line of `metrics/fronts.csv`: points between two models, in the plane of their two tasks' scores."""

    first: str
    second: str
    first_task: str
    second_task: str
    on_front: int
    """Points that no other is better than in one task and no worse in the other."""
    points: int
    area: float
    """What all points dominate."""
    area_of_ends: float
    """What the two models alone dominate."""
    gain: Interval
    """The first minus the second area."""


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A line of `metrics/subsets.csv`: the average of a random subset of experts on one task."""

    experts: str
    """Their names, a space between them; one: the expert alone, none: the pretrained model."""
    task: str
    metric: str
    """The primary one."""
    value: float
    low: float
    high: float
    n: int
    """Rows."""
    minus_pretrained: Interval | None = None
    """None for the pretrained model itself."""
    minus_expert: Interval | None = None
    """Minus the task's own expert; None for this one itself."""


@dataclass(frozen=True, kw_only=True)
class Angle:
    """A line of `metrics/geometry.csv`: the changes that finetuning made to a module of two models."""

    module: str
    """`all`, or a part of the model (`unival.weights.module_of`)."""
    first: str
    second: str
    cosine: float | None
    """Of the two changes; None: one of them is zero."""
    norm_first: float
    """Length of the change."""
    norm_second: float
    relative_first: float | None
    """The same, in units of the length of the pretrained weights; None: these are zero."""
    relative_second: float | None


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A line of `ablations/<study>.csv`: a variant of a study, trained with one seed, on one task."""

    study: str
    variant: str
    """How this model was trained."""
    baseline: str
    """The variant it is compared with."""
    seed: int
    """Of its training."""
    task: str
    metric: str
    """The primary one."""
    value: float
    low: float
    high: float
    n: int
    """Rows."""
    difference: Interval | None = None
    """Variant minus baseline of the same seed; None for the baseline itself."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A line of `ablations/conflict.csv`: the gradients of two tasks at the weights of a variant at a step.

    Where `first` is `second`, of one task on two batches: what noise leaves of a cosine of 1.
    """

    study: str
    variant: str
    seed: int
    step: int
    """Updates so far, of all phases."""
    module: str
    """`all`, or a part of the model (`unival.weights.module_of`)."""
    first: str
    second: str
    cosine: float
    norm_first: float
    """Length of the gradient of the mean loss of a token."""
    norm_second: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """`runs/<stage>[-<item>].json`: the last run of a process."""

    stage: str
    item: str | None
    config_hash: str
    """Of its resolved configuration."""
    run_id: str | None
    """Of MLflow; None when tracking was off."""
    seconds: float
    """Wall time of the command, imports included."""
    peak_mib: int
    """Largest resident memory of any one of its processes."""
    machine: dict[str, Any] = field(default_factory=dict)
    """What it ran on, and how it computed there (`unival.provenance.machine`); runs of earlier
    commits, which `dvc repro` need not repeat, lack it."""
    code: dict[str, Any] = field(default_factory=dict)
    """`digest` of its code, the `commit` of the process that finished it with its `uncommitted` work as
    another commit, and `began`, the same of the process that began it where that was at another one."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """`seeds/<seed>/seed.json`: what made the results of another seed, which lie beside it."""

    seed: int
    study: str
    """Digest of the configuration that all seeds share."""
    data: str
    """Digest of the prepared benchmark."""
    code: str
    """Digest of the code of all its stages."""
    commit: str | None
    machine: dict[str, Any]
    """What its processes ran on (`Run.machine`); where they differ, each value."""
    failed: str = ""
    """The process whose training diverged; nothing after it was run."""


Curve = list[dict[str, float | None]]
"""Lines of `curves/<process>.csv`: `step`, and a column for each figure that was logged."""


def flat(cls: type[Row], rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Rows of a dataclass as column -> value; an interval that is None is None in its three columns."""
    fields = typed_csv.columns(cls)
    for row in rows:
        values: dict[str, Any] = {}
        for name, columns in fields.items():
            value = getattr(row, name)
            spread = (value or (None, None, None)) if len(columns) == 3 else (value,)
            values |= dict(zip(columns, spread, strict=True))
        yield values


def write(path: Path, cls: type[Row], rows: Iterable[Row]) -> None:
    """Write a CSV file of rows of a dataclass, whole or not at all."""
    columns = [column for names in typed_csv.columns(cls).values() for column in names]
    lines = ([int(v) if isinstance(v, bool) else v for v in row.values()] for row in flat(cls, rows))
    files.write_csv(path, columns, lines)


def read(path: Path, cls: type[Row]) -> list[Row]:
    """The rows of a CSV file that `write` wrote.

    Raises:
        UserError: it cannot be read, has other columns, or a cell of another type; the message names file,
            line and column.
    """
    hints, columns = typing.get_type_hints(cls), typed_csv.columns(cls)
    return [
        cls(**{name: typed_csv.field(hints[name], columns[name], line, place) for name in columns})
        for place, line in typed_csv.lines(path, [column for names in columns.values() for column in names])
    ]


def read_curve(path: Path) -> Curve:
    """A learning curve, whose columns depend on what was logged.

    Raises:
        UserError: it cannot be read, or a cell is no number.
    """
    return [
        {name: typed_csv.value(float | None, text, f"{place}: {name}") for name, text in line.items()}
        for place, line in typed_csv.lines(path)
    ]


def read_json(path: Path, cls: type[Row]) -> Row:
    """A JSON file of one object, as a dataclass.

    Raises:
        UserError: it cannot be read, lacks a key or has another one, or a value is of another type.
    """
    return _built(cls, files.read_json(path), str(path))


def read_entries(path: Path, cls: type[Row]) -> dict[str, Row]:
    """A JSON file of named objects, each as a dataclass.

    Raises:
        UserError: as `read_json`.
    """
    return {name: _built(cls, entry, f"{path}: {name}") for name, entry in files.read_json(path).items()}


def _built(cls: type[Row], content: Any, where: str) -> Row:
    try:
        json.dumps(content, allow_nan=False)
        return typing.cast(Row, config.convert(cls, content, where))
    except ValueError as error:  # a NaN
        raise UserError(f"{where}: {error}: {FIX}") from error
    except UserError as error:
        raise UserError(f"{error}: {FIX}") from error
