"""`unival retrieve`: zero-shot retrieval of captions for media and of media for captions: recall at 1, 5, 10.

    unival retrieve models/merged/unival --split data/processed/world/test --rows 100
    unival retrieve models/base --split data/processed/flickr30k/test
    unival retrieve models/base --split data/processed/coco/test --folds 5    # COCO's 1k

Every medium of the split's captioning rows is compared with every caption, by how likely the model would
write it about this medium and not about the others, or by what it says to whether they match. Each recall has
its 95 % interval over media, and what a random order would have.
"""

import argparse
from pathlib import Path

from unival.errors import UserError
from unival.record import MODALITIES


def main(arguments: list[str]) -> None:
    """Print the recalls.

    Raises:
        UserError: no such model or split, or rows without captions.
    """
    parser = argparse.ArgumentParser(
        prog="unival retrieve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="<model>", help="a model folder")
    parser.add_argument(
        "--split",
        type=Path,
        required=True,
        metavar="<folder>",
        help="a prepared split, such as data/processed/coco/test",
    )
    parser.add_argument(
        "--modality", choices=MODALITIES, default="image", help="kind of media (default image)"
    )
    parser.add_argument(
        "--by",
        choices=("captioning", "matching"),
        default="captioning",
        help="what compares: the likelihood of a caption (default), or the matching that pretraining teaches",
    )
    parser.add_argument(
        "--rows", type=int, metavar="<number>", help="how many media, from the first (default: all)"
    )
    parser.add_argument(
        "--texts", type=int, default=5, metavar="<number>", help="captions per medium (default 5)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=1,
        metavar="<number>",
        help="number of parts to search separately (default 1)",
    )
    options = parser.parse_args(arguments)
    if min(options.texts, options.folds, 1 if options.rows is None else options.rows) < 1:
        raise UserError("--rows, --texts and --folds: give numbers from 1")
    if options.by == "matching" and options.modality == "audio":
        raise UserError("--by matching: no task matches sounds with texts: leave it out")
    from unival.data.manifest import read_records
    from unival.data.store import MediaStore
    from unival.engine.inference import retrieval
    from unival.engine.inference.predictor import Predictor
    from unival.engine.machine import runtime

    rows = list(read_records(options.split, retrieval.CAPTIONING[options.modality]))[: options.rows]
    size, left = divmod(len(rows), options.folds)
    if left or not size:
        raise UserError(f"--folds {options.folds}: {len(rows)} media make no parts of one size: see --rows")
    parts = [rows[start * size : (start + 1) * size] for start in range(options.folds)]
    galleries = [retrieval.gallery(part, options.texts) for part in parts]
    predictor = Predictor.load(options.model, device=runtime.load_anywhere().apply())
    predictor.note_guesses(options.model, [options.modality])
    predictor.store = MediaStore(options.split)
    compare = retrieval.captioned if options.by == "captioning" else retrieval.matched
    matches = [(one, compare(predictor, options.modality, one)) for one in galleries]
    for name, recall, chance, queries in retrieval.recalls(matches, options.modality):
        limits = f"[{recall.low:.3f}, {recall.high:.3f}]"
        print(f"{name:20} {recall.value:.3f}  {limits}  chance {chance:.3f}  n={queries}")
