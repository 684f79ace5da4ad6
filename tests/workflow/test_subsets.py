"""Averages of random subsets of experts: which are drawn, what they are, and what they are compared with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workflow.test_leaderboard import result
from unival.errors import UserError
from unival.study import subsets
from unival.study.subsets import SubsetConfig

EXPERTS = ["caption", "vqa", "grounding", "entailment"]
COUNTER = "num_batches_tracked"


def test_all_subsets_or_so_many_of_them() -> None:
    """The same for every seed; no expert and every one alone come first."""
    alone = [(), *((expert,) for expert in EXPERTS)]
    every = subsets.models(EXPERTS, 11)
    assert every[:5] == alone and len(set(every)) == 16 and subsets.models(EXPERTS, 100) == every
    some = subsets.models(EXPERTS, 3)
    assert some[:5] == alone and len(some) == 8 and set(some) < set(every)
    assert subsets.models(EXPERTS, 0) == subsets.models(EXPERTS[:1], 4) == []


def test_names() -> None:
    assert [subsets.name(one) for one in [(), ("vqa",), ("caption", "vqa")]] == [
        "experts/none", "experts/vqa", "experts/caption+vqa",
    ]  # fmt: skip


def test_each_is_compared_with_the_start_and_the_expert_of_the_task(tmp_path: Path) -> None:
    def scored(vqa: list[float], caption: list[float]) -> list[Any]:
        of_task = {"vqa": vqa, "caption": caption}
        return [result("", "interpolated", task, scores, tmp_path) for task, scores in of_task.items()]

    found = {
        (): scored([0.0, 0.0], [0.25, 0.25]),
        ("vqa",): scored([1.0, 1.0], [0.0, 0.0]),
        ("caption",): scored([0.5, 0.5], [1.0, 1.0]),
        ("caption", "vqa"): scored([0.75, 0.75], [0.5, 0.5]),
    }
    lines = {(line.experts, line.task): line for line in subsets.lines(found, 100)}
    both, cross = lines["caption vqa", "vqa"], lines["caption", "vqa"]
    assert (both.value, both.minus_pretrained, both.minus_expert) == (0.75, (0.75,) * 3, (-0.25,) * 3)
    assert (cross.minus_pretrained, cross.minus_expert) == ((0.5,) * 3, (-0.5,) * 3)
    assert lines["", "vqa"].minus_pretrained is lines["vqa", "vqa"].minus_expert is None


def test_what_is_scored_is_the_average_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the experts named alone; without any, the pretrained model. Numbers of batches seen differ."""
    import torch
    from safetensors.torch import save_file

    weights = {"base": 0.0, "models/finetune/vqa": 1.0, "models/finetune/caption": 4.0}
    monkeypatch.chdir(tmp_path)
    for folder, value in weights.items():
        Path(folder).mkdir(parents=True)
        tensors = {"weight": torch.full((2, 3), value), COUNTER: torch.tensor(int(value))}
        save_file(tensors, Path(folder) / "model.safetensors")
        for name in ("config.json", "processor_config.json"):
            (Path(folder) / name).write_text("{}")

    def load(folder: Path) -> tuple[torch.nn.Module, None]:
        model = torch.nn.Linear(3, 2, bias=False)
        torch.nn.init.constant_(model.weight, weights[str(folder)])
        model.register_buffer(COUNTER, torch.tensor(0))
        return model, None

    seen = []

    def run(specs: list[Any], key: Any, load: Any) -> None:
        seen.append((specs[0].model, load()[0].weight.unique().tolist()))

    monkeypatch.setattr("unival.study.models.load_model", load)
    cells: Any = SimpleNamespace(run=run)
    for experts in [(), ("vqa",), ("vqa", "caption")]:
        subsets.score(cells, experts, ["vqa"], 8, Path("base"))
    assert seen == [("experts/none", [0.0]), ("experts/vqa", [1.0]), ("experts/vqa+caption", [2.5])]


@pytest.mark.fault
@pytest.mark.parametrize(("number", "rows"), [(-1, 8), (3, 0)])
def test_settings_that_make_no_sense_are_refused(number: int, rows: int) -> None:
    with pytest.raises((ValueError, UserError), match="number must be at least 0, rows at least 1"):
        SubsetConfig(EXPERTS, number, rows)
