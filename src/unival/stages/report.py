"""The report of the study, from the files that the other stages wrote."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from unival import files, provenance
from unival.data.remote import local
from unival.stages.base import StageIO


@dataclass(frozen=True)
class Config:
    """`conf/stage/report.yaml`."""

    stage: str
    item: None
    data: str
    """The prepared benchmark."""
    edition: str


def inputs(config: Config) -> list[Path]:
    """What the stage reads."""
    reports = ("curves", "metrics", "predictions", "ablations", "runs")
    return [local(config.data), *(Path("reports") / name for name in reports)]


def run(config: Config, io: StageIO) -> None:
    """Write `reports/summary.json`, `reports/index.html`, `reports/report.md` and `reports/figures`."""
    from unival.report import claims, content, page, silent, summary
    from unival.study import results

    found = results.read(".", config.data, config.edition)
    origin = provenance.describe()
    figures = io.scratch / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True)
    silent.say("report", silent.lines(found))
    document = content.document(found, origin, figures)
    files.write_text(io.out("reports/index.html"), page.to_html(document, figures))
    files.write_text(io.out("reports/report.md"), page.to_markdown(document, "figures"))
    files.write_json(io.out("reports/summary.json"), summary.summarise(found, origin))
    io.publish(figures, "reports/figures")
    io.tracker.metrics({f"summary/{task}": score.value for task, score in found.tasks.items()})
    io.tracker.table([vars(claim) for claim in claims.check(found)], "claims")
    io.tracker.artifact(io.out("reports/index.html"), "report")
    for path in sorted(figures.glob("*.png")):
        if not path.name.startswith(("example-", "contact-")):
            io.tracker.artifact(path, "figures")
