"""`unival predict`: the answer about a file, or about every file of a folder."""

import argparse
import sys
from pathlib import Path

from transformers.utils import logging

from unival import files
from unival.engine import runtime
from unival.engine.predict import Prediction
from unival.engine.predictor import TASKS, Predictor, as_json, media_files
from unival.errors import UserError

BAR = 30


def main(arguments: list[str]) -> None:
    """Print the answer with its probability and the next best; for a folder, write JSONL."""
    options = _parser().parse_args(arguments)
    if not options.path.exists():
        raise UserError(f"{options.path}: no such file or folder")
    answers = _answers(options.answers) if options.answers else None
    logging.disable_progress_bar()
    device = runtime.load().torch_device()
    predictor = Predictor.load(options.model, options.tasks, device, answers)
    if options.path.is_dir():
        _folder(predictor, options)
        return
    prediction = predictor(options.path, options.text, options.task)
    if isinstance(prediction.value, tuple):
        out = options.out or Path(f"{options.path.stem}-box.png")
        predictor.draw(options.path, prediction, out)
        box = " ".join(f"{side:.1f}" for side in prediction.value)
        print(f"box {box}  ({prediction.score:.3f})  drawn in {out}")
        return
    print(f"{prediction.text}  ({prediction.score:.3f})")
    for text, score in prediction.alternatives:
        print(f"    {text}  ({score:.3f})")


def _folder(predictor: Predictor, options: argparse.Namespace) -> None:
    paths = media_files(options.path)
    lines = []
    for done, prediction in enumerate(predictor.many(paths, options.text, options.task), start=1):
        lines.append(as_json(prediction))
        _bar(done, len(paths), prediction)
    out = options.out or Path("predictions.jsonl")
    files.write_text(out, "".join(line + "\n" for line in lines))
    print(f"{len(lines)} answers in {out}")


def _bar(done: int, total: int, prediction: Prediction) -> None:
    """Progress on a terminal; nothing in a log."""
    if sys.stderr.isatty():
        filled = BAR * done // total
        end = "\n" if done == total else ""
        line = f"[{'#' * filled}{'.' * (BAR - filled)}] {done}/{total} {prediction.text[:30]:30}"
        print(f"\r{line}", end=end, file=sys.stderr, flush=True)


def _answers(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the answers: {error}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unival predict", description=__doc__)
    parser.add_argument("model", type=Path, help="a model folder, e.g. models/merged/average")
    parser.add_argument("path", type=Path, help="an image, a video, a sound, or a folder of them")
    parser.add_argument(
        "text", nargs="?", default="", help="a question, phrase or statement; none: a caption"
    )
    parser.add_argument(
        "--task", help="name of the task (conf/task); by default vqa or caption of the medium"
    )
    parser.add_argument("--answers", type=Path, metavar="<file>", help="only these answers, one a line")
    parser.add_argument("--out", type=Path, metavar="<file>", help="PNG of a box, or JSONL of a folder")
    parser.add_argument("--tasks", type=Path, default=TASKS, help=f"folder of task files (default {TASKS})")
    return parser
