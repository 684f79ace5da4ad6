"""`unival doctor` says what is so: of the runtime, the tracking store, the repository, the data."""

import http.server
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unival import cli
from unival.commands import doctor
from unival.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with what the checks look at."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "UNIVAL_RUNTIME", "UNIVAL_DATA", "UNIVAL_TRACKING", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    commit(tmp_path)
    return tmp_path


def commit(folder: Path) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *words], check=True, cwd=folder)


def found(name: str) -> doctor.Check | None:
    return next((check for check in doctor.checks() if check.name == name), None)


@pytest.mark.parametrize(
    ("name", "gpu", "state", "text"),
    [
        ("", False, "ok", "auto"),
        ("cpu", False, "ok", "cpu"),
        ("gpu", False, "FAIL", "finds no GPU: set UNIVAL_RUNTIME=cpu or auto"),
        ("gpu", True, "ok", "gpu"),
        ("gpus", True, "FAIL", "did you mean 'gpu'"),
    ],
)
def test_the_runtime_is_what_the_machine_can_do(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, gpu: bool, state: str, text: str
) -> None:
    monkeypatch.setenv("UNIVAL_RUNTIME", name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    check = found("UNIVAL_RUNTIME")
    assert check is not None and check.state == state and text in check.text


@pytest.mark.parametrize(
    ("sbatch", "state", "text"), [(False, "FAIL", "no command sbatch"), (True, "ok", "slurm")]
)
def test_slurm_needs_its_commands_but_no_gpu_here(
    project: Path, monkeypatch: pytest.MonkeyPatch, sbatch: bool, state: str, text: str
) -> None:
    which = shutil.which
    monkeypatch.setattr(
        "shutil.which", lambda name: ("/x" if sbatch else None) if name == "sbatch" else which(name)
    )
    monkeypatch.setenv("UNIVAL_RUNTIME", "slurm")
    check = found("UNIVAL_RUNTIME")
    assert check is not None and check.state == state and text in check.text


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as an MLflow server does when it is asked for its health, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


def test_a_store_that_answers_is_ok(project: Path, monkeypatch: pytest.MonkeyPatch, server: int) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 60.0)
    for uri in (
        None,
        f"sqlite:///{project}/mlflow.db",
        "sqlite:///mlflow.db",
        "mlruns",
        f"http://127.0.0.1:{server}",
        f"http://me:secret@127.0.0.1:{server}/",
        f"postgresql+psycopg2://me:secret@127.0.0.1:{server}/runs",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri or "")
        check = found("mlflow")
        assert check is not None and check.state == "ok" and "secret" not in check.text, uri


def test_a_store_that_does_not_answer_is_told_without_its_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, server: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        quiet = silent.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            gone = closed.getsockname()[1]
        for uri, reason in (
            (f"http://me:s3cr@t?/@127.0.0.1:{gone}", ""),
            (f"http://me:s3cret@127.0.0.1:{gone}", "refused"),
            (f"http://me:s3cret@127.0.0.1:{quiet}", ""),
            (f"http://me:s3cret@127.0.0.1:{server}/elsewhere", "answers 404"),
            (f"mysql+pymysql://me:s3cret@127.0.0.1:{gone}/runs?password=s3cret", "refused"),
            ("sqlite:////nowhere/at/all/mlflow.db", "no folder /nowhere/at/all"),
            ("http://127.0.0.1:port", "no address"),
            ("http://me:s3cret/x@127.0.0.1", "no address"),
            ("postgresql://me:s3cret/x@127.0.0.1", "no address"),
        ):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            monkeypatch.setattr(doctor, "SECONDS", 0.5 if f":{quiet}" in uri else 60.0)
            check = found("mlflow")
            assert check is not None and check.state == "warn" and reason in check.text, (uri, check)
            assert "s3cr" not in check.text
    assert "unival sync" in check.text, "no run ends for it"


def test_without_tracking_no_store_is_asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("UNIVAL_TRACKING", "off")
    assert (check := found("mlflow")) is not None and check.state == "none"


def test_messages_of_a_store_hide_its_password(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unival import tracking

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for scheme in ("postgresql+nodriver", "http"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:s3cret@127.0.0.1:1/runs")
        with pytest.raises(UserError, match="cannot be used") as caught:
            tracking.connect("finetune")
        assert "s3cret" not in str(caught.value)


def test_what_queued_experiments_will_not_find_is_named(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found("history") is None and found("conf") is None
    (project / "conf/task/mine.yaml").touch()
    assert (
        (check := found("conf")) is not None and check.state == "warn" and "conf/task/mine.yaml" in check.text
    )
    commit(project)
    commit(project)
    assert found("conf") is None
    shallow = tmp_path_factory.mktemp("clone") / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", project.as_uri(), str(shallow)], check=True)
    monkeypatch.chdir(shallow)
    assert (check := found("history")) is not None and "git fetch --unshallow" in check.text


def test_a_data_folder_that_is_not_there_is_not_ok(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, state in ((str(project), "ok"), (str(project / "nowhere"), "warn"), ("", "none")):
        monkeypatch.setenv("UNIVAL_DATA", folder)
        assert (check := found("UNIVAL_DATA")) is not None and check.state == state


def test_a_failed_check_ends_in_status_2(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIVAL_RUNTIME", "gpus")
    with pytest.raises(SystemExit) as left:
        cli.main(["doctor"])
    shown = capsys.readouterr()
    assert left.value.code == 2 and "FAIL UNIVAL_RUNTIME: " in shown.out
    assert "1 check failed: the lines above name the fix" in shown.err


def test_a_healthy_machine_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unival", "doctor"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "ok   python: " in done.stdout and "ok   packages: all there" in done.stdout


def test_a_commit_without_a_remote_is_said(project: Path) -> None:
    check = found("remote")
    assert check is not None and check.state == "none" and "dvc remote add" in check.text
    (project / ".dvc").mkdir()
    (project / ".dvc/config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = /shared\n"
    )
    assert found("remote") is not None, "not in the commit yet"
    commit(project)
    assert found("remote") is None
