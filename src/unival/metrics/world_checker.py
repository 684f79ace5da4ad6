"""Is a caption of the embedded benchmark true and complete?

A reader of its small language rather than of its templates: `check_caption` reads mentions (number, size,
colour, kind), actions and their order, or sound events from the words, in any sentence frame, and compares
them with the facts: all objects, attributes and counts right, and nothing false. A word outside the language
makes a caption wrong: nothing vouches for it. Punctuation is ignored, since training targets have none.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from unival.metrics.digit_checker import check_digits
from unival.record import NUMBERS

COLORS = ("red", "blue", "green", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")
PLURALS = {f"{shape}s": shape for shape in SHAPES}
RELATIONS = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}
"""Axis of the centre and sign of (first - second)."""
ACTIONS = {
    "rises": "up", "rising": "up", "falls": "down", "falling": "down",
    "grows": "grow", "growing": "grow", "shrinks": "shrink", "shrinking": "shrink",
    "appears": "appear", "appearing": "appear", "vanishes": "vanish", "vanishing": "vanish",
}  # fmt: skip
MOVES = ("moves", "moving", "goes", "going")
FILLERS = frozenset(
    ("a", "an", "the", "is", "are", "there", "image", "picture", "clip", "sound", "recording", "drawing",
     "of", "with", "shows", "contains", "and", "to", "this", "we", "you", "see", "seen", "hear", "heard",
     "can", "be", "being", "here", "that", "in", "steady", "burst")
)  # fmt: skip


class _UnreadableError(ValueError):
    """The words are not in the language."""


def check_caption(text: str, facts: str | dict[str, Any]) -> bool:
    """Whether a caption names everything in the facts and nothing else.

    Args:
        facts: `Record.facts` of a row of the embedded benchmark: JSON with `medium` image, video or audio;
            with `digits` of a row of the benchmark of real digits.
    """
    known: dict[str, Any] = json.loads(facts) if isinstance(facts, str) else facts
    if "digits" in known:
        return check_digits(text, known)
    words = re.findall(r"[a-z]+", text.lower())
    try:
        return bool(words) and _READERS[known["medium"]](words, known)
    except _UnreadableError:
        return False


@dataclass
class _Mention:
    """`two small red circles`."""

    count: int
    size: str
    color: str
    kind: str


def _read_mention(words: list[str], at: int) -> tuple[_Mention, int] | None:
    """A mention that starts at a word (after its article), and where it ends."""
    count, position = 1, at
    if words[position] in NUMBERS:
        count, position = NUMBERS.index(words[position]), position + 1
    size = ""
    if position < len(words) and words[position] in ("small", "large"):
        size, position = words[position], position + 1
    if position + 1 >= len(words) or words[position] not in COLORS:
        return None
    color, kind = words[position], words[position + 1]
    position += 2
    if kind == "digit":
        if position >= len(words) or words[position] not in NUMBERS or count != 1:
            return None
        return _Mention(1, size, color, words[position]), position + 1
    plural = kind in PLURALS
    kind = PLURALS.get(kind, kind)
    if kind not in SHAPES or plural != (count > 1):
        return None
    return _Mention(count, size, color, kind), position


# --- images -----------------------------------------------------------------------------------------------


def _image(words: list[str], facts: dict[str, Any]) -> bool:
    mentions, relations, cloths, total = _read_image(words)
    things = facts["things"]
    said = Counter[tuple[str, str]]()
    for mention in mentions:
        said[mention.color, mention.kind] += mention.count
    if said != Counter((thing["color"], thing["kind"]) for thing in things):
        return False
    if cloths != (facts["cloth"] is not None) or total not in (None, len(things)):
        return False
    sizes = Counter((thing["color"], thing["kind"], thing["size"]) for thing in things)
    for mention in mentions:
        if mention.size and sizes[mention.color, mention.kind, mention.size] < mention.count:
            return False
    return all(_related(things, *relation) for relation in relations)


_Relation = tuple[_Mention, str, _Mention]


def _read_image(words: list[str]) -> tuple[list[_Mention], list[_Relation], int, int | None]:
    """Mentions, relations between neighbours, number of cloths, and a stated total."""
    mentions: list[_Mention] = []
    relations: list[_Relation] = []
    pending, cloths, total, at = "", 0, None, 0
    while at < len(words):
        if words[at : at + 2] in (["gray", "cloth"], ["grey", "cloth"]):
            cloths, at = cloths + 1, at + 2
        elif words[at] in NUMBERS and words[at + 1 : at + 2] in (["objects"], ["object"]):
            total, at = NUMBERS.index(words[at]), at + 2
        elif words[at] in RELATIONS and mentions and not pending:
            pending, at = words[at], at + 1
        elif (read := _read_mention(words, at)) is not None:
            mention, at = read
            if pending:
                relations.append((mentions[-1], pending, mention))
                pending = ""
            mentions.append(mention)
        elif words[at] in FILLERS:
            at += 1
        else:
            raise _UnreadableError(words[at])
    if pending:
        raise _UnreadableError(pending)
    return mentions, relations, cloths, total


def _related(things: list[dict[str, Any]], first: _Mention, relation: str, second: _Mention) -> bool:
    """Whether some pair of objects that fits the mentions stands in the relation."""
    axis, sign = RELATIONS[relation]
    for a, b in permutations(things, 2):
        fits = all(
            (m.color, m.kind) == (t["color"], t["kind"]) and m.size in ("", t["size"])
            for m, t in ((first, a), (second, b))
        )
        if fits and sign * (_center(a, axis) - _center(b, axis)) > 0:
            return True
    return False


def _center(thing: dict[str, Any], axis: int) -> float:
    return (thing["box"][axis] + thing["box"][axis + 2]) / 2


# --- videos -----------------------------------------------------------------------------------------------


def _video(words: list[str], facts: dict[str, Any]) -> bool:
    clauses, link, link_first = _read_clauses(words)
    said = [(mention.color, mention.kind, action) for mention, action in clauses]
    actors = sorted(facts["actors"], key=lambda actor: actor["order"])
    true = [(actor["color"], actor["kind"], actor["action"]) for actor in actors]
    if Counter(said) != Counter(true):
        return False
    if len(true) < 2:
        return link == ""
    if not facts["ordered"]:
        return link in ("", "while")
    if link not in ("then", "before", "after"):
        return False
    # `b after a` and `after a b` say that a is first; `before a b` that b is
    first = said[0] if (link == "after") == link_first else said[1]
    return first == true[0]


def _read_clauses(words: list[str]) -> tuple[list[tuple[_Mention, str]], str, bool]:
    """(object, action) pairs, the word that links them, and whether it stands in front of both."""
    clauses: list[tuple[_Mention, str]] = []
    link, link_first, at = "", False, 0
    waiting: _Mention | None = None
    while at < len(words):
        word = words[at]
        if word in ("then", "before", "after", "while"):
            if link:
                raise _UnreadableError(word)
            link, link_first, at = word, not clauses, at + 1
        elif word == "first" and at == 0:
            at += 1
        elif waiting is not None and (action := _read_action(words, at)) is not None:
            clauses.append((waiting, action[0]))
            waiting, at = None, action[1]
        elif waiting is None and (read := _read_mention(words, at)) is not None:
            waiting, at = read
            if waiting.count != 1 or waiting.size:
                raise _UnreadableError(word)
        elif word in FILLERS:
            at += 1
        else:
            raise _UnreadableError(word)
    if waiting is not None:
        raise _UnreadableError(waiting.kind)
    return clauses, link, link_first


def _read_action(words: list[str], at: int) -> tuple[str, int] | None:
    if words[at] in ACTIONS:
        return ACTIONS[words[at]], at + 1
    after = words[at + 1] if at + 1 < len(words) else ""
    if words[at] in MOVES and after in ("left", "right", "up", "down"):
        return after, at + 2
    if words[at] in ("stays", "staying") and after == "still":
        return "still", at + 2
    return None


# --- sounds -----------------------------------------------------------------------------------------------


def _audio(words: list[str], facts: dict[str, Any]) -> bool:
    events, link = _read_events(words)
    true = [
        (event["kind"], event["pitch"], event["direction"], event["count"], tuple(event["digits"]))
        for event in facts["events"]
    ]
    if link == "after":
        events.reverse()
    return events == true and (len(true) < 2) == (link == "")


_Event = tuple[str, str, str, int, tuple[str, ...]]


def _read_events(words: list[str]) -> tuple[list[_Event], str]:
    """Events in the order of the words, and the word that links two."""
    parts: list[list[str]] = [[]]
    link = ""
    for index, word in enumerate(words):
        if word in ("then", "before", "after", "followed"):
            if link or not parts[0]:
                raise _UnreadableError(word)
            link = word
            parts.append([])
        elif not (word == "first" and index == 0) and not (word == "by" and link == "followed"):
            parts[-1].append(word)
    return [_read_event(part) for part in parts], link


_NOUNS = {
    "tone": "tone", "sweep": "sweep", "beeps": "beeps", "noise": "noise",
    "dialed": "dial", "dialing": "dial", "digit": "dial", "digits": "dial", "phone": "dial",
    "hissing": "noise",
}  # fmt: skip


def _read_event(words: list[str]) -> _Event:
    """One event from its words in any order: nouns name its kind, the rest its attributes."""
    digits = tuple(word for word in words if word in NUMBERS and not _counts(words))
    counts = [NUMBERS.index(word) for word in words if word in NUMBERS and _counts(words)]
    pitches = [word for word in words if word in ("high", "low")]
    directions = [word for word in words if word in ("rising", "falling")]
    kinds = {_NOUNS[word] for word in words if word in _NOUNS}
    known = {*NUMBERS, *_NOUNS, *FILLERS, "high", "low", "rising", "falling"}
    if len(kinds) != 1 or max(len(counts), len(pitches), len(directions)) > 1 or not known.issuperset(words):
        raise _UnreadableError(" ".join(words))
    kind = kinds.pop()
    if kind == "tone" and directions:
        kind = "sweep"  # a rising tone is a sweep
    return kind, *(pitches or [""])[:1], *(directions or [""])[:1], *(counts or [0])[:1], digits  # type: ignore[return-value]


def _counts(words: list[str]) -> bool:
    """Whether number words are counts (of beeps) rather than digits."""
    return "beeps" in words


_READERS: dict[str, Callable[[list[str], dict[str, Any]], bool]] = {
    "image": _image,
    "video": _video,
    "audio": _audio,
}
