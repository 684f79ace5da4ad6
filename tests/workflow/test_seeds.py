"""The study with other seeds: what is run, kept, gone on with and left out."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unival import compose, config, files
from unival.errors import DIVERGED, UserError
from unival.stages import base
from unival.stages import seeds as stage
from unival.study import processes, seeds

CONFIGS: dict[str, dict[str, Any]] = {name: {"stage": name} for name in ("pretrain", "evaluate", "ablate")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with prepared data."""
    monkeypatch.chdir(tmp_path)
    files.write_json(tmp_path / "data/benchmark.json", {})
    (tmp_path / "conf").mkdir()
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the processes in the order in which they ran; each writes a table."""
    names: list[str] = []
    monkeypatch.setattr(seeds, "_process", process(names, {}))
    return names


def note(name: str) -> dict[str, Any]:
    """What a process writes of itself: each has kernels of its own."""
    machine = {"threads": 9, "instructions": f"of {name}"}
    return {"stage": name, "item": None, "config_hash": "", "run_id": None, "seconds": 1, "peak_mib": 1,
            "machine": machine}  # fmt: skip


def process(names: list[str], statuses: dict[str, int]) -> Callable[..., int]:
    def run(work: Path, name: str, resolved: dict[str, Any], seed: int) -> int:
        names.append(name)
        assert (work / "data/benchmark.json").is_file() and (work / "conf").is_dir()
        files.write_text(work / "reports/metrics" / f"{name}.csv", "")
        files.write_json(work / "reports/runs" / f"{name}.json", note(name))
        files.write_text(work / "models" / name / "weights", "")
        return statuses.get(name, 0)

    return run


def repeat(here: Path, configs: dict[str, dict[str, Any]] = CONFIGS) -> Path:
    out = here / "out/1"
    seeds.repeat(here / "scratch", out, "data", "study", 1, configs)
    return out


def test_tables_stay_and_models_do_not(here: Path, ran: list[str]) -> None:
    out = repeat(here)
    assert ran == list(CONFIGS)
    assert {path.name for path in out.rglob("*.csv")} == {f"{name}.csv" for name in CONFIGS}
    note = files.read_json(out / "seed.json")
    assert (note["seed"], note["study"], note["failed"]) == (1, "study", "")
    assert not list(here.rglob("weights"))


def test_the_note_is_of_the_machine_that_the_processes_say(here: Path, ran: list[str]) -> None:
    """Not of the process that started them, whose threads are others."""
    machine = files.read_json(repeat(here) / "seed.json")["machine"]
    assert machine == {"threads": 9, "instructions": ["of ablate", "of evaluate", "of pretrain"]}
    one = files.read_json(repeat(here, {"pretrain": CONFIGS["pretrain"]}) / "seed.json")["machine"]
    assert one == {"threads": 9, "instructions": "of pretrain"}


def test_a_finished_seed_is_not_run_again(here: Path, ran: list[str]) -> None:
    repeat(here)
    repeat(here)
    assert ran == list(CONFIGS)
    repeat(here, {**CONFIGS, "ablate": {"stage": "ablate", "steps": 2}})
    assert len(ran) == 2 * len(CONFIGS)


@pytest.mark.resume
def test_a_killed_seed_goes_on_where_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(seeds, "_process", process(names, {"evaluate": 128 + 15}))
    with pytest.raises(SystemExit, match="143"):
        repeat(here)
    monkeypatch.setattr(seeds, "_process", process(names, {}))
    repeat(here)
    assert names == ["pretrain", "evaluate", "evaluate", "ablate"]


@pytest.mark.fault
def test_a_seed_that_diverged_is_noted_and_gives_no_tables(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(seeds, "_process", process(names, {"pretrain": DIVERGED}))
    out = repeat(here)
    assert names == ["pretrain"] and files.read_json(out / "seed.json")["failed"] == "pretrain"
    assert not list(out.rglob("*.csv"))


@pytest.mark.fault
def test_bad_input_ends_the_seed_with_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "_process", process([], {"evaluate": 2}))
    with pytest.raises(UserError, match="seed 1: evaluate failed"):
        repeat(here)


@pytest.mark.parametrize("own", [None, "glibc.malloc.check=3"])
def test_processes_keep_freed_memory_unless_told_otherwise(
    here: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    found = []

    def run(command: list[str], cwd: Path, env: dict[str, str], check: bool) -> Any:
        found.append(env["GLIBC_TUNABLES"])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(seeds.runtime, "load", lambda name="": SimpleNamespace(torch_device=lambda: "cpu"))
    repeat(here, {"evaluate": {"stage": "evaluate"}})
    assert found == [own or seeds.MALLOC]


def test_a_run_of_another_seed_is_found_by_its_name_and_tags(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_text(here / "params.yaml", "edition: quick\nseed: 0\n")
    found, names = [], []

    def run(command: list[str], cwd: Path, env: dict[str, str], check: bool) -> Any:
        names.append(env["UNIVAL_RUN_NAME"])
        with monkeypatch.context() as there:
            there.chdir(cwd)
            there.setenv("UNIVAL_OVERRIDES", env["UNIVAL_OVERRIDES"])
            found.append(base._choices())
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(seeds.runtime, "load", lambda name="": SimpleNamespace(torch_device=lambda: "cpu"))
    repeat(here, {"evaluate": {"stage": "evaluate"}})
    assert found == [{"unival.edition": "quick", "unival.seed": "1"}] and names == ["seed 1: evaluate"]
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")  # `unival kernels`
    seeds.repeat(here / "kernels", here / "out/kernels", "data", "study", 1, {"merge": {"stage": "merge"}})
    assert names[1:] == ["seed 1 on avx2: merge"]


def test_every_process_of_the_pipeline_that_has_a_seed_is_repeated() -> None:
    """The resolved files of the pipeline, with the other seed in place of its own."""
    params = compose.read_params()
    tree = compose.compose(params)
    tree.seeds = [7]
    resolved = compose.resolve(tree, "seeds", None)
    names = [f"{name}-{item}" if item else name for name in processes.STAGES for item in params.items(name)]
    assert list(resolved["repeats"][7]) == names
    for name, values in resolved["repeats"][7].items():
        own = compose.resolve(tree, *(name.split("-", 1) if "-" in name else (name, None)))
        if "train" in values and "seed" in values["train"]:
            assert values["train"].pop("seed") == 7 and own["train"].pop("seed") == params.seed
        if name == "ablate":
            assert values.pop("seeds") == [7] and own.pop("seeds") == [params.seed]
        assert values == own


@pytest.mark.fault
@pytest.mark.parametrize("others", [[0], [1, 1]])
def test_a_seed_that_comes_twice_is_refused(others: list[int]) -> None:
    values = {"stage": "seeds", "item": None, "data": "d", "phases": [], "tasks": [], "seed": 0}
    with pytest.raises(UserError, match="each must be there once"):
        config.build(stage.Config, {**values, "seeds": others}, "seeds.yaml")
