"""Methods that place the merge between or around whole models: averages, lines, arcs, projections, Fisher.

tau_i = theta_i - theta_0 are task vectors, w_i the weights of the recipe (1 by default).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unival.errors import UserError
from unival.merging import elementwise
from unival.merging.job import Job, gram
from unival.merging.method import METHODS, Method, formula, normalized, pair


@formula("average", propagates=True)
def average(method: Method, job: Job, models: list[Tensor], base: Tensor) -> Tensor:
    """sum_i w_i theta_i / sum_i w_i; uniform by default ("soup", Wortsman et al. 2022, arXiv 2203.05482)."""
    return elementwise.linear(models, normalized(job))


@formula("interpolate", propagates=True)
def interpolate(method: Method, job: Job, models: list[Tensor], base: Tensor) -> Tensor:
    """(1 - t) theta_1 + t theta_2, the ends bit-exact."""
    first, second = pair(job, models)
    return elementwise.interpolate(first, second, method.options.t)


@formula("task_arithmetic", needs_base=True, propagates=True)
def task_arithmetic(method: Method, job: Job, models: list[Tensor], base: Tensor) -> Tensor:
    """theta_0 + lambda sum_i w_i tau_i, w_i = 1 by default; lambda < 0 forgets, lambda > 1 extrapolates."""
    weights = [method.options.scale * job.scale * weight for weight in job.weights]
    return elementwise.task_arithmetic(base, models, weights)


@METHODS.register("slerp")
class Slerp(Method):
    """Per tensor [sin((1-t)W) a + sin(t W) b] / sin W with W the angle between a and b (Shoemake 1985).

    W = 2 atan2(|u-v|, |u+v|) of the unit vectors in float64: exact for small angles, so no threshold falls
    back to a line. For opposite or zero tensors there is no arc: the line is taken and counted.
    """

    def start(self, job: Job) -> tuple[float, float]:
        """The factors of the two tensors."""
        first, second = (
            math.sqrt(v) for v in sums(job, lambda m, b: [squared(x) for x in self.ends(job, m, b)])
        )
        t = self.options.t
        if first == 0 or second == 0:
            self.count("slerp: a zero tensor, line taken")
            return 1 - t, t

        def apart(models: list[Tensor], base: Tensor) -> list[Tensor]:
            a, b = (end.double() for end in self.ends(job, models, base))
            return [squared(a / first - b / second), squared(a / first + b / second)]

        minus, plus = (math.sqrt(v) for v in sums(job, apart))
        angle = 2 * math.atan2(minus, plus)
        if math.sin(angle) < 1e-12:
            if plus < 1:
                self.count("slerp: opposite tensors, line taken")
            return 1 - t, t
        return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)

    def ends(self, job: Job, models: Sequence[Tensor], base: Tensor) -> tuple[Tensor, Tensor]:
        """The two tensors on the arc."""
        return pair(job, models)

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        return elementwise.linear(self.ends(job, models, base), state)


@METHODS.register("slerp_task_vectors")
class SlerpTaskVectors(Slerp):
    """theta_0 + slerp(tau_1, tau_2): two finetunings of one base are nearly parallel, their changes are
    not.
    """

    needs_base = True

    def ends(self, job: Job, models: Sequence[Tensor], base: Tensor) -> tuple[Tensor, Tensor]:
        first, second = pair(job, models)
        return first - base, second - base

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        first, second = pair(job, models)
        return elementwise.task_arithmetic(base, [first, second], [job.scale * factor for factor in state])


@METHODS.register("model_stock")
class ModelStock(Method):
    """t mean(theta_i) + (1 - t) theta_0, t = N c / (1 + (N-1) c) per tensor (Jang et al. 2024, arXiv
    2403.19522).

    c is the mean of the pairwise cosines of the tau_i, the N > 2 form under which the result is the
    projection of the common centre. Sums in float64 without an epsilon, so the size of tau does not matter.
    c < 0 would extrapolate away from the models: it is clamped to 0 and counted. A tensor that no model
    changed is the base.
    """

    needs_base = True

    def start(self, job: Job) -> float:
        """t of this tensor.

        Raises:
            UserError: fewer than two models.
        """
        products = gram(job)
        norms = products.diagonal().sqrt()
        if len(norms) < 2:
            raise UserError(f"merge recipe: {job.name}: model_stock takes two models or more")
        scale = torch.outer(norms, norms)
        cosines = torch.where(scale > 0, products / scale.masked_fill(scale == 0, 1), 0)
        n = len(norms)
        c = float((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1)))
        if c < 0:
            self.count("model_stock: negative cosine clamped to 0")
            c = 0.0
        return n * c / (1 + (n - 1) * c)

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        weights = [state * job.scale * weight for weight in normalized(job)]
        return elementwise.task_arithmetic(base, models, weights)


@METHODS.register("fisher")
class Fisher(Method):
    """sum w_i F_i theta_i / sum w_i F_i with diagonal Fisher statistics (Matena & Raffel 2022, 2111.09832).

    Statistics: per model a safetensors file with the same names and shapes (`collect.fisher`). Tensors
    without statistics in every model get the weighted mean, and are counted.
    """

    needs_statistics = True

    def start(self, job: Job) -> bool:
        """Whether every model has statistics of this tensor."""
        known = self.known(job, job.shape)
        if not known:
            self.count("fisher: tensor without statistics, mean taken")
        return known

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        """Elements weighted by the Fisher information of each model; a tensor without any: plainly weighted.

        Raises:
            UserError: negative information.
        """
        if not state:
            return elementwise.linear(models, normalized(job))
        fishers = [
            self.statistic(job, name, start, len(model)).to(model)
            for name, model in zip(job.models, models, strict=True)
        ]
        if any(float(values.min()) < 0 for values in fishers):
            raise UserError(f"{job.name}: negative values in a Fisher information: collect it again")
        return elementwise.fisher(models, fishers, normalized(job))


def squared(tensor: Tensor) -> Tensor:
    """The sum of squares in float64."""
    return tensor.double().square().sum()


def sums(job: Job, terms: Callable[..., Sequence[Tensor]]) -> list[float]:
    """Sums over the blocks of a tensor of the scalars that `terms(models, base)` returns, in float64."""
    totals: list[float] = []
    for _, models, base in job.blocks():
        values = [float(value) for value in terms(models, base)]
        totals = [total + value for total, value in zip(totals, values, strict=True)] if totals else values
    return totals
