"""VQA accuracy: the official leave-one-out score, or the soft score where only answers' weights are known.

The rules of comparison are in `unival.vqa_answers`.
"""

import json
from collections.abc import Mapping, Sequence

from unival.vqa_answers import leave_one_out, normalise


def accuracy(prediction: str, weights: Mapping[str, float], humans: Sequence[str] = ()) -> float:
    """The official score where the annotators' answers are known one by one, else `soft_score`."""
    return leave_one_out(prediction, humans) if len(humans) > 1 else soft_score(prediction, weights)


def annotators(extra: Mapping[str, str]) -> list[str]:
    """The annotators' answers that the readers of VQA sets keep as JSON in `extra.answers`, else none."""
    try:
        given = json.loads(extra.get("answers", "[]"))
    except (ValueError, RecursionError):
        return []
    return given if isinstance(given, list) and all(isinstance(answer, str) for answer in given) else []


def soft_score(prediction: str, weights: Mapping[str, float]) -> float:
    """The weight of the answer that equals the prediction after normalisation, else 0."""
    exact = weights.get(prediction)
    if exact is not None:
        return float(exact)
    wanted = normalise(prediction)
    return float(
        max((weight for answer, weight in weights.items() if normalise(answer) == wanted), default=0.0)
    )
