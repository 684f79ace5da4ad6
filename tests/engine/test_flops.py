"""Figures of how much of the machine a run uses: the FLOPs it counts, and the rates they are divided by."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from unival.engine.flops import Flops, peak_rate
from unival.engine.machine.distributed import World
from unival.engine.monitor import Window, memory, postfix
from unival.engine.objective import LossModule
from unival.engine.planning import devices
from unival.engine.planning.step import measure, micro_batch
from unival.model.modeling import UnivalForConditionalGeneration

from .test_planning import job

MEDIA = {"image": 3, "video": 1, "audio": 2}


def counted(compiled: bool, checkpointing: bool = False) -> tuple[float, float]:
    """FLOPs of a batch that is counted, and of one with twice the rows."""
    made = job(media=MEDIA)
    model = UnivalForConditionalGeneration(made.model).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    module = LossModule(model, made.train.loss, len(MEDIA))
    flops, batch = Flops(module, compiled), micro_batch(made, MEDIA)
    with flops.counting(batch):
        module(batch, False, 0.0)[0].backward()
    twice = micro_batch(made, {medium: 2 * rows for medium, rows in MEDIA.items()})
    return flops.of(batch), flops.of(twice)


@pytest.mark.parametrize(
    ("compiled", "checkpointing"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_a_run_counts_what_a_plan_counts(compiled: bool, checkpointing: bool) -> None:
    planned = sum(measure(job(media=MEDIA), MEDIA, accumulates=False)[0][0].flops.values())
    once, twice = counted(compiled, checkpointing)
    assert once == pytest.approx(planned, rel=1e-9)
    assert twice == pytest.approx(2 * planned, rel=1e-9)


def test_media_seen_later_are_counted_then() -> None:
    made = job(media=MEDIA)
    module = LossModule(UnivalForConditionalGeneration(made.model).train(), made.train.loss, 3)
    flops, few, all_ = Flops(module, False), micro_batch(made, {"image": 3}), micro_batch(made, MEDIA)
    for batch in (few, all_, few):
        with flops.counting(batch):
            module(batch, False, 0.0)[0].backward()
    assert flops.medium.keys() == MEDIA.keys()
    planned = sum(measure(made, MEDIA, accumulates=False)[0][0].flops.values())
    assert flops.of(all_) == pytest.approx(planned)


def test_counting_changes_no_gradient() -> None:
    made, gradients = job(), []
    for counts in (False, True):
        torch.manual_seed(0)
        model = UnivalForConditionalGeneration(made.model).train()
        module, batch = LossModule(model, made.train.loss, 1), micro_batch(made, {"image": 2})
        with Flops(module, False).counting(batch) if counts else torch.enable_grad():
            module(batch, False, 0.0)[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_utilisation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks that do 6 TFLOP each in 3 seconds, on devices of 8 TFLOP/s."""
    monkeypatch.setattr("time.perf_counter", lambda: 13.0)

    class Two(World):
        def sum(self, values):
            return [2 * value for value in values]

    group = SimpleNamespace(num_tokens=lambda: 30, num_examples=6, damaged=[], media={})
    group.media = {"pixel_values": torch.zeros(2, 1), "audio_values": torch.zeros(1, 1)}
    window = Window(waited=1.0, started=10.0)
    window.add([group, group], torch.ones(()), torch.ones(()), 6e12)
    values = window.figures(Two(0, 2, torch.device("cpu")), [], 2.5, 8e12)
    assert values["perf/tflops"] == 2.0
    assert values["perf/mfu"] == 0.25
    assert values["perf/tokens_per_second"] == 40.0
    assert values["perf/examples_per_second"] == 8.0
    assert values["perf/media_per_second"] == 4.0
    assert values["perf/data_wait"] == 0.5
    assert postfix(values) == "loss 1.000, MFU 25%, 40 tokens/s, waits 50%"


def test_a_machine_of_unknown_rate_has_no_utilisation() -> None:
    window = Window()
    window.add([], torch.ones(()), torch.ones(()), 1.0)
    assert "perf/mfu" not in window.figures(World(0, 1, torch.device("cpu")), [], 0.0, None)
    assert peak_rate(torch.device("cpu"), "bfloat16") is None


@pytest.mark.parametrize(
    ("name", "bfloat16", "float32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 19.5),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA H100 PCIe", None, None),
        ("NVIDIA H100 NVL", None, None),
        ("NVIDIA H200 NVL", None, None),
        ("NVIDIA L40", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
    ],
)
def test_rates_are_those_of_the_data_sheets(name: str, bfloat16: float | None, float32: float | None) -> None:
    """Dense ones: a table with the sparse rates halves every utilisation, one of a slower card doubles it."""
    device = devices.known(name)
    assert (device and device.rate("bfloat16") / 1e12) == bfloat16
    assert (device and device.rate("float32") / 1e12) == float32


def test_memory_of_a_gpu_has_what_is_reserved_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_alloc_retries": 2})
    assert memory(torch.device("cuda")) == {
        "perf/memory_mib": 3.0, "perf/memory_reserved_mib": 5.0, "perf/memory_retries": 2.0,
    }  # fmt: skip


def test_dataclass_of_a_device_is_complete() -> None:
    assert all(all(dataclasses.astuple(device)) for device in devices.DEVICES.values())
