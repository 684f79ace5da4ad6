"""`unival card`: the model card of a model folder, from what its records say and the study has measured."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Print the card, or write it into the folder.

    Raises:
        UserError: no model there, a damaged record, or no scores for a benchmark.
    """
    parser = argparse.ArgumentParser(prog="unival card", description=__doc__.split(": ", 1)[1])
    parser.add_argument("folder", type=Path, metavar="<folder>", help="a model folder")
    parser.add_argument("--write", action="store_true", help="write it as README.md, replacing the old one")
    parser.add_argument(
        "--benchmark",
        metavar="<owner>/<name>",
        help="also write the scores for this data set of the hub, a registered benchmark (.eval_results/)",
    )
    options = parser.parse_args(arguments)
    from unival.errors import UserError
    from unival.study import card

    scores = card.scores_of(options.folder)
    if options.write:
        card.write(options.folder, scores)
    elif not options.benchmark:
        print(card.text(options.folder, scores), end="")
    if options.benchmark:
        if scores is None:
            raise UserError(
                f"{options.folder}: reports/metrics beside its models/ has no scores of it: dvc repro"
            )
        print(f"wrote {card.write_results(options.folder, scores, options.benchmark)}")
