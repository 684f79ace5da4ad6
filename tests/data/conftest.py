import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unival.data.catalog import source_of
from unival.data.prepare import PrepareConfig, prepare

AMOUNTS = {
    "pretrain": {"images": 300, "videos": 160},
    "train": {"images": 300, "videos": 160, "sounds": 120},
    "val": {"images": 30, "videos": 20, "sounds": 20},
    "test": {"images": 160, "videos": 120, "sounds": 100},
    "shift": {"images": 30, "videos": 30, "sounds": 10},
}


NOISE = {"omitted": 0.25, "vague": 0.25, "filler": 0.5, "wrong": 0.1, "loose": 0.3}


def sizes(images: int, videos: int, sounds: int) -> dict[str, dict[str, int]]:
    """As many media in every split."""
    amounts = {"images": images, "videos": videos, "sounds": sounds}
    return {"pretrain": {**amounts, "sounds": 0}, **dict.fromkeys(("train", "val", "test", "shift"), amounts)}


def world_options(**changes: Any) -> dict[str, Any]:
    """Options of a small world."""
    return {
        "seed": 0,
        "size": "tiny",
        "sizes": {"tiny": AMOUNTS},
        "image_size": 48,
        "video_size": 40,
        "video_frames": 8,
        "questions": 3,
        "regions": 2,
        "noise": NOISE,
        **changes,
    }


@pytest.fixture(scope="session")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, prepared once."""
    out = tmp_path_factory.mktemp("world") / "world"
    config = PrepareConfig("world", "world", world_options(), 0.0)
    prepare(config, source_of(config), out)
    return out


@pytest.fixture
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside `tmp_path`, where that is read: nothing is written below what is read."""
    return tmp_path_factory.mktemp("beside")


class EndlessError(BaseException):
    """Not what a reader would take for a damaged file."""


@pytest.fixture
def soon() -> Iterator[None]:
    """The test takes no more than 20 seconds of processor time, and waits for nothing that never comes."""

    def stop(*_: object) -> None:
        raise EndlessError

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_PROF, 20)
    signal.alarm(600)  # other processes may have the machine
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
