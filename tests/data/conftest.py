from pathlib import Path
from typing import Any

import pytest

from unival.data.catalog import source_of
from unival.data.prepare import PrepareConfig, prepare

AMOUNTS = {
    "train": {"images": 300, "videos": 160, "sounds": 120},
    "val": {"images": 30, "videos": 20, "sounds": 20},
    "test": {"images": 160, "videos": 120, "sounds": 100},
    "shift": {"images": 30, "videos": 30, "sounds": 10},
}


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
