"""Models with their processors: from a folder, or with new weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unival.engine.machine.runtime import load as load_runtime
from unival.errors import UserError
from unival.model.configuration import UnivalConfig
from unival.model.folder import read
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.vocab import UnivalTokenizer

Loaded = tuple[UnivalForConditionalGeneration, UnivalProcessor]


def load_model(folder: str | Path, processor: Mapping[str, Any] | None = None) -> Loaded:
    """Model, on the device of the runtime, and processor of a model folder; `processor` changes settings.

    Raises:
        UserError: the folder is missing, incomplete or damaged.
    """
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder}: no model there: run the stage that makes it, or `dvc repro`")
    model, loaded = read(folder, processor)
    model.to(load_runtime().apply())  # type: ignore[arg-type]
    return model, loaded


def new_model(model: Mapping[str, Any], processor: Mapping[str, Any], tokenizer: Path, seed: int) -> Loaded:
    """Model with new weights, and its processor, for the vocabulary in a folder.

    Raises:
        UserError: an unknown field or a value that does not fit.
    """
    vocabulary = UnivalTokenizer.from_folder(tokenizer)
    settings = UnivalConfig.from_settings(model, len(vocabulary), "model")
    torch.manual_seed(seed)
    return UnivalForConditionalGeneration(settings), UnivalProcessor(vocabulary, **processor)
