"""A model folder as MLflow's `python_function`: `mlflow.pyfunc.load_model` and `mlflow models serve`.

The folder's MLmodel names this module, so that nothing is pickled and no code is copied.
"""

from pathlib import Path
from typing import Any

from unival.errors import UserError
from unival.serve.asked import Asked, answer_row, of_json
from unival.serve.models import Models


class Answering:
    """What MLflow calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, Models([folder])

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[list[dict[str, Any]]]:
        """The answers to each row of a table; its columns are the fields of a JSON request to `unival serve`.

        Raises:
            UserError: a row that cannot be answered.
        """
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        # a table has NaN, which is not itself, where a row has no value
        given = [{name: v for name, v in row.items() if v is not None and v == v} for row in rows]
        asked = [of_json(row) for row in given]
        self._note_guesses(asked)
        return [self._answers(one) for one in asked]

    def _note_guesses(self, asked: list[Asked]) -> None:
        predictor, modalities = self.models.predictor(self.models.choice()), {one.modality for one in asked}
        tasks = {
            task or predictor.usual_task(one.modality, bool(text))
            for one in asked
            for text, task in one.questions
        }
        predictor.note_guesses(self.folder, modalities, tasks)

    def _answers(self, asked: Asked) -> list[dict[str, Any]]:
        choice = self.models.choice(asked.model, asked.second, asked.t)
        if choice.first != choice.second or asked.attention:
            raise UserError("second, attention: only `unival serve` takes them")
        predictor = self.models.predictor(choice)
        upload = self.models.uploads.read(asked.modality, asked.file, asked.name or "the medium")
        questions = [
            predictor.question(asked.modality, upload.key, text, task, asked.name)
            for text, task in asked.questions
        ]
        with self.models.uploads.hold(upload):
            made = predictor.answer(questions, asked.alternatives)
        return [*map(answer_row, questions, made)]


def _load_pyfunc(path: str) -> Answering:
    """MLflow's entry point."""
    return Answering(Path(path))
