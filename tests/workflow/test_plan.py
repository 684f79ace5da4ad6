"""`unival plan`: every recipe and every stage that trains has a plan; it says what a booking needs."""

import json
from pathlib import Path
from typing import Any

import pytest

from unival import compose
from unival.commands import plan
from unival.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "conf/experiment/paper").glob("*.yaml"))
PHASES = sorted(compose.read_params(ROOT / "params.yaml").phases)
TASKS = sorted(path.stem for path in (ROOT / "build/config/finetune").glob("*.yaml"))
STAGES = [["stage=pretrain", f"item={name}"] for name in PHASES]
STAGES += [["stage=finetune", f"item={name}"] for name in TASKS]


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    plan.main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_planned_with_its_own_model(name: str, capsys) -> None:
    made = planned(capsys, f"+experiment=paper/{name}", "--device", "h100", "--ranks", "2")
    assert made["ways"][made["chosen"]]["fits"]
    assert made["parameters"] > 150e6
    assert all(made["flops"][part] > 0 for part in ("transformer", "head"))


@pytest.mark.slow
@pytest.mark.parametrize("words", STAGES, ids=lambda words: words[1])
def test_a_stage_is_planned(words: list[str], capsys) -> None:
    made = planned(capsys, *words, "--device", "24,100")
    assert made["ways"][made["chosen"]]["fits"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_read(name: str) -> None:
    job = plan.read([f"+experiment=paper/{name}"], 30, 20)
    assert set(job.media) == {stream.task for stream in job.train.mixture.streams}
    assert job.model.d_model == 768


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=merge"], "plan: merge is chosen: add stage=<pretrain or finetune>"),
        (["benchmark=world"], "no stage is chosen"),
        (["stage=finetune", "item=nothing"], "nothing"),
    ],
)
def test_what_trains_nothing_has_no_plan(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan.main([*words, "--device", "h100"])


@pytest.mark.parametrize("tokens", ["30", "30,x", "0,5", "1,2,3"])
def test_wrong_lengths_are_refused_with_an_example(tokens: str, capsys) -> None:
    with pytest.raises(SystemExit):
        plan.main(["stage=finetune", "item=vqa", "--device", "h100", "--tokens", tokens])
    assert "as 30,20" in capsys.readouterr().err


def test_the_text_has_what_a_booking_needs(capsys) -> None:
    plan.main(["stage=finetune", "item=caption", "--device", "24,165", "--price", "2", "edition=smoke"])
    shown = capsys.readouterr().out
    wanted = ("usable", "fits with", "GPU hours, cost", "on disk", "MB/s decoded", "largest micro-batch")
    assert all(word in shown for word in wanted)
