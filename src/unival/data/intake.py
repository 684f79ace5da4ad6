"""What a source gives is checked and written: rows to manifests, media to shards, faults to a table.

Every item is looked at; memory does not grow with their number.
"""

import hashlib
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from unival.data import media
from unival.data.disk_map import DiskMap
from unival.data.journal import Stamp, stamp
from unival.data.manifest import ManifestWriter, check_row, check_text
from unival.data.source import BadItem, MediaItem, RowItem, Source
from unival.data.store import ShardWriter, Unstored
from unival.data.table import TableWriter
from unival.errors import UserError, nearest
from unival.files import inside
from unival.media_format import box_as_shown
from unival.record import LABELS, MODALITIES, TRAINING_SPLITS, Modality, Record

REJECTED = "rejected.parquet"
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "row", "field", "reason")])
SMALL_BYTES = 16_384
"""A medium at hand that is smaller is not worth a thread."""
BORDER = 1.0
"""Pixels by which a box may reach over the border: annotators' tools round so. It is cut there, as RefCOCO's
own code does; a box further out belongs to another picture or scale."""
MAX_WAITING = 256
"""Items that wait for the medium before them."""
Item = MediaItem | RowItem | BadItem
NEEDS: dict[str, tuple[str, ...]] = {
    "caption": ("image", "references"),
    "vqa": ("image", "text", "answers"),
    "grounding": ("image", "text", "box"),
    "entailment": ("image", "text", "answers"),
    "video_caption": ("video", "references"),
    "video_qa": ("video", "text", "answers"),
    "audio_caption": ("audio", "references"),
    "matching": ("image", "text", "answers"),
    "grounded_caption": ("image", "box", "references"),
    "video_matching": ("video", "text", "answers"),
    "audio_qa": ("audio", "text", "answers"),
    "text": ("references",),
}
"""Fields that a row of the paper's tasks must have; of any other: a medium and something to say of it."""
PUBLISHED = ("references", "answers")
"""Fields that all rows of a test split may lack: its server keeps them."""
TASK_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Intake:
    """Checks items and hands them to the writers of their split; without `store` no bytes of media."""

    def __init__(self, folder: Path, journal: bool, max_texts: int, store: bool = True) -> None:
        self.folder, self.journal, self.max_texts, self.store = folder, journal, max_texts, store
        self.shards: dict[str, ShardWriter] = {}
        self.manifests: dict[tuple[str, str], ManifestWriter] = {}
        self.bad_keys = DiskMap()
        """Split and key."""
        self.ids = DiskMap()
        """Split, task and id, and the name of the file that has it."""
        self.texts: list[str] = []
        self.labelled: dict[tuple[str, str], bool] = {}
        """Split and task -> whether rows have what predictions are compared with."""
        self.writers = ExitStack()
        """Left with an error they drop what is not whole, so that going on gives the same shards."""
        self.rejected = self.writers.enter_context(TableWriter(folder / REJECTED, REJECTED_SCHEMA))
        self.bad_items = 0
        self.bad: dict[str, Counter[str]] = {}
        """Split -> task, or "media" -> how many of it were rejected."""
        self.cut_boxes = 0
        """Boxes that reached over the border by no more than BORDER."""
        self.items = 0

    @property
    def kept(self) -> int:
        """Media that an interrupted run had written."""
        return sum(shard.kept for shard in self.shards.values())

    def consume(self, source: Source, progress: bool = False) -> None:
        """Check and write all items in their order; media are read, decoded and hashed ahead in threads.

        Raises:
            UserError: the source gave nothing, not even bad rows.
        """
        hidden = None if progress else True  # None: shown on a terminal
        items = tqdm(source.items, unit=" rows and media", disable=hidden)
        with self.writers, closing(self._ahead(items)) as ahead:
            for item, inspect in ahead:
                before = self.rejected.rows
                if isinstance(item, RowItem):
                    self._row(item)
                elif isinstance(item, BadItem):
                    self._reject(item.file, item.row, item.field, item.reason)
                elif inspect is not None:
                    self._media(item, inspect)
                if self.rejected.rows > before:
                    self._count(item)
        if not self.manifests and not self.rejected.rows:
            raise UserError("the source gave no rows: check its folder and options")

    def _count(self, item: Item) -> None:
        self.bad_items += 1
        if not isinstance(item, BadItem):  # of what could not be read nobody knows the split
            what = "media"
            if isinstance(item, RowItem):
                known = item.task in NEEDS or (item.split, item.task) in self.manifests
                what = item.task if known else "other rows"
            self.bad.setdefault(item.split, Counter())[what] += 1

    def _ahead(self, items: Iterable[Item]) -> Generator[tuple[Item, "Inspect | None"]]:
        """The items in their order, media with what gives the result of inspecting them.

        It is None for a medium that an earlier run has written.
        """
        from joblib import cpu_count  # here: it takes a while

        cores = int(cpu_count())
        pool = ThreadPoolExecutor(cores) if cores > 1 else None
        waiting: deque[tuple[Item, Inspect | None]] = deque()
        media_waiting = 0
        try:
            for item in items:
                self.items += 1
                waiting.append((item, self._start(item, pool)))
                media_waiting += waiting[-1][1] is not None
                while waiting and (
                    waiting[0][1] is None or media_waiting > 2 * cores or len(waiting) > MAX_WAITING
                ):
                    media_waiting -= waiting[0][1] is not None
                    yield waiting.popleft()
            yield from waiting
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _start(self, item: Item, pool: Executor | None) -> "Inspect | None":
        if not isinstance(item, MediaItem) or self._shard(item.split).keep(item):
            return None
        if pool is None or (isinstance(item.data, bytes) and len(item.data) < SMALL_BYTES):
            return partial(_inspect, item)
        return pool.submit(_inspect, item).result

    def _reject(self, file: str, row: str, field: str, reason: str) -> None:
        fault = {"file": file, "row": row, "field": field, "reason": reason}
        # a file's name, or what was rejected, may be no Unicode text
        fault = {name: text.encode(errors="backslashreplace").decode() for name, text in fault.items()}
        self.rejected.write(fault)

    def _media(self, item: MediaItem, inspect: "Inspect") -> None:
        shard, kind = self._shard(item.split), "media"
        try:
            inside(self.folder, check_text(item.key))  # it becomes a name in a shard
            kind = item.modality
            shard.add(item.key, *inspect())
        except (UserError, ValueError) as error:
            if not shard.known(item.key):  # a second medium under a used key does not spoil the first
                self.bad_keys.add(f"{item.split}\0{item.key}")
            self._reject(item.origin, item.row, kind, str(error).removeprefix(f"{item.origin}: "))

    def _row(self, item: RowItem) -> None:
        problems: list[tuple[str, str]] = []
        if not TASK_NAME.fullmatch(item.task) or item.task == "media":
            problems.append(("task", f"'{item.task}' is not a name of a task: letters, digits and _"))
        record, faults = check_row(item.row)
        problems += faults
        if record is not None and not problems:
            record, faults = self._placed(item, record)
            problems += faults or self._problems(item, record)
        place = f"{item.split}\0{item.task}\0"
        file = item.file.rpartition("/")[2]
        if record is not None and not problems and not self.ids.add(place + record.id, file):
            other = self.ids.get(place + record.id)
            where = f": {other} has it too" if other and other != file else ""
            reason = f"'{record.id}' is used twice in split '{item.split}', task '{item.task}'{where}"
            problems.append(("id", reason))
        if record is None or problems:
            for name, reason in problems:
                self._reject(item.file, item.number, name, reason)
            return
        if (item.split, item.task) not in self.manifests:
            writer = ManifestWriter(self.folder / item.split, item.task)
            self.manifests[item.split, item.task] = self.writers.enter_context(writer)
        self.manifests[item.split, item.task].add(record)
        if item.split in TRAINING_SPLITS and len(self.texts) < self.max_texts:
            answers = (answer.text for answer in record.answers[:1])
            self.texts += [text for text in (record.text, *record.references, *answers) if text]

    def _placed(self, item: RowItem, record: Record) -> tuple[Record, list[tuple[str, str]]]:
        """The row with its box turned with its picture and cut at the border, and why that cannot be."""
        shard = self.shards.get(item.split)
        known = shard.known(record.media()[0][1]) if shard and record.media() else None
        if record.box is None or known is None:  # a medium that is not there is another fault
            return record, []
        kind, *size, orientation = known
        try:
            box = box_as_shown(record.box, orientation, (size[0], size[1]), item.size)
        except UserError as error:
            return record, [("box", str(error))]
        x0, y0, x1, y1 = (min(max(side, 0.0), float(end)) for side, end in zip(box, size * 2, strict=True))
        moved = max(abs(new - old) for new, old in zip((x0, y0, x1, y1), box, strict=True))
        if moved > BORDER or x0 >= x1 or y0 >= y1:
            return record, [("box", f"{list(box)} reaches outside the {size[0]}x{size[1]} {kind}")]
        self.cut_boxes += moved > 0
        return replace(record, box=(x0, y0, x1, y1)), []

    def _problems(self, item: RowItem, record: Record) -> Iterator[tuple[str, str]]:
        # the first row of a test split says whether its answers are published
        labelled = self.labelled.setdefault((item.split, item.task), record.labelled or item.split != "test")
        for name in NEEDS.get(item.task, ()):
            if not getattr(record, name) and (labelled or name not in PUBLISHED):
                yield name, f"empty, and task '{item.task}' needs it"
        if record.labelled and not labelled:
            yield "row", "has answers, and the first row of this split has none: leave such rows out"
        usable = record.media() and (record.labelled or not labelled)
        if item.task not in NEEDS and not usable:
            hint = nearest(item.task, NEEDS)
            yield "task", f"task '{item.task}' needs a medium, and references, answers or a box ({hint})"
        for name in MODALITIES:
            key = getattr(record, name)
            if key is not None:
                yield from self._key_problems(item.split, name, key)
        labels = LABELS.get(item.task)
        if labels and any(answer.text not in labels for answer in record.answers):
            yield "answers", f"'{record.answers[0].text}' is not a label: labels: {', '.join(labels)}"
        if not all(map(str.strip, record.references)):
            yield "references", "an empty reference"

    def _key_problems(self, split: str, name: Modality, key: str) -> Iterator[tuple[str, str]]:
        known = self.shards[split].known(key) if split in self.shards else None
        if known is None:
            if f"{split}\0{key}" in self.bad_keys:
                yield name, f"its {name} '{key}' was rejected"
            else:
                yield name, f"no medium with key '{key}' in split '{split}'"
            return
        if known[0] != name:
            yield name, f"key '{key}' is of modality {known[0]}"

    def _shard(self, split: str) -> ShardWriter:
        if split not in self.shards:
            made = ShardWriter if self.store else Unstored
            writer = made(self.folder / split, journal=self.journal)
            self.shards[split] = self.writers.enter_context(writer)
        return self.shards[split]

    def require_few_rejected(self, limit: float, table: Path) -> None:
        """Check the share of bad items; where it is larger, their table is moved to `table`.

        Raises:
            UserError: more than `limit`, with the most frequent reasons.
        """
        share = self.bad_items / max(self.items, 1)
        if share <= limit:
            return
        first: dict[tuple[str, str], tuple[str, str]] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for batch in pq.ParquetFile(self.folder / REJECTED).iter_batches():
            for row in batch.to_pylist():
                kind = row["field"], re.sub(r"'[^']*'", "...", row["reason"])  # whatever the key or the id
                first.setdefault(kind, (row["reason"], f"{row['file']} {row['row']}".strip()))
                counts[kind] += 1
        worst = "".join(
            f"\n  {count} x {kind[0]}: {first[kind][0]} (first: {first[kind][1]})"
            for kind, count in counts.most_common(5)
        )
        (self.folder / REJECTED).replace(table)
        raise UserError(
            f"{table}: {self.bad_items} of {self.items} rows and media are bad ({share:.1%}, "
            f"accepted {limit:.1%}): fix them (the table lists file, row, field and reason) or raise "
            f"max_rejected{worst}"
        )


class _Medium(NamedTuple):
    """A medium that can be decoded; in the order of `ShardWriter.add`."""

    kind: Modality
    suffix: str
    data: bytes
    width: int
    height: int
    sha256: str
    orientation: int
    part: media.Part | None
    source: Stamp | None


Inspect = Callable[[], _Medium]


def _inspect(item: MediaItem) -> _Medium:
    """Read, decode and hash a medium.

    Raises:
        UserError: one of these fails.
    """
    kind = item.modality
    source = stamp(item.data) if isinstance(item.data, Path) else None  # before it is read
    data = item.read()
    width, height = media.describe(kind, data, item.origin, item.part)
    orientation = media.image_orientation(data, item.origin) if kind == "image" else 1
    sha256 = hashlib.sha256(data).hexdigest()
    return _Medium(kind, item.ending, data, width, height, sha256, orientation, item.part, source)
