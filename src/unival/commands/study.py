"""`unival study`: tables, figures and a page of a finished study, to stand beside its written report."""

import argparse
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Write them from `reports/`.

    Raises:
        UserError: no finished study here, or none in the folder beside.
    """
    parser = argparse.ArgumentParser(
        prog="unival study",
        description="Write summary.json, results.md, tables/ and figures/ of the study in reports/, over all "
        "its seeds. What it means is for a person to write: a README.md there stays as it is.",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/study"), metavar="<folder>")
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="<folder>",
        help="what this wrote for another benchmark: its effects stand beside these",
    )
    options = parser.parse_args(arguments)
    from unival import files
    from unival.report import spread
    from unival.report import study as written
    from unival.stages import base, report
    from unival.study import results

    config = base.read("report", Path("build/config/report.yaml"))[1]
    summary = files.read_json(Path("reports/summary.json"))
    evidence = report.evidence_of(config)
    study = results.read(".", config.data, config.edition, evidence.seeds.keys() - {config.seed})
    beside = written.Beside.read(options.beside) if options.beside else written.Beside()
    written.write(options.out, study, summary, evidence, spread.kernels(config.claims, evidence), beside)
    print(options.out / "results.md")
