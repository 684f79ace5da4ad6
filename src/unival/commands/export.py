"""`unival export`: rows of a prepared split as OFA's TSV."""

import argparse
from pathlib import Path

from unival.data.sources.ofa_tsv import WRITERS, write_tsv


def main(arguments: list[str]) -> None:
    """`unival export`: rows of a prepared split as OFA's TSV."""
    parser = argparse.ArgumentParser(prog="unival export", description="Prepared rows as OFA's TSV.")
    parser.add_argument(
        "--split",
        type=Path,
        required=True,
        metavar="<folder>",
        help="a prepared split, such as data/processed/coco/val",
    )
    parser.add_argument("--task", choices=WRITERS, required=True, metavar="<task>", help=", ".join(WRITERS))
    parser.add_argument("--out", type=Path, required=True, metavar="<file>")
    options = parser.parse_args(arguments)
    print(f"{write_tsv(options.split, options.task, options.out)} rows in {options.out}")
