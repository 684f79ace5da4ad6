#!/bin/sh
# `save_pretrained` in shards into a folder that holds a whole model leaves model.safetensors there, and
# `from_pretrained` then reads the old weights.
# Expected: what was saved last is loaded; `save_pretrained` removes shards of an earlier save, so the whole file, too.
#   Seen: the file of the first save stays beside index and shards, goes first, and is loaded without a word.
# Versions: transformers 5.24.0, torch 2.13.0, Python 3.11.
#   Source: transformers/modeling_utils.py, `save_pretrained` ("Clean the folder from a previous save") and
#   `_get_resolved_checkpoint_files`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet transformers==5.24.0 torch==2.13.0
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import os

import torch
from transformers import BertConfig, BertModel

sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
model = BertModel(BertConfig(vocab_size=100, **sizes))
for value, limit in ((1.0, "1GB"), (2.0, "5KB")):
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(value)
    model.save_pretrained("model", max_shard_size=limit)
files = sorted(os.listdir("model"))
print(files)
loaded = BertModel.from_pretrained("model").embeddings.word_embeddings.weight
print("saved last: 2.0, loaded:", float(loaded.detach()[1, 0]))
assert "model.safetensors" in files and "model.safetensors.index.json" in files
assert bool((loaded == 1.0).all())
print("as described: the second save is not what is loaded")
PYTHON
