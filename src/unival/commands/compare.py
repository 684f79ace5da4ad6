"""`unival compare`: two or more results side by side, each against the first.

    unival compare base lr                        DVC experiments, commits, MLflow runs (id or name)
    unival compare models/finetune/vqa models/merged/average
    unival compare multirun/sweep-20260301-120000          the jobs of a sweep, or of a sweep one of its jobs
    unival compare start.jsonl mine.jsonl                  predictions for the rows of one task
    unival compare ../old/reports reports                  another clone
    unival compare a0,a1,a2 b0,b1,b2                       groups of seeds

Prints a verdict and the primary scores, and writes a page (index.html), every metric of every cell
(cells.csv), the rows that flipped (flips.csv) and the parameters that differ (parameters.csv). The page is
also put on the runs in MLflow.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from unival import files, tracking
from unival.comparison import sides
from unival.comparison.differences import Difference, SideBySide, compare, place
from unival.comparison.paired import Flip
from unival.errors import UserError
from unival.report import words
from unival.report.page import to_html
from unival.study import tables

FOLDER = Path("comparisons")


def main(arguments: list[str]) -> None:
    """Print what differs, and write it as a page and tables.

    Raises:
        UserError: a name that is none, or nothing to compare.
    """
    parser = argparse.ArgumentParser(
        prog="unival compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", metavar="<result>", help="the first one is the baseline")
    parser.add_argument("--out", type=Path, metavar="<folder>", help="default: comparisons/<names>")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    options = parser.parse_args(arguments)
    from unival.comparison import page  # draws

    with tempfile.TemporaryDirectory(prefix="unival-compare-") as scratch:
        compared = compare([side for text in options.results for side in sides.read(text, Path(scratch))])
        out = options.out or FOLDER / _name(compared)
        figures = Path(scratch) / "figures"
        figures.mkdir()
        files.write_text(out / "index.html", to_html(page.document(compared, figures), figures))
    _write(compared, out)
    if options.json:
        print(json.dumps(_values(compared), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(compared)))
    print(f"wrote {out}/index.html, cells.csv, flips.csv, parameters.csv", file=sys.stderr)
    _attach(compared, out)


def _name(found: SideBySide) -> str:
    """A folder's name made of those of the sides, shortened where they are long."""
    names = [re.sub(r"[^\w.]+", "-", side.name).strip("-")[-40:] for side in found.sides]
    text = "--".join(names)
    return text if len(text) <= 120 else f"{text[:100]}-{files.digest(names)}"


def _write(found: SideBySide, out: Path) -> None:
    tables.write(out / "cells.csv", Difference, found.differences)
    tables.write(out / "flips.csv", Flip, found.flips)
    columns = ["parameter", "processes", *(side.name for side in found.sides)]
    files.write_csv(
        out / "parameters.csv", columns, ([one.key, one.processes, *one.values] for one in found.parameters)
    )


def _values(found: SideBySide) -> dict[str, object]:
    return {
        "sides": [side.name for side in found.sides],
        "verdicts": [text.replace("**", "") for text in found.verdicts],
        "parameters": [asdict(one) for one in found.parameters],
        "cells": list(tables.flat(Difference, found.differences)),
        "flips": [asdict(one) for one in found.flips],
        "left_out": found.left_out,
    }


def _lines(found: SideBySide) -> list[str]:
    """The verdict, parameters, and primary scores in distribution."""
    lines = [text.replace("**", "") for text in found.verdicts]
    if found.parameters:
        rows = [[one.key, *one.values, one.processes] for one in found.parameters]
        lines += ["", _columns([["parameter", *(side.name for side in found.sides), "of"], *rows])]
    primary = [one for one in found.differences if one.p_holm is not None]
    if primary:
        head = ["cell", "metric", "before", "after", "difference", "p", "rows", "seeds", "result"]
        rows = [
            [
                place((one.model, one.task, "")), one.metric, words.number(one.before),
                words.number(one.after), words.change(one.difference), words.chance(one.p_holm), str(one.n),
                str(one.seeds), one.side,
            ]
            for one in primary
        ]  # fmt: skip
        lines += ["", _columns([head, *rows])]
    won = sum(flip.won for flip in found.flips)
    lines += [
        "",
        f"{won} rows won, {len(found.flips) - won} lost; {len(found.differences)} figures in cells.csv",
    ]
    return [*lines, *(f"not compared: {what}" for what in found.left_out)]


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """A table; long cells end in an ellipsis."""
    return words.columns([[cell if len(cell) <= 48 else f"{cell[:47]}…" for cell in row] for row in rows])


def _attach(found: SideBySide, out: Path) -> None:
    """Put the page on every run that was compared; a store that does not take it costs a line."""
    if os.environ.get("UNIVAL_TRACKING") == "off":
        return
    ids = dict.fromkeys(member.run_id for side in found.sides for member in side.members if member.run_id)
    try:
        for run_id in ids:
            tracking.attach(run_id, out / "index.html", f"comparisons/{out.name}")
    except UserError as error:
        print(f"note: the page is not in MLflow: {error}", file=sys.stderr)
