#!/bin/sh
# A caption with a carriage return or a line separator in it moves all later captions to the image before theirs.
# Expected: PTBTokenizer gives each image the tokens of its own caption.   Seen: {0: 'a', 1: 'b', 2: 'a dog'} for the
# captions 'a\rb', 'a dog', 'a cat'; the last one is lost. Only '\n' is replaced before the texts are joined by lines.
# Versions: pycocoevalcap 1.2, Python 3.11, OpenJDK 17 (needs `java`).   Source: pycocoevalcap/tokenizer/ptbtokenizer.py
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --no-deps pycocoevalcap==1.2
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

for separator in ("\r", "\u2028"):
    captions = [f"a{separator}b", "a dog", "a cat"]
    tokens = PTBTokenizer().tokenize({image: [{"caption": text}] for image, text in enumerate(captions)})
    assert tokens == {0: ["a"], 1: ["b"], 2: ["a dog"]}, tokens
tokens = PTBTokenizer().tokenize({0: [{"caption": "a\nb"}], 1: [{"caption": "a dog"}]})
assert tokens == {0: ["a b"], 1: ["a dog"]}, tokens
print("as described: the caption of image 1 is scored for image 2")
PYTHON
