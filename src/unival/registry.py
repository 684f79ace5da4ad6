"""Named things of one kind: tasks, data sets, merge methods, shifts, metrics."""

from collections.abc import Callable
from typing import Generic, TypeVar

from unival.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary filled by a decorator, whose lookups name the nearest entry on a typo."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enter the decorated object under `name`. A name can be taken once."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} '{name}': {nearest(name, self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries)
