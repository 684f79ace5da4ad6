"""Errors that a person can act on: what is wrong, where, and the fix."""

import difflib
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input, configuration or environment. The command line prints the message alone and exits with 2."""


@contextmanager
def told() -> Iterator[None]:
    """A UserError or a full disk inside ends the process with one line and status 2, but for UNIVAL_DEBUG."""
    try:
        yield
    except (UserError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if os.environ.get("UNIVAL_DEBUG") or not (full or isinstance(error, UserError)):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(2)  # mostly rank 0 has the same to tell, and its end ends this process
        print(f"unival: {error}{': make room and run again' if full else ''}", file=sys.stderr)
        sys.exit(2)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid one, or all of them when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names) or 'none'}"
