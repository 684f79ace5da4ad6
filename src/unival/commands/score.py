"""`unival score`: the official metrics of predictions, and the file that evaluation servers read.

    unival score reports/predictions/merged/average/caption/test.jsonl --submission captions.json
    unival score made.jsonl --model models/base --split data/processed/coco/test --task caption
    unival score results.json --split data/processed/coco/test --task caption

With a model, its predictions for an imported split are written first; ranks of torchrun share the rows. With
a split alone, predictions are compared with its rows, since a results file (of COCO's form, say) has no
references.

Captions get the official tokeniser's metrics and METEOR where there is a Java (names with `_ptb`), and CHAIR
with a list of objects; questions the official VQA accuracy and the calibration of the answers' probabilities;
boxes Acc@IoU by size. Intervals by bootstrap. Rows without references are not scored: they are for
--submission.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unival import files

if TYPE_CHECKING:
    from unival.engine.inference.score import Score


def main(arguments: list[str]) -> None:
    """Print the metrics; write the submission file."""
    parser = argparse.ArgumentParser(
        prog="unival score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "predictions", type=Path, metavar="<file>", help="predictions of `evaluate`, or a results file"
    )
    parser.add_argument(
        "--objects", type=Path, metavar="<file>", help="for CHAIR: synonyms, one object per line"
    )
    parser.add_argument(
        "--submission", type=Path, metavar="<file>", help="results in the form of the evaluation server"
    )
    parser.add_argument(
        "--model", type=Path, metavar="<folder>", help="write the predictions file with this model"
    )
    parser.add_argument(
        "--split", type=Path, metavar="<folder>", help="a prepared split, such as data/processed/coco/test"
    )
    parser.add_argument("--task", metavar="<task>", help="one of `unival list task`")
    parser.add_argument(
        "--edition",
        default="",
        metavar="<edition>",
        help="decode as in this edition (`paper`)",
    )
    options = parser.parse_args(arguments)
    if bool(options.split) != bool(options.task) or (options.model and not options.split):
        parser.error("--split and --task go together, and --model needs them")
    from unival.data.manifest import read_records
    from unival.engine.inference import predictions, score
    from unival.metrics import java

    if options.model and not score.make(
        options.predictions, options.model, options.split, options.task, options.edition
    ):
        return
    known = None
    if options.split:
        known = read_records(
            options.split, score.settings(options.task, options.edition, options.model).rows or options.task
        )
    rows = predictions.read(options.predictions, known)
    if len({row.value for row in rows}) == 1:
        alike = f"all {len(rows)} predictions are alike"
        print("note:", alike if len(rows) > 1 else "a score of one row says nothing")
    if options.submission and rows[0].kind == "nothing":
        print("note: nothing to compare with: not scored")
    else:
        _print(score.scores(rows, score.read_objects(options.objects) if options.objects else None))
    if rows[0].kind == "captions" and not java.available():
        print("note: no Java: the official tokeniser, METEOR and SPICE (names with _ptb) are left out")
    if options.submission:
        files.write_json(options.submission, score.submitted(rows))
        print(f"wrote {options.submission}")


def _print(found: Iterable["Score"]) -> None:
    from unival.metrics.bootstrap import Interval

    for name, value, count in found:
        point = value.value if isinstance(value, Interval) else value
        limits = f"  [{value.low:.6f}, {value.high:.6f}]" if isinstance(value, Interval) else ""
        print(f"{name:16} {point:.6f}{limits}  n={count}")
