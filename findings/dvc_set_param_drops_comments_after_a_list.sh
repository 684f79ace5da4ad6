#!/bin/sh
# `dvc exp run -S seed=1` also deletes the comments that follow a list in params.yaml, and writes the list in another way.
# Expected: one line of params.yaml changes; DVC edits the file in ruamel.yaml's round-trip mode, which keeps comments.
# Seen: every list is replaced by a new one, so the comment lines behind its last item go and its indentation changes.
# Versions: dvc 3.67.1, Python 3.11.   Source: dvc/utils/hydra.py, https://dvc.org/doc/command-reference/exp/run
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet dvc==3.67.1
export PATH="$work/env/bin:$PATH" DVC_NO_ANALYTICS=1
mkdir "$work/project" && cd "$work/project"
git init --quiet .
git config user.name finding && git config user.email finding@example.org
cat > params.yaml <<'YAML'
seed: 0
tasks:
  - caption
  - vqa
# how long to train
steps: 100
YAML
dvc init --quiet
dvc stage add --quiet --name train --params seed,steps "echo trained"
git add --all && git commit --quiet --message start
cp params.yaml before.yaml
dvc exp run --quiet --set-param seed=1 > /dev/null
diff before.yaml params.yaml || true
grep -q "^seed: 1" params.yaml
if grep -q "how long to train" params.yaml; then echo "the comment is kept: not as described"; exit 1; fi
if grep -q "^  - caption" params.yaml; then echo "the list is as it was: not as described"; exit 1; fi
echo "as described: the comment is gone, and the list is written in another way"
