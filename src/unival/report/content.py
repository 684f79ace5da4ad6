"""What the report says: sections made of the study's tables, charts and examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unival.metrics.significance import SEEDS
from unival.report import charts, conflict, dag, gallery, headline, merging, silent, spread, words
from unival.report.page import Block, DataTable, Document, Figures, Fold, Points, Section, Text, TonedCell
from unival.report.verdicts import Verdict
from unival.study.results import Results
from unival.study.tables import CellScore, Comparison, TaskScore
from unival.study.variance import Variance

TONES = {"supported": "good", "refuted": "bad"}


def document(
    study: Results,
    claims: Sequence[Verdict],
    variances: Sequence[Variance],
    compared: Sequence[spread.Kernels],
    faults: Sequence[str],
    provenance: dict[str, Any],
    figures: Path,
) -> Document:
    """The whole report; `faults` are to be read first, pictures are written into `figures`."""
    name = study.facts.get("name", study.data.name)
    lead = (
        "One encoder-decoder reads text, images, video and audio and answers every task with text. It is "
        "pretrained on several tasks at once, in phases; finetuned on each task; the finetuned experts are "
        "merged by averaging their weights; and all of them are tested on data like the training data "
        f"and on data that differ. This is the study on the benchmark `{name}`, edition "
        f"`{study.edition}`. Scores come with 95 % bootstrap intervals over test rows, those about one "
        "medium drawn together; comparisons are paired row by row. Except in the claims, they are for one "
        "training seed: they cover the choice of test rows, not that of the seed."
    )
    first = [
        _section("Result", [Points(list(headline.sentences(study, claims)))]),
        *([_section("Read this first", [Points(list(faults))])] if faults else []),
        _section("Tasks", _tasks(study)),
        _section("Claims", claims_table(claims)),
        _section("Variance", spread.blocks(study, variances, compared)),
    ]
    later = [
        _section("Learning curves", _figures(charts.learning_curves(study, figures))),
        _section("Interpolation of experts", _interpolation(study, figures)),
        _section("Merged models", _merges(study, figures)),
        _section("Out of distribution", _shifts(study, figures)),
        _section("Synergy", _synergy(study, figures)),
        _section("Examples", _examples(study, figures)),
        _section("The data at a glance", _sheets(study, figures)),
        _section("What ran", [Figures(dag.draw(study, figures))]),
        _section("Runs and configurations", _runs(study, provenance)),
    ]
    # made last, as what is missing is found where it is drawn
    negative = _section("What did not work, and what is missing", _negative(study, claims))
    return Document("UnIVAL in small: a study", lead, [*first, negative, *later])


def _section(title: str, blocks: Sequence[Block]) -> Section:
    return Section(title, blocks or [Text("Nothing to show: this run has no such results.")])


def _figures(drawn: Sequence[Any]) -> list[Block]:
    return [Figures(drawn)] if drawn else []


def _tasks(study: Results) -> list[Block]:
    rows: list[list[str | TonedCell]] = []
    for task, row in study.tasks.items():
        who = "expert" if task in study.finetuned else "pretrained"
        rows.append(
            [
                words.task(task), verdict(row), words.number(row.value), words.interval(row.low, row.high),
                words.number(row.blind), words.number(row.majority), str(row.n),
                words.metric(row.metric), who,
            ]
        )  # fmt: skip
    columns = ("task", "verdict", "value", "95 % interval", "blind", "majority", "n", "metric", "model")
    text = (
        "**Blind** is the better of two baselines that do not see the medium: the model with the media of "
        "other rows, and the best constant answer per question form. **Majority** is the commonest training "
        "answer; grounding has none. The verdict compares the interval with the better of the two. Tasks "
        "without an expert are scored with the pretrained model."
    )
    return [DataTable(columns, rows), Text(text), *_secondary(study)]


def verdict(row: TaskScore) -> TonedCell:
    """Whether the interval is above what needs no medium."""
    baseline = row.baseline
    if row.low > baseline:
        return TonedCell("above baseline", "good")
    return (
        TonedCell("below baseline", "bad") if row.high < baseline else TonedCell("not above baseline", "bad")
    )


def _secondary(study: Results) -> list[Block]:
    """Other metrics, the strictest first: the checker of captions reads every object, attribute and count."""
    rows: list[list[str | TonedCell]] = []
    for task, row in study.tasks.items():
        others = {name: values for name, values in row.metrics.items() if name != row.metric}
        order = sorted(others, key=lambda name: (name != "correct", name != "exact"))
        shown = [
            f"{words.metric(name)} {words.number(others[name][0])} {words.interval(*others[name][1:])}"
            for name in order
            if name not in ("bleu_1", "bleu_2", "bleu_3")
        ]
        if shown:
            rows.append([words.task(task), "; ".join(shown)])
    if not rows:
        return []
    text = "Other metrics."
    if any("correct" in row.metrics for row in study.tasks.values()):
        text += " **All facts correct** is stricter than CIDEr, which templates inflate: a checker reads the "
        text += "caption and asks for every object, attribute and count."
    return [Text(text), DataTable(("task", "metrics"), rows, numbers=False)]


def claims_table(claims: Sequence[Verdict]) -> list[Block]:
    """What the paper says, what is seen here, and how to read it."""
    rows: list[list[str | TonedCell]] = [
        [
            claim.statement, claim.source, TonedCell(claim.verdict, TONES.get(claim.verdict, "")),
            words.percent(claim.interval) if claim.interval else "–",
            "–" if claim.paper_effect is None else f"{100 * claim.paper_effect:+.1f} %".replace("-", "−"),
            words.share(claim.detectable),
            claim.evidence,
        ]
        for claim in claims
    ]  # fmt: skip
    seeds = max((claim.seeds for claim in claims), default=0)
    text = (
        "What the paper found at full scale (tables T of arXiv 2307.16184), in our words, and whether this "
        "small study agrees. **Effect**: the mean difference over the claim's comparisons, as a share "
        f"of the better arm, with a 95 % interval over seeds and test media; here {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}. **Supported** or **refuted**: clear of 0 (or of the margin, "
        "if something is claimed to cost nothing) by two tests, one of them corrected for the number of "
        f"claims; fewer than {SEEDS} seeds give no verdict. If something is claimed to happen more often "
        "than not, the effect is the share of comparisons minus one half, over seeds only. **Detectable**: "
        "the smallest effect that this number of seeds decides in four of five studies. Comparisons of two "
        "models that are both no better than blind do not count."
    )
    columns = ("claim", "paper", "here", "effect", "paper's effect", "detectable", "evidence")
    return [Text(text), DataTable(columns, rows, numbers=False)]


def _negative(study: Results, claims: Sequence[Verdict]) -> list[Block]:
    points = []
    for task, row in study.tasks.items():
        baseline = row.baseline
        if row.low <= baseline:
            value = f"{words.number(row.value)} {words.interval(row.low, row.high)}"
            points.append(
                f"**{words.task(task)}** is not above its baseline: {value} against {words.number(baseline)}."
            )
    points += [
        f"**Refuted**: {claim.statement} ({claim.evidence})" for claim in claims if claim.verdict == "refuted"
    ]
    points += silent.below_start(study)
    points += [f"Missing: {what}." for what in study.missing]
    return (
        [Points(points)]
        if points
        else [Text("Nothing: every task is above its baseline and its start, and no file is missing.")]
    )


def _interpolation(study: Results, figures: Path) -> list[Block]:
    drawn = charts.interpolation(study, figures)
    if not drawn:
        return []
    text = (
        "Weights move in a straight line from one expert to the other; both tasks are scored at every point, "
        "on the first test rows. The ends are the experts themselves."
    )
    return [Text(text), Figures(drawn)]


def _merges(study: Results, figures: Path) -> list[Block]:
    merged = study.primary(kind="merged", shifted=False)
    if not merged:
        return []
    rows: list[list[str | TonedCell]] = []
    for row in merged:
        expert, pretrained = f"finetune/{row.task}", study.pretrained
        cells = [study.in_distribution(other, row.task) for other in (expert, pretrained)]
        rows.append(
            [
                words.task(row.model.removeprefix("merged/")), words.task(row.task),
                words.metric(row.metric), words.number(row.value),
                *(words.number(cell and cell.value) for cell in cells),
                _change(study.comparison(row.model, expert, row.task)),
                _change(study.comparison(row.model, pretrained, row.task)),
            ]
        )  # fmt: skip
    columns = (
        "merge",
        "task",
        "metric",
        "merged",
        "expert",
        "pretrained",
        "merged − expert",
        "merged − pretrained",
    )
    text = "One merged model does the work of all its parents at the cost of one model. "
    text += "Differences are paired over test rows."
    shown = Figures(charts.merges(study, figures))
    return [Text(text), DataTable(columns, rows), shown, *merging.blocks(study, figures)]


def _change(row: Comparison | None) -> TonedCell | str:
    if row is None:
        return "–"
    text = words.change((row.difference, row.low, row.high))
    return TonedCell(text, "good" if row.low > 0 else "bad" if row.high < 0 else "")


def _shifts(study: Results, figures: Path) -> list[Block]:
    cells = study.primary(kind="finetuned", shifted=True)
    if not cells:
        return []
    places = list(dict.fromkeys((row.task, row.shift or row.split) for row in cells))
    levels = sorted({row.severity for row in cells if row.severity is not None})
    rows = []
    for task, place in places:
        by_severity = {row.severity or 0: row for row in cells if _at(row, task, place)}
        inside = study.in_distribution(f"finetune/{task}", task)
        line = [
            words.task(task),
            words.task(place.removeprefix("ood-")),
            words.number(inside and inside.value),
        ]
        line += [_with_interval(by_severity.get(level)) for level in (0, *levels)]
        rows.append(line)
    columns = ("task", "shift", "test", "stored split", *(f"severity {level}" for level in levels))
    text = "Stored splits hold other data; corruptions change the test media. Scores of the experts. "
    text += "Dotted: the blind baseline on the test split."
    plane = "Each point is a model on a task: filled, the expert; hollow, a merge of it with others, with an "
    plane += "arrow from the expert."
    blocks: list[Block] = [Text(text), Figures(charts.severity(study, figures)), DataTable(columns, rows)]
    return [*blocks, Text(plane), Figures(charts.id_against_ood(study, figures))]


def _at(row: CellScore, task: str, place: str) -> bool:
    return bool(row.task == task and (row.shift or row.split) == place)


def _with_interval(row: CellScore | None) -> str:
    return "" if row is None else f"{words.number(row.value)} {words.interval(row.low, row.high)}"


def _synergy(study: Results, figures: Path) -> list[Block]:
    if not study.ablations:
        return []
    definitions = study.configs.get("ablate", {}).get("definitions", {})
    points = [
        f"**{words.task(name)}** ({definition.get('paper', '')}): {definition['question']}"
        for name, definition in definitions.items()
    ]
    text = (
        "Each row is a model, trained with the same rows of each task that it has; grey cells are the "
        "baseline's scores, the others differences from it with their paired intervals. Blue: clearly "
        "better, orange: clearly worse, white: no clear difference. The budget is a fraction of the main "
        "run's, so these scores are low."
    )
    drawn = Figures(charts.synergy(study, figures))
    return [Text(text), *([Points(points)] if points else []), drawn, *conflict.blocks(study, figures)]


def _examples(study: Results, figures: Path) -> list[Block]:
    blocks: list[Block] = []
    for task in study.tasks:
        drawn = gallery.examples(study, task, figures)
        if drawn:
            blocks += [Text(f"**{words.task(task)}**, right ones first:"), Figures(drawn)]
    return blocks


def _sheets(study: Results, figures: Path) -> list[Block]:
    drawn = gallery.sheets(study, figures)
    text = Text("Twelve test rows of each task, with the question (black) and what is expected (grey).")
    return [text, *(Fold(figure.alt, [Figures([figure])]) for figure in drawn)] if drawn else []


def _runs(study: Results, provenance: dict[str, Any]) -> list[Block]:
    rows = []
    for name, run in study.runs.items():
        config = study.configs.get(name, {})
        rows.append(
            [
                name, words.duration(run.seconds), f"{run.peak_mib} MiB",
                setting(config), f"`{run.config_hash}`", f"`{(run.run_id or '–')[:12]}`",
            ]
        )  # fmt: skip
    total = sum(run.seconds for run in study.runs.values())
    columns = ("process", "time", "peak memory", "configuration", "its hash", "MLflow run")
    machine = provenance.get("machine", {})
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    points = [
        f"{len(rows)} processes, {words.duration(total)} in all (without this one, which is still running).",
        *_codes(study),
        f"{machine.get('system')} {machine.get('machine')}, {machine.get('cpus')} CPUs. {versions}.",
        *_machines(study),
        "Resolved configurations: `build/config/`. All runs, curves and parameters: `make ui`.",
    ]
    return [DataTable(columns, rows, numbers=False), Points(points)]


def _codes(study: Results) -> list[str]:
    """Which code made what, each commit once."""
    made: dict[tuple[str, str, str], list[str]] = {}
    for name, run in study.runs.items():
        began = run.code.get("began") or {}
        place = (run.code.get("commit", ""), run.code.get("uncommitted", ""), began.get("commit", ""))
        made.setdefault(place, []).append(name)
    lines = []
    for (commit, uncommitted, began_at), names in made.items():
        changed = f" with uncommitted changes (`git diff {commit[:12]} {uncommitted[:12]}`)"
        line = f"Code of commit `{commit[:12] or 'unknown'}`{changed if uncommitted else ''}"
        begun = f", begun at `{began_at[:12]}`" if began_at else ""
        lines.append(f"{line}{begun}: {', '.join(names)}.")
    return lines


def _machines(study: Results) -> list[str]:
    """What the processes that use PyTorch computed on, each kind once."""
    kinds = sorted(
        {
            f"{ran['processor']} ({ran['instructions']}, threads a process {ran['threads']}, "
            f"processes that train together {ran['ranks']})"
            for ran in (run.machine for run in study.runs.values())
            if "instructions" in ran
        }
    )
    equal = "Runs with the same instructions, threads and processes give the same bytes (docs/training.md)"
    return [f"Computed on {'; '.join(kinds)}. {equal}."] if kinds else []


def setting(config: dict[str, Any]) -> str:
    """The figures of a configuration that a reader asks for first."""
    train = config.get("train") or {}
    parts = [f"{train['steps']} steps"] if "steps" in train else []
    if train.get("mixture"):
        parts.append(f"{train['mixture'].get('rows')} rows a step")
    if train.get("optimizer"):
        parts.append(f"lr {train['optimizer'].get('lr'):g}")
    if "seed" in train:
        parts.append(f"seed {train['seed']}")
    if "seeds" in config:
        parts.append(f"seeds {config['seeds']}")
    if "rows" in config:
        parts.append(f"{config['rows'] or 'all'} test rows a cell")
    if config.get("merges"):
        parts.append("merges " + ", ".join(config["merges"]))
    options = (config.get("benchmark") or {}).get("options") or {}
    parts += [f"{key} {options[key]}" for key in ("size", "seed", "image_size") if key in options]
    if "severities" in config:
        parts.append(f"severities {config['severities']}")
    return ", ".join(parts)
