"""Masked language modelling: write the caption out of which single words were masked (Devlin et al. 2019)."""

import numpy as np

from unival.tasks.base import TASKS
from unival.tasks.infilling import TextInfilling


@TASKS.register("masked_language")
class MaskedLanguage(TextInfilling):
    """As text infilling, but every masked word has a mask of its own."""

    share = 0.15
    mean_length = 0.0

    def hide(self, words: list[str], rng: np.random.Generator) -> list[str]:
        return self.masked(words, rng)
