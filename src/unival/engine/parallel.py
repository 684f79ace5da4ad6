"""How many processes train one model: `Single`, each a copy (`Replicated`), or each a part (`Sharded`).

They differ in what wraps the model, how gradients are clipped, who has the whole model, and who writes
checkpoints; the loop in `train.py` is the same.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from unival.engine import sharding
from unival.engine.batches.builder import VALUES
from unival.engine.batches.collate import Batch
from unival.engine.checkpoint import Checkpoints
from unival.engine.machine.distributed import World
from unival.engine.machine.runtime import Runtime
from unival.engine.settings import OptimizerConfig
from unival.errors import UserError
from unival.model.modeling import UnivalForConditionalGeneration as Model
from unival.record import MODALITIES

UNSHARDED = "needs whole matrices: use adamw, or a runtime without sharding"
"""Of muon."""
Describe = Callable[[Path], None] | None
"""What a checkpoint folder has beside the weights, written into it; None: nothing."""


class Single:
    """One process has it all."""

    grouped = True
    """Whether ranks may put their examples into groups of their own number."""

    def __init__(self, ranks: World, background: bool = False) -> None:
        """`background`: checkpoints are written there."""
        self.ranks = ranks
        self.background = background

    @property
    def saves(self) -> bool:
        """Whether this rank takes part in writing checkpoints."""
        return self.ranks.is_main

    def wrap(self, module: nn.Module, model: Model) -> nn.Module:
        """What runs forward and backward of `module`, the model with its loss. All ranks call it."""
        return module

    def synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: ranks share the gradients in the `last` one of an update."""
        return nullcontext()

    def absent(self, batch: Batch, shown_anywhere: Sequence[float]) -> list[str]:
        """Media that this rank lacks and whose encoders need a gradient for the sake of other ranks."""
        return []

    def clip(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        """Scale the gradients down to the global norm `limit`, in place; returns the norm before."""
        return nn.utils.clip_grad_norm_(parameters, limit, foreach=True)

    def whole(self, model: Model) -> Model | None:
        """The model with all of its weights, on rank 0; None on the others. All ranks call it."""
        return model if self.ranks.is_main else None

    @contextmanager
    def whole_on_device(self, model: Model) -> Iterator[Model | None]:
        """`whole`, where it can be run."""
        yield self.whole(model)

    def checkpoints(self, folder: Path, keep: int, describe: Describe, optimizer: Optimizer) -> Checkpoints:
        """Where the run is kept; `describe` as there."""
        return Checkpoints(folder, keep, describe, self.background)

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What of the optimiser the checkpoints are to be given."""
        return {"optimizer": optimizer.state_dict()}

    def load_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        optimizer.load_state_dict(state["optimizer"])


class Replicated(Single):
    """Every rank has the model (DDP)."""

    def wrap(self, module: nn.Module, model: Model) -> nn.Module:
        """The module under DDP."""
        # of 1x1 kernels in channels_last, where both layouts are the same memory
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        device = self.ranks.device
        ids = [device.index] if device.type == "cuda" else None
        # a rank's rows may lack a modality: its encoder is then unused there, and only there
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    def synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """See `Single`."""
        assert isinstance(module, DistributedDataParallel)
        return nullcontext() if last else module.no_sync()


class Sharded(Single):
    """Every rank has a part of the weights (FSDP); rank 0 fills a whole copy when it needs one."""

    grouped = False  # each layer is gathered anew for each group: all ranks must have as many
    replica: sharding.Replica[Model]

    @property
    def saves(self) -> bool:
        """All ranks write."""
        return True

    def wrap(self, module: nn.Module, model: Model) -> nn.Module:
        """The module with its parameters dealt out, in place."""
        self.replica = sharding.Replica(model, self.ranks.is_main)
        sharding.shard(module)
        return module

    def synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """See `Single`."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
        return nullcontext()

    def absent(self, batch: Batch, shown_anywhere: Sequence[float]) -> list[str]:
        """Media of other ranks that this batch lacks: all ranks must have the same gradients."""
        kinds = zip(MODALITIES, shown_anywhere, strict=True)
        return [modality for modality, count in kinds if count and VALUES[modality] not in batch.media]

    def clip(self, parameters: Sequence[Tensor], limit: float) -> Tensor:
        """See `Single`."""
        return sharding.clip(parameters, limit)

    def whole(self, model: Model) -> Model | None:
        """The copy in main memory, filled."""
        return self.replica.filled(model)

    @contextmanager
    def whole_on_device(self, model: Model) -> Iterator[Model | None]:
        """The copy, for as long on the device."""
        whole = self.whole(model)
        if whole is not None:
            whole.to(self.ranks.device)  # type: ignore[arg-type]
        yield whole
        if whole is not None:
            whole.cpu()

    def checkpoints(self, folder: Path, keep: int, describe: Describe, optimizer: Optimizer) -> Checkpoints:
        """In parts, which are no model folder and need no description."""
        return sharding.ShardedCheckpoints(folder, keep, optimizer, self.background)

    def state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Nothing: these checkpoints know the optimiser."""
        return {}

    def load_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Nothing: what is in the checkpoint was loaded in place."""


def strategy(ranks: World, runtime: Runtime, optimizer: OptimizerConfig) -> Single:
    """The one that the runtime asks for.

    Raises:
        UserError: an optimiser that cannot work on parts of matrices.
    """
    background = runtime.background_checkpoints
    if ranks.size == 1:
        return Single(ranks, background)
    if runtime.sharding != "full":
        return Replicated(ranks, background)
    if optimizer.name == "muon":
        raise UserError(f"muon {UNSHARDED}")
    return Sharded(ranks, background)
