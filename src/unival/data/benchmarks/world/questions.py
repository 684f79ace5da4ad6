"""Texts about any medium: templates in a phrasing, questions with the soft answers of ten annotators."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unival.data.benchmarks.world.concepts import (
    ALLOWED_PAIRS,
    COLORS,
    DIRECTIONS,
    SHAPES,
    SIZES,
    SYNONYMS,
    Pairs,
    mend_articles,
    pick,
    shuffled,
)
from unival.record import NUMBERS, Answer
from unival.vqa_answers import consensus

Templates = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Phrasing -> form -> templates. Those of "unseen" (`ood-phrasing`) and "web" (`pretrain`, which lacks some
forms) occur in no other split."""
ANNOTATORS = 10
SYNONYM_SHARE = 0.06
SLIP_SHARE = 0.05
SLIPS: tuple[tuple[str, ...], ...] = (
    tuple(COLORS), SHAPES, NUMBERS, SIZES, DIRECTIONS, ("yes", "no"), ("rising", "falling"), ("high", "low"),
)  # fmt: skip
"""A slip is another word of the same set."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its annotators' answers."""

    form: str
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks of a medium."""

    rng: Random
    templates: Mapping[str, tuple[str, ...]]
    """Of its phrasing."""
    pairs: Pairs = ALLOWED_PAIRS
    """What it may name that is not there."""

    def say(self, form: str, *parts: str) -> str:
        """One of the form's templates, filled."""
        return mend_articles(pick(self.rng, self.templates[form]).format(*parts))

    def ask(self, form: str, answer: str, *parts: str) -> Question | None:
        """A question of the form with its annotators' answers; None where the phrasing lacks the form."""
        if form not in self.templates:
            return None
        return Question(form, self.say(form, *parts), soft_answers(self.rng, answer))


Asker = Callable[[Voice, Any], Question | None]
"""Asks a question of one form, where the medium allows it."""


def ask(voice: Voice, medium: Any, askers: Sequence[Asker], count: int) -> list[Question]:
    """Up to `count` questions of different forms; an asker that occurs more often comes earlier."""
    questions: dict[Asker, Question] = {}
    for asker in shuffled(voice.rng, askers):
        if asker not in questions and (question := asker(voice, medium)) is not None:
            questions[asker] = question
        if len(questions) == count:
            break
    return list(questions.values())


def in_turn(rng: Random, templates: Sequence[str]) -> Iterator[str]:
    """The templates over and over, each time in another order."""
    while True:
        yield from reversed(shuffled(rng, templates))


def different(texts: Iterable[str], count: int) -> tuple[str, ...]:
    """The first `count` different texts; no more are drawn."""
    unique: dict[str, None] = {}
    for text in texts:
        unique.setdefault(text)
        if len(unique) == count:
            break
    return tuple(unique)


def slip(rng: Random, truth: str) -> str:
    """Another word of the same set, where the answer has one."""
    others = [word for group in SLIPS if truth in group for word in group if word != truth]
    return pick(rng, others) if others else truth


def soft_answers(rng: Random, truth: str) -> tuple[Answer, ...]:
    """Distinct answers of ten annotators, the truth first, weighted as VQA does.

    Mostly the usual word, at times a synonym or a slip. What follows is `vqa_answers.consensus`: 0.3, 0.6,
    0.9, 1 for one, two, three, four and more annotators.
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
    return tuple(Answer(word, round(consensus(votes[word], ANNOTATORS), 4)) for word in ranked)
