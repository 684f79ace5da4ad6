"""Visual grounding, and its inverse, grounded captioning (docs/reference.md 2.4, 3.4)."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from unival.errors import UserError
from unival.metrics import boxes as metric
from unival.metrics import caption as caption_metric
from unival.record import Record
from unival.tasks.base import PRETRAIN_WORDS, TASKS, Example, Task, Value
from unival.tasks.text import normalise_caption, strip_punctuation

GRID = 8
"""Steps a side of the grid on which the best constant box is searched."""
SAMPLE = 2000
"""Training rows it is searched on."""


@TASKS.register("grounding")
class Grounding(Task):
    """Find the box of a phrase. `text` is the phrase, `box` in pixels of the stored image."""

    metrics = ("acc@0.5", "acc@0.7", "acc@0.9", "iou")

    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """Grounding and grounded captioning of the same box."""
        main = self._main(record, answering=False)
        if not self.config.pair_prompt:
            return [main]
        prompt = self.config.pair_prompt.replace("{box}", self.box_text(record))
        phrase = normalise_caption(record.text, PRETRAIN_WORDS)
        return [main, self.example(prompt, f" {phrase}", record, answering=False)]

    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        return [self._main(record, answering=True)]

    def inference(self, record: Record) -> Example:
        return self.example(self._prompt(record), "", record)

    def parse(self, text: str, record: Record) -> Value:
        """The box in pixels; None when the text is not four locations."""
        return self.boxes.bins_to_box(text, self._size(record))

    def scores(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, np.ndarray]:
        truth_N4 = np.array([record.box for record in records], dtype=np.float64)
        guess_N4 = np.array([value if isinstance(value, tuple) else (0.0,) * 4 for value in values])
        iou_N = metric.iou(guess_N4, truth_N4)
        return {"iou": iou_N, **{f"acc@{t}": metric.accuracy(iou_N, t) for t in (0.5, 0.7, 0.9)}}

    def constant(self, record: Record) -> Value:
        return self._scaled(record, self._constant_box)

    @cached_property
    def _constant_box(self) -> np.ndarray:
        """The best box for all training rows, in shares of the image: by Acc@0.5, of equals by IoU."""
        step = max(len(self.train) // SAMPLE, 1)
        shares = [self._share(self.train[index]) for index in range(0, len(self.train), step)]
        return metric.best_constant(np.array(shares), GRID)

    def random(self, record: Record, rng: np.random.Generator) -> Value:
        """The box of a random training row, brought to the size of this one's image."""
        return self._scaled(record, self._share(self.train[int(rng.integers(len(self.train)))]))

    def _share(self, train: Record) -> np.ndarray:
        if train.box is None or train.image is None:
            raise UserError(f"row '{train.id}': task '{self.name}' needs an image and a box")
        return np.array(train.box) / np.array(self.train_sizes.image_size(train.image) * 2)

    def _scaled(self, record: Record, share_4: np.ndarray) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = (float(value) for value in share_4 * np.array(self._size(record) * 2))
        return x0, y0, x1, y1

    def _main(self, record: Record, answering: bool) -> Example:
        return self.example(self._prompt(record), self.box_text(record), record, answering=answering)

    def _prompt(self, record: Record) -> str:
        return self.config.prompt.replace("{text}", normalise_caption(record.text, self.config.max_words))

    def _size(self, record: Record) -> tuple[int, int]:
        if record.image is None:
            raise UserError(f"row '{record.id}': task '{self.name}' needs an image")
        return self.sizes.image_size(record.image)


@TASKS.register("grounded_captioning")
class GroundedCaptioning(Task):
    """Name what a box shows. `references` (or `text`) holds the phrases."""

    metrics = ("cider", "rouge_l", "exact")

    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        return self.finetuning(record, rng)

    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        phrases = _phrases(record)
        phrase = normalise_caption(phrases[int(rng.integers(len(phrases)))], PRETRAIN_WORDS)
        return [self.example(self._prompt(record), f" {phrase}", record)]

    def inference(self, record: Record) -> Example:
        return self.example(self._prompt(record), "", record)

    def parse(self, text: str, record: Record) -> Value:
        """The phrase without punctuation."""
        return strip_punctuation(text)

    def scores(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, np.ndarray]:
        phrases = [str(value) for value in values]
        references = [_phrases(record) for record in records]
        exact = [
            phrase in {strip_punctuation(reference).lower() for reference in row}
            for phrase, row in zip(phrases, references, strict=True)
        ]
        return {**caption_metric.row_scores(phrases, references), "exact": np.array(exact, dtype=np.float64)}

    def constant(self, record: Record) -> Value:
        return self.majority

    @cached_property
    def majority(self) -> Value:
        """The most frequent phrase of training."""
        counts = Counter(strip_punctuation(phrase) for record in self.train for phrase in _phrases(record))
        return min(counts, key=lambda phrase: (-counts[phrase], phrase))

    def _prompt(self, record: Record) -> str:
        return self.config.prompt.replace("{box}", self.box_text(record))


def _phrases(record: Record) -> tuple[str, ...]:
    return record.references or (record.text,)
