"""Captions of real digits against their facts."""

import pytest

from unival.data.benchmarks.digits.text import MOVES, image_captions, video_captions
from unival.data.sources.digit_sets import NUMBERS, spoken_captions
from unival.metrics.digit_checker import digit_share
from unival.metrics.world_checker import check_caption


@pytest.mark.parametrize("word", NUMBERS)
def test_every_reference_is_right(word: str) -> None:
    for digits in ((word,), (word, "three"), ("nine", word, word)):
        facts = {"medium": "image", "digits": list(digits)}
        assert all(check_caption(text, facts) for text in image_captions(digits))
    assert all(check_caption(text, {"medium": "audio", "digits": [word]}) for text in spoken_captions(word))
    for motion in MOVES:
        facts = {"medium": "video", "digits": [word], "motion": motion}
        assert all(check_caption(text, facts) for text in video_captions(word, motion))
        others = [name for name in MOVES if name != motion]
        assert not any(check_caption(text, facts) for name in others for text in video_captions(word, name))


def test_digits_count_in_their_place() -> None:
    facts = {"digits": ["three", "five"]}
    shares = {
        "a three and a five": 1.0,
        "a three and a nine": 0.5,
        "a three": 0.5,
        "a five and a three": 0.0,
        "a three, a five and a one": 2 / 3,
        "": 0.0,
    }
    assert {text: digit_share(text, facts) for text in shares} == pytest.approx(shares)
