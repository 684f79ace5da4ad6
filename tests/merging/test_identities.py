"""Every identity of `identities.py` holds, and every registered method appears in them."""

from pathlib import Path

import pytest

from unival.merging.methods import METHODS
from unival.merging.options import OPTIONS

from . import identities


@pytest.mark.parametrize("check", identities.IDENTITIES, ids=lambda check: check.__name__)
def test_identity(check):
    check()


def test_every_method_has_an_identity():
    text = Path(identities.__file__).read_text(encoding="utf-8")
    assert [name for name in METHODS.names() if f'"{name}"' not in text] == []


def test_every_method_has_its_options_and_no_others_are_known() -> None:
    """A recipe is checked by the latter alone."""
    assert METHODS.names() == OPTIONS.names()
