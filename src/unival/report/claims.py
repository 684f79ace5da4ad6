"""Which of the paper's findings hold here.

A claim is a comparison whose 95 % interval decides: all of its parts clear in its favour, supported; one part
clear against it, not supported; otherwise undecided. Two models of which neither is clearly above what needs
no medium say nothing about each other: such parts are left out, and counted. Claims about ways to train need
models of more than one seed: intervals over test rows do not cover what another seed changes.

The paper: Shukor et al., "UnIVAL: Unified Model for Image, Video, Audio and Language Tasks", TMLR 2023,
arXiv 2307.16184; tables are cited as T<n>.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from unival.report import words
from unival.study.results import Results
from unival.study.tables import Ablation, CellScore, TaskScore

Verdict = Literal["supported", "not supported", "undecided", "not tested", "one seed: no verdict"]
MARGIN = 0.05
"""A loss smaller than this, of accuracy, counts as none in the claims that something costs nothing."""
DERIVED = ("matching", "grounded_caption", "video_matching")
"""Tasks whose pretraining rows are made from those of captions and boxes."""
AVERAGES = "merged/average"
"""How the folders of the uniform averages begin."""


class Evidence(NamedTuple):
    """One comparison of a claim."""

    what: str
    difference: float
    low: float
    high: float
    learned: bool = True
    """Whether one of the two models is clearly above what needs no medium."""
    seed: int | None = None
    """Of the training that is compared; None: the claim is not about ways to train."""


@dataclass(frozen=True)
class Claim:
    """A finding and what is seen of it here."""

    text: str
    source: str
    verdict: Verdict
    evidence: str


def check(study: Results) -> list[Claim]:
    """All claims, in the order of the paper's argument."""
    return [
        _learned(study),
        _claim(
            "Pretraining alone already answers tasks that share its form, before any finetuning.",
            "T10",
            _pretrained(study),
        ),
        _claim(
            "Training on several tasks at once is better for each of them than training on it alone.",
            "T4",
            _ablation(study, "multitask", lambda row: row.variant == f"only_{row.task}", flip=True),
        ),
        _claim(
            "Giving every task a fixed share of each step beats drawing in proportion to the data.",
            "T3",
            _ablation(study, "balancing", lambda row: row.variant == "proportional", flip=True),
        ),
        _claim(
            f"Adding video to pretraining costs image tasks nothing (a loss under {MARGIN} counts as none).",
            "T4, T17",
            _ablation(study, "video", _image_task_with_video),
            margin=MARGIN,
        ),
        _claim(
            "Video tasks need video in pretraining.",
            "T17",
            _ablation(study, "video", lambda row: row.task.startswith("video") and "video" in row.variant),
        ),
        _claim(
            "A curriculum, images first, is as good as training on everything at once "
            f"(a loss under {MARGIN} counts as none).",
            "T2",
            _ablation(study, "curriculum", lambda row: row.variant == "curriculum"),
            margin=MARGIN,
        ),
        _claim(
            "A model pretrained on images and video, never on sound, learns audio captioning better.",
            "T12",
            _ablation(study, "audio", lambda row: row.variant == "from_pretrained"),
        ),
        _claim(
            "Half-way between two experts each task scores above the mean of both ends.",
            "section 6.2, figure of pairs",
            _halfway(study),
        ),
        _claim(
            "The uniform average of experts beats the pretrained model on every task of its parents.",
            "section 6.2",
            _merged(study),
        ),
        _claim(
            "The average keeps more than the experts where the data shift (share of their scores, minus 1).",
            "section 6.2; the paper compares OOD averages with the pretrained model",
            _shifted(study),
        ),
    ]


def _claim(text: str, source: str, found: Sequence[Evidence], margin: float = 0.0) -> Claim:
    if not found:
        return Claim(text, source, "not tested", "no such comparison in this run")
    parts = [part for part in found if part.learned]
    left_out = (
        f"{len(found) - len(parts)} of {len(found)} comparisons are between models no better than blind"
    )
    if not parts:
        return Claim(text, source, "undecided", left_out)
    evidence = "; ".join(f"{part.what} {words.change(part[1:4])}" for part in parts)
    if len(parts) > 6:
        gains, losses = sum(part.low > 0 for part in parts), sum(part.high < 0 for part in parts)
        evidence = f"{len(parts)} comparisons: clear gain {gains}, clear loss {losses}"
    if len(parts) < len(found):
        evidence += f" ({left_out})"
    seeds = {part.seed for part in parts}
    if len(seeds) == 1 and None not in seeds:
        return Claim(text, source, "one seed: no verdict", evidence)
    return Claim(text, source, decide([(part.low, part.high) for part in parts], margin), evidence)


def decide(intervals: Iterable[tuple[float, float]], margin: float = 0.0) -> Verdict:
    """The verdict on differences that should be positive; with a margin, not below its negative."""
    bounds = list(intervals)
    if any(high < -margin for _, high in bounds):
        return "not supported"
    return "supported" if all(low > -margin for low, _ in bounds) else "undecided"


def _learned(study: Results) -> Claim:
    """One architecture and one loss for all tasks: each expert above its blind baseline."""
    rows = [(task, study.tasks[task]) for task in study.finetuned if study.tasks.get(task)]
    above = [task for task, row in rows if row.low > baseline(row)]
    below = [task for task, row in rows if row.high < baseline(row)]
    verdict: Verdict = "supported" if len(above) == len(rows) else "not supported" if below else "undecided"
    rest = [words.task(task) for task, _ in rows if task not in above]
    evidence = f"{len(above)} of {len(rows)} tasks clearly above what needs no medium"
    evidence += f"; not so: {', '.join(rest)}" if rest else ""
    text = "One model and one loss learn image, video and audio tasks alike."
    return Claim(text, "T5–T9", verdict if rows else "not tested", evidence)


def baseline(score: TaskScore) -> float:
    """What a model must beat: the better of the blind baseline and the majority answer."""
    return max(score.blind, score.majority or 0.0)


def _beats_baseline(study: Results, row: CellScore | Ablation | None) -> bool:
    """Whether a model's score on test rows is clearly above what needs no medium, where that is known."""
    baselines = study.tasks.get(row.task) if row else None
    return row is not None and (baselines is None or row.low > baseline(baselines))


def _pretrained(study: Results) -> list[Evidence]:
    """The pretrained model on what it was trained for, over the blind baseline."""
    phases = [config for name, config in study.configs.items() if name.startswith("pretrain-")]
    streams = [stream for config in phases for stream in config["train"]["mixture"].get("streams", [])]
    trained = {stream["task"] for stream in streams} | set(DERIVED)
    found = []
    for row in study.primary(kind="pretrained", shifted=False):
        blind = study.tasks.get(row.task)
        if blind and row.task in trained:
            lift = baseline(blind)
            found.append(Evidence(words.task(row.task), row.value - lift, row.low - lift, row.high - lift))
    return found


def _image_task_with_video(row: Ablation) -> bool:
    return not row.task.startswith("video") and "video" in row.variant


def _ablation(
    study: Results, name: str, wanted: Callable[[Ablation], bool], flip: bool = False
) -> list[Evidence]:
    """Differences of a study's rows from its baseline; `flip`: the baseline is what the claim favours."""
    rows = [row for row in study.ablations if row.study == name]
    baselines = {(row.task, row.seed): row for row in rows if row.variant == row.baseline}
    found = []
    for row in rows:
        if row.difference is not None and wanted(row):
            value, low, high = row.difference
            values = (-value, -high, -low) if flip else (value, low, high)
            pair = row, baselines.get((row.task, row.seed))
            learned = any(_beats_baseline(study, one) for one in pair)
            found.append(Evidence(words.task(row.task), *values, learned, row.seed))
    return found


def _merged(study: Results) -> list[Evidence]:
    """The uniform averages minus the pretrained model, paired on test rows."""
    found = []
    for row in study.comparisons:
        wanted = row.split == "test" and row.against == study.pretrained
        if row.model.startswith(AVERAGES) and wanted:
            pair = (study.in_distribution(model, row.task) for model in (row.model, row.against))
            learned = any(_beats_baseline(study, one) for one in pair)
            found.append(Evidence(words.task(row.task), row.difference, row.low, row.high, learned))
    return found


def _shifted(study: Results) -> list[Evidence]:
    """Mean shares of the experts' scores over the shifted cells, the same rows drawn."""
    found = []
    for row in study.leaderboard:
        if row.model.startswith(AVERAGES) and row.part == "ood" and row.share is not None:
            share, low, high = (figure - 1 for figure in row.share)
            learned = _experts_learned(study, row.tasks.split())
            found.append(Evidence(words.task(row.model.removeprefix("merged/")), share, low, high, learned))
    return found


def _halfway(study: Results) -> list[Evidence]:
    """The middle between two experts minus the mean of both, paired on test rows."""
    found = []
    for row in study.pairs:
        task, pair = row.task, (row.first, row.second)
        if task in pair and row.minus_mean is not None:
            what = f"{words.task(task)} ({' – '.join(map(words.task, pair))})"
            found.append(Evidence(what, *row.minus_mean, _experts_learned(study, [task])))
    return found


def _experts_learned(study: Results, tasks: Sequence[str]) -> bool:
    cells = (study.in_distribution(f"finetune/{task}", task) for task in tasks)
    return all(_beats_baseline(study, cell) for cell in cells)
