"""What an import has to remember of every row, on disk: its memory does not grow with the data.

The classes hold text in a private SQLite file that has no name and is gone with the process.
"""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any


def _database(schema: str) -> sqlite3.Connection:
    database = sqlite3.connect("", isolation_level=None)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute(schema)
    database.execute("BEGIN")  # never committed: nobody else reads it
    return database


def _bytes(text: str) -> bytes:
    """A file name may hold surrogates, for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


class DiskMap:
    """A mapping from text to text whose entries are never changed."""

    def __init__(self) -> None:
        self._run = _database(
            "CREATE TABLE spool (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
        ).execute
        self._last: tuple[str, str] | None = None
        """The entry found last: rows about one medium ask for it one after the other."""

    def add(self, key: str, value: str = "") -> bool:
        """Enter a key; False, and nothing happens, where it is there already."""
        return (
            self._run("INSERT OR IGNORE INTO spool VALUES (?, ?)", (_bytes(key), _bytes(value))).rowcount > 0
        )

    def get(self, key: str) -> str | None:
        """The value, None where there is none."""
        if self._last is None or self._last[0] != key:
            row = self._run("SELECT value FROM spool WHERE key = ?", (_bytes(key),)).fetchone()
            if row is None:
                return None
            self._last = key, _text(row[0])
        return self._last[1]

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys in their order."""
        return (_text(key) for (key,) in self._run("SELECT key FROM spool ORDER BY key"))


class Lists:
    """Texts by key, in the order in which they were added."""

    def __init__(self) -> None:
        self._run = _database("CREATE TABLE lists (key BLOB NOT NULL, value BLOB NOT NULL)").execute
        self._run("CREATE INDEX by_key ON lists (key)")

    def add(self, key: str, value: str) -> None:
        """One more text of a key."""
        self._run("INSERT INTO lists VALUES (?, ?)", (_bytes(key), _bytes(value)))

    def get(self, key: str) -> list[str]:
        """All texts of a key."""
        rows = self._run("SELECT value FROM lists WHERE key = ? ORDER BY rowid", (_bytes(key),))
        return [_text(value) for (value,) in rows]


class Groups:
    """Values by key, given back by key in the order of the keys' first values. Keys and values are JSON."""

    def __init__(self) -> None:
        self._run = _database("CREATE TABLE pairs (key TEXT NOT NULL, value TEXT NOT NULL)").execute

    def add(self, key: Any, value: Any) -> None:
        """One more value of a key."""
        self._run("INSERT INTO pairs VALUES (?, ?)", (json.dumps(key), json.dumps(value)))

    def __iter__(self) -> Iterator[tuple[Any, list[Any]]]:
        self._run("CREATE INDEX IF NOT EXISTS by_key ON pairs (key)")
        ordered = self._run(
            "SELECT key, value FROM pairs JOIN (SELECT key, min(rowid) AS first FROM pairs GROUP BY key) "
            "USING (key) ORDER BY first, pairs.rowid"
        )
        last, values = None, list[Any]()
        for key, value in ordered:
            if key != last and last is not None:
                yield json.loads(last), values
                values = []
            last = key
            values.append(json.loads(value))
        if last is not None:
            yield json.loads(last), values
