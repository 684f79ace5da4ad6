"""A tokeniser for caption metrics in the manner of the Penn Treebank, in Python.

The metrics' own is Stanford's PTBTokenizer (Java; `java.ptb_tokenise`). This one follows its rules where they
matter for captions: lower case, clitics split off, punctuation dropped, numbers, hyphenated words and
abbreviations kept whole. Metrics computed with it have names without `_ptb`.
"""

import re
from functools import lru_cache

_DROPPED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", ";"])
"""Tokens that COCO's evaluation drops."""
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}
"""COCO's list of dropped tokens has these names in upper case, so that they are kept."""
_ABBREVIATIONS = frozenset(
    ("mr.", "mrs.", "ms.", "dr.", "st.", "jr.", "sr.", "vs.", "etc.", "no.", "mt.", "ft.", "ave.", "blvd.",
     "rd.", "inc.", "co.", "corp.", "ltd.", "ky.")
)  # fmt: skip
_SPLIT_WORDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "lemme": "lem me",
    "gimme": "gim me",
    "dunno": "du n no",
    "'tis": "'t is",
    "'twas": "'t was",
}
_TOKEN = re.compile(
    r"""
      \.{2,} | -{2,}                                       # dots and dashes
    | (?:[a-z]\.){2,}(?:[a-z]\b)?                          # u.s.  d.v.d
    | [$£€]
    | \d+(?:[.,:/]\d+)*(?![^\W_])(?:-\w+)*                # 1,000  3.5  10:30  1/2
    | n't\b | '(?:s|m|d|re|ve|ll)\b                       # clitics
    | '(?:n'|tis\b|twas\b)
    | \w+?(?=n't\b)
    | \w+(?:['-]\w+)*?(?='(?:s|m|d|re|ve|ll)\b)
    | \w+(?:[-'/.](?=\w)\w+)*\.?                         # words; a final dot stays with abbreviations only
    | \S
    """,
    re.VERBOSE,
)


_INITIALS = re.compile(r"(?:[a-z]\.){2,}")


@lru_cache(maxsize=200_000)
def tokenise(text: str) -> str:
    """Tokens of a caption without punctuation, joined by spaces."""
    text = text.lower().replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    kept = []
    for match in _TOKEN.finditer(text):
        token = _without_full_stop(match[0], last=match.end() == len(text.rstrip()))
        if token not in _DROPPED and set(token) != {"."}:
            kept.append(_SPLIT_WORDS.get(token, _BRACKETS.get(token, token)))
    return " ".join(kept)


def _without_full_stop(token: str, last: bool) -> str:
    """The token without the dot that ends a sentence; abbreviations and initials keep theirs."""
    if not token.endswith(".") or token in _ABBREVIATIONS or _INITIALS.fullmatch(token):
        return token
    initial = len(token) == 2 and token != "i." and not last
    return token if initial else token.rstrip(".") or token
