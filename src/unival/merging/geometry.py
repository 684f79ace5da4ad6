"""How far and in which direction finetunings went: norms and cosines of task vectors, whole and per module.

One pass over base and models; sums in float64.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unival.merging.align import STATISTIC
from unival.merging.checkpoint import State, opened
from unival.merging.engine import Plan, single_threaded
from unival.merging.job import gram_and_norm
from unival.merging.recipe import AlignRule, Recipe
from unival.weights import module_of


def geometry(models: Mapping[str, State], base: State) -> list[dict[str, Any]]:
    """Cosines of the task vectors and their norms relative to the base, whole and per module.

    Args:
        models: name -> folder or file. base: their common starting point.

    Returns:
        A row for every pair of models and every module, the module "all" first: module, first, second,
        cosine (with a zero vector: None), norm_first, norm_second and, in units of the base's norm,
        relative_first, relative_second. Integers have no direction and are left out.
    """
    totals: dict[str, tuple[Tensor, float]] = {}
    with single_threaded(), opened(models) as sources, opened({"": base}) as bases:
        rules = [
            AlignRule(f"^{re.escape(name)}$", "owners" if spec.dtype.is_floating_point else "base")
            for name, spec in bases[""].specs.items()
            if STATISTIC.search(name) or not spec.dtype.is_floating_point
        ]
        plan = Plan(Recipe("task_arithmetic", tuple(models), align=tuple(rules)), sources, bases[""])
        for job in plan.jobs.values():
            products, norm = gram_and_norm(job)
            for module in ("all", module_of(job.name)):
                before, so_far = totals.get(module, (torch.zeros_like(products), 0.0))
                totals[module] = (before + products, so_far + norm)
    names = list(plan.models)
    return [row for module, total in totals.items() for row in _rows(module, names, *total)]


def _rows(module: str, names: list[str], products: Tensor, base_square: float) -> list[dict[str, Any]]:
    norms = products.diagonal().sqrt().tolist()
    base = base_square**0.5
    rows = []
    for i, first in enumerate(names):
        for j in range(i, len(names)):
            scale = norms[i] * norms[j]
            rows.append(
                {
                    "module": module,
                    "first": first,
                    "second": names[j],
                    "cosine": float(products[i, j]) / scale if scale else None,
                    "norm_first": norms[i],
                    "norm_second": norms[j],
                    "relative_first": norms[i] / base if base else None,
                    "relative_second": norms[j] / base if base else None,
                }
            )
    return rows
