"""Soft answers, as ten annotators would give them: mostly the usual word, at times a synonym or a slip."""

from collections import Counter
from random import Random

from unival.data.world.concepts import COLORS, DIRECTIONS, NUMBERS, SHAPES, SIZES, SYNONYMS, pick
from unival.record import Answer

ANNOTATORS = 10
SYNONYM_SHARE = 0.06
SLIP_SHARE = 0.05
SLIPS: tuple[tuple[str, ...], ...] = (
    tuple(COLORS),
    SHAPES,
    NUMBERS,
    SIZES,
    DIRECTIONS,
    ("yes", "no"),
    ("rising", "falling"),
    ("high", "low"),
)
"""A slip is another word of the same set."""


def soft_answers(rng: Random, truth: str) -> tuple[Answer, ...]:
    """Distinct answers of ten annotators, the truth first, weighted as VQA does.

    The weight is the mean over leave-one-out subsets of min(1, count / 3): 0.3, 0.6, 0.9, 1 for one, two,
    three, four and more annotators (VQA evaluation; reference 3.3).
    """
    others = next((group for group in SLIPS if truth in group), ())
    votes: Counter[str] = Counter()
    for _ in range(ANNOTATORS):
        chance = rng.random()
        if chance < SYNONYM_SHARE and truth in SYNONYMS:
            votes[SYNONYMS[truth]] += 1
        elif chance < SYNONYM_SHARE + SLIP_SHARE and others:
            votes[pick(rng, others)] += 1
        else:
            votes[truth] += 1
    votes[truth] = max(votes[truth], 4)
    ranked = sorted(votes, key=lambda word: (word != truth, -votes[word], word))
    return tuple(Answer(word, min(1.0, round(0.3 * votes[word], 1))) for word in ranked)
