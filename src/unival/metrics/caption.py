"""Caption metrics without Java: CIDEr-D, and ROUGE-L and BLEU of pycocoevalcap, on text tokenised in Python.

With the tokens of Stanford's PTBTokenizer the same functions give the official numbers (`java.py`), under
other names (`cider_ptb`): two tokenisers never share a metric name. Papers print values times 100.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from unival.metrics.cider import prepared
from unival.metrics.tokenise import tokenise

ORDERS = 4
Tokenise = Callable[[str], str]


def row_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """CIDEr and ROUGE-L of every row, float64 (rows,). CIDEr weighs n-grams by rarity in `references`."""
    return {"cider": cider(candidates, references), "rouge_l": rouge_l(candidates, references)}


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokenise = tokenise
) -> np.ndarray:
    """CIDEr-D of every row (n up to 4, sigma 6, times 10), float64 (rows,)."""
    tokenised = tuple(tuple(tokens(reference) for reference in row) for row in references)
    return prepared(tokenised).scores([tokens(candidate) for candidate in candidates])


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokenise = tokenise
) -> np.ndarray:
    """ROUGE-L (beta 1.2, best precision and recall over the references) of every row, float64 (rows,)."""
    return np.array(
        [
            _rouge(tokens(candidate), tuple(tokens(reference) for reference in row))
            for candidate, row in zip(candidates, references, strict=True)
        ]
    )


@lru_cache(maxsize=200_000)
def _rouge(candidate: str, references: tuple[str, ...]) -> float:
    from pycocoevalcap.rouge.rouge import Rouge

    return float(Rouge().calc_score([candidate], list(references)))


def bleu_statistics(
    candidates: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokenise = tokenise
) -> np.ndarray:
    """What BLEU sums over rows, float64 (rows, 10): matches and n-grams of orders 1..4, two lengths."""
    rows = [
        _bleu_row(tokens(candidate), tuple(tokens(reference) for reference in row))
        for candidate, row in zip(candidates, references, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 2 * ORDERS + 2)


@lru_cache(maxsize=200_000)
def _bleu_row(candidate: str, references: tuple[str, ...]) -> tuple[float, ...]:
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

    cooked = cook_test(candidate, cook_refs(references), eff="closest")
    return (*cooked["correct"], *cooked["guess"], cooked["testlen"], cooked["reflen"])


def bleu_of(order: int) -> Callable[[np.ndarray], np.ndarray]:
    """Corpus BLEU of an order as a function of summed statistics (..., 10); closest reference length."""

    def bleu(sums: np.ndarray) -> np.ndarray:
        correct, guess = sums[..., :order], sums[..., ORDERS : ORDERS + order]
        precision = np.exp(np.log((correct + 1e-15) / (guess + 1e-9)).mean(axis=-1))
        ratio = (sums[..., -2] + 1e-15) / (sums[..., -1] + 1e-9)
        return precision * np.where(ratio < 1, np.exp(1 - 1 / np.maximum(ratio, 1e-15)), 1.0)

    return bleu
