#!/bin/sh
# `save_file` of safetensors writes files that only their owner can read, and makes a readable file private.
# Expected: mode 0666 less the umask, as `open` and `numpy.save` give, and the mode of a file that is there already.
#   Seen: 0600 both times: weights that are published in a shared folder cannot be read by colleagues.
# Versions: safetensors 0.8.0, Python 3.11.   Source: safetensors.numpy.save_file.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet safetensors==0.8.0 numpy
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import os
import stat

import numpy as np
from safetensors.numpy import save_file

os.umask(0o022)
weights = {"w": np.ones(3, np.float32)}
np.save("plain.npy", weights["w"])
save_file(weights, "new.safetensors")
open("old.safetensors", "w").close()
os.chmod("old.safetensors", 0o664)
save_file(weights, "old.safetensors")
mode = {name: oct(stat.S_IMODE(os.stat(name).st_mode)) for name in sorted(os.listdir()) if "." in name}
print(mode)
assert mode["plain.npy"] == "0o644"
assert mode["new.safetensors"] == mode["old.safetensors"] == "0o600"
print("as described: numpy.save gives 0644, safetensors 0600, also over a file of 0664")
PYTHON
