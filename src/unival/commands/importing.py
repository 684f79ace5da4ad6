"""`unival import <data set> --root DIR --out DIR`: an official data set as shards and manifests."""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from unival.data.catalog import load_sources
from unival.data.importing import MAX_REJECTED, import_dataset
from unival.data.intake import REJECTED
from unival.data.overlap import overlaps
from unival.data.sources.reader import READERS
from unival.errors import UserError

SHOWN = 20
"""Refused rows and media that a dry run prints."""


def main(arguments: list[str]) -> None:
    """`unival import`: import a data set and print what was written, or would be.

    Raises:
        UserError: see `import_dataset`; of a dry run: the import would stop.
    """
    load_sources()
    if arguments and not arguments[0].startswith("-"):
        READERS[arguments[0]]  # names the nearest where there is none of that name
    options = vars(_parser().parse_args(arguments))
    options["expect"] = dict(map(_expectation, options["expect"]))
    if not options.pop("dry_run"):
        _print(import_dataset(**options, progress=True), options["out"], options["text_only"])
        return
    with tempfile.TemporaryDirectory(prefix="unival-import-") as scratch:
        description = import_dataset(**options, progress=True, scratch=Path(scratch))
        print(f"read: {description['read']} rows and media; nothing is written. Kept:")
        _print(description, Path(scratch), options["text_only"])
        _print_refused(Path(scratch) / REJECTED, description["rejected"])
    share, accepted = description["bad"] / max(description["read"], 1), options["max_rejected"]
    if share > accepted:
        raise UserError(
            f"{options['out']}: would not be written: {share:.1%} of the rows and media are bad, accepted "
            f"{accepted:.1%}: fix them, or give --max-rejected"
        )


def _print_refused(table: Path, faults: int) -> None:
    import pyarrow.parquet as pq

    rows = (row for batch in pq.ParquetFile(table).iter_batches() for row in batch.to_pylist())
    for row in islice(rows, SHOWN):
        place = f"{row['file']} {row['row']}".strip()
        print(f"refused: {place}: {row['field']}: {row['reason']}")
    if faults > SHOWN:
        print(f"refused: {faults - SHOWN} more")


def _print(description: dict[str, Any], out: Path, text_only: bool) -> None:
    if kept := description.get("taken_over"):
        print(f"note: {kept} media taken over from the import that was stopped: their files have not changed")
    for split, facts in description["splits"].items():
        counts = {**facts["rows"], **facts["media"]}
        print(f"{split}: " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    for cell, count in {} if text_only else description["complete"].items():
        if count["rows"] != count["complete_set"]:
            print(f"note: {cell}: {count['rows']} rows; the complete set has {count['complete_set']}")
    if description["rejected"] and "bad" not in description:
        print(f"note: {description['rejected']} faults, listed in {out / REJECTED}")
    if description["cut_boxes"]:
        print(f"note: {description['cut_boxes']} boxes reached a pixel over the border and were cut there")
    for split, overlap in overlaps(out).items():
        print(
            f"note: {split}: of {overlap.media} media {len(overlap.by_key)} are trained on by key, "
            f"{len(overlap.by_bytes)} byte for byte"
        )
    print(f"licence: {description['licence']}")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, required=True, metavar="<folder>", help="folder of the original files"
    )
    common.add_argument("--out", type=Path, required=True, metavar="<folder>", help="folder to write")
    common.add_argument(
        "--max-rejected", type=float, default=MAX_REJECTED, metavar="<share>",
        help=f"largest share of bad rows and media that is accepted (default {MAX_REJECTED})",
    )  # fmt: skip
    common.add_argument(
        "--dry-run", action="store_true", help="say what would be read, kept and refused, and write nothing"
    )
    common.add_argument("--text-only", action="store_true", help="only the captions, without media")
    common.add_argument(
        "--split", default="", metavar="<split>", help="where to put rows without an official split"
    )
    common.add_argument(
        "--expect",
        nargs="*",
        default=[],
        metavar="<split>/<task>=<rows>",
        help="fail unless there are exactly this many",
    )
    parser = argparse.ArgumentParser(
        prog="unival import", description="An official data set as shards and manifests."
    )
    title = "data sets, and what each expects under --root"
    names = parser.add_subparsers(title=title, dest="name", metavar="<data set>", required=True)
    for name in READERS.names():
        reader = READERS[name]
        counts = ", ".join(f"{cell} {number:,}" for cell, number in reader.counts.items()) or "not known"
        names.add_parser(
            name, parents=[common], help=reader.expects, formatter_class=argparse.RawDescriptionHelpFormatter,
            description=f"expects: {reader.expects}\nlicence: {reader.licence}\nrows of the whole: {counts}",
        )  # fmt: skip
    return parser


def _expectation(text: str) -> tuple[str, int]:
    cell, _, number = text.partition("=")
    if "/" not in cell or not number.isdecimal():
        raise UserError(f"--expect {text}: write <split>/<task>=<rows>, as train/caption=80")
    return cell, int(number)
