"""Do the tasks of a mixture pull the weights the same way? Cosines of their gradients, module by module.

A cosine below 0 is a conflict (docs/reference.md 4.1). Rows are drawn, so a gradient is that of the task with
noise, which shrinks every cosine: how far, says that of two batches of one and the same task. Compared are
raw gradients, before clipping and the optimiser.

G gradients, D elements of a tensor.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, nn

from unival.engine.batches.collate import Batch, Collator
from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig
from unival.engine.batches.sampler import Sampler
from unival.engine.objective import LossModule
from unival.engine.settings import TrainConfig
from unival.errors import UserError
from unival.weights import module_of

WHOLE = "all"
"""In place of a module: all of them."""


class TaskGradients:
    """Measured at some steps of a run, on two batches of each task.

    They are the same ones at all steps: what changes is due to the weights.

    Raises:
        UserError: a task with fewer rows than two batches hold.
    """

    def __init__(self, config: TrainConfig, mixture: Mixture, collator: Collator) -> None:
        self.config, self.tasks = config, mixture.tasks
        self.steps, self.batches = set[int](), list[Batch]()
        if config.conflict and len(self.tasks) > 1:  # one task has no pair
            self.steps, rows = config.conflict.steps(config.steps), config.conflict.rows
            self.batches = [
                batch
                for task in self.tasks
                for batch in _two(config, rows, task, mixture.sizes[task], collator)
            ]
        self.found: list[dict[str, Any]] = []
        """A line for each step, module and pair: `step`, `module`, `first` and `second` (tasks), `cosine`,
        `norm_first`, `norm_second` (of the gradient of the mean loss of a token)."""

    def due(self, step: int) -> bool:
        """Whether to measure after so many updates."""
        return step in self.steps

    def measure(self, step: int, model: nn.Module, like: nn.Module, drop_worst: float) -> dict[str, float]:
        """Compare all pairs of tasks, and each with itself, in all modules that both have a gradient in.

        Args:
            model: the weights; neither they nor statistics of batch norms nor random states change.
            like: its modules say which of them are in train mode.

        Returns:
            The cosines as metrics, by `conflict/<module>/<first>/<second>`.
        """
        clone = copy.deepcopy(model)
        for module, other in zip(clone.modules(), like.modules(), strict=True):
            module.training = other.training
        gradients = [self._gradient(clone, batch, drop_worst) for batch in self.batches]
        lines = [
            {"step": step, "module": module, **line}
            for module, sums in products(gradients).items()
            for line in angles(sums, self.tasks)
        ]
        self.found += lines
        return {"/".join(("conflict", *list(line.values())[1:4])): line["cosine"] for line in lines}

    def silent(self, model: nn.Module) -> list[str]:
        """Modules without a line for every pair: frozen ones, and encoders of media that a task lacks."""
        pairs = Counter(line["module"] for line in self.found)
        modules = dict.fromkeys(module_of(name) for name, _ in model.named_parameters())
        return [module for module in modules if pairs[module] < pairs[WHOLE]]

    def _gradient(self, model: nn.Module, batch: Batch, drop_worst: float) -> dict[str, Tensor]:
        """Of the mean loss of a token, by name of the parameter; 0 where there is none."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        device = next(iter(trained.values())).device
        loss_of = LossModule(model, self.config.loss, len(self.tasks))  # type: ignore[arg-type]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            with torch.autocast(device.type, torch.bfloat16, self.config.precision == "bfloat16"):
                loss = loss_of(batch.to(device), False, drop_worst)[0]
            loss = loss / max(batch.num_tokens(drop_worst), 1)
            found = torch.autograd.grad(
                loss, list(trained.values()), allow_unused=True, materialize_grads=True
            )
        return dict(zip(trained, found, strict=True))


def _two(config: TrainConfig, rows: int, task: str, size: int, collator: Collator) -> list[Batch]:
    if size < 2 * rows:
        raise UserError(
            f"conflict: two batches of {rows} rows need {2 * rows}, '{task}' has {size}: lower conflict.rows"
        )
    alone = MixtureConfig(2 * rows, [StreamConfig(task, 2 * rows)])
    refs = Sampler(Mixture(alone, {task: size}), config.seed).global_rows(0)
    return [collator(part, 0) for part in (refs[:rows], refs[rows:])]


def products(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Inner products of gradients, (G, G) float64: of WHOLE, which is their sum, and of every module."""
    sums: dict[str, Tensor] = {}
    for name in gradients[0]:
        stacked_GD = torch.stack([one[name].flatten() for one in gradients]).double()
        products_GG = (stacked_GD @ stacked_GD.mT).cpu()
        for module in (WHOLE, module_of(name)):
            sums[module] = sums[module] + products_GG if module in sums else products_GG
    return sums


def angles(products_GG: Tensor, tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Of each pair of tasks that have a gradient, and of each with itself: the mean cosine of their batches.

    Args:
        products_GG: of the gradients; 2 i and 2 i + 1 are of the two batches of task i.
    """
    squares_G = products_GG.diagonal()
    cosines_GG = products_GG / torch.outer(squares_G, squares_G).sqrt()
    norms = squares_G.unflatten(0, (-1, 2)).mean(1).sqrt().tolist()
    for i, j in combinations_with_replacement(range(len(tasks)), 2):
        between = cosines_GG[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        if between.isfinite().all():
            yield {
                "first": tasks[i], "second": tasks[j],
                "cosine": float(between[0, 1] if i == j else between.mean()),
                "norm_first": norms[i], "norm_second": norms[j],
            }  # fmt: skip
