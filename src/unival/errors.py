"""Errors that a person can act on: what is wrong, where, and the fix."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, configuration or environment. The command line prints the message alone and exits with 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid one, or all of them when none is near."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names) or 'none'}"
