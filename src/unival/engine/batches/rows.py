"""Rows of a task, as training, prediction, baselines and scoring take them."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unival.engine.batches.protocols import MediaReader
from unival.record import Record
from unival.tasks import Task

CACHE_BYTES = 256 * 1024**2
CACHED_ITEM_BYTES = 1024**2

Allowed = Mapping[tuple[int, ...], Iterable[int]]
"""Which tokens may follow a target prefix."""


class MediaCache:
    """Small media, decoded or ready for the model, least recently used out first."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._items: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def get(self, key: tuple[Any, ...], load: Callable[[], Any]) -> Any:
        """The cached array or tensor, else what `load` gives."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        array = load()
        if array.nbytes <= CACHED_ITEM_BYTES:
            self._items[key] = array
            self.bytes += array.nbytes
            while self.bytes > self.limit:
                self.bytes -= self._items.popitem(last=False)[1].nbytes
        return array


@dataclass(frozen=True)
class Rows:
    """Rows of one task with their media."""

    task: Task
    records: Sequence[Record]
    store: MediaReader
    cache: MediaCache = field(default_factory=MediaCache, repr=False, compare=False)
    """Of these media; rows on the same store may share it."""
    allowed: Allowed | None = None
    """Restricts the loss to the tokens an answer may have at each place."""
    digest: str = ""
    """Of rows and media: a run is resumed with the same ones only."""

    def listed(self) -> "Rows":
        """The same rows with each record made once: a manifest makes one each time it is asked."""
        return replace(self, records=as_list(self.records))


def as_list(records: Sequence[Record]) -> list[Record]:
    """The records, each made once."""
    return records if isinstance(records, list) else list(records)
