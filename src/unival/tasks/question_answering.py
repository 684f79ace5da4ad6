"""Questions on images, videos and sound; in pretraining with answer matching (docs/reference.md 2.4, 3.3)."""

from collections.abc import Sequence

import numpy as np

from unival.errors import UserError
from unival.metrics import vqa as metric
from unival.record import Answer, Record
from unival.tasks.base import (
    POSITIVE,
    PRETRAIN_WORDS,
    TASKS,
    AnsweringTask,
    Example,
    Value,
    likeliest,
    other,
)
from unival.tasks.text import normalise

OTHER = "other"
"""Question form whose answers serve as negatives of any form, where a data set has it."""


@TASKS.register("question_answering")
class QuestionAnswering(AnsweringTask):
    """Answer a question. `text` is the question, `form` its type, `answers` are soft."""

    metrics = ("vqa_accuracy", "accuracy")

    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """The likeliest answer, and whether an answer is the right one."""
        answer, question = self._likeliest(record), normalise(record.text, self.config.max_words)
        main = self.example(
            self.config.prompt.replace("{text}", question),
            f" {normalise_words(answer.text)}",
            record,
            answer.weight,
            answering=False,
        )
        if not self.config.pair_prompt:
            return [main]
        shown, verdict = answer.text, " yes"
        if rng.random() >= POSITIVE:
            negative = self.negative(record, answer, rng)
            if negative is not None:
                shown, verdict = negative, " no"
        prompt = self.config.pair_prompt.replace("{text}", question).replace(
            "{answer}", normalise_words(shown)
        )
        return [main, self.example(prompt, verdict, record, answer.weight, answering=False)]

    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """The likeliest answer, weighted by its confidence."""
        answer = self._likeliest(record)
        return [self.example(self._prompt(record), f" {answer.text}", record, answer.weight)]

    def inference(self, record: Record) -> Example:
        return self.example(self._prompt(record), "", record)

    def scores(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, np.ndarray]:
        soft, exact = [], []
        for value, record in zip(values, records, strict=True):
            weights = {answer.text: answer.weight for answer in record.answers}
            soft.append(metric.accuracy(str(value), weights, metric.annotators(record.extra)))
            exact.append(float(str(value).strip() == likeliest(record.answers).text))
        return {"vqa_accuracy": np.array(soft), "accuracy": np.array(exact)}

    def negative(self, record: Record, answer: Answer, rng: np.random.Generator) -> str | None:
        """A wrong answer, the more often of the same form the surer the right one is (reference 2.5)."""
        draw = rng.random()
        same = self.pool.by_form.get(record.form, ())
        own = {entry.text for entry in record.answers}
        if answer.weight > draw + 0.1 and answer.text in same:
            if record.text.lower().startswith("how many") and answer.text.isdigit() and draw > 0.5:
                step = 1 if answer.text == "0" or rng.random() < 0.5 else -1
                return str(int(answer.text) + step)
            negative = other(same, own, rng)
            if negative is not None:
                return negative
        return other(self.pool.by_form.get(OTHER, self.pool.vocabulary), own, rng)

    def _prompt(self, record: Record) -> str:
        question = normalise(record.text, self.config.max_words)
        return self.config.prompt.replace("{text}", question if question.endswith("?") else f"{question}?")

    def _likeliest(self, record: Record) -> Answer:
        if not record.answers:
            raise UserError(f"row '{record.id}': task '{self.name}' needs at least one answer")
        return likeliest(record.answers)


def normalise_words(answer: str) -> str:
    """An answer of at most the words a pretraining target may have."""
    return " ".join(answer.split()[:PRETRAIN_WORDS])
