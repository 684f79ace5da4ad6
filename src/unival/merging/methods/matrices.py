"""Methods that see whole matrices: singular values (Iso-C, TSV-M) and least squares (RegMean, WUDI).

They treat the two-dimensional tensors that `matrices` matches and `exclude` does not (embeddings: their rows
are a table, not a map); every other tensor gets the (weighted) mean. One matrix is in memory at a time.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unival.errors import UserError
from unival.merging import elementwise, spectral
from unival.merging.job import Job
from unival.merging.method import METHODS, Method, deltas_of, normalized


class MatrixMethod(Method):
    """Whole matrices through `solve`, the rest through the mean."""

    def start(self, job: Job) -> Tensor | None:
        """The merged matrix, flat; None for other tensors."""
        name, options = job.name, self.options
        if len(job.shape) != 2 or not re.search(options.matrices, name) or re.search(options.exclude, name):
            return None
        models, base = job.whole()
        solved = self.solve(job, models, base)
        return None if solved is None else solved.reshape(-1)

    def solve(self, job: Job, models: list[Tensor], base: Tensor | None) -> Tensor | None:
        """The merged matrix; None where the mean has to do."""
        raise NotImplementedError

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        if state is None:
            return elementwise.linear(models, normalized(job))
        return state[start : start + len(models[0])]


class DeltaMatrixMethod(MatrixMethod):
    """theta_0 + lambda merged(w_i tau_i) for matrices, theta_0 + weighted mean of tau_i for the rest."""

    needs_base = True

    def block(self, job: Job, state: Any, start: int, models: list[Tensor], base: Tensor) -> Tensor:
        if state is None:
            weights = [job.scale * weight for weight in normalized(job)]
            return elementwise.task_arithmetic(base, models, weights)
        return super().block(job, state, start, models, base)

    def solve(self, job: Job, models: list[Tensor], base: Tensor | None) -> Tensor:
        assert base is not None
        deltas = [d * w for d, w in zip(deltas_of(models, base), job.weights, strict=True)]
        return base + self.options.scale * job.scale * self.merged(deltas)

    def merged(self, deltas: Sequence[Tensor]) -> Tensor:
        """The merged task vector."""
        raise NotImplementedError


@METHODS.register("iso_c")
class IsoC(DeltaMatrixMethod):
    """theta_0 + lambda U mean(s) V^T of sum tau_i = U s V^T (Iso-C, Marczak et al. 2025, arXiv
    2502.04959).
    """

    def merged(self, deltas: Sequence[Tensor]) -> Tensor:
        return spectral.iso_c(deltas)


@METHODS.register("tsv_m")
class TsvM(DeltaMatrixMethod):
    """theta_0 + lambda TSV-Merge(tau_i) (Gargiulo et al. 2025, arXiv 2412.00081): see `spectral.tsv_m`."""

    def merged(self, deltas: Sequence[Tensor]) -> Tensor:
        return spectral.tsv_m(deltas)


@METHODS.register("wudi")
class Wudi(DeltaMatrixMethod):
    """argmin_tau sum_i |(tau - tau_i) tau_i^T|^2 / |tau_i|^2 (WUDI, Cheng et al. 2025, arXiv 2503.08099).

    Solved in closed form: it is RegMean with G_i = tau_i^T tau_i / |tau_i|^2. The relative ridge pulls
    towards sum tau_i, where the paper's descent starts.
    """

    def merged(self, deltas: Sequence[Tensor]) -> Tensor:
        anchor = sum(deltas[1:], deltas[0])
        grams = [spectral.wudi_gram(delta) for delta in deltas]
        solved, condition = spectral.gram_solve(deltas, grams, anchor, self.options.ridge)
        self.worst("wudi: condition number", condition)
        return solved


@METHODS.register("regmean")
class RegMean(MatrixMethod):
    """W = (sum W_i G_i) (sum G_i)^-1 with G_i = X_i^T X_i / n_i (Jin et al. 2023, arXiv 2212.09849).

    Statistics: per model a safetensors file with one (in, in) matrix under the name of each weight
    (`collect.grams`). Solved by Cholesky with a ridge relative to the diagonal, towards the mean; a lower
    bound of the worst condition number is noted. Weights without statistics in every model get the mean.
    """

    needs_statistics = True

    def solve(self, job: Job, models: list[Tensor], base: Tensor | None) -> Tensor | None:
        """The matrix (out, in) whose outputs are nearest to the models' on their inputs; None: no statistics.

        Raises:
            UserError: a Gram matrix has a negative diagonal.
        """
        size = job.shape[1]
        if not self.known(job, (size, size)):
            self.count("regmean: matrix without statistics, mean taken")
            return None
        weights = normalized(job)
        grams = []
        for name, weight in zip(job.models, weights, strict=True):
            gram = self.statistic(job, name, 0, size * size).view(size, size)
            gram = gram.to(models[0].device, torch.float64)
            if float(gram.diagonal().min()) < 0:
                raise UserError(
                    f"{job.name}: negative values on the diagonal of a Gram matrix: collect it again"
                )
            grams.append(spectral.shrink_off_diagonal(gram, self.options.alpha) * weight)
        solved, condition = spectral.gram_solve(
            models, grams, elementwise.linear(models, weights), self.options.ridge
        )
        self.worst("regmean: condition number", condition)
        return solved
