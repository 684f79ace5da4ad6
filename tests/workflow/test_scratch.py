"""Scratch folders: whose they are, one process at a time, nothing lost between a stage's end and DVC."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unival import code, files, scratch
from unival.errors import UserError
from unival.stages import base
from unival.tracking import Tracker

SOURCE = Path(__file__).parents[2] / "src"
CONFIG = {"stage": "toy", "item": None}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DVC_ROOT", "RANK", scratch.FOLDER_VARIABLE, "UNIVAL_SWEEP", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UNIVAL_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place(*inputs: Path, code: str = "c", **changed: Any) -> Path:
    return scratch.folder_of("toy", {**CONFIG, **changed}, inputs, code)


def test_the_folder_follows_configuration_inputs_and_code(root: Path) -> None:
    model, data = root / "model", root / "data"
    files.write_text(model / "weights", "one")
    files.write_json(data / "benchmark.json", {"splits": {"train": {"digest": "a"}}})
    first = place(model, data)
    assert place(model, data) == first
    others = [place(model), place(model, data, code="other"), place(model, data, seed=1)]
    files.write_text(data / "train/shard.tar", "not read: the description has its digest")
    files.write_text(model / ".weights.part", "half")
    assert place(model, data) == first
    files.write_text(model / "weights", "two")
    others.append(place(model, data))
    files.write_text(model / "more", "")
    others.append(place(model, data))
    files.write_json(data / "benchmark.json", {"splits": {"train": {"digest": "b"}}})
    others.append(place(model, data))
    assert len({first, *others}) == 7


@pytest.mark.parametrize("variable", ["UNIVAL_SWEEP", "ATEN_CPU_CAPABILITY"])
def test_equal_jobs_of_two_sweeps_or_kernels_are_runs_of_their_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    pipeline = place()
    monkeypatch.setenv(variable, "first")
    first = place()
    monkeypatch.setenv(variable, "second")
    assert len({pipeline, first, place()}) == 3


WORKER = """
import os, sys, time
from pathlib import Path
from unival import scratch
folder, outs, told = (Path(word) for word in sys.argv[1:4])
with scratch.exclusive(folder, outs, "toy"):
    if "fork" in sys.argv and os.fork():
        (told / "parent").touch()
        time.sleep(1000)
    (told / f"in-{sys.argv[4]}").touch()
    while not (told / f"leave-{sys.argv[4]}").exists():
        time.sleep(0.02)
"""


@pytest.fixture
def start(root: Path) -> Iterator[Any]:
    started = []

    def call(folder: Path, outs: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(folder), str(outs), str(root), *words]
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(SOURCE), **environment}, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.02)


def wait_for_line(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.fault
@pytest.mark.parametrize("shared", ["scratch", "outs"])
def test_a_second_process_says_so_and_waits(root: Path, start: Any, shared: str) -> None:
    """Two runs of one folder, and two that would write the same outs."""
    one, two = (root / "scratch/toy" / name for name in ("one", "two"))
    first = start(one, root / "a", "first")
    wait_for(root / "in-first")
    second = start(one if shared == "scratch" else two, root / ("a" if shared == "outs" else "b"), "second")
    assert "toy: another process works in" in wait_for_line(second)
    assert not (root / "in-second").exists()
    (root / "leave-first").touch()
    assert first.wait(300) == 0
    wait_for(root / "in-second")


def test_runs_of_other_folders_and_outs_do_not_wait(root: Path, start: Any) -> None:
    start(root / "scratch/toy/one", root / "a", "first")
    start(root / "scratch/toy/two", root / "b", "second")
    wait_for(root / "in-first")
    wait_for(root / "in-second")


@pytest.mark.fault
def test_a_killed_command_holds_the_folder_while_its_forked_rank_works(root: Path, start: Any) -> None:
    folder = root / "scratch/toy/one"
    command = start(folder, root, "first", "fork")
    wait_for(root / "parent")
    wait_for(root / "in-first")
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    second = start(folder, root, "second")
    assert "waiting for its end" in wait_for_line(second)
    assert not (root / "in-second").exists()
    (root / "leave-first").touch()
    wait_for(root / "in-second")


@pytest.mark.fault
def test_a_started_rank_that_outlives_its_command_is_waited_for(root: Path, start: Any) -> None:
    """A rank that another program started has no lock of the command's."""
    folder = root / "scratch/toy/one"
    folder.mkdir(parents=True)
    start(folder, root, "first", RANK="0", **{scratch.FOLDER_VARIABLE: str(folder)})
    wait_for(root / "in-first")
    second = start(folder, root, "second")
    assert "waiting for its end" in wait_for_line(second)
    (root / "leave-first").touch()
    wait_for(root / "in-second")


def test_a_lock_that_was_removed_keeps_nobody_apart(root: Path) -> None:
    """Who waited for a file that its holder removed takes the lock of the new one."""
    with files.locked(root / "lock"):
        (root / "lock").unlink()
        with files.locked(root / "lock") as waited, pytest.raises(BlockingIOError):  # noqa: SIM117
            with files.locked(root / "lock", wait=False):
                pass
    assert not waited


class Toy:
    """A stage that counts how often it works from nothing."""

    def __init__(self) -> None:
        self.worked = 0

    Config = SimpleNamespace

    def inputs(self, config: Any) -> list[Path]:
        return []

    def run(self, config: Any, io: base.StageIO) -> None:
        if not (io.scratch / "finished").is_dir():
            self.worked += 1
            files.write_text(io.scratch / "finished/weights", str(self.worked))
        io.publish(io.scratch / "finished", "models/toy")
        files.write_text(io.out("reports/curve.csv"), "curve")


@pytest.fixture
def toy(root: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    stage = Toy()
    monkeypatch.setattr(base, "module", lambda name: stage)
    monkeypatch.setattr(base, "read", lambda stage, path: (CONFIG, None))
    monkeypatch.setattr(base, "_end_on_sigterm", lambda: None)
    return stage


def run(out: Path = Path()) -> None:
    base.run("toy", Path("config.yaml"), out)


def commit() -> None:
    """As DVC notes the outs."""
    found = hashlib.md5(Path("reports/runs/toy.json").read_bytes()).hexdigest()
    Path("dvc.lock").write_text(f"stages:\n  toy:\n    outs:\n    - md5: {found}\n")


@pytest.mark.resume
def test_what_ended_is_given_again_until_dvc_has_it(root: Path, toy: Toy) -> None:
    run()
    pointer = Path("reports/runs/toy.json").read_bytes()
    for lost in ("models", "reports"):
        shutil.rmtree(lost)
        run()
        assert toy.worked == 1
        assert Path("models/toy/weights").read_text() == "1" and Path("reports/curve.csv").exists()
        assert Path("reports/runs/toy.json").read_bytes() == pointer
    commit()
    shutil.rmtree("models")
    shutil.rmtree("reports")
    run()  # forced: DVC would have given it back
    assert toy.worked == 2


def test_asked_again_with_everything_in_place_it_works_anew(root: Path, toy: Toy) -> None:
    run()
    run()
    assert toy.worked == 2


def test_folders_go_when_dvc_has_the_outs_or_the_workspace_is_gone(root: Path, toy: Toy) -> None:
    run()
    (folder,) = (path for path in (root / "scratch/toy").iterdir() if path.is_dir())
    scratch.tidy(root / "scratch")
    assert folder.is_dir()
    commit()
    with files.locked(folder.with_name(f".{folder.name}.lock")):  # at work again
        scratch.tidy(root / "scratch")
    assert folder.is_dir()
    scratch.tidy(root / "scratch")
    assert not folder.is_dir()

    Path("dvc.lock").unlink()
    run()
    note = files.read_json(folder / scratch.FINISHED)
    files.write_json(folder / scratch.FINISHED, {**note, "place": str(root / "queued")})
    scratch.tidy(root / "scratch")
    assert not folder.is_dir()


def test_outs_elsewhere_are_no_dvc_outs(root: Path, toy: Toy) -> None:
    run(root / "elsewhere")
    assert [path for path in (root / "scratch/toy").iterdir() if path.is_dir()] == []


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"pointer": 3, "md5": 1, "outs": 5, "place": 0}'])
def test_a_damaged_note_is_none(root: Path, toy: Toy, damage: str) -> None:
    run()
    (note,) = (root / "scratch/toy").glob(f"*/{scratch.FINISHED}")
    note.write_text(damage)
    shutil.rmtree("models")
    run()
    assert toy.worked == 1 and Path("models/toy/weights").exists()


@pytest.mark.fault
def test_a_kill_in_the_removal_leaves_no_half_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "scratch/toy/one"
    files.write_text(folder / "finished/weights", "")
    files.write_text(folder / "curve.jsonl", "")

    def killed(path: Path, **_: Any) -> None:
        (Path(path) / "curve.jsonl").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        files.discard(folder)
    assert not folder.exists()
    scratch.tidy(root / "scratch")
    assert list((root / "scratch/toy").iterdir()) == []


@pytest.mark.fault
def test_what_is_published_stays_until_the_new_is_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def published(text: str) -> base.StageIO:
        files.write_text(root / "made/weights", text)
        return base.StageIO("toy", None, {}, root, root, root, Tracker())

    published("old").publish(root / "made", "models/toy")
    (root / "models/.toy.99.part").mkdir()  # of a run that was killed

    def full(*_: Any, **__: Any) -> None:
        raise shutil.Error([("made/weights", "weights", "[Errno 28] No space left on device")])

    with monkeypatch.context() as patch, pytest.raises(base.UserError, match="No space left"):
        patch.setattr(shutil, "copytree", full)
        published("new").publish(root / "made", "models/toy")
    assert (root / "models/toy/weights").read_text() == "old"
    published("new").publish(root / "made", "models/toy")
    assert (root / "models/toy/weights").read_text() == "new"
    assert [path.name for path in (root / "models").iterdir()] == ["toy"]


class Package:
    """Modules of a package called `unival`, of which one imports the other."""

    def __init__(self, root: Path) -> None:
        self.root = root / "unival"
        self.write("__init__", "")
        self.write("first", "from unival.second import two\n\ndef one():\n    return two() + 1\n")
        self.write("second", "def two():\n    return 2\n")

    def write(self, name: str, text: str) -> None:
        files.write_text(self.root / f"{name}.py", text)

    def digest(self) -> str:
        code.digest.cache_clear()
        return code.digest("unival.first")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    made = Package(tmp_path)
    monkeypatch.setattr(code, "SOURCE", made.root)
    yield made
    code.digest.cache_clear()


def test_remarks_and_layout_are_no_code(package: Package) -> None:
    before = package.digest()
    package.write("second", '"""Says two."""\n\n\ndef two():\n    """Two."""\n    return (2)  # not three\n')
    package.write("third", "def three(): return 3")
    assert package.digest() == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("first", "from unival.second import two\n\ndef one():\n    return two() + 2\n"),
        ("second", "def two():\n    return 0.5\n"),
        ("second", "def two():\n    from unival.third import two\n    return two\n"),
        ("__init__", "import unival.third\n"),
        ("__init__", "import pkgutil, unival\n"),
    ],
)
def test_a_change_anywhere_below_is_a_change(package: Package, name: str, text: str) -> None:
    package.write("third", "two = 2")
    before = package.digest()
    kept = (package.root / f"{name}.py").read_text()
    package.write(name, text)
    changed = package.digest()
    assert changed != before
    if "third" in text or "pkgutil" in text:  # what it imports counts from then on
        package.write("third", "two = 3")
        assert package.digest() != changed
    package.write(name, kept)
    assert package.digest() == before


def test_a_package_that_only_passes_on_counts_for_who_asks_it(package: Package) -> None:
    """Not for who asks one of its modules; and a file beside a module counts where it is named."""
    package.write("tools/__init__", 'from unival.tools.other import other\n\n__all__ = ["other"]\n')
    package.write("tools/other", "other = 1")
    package.write("tools/own", "own = 1")
    package.write("first", "from unival.tools.own import own\n")
    before = package.digest()
    package.write("tools/other", "other = 2")
    assert package.digest() == before
    package.write("tools/own", "own = 2")
    assert package.digest() != before
    package.write("first", "from unival.tools import other\n")
    asked = package.digest()
    package.write("tools/other", "other = 3")
    assert package.digest() != asked
    files.write_text(package.root / "table.yaml", "a: 1")
    package.write("first", 'TABLE = "table.yaml"\n')
    named = package.digest()
    files.write_text(package.root / "table.yaml", "a: 2")
    assert package.digest() != named


def test_imports_for_types_and_services_do_not_count(package: Package) -> None:
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unival.third\n"
    package.write("first", f"from unival import errors\n{types}")
    before = package.digest()
    package.write("third", "changed = 1")
    package.write("errors", "changed = 1")
    assert package.digest() == before


@pytest.mark.fault
def test_a_folder_that_something_removes_meanwhile_ends_the_run(
    root: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning curve of what came before would be lost, and nothing would say so."""
    work = toy.run

    def removed(config: Any, io: base.StageIO) -> None:
        shutil.rmtree(io.scratch)
        work(config, io)

    monkeypatch.setattr(toy, "run", removed)
    with pytest.raises(UserError, match="something else removed it while it was written: run again"):
        run()
    monkeypatch.setattr(toy, "run", work)
    run()
    assert Path("models/toy/weights").exists()
