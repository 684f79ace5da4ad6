#!/bin/sh
# A small number set with `dvc exp run -S` is a text for a script that reads params.yaml with PyYAML.
# Expected: yaml.safe_load gives the number that DVC was told, as for 0.001.
# Seen: DVC (YAML 1.2) writes `lr: 5e-05`; PyYAML (YAML 1.1) wants a point and a sign in a float, and gives '5e-05'.
# Versions: dvc 3.67.1, PyYAML 6.0.3, omegaconf 2.3.0 (reads the number), Python 3.11.   Source: PyYAML's resolver.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet dvc==3.67.1 PyYAML==6.0.3 omegaconf==2.3.0
export PATH="$work/env/bin:$PATH" DVC_NO_ANALYTICS=1
mkdir "$work/project" && cd "$work/project"
git init --quiet .
git config user.name finding && git config user.email finding@example.org
printf 'lr: 0.001\n' > params.yaml
dvc init --quiet
dvc stage add --quiet --name train --params lr "echo trained"
git add --all && git commit --quiet --message start
dvc exp run --quiet --set-param lr=0.00005 > /dev/null
cat params.yaml
python - <<'PYTHON'
import yaml
from omegaconf import OmegaConf

with open("params.yaml") as file:
    text = file.read()
read, hydra = yaml.safe_load(text)["lr"], OmegaConf.create(text).lr
print("PyYAML:", repr(read), " OmegaConf:", repr(hydra))
assert read == "5e-05" and hydra == 5e-05
PYTHON
