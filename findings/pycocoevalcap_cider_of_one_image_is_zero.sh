#!/bin/sh
# A caption equal to its reference has CIDEr 0 when only one image is scored, or when all images have the same references.
# Expected: 10, the greatest value, as for the same caption among other images.   Seen: 0.0, without a warning: words weigh
# by log(images / images that have the word), and log(1) is 0. Smoke tests on one image, and sets of one repeated
# caption, give 0 whatever the model says.
# Versions: pycocoevalcap 1.2, numpy 2.2.6, Python 3.11.   Source: pycocoevalcap/cider/cider_scorer.py
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --no-deps pycocoevalcap==1.2 numpy==2.2.6
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
from pycocoevalcap.cider.cider import Cider


def perfect(*captions):
    rows = {image: [text] for image, text in enumerate(captions)}
    return float(Cider().compute_score(rows, rows)[0])


assert perfect("a dog runs fast") == 0.0
assert perfect("a dog runs fast", "a dog runs fast") == 0.0
assert abs(perfect("a dog runs fast", "two red cats sleep") - 10.0) < 1e-9
print("as described: 0.0 alone, 10.0 beside another image")
PYTHON
