"""VQA accuracy (Antol et al. 2015; Goyal et al. 2017): answer normalisation and leave-one-out soft accuracy.

The rules are those of the official evaluation (visualqa.org), with its oddities: periods not followed by a
digit go; other punctuation goes where a space is beside it anywhere in the answer, else it becomes a space.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ";:/'[]\"()=+\\_><@`,?"
_NUMBER_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
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


@lru_cache(maxsize=100_000)
def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it: no punctuation and articles, numbers as digits."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    text = answer
    comma = _NUMBER_COMMA.search(answer) is not None
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in answer or f" {sign}" in answer
        text = text.replace(sign, "" if beside_space or comma else " ")
    text = _PERIOD.sub("", text)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_MISSPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def leave_one_out(prediction: str, humans: Sequence[str]) -> float:
    """Mean over the annotators of min(1, how many of the others gave the prediction / 3).

    Where all annotators agree to the letter, answers are compared as they are.
    """
    if len(set(humans)) > 1:
        prediction, humans = normalise(prediction), [normalise(answer) for answer in humans]
    else:
        prediction = prediction.replace("\n", " ").replace("\t", " ").strip()
    return consensus(sum(answer == prediction for answer in humans), len(humans))


def consensus(count: int, annotators: int = 10) -> float:
    """Soft score of an answer that `count` of the annotators gave: 0, .3, .6, .9, 1 of ten."""
    with_self_left_out = count * min(1.0, (count - 1) / 3) if count else 0.0
    return (with_self_left_out + (annotators - count) * min(1.0, count / 3)) / annotators


def accuracy(prediction: str, weights: Mapping[str, float], humans: Sequence[str] = ()) -> float:
    """The official score where the annotators' answers are known one by one, else `soft_score`."""
    return leave_one_out(prediction, humans) if len(humans) > 1 else soft_score(prediction, weights)


def annotators(extra: Mapping[str, str]) -> list[str]:
    """The annotators' answers that the readers of VQA sets keep as JSON in `extra.answers`, else none."""
    try:
        found = json.loads(extra.get("answers", "[]"))
    except ValueError:
        return []
    return found if isinstance(found, list) and all(isinstance(answer, str) for answer in found) else []


def soft_score(prediction: str, weights: Mapping[str, float]) -> float:
    """The weight of the answer that equals the prediction after normalisation, else 0."""
    exact = weights.get(prediction)
    if exact is not None:
        return float(exact)
    wanted = normalise(prediction)
    return float(
        max((weight for answer, weight in weights.items() if normalise(answer) == wanted), default=0.0)
    )
