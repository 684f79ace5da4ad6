"""Optimiser, learning-rate schedule, freezing and the moving average of weights.

The recipe is the original's (docs/reference.md 2.2): AdamW, the same decay on every parameter, clipping by
the global norm, linear decay after a warm-up. The learning rate is a pure function of the step.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from unival.engine.muon import Muon
from unival.engine.settings import OptimizerConfig
from unival.errors import UserError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of the update at `step` (from 0), as fairseq counts: the first update uses 1 / warm-up steps."""
    horizon = config.horizon or steps
    warmup = round(config.warmup * horizon)
    if step < warmup:
        return config.lr * max(step, 1) / warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (step - warmup) / max(1, horizon - warmup))
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (1 - done) ** config.power


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Stop the gradients of every parameter whose dotted name matches none of the patterns, if there are any.

    Raises:
        UserError: a pattern that matches nothing.
    """
    _refuse_unmatched("train_only", patterns, "parameter", [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def freeze(model: nn.Module, patterns: Sequence[str], batch_norm: bool) -> list[nn.Module]:
    """Stop gradients of every parameter and module whose dotted name matches a pattern (`*` crosses dots).

    Returns the batch norms to hold in evaluation mode: the frozen ones, and all where `batch_norm` is set.

    Raises:
        UserError: a pattern that matches nothing.
    """
    modules = [(name, module) for name, module in model.named_modules() if name]
    parts: list[tuple[str, nn.Module | nn.Parameter]] = [*modules, *model.named_parameters()]
    _refuse_unmatched("freeze", patterns, "module or parameter", [name for name, _ in parts])
    for name, part in parts:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            part.requires_grad_(False)
    frozen: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            if batch_norm:
                module.requires_grad_(False)
            if not any(p.requires_grad for p in module.parameters()):
                frozen.append(module)
    return frozen


def _refuse_unmatched(key: str, patterns: Iterable[str], kind: str, names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{key}: pattern '{pattern}' matches no {kind} of the model")


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Optimiser of the parameters that are not frozen, one group per rate factor (group key `scale`).

    Raises:
        UserError: a pattern of `lr_scale` that matches nothing, nothing to train, or weights in 16 bits, most
            of which an update of a usual size does not move.
    """
    _refuse_unmatched(
        "lr_scale", config.lr_scale, "parameter", [name for name, _ in model.named_parameters()]
    )
    maps = _maps(model) if config.name == "muon" else frozenset()
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if parameter.dtype.itemsize < 4:
                raise UserError(f"'{name}' is {parameter.dtype}: load the model in float32 to train it")
            scales = (value for pattern, value in config.lr_scale.items() if fnmatchcase(name, pattern))
            groups.setdefault((next(scales, 1.0), id(parameter) in maps), []).append(parameter)
    if not groups:
        raise UserError("freeze: every parameter is frozen: nothing is left to train")
    if config.name == "sgd":
        parameters = [{"params": tensors, "scale": scale} for (scale, _), tensors in groups.items()]
        return torch.optim.SGD(parameters, lr=config.lr, weight_decay=config.weight_decay)
    kind = Muon if config.name == "muon" else torch.optim.AdamW
    return kind(
        [{"params": p, "scale": scale, "muon": muon} for (scale, muon), p in groups.items()],
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _maps(model: nn.Module) -> frozenset[int]:
    """Identities of the weights of linear maps and convolutions in stacks of layers and in media encoders."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.ModuleDict)]
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return frozenset(id(m.weight) for stack in stacks for m in stack.modules() if isinstance(m, kinds))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def moving(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, and running statistics of the batch norms that are trained with them."""
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and any(p.requires_grad for p in module.parameters()):
            tensors |= {f"{prefix}.{name}": b for name, b in module.named_buffers() if b.is_floating_point()}
    return tensors


class Ema:
    """Exponential moving average of the trained parameters and, as in the original (reference 3.3), of the
    statistics of batch norms in training."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = moving(model)
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the weights of the model."""
        for is_parameter in (True, False):  # sharded and plain tensors do not go into one call
            names = [
                name for name, live in self.live.items() if isinstance(live, nn.Parameter) == is_parameter
            ]
            if names:
                averages, lives = ([tensors[name] for name in names] for tensors in (self.average, self.live))
                torch._foreach_lerp_(averages, lives, 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the trained weights; call twice to be back."""
        for name, parameter in self.live.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averaged weights are in the model inside a `with`."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def load(self, average: dict[str, Tensor]) -> None:
        """Take the average of a checkpoint."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
