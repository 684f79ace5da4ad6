"""The vocabulary: the recorded ids, symbols inside text, the trained variant, files."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from unival.errors import UserError
from unival.vocab import SPECIALS, UnivalTokenizer


def recorded(key: str) -> list[Any]:
    """Recorded texts of a kind, one parameter each."""
    return reference.cases(
        "tokenizer.json", lambda content: [(f"{key}{n}", item) for n, item in enumerate(content[key])]
    )


@cache
def original(parity: Path) -> UnivalTokenizer:
    """The tokenizer of the vocabulary beside a recorded set, as many codes and bins as that says."""
    symbols = json.loads((parity / "tokenizer" / "tokenizer.json").read_text())["dictionary"]
    counts = {
        kind: max(int(name.split("_")[1]) for name in symbols if name.startswith(kind + "_")) + 1
        for kind in ("code", "bin")
    }
    return UnivalTokenizer.from_original(parity / "vocab", counts["code"], counts["bin"])


@pytest.mark.parity
@pytest.mark.parametrize("case", recorded("bpe"))
def test_recorded_text(case: Any) -> None:
    folder, item = case
    tokenizer = original(folder.parent)
    assert tokenizer.encode_text(item["text"], symbols=False) == item["ids"]
    assert tokenizer(item["text"])["input_ids"] == [0, *item["ids"], 2]
    assert tokenizer.decode(item["ids"]) == item["decoded"]
    assert tokenizer.decode_text([0, *item["ids"], 2, 1]) == item["decoded"].strip()


@pytest.mark.parity
@pytest.mark.parametrize("case", recorded("raw"))
def test_recorded_symbols(case: Any) -> None:
    folder, item = case
    tokenizer = original(folder.parent)
    gpt2 = json.loads((folder.parent / "vocab" / "encoder.json").read_text())
    names = {str(index): token for token, index in gpt2.items()}
    symbols = [names.get(symbol, symbol) for symbol in item["text"].split()]
    assert tokenizer.convert_tokens_to_ids(symbols) == item["ids"]
    if all(symbol.startswith(("<bin_", "<code_")) for symbol in symbols) and 3 not in item["ids"]:
        assert tokenizer.encode_text(item["text"]) == item["ids"]


@pytest.mark.parity
@pytest.mark.parametrize("case", reference.cases("tokenizer.json", lambda content: [("layout", content)]))
def test_recorded_layout(case: Any, tmp_path: Path) -> None:
    folder, content = case
    tokenizer, layout = original(folder.parent), content["dictionary"]
    ids = [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert ids == [layout[name] for name in ("bos", "pad", "eos", "unk")]
    assert (len(tokenizer), tokenizer.mask_token_id) == (layout["size"], layout["mask"])
    assert (tokenizer.code_offset, tokenizer.bin_offset) == (layout["code_0"], layout["bin_0"])
    tokenizer.save_pretrained(tmp_path)
    assert UnivalTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parity
@pytest.mark.parametrize("case", reference.cases("tokenizer.json", lambda content: [("bart", content)]))
def test_public_bart_files_give_the_same(case: Any, tmp_path: Path) -> None:
    folder, content = case
    tokenizer = original(folder.parent)
    text = {token: index for token, index in tokenizer.get_vocab().items() if index < tokenizer.code_offset}
    (tmp_path / "vocab.json").write_text(json.dumps(text))
    (tmp_path / "merges.txt").write_text((folder.parent / "vocab" / "vocab.bpe").read_text(encoding="utf-8"))
    counts = (tokenizer.num_codes, tokenizer.num_bins)
    assert UnivalTokenizer.from_bart(tmp_path, *counts).get_vocab() == tokenizer.get_vocab()
    (tmp_path / "vocab.json").unlink()
    merges = [line.split(" ") for line in (tmp_path / "merges.txt").read_text().splitlines()[1:]]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": text, "merges": merges}}))
    sentence = content["bpe"][-1]
    assert UnivalTokenizer.from_bart(tmp_path, *counts).encode_text(sentence["text"]) == sentence["ids"]


CORPUS = [
    " what does the image describe?",
    " a red square left of the blue circle",
    " seven eight nine seven eight nine",
    ' which region does the text " the red car " describe?',
] * 5


@cache
def tiny() -> UnivalTokenizer:
    return UnivalTokenizer.train(CORPUS, 330, num_codes=4, num_bins=10)


def test_trained_vocabulary_layout() -> None:
    tokenizer = tiny()
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == list(SPECIALS)
    assert (tokenizer.num_codes, tokenizer.num_bins) == (4, 10)
    assert tokenizer.bin_offset == len(tokenizer) - 10 == tokenizer.code_offset + 4
    assert tokenizer.mask_token_id == tokenizer.code_offset - 1 < 330
    assert len(tokenizer.encode_text(" red")) == 1


def test_training_does_not_depend_on_the_order_of_texts() -> None:
    shuffled = random.Random(1).sample(CORPUS, len(CORPUS))
    again = UnivalTokenizer.train(shuffled, 330, num_codes=4, num_bins=10)
    assert again.backend_tokenizer.to_str() == tiny().backend_tokenizer.to_str()


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match=r"260.*261"):
        UnivalTokenizer.train(CORPUS, 260)


@settings(max_examples=100)
@given(st.text())
def test_any_text_survives(text: str) -> None:
    tokenizer = tiny()
    ids = tokenizer.encode_text(text, symbols=False)
    assert tokenizer.decode(ids) == text
    assert 3 not in ids and all(4 <= token < tokenizer.mask_token_id for token in ids)


def test_symbols_inside_text() -> None:
    tokenizer = tiny()
    before, after = tokenizer.encode_text(" region:"), tokenizer.encode_text(" red")
    found = tokenizer.encode_text(" region: <bin_0> <bin_9> red")
    assert found == [*before, tokenizer.bin_offset, tokenizer.bin_offset + 9, *after]
    assert tokenizer.decode_text([0, *found, 2]) == "region:<bin_0><bin_9> red"
    assert tokenizer.encode_text("<code_3>") == [tokenizer.code_offset + 3]
    assert tokenizer.encode_text(" <bin_1> ") == [tokenizer.bin_offset + 1]


@pytest.mark.parametrize(
    "text", ["<bin_10>", "<bin_01>", "<bin_-1>", "<s>", "</s>", "<pad>", "<mask>", "<bin_>"]
)
def test_what_is_not_a_symbol_is_text(text: str) -> None:
    ids = tiny().encode_text(text)
    assert tiny().decode(ids) == text
    assert all(4 <= token < tiny().mask_token_id for token in ids)


def test_files_give_the_same_tokenizer(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    again = UnivalTokenizer.from_pretrained(tmp_path)
    text = " a </s> red <bin_3> square"
    assert again.encode_text(text) == tiny().encode_text(text)
    assert (again.num_codes, again.num_bins, len(again)) == (4, 10, len(tiny()))
    assert again("red")["input_ids"][0] == 0 and again("red")["input_ids"][-1] == 2


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.json"):
        UnivalTokenizer.from_original(tmp_path)
    (tmp_path / "encoder.json").write_text('{"a": 0}')
    (tmp_path / "dict.txt").write_text("0 1\n")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match=r"vocab\.bpe: row 2"):
        UnivalTokenizer.from_original(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(UserError, match="not the tokenizer of BART"):
        UnivalTokenizer.from_bart(tmp_path)
