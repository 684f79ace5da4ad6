"""From the rows of a micro-batch to tensors.

Media are stored once per micro-batch and examples point at them: the two examples of a row, and rows on the
same image, encode it once; nothing is padded with dummy media.

Shapes: B examples, L prompt tokens, T target tokens, K media of one kind per example, M media of that kind,
V vocabulary.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unival.engine.sampler import RowRef
from unival.record import MEDIA, Medium, Record

IGNORED = -100
VALUES = {"image": "pixel_values", "video": "video_values", "audio": "audio_values"}
INDEX = {"image": "pixel_index", "video": "video_index", "audio": "audio_index"}
CACHE_BYTES = 192 * 1024**2
CACHED_ITEM_BYTES = 1024**2

Allowed = Callable[[list[int]], Sequence[int]]
"""Which tokens may follow a target prefix."""


@dataclass(frozen=True)
class Source:
    """Where the rows of one task come from."""

    task: Any
    """A task of `unival.tasks`: `training(record, rng)` and `finetuning(record, rng)` give examples."""
    records: Sequence[Record]
    store: Any
    """Media of the rows: `image(key)`, `video(key, num_frames, rng)`, `audio(key, sampling_rate)`."""
    allowed: Allowed | None = None
    """Restricts the loss to the tokens an answer may have at each place."""


@dataclass
class Batch:
    """One micro-batch."""

    inputs: dict[str, Tensor]
    """Arguments of the model's forward, without labels."""
    labels_BT: Tensor
    """Token to predict at each place; -100: not scored."""
    weights_B: Tensor
    """Confidence of each example's target; scales its loss."""
    task_B: Tensor
    """Number of the example's task in the mixture."""
    num_tokens: int
    """Scored target tokens."""
    rows: list[str] = field(default_factory=list)
    """task:row id of each row, for messages."""
    allowed_BTV: Tensor | None = None

    @property
    def num_examples(self) -> int:
        """B"""
        return len(self.weights_B)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; copies do not wait for each other."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        return Batch(
            {name: move(tensor) for name, tensor in self.inputs.items()},
            move(self.labels_BT),
            move(self.weights_B),
            move(self.task_B),
            self.num_tokens,
            self.rows,
            None if self.allowed_BTV is None else move(self.allowed_BTV),
        )


class MediaCache:
    """Small decoded media, least recently used out first; a pass over a small data set decodes it once."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._items: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()

    def get(self, key: tuple[Any, ...], load: Callable[[], np.ndarray]) -> np.ndarray:
        """The cached array, else what `load` gives."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        array = load()
        if array.nbytes <= CACHED_ITEM_BYTES:
            self._items[key] = array
            self.bytes += array.nbytes
            while self.bytes > self.limit:
                self.bytes -= self._items.popitem(last=False)[1].nbytes
        return array


class Collator:
    """Makes batches. `examples`: both examples of a row (pretraining) or the task's own (finetuning)."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        processor: Any,
        seed: int,
        examples: Literal["pretraining", "finetuning"],
    ) -> None:
        self.sources = sources
        self.tasks = {name: number for number, name in enumerate(sources)}
        self.processor = processor
        self.seed = seed
        self.examples = examples
        self.cache = MediaCache()
        self.tokens = lru_cache(maxsize=200_000)(processor.tokenizer.encode_text)

    def __call__(self, refs: Iterable[RowRef], step: int) -> Batch | None:
        """The batch of these rows at this step; None when there are no rows."""
        media = _Media(self, step)
        prompts: list[list[int]] = []
        targets: list[_Target] = []
        rows: list[str] = []
        for ref in refs:
            source = self.sources[ref.task]
            record = source.records[ref.index]
            rows.append(f"{ref.task}:{record.id}")
            make = source.task.training if self.examples == "pretraining" else source.task.finetuning
            for example in make(record, ref.rng(self.seed)):
                prompts.append(self.tokens(example.prompt))
                targets.append(self._target(example, ref.task))
                media.add(ref.task, example.media)
        return self._tensors(prompts, targets, media, rows) if rows else None

    def _target(self, example: Any, task: str) -> "_Target":
        prefix, target = self.tokens(example.decoder_prompt), self.tokens(example.target)
        return _Target(task, prefix, target, len(prefix) + example.skip_target_tokens, example.weight)

    def _tensors(
        self, prompts: list[list[int]], targets: list["_Target"], media: "_Media", rows: list[str]
    ) -> Batch:
        tokenizer = self.processor.tokenizer
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        input_ids_BL = pad_rows([[bos, *prompt, eos] for prompt in prompts], pad)
        decoder_BT = pad_rows([[bos, *target.prefix, *target.tokens] for target in targets], pad)
        labels = [[*target.prefix, *target.tokens, eos] for target in targets]
        for row, target in zip(labels, targets, strict=True):
            row[: target.unscored] = [IGNORED] * min(target.unscored, len(row) - 1)
        labels_BT = pad_rows(labels, IGNORED)
        inputs = {
            "input_ids": input_ids_BL,
            "attention_mask": (input_ids_BL != pad).long(),
            "decoder_input_ids": decoder_BT,
            "decoder_attention_mask": (decoder_BT != pad).long(),
            **media.tensors(),
        }
        return Batch(
            inputs,
            labels_BT,
            torch.tensor([target.weight for target in targets], dtype=torch.float32),
            torch.tensor([self.tasks[target.task] for target in targets]),
            int((labels_BT != IGNORED).sum()),
            rows,
            self._allowed(targets, labels_BT),
        )

    def _allowed(self, targets: list["_Target"], labels_BT: Tensor) -> Tensor | None:
        if all(self.sources[target.task].allowed is None for target in targets):
            return None
        size = len(self.processor.tokenizer)
        allowed_BTV = torch.ones(*labels_BT.shape, size, dtype=torch.bool)
        for row, target in enumerate(targets):
            follow = self.sources[target.task].allowed
            if follow is None:
                continue
            for place in range(len(target.tokens) + 1):
                column = len(target.prefix) + place
                allowed_BTV[row, column] = False
                allowed_BTV[row, column, list(follow(target.tokens[:place]))] = True
        return allowed_BTV


@dataclass(frozen=True, slots=True)
class _Target:
    task: str
    prefix: list[int]
    tokens: list[int]
    unscored: int
    weight: float


class _Media:
    """Collects the media of a batch, each once, and which example uses which."""

    def __init__(self, collator: Collator, step: int) -> None:
        self.collator = collator
        self.step = step
        self.values: dict[Medium, list[Tensor]] = {medium: [] for medium in MEDIA}
        self.places: dict[tuple[int, str, str], int] = {}
        self.uses: dict[Medium, list[list[int]]] = {medium: [] for medium in MEDIA}

    def add(self, task: str, media: Iterable[tuple[Medium, str]]) -> None:
        """Enter the media of the next example."""
        for uses in self.uses.values():
            uses.append([])
        store = self.collator.sources[task].store
        for medium, key in media:
            place = (id(store), medium, key)
            if place not in self.places:
                self.places[place] = len(self.values[medium])
                self.values[medium].append(self._load(store, medium, key))
            self.uses[medium][-1].append(self.places[place])

    def _load(self, store: Any, medium: Medium, key: str) -> Tensor:
        processor, cache = self.collator.processor, self.collator.cache
        name = (id(store), medium, key)
        if medium == "image":
            return processor.image(cache.get(name, lambda: store.image(key)))
        if medium == "audio":
            rate = processor.sampling_rate
            return processor.audio(cache.get(name, lambda: store.audio(key, rate)))
        # random frames, the same for every example and split of the step
        rng = np.random.default_rng((self.collator.seed, self.step, zlib.crc32(key.encode())))
        return processor.video(store.video(key, processor.video_frames, rng))

    def tensors(self) -> dict[str, Tensor]:
        """Values and index of each kind of medium that occurs."""
        tensors = {}
        for medium, values in self.values.items():
            if values:
                tensors[VALUES[medium]] = torch.stack(values)
                tensors[INDEX[medium]] = pad_rows(self.uses[medium], -1)
        return tensors


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of unequal length as int64 (rows, longest)."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)
