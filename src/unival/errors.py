"""Errors that a person can act on: what is wrong, where, and the fix."""

import difflib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input, configuration or environment. The command line prints the message alone and exits with 2."""


@contextmanager
def told() -> Iterator[None]:
    """A UserError inside ends the process with one line and status 2, unless UNIVAL_DEBUG is set."""
    try:
        yield
    except UserError as error:
        if os.environ.get("UNIVAL_DEBUG"):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(2)  # mostly rank 0 has the same to tell, and its end ends this process
        print(f"unival: {error}", file=sys.stderr)
        sys.exit(2)


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid one, or all of them when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names) or 'none'}"
