"""Where a value comes from, and which edited values have no effect."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from unival import cli, compose, config, explain

ROOT = Path(__file__).parents[2]


MERGES = '["average", "average_video", "all_experts", "task_arithmetic"]'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed copy of what compose reads, with what it writes."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "build/config", tmp_path / "build/config")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def replace(path: str, old: str, new: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert re.search(old, text, re.M), f"{path} has no {old}"
    Path(path).write_text(re.sub(old, new, text, count=1, flags=re.M), encoding="utf-8")


def composed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    cli.main(["compose"])
    return capsys.readouterr().out.splitlines()


def test_every_key_of_every_file_names_the_setting_that_counts(project: Path) -> None:
    """The last setting of a key holds the value that the resolved file has; without any it is the code's."""
    replace("params.yaml", "finetune: {}", "finetune: {train: {steps: 7}, items: {vqa: {train: {seed: 3}}}}")
    params = compose.read_params()
    tree = compose.compose(params)
    for stage in compose.STAGES:
        for item in params.items(stage):
            resolved = config.flat(compose.resolve(tree, stage, item))
            histories = explain.history(tree, params, stage, item)
            assert set(histories) == set(resolved)
            for key, settings in histories.items():
                for setting in settings:
                    assert Path(setting.file).is_file(), setting
                if settings and not isinstance(resolved[key], list):  # lists may hold defaults of the code
                    assert resolved[key] == settings[-1].value, key
            assert any(histories.values())


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["finetune", "vqa", "train.steps"],
            """train.steps = 9
    params.yaml: set.finetune.items.vqa.train.steps = 9
    over conf/edition/quick.yaml: finetune.items.vqa.train.steps = 360
    over conf/edition/quick.yaml: finetune.train.steps = 240
    over conf/phase/finetune.yaml: steps = 150
""",
        ),
        (["finetune", "vqa", "train.seed"], "train.seed = 0\n    params.yaml: seed = 0\n"),
        (
            ["finetune", "vqa", "train.optimizer.eps"],
            "train.optimizer.eps = 1e-08\n    default of the code\n",
        ),
        (
            ["pretrain", "video_text", "init"],
            """init = models/pretrain/image_text
    params.yaml: phases.video_text.after = models/pretrain/image_text
""",
        ),
        (
            ["evaluate", "merges"],
            f"merges = {MERGES}\n    conf/stage/merge.yaml: merges = {MERGES}\n",
        ),
        (
            ["merge", "recipes.average.method"],
            "recipes.average.method = average\n    conf/merge/average.yaml: method = average\n",
        ),
    ],
)
def test_explain_names_the_files(
    project: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replace("params.yaml", "finetune: {}", "finetune: {items: {vqa: {train: {steps: 9}}}}")
    cli.main(["compose", "--explain", *words])
    assert capsys.readouterr().out == answer


def test_a_part_is_explained_key_by_key(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["compose", "--explain", "finetune", "vqa", "train.optimizer"])
    shown = re.findall(r"^train\.optimizer\.(\w+) = ", capsys.readouterr().out, re.M)
    assert {"lr", "name", "warmup", "lr_scale"} <= set(shown)


def test_the_processor_of_a_phase_is_laid_over_the_models(project: Path) -> None:
    replace("conf/phase/video_text.yaml", "^steps:", "processor: {image_size: 64}\nsteps:")
    params = compose.read_params()
    settings = explain.history(compose.compose(params), params, "pretrain", "video_text")
    assert [setting.file for setting in settings["processor.image_size"]] == [
        "conf/model/tiny.yaml",
        "conf/phase/video_text.yaml",
    ]


def test_compose_says_what_has_changed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert composed(capsys) == ["0 of 15 files in build/config changed"]
    replace("params.yaml", "finetune: {}", "finetune: {items: {vqa: {train: {steps: 9}}}}")
    assert composed(capsys) == ["1 of 15 files in build/config changed: finetune/vqa"]
    assert composed(capsys) == ["0 of 15 files in build/config changed"]


def test_an_edited_value_that_is_overridden_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace("conf/phase/finetune.yaml", "^steps: .*", "steps: 40")
    replace("conf/phase/finetune.yaml", "^log_every: .*", "log_every: 5")
    changed, line = composed(capsys)
    assert changed.startswith("7 of 15")
    mine, _, other = line.partition(" is overridden by ")
    assert mine == "conf/phase/finetune.yaml: steps = 40"
    assert re.fullmatch(r"conf/edition/quick\.yaml: finetune\.train\.steps = \d+", other)


def test_an_edited_value_that_one_task_uses_has_an_effect(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The edition's steps of all tasks are overridden for two of seven, and count for the other five."""
    replace("conf/edition/quick.yaml", "train: {steps: 240", "train: {steps: 250")
    assert len(composed(capsys)) == 1


def test_an_edited_value_that_nothing_reads_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace("conf/merge/ties.yaml", "^method: ties", "method: dare")
    replace("params.yaml", "finetune: {}", "finetune: {items: {matching: {train: {steps: 9}}}}")
    replace("conf/edition/full.yaml", "shift_rows: .*", "shift_rows: 3")  # not chosen: nothing to say
    assert composed(capsys)[1:] == [
        "conf/merge/ties.yaml: method is read by no stage of this choice",
        "params.yaml: set.finetune.items.matching.train.steps is read by no stage of this choice",
    ]


def test_without_git_nothing_is_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(project / ".git")
    replace("conf/phase/finetune.yaml", "^steps: .*", "steps: 40")
    assert len(composed(capsys)) == 1


def test_the_command_line_counts_more_than_what_params_keeps(project: Path) -> None:
    """Leftovers of an earlier experiment, under `items` too, never win over what was typed for this run."""
    replace("params.yaml", "finetune: {}", "finetune: {items: {vqa: {train: {steps: 60}}}}")
    params = compose.read_params()
    choices = {"": 60, "++set.finetune.train.steps=20": 20, "+experiment=paper/vqav2": 50634}
    for word, steps in choices.items():
        words = [word] if word else []
        values = compose.resolve(compose.compose(params, words), "finetune", "vqa")
        assert values["train"]["steps"] == steps, words
