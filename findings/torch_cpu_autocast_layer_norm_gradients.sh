#!/bin/sh
# Under CPU autocast `nn.LayerNorm` runs in bfloat16 and sums the gradients of its weight and bias over all rows in
# bfloat16: with many rows they are wrong by a large part, and by another one for each number of threads.
# Expected: float32, as autocast has layer_norm on a GPU, or at least sums in float32 as matrix products have.
#   Seen: with 20,000 rows of a seeded normal input the bias gradient is off by 0.50 (one thread), 0.29 (two).
# Versions: torch 2.13.0 (CPU), Python 3.11.
#   Source: PyTorch's page on automatic mixed precision, lists of operations in float32 per device.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
rows, slope = torch.randn(20_000, 64).bfloat16(), torch.randn(20_000, 64) + 0.1


def gradients(autocast):
    norm = nn.LayerNorm(64)
    with torch.autocast("cpu", torch.bfloat16, autocast):
        out = norm(rows if autocast else rows.float())
    (out * slope).sum().backward()
    return out.dtype, norm.weight.grad, norm.bias.grad


errors = {}
for threads in (1, 2):
    torch.set_num_threads(threads)
    kind, *found = gradients(True)
    _, *exact = gradients(False)
    errors[threads] = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact)]
    print(threads, "threads:", kind, "relative error of weight and bias gradient", errors[threads])
    assert kind == torch.bfloat16 and max(errors[threads]) > 0.1
assert errors[1] != errors[2]
print("as described: sums in bfloat16, another error for each number of threads")
PYTHON
