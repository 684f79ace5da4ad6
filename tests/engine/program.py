"""A short training run in a process of its own, for tests that kill it or start several ranks.

Processes come from a fork server that has imported everything once: a run then costs a fraction of a second.
"""

import contextlib
import dataclasses
import faulthandler
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import time

import torch
from torch.distributed import _functional_collectives as funcol

from unival.engine import checkpoint, train
from unival.engine.machine import launch
from unival.engine.machine.runtime import Runtime
from unival.engine.settings import OptimizerConfig, SelectionConfig

from . import standins

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])
# Python 3.11 does not pass sys.path to the server, which would then import nothing
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)

PLACES = ("_update", "_validate", "_save")
"""Of `Trainer`: a step, an evaluation, the write of a checkpoint."""
WIDTH = max(map(len, PLACES))
RESERVED = contextlib.ExitStack()
"""Ports of the ranks, until all tests have ended."""
PATIENCE = 300
"""Seconds for the end of a run, on however loaded a machine."""


def start(folder, options, ranks=1, slow=0.0, fail_at=None, die_in=None):
    """Start a run on each rank; returns the processes.

    `fail_at`: the step after which it kills itself; `die_in`: it does so in the third write of that file of a
    checkpoint; `slow`: seconds added to steps, half of it to file syncs, three times it to validations.
    """
    environment = {}
    for rank in range(ranks):
        (folder / f"place-{rank}").unlink(missing_ok=True)
    if ranks > 1:
        port = str(RESERVED.enter_context(launch.reserved_port()))
        environment = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if fail_at is not None:
        environment[train.FAIL_AT] = str(fail_at)
    processes = []
    for rank in range(ranks):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else environment
        # daemons may have no loading processes
        arguments, daemon = (folder, options, own, slow, die_in), not options.get("workers")
        process = CONTEXT.Process(target=main, args=arguments, daemon=daemon)
        process.start()
        processes.append(process)
    return processes


def finish(processes, folder):
    """Wait for the end; returns (largest absolute exit status, what the ranks told)."""
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"still running after {PATIENCE} s:\n{told(folder)}")
    return max((process.exitcode for process in processes), key=abs), told(folder)


def told(folder):
    """What the ranks wrote to the error stream, rank 0 first; of a crash also where it was."""
    return "".join(path.read_text() for path in sorted(folder.glob("stderr-*")))


class Lingering:
    """Takes a second to be freed, in which other threads run."""

    def __del__(self):
        time.sleep(1.0)


def main(folder, options, environment, slow, die_in):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets the background ignore it
    os.environ.update(environment)
    stream = (folder / f"stderr-{environment.get('RANK', 0)}").open("w")
    os.dup2(stream.fileno(), 2)
    sys.stderr = stream
    faulthandler.enable(stream)
    values = dict(options)
    other = values.pop("on_rank_1", {})
    if environment.get("RANK") == "1":
        values |= other
    sizes = values.pop("sizes", {"image": 24, "video": 9})
    dropout, width = values.pop("dropout", 0.2), values.pop("width", 16)
    streams = values.pop("streams", {"image": 4, "video": 4})
    balanced = values.pop("balanced", True)
    tiny = values.pop("tiny", False)
    if values.pop("sgd", False):
        values["optimizer"] = OptimizerConfig(lr=0.1, name="sgd", weight_decay=0.0, warmup=0.0)
    scratch = folder / "scratch"
    if values.pop("apart", False):  # as on nodes that share no disk
        scratch = folder / f"scratch-{environment.get('RANK', 0)}"
    if values.pop("linger", False):
        _linger()
    if lacking := values.pop("lacking", ""):
        standins.Store.lacking = lambda _: lacking
    full_on, bad_step = values.pop("full_on", None), values.pop("bad_step", None)
    runtime = Runtime(
        device="cpu", threads=1, sharding=values.pop("sharding", "none"), workers=values.pop("workers", 0),
        background_checkpoints=values.pop("background", False),
    )  # fmt: skip
    if runtime.sharding == "full":
        _forbid_functional_collectives()
    if values.pop("select", False):
        values["selection"] = SelectionConfig(every=5, rows=4)
    config = dataclasses.replace(standins.config(streams, balanced), **values)

    def evaluate(model):
        time.sleep(3 * slow)
        # falls and rises, so that the best weights are not the last
        return {"score": -abs(float(model.hidden.weight.detach().sum()) * 1000 % 7 - 3)}

    _interfere(slow, die_in)
    if full_on == int(environment.get("RANK", 0)):
        _fill_disk(8)
    if bad_step is not None and environment.get("RANK") == "1":
        _spoil(bad_step)
    _note_places(folder / f"place-{environment.get('RANK', 0)}")
    train.train(
        config,
        standins.tiny() if tiny else standins.model(dropout=dropout, width=width),
        standins.TinyProcessor() if tiny else standins.Processor(),
        standins.sources(**sizes),
        folder / "out",
        scratch,
        runtime,
        evaluate=evaluate if config.selection else None,
    )


def _interfere(slow, die_in):
    update, sync, synced = train.Trainer._update, checkpoint.sync, []

    def slow_update(self, batches):
        time.sleep(slow)
        update(self, batches)

    def slow_or_dying_sync(path):
        time.sleep(slow / 2)
        if path.parent.name.startswith(".step-"):
            synced.append(path.name)
        if synced.count(die_in) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    train.Trainer._update, checkpoint.sync = slow_update, slow_or_dying_sync


@contextlib.contextmanager
def room(size):
    """No file of this process can become larger than `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _fill_disk(step):
    """From the checkpoint after this step on there is no room for one."""
    save = train.Trainer._save

    def save_without_room(self, monitor):
        with room(5_000) if self.step >= step else contextlib.nullcontext():
            save(self, monitor)

    train.Trainer._save = save_without_room


def _spoil(step):
    """The media of this step are NaN."""
    update = train.Trainer._update

    def update_with_nan(self, batches):
        if self.step == step:
            for values in (values for batch in batches for values in batch.media.values()):
                values.fill_(float("nan"))
        update(self, batches)

    train.Trainer._update = update_with_nan


def _note_places(path):
    """Keep in a file in which part of the loop the rank is, and in how many it has been."""
    descriptor, number = os.open(path, os.O_RDWR | os.O_CREAT), itertools.count(1)

    def noted(name, method):
        def call(self, *arguments):
            os.pwrite(descriptor, f"{name:{WIDTH}}{next(number)}".encode(), 0)
            method(self, *arguments)
            os.pwrite(descriptor, b" " * WIDTH, 0)

        return call

    for name in PLACES:
        setattr(train.Trainer, name, noted(name, getattr(train.Trainer, name)))


def wait_for_place(folder, rank, process, number):
    """Wait until a rank has come to so many of PLACES, or has ended."""
    path = folder / f"place-{rank}"
    while process.is_alive() and not (path.exists() and int(path.read_text()[WIDTH:] or 0) >= number):
        time.sleep(0.005)


def place(folder, rank):
    """In which of PLACES a killed rank was; empty: between them, or before the first step."""
    path = folder / f"place-{rank}"
    return path.read_text()[:WIDTH].strip() if path.exists() else ""


def _forbid_functional_collectives():
    """DTensor's own collectives go on behind the scenes, where a rank was once seen to crash on a CPU."""

    def refuse(*arguments, **options):
        raise AssertionError("a functional collective")

    for name in [name for name in vars(funcol) if name.startswith(("all_", "reduce_", "broadcast", "wait_"))]:
        setattr(funcol, name, refuse)


def _linger():
    publish = train.Trainer._publish

    def publish_then_sum(self, *arguments):
        publish(self, *arguments)
        tensor = torch.ones(1_000_000)
        tensor.lingering = Lingering()
        # the group's thread, not this one, will hold and free the tensor
        torch.distributed.all_reduce(tensor, async_op=True)

    train.Trainer._publish = publish_then_sum
