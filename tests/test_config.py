"""One reader of YAML: a text means what Hydra and DVC take it for, and is written so that it stays so."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from ruamel.yaml import YAML

from unival import compose, config
from unival.errors import UserError
from unival.study.variants import Laboratory, Study, Variant

ROOT = Path(__file__).parents[1]
NUMBERS = (
    *("5e-05", "1e-5", "1E-5", "-2e+3", "1e5", "1.e-3", "1.5e3", "1.0e-4", "0.1", "5.", ".5e-3"),
    *("0", "-3", "1_000", "1_0e3", "0x10", ".inf", "-.inf", "true", "null", "~"),
)
TEXTS = ("1e", "e5", "1-e5", "5e-05x", "1.2.3", "v1e5", "'5e-05'", "slerp")


@pytest.mark.parametrize("text", [*NUMBERS, *TEXTS])
def test_scalars_are_those_of_hydra_and_dvc(text: str) -> None:
    ours = config.parse(f"a: {text}\n", "test")
    assert repr(ours) == repr(OmegaConf.to_container(OmegaConf.create(f"a: {text}\n")))
    assert repr(ours) == repr(dict(YAML(typ="safe").load(f"a: {text}\n")))
    assert isinstance(ours["a"], str) is (text in TEXTS)


@given(
    st.dictionaries(
        st.text("abcxyz_", min_size=1),
        st.floats(allow_nan=False) | st.integers() | st.text("0123456789e+-._aE", max_size=8) | st.none(),
    )
)
def test_what_is_written_is_read_back(values: dict) -> None:
    text = config.dump(values)
    assert repr(config.parse(text, "test") or {}) == repr(values)
    assert repr(OmegaConf.to_container(OmegaConf.create(text))) == repr(values)


def test_flat_gives_leaves_by_dotted_keys() -> None:
    values = {"a": {"b": 1, "c": {"d": 2}}, "e": [3], "f": {}}
    assert config.flat(values) == {"a.b": 1, "a.c.d": 2, "e": [3], "f": {}}


def test_dates_are_texts_for_all_readers() -> None:
    text = config.dump({"version": "2026-01-01"})
    assert config.parse(text, "test") == YAML(typ="safe").load(text) == {"version": "2026-01-01"}
    assert config.parse("version: 2026-01-01", "test") == {"version": "2026-01-01"}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "a: {b: 1, b: 2}\n"])
def test_a_key_that_comes_twice_is_named_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml: .*key '[ab]' appears twice") as caught:
        config.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_anchors_may_be_overridden() -> None:
    assert config.parse("x: &x {a: 1, b: 1}\ny: {<<: *x, a: 2}\n", "test")["y"] == {"a": 2, "b": 1}


def test_nothing_else_reads_or_writes_yaml() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        uses = re.findall(r"\byaml\.\w*(?:load|dump)\w*", path.read_text(encoding="utf-8"))
        assert not uses or path.name == "config.py", f"{path}: {uses}: use unival.config"


@pytest.mark.parametrize("rate", ["5e-05", "1e-5", "0.00003"])
def test_a_small_rate_of_an_experiment_arrives(
    rate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `dvc exp run -S` writes into params.yaml, twice, and what a hand writes."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    path = tmp_path / "params.yaml"
    for written in (
        text,
        text.replace("finetune: {}", f"finetune: {{train: {{optimizer: {{lr: {rate}}}}}}}"),
    ):
        path.write_text(written, encoding="utf-8")
        apply_overrides(path, [f"++set.finetune.train.optimizer.lr={rate}"])
        values = compose.resolve(compose.compose(compose.read_params(path)), "finetune", "vqa")
        assert values["train"]["optimizer"]["lr"] == float(rate)


def test_an_experiment_changes_its_lines_of_params_yaml_alone(tmp_path: Path) -> None:
    """Comments and lists stay as they are written."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    apply_overrides(path, ["seed=1"])
    assert path.read_text(encoding="utf-8") == re.sub("(?m)^seed: 0", "seed: 1", text)
    path.write_text(text, encoding="utf-8")
    apply_overrides(path, ["++set.finetune.train.steps=7"])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in text.splitlines() if line not in lines] == ["  finetune: {}"]


def test_the_committed_files_are_plain_yaml() -> None:
    """Other readers, PyYAML among them, take the same from what compose has written."""
    for path in (ROOT / "build/config").rglob("*.yaml"):
        assert config.load(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        *("!!int foo", "!!float x", "!!timestamp foo", "!!timestamp 2001-99-99", "!!bool 7", "0b_", "0x_"),
        *("!!binary é", "!!pairs x", "!!set [1]", "!!python/name:os.system"),
        *("[" * 5000 + "]" * 5000, "{" * 3000, "\x00", "*a"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_value_is_one_line(text: str, tmp_path: Path) -> None:
    """PyYAML's constructors let errors of all kinds through."""
    (tmp_path / "params.yaml").write_text(f"a: {text}\n")
    with pytest.raises(UserError, match=r"params\.yaml: not a YAML file") as caught:
        config.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_numbers_are_finite(value: float) -> None:
    for hint, given_value in ((float, value), (float | None, value), (dict[str, float], {"k": value})):
        with pytest.raises(UserError, match=r"x.*: expected a finite number"):
            config.convert(hint, given_value, "x")
    assert config.convert(float, 3, "x") == 3.0 and type(config.convert(float, 3, "x")) is float


def test_keys_of_a_mapping_have_their_type() -> None:
    """YAML reads `1:` as a number and `no:` as false: neither is a name."""
    for key in ("1", "no", "0.5"):
        with pytest.raises(UserError, match=r"x: key: expected str, found"):
            config.convert(dict[str, float], config.parse(f"{key}: 1.0", "x"), "x")
    assert config.convert(dict[int, float], {1: 2}, "x") == {1: 2.0}


def test_a_long_value_is_told_in_short() -> None:
    with pytest.raises(UserError) as caught:
        config.convert(int, "9" * 5000, "x")
    assert len(str(caught.value)) < 200


def test_one_overlay_for_all() -> None:
    """Mappings are laid on each other key by key at any depth; neither of the two changes."""
    under = {"lr": 1.0, "scale": {"a": 0.1, "deep": {"x": 1}}, "list": [1, 2]}
    over = {"scale": {"b": 0.2, "deep": {"y": 2}}, "list": [3], "lr": None}
    before = repr((under, over))
    laid = config.overlay(under, over)
    assert laid == {"lr": None, "scale": {"a": 0.1, "b": 0.2, "deep": {"x": 1, "y": 2}}, "list": [3]}
    assert repr((under, over)) == before
    assert config.overlay({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    assert config.overlay({"a": {"b": 2}}, {"a": 1}) == {"a": 1}


def test_a_phase_of_a_variant_is_laid_as_deep_as_an_edition(tmp_path: Path) -> None:
    study = Study("?", ["caption"], "a", {"a": Variant([{"optimizer": {"lr_scale": {"head.*": 2.0}}}])})
    train = config.load(ROOT / "conf/phase/ablation.yaml") | {"seed": 0}
    train["optimizer"] = train["optimizer"] | {"lr_scale": {"encoder.*": 0.5}}

    class Benchmark:
        has = staticmethod(lambda split, task: True)

    tasks: dict[str, Any] = {"caption": None}
    laboratory = Laboratory(tmp_path, Benchmark(), tasks, {}, (), {}, {}, train, "test", 8, 8, 8)  # type: ignore[arg-type]
    [phase] = laboratory._phases(study, "a", 1)
    assert phase.optimizer.lr_scale == {"encoder.*": 0.5, "head.*": 2.0} and phase.seed == 1


def test_pick_keeps_the_named_in_their_order() -> None:
    assert list(config.pick({"a": 1, "b": 2, "c": 3}, ["c", "a"], "letters")) == ["a", "c"]
    with pytest.raises(UserError, match="unknown name 'bb' among the letters: did you mean 'b'"):
        config.pick({"a": 1, "b": 2}, ["bb"], "letters")
