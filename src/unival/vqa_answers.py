"""Answers to questions as the official VQA evaluation compares them (Antol et al. 2015; Goyal et al. 2017).

The rules are those of GT-Vision-Lab/VQA, vqaEval.py, with its oddities. Training answers (`soft_answers`) and
the metric (`unival.metrics.vqa`) follow the same ones, so that a training answer has the score it would get.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from unival.errors import UserError
from unival.record import Answer

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Neither the apostrophe nor the colon: contractions stay words, and 10:30 a time."""
_NUMBER_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = int(re.UNICODE)
"""The official code gives the flag in the place of the greatest number of replacements."""
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905


def _misspellings() -> dict[str, str]:
    """Each contraction with one of its apostrophes left out -> the contraction."""
    table = {}
    for word in _CONTRACTIONS:
        for place in (match.start() for match in re.finditer("'", word)):
            table[word[:place] + word[place + 1 :]] = word
    return {**table, "somebody'd": "somebodyd"}  # the official table has this one the wrong way round


_MISSPELLINGS = _misspellings()


def stripped(answer: str) -> str:
    """An answer as the evaluation reads it, before it asks whether all annotators agree."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=100_000)
def normalise(answer: str) -> str:
    """An answer as it is compared where annotators differ: no punctuation, no articles, numbers as digits.

    A sign goes where the answer has it beside a space, or a comma between digits; else it becomes a space. A
    period goes unless a digit follows.
    """
    answer = text = stripped(answer)
    comma = _NUMBER_COMMA.search(answer) is not None
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if beside_space or comma else " ")
    text = _PERIOD.sub("", text, count=_MAX_PERIODS)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_MISSPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def leave_one_out(prediction: str, given: Sequence[str]) -> float:
    """Mean over the annotators of min(1, how many of the others gave the prediction / 3).

    Where all annotators agree to the letter, answers are compared as they are.
    """
    prediction, given = stripped(prediction), [stripped(answer) for answer in given]
    if len(set(given)) > 1:
        prediction, given = normalise(prediction), [normalise(answer) for answer in given]
    return consensus(given.count(prediction), len(given))


def consensus(count: int, annotators: int = 10) -> float:
    """Soft score of an answer that `count` of the annotators gave: 0, .3, .6, .9, 1 of ten."""
    with_self_left_out = count * min(1.0, (count - 1) / 3) if count else 0.0
    return (with_self_left_out + (annotators - count) * min(1.0, count / 3)) / annotators


def soft_answers(given: Sequence[str]) -> tuple[Answer, ...]:
    """The distinct answers, most frequent first, each weighted by the score of giving it.

    Answers are normalised where the annotators differ. A blank one counts as an annotator that gave none of
    the others; one that normalises to nothing ("a" among letters of a multiple choice) stays as it was
    written. A single answer has weight 1, although nobody else gave it.

    Raises:
        UserError: there is no answer, or all are blank.
    """
    given = [stripped(answer) for answer in given]
    differ = len(set(given)) > 1
    compared = [normalise(answer) if differ else answer for answer in given]
    written = {key: answer for key, answer in zip(compared, given, strict=True) if answer}
    if not written:
        raise UserError("all answers are blank" if given else "no answers")
    weights = {
        key: consensus(count, len(given)) if len(given) > 1 else 1.0
        for key, count in Counter(compared).most_common()
    }
    return tuple(
        Answer(key or written[key], round(weight, 4))
        for key, weight in weights.items()
        if weight > 0 and key in written
    )
