"""A model folder as a model of lmms-eval (0.7), which asks its own tasks and scores the answers itself.

Its registry finds `MANIFEST` by the entry point `lmms_eval.models` of this package (docs/judges.md).
"""

import wave
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from unival import files
from unival.engine.batches.protocols import MediaReader
from unival.engine.inference.predictor import Predictor, Query, modality_of, read_answers
from unival.errors import UserError
from unival.record import Modality
from unival.serve.uploads import Uploads

MANIFEST = ModelManifest("unival", simple_class_path=f"{__name__}.Unival")


class Unival(lmms):  # type: ignore[misc]
    """What lmms-eval calls.

    Args:
        pretrained: the model folder.
        task: asks all questions; empty: the usual one of the medium, with or without a text.
        answers: file of the answers that are allowed, one a line; empty: any text.
        batch_size: questions answered together.
        device: where the model runs.
    """

    def __init__(
        self,
        pretrained: str,
        task: str = "",
        answers: str = "",
        batch_size: int | str = 32,
        device: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        allowed = read_answers(answers) if answers else None
        self.predictor = Predictor.load(pretrained, device=device or "cpu", answers=allowed)
        self.uploads = Uploads(self.predictor.processor)
        self.predictor.store = cast(MediaReader, self.uploads)
        self.task, self.batch_size = task or None, int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers, in order.

        Raises:
            UserError: a question about no medium, about several, or about one that cannot be read.
        """
        answers: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            with ExitStack() as held:
                asked = [self._query(one.args, held) for one in requests[start : start + self.batch_size]]
                answers += [made.text.strip() for made in self.predictor.answer(asked, alternatives=0)]
        return answers

    def _query(self, arguments: tuple[Any, ...], held: ExitStack) -> Query:
        text, _, media_of, row, task, split = arguments
        name, media = f"{task} {split} {row}", media_of(self.task_dict[task][split][row])
        if len(media) != 1:
            raise UserError(f"{name}: {len(media)} media where one is expected")
        modality, data = read(media[0])
        upload = self.uploads.read(modality, data, name)
        held.enter_context(self.uploads.hold(upload))
        return self.predictor.question(modality, upload.key, text.strip(), self.task, name)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """No task asks for it here."""
        raise NotImplementedError("unival answers generate_until alone")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """The model holds no conversation."""
        raise NotImplementedError("unival answers generate_until alone")


def read(medium: Any) -> tuple[Modality, bytes]:
    """Kind and bytes of a medium as tasks of lmms-eval hand them out.

    Args:
        medium: a path, a Pillow image, or a sound as `datasets` decodes it, {"array", "sampling_rate"}.

    Raises:
        UserError: it is none of these, or its file cannot be read.
    """
    stream = BytesIO()
    if isinstance(medium, str | Path):
        return modality_of(medium), files.read_bytes(Path(medium))
    if isinstance(medium, Image.Image):
        medium.save(stream, "PNG")
        return "image", stream.getvalue()
    if not isinstance(medium, dict) or not {"array", "sampling_rate"} <= medium.keys():
        raise UserError(f"neither a path, an image nor a sound: {type(medium).__name__}")
    samples = np.asarray(medium["array"], np.float64)  # the processor rounds to 16 bits, too
    with wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(int(medium["sampling_rate"]))
        sound.writeframes((samples * 2**15).round().clip(-(2**15), 2**15 - 1).astype("<i2").tobytes())
    return "audio", stream.getvalue()
