"""What is noted of the machine that computed a result."""

import getpass
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unival import files, provenance
from unival.engine.machine import runtime
from unival.report import content
from unival.stages import base
from unival.study.tables import Run

ROOT = Path(__file__).parents[2]


def test_the_machine_says_what_rounding_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = provenance.machine()
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert (found["threads"], found["ranks"]) == (torch.get_num_threads(), 2)
    assert found["torch"] == torch.__version__ and found["processor"] not in ("", "unknown")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with one committed file of code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    files.write_text(Path("src/one.py"), "one = 1\n")
    for words in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a"),
    ):
        subprocess.run(["git", *words], check=True)
    provenance.uncommitted_work.cache_clear()
    yield tmp_path
    provenance.uncommitted_work.cache_clear()


def seen() -> list[str]:
    """What a person sees of a repository."""
    return [
        provenance.git(*words) for words in (("status", "--porcelain"), ("log", "--oneline"), ("branch",))
    ]


def test_uncommitted_work_is_a_commit_of_its_own(repository: Path) -> None:
    """Of changed and new files of what makes results; nothing that a person sees in Git changes."""
    files.write_text(Path("reports/one.json"), "{}")
    assert provenance.commit() == {"commit": provenance.git("rev-parse", "HEAD"), "uncommitted": ""}
    files.write_text(Path("src/one.py"), "one = 2\n")
    files.write_text(Path("conf/two.yaml"), "two: 2\n")
    before = [
        provenance.git("status", "--porcelain"),
        provenance.git("log", "--oneline"),
        provenance.git("branch"),
    ]
    provenance.uncommitted_work.cache_clear()
    made = provenance.commit()["uncommitted"]
    provenance.uncommitted_work.cache_clear()
    assert made and provenance.commit()["uncommitted"] == made, "the same work is the same commit"
    after = [
        provenance.git("status", "--porcelain"),
        provenance.git("log", "--oneline"),
        provenance.git("branch"),
    ]
    assert after == before
    assert provenance.git("diff", "--name-only", "HEAD", made).split() == ["conf/two.yaml", "src/one.py"]
    assert made in provenance.git("for-each-ref", "refs/unival"), "kept when Git tidies up"
    provenance.check_out(made, repository / "made")
    assert (repository / "made/src/one.py").read_text() == "one = 2\n"
    assert not (repository / "made/reports").exists()


def test_without_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance.uncommitted_work.cache_clear()
    assert provenance.commit() == {"commit": "", "uncommitted": ""}


def test_a_run_that_goes_on_says_which_commit_began_it(repository: Path) -> None:
    first = base._began(repository / "scratch")
    files.write_text(Path("src/one.py"), "one = 2\n")
    provenance.uncommitted_work.cache_clear()
    assert base._began(repository / "scratch") == first != provenance.commit()


def test_a_run_names_who_started_it_where_that_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert provenance.tags()["mlflow.user"] == "ada"

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert "mlflow.user" not in provenance.tags()


def test_who_does_not_compute_does_not_load_pytorch() -> None:
    code = "import sys; from unival import provenance; assert 'threads' not in provenance.machine(); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": "src"}, check=True)


@pytest.mark.parametrize("given", ["1", "2", None])
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_threads_do_not_come_from_the_environment(name: str, given: str | None) -> None:
    """`dvc repro` and `make repro` round alike on any number of cores."""
    code = "import torch; from unival.engine.machine import runtime; "
    code += f"runtime.load('{name}').apply(); print(torch.get_num_threads())"
    kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    kept |= {"PYTHONPATH": "src"} | ({"OMP_NUM_THREADS": given} if given else {})
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_jobs_of_a_stage_have_the_threads_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process too, whose record is written for all."""
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(runtime, "load", lambda: runtime.Runtime(device="cpu", threads=1))
    torch.set_num_threads(2)
    try:
        runtime.parallel([lambda: seen.append(torch.get_num_threads())], "jobs")
        assert seen == [1] and provenance.machine()["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_the_report_names_each_kind_of_machine_once() -> None:
    def run(**machine: object) -> Run:
        return Run(
            stage="finetune", item=None, config_hash="hash", run_id=None, seconds=1.0, peak_mib=1,
            machine=machine,
        )  # fmt: skip

    kind = {"processor": "CPU", "instructions": "AVX2", "threads": 1}
    study = type("Study", (), {})()
    study.runs = {"a": run(**kind, ranks=2), "b": run(**kind, ranks=2), "c": run(**kind, ranks=1), "d": run()}
    (line,) = content._machines(study)
    assert line.count("AVX2") == 2 and "together 2)" in line and "together 1)" in line
