"""How numbers and names are written."""

from collections.abc import Sequence
from typing import Any

METRICS = {
    "cider": "CIDEr",
    "vqa_accuracy": "VQA accuracy",
    "accuracy": "accuracy",
    "acc@0.5": "Acc@0.5",
    "acc@0.7": "Acc@0.7",
    "acc@0.9": "Acc@0.9",
    "iou": "mean IoU",
    "correct": "all facts correct",
    "exact": "equal to a reference",
    "rouge_l": "ROUGE-L",
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
}


def metric(name: str) -> str:
    """A metric's name in the field."""
    return METRICS.get(name, name)


def task(name: str) -> str:
    """A task's name (or that of a merge, a shift, a variant) as it is written in a text."""
    return " ".join({"qa": "QA", "vqa": "VQA"}.get(word, word) for word in name.split("_"))


def number(value: Any, digits: int = 3) -> str:
    """A figure, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def chance(p: float | None) -> str:
    """A p-value, below a thousandth as such; or a dash."""
    return "<0.001" if p is not None and p < 0.001 else number(p)


def signed(value: float) -> str:
    """A difference, its sign always written."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "−")  # + 0.0: no negative zero


def interval(low: Any, high: Any) -> str:
    """[low, high]"""
    return "–" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def percent(values: Sequence[float]) -> str:
    """A share with its interval, in percent: +3.2 % [+1.0, +5.4]."""
    # the sign of a limit that rounds to 0 says on which side of it the interval ends
    value, low, high = (f"{100 * value + 0.0:+.1f}".replace("-", "−") for value in values[:3])
    return f"{value} % [{low}, {high}]"


def share(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def change(values: Sequence[float] | None) -> str:
    """A difference with its interval."""
    if values is None:
        return "–"
    return f"{signed(values[0])} [{signed(values[1])}, {signed(values[2])}]"


def duration(seconds: Any) -> str:
    """Minutes and seconds."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text, the columns below each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
