"""Captioning of images, videos and sound; in pretraining with matching (docs/reference.md 2.4, 2.5, 3.2)."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from unival.errors import UserError
from unival.metrics import caption as metric
from unival.metrics.digit_checker import digit_share
from unival.metrics.world_checker import check_caption
from unival.record import Record
from unival.tasks.base import POSITIVE, PRETRAIN_WORDS, TASKS, Example, Task, Value, other
from unival.tasks.text import mentions, normalise_caption, replace_mention, strip_punctuation

OBJECT_NEGATIVES = 0.4
"""Share of negatives that differ by one object, where the row names its objects."""


@TASKS.register("captioning")
class Captioning(Task):
    """Describe the medium. `references` holds the captions, `objects` what is in the medium."""

    metrics = ("cider", "rouge_l", "exact", "correct", "digits")

    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """Caption and matching; the pair is true with probability 0.5."""
        caption = normalise_caption(self._draw(record, rng), PRETRAIN_WORDS)
        main = self.example(
            self.config.prompt, f" {caption}", record, answering=False, skip=self.config.skip_target_tokens
        )
        if not self.config.pair_prompt:
            return [main]
        shown, answer = caption, " yes"
        if rng.random() >= POSITIVE:
            negative = self.negative(caption, record, rng)
            if negative is not None:
                shown, answer = negative, " no"
        prompt = self.config.pair_prompt.replace("{text}", shown)
        return [main, self.example(prompt, answer, record, answering=False)]

    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """Caption without punctuation, case kept."""
        caption = strip_punctuation(self._draw(record, rng), self.config.max_target_words)
        return [self.example(self.config.prompt, f" {caption}", record)]

    def inference(self, record: Record) -> Example:
        return self.example(self.config.prompt, "", record)

    def parse(self, text: str, record: Record) -> Value:
        """The caption without punctuation."""
        return strip_punctuation(text)

    def scores(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, np.ndarray]:
        captions = [str(value) for value in values]
        references = [record.references for record in records]
        exact = [
            value.lower() in {strip_punctuation(reference).lower() for reference in row}
            for value, row in zip(captions, references, strict=True)
        ]
        scores = {**metric.row_scores(captions, references), "exact": np.array(exact, dtype=np.float64)}
        if all(record.facts for record in records):
            right = [check_caption(text, row.facts) for text, row in zip(captions, records, strict=True)]
            scores["correct"] = np.array(right, dtype=np.float64)
            facts = [json.loads(row.facts) for row in records]
            if all("digits" in row for row in facts):
                shares = [digit_share(text, row) for text, row in zip(captions, facts, strict=True)]
                scores["digits"] = np.array(shares, dtype=np.float64)
        return scores

    def corpus(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, tuple[np.ndarray, Any]]:
        statistics = metric.bleu_statistics(
            [str(value) for value in values], [record.references for record in records]
        )
        return {f"bleu_{order}": (statistics, metric.bleu_of(order)) for order in range(1, metric.ORDERS + 1)}

    def constant(self, record: Record) -> Value:
        return self.majority

    @cached_property
    def majority(self) -> Value:
        """The most typical training caption: of the most frequent the one with the most CIDEr on a sample."""
        rows = [self.train[index] for index in np.linspace(0, len(self.train) - 1, 200).astype(int)]
        counts = Counter(
            strip_punctuation(reference) for record in self.train for reference in record.references
        )
        common = [caption for caption, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]]
        return max(common, key=lambda caption: self._mean_cider(caption, rows))

    def _mean_cider(self, caption: str, rows: Sequence[Record]) -> float:
        return float(metric.cider([caption] * len(rows), [record.references for record in rows]).mean())

    def negative(self, caption: str, record: Record, rng: np.random.Generator) -> str | None:
        """A caption that is not true of the medium: one object replaced, or the caption of another row."""
        named = [name for name in record.objects if mentions(caption, name)]
        if named and rng.random() < OBJECT_NEGATIVES:
            name = named[int(rng.integers(len(named)))]
            replacement = other(self._objects, record.objects, rng)
            if replacement is not None:
                return replace_mention(caption, name, replacement)
        own = {normalise_caption(reference, PRETRAIN_WORDS) for reference in record.references}
        return other(self._captions, own, rng)

    @cached_property
    def _captions(self) -> Sequence[str]:
        return _Captions(self.train)

    @cached_property
    def _objects(self) -> list[str]:
        return sorted({name for record in self.train for name in record.objects})

    def _draw(self, record: Record, rng: np.random.Generator) -> str:
        if not record.references:
            raise UserError(f"row '{record.id}': task '{self.name}' needs at least one reference caption")
        return record.references[int(rng.integers(len(record.references)))]


class _Captions(Sequence[str]):
    """All captions of the rows as targets, each made when it is asked for: there may be millions."""

    def __init__(self, rows: Sequence[Record]) -> None:
        self.rows = rows
        # a manifest knows them without making its rows
        counts = rows.lengths("references") if hasattr(rows, "lengths") else [len(r.references) for r in rows]
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        row = int(np.searchsorted(self.ends, index, side="right"))
        from_the_end = index - int(self.ends[row])
        return normalise_caption(self.rows[row].references[from_the_end], PRETRAIN_WORDS)
