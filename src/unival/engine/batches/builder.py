"""The inputs of a batch of examples, for training and for prediction: token ids, and each medium once.

Examples point at their media: the two examples of a row, and rows on the same image, encode it once; nothing
is padded with dummy media.

B examples, L prompt tokens, K media of one kind per example.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unival.engine.batches.augment import Window
from unival.engine.batches.protocols import Processor
from unival.engine.batches.rows import Rows
from unival.engine.batches.views import View
from unival.record import MODALITIES, Modality
from unival.tasks import Example

VALUES = {"image": "pixel_values", "video": "video_values", "audio": "audio_values"}
INDEX = {"image": "pixel_index", "video": "video_index", "audio": "audio_index"}
CACHED_TEXTS = 10_000
"""Prompts and answers recur, captions hardly: more of them would only fill the memory."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as token ids and places of its media."""

    kind: tuple[str, int]
    """Task, and which of the row's examples: such examples are alike in length."""
    prompt: list[int]
    prefix: list[int]
    """What the decoder is given before the target."""
    target: list[int]
    unscored: int
    """So many first tokens of prefix and target are left out of the loss."""
    weight: float
    media: dict[Modality, list[int]]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens for the encoder and for the decoder."""
        return len(self.prompt) + 2, len(self.prefix) + len(self.target) + 1


class BatchMedia:
    """Collects the media of a batch, each once."""

    def __init__(self, processor: Processor, view: View) -> None:
        self.processor, self.view = processor, view
        self.arrays: dict[Modality, list[np.ndarray]] = {modality: [] for modality in MODALITIES}
        self.places: dict[tuple[Any, ...], int] = {}

    def add(
        self, rows: Rows, media: Iterable[tuple[Modality, str]], window: Window | None = None
    ) -> dict[Modality, list[int]]:
        """Enter the media of an example, of images the part in `window`; returns their places."""
        uses: dict[Modality, list[int]] = {modality: [] for modality in MODALITIES}
        for modality, key in media:
            name = (rows.store, modality, key, window)
            if name not in self.places:
                array = self.view(rows, modality, key, window)
                self.places[name] = len(self.arrays[modality])
                self.arrays[modality].append(array)
            uses[modality].append(self.places[name])
        return uses

    def values(self) -> dict[str, Tensor]:
        """Stacked values of each modality that occurs."""
        # sounds by NumPy: the loader's thread must not start a second team of PyTorch's threads
        return {
            VALUES[modality]: torch.from_numpy(np.stack(arrays))
            if modality == "audio"
            else self.processor.normalise(arrays)
            for modality, arrays in self.arrays.items()
            if arrays
        }


class BatchBuilder:
    """Makes the encoder's inputs of examples. `multiple`: prompts are padded to one."""

    def __init__(self, processor: Processor, multiple: int = 1) -> None:
        self.processor, self.tokenizer, self.multiple = processor, processor.tokenizer, multiple
        self.tokens = lru_cache(maxsize=CACHED_TEXTS)(processor.tokenizer.encode_text)

    def encode(self, example: Example, kind: tuple[str, int], media: dict[Modality, list[int]]) -> Encoded:
        """An example whose media have these places in the batch."""
        prefix = self.tokens(example.decoder_prompt)
        return Encoded(
            kind,
            self.tokens(example.prompt),
            prefix,
            self.tokens(example.target),
            len(prefix) + example.skip_target_tokens,
            example.weight,
            media,
        )

    def inputs(self, group: Sequence[Encoded], media: BatchMedia) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (B, L), and (B, K) which of the batch's media each example shows,
        for every kind that the batch has."""
        bos, eos, pad = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        prompts = [[bos, *example.prompt, eos] for example in group]
        input_ids_BL = pad_rows(prompts, pad, self.multiple)
        inputs = {"input_ids": input_ids_BL, "attention_mask": (input_ids_BL != pad).long()}
        for modality, arrays in media.arrays.items():
            if arrays:
                inputs[INDEX[modality]] = pad_rows([example.media[modality] or [-1] for example in group], -1)
        return inputs


def pad_rows(rows: Sequence[Sequence[int]], fill: int, multiple: int = 1) -> Tensor:
    """Rows of unequal length as int64 (rows, longest), whose length is a `multiple`."""
    longest = max(map(len, rows))
    table = np.full((len(rows), -(-longest // multiple) * multiple), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)
