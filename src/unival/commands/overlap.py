"""Whether what a model was trained on is in what it is evaluated on: media by their key, and by their bytes.

unival overlap --train data/processed/coco/train --evaluated data/processed/refcoco/testA
"""

import argparse
from pathlib import Path

from unival.data.overlap import overlap
from unival.errors import UserError


def main(arguments: list[str]) -> None:
    """`unival overlap`: exit status 2 where training and evaluation share media.

    Raises:
        UserError: media are shared; or a split that cannot be read.
    """
    parser = argparse.ArgumentParser(prog="unival overlap", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="<split>")
    parser.add_argument("--evaluated", type=Path, required=True, metavar="<split>")
    options = parser.parse_args(arguments)
    shared = overlap(options.train, options.evaluated)
    print(f"{shared.media} media in {options.evaluated}")
    for how, keys in (("key", shared.by_key), ("bytes", shared.by_bytes)):
        print(f"{len(keys)} are in the training data by {how}{': ' if keys else ''}{', '.join(keys[:5])}")
    if shared.by_key or shared.by_bytes:
        raise UserError(f"{options.evaluated}: shares media with the training data: leave them out of one")
