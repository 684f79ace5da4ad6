"""A device that is not there: tensors on it have shapes, no values, and the host cannot wait for it unseen.

`register` it in a process of its own: it changes PyTorch for good.
"""

import dataclasses
import traceback
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from unival.engine import parallel, sharding
from unival.engine.batches.rows import Rows
from unival.engine.inference.candidates import continuations
from unival.engine.machine.distributed import World
from unival.engine.machine.runtime import Runtime
from unival.engine.settings import TrainConfig
from unival.engine.train import Trainer

from . import standins

NAME = "imagined"


class Module(backend_registration._DummyBackendModule):
    """What `torch.imagined` is. Not available: fake tensors then never ask for memory of it."""

    def is_available(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Make the device known, and autocast on it as good as nothing."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    register.library = library  # while it lives
    Tensor.pin_memory = lambda tensor: tensor
    standins.tiny()  # what it works out on the host, once


class Waits(TorchDispatchMode):
    """Notes where the host would stand still until the device has done all that is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        name = operator._schema.name
        if name == "aten::_to_copy":
            self._note_copy(operator, arguments[0], result, (options or {}).get("non_blocking", False))
        elif name == "aten::copy_":
            self._note_copy(operator, arguments[1], arguments[0], len(arguments) > 2 and arguments[2])
        elif name == "aten::_local_scalar_dense" and arguments[0].device.type == NAME:
            self.note(operator)  # of a constant, which fake tensors would give
        return result

    def _note_copy(self, operator, source: Tensor, target: Tensor, queued: bool) -> None:
        if source.device.type != target.device.type and not queued:
            self.note(operator)

    def note(self, operator) -> None:
        """Enter an operator, and the line of the project that called it."""
        frames = [frame for frame in traceback.extract_stack() if "src/unival/" in frame.filename]
        place = f" at {Path(frames[-1].filename).name}: {frames[-1].line}" if frames else ""
        self.found.append(f"{operator}{place}")


class Two(World):
    """The first of two ranks that do the same."""

    def sum(self, values):
        return [2 * value for value in values]

    def sum_(self, tensor):
        return tensor.mul_(2)


def sources(config: TrainConfig, media: dict[str, str]) -> dict[str, Rows]:
    """Rows of each task, with the answers that its loss is limited to."""
    data = {task: standins.sources(**{kind: 24})[kind] for task, kind in media.items()}
    if not config.loss.constrained:
        return data
    tokenizer = standins.Tokenizer()
    answers = {record.references[0] for source in data.values() for record in source.records}
    follow = continuations(sorted(map(tokenizer.encode_text, answers)), tokenizer.eos_token_id)
    return {task: dataclasses.replace(source, allowed=follow) for task, source in data.items()}


def trainer(config: TrainConfig, media: dict[str, str], device: torch.device) -> Trainer:
    """A run of the smallest model, in which all that the recipe asks for takes place."""
    with device:
        model = standins.tiny(dropout=0.1, encoder_drop_path=0.1, decoder_drop_path=0.1)
    model.to = lambda device: model  # it is there, and fake parameters cannot be exchanged for others
    made = Trainer(
        config, model, standins.TinyProcessor(), sources(config, media), {}, Path("nowhere"), Runtime(),
        World(0, 1, device), "waits",
    )  # fmt: skip
    made._train_mode()
    made.step = config.loss.drop_worst_after
    return made


def waits(config: TrainConfig, media: dict[str, str], sharded: bool = False) -> list[str]:
    """Where an update of a run would wait for the device; `media`: what the rows of each task show."""
    device = torch.device(NAME)
    # what is frozen is read before the first step, when waiting costs nothing
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, mock.patch("unival.engine.train.Frozen"):
        made = trainer(config, media, device)
    batches = [made.collator(rows, 0) for rows in made.sampler.rows(0)]  # real: the host may read them
    if sharded:
        made.ranks = Two(0, 2, device)
        made.strategy = parallel.Sharded(made.ranks)
    with mock.patch.object(sharding.dist, "all_reduce"), mode, Waits() as found:
        try:
            made._update(batches)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            found.note(error.func)
    return found.found


def waits_of(method: str) -> list[str]:
    """What `waits` finds where a method of a tensor is called."""
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as found:
        tensor = torch.ones(2, device=NAME).sum(0, keepdim=True)
        try:
            getattr(tensor, method)()
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            found.note(error.func)
    return found.found
