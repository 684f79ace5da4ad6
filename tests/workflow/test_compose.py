"""Resolved configurations: complete, strict, and changed only where they should be."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from unival import compose
from unival.errors import UserError
from unival.stages import STAGES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what compose reads."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(project: Path) -> dict[str, str]:
    shutil.rmtree(project / "build", ignore_errors=True)
    return {str(path.relative_to(compose.BUILD)): path.read_text() for path in compose.write_all()}


def with_high_resolution(params: str) -> str:
    """`params.yaml` with the comment signs off the third phase, and later stages starting from it."""
    lines = params.replace("\n  # high_resolution:", "\n  high_resolution:").replace(
        "\n  #   after:", "\n    after:"
    )
    return lines.replace(
        "pretrained: models/pretrain/video_text", "pretrained: models/pretrain/high_resolution"
    )


def edit(path: Path, change: Callable[[dict], None]) -> None:
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def test_every_edition_and_model_composes(project: Path) -> None:
    for edition in compose.options("edition"):
        for model in compose.options("model"):
            edit(project / "params.yaml", lambda v, e=edition, m=model: v.update(edition=e, model=m))
            found = written(project)
            assert {name.split("/")[0].removesuffix(".yaml") for name in found} == set(STAGES)


def test_the_full_edition_makes_and_evaluates_every_recipe(project: Path) -> None:
    """A recipe is one file: no list has to name it."""
    (project / "conf/merge/novel.yaml").write_text("method: average\nmodels: [vqa, caption]\n")
    edit(project / "params.yaml", lambda v: v.update(edition="full"))
    found = written(project)
    merge, evaluate = (yaml.safe_load(found[f"{stage}.yaml"]) for stage in ("merge", "evaluate"))
    assert merge["merges"] == evaluate["merges"] == evaluate["shifted_merges"] == compose.options("merge")
    assert set(merge["recipes"]) == {"novel", *merge["merges"]}


def test_the_paper_edition_scores_every_test_row(project: Path) -> None:
    edit(project / "params.yaml", lambda v: v.update(edition="paper"))
    assert yaml.safe_load(written(project)["evaluate.yaml"])["rows"] is None


@pytest.mark.parametrize("benchmark", sorted(path.stem for path in (ROOT / "conf/benchmark").glob("*.yaml")))
def test_every_benchmark_composes(project: Path, benchmark: str) -> None:
    edit(project / "params.yaml", lambda v: v.update(benchmark=benchmark))
    assert yaml.safe_load(written(project)["prepare.yaml"])["benchmark"]["name"] == benchmark


def test_the_committed_files_are_those_of_the_committed_choice(project: Path) -> None:
    if not (ROOT / "build/config").exists():
        pytest.skip("build/config is not written yet: dvc repro compose")
    for name, text in written(project).items():
        assert (ROOT / "build/config" / name).read_text() == text, f"{name}: run `dvc repro compose`"


def test_files_of_an_earlier_choice_go(project: Path) -> None:
    compose.write_all()
    edit(project / "params.yaml", lambda v: v["tasks"].remove("vqa"))
    compose.write_all()
    assert not (project / "build/config/finetune/vqa.yaml").exists()
    assert (project / "build/config/finetune/caption.yaml").exists()


def test_no_machine_setting_enters(project: Path) -> None:
    for name, text in written(project).items():
        for key in ("device", "workers", "launcher", "threads"):
            assert f"{key}:" not in text, f"{name} holds {key}"


def test_a_comment_changes_nothing(project: Path) -> None:
    before = written(project)
    path = project / "conf/task/vqa.yaml"
    path.write_text("# a remark\n" + path.read_text())
    assert written(project) == before


def test_one_value_of_one_task_changes_only_what_uses_it(project: Path) -> None:
    before = written(project)
    edit(
        project / "params.yaml",
        lambda v: v["set"].update(finetune={"items": {"vqa": {"train": {"steps": 7}}}}),
    )
    after = written(project)
    assert [name for name in before if before[name] != after[name]] == ["finetune/vqa.yaml"]


def test_overlays_apply_to_all_items_and_then_to_one(project: Path) -> None:
    over = {"train": {"steps": 9}, "items": {"caption": {"train": {"steps": 3}}}}
    edit(project / "params.yaml", lambda v: v["set"].update(finetune=over))
    found = written(project)
    assert yaml.safe_load(found["finetune/caption.yaml"])["train"]["steps"] == 3
    assert yaml.safe_load(found["finetune/vqa.yaml"])["train"]["steps"] == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(benchmark="wrold"), "did you mean 'world'"),
        (lambda v: v.update(edition="quik"), "did you mean 'quick'"),
        (lambda v: v.update(benchmrk="world"), "did you mean 'benchmark'"),
        (lambda v: v.update(seed="zero"), "expected int"),
        (lambda v: v["tasks"].append("vqas"), "did you mean 'vqa'"),
        (lambda v: v["tasks"].append("vqa"), "params.yaml: tasks: 'vqa' comes twice"),
        (lambda v: v["set"].update(finetun={}), "did you mean 'finetune'"),
        (lambda v: v["set"].update(finetune={"train": {"stepz": 1}}), "did you mean 'steps'"),
        (lambda v: v["set"].update(finetune={"train": {"optimizer": {"lrr": 1.0}}}), "unknown key 'lrr'"),
        (lambda v: v["set"].update(pretrain={"train": {"precision": "float64"}}), "is not a valid value"),
        (lambda v: v["set"].update(merge={"merges": ["avrage"]}), "did you mean 'average'"),
        (
            lambda v: v["set"].update(
                pretrain={"items": {"image_text": {"train": {"mixture": {"rows": 40}}}}}
            ),
            r"pretrain@image_text: train: mixture: quotas caption 10 .* = 42, but rows is 40: they must",
        ),
        (lambda v: v["set"].update(merge={"search": {"avrage": {}}}), "did you mean 'average'"),
        (
            lambda v: v["set"].update(merge={"recipes": {"average": {"method": "avrage"}}}),
            "recipe average: unknown merge method 'avrage': did you mean 'average'",
        ),
        (
            lambda v: v["set"].update(merge={"recipes": {"task_arithmetic": {"options": {"scal": 1.0}}}}),
            "recipe task_arithmetic: .*unknown key 'scal': did you mean 'scale'",
        ),
        (
            lambda v: v["set"].update(merge={"search": {"task_arithmetic": {"over": {"scal": [1.0]}}}}),
            "task_arithmetic: 'scal' is neither a model nor an option: did you mean 'scale'",
        ),
        (lambda v: v["set"].update(evaluate={"shifted_merges": ["avrage"]}), "did you mean 'average'"),
        (lambda v: v["set"].update(ablate={"only": ["balancd"]}), "did you mean 'balanced'"),
        (lambda v: v["set"].update(finetune=[1]), "params.yaml: set.finetune: expected a mapping"),
        (lambda v: v["set"].update(finetune={"items": 3}), "set.finetune.items: expected a mapping"),
        (lambda v: v["set"].update(finetune={"items": {"vqa": "x"}}), "items.vqa: expected a mapping"),
        (lambda v: v["set"].update(finetune={"train": 3}), "train: expected a mapping, found 3"),
        (lambda v: v["set"].update(pretrain={"train": {"mixture": 3}}), "mixture: expected a mapping"),
        (lambda v: v["set"].update(merge={"recipes": {"average": None}}), "average: expected a mapping"),
        (lambda v: v["set"].update(merge={"merges": 3}), "merges: expected a list, found 3"),
        (lambda v: v["set"].update(evaluate={"merges": None}), "merges: expected a list, found None"),
        (lambda v: v["set"].update(ablate={"studies": None}), "studies: expected a list, found None"),
        (lambda v: v["set"].update(evaluate={"rows": -3}), "rows is -3: it must be at least 1"),
        (lambda v: v["set"].update(evaluate={"resamples": 0}), "resamples is 0: it must be at least 1"),
        (lambda v: v["set"].update(evaluate={"interpolation": {"points": -2}}), "points must be at least 0"),
    ],
)
def test_mistakes_name_the_thing_and_the_fix(
    project: Path, change: Callable[[dict], None], message: str
) -> None:
    edit(project / "params.yaml", change)
    with pytest.raises(UserError, match=message):
        compose.write_all()
    assert not (project / "build").exists(), "nothing is written when one file is wrong"


def test_the_first_phase_starts_new_and_the_second_from_the_first(project: Path) -> None:
    found = {name: yaml.safe_load(text) for name, text in written(project).items()}
    assert found["pretrain/image_text.yaml"]["init"] is None
    assert found["pretrain/video_text.yaml"]["init"] == "models/pretrain/image_text"
    assert found["finetune/vqa.yaml"]["init"] == "models/pretrain/video_text"


def test_the_high_resolution_phase_is_one_edit(project: Path) -> None:
    """The lines of params.yaml that add it, for any model; the other phases stay as they are."""
    params = project / "params.yaml"
    before = written(project)
    params.write_text(with_high_resolution(params.read_text()))
    found = {name: yaml.safe_load(text) for name, text in written(project).items()}
    phase, model = (
        found["pretrain/high_resolution.yaml"],
        yaml.safe_load(Path("conf/model/tiny.yaml").read_text()),
    )
    assert phase["processor"] == {**model["processor"], **model["high_resolution"]}
    assert phase["init"] == "models/pretrain/video_text" and phase["train"]["freeze_batch_norm"]
    for task in yaml.safe_load(params.read_text())["tasks"]:
        finetune = found[f"finetune/{task}.yaml"]
        assert finetune["init"] == "models/pretrain/high_resolution" and finetune["processor"] == {}
    for stage in ("merge", "evaluate"):
        assert "models/pretrain/high_resolution" in found[f"{stage}.yaml"].values()
    for name in ("prepare.yaml", "pretrain/image_text.yaml", "pretrain/video_text.yaml"):
        assert yaml.safe_load(before[name]) == found[name]
    edit(params, lambda v: v.update(model="base"))
    edit(params, lambda v: v["set"].update(pretrain={"processor": {"video_frames": 32}}))
    sizes = yaml.safe_load(written(project)["pretrain/high_resolution.yaml"])["processor"]
    assert (sizes["image_size"], sizes["video_size"], sizes["video_frames"]) == (480, 384, 32)


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "conf/sweep").glob("*.yaml")))
def test_every_sweep_preset_composes_and_names_its_choices(preset: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        tree = hydra_compose("config", [f"+sweep={preset}"], return_hydra_config=True)
    assert tree.stage_name in STAGES
    assert tree.hydra.mode.name == "MULTIRUN"
    assert tree.hydra.sweeper.params


@pytest.mark.parametrize("content", [b"prepare: {a: [1\n", b"\xff\xfe", b"5\n"])
def test_a_damaged_file_is_named_in_one_line(project: Path, content: bytes) -> None:
    (project / "conf/edition/quick.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"conf/edition/quick\.yaml: ") as caught:
        compose.write_all()
    assert "\n" not in str(caught.value)


def test_the_documented_training_options_compose(project: Path) -> None:
    blocks = re.findall(r"```yaml\n(set:.*?)```", (ROOT / "docs/training.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        edit(project / "params.yaml", lambda values, block=block: values.update(yaml.safe_load(block)))
        assert "rank: 16" in written(project)["finetune/vqa.yaml"]


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "soup+1", "a/b", "", ".hidden", "x" * 200])
def test_a_recipe_is_named_as_a_folder_can_be(project: Path, name: str) -> None:
    mine = {"recipes": {name: {"method": "average", "models": ["caption", "vqa"]}}, "merges": [name]}
    edit(project / "params.yaml", lambda v: v["set"].update(merge=mine))
    with pytest.raises(UserError, match=r"(recipes|models): '.*is not a name of a folder"):
        written(project)


def test_a_recipe_of_ones_own_can_be_evaluated(project: Path) -> None:
    mine = {"recipes": {"mine": {"method": "average", "models": ["caption", "vqa"]}}, "merges": ["mine"]}
    over = {"merge": mine, "evaluate": {"merges": ["mine"], "shifted_merges": ["mine"]}}
    edit(project / "params.yaml", lambda v: v["set"].update(over))
    assert yaml.safe_load(written(project)["evaluate.yaml"])["shifted_merges"] == ["mine"]


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a${oc.env:NOT_SET,b}", "${oc.decode:${oc.env:HOME}}"])
def test_no_value_of_the_environment_comes_into_a_committed_file(project: Path, value: str) -> None:
    """Wherever it stands; nothing is written."""
    before = written(project)
    edit(project / "params.yaml", lambda v: v["set"].update(finetune={"init": value}))
    with pytest.raises(UserError, match=r"init.*oc\.env.*committed"):
        compose.write_all()
    found = {str(path.relative_to(compose.BUILD)): path.read_text() for path in compose.BUILD.rglob("*.yaml")}
    assert found == before
    edit(project / "params.yaml", lambda v: v["set"].update(finetune={}))
    edit(project / "conf/stage/report.yaml", lambda v: v.update(edition=value))
    with pytest.raises(UserError, match=r"edition.*oc\.env.*committed"):
        compose.write_all()


def test_the_model_for_all_tasks_keeps_to_the_tasks_there_are(project: Path) -> None:
    """Its quotas follow the chosen tasks, and what it starts from is made though no one chose it."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["tasks"], params["set"]["merge"] = ["caption", "vqa"], {"merges": ["average"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    merge = yaml.safe_load(written(project)["merge.yaml"])
    assert merge["refinetune"]["unival"]["rows"].keys() == {"caption", "vqa"}
    assert merge["recipes"].keys() == {"all_experts", "average"}
    params["set"]["merge"]["refinetune"] = {"unival": {"rows": {"captoin": 2}}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"captoin.*caption"):
        written(project)
