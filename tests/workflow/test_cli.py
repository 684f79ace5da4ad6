"""The command line: quick help, one line for a person's mistake, exit status 2."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unival import files
from unival.cli import COMMANDS, main
from unival.errors import UserError
from unival.stages import STAGES, base
from unival.sweep import start
from unival.tracking import Tracker

ROOT = Path(__file__).parents[2]


HEAVY = {"torch", "transformers", "mlflow", "dvc", "timm", "pandas", "scipy", "matplotlib", "torchvision"}
"""Packages that take a third of a second or more to import."""


def told(heavy: set[str], *commands: tuple[str, ...]) -> str:
    """What commands print that are given one after the other in one process, without importing `heavy`."""
    code = (
        "import sys\nfrom unival.cli import main\n"
        f"for command in {commands}:\n"
        "    try: main(list(command))\n"
        "    except SystemExit as end: assert not end.code, command\n"
        f"    heavy = {heavy} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": "src"}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_and_lists_import_nothing_heavy() -> None:
    shown = told(HEAVY | {"hydra"}, ("--help",), *((name, "--help") for name in COMMANDS), ("list",))
    assert all(name in shown for name in COMMANDS)


def test_outside_a_checkout_the_lists_have_what_the_package_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["list"])
    assert "coco_captions" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["list", "task"])
    assert "no group 'task'" in capsys.readouterr().err


def test_settings_are_composed_without_what_computes() -> None:
    """Every stage's, and every value's history: PyTorch is imported when a stage runs."""
    told(
        HEAVY,
        ("compose", "--explain", "merge"),
        *(("compose", "--explain", name) for name in ("evaluate", "ablate")),
    )
    code = (
        "import sys\nfrom unival.stages import module\n"
        f"for name in {STAGES}: assert module(name).Config\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": "src"}, text=True)
    assert done.returncode == 0


@pytest.mark.fault
@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_wherever_it_is_met(
    full: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk, the user's quota or the limit of a file's size."""

    def write(group: str) -> None:
        raise OSError(number, os.strerror(number), "curve.jsonl")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("unival.compose.options", write)
    number = full
    with pytest.raises(SystemExit, match="2"):
        main(["list", "task"])
    assert capsys.readouterr().err == (
        f"unival: [Errno {full}] {os.strerror(full)}: 'curve.jsonl': make room and run again\n"
    )
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        main(["list", "task"])


@pytest.mark.fault
@pytest.mark.parametrize("refused", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.ESTALE])
def test_a_file_that_something_else_removed_or_forbids_is_one_line(
    refused: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(group: str) -> None:
        raise OSError(refused, os.strerror(refused), *names)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("unival.compose.options", write)
    names = ["made/.part"]
    with pytest.raises(SystemExit, match="2"):
        main(["list", "task"])
    said = capsys.readouterr().err
    assert said.startswith(f"unival: [Errno {refused}] {os.strerror(refused)}: 'made/.part': ")
    assert said.count("\n") == 1 and "run again" in said
    names = []  # of no file: a fault of the program
    with pytest.raises(OSError, match=re.escape(os.strerror(refused))):
        main(["list", "task"])


IN_A_FINALIZER = """
import signal, time
from unival.errors import told
from unival.stages import base
class Freed:
    def __del__(self):
        signal.raise_signal({number})
base._end_on_sigterm()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
with told():
    Freed()
    time.sleep(60)
"""
"""Python prints what is raised there, and goes on."""


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_finalizer_is_not_lost(number: int) -> None:
    command = [sys.executable, "-c", IN_A_FINALIZER.format(number=int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 128 + number
    assert done.stderr == "unival: stopped: run the same command again to continue\n"


@pytest.mark.fault
@pytest.mark.parametrize("arguments", [["list"], ["score", "caption"], ["merge", "verify", "x"], ["sweep"]])
def test_ctrl_c_is_one_line_in_any_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    for place in ("unival.compose.options", "unival.compose.read_params"):
        monkeypatch.setattr(place, interrupted)
    for module in ("score", "merge"):
        monkeypatch.setattr(f"unival.commands.{module}.main", interrupted)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="130"):
        main(arguments)
    assert capsys.readouterr().err == "unival: stopped: run the same command again to continue\n"


@pytest.mark.fault
@pytest.mark.parametrize("words", [["list"], ["no such command"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_is_no_traceback(words: list[str], number: int) -> None:
    """SIGTERM has a handler in stages, which raises."""
    code = (
        f"import atexit, os, sys; atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "from unival.stages import base; base._end_on_sigterm()\n"
        f"sys.argv = ['unival', *{words}]; from unival.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": "src"}, text=True, capture_output=True
    )
    assert done.returncode == -number and "Traceback" not in done.stderr


@pytest.mark.fault
def test_a_file_that_met_a_full_disk_is_named(tmp_path: Path) -> None:
    """Python's error of a write, unlike that of an open, has no name."""
    with pytest.raises(OSError, match=r"No space left.*table\.csv"), files.atomic(tmp_path / "table.csv"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["sweep", "--help"], ["merge", "--help"]])
def test_output_that_nobody_reads_ends_in_silence(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run(
        [sys.executable, "-m", "unival", *arguments],
        cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode in (0, 128 + signal.SIGPIPE)  # argparse itself passes over it
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "finetune", "--config", "build/config/nothing.yaml"], "cannot read the configuration"),
        (["list", "tasc"], "did you mean 'task'"),
        (["run", "finetun", "--config", "nothing.yaml"], "unknown stage 'finetun': did you mean 'finetune'"),
        (["sweep", "-m", "stage=finetun"], "unknown stage 'finetun': did you mean 'finetune'"),
        (
            ["sweep", "-m", "stage=finetune", "set.finetune.train.steps=5"],
            "one of audio_caption, audio_qa, capt",
        ),
        (["sweep", "-m", "stage=finetune", "item=vqs"], "unknown item 'vqs': did you mean 'vqa'"),
        (["sweep", "-m", "stage=pretrain", "item=imagetext"], "did you mean 'image_text'"),
        (["sweep", "-m", "stage=merge", "item=vqa"], "merge has no items, leave out item=vqa"),
        (["sweep", "stage=finetune", "item=vqa,caption"], "item=vqa,caption has several values: add -m"),
        (["sweep", "stage=finetune", "item=vqa", "set.finetune.train.steps=range(1,3)"], "add -m"),
        (
            ["sweep", "-m", "stage=finetune", "item=vqa", "set.finetune.train.stepz=1,2"],
            "did you mean 'steps'",
        ),
        (["sweep", "-m", "stage=finetune", "item=vqa", "sed=1,2"], "Could not override 'sed'"),
        (["sweep", "-m", "stage=finetune", "item=vqa", "seed=range(1"], "sweep: "),
        (["compose", "--explain", "finetun"], "did you mean 'finetune'"),
        (["compose", "--explain", "finetune"], "no item is chosen"),
        (["compose", "--explain", "finetune", "vqa", "train.stepz"], "did you mean 'train.steps'"),
        (["mrege", "run"], "unknown command 'mrege': did you mean 'merge'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and len(error.strip().splitlines()) == 1
    assert not Path("multirun").exists() and not Path("mlflow.db").exists(), "told before anything is made"


def test_an_unknown_key_in_a_resolved_file_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.yaml"
    path.write_text("stage: report\nitem: null\ndat: data/processed/world\nedition: smoke\n")
    with pytest.raises(SystemExit):
        main(["run", "report", "--config", str(path)])
    assert "did you mean 'data'" in capsys.readouterr().err


def test_list_shows_every_group(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    main(["list"])
    shown = capsys.readouterr().out
    assert all(f"{group}:" in shown for group in ("task", "merge", "edition", "sweep", "runtime"))
    assert all(stage in shown for stage in STAGES)


def test_list_shows_files_in_folders_of_a_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    main(["list", "experiment"])
    assert "paper/vqav2" in capsys.readouterr().out


def test_help_of_a_sweep_starts_none(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sweep", "--help"])
    assert "unival sweep -m stage=finetune" in capsys.readouterr().out


def test_sweeps_of_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [start._new_id("lr-20260101-000000") for _ in range(3)] == [
        "lr-20260101-000000",
        "lr-20260101-000000-2",
        "lr-20260101-000000-3",
    ]
    (tmp_path / "multirun/file").touch()
    monkeypatch.chdir(tmp_path / "multirun")
    (tmp_path / "multirun/multirun").touch()
    with pytest.raises(UserError, match="multirun: cannot write here"):
        start._new_id("lr")


def test_a_scratch_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "scratch").touch()
    (tmp_path / "report.yaml").write_text(
        "stage: report\nitem: null\ndata: data\nedition: smoke\nseed: 0\nseeds: []\nclaims: {}\n"
    )
    with pytest.raises(SystemExit):
        main(["run", "report", "--config", "report.yaml"])
    assert "scratch/report" in (error := capsys.readouterr().err) and "cannot write here" in error


@pytest.mark.fault
@pytest.mark.parametrize(("error", "status"), [("UserError('x')", 2), ("KeyboardInterrupt", 130)])
def test_an_error_that_cannot_be_written_has_its_status(error: str, status: int) -> None:
    code = f"from unival.errors import UserError, told\nwith told(): raise {error}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], env=environment, stderr=full, check=False)
    assert done.returncode == status


@pytest.mark.parametrize(
    ("error", "signal"),
    [(SystemExit(143), True), (KeyboardInterrupt(), True), (SystemExit(2), False), (UserError("x"), False)],
)
def test_only_a_signal_makes_a_run_killed(error: BaseException, signal: bool) -> None:
    """A worker that fails ends its stage with its exit status: that run has failed."""
    assert base._is_signal(error) is signal


def test_the_time_of_a_stage_is_that_of_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(base.STARTED, str(time.time() - 100))
    io = base.StageIO("report", None, {}, tmp_path, tmp_path, tmp_path, Tracker())
    assert base._pointer(io, "hash")["seconds"] >= 100
