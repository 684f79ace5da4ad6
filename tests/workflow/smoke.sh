#!/bin/sh
# The whole study at its smallest size, in a scratch clone of HEAD: nothing of this working tree is touched.
set -eu
source=$(git rev-parse --show-toplevel)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/unival-smoke.XXXXXX")
trap 'rm -rf "$scratch"' EXIT INT TERM
git clone --quiet "$source" "$scratch/unival"
cd "$scratch/unival"
sed -i.bak 's/^edition: .*/edition: smoke/' params.yaml
unset DVC_ROOT MLFLOW_TRACKING_URI
started=$(date +%s)
dvc repro
echo "smoke: the whole DAG ran in $(($(date +%s) - started)) s"
python - <<'PYTHON'
import json
summary = json.load(open("reports/summary.json"))
for part in ("tasks", "ood", "merges", "ablations", "stages"):
    assert summary[part], f"reports/summary.json: '{part}' is empty"
print(f"smoke: {len(summary['tasks'])} tasks, {len(summary['ood'])} shifts, {len(summary['merges'])} merges")
PYTHON
dvc status | grep -q "up to date" || { echo "smoke: stages would run again"; dvc status; exit 1; }
echo "smoke: ok"
