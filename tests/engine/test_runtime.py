"""Settings of the machine: files that ship, choice by the environment, launching of ranks."""

import json
import sys
from pathlib import Path

import pytest
import torch

from unival.engine import runtime
from unival.errors import UserError

FOLDER = Path(__file__).parents[2] / "conf/runtime"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_shipped_files_load(name):
    assert runtime.load(name, FOLDER)


def test_chosen_by_the_environment(monkeypatch):
    monkeypatch.delenv(runtime.VARIABLE, raising=False)
    assert runtime.load(folder=FOLDER) == runtime.load("auto", FOLDER)
    monkeypatch.setenv(runtime.VARIABLE, "ddp")
    assert runtime.load(folder=FOLDER).launcher == "torchrun"
    monkeypatch.setenv(runtime.VARIABLE, "dpp")
    with pytest.raises(UserError, match=r"UNIVAL_RUNTIME=dpp: no file .*did you mean 'ddp'"):
        runtime.load(folder=FOLDER)


@pytest.mark.fault
def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no GPU"):
        runtime.Runtime(device="cuda").torch_device()
    assert runtime.Runtime().torch_device().type == "cpu"


def test_launches_ranks_unless_it_is_one(monkeypatch, tmp_path):
    calls = []

    def fake_run(command, env, check):
        calls.append(command)
        return type("Done", (), {"returncode": 7})()

    monkeypatch.setattr(runtime.subprocess, "run", fake_run)
    monkeypatch.delenv("RANK", raising=False)
    several = runtime.Runtime(device="cpu", launcher="torchrun", processes=3)
    assert runtime.Runtime().launch(["run", "pretrain"]) is None
    assert several.launch(["run", "pretrain", "--config", "x.yaml"]) == 7
    assert calls[0][:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert calls[0][-6:] == ["-m", "unival", "run", "pretrain", "--config", "x.yaml"]
    assert "--nproc-per-node=3" in calls[0], json.dumps(calls)
    monkeypatch.setenv("RANK", "0")
    assert several.launch(["run", "pretrain"]) is None
