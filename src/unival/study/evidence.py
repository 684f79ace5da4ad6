"""Scores of every row of a study, of all its seeds, and the effects that claims are about.

The pipeline's own seed has its tables in `reports/`, another one in `reports/seeds/<seed>/`. A seed counts
where it ran to its end with the same configuration, data and code as the others. It is compared with itself
on other kernels where each of the two was computed on one kind of them. Who is left out is named.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from unival import config, files, provenance
from unival.metrics.significance import Effect, Paired, effect, wins
from unival.study import processes, row_scores, tables
from unival.study.claims import BASELINE, SHIFTED, Claim
from unival.study.tables import NOTE, CellScore, Repeat, TaskScore

if TYPE_CHECKING:
    import pandas

TEST = "test"
KERNELS = "kernels"
"""Below `reports/`: seeds that were run again on other kernels of the processor, each as below `seeds/`."""


def data_digest(data: str | Path) -> str:
    """Of the prepared benchmark."""
    return files.file_digest(Path(data) / "benchmark.json")


@dataclass(frozen=True)
class Seed:
    """What one seed gave."""

    scores: dict[tuple[str, str, str], "pandas.Series"]
    """(model, task, split) -> score by (row, medium)."""
    baselines: dict[str, float]
    """Task -> what a model must beat."""


class Contrast(NamedTuple):
    """One of the comparisons of a claim."""

    number: int
    """Its place in the claim's `over`; of shifted rows every split has one of its own."""
    task: str
    split: str
    paired: Paired
    """Differences as a share of the better arm's mean."""
    learned: bool
    """Whether one of the arms is clearly above the baseline; true where the baseline is one of them."""


@dataclass(frozen=True)
class Evidence:
    """All seeds of a study that count."""

    seeds: dict[int, Seed]
    pretrained: str
    """Name of the pretrained model in the tables."""
    left_out: list[str]
    """A sentence for every seed that does not count, or is not compared with itself on other kernels."""
    kernels: dict[int, Seed] = field(default_factory=dict)
    """Some of the seeds again, on other kernels of the processor (`unival kernels`)."""

    def contrasts(self, claim: Claim) -> Iterator[Contrast]:
        """Those of the claim that every seed has rows of."""
        for number, words in enumerate(claim.over):
            task = words["task"]
            better, than = (claim.arm(names, words, self.pretrained) for names in (claim.better, claim.than))
            for split in self.shifts(better, task) if claim.split == SHIFTED else [TEST]:
                arms = [self.scores(names, task, split) for names in (better, than)]
                if arms[0] is not None and arms[1] is not None:
                    paired, learned = self._compare(task, arms[0], arms[1])
                    yield Contrast(number, task, split, paired, learned or than == [BASELINE])

    def shifts(self, models: Sequence[str], task: str) -> list[str]:
        """The splits out of distribution that every seed has scored the models on."""
        splits = {key[2]: None for seed in self.seeds.values() for key in seed.scores if key[1] == task}
        return [split for split in splits if split != TEST and self.scores(models, task, split) is not None]

    def scores(self, models: Sequence[str], task: str, split: str) -> "pandas.DataFrame | None":
        """A column for every seed: the mean of the models on the rows that all of them have."""
        import pandas

        columns = {}
        for number, seed in self.seeds.items():
            if list(models) == [BASELINE]:
                known = seed.baselines.get(task)
                rows = next((scores for key, scores in seed.scores.items() if key[1:] == (task, split)), None)
                if known is None or rows is None:
                    return None
                columns[number] = rows * 0 + known
                continue
            columns_of = [seed.scores.get((model, task, split)) for model in models]
            if any(scores is None for scores in columns_of):
                return None
            columns[number] = pandas.concat(columns_of, axis=1, join="inner").mean(axis=1)
        return pandas.DataFrame(columns).dropna()

    def _compare(
        self, task: str, better: "pandas.DataFrame", than: "pandas.DataFrame"
    ) -> tuple[Paired, bool]:
        """Differences as a share of the better arm, and whether one of the arms is above the baseline."""
        better, than = better.align(than, join="inner", axis=0)
        means = [float(arm.to_numpy().mean()) if len(arm) else 0.0 for arm in (better, than)]
        unit = max(*map(abs, means)) or 1.0
        return paired((better - than) / unit), any(self._learned(task, arm) for arm in (better, than))

    def _learned(self, task: str, scores: "pandas.DataFrame") -> bool:
        known = [seed.baselines.get(task) for seed in self.seeds.values()]
        if scores.empty or None in known:
            return not scores.empty
        return effect([paired(scores - np.array(known, dtype=float))]).low > 0


def combined(claim: Claim, contrasts: Iterable[Contrast]) -> Effect | None:
    """The effect of those whose models have learned something; None: there is no such."""
    counted = [one.paired for one in contrasts if one.learned]
    if not counted:
        return None
    return wins(counted) if claim.measure == "wins" else effect(counted, -claim.margin)


def paired(scores: "pandas.DataFrame") -> Paired:
    """(row, medium) x seed as differences of every seed."""
    return Paired(scores.to_numpy().T, scores.index.get_level_values("medium").tolist())


def read(root: Path, data: Path, seed: int, seeds: Sequence[int]) -> Evidence:
    """All seeds of the study whose reports lie below `root`.

    Args:
        seed: the pipeline's own.
        seeds: the others.

    Raises:
        UserError: a table cannot be read.
    """
    reports, left_out = root / "reports", []
    study = config.load(root / "build/config/seeds.yaml")["study"] if seeds else ""
    by_seed = {seed: read_seed(reports)}
    for other in seeds:
        folder = reports / "seeds" / str(other)
        if not (folder / NOTE).is_file():
            left_out.append(f"Seed {other} is **left out**: it has not run: `dvc repro seeds`.")
        elif why := _stale(_note(folder), data, study, "dvc repro -f -s seeds"):
            left_out.append(f"Seed {other} is **left out**: {why}.")
        else:
            by_seed[other] = read_seed(folder)
            if several := mixed(_note(folder)):
                left_out.append(f"Seed {other} counts, but ran on **mixed kernels**: {several}.")
    kernels = {}
    for number in [number for number in seeds if number in by_seed]:
        folder = reports / KERNELS / str(number)
        if not (folder / NOTE).is_file():
            continue
        here, there = _note(reports / "seeds" / str(number)), _note(folder)
        if why := _stale(there, data, study, "unival kernels") or _alike(here, there):
            left_out.append(f"Seed {number} is **not compared** with itself on other kernels: {why}.")
        else:
            kernels[number] = read_seed(folder)
    cells = reports / "metrics/cells.csv"
    models = tables.read(cells, CellScore) if cells.is_file() else []
    pretrained = next((cell.model for cell in models if cell.kind == "pretrained"), "")
    return Evidence(by_seed, pretrained, left_out, kernels)


def _note(folder: Path) -> Repeat:
    return tables.read_json(folder / NOTE, Repeat)


def mixed(note: Repeat) -> str:
    """In what the kernels differ that the processes of a seed ran on; empty where they are of one kind."""
    facts = ((name, note.machine.get(name)) for name in provenance.KERNELS)
    return ", ".join(f"{name} {' and '.join(found)}" for name, found in facts if isinstance(found, list))


def _alike(here: Repeat, there: Repeat) -> str:
    """Why two runs of one seed say nothing of kernels; empty where they do."""
    if several := mixed(here):
        return f"it ran on several kinds ({several})"
    if several := mixed(there):
        return f"it ran again on several kinds ({several})"
    same = all(here.machine.get(name) == there.machine.get(name) for name in provenance.KERNELS)
    return "it ran on the same ones both times" if same else ""


def _stale(note: Repeat, data: Path, study: str, again: str) -> str:
    """Why what a seed gave is not of the study as it is now, and what makes it again; empty where it is."""
    if note.failed:
        return f"training diverged in {note.failed}"
    for mine, its, what in (
        (study, note.study, "configuration"),
        (data_digest(data), note.data, "prepared data"),
        (processes.code(), note.code, "code"),
    ):
        if mine != its:
            return f"it was made with another {what} than the study has now: `{again}`"
    return ""


def read_seed(reports: Path) -> Seed:
    """What one seed gave, from its folder of tables.

    Raises:
        UserError: a table cannot be read.
    """
    scores = {}
    for folder in ("metrics", "ablations"):
        path = reports / folder / row_scores.NAME
        if path.is_file():
            table = row_scores.read(path).astype(dict.fromkeys(("row", "medium"), str))
            for key, rows in table.groupby(["model", "task", "split"], observed=True):
                scores[key] = rows.set_index(["row", "medium"])["score"]
    path = reports / "metrics/tasks.json"
    known = tables.read_entries(path, TaskScore) if path.is_file() else {}
    return Seed(scores, {task: row.baseline for task, row in known.items()})
