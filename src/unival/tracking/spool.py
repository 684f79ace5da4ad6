"""What a run has logged, on disk, until the store has it.

`mlspool/<id>/` of the main repository holds `items.jsonl`, a line per item, the first of which begins the
run; `state.json`, how much of it has been sent and as which run; and `files/`, copies of artifacts. It
outlives the run's scratch folder. It is kept whole until the run has finished, so that a run which was killed
knows what it has logged, and can be sent anew to another store.
"""

import json
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unival import files, provenance
from unival.errors import without_password

Item = dict[str, Any]
"""`do`: what it is; `time`: when it was logged, in milliseconds since the epoch; and its values."""


@dataclass
class State:
    """How far a spool has been sent."""

    store: str
    """Name of the store."""
    run_id: str | None = None
    sent: int = 0
    """Bytes of the items that the store has."""
    tried: int = -1
    """Where the item begins whose run was about to be made: it may be there although no answer came."""


class Spool:
    """The items of one run."""

    def __init__(self, name: str | None = None) -> None:
        self.folder = root() / (name or uuid.uuid4().hex[:16])
        self.items = self.folder / "items.jsonl"
        self.lock = self.folder / "lock"
        self._alive = self.folder / "alive"
        self._kept = -1, b""
        """Size of the items and what is yet to be written, in one: a signal may break in anywhere."""

    def mend(self) -> None:
        """Drop the half line that a kill or a full disk has left."""
        self.folder.parent.mkdir(0o700, parents=True, exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        if self.items.is_file():
            whole = self.items.read_bytes().rfind(b"\n") + 1
            if whole < self.items.stat().st_size:
                os.truncate(self.items, whole)

    def alive(self) -> ExitStack:
        """Say that the run goes on, until this is closed or its last process has ended."""
        held = ExitStack()
        held.enter_context(files.locked(self._alive, shared=True))
        with suppress(OSError):
            self._alive.write_text(platform.node())
        return held

    def machine(self) -> str:
        """Name of the one whose process said so last; empty: not known."""
        return self._alive.read_text() if self._alive.is_file() else ""

    def close(self) -> bool:
        """Whether no process goes on with the run; where none could say how it ended, it was killed."""
        try:
            with files.locked(self._alive, wait=False):
                last = next(iter([item for _, _, item in self.read()][-1:]), {})
                if last.get("do") != "status" or last.get("status") == "RUNNING":
                    self.mend()
                    self.append({"do": "status", "time": last.get("time", 0), "status": "KILLED"})
        except BlockingIOError:
            return False
        return True

    def append(self, item: Item) -> None:
        """Add an item. What does not fit the disk now is written with the next one."""
        line = without_password(json.dumps(item, default=str)) + "\n"
        size, waiting = self._kept
        if size < 0:
            size = self.items.stat().st_size if self.items.exists() else 0
        waiting += line.encode()
        self._kept = size, waiting
        with suppress(OSError), self.items.open("ab") as handle:
            handle.truncate(size)  # half of it, or all, may have been written before
            handle.write(waiting)
            handle.flush()
            self._kept = size + len(waiting), b""

    def read(self, start: int = 0) -> Iterator[tuple[int, int, Item]]:
        """(begin, end, item) of the whole lines from a byte on; a line that is damaged is an empty item."""
        if not self.items.is_file():
            return
        with self.items.open("rb") as handle:
            handle.seek(start)
            for line in handle:
                if line.endswith(b"\n"):
                    begin, start = start, start + len(line)
                    yield begin, start, _item(line)

    def state(self) -> State | None:
        """How far it has been sent; None before the first attempt."""
        found = files.read_sealed(self.folder / "state.json")
        return State(**found) if found else None

    def save(self, state: State) -> None:
        """Note how far it has been sent."""
        files.write_sealed(self.folder / "state.json", asdict(state))

    def waiting(self) -> int:
        """How many items have not been sent."""
        state = self.state()
        return sum(1 for _ in self.read(state.sent if state else 0))

    def keep(self, path: Path) -> str:
        """Copy an artifact; returns the name of the copy."""
        name = f"{sum(1 for _ in self.read())}/{path.name}"
        files.copy(path, self.folder / "files" / name)
        return name

    def finished(self) -> bool:
        """Whether the run has ended well and the store has all of it."""
        items = [item for _, _, item in self.read()]
        return bool(items) and items[-1].get("status") == "FINISHED" and not self.waiting()

    def remove(self) -> None:
        """The store has all of it."""
        files.discard(self.folder)


def root() -> Path:
    """The folder of all spools."""
    return provenance.root() / "mlspool"


def spools() -> list[Spool]:
    """Those of all runs that have not finished or were not sent, the oldest first."""
    found = [Spool(path.parent.name) for path in root().glob("*/items.jsonl")]
    return sorted(found, key=lambda spool: spool.items.stat().st_ctime_ns)


def _item(line: bytes) -> Item:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
