"""Time for busy machines: only tests that are about a limit of time come near it."""

import pytest

from tests.serve import made
from unival import limits


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    for name in ("REQUEST_SECONDS", "UPLOAD_SPARE", "DECODE_SECONDS"):
        monkeypatch.setattr(limits, name, made.PATIENCE)
