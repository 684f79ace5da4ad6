"""What of a finished study stands beside its written report: tables, figures over seeds, a page of them."""

import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from unival import files
from unival.metrics.significance import SEEDS
from unival.report import charts, content, spread, words
from unival.report.page import Block, DataTable, Document, Figure, Figures, Points, Section, Text, to_markdown
from unival.report.verdicts import Verdict
from unival.study import subsets, tables
from unival.study.evidence import TEST, Evidence
from unival.study.results import Results
from unival.study.tables import Run
from unival.study.variance import Variance

COPIED = ("leaderboard", "pairs", "fronts", "subsets", "geometry")
"""Tables of `reports/metrics/` that go along, of the pipeline's own seed."""
SHOWN = ("merge-matrix", "cosines", "plane-", "line-", "shift-", "subsets-", "synergy-", "conflict-")
"""Beginnings of the names of the report's figures that go along."""
STARTS = ("new", "images", "images_and_video")
"""Of the learning curve of sounds (conf/ablation/audio_rows.yaml)."""


@dataclass(frozen=True, kw_only=True)
class SeedScore:
    """A line of `scores.csv`: the mean primary score of a model of one seed on a split."""

    model: str
    task: str
    split: str
    seed: int
    score: float
    n: int
    """Rows."""


@dataclass(frozen=True)
class Beside:
    """The claims on another benchmark."""

    name: str = ""
    claims: Mapping[str, Verdict] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a folder that `write` wrote; its name is the benchmark's.

        Raises:
            UserError: it has no tables/claims.csv, or a wrong one.
        """
        claims = tables.read(folder / "tables/claims.csv", Verdict)
        return cls(folder.resolve().name, {claim.id: claim for claim in claims})


def write(
    out: Path,
    study: Results,
    summary: Mapping[str, Any],
    evidence: Evidence,
    compared: Sequence[spread.Kernels],
    beside: Beside,
) -> None:
    """Write `summary.json`, `results.md`, `tables/` and `figures/` below `out`; all else there stays.

    Args:
        summary: the study's `reports/summary.json`.
        compared: its claims on other kernels, if it was run there.
    """
    claims = [Verdict(**claim) for claim in summary["claims"]]
    variances = [Variance(**line) for line in summary["variances"]]
    scores = list(seed_scores(evidence))
    for name in ("tables", "figures"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    tables.write(out / "tables/claims.csv", Verdict, claims)
    tables.write(out / "tables/variances.csv", Variance, variances)
    tables.write(out / "tables/scores.csv", SeedScore, scores)
    reports = study.root / "reports"
    for path in [
        *(reports / f"metrics/{name}.csv" for name in COPIED),
        *(reports / "ablations").glob("*.csv"),
    ]:
        if path.is_file():
            files.copy(path, out / "tables" / path.name)
    files.write_json(out / "summary.json", summary)
    document = _document(study, summary, claims, variances, compared, scores, beside, out / "figures")
    files.write_text(out / "results.md", to_markdown(document, "figures"))


def seed_scores(evidence: Evidence) -> Iterator[SeedScore]:
    """Every model, task and split of every seed."""
    for number, seed in evidence.seeds.items():
        for (model, task, split), rows in sorted(seed.scores.items()):
            score = round(float(rows.mean()), 6)
            yield SeedScore(model=model, task=task, split=split, seed=number, score=score, n=len(rows))


def _document(
    study: Results,
    summary: Mapping[str, Any],
    claims: Sequence[Verdict],
    variances: Sequence[Variance],
    compared: Sequence[spread.Kernels],
    scores: Sequence[SeedScore],
    beside: Beside,
    folder: Path,
) -> Document:
    """The page; pictures are drawn, or copied, into `folder`."""
    of_seeds: list[Figure] = []
    forest(claims, beside, folder, of_seeds)
    experts(study, scores, folder, of_seeds)
    audio(scores, folder, of_seeds)
    rates(scores, folder, of_seeds)
    kept = sorted((study.root / "reports/figures").glob("*.png"))
    own = [Figure(path.name, path.stem) for path in kept if path.name.startswith(SHOWN)]
    for figure in own:
        files.copy(study.root / "reports/figures" / figure.file, folder / figure.file)
    sections = [
        Section("What was run", [Points(list(_ran(study, summary, {row.seed for row in scores})))]),
        Section("Claims", [*content.claims_table(claims), Figures(of_seeds[:1]), *_both(claims, beside)]),
        Section("Scores over seeds", [*_scores(study, scores), Figures(of_seeds[1:])]),
        Section("Variance", spread.blocks(study, variances, compared)),
        Section("What went wrong without an error", [Points(summary["read_first"] or ["Nothing."])]),
        Section("Figures of the first seed", [Figures(own)]),
    ]
    lead = "Written by `unival study` from a finished run."
    return Document(f"Results of the study: {summary['provenance']['benchmark']}", lead, sections)


def _ran(study: Results, summary: Mapping[str, Any], seeds: Set[int]) -> Iterator[str]:
    """Command, commit, machine and cost of the seeds that count."""
    origin, report = summary["provenance"], study.configs["report"]
    yield (
        f"`dvc exp run -S benchmark={origin['benchmark']} -S edition={origin['edition']} "
        f"-S seed={report['seed']} -S 'seeds={report['seeds']}'` at commit `{(origin['commit'] or '')[:12]}`"
        + (" with uncommitted changes." if origin["uncommitted"] else ".")
    )
    machine = origin["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    yield f"{machine.get('processor')}, {machine.get('cpus')} CPUs; {versions}."
    yield f"The first seed: {words.duration(sum(run.seconds for run in study.runs.values()))}."
    for seed in sorted(seeds - {report["seed"]}):
        folder = study.root / f"reports/seeds/{seed}/runs"
        runs = [tables.read_json(path, Run) for path in folder.glob("*.json")]
        yield f"Seed {seed}, on one core: {words.duration(sum(run.seconds for run in runs))}."


def _both(claims: Sequence[Verdict], beside: Beside) -> list[Block]:
    """Effects on both benchmarks, and where both are clear."""
    lines = []
    for claim in claims:
        if other := beside.claims.get(claim.id):
            here, there = spread.side(claim), spread.side(other)
            clear = "" if not (here and there) else f"both {here}" if here == there else "opposite"
            lines.append([words.task(claim.id), spread.effect(claim), spread.effect(other), clear])
    if not lines:
        return []
    seeds = max(other.seeds for other in beside.claims.values())
    text = (
        f"Beside them the effects on `{beside.name}`, of {seeds} seeds. "
        "**Clear**: above or below 0, or the margin, by the verdict, or where fewer than "
        f"{SEEDS} seeds give none, by the interval."
    )
    return [Text(text), DataTable(("claim", "here", beside.name, "clear"), lines, numbers=False)]


def _scores(study: Results, scores: Sequence[SeedScore]) -> list[Block]:
    """Experts, pretrained model and what needs no medium."""
    lines = []
    for task, row in study.tasks.items():
        cells = []
        for model in (study.pretrained, f"finetune/{task}", "merged/average", "merged/unival"):
            scored = _of(scores, model, task)
            spread_of = f" ± {words.number(float(np.std(scored, ddof=1)))}" if len(scored) > 1 else ""
            cells.append(f"{words.number(float(np.mean(scored)))}{spread_of}" if scored else "–")
        lines.append([words.task(task), words.metric(row.metric), words.number(row.baseline), *cells])
    columns = ("task", "metric", "without the medium", "pretrained", "expert", "average", "unival")
    text = "Mean over seeds ± standard deviation between seeds, test split. Without the medium: first seed."
    return [DataTable(columns, lines), Text(text)]


def _of(scores: Sequence[SeedScore], model: str, task: str) -> list[float]:
    """Of every seed, on the test split."""
    return [row.score for row in scores if (row.model, row.task, row.split) == (model, task, TEST)]


def forest(claims: Sequence[Verdict], beside: Beside, folder: Path, figures: list[Figure]) -> None:
    """Effect and interval of each claim, filled where it is decided, and those beside it."""
    marks = {"supported": ("o", charts.COLORS[0]), "refuted": ("s", charts.COLORS[1])}
    size = (6.4, 0.34 * len(claims) + 1.2)
    with charts.panel(folder, "claims", "Effects of the claims with their intervals", figures, size) as axes:
        for place, claim in enumerate(claims):
            if claim.interval:
                marker, color = marks.get(claim.verdict, ("D", charts.GREY))
                value, *ends = (100 * figure for figure in claim.interval)
                axes.errorbar(
                    value, place, xerr=charts.whiskers(value, *ends), marker=marker, color=color, lw=1.2,
                    mfc=color if claim.verdict in marks else "white",
                )  # fmt: skip
            if (other := beside.claims.get(claim.id)) and other.interval:
                value, *ends = (100 * figure for figure in other.interval)
                axes.errorbar(
                    value, place + 0.3, xerr=charts.whiskers(value, *ends), marker="^", ms=3, lw=1.0,
                    color=charts.COLORS[2],
                )  # fmt: skip
            if claim.margin:
                axes.plot(-100 * claim.margin, place, marker="|", ms=11, color=charts.COLORS[6])
            if claim.paper_effect is not None:
                axes.plot(100 * claim.paper_effect, place, marker="x", ls="", color=charts.COLORS[3])
        axes.axvline(0, color=charts.GREY, lw=0.8)
        axes.set_yticks(range(len(claims)), [f"{words.task(c.id)}: {c.verdict}" for c in claims], fontsize=8)
        axes.set(ylim=(len(claims) - 0.5, -0.5), xlabel="effect, % of the better arm")
        also = f", triangle: {beside.name}" if beside.claims else ""
        axes.set_title(f"bar: 95 %, | margin, x the paper's effect{also}", fontsize=9)


def experts(study: Results, scores: Sequence[SeedScore], folder: Path, figures: list[Figure]) -> None:
    """Every seed of the pretrained model and of the experts, as a share of the expert's mean."""
    tasks = [task for task in study.finetuned if any(_of(scores, f"finetune/{task}", task))]
    if not tasks:
        return
    with charts.panel(
        folder, "experts", "Pretrained model and experts over seeds", figures, (6.4, 3.2)
    ) as axes:
        for place, task in enumerate(tasks):
            unit = float(np.mean(_of(scores, f"finetune/{task}", task)))
            for number, (name, model) in enumerate(
                (("pretrained", study.pretrained), ("expert", f"finetune/{task}"))
            ):
                values = [value / unit for value in _of(scores, model, task)]
                places, label = [place + 0.2 * number - 0.1] * len(values), "" if place else name
                axes.plot(places, values, label=label, ls="", alpha=0.7, **charts.style(number))
            blind = study.tasks[task].baseline / unit
            axes.plot([place - 0.3, place + 0.3], [blind] * 2, color=charts.GREY, ls=":")
        axes.set_xticks(range(len(tasks)), [words.task(task) for task in tasks], rotation=20, ha="right")
        axes.set(title="a point a seed; dotted: without the medium", ylabel="share of the expert's mean")
        axes.legend()


def audio(scores: Sequence[SeedScore], folder: Path, figures: list[Figure]) -> None:
    """Audio captioning by the share of the rows that was trained on, from each start."""
    rows = [row for row in scores if row.model.startswith("audio_rows/")]
    if not rows:
        return
    shares = sorted({int(row.model.rpartition("_")[2]) for row in rows})
    with charts.panel(folder, "audio-rows", "Audio captioning by rows of sound and start", figures) as axes:
        for number, start in enumerate(STARTS):
            values = [_of(rows, f"audio_rows/{start}_{share}", "audio_caption") for share in shares]
            means = [np.mean(of_share) for of_share in values]
            spreads = [np.std(of_share) for of_share in values]
            axes.errorbar(shares, means, yerr=spreads, label=words.task(start), **charts.style(number))
        axes.set(
            xscale="log", xlabel="rows of sound, %", ylabel="CIDEr", title="bar: standard deviation of seeds"
        )
        axes.set_xticks(shares, [str(share) for share in shares])
        axes.legend()


def rates(scores: Sequence[SeedScore], folder: Path, figures: list[Figure]) -> None:
    """How often an average of so many experts beats their start, and the task's own expert, in each seed."""
    values = {
        (row.model, row.task, row.seed): row.score for row in scores if row.model.startswith("experts/")
    }
    wins: dict[tuple[str, int, int], list[bool]] = {}
    for (model, task, seed), score in values.items():
        size = model.count("+") + 1
        for name, other in (
            ("the pretrained model", subsets.NONE),
            ("the task's own expert", f"experts/{task}"),
        ):
            if size > 1:
                wins.setdefault((name, size, seed), []).append(score > values[other, task, seed])
    if not wins:
        return
    with charts.panel(
        folder, "subset-rates", "Success rates of averages by number of experts", figures
    ) as axes:
        for number, name in enumerate(dict.fromkeys(name for name, _, _ in wins)):
            sizes = sorted({size for of, size, _ in wins if of == name})
            by_size = [
                [np.mean(won) for (of, at, _), won in wins.items() if (of, at) == (name, size)]
                for size in sizes
            ]
            style = charts.style(number)
            axes.plot(sizes, [np.mean(of_seeds) for of_seeds in by_size], label=f"above {name}", **style)
            points = [(size, one) for size, of in zip(sizes, by_size, strict=True) for one in of]
            axes.plot(*zip(*points, strict=True), ls="", alpha=0.35, **style)
        axes.set(
            title="faint: a seed each", xlabel="experts in the average", ylabel="share of comparisons won"
        )
        axes.set(ylim=(-0.05, 1.05), xticks=sizes)
        axes.legend()
