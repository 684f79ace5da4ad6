"""Folders that commands write: only over their own, and the old one stays until the new one is whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unival import folders
from unival.engine.checkpoint import atomic_folder
from unival.errors import UserError
from unival.folders import contents, new_folder

RECORD = "record.json"


def write(out: Path, *names: str, inputs: tuple[Path, ...] = ()) -> None:
    """What a command does."""
    with new_folder(out, RECORD, inputs) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        (folder / RECORD).write_text(json.dumps(contents(folder, RECORD)))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    write(out, "a", "part/b")
    write(out, "c")
    assert files(out) == ["c", RECORD]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("record", [None, "{}", '{"files": ["a"]}', "no JSON", "[1]", '{"files": 5}'])
def test_a_file_that_no_run_wrote_stays(record: str | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "papers").mkdir(parents=True)
    (out / "papers" / "thesis.txt").write_text("mine")
    if record is not None:
        (out / RECORD).write_text(record)
    before = files(out)
    with pytest.raises(UserError, match=r"out: holds .* earlier run wrote it"):
        write(out, "a")
    assert files(out) == before


def test_a_file_added_to_an_output_stays(tmp_path: Path) -> None:
    write(tmp_path / "out", "a")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        write(tmp_path / "out", "a")
    assert files(tmp_path / "out") == ["a", "notes.txt", RECORD]


def test_an_empty_folder_may_be_filled_and_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "a")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        write(tmp_path / "file", "a")


@pytest.mark.parametrize("out", [".", "..", "/", "../here"])
def test_the_folder_that_a_command_runs_in_is_no_output(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing it would leave whoever typed the command in a folder that is gone."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r": the command runs in it: give the name of a folder of its own"):
        write(Path(out), "a")
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize("out", ["in", ".", "in/out", "in/photos", "link", "link/out"])
def test_inputs_and_outputs_are_apart(out: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "photos").mkdir(parents=True)
    (tmp_path / "in" / "photos" / "a.jpg").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(UserError, match="is read, and one of the two is in the other"):
        write(tmp_path / out, "a", inputs=(tmp_path / "in",))
    assert files(tmp_path / "in") == ["photos/a.jpg"]
    write(tmp_path / "in-imported", "a", inputs=(tmp_path / "in",))  # only its name begins alike


def test_a_run_that_fails_leaves_the_old_output(tmp_path: Path) -> None:
    write(tmp_path / "out", "a")
    with pytest.raises(KeyError), new_folder(tmp_path / "out", RECORD) as folder:
        (folder / "b").write_text("half")
        raise KeyError
    assert files(tmp_path / "out") == ["a", RECORD]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, "a")
    rename, done = Path.rename, []

    def killed(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    monkeypatch.setattr(folders.shutil, "rmtree", lambda *_, **__: None)  # a killed process cleans nothing up
    with pytest.raises(KeyboardInterrupt):
        write(out, "b")
    monkeypatch.undo()
    assert not out.exists()
    with pytest.raises(KeyError), new_folder(out, RECORD):
        raise KeyError
    assert files(out) == ["a", RECORD]


@pytest.mark.fault
def test_a_copy_is_whole_or_the_old_one_stays(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "a").write_text("new")
    (source / ".hidden").write_text("")
    (source / "gone").symlink_to("nowhere")  # what lies there cannot be read
    out.mkdir()
    (out / "a").write_text("old")
    with pytest.raises(UserError, match=r"^[^\n]*out: cannot write here: [^\n]*No such file[^\n]*$"):
        folders.copy(source, out)
    assert (out / "a").read_text() == "old"
    (source / "gone").unlink()
    folders.copy(source, out, ".*")
    assert files(out) == ["a"] and (out / "a").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.fault
@pytest.mark.parametrize("again", [False, True], ids=["gone", "made anew"])
@pytest.mark.parametrize("folder_of", [lambda out: new_folder(out, RECORD), atomic_folder])
def test_a_folder_that_something_removes_meanwhile_is_not_taken_for_whole(
    folder_of: Any, again: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="something else removed it"), folder_of(out) as part:
        (part / "weights").write_text("half of all")
        shutil.rmtree(part)
        if again:
            part.mkdir()
    assert not any(tmp_path.iterdir())
