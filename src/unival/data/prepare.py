"""From a source to a checked folder: manifests, media shards, tokenizer, description, table of rejected rows.

All bad rows are found in one go and listed with file, row, field and reason in `rejected.parquet`; preparing
fails when more than a set share is bad. The folder appears whole or not at all.
"""

import importlib
import json
import pkgutil
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unival.data import media
from unival.data.manifest import ManifestWriter, check_row
from unival.data.overlap import overlaps
from unival.data.source import SOURCES, BadItem, MediaItem, RowItem, Source
from unival.data.store import ShardWriter
from unival.errors import UserError, nearest
from unival.files import atomic, digest, file_digest, write_json
from unival.record import LABELS, MEDIA, Medium, Record

FORMAT = 1
REJECTED = "rejected.parquet"
RUN = "run.json"
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "row", "field", "reason")])
MAX_TOKENIZER_TEXTS = 500_000
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
TASK_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class TokenizerConfig:
    """The vocabulary trained on the train split's text."""

    size: int
    """Text tokens, at most."""
    num_codes: int
    """Image codes <code_i>."""
    num_bins: int
    """Location bins <bin_i>."""
    prompts: list[str] = field(default_factory=list)
    """Texts besides the rows' own (the prompts of the tasks), so that they are short sequences."""


@dataclass(frozen=True)
class PrepareConfig:
    """What `prepare` builds."""

    name: str
    """Name of the benchmark: the folder under data/processed."""
    source: str
    """Registered source."""
    options: dict[str, Any]
    """The source's own options, checked by it."""
    max_rejected: float
    """Largest share of bad rows and media that is accepted."""
    tokenizer: TokenizerConfig | None = None


def load_sources() -> None:
    """Import every module that registers a source."""
    for package in ("unival.data.world", "unival.data.sources"):
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            continue
        for info in pkgutil.iter_modules(module.__path__):
            importlib.import_module(f"{package}.{info.name}")


def prepare(
    config: PrepareConfig, out: Path | str, where: str = "benchmark", resume: bool = False
) -> dict[str, Any]:
    """Build the folder `out`; returns the description that is also written as benchmark.json.

    Args:
        where: file and key of the configuration, for messages.
        resume: go on where an interrupted run with the same configuration stopped: media in its finished
            shards are neither read nor decoded again. The bytes are those of an undisturbed run.

    Raises:
        UserError: too many bad rows, an unusable option, a folder that cannot be written.
    """
    load_sources()
    source = SOURCES[config.source](config.options, f"{where}: options")
    out = Path(out)
    part = out.with_name(f".{out.name}.part")
    if not (resume and _same_run(part, config)):
        _make_folder(part)
        write_json(part / RUN, _run_of(config))
    stopped = resume
    try:
        writer = _Writer(part, resume, MAX_TOKENIZER_TEXTS if config.tokenizer else 0)
        writer.consume(source)
        stopped = False
        (part / RUN).unlink()
        _write_rejected(part / REJECTED, writer.rejected)
        if writer.rejected_share > config.max_rejected:
            _replace_folder(part, out, only=REJECTED)
            raise UserError(writer.failure(out / REJECTED, config.max_rejected))
        if config.tokenizer is not None:
            _refuse_overlap(part)
            _train_tokenizer(config.tokenizer, writer.texts, part / "tokenizer")
        description = _describe(config, source, writer, part)
        write_json(part / "benchmark.json", description)
        _replace_folder(part, out)
    finally:
        if not stopped:
            shutil.rmtree(part, ignore_errors=True)
    return description


def _run_of(config: PrepareConfig) -> dict[str, Any]:
    return {"name": config.name, "source": config.source, "options": _plain(config.options), "format": FORMAT}


def _same_run(part: Path, config: PrepareConfig) -> bool:
    """Whether an interrupted run with the same configuration left the folder; half-written files go."""
    try:
        found = json.loads((part / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    for path in part.glob("*/.*.part"):
        path.unlink()
    return bool(found == _run_of(config))


class _Writer:
    """Checks items and hands them to the writers of their split."""

    def __init__(self, folder: Path, journal: bool, max_texts: int) -> None:
        self.folder, self.journal, self.max_texts = folder, journal, max_texts
        self.shards: dict[str, ShardWriter] = {}
        self.manifests: dict[tuple[str, str], ManifestWriter] = {}
        self.sizes: defaultdict[str, dict[str, tuple[Medium, int, int]]] = defaultdict(dict)
        """Split -> key -> kind, width and height."""
        self.bad_keys: set[tuple[str, str]] = set()
        self.ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """Split and task -> ids."""
        self.texts: list[str] = []
        self.rejected: list[BadItem] = []
        self.bad_items = 0
        self.items = 0
        self.media_counts: Counter[tuple[str, str]] = Counter()

    @property
    def rejected_share(self) -> float:
        return self.bad_items / max(self.items, 1)

    def consume(self, source: Source) -> None:
        try:
            for item in source.items:
                self.items += 1
                before = len(self.rejected)
                if isinstance(item, MediaItem):
                    self._media(item)
                elif isinstance(item, RowItem):
                    self._row(item)
                else:
                    self.rejected.append(item)
                self.bad_items += len(self.rejected) > before
        except BaseException as error:  # half a shard is dropped, so that going on gives the same shards
            for writer in self._writers():
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        for writer in self._writers():
            writer.close()
        if not self.manifests and not self.rejected:
            raise UserError("the source gave no rows: check its folder and options")

    def _writers(self) -> list[ShardWriter | ManifestWriter]:
        return [*self.shards.values(), *self.manifests.values()]

    def _media(self, item: MediaItem) -> None:
        file = item.file or str(item.data if isinstance(item.data, Path) else item.split)
        suffix = item.suffix or (item.data.suffix if isinstance(item.data, Path) else "")
        shard = self._shard(item.split)
        kind = "media"
        try:
            kind = media.kind_of(suffix, file)
            if item.key in shard.keys:
                raise UserError(f"media key '{item.key}' is used twice in split '{item.split}'")
            if item.key in shard.done:
                self._enter(item, *shard.keep(item.key))
                return
            data = item.data if isinstance(item.data, bytes) else _read(item.data)
            width, height = media.describe(kind, data, file)
        except UserError as error:
            if item.key not in shard.keys:  # a second medium under a used key does not spoil the first
                self.bad_keys.add((item.split, item.key))
            self.rejected.append(BadItem(file, item.row, kind, str(error).removeprefix(f"{file}: ")))
            return
        shard.add(item.key, kind, suffix.lower(), data, width, height)
        self._enter(item, kind, width, height)

    def _enter(self, item: MediaItem, kind: Medium, width: int, height: int) -> None:
        self.sizes[item.split][item.key] = kind, width, height
        self.media_counts[item.split, kind] += 1

    def _row(self, item: RowItem) -> None:
        problems: list[tuple[str, str]] = []
        if not TASK_NAME.fullmatch(item.task) or item.task == "media":
            problems.append(("task", f"'{item.task}' is no name of a task: letters, digits and _"))
        if isinstance(item.row, Record):
            record: Record | None = item.row
        else:
            record, found = check_row(item.row)
            problems += found
        if record is not None and not problems:
            problems += self._problems(item, record)
        if record is None or problems:
            self.rejected += [BadItem(item.file, item.number, name, reason) for name, reason in problems]
            return
        self.ids[item.split, item.task].add(record.id)
        if (item.split, item.task) not in self.manifests:
            self.manifests[item.split, item.task] = ManifestWriter(self.folder / item.split, item.task)
        self.manifests[item.split, item.task].add(record)
        if item.split == "train" and len(self.texts) < self.max_texts:
            answers = (answer.text for answer in record.answers[:1])
            self.texts += [text for text in (record.text, *record.references, *answers) if text]

    def _problems(self, item: RowItem, record: Record) -> Iterator[tuple[str, str]]:
        for name in NEEDS.get(item.task, ()):
            if not getattr(record, name):
                yield name, f"empty, and task '{item.task}' needs it"
        usable = record.media() and (record.references or record.answers or record.box)
        if item.task not in NEEDS and not usable:
            hint = nearest(item.task, NEEDS)
            yield "task", f"task '{item.task}' needs a medium, and references, answers or a box ({hint})"
        if record.id in self.ids[item.split, item.task]:
            yield "id", f"'{record.id}' is used twice in split '{item.split}', task '{item.task}'"
        for name in MEDIA:
            key = getattr(record, name)
            if key is not None:
                yield from self._key_problems(item.split, name, key, record)
        labels = LABELS.get(item.task)
        if labels and any(answer.text not in labels for answer in record.answers):
            yield "answers", f"'{record.answers[0].text}' is no label: labels: {', '.join(labels)}"
        if not all(map(str.strip, record.references)):
            yield "references", "an empty reference"

    def _key_problems(self, split: str, name: Medium, key: str, record: Record) -> Iterator[tuple[str, str]]:
        if (split, key) in self.bad_keys:
            yield name, f"its {name} '{key}' was rejected"
            return
        if key not in self.sizes[split]:
            yield name, f"no medium with key '{key}' in split '{split}'"
            return
        kind, width, height = self.sizes[split][key]
        if kind != name:
            yield name, f"key '{key}' is a medium of kind {kind}"
        elif record.box is not None and (record.box[2] > width or record.box[3] > height):
            yield "box", f"{list(record.box)} reaches outside the {width}x{height} {name}"

    def _shard(self, split: str) -> ShardWriter:
        if split not in self.shards:
            self.shards[split] = ShardWriter(self.folder / split, journal=self.journal)
        return self.shards[split]

    def failure(self, table: Path, limit: float) -> str:
        """The message for too many bad items, with the most frequent reasons."""
        reasons = Counter((bad.field, bad.reason) for bad in self.rejected)
        first = {(bad.field, bad.reason): f"{bad.file} {bad.row}" for bad in reversed(self.rejected)}
        worst = "".join(
            f"\n  {count} x {': '.join(reason)} (first: {first[reason]})"
            for reason, count in reasons.most_common(5)
        )
        return (
            f"{table}: {self.bad_items} of {self.items} rows and media are bad ({self.rejected_share:.1%}, "
            f"accepted {limit:.1%}): mend them (the table lists file, row, field and reason) or raise "
            f"max_rejected{worst}"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error


def _make_folder(path: Path) -> None:
    try:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot write here: {error.strerror}") from error


def _replace_folder(part: Path, out: Path, only: str | None = None) -> None:
    """Put `part` (or one file of it) in the place of `out`."""
    try:
        if out.exists():
            shutil.rmtree(out)
        if only is None:
            part.rename(out)
        else:
            out.mkdir()
            (part / only).rename(out / only)
    except OSError as error:
        raise UserError(f"{out}: cannot replace the folder: {error.strerror}") from error


def _write_rejected(path: Path, rejected: list[BadItem]) -> None:
    columns = {name: [getattr(bad, name) for bad in rejected] for name in REJECTED_SCHEMA.names}
    with atomic(path) as part:
        pq.write_table(pa.table(columns, schema=REJECTED_SCHEMA), part)


def _refuse_overlap(folder: Path) -> None:
    """A benchmark's evaluated splits hold no medium of its training split, byte for byte."""
    for split, found in overlaps(folder).items():
        if found.by_bytes:
            raise UserError(
                f"{len(found.by_bytes)} of {found.media} media of split '{split}' are in 'train' too, "
                f"as '{found.by_bytes[0]}': divide the data by medium"
            )


def _train_tokenizer(config: TokenizerConfig, texts: list[str], folder: Path) -> None:
    from unival.vocab import UnivalTokenizer  # imports transformers: only when a vocabulary is wanted

    spaced = [f" {text.strip()}" for text in (*config.prompts, *texts)]
    tokenizer = UnivalTokenizer.train(spaced, config.size, config.num_codes, config.num_bins)
    tokenizer.save_pretrained(folder)


def _describe(config: PrepareConfig, source: Source, writer: _Writer, folder: Path) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split in sorted({split for split, _ in writer.manifests} | set(writer.shards)):
        files = sorted((folder / split).iterdir())
        splits[split] = {
            "rows": {
                task: writer.manifests[split, task].rows
                for _, task in sorted(place for place in writer.manifests if place[0] == split)
            },
            "media": {
                kind: writer.media_counts[split, kind] for kind in MEDIA if writer.media_counts[split, kind]
            },
            "bytes": sum(file.stat().st_size for file in files),
            "digest": digest({file.name: _content_digest(file) for file in files}),
        }
    return {
        "name": config.name,
        "format": FORMAT,
        "source": config.source,
        "options": _plain(config.options),
        "licence": source.licence,
        "rejected": len(writer.rejected),
        "splits": splits,
        **source.info,
    }


def _content_digest(file: Path) -> str | int:
    """Of a shard its size alone: the index beside it holds the digest of each of its media."""
    return file.stat().st_size if file.suffix == ".tar" else file_digest(file)


def _plain(value: Any) -> Any:
    return {str(key): _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
