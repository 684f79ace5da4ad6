"""The model that comes with the package answers about all modalities, before anything is trained."""

import re
import runpy
from pathlib import Path

import pytest

from unival import cli, files, sample
from unival.commands.predict import _words
from unival.engine.inference.predictor import Files
from unival.errors import UserError
from unival.model.folder import learned

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "src/unival/serve/page/examples"
CARD = (sample.FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["square.png", "what color is the square?"], "red"),
        (["falling.webm"], "red square"),
        (["beeps.wav"], "five high beeps"),
    ],
)
def test_it_answers_from_anywhere(
    words: list[str],
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not cli.main(["predict", str(EXAMPLES / words[0]), *words[1:]])
    assert answer in capsys.readouterr().out.splitlines()[0]


def test_it_is_small_and_has_heard() -> None:
    assert learned(sample.FOLDER) == {"image", "video", "audio"}
    assert (sample.FOLDER / "model.safetensors").stat().st_size < 4e6


def test_what_its_card_says_holds() -> None:
    """Weights, tasks, data, and every answer of the table."""
    training = files.read_json(sample.FOLDER / "training.json")
    made = files.read_json(sample.FOLDER / "made.json")
    facts = [
        f"SHA-256\n`{files.file_digest(sample.FOLDER / 'model.safetensors')}`",
        f"Tasks: {', '.join(made['tasks'])}.",
        *(f"| {task} | {rows} |" for task, rows in training["rows"].items()),
        *(f"`{split}`: digest `{digest}`" for split, digest in training["origin"]["digests"].items()),
        *runpy.run_path(str(ROOT / "benchmarks/sample.py"))["answers"](sample.FOLDER),
    ]
    assert [fact for fact in facts if fact not in CARD] == []
    assert files.read_json(sample.FOLDER / "tasks.json").keys() == {*made["tasks"]}


def test_its_card_says_how_to_use_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines of Python run in the repository as they stand, on the samples of a sound."""
    monkeypatch.chdir(ROOT)
    lines = re.search(r"```python\n(.*?)```", CARD, re.DOTALL)
    assert lines is not None
    exec(lines[1], {"samples": Files().audio(str(EXAMPLES / "beeps.wav"), 8000)})
    assert "five high beeps" in capsys.readouterr().out


def test_what_is_a_model_and_what_a_path(tmp_path: Path) -> None:
    """A misspelt path beside a model, and a misspelt model beside a path, are not taken for each other."""
    model, photo, there = tmp_path / "model", tmp_path / "photo.jpg", tmp_path / "photos"
    model.mkdir()
    there.mkdir()
    (model / "config.json").touch()
    photo.touch()
    own = sample.FOLDER
    for words, wanted in (
        ([photo], (own, photo, "")),
        ([there], (own, there, "")),
        ([photo, "red?"], (own, photo, "red?")),
        ([model, photo], (model, photo, "")),
        ([model, there, "red?"], (model, there, "red?")),
        ([model, tmp_path / "fhoto.jpg"], (model, tmp_path / "fhoto.jpg", "")),
        ([tmp_path / "mode", photo, "red?"], (tmp_path / "mode", photo, "red?")),
    ):
        assert _words([str(word) for word in words]) == wanted
    for words in ([photo, "what", "color", "is it?"], [model, photo, "a", "b"]):
        with pytest.raises(UserError, match="a text in quotes"):
            _words([str(word) for word in words])
    with pytest.raises(UserError, match="give one file, or a folder"):
        _words([str(photo), str(photo)])
