"""How far and in which direction finetunings went: norms and cosines of task vectors, whole and per
module.
"""

import torch
from torch import Tensor

from unival.merging.job import Job

SUB_BLOCK = 1 << 14


def gram(job: Job) -> Tensor:
    """tau_i . tau_j of one tensor, (N, N) in float64, in one pass over its blocks."""
    return _gram(job)[0]


def _gram(job: Job) -> tuple[Tensor, float]:
    """The Gram matrix of the task vectors, and the squared norm of the base."""
    total = torch.zeros(len(job.models), len(job.models), dtype=torch.float64)
    norm = 0.0
    for _, models, base in job.blocks():
        assert base is not None
        for start in range(0, len(base), SUB_BLOCK):
            origin = base[start : start + SUB_BLOCK]
            deltas = torch.stack([model[start : start + SUB_BLOCK] - origin for model in models]).double()
            total += (deltas @ deltas.mT).cpu()
            norm += float(origin.double().square().sum())
    return total, norm
