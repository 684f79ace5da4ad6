"""Merging into a live model, without files: interpolation curves and coefficient search.

`Interpolation` moves a loaded model along the line between two state dicts; each step is computed from the
two ends (never from the last position), so nothing drifts and the ends are exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from unival.errors import UserError
from unival.merging.align import Assignment, align
from unival.merging.checkpoint import State, TensorSource, opened
from unival.merging.elementwise import interpolate
from unival.merging.engine import Plan
from unival.merging.recipe import AlignRule, Recipe
from unival.weights import cast

Live = TypeVar("Live", bound=nn.Module)


class Interpolation:
    """Moves `model` between two sets of weights; a context manager that restores the weights it found.

    Args:
        model: a module whose state dict holds at least the tensors of the ends.
        first, second: state dicts, or folders with safetensors, at t = 0 and t = 1.
        align_rules: for tensors that only one end has, or integers that differ.
        base: where the align rules `base` and `trained` look.

    Raises:
        UserError: ends that do not fit together, or tensors that the model lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        first: State,
        second: State,
        align_rules: Sequence[AlignRule] = (),
        base: State | None = None,
    ) -> None:
        recipe = Recipe("interpolate", ("first", "second"), align=tuple(align_rules))
        given = {"first": first, "second": second} | ({"": base} if base is not None else {})
        self.model = model
        self.targets = targets(model)
        with opened(given) as sources:
            ends = [sources["first"], sources["second"]]
            named = {"first": ends[0], "second": ends[1]}
            self.assignments = align(recipe, named, sources.get(""), needs_base=False)
            check_targets(self.targets, self.assignments, "interpolation")
            self.ends = [
                {item.name: _load(end, item.name) for item in self.assignments if item.name in end.specs}
                for end in ends
            ]
            self.copied = {
                item.name: _load(sources[item.copy_from], item.name)
                for item in self.assignments
                if item.copy_from is not None
            }

    @torch.no_grad()
    def move(self, t: float) -> nn.Module:
        """Put the model at (1 - t) first + t second and return it; t = 0 and t = 1 are the exact ends."""
        exact = {**self.copied, **(self.ends[int(t)] if t in (0, 1) else {})}
        for item in self.assignments:
            value, target = exact.get(item.name), self.targets[item.name]
            if value is None:
                value = _between(self.ends[0][item.name], self.ends[1][item.name], t)
            target.copy_(cast(value, target.dtype, f"{item.name}: interpolated"))
        return self.model

    def points(self, ts: Sequence[float]) -> Iterator[tuple[float, nn.Module]]:
        """(t, model at t) for each t."""
        for t in ts:
            yield t, self.move(t)

    def __enter__(self) -> "Interpolation":
        self._found = {name: tensor.clone() for name, tensor in self.targets.items()}
        return self

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for name, values in self._found.items():
            self.targets[name].copy_(values)


@torch.no_grad()
def merge_into(
    model: Live,
    recipe: Recipe,
    models: Mapping[str, State],
    base: State | None = None,
    statistics: Mapping[str, State] | None = None,
) -> Live:
    """Merge straight into the weights of a live model and return it.

    Raises:
        UserError: as `merge`, and for tensors that the model lacks.
    """
    places = targets(model)
    origin = {"": base} if base is not None else {}
    with opened(models) as sources, opened(origin) as bases, opened(statistics or {}) as extra:
        plan = Plan(recipe, sources, bases.get(""), statistics=extra)
        check_targets(places, plan.assignments, "merge")
        for assignment, start, block in plan.stream():
            place = places[assignment.name].view(-1)[start : start + len(block)]
            place.copy_(cast(block, place.dtype, f"{assignment.name}: merged"))
    return model


def targets(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by their names in its state dict."""
    return {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}


def check_targets(places: Mapping[str, Tensor], assignments: Sequence[Assignment], what: str) -> None:
    """Check that the live model has every tensor to be written.

    Raises:
        UserError: it lacks one, or has it in another shape or as integers.
    """
    for item in assignments:
        if item.name not in places:
            raise UserError(
                f"{what}: the live model has no tensor '{item.name}': it has another architecture"
            )
        if tuple(places[item.name].shape) != item.shape:
            raise UserError(
                f"{what}: '{item.name}' is {list(places[item.name].shape)} in the live model and "
                f"{list(item.shape)} in the checkpoints: it has another architecture"
            )
        if places[item.name].is_floating_point() != item.dtype.is_floating_point:
            types = f"{str(places[item.name].dtype)[6:]} in the live model and {str(item.dtype)[6:]}"
            raise UserError(
                f"{what}: '{item.name}' is {types} in the checkpoints: it has another architecture"
            )


def _load(source: TensorSource, name: str) -> Tensor:
    """A tensor of its own: that of a state dict may be the live model's, which moves."""
    spec = source.specs[name]
    buffer = torch.empty(spec.nbytes, dtype=torch.uint8)
    values = source.read(name, 0, spec.count, buffer)
    return (values if values.data_ptr() == buffer.data_ptr() else values.clone()).view(spec.shape)


def _between(first: Tensor, second: Tensor, t: float) -> Tensor:
    """A point on the line in the arithmetic of `merge`: float64 for 16-bit tensors, else float32."""
    kind = torch.float32 if first.dtype == torch.float32 else torch.float64
    return interpolate(first.to(kind), second.to(kind), t)
