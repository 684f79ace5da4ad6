"""Questions of many requests, answered together.

Nothing waits for company: while the model is busy, questions gather, and the next batch takes those that are
like the oldest: same weights, same task, nearest in length.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from unival.engine.inference.attention_maps import Look, look
from unival.engine.inference.predict import Prediction
from unival.engine.inference.predictor import Query
from unival.serve.metrics import Metrics
from unival.serve.models import Choice, Models

BATCH = 32
"""Questions that are answered together at most."""


class Kind(NamedTuple):
    """What questions of a batch share."""

    choice: Choice
    task: str
    alternatives: int
    look: bool


class Answered(NamedTuple):
    """Of one question."""

    prediction: Prediction
    look: Look | None


@dataclass(eq=False, slots=True)
class _Job:
    kind: Kind
    question: Query
    answer: asyncio.Future[Answered]


class Batcher:
    """Runs the model in a thread of its own; all else happens on the event loop."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.metrics = Metrics(lambda: len(self._waiting))
        self._waiting: list[_Job] = []
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    async def answer(
        self, choice: Choice, questions: Sequence[Query], alternatives: int, look: bool
    ) -> list[Answered]:
        """The answers in order. Whoever is cancelled here leaves the queue.

        Raises:
            UserError: weights that cannot be read.
        """
        loop = asyncio.get_running_loop()
        jobs = [
            _Job(Kind(choice, question.task, alternatives, look), question, loop.create_future())
            for question in questions
        ]
        self._waiting += jobs
        self._more.set()
        try:
            return list(await asyncio.gather(*(job.answer for job in jobs)))
        finally:
            gone = {id(job) for job in jobs}
            self._waiting = [job for job in self._waiting if id(job) not in gone]

    async def run(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            if not self._waiting:
                self._more.clear()
                continue
            batch = self._next()
            self.metrics.batches.add(len(batch))
            found = await loop.run_in_executor(self._thread, self._answers, batch)
            for job, answer in zip(batch, found, strict=True):
                if job.answer.done():  # its client is gone
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    def _next(self) -> list[_Job]:
        """The oldest question and those like it, out of the queue."""
        oldest = self._waiting[0]
        alike = [job for job in self._waiting if job.kind == oldest.kind]
        alike.sort(key=lambda job: abs(job.question.length - oldest.question.length))
        batch = alike[:BATCH]
        taken = {id(job) for job in batch}
        self._waiting = [job for job in self._waiting if id(job) not in taken]
        return batch

    def _answers(self, batch: Sequence[_Job]) -> list[Answered | Exception]:
        """Of each question its answer or what went wrong with it, which spoils no other's."""
        try:
            return list(self._answered(batch))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [answer for job in batch for answer in self._answers([job])]

    def _answered(self, batch: Sequence[_Job]) -> list[Answered]:
        kind, models = batch[0].kind, self.models
        predictor = models.predictor(kind.choice)
        models.move(kind.choice)
        made = predictor.answer([job.question for job in batch], kind.alternatives)
        if not kind.look:
            return [Answered(prediction, None) for prediction in made]
        return [
            Answered(
                prediction,
                look(models.network, models.processor, predictor.rows([job.question]), prediction.text),
            )
            for job, prediction in zip(batch, made, strict=True)
        ]
