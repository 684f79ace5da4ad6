"""The report of the study, from the files that the other stages wrote."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unival import files, provenance
from unival.data.remote import local
from unival.stages.base import StageIO
from unival.study.claims import Claim

if TYPE_CHECKING:
    from unival.study.evidence import Evidence


@dataclass(frozen=True)
class Config:
    """`conf/stage/report.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    edition: str
    seed: int
    """Of the pipeline itself."""
    seeds: list[int]
    """The others."""
    claims: dict[str, Claim]
    """`conf/claims.yaml`"""


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    reports = ("curves", "metrics", "predictions", "ablations", "seeds", "kernels")
    # its own record, of an earlier time, is no input: the report made again is the same
    records = (path for path in sorted(Path("reports/runs").glob("*.json")) if path.stem != "report")
    return [local(config.data), *(Path("reports") / name for name in reports), *records]


def evidence_of(config: Config) -> "Evidence":
    """All seeds of the study, from `reports/`."""
    from unival.study import evidence

    return evidence.read(Path(), local(config.data), config.seed, config.seeds)


def run(config: Config, io: StageIO) -> None:
    """Write the page, its Markdown, `summary.json`, `figures` and `tables` of `reports/`."""
    from unival.report import content, headline, latex, page, silent, spread, summary, verdicts
    from unival.study import results, study_run, variance

    seeds = evidence_of(config)
    study = results.read(".", config.data, config.edition, seeds.seeds.keys() - {config.seed})
    claims, variances = verdicts.check(config.claims, seeds), list(variance.table(seeds))
    compared = spread.kernels(config.claims, seeds)
    origin = provenance.describe()
    figures, written = io.scratch / "figures", io.scratch / "tables"
    for folder in (figures, written):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    faults = [*silent.lines(study), *seeds.left_out]
    silent.say("report", faults)
    document = content.document(study, claims, variances, compared, faults, origin, figures)
    files.write_text(io.out("reports/index.html"), page.to_html(document, figures))
    files.write_text(io.out("reports/report.md"), page.to_markdown(document, "figures"))
    files.write_json(
        io.out("reports/summary.json"), summary.summarise(study, claims, variances, faults, origin)
    )
    io.publish(figures, "reports/figures")
    latex.write_tables(document, written)
    io.publish(written, "reports/tables")
    study_run.log(headline.sentences(study, claims), io.tracker)
    io.tracker.table([vars(claim) for claim in claims], "claims")
    io.tracker.artifact(io.out("reports/index.html"), "report")
    for path in sorted(figures.glob("*.png")):
        if not path.name.startswith(("example-", "contact-")):
            io.tracker.artifact(path, "figures")
