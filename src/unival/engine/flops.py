"""FLOPs of a run's micro-batches, by which its log says how much of the machine is used."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unival.engine.batches.builder import VALUES
from unival.engine.batches.collate import Batch
from unival.engine.objective import LossModule
from unival.engine.planning import devices
from unival.engine.planning.meter import Meter, without_values
from unival.record import MODALITIES, Modality


class Flops:
    """Counts a micro-batch with the meter of `unival plan` where it shows media of a new modality, and takes
    those after it to cost as much for each medium of a modality and, in the transformer, for each example.

    `module`: before it is wrapped. `compiled`: operators that run cannot be seen; they are counted on a copy.
    """

    def __init__(self, module: LossModule, compiled: bool) -> None:
        self.module = module
        self.mode = FakeTensorMode(allow_non_fake_inputs=True) if compiled else None
        if self.mode:
            with without_values(self.mode):
                self.module = _empty(module)
        self.medium: dict[Modality, float] = {}
        """FLOPs of a medium of each modality seen, forward and backward."""
        self.example = 0.0
        """Of an example, in all but the encoders of media."""

    def of(self, batch: Batch) -> float:
        """Of forward and backward pass, after `counting`; a multiplication and an addition are two."""
        return batch.num_examples * self.example + sum(
            count * self.medium[kind] for kind, count in shown(batch).items()
        )

    @contextmanager
    def counting(self, batch: Batch) -> Iterator[None]:
        """Around forward and backward pass of a batch, which is counted where it is the first of its kind."""
        if self.example and shown(batch).keys() <= self.medium.keys():
            yield
        elif self.mode is None:
            with self._count(batch):
                yield
        else:
            with without_values(self.mode), self._count(batch):
                self.module(batch, False, 0.0)[0].backward()
            self.module.zero_grad(set_to_none=True)
            yield

    @contextmanager
    def _count(self, batch: Batch) -> Iterator[None]:
        with Meter() as meter, meter.following(self.module.model.encoder.media.items()):
            yield
        media = {kind: meter.flops[kind] for kind in shown(batch)}
        self.medium |= {kind: media[kind] / count for kind, count in shown(batch).items()}
        self.example = (meter.flops.total() - sum(media.values())) / batch.num_examples


def shown(batch: Batch) -> dict[Modality, int]:
    """How many media of each modality a batch has."""
    return {kind: len(batch.media[VALUES[kind]]) for kind in MODALITIES if VALUES[kind] in batch.media}


def peak_rate(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the device at best; None where that is not known, as for CPUs."""
    known = devices.known(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return known.rate(precision) if known else None


def _empty(module: LossModule) -> LossModule:
    memo: dict[int, Any] = {id(buffer): torch.empty_like(buffer, device="cpu") for buffer in module.buffers()}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="cpu")
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    return copy.deepcopy(module, memo)
