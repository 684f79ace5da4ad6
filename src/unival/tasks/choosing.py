"""Tasks with few answers: entailment (yes, no, maybe) and matching (yes, no) (docs/reference.md 2.4, 3.5)."""

from collections.abc import Sequence

import numpy as np

from unival.errors import UserError
from unival.record import Record
from unival.tasks.base import TASKS, AnsweringTask, Example, Value
from unival.tasks.text import normalise_caption


@TASKS.register("choosing")
class Choosing(AnsweringTask):
    """Choose one of the answers of the training rows. `text` is the statement on the medium."""

    metrics = ("accuracy",)

    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        return self.finetuning(record, rng)

    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        return [self.example(self._prompt(record), f" {self._label(record)}", record)]

    def inference(self, record: Record) -> Example:
        return self.example(self._prompt(record), "", record)

    def scores(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, np.ndarray]:
        right = [value == self._label(record) for value, record in zip(values, records, strict=True)]
        return {"accuracy": np.array(right, dtype=np.float64)}

    def _prompt(self, record: Record) -> str:
        prompt = self.config.prompt
        if "{premise}" in prompt:
            if "premise" not in record.extra:
                raise UserError(f"row '{record.id}': task '{self.name}' needs extra.premise")
            prompt = prompt.replace(
                "{premise}", normalise_caption(record.extra["premise"], self.config.max_words)
            )
        return prompt.replace("{text}", normalise_caption(record.text, self.config.max_words))

    def _label(self, record: Record) -> str:
        if len(record.answers) != 1:
            raise UserError(f"row '{record.id}': task '{self.name}' needs exactly one answer")
        return record.answers[0].text
