"""A scratch clone of the project in which the pipeline can be run at its smallest size."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unival.tracking import tracker

ROOT = Path(__file__).parents[2]
TREE = ("conf", "src", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore", "pyproject.toml")
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**extra: str) -> dict[str, str]:
    """Without anything that would lead a stage out of the clone."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "UNIVAL_"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull, **extra}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an MLflow store of its own; what sends to it ends with the test."""
    for name in ("MLFLOW_TRACKING_URI", "UNIVAL_PARENT_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracker, "PATIENCE", 300.0)  # what ends is looked at
    started: list[Any] = []
    start = tracker.Sender.start
    monkeypatch.setattr(tracker.Sender, "start", lambda self: started.append(self) or start(self))
    yield tmp_path
    for sender in started:
        sender.stop(300)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The working tree as a fresh repository with the smoke edition; nothing has run in it."""
    folder = tmp_path / "unival"
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("edition: quick", "edition: smoke"))
    for command in (
        ("init", "-q"),
        ("add", "-A"),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"),
    ):
        subprocess.run(["git", *command], cwd=folder, env=environment(), check=True)
    return folder


@pytest.fixture
def run(clone: Path) -> Run:
    """Run a command in the clone."""

    def call(*command: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=clone, env=environment(**extra), text=True, capture_output=True, timeout=3600
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    return call
