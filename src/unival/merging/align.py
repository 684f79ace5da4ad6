"""Which tensor of which model goes where: exact names and shapes, or an explicit rule per pattern.

Two things need no rule, since they are no weights: counters and running statistics of batch norm (`COUNTER`,
`STATISTIC`).

`align` looks at names, shapes and types alone, and at the bytes only where a decision needs them (integer
buffers, the rule `trained`, tensors that may be tied). It returns one `Assignment` per tensor of the output.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unival.errors import UserError
from unival.merging.checkpoint import TensorSource
from unival.merging.recipe import AlignRule, Recipe
from unival.weights import TensorSpec

CHUNK = 1 << 20
COUNTER = re.compile(r"(^|\.)num_batches_tracked$")
"""Batches seen, which no forward pass of a trained model reads: the base's, where there is one."""
STATISTIC = re.compile(r"(^|\.)running_(mean|var)$")
"""Under methods that add changes to a base the plain mean: a sum of changes may leave a variance below 0."""
ESTIMATED = "(estimated)"
"""Stands for the source of statistics that were estimated for the merge."""


@dataclass(frozen=True)
class Assignment:
    """What happens to one tensor. `copy_from` (a model, "" for the base, ESTIMATED) is set when nothing is
    computed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    owners: tuple[str, ...]
    copy_from: str | None = None
    rule: str = "exact"

    @property
    def spec(self) -> TensorSpec:
        """Shape and type of the merged tensor."""
        return TensorSpec(self.shape, self.dtype)


def align(
    recipe: Recipe,
    models: Mapping[str, TensorSource],
    base: TensorSource | None,
    needs_base: bool,
    estimated: TensorSource | None = None,
) -> list[Assignment]:
    """Decide about every tensor. Those of `estimated` are taken from there.

    Raises:
        UserError: names, shapes or types that differ and no rule says what to do; integer tensors that
            differ; a rule that matches nothing. All problems are told at once.
    """
    problems: list[str] = []
    unused = {rule.pattern for rule in recipe.align}
    names = sorted(set().union(*(source.specs for source in models.values()), base.specs if base else ()))
    assignments = []
    anew = estimated.specs if estimated else {}
    known = {name: spec.shape for source in models.values() for name, spec in source.specs.items()}
    problems += [
        f"{name}: estimated again, but in no model, or of another shape"
        for name, spec in sorted(anew.items())
        if known.get(name) != spec.shape
    ]
    for name in names:
        rule = next((rule for rule in recipe.align if re.search(rule.pattern, name)), None)
        if rule is not None:
            unused.discard(rule.pattern)
        if estimated is not None and name in anew:
            assignments.append(_copied(name, ESTIMATED, estimated, recipe, "estimated"))
            continue
        try:
            assignment = _assign(name, rule, recipe, models, base, needs_base)
        except UserError as error:
            problems.append(str(error))
        else:
            assignments += [assignment] if assignment else []
    problems += [
        f"align rule '{pattern}' matches no tensor: correct or remove it" for pattern in sorted(unused)
    ]
    if problems:
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise UserError("the models do not fit together:\n  " + "\n  ".join(problems[:12]) + more)
    return assignments


def _assign(
    name: str,
    rule: AlignRule | None,
    recipe: Recipe,
    models: Mapping[str, TensorSource],
    base: TensorSource | None,
    needs_base: bool,
) -> Assignment | None:
    owners = [model for model in models if name in models[model].specs]
    in_base = base is not None and name in base.specs
    kind = rule.rule if rule else "exact"
    if COUNTER.search(name) and in_base and kind != "take":
        kind = "base"
    if kind == "take":
        chosen = rule.model  # type: ignore[union-attr]
        if chosen not in owners:
            raise UserError(f"{name}: rule 'take': model '{chosen}' does not have it")
        return _copied(name, chosen, models[chosen], recipe, kind)
    if kind == "base":
        if not in_base:
            raise UserError(f"{name}: rule 'base': the base does not have it")
        return _copied(name, "", base, recipe, kind)  # type: ignore[arg-type]
    if kind == "exact":
        _require_all(name, owners, in_base, models, base, needs_base)
    elif not owners:
        return _copied(name, "", base, recipe, kind)  # type: ignore[arg-type]
    if kind == "trained":
        if base is None or not in_base:
            raise UserError(f"{name}: rule 'trained' compares with the base, which does not have it")
        _require_same(name, [models[owner] for owner in owners] + [base], recipe)
        owners = [owner for owner in owners if not same_bytes(models[owner], base, name)]
        if not owners:
            return _copied(name, "", base, recipe, kind)
    sources = [models[owner] for owner in owners] + ([base] if in_base and base else [])
    _require_same(name, sources, recipe)
    first = sources[0].specs[name]
    if not first.dtype.is_floating_point:
        return _integer(name, owners, models, recipe, kind)
    if not first.count:
        return _copied(name, owners[0], models[owners[0]], recipe, kind)
    if kind != "exact" and len(owners) == 1 and len(models) > 1:
        return _copied(name, owners[0], models[owners[0]], recipe, kind)
    if kind == "owners" and needs_base and not in_base:
        raise UserError(
            f"{name}: rule 'owners': the base does not have it, so there is no change to merge: use the rule "
            "'mean' or 'take'"
        )
    if kind == "exact" and needs_base and STATISTIC.search(name):
        kind = "mean"
    return Assignment(name, first.shape, output_dtype(first.dtype, recipe), tuple(owners), None, kind)


def output_dtype(dtype: torch.dtype, recipe: Recipe) -> torch.dtype:
    """The type of an output tensor: the recipe's for floating tensors, else the input's."""
    return getattr(torch, recipe.dtype) if recipe.dtype and dtype.is_floating_point else dtype


def _copied(name: str, owner: str, source: TensorSource, recipe: Recipe, rule: str) -> Assignment:
    spec = source.specs[name]
    return Assignment(name, spec.shape, output_dtype(spec.dtype, recipe), (owner,), owner, rule)


def _require_all(
    name: str,
    owners: Sequence[str],
    in_base: bool,
    models: Mapping[str, TensorSource],
    base: TensorSource | None,
    needs_base: bool,
) -> None:
    missing = [models[model].label for model in models if model not in owners]
    if base is not None and needs_base and not in_base:
        missing.append(f"{base.label} (the base)")
    if missing:
        holders = [models[owner].label for owner in owners] or ["the base"]
        raise UserError(
            f"{name}: is in {', '.join(holders)} but not in {', '.join(missing)}: "
            "give other models, or an align rule (owners, mean, trained, base, take) for it"
        )


def _require_same(name: str, sources: Sequence[TensorSource], recipe: Recipe) -> None:
    shapes = {source.label: source.specs[name].shape for source in sources}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{list(shape)} in {label}" for label, shape in shapes.items())
        raise UserError(f"{name}: shapes differ: {listed}: these models do not have one architecture")
    types = {source.label: source.specs[name].dtype for source in sources}
    floating = all(dtype.is_floating_point for dtype in types.values())
    if len(set(types.values())) > 1 and not (floating and recipe.dtype):
        listed = ", ".join(f"{str(dtype)[6:]} in {label}" for label, dtype in types.items())
        raise UserError(f"{name}: types differ: {listed}: set the recipe's dtype")


def _integer(
    name: str, owners: Sequence[str], models: Mapping[str, TensorSource], recipe: Recipe, rule: str
) -> Assignment:
    """Integers are never averaged: equal ones are copied, others refused."""
    first = models[owners[0]]
    for owner in owners[1:]:
        if not same_bytes(first, models[owner], name):
            raise UserError(
                f"{name}: integer values differ between {first.label} and {models[owner].label} and have no "
                "mean: give an align rule (base or take) for it"
            )
    return _copied(name, owners[0], first, recipe, rule)


def same_bytes(one: TensorSource, other: TensorSource, name: str, other_name: str | None = None) -> bool:
    """Whether two tensors of equal shape and type are equal byte for byte."""
    spec = one.specs[name]
    buffers = [torch.empty(CHUNK * spec.dtype.itemsize, dtype=torch.uint8) for _ in range(2)]
    for start in range(0, spec.count, CHUNK):
        count = min(CHUNK, spec.count - start)
        left = one.read(name, start, count, buffers[0]).view(torch.uint8)
        right = other.read(other_name or name, start, count, buffers[1]).view(torch.uint8)
        if not torch.equal(left, right):
            return False
    return True


def tied_names(
    models: Mapping[str, TensorSource], base: TensorSource | None, assignments: Sequence[Assignment]
) -> dict[str, str]:
    """Names that hold the same tensor in every model and the base, each pointing to the first of its group.

    Some tools store a tied matrix under all its names. Equal, not constant, matrices count as tied: they are
    merged once, so global thresholds count them once and random masks agree.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for assignment in assignments:
        if assignment.copy_from is None and len(assignment.shape) > 1:
            groups.setdefault((assignment.shape, assignment.dtype, assignment.owners), []).append(
                assignment.name
            )
    everyone = [*models.values(), *([base] if base else [])]
    tied: dict[str, str] = {}
    for names in groups.values():
        heads: dict[bytes, str] = {}
        for name in names if len(names) > 1 else ():
            owners = [source for source in everyone if name in source.specs]
            first = heads.setdefault(b"".join(_head(source, name) for source in owners), name)
            if first != name and all(_equal_in(source, first, name) for source in owners):
                tied[name] = first
    return tied


def _equal_in(source: TensorSource, first: str, second: str) -> bool:
    return first in source.specs and same_bytes(source, source, first, second)


def _head(source: TensorSource, name: str) -> bytes:
    """The first bytes of a tensor, or its own name when they are constant (zeros are not a sign of a tie)."""
    spec = source.specs[name]
    count = min(spec.count, 256)
    head = source.read(name, 0, count, torch.empty(count * spec.dtype.itemsize, dtype=torch.uint8))
    constant = bool((head == head[0]).all()) if count else True
    return name.encode() if constant else head.view(torch.uint8).numpy().tobytes()
