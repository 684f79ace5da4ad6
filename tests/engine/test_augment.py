"""Random views of training media: boxes follow their crops, draws are reproducible, evaluation has none."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from unival.engine.batches.augment import (
    OPERATIONS,
    AugmentConfig,
    image_window,
    shown_in,
    view_image,
    view_video,
)
from unival.engine.batches.collate import Collator
from unival.engine.batches.mixture import Mixture
from unival.engine.batches.sampler import Sampler
from unival.engine.interruption import Ending
from unival.errors import UserError
from unival.record import Record

from . import standins
from .test_train import run

PLAIN = AugmentConfig(operations=0)


def scene(size, box):
    """Black, with the box white."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    return pixels


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (640, 120), (64, 64)])
def test_the_box_stays_on_its_object(size):
    rng = np.random.default_rng(3)
    for _ in range(20):
        corner = rng.integers(0, np.array(size) * 3 // 4)
        box = (*corner.tolist(), *(corner + np.array(size) // 4).tolist())
        window = image_window(size, 96, PLAIN, rng, box)
        assert 0 <= window[0] < window[2] <= size[0] + 1e-9 and 0 <= window[1] < window[3] <= size[1] + 1e-9
        shown = view_image(scene(size, box), 96, PLAIN, rng, window)[:, :, 0] > 127
        moved = np.array(shown_in(Record(id="a", box=box), size, window).box) / np.array(size * 2) * 96
        expected = np.zeros((96, 96), bool)
        x0, y0, x1, y1 = np.round(moved).astype(int)
        expected[y0:y1, x0:x1] = True
        # rounding to whole pixels may cost an edge of one pixel on each side
        assert (shown != expected).sum() <= 2 * (x1 - x0 + y1 - y0) + 4


def test_square_images_are_cropped_as_the_reference_says():
    rng = np.random.default_rng(0)
    sides = [np.subtract(*image_window((384, 384), 384, AugmentConfig(), rng)[2::-2]) for _ in range(400)]
    # shorter side of 384 to 480, of which 384 stay
    assert 384 * 384 / 480 <= min(sides) < 312 and 378 < max(sides) <= 384


def test_all_frames_have_the_same_view_and_size():
    frames = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), dtype=np.uint8).repeat(5, 0)
    for seed in range(10):
        shown = view_video(frames, 32, AugmentConfig(), np.random.default_rng(seed))
        assert shown.shape == (5, 32, 32, 3) and (shown == shown[:1]).all()


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_operations_keep_the_size(number):
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(40, 200, (24, 32, 3), dtype=np.uint8))
    changed = OPERATIONS[number](image, 0.7, -1)
    assert changed.size == image.size
    assert (np.array(changed) == np.array(image)).all() == (number == 0)


class Store(standins.Store):
    def image_size(self, key):
        return 8, 8


class Processor(standins.Processor):
    image_size, video_size = 8, 8


def batches(step, dealt):
    """The same rows of a step as one batch or dealt to several."""
    sources = standins.sources(image=24, video=9)
    sources = {name: dataclasses.replace(source, store=Store()) for name, source in sources.items()}
    collator = Collator(sources, Processor(), 0, "finetuning", AugmentConfig())
    mixture = Mixture(standins.config({"image": 4, "video": 4}).mixture, {"image": 24, "video": 9})
    rows = [Sampler(mixture, 0).rows(step, rank, dealt)[0] for rank in range(dealt)]
    return [collator(part, step).media for part in rows]


def test_views_depend_on_the_step_and_not_on_the_ranks():
    (whole,), dealt, (later,) = batches(3, 1), batches(3, 2), batches(4, 1)
    for name, values in whole.items():
        parts = torch.cat([part[name] for part in dealt])
        assert sorted(v.sum().item() for v in values) == sorted(v.sum().item() for v in parts)
        assert values.shape == later[name].shape and not torch.equal(values, later[name])


class Damaged(standins.Store):
    def image(self, key):
        if key.endswith("-5"):
            raise UserError(f"shard: key '{key}': not a readable image")
        return super().image(key)


@pytest.mark.fault
def test_damaged_media_are_counted_named_and_limited(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(standins, "Store", Damaged)
    config = standins.config({"image": 4}, steps=12)  # two passes over 24 rows
    with pytest.raises(UserError, match="'green-5': not a readable image"):
        run(config, tmp_path, "strict")
    run(dataclasses.replace(config, damaged=2), tmp_path, "lenient")
    assert capsys.readouterr().err.count("left out image:image5: shard: key 'green-5'") == 2
    assert '"damaged": 2' in (tmp_path / "lenient/training.json").read_text()
    with pytest.raises(UserError, match=r"2 rows could not be read .*more than 1"):
        run(dataclasses.replace(config, damaged=1), tmp_path, "limited")


@pytest.mark.fault
def test_a_run_that_is_stopped_has_counted(tmp_path, monkeypatch):
    """What was left out since the last log line is in the checkpoint."""
    monkeypatch.setattr(standins, "Store", Damaged)
    monkeypatch.setattr(Ending, "agreed", lambda ending, ranks, step: step == 6)  # one pass over 24 rows
    config = standins.config({"image": 4}, steps=12, log_every=1000, damaged=2)
    with pytest.raises(SystemExit):
        run(config, tmp_path, "stopped")
    meta = next(tmp_path.rglob("step-00000006/meta.json"))
    assert json.loads(meta.read_text())["damaged"] == 1
