"""A person's use of a model: files in, answers out; submission files."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tasks import world
from unival.cli import main
from unival.engine.inference.predictor import Predictor, as_json, media_files, read_answers
from unival.engine.inference.score import read_objects
from unival.errors import UserError
from unival.tasks import folder as task_files


@pytest.fixture
def photos(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def predictor():
    tasks = {name: world.task_config(name) for name in world.TASKS}
    return Predictor(world.model(), world.processor(), tasks, answers=("red", "blue", "green"))


def test_a_question_a_caption_and_a_box(predictor, photos, tmp_path):
    answer = predictor(photos / "0.png", "what color is it?")
    names = [answer.text, *(text for text, _ in answer.alternatives)]
    assert sorted(names) == ["blue", "green", "red"]
    assert isinstance(predictor(photos / "0.png").text, str)
    found = predictor(photos / "0.png", "the red square", task="grounding")
    x0, y0, x1, y1 = found.value
    assert 0 <= x0 <= x1 <= 60.1 and 0 <= y0 <= y1 <= 40.1
    predictor.draw(photos / "0.png", found, tmp_path / "out.png")
    drawn = np.asarray(Image.open(tmp_path / "out.png"))
    assert drawn.shape == (40, 60, 3) and (drawn == (255, 40, 40)).all(axis=2).any()


def test_a_folder(predictor, photos):
    paths = media_files(photos)
    rows = [json.loads(as_json(entry)) for entry in predictor.many(paths, "is it red?", "matching")]
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert all(row["answer"] in ("yes", "no") and 0 < row["score"] <= 1 for row in rows)


def test_lists_that_an_editor_of_windows_wrote(tmp_path):
    """They begin with a byte order mark, which is no part of the first word."""
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfyes, yeah\r\n\r\nno\r\nno\r\n")
    assert read_answers(tmp_path / "list.txt") == ["yes, yeah", "no"]
    assert read_objects(tmp_path / "list.txt") == {"yes": "yes", "yeah": "yes", "no": "no"}


def test_hidden_files_are_not_asked_about(tmp_path):
    """What a Mac or a file manager leaves beside pictures has their suffix, and is none."""
    for name in ("in/a.png", "in/._a.png", "in/.thumbnails/a.png", "in/b.jpg/c.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert media_files(tmp_path / "in") == [tmp_path / "in/a.png", tmp_path / "in/b.jpg/c.PNG"]


def test_mistakes_are_named(predictor, photos):
    for arguments, message in (
        ((photos / "0.txt",), "neither image, video nor sound"),
        ((photos / "9.png",), "cannot read: No such file"),
        ((photos / "0.png", "q", "vqqa"), "did you mean 'vqa'"),
        ((photos / "0.png", "q", "video_qa"), "needs video"),
        ((photos / "0.png", "", "grounding"), "needs a text"),
        ((photos / "0.png", os.fsdecode(b"\xff?")), "holds a byte that is not UTF-8"),
        ((photos / os.fsdecode(b"\xff.png"),), "holds a byte that is not UTF-8: rename the file"),
    ):
        with pytest.raises(UserError, match=message):
            predictor(*arguments)


def test_without_known_answers_the_text_is_free(photos):
    tasks = {"vqa": world.task_config("vqa")}
    free = Predictor(world.model(), world.processor(), tasks)
    assert isinstance(free(photos / "0.png", "what?").text, str)


def model_folder(folder, **tasks):
    """A model that carries these tasks."""
    world.model().save_pretrained(folder)
    world.processor().save_pretrained(folder)
    if tasks:
        task_files.write_tasks(tasks, folder)
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No conf/ at hand, nor beside the code."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(task_files, "PACKAGED", tmp_path / "none")


def test_a_folder_is_asked_as_it_was_trained(photos, tmp_path, nowhere):
    trained = world.task_config("video_caption", modality="image", prompt=" what is there?", max_words=7)
    found = Predictor.load(model_folder(tmp_path / "model", seen=trained))
    assert found.configs == {"seen": trained}
    assert found(photos / "0.png").text == found(photos / "0.png", task="seen").text
    with pytest.raises(UserError, match=r"unknown task 'caption'.*seen"):
        found(photos / "0.png", task="caption")


def test_without_tasks_anywhere_the_fix_is_named(tmp_path, nowhere):
    with pytest.raises(UserError, match=r"no tasks.json, .*no conf/task.*give a folder of task files"):
        Predictor.load(model_folder(tmp_path / "model"))


def test_tasks_of_the_folder_come_before_those_of_conf(tmp_path, monkeypatch):
    monkeypatch.chdir(world.CONF.parents[1])
    trained = world.task_config("caption", prompt=" what is there?")
    folder = model_folder(tmp_path / "model", caption=trained)
    configs = Predictor.load(folder).configs
    assert configs["caption"] == trained and configs["vqa"].prompt
    assert Predictor.load(folder, world.CONF).configs["caption"] != trained


@pytest.mark.fault
@pytest.mark.parametrize("content", ["[]", "{", '{"caption": 3}', '{"caption": {"kind": "captioning"}}'])
def test_damaged_tasks_of_a_folder_are_named(tmp_path, content):
    folder = model_folder(tmp_path / "model")
    (folder / "tasks.json").write_text(content)
    with pytest.raises(UserError, match=r"tasks\.json: "):
        Predictor.load(folder)


def test_the_command(photos, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    world.model().save_pretrained(folder)
    world.processor().save_pretrained(folder)
    monkeypatch.chdir(world.CONF.parents[1])
    monkeypatch.setenv("UNIVAL_RUNTIME", "cpu")
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    out = tmp_path / "answers.jsonl"
    main(["predict", str(folder), str(photos), "is it red?", "--task", "matching", "--out", str(out)])
    assert len(out.read_text().splitlines()) == 3 and threads == [1]  # of the runtime
    box = tmp_path / "box.png"
    main(["predict", str(folder), str(photos / "1.png"), "red", "--task", "grounding", "--out", str(box)])
    assert Image.open(box).size == (60, 40)
    assert "drawn in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path), str(photos / "1.png")])
    assert "no model there" in capsys.readouterr().err
    main(["predict", str(photos / "1.png"), ""])  # as without a text: the packaged model's caption
    assert len(capsys.readouterr().out.splitlines()) == 4
    (tmp_path / "none.txt").write_text("\n \n")
    with pytest.raises(SystemExit):
        main(["predict", str(folder), str(photos / "1.png"), "red?", "--answers", str(tmp_path / "none.txt")])
    assert "none.txt: no answers: write one a line" in capsys.readouterr().err


def test_a_damaged_file_of_a_folder_is_listed(photos, tmp_path, monkeypatch, capsys):
    world.model().save_pretrained(tmp_path / "model")
    world.processor().save_pretrained(tmp_path / "model")
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
    monkeypatch.chdir(tmp_path)  # no conf/ here
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "model"), str(photos), "is it red?", "--task", "matching"])
    said = capsys.readouterr()
    assert "2 answers in predictions.jsonl" in said.out and "1 of 3 files got no answer" in said.err
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, True, False]
    assert "1.png: not a readable image" in rows[1]["error"]
    with pytest.raises(SystemExit):  # nothing to do with the files: said once
        main(["predict", str(tmp_path / "model"), str(photos), "--task", "groundin"])
    assert "did you mean 'grounding'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "foreign"),
    [
        (["1.png"], False),
        (["1.png", "red?", "--task", "matching"], True),
        (["1.png", "red?"], True),  # the usual task of a question
        (["."], False),
    ],
)
def test_a_task_that_a_folder_does_not_name_is_said(words, foreign, photos, tmp_path, monkeypatch, capsys):
    """Where it names any; an answer comes all the same."""
    monkeypatch.chdir(photos)
    world.model().save_pretrained("model")
    world.processor().save_pretrained("model")
    for tasks in ({}, {"caption": world.task_config("caption")}):
        task_files.write_tasks(tasks, tmp_path / "model")
        assert not main(["predict", "model", *words])
        said = capsys.readouterr()
        assert said.out
        assert ("not among the tasks of model" in said.err) == (foreign and bool(tasks))


def test_a_medium_that_was_never_learned_is_said(photos, tmp_path, monkeypatch, capsys):
    """By what the folder tells of training, or of the models of a merge; else nothing is said."""
    monkeypatch.chdir(tmp_path)
    for name, record in (
        ("expert", {"training.json": {"media": ["audio", "image"]}}),
        ("deaf", {"training.json": {"media": ["audio"]}}),
        ("merged", {"merge.json": {"paths": {"inputs": {"a": "../deaf", "b": "../expert"}}}}),
        ("merged_deaf", {"merge.json": {"paths": {"inputs": {"a": "../deaf"}}}}),
        ("merged_far", {"merge.json": {"paths": {"inputs": {"a": "../deaf", "b": "../gone"}}}}),
        ("circle", {"merge.json": {"paths": {"inputs": {"a": "."}}}}),
        ("damaged", {"merge.json": {"paths": []}}),
        ("converted", {}),
    ):
        world.model().save_pretrained(name)
        world.processor().save_pretrained(name)
        for file, content in record.items():
            (tmp_path / name / file).write_text(json.dumps(content))
        main(["predict", name, str(photos / "1.png"), "is it red?", "--task", "matching"])
        said = f"note: {name} was never trained on image" in capsys.readouterr().err
        assert said == (name in ("deaf", "merged_deaf")), name
