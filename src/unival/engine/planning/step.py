"""One update of a training run on one rank, without data: on fake tensors, or on real ones to compare with.

B examples, T target tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import _disable_current_modes

from unival.engine import sharding
from unival.engine.batches.builder import INDEX, VALUES
from unival.engine.batches.collate import Batch, ExampleGroup
from unival.engine.machine.distributed import World
from unival.engine.objective import LossModule
from unival.engine.optim import Ema, build_optimizer
from unival.engine.parallel import Sharded, Single
from unival.engine.planning.meter import ACTIVATIONS, OPENING, Meter, without_values
from unival.engine.settings import TrainConfig
from unival.engine.train import checkpoint_gradients, trainable
from unival.model.configuration import UnivalConfig
from unival.model.encoder import build_backbone
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import ProcessorSettings
from unival.record import MODALITIES, Modality

PARTS = (*MODALITIES, "transformer", OPENING)
"""Of the model; the last is the projection to the vocabulary, with the loss."""
WEIGHTS, GRADIENTS, OPTIMISER, INPUTS = "weights", "gradients", "optimiser", "inputs"
KINDS = (WEIGHTS, GRADIENTS, OPTIMISER, INPUTS, ACTIVATIONS)
"""Of memory."""


@dataclass(frozen=True)
class Training:
    """What is trained, and on what."""

    train: TrainConfig
    model: UnivalConfig
    processor: ProcessorSettings
    media: Mapping[str, Modality]
    """Of each task."""
    prompt_tokens: int
    target_tokens: int

    @property
    def examples(self) -> int:
        """Examples of a row."""
        return 2 if self.train.examples == "pretraining" else 1


def micro_batch(job: Training, media: Mapping[Modality, int], together: bool = False) -> Batch:
    """A batch of so many rows of each medium, all with texts of the same length.

    `together`: all go through the transformer at once, as when the weights are sharded.
    """
    examples = {medium: rows * job.examples for medium, rows in media.items()}
    groups = [examples] if together else [{medium: count} for medium, count in examples.items()]
    return Batch(
        {VALUES[medium]: torch.zeros(rows, *job.processor.shape(medium)) for medium, rows in media.items()},
        [_group(job, group, media) for group in groups],
        sum(examples.values()),
        [],
    )


def _group(job: Training, examples: Mapping[Modality, int], present: Iterable[Modality]) -> ExampleGroup:
    size, start = sum(examples.values()), 0
    index = {INDEX[medium]: torch.full((size, 1), -1) for medium in present}
    for medium, count in examples.items():
        index[INDEX[medium]][start : start + count, 0] = torch.arange(count) // job.examples
        start += count
    input_ids = torch.full((size, job.prompt_tokens), 4)
    labels_BT = torch.full((size, job.target_tokens), 4)
    texts = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    allowed_BTV = None
    if job.train.loss.constrained:
        allowed_BTV = torch.ones(*labels_BT.shape, job.model.vocab_size, dtype=torch.bool)
    return ExampleGroup(
        {**texts, "decoder_input_ids": labels_BT.clone(), **index},
        labels_BT,
        None,
        torch.zeros(size, dtype=torch.long),
        labels_BT.numel(),
        allowed_BTV,
    )


def _tensors(batch: Batch) -> list[Tensor]:
    """Those that go to the device."""
    tensors = list(batch.media.values())
    for part in batch.parts:
        tensors += [tensor for name, tensor in part.inputs.items() if name not in INDEX.values()]
        tensors += [part.labels_BT] if part.allowed_BTV is None else [part.labels_BT, part.allowed_BTV]
    return tensors


class Update:
    """The model with its optimiser; `run` does what `Trainer` does with one micro-batch and at its end."""

    def __init__(self, job: Training, meter: Meter, mesh: DeviceMesh | None = None) -> None:
        self.config, self.meter = job.train, meter
        self.model = UnivalForConditionalGeneration(job.model).train()
        for norm in trainable(self.config, self.model):
            norm.eval()
        self.module = LossModule(self.model, self.config.loss, len(job.media))
        ranks = World(0, mesh.size() if mesh else 1, torch.device("cpu"))
        self.strategy = Sharded(ranks) if mesh else Single(ranks)
        if mesh:
            sharding.shard(self.module, mesh)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        meter.label(WEIGHTS, map(sharding.local, [*self.model.parameters(), *self.model.buffers()]))
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._has_gradient)
        self.optimizer = build_optimizer(self.config.optimizer, self.model)
        self.ema = Ema(self.model, self.config.ema) if self.config.ema else None

    def _has_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.meter.label(GRADIENTS, [sharding.local(parameter.grad)])

    def earlier(self, batch: Batch) -> None:
        """Leave the gradients of a micro-batch before the last. Alone, a rank adds to them in place: empty
        ones do; FSDP holds them whole, in tensors of its own."""
        if isinstance(self.strategy, Sharded):
            self.forward_backward(batch, last=False)
            return
        for parameter in self.used:
            parameter.grad = torch.empty_like(parameter)
            self._has_gradient(parameter)

    def follow_gathered(self) -> None:
        """Count as such the weights that FSDP gathers, and their gradients; its first pass makes both."""
        for weight in sharding.gathered(self.module):
            self.meter.label(WEIGHTS, [weight.detach()])
            weight.register_post_accumulate_grad_hook(self._has_gradient)

    def parts(self) -> list[tuple[str, nn.Module]]:
        """Of the model, by the names of `PARTS`."""
        encoder, decoder = self.model.get_submodule("encoder"), self.model.get_submodule("decoder")
        return [("transformer", encoder), ("transformer", decoder), *self.model.encoder.media.items()]

    def forward_backward(self, batch: Batch, last: bool = True) -> None:
        """One micro-batch. `last`: of the update."""
        self.meter.label(INPUTS, _tensors(batch))
        self.meter.part = OPENING
        with self.strategy.synchronised(self.module, last):
            with torch.autocast("cpu", torch.bfloat16, self.config.precision == "bfloat16"):
                loss, _ = self.module(batch, False, self.config.loss.drop_worst)
            (loss / batch.num_tokens()).backward()
        for parameter in self.parameters:  # FSDP sets gradients without running the hook
            self._has_gradient(parameter)

    def finish(self) -> None:
        """Clip and move the weights."""
        self.used = [p for p in self.parameters if p.grad is not None]
        limit = self.config.optimizer.clip or float("inf")
        self.strategy.clip(self.parameters, limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update()
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        self.meter.label(OPTIMISER, map(sharding.local, [*states, *self._averages()]))

    def _averages(self) -> list[Tensor]:
        return list(self.ema.average.values()) if self.ema else []


@dataclass(frozen=True)
class Footprint:
    """One micro-batch that ends an update."""

    flops: dict[str, int]
    """Of each part."""
    recomputed: int
    """FLOPs of checkpointing."""
    peak: dict[str, int]
    """Bytes of each kind when most is in use."""
    gathered: int
    """Bytes of all-gathers, as they are after it."""
    reduced: int
    """Bytes of reduce-scatters, as they are before it."""
    parameters: int
    trained: int


def measure(
    job: Training,
    media: Mapping[Modality, int],
    accumulates: bool,
    ranks: int = 1,
    checkpointing: Sequence[bool] = (False,),
) -> list[tuple[Footprint, Footprint]]:
    """A micro-batch of so many rows of each medium, and one of twice as many, on fake tensors.

    Args:
        job: what is trained.
        media: rows of each medium.
        accumulates: gradients of an earlier micro-batch are there.
        ranks: deal the weights out among so many (FSDP2).
        checkpointing: a pair for each setting, whatever the recipe's.
    """
    pairs = []
    _work_out(job.model)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _ranks(ranks) as mesh, without_values(mode), Meter() as meter:
        update = Update(job, meter, mesh)
        batch = partial(_outside, job, media, mesh is not None)
        update.forward_backward(batch(1))
        update.follow_gathered()
        update.finish()  # the optimiser has its state from here on
        for wanted in checkpointing:
            checkpoint_gradients(update.model, wanted)
            first, second = (_footprint(update, batch, factor, accumulates) for factor in (1, 2))
            pairs.append((first, second))
    return pairs


def _footprint(update: Update, batch: Callable[[int], Batch], factor: int, accumulates: bool) -> Footprint:
    """Of an update that ends with a micro-batch of `factor` times the rows."""
    meter = update.meter
    if accumulates:
        update.earlier(batch(1))
    meter.restart()
    with meter.following(update.parts()):
        update.forward_backward(batch(factor))
    update.finish()
    sent = {
        kind: sum(size for name, size in meter.sent.items() if name.replace("_", "").startswith(kind))
        for kind in ("allgather", "reducescatter")
    }
    counts = [sum(p.numel() for p in tensors) for tensors in (update.model.parameters(), update.parameters)]
    done = dict(meter.flops), meter.recomputed, dict(meter.peak)
    return Footprint(*done, sent["allgather"], sent["reducescatter"], *counts)


def _outside(job: Training, media: Mapping[Modality, int], together: bool, factor: int) -> Batch:
    """A real batch, of which the host may read the indices; its memory is never touched."""
    with _disable_current_modes():
        return micro_batch(job, {medium: factor * rows for medium, rows in media.items()}, together)


def _work_out(config: UnivalConfig) -> None:
    """What an encoder reads from its tables, which it makes once: values, so no fake ones."""
    if config.audio_encoder is not None:
        build_backbone("audio", config.audio_encoder)


@contextmanager
def _ranks(count: int) -> Iterator[DeviceMesh | None]:
    """The first of so many ranks, of which the others are imagined; None: one alone."""
    if count == 1:
        yield None
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()
