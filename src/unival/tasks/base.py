"""What a task is: from a Record to (prompt, target), from generated text to a prediction, and its scores.

A kind of task is a class in this package; a task is `conf/task/<name>.yaml`, which names the kind and says
what is special about it (modality, prompts, decoding, metric). Prompts are those of the paper, word for word
(docs/reference.md 2.4): every text starts with one space, since the vocabulary has word-initial tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from unival.errors import UserError
from unival.record import Answer, Modality, Record
from unival.registry import Registry

Value = str | tuple[float, float, float, float] | None
"""A prediction: a text, a box in pixels of the stored image, or None when the text could not be read."""
POSITIVE = 0.5
"""Share of true pairs in matching (reference 2.4)."""
PRETRAIN_WORDS = 30
"""Longest target of pretraining, in words (reference 2.2)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One input and output of the model."""

    prompt: str
    target: str = ""
    decoder_prompt: str = ""
    """Text the decoder is given before the target; not predicted."""
    weight: float = 1.0
    """Confidence of the target; scales its loss."""
    media: tuple[tuple[Modality, str], ...] = ()
    skip_target_tokens: int = 0
    """So many first target tokens are left out of the loss."""


@dataclass(frozen=True)
class DecodeConfig:
    """How a text is searched for."""

    search: Literal["beam", "candidates", "sample"] = "beam"
    """`candidates`: every allowed answer is scored, which is exact; for answer sets that are not large.
    `sample`: one text is drawn, by the row's id and `seed`: the same whatever the batch."""
    beams: int = 1
    """1: greedy."""
    max_tokens: int = 20
    min_tokens: int = 1
    length_penalty: float = 0.0
    """Scores are divided by length to this power; 0, as in the paper: not normalised."""
    no_repeat_ngram: int = 0
    """No n-gram of this length twice; 0: no rule."""
    temperature: float = 1.0
    """Logits are divided by it."""
    top_k: int = 0
    """Sampling: only the likeliest so many tokens; 0: all."""
    top_p: float = 1.0
    """Sampling: only the likeliest tokens that together have this probability."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.beams < 1 or not 0 < self.min_tokens <= self.max_tokens or self.no_repeat_ngram < 0:
            raise ValueError("decode needs beams >= 1, 0 < min_tokens <= max_tokens, no_repeat_ngram >= 0")
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.top_k >= 0):
            raise ValueError("decode needs temperature > 0, 0 < top_p <= 1, top_k >= 0")
        if self.search == "sample" and self.beams != 1:
            raise ValueError("decode.search 'sample' needs beams 1")


@dataclass(frozen=True)
class TaskConfig:
    """`conf/task/<name>.yaml`."""

    kind: str
    """The class: `unival.tasks.TASKS`."""
    modality: Modality
    prompt: str
    """Input text. `{text}`: the record's text; `{premise}`: its `extra.premise`; `{box}`: its box as bins."""
    metric: str
    """The primary metric, by which checkpoints are chosen."""
    pair_prompt: str = ""
    """Input text of the second example of a pretraining row; `{answer}` stands for an answer. Empty: none."""
    prompt_type: Literal["none", "prev_output"] = "none"
    """What the decoder starts from: nothing, or the prompt again (the paper's way of finetuning VQA)."""
    constraint: Literal["none", "answers", "boxes"] = "none"
    """What decoding may yield: any text, answers of the training data, exactly four locations."""
    answers_from: Literal["train", "train_and_evaluated"] = "train"
    """Whose answers decoding may yield. The second leaks the evaluated split's, as the original did on
    OK-VQA and VizWiz (reference 3.10): to compare with its figures only."""
    rows: str = ""
    """The task whose rows are read, for a variant of it; empty: those of its own name."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    max_words: int = 80
    """Longest input text, in words."""
    max_target_words: int = 20
    """Longest target in finetuning, in words."""
    skip_target_tokens: int = 0
    """So many first target tokens are left out of the pretraining loss (2 for CC12M in the paper)."""

    def __post_init__(self) -> None:
        if self.decode.search == "candidates" and self.constraint != "answers":
            raise ValueError("decode.search 'candidates' needs constraint 'answers'")


class Boxes(Protocol):
    """The part of the processor that tasks use: boxes to location tokens and back."""

    def box_to_bins(self, box: Sequence[float], size: tuple[int, int]) -> str:
        """` <bin_a> <bin_b> <bin_c> <bin_d>` of a box in pixels of an image of `size` (width, height)."""
        ...

    def bins_to_box(self, text: str, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """The box, x0 <= x1 and y0 <= y1, or None when `text` does not hold exactly four bins."""
        ...


class ImageSizes(Protocol):
    """The part of the media store that tasks use."""

    def image_size(self, key: str) -> tuple[int, int]:
        """(width, height) in pixels."""
        ...


class Task(ABC):
    """A task. Build one with `unival.tasks.build`.

    `train` holds the rows of the task's training split. Whatever a task knows beside the row at hand comes
    from there and from nowhere else: the answer vocabulary, negatives, constant baselines.
    """

    metrics: ClassVar[tuple[str, ...]]
    """Names that `scores` may give; `config.metric` is one of them."""

    def __init__(
        self,
        name: str,
        config: TaskConfig,
        boxes: Boxes,
        sizes: ImageSizes,
        train: Sequence[Record],
        train_sizes: ImageSizes | None = None,
    ) -> None:
        if config.metric not in self.metrics:
            raise UserError(
                f"task '{name}': metric '{config.metric}' is not one of {', '.join(self.metrics)}, "
                f"which kind '{config.kind}' has"
            )
        self.name = name
        self.config = config
        self.boxes = boxes
        self.sizes = sizes
        self.train = train
        self.train_sizes = train_sizes or sizes

    @property
    def primary(self) -> str:
        """Name of the primary metric."""
        return self.config.metric

    @abstractmethod
    def training(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """The examples of a pretraining row: the main one and its partner on the same medium."""

    @abstractmethod
    def finetuning(self, record: Record, rng: np.random.Generator) -> list[Example]:
        """The example of a finetuning row."""

    @abstractmethod
    def inference(self, record: Record) -> Example:
        """The example without target."""

    def answers(self) -> tuple[str, ...]:
        """The answers decoding may yield (`constraint: answers`), in a fixed order."""
        raise NotImplementedError

    def parse(self, text: str, record: Record) -> Value:
        """The prediction in a generated text."""
        return text

    @abstractmethod
    def scores(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Scores of every row, float64 (rows,); the metric is their mean."""

    def corpus(self, values: Sequence[Value], records: Sequence[Record]) -> dict[str, tuple[np.ndarray, Any]]:
        """Metrics that are not means: name -> (statistics (rows, S), from their sums (..., S) to (...))."""
        return {}

    @abstractmethod
    def constant(self, record: Record) -> Value:
        """The prediction for `record` that is best, on the training rows, without looking at the medium."""

    @property
    def majority(self) -> Value:
        """The prediction that is best, on the training rows, for every row."""
        raise NotImplementedError

    def random(self, record: Record, rng: np.random.Generator) -> Value:
        """A random prediction, where that is a baseline."""
        raise NotImplementedError

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What of a row the task looks at."""
        return (self.config.modality,)

    def media(self, record: Record) -> tuple[tuple[Modality, str], ...]:
        """The media of the row that the task looks at.

        Raises:
            UserError: the row has no medium of this modality.
        """
        keys = [(modality, getattr(record, modality)) for modality in self.modalities]
        for modality, key in keys:
            if key is None:
                raise UserError(f"row '{record.id}': task '{self.name}' needs {modality}, which is missing")
        return tuple(keys)

    def example(
        self,
        prompt: str,
        target: str,
        record: Record,
        weight: float = 1.0,
        answering: bool = True,
        skip: int = 0,
    ) -> Example:
        """An example on the row's media. `answering`: the main example, to which `prompt_type` applies."""
        before = prompt if answering and self.config.prompt_type == "prev_output" else ""
        return Example(prompt, target, before, weight, self.media(record), skip)

    def box_text(self, record: Record) -> str:
        """The row's box as location tokens.

        Raises:
            UserError: the row has no image or no box.
        """
        if record.box is None or record.image is None:
            raise UserError(f"row '{record.id}': task '{self.name}' needs an image and a box")
        return self.boxes.box_to_bins(record.box, self.sizes.image_size(record.image))


class AnswerPool:
    """What training rows were answered, per question form: vocabulary, negatives and constant baselines."""

    def __init__(self, train: Iterable[Record]) -> None:
        self.weights: dict[str, dict[str, float]] = {}
        """form -> answer -> summed weight."""
        for record in train:
            form = self.weights.setdefault(record.form, {})
            for answer in record.answers:
                form[answer.text] = form.get(answer.text, 0.0) + answer.weight

    @cached_property
    def total(self) -> dict[str, float]:
        """answer -> summed weight over all forms."""
        total: dict[str, float] = {}
        for form in self.weights.values():
            for answer, weight in form.items():
                total[answer] = total.get(answer, 0.0) + weight
        return total

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All answers, sorted."""
        return tuple(sorted(self.total))

    @cached_property
    def by_form(self) -> dict[str, tuple[str, ...]]:
        """form -> its answers, sorted."""
        return {form: tuple(sorted(answers)) for form, answers in self.weights.items()}

    def best(self, form: str | None = None) -> str:
        """The answer of most weight; of a question form, when it was seen in training."""
        weights = self.weights.get(form, self.total) if form is not None else self.total
        return min(weights, key=lambda answer: (-weights[answer], answer))


class AnsweringTask(Task):
    """A task whose answers are those of its training rows."""

    leaked: Sequence[Record] = ()
    """Rows whose answers decoding may yield too: the evaluated ones, where `answers_from` says so."""

    def answers(self) -> tuple[str, ...]:
        return tuple(sorted({*self.pool.vocabulary, *(a.text for row in self.leaked for a in row.answers)}))

    def constant(self, record: Record) -> Value:
        return self.pool.best(record.form)

    @property
    def majority(self) -> Value:
        return self.pool.best()

    @cached_property
    def pool(self) -> AnswerPool:
        """What training rows were answered; tasks on the same rows may share it.

        Raises:
            UserError: no answers among them.
        """
        pool = AnswerPool(self.train)
        if not pool.vocabulary:
            raise UserError(f"task '{self.name}': no training row has an answer")
        return pool


def likeliest(answers: Sequence[Answer]) -> Answer:
    """The answer of greatest weight, the first of equals."""
    return max(answers, key=lambda answer: answer.weight)


def other(pool: Sequence[str], banned: Iterable[str], rng: np.random.Generator) -> str | None:
    """A random entry that is not banned, None when there is none."""
    banned = set(banned)
    for _ in range(8):  # the pool is large and few entries are banned: this nearly always ends at once
        if pool and (choice := pool[int(rng.integers(len(pool)))]) not in banned:
            return choice
    rest = [entry for entry in pool if entry not in banned]
    return rest[int(rng.integers(len(rest)))] if rest else None


TASKS: Registry[type[Task]] = Registry("kind of task")
