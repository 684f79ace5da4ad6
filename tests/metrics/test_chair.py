"""CHAIR on a worked example."""

import numpy as np

from unival.metrics.chair import chair, instance

WORDS = {"dog": "dog", "dogs": "dog", "puppy": "dog", "cat": "cat", "hot dog": "hot dog", "table": "table"}


def test_hallucinated_objects_are_counted():
    captions = ["A puppy on a table", "two dogs and a cat", "a hot dog", "nothing here"]
    found = chair(captions, [{"dog", "table"}, {"dog"}, {"hot dog"}, set()], WORDS)
    np.testing.assert_array_equal(found.sentence_N, [0, 1, 0, 0])
    np.testing.assert_array_equal(found.counts_N2, [[0, 2], [1, 2], [0, 1], [0, 0]])
    assert instance(found.counts_N2.sum(0)) == 0.2
    assert instance(np.zeros(2)) == 0.0
