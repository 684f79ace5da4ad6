"""CIDEr-D (Vedantam et al. 2015) as pycocoevalcap computes it; a test compares.

Its CiderScorer is not called: what depends on the references alone is kept here between calls, for a study
scores many models on the same rows.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

ORDERS = 4
SIGMA = 6.0
Ngram = tuple[str, ...]


class _Vector(NamedTuple):
    """A text as tf-idf weights of its n-grams."""

    weights: dict[Ngram, float]
    norm_4: np.ndarray
    """Length of the weights' vector by order, (ORDERS,)."""
    length: int
    """Number of bigrams: what the length penalty compares."""


class CiderReferences:
    """The references of all rows, tokenised: their vectors and the document frequencies of n-grams."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        counts = [[_ngrams(text) for text in row] for row in references]
        frequency: Counter[Ngram] = Counter()
        for row in counts:
            frequency.update(set().union(*row))
        self._idf = {
            ngram: float(np.log(len(counts)) - np.log(documents)) for ngram, documents in frequency.items()
        }
        self._unseen_idf = float(np.log(max(len(counts), 1)))
        self._rows = [[self._vector(text) for text in row] for row in counts]

    def scores(self, candidates: Sequence[str]) -> np.ndarray:
        """CIDEr-D of one tokenised candidate per row, float64 (rows,)."""
        pairs = zip(candidates, self._rows, strict=True)
        return np.array([self._score(self._vector(_ngrams(text)), row) for text, row in pairs])

    def _vector(self, counts: Counter[Ngram]) -> _Vector:
        weights = {ngram: count * self._idf.get(ngram, self._unseen_idf) for ngram, count in counts.items()}
        squares = [0.0] * ORDERS
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
        length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
        return _Vector(weights, np.sqrt(squares), length)

    def _score(self, candidate: _Vector, references: list[_Vector]) -> float:
        total = 0.0
        for reference in references:
            shared = [0.0] * ORDERS
            theirs = reference.weights
            for ngram, weight in candidate.weights.items():
                other = theirs.get(ngram)
                if other is not None:
                    shared[len(ngram) - 1] += min(weight, other) * other
            norm_4 = candidate.norm_4 * reference.norm_4
            cosine_4 = np.divide(shared, norm_4, out=np.zeros(ORDERS), where=norm_4 > 0)
            penalty = np.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
            total += float(cosine_4.mean() * penalty)
        return 10.0 * total / len(references)


@lru_cache(maxsize=16)
def prepared(references: tuple[tuple[str, ...], ...]) -> CiderReferences:
    """The references of a data set, made once."""
    return CiderReferences(references)


def _ngrams(text: str) -> Counter[Ngram]:
    words = text.split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )
