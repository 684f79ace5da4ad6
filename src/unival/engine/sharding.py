"""FSDP2: weights, gradients and optimiser state dealt out among the ranks, for models too large for one GPU.

All ranks write checkpoints by `torch.distributed.checkpoint`, as safetensors (its own format holds a pickle
in it); they fit any number of ranks. For validation and publishing rank 0 keeps a whole copy of the model in
main memory, filled when needed.
"""

import copy
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from unival import files
from unival.engine.checkpoint import META, Checkpoints, atomic_folder, hidden, whole_meta
from unival.errors import UserError

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
SHARDS = "shards"


def shard(module: nn.Module) -> None:
    """Deal out the parameters, in place: those of each transformer layer together, the rest together."""
    for part in list(module.modules()):
        if isinstance(part, nn.ModuleList) and all(hasattr(layer, "self_attn") for layer in part):
            for layer in part:
                fully_shard(layer)
    fully_shard(module)


class Replica:
    """The whole model, on rank 0, in main memory. Make it before `shard`."""

    def __init__(self, model: nn.Module, is_main: bool) -> None:
        self.model = copy.deepcopy(model).cpu() if is_main else None

    def filled(self, sharded: nn.Module) -> nn.Module | None:
        """With the weights of the sharded model; None on the other ranks. All ranks call it."""
        weights = get_model_state_dict(sharded, options=FULL)
        if self.model is not None:
            self.model.load_state_dict(weights)
        return self.model


class ShardedCheckpoints(Checkpoints):
    """Checkpoints that all ranks write and read together."""

    def __init__(self, folder: Path, keep: int, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(folder, keep)
        self.optimizer = optimizer

    def _tensors(self, model: nn.Module, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the run, in place: what is loaded into them is loaded into the run."""
        optimizer = get_optimizer_state_dict(model, self.optimizer, options=FLAT)
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tied -= {name for name, _ in model.named_parameters()}
        weights = get_model_state_dict(model)
        groups: dict[str, Mapping[str, Any]] = {
            "model": {name: value for name, value in weights.items() if name not in tied},
            "optimizer": {name: value for name, value in optimizer.items() if isinstance(value, Tensor)},
            "average": average,
        }
        # the writer takes no tensors without dimensions: the optimiser's step counts
        return {
            f"{group}/{name}": value if value.dim() else value.reshape(1)
            for group, values in groups.items()
            for name, value in values.items()
        }

    def save(self, step: int, model: nn.Module, state: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` updates, then drop the oldest. All ranks call it.

        Raises:
            UserError: no space; on all ranks, and the checkpoint before stays.
        """
        path, main = self.path(step), dist.get_rank() == 0
        for buffer in model.buffers():  # statistics of batch norms, which any rank may come to write
            dist.broadcast(buffer, 0)
        tensors = self._tensors(model, state.get("ema", {}))
        try:
            with atomic_folder(path) if main else nullcontext(hidden(path)) as part:
                dist.barrier()
                writer = dcp.HuggingFaceStorageWriter(str(part / SHARDS), save_distributed=True)
                dcp.save(tensors, storage_writer=writer)
                if main:
                    written = sorted((part / SHARDS).iterdir())
                    digests = {f"{SHARDS}/{item.name}": files.file_digest(item) for item in written}
                    files.write_json(part / META, {**meta, "step": step, "digests": digests})
        except dcp.CheckpointException as error:
            raise UserError(f"{path}: cannot write: {next(iter(error.failures.values()))[0]}") from error
        if main:
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.path(old), ignore_errors=True)
        return path

    def restore(self, path: Path, meta: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
        """Load the weights and the optimiser's state; returns the rest of the state.

        Raises:
            UserError: a checkpoint of another architecture.
        """
        assert whole_meta(path) == meta
        average: dict[str, Tensor] = {}
        if meta["average"]:
            average = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        tensors = self._tensors(model, average)
        reader = dcp.HuggingFaceStorageReader(str(path / SHARDS))
        # parameters that never had a gradient have no state: neither in the file nor, so far, in the run
        stored = reader.read_metadata().state_dict_metadata
        for name, parameter in model.named_parameters():
            mine = [key for key in tensors if key.startswith(f"optimizer/state.{name}.")]
            if mine and not any(key in stored for key in mine):
                self.optimizer.state.pop(parameter, None)
                tensors = {key: value for key, value in tensors.items() if key not in mine}
        try:
            dcp.load(tensors, storage_reader=reader)
        except (dcp.CheckpointException, RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{path}: a checkpoint of another architecture: {error}") from error
        return {"ema": average}
