"""`unival score`: the official metrics of predictions, and the file that evaluation servers read.

    unival score reports/predictions/merged/average/caption/test.jsonl --submission captions.json
    unival score made.jsonl --model models/base --split data/processed/coco/test --task caption

With a model, its predictions for an imported split are written first.

Captions get the official tokeniser's metrics and METEOR where there is a Java (names with `_ptb`), and CHAIR
with a list of objects; questions the official VQA accuracy and the calibration of the answers' probabilities;
boxes Acc@IoU by size. Intervals by bootstrap.
"""

import argparse
from pathlib import Path

from unival import files
from unival.engine.inference import score, submission
from unival.metrics import java
from unival.metrics.bootstrap import Interval


def main(arguments: list[str]) -> None:
    """Print the metrics; write the submission file."""
    parser = argparse.ArgumentParser(
        prog="unival score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", type=Path, metavar="<file>", help="JSON lines, as of `evaluate`")
    parser.add_argument(
        "--objects", type=Path, metavar="<file>", help="for CHAIR: synonyms, a line an object"
    )
    parser.add_argument("--submission", type=Path, metavar="<file>", help="COCO or EvalAI VQA results")
    parser.add_argument("--model", type=Path, metavar="<folder>", help="write the file, with this model")
    parser.add_argument("--split", type=Path, metavar="<folder>", help="as data/processed/coco/test")
    parser.add_argument("--task", metavar="<task>", help="one of `unival list task`")
    parser.add_argument(
        "--edition", default="", metavar="<edition>", help="its decoding, as of `paper`; none: conf/task"
    )
    options = parser.parse_args(arguments)
    wanted = (options.model, options.split, options.task)
    if any(wanted):
        if not all(wanted):
            parser.error("--model, --split and --task go together")
        score.make(options.predictions, *wanted, options.edition)
    rows = score.read(options.predictions)
    objects = score.read_objects(options.objects) if options.objects else None
    for name, value, count in score.scores(rows, objects):
        point = value.value if isinstance(value, Interval) else value
        limits = f"  [{value.low:.6f}, {value.high:.6f}]" if isinstance(value, Interval) else ""
        print(f"{name:16} {point:.6f}{limits}  n={count}")
    if "references" in rows[0] and not java.available():
        print("note: no Java: the official tokeniser, METEOR and SPICE (names with _ptb) are left out")
    if options.submission:
        write = submission.vqa_answers if "answers" in rows[0] else submission.coco_captions
        files.write_json(options.submission, write(rows))
        print(f"wrote {options.submission}")
