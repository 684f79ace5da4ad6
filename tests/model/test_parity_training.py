"""Losses, gradients and three optimizer updates against recorded numbers of the original."""

import copy
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import RecordedSet, cases, core_model, decoder_inputs, inputs, official_parameters, sets
from torch import Tensor

from unival.model import UnivalForConditionalGeneration
from unival.model.loss import sequence_loss

pytestmark = pytest.mark.parity
PAD = 1
LOSSES = cases("cases.json", lambda content: content["losses"].items())
FOLDERS = [pytest.param(path, id=path.name) for path in sets("cases.json")]


def case_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    return RecordedSet(folder).tensors("cases.safetensors", f"{name}.in.")


def logits_of(model: UnivalForConditionalGeneration, given: dict[str, Tensor]) -> Tensor:
    return model(**inputs(given), **decoder_inputs(given)).logits


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cases.json").read_text())


def smoothing(folder: Path) -> float:
    return json.loads((folder / "config.json").read_text())["label_smoothing"]


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match is not None, (pattern, text)
    return float(match[1])


def options(name: str, folder: Path, given: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """Targets and arguments of `sequence_loss` for a recorded loss, by its name and its `doc`."""
    doc = summary(folder)["losses"][name]["doc"]
    extra = RecordedSet(folder).tensors("cases.safetensors", "loss.in.")
    targets, arguments = given["target"], {"ignore_id": PAD, "smoothing": smoothing(folder)}
    if name == "ce_eps0":
        arguments["smoothing"] = 0.0
    elif name == "ce_conf":
        arguments["weights_B"] = extra["conf"]
    elif name == "ce_constraint_masks":
        arguments["allowed_BTV"] = extra["constraint_masks"]
    elif name == "ce_constraint_range":
        targets = extra["target_code"]
        allowed = torch.zeros(core_model(folder).config.vocab_size, dtype=torch.bool)
        config = json.loads((folder / "config.json").read_text())
        allowed[:4] = allowed[config["first_code_id"] : config["first_bin_id"]] = True
        arguments["allowed_BTV"] = allowed
    elif name == "ce_drop_worst":
        arguments["drop_worst"] = number(r"(\d+)%", doc) / 100
    elif name.startswith("ce_ignore_prefix"):
        targets = targets.clone()
        targets[:, : int(number(r"prefix(\d+)", name))] = PAD
    elif name.startswith("encouraging"):
        stated = doc if "log_end" in doc else summary(folder)["losses"]["encouraging"]["doc"]
        arguments |= {"encouraging": True, "log_end": number(r"log_end ([\d.]*\d)", stated)}
    return targets, arguments


@pytest.mark.parametrize("case", LOSSES)
def test_loss(case: tuple[Path, dict[str, Any]], request: pytest.FixtureRequest) -> None:
    folder, recorded = case
    name = request.node.callspec.id.removeprefix(f"{folder.name}-")
    reference = summary(folder)["gradients"]["case"]
    given = case_tensors(folder, reference)
    with torch.no_grad():
        logits = logits_of(core_model(folder), given)
    targets, arguments = options(name, folder, given)
    loss, count = sequence_loss(logits, targets, **arguments)
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-5)
    rows = len(targets)
    assert (rows if name == "ce_sentence_avg" else count.item()) == recorded["sample_size"]


@pytest.mark.parametrize("kind", ["ce", "encouraging"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_gradients(folder: Path, kind: str) -> None:
    """Within 1e-4 of each tensor's largest entry (gradients of key biases are rounding noise: + 1e-6)."""
    model = copy.deepcopy(core_model(folder))
    recorded = summary(folder)["gradients"]
    given = case_tensors(folder, recorded["case"])
    targets, arguments = options(kind, folder, given)
    loss, _ = sequence_loss(logits_of(model, given), targets, **arguments)
    loss.backward()
    parameters = official_parameters(model)
    expected = RecordedSet(folder).tensors(
        "cases.safetensors", {"ce": "grad_ce.", "encouraging": "grad_el."}[kind]
    )
    assert expected
    for name, theirs in expected.items():
        ours = parameters[name].grad
        assert ours is not None, name
        tolerance = 1e-4 * theirs.abs().max().item() + 1e-6
        torch.testing.assert_close(
            ours[: len(theirs)], theirs, atol=tolerance, rtol=0, msg=f"{name}: {{}}".format
        )
        assert not ours[len(theirs) :].any(), name
    without = {name for name, parameter in parameters.items() if parameter.grad is None}
    assert without == set(recorded[kind]["no_grad"])


class RecordedAdam:
    """The optimizer that the recording describes; a parameter's steps count from its first gradient."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], recorded: dict[str, Any]) -> None:
        self.recorded = recorded
        self.states = [(p, torch.zeros_like(p), torch.zeros_like(p), []) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        (one, two), lr = self.recorded["betas"], self.recorded["lr"]
        for parameter, first, second, steps in self.states:
            if parameter.grad is None:
                continue
            steps.append(1)
            first.mul_(one).add_(parameter.grad, alpha=1 - one)
            second.mul_(two).addcmul_(parameter.grad, parameter.grad, value=1 - two)
            size = lr * math.sqrt(1 - two ** len(steps)) / (1 - one ** len(steps))
            parameter.mul_(1 - self.recorded["weight_decay"] * lr)
            parameter.addcdiv_(first, second.sqrt().add_(self.recorded["eps"]), value=-size)


@pytest.mark.parametrize("folder", FOLDERS)
def test_three_updates(folder: Path) -> None:
    recorded = summary(folder)["train3"]
    model = copy.deepcopy(core_model(folder))
    optimizer = RecordedAdam(model.parameters(), recorded)
    for step in recorded["steps"]:
        given = case_tensors(folder, step["case"])
        model.zero_grad()
        targets, arguments = options("ce", folder, given)
        loss, count = sequence_loss(logits_of(model, given), targets, **arguments)
        assert loss.item() == pytest.approx(step["loss"], rel=1e-5)
        (loss / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recorded["clip_norm"])
        assert norm.item() == pytest.approx(step["grad_norm"], rel=1e-4)
        optimizer.step()
    expected = RecordedSet(folder).tensors("cases.safetensors", "train3.")
    ours = official_parameters(model)
    for name in recorded["params"]:
        torch.testing.assert_close(
            ours[name].detach(), expected[name], atol=1e-5, rtol=0, msg=f"{name}: {{}}".format
        )
