"""A Parquet file that is written row by row, in constant memory, and appears when it is whole."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from unival.files import atomic

ROWS_PER_GROUP = 4096


class TableWriter:
    """Rows as mappings of the schema's columns. `close` finishes the file; leaving with an error drops it."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self._schema = schema
        self._buffer: list[Mapping[str, Any]] = []
        self._open = ExitStack()
        part = self._open.enter_context(atomic(path))
        self._writer = self._open.enter_context(pq.ParquetWriter(part, schema, compression="zstd"))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write_table(pa.Table.from_pylist(self._buffer, schema=self._schema))
            self._buffer.clear()

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._open.__exit__(kind, error, trace)
