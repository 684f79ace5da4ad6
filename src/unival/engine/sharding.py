"""FSDP2: weights, gradients and optimiser state dealt out among the ranks, for models too large for one GPU.

All ranks write checkpoints by `torch.distributed.checkpoint`, as safetensors (its own format holds a pickle
in it); they fit any number of ranks. For validation and publishing rank 0 keeps a whole copy of the model in
main memory, filled when needed.

What crosses ranks here does so by plain collectives on the local shards, one after the other, never by the
operators of DTensor, which run asynchronous ones behind the scenes.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from unival import files
from unival.engine.checkpoint import FIX, META, Checkpoints, atomic_folder, hidden
from unival.engine.optim import moving
from unival.errors import UserError

SHARDS = "shards"

Model = TypeVar("Model", bound=nn.Module)


def shard(module: nn.Module, mesh: DeviceMesh | None = None) -> None:
    """Deal out the parameters, in place: those of each transformer layer together, the rest together.

    `mesh`: the ranks that share them; None: all.
    """
    for part in list(module.modules()):
        if isinstance(part, nn.ModuleList) and all(hasattr(layer, "self_attn") for layer in part):
            for layer in part:
                fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)


def gathered(module: nn.Module) -> list[nn.Parameter]:
    """The whole weights that FSDP fills and empties again; it makes them in its first forward pass."""
    groups = [
        part._get_fsdp_state()._fsdp_param_group for part in module.modules() if isinstance(part, FSDPModule)
    ]
    return [weight.unsharded_param for group in groups if group for weight in group.fsdp_params]


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, detached; shares memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale the gradients down to the global norm `limit`, in place; returns the norm before."""
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    square = nn.utils.get_total_norm(gradients, foreach=True) ** 2
    dist.all_reduce(square)
    norm = square.sqrt()
    # as clip_grad_norm_ does: no branch on the value, which would wait for the device
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def gather(tensor: Tensor) -> Tensor | None:
    """The whole tensor, on rank 0; None on the others. All ranks call it.

    FSDP deals out the first dimension in runs of equal length, of which the last ones may be short or empty.
    """
    ranks, shape = dist.get_world_size(), tensor.shape
    part = local(tensor)
    padded = part.new_zeros(-(-shape[0] // ranks), *shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(ranks)] if dist.get_rank() == 0 else None
    dist.gather(padded, parts, dst=0)
    return None if parts is None else torch.cat(parts)[: shape[0]]


class Replica(Generic[Model]):
    """The whole model, on rank 0, in main memory. Make it before `shard`."""

    def __init__(self, model: Model, is_main: bool) -> None:
        self.model: Model | None = copy.deepcopy(model).cpu() if is_main else None

    @torch.no_grad()
    def filled(self, sharded: Model) -> Model | None:
        """With the weights of the sharded model; None on the other ranks. All ranks call it."""
        for name, parameter in sharded.named_parameters():
            whole = gather(parameter)
            if self.model is not None and whole is not None:
                self.model.get_parameter(name).copy_(whole)
        if self.model is not None:
            for name, buffer in sharded.named_buffers():
                self.model.get_buffer(name).copy_(buffer)
        return self.model


class ShardedCheckpoints(Checkpoints):
    """Checkpoints that all ranks write and read together."""

    def __init__(
        self, folder: Path, keep: int, optimizer: torch.optim.Optimizer, background: bool = False
    ) -> None:
        super().__init__(folder, keep, background=background)
        self.optimizer = optimizer
        # while one is written in the background, the run has collectives of its own
        self.group = dist.new_group(backend="gloo")

    def _tensors(self, model: nn.Module, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the run, in place: what is loaded into them is loaded into the run."""
        parameters = dict(model.named_parameters())
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(parameters)
        tensors = {f"model/{n}": t for n, t in model.state_dict().items() if n not in tied}
        tensors |= {f"average/{name}": tensor for name, tensor in average.items()}
        for name, parameter in parameters.items():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{kind}"] = value
        # the writer takes no tensors without dimensions: the optimiser's step counts
        return {name: tensor if tensor.dim() else tensor.reshape(1) for name, tensor in tensors.items()}

    def save(self, step: int, model: nn.Module, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` updates, then drop the oldest. All ranks call it.

        Raises:
            UserError: no space; on all ranks, and the checkpoint before stays.
        """
        self.settle()
        path, main = self.path(step), dist.get_rank() == 0
        average = state.get("ema", {})
        # statistics of batch norms differ between ranks, and any rank may come to write them
        for tensor in [*model.buffers(), *average.values()]:
            if not isinstance(tensor, DTensor):
                dist.broadcast(tensor, 0)
        tensors = self._tensors(model, average)
        with ExitStack() as folder:
            part = folder.enter_context(atomic_folder(path)) if main else hidden(path)
            dist.barrier()
            writer = dcp.HuggingFaceStorageWriter(str(part / SHARDS), save_distributed=True)
            # it has copied the tensors when it returns
            shards = dcp.async_save(tensors, storage_writer=writer, process_group=self.group)
            assert isinstance(shards, Future)  # as of every writer that copies by itself
            self._write(partial(self._finish, folder.pop_all(), shards, part, {**meta, "step": step}))
        return path

    def _finish(self, folder: ExitStack, shards: Future[Any], part: Path, meta: dict[str, Any]) -> None:
        """When all ranks have written their shards, seal the checkpoint and put it into its place."""
        path, main = self.path(meta["step"]), dist.get_rank() == 0
        with folder:
            try:
                shards.result()
            except dcp.CheckpointException as error:
                rank, (reason, _) = next(iter(error.failures.items()))
                raise UserError(f"{path}: rank {rank} cannot write: {reason}: {FIX}") from error
            if main:
                written = sorted((part / SHARDS).iterdir())
                digests = {f"{SHARDS}/{item.name}": files.file_digest(item) for item in written}
                files.write_sealed(part / META, {**meta, "digests": digests})
        if main:
            self._tidy(meta["step"])

    def restore(self, path: Path, meta: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
        """Load the weights and the optimiser's state; returns the rest of the state.

        Raises:
            UserError: a file cannot be read.
        """
        average: dict[str, Tensor] = {}
        if meta["average"]:
            average = {name: tensor.detach().clone() for name, tensor in moving(model).items()}
        reader = dcp.HuggingFaceStorageReader(str(path / SHARDS))
        try:
            self._make_state(model, reader.read_metadata().state_dict_metadata)
            dcp.load(self._tensors(model, average), storage_reader=reader)
        except dcp.CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            raise UserError(f"{path}: rank {rank} cannot read: {reason}") from error
        return {"ema": average}

    def _make_state(self, model: nn.Module, stored: Iterable[str]) -> None:
        """Room for the optimiser's state: what never had a gradient has none in the file either."""
        parameters = dict(model.named_parameters())
        for key in stored:
            if key.startswith("optimizer/"):
                _, name, kind = key.split("/")
                like = parameters[name].detach()
                count = torch.zeros((), device=like.device)
                self.optimizer.state[parameters[name]][kind] = (
                    count if kind == "step" else torch.zeros_like(like)
                )
