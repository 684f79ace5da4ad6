"""Text infilling: write the caption out of which runs of words were taken (Lewis et al. 2020, BART).

Not part of the original's pretraining (docs/reference.md 2.4); OFA's has it, and the prompt is OFA's.
"""

import zlib

import numpy as np

from unival.record import Modality, Record
from unival.tasks.base import PRETRAIN_WORDS, TASKS, Example
from unival.tasks.captioning import Captioning
from unival.tasks.text import normalise_caption

MASK = "<mask>"


@TASKS.register("text_infilling")
class TextInfilling(Captioning):
    """Restore a caption, from the text alone. `{text}` of the prompt is the text with gaps."""

    share = 0.3
    """Of the words that are taken out."""
    mean_length = 3.0
    """Of a run of words that one mask stands for; runs are of Poisson length, one word at least."""

    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        caption = normalise_caption(self._draw(record, rng), PRETRAIN_WORDS)
        prompt = self.config.prompt.replace("{text}", " ".join(self.hide(caption.split(), rng)))
        return [self.example(prompt, f" {caption}", record)]

    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        return self.training(record, rng)

    def inference(self, record: Record) -> Example:
        """With gaps that depend on the row alone."""
        rng = np.random.default_rng(zlib.crc32(record.id.encode()))
        return self.example(self.training(record, rng)[0].prompt, "", record)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Text alone."""
        return ()

    def hide(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words, of which `share` are gone; one mask stands for a run of them."""
        text = self.masked(words, rng)
        return [
            word for place, word in enumerate(text) if place == 0 or (word, text[place - 1]) != (MASK, MASK)
        ]

    def masked(self, words: list[str], rng: np.random.Generator) -> list[str]:
        """The words, `share` of them (one at least) masked, in runs."""
        wanted = max(round(self.share * len(words)), min(1, len(words)))
        gone: set[int] = set()
        while len(gone) < wanted:
            length = min(max(1, int(rng.poisson(self.mean_length))), wanted - len(gone))
            start = int(rng.integers(len(words) - length + 1))
            gone |= set(range(start, start + length))
        return [MASK if place in gone else word for place, word in enumerate(words)]
