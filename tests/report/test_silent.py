"""What goes wrong without an error is said: a study of each kind of fault, and one without."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from tests.report import made
from unival.metrics.bootstrap import Interval
from unival.report import content, headline, page, silent, summary
from unival.study import results, table_lines

VQA = "reports/predictions/finetune/vqa/vqa/test.jsonl"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A study in which nothing went wrong."""
    root = tmp_path_factory.mktemp("sound")
    made.write_data(root / "data/tiny")
    made.write_results(root, root / "data/tiny")
    return root


@pytest.fixture
def root(sound, tmp_path):
    """A copy of it, to be spoiled."""
    shutil.copytree(sound, tmp_path / "study")
    return tmp_path / "study"


def read(root):
    return results.read(root, root / "data/tiny", "quick")


def markdown(root, figures):
    """The report of a study."""
    document = content.document(read(root), [], [], [], silent.lines(read(root)), {}, figures)
    return page.to_markdown(document, "figures")


def found(root):
    """The sentences, without what makes them bold."""
    return [line.replace("**", "") for line in silent.lines(read(root))]


def edit(path, change):
    """Change a JSON or YAML file."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_facts(root, change):
    edit(root / "data/tiny/benchmark.json", change)


def edit_lines(path, start, change):
    """Change the lines of a table that start so; there are some."""
    lines = path.read_text().splitlines()
    changed = [change(line) if line.startswith(start) else line for line in lines]
    assert changed != lines
    path.write_text("\n".join(changed) + "\n")


def edit_rows(path, change):
    """Change every line of a predictions file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(number, row)) + "\n" for number, row in enumerate(rows)))


def test_of_a_sound_study_nothing_is_said(sound, tmp_path):
    assert found(sound) == []
    document = content.document(read(sound), [], [], [], silent.lines(read(sound)), {}, tmp_path)
    assert "Read this first" not in page.to_html(document, tmp_path)


def test_one_answer_to_everything(root):
    edit_rows(root / VQA, lambda number, row: {**row, "output": "two"})
    assert found(root) == ["`finetune/vqa` answers all 6 rows of VQA alike: `two`."]


def test_models_that_say_the_same(root):
    """A merge with the expert's every output and probability; one other probability, and they differ."""
    copy = root / "reports/predictions/merged/average/vqa/test.jsonl"
    copy.parent.mkdir(parents=True)
    shutil.copy(root / VQA, copy)
    (line,) = found(root)
    assert line.startswith("`finetune/vqa`, `merged/average` are the same model")
    edit_rows(copy, lambda number, row: {**row, "probability": 0.4 if number == 3 else 0.5})
    assert found(root) == []


@pytest.mark.parametrize(("count", "what"), [(0, "no rows"), (1, "one row")])
def test_scores_on_next_to_nothing(root, count, what):
    cell = "finetune/vqa,finetuned,vqa,test,blur,3,"
    edit_lines(root / "reports/metrics/cells.csv", cell, lambda line: f"{line.rpartition(',')[0]},{count}")
    assert found(root) == [f"Scores on {what} say nothing: VQA (blur)."]


def test_a_split_of_one_row(root):
    edit_facts(root, lambda facts: facts["splits"].update(val={"rows": {"vqa": 1, "caption": 2}}))
    assert found(root) == ["Split `val` has one row of VQA."]


def test_an_expert_below_its_start_is_said_and_did_not_work(root, tmp_path):
    table = root / "reports/metrics/comparisons.csv"
    good = "finetune/vqa,pretrain/video_text,vqa,test,vqa_accuracy,0.2,0.17,0.23"
    assert good in table.read_text()
    table.write_text(table.read_text().replace(good, good.replace("0.2,0.17,0.23", "-0.6,-0.63,-0.57")))
    line = "The expert of VQA is worse than the model it starts from: −0.600 [−0.630, −0.570]."
    assert found(root) == [line]
    text = page.to_markdown(
        content.document(read(root), [], [], [], silent.lines(read(root)), {}, tmp_path), "figures"
    ).replace("**", "")
    for title in ("Read this first", "What did not work"):
        assert line in text.split(f"## {title}")[1].split("## ")[0]


def test_experts_are_compared_with_the_pretrained_model(tmp_path):
    """Paired, on the same rows: the table that the check reads."""
    from tests.workflow.test_leaderboard import result

    rows = [
        result("finetune/vqa", "finetuned", "vqa", [0.0, 1.0, 0.0], tmp_path),
        result("pretrain/first", "pretrained", "vqa", [1.0, 1.0, 1.0], tmp_path),
    ]
    (line,) = table_lines.comparisons(rows, 100)
    assert (line.model, line.against, round(line.difference, 3)) == ("finetune/vqa", "pretrain/first", -0.667)


@pytest.mark.parametrize("trace", ["train", "rejected"])
def test_a_task_whose_test_rows_are_gone(root, trace):
    """It is in no table; training rows, or rejected ones, tell that the benchmark has it."""
    edit(root / "build/config/evaluate.yaml", lambda c: c.update(pretrained_tasks=["audio_qa", "matching"]))
    assert found(root) == []  # a benchmark need not have it
    if trace == "train":
        edit_facts(root, lambda facts: facts["splits"].update(train={"rows": {"audio_qa": 40}}))
    else:
        edit_facts(root, lambda facts: facts.update(rejected_from={"test": {"audio_qa": 40}}))
    (line,) = found(root)
    assert (
        line.startswith("audio QA should have been evaluated but is in no table")
        and "has no rows of it" in line
    )


def test_a_variant_that_learned_nothing(root):
    table = root / "reports/ablations/multitask.csv"
    edit_lines(table, "multitask,only_vqa,", lambda line: line.replace("0.6,0.56,0.64", "0.01,0.0,0.02"))
    (line,) = found(root)
    assert line.startswith("Ablation multitask: `only_vqa` learned nothing")


def test_rejected_rows_are_counted_by_split(root):
    where = {"train": {"vqa": 3, "media": 1}, "test": {"caption": 2}}
    edit_facts(root, lambda facts: facts.update(rejected=7, rejected_from=where))
    (line,) = found(root)
    assert line.startswith("7 faults kept rows and media out of the benchmark")
    assert "(train: VQA 3, media 1; test: caption 2)" in line
    assert "rejected.parquet" in line


def test_rows_left_out_of_training(root):
    curve = root / "reports/curves/finetune-vqa.csv"
    head, *lines = curve.read_text().splitlines()
    rows = [f"{line},{min(number, 4)}" for number, line in enumerate(lines)]
    curve.write_text("\n".join([f"{head},data/damaged", *rows]) + "\n")
    assert found(root) == ["4 rows of `finetune-vqa` could not be read and were left out of training."]


def test_repeated_test_rows(root):
    """The same question about the same picture counts once more under another id."""
    first, *others = [json.loads(line) for line in (root / VQA).read_text().splitlines()]
    again = [first, *({**first, "id": row["id"], "output": row["output"]} for row in others[:2])]
    edit_rows(root / VQA, lambda number, row: again[number] if number < 3 else row)
    assert found(root) == ["2 of 6 test rows of VQA repeat another one."]


def test_a_stream_with_fewer_rows_than_its_quota(root):
    edit_facts(root, lambda facts: facts["splits"].update(train={"rows": {"vqa": 1, "caption": 40}}))
    mixture = {"rows": 64, "streams": [{"task": "vqa", "rows": 32}, {"task": "caption", "rows": 32}]}
    edit(root / "build/config/finetune/vqa.yaml", lambda c: c["train"].update(mixture=mixture))
    assert found(root) == [
        "Split `train` has one row of VQA.",
        "`finetune-vqa` draws 32 rows of VQA a step from 1: each is repeated up to 32 times in every step.",
    ]


def test_a_frozen_module_that_moved(root):
    """`all` has moved in every expert, and may."""
    edit(root / "build/config/finetune/vqa.yaml", lambda c: c["train"].update(freeze=["empty*"]))
    assert found(root) == ["`empty` of the expert of VQA moved by 1, though frozen."]


def test_the_summary_has_the_sentences(root):
    edit_rows(root / VQA, lambda number, row: {**row, "output": "two"})
    origin = {"commit": None, "uncommitted": "", "versions": {}, "machine": {}}
    (line,) = summary.summarise(read(root), [], [], silent.lines(read(root)), origin)["read_first"]
    assert "alike" in line


def test_the_result_stands_first(sound, tmp_path):
    """Experts, the best merge, the claims: before pictures and tables."""
    experts, merge, paper = headline.sentences(read(sound), [])
    assert experts.startswith("**6 of 7 experts** are clearly above") and "entailment" in experts
    assert merge.startswith("One model for caption, VQA") and "**average** keeps most, 93 % [89, 97]" in merge
    assert paper.startswith("Of the paper's claims: ")
    text = page.to_markdown(
        content.document(read(sound), [], [], [], silent.lines(read(sound)), {}, tmp_path), "figures"
    )
    assert text.index("## Result") < text.index(experts) < text.index("## Tasks") < text.index("dag.png")


def test_claims_without_a_verdict_are_counted_in_words():
    assert headline._counted("2 seeds: no verdict", 3) == "3 without a verdict (2 seeds)"
    assert headline._counted("supported", 4) == "4 supported"


def test_models_of_other_tasks_are_not_weighed_against_each_other(sound):
    """The best for the most tasks comes first, whatever share one for fewer tasks keeps."""
    study = read(sound)
    (ends,) = [row for row in study.leaderboard if (row.model, row.part) == ("merged/average", "id")]
    wide = replace(
        ends, model="merged/unival", tasks=f"{ends.tasks} video_caption", share=Interval(0.5, 0.4, 0.6)
    )
    worse = replace(wide, model="merged/all_experts", share=Interval(0.4, 0.3, 0.5))
    study.leaderboard.extend([worse, wide])
    _, first, second, _ = headline.sentences(study, [])
    assert "**unival** keeps most, 50 % [40, 60]" in first and "video caption" in first
    assert "**average** keeps most, 93 % [89, 97]" in second


def test_evaluate_says_it_where_it_arises(root, capsys):
    silent.say("evaluate", silent.evaluated(read(root)))
    assert capsys.readouterr().out == ""
    edit_rows(root / VQA, lambda number, row: {**row, "output": "two"})
    silent.say("evaluate", silent.evaluated(read(root)))
    assert capsys.readouterr().out == "evaluate: `finetune/vqa` answers all 6 rows of VQA alike: `two`.\n"
