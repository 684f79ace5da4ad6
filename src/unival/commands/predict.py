"""`unival predict`: the answer about a file, or about every file of a folder."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from unival import sample
from unival.errors import UserError

if TYPE_CHECKING:
    from unival.engine.inference.predictor import Predictor

BATCH = 32
"""Files of a folder that are answered together."""


def main(arguments: list[str]) -> None:
    """Print the answer with its probability and the next best; for a folder, write JSONL.

    Raises:
        UserError: no such file, model or task; or a file that cannot be read.
    """
    options = _parser().parse_args(arguments)
    options.model, options.path, options.text = _words(options.words)
    if not options.path.exists():
        raise UserError(f"{options.path}: no such file or folder")
    from unival.engine.inference.predictor import Predictor, media_files, modality_of, read_answers
    from unival.engine.machine import runtime

    answers = read_answers(options.answers) if options.answers else None
    device = runtime.load_anywhere().apply()
    predictor = Predictor.load(options.model, options.tasks, device, answers)
    asked = media_files(options.path) if options.path.is_dir() else [options.path]
    kinds = {modality_of(path) for path in asked}
    tasks = {options.task or predictor.usual_task(kind, bool(options.text)) for kind in kinds}
    predictor.note_guesses(options.model, kinds, tasks)
    if options.path.is_dir():
        _folder(predictor, asked, options)
        return
    prediction = predictor(options.path, options.text, options.task)
    if isinstance(prediction.value, tuple):
        out = options.out or Path(f"{options.path.stem}-box.png")
        predictor.draw(options.path, prediction, out)
        box = " ".join(f"{side:.1f}" for side in prediction.value)
        print(f"box {box}  ({prediction.score:.3g})  drawn in {out}")
        return
    print(f"{prediction.text}  ({prediction.score:.3g})")
    for text, score in prediction.alternatives:
        print(f"    {text}  ({score:.3g})")


def _words(words: list[str]) -> tuple[Path, Path, str]:
    """Model, path and text: the first word is a model where it is a model folder, or a path follows.

    Raises:
        UserError: too few or too many words.
    """
    named = len(words) > 1 and (
        (Path(words[0]) / "config.json").is_file() or (words[1] != "" and Path(words[1]).exists())
    )
    if named and Path(words[0]).is_file():
        raise UserError(f"predict: {words[0]} and {words[1]}: give one file, or a folder of them")
    model, *rest = words if named else [str(sample.FOLDER), *words]
    if not 1 <= len(rest) <= 2:
        raise UserError(f"predict: '{' '.join(words)}': give [<model>] <path> [<text>], a text in quotes")
    return Path(model), Path(rest[0]), rest[1] if rest[1:] else ""


def _folder(predictor: "Predictor", paths: list[Path], options: argparse.Namespace) -> None:
    """A line of JSON for each file; of one that cannot be read, why."""
    from tqdm import tqdm

    from unival import files
    from unival.engine.inference.predictor import as_json

    lines: list[str] = []
    faults: list[UserError] = []
    with tqdm(total=len(paths), unit="file", disable=None) as bar:
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            try:
                lines += [as_json(made) for made in predictor.many(batch, options.text, options.task)]
            except UserError:  # one of them: which?
                for path in batch:
                    try:
                        lines.append(as_json(predictor(path, options.text, options.task)))
                    except UserError as error:
                        lines.append(json.dumps({"file": str(path), "error": str(error)}))
                        faults.append(error)
            bar.update(len(batch))
    if len(faults) == len(paths):
        raise faults[0]
    out = options.out or Path("predictions.jsonl")
    files.write_text(out, "".join(line + "\n" for line in lines))
    print(f"{len(lines) - len(faults)} answers in {out}")
    if faults:
        raise UserError(f"{len(faults)} of {len(paths)} files got no answer; the first: {faults[0]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unival predict",
        description="The answer about a file, with its probability and the next best.",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[<model>] <path> [<text>]",
        help="a model folder, e.g. models/merged/unival (none: the tiny model that comes with the package); "
        "an image, a video, a sound, or a folder of them; a question, phrase or statement (none: a caption)",
    )
    parser.add_argument(
        "--task", metavar="<task>", help="name of the task (`unival list task`); by default vqa, or caption"
    )
    parser.add_argument("--answers", type=Path, metavar="<file>", help="only these answers, one per line")
    parser.add_argument("--out", type=Path, metavar="<file>", help="PNG of a box, or JSONL of a folder")
    parser.add_argument(
        "--tasks",
        type=Path,
        metavar="<folder>",
        help="task files, instead of the model's own and conf/task",
    )
    return parser
