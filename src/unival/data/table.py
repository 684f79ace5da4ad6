"""Files that are written bit by bit, in constant memory, and appear when they are whole."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from unival.files import atomic

ROWS_PER_GROUP = 4096


class FileWriter:
    """`close` finishes the files; leaving with an error drops those that are not whole."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def close(self) -> None:
        """Finish the files."""
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


class TableWriter(FileWriter):
    """Writes a Parquet file of rows, mappings of the schema's columns."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        super().__init__()
        self.rows = 0
        self._schema = schema
        self._buffer: list[Mapping[str, Any]] = []
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
        self._flush()
        super().close()
