"""One row of data, whatever its task: references to media, and the text that goes with them."""

from dataclasses import dataclass, field
from typing import Any, Literal

Modality = Literal["image", "video", "audio"]
MODALITIES: tuple[Modality, ...] = ("image", "video", "audio")
TRAINING_SPLITS = ("pretrain", "train")
"""What models are trained on; everything else of a benchmark is validated, evaluated or compared on."""
LABELS = {"entailment": ("yes", "no", "maybe"), "matching": ("yes", "no"), "video_matching": ("yes", "no")}
"""The only answers of the paper's tasks that have few."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Names of handwritten, spoken or dialed digits, of counts too: one set of words for all media."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reference answer with its soft score (VQA: how many annotators gave it, at most 1)."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """A row. Fields that a task does not use stay empty."""

    id: str
    """Unique within its split and task."""
    image: str | None = None
    """Key of an image in the split's media store; likewise `video` and `audio`."""
    video: str | None = None
    audio: str | None = None
    text: str = ""
    """Input text: the question, the referring expression, the hypothesis, the candidate caption."""
    references: tuple[str, ...] = ()
    """Reference captions."""
    answers: tuple[Answer, ...] = ()
    """Reference answers."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in pixels of the stored image: top-left and bottom-right corner."""
    objects: tuple[str, ...] = ()
    """Names of what is in the medium; matching negatives replace one of them."""
    form: str = ""
    """Which question form or template wrote the row: blind baselines are per form."""
    facts: str = ""
    """JSON of what is true of the medium (embedded benchmark only); the caption checker reads it."""
    extra: dict[str, str] = field(default_factory=dict)
    """Whatever else a source gives (original ids, annotator counts): kept, never trained on."""

    @property
    def labelled(self) -> bool:
        """Whether the row says what a prediction is compared with; rows of some test splits do not."""
        return bool(self.references or self.answers or self.box)

    @classmethod
    def about(cls, modality: Modality, key: str, row_id: str, **fields: Any) -> "Record":
        """A row about one medium."""
        fields[modality] = key
        return cls(row_id, **fields)

    def media(self) -> list[tuple[Modality, str]]:
        """(modality, key) of every medium of the row, in the model's order."""
        return [(modality, key) for modality in MODALITIES if (key := getattr(self, modality)) is not None]


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: surrogates stand for bytes or halves of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
