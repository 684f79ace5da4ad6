#!/bin/sh
# Brackets, doubled signs and money change in the tokens on which captions are scored: punctuation is not simply removed.
# Expected: 'stop!! (now) for £5' gives 'stop now for 5', since pycocoevalcap lists -LRB-, -RRB- and ! as punctuation.
# Seen: 'stop !! -lrb- now -rrb- for # 5': tokens are in small letters when the list is asked, so brackets stay as words;
# '!!' is another token than '!'; a pound becomes '#', a euro '$'.
# Versions: pycocoevalcap 1.2, Python 3.11, OpenJDK 17 (needs `java`).   Source: pycocoevalcap/tokenizer/ptbtokenizer.py
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --no-deps pycocoevalcap==1.2
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer, PUNCTUATIONS

assert {"-LRB-", "-RRB-", "!"} <= set(PUNCTUATIONS)
tokens = PTBTokenizer().tokenize({0: [{"caption": "stop!! (now) for £5 or €6"}]})
assert tokens == {0: ["stop !! -lrb- now -rrb- for # 5 or $ 6"]}, tokens
print("as described:", tokens[0][0])
PYTHON
