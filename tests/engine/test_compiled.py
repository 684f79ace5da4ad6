"""Compiled steps: one graph for each part of the model, the same for all batches, with eager values."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from unival.engine import compiled, sharding
from unival.engine.batches.collate import Batch, Collator
from unival.engine.batches.rows import Rows
from unival.engine.batches.sampler import RowRef
from unival.engine.objective import LossModule
from unival.engine.planning.step import _ranks, micro_batch
from unival.engine.settings import LossConfig, TrainConfig
from unival.errors import UserError
from unival.record import Record

from . import imagined, standins
from .test_planning import job
from .test_waits import PHASES, RECIPES, phase, recipe

BATCHES = 50
MEDIA = {"image": "image", "video": "video", "audio": "audio"}
PARTS = {"encoders": 3, "layers": 4, "loss": 1}


class Task(standins.Task):
    """With prompts of any length, and a second example for some rows."""

    def finetuning(self, record, rng):
        (example,) = super().finetuning(record, rng)
        return [dataclasses.replace(example, prompt=" ".join(["what"] * int(rng.integers(1, 30))))]

    def training(self, record, rng):
        return super().training(record, rng)[: int(rng.integers(1, 3))]


def mixed(kind: str) -> Rows:
    """Rows with answers of any length; two share a medium."""
    rng = np.random.default_rng(0)
    rows = [
        Record(
            id=f"{kind}{number}",
            references=(" ".join(rng.choice(standins.WORDS[4:], int(rng.integers(1, 24)))),),
            **{kind: f"{standins.COLOURS[number // 2 % 4]}-{number // 2}"},
        )
        for number in range(24)
    ]
    return Rows(Task(kind), rows, standins.Store())


def three_each(config: TrainConfig) -> TrainConfig:
    """Of each task."""
    streams = [
        dataclasses.replace(stream, **({} if stream.every else {"rows": 3}))
        for stream in config.mixture.streams
    ]
    rows = sum(stream.rows for stream in streams if not stream.every)
    return dataclasses.replace(
        config, mixture=dataclasses.replace(config.mixture, streams=streams, rows=rows)
    )


@pytest.fixture
def strict() -> Iterator[None]:
    """What is compiled anew is an error; random numbers are those of eager steps."""
    torch.compiler.reset()
    counters.clear()
    with (
        torch._dynamo.config.patch(error_on_recompile=True),
        torch._inductor.config.patch(fallback_random=True),
    ):
        yield
    torch.compiler.reset()


@pytest.fixture
def inductor(strict) -> Iterator[None]:
    """Nothing that other runs compiled is used. On a CPU inductor has other code for sums of more than 4096
    terms, so a part may have several graphs here: PyTorch raises where they are more than eight."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), torch._dynamo.config.patch(error_on_recompile=False):
        yield


def step(module: LossModule, batch: Batch, config: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss per token and gradients."""
    torch.manual_seed(0)
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, config.precision == "bfloat16"):
        loss, _ = module(batch, False, config.loss.drop_worst)
    loss = loss / batch.num_tokens()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}


def compare(
    config: TrainConfig,
    media: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tolerance: float,
    compared: int,
) -> int:
    """Takes compiled steps, so many of them beside eager ones; returns the number of graphs."""
    monkeypatch.setattr(imagined.standins, "sources", lambda **kinds: {kind: mixed(kind) for kind in kinds})
    made = imagined.trainer(dataclasses.replace(config, compile=True), media, torch.device("cpu"))
    eager = copy.deepcopy(made.module)
    shapes = set()
    for number in range(BATCHES):
        batch = made.collator(made.sampler.rows(number)[0], number)
        shapes |= {(*part.inputs["input_ids"].shape, *part.labels_BT.shape) for part in batch.parts}
        loss, found = step(made.module, batch, config)
        if number >= compared:
            continue
        wanted_loss, wanted = step(eager, batch, config)
        torch.testing.assert_close(loss, wanted_loss, rtol=tolerance, atol=0)
        assert found.keys() == wanted.keys()
        least = 1e-3 * torch.nn.utils.get_total_norm(
            list(wanted.values())
        )  # of keys' biases they are rounding
        for name, gradient in wanted.items():
            assert (found[name] - gradient).norm() <= tolerance * (gradient.norm() + least), name
    assert len(shapes) > 10
    return counters["stats"]["unique_graphs"]


def test_every_batch_fits_the_first_graphs(strict, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch traces them, without a compiler: to the bit."""
    monkeypatch.setattr(compiled, "_require_compiler", lambda: None)
    config = three_each(
        standins.config(dict.fromkeys(MEDIA, 3), loss=LossConfig(smoothing=0.1, encouraging=True))
    )
    varying = []

    def traced(graph: torch.fx.GraphModule, inputs: list[Any]) -> torch.fx.GraphModule:
        for node in graph.graph.find_nodes(op="placeholder"):
            if node.name == "l_values_":  # of an encoder
                varying.append([isinstance(size, torch.SymInt) for size in node.meta["example_value"].shape])
        return graph

    with torch.compiler.set_stance(force_backend=traced):
        assert compare(config, MEDIA, monkeypatch, 0.0, 5) == sum(PARTS.values())
    assert varying == [[True] + [False] * dimensions for dimensions in (3, 4, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_compile_to_few_graphs(inductor, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, media = recipe(name)
    compare(three_each(config), media, monkeypatch, 0.05 if config.precision == "bfloat16" else 1e-4, BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PHASES)
def test_phases_compile_to_few_graphs(inductor, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, media = phase(name)
    compare(three_each(config), media, monkeypatch, 1e-4, BATCHES)


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    config = standins.config({"image": 2}, compile=True)
    with pytest.raises(UserError, match=r"install g\+\+"):
        imagined.trainer(config, {"image": "image"}, torch.device("cpu"))


def test_batches_of_compiled_steps_score_what_others_do() -> None:
    """Padding and the second copy of a lone example add nothing."""
    rows = {"image": mixed("image")}
    refs = [RowRef("image", index, "image", index) for index in (0, 5)]
    for count in (1, 2):
        plain, padded = (
            Collator(rows, standins.TinyProcessor(), 0, "finetuning", multiple=multiple)(refs[:count], 0)
            for multiple in (None, 8)
        )
        (part,), (other,) = plain.parts, padded.parts
        assert other.labels_BT.shape[0] == 2 and other.labels_BT.shape[1] % 8 == 0
        assert other.num_tokens == part.num_tokens and padded.num_examples == count
        module = LossModule(standins.tiny().train(), LossConfig(smoothing=0.1), 1)
        config = standins.config({"image": 2})
        (loss, gradients), (same, others) = (step(module, batch, config) for batch in (plain, padded))
        torch.testing.assert_close(same, loss)
        torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "checkpointing"])
def test_other_ways_to_hold_a_model_compile_too(strict, kind: str) -> None:
    made = job(media={"image": 3})
    module = LossModule(standins.tiny(dropout=0.1, encoder_drop_path=0.1).train(), LossConfig(), 1)
    if kind == "checkpointing":
        module.model.gradient_checkpointing_enable()
    compiled.compile_parts(module)
    with _ranks(2 if kind == "sharded" else 1) as mesh, torch.compiler.set_stance(force_backend="eager"):
        if mesh:
            sharding.shard(module, mesh)
        for number in (3, 5, 4):
            longer = dataclasses.replace(made, prompt_tokens=9 + number, target_tokens=2 + number)
            step(module, micro_batch(longer, {"image": number}, True), made.train)
    assert counters["stats"]["unique_graphs"] == 6
