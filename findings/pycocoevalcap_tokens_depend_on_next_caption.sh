#!/bin/sh
# The tokens of a caption, and so its CIDEr, depend on the caption that stands after it in the file.
# Expected: a caption is tokenised by itself.   Seen: 'a sign with plan B.' is 'a sign with plan b' before 'A dog', and
# 'a sign with plan b.' before 'a dog': all texts are one file to the tokeniser, and its rules look over the line's end.
# Versions: pycocoevalcap 1.2, Python 3.11, OpenJDK 17 (needs `java`).   Source: pycocoevalcap/tokenizer/ptbtokenizer.py
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --no-deps pycocoevalcap==1.2
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def first_of(*captions):
    return PTBTokenizer().tokenize({image: [{"caption": text}] for image, text in enumerate(captions)})[0]


assert first_of("a sign with plan B.", "A dog") == ["a sign with plan b"]
assert first_of("a sign with plan B.", "a dog") == ["a sign with plan b."]
print("as described: 'b' before 'A dog', 'b.' before 'a dog'")
PYTHON
