"""Are the digits of a caption right? For real digits, whose facts are `digits` and `motion`."""

import re
from typing import Any

from unival.record import NUMBERS

MOTIONS = {
    "left": "left", "right": "right", "up": "up", "down": "down",
    "grows": "grow", "growing": "grow", "shrinks": "shrink", "shrinking": "shrink",
}  # fmt: skip


def digit_share(text: str, facts: dict[str, Any]) -> float:
    """Share of digits that the caption names in their place, left to right; missing and extra ones count.

    A picture of `three five` called "a three and a nine" scores 1/2, called "a three" 1/2, called "a five" 0.
    """
    said = [word for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBERS]
    right = sum(a == b for a, b in zip(said, facts["digits"], strict=False))
    return right / max(len(said), len(facts["digits"]))


def check_digits(text: str, facts: dict[str, Any]) -> bool:
    """Whether a caption names exactly the digits in their order and, of a clip, the motion."""
    if digit_share(text, facts) < 1:
        return False
    if "motion" not in facts:
        return True
    words = re.findall(r"[a-z]+", text.lower())
    return {MOTIONS[word] for word in words if word in MOTIONS} == {facts["motion"]}
