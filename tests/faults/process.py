"""A command of this package in a process of its own, forked from one that has imported everything.

A fault strikes at a moment that can be repeated on any machine: before the n-th time that the process makes,
opens for writing, renames or removes a file, whatever the seconds it takes. A moment inside the arithmetic
is a share of the time that the command takes undisturbed.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival import cli

CHANGES = frozenset(
    f"os.{name}" for name in ("rename", "remove", "mkdir", "rmdir", "link", "symlink", "truncate")
)
WRITES = os.O_WRONLY | os.O_RDWR
LIMIT = 900.0
"""Seconds after which a command is taken to hang."""
PR_SET_CHILD_SUBREAPER = 36
LOGS = ("stdout", "stderr", "changes")
Act = Callable[[], None]


@dataclass
class Ended:
    """How a command ended."""

    status: int
    """Negative: the signal that ended it."""
    seconds: float
    said: str
    """Its error stream."""
    printed: str
    changes: int
    """How often it changed a file."""
    hung: bool = False
    orphans: int = 0
    """Processes of it that were there some seconds after its end."""


@dataclass
class Fault:
    """What happens to a running command."""

    at_change: int | None = None
    """Before which of its changes of files `inside` is called, in the process itself."""
    inside: Act = lambda: None
    at_second: float | None = None
    """When `outside` is called, with the id of the process."""
    outside: Callable[[int], None] = lambda process: None
    before: Act = lambda: None
    """Called in the process before it begins."""
    environment: dict[str, str] = field(default_factory=dict)


def adopt_orphans() -> None:
    """Children whose parent was killed become this process's, which can then tell when they end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(words: Sequence[str], folder: Path, logs: Path, fault: Fault) -> int:
    """Begin `unival <words>` in a folder; the id of the process, which leads a group of its own."""
    sys.stdout.flush()
    for name in LOGS:
        (logs / name).write_text("")
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        for number, name in enumerate(LOGS[:2], start=1):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_APPEND), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(fault.environment)
        os.chdir(folder)
        counted = _count(fault)
        atexit.register(lambda: os.pwrite(counted.descriptor, b"%9d" % counted.number, 0))
        counted.descriptor = os.open(logs / "changes", os.O_RDWR)
        fault.before()
        counted.on = os.getpid()
        status = _main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        with contextlib.suppress(OSError):  # these are files, too, which may be full
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _main(words: list[str]) -> int:
    try:
        cli.main(words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


@dataclass
class _Counted:
    number: int = 0
    on: int = 0
    descriptor: int = -1


def _count(fault: Fault) -> _Counted:
    """Counts changes of files from when `on` is this process."""
    counted, own = _Counted(), threading.local()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if counted.on != os.getpid() or getattr(own, "busy", False):
            return
        if event == "open":
            if not arguments[2] & WRITES or str(arguments[0]).startswith(("/dev/", "/proc/")):
                return
        elif event not in CHANGES:
            return
        counted.number += 1
        if counted.number == fault.at_change:
            own.busy = True
            try:
                fault.inside()
            finally:
                own.busy = False

    sys.addaudithook(note)
    return counted


def wait(process: int, folder: Path, logs: Path, fault: Fault) -> Ended:
    """Until the command has ended; what is left of its group is ended, too."""
    begun, struck, hung = time.monotonic(), fault.at_second is None, False
    while True:
        found, code = os.waitpid(process, os.WNOHANG)
        passed = time.monotonic() - begun
        if found:
            break
        if not struck and fault.at_second is not None and passed >= fault.at_second:
            struck = True
            with contextlib.suppress(ProcessLookupError):
                fault.outside(process)
        if passed > LIMIT:
            hung = True
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.01)
    orphans = _rest(process)
    printed, said, changes = ((logs / name).read_text(errors="replace") for name in LOGS)
    status = os.waitstatus_to_exitcode(code)
    return Ended(status, passed, said, printed, int(changes or 0), hung, orphans)


def _rest(group: int) -> int:
    """Processes of a group that do not end by themselves."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return 0
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    return 1


def run(words: Sequence[str], folder: Path, logs: Path, fault: Fault | None = None) -> Ended:
    """`start` and `wait`."""
    fault = fault or Fault()
    return wait(start(words, folder, logs, fault), folder, logs, fault)


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


class Disk:
    """A file system in memory, which can be full or read-only; a plain folder where none may be mounted."""

    WHOLE = 2**29

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.real = self._mount(b"tmpfs", 0, self.WHOLE)

    def _mount(self, kind: bytes | None, flags: int, size: int) -> bool:
        library = ctypes.CDLL(None, use_errno=True)
        where, options = os.fsencode(self.folder), b"size=%d" % size
        return library.mount(b"tmpfs", where, kind, ctypes.c_ulong(flags), options) == 0

    @contextlib.contextmanager
    def changed(self, size: int = WHOLE, read_only: bool = False) -> Iterator[None]:
        """Inside it has room for so many bytes, or nothing can be written."""
        remount = 32
        if not self._mount(None, remount | int(read_only), size):
            raise OSError(ctypes.get_errno(), "cannot be mounted again")
        try:
            yield
        finally:
            self._mount(None, remount, self.WHOLE)

    def used(self) -> int:
        """Bytes."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def close(self) -> None:
        """Unmount it."""
        if self.real:
            self.unmount(self.folder)

    @staticmethod
    def unmount(folder: Path) -> None:
        """What is mounted there, if anything: a process that was killed leaves its disk."""
        ctypes.CDLL(None).umount2(os.fsencode(folder), 2)
