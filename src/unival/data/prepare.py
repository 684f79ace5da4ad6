"""From a source to a checked folder: manifests, media shards, tokenizer, description, table of rejected rows.

All bad rows are found in one go and listed with file, row, field and reason in `rejected.parquet`; preparing
fails when more than a set share is bad. The folder appears whole or not at all.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unival.data.intake import REJECTED, Intake
from unival.data.journal import NOTES
from unival.data.overlap import overlaps
from unival.data.source import Source
from unival.errors import UserError
from unival.files import digest, file_digest, write_json
from unival.folders import check_output, contents, publish

FORMAT = 2
RUN = "run.json"
RECORD = "benchmark.json"
MAX_TOKENIZER_TEXTS = 500_000


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

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"max_rejected is {self.max_rejected}: it is a share, from 0 to 1")


def prepare(
    config: PrepareConfig,
    source: Source,
    out: Path | str,
    resume: bool = False,
    progress: bool = False,
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Build the folder `out`; returns the description that is also written as benchmark.json.

    Args:
        source: what the configuration names (`unival.data.catalog.source_of`).
        resume: go on where an interrupted run with the same configuration stopped: media in its finished
            shards whose files have not changed since are neither read nor decoded again; the description that
            is returned counts them (`taken_over`). The bytes are those of an undisturbed run.
        progress: show on a terminal how many items are done.
        complete: checks the description before the folder appears, and gives what is written of it.

    Raises:
        UserError: too many bad rows (the table of them then lies beside `out`, which stays as it was), a
            folder that cannot be written or replaced.
    """
    out = Path(out)
    root = config.options.get("root")
    check_output(out, RECORD, [root] if root else [])
    part = out.with_name(f".{out.name}.part")
    with _alone_in(part):
        if not (resume and _same_run(part, config)):
            _empty(part)
            write_json(part / RUN, _run_of(config))
        stopped = resume
        try:
            writer = Intake(part, resume, MAX_TOKENIZER_TEXTS if config.tokenizer else 0)
            writer.consume(source, progress)
            stopped = False
            (part / RUN).unlink()
            writer.require_few_rejected(config.max_rejected, out.with_name(f"{out.name}.{REJECTED}"))
            if config.tokenizer is not None:
                _refuse_overlap(part)
                _train_tokenizer(config.tokenizer, writer.texts, part / "tokenizer")
            description = complete(_describe(config, source, writer, part))
            description |= contents(part, RECORD)
            write_json(part / RECORD, description)
            publish(part, out)
            out.with_name(f"{out.name}.{REJECTED}").unlink(missing_ok=True)  # of an earlier try
        finally:
            if not stopped:
                shutil.rmtree(part, ignore_errors=True)
    return {**description, **({"taken_over": writer.kept} if writer.kept else {})}


def rehearse(config: PrepareConfig, source: Source, scratch: Path, progress: bool = False) -> dict[str, Any]:
    """The description of what `prepare` would build, however much is bad, with `read` and `bad` items.

    Rows, media indexes and the table of what is rejected are written to `scratch`, bytes of media nowhere.

    Raises:
        UserError: the source gave nothing, or a file of it cannot be read.
    """
    writer = Intake(scratch, False, 0, store=False)
    writer.consume(source, progress)
    return {**_describe(config, source, writer, scratch), "read": writer.items, "bad": writer.bad_items}


def _run_of(config: PrepareConfig) -> dict[str, Any]:
    return {"name": config.name, "source": config.source, "options": config.options, "format": FORMAT}


def _same_run(part: Path, config: PrepareConfig) -> bool:
    """Whether an interrupted run with the same configuration left the folder; only its shards stay."""
    try:
        noted = json.loads((part / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    for path in part.rglob("*"):
        if path.is_file() and path != part / RUN and path.suffix != ".tar" and not path.name.endswith(NOTES):
            path.unlink()
    return bool(noted == _run_of(config))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from preparing it meanwhile (where files can be locked)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot write here: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not os.path.samestat(os.fstat(descriptor), folder.stat())
        except (BlockingIOError, FileNotFoundError):  # or it took its place just now
            taken = True
        except OSError:  # NFS locks no folder
            taken = False
        if taken:
            raise UserError(f"{folder}: another process is at work here: wait for its end")
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refuse_overlap(folder: Path) -> None:
    """A benchmark's evaluated splits hold no medium of its training splits, byte for byte."""
    for split, overlap in overlaps(folder).items():
        if overlap.by_bytes:
            raise UserError(
                f"{len(overlap.by_bytes)} of {overlap.media} media of split '{split}' are trained on too, "
                f"as '{overlap.by_bytes[0]}': divide the data by medium"
            )


def _train_tokenizer(config: TokenizerConfig, texts: list[str], folder: Path) -> None:
    from unival.vocab import UnivalTokenizer  # imports transformers: only when a vocabulary is wanted

    spaced = [f" {text.strip()}" for text in (*config.prompts, *texts)]
    tokenizer = UnivalTokenizer.train(spaced, config.size, config.num_codes, config.num_bins)
    tokenizer.save_pretrained(folder)


def _describe(config: PrepareConfig, source: Source, writer: Intake, folder: Path) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split in sorted({split for split, _ in writer.manifests} | set(writer.shards)):
        files = sorted((folder / split).iterdir())
        splits[split] = {
            "rows": {task: rows.rows for (name, task), rows in writer.manifests.items() if name == split},
            "media": dict(writer.shards[split].counts) if split in writer.shards else {},
            "bytes": sum(file.stat().st_size for file in files),
            "digest": digest({file.name: _content_digest(file) for file in files}),
        }
    return {
        **_run_of(config),
        "licence": source.licence,
        "rejected": writer.rejected.rows,
        "rejected_from": {split: dict(counts) for split, counts in writer.bad.items()},
        "cut_boxes": writer.cut_boxes,
        "splits": splits,
        **source.info,
    }


def _content_digest(file: Path) -> str | int:
    """Of a shard its size alone: the index beside it holds the digest of each of its media."""
    return file.stat().st_size if file.suffix == ".tar" else file_digest(file)
