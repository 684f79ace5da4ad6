"""CHAIR: how often captions name objects that are not there (Rohrbach et al. 2018)."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Chair(NamedTuple):
    """Hallucination of each caption; lower is better."""

    sentence_N: np.ndarray
    """CHAIR_s: 1 where the caption names an object that is not there, (N,). Its mean is the metric."""
    counts_N2: np.ndarray
    """Hallucinated and all object mentions, (N, 2). CHAIR_i is the ratio of their sums: `instance`."""


def chair(captions: Sequence[str], present: Sequence[set[str]], vocabulary: Mapping[str, str]) -> Chair:
    """Compare the objects that captions name with those that are there.

    Args:
        present: names of the objects of each image: its labels, and what its reference captions name.
        vocabulary: word or phrase -> the object it names (synonyms and plurals). The longest match counts, so
            that "hot dog" names no dog.
    """
    rows = []
    for caption, there in zip(captions, present, strict=True):
        named = mentioned(caption, vocabulary)
        rows.append((sum(name not in there for name in named), len(named)))
    counts_N2 = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return Chair((counts_N2[:, 0] > 0).astype(np.float64), counts_N2)


def mentioned(caption: str, vocabulary: Mapping[str, str]) -> list[str]:
    """The objects that a caption names, once for each mention."""
    pattern = _pattern(tuple(vocabulary))
    return [vocabulary[word] for word in pattern.findall(caption.lower())] if vocabulary else []


@lru_cache(maxsize=8)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    phrases = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<!\w)(" + "|".join(map(re.escape, phrases)) + r")(?!\w)")


def instance(sums: np.ndarray) -> np.ndarray:
    """CHAIR_i from summed counts (..., 2); 0 where nothing was named."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] > 0)
