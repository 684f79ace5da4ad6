"""Where a result comes from: the graph of dvc.lock, what its runs noted, and whether it comes out again."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from unival import compose, files, lineage, provenance
from unival.commands import lineage as command
from unival.commands import prove
from unival.errors import UserError

MACHINE = {"processor": "CPU", "instructions": "AVX2", "threads": 1, "ranks": 2, "torch": "2.13"}
COMMIT, WORK = "c" * 40, "d" * 40
GRAPH = {
    "prepare": ([], ["data/processed/tiny"]),
    "pretrain@first": (["data/processed/tiny"], ["models/pretrain/first"]),
    "finetune@vqa": (["data/processed/tiny", "models/pretrain/first"], ["models/finetune/vqa"]),
    "finetune@caption": (["data/processed/tiny", "models/pretrain/first"], ["models/finetune/caption"]),
    "merge": (["models/finetune", "models/pretrain/first"], ["models/merged"]),
    "evaluate": (["models/finetune", "models/merged"], ["reports/metrics/tasks.json"]),
    "report": (["reports/metrics"], ["reports/figures"]),
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished study of which only what is noted about it is there."""
    monkeypatch.chdir(tmp_path)
    stages = {}
    for number, (name, (reads, writes)) in enumerate(GRAPH.items()):
        outs = [{"path": path, "md5": f"{number}" * 32} for path in writes]
        stages[name] = {"cmd": f"run {name}", "deps": [{"path": path} for path in reads], "outs": outs}
        code = {"digest": "e" * 16, "commit": COMMIT, "uncommitted": WORK if name == "merge" else ""}
        note = {"run_id": f"{number}f" * 16, "seconds": 1.0, "config_hash": "a" * 16, "machine": MACHINE}
        files.write_json(Path("reports/runs") / f"{name.replace('@', '-')}.json", note | {"code": code})
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100, "metric": "vqa_accuracy"}
    files.write_json(Path("reports/metrics/tasks.json"), {"vqa": score})
    files.write_json(Path("data/processed/tiny/benchmark.json"), {"splits": {"train": {"digest": "b" * 16}}})
    files.write_text(Path("models/merged/average/weights"), "weights")
    files.write_text(Path("reports/figures/front.png"), "picture")
    return tmp_path


@pytest.mark.parametrize(
    ("thing", "first"),
    [
        ("vqa", "evaluate"),
        ("finetune-vqa", "finetune@vqa"),
        ("models/merged/average", "merge"),
        ("average", "merge"),
        ("front", "report"),
        ("2f2f2f2f", "finetune@vqa"),
        ("bbbbbbbb", "prepare"),
        ("444444", "merge"),
    ],
)
def test_a_result_is_found_by_what_a_person_calls_it(study: Path, thing: str, first: str) -> None:
    assert lineage.Lineage().find(thing)[1][0] == first


@pytest.mark.fault
@pytest.mark.parametrize("thing", ["vqq", "", "bbb", "../../etc/passwd", "0" * 40])
def test_what_is_unknown_is_said_so(study: Path, thing: str) -> None:
    with pytest.raises(UserError, match="not a score, process, file, run, digest or commit here"):
        lineage.Lineage().find(thing)


def test_before_and_after_are_those_of_the_graph(study: Path) -> None:
    graph = lineage.Lineage()
    assert graph.before("finetune@vqa") == ["prepare", "pretrain@first"]
    assert set(graph.after("finetune@vqa")) == {"merge", "evaluate", "report"}
    assert set(graph.before("report")) == {*GRAPH} - {"report"}


def test_a_number_is_traced_to_its_own_expert(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["vqa"])
    told = capsys.readouterr().out
    assert told.startswith("vqa = 0.5 [0.4, 0.6], vqa_accuracy, 100 rows of the test split")
    assert "made by finetune@vqa" in told and "from pretrain@first" in told and "caption\n" not in told
    assert f"code of commit {COMMIT[:12]}: other code than here" in told and "used by merge, report" in told
    command.main(["average", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["processes"]["merge"]["run"]["code"]["uncommitted"] == WORK
    assert found["processes"]["merge"]["parents"]["finetune@vqa"] == ["models/finetune"]
    command.main(["average"])
    assert f"git diff {COMMIT[:12]} {WORK[:12]}" in capsys.readouterr().out


def test_a_merged_model_is_traced_to_its_recipe_and_its_own_experts(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"recipes": {"average": {"method": "average", "weights": None}, "ties": {"method": "ties"}}}
    monkeypatch.setattr(lineage.Process, "resolved", lambda self: settings if self.name == "merge" else {})
    for name, expert in (("average", "vqa"), ("ties", "caption")):
        note = {"tasks": [expert], "updates": {f"finetune/{expert}": 4}}
        files.write_json(Path("models/merged") / name / lineage.MADE, note)
        files.write_json(Path("models/merged") / name / "merge.json", {"inputs": [f"of {name}"]})
    command.main(["average"])
    told = capsys.readouterr().out
    assert "    recipe.method = average\n" in told and "ties" not in told and "weights" not in told
    assert "from finetune@vqa" in told and "from finetune@caption" not in told
    command.main(["merge", "--json"])
    merges = json.loads(capsys.readouterr().out)["processes"]["merge"]["merges"]
    assert {name: (made["configuration"], made["inputs"]) for name, made in merges.items()} == {
        "models/merged/average": ({"recipe": settings["recipes"]["average"]}, ["of average"]),
        "models/merged/ties": ({"recipe": settings["recipes"]["ties"]}, ["of ties"]),
    }


def test_bytes_are_compared_where_they_are_promised(study: Path, tmp_path: Path) -> None:
    again, one = tmp_path / "again", lineage.Lineage().processes["evaluate"]
    shutil.copytree("reports", again / "reports")
    assert "the same bytes" in lineage._compared(one, again)
    scores, note = again / lineage.SCORES, again / lineage.NOTES / "evaluate.json"
    files.write_json(scores, {"vqa": {"value": 0.55}})
    with pytest.raises(UserError, match="on a machine that should give the same"):
        lineage._compared(one, again)
    files.write_json(note, files.read_json(note) | {"machine": MACHINE | {"instructions": "AVX512"}})
    assert "another instructions rounds otherwise" in lineage._compared(one, again)
    files.write_json(scores, {"vqa": {"value": 0.7}})
    with pytest.raises(UserError, match=r"outside of their intervals: vqa 0\.7"):
        lineage._compared(one, again)


def test_inputs_of_a_check_lie_where_their_paths_lead(study: Path) -> None:
    """A record of relative paths is the same in the folder in which it is made again."""
    folder = study / "scratch/check/evaluate"
    lineage._link(Path("models/merged"), folder / "models/merged")
    lineage._link(lineage.LOCK, folder / lineage.LOCK)
    weights = folder / "models/merged/average/weights"
    assert weights.resolve() == weights and weights.read_text() == "weights"
    assert (folder / lineage.LOCK).samefile(lineage.LOCK)


def test_a_report_made_again_tells_of_the_same_runs_and_code(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(lineage.provenance, "made_by", lambda code: COMMIT)
    monkeypatch.setattr(lineage.provenance, "check_out", lambda commit, folder: folder.mkdir(parents=True))
    monkeypatch.setattr(lineage.Process, "resolved", lambda self: {"stage": "report"})
    files.write_text(compose.file_of("report", None), "stage: report")

    def run(command: list[str], cwd: Path, env: dict[str, str], check: bool) -> object:
        for name in ("finetune-vqa.json", "report.json"):
            assert (cwd / lineage.NOTES / name).is_file()
        assert env[provenance.CODE] == f"{COMMIT}:"
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(lineage.subprocess, "run", run)
    with pytest.raises(UserError, match="it failed in"):
        lineage.check(lineage.Lineage().processes["report"])
    monkeypatch.setenv(provenance.CODE, f"{COMMIT}:{WORK}")
    assert provenance.commit() == {"commit": COMMIT, "uncommitted": WORK}


def test_each_process_behind_a_number_is_made_again(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(lineage, "check", lambda one: made.append(one.name))
    command.main(["vqa", "--check"])
    assert made == ["evaluate", "finetune@vqa"]


@pytest.mark.fault
def test_one_that_does_not_come_out_again_hides_no_other(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(one: lineage.Process) -> str:
        if one.name == "evaluate":
            raise UserError("evaluate: other bytes")
        return f"{one.name}: the same bytes"

    monkeypatch.setattr(lineage, "check", check)
    with pytest.raises(UserError, match=r"^evaluate: other bytes$"):
        command.main(["vqa", "--check"])
    assert capsys.readouterr().out == "finetune@vqa: the same bytes\n"


def test_a_proof_that_fails_names_the_files(tmp_path: Path) -> None:
    """A model's folder holds modules of the package, which are other bytes when they are edited."""
    for folder, left in (("old", "a"), ("new", "b")):
        files.write_text(tmp_path / folder / "models/vqa/files.py", folder)
        files.write_text(tmp_path / folder / "models/vqa/model.safetensors", "weights")
        files.write_text(tmp_path / folder / "models/vqa" / left, "")
    folders = tmp_path / "old", tmp_path / "new"
    assert prove._differing("models/vqa", *folders) == ["models/vqa/a", "models/vqa/b", "models/vqa/files.py"]
    assert prove._differing("models/vqa/files.py", *folders) == ["models/vqa/files.py"]
    assert prove._differing("models/vqa/model.safetensors", *folders) == []


@pytest.mark.fault
def test_what_nobody_can_make_again_is_refused(study: Path) -> None:
    with pytest.raises(UserError, match="not known any more"):
        lineage.check(lineage.Lineage().processes["merge"])
