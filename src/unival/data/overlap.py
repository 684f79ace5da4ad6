"""Whether what a model was trained on is in what it is evaluated on: media by their key, and by their bytes.

A key is the data set's own number of the photo, clip or sound (readers of one collection share keys, as
`coco-42`); equal bytes are found under any key. What this cannot see: a copy that was encoded again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unival.data.store import INDEX
from unival.errors import UserError
from unival.record import TRAINING_SPLITS


@dataclass(frozen=True)
class Overlap:
    """Media of an evaluated split that are in a training split too."""

    media: int
    """Media of the evaluated split."""
    by_key: list[str]
    """Keys that the training split has."""
    by_bytes: list[str]
    """Keys of the media whose bytes it has."""


def overlap(train: Sequence[Path], evaluated: Path) -> Overlap:
    """Compare a split with the splits that a model was trained on.

    Raises:
        UserError: a folder has no media index.
    """
    theirs = pa.concat_tables([_index(folder) for folder in train])
    ours = _index(evaluated)
    shared = {
        column: ours.filter(pc.is_in(ours[column], value_set=theirs[column])).column("key").to_pylist()
        for column in ("key", "sha256")
    }
    return Overlap(ours.num_rows, shared["key"], shared["sha256"])


def _index(folder: Path) -> pa.Table:
    try:
        return pq.read_table(folder / INDEX, columns=["key", "sha256"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{folder / INDEX}: no media index: give the folder of a prepared split") from error


def overlaps(folder: Path) -> dict[str, Overlap]:
    """Every evaluated split of a prepared folder against its training splits, where they share something."""
    splits = [path.parent.name for path in sorted(folder.glob(f"*/{INDEX}"))]
    trained = [name for name in splits if name in TRAINING_SPLITS]
    if not trained:
        return {}
    by_split = {
        name: overlap([folder / one for one in trained], folder / name)
        for name in splits
        if name not in TRAINING_SPLITS
    }
    return {name: shared for name, shared in by_split.items() if shared.by_key or shared.by_bytes}
