"""`unival embed`: media and texts as vectors of length one, in a file that `numpy.load` reads.

    unival embed models/merged/unival photos/ clip.mp4 --text "a red circle" --out vectors.npz

`names` are the paths and texts, `vectors` (N, width) float32: their products are cosines. They compare media
with media and texts with texts; `unival retrieve` compares a text with a picture.
"""

import argparse
from itertools import groupby
from pathlib import Path

from unival.errors import UserError


def main(arguments: list[str]) -> None:
    """Write the vectors.

    Raises:
        UserError: nothing to embed, no model, or a file that cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="unival embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="<model>", help="a model folder")
    parser.add_argument("paths", type=Path, nargs="*", metavar="<path>", help="media, or folders of them")
    parser.add_argument(
        "--text", action="append", default=[], metavar="<text>", help="a text; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=Path("embeddings.npz"), metavar="<file>")
    options = parser.parse_args(arguments)
    if not options.paths and not options.text:
        raise UserError(f"embed {options.model}: give a model folder, then files, folders or a --text")
    import numpy as np

    from unival import files
    from unival.engine.inference.embed import embed_media, embed_texts
    from unival.engine.inference.predictor import Predictor, media_files, modality_of
    from unival.engine.machine import runtime

    predictor = Predictor.load(options.model, device=runtime.load_anywhere().apply())
    paths = [file for path in options.paths for file in (media_files(path) if path.is_dir() else [path])]
    predictor.note_guesses(options.model, map(modality_of, paths))
    parts = [
        embed_media(predictor, modality, [str(path) for path in part])
        for modality, part in groupby(paths, modality_of)
    ]
    parts += [embed_texts(predictor, options.text)] if options.text else []
    vectors, names = np.concatenate(parts), [*map(str, paths), *options.text]
    with files.atomic(options.out) as part, part.open("wb") as file:
        np.savez(file, names=np.array(names), vectors=vectors)
    print(f"{len(names)} vectors of width {vectors.shape[1]} in {options.out}")
