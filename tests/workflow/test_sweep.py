"""Sweeps: what runs, what goes on, what is told; jobs are played by a stand-in for `unival run`."""

import json
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from unival import compose, config, files
from unival.engine.machine import launch
from unival.errors import UserError
from unival.stages import base
from unival.sweep import jobs, overrides, parallel, start, summary
from unival.sweep.jobs import JobState

RATE = "set.finetune.train.optimizer.lr"
BEGIN = ["-m", "stage=finetune", "item=vqa"]
Score = Callable[[dict[str, Any]], float]


class Stage:
    """Stands for the processes of jobs: what each of them does, and which have run."""

    def __init__(self) -> None:
        self.ran: list[tuple[float, int]] = []
        """(rate, seed) of the jobs that were started."""
        self.score: Score = lambda values: values["train"]["optimizer"]["lr"]
        self.curve: Score | None = None
        """Validation score at step 1; then the job waits until it is ended."""
        self.statuses: dict[int, int] = {}
        """Place among those started -> exit status."""

    def __call__(self, command: list[str], asked: Callable[[], bool], **settings: Any) -> int:
        folder = Path(command[command.index("--out") + 1])
        values = config.load(folder / "config.yaml")
        self.ran.append((values["train"]["optimizer"]["lr"], values["train"]["seed"]))
        status = self.statuses.get(len(self.ran) - 1, 0)
        if status:
            settings["stdout"].write("unival: a cause\n")
            settings["stdout"].flush()
            return status
        if self.curve is not None:
            work = base.place("finetune", *base.read("finetune", folder / "config.yaml"))
            files.write_text(
                work / "curve.jsonl", json.dumps({"step": 1, "val/score": self.curve(values)}) + "\n"
            )
            if asked():
                return 128 + signal.SIGTERM
        files.write_json(folder / "models/finetune/vqa/training.json", {"score": self.score(values)})
        return 0


TREE: dict[str, Any] = {
    "stage_name": None, "item": None, "seed": 0, "hydra": {"job": {"chdir": False}},
    "set": {"finetune": {"train": {"optimizer": {"lr": 1.0}, "steps": 4}}},
}  # fmt: skip


def resolve(tree: Any, stage: str, item: str) -> dict[str, Any]:
    train = OmegaConf.to_container(tree["set"].finetune.train)
    assert isinstance(train, dict)
    return {"stage": stage, "item": item, "train": {**train, "seed": tree.seed}}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """In a project whose configuration is so small that it is composed in no time."""
    files.write_text(tmp_path / "conf/config.yaml", config.dump(TREE))
    (tmp_path / "conf/hydra").symlink_to(ROOT / "conf/hydra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIVAL_TRACKING", "off")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("UNIVAL_SWEEP", jobs.MAIN, "UNIVAL_PARENT_RUN", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setattr(compose, "read_params", lambda: None)
    monkeypatch.setattr(compose, "primary", lambda params: {"defaults": ["config", "_self_"]})
    monkeypatch.setattr(compose, "resolve", resolve)
    monkeypatch.setattr(base, "read", lambda stage, path: (config.load(path), None))
    monkeypatch.setattr(base, "module", lambda stage: SimpleNamespace(inputs=lambda config: []))
    found = Stage()
    monkeypatch.setattr(launch, "wait_for", found)
    return found


def the_sweep() -> Path:
    (folder,) = Path("multirun").iterdir()
    return folder


def test_finished_jobs_do_not_run_again_and_failed_ones_do(stage: Stage, capsys) -> None:
    stage.statuses = {1: 2, 3: 128 + signal.SIGKILL}
    command = [*BEGIN, f"{RATE}=1e-3,1e-5", "seed=0,1"]
    with pytest.raises(UserError, match="2 of 4 jobs failed"):
        start.run(command)
    told = capsys.readouterr()
    failed = [line for line in told.err.splitlines() if "failed: " in line]
    assert len(failed) == 2 and all("a cause" in line for line in failed)
    assert "(lr=0.001 seed=1 item=vqa)" in failed[0] and "SIGKILL" in failed[1] and "lr=1e-05" in failed[1]
    first = the_sweep()
    start.run([*command, "hydra/launcher=basic"])  # where jobs run is no part of what they are
    told = capsys.readouterr()
    assert the_sweep() == first and "goes on" in told.err
    assert [line for line in told.out.splitlines() if line.startswith("best:")] == [
        f"best: {first / number / 'models/finetune/vqa'}" for number in "01"
    ]
    assert stage.ran[4:] == [(1e-3, 1), (1e-5, 1)]
    start.run(command)  # it had finished: this is another one
    assert len(list(Path("multirun").iterdir())) == 2 and len(stage.ran) == 10


def test_a_status_above_128_that_is_no_signal_is_a_failure_like_others(stage: Stage, capsys) -> None:
    stage.statuses = {0: 255}
    with pytest.raises(UserError, match="1 of 1 jobs failed"):
        start.run([*BEGIN, "seed=0"])
    assert "failed: unival: a cause" in capsys.readouterr().err


def test_a_sweep_that_was_stopped_goes_on_and_other_values_are_another_sweep(stage: Stage) -> None:
    stage.statuses = {1: 128 + signal.SIGTERM}
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        start.run([*BEGIN, f"{RATE}=1e-3,1e-4,1e-5"])
    assert len(stage.ran) == 2, "none begins after it was stopped"
    start.run([*BEGIN, f"{RATE}=1e-2"])
    start.run([*BEGIN, f"{RATE}=1e-3,1e-4,1e-5"])
    assert [rate for rate, _ in stage.ran] == [1e-3, 1e-4, 1e-2, 1e-4, 1e-5]
    assert len(list(Path("multirun").iterdir())) == 2


def test_a_job_with_another_configuration_runs_again(stage: Stage) -> None:
    stage.statuses = {1: 2}
    command = [*BEGIN, f"{RATE}=1e-3,1e-4"]
    with pytest.raises(UserError):
        start.run(command)
    files.write_text("conf/config.yaml", config.dump(TREE | {"seed": 5}))
    start.run(command)
    assert [rate for rate, _ in stage.ran] == [1e-3, 1e-4, 1e-3, 1e-4]


def test_a_job_that_ended_before_it_was_noted_has_ended(stage: Stage) -> None:
    stage.statuses = {1: 2}
    command = [*BEGIN, f"{RATE}=1e-3,1e-4"]
    with pytest.raises(UserError):
        start.run(command)
    note = the_sweep() / "0/job.json"
    files.write_json(note, files.read_json(note) | {"status": "RUNNING", "score": None})
    files.write_json(the_sweep() / "0/reports/runs/finetune-vqa.json", {})
    start.run(command)
    assert [rate for rate, _ in stage.ran] == [1e-3, 1e-4, 1e-4]
    assert [job.score for job in jobs.read(the_sweep())] == [1e-3, 1e-4]


def test_two_equal_sweeps_at_once_have_folders_of_their_own(stage: Stage) -> None:
    given = overrides.read([*BEGIN, "seed=0"])
    with start._folder("sweep", given) as first, start._folder("sweep", given) as second:
        assert first != second


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("range(0,1,0.1)", ["0.0", *(f"0.{digit}" for digit in range(1, 10))]),
        ("range(1e-5,5e-5,1e-5)", ["1e-05", "2e-05", "3e-05", "4e-05"]),
        ("range(0.9,0,-0.3)", ["0.9", "0.6", "0.3"]),
        ("1e-5,2.5e-06", ["1e-05", "2.5e-06"]),
        ("range(1,4)", ["1", "2", "3"]),
    ],
)
def test_values_are_as_they_are_written(word: str, expected: list[str]) -> None:
    overrides.count_in_decimals()
    (parsed,) = overrides._parsed([f"key={word}"])
    assert list(parsed.sweep_string_iterator()) == expected


def test_an_interval_needs_a_sweeper_that_chooses(stage: Stage) -> None:
    with pytest.raises(UserError, match="is an interval: add hydra/sweeper=random"):
        start.run([*BEGIN, f"{RATE}=interval(0,1)"])
    assert not Path("multirun").exists()


SEARCH = [
    *BEGIN, "hydra/sweeper=tpe", "hydra.sweeper.trials=4", "seed=0,1",
    f"{RATE}=tag(log,interval(1e-5,1e-1))", "set.finetune.train.steps=range(2,5)",
]  # fmt: skip


def test_a_search_repeats_each_point_with_every_seed_and_finds_its_way_on(stage: Stage) -> None:
    pytest.importorskip("optuna")
    start.run(SEARCH)
    whole, stage.ran = stage.ran, []
    assert len(set(whole)) == 8 and len({rate for rate, _ in whole}) == 4
    assert [seed for _, seed in whole] == [0, 1] * 4
    assert all(float(f"{rate:.4g}") == rate for rate, _ in whole), "printed as they are used"
    files.discard(the_sweep())
    stage.statuses = {3: 128 + signal.SIGTERM, 5: 2}  # the second run has 3 to 7 left: 5 is its third job
    with pytest.raises(SystemExit):
        start.run(SEARCH)
    with pytest.raises(UserError, match="1 of 8 jobs failed"):
        start.run(SEARCH)
    start.run(SEARCH)
    kept = {(job.number, job.score) for job in jobs.read(the_sweep())}
    assert kept >= {(number, rate) for number, (rate, _) in enumerate(whole[:6])}
    assert len(kept) == 8 and the_sweep().joinpath("index.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.trials=0"], "trials=0: give 1 or more"),
        (["hydra.sweeper.trials=-2"], "trials=-2: give 1 or more"),
        (["seed=interval(0,5)"], r"seed=interval\(0,5\): every point runs with every seed: list them"),
    ],
)
def test_a_search_of_nothing_or_of_all_seeds_is_refused(stage: Stage, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start.run([*BEGIN, "hydra/sweeper=random", f"{RATE}=interval(0,1)", *words])
    assert stage.ran == []


def test_points_at_random_do_not_wait_for_each_other(stage: Stage) -> None:
    pytest.importorskip("optuna")
    start.run([*BEGIN, "hydra/sweeper=random", "hydra.sweeper.trials=3", f"{RATE}=interval(0.1,0.9)"])
    assert len({rate for rate, _ in stage.ran}) == 3


def test_a_job_below_the_median_ends_early_with_its_other_seeds(stage: Stage) -> None:
    pytest.importorskip("optuna")
    rates = [0.5] * 5 + [0.1]
    stage.curve = lambda values: rates[(len(stage.ran) - 1) // 2]
    start.run([*SEARCH[:3], "hydra/sweeper=tpe", "hydra.sweeper.trials=6", *SEARCH[5:]])
    assert [job.status for job in jobs.read(the_sweep())] == ["FINISHED"] * 10 + ["PRUNED"] * 2


def test_jobs_are_called_by_what_varies(stage: Stage) -> None:
    """In a list of runs the first words tell them apart; a number is written as it was meant."""
    start.run([*BEGIN, "set.finetune.train.steps=8", f"{RATE}=1e-3,1e-5", "seed=0,1"])
    labels = [job.label for job in jobs.read(the_sweep())]
    assert labels[0] == "lr=0.001 seed=0 item=vqa steps=8" and labels[3] == "lr=1e-05 seed=1 item=vqa steps=8"
    assert jobs.shortened(["set.a.lr", "set.b.lr", "seed"]) == {
        "set.a.lr": "a.lr", "set.b.lr": "b.lr", "seed": "seed"
    }  # fmt: skip


def job(number: int, rate: str, seed: int, score: float | None) -> JobState:
    words = ["item=vqa", f"{RATE}={rate}", f"seed={seed}"]
    return JobState(number, "", words, "FAILED" if score is None else "FINISHED", score)


def test_the_best_point_is_told_with_what_its_seeds_can_tell() -> None:
    scores = {"0.001": [0.5, 0.6, 0.7], "1e-05": [0.4, 0.5, 0.6]}
    found = summary.points([job(0, rate, s, v) for rate, all_ in scores.items() for s, v in enumerate(all_)])
    assert [point.label for point in found] == ["lr=0.001", "lr=1e-05"]
    spread = found[0].spread()
    assert spread is not None and spread.value == pytest.approx(0.6)
    assert spread.high - spread.value == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)  # Student, 2 degrees
    assert "is clear" in summary.verdict(found)[1], "paired by seed, the lead is the same in each"
    assert summary.metrics(found)["best/score"] == pytest.approx(0.6)


def test_a_point_that_lacks_a_seed_is_not_ranked() -> None:
    found = summary.points(
        [job(0, "0.1", 0, 0.9), job(1, "0.1", 1, None), job(2, "0.2", 0, 0.1), job(3, "0.2", 1, 0.2)]
    )
    assert [point.score for point in found] == [pytest.approx(0.15), None]
    assert "failed" in summary.lines(found)[-1]


def test_what_mattered_is_found() -> None:
    pytest.importorskip("optuna")
    found = summary.points(
        [
            JobState(
                n, "", [f"set.a.lr={rate}", f"set.a.width={width}", "seed=0"], "FINISHED", rate + width / 1e4
            )
            for n, (rate, width) in enumerate((r, w) for r in (0.1, 0.2, 0.3, 0.4) for w in (1, 2, 3, 4))
        ]
    )
    assert summary.importance(found)["lr"] > 0.95


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.7, 0.8512, 0.8534, 0.8531], ["0.7", "0.8534"]),
        ([0.8534, 0.8533], ["0.8533", "0.8534"]),
        ([1e-4, 3e-4, 1e-3, 1e-2], ["0.0001", "0.0003", "0.001", "0.01"]),
        (["muon", "adamw", "sgd"], ["muon", "adamw", "sgd"]),
        (list(range(9)), ["0", "8"]),
        ([3, 3], ["3"]),
    ],
)
def test_labels_of_an_axis_do_not_lie_over_each_other(values: list[Any], shown: list[str]) -> None:
    """Its ends have theirs."""
    ticks = dict(sorted(parallel._on_axis(values)[1]))
    assert list(ticks.values()) == shown
    assert all(later - one >= parallel.APART for one, later in pairwise(ticks))


def test_without_scores_there_is_a_page_and_no_best(tmp_path: Path) -> None:
    found = summary.points([JobState(0, "", ["seed=0"], "FINISHED")])
    summary.write(found, "sweep", tmp_path / "index.html")
    assert summary.metrics(found) == {} and "No validation scores" in summary.lines(found)[0]
