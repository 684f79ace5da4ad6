#!/bin/sh
# range(0,1,0.1) of Hydra's override grammar gives 0.7000000000000001.
# Expected: the values as they would be written, 0.0, 0.1, ... 0.9, as Hydra adds them up as decimal.Decimal.
# Seen: it makes the Decimals of the floats, which hold what 0.1 is in binary, so one of ten values is off: it stands so
# in configurations, folders and names of runs, and is not equal to the same value typed by hand.
# Versions: hydra-core 1.3.8, Python 3.11.   Source: FloatRange in hydra/core/override_parser/types.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet hydra-core==1.3.8
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
from hydra.core.override_parser.overrides_parser import OverridesParser

values = list(OverridesParser.create().parse_override("rate=range(0,1,0.1)").sweep_iterator())
typed = list(OverridesParser.create().parse_override("rate=0.6,0.7,0.8").sweep_iterator())
print(values, typed)
assert values[6:9] == [0.6, 0.7000000000000001, 0.8]
assert typed == [0.6, 0.7, 0.8]
print("as described: range(0,1,0.1) gives 0.7000000000000001")
PYTHON
