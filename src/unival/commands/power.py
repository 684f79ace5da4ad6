"""`unival power`: which effects the seeds of a study can detect, and what more seeds would."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Print where the spread of every task comes from, and a line for every claim.

    Raises:
        UserError: no results, or fewer than two seeds.
    """
    parser = argparse.ArgumentParser(
        prog="unival power",
        description="For every task the standard deviation of its score between seeds, media, shifts and "
        "kernels. For every claim, from the observed variance between seeds and media: the smallest effect "
        "(share of the better arm) that a number of seeds decides in four of five studies, and how many "
        "seeds the paper's own effect needs.",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[6, 10, 20], metavar="<n>", help="default: 6 10 20"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("build/config/report.yaml"), metavar="<file>",
        help="resolved file of the stage report (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    from unival.errors import UserError
    from unival.metrics.significance import SEEDS
    from unival.report import words
    from unival.stages import base, report
    from unival.study import power, variance

    if few := [seeds for seeds in options.seeds if seeds < SEEDS]:
        raise UserError(f"--seeds {few[0]}: fewer than {SEEDS} seeds give no verdict")
    config = base.read("report", options.config)[1]
    evidence = report.evidence_of(config)
    rows = power.table(config.claims, evidence, options.seeds)
    heads = ["claim", "seeds now", *(f"with {seeds}" for seeds in options.seeds), "paper", "seeds for it"]
    lines = [
        [
            row.claim, str(row.seeds), *(words.share(effect) for effect in row.detectable),
            words.share(row.paper), "–" if row.needed is None else str(row.needed),
        ]
        for row in rows
    ]  # fmt: skip
    spread = [
        [
            row.task,
            *(words.number(value) for value in (row.value, row.seed, row.medium, row.shift, row.kernels)),
        ]
        for row in variance.table(evidence)
    ]
    print(words.columns([["task", "mean", "sd: seed", "media", "shift", "kernels"], *spread]), end="\n\n")
    print(words.columns([heads, *lines]))
