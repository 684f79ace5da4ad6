"""What is claimed: the form of `conf/claims.yaml`. What comes out of it is in `unival.report.verdicts`."""

from dataclasses import dataclass
from string import Formatter
from typing import Literal

from unival.errors import nearest

BASELINE = "baseline"
"""As an arm: what needs no medium, the better of the blind baseline and the majority answer."""
PRETRAINED = "pretrained"
"""As a word in braces: the model that finetuning starts from."""
SHIFTED = "shifted"
"""As a split: every one that is out of distribution."""


@dataclass(frozen=True)
class Claim:
    """A finding of the paper, and the comparison that tests it."""

    statement: str
    paper: str
    """Where it stands there, with its figures."""
    better: list[str]
    """Models whose mean the claim favours."""
    than: list[str]
    """Models whose mean they are compared with, or BASELINE."""
    over: list[dict[str, str]]
    """The comparisons: for each the words that stand in braces in the names, `task` among them."""
    refuted_by: str
    """What would speak against it."""
    split: Literal["test", "shifted"] = "test"
    measure: Literal["difference", "wins"] = "difference"
    """Of each comparison the difference, or whether the better arm is ahead: their share minus one half."""
    margin: float = 0.0
    """A loss below this share of the score counts as none."""
    effect: float | None = None
    """The paper's own, on the same scale; None: it gives no figures."""

    def __post_init__(self) -> None:
        for arm in ("better", "than", "over"):
            if not getattr(self, arm):
                raise ValueError(f"{arm} is empty: name at least one")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin is {self.margin}: a share of the score, from 0 to 1")
        if self.margin and self.measure == "wins":
            raise ValueError("margin: wins have none")
        for words in self.over:
            if "task" not in words:
                raise ValueError(f"over: {words} names no task")
            known = {*words, PRETRAINED}
            for name in (*self.better, *self.than):
                for _, word, _, _ in Formatter().parse(name):
                    if word is not None and word not in known:
                        raise ValueError(f"'{name}': over: {words} has no '{word}': {nearest(word, known)}")

    def arm(self, names: list[str], words: dict[str, str], pretrained: str) -> list[str]:
        """The names of an arm with the words of one comparison in them."""
        return [name.format(**words, **{PRETRAINED: pretrained}) for name in names]
