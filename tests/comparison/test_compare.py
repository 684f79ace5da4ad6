"""Results that a person names are found, compared with each other, and shown on a page that needs nothing."""

import csv
import json
import re
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import yaml

from tests.report import made
from tests.report.test_report import Page
from unival import config, tracking
from unival.commands import compare as command
from unival.comparison import differences, page, sides
from unival.errors import UserError
from unival.study import archive, row_scores
from unival.tracking import tracker

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkouts: `base`, and `other` with another rate and two answers changed."""
    root = tmp_path_factory.mktemp("studies")
    base, other = root / "base", root / "other"
    made.write_data(base / "data/processed/world")
    made.write_results(base, base / "data/processed/world")
    for name in ("seeds", "report"):  # as `unival compose` writes them
        shutil.copy(ROOT / f"build/config/{name}.yaml", base / "build/config")
    shutil.copytree(base, other)
    edit_config(other / "build/config/finetune/vqa.yaml", lr=1e-3)
    path = other / "reports/predictions/finetune/vqa/vqa/test.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for place, (answer, score) in {0: ("no", 0.0), 5: ("yes", 1.0), 4: ("yes", 1.0)}.items():
        lines[place] |= {"prediction": answer, "scores": {"vqa_accuracy": score}}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = other / "reports/curves/finetune-vqa.csv"
    curve.write_text(curve.read_text().replace("3", "2"))
    for name in ("base", "other"):
        folder = root / name / "models/finetune/vqa"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    return root


@pytest.fixture
def here(studies: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIVAL_TRACKING", "off")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(studies))
    monkeypatch.chdir(studies)
    return studies


def edit_config(path: Path, **optimizer: float) -> None:
    values = config.load(path)
    values["train"]["optimizer"] |= optimizer
    path.write_text(yaml.safe_dump(values))


def compared(here: Path, *names: str) -> differences.SideBySide:
    return differences.compare([side for name in names for side in sides.read(name, here / "scratch")])


def test_what_differs_is_shown_and_nothing_else(here: Path) -> None:
    found = compared(here, "base", "other")
    assert [(one.key, one.values, one.processes) for one in found.parameters] == [
        ("train.optimizer.lr", ("0.0005", "0.001"), "finetune-vqa")
    ]
    changed = [one for one in found.differences if one.difference.value]
    assert [(one.task, one.model, one.primary, one.n) for one in changed] == [
        ("vqa", "finetune/vqa", True, made.ROWS)
    ]
    assert changed[0].difference.value == pytest.approx(1 / 6, abs=1e-6)
    assert [(flip.id, flip.before, flip.after, flip.won) for flip in found.flips] == [
        ("vqa-0", "yes", "no", False),
        ("vqa-4", "no", "yes", True),
        ("vqa-5", "no", "yes", True),
    ]
    assert [(process, key) for process, key, _ in found.curves] == [("finetune-vqa", "train/loss")]
    said = found.verdicts[0]
    assert "no clear difference in 1 of 1" in said and "correction over 1:" in said
    assert "One seed each" in said
    assert "no row of 8 more cells has another score" in said  # what cannot differ takes no part of the 5 %
    assert found.left_out == []


def test_pictures_are_of_the_rows_that_flip_most(here: Path) -> None:
    """Where half of the seeds flip, the answers of the first one may be equal."""
    (_, clear, _) = compared(here, "base", "other").flips
    half = [replace(clear, id=str(number), score_before=0.4, score_after=0.6) for number in range(9)]
    alike = replace(clear, before=clear.after)
    assert next(page._chosen([alike, *half, clear])) == clear


@pytest.mark.parametrize("name", ["other/reports", "other/models/finetune/vqa"], ids=["reports", "model"])
def test_reports_and_models_are_things(here: Path, name: str) -> None:
    found = compared(here, "base" + name.removeprefix("other"), name)
    changed = [one.task for one in found.differences if one.difference.value]
    assert changed == ["vqa"] and found.parameters[0].key == "train.optimizer.lr"
    assert len(found.differences) == 1 or name.endswith("reports")


def test_a_study_does_not_differ_from_itself(here: Path) -> None:
    found = compared(here, "base", "base/reports")
    assert found.differences and not any(one.difference.value for one in found.differences)
    assert not (found.flips or found.parameters or found.curves)
    assert found.verdicts == ["**base/reports** against **base**: no row of 9 cells has another score."]


def test_two_models_of_one_study(here: Path) -> None:
    """Parameters and cells are compared although their processes are called otherwise."""
    shutil.copytree(here / "other/models/finetune/vqa", here / "other/models/finetune/caption")
    found = compared(here, "other/models/finetune/vqa", "other/models/finetune/caption")
    assert [one.key for one in found.parameters] == ["train.optimizer.lr"]
    assert not found.differences and "only in other/models/finetune/vqa: vqa" in found.left_out
    assert found.verdicts[0].endswith("no score of both can be compared.")


def test_a_merge_and_an_expert_share_no_parameters(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "other", tmp_path, dirs_exist_ok=True)
    expert, merged = tmp_path / "models/finetune/vqa", tmp_path / "models/merged/average"
    shutil.copytree(expert, merged)
    cells = tmp_path / "reports/predictions/merged/average/vqa"
    shutil.copytree(tmp_path / "reports/predictions/finetune/vqa/vqa", cells)
    values = {"recipes": {"average": {"method": "average"}}}
    (tmp_path / "build/config/merge.yaml").write_text(yaml.safe_dump(values))
    found = compared(here, str(expert), str(merged))
    assert [one.task for one in found.differences] == ["vqa"] and not found.parameters
    assert f"configurations only in {merged}: merge" in found.left_out


def test_merged_models_differ_in_how_they_were_made(here: Path, tmp_path: Path) -> None:
    """Recipes, how coefficients were chosen, and models that were refinetuned around one, or jointly."""
    shutil.copytree(here / "other", tmp_path, dirs_exist_ok=True)
    expert, merged = tmp_path / "models/finetune/vqa", tmp_path / "models/merged"
    names = ["average", "ties", "around", "joint"]
    for name in names:
        shutil.copytree(expert, merged / name)
        cells = tmp_path / f"reports/predictions/merged/{name}/vqa"
        shutil.copytree(tmp_path / "reports/predictions/finetune/vqa/vqa", cells)
    values = {
        "recipes": {"average": {"method": "average", "models": ["vqa"]}, "ties": {"method": "ties"}},
        "search": {"ties": {"rows": 8}},
        "refinetune": {"around": {"recipe": "average", "steps": 4}, "joint": {"recipe": None, "steps": 2}},
    }
    (tmp_path / "build/config/merge.yaml").write_text(yaml.safe_dump(values))
    found = compared(here, *(str(merged / name) for name in names))
    assert {one.key: one.values for one in found.parameters} == {
        "recipe.method": ("average", "ties", "average", "–"),
        "recipe.models": ("vqa", "–", "vqa", "–"),
        "search.rows": ("–", "8", "–", "–"),
        "refinetune.recipe": ("–", "–", "average", "None"),
        "refinetune.steps": ("–", "–", "4", "2"),
    }
    assert not any("configuration" in what for what in found.left_out)


def test_jobs_of_a_sweep_that_differ_in_the_seed_alone_are_one(here: Path, tmp_path: Path) -> None:
    for number, (rate, seed) in enumerate([(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]):
        job = tmp_path / f"tried/{number}"
        shutil.copytree(here / ("other" if rate > 0.1 else "base") / "reports", job / "reports")
        train = {"optimizer": {"lr": rate}, "seed": seed}
        values = {"stage": "finetune", "item": "vqa", "train": train}
        (job / "config.yaml").write_text(yaml.safe_dump(values))
    found = compared(here, str(tmp_path / "tried"))
    assert [side.name for side in found.sides] == ["tried/0,1", "tried/2,3"]
    assert [(one.key, one.values) for one in found.parameters] == [("train.optimizer.lr", ("0.1", "0.2"))]
    assert {(one.seeds, one.difference.value > 0) for one in found.differences if one.difference.value} == {
        (2, True)
    }
    one = compared(here, str(tmp_path / "tried/0"), str(tmp_path / "tried/3"))
    assert [parameter.key for parameter in one.parameters] == ["train.optimizer.lr", "train.seed"]


def test_a_model_beside_a_study_is_compared_with_its_namesake(here: Path) -> None:
    found = compared(here, "base", "other/models/finetune/vqa")
    assert [(one.task, one.n) for one in found.differences] == [("vqa", made.ROWS)]


def test_seeds_are_a_group(here: Path) -> None:
    found = compared(here, "base,base/reports", "other,other/reports")
    assert {one.seeds for one in found.differences} == {2}
    assert "cover 2 seeds" in found.verdicts[0]
    found = compared(here, "base", "other,other/reports")
    assert "seeds without a partner: other/reports" in found.left_out


def test_seeds_of_a_study_count(here: Path, tmp_path: Path) -> None:
    """Of the other seeds primary scores are known alone; other metrics stay those of the first."""
    for name, right in (("base", 0.0), ("other", 1.0)):
        shutil.copytree(here / name, tmp_path / name)
        for seed in (3, 4) if name == "base" else (3,):
            folder = tmp_path / name / f"reports/seeds/{seed}/metrics"
            folder.mkdir(parents=True)
            rows = [
                (
                    "finetune/grounding",
                    "grounding",
                    "test",
                    f"grounding-{number}",
                    f"image={number}",
                    "acc@0.5",
                    right,
                )
                for number in range(made.ROWS)
            ]
            pandas.DataFrame(rows, columns=row_scores.COLUMNS).to_parquet(folder / row_scores.NAME)
    found = compared(here, str(tmp_path / "base"), str(tmp_path / "other"))
    of_task = {one.metric: one for one in found.differences if one.task == "grounding"}
    assert {name: one.seeds for name, one in of_task.items()} == {"acc@0.5": 2, "iou": 1}
    assert of_task["acc@0.5"].difference.value == pytest.approx(0.5)
    assert f"seeds without a partner: {tmp_path / 'base'}: seed 4" in found.left_out
    printed = [line.split() for line in "\n".join(command._lines(found)).splitlines() if line]
    head, line = (next(row for row in printed if row[0] == name) for name in ("cell", "grounding"))
    assert "seeds" in head and line[-2] == "2"
    said = differences._verdict([of_task["acc@0.5"]], *found.sides)
    assert "2 seeds, those of the study that were not named among them, and" in said


def test_other_data_are_not_compared(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "other", tmp_path / "other")
    facts = tmp_path / "other/data/processed/world/benchmark.json"
    facts.write_text(facts.read_text().replace("0123", "4567"))
    found = compared(here, "base", str(tmp_path / "other"))
    assert not found.differences and found.parameters and found.curves
    assert "other data (digests 0123 and 4567)" in found.left_out[0]


def test_a_run_without_configuration_is_named(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "other/reports", tmp_path / "kept")
    found = compared(here, "base", str(tmp_path / "kept"))
    assert found.differences and f"no configuration: {tmp_path / 'kept'}" in found.left_out


def test_two_files_of_predictions_are_compared_row_by_row(here: Path) -> None:
    """Rows of one id that ask something else are not compared."""
    names = [f"{study}/reports/predictions/finetune/vqa/vqa/test.jsonl" for study in ("base", "other")]
    found = compared(here, *names)
    assert [(one.metric, one.n, one.side) for one in found.differences] == [
        ("vqa_accuracy", made.ROWS, names[1])
    ]
    assert found.differences[0].difference.value == pytest.approx(1 / 6, abs=1e-6)
    assert sum(flip.won for flip in found.flips) == 2 and len(found.flips) == 3
    other = here / "other.jsonl"
    other.write_text(Path(names[0]).read_text().replace('"text": "', '"text": "another '))
    assert not compared(here, names[0], str(other)).differences


def test_an_archive_is_the_study(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "other")
    archive.pack(tmp_path / "study.zip", Path(), Path("data/processed/world"))
    archive.unpack(tmp_path / "study.zip", tmp_path / "study")
    monkeypatch.chdir(here)
    found = compared(here, "other", str(tmp_path / "study"))
    assert found.differences and not any(one.difference.value for one in found.differences)
    assert not (found.parameters or found.flips or found.curves or found.left_out)
    (tmp_path / "study.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"study.zip: no archive"):
        archive.unpack(tmp_path / "study.zip", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nothing", "nothing: no folder, file, commit"),
        ("base/models", "neither a model"),
        ("base", "one result alone"),
        (",", "names nothing"),
    ],
)
def test_what_is_no_result_is_named(here: Path, name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        compared(here, name)


def test_a_commit_without_results_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ("init -q", "-c user.name=t -c user.email=t@t commit -q --allow-empty -m start"):
        subprocess.run(["git", *words.split()], check=True)
    with pytest.raises(UserError, match=r"HEAD: commit \w+ holds no results: commit dvc.lock"):
        sides.read("HEAD", tmp_path / "scratch")


def test_the_command_writes_tables_and_prints_json(here: Path, tmp_path: Path, capsys: object) -> None:
    command.main(["base", "other", "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "train.optimizer.lr  0.0005  0.001" in shown and "2 rows won, 1 lost" in shown
    with (tmp_path / "out/cells.csv").open() as handle:
        cells = list(csv.DictReader(handle))
    command.main(["base", "other", "--out", str(tmp_path / "out"), "--json"])
    values = json.loads(capsys.readouterr().out)  # type: ignore[attr-defined]
    assert len(values["cells"]) == len(cells) and values["flips"][0]["id"] == "vqa-0"


def test_the_page_needs_nothing_else(here: Path, tmp_path: Path) -> None:
    command.main(["base", "other", "--out", str(tmp_path)])
    text = (tmp_path / "index.html").read_text()
    page = Page(text)
    assert page.loaded and all(place.startswith("data:image/png;base64,") for place in page.loaded)
    assert text.count("A row of VQA") == 3 and not page.open


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_fits_a_phone(here: Path, tmp_path: Path) -> None:
    """Wide tables scroll inside the page; the page itself does not scroll sideways at 390 px."""
    command.main(["base", "other", "--out", str(tmp_path)])
    text = (tmp_path / "index.html").read_text().replace("&", "&amp;").replace('"', "&quot;")
    width = "document.body.dataset.width = this.contentDocument.documentElement.scrollWidth"
    frame = f'<body><iframe width="390" height="900" srcdoc="{text}" onload="{width}"></iframe></body>'
    (tmp_path / "phone.html").write_text(frame)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'chrome'}", "--dump-dom",
         (tmp_path / "phone.html").as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    found = re.search(r'data-width="(\d+)"', done.stdout)
    assert found and int(found[1]) <= 390


@pytest.fixture
def store(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An MLflow store with a run of `evaluate` and one of a training."""
    monkeypatch.delenv("UNIVAL_TRACKING")
    monkeypatch.setattr(tracker, "PATIENCE", 300.0)  # what ends is looked at
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(here / "other")
    archive.pack(tmp_path / "study.zip", Path(), Path("data/processed/world"))
    monkeypatch.chdir(here)
    run = tracking.MlflowTracker("evaluate", "scored", tmp_path / "a.json", {"unival.stage": "evaluate"})
    run.artifact(tmp_path / "study.zip", tracking.STUDY)
    run.end("FINISHED")
    for rate in (0.1, 0.2):
        tags = {"unival.stage": "finetune", "unival.item": "vqa"}
        run = tracking.MlflowTracker("finetune", f"rate {rate}", tmp_path / f"{rate}.json", tags)
        run.text(f"train: {{optimizer: {{lr: {rate}}}}}", "config/resolved.yaml")
        for step in (1, 2):
            run.metrics({"train/loss": rate / step, "val/score": rate * step}, step)
        run.end("FINISHED")
    return tmp_path


def test_runs_of_mlflow(store: Path, here: Path) -> None:
    found = compared(store, "base", "scored")
    assert [one.task for one in found.differences if one.difference.value] == ["vqa"]
    found = compared(store, "rate 0.1", "rate 0.2")
    assert [(one.key, one.values) for one in found.parameters] == [("train.optimizer.lr", ("0.1", "0.2"))]
    assert [(key, len(lines["rate 0.1"])) for _, key, lines in found.curves] == [
        ("train/loss", 2),
        ("val/score", 2),
    ]
    assert "compared: none in rate 0.1 and rate 0.2; experiments" in found.verdicts[0]
    command.main(["rate 0.1", "rate 0.2", "--out", str(store / "out")])
    past = tracking.find("rate 0.2")
    client = tracking.opened()
    assert past and [one.path for one in client.list_artifacts(past.run_id, "comparisons")] == [
        "comparisons/out"
    ]


def test_runs_of_several_tasks_have_parameters_and_time_in_common(store: Path, here: Path) -> None:
    """Their losses and scores are others: named, and not drawn into one panel."""
    tags = {"unival.stage": "finetune", "unival.item": "caption"}
    run = tracking.MlflowTracker("finetune", "describes", store / "caption.json", tags)
    values = {
        "item": "caption",
        "train": {"optimizer": {"lr": 0.3}},
        "tasks": {"caption": {"metric": "cider"}},
    }
    run.text(yaml.safe_dump(values), "config/resolved.yaml")
    run.metrics({"train/loss": 1.0, "val/score": 2.0}, 1)
    run.end("FINISHED")
    run = tracking.MlflowTracker("finetune", "answers", store / "vqa.json", tags | {"unival.item": "vqa"})
    values = {
        "item": "vqa",
        "train": {"optimizer": {"lr": 0.1}},
        "tasks": {"vqa": {"metric": "vqa_accuracy"}},
    }
    run.text(yaml.safe_dump(values), "config/resolved.yaml")
    run.metrics({"train/loss": 3.0, "val/score": 0.5}, 1)
    run.end("FINISHED")
    found = compared(store, "answers", "describes")
    assert {one.key: (one.processes, *one.values) for one in found.parameters} == {
        "item": ("finetune", "vqa", "caption"),
        "train.optimizer.lr": ("finetune", "0.1", "0.3"),
        "task.metric": ("finetune", "vqa_accuracy", "cider"),
    }
    assert not found.curves
    assert found.left_out == ["learning curves, of other tasks or phases: caption, vqa"]
    assert [[*member.runs] for side in found.sides for member in side.members] == [["finetune"]] * 2


def test_runs_that_cannot_be_read_are_named(store: Path, here: Path) -> None:
    client = tracking.opened()
    past = tracking.find("rate 0.1")
    assert past is not None and past == tracking.find(past.run_id)
    run = tracking.MlflowTracker("finetune", "rate 0.2", store / "again.json", {})
    run.end("FINISHED")
    with pytest.raises(UserError, match="2 runs have this name: give the id of one"):
        tracking.find("rate 0.2")
    client.delete_run(past.run_id)
    for name in ("rate 0.1", past.run_id):
        with pytest.raises(UserError, match="this run was deleted"):
            tracking.find(name)


def test_a_store_of_a_newer_mlflow_is_named(store: Path) -> None:
    with sqlite3.connect(store / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = 'ffff'")
    with pytest.raises(UserError, match=r"a newer MLflow than .* has written it"):
        tracking.find("rate 0.1")
