"""Ranks and chance of a retrieval."""

import math

import numpy as np
import pytest

from unival.metrics.retrieval import chance, ranks


def test_the_best_relevant_candidate_counts_and_ties_count_against_it() -> None:
    scores = np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 5.0, 5.0, 9.0]])
    relevant = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0]], dtype=bool)
    assert ranks(scores, relevant).tolist() == [2, 4, 3]


def test_a_query_without_an_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="no relevant"):
        ranks(np.zeros((2, 3)), np.array([[1, 0, 0], [0, 0, 0]], dtype=bool))


def test_chance_is_the_share_of_orders_that_begin_with_a_relevant_one() -> None:
    """1 - C(N - R, k) / C(N, k), Karpathy's 1k in one direction among it."""
    for candidates, relevant, depth in ((1000, 1, 10), (5000, 5, 10), (7, 3, 5), (4, 2, 10)):
        row = np.arange(candidates) < relevant
        drawn = min(depth, candidates)
        expected = 1 - math.comb(candidates - relevant, drawn) / math.comb(candidates, drawn)
        assert chance(row[None], depth) == pytest.approx([expected])
