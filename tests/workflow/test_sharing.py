"""docs/sharing.md as it is typed: a folder and a bucket as DVC's remote, experiments, an MLflow server with a
database and a bucket, killed while sixteen runs write. Without Debian's PostgreSQL and moto: skipped."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from conftest import ROOT, environment
from logged import logged

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs/sharing.md").read_text(encoding="utf-8")
WRITER = Path(__file__).with_name("toy_stage.py")
WHO = {f"GIT_{role}_{key}": "t" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def typed(heading: str) -> list[str]:
    """The commands below a heading of the page, a text for each block."""
    part = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", part, re.M | re.S)


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(address: str) -> bool:
    try:
        urlopen(address, timeout=5).close()
    except OSError as error:
        return hasattr(error, "code")  # an answer, too
    return True


def wait_for(address: str, process: subprocess.Popen) -> None:
    limit = time.monotonic() + 240
    while not answers(address):
        assert process.poll() is None and time.monotonic() < limit, address
        time.sleep(0.2)


@contextlib.contextmanager
def going(command: str, address: str, folder: Path, **extra: str) -> Iterator[subprocess.Popen]:
    """A server and all it starts, until the block ends."""
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(**extra), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(address, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of who may read and write `s3://unival`."""
    server = shutil.which("moto_server", path=environment()["PATH"])
    pytest.importorskip("boto3")
    if server is None:
        pytest.skip("no moto_server")
    number = port()
    told = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{number}"}
    with going(f"{server} -p {number}", told["AWS_ENDPOINT_URL"], tmp_path):
        code = "import boto3; boto3.client('s3').create_bucket(Bucket='unival')"
        subprocess.run([sys.executable, "-c", code], env=environment(**told), check=True)
        yield told


@pytest.mark.parametrize("remote", ["folder", "s3"])
def test_data_and_experiments_travel(
    clone: Path, tmp_path: Path, remote: str, request: pytest.FixtureRequest
) -> None:
    told = WHO
    if remote == "s3":
        pytest.importorskip("dvc_s3")
        told = WHO | request.getfixturevalue("bucket")
    place = str(tmp_path / "store") if remote == "folder" else "s3://unival/dvc"
    names = {"/shared/unival": place, "<repository>": str(tmp_path / "origin"), "<branch>": "seed1"}

    def run(text: str, folder: Path) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        done = subprocess.run(
            ["bash", "-euxc", text], cwd=folder, env=environment(**told), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    stages = yaml.safe_load((clone / "dvc.yaml").read_text())
    kept = {name: stages["stages"][name] for name in ("compose", "prepare")}  # quick, and has data
    (clone / "dvc.yaml").write_text(yaml.safe_dump({"vars": stages["vars"], "stages": kept}))
    run(f"git init -q --bare {tmp_path}/origin && git remote add origin {tmp_path}/origin", clone)
    run("git config push.autoSetupRemote true && dvc repro", clone)
    push, pull = typed("Data")
    run(push, clone)
    study = tmp_path / "elsewhere/study"
    study.parent.mkdir()
    run(f"git -C {tmp_path}/origin symbolic-ref HEAD refs/heads/$(git branch --show-current)", clone)
    assert "Running stage" not in run(pull, study.parent)
    facts = Path("data/processed/world/benchmark.json")
    assert (study / facts).read_bytes() == (clone / facts).read_bytes()

    made, taken = typed("Experiments")
    run(made, clone)
    assert "seed1" in run(taken, study)
    assert (study / facts).read_bytes() == (clone / facts).read_bytes()
    assert "seed: 1" in (study / "params.yaml").read_text()


@pytest.fixture
def database() -> Iterator[str]:
    """Address of an empty PostgreSQL of its own; its programs refuse to run as root."""
    pytest.importorskip("psycopg2")
    if not shutil.which("initdb"):
        pytest.skip("no PostgreSQL")
    user = None
    if os.getuid() == 0:
        user = next((one.pw_name for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody")), None)
    folder, number = tempfile.mkdtemp(prefix="unival-pg-"), port()
    if user:
        shutil.chown(folder, user)

    def tool(*words: str) -> None:
        subprocess.run(words, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    options = f"-p {number} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    start = ("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    tool("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "mlflow", "--no-sync")
    tool(*start)
    try:
        tool("createdb", "-h", "127.0.0.1", "-p", str(number), "-U", "mlflow", "mlflow")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{number}/mlflow"
    finally:
        tool("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.fault
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_sixteen_runs_write_while_the_server_is_killed_twice(
    tmp_path: Path, bucket: dict[str, str], backend: str, request: pytest.FixtureRequest
) -> None:
    """All they log is there, once; then the runs go to a file of their own, the same."""
    address = f"http://127.0.0.1:{port()}"
    serve, name, _, export = typed("Runs")
    store = (
        request.getfixturevalue("database") if backend == "postgresql" else f"sqlite:///{tmp_path}/server.db"
    )
    serve = serve.replace("postgresql+psycopg2://mlflow@localhost/mlflow", store).replace("\\\n", "")
    serve = serve.replace("5000", f"{address.rpartition(':')[2]} --workers 2").strip()
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in name
    own = {**bucket, "PYTHONPATH": f"{ROOT / 'src'}"}
    here = environment(MLFLOW_TRACKING_URI=address, PYTHONPATH=own["PYTHONPATH"])
    words = [sys.executable, str(WRITER), str(tmp_path / "runs"), "together", "16", "30"]
    (tmp_path / "runs").mkdir()
    with going(serve, f"{address}/health", tmp_path, **own):
        writers = subprocess.Popen(words, env=here, stderr=subprocess.PIPE, text=True)
        time.sleep(10)
    time.sleep(2)
    with going(serve, f"{address}/health", tmp_path, **own):
        time.sleep(8)
    time.sleep(2)
    with going(serve, f"{address}/health", tmp_path, **own):
        told = writers.communicate(timeout=400)[1]
        assert writers.returncode == 0, told[-3000:]
        for number in range(16):
            sync = [sys.executable, "-m", "unival", "sync"]
            subprocess.run(sync, cwd=tmp_path / "runs" / str(number), env=here, check=True)
        found = logged(address, "toy", tmp_path)
        assert sorted(run["name"] for run in found) == sorted(f"toy {number}" for number in range(16))
        assert [models for run in found for below in run["below"] for models in below["models"]]
        alike = [_unnamed(run) for run in found]
        assert len(alike[0]["points"]) == 8 and len(alike[0]["files"]) == 3 and len(alike[0]["below"]) == 2
        assert alike == [alike[0]] * 16
        export = export.replace("http://127.0.0.1:5000", address)
        export = export.replace("unival sync", f"{sys.executable} -m unival sync")
        subprocess.run(["bash", "-euc", export], cwd=tmp_path, env=here, check=True)
    copied = logged(f"sqlite:///{tmp_path}/export/mlflow.db", "toy", tmp_path)
    for run in copied:
        for one in (run, *run["below"]):
            one["tags"].pop("unival.copy_of")
    assert sorted(copied, key=str) == sorted(found, key=str)


def _unnamed(run: dict) -> dict:
    """Without its name and the row of its model, which equal weights share: it hangs on one of the runs."""
    tags = {key: value for key, value in run["tags"].items() if key != "mlflow.runName"}
    return run | {"name": None, "tags": tags, "below": [one | {"models": []} for one in run["below"]]}
