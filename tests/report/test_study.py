"""What stands beside the written report of a study."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report import made
from tests.report.test_report import CLAIMS, ORIGIN, VARIANCES
from tests.report.test_verdicts import scores
from unival.errors import UserError
from unival.report import study, summary, words
from unival.report.verdicts import Verdict
from unival.study import results, subsets, tables
from unival.study.evidence import Evidence, Seed

EXPERTS = ["caption", "vqa", "grounding"]
SHARES = (5, 10, 30, 100)


def evidence() -> Evidence:
    """Six seeds: experts above their start, averages between, starts that help audio."""
    rng = np.random.default_rng(0)

    def rows(mean: float) -> object:
        return scores(rng.normal(mean + rng.normal(0, 0.03), 0.1, 50))

    seeds = {}
    for number in range(6):
        tables = {("pretrain/video_text", task, "test"): rows(0.4) for task in made.TASKS}
        tables |= {(f"finetune/{task}", task, "test"): rows(0.8) for task in made.TASKS}
        tables |= {("finetune/vqa", "vqa", "ood-composition"): rows(0.6)}
        for models in subsets.models(EXPERTS, 4):
            level = 0.8 if len(models) == 1 else 0.6 if models else 0.4
            for task in EXPERTS:
                tables[subsets.name(models), task, "test"] = rows(level if task in models else 0.4)
        for place, start in enumerate(study.STARTS):
            for share in SHARES:
                mean = 0.2 * place + 0.2 * np.log10(share)
                tables[f"audio_rows/{start}_{share}", "audio_caption", "test"] = rows(mean)
        seeds[number] = Seed(tables, dict.fromkeys(made.TASKS, 0.3))  # type: ignore[arg-type]
    return Evidence(seeds, "pretrain/video_text", [])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a written study, with a README of someone's own."""
    root = tmp_path_factory.mktemp("study")
    made.write_data(root / "data/tiny")
    made.write_results(root, root / "data/tiny")
    (root / "build/config/report.yaml").write_text("seed: 0\nseeds: [1, 2, 3, 4, 5]\n")
    for name in ("reports/figures", "reports/seeds/1/runs"):
        (root / name).mkdir(parents=True)
    (root / "reports/figures/plane-0.png").write_bytes(b"a picture")
    (root / "reports/figures/example-vqa-0.png").write_bytes(b"too many of these")
    (root / "reports/seeds/1/runs/ablate.json").write_bytes((root / "reports/runs/ablate.json").read_bytes())
    found = results.read(root, root / "data/tiny", "study")
    written = json.loads(
        json.dumps(summary.summarise(found, CLAIMS, VARIANCES, ["Seed 9 is left out."], ORIGIN))
    )
    folder = root / "docs/study"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("what it means\n")
    (folder / "figures").mkdir()
    (folder / "figures/old.png").write_bytes(b"of the study before")
    effects = {"multitask": (-0.3, -0.4, -0.2), "curriculum": (0.2, 0.1, 0.3)}
    others = [
        replace(claim, verdict="3 seeds: no verdict", seeds=3, effect=effect, low=low, high=high)
        for claim in CLAIMS
        for effect, low, high in [effects[claim.id]]
    ]
    (root / "digits/tables").mkdir(parents=True)
    tables.write(root / "digits/tables/claims.csv", Verdict, others)
    study.write(folder, found, written, evidence(), [], study.Beside.read(root / "digits"))
    return folder


def test_every_figure_of_the_page_is_there_and_no_other(out: Path) -> None:
    text = (out / "results.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(figures/([^)]+)\)", text))
    assert shown == {path.name for path in (out / "figures").glob("*.png")}
    assert {"claims.png", "experts.png", "audio-rows.png", "subset-rates.png", "plane-0.png"} == shown


def test_the_page_says_what_was_run_and_what_went_wrong(out: Path) -> None:
    text = (out / "results.md").read_text(encoding="utf-8")
    assert (
        "`dvc exp run -S benchmark=tiny -S edition=study -S seed=0 -S 'seeds=[1, 2, 3, 4, 5]'` at commit"
        in text
    )
    assert "Seed 9 is left out." in text and "Many tasks help each other." in text
    assert re.search(
        r"\| VQA \| VQA accuracy \| 0\.\d+ \| 0\.\d+ ± 0\.0\d+ \| 0\.\d+ ± 0\.0\d+ \| – \| – \|", text
    )


def test_the_other_benchmark_stands_beside(out: Path) -> None:
    text = (out / "results.md").read_text(encoding="utf-8")
    assert "on `digits`, of 3 seeds" in text
    assert "| multitask | +10.0 % [+5.0, +15.0] | −30.0 % [−40.0, −20.0] | opposite |" in text
    assert "| curriculum | not tested | +20.0 % [+10.0, +30.0] |  |" in text


def test_a_folder_that_is_no_study_cannot_stand_beside(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tables/claims\.csv"):
        study.Beside.read(tmp_path)


def test_tables_hold_every_seed_and_prose_is_left_alone(out: Path) -> None:
    assert (out / "README.md").read_text() == "what it means\n"
    with (out / "tables/scores.csv").open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert {line["seed"] for line in lines} == set("012345")
    assert sum(line["split"] == "ood-composition" for line in lines) == 6
    assert {"claims.csv", "variances.csv", "subsets.csv", "video.csv"} <= {
        p.name for p in (out / "tables").iterdir()
    }
    assert json.loads((out / "summary.json").read_text())["claims"][0]["id"] == "multitask"


def test_a_limit_that_rounds_to_0_keeps_its_side() -> None:
    assert words.percent((-0.025, -0.049, -0.0004)) == "−2.5 % [−4.9, −0.0]"
    assert words.percent((-0.0, 0.0, 0.0001)) == "+0.0 % [+0.0, +0.0]"
