"""What a request asks, from JSON or from a form (multipart): the same fields in both."""

import base64
import binascii
from collections.abc import Mapping
from io import BytesIO
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from unival import limits
from unival.engine.inference.predict import Prediction
from unival.engine.inference.predictor import Query, as_row, modality_of
from unival.errors import UserError
from unival.record import MODALITIES, Modality

Text = Annotated[str, Field(max_length=limits.QUESTION_CHARS)]
Name = Annotated[str, Field(max_length=1000)]


class Asked(BaseModel):
    """A medium and what is asked about it."""

    model_config = ConfigDict(extra="forbid")

    file: bytes = Field(description="the medium; in JSON base64, or a data: URL", repr=False)
    name: Name = Field("", description="its file name, by whose suffix its kind is known")
    type: Name = Field("", description="its media type, such as audio/webm; comes before the suffix")
    text: Annotated[list[Text], Field(max_length=limits.QUESTIONS)] = Field(
        [""], description="question, phrase or statement, or several about the one medium"
    )
    task: Annotated[list[Name], Field(max_length=limits.QUESTIONS)] = Field(
        [""], description="task of all questions, or of each; empty: the usual one"
    )
    model: Name = Field("", description="a model of the server; empty: its first")
    second: Name = Field("", description="another, towards which the weights move")
    t: float = Field(0.0, ge=0, le=1, description="how far: 0 is `model`, 1 is `second`")
    alternatives: int = Field(3, ge=0, le=9, description="next best answers")
    attention: bool = Field(False, description="whether to say what the model looks at")

    @field_validator("text", "task", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def modality(self) -> Modality:
        """The kind of the medium, by type or name.

        Raises:
            UserError: neither says it.
        """
        kind = "video" if self.type == "image/gif" else self.type.partition("/")[0]
        return kind if kind in MODALITIES else modality_of(self.name or "the medium")  # type: ignore[return-value]

    @property
    def questions(self) -> list[tuple[str, str]]:
        """(text, task) of each.

        Raises:
            UserError: several texts and another number of tasks.
        """
        count = max(len(self.text), len(self.task))
        if min(len(self.text), len(self.task)) not in (1, count):
            raise UserError(f"{len(self.text)} texts and {len(self.task)} tasks: give one task, or one each")
        return list(
            zip(*(own * count if len(own) == 1 else own for own in (self.text, self.task)), strict=True)
        )


def of_json(fields: Any) -> Asked:
    """What a JSON object asks.

    Raises:
        UserError: an unknown or missing field, or a value that does not fit.
    """
    if isinstance(fields, Mapping) and isinstance(fields.get("file"), str):
        head, comma, data = fields["file"].rpartition(",")
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError("file: not base64, nor a data: URL of it") from error
        found = head.removeprefix("data:").partition(";")[0] if comma else ""
        fields = {"type": found, **fields, "file": content}
    return _checked(fields)


def of_form(content_type: str, body: bytes) -> Asked:
    """What a multipart form asks.

    Raises:
        UserError: it cannot be read, or as `of_json`.
    """
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    parser = MultiPartParser(
        stream_factory=_in_memory,
        max_form_memory_size=limits.QUESTIONS * limits.QUESTION_CHARS,
        max_form_parts=4 * limits.QUESTIONS,
    )
    try:
        form, uploads = parser.parse(BytesIO(body), boundary.encode("latin-1"), len(body))
    except (ValueError, RequestEntityTooLarge) as error:
        raise UserError(f"the form cannot be read: {error}") from error
    fields: dict[str, Any] = {
        name: values if name in ("text", "task") else values[0] for name, values in form.lists()
    }
    if "file" in uploads:
        upload = uploads["file"]
        name = PurePosixPath((upload.filename or "").replace("\\", "/")).name
        fields = {"name": name, "type": upload.mimetype, **fields, "file": upload.stream.read()}
    elif "file" in fields:
        raise UserError("file: give it a file name (curl: -F file=@photo.jpg)")
    return _checked(fields)


def answer_row(query: Query, prediction: Prediction) -> dict[str, Any]:
    """An answer as JSON has it, with what was asked."""
    return as_row(prediction) | {"task": query.task, "text": query.record.text}


def _in_memory(*_: Any, **__: Any) -> BytesIO:
    """Where werkzeug puts a file, in place of a temporary one."""
    return BytesIO()


def _checked(fields: Any) -> Asked:
    try:
        asked = Asked.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = str(first["loc"][0]) if first["loc"] else "the request"
        raise UserError(f"{where}: {first['msg'].lower()}") from error
    if not asked.file:
        raise UserError("file: is empty")
    return asked
