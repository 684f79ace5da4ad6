"""From the rows of a micro-batch to tensors.

Media are stored once per micro-batch and examples point at them: the two examples of a row, and rows on the
same image, encode it once; nothing is padded with dummy media. Examples of like lengths then go through the
transformer together (`Part`): a caption of 20 tokens beside a `yes` would else be nine tenths padding.

Shapes: B examples of a part, L prompt tokens, T target tokens, K media of one kind per example, V vocabulary.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unival.data.media import segment_frames
from unival.device import sent
from unival.engine.batches.augment import (
    AugmentConfig,
    Window,
    image_window,
    shown_in,
    view_image,
    view_video,
)
from unival.engine.batches.rows import Rows
from unival.engine.batches.sampler import RowRef
from unival.errors import UserError
from unival.record import MEDIA, Medium, Record

IGNORED = -100
VALUES = {"image": "pixel_values", "video": "video_values", "audio": "audio_values"}
INDEX = {"image": "pixel_index", "video": "video_index", "audio": "audio_index"}
CACHED_CLIP_BYTES = 64 * 1024
"""Videos of this encoded size are decoded whole and kept; of larger ones only the frames in use are read."""
CACHED_TEXTS = 10_000
"""Prompts and answers recur, captions hardly: more of them would only fill the memory."""
PART_COST = 150
"""What a further group of examples costs, in tokens."""


@dataclass
class Part:
    """Examples that go through the transformer together."""

    inputs: dict[str, Tensor]
    """Arguments of the model's forward beside the media; the media index stays on the host."""
    labels_BT: Tensor
    """Token to predict at each place; -100: not scored."""
    weights_B: Tensor | None
    """Confidence of each example's target; scales its loss. None: all 1."""
    task_B: Tensor
    """Number of the example's task in the mixture."""
    num_tokens: int
    """Scored target tokens."""
    allowed_BTV: Tensor | None = None
    """Tokens that an answer may have at each place; None: any."""

    def to(self, move: Callable[[Tensor], Tensor]) -> "Part":
        """The same part with its tensors moved."""
        host = INDEX.values()
        return Part(
            {name: tensor if name in host else move(tensor) for name, tensor in self.inputs.items()},
            move(self.labels_BT),
            None if self.weights_B is None else move(self.weights_B),
            move(self.task_B),
            self.num_tokens,
            None if self.allowed_BTV is None else move(self.allowed_BTV),
        )


@dataclass
class Batch:
    """One micro-batch."""

    media: dict[str, Tensor]
    """Values of each kind of medium, each medium once."""
    parts: list[Part]
    num_examples: int
    damaged: list[str]
    """Rows that were left out since a medium of theirs cannot be read, each with the reason."""

    def num_tokens(self, drop_worst: float = 0.0) -> int:
        """Scored target tokens, without those that the loss leaves out."""
        return sum(int(part.num_tokens * (1 - drop_worst)) for part in self.parts)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; copies do not wait for each other."""
        if device.type == "cpu":
            return self
        move = partial(sent, device=device)
        media = {name: move(tensor) for name, tensor in self.media.items()}
        return Batch(media, [part.to(move) for part in self.parts], self.num_examples, self.damaged)


class Collator:
    """Makes batches. `examples`: both examples of a row (pretraining) or the task's own (finetuning).

    `grouped`: examples of like lengths go through the transformer together, else all at once.
    """

    def __init__(
        self,
        data: Mapping[str, Rows],
        processor: Any,
        seed: int,
        examples: Literal["pretraining", "finetuning"],
        augment: AugmentConfig | None = None,
        damaged: int = 0,
        grouped: bool = True,
    ) -> None:
        self.data = data
        self.tasks = {name: number for number, name in enumerate(data)}
        self.processor = processor
        self.seed = seed
        self.examples = examples
        self.augment = augment
        self.damaged = damaged
        self.grouped = grouped
        self.tokens = lru_cache(maxsize=CACHED_TEXTS)(processor.tokenizer.encode_text)

    def __call__(self, refs: Iterable[RowRef], step: int) -> Batch:
        """The batch of these rows, one at least, at this step.

        Raises:
            UserError: a row that cannot be read, where none may be left out; or none that can.
        """
        media = _Media(self, step)
        encoded: list[_Encoded] = []
        damaged: list[str] = []
        for ref in refs:
            try:
                encoded += self._encoded(ref, media)
            except UserError as error:
                if not self.damaged:
                    raise
                damaged.append(f"{ref.task}:{self.data[ref.task].records[ref.index].id}: {error}")
        if not encoded:
            raise UserError(f"step {step}: no row can be read: {damaged[0]}")
        present = [medium for medium, arrays in media.arrays.items() if arrays]
        groups = group_by_length(encoded) if self.grouped else [encoded]
        parts = [self._part(group, present) for group in groups]
        return Batch(media.values(), parts, len(encoded), damaged)

    def _encoded(self, ref: RowRef, media: "_Media") -> list["_Encoded"]:
        """The examples of a row; their media are entered in `media`."""
        rows = self.data[ref.task]
        make = rows.task.training if self.examples == "pretraining" else rows.task.finetuning
        record, window = self._view(rows, ref)
        found = []
        for number, example in enumerate(make(record, ref.rng(self.seed))):
            prefix = self.tokens(example.decoder_prompt)
            found.append(
                _Encoded(
                    (ref.task, number),
                    self.tokens(example.prompt),
                    prefix,
                    self.tokens(example.target),
                    len(prefix) + example.skip_target_tokens,
                    example.weight,
                    media.add(rows, example.media, window),
                )
            )
        return found

    def _view(self, rows: Rows, ref: RowRef) -> tuple[Record, Window | None]:
        """The row, and the part of its image that is shown where it has a box."""
        record = rows.records[ref.index]
        if self.augment is None or record.box is None or record.image is None:
            return record, None
        size = rows.store.image_size(record.image)
        rng = np.random.default_rng((self.seed, zlib.crc32(ref.stream.encode()), ref.position, 1))
        window = image_window(size, self.processor.image_size, self.augment, rng, record.box)
        return shown_in(record, size, window), window

    def _part(self, group: list["_Encoded"], present: Iterable[Medium]) -> Part:
        tokenizer = self.processor.tokenizer
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        input_ids_BL = pad_rows([[bos, *example.prompt, eos] for example in group], pad)
        inputs = {
            "input_ids": input_ids_BL,
            "attention_mask": (input_ids_BL != pad).long(),
            "decoder_input_ids": pad_rows([[bos, *e.prefix, *e.target] for e in group], pad),
        }
        for medium in present:
            inputs[INDEX[medium]] = pad_rows([example.media[medium] or [-1] for example in group], -1)
        labels = [[*example.prefix, *example.target, eos] for example in group]
        for row, example in zip(labels, group, strict=True):
            row[: example.unscored] = [IGNORED] * min(example.unscored, len(row) - 1)
        labels_BT = pad_rows(labels, IGNORED)
        weights = [example.weight for example in group]
        return Part(
            inputs,
            labels_BT,
            torch.tensor(weights, dtype=torch.float32) if any(weight != 1 for weight in weights) else None,
            torch.tensor([self.tasks[example.kind[0]] for example in group]),
            int((labels_BT != IGNORED).sum()),
            self._allowed(group, labels_BT),
        )

    def _allowed(self, group: list["_Encoded"], labels_BT: Tensor) -> Tensor | None:
        if all(self.data[example.kind[0]].allowed is None for example in group):
            return None
        size = len(self.processor.tokenizer)
        allowed_BTV = torch.ones(*labels_BT.shape, size, dtype=torch.bool)
        for row, example in enumerate(group):
            follow = self.data[example.kind[0]].allowed
            if follow is None:
                continue
            for place in range(len(example.target) + 1):
                column = len(example.prefix) + place
                allowed_BTV[row, column] = False
                allowed_BTV[row, column, list(follow[tuple(example.target[:place])])] = True
        return allowed_BTV


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An example as token ids and places of its media."""

    kind: tuple[str, int]
    """Task, and which of the row's examples: such examples are alike in length."""
    prompt: list[int]
    prefix: list[int]
    target: list[int]
    unscored: int
    weight: float
    media: dict[Medium, list[int]]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens for the encoder and for the decoder."""
        return len(self.prompt) + 2, len(self.prefix) + len(self.target) + 1


def group_by_length(encoded: list[_Encoded]) -> list[list[_Encoded]]:
    """Groups that together hold little padding, but are few: each costs about as much as `PART_COST` tokens.

    Starts from one group for each kind of example on the same kinds of media, and joins two while it pays.
    The order of the result depends on nothing but the examples and their order.
    """
    groups: dict[Any, list[_Encoded]] = {}
    for example in encoded:
        shown = tuple(len(example.media[medium]) for medium in MEDIA)
        groups.setdefault((shown, example.kind), []).append(example)
    found = [(shown, group, _cost(group)) for (shown, _), group in groups.items()]
    while len(found) > 1:
        best: tuple[int, int, int, list[_Encoded]] | None = None
        for first, second in combinations(range(len(found)), 2):
            if found[first][0] == found[second][0]:
                joined = found[first][1] + found[second][1]
                change = _cost(joined) - found[first][2] - found[second][2]
                if best is None or change < best[0]:
                    best = (change, first, second, joined)
        if best is None or best[0] > PART_COST:
            break
        _, first, second, joined = best
        found[first] = (found[first][0], joined, _cost(joined))
        del found[second]
    return [group for _, group, _ in found]


def _cost(group: list[_Encoded]) -> int:
    source, target = (max(lengths) for lengths in zip(*(example.lengths for example in group), strict=True))
    return len(group) * (source + target)


class _Media:
    """Collects the media of a batch, each once."""

    def __init__(self, collator: Collator, step: int) -> None:
        self.collator = collator
        self.step = step
        self.arrays: dict[Medium, list[np.ndarray]] = {medium: [] for medium in MEDIA}
        self.places: dict[tuple[Any, ...], int] = {}

    def add(
        self, rows: Rows, media: Iterable[tuple[Medium, str]], window: Window | None = None
    ) -> dict[Medium, list[int]]:
        """Enter the media of an example, of images the part in `window`; returns their places."""
        uses: dict[Medium, list[int]] = {medium: [] for medium in MEDIA}
        for medium, key in media:
            name = (id(rows.store), medium, key, window)
            if name not in self.places:
                array = self._load(rows, medium, key, window)
                self.places[name] = len(self.arrays[medium])
                self.arrays[medium].append(array)
            uses[medium].append(self.places[name])
        return uses

    def _load(self, rows: Rows, medium: Medium, key: str, window: Window | None) -> np.ndarray:
        """Pixels of the model's size, uint8, or samples."""
        processor, augment = self.collator.processor, self.collator.augment
        store, cache, name = rows.store, rows.cache, (rows.store, medium, key)
        # random views, the same for all examples of the step however they are dealt to ranks
        rng = np.random.default_rng((self.collator.seed, self.step, zlib.crc32(key.encode())))
        if medium == "image":
            if augment is None:
                return cache.get((*name, processor), lambda: processor.fit_image(store.picture(key)))
            pixels_HWC = cache.get(name, lambda: store.image(key))
            return processor.fit_image(view_image(pixels_HWC, processor.image_size, augment, rng, window))
        if medium == "audio":
            if augment is None:
                return cache.get(
                    (*name, processor), lambda: processor.fit_audio(store.audio(key, processor.sampling_rate))
                )
            return processor.fit_audio(
                cache.get(
                    (*name, processor.sampling_rate), lambda: store.audio(key, processor.sampling_rate)
                ),
                rng,
            )
        if len(store.bytes(key)) > CACHED_CLIP_BYTES:
            frames_THWC = store.video(key, processor.video_frames, rng)
        else:
            clip_THWC = cache.get(name, lambda: store.video(key))
            frames_THWC = clip_THWC[segment_frames(len(clip_THWC), processor.video_frames, rng)]
        if augment is not None:
            frames_THWC = view_video(frames_THWC, processor.video_size, augment, rng)
        return processor.fit_video(frames_THWC)

    def values(self) -> dict[str, Tensor]:
        """Stacked values of each kind of medium that occurs."""
        # sounds by NumPy: the loader's thread must not start a second team of PyTorch's threads
        return {
            VALUES[medium]: torch.from_numpy(np.stack(arrays))
            if medium == "audio"
            else self.collator.processor.normalise(arrays)
            for medium, arrays in self.arrays.items()
            if arrays
        }


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of unequal length as int64 (rows, longest)."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)
