"""`unival kernels`: rerun seeds of the study on other kernels of the processor, and compare verdicts."""

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

RESTRICTED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
"""Read by PyTorch, oneDNN and MKL when they are loaded: what a processor without AVX-512 would do."""
SCRATCH = Path("scratch/kernels")


def main(arguments: list[str]) -> None:
    """Train the seeds, print the verdicts, and leave the tables for the next report.

    Raises:
        UserError: the seeds have not run, ran with these or with several kernels, or diverge with these.
        SystemExit: 1: what is clear on one kind of kernels is clearly the opposite on the other.
    """
    parser = argparse.ArgumentParser(
        prog="unival kernels",
        description="Run seeds of the study again with AVX2 kernels, as a processor without AVX-512 would, "
        "and print every claim's verdict and effect beside the present ones. Exits with status 1 if a claim "
        "turns into its opposite. The seeds' tables stay in reports/kernels/, and the next report shows "
        "them (dvc repro -f -s report).",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="<seed>", help="of `seeds` in params.yaml (default: two)"
    )
    options = parser.parse_args(arguments)
    os.environ.update(RESTRICTED)  # before PyTorch is loaded
    from unival.engine.machine.runtime import parallel
    from unival.errors import UserError
    from unival.report import spread, words
    from unival.stages import base, report
    from unival.study import seeds
    from unival.study.evidence import KERNELS

    study = base.read("seeds", Path("build/config/seeds.yaml"))[1]
    config = base.read("report", Path("build/config/report.yaml"))[1]
    chosen = options.seeds or list(study.repeats)[:2]
    check(chosen, report.evidence_of(config).seeds, study.repeats)
    jobs = [
        partial(
            seeds.repeat, SCRATCH, Path("reports", KERNELS, str(seed)), study.data, study.study, seed,
            study.repeats[seed],
        )
        for seed in chosen
    ]  # fmt: skip
    parallel(jobs, KERNELS)
    evidence = report.evidence_of(config)
    if set(chosen) - evidence.kernels.keys():
        raise UserError(" ".join(evidence.left_out).replace("**", ""))
    compared = spread.kernels(
        config.claims, replace(evidence, kernels={s: evidence.kernels[s] for s in chosen})
    )
    print(words.columns([list(spread.COLUMNS), *(one.cells() for one in compared)]))
    flipped = [one.study.id for one in compared if one.flipped]
    print(f"turned into the opposite: {', '.join(flipped) or 'none'}; in the report: dvc repro -f -s report")
    sys.exit(bool(flipped))


def check(chosen: Sequence[int], there: Collection[int], known: Collection[int]) -> None:
    """Refuse seeds that cannot be compared.

    Raises:
        UserError: one is none of the study, has not run as it is now, or ran with these or several kernels.
    """
    from unival.engine.machine import runtime
    from unival.errors import UserError
    from unival.provenance import machine
    from unival.study import evidence, tables

    if not chosen:
        raise UserError("params.yaml: `seeds` is empty: add two, and `dvc repro`")
    runtime.load().apply()
    for seed in chosen:
        if seed not in known:
            raise UserError(
                f"--seeds {seed}: not one of `seeds` in params.yaml: {', '.join(map(str, known))}"
            )
        if seed not in there:
            raise UserError(f"reports/seeds/{seed}: not of the study as it is now: dvc repro seeds")
        ran = tables.read_json(Path("reports/seeds", str(seed), tables.NOTE), tables.Repeat)
        if several := evidence.mixed(ran):
            raise UserError(
                f"reports/seeds/{seed}: computed with several kinds of kernels ({several}): name others with "
                "--seeds, or `make clean && dvc repro -f -s seeds` on one machine"
            )
        if ran.machine.get("instructions") == machine()["instructions"]:
            raise UserError(
                f"reports/seeds/{seed}: computed with {ran.machine['instructions']} kernels already: run the "
                "study on a processor with AVX-512"
            )
