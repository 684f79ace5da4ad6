"""The vocabulary: byte-level BPE text tokens, image codes and location bins behind one tokenizer.

Layout of the ids (docs/reference.md 1.5): `<s>`=0 `<pad>`=1 `</s>`=2 `<unk>`=3, text tokens, `<mask>`,
`<code_0>`.. (image codes), `<bin_0>`.. (locations). Codes and bins are entries of the BPE vocabulary that no
merge reaches, so running text never turns into one; `encode_text` puts them in where they are written inline.
"""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from unival import files
from unival.errors import UserError

BOS, PAD, EOS, UNK, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
SPECIALS = (BOS, PAD, EOS, UNK)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# White space before a symbol belongs to the symbol: "region: <bin_1> <bin_2>" is text + 2 tokens.
_SYMBOL = re.compile(r"\s*(<(?:bin|code)_(?:0|[1-9]\d*)>)")


class UnivalTokenizer(PreTrainedTokenizerFast):
    """The tokenizer of UnIVAL. Calling it gives BOS + tokens + EOS and treats all input as running text.

    Build one with `from_original`, `from_bart` or `train`; keep it with `save_pretrained`.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012  (transformers wants a list)

    def encode_text(self, text: str, symbols: bool = True) -> list[int]:
        """Token ids of `text` without BOS and EOS.

        Args:
            text: running text; `<bin_i>` and `<code_i>` in it become single tokens.
            symbols: False reads these too as running text (for text that a stranger typed).
        """
        if not symbols or "<" not in text:
            return self._encode_running_text(text)
        ids: list[int] = []
        start = 0
        for match in _SYMBOL.finditer(text):
            symbol = self.backend_tokenizer.token_to_id(match[1])
            if symbol is None:  # beyond the last bin or code: text like any other
                continue
            ids += self._encode_running_text(text[start : match.start()])
            ids.append(symbol)
            start = match.end()
        rest = text[start:]
        return ids if ids and not rest.strip() else ids + self._encode_running_text(rest)

    def _encode_running_text(self, text: str) -> list[int]:
        if not text:
            return []
        self.backend_tokenizer.encode_special_tokens = True  # "</s>" typed by a person is four characters
        return list(self.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def decode_text(self, ids: Iterable[int]) -> str:
        """Text of generated ids: BOS, EOS and PAD dropped, bins as `<bin_i>`, outer white space stripped."""
        dropped = (self.bos_token_id, self.eos_token_id, self.pad_token_id)
        kept = [int(token) for token in ids if int(token) not in dropped]
        return str(self.backend_tokenizer.decode(kept, skip_special_tokens=False)).strip()

    @cached_property
    def num_codes(self) -> int:
        """How many image codes the vocabulary has."""
        return self._count("code")

    @cached_property
    def num_bins(self) -> int:
        """How many location bins the vocabulary has."""
        return self._count("bin")

    @property
    def code_offset(self) -> int:
        """Id of `<code_0>`."""
        return len(self) - self.num_bins - self.num_codes

    @property
    def bin_offset(self) -> int:
        """Id of `<bin_0>`."""
        return len(self) - self.num_bins

    def _count(self, kind: str) -> int:
        count = 0
        while self.backend_tokenizer.token_to_id(f"<{kind}_{count}>") is not None:
            count += 1
        return count

    @classmethod
    def from_folder(cls, folder: Path | str) -> "UnivalTokenizer":
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: it is missing or damaged, or lacks a token that every vocabulary has.
        """
        path = Path(folder) / TOKENIZER_FILES[0]
        for name in TOKENIZER_FILES:
            files.read_json(path.with_name(name))
        try:
            tokenizer = cls.from_pretrained(folder)
        except Exception as error:  # tokenizers raises this very class
            raise UserError(f"{path}: not a tokenizer of this model: {error}: make it again") from error
        missing = [
            token for token in (*SPECIALS, MASK) if tokenizer.backend_tokenizer.token_to_id(token) is None
        ]
        if missing:
            raise UserError(f"{path}: not a tokenizer of this model: it has no {missing[0]}")
        return tokenizer

    @classmethod
    def from_original(
        cls, folder: Path | str, num_codes: int = 8192, num_bins: int = 1000
    ) -> "UnivalTokenizer":
        """Read the original's files: `encoder.json`, `vocab.bpe` (GPT-2) and `dict.txt` (fairseq).

        Lines of `dict.txt` are GPT-2 ids; their order is the order of our ids after the four specials.
        """
        folder = Path(folder)
        gpt2 = {str(index): token for token, index in files.read_json(folder / "encoder.json").items()}
        text = [
            gpt2.get(line.split(" ")[0], line.split(" ")[0])
            for line in _read(folder / "dict.txt").splitlines()
        ]
        merges = _read_merges(folder / "vocab.bpe")
        return cls._assemble([*SPECIALS, *text, MASK], merges, num_codes, num_bins)

    @classmethod
    def from_bart(cls, folder: Path | str, num_codes: int = 8192, num_bins: int = 1000) -> "UnivalTokenizer":
        """Read the public BART tokenizer: `vocab.json` and `merges.txt`, or `tokenizer.json`.

        Raises:
            UserError: files are missing, or of another tokenizer.
        """
        folder = Path(folder)
        if (folder / "vocab.json").exists():
            vocab = files.read_json(folder / "vocab.json")
            merges = _read_merges(folder / "merges.txt")
        else:
            model = files.read_json(folder / "tokenizer.json").get("model", {})
            vocab = model.get("vocab", {})
            merges = [
                tuple(merge.split(" ") if isinstance(merge, str) else merge)
                for merge in model.get("merges", [])
            ]
        tokens = sorted(vocab, key=lambda token: vocab[token])
        if tuple(tokens[:4]) != SPECIALS or tokens[-1] != MASK:
            raise UserError(
                f"{folder}: not the tokenizer of BART: expected {' '.join(SPECIALS)} first and {MASK} last"
            )
        return cls._assemble(tokens, merges, num_codes, num_bins)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, num_codes: int = 0, num_bins: int = 0
    ) -> "UnivalTokenizer":
        """Learn byte-level BPE on `texts`; equal texts in any order give an equal vocabulary.

        Args:
            texts: the corpus; texts should start with the space that they have in prompts and targets.
            size: at most this many ids before the codes and bins (4 specials, 256 bytes, merges, `<mask>`).
            num_codes: number of image codes.
            num_bins: number of location bins.

        Raises:
            UserError: `size` is too small for the specials and the bytes.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if size < len(SPECIALS) + len(alphabet) + 1:
            raise UserError(
                f"vocabulary size {size}: too small: the specials and the bytes alone need "
                f"{len(SPECIALS) + len(alphabet) + 1}"
            )
        learner = Tokenizer(BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(SPECIALS) - 1,
            initial_alphabet=alphabet,
            show_progress=False,
            min_frequency=2,
        )
        learner.train_from_iterator(texts, trainer)
        model = json.loads(learner.to_str())["model"]
        text = sorted(model["vocab"], key=lambda token: model["vocab"][token])
        merges = [(left, right) for left, right in model["merges"]]
        return cls._assemble([*SPECIALS, *text, MASK], merges, num_codes, num_bins)

    @classmethod
    def _assemble(
        cls, tokens: list[str], merges: list[Any], num_codes: int, num_bins: int
    ) -> "UnivalTokenizer":
        tokens = tokens + [f"<code_{index}>" for index in range(num_codes)]
        tokens += [f"<bin_{index}>" for index in range(num_bins)]
        vocab = {token: index for index, token in enumerate(tokens)}
        if len(vocab) != len(tokens):
            raise UserError("vocabulary: a token appears twice: check the vocabulary files")
        backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=UNK))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}",
            pair=f"{BOS} $A {EOS} $B {EOS}",
            special_tokens=[(BOS, vocab[BOS]), (EOS, vocab[EOS])],
        )
        backend.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIALS, MASK)])
        return cls(
            tokenizer_object=backend,
            bos_token=BOS,
            pad_token=PAD,
            eos_token=EOS,
            unk_token=UNK,
            mask_token=MASK,
            split_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the vocabulary file: {error}") from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for row, line in enumerate(_read(path).split("\n"), start=1):
        if not line or (row == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise UserError(f"{path}: row {row}: expected two tokens separated by one space: {line!r}")
        merges.append((pair[0], pair[1]))
    return merges
