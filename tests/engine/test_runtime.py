"""Settings of the machine: files that ship, choice by the environment, launching of ranks."""

import builtins
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from unival.engine.machine import distributed, launch, runtime
from unival.errors import UserError
from unival.sweep.search import SearchSettings

FOLDER = Path(__file__).parents[2] / "conf/runtime"
PATIENCE = 300
"""Seconds for what is sure to come, on however loaded a machine."""


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


@pytest.mark.parametrize(
    ("cores", "quota", "processes"), [(1, None, 1), (64, None, 2), (64, 1.5, 2), (64, 0.5, 1)]
)
def test_processes_and_threads_are_those_that_a_container_may_use(monkeypatch, cores, quota, processes):
    """Its quota counts as whole CPUs, rounded up; PyTorch would start a thread for every core of the host."""
    limit = "max 100000" if quota is None else f"{int(quota * 100000)} 100000"
    opened = builtins.open
    at = {"/sys/fs/cgroup/cpu.max": limit}
    monkeypatch.setattr(os.path, "exists", lambda path, real=os.path.exists: path in at or real(path))
    monkeypatch.setattr(
        builtins,
        "open",
        lambda path, *more, **named: io.StringIO(at[path]) if path in at else opened(path, *more, **named),
    )
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    auto = runtime.load("auto", FOLDER)
    assert (auto.cores(), auto.threads_each()) == (processes, 1)
    free = math.ceil(quota or cores)
    assert runtime.Runtime(device="cpu").threads_each() == free
    assert runtime.Runtime(device="cpu").chosen().endswith(f"CPUs to use: {free}")
    assert SearchSettings("tpe", 9, True, 0).at_once(1, -1) == free
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert runtime.Runtime(device="cpu").threads_each() == cores  # PyTorch has read it


@pytest.mark.fault
def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no GPU"):
        runtime.Runtime(device="cuda").torch_device()
    assert runtime.Runtime().torch_device().type == "cpu"


def test_torchrun_unless_this_is_a_rank(monkeypatch):
    calls = []

    class Done:
        def __init__(self, command, **options):
            calls.append(command)

        def wait(self, timeout):
            return 7

    monkeypatch.setattr(launch.subprocess, "Popen", Done)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RANK", raising=False)
    several = runtime.Runtime(device="cpu", launcher="torchrun", processes=3)
    assert runtime.Runtime().launch(["run", "pretrain"], print, Path()) is None
    assert several.launch(["run", "pretrain", "--config", "x.yaml"], print, Path()) == 7
    assert calls[0][:3] == [sys.executable, "-m", "unival.engine.machine.torchrun"]
    assert calls[0][-6:] == ["-m", "unival", "run", "pretrain", "--config", "x.yaml"]
    assert "--nproc-per-node=3" in calls[0], json.dumps(calls)
    monkeypatch.setenv("RANK", "0")
    assert several.launch(["run", "pretrain"], print, Path()) is None


@pytest.mark.parametrize(("processes", "each"), [(0, "a process for each GPU"), (3, "3 processes")])
def test_ranks_of_a_node_are_told_in_words(processes, each):
    machine = runtime.Runtime(device="cpu", launcher="torchrun", processes=processes)
    assert machine.chosen() == f"torchrun, {each} on each node"


WAITING = """
import subprocess, sys
from unival.engine.machine import launch

code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); "
code += "print('up', flush=True); time.sleep(1000)"
print(launch.wait_for([sys.executable, "-c", code]))
"""


@pytest.mark.distributed
def test_sigterm_is_handed_to_torchrun_and_its_end_awaited():
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate(timeout=PATIENCE)[0] == "9\n" and process.returncode == 0


SLOW = "sleep 1; echo up; exec sleep 1000"
"""Torchrun forgets a rank that it is still about to start when it is told to end."""


@pytest.mark.fault
@pytest.mark.distributed
def test_torchrun_that_is_told_to_end_says_nothing_of_its_own():
    command = [*launch.torchrun(1), "--standalone", "--no-python", "sh", "-c", SLOW]
    environment = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[3])}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate(timeout=PATIENCE)[1] == ""
    assert process.returncode == 128 + signal.SIGTERM


FORKING = """
import os, signal, sys, time
from pathlib import Path
from unival.engine.machine import launch

launch.GRACE = launch.LEAVE = 10000  # they leave by themselves: none is killed
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job

def work():
    rank = os.environ["RANK"]
    Path(rank).write_text(os.environ["WORLD_SIZE"])
    {body}

print(launch.fork(2, work))
"""


def forked(folder, body):
    code = FORKING.format(body=body)
    source = Path(runtime.__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("body", "status", "ranks"),
    [
        ("pass", "0", "01"),
        ("sys.exit(2 if rank == '1' else time.sleep(1000))", "2", "1"),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank == '0' else time.sleep(1000)", "137", "0"),
    ],
)
def test_forked_ranks_end_together(tmp_path, body, status, ranks):
    assert forked(tmp_path, body).communicate(timeout=PATIENCE)[0].strip() == status
    assert all((tmp_path / rank).read_text() == "2" for rank in ranks)


def places(folder, name, process):
    """Of two ranks in /proc, once both have written their numbers to files of this name."""
    paths = [folder / f"{name}{rank}" for rank in "01"]
    while not all(path.exists() and path.read_text() for path in paths):
        assert process.poll() is None
        time.sleep(0.05)
    return [Path("/proc") / path.read_text() for path in paths]


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_forked_ranks_end_with_their_parent(tmp_path, number):
    process = forked(tmp_path, "Path('pid' + rank).write_text(str(os.getpid())); time.sleep(1000)")
    ranks = places(tmp_path, "pid", process)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    limit = time.monotonic() + PATIENCE
    while any(rank.exists() for rank in ranks):
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_nobody_else_is_given_the_port_of_the_ranks():
    with launch.reserved_port() as port:
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", port))
        assert torch.distributed.TCPStore("127.0.0.1", port, 1, True).port == port  # as rank 0 does


LISTENING = """
import json, os, sys
from pathlib import Path
import psutil, torch
from unival.engine.machine import launch
from unival.engine.machine.distributed import world

def work():
    with world(torch.device("cpu")) as ranks:
        ranks.barrier()
        found = psutil.Process().net_connections("inet")
        listens = [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]
        Path("listens" + os.environ["RANK"]).write_text(json.dumps(listens))
        ranks.barrier()

sys.exit(launch.fork(2, work))
"""


@pytest.mark.distributed
def test_ranks_of_one_machine_listen_to_no_other(tmp_path):
    source = Path(runtime.__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", LISTENING]
    subprocess.run(command, cwd=tmp_path, env=environment, timeout=PATIENCE, check=True)
    first, second = (json.loads((tmp_path / f"listens{rank}").read_text()) for rank in "01")
    assert first and {*first, *second} <= {"127.0.0.1", "::1"}


MEETING = """
import os, sys, time
from pathlib import Path
import torch
from unival.engine.machine import launch
from unival.engine.machine.distributed import world
from unival.errors import told

launch.GRACE = launch.LEAVE = 10000  # they leave by themselves: none is killed

def work():
    rank = os.environ["RANK"]
    late = {late} if rank == "1" else 0
    Path("up" + rank).write_text(str(os.getpid()))
    time.sleep(late)
    with world(torch.device("cpu")):
        Path("met" + rank).write_text(str(os.getpid()))
        time.sleep(1000)

with told():
    sys.exit(launch.fork(2, work))
"""


@pytest.mark.fault
@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", ["all", "parent"])
@pytest.mark.parametrize("met", [False, True], ids=["before they met", "after they met"])
def test_ranks_end_at_once_wherever_they_are(tmp_path, number, to, met):
    """A terminal sends Ctrl-C to all, others to the command alone: one line, and its status."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEETING.format(late=0 if met else 1000)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[3])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    ranks = places(tmp_path, "met" if met else "up", process)
    time.sleep(0.3)  # rank 0 looks for the other, or is about to
    (os.killpg if to == "all" else os.kill)(process.pid, number)
    error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 128 + number
    lines = error.splitlines()
    assert lines == ["unival: stopped: run the same command again to continue"]
    assert not any(rank.exists() for rank in ranks)


@pytest.mark.fault
@pytest.mark.distributed
def test_ranks_do_not_wait_for_one_that_never_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=1))
    with socket.socket() as nobody:  # bound, and never listening
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "1", "WORLD_SIZE": "2"}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        match = f"rank 1: waited 0:00:01 for the other 1 at 127.0.0.1:{port}"
        with pytest.raises(UserError, match=match), distributed.world(torch.device("cpu")):
            pass


@pytest.mark.fault
@pytest.mark.distributed
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_place_whose_name_does_not_resolve_is_told_before_any_wait(monkeypatch, rank):
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(0))
    told = {"MASTER_ADDR": "first.invalid", "MASTER_PORT": "29998", "RANK": rank, "WORLD_SIZE": "2"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    match = rf"rank {rank}: MASTER_ADDR=first\.invalid: .*give the first node's address, or a name that"
    with pytest.raises(UserError, match=match), distributed.world(torch.device("cpu")):
        pass


PARALLEL = """
import os, sys, time
from functools import partial
from pathlib import Path
from unival.engine.machine import distributed, launch, runtime
from unival.errors import UserError

def job(number):
    if number == {bad}:
        raise UserError("job 3: no such file")
    Path(f"job-{{number}}").write_text(str(os.getpid()))
    while len({{path.read_text() for path in Path().glob("job-*")}}) < workers:  # none does them all
        time.sleep(0.01)
    while number > {bad} >= 0:  # the others are behind it
        time.sleep(1)

workers = min({processes}, runtime.cpus())
runtime.load = lambda: runtime.Runtime(device="cpu", launcher="fork", processes={processes})
runtime.parallel([partial(job, number) for number in range(8)], "jobs")
print("after")
"""


def in_parallel(folder, **values):
    source = Path(runtime.__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", PARALLEL.format(**values)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once(tmp_path, processes):
    assert in_parallel(tmp_path, bad=-1, processes=processes).stdout == "after\n"
    workers = [(tmp_path / f"job-{number}").read_text() for number in range(8)]
    assert len(set(workers)) == min(processes, runtime.cpus())


MEMORY = """
from unival.engine.machine import runtime

last, resident = [], []

def job():
    resident.append(next(int(line.split()[1]) for line in open("/proc/self/status") if line[:5] == "VmRSS"))
    blocks = [bytearray(64 * 1024) for _ in range(3200)]
    last.append(blocks.pop())
    blocks.append(blocks)

runtime.load = lambda: runtime.Runtime(device="cpu", threads=1)
runtime.parallel([job] * 4, "jobs")
print(max(resident) - resident[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_a_job_starts_without_the_memory_of_those_before(tmp_path):
    """Neither what lies in a reference cycle nor what the allocator keeps below a block in use."""
    source = Path(runtime.__file__).parents[3]
    command = [sys.executable, "-c", MEMORY]
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(source)}, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 50 * 1024  # of 200 MiB


@pytest.mark.fault
def test_a_job_that_fails_ends_all_with_its_reason(tmp_path):
    found = in_parallel(tmp_path, bad=3, processes=2)
    assert not found.stdout
    assert "job 3: no such file" in found.stderr
    assert not (tmp_path / "job-7").exists()


RANK = """
import os, sys, time
from functools import partial
from pathlib import Path
from unival.engine.machine import runtime
from unival.engine.machine.distributed import world
from unival.errors import UserError, told

me, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

def job(number):
    with world(runtime.load().torch_device()) as here:
        assert here.size == 1 and "RANK" not in os.environ
    if (me, ranks) == (1, 4):
        raise UserError("no such file")
    Path(f"job-{number}").write_text(str(me))
    while len({path.read_text() for path in Path().glob("job-*")}) < ranks:  # none does them all
        time.sleep(0.01)
    if (me, ranks) == (0, 2):
        while len(list(Path().glob("job-*"))) < 6:
            time.sleep(0.01)
        raise KeyboardInterrupt

runtime.load = lambda: runtime.Runtime(device="cpu", threads=1)
with told():
    runtime.parallel([partial(job, number) for number in range(6)], "jobs")
    if me == 0:
        print(len(list(Path().glob("job-*"))))
"""


def of_ranks(folder, ranks):
    """Processes that are ranks of one command."""
    with launch.reserved_port() as port:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        place |= {"PYTHONPATH": str(Path(runtime.__file__).parents[3])}
        return [
            subprocess.Popen(
                [sys.executable, "-c", RANK],
                cwd=folder,
                env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 3])
def test_each_job_is_one_rank_s_and_the_first_waits_for_all(tmp_path, ranks):
    """Inside a job nothing knows of the ranks: it may train a model, or start a process that does."""
    processes = of_ranks(tmp_path, ranks)
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, said
    assert said[0][0] == "6\n"
    assert {(tmp_path / f"job-{number}").read_text() for number in range(6)} == set(map(str, range(ranks)))


@pytest.mark.fault
@pytest.mark.distributed
def test_a_rank_that_is_stopped_counts_the_jobs_of_all(tmp_path):
    """Its own first one may take long: whether SLURM's job comes further shows in those of the others."""
    first, other = of_ranks(tmp_path, 2)
    assert first.communicate(timeout=PATIENCE)[1].startswith("jobs: stopped: at job 6 of 6\n")
    assert first.returncode == 130
    other.communicate(timeout=PATIENCE)


@pytest.mark.fault
@pytest.mark.distributed
def test_a_rank_whose_job_fails_says_why(tmp_path):
    """The others are ended by what started them."""
    processes = of_ranks(tmp_path, 4)
    assert "no such file" in processes[1].communicate(timeout=PATIENCE)[1] and processes[1].returncode == 2
    assert processes[0].poll() is None  # not all are done
    for process in processes:
        process.kill()
        process.communicate()
