"""An official data set as shards and manifests.

The way is that of `prepare`: the reader's items are checked, bad ones are listed in `rejected.parquet`, and
the folder appears whole. Row counts are compared with the complete set's, or with what the caller expects.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unival.config import build
from unival.data.catalog import load_sources, source_of
from unival.data.prepare import RECORD, PrepareConfig, prepare, rehearse
from unival.data.sources.reader import READERS
from unival.errors import UserError
from unival.folders import check_output

MAX_REJECTED = 0.05


def import_dataset(
    name: str,
    root: Path | str,
    out: Path | str,
    *,
    max_rejected: float = MAX_REJECTED,
    text_only: bool = False,
    split: str = "",
    expect: Mapping[str, int] | None = None,
    progress: bool = False,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Import a data set; returns the description that is also written as `benchmark.json`.

    An import that was stopped goes on after its finished shards when it is called again.

    Args:
        name: a registered reader.
        root: the folder of the original files.
        out: the folder to write; an earlier import there is replaced when this one is whole.
        max_rejected: largest share of bad rows and media that is accepted.
        text_only: take the captions alone, as rows of the task `text`; no medium is looked for.
        split: split of the rows whose official one is not known; where empty, such rows are an error.
        expect: `<split>/<task>` -> number of rows that there must be.
        progress: show on a terminal how many rows and media are done.
        scratch: build nothing: all is read and checked, and this folder gets what `rehearse` says.

    Raises:
        UserError: unknown name, missing or damaged files, too many bad rows, another number of rows.
    """
    load_sources()
    reader = READERS[name]
    options = {"root": str(root), "text_only": text_only, "split": split}
    described = {"name": name, "source": name, "options": options, "max_rejected": max_rejected}
    config = build(PrepareConfig, described, f"import {name}")

    def compared(description: dict[str, Any]) -> dict[str, Any]:
        rows = {
            f"{split}/{task}": number
            for split, facts in description["splits"].items()
            for task, number in facts["rows"].items()
        }
        for cell, number in (expect or {}).items():
            if rows.get(cell, 0) != number:
                raise UserError(
                    f"{out}: {cell}: {rows.get(cell, 0)} rows, expected {number}: files are missing or too "
                    f"many ({description['rejected']} faults)"
                )
        complete = {
            cell: {"rows": rows.get(cell, 0), "complete_set": number}
            for cell, number in reader.counts.items()
        }
        return {**description, "complete": complete}

    source = source_of(config, f"import {name}")
    if scratch is not None:
        check_output(Path(out), RECORD, [root])
        return compared(rehearse(config, source, scratch, progress))
    return prepare(config, source, out, resume=True, progress=progress, complete=compared)
