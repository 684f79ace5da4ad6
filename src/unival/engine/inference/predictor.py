"""A model in the hands of a person: a file and a question in, an answer out.

predictor = Predictor.load("models/merged/unival")
print(predictor("photo.jpg", "what color is the square?").text)      # a question
print(predictor("photo.jpg").text)                                   # a caption
found = predictor("photo.jpg", "the red square", task="grounding")   # a box
predictor.draw("photo.jpg", found, "found.png")
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unival import files
from unival.data import media
from unival.data.media.decoded import DecodedMedia
from unival.engine.batches.protocols import MediaReader
from unival.engine.batches.rows import Rows
from unival.engine.inference.predict import Prediction, predict
from unival.errors import UserError, nearest
from unival.model import folder as model_folder
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.record import LABELS, Answer, Modality, Record, is_unicode
from unival.tasks import Task, TaskConfig, build
from unival.tasks.folder import carried, foreign, tasks_of

DEFAULTS: dict[Modality, tuple[str, str]] = {
    "image": ("caption", "vqa"),
    "video": ("video_caption", "video_qa"),
    "audio": ("audio_caption", "audio_qa"),
}
"""The task without and with a question."""


class Files(DecodedMedia):
    """A media store whose keys are paths."""

    def bytes(self, key: str) -> bytes:
        """The file."""
        return files.read_bytes(Path(key))


class Query(NamedTuple):
    """What is asked about one medium, checked: `Predictor.question` makes it."""

    task: str
    record: Record
    length: int
    """Of the prompt, in tokens."""


class Predictor:
    """Answers about media.

    Args:
        model: runs where its weights are.
        processor: of this model.
        tasks: what can be asked.
        answers: limits question answering to these; None: any text.
        store: where media are found by their keys; None: the keys are paths.
    """

    def __init__(
        self,
        model: UnivalForConditionalGeneration,
        processor: UnivalProcessor,
        tasks: Mapping[str, TaskConfig],
        answers: Sequence[str] | None = None,
        store: MediaReader | None = None,
    ) -> None:
        self.model, self.processor, self.configs, self.answers = model.eval(), processor, tasks, answers
        self.store = Files() if store is None else store
        self._tasks: dict[str, Task] = {}

    @classmethod
    def load(
        cls,
        folder: Path | str,
        tasks: Path | None = None,
        device: str | torch.device = "cpu",
        answers: Sequence[str] | None = None,
    ) -> "Predictor":
        """Read a model folder with its tasks; `tasks`: a folder of task files to use instead.

        Raises:
            UserError: no whole model or no tasks there.
        """
        model, processor = model_folder.read(folder)
        configs = tasks_of(Path(folder), tasks)
        model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(model, processor, configs, answers)

    def __call__(
        self, path: Path | str, text: str = "", task: str | None = None, alternatives: int = 3
    ) -> Prediction:
        """The answer about one file."""
        return self.many([path], text, task, alternatives)[0]

    def many(
        self, paths: Sequence[Path | str], text: str = "", task: str | None = None, alternatives: int = 3
    ) -> list[Prediction]:
        """The same question about several files, answered together; prediction ids are the paths.

        Raises:
            UserError: a file of another modality than the task's, or cannot be read.
        """
        asked = [self.question(modality_of(path), str(path), text, task) for path in paths]
        return self.answer(asked, alternatives)

    def question(
        self, modality: Modality, key: str, text: str = "", task: str | None = None, name: str = ""
    ) -> Query:
        """What is asked about the medium of this key, which need not be there yet.

        Args:
            modality: its kind.
            key: its place in the store.
            text: a question, phrase or statement.
            task: None: the usual one for such a medium, with or without text.
            name: what messages and the prediction call it; empty: its key.

        Raises:
            UserError: an unknown task, one of another modality, or a text that is missing, too long, not
                taken or no Unicode.
        """
        for typed in (text, name or key):
            if not is_unicode(typed):
                raise UserError(
                    f"{typed!a}: holds a byte that is not UTF-8: rename the file, or type the text again"
                )
        chosen = self._task(task or self.usual_task(modality, bool(text)))
        if modality != chosen.config.modality:
            raise UserError(
                f"{name or key}: is {modality}, but task '{chosen.name}' needs {chosen.config.modality}"
            )
        if "{text}" in chosen.config.prompt and not text.strip():
            raise UserError(f"task '{chosen.name}' needs a text: the question, the phrase or the statement")
        if "{text}" not in chosen.config.prompt and text:
            raise UserError(f"task '{chosen.name}' takes no text: leave it out, or choose another task")
        record = Record.about(modality, key, name or key, text=text)
        example, sizes = chosen.inference(record), self.model.config
        encode = self.processor.tokenizer.encode_text
        length = len(encode(example.prompt)) + 2  # begin and end
        written = len(encode(example.decoder_prompt)) + 1 + chosen.config.decode.max_tokens
        if length > sizes.max_source_positions or written > sizes.max_target_positions:
            raise UserError(
                f"task '{chosen.name}': a text of {length} tokens is too long for the model: shorten it"
            )
        return Query(chosen.name, record, length)

    def answer(self, questions: Sequence[Query], alternatives: int = 3) -> list[Prediction]:
        """The answers in order; those to one task are searched for together, each medium encoded once.

        Raises:
            UserError: a medium that cannot be read.
        """
        answers: dict[int, Prediction] = {}
        for name in dict.fromkeys(question.task for question in questions):
            places = [place for place, question in enumerate(questions) if question.task == name]
            made = predict(
                self.model,
                self.processor,
                self.rows([questions[place] for place in places]),
                batch_size=len(places),
                alternatives=alternatives,
            )
            answers |= zip(places, made, strict=True)
        return [answers[place] for place in range(len(questions))]

    def rows(self, questions: Sequence[Query]) -> Rows:
        """Questions of one task as rows."""
        return Rows(self._task(questions[0].task), [question.record for question in questions], self.store)

    def note_guesses(self, folder: Path, modalities: Iterable[Modality], tasks: Iterable[str] = ()) -> None:
        """Say on the error stream what of this the model was not trained for, as far as its folder tells.

        Raises:
            UserError: the tasks of the folder are damaged.
        """
        learned = self.model.learned
        for modality in sorted(set(modalities).difference(learned)) if learned is not None else ():
            print(f"note: {folder} was never trained on {modality}: it guesses", file=sys.stderr)
        for task in foreign(set(tasks) & self.configs.keys(), [carried(folder)]):
            print(f"note: {task}: not among the tasks of {folder}: it guesses", file=sys.stderr)

    def draw(self, path: Path | str, prediction: Prediction, out: Path | str) -> None:
        """Write the image with the predicted box as a PNG.

        Raises:
            UserError: the prediction is no box, or the image cannot be read.
        """
        from PIL import Image, ImageDraw

        if not isinstance(prediction.value, tuple):
            raise UserError(f"{path}: the prediction is not a box: use task 'grounding'")
        pixels = Image.fromarray(self.store.image(str(path)))
        width = max(round(min(pixels.size) / 100), 1)
        ImageDraw.Draw(pixels).rectangle(prediction.value, outline=(255, 40, 40), width=width)
        with files.atomic(out) as part:
            pixels.save(part, "PNG")

    def usual_task(self, modality: Modality, question: bool) -> str:
        """What is asked where no task is named; if a model does not know it, one of the same modality."""
        usual = DEFAULTS[modality][question]
        fitting = (
            name
            for name, task in self.configs.items()
            if task.modality == modality and ("{text}" in task.prompt) == question
        )
        return usual if usual in self.configs else next(fitting, usual)

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            if name not in self.configs:
                raise UserError(f"unknown task '{name}': {nearest(name, self.configs)}")
            task_config, answers = self.configs[name], LABELS.get(name) or self.answers
            if task_config.constraint == "answers" and not answers:
                free = dataclasses.replace(task_config.decode, search="beam")
                task_config = dataclasses.replace(task_config, constraint="none", decode=free)
            known = [
                Record(str(number), answers=(Answer(text),)) for number, text in enumerate(answers or ())
            ]
            self._tasks[name] = build(name, task_config, self.processor, self.store, known)
        return self._tasks[name]


def modality_of(path: Path | str) -> Modality:
    """Modality of a file, by its suffix.

    Raises:
        UserError: an unknown suffix.
    """
    return media.modality_of(Path(path).suffix, str(path))


def media_files(folder: Path | str) -> list[Path]:
    """Media below a folder, sorted. Hidden files and folders are passed over, as in an import.

    Raises:
        UserError: none there.
    """
    paths = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in media.SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise UserError(f"{folder}: no images, videos or sounds there")
    return paths


def read_answers(path: Path | str) -> list[str]:
    """Different answers of a text file, one a line.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the answers: {error}") from error
    answers = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not answers:
        raise UserError(f"{path}: no answers: write one a line")
    return answers


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as JSON has it."""
    row: dict[str, Any] = {"file": prediction.id, "answer": prediction.text, "score": prediction.score}
    if isinstance(prediction.value, tuple):
        row["box"] = list(prediction.value)
    row["alternatives"] = [list(entry) for entry in prediction.alternatives]
    return row


def as_json(prediction: Prediction) -> str:
    """A prediction as one line of JSON."""
    return json.dumps(as_row(prediction), ensure_ascii=False)
