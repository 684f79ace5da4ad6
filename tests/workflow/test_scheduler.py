"""Jobs on a real SLURM of two nodes: what the waiting side says, and what comes of them."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scheduler import INSTALL, Scheduler, missing

from unival.engine.machine import slurm
from unival.errors import told

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(bool(missing()), reason=f"no {', '.join(missing())} here: {INSTALL}"),
]
RANK = """
import os, pathlib, signal, sys, time
folder, steps, pause = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
rank, asked = os.environ["RANK"], []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
note = folder / f"step-{rank}"
step = int(note.read_text()) if note.exists() else 0
with (folder / "starts").open("a") as starts:
    starts.write(f"{rank} of {os.environ['WORLD_SIZE']} at {os.environ['MASTER_ADDR']}\\n")
while step < steps:
    time.sleep(pause)
    step += 1
    note.write_text(str(step))
    if asked:
        if rank == "0":
            print(f"rank: stopped: saved step {step}, run again to continue", file=sys.stderr, flush=True)
        sys.exit(143)
(folder / f"out-{rank}").write_text(f"{rank}: {steps} steps")
"""
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """SLURM, as long as the tests of this file run."""
    found = Scheduler(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def slurm_here(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """SLURM with idle nodes, which this process's commands go to."""
    monkeypatch.setenv("SLURM_CONF", scheduler.environment["SLURM_CONF"])
    monkeypatch.setattr(slurm, "EVERY", 0.5)
    scheduler.wait_idle()
    return scheduler


class Waiting:
    """A process that submits ranks and waits for them."""

    def __init__(self, folder: Path, steps: int, pause: float, **settings: object) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "rank.py").write_text(RANK)
        command = [sys.executable, str(folder / "rank.py"), str(folder), str(steps), str(pause)]
        self.process = FORK.Process(target=self._wait, args=(command, {"nodes": 2, **settings}))
        self.process.start()

    def _wait(self, command: list[str], settings: dict[str, object]) -> None:
        with (self.folder / "said").open("a") as said, contextlib.redirect_stderr(said), told():
            status, nothing = slurm.submit(
                {0: slurm.ranks(command)}, 1, settings, "test", self.folder / "%j.log"
            )[0]
            (self.folder / "nothing").write_text(nothing)
            sys.exit(status)

    def at_step(self, step: int) -> None:
        """Wait until a rank has done so many steps."""
        note = self.folder / "step-1"
        deadline = time.monotonic() + 120
        while not (note.exists() and int(note.read_text() or 0) >= step):
            assert time.monotonic() < deadline and self.process.is_alive(), self.said()
            time.sleep(0.1)

    def said(self) -> list[str]:
        """The lines so far, without the number of the job."""
        lines = (self.folder / "said").read_text().splitlines()
        return [line.replace(f"test: job {self.number}: ", "") for line in lines]

    @property
    def number(self) -> str:
        """SLURM's."""
        return (self.folder / "said").read_text().split("job ")[1].split(":")[0]

    @property
    def log(self) -> str:
        """What the job said."""
        return (self.folder / f"{self.number}.log").read_text()

    def end(self, seconds: float = 120) -> int | None:
        """Exit status of the waiting process."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.said()
        return self.process.exitcode

    def outs(self) -> list[str]:
        """What the ranks have made."""
        return [path.read_text() for path in sorted(self.folder.glob("out-*"))]


def log_of(job: Waiting) -> str:
    return f"log {job.folder / job.number}.log"


RUNS, WAITS = "runs on nodea,nodeb", "waits: BeginTime"


def test_ranks_run_on_nodes_whose_names_do_not_resolve(slurm_here: Scheduler, tmp_path: Path) -> None:
    job = Waiting(tmp_path / "job", 2, 0.1)
    assert job.end() == 0
    assert job.outs() == ["0: 2 steps", "1: 2 steps"]
    assert job.said() == [log_of(job), RUNS]
    starts = (job.folder / "starts").read_text().splitlines()
    assert sorted(starts) == ["0 of 2 at 127.0.0.1", "1 of 2 at 127.0.0.1"]


@pytest.mark.resume
def test_a_preempted_job_saves_queues_again_and_ends_as_if_nothing_had_been(
    slurm_here: Scheduler, tmp_path: Path
) -> None:
    low = Waiting(tmp_path / "low", 30, 0.3, exclusive=True)
    low.at_step(3)
    high = Waiting(tmp_path / "high", 2, 0.1, exclusive=True, partition="high")
    assert high.end() == 0 and low.end(240) == 0
    assert low.outs() == ["0: 30 steps", "1: 30 steps"]
    said = [line for line in low.said() if line != "waits: Resources"]
    assert said == [log_of(low), RUNS, "queues again: preemption", WAITS, RUNS]
    assert "stopped: saved step" in low.log


@pytest.mark.resume
def test_a_node_that_fails_is_done_without_until_it_is_back(slurm_here: Scheduler, tmp_path: Path) -> None:
    job = Waiting(tmp_path / "job", 40, 0.3)
    job.at_step(3)
    slurm_here.crash("nodeb")
    deadline = time.monotonic() + 90
    while "queues again: node failure" not in job.said():
        assert time.monotonic() < deadline, job.said()
        time.sleep(0.2)
    slurm_here.node("nodeb")
    assert job.end(240) == 0
    assert job.outs() == ["0: 40 steps", "1: 40 steps"]
    assert len((job.folder / "starts").read_text().splitlines()) == 4


@pytest.mark.resume
def test_ranks_that_are_told_twice_save_once_and_queue_again(slurm_here: Scheduler, tmp_path: Path) -> None:
    """SLURM's notice before the time limit is such a signal; another may come while the ranks save."""
    job = Waiting(tmp_path / "job", 20, 0.5)
    job.at_step(2)
    for _ in range(2):
        slurm_here.ask("scancel", "--signal=TERM", job.number)
        time.sleep(0.1)
    assert job.end(240) == 0
    assert job.outs() == ["0: 20 steps", "1: 20 steps"]
    assert job.said() == [log_of(job), RUNS, "queues again: its time was up", WAITS, RUNS]
    assert job.log.count("stopped: saved step") == 1 and "Traceback" not in job.log


@pytest.mark.resume
def test_at_its_time_limit_a_job_saves_and_queues_again(slurm_here: Scheduler, tmp_path: Path) -> None:
    job = Waiting(tmp_path / "job", 90, 0.7, time=1, signal="TERM@10")
    assert job.end(400) == 0
    assert job.outs() == ["0: 90 steps", "1: 90 steps"]
    assert job.said()[:5] == [log_of(job), RUNS, "queues again: its time was up", WAITS, RUNS]


@pytest.mark.fault
def test_a_time_limit_within_which_nothing_is_saved_does_not_queue_for_ever(
    slurm_here: Scheduler, tmp_path: Path
) -> None:
    """A notice of 2 minutes before a limit of 1 minute comes at once, each time; nobody waits for the job."""
    job = Waiting(tmp_path / "job", 1, 1000.0, time=1, signal="TERM@120")
    (job.folder / "rank.py").write_text("import time; time.sleep(1000)")
    deadline = time.monotonic() + 400
    said = job.folder / "said"
    while not (said.exists() and RUNS in said.read_text()):
        time.sleep(0.1)
    job.process.kill()
    while "JobState=FAILED" not in slurm_here.ask("scontrol", "show", "job", job.number):
        assert time.monotonic() < deadline, job.log
        time.sleep(0.5)
    what = "unival: ended 3 times without having come a step further: raise `time`"
    assert job.log.splitlines()[-1] == what and job.log.count("QUEUES AGAIN DUE TO TIME") == 2


@pytest.mark.fault
def test_a_job_that_somebody_cancels(slurm_here: Scheduler, tmp_path: Path) -> None:
    job = Waiting(tmp_path / "job", 1000, 0.2)
    job.at_step(1)
    slurm_here.ask("scancel", job.number)
    assert job.end() == 1
    assert job.said() == [log_of(job), RUNS, "was cancelled"]
    assert (job.folder / "nothing").read_text() == "was cancelled" and "stopped: saved step" in job.log


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_waiting_side_stops_the_job(
    slurm_here: Scheduler, tmp_path: Path, number: int
) -> None:
    job = Waiting(tmp_path / "job", 1000, 0.2)
    job.at_step(1)
    os.kill(job.process.pid or 0, number)
    assert job.end() == 128 + number
    assert job.said()[:3] == [log_of(job), RUNS, "stopping it"]
    assert "stopped: saved step" in job.log
    slurm_here.wait_idle()


@pytest.mark.fault
def test_a_job_that_fails_says_why_and_gives_its_status(slurm_here: Scheduler, tmp_path: Path) -> None:
    """srun ends the other rank, by the signal that asks to save and to queue again."""
    job = Waiting(tmp_path / "job", 1, 0.1)
    (job.folder / "rank.py").write_text(
        "import os, sys, time\n"
        "os.environ['RANK'] == '0' or time.sleep(60)\n"
        "print('unival: no such file', file=sys.stderr)\n"
        "sys.exit(2)\n"
    )
    assert job.end() == 2
    said = [line for line in job.said() if line != RUNS]  # it may have ended before it was seen
    assert said == [log_of(job), "failed: unival: no such file"]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"partition": "fast"}, "invalid partition specified: fast"),
        ({"tme": 3}, "unrecognized option '--tme=3'"),
    ],
)
def test_what_slurm_refuses_is_told_at_once(
    slurm_here: Scheduler, tmp_path: Path, settings: dict[str, object], text: str
) -> None:
    with pytest.raises(slurm.UserError, match=text):
        slurm.submit({0: ["true"]}, 1, settings, "test", tmp_path / "%j.log")


def digests(folder: Path) -> dict[str, str]:
    """Of the files of a model."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


CPU = """
device: cpu
threads: 1
launcher: slurm
processes: 1
slurm: {nodes: 2, exclusive: true}
"""


@pytest.mark.resume
def test_the_pipeline_and_a_sweep_make_the_same_bytes_as_here(
    clone: Path, run, slurm_here: Scheduler
) -> None:
    """The pipeline's job is preempted once; the jobs of the sweep are one array."""
    conf = {"SLURM_CONF": slurm_here.environment["SLURM_CONF"], "UNIVAL_RUNTIME": "slurm"}
    run("dvc", "repro", "pretrain@image_text")
    here = digests(clone / "models/pretrain/image_text")
    (clone / "conf/runtime/slurm.yaml").write_text(CPU)
    told = FORK.Process(target=_preempt, args=(slurm_here, clone / "scratch/slurm"))
    told.start()
    done = run("dvc", "repro", "--force", "--single-item", "pretrain@image_text", **conf)
    told.join(60)
    assert digests(clone / "models/pretrain/image_text") == here
    assert "queues again: preemption" in done.stderr, done.stderr
    words = ["-m", "stage=pretrain", "item=image_text", "seed=0,1", "hydra/launcher=slurm"]
    run("python", "-m", "unival", "sweep", *words, PYTHONPATH="src", **conf)
    (sweep,) = (clone / "multirun").iterdir()
    notes = [json.loads((sweep / number / "job.json").read_text()) for number in "01"]
    assert [note["status"] for note in notes] == ["FINISHED", "FINISHED"]
    assert digests(sweep / "0/models/pretrain/image_text")["model.safetensors"] == here["model.safetensors"]


def _preempt(scheduler: Scheduler, logs: Path) -> None:
    """Give the nodes to another job, once the first one's ranks are at work."""
    while not any(path.read_text() for path in logs.glob("*.log")):
        time.sleep(0.1)
    scheduler.ask("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
