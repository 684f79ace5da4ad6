#!/bin/sh
# Conversion to float8_e4m3fn clips what is too large, infinity included, to 448, without a word; to float8_e5m2, as to
# float16, the same values become infinity.
# Expected: one rule for both float8 types, and NaN for an infinity that e4m3fn cannot write.
#   Seen: 1e4 and inf -> 448 in e4m3fn; 1e5 -> inf in e5m2 and float16: a check for finite values sees only the latter.
# Versions: torch 2.13.0 (CPU), Python 3.11.   Source: torch.Tensor.to, torch.finfo.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import torch

values = torch.tensor([440.0, 1e4, 1e5, float("inf"), -1e5])
found = {
    kind: values.to(kind).float().tolist() for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float16)
}
for kind, numbers in found.items():
    print(kind, "ends at", torch.finfo(kind).max, numbers)
inf = float("inf")
assert found[torch.float8_e4m3fn] == [448.0, 448.0, 448.0, 448.0, -448.0]
assert found[torch.float8_e5m2] == [448.0, 10240.0, inf, inf, -inf]
assert found[torch.float16] == [440.0, 10000.0, inf, inf, -inf]
print("as described: e4m3fn clips, e5m2 and float16 overflow")
PYTHON
