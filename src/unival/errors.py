"""Errors that a person can act on: what is wrong, where, and the fix."""

import difflib
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNED_IN = re.compile(r"(?<=://)[^\s\"']+(?=@)")
"""Name and password, or a token, in the address of a server: any character may stand in a password."""


class UserError(Exception):
    """Bad input, configuration or environment. The command line prints the message alone and exits with 2."""


class DivergenceError(UserError):
    """Training whose loss is not finite, or jumped. The command line exits with DIVERGED."""


DIVERGED = 3
"""Exit status by which a study over several seeds tells a seed that failed from bad input."""


class Stopped(KeyboardInterrupt):
    """The same of another signal, or of Ctrl-C in another process of the command."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


ROOM = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room and run again")
"""No space left on the disk, in the user's quota, or under the limit on a file's size."""
PLACE = dict.fromkeys(
    (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE),
    "something else removed it or forbids it: fix that and run again",
)
"""A file or folder that the command found or made is gone, or may no longer be used."""


@contextmanager
def told(of_many: bool = False) -> Iterator[None]:
    """What ends the work inside ends the process with one line at most, as a shell expects; no traceback.

    A UserError, a full disk, a file that something removed: status 2; training that diverged: 3. Ctrl-C: 130;
    SIGTERM: 143. Output that nobody reads any more, as under `head`: 141. UNIVAL_DEBUG lets errors and Ctrl-C
    through. `of_many`: one of several processes, which dies of the signal, so that its parent tells; rank 0
    does for ranks that have no such parent.
    """
    debug = bool(os.environ.get("UNIVAL_DEBUG"))
    other = os.environ.get("RANK", "0") != "0"
    hook, sys.unraisablehook = sys.unraisablehook, _come_again
    try:
        try:
            yield
        finally:
            sys.unraisablehook = hook
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, OSError) as error:
        fix = "" if isinstance(error, UserError) else _fix(error)
        if debug or fix is None:
            raise
        if other:  # mostly rank 0 has the same to tell, and its end ends this process
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(2)
        what = without_password(str(error))
        _say(": ".join(filter(None, [what, fix])))
        sys.exit(DIVERGED if isinstance(error, DivergenceError) else 2)
    except KeyboardInterrupt as error:
        if debug:
            raise
        number = _signal_of(error)
        if of_many:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not other:
            _say("stopped: run the same command again to continue")
        sys.exit(128 + number)


def _say(line: str) -> None:
    try:
        print(f"unival: {line}", file=sys.stderr)
    except OSError:  # its file is on the disk that is full: the status tells
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _signal_of(error: KeyboardInterrupt) -> int:
    return error.number if isinstance(error, Stopped) else signal.SIGINT


def _come_again(unraisable: Any) -> None:
    """A signal that came in a finalizer or a library's callback, which no exception leaves, comes again."""
    error = unraisable.exc_value
    if not isinstance(error, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    later = threading.Timer(0.1, os.kill, (os.getpid(), _signal_of(error)))
    later.daemon = True
    later.start()


def _fix(error: OSError) -> str | None:
    """What a person can do about what the system refused; None where that is not known."""
    fixes = ROOM | PLACE if error.filename else ROOM
    return fixes.get(error.errno or 0)


def without_password(text: str) -> str:
    """The text without who signs in, and how, in every address of a server."""
    return SIGNED_IN.sub("***", text)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid one, or all of them when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names) or 'none'}"
