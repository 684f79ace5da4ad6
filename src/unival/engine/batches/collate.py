"""From the rows of a micro-batch to tensors.

Examples of like lengths go through the transformer together (`ExampleGroup`): a caption of 20 tokens beside
a `yes` would else be nine tenths padding.

Shapes: B examples of a part, T target tokens, V vocabulary.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unival.device import sent
from unival.engine.batches.augment import AugmentConfig, Window, image_window, shown_in
from unival.engine.batches.builder import INDEX, BatchBuilder, BatchMedia, Encoded, pad_rows
from unival.engine.batches.protocols import Processor
from unival.engine.batches.rows import Rows
from unival.engine.batches.sampler import RowRef
from unival.engine.batches.views import RandomViews
from unival.errors import UserError
from unival.model.loss import IGNORED
from unival.record import MODALITIES, Record

PART_COST = 150
"""What a further group of examples costs, in tokens."""


@dataclass
class ExampleGroup:
    """Examples that go through the transformer together."""

    inputs: dict[str, Tensor]
    """Arguments of the model's forward beside the media; the media index stays on the host."""
    labels_BT: Tensor
    """Token to predict at each place; IGNORED: not scored."""
    weights_B: Tensor | None
    """Confidence of each example's target; scales its loss. None: all 1."""
    task_B: Tensor
    """Number of the example's task in the mixture."""
    num_tokens: int
    """Scored target tokens."""
    allowed_BTV: Tensor | None = None
    """Tokens that an answer may have at each place; None: any."""

    def to(self, move: Callable[[Tensor], Tensor]) -> "ExampleGroup":
        """The same part with its tensors moved."""
        host = INDEX.values()
        return ExampleGroup(
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
    """Values of each modality, each medium once."""
    parts: list[ExampleGroup]
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

    `grouped`: examples of like lengths go through the transformer together, else all at once. `multiple`: all
    groups take one form, as compiled steps need: texts padded to a multiple of so many tokens, two rows or
    more, and weights.
    """

    def __init__(
        self,
        data: Mapping[str, Rows],
        processor: Processor,
        seed: int,
        examples: Literal["pretraining", "finetuning"],
        augment: AugmentConfig | None = None,
        damaged: int = 0,
        grouped: bool = True,
        multiple: int | None = None,
    ) -> None:
        self.data = data
        self.tasks = {name: number for number, name in enumerate(data)}
        self.processor = processor
        self.seed = seed
        self.examples = examples
        self.augment = augment
        self.damaged = damaged
        self.grouped = grouped
        self.uniform, self.multiple = multiple is not None, multiple or 1
        self.builder = BatchBuilder(processor, self.multiple)

    def __call__(self, refs: Iterable[RowRef], step: int) -> Batch:
        """The batch of these rows, one at least, at this step.

        Raises:
            UserError: a row that cannot be read, where none may be left out; or none that can.
        """
        media = BatchMedia(self.processor, RandomViews(self.processor, self.augment, self.seed, step))
        encoded: list[Encoded] = []
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
        groups = group_by_length(encoded) if self.grouped else [encoded]
        parts = [self._part(group, media) for group in groups]
        return Batch(media.values(), parts, len(encoded), damaged)

    def _encoded(self, ref: RowRef, media: BatchMedia) -> list[Encoded]:
        """The examples of a row; their media are entered in `media`."""
        rows = self.data[ref.task]
        make = rows.task.training if self.examples == "pretraining" else rows.task.finetuning
        record, window = self._view(rows, ref)
        return [
            self.builder.encode(example, (ref.task, number), media.add(rows, example.media, window))
            for number, example in enumerate(make(record, ref.rng(self.seed)))
        ]

    def _view(self, rows: Rows, ref: RowRef) -> tuple[Record, Window | None]:
        """The row, and the part of its image that is shown where it has a box."""
        record = rows.records[ref.index]
        if self.augment is None or record.box is None or record.image is None:
            return record, None
        size = rows.store.image_size(record.image)
        rng = np.random.default_rng((self.seed, zlib.crc32(ref.stream.encode()), ref.position, 1))
        window = image_window(size, self.processor.image_size, self.augment, rng, record.box)
        return shown_in(record, size, window), window

    def _part(self, group: list[Encoded], media: BatchMedia) -> ExampleGroup:
        tokenizer = self.processor.tokenizer
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        given = len(group)
        if self.uniform and given == 1:
            group = [*group, *group]  # the second is not scored
        inputs = self.builder.inputs(group, media)
        targets = [[bos, *example.prefix, *example.target] for example in group]
        inputs["decoder_input_ids"] = pad_rows(targets, pad, self.multiple)
        labels = [[*example.prefix, *example.target, eos] for example in group]
        for row, example in zip(labels, group, strict=True):
            row[: example.unscored] = [IGNORED] * min(example.unscored, len(row) - 1)
        labels_BT = pad_rows(labels, IGNORED, self.multiple)
        labels_BT[given:] = IGNORED
        weights = [example.weight for example in group]
        weighted = self.uniform or any(weight != 1 for weight in weights)
        return ExampleGroup(
            inputs,
            labels_BT,
            torch.tensor(weights, dtype=torch.float32) if weighted else None,
            torch.tensor([self.tasks[example.kind[0]] for example in group]),
            int((labels_BT != IGNORED).sum()),
            self._allowed(group, labels_BT),
        )

    def _allowed(self, group: list[Encoded], labels_BT: Tensor) -> Tensor | None:
        tasks = self.data if self.uniform else {example.kind[0] for example in group}
        if all(self.data[task].allowed is None for task in tasks):
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


def group_by_length(encoded: list[Encoded]) -> list[list[Encoded]]:
    """Groups that together hold little padding, but are few: each costs about as much as `PART_COST` tokens.

    Starts from one group for each kind of example on the same kinds of media, and joins two while it pays.
    The order of the result depends on nothing but the examples and their order.
    """
    groups: dict[Any, list[Encoded]] = {}
    for example in encoded:
        shown = tuple(len(example.media[modality]) for modality in MODALITIES)
        groups.setdefault((shown, example.kind), []).append(example)
    parts = [(shown, group, _longest(group)) for (shown, _), group in groups.items()]
    while len(parts) > 1:
        best: tuple[int, int, int, tuple[int, ...]] | None = None
        for first, second in combinations(range(len(parts)), 2):
            (shown, one, longest), (other_shown, other, other_longest) = parts[first], parts[second]
            if shown == other_shown:
                joined = tuple(map(max, longest, other_longest))
                apart = len(one) * sum(longest) + len(other) * sum(other_longest)
                change = (len(one) + len(other)) * sum(joined) - apart
                if best is None or change < best[0]:
                    best = (change, first, second, joined)
        if best is None or best[0] > PART_COST:
            break
        _, first, second, joined = best
        parts[first] = (parts[first][0], parts[first][1] + parts[second][1], joined)
        del parts[second]
    return [group for _, group, _ in parts]


def _longest(group: list[Encoded]) -> tuple[int, ...]:
    """Most tokens for the encoder and for the decoder: each example is padded to them."""
    return tuple(max(lengths) for lengths in zip(*(example.lengths for example in group), strict=True))
