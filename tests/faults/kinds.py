"""The faults: what each does to a command, or between two runs of it, and which ends are right."""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults import process
from tests.faults.commands import Command
from tests.faults.process import Disk, Ended, Fault

ANY_END = frozenset({0, 2})
"""Done, or one line about what is wrong."""


@dataclass(frozen=True)
class Place:
    """Where a command works, and what is known of it undisturbed."""

    folder: Path
    logs: Path
    disk: Disk
    inputs: frozenset[Path]
    """Files."""
    seconds: float
    changes: int
    """Of files, by its process."""
    grown: int
    """Bytes that it adds to the disk."""
    largest: int
    """Bytes of the largest file that it makes."""

    def left(self) -> list[Path]:
        """Files that are no inputs: outs, and what a stopped run leaves."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path not in self.inputs)


Inject = Callable[[Command, Place, random.Random], tuple[Ended, str, frozenset[int]]]
"""Runs the command once with the fault: how it ended, the fault in words, statuses that are right."""


def run(command: Command, place: Place, fault: Fault) -> Ended:
    """The command with this fault."""
    own = {"UNIVAL_HASH_CACHE": str(place.folder / ".hashes.json")}
    fault.environment = {**own, **dict(command.environment), **fault.environment}
    prepared = fault.before

    def before() -> None:
        command.before()
        prepared()

    fault.before = before
    return process.run(command.words, place.folder, place.logs, fault)


def _signal(number: int, *statuses: int) -> Inject:
    def inject(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
        group = rng.random() < 0.5
        send = os.killpg if group else os.kill
        to = "group" if group else "process"
        if command.several or rng.random() < 0.4:
            share = rng.uniform(0, 1)
            fault = Fault(at_second=share * place.seconds, outside=lambda pid: send(pid, number))
            words = f"to the {to} at {share:.0%} of its time"
        else:
            at = rng.randint(1, place.changes)
            fault = Fault(at_change=at, inside=lambda: send(0 if group else os.getpid(), number))
            words = f"to the {to} at change {at} of {place.changes}"
        return run(command, place, fault), words, frozenset({0, *statuses})

    return inject


def _full_disk(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    room = int(rng.uniform(0, 1) * place.grown)
    with place.disk.changed(size=place.disk.used() + room):
        return run(command, place, Fault()), f"room for {room} of {place.grown} bytes", ANY_END


def _file_size(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    most = int(rng.uniform(0.02, 1) * place.largest)
    limits = (most, resource.RLIM_INFINITY)
    fault = Fault(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    return run(command, place, fault), f"files of {most} of {place.largest} bytes at most", ANY_END


def _read_only(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    words = "from the start"
    if rng.random() < 0.7:
        at = rng.randint(1, place.changes)
        kill = Fault(at_change=at, inside=lambda: os.kill(os.getpid(), signal.SIGKILL))
        run(command, place, kill)
        words = f"after a kill at change {at} of {place.changes}"
    with place.disk.changed(read_only=True):
        return run(command, place, Fault()), words, frozenset({2})


def _deleted(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    """Of the folders that the command has made, one goes while it works."""
    at, pick, gone = rng.randint(1, place.changes), rng.random(), place.logs / "gone"
    gone.write_text("nothing was there yet")
    kept = {parent for path in place.inputs for parent in path.parents}

    def delete() -> None:
        folders = sorted(p for p in place.folder.rglob("*") if p.is_dir() and p not in kept)
        if folders:
            folder = folders[int(pick * len(folders))]
            gone.write_text(str(folder.relative_to(place.folder)))
            shutil.rmtree(folder, ignore_errors=True)

    ended = run(command, place, Fault(at_change=at, inside=delete))
    return ended, f"{gone.read_text()} at change {at} of {place.changes}", ANY_END


def _damage(path: Path, rng: random.Random, flip: bool = True) -> str:
    """Cut a file, or flip a bit of it."""
    data = bytearray(path.read_bytes())
    where = rng.randrange(len(data))
    if flip and rng.random() < 0.5:
        data[where] ^= 1 << rng.randrange(8)
        what = f"bit of byte {where}"
    else:
        del data[where:]
        what = f"cut at byte {where}"
    times = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk does it
    return what


def _left_damaged(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    """What a killed run leaves is damaged, or a folder of it goes."""
    at = rng.randint(max(1, place.changes // 3), place.changes)
    ended = run(command, place, Fault(at_change=at, inside=lambda: os.kill(os.getpid(), signal.SIGKILL)))
    left = [path for path in place.left() if path.stat().st_size]
    if not left:
        return ended, f"after a kill at change {at}: nothing was left", frozenset({0, -signal.SIGKILL})
    path = rng.choice(left)
    name = path.relative_to(place.folder)
    if rng.random() < 0.2 and path.parent not in {p for file in place.inputs for p in file.parents}:
        shutil.rmtree(path.parent)
        words = f"{name.parent} is gone"
    else:
        words = f"{name}, {_damage(path, rng)}"
    return ended, f"after a kill at change {at}: {words}", frozenset({0, -signal.SIGKILL})


def _input_damaged(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    """An input that carries a digest, or whose whole form is known: it is told, or changes nothing."""
    flip = bool(command.damaged)
    patterns = command.damaged or command.cut
    path = rng.choice(sorted(p for pattern in patterns for p in place.folder.glob(pattern)))
    whole, times = path.read_bytes(), path.stat()
    words = f"{path.relative_to(place.folder)}, {_damage(path, rng, flip)}"
    try:
        return run(command, place, Fault()), words, ANY_END
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _clock(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    at = rng.randint(1, place.changes)
    hours = rng.choice((-1, 1)) * 10 ** rng.uniform(0, 5)
    seconds, nanoseconds = time.time, time.time_ns

    def jump() -> None:
        time.time = lambda: seconds() + hours * 3600
        time.time_ns = lambda: nanoseconds() + int(hours * 3600e9)

    ended = run(command, place, Fault(at_change=at, inside=jump))
    return ended, f"by {hours:.0f} hours at change {at} of {place.changes}", frozenset({0})


def _child_killed(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    share, pick = rng.uniform(0.1, 0.95), rng.random()

    def kill(parent: int) -> None:
        if started := process.children(parent):
            os.kill(started[int(pick * len(started))], signal.SIGKILL)

    ended = run(command, place, Fault(at_second=share * place.seconds, outside=kill))
    right = frozenset({0, 1, 2, 128 + signal.SIGKILL, 128 + signal.SIGTERM})
    return ended, f"one at {share:.0%} of the command's time", right


@contextlib.contextmanager
def _server(answer: bytes, delay: float) -> Iterator[str]:
    """The address of a tracking server that says the same to everything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=respond, args=(connection,), daemon=True).start()

        def respond(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.recv(65536)
                time.sleep(delay)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _store(kind: str, folder: Path) -> Iterator[str]:
    """The address of a tracking store that is of no use."""
    head, path = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", folder / "store.db"
    if kind == "absent":
        yield "http://127.0.0.1:9"
    elif kind == "answers 500":
        with _server(head % (b"500 Internal Server Error", 2, b"{}"), 0) as address:
            yield address
    elif kind == "slow, then wrong":
        with _server(head % (b"200 OK", 4, b"null"), 1.5) as address:
            yield address
    elif kind == "hangs":
        with _server(b"", 3600) as address:
            yield address
    elif kind == "locked":
        with contextlib.closing(sqlite3.connect(path)) as held:
            held.execute("begin exclusive")
            yield f"sqlite:///{path}"
    else:
        path.mkdir() if kind == "a folder" else path.write_bytes(b"no database" * 1000)
        yield f"sqlite:///{path}"


STORES = ("absent", "answers 500", "slow, then wrong", "hangs", "locked", "a folder", "damaged")


def _tracking(command: Command, place: Place, rng: random.Random) -> tuple[Ended, str, frozenset[int]]:
    kind = rng.choice(STORES)
    folder = place.logs / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with _store(kind, folder) as address:
        environment = {"UNIVAL_TRACKING": "on", "MLFLOW_TRACKING_URI": address}
        ended = run(command, place, Fault(environment=environment))
    shutil.rmtree(folder)
    return ended, kind, frozenset({0})


KINDS: dict[str, Inject] = {
    "kill -9": _signal(signal.SIGKILL, -9, 137),
    "SIGTERM": _signal(signal.SIGTERM, -15, 143),
    "Ctrl-C": _signal(signal.SIGINT, -2, 130),
    "full disk": _full_disk,
    "file too large": _file_size,
    "read-only": _read_only,
    "folder deleted": _deleted,
    "leftovers damaged": _left_damaged,
    "input damaged": _input_damaged,
    "clock jumps": _clock,
    "worker or rank killed": _child_killed,
    "tracking store": _tracking,
}
KILLS = ["kill -9", "SIGTERM", "Ctrl-C"]


def of(command: Command, place: Place) -> list[str]:
    """The kinds that can happen to a command here."""
    if command.logs:
        return KILLS
    unfit = set()
    if not place.disk.real:
        unfit |= {"full disk", "read-only"}
    if command.several:  # its own process changes next to nothing
        unfit |= {"folder deleted", "leftovers damaged", "clock jumps", "read-only"}
    else:
        unfit.add("worker or rank killed")
    if not command.damaged and not command.cut:
        unfit.add("input damaged")
    if not command.tracked:
        unfit.add("tracking store")
    return [kind for kind in KINDS if kind not in unfit]
