"""lmms-eval, where it is installed, comes to our scores by the recipe of docs/judges.md."""

import re
import tomllib
import wave
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unival import sample
from unival.cli import main
from unival.data import media
from unival.data.importing import import_dataset
from unival.errors import UserError

ROOT = Path(__file__).parents[2]
evaluator = pytest.importorskip("lmms_eval.evaluator")
lmms = import_module("unival.serve.lmms")
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 220)}
TONES = {"high": 1600, "low": 300}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page, and tables of squares and of tones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = (ROOT / "docs/judges.md").read_text(encoding="utf-8")
    for name in ("judged", "photos", "sounds"):
        (tmp_path / name).mkdir()
    for text, name in re.findall(r"^```(?:yml|python)\n(# (judged/\S+)\n.*?)^```", page, re.M | re.S):
        (tmp_path / name).write_text(text)
    photos, sounds = ["image,question,answer"], ["audio,label"]
    for number in range(12):
        colour, tone = list(COLOURS)[number % 3], list(TONES)[number % 2]
        picture = Image.new("RGB", (48, 48), (240, 238, 230))
        picture.paste(COLOURS[colour], (8 + number, 10, 24 + number, 26))
        picture.save(f"photos/{number}.png")
        photos.append(f"{number}.png,what color is the square?,{colour}")
        time = np.arange(8000) / 8000
        with wave.open(f"sounds/{number}.wav", "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((9000 * np.sin(2 * np.pi * TONES[tone] * time)).astype("<i2").tobytes())
        sounds.append(f"{number}.wav,{tone}")
    for split in ("train", "test"):
        Path(f"photos/{split}.csv").write_text("\n".join(photos))
        Path(f"sounds/{split}.csv").write_text("\n".join(sounds))
    return tmp_path


def ours(folder: str, task: str, capsys: pytest.CaptureFixture[str]) -> float:
    import_dataset("table", folder, f"imported/{folder}")
    made = f"{folder}.jsonl"
    main(["score", made, "--model", str(sample.FOLDER), "--split", f"imported/{folder}/test", "--task", task])
    scores = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    return float(scores["accuracy"])


def test_its_scores_are_ours(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On an image-text and on an audio task, with the answers of the training rows."""
    from lmms_eval.tasks import TaskManager

    for task, folder, kind, answers in (
        ("own_vqa", "photos", "vqa", COLOURS),
        ("own_sounds", "sounds", "audio_qa", TONES),
    ):
        Path("answers.txt").write_text("\n".join(answers))
        model = lmms.Unival(str(sample.FOLDER), answers="answers.txt", batch_size=5)
        manager = TaskManager(include_path="judged", include_defaults=False)
        found = evaluator.simple_evaluate(model, tasks=[task], task_manager=manager)
        score = found["results"][task]["exact_match,none"]
        assert score == pytest.approx(ours(folder, kind, capsys), abs=1e-6), task
        if task == "own_vqa":
            assert score > 0.8  # it has seen squares, and is no constant


def test_the_entry_point_is_the_manifest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["unival"].partition(":")
    manifest = getattr(import_module(module), name)
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert getattr(import_module(module), name) is lmms.Unival


def test_a_sound_as_samples_is_the_sound_of_the_file(recipe: Path) -> None:
    data = Path("sounds/0.wav").read_bytes()
    samples = media.decode_audio(data, "0.wav")
    kind, made = lmms.read({"array": samples, "sampling_rate": 8000})
    assert kind == "audio" and np.array_equal(media.decode_audio(made, "again"), samples)
    with pytest.raises(UserError, match="neither a path, an image nor a sound: int"):
        lmms.read(3)
