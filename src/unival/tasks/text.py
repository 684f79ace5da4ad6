"""Text normalisation of prompts and targets (docs/reference.md 1.5)."""

import re
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LEADING = ",.!?*#:;~"


def normalise(text: str, max_words: int) -> str:
    """Lower case, no leading punctuation, no hyphens and slashes, single spaces, at most `max_words` words.

    Questions, expressions, hypotheses, and captions in pretraining. A single tab stays, as in the original.
    """
    text = text.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def normalise_caption(text: str, max_words: int) -> str:
    """`normalise` with CC3M's `<person>` read as a word."""
    return normalise(text.lower().replace("<person>", "person"), max_words)


def strip_punctuation(text: str, max_words: int | None = None) -> str:
    """Without ASCII punctuation, case kept, at most `max_words` words: captions in finetuning, and
    outputs."""
    return " ".join(text.translate(_PUNCTUATION).split()[:max_words])


def mentions(text: str, name: str) -> bool:
    """Whether `name` occurs in `text` as whole words."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def replace_mention(text: str, name: str, other: str) -> str:
    """The first mention of `name` replaced by `other`."""
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: other, text, count=1)
