"""Recall at k of a retrieval, query by query.

Q queries, N candidates.
"""

import numpy as np


def ranks(scores_QN: np.ndarray, relevant_QN: np.ndarray) -> np.ndarray:
    """Place of the best relevant candidate of each query, from 1, (Q,).

    Others with its score come first, so that a model which says the same of all finds nothing.

    Raises:
        ValueError: a query without any relevant candidate.
    """
    if not relevant_QN.any(axis=1).all():
        raise ValueError("a query has no relevant candidate")
    best_Q = np.where(relevant_QN, scores_QN, -np.inf).max(axis=1)
    return 1 + ((scores_QN >= best_Q[:, None]) & ~relevant_QN).sum(axis=1)


def chance(relevant_QN: np.ndarray, k: int) -> np.ndarray:
    """Recall at k of a random order, (Q,): without replacement, k draws of which one is relevant."""
    candidates, relevant_Q = relevant_QN.shape[1], relevant_QN.sum(axis=1)
    drawn_K = np.arange(min(k, candidates))
    missed_QK = (candidates - relevant_Q[:, None] - drawn_K) / (candidates - drawn_K)
    return np.asarray(1 - missed_QK.clip(min=0).prod(axis=1))
