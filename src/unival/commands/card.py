"""`unival card`: the model card of a model folder, from what its records say and the study has measured."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Print the card, or write it into the folder.

    Raises:
        UserError: no model there, or a damaged record.
    """
    parser = argparse.ArgumentParser(prog="unival card", description=__doc__.split(": ", 1)[1])
    parser.add_argument("folder", type=Path, metavar="<folder>", help="a model folder")
    parser.add_argument("--write", action="store_true", help="as README.md, in place of the old one")
    options = parser.parse_args(arguments)
    from unival.study import card

    scores = card.scores_of(options.folder)
    if options.write:
        card.write(options.folder, scores)
    else:
        print(card.text(options.folder, scores), end="")
