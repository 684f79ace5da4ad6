"""Merging into a live model, without files: interpolation curves and coefficient search.

`Interpolation` moves a loaded model along the line between two state dicts; each step is computed from the
two ends (never from the last position), so nothing drifts and the ends are exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unival.errors import UserError
from unival.merging.align import Assignment, align
from unival.merging.checkpoint import Checkpoint, Memory, Source
from unival.merging.elementwise import interpolate
from unival.merging.engine import Plan
from unival.merging.recipe import AlignRule, Recipe

State = Mapping[str, Tensor]


class Interpolation:
    """Moves `model` between two sets of weights; a context manager that restores the weights it found.

    Args:
        model: a module whose state dict holds at least the tensors of the ends.
        first, second: state dicts, or folders with safetensors, at t = 0 and t = 1.
        align_rules: for tensors that only one end has, or integers that differ.

    Raises:
        UserError: ends that do not fit together, or tensors that the model lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        first: State | Path | str,
        second: State | Path | str,
        align_rules: Sequence[AlignRule] = (),
        base: State | Path | str | None = None,
    ) -> None:
        ends: dict[str, Source] = {
            "first": as_source(first, "first end"),
            "second": as_source(second, "second end"),
        }
        origin = as_source(base, "base") if base is not None else None
        recipe = Recipe("interpolate", ("first", "second"), align=tuple(align_rules))
        self.model = model
        self.targets = targets(model)
        self.found = align(recipe, ends, origin, needs_base=False)
        check_targets(self.targets, self.found, "interpolation")
        self.inner = {
            found.name: [_load(end, found) for end in _inner(found, ends, origin)] for found in self.found
        }
        self.ends = [
            {found.name: _load(end, found) if found.name in end.specs else None for found in self.found}
            for end in ends.values()
        ]
        self.before = {name: tensor.clone() for name, tensor in self.targets.items()}

    @torch.no_grad()
    def move(self, t: float) -> nn.Module:
        """Put the model at (1 - t) first + t second and return it; t = 0 and t = 1 are the exact ends."""
        end = self.ends[int(t)] if t in (0, 1) else {}
        for name, inner in self.inner.items():
            exact = end.get(name)
            if exact is None:
                exact = inner[0] if len(inner) == 1 else _between(inner[0], inner[1], t)
            self.targets[name].copy_(exact)
        return self.model

    def points(self, ts: Sequence[float]) -> Iterator[tuple[float, nn.Module]]:
        """(t, model at t) for each t."""
        for t in ts:
            yield t, self.move(t)

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the weights that the model had."""
        for name, values in self.before.items():
            self.targets[name].copy_(values)

    def __enter__(self) -> "Interpolation":
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


@torch.no_grad()
def merge_into(
    model: nn.Module,
    recipe: Recipe,
    models: Mapping[str, State | Path | str],
    base: State | Path | str | None = None,
    statistics: Mapping[str, State | Path | str] | None = None,
) -> nn.Module:
    """Merge straight into the weights of a live model and return it.

    Raises:
        UserError: as `merge`, and for tensors that the model lacks.
    """
    sources = {name: as_source(state, name) for name, state in models.items()}
    origin = as_source(base, "base") if base is not None else None
    extra = {name: as_source(state, name) for name, state in (statistics or {}).items()}
    plan = Plan(recipe, sources, origin, statistics=extra)
    places = targets(model)
    check_targets(places, plan.assignments, "merge")
    for found, start, block in plan.stream():
        places[found.name].view(-1)[start : start + len(block)].copy_(block)
    return model


def as_source(state: State | Path | str, label: str) -> Source:
    """A state dict or a path as a source of tensors."""
    return Checkpoint(state) if isinstance(state, str | Path) else Memory(state, label)


def targets(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by their names in its state dict."""
    return {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}


def check_targets(places: Mapping[str, Tensor], found: Sequence[Assignment], what: str) -> None:
    """Raise UserError for a tensor that the live model lacks or has in another shape."""
    for item in found:
        if item.name not in places:
            raise UserError(
                f"{what}: the live model has no tensor '{item.name}': it has another architecture"
            )
        if tuple(places[item.name].shape) != item.shape:
            raise UserError(
                f"{what}: '{item.name}' is {list(places[item.name].shape)} in the live model and "
                f"{list(item.shape)} in the checkpoints: it has another architecture"
            )


def _inner(found: Assignment, ends: Mapping[str, Source], base: Source | None) -> list[Source]:
    """What a tensor is made of between the ends: one source that is copied, or both ends."""
    if found.copy_from == "":
        assert base is not None
        return [base]
    return [ends[found.copy_from]] if found.copy_from else [ends["first"], ends["second"]]


def _load(source: Source, found: Assignment) -> Tensor:
    spec = source.specs[found.name]
    return source.read(found.name, 0, spec.count, torch.empty(spec.nbytes, dtype=torch.uint8)).view(
        spec.shape
    )


def _between(first: Tensor, second: Tensor, t: float) -> Tensor:
    """A point on the line in the arithmetic of `merge`: float64 for 16-bit tensors, else float32."""
    kind = torch.float32 if first.dtype == torch.float32 else torch.float64
    return interpolate(first.to(kind), second.to(kind), t)
