"""The report: what it says of made-up results, that its page needs nothing else, and what it does without."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.report import made
from unival.cli import main
from unival.errors import UserError
from unival.report import conflict, content, latex, page, silent, summary, words
from unival.report.verdicts import Verdict
from unival.study import results
from unival.study.variance import Variance

ORIGIN = {"commit": "abc", "uncommitted": "", "versions": {"python": "3.11"}, "machine": {"cpus": 2}}
CLAIMS = [
    Verdict(
        id="multitask", statement="Many tasks help each other.", verdict="supported", effect=0.1, low=0.05,
        high=0.15, n=300, seeds=6, p=0.001, p_holm=0.01, detectable=0.04, margin=0.0, paper_effect=0.16,
        source="T4", evidence="VQA +10.0 %",
    ),
    Verdict(
        id="curriculum", statement="A curriculum costs nothing.", verdict="not tested", effect=None, low=None,
        high=None, n=0, seeds=0, p=None, p_holm=None, detectable=None, margin=0.05, paper_effect=None,
        source="T2", evidence="no such comparison in this run",
    ),
]  # fmt: skip
VARIANCES = [
    Variance(
        task="vqa", model="finetune/vqa", seeds=6, value=0.8, seed=0.05, medium=0.01, shift=0.2, kernels=None
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished study and its report."""
    root = tmp_path_factory.mktemp("study")
    made.write_data(root / "data/tiny")
    made.write_results(root, root / "data/tiny")
    report(root)
    return root


def report(root):
    """Write page, Markdown and pictures below reports/; returns the study."""
    found = results.read(root, root / "data/tiny", "quick")
    figures = root / "reports/figures"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir()
    document = content.document(found, CLAIMS, VARIANCES, [], silent.lines(found), ORIGIN, figures)
    (root / "reports/index.html").write_text(page.to_html(document, figures), encoding="utf-8")
    (root / "reports/report.md").write_text(page.to_markdown(document, "figures"), encoding="utf-8")
    return found


class Page(HTMLParser):
    """Collects what a browser would load, and whether tags nest."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.loaded, self.open, self.anchors, self.links = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loaded += [found[key] for key in ("src", "srcset") if key in found]
        self.loaded += ["<script>"] if tag in ("script", "link", "iframe") else []
        self.anchors |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone(folder) -> None:
    """Every picture is inside, nothing is loaded, links stay on the page, tags nest."""
    text = (folder / "reports/index.html").read_text(encoding="utf-8")
    found = Page(text)
    assert found.open == []
    assert len(found.loaded) > 40
    assert all(source.startswith("data:image/png;base64,") for source in found.loaded)
    assert not re.search(r"url\(|@import", text)
    assert all(link.startswith("#") and link[1:] in found.anchors for link in found.links)
    assert "a &lt;red&gt; square" in text or "<red>" not in text


def test_markdown_shows_the_same(folder) -> None:
    """Every figure is shown and exists, every figure that exists is shown, tables are square."""
    text = (folder / "reports/report.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(figures/([^)]+)\)", text))
    assert shown == {path.name for path in (folder / "reports/figures").glob("*.png")}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_tables_and_figures_for_papers(folder, tmp_path) -> None:
    """Every table of the page in both languages, square; every chart as SVG, the same bytes again."""
    found = results.read(folder, folder / "data/tiny", "quick")
    document = content.document(found, CLAIMS, VARIANCES, [], [], ORIGIN, tmp_path)
    latex.write_tables(document, tmp_path / "tables")
    written = sorted((tmp_path / "tables").glob("*.tex"))
    tables = (folder / "reports/index.html").read_text(encoding="utf-8").count("<table")
    assert len(written) == len(list((tmp_path / "tables").glob("*.md"))) == tables
    for path in written:
        text = path.read_text(encoding="utf-8")
        columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert rows and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
        assert not re.search(r"(?<!\\)[#%_](?!.*section)", text.partition("\n")[2]) and "**" not in text
    charts = {path.stem for path in tmp_path.glob("*.svg")}
    assert {"plane-0", "dag", "cosines"} <= charts
    for name in charts:
        assert (tmp_path / f"{name}.svg").read_bytes() == (
            folder / f"reports/figures/{name}.svg"
        ).read_bytes()


def test_latex_reads_what_was_meant() -> None:
    table = page.DataTable(
        ["`a_b` & c", "100 %"], [["**x** {y}", page.TonedCell("−1 ± 2 #3 $4 ~^\\", "bad")]]
    )
    lines = latex.latex(table).splitlines()
    assert lines[0] == r"\begin{tabular}{lr}"
    assert lines[2] == r"\texttt{a\_b} \& c & 100 \% \\"
    assert lines[4] == (
        r"\textbf{x} \{y\} & $-$1 $\pm$ 2 \#3 \$4 \textasciitilde{}\textasciicircum{}\textbackslash{} \\"
    )


def test_every_modality_has_examples_and_a_contact_sheet(folder) -> None:
    names = {path.name for path in (folder / "reports/figures").glob("*.png")}
    for task in (*made.TASKS, *made.PRETRAINED_TASKS):
        assert f"contact-{task}.png" in names
        assert f"example-{task}-0.png" in names


def test_merged_models_are_placed_in_plane_matrix_and_cosines(folder) -> None:
    """Three charts, and the tables of barriers and of task vectors per module."""
    names = {path.name for path in (folder / "reports/figures").glob("*.png")}
    assert {"plane-0.png", "merge-matrix.png", "cosines.png", "subsets-expert.png"} <= names
    text = (folder / "reports/report.md").read_text(encoding="utf-8")
    assert "| caption + VQA | caption | 0.020 | [0.000, 0.050] | 0.33 | +0.100 [+0.060, +0.140] |" in text
    assert (
        "2 comparisons of one seed: above the pretrained model in 2, above the task's own expert in 0" in text
    )
    assert "| all | 0.20 | 0.010 to 0.010 |" in text and "| empty | – | 0.010 to 0.010 |" in text


def test_captions_and_shares_have_axes_of_their_own(folder) -> None:
    """CIDEr reaches 10, an accuracy 1; and no answer is shown in location tokens."""
    names = {path.name for path in (folder / "reports/figures").glob("*.png")}
    assert {"curve-finetune-val.png", "curve-finetune-val-cider.png"} <= names
    text = (folder / "reports/index.html").read_text(encoding="utf-8")
    assert "bin_" not in text and "✓ (6, 7, 22, 27)" in text


def test_summary_has_the_documented_fields(folder) -> None:
    """Exactly the fields of docs/summary.md, numbers as numbers."""
    found = results.read(folder, folder / "data/tiny", "quick")
    made_summary = json.loads(
        json.dumps(summary.summarise(found, CLAIMS, VARIANCES, [], ORIGIN), allow_nan=False)
    )
    documented = (Path(__file__).parents[2] / "docs/summary.md").read_text(encoding="utf-8")
    parts = {
        "read_first",
        "claims",
        "variances",
        "tasks",
        "ood",
        "merges",
        "ablations",
        "stages",
        "provenance",
    }
    assert set(made_summary) == parts and all(part in documented for part in parts)
    fields = {"metric", "value", "low", "high", "n", "blind", "majority"}
    assert set(made_summary["tasks"]) == {*made.TASKS, *made.PRETRAINED_TASKS}
    assert all(set(row) == fields for row in made_summary["tasks"].values())
    assert made_summary["tasks"]["grounding"]["majority"] is None
    assert all(made_summary[part] for part in ("ood", "merges", "ablations"))
    assert all(
        set(stage) == {"seconds", "peak_mib", "run_id", "machine", "code"}
        for stage in made_summary["stages"].values()
    )
    assert isinstance(made_summary["ood"][0]["value"], float)
    merge = next(row for row in made_summary["merges"] if row["task"] == "vqa")
    assert merge["minus_expert"] == [-0.05, -0.08, -0.02]
    for part in ("claims", "ood", "merges", "ablations"):
        assert all(f"`{key}`" in documented for row in made_summary[part] for key in row)
    assert all(f"`{key}`" in documented for key in made_summary["provenance"])


def test_an_example_shows_what_the_model_read(folder) -> None:
    """A grounded caption has a box to describe, and no predicted one."""
    text = (folder / "reports/report.md").read_text(encoding="utf-8")
    examples = text.split("**grounded caption**, right ones first:")[1].split("\n\n")[1]
    assert "region: (4, 5, 20, 25)" in examples and "reference: a red square" in examples
    assert "IoU" not in examples and "{" not in examples


@pytest.mark.parametrize(("rows", "told"), [(500, "500"), (None, "all")])
def test_the_rows_of_a_cell_are_told(rows, told) -> None:
    assert content.setting({"rows": rows}) == f"{told} test rows a cell"


def test_a_difference_of_nothing_has_no_sign() -> None:
    assert words.change((-0.0, -0.0004, 0.1)) == "+0.000 [+0.000, +0.100]"


def test_a_task_that_is_not_learned_is_said_to_be(folder) -> None:
    text = (folder / "reports/report.md").read_text(encoding="utf-8")
    assert "**entailment** is not above its baseline: 0.410 [0.370, 0.450] against 0.380" in text


def test_parts_that_are_missing_are_named(folder, tmp_path) -> None:
    """Without curves, studies, merges, comparisons, runs, predictions and media there is still a report."""
    root = tmp_path / "poor"
    shutil.copytree(folder, root)
    for part in ("curves", "ablations", "runs", "predictions"):
        shutil.rmtree(root / "reports" / part)
    for name in ("comparisons.csv", "interpolation.csv"):
        (root / "reports/metrics" / name).unlink()
    shutil.rmtree(root / "data/tiny/test")
    cells = root / "reports/metrics/cells.csv"
    kept = [line for line in cells.read_text().splitlines() if ",merged," not in line and ",ood-" not in line]
    cells.write_text("\n".join(kept) + "\n")
    found = report(root)
    text = (root / "reports/report.md").read_text(encoding="utf-8")
    for what in ("no learning curve", "no table of a study", "interpolation.csv", "contact sheet of vqa"):
        assert what in text
    assert any("reports/predictions/finetune/vqa/vqa" in what for what in found.missing)
    assert json.dumps(summary.summarise(found, CLAIMS, VARIANCES, [], ORIGIN), allow_nan=False)


def test_what_an_earlier_choice_left_is_not_shown(folder, tmp_path) -> None:
    """A task that params.yaml no longer names has no resolved file; its curve and its run are still there."""
    root = tmp_path / "fewer"
    shutil.copytree(folder, root)
    (root / "build/config/finetune/audio_caption.yaml").unlink()
    found = results.read(root, root / "data/tiny", "quick")
    assert (root / "reports/runs/finetune-audio_caption.json").is_file()
    assert "finetune-vqa" in found.curves and "finetune-vqa" in found.runs
    assert "finetune-audio_caption" not in {*found.curves, *found.runs}


@pytest.mark.parametrize("others", [True, False])
def test_a_report_made_again_is_the_same(folder, tmp_path, monkeypatch, others: bool) -> None:
    """Its own record, which is there the second time, is no process that it tells of."""
    root = tmp_path / "again"
    shutil.copytree(folder, root)
    if not others:
        shutil.rmtree(root / "reports/runs")
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNIVAL_TRACKING", "off")
    monkeypatch.setenv("DVC_ROOT", str(root))
    resolved = {"stage": "report", "item": None, "data": "data/tiny", "edition": "quick"}
    resolved |= {"seed": 0, "seeds": [], "claims": {}}
    path = Path("build/config/report.yaml")
    path.write_text(yaml.safe_dump(resolved))

    def made_files():
        main(["run", "report", "--config", str(path)])
        there = (file for file in Path("reports").rglob("*") if file.is_file())
        return {file: file.read_bytes() for file in there if file.name != "report.json"}  # it has the time

    assert made_files() == made_files()


@pytest.mark.fault
def test_broken_results_are_named(folder, tmp_path) -> None:
    """No results, JSON that is none, a table of another version: one message with place and fix."""
    with pytest.raises(UserError, match=r"tasks\.json: no results there: run"):
        results.read(tmp_path, tmp_path, "quick")
    root = tmp_path / "broken"
    shutil.copytree(folder, root)
    cells = root / "reports/metrics/cells.csv"
    cells.write_text(cells.read_text().replace("1.1,", "much,", 1))
    with pytest.raises(
        UserError, match=r"cells\.csv: line 2: value: expected float, found 'much'.*dvc repro"
    ):
        results.read(root, root / "data/tiny", "quick")
    (root / "reports/metrics/tasks.json").write_text("{")
    with pytest.raises(UserError, match=r"tasks\.json: not JSON"):
        results.read(root, root / "data/tiny", "quick")


def test_gradient_conflict_over_seeds(folder):
    """A mean over seeds, its interval, the limit by noise; a chart over steps, one over modules."""
    study = results.read(folder, folder / "data/tiny", "quick")
    rows = [row for row in study.conflict if row.module == "all"]
    value, limit = conflict.spread([row for row in rows if row.step == 0], ("caption", "vqa"))
    half = 0.05 * 12.7062  # of the t interval of -0.2 and -0.1
    assert value == pytest.approx((-0.15, -0.15 - half, -0.15 + half), abs=1e-4)
    assert limit == pytest.approx(((0.64 * 0.36) ** 0.5 + (0.74 * 0.46) ** 0.5) / 2)
    assert conflict.spread(rows, ("caption", "vqa"))[0] == pytest.approx(value)
    alone = [row for row in rows if row.seed == 0]
    assert conflict.spread(alone, ("caption", "vqa"))[0] == pytest.approx((-0.2, -0.2, -0.2))
    for name in ("conflict-video-images", "conflict-video-images-modules"):
        assert (folder / f"reports/figures/{name}.png").is_file()
        assert f"figures/{name}.png" in (folder / "reports/report.md").read_text()


def test_conflict_of_the_seeds_that_count_is_joined(tmp_path):
    """What an earlier study left of a seed is in no mean."""
    made.write_data(tmp_path / "data")
    made.write_results(tmp_path, tmp_path / "data")
    own = tmp_path / "reports/ablations/conflict.csv"
    for seed in (7, 8):
        other = tmp_path / f"reports/seeds/{seed}/ablations/conflict.csv"
        other.parent.mkdir(parents=True)
        other.write_text(own.read_text().replace("images,1,", f"images,{seed},"))
    found = results.read(tmp_path, tmp_path / "data", "quick", [7])
    assert {row.seed for row in found.conflict} == {0, 1, 7}
