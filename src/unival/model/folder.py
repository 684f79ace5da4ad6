"""A model folder, read and written. What is damaged or does not fit is told in one line that names it.

`from_pretrained` of transformers would fill a missing tensor with random numbers, take NaN, and keep a model
that was saved in 16 bits in 16 bits, where an update of a usual size rounds to nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from unival import files
from unival.errors import UserError
from unival.model.configuration import UnivalConfig
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.weights import TensorSpec, load, read_specs, system_errors

logging.disable_progress_bar()  # of transformers: a bar per small file says nothing
AGAIN = "make or copy it again"


def read(
    folder: Path | str, processor: Mapping[str, Any] | None = None
) -> tuple[UnivalForConditionalGeneration, UnivalProcessor]:
    """Model, in float32 on the CPU, and processor of a folder; `processor` changes settings.

    Raises:
        UserError: as `read_model`; no processor, or one with more tokens than the model.
    """
    model = read_model(folder)
    own = UnivalProcessor.from_pretrained(folder, **(processor or {}))
    if len(own.tokenizer) > model.config.vocab_size:
        raise UserError(
            f"{folder}: {len(own.tokenizer)} tokens in tokenizer.json, {model.config.vocab_size} in the "
            "model: it is the tokenizer of another one"
        )
    return model, own


def read_model(folder: Path | str) -> UnivalForConditionalGeneration:
    """The model of a folder, in float32 on the CPU, whatever type it was saved in.

    Raises:
        UserError: no model there, a damaged file, tensors that are missing, of another shape, unknown, or
            hold NaN or infinity.
    """
    folder = Path(folder)
    config = read_config(folder)
    weight_files, specs = read_specs(folder)
    places = _places(folder, config, specs)
    stored: dict[str, Tensor] = {}
    for file in weight_files:
        stored |= load(file)
    state: dict[str, Tensor] = {}
    for name, value in stored.items():
        tensor = value.float() if value.is_floating_point() else value  # float8 has no `isfinite`
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{folder}: '{name}' holds NaN or infinity: go back to an earlier checkpoint")
        if not torch.equal(state.setdefault(places[name], tensor), tensor):
            raise UserError(f"{folder}: '{name}' is not as '{places[name]}', its other name: {AGAIN}")
    model: UnivalForConditionalGeneration = UnivalForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32
    )
    model.learned = learned(folder)
    return model


def learned(folder: Path, depth: int = 8) -> frozenset[str] | None:
    """Media that the model of a folder was trained on, as its training says, or those of a merge's models.

    None: not known, as of converted weights, and of merges whose models are not where they lay. `depth`: of
    merges of merges.
    """
    try:
        if (folder / "training.json").is_file():
            return frozenset(files.read_json(folder / "training.json")["media"])
        places = files.read_json(folder / "merge.json")["paths"]["inputs"].values()
    except (UserError, LookupError, TypeError, AttributeError):
        return None
    media_of = [learned(folder / place, depth - 1) if depth else None for place in places]
    known = [media for media in media_of if media is not None]
    return frozenset().union(*known) if len(known) == len(media_of) else None


def read_config(folder: Path) -> UnivalConfig:
    """The configuration of a model folder.

    Raises:
        UserError: none there, of another kind of model, or with a value that does not fit.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no model there: give a folder that holds config.json")
    content = files.read_json(path)
    if (kind := content.get("model_type")) != UnivalConfig.model_type:
        raise UserError(f"{path}: not a model of this kind: its model_type is {kind!r}")
    known = {name: content[name] for name in UnivalConfig.__annotations__ if name in content}
    vocab_size = known.pop("vocab_size", UnivalConfig.vocab_size)
    return UnivalConfig.from_settings(known, vocab_size, path)


def _places(folder: Path, config: UnivalConfig, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Name of a tensor -> the first of its names in the model, where tied ones have several.

    Raises:
        UserError: tensors are missing, unknown or of another shape.
    """
    for stack in ("encoder", "decoder"):  # before building what a damaged number asks for
        stored = {name.split(".")[2] for name in specs if name.startswith(f"{stack}.layers.")}
        if len(stored) != (wanted := getattr(config, f"{stack}_layers")):
            raise UserError(
                f"{folder}: {len(stored)} layers of the {stack}, {wanted} by config.json: {AGAIN}"
            )
    try:
        with torch.device("meta"):
            expected = UnivalForConditionalGeneration(config).state_dict(keep_vars=True)
    except (UserError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{folder / 'config.json'}: no model can be built of it: {error}") from error
    firsts: dict[int, str] = {}
    places: dict[str, str] = {}
    for name, tensor in expected.items():
        places[name] = firsts.setdefault(id(tensor), name)
        if name in specs and specs[name].shape != tuple(tensor.shape):
            shapes = f"{list(specs[name].shape)}, by config.json {list(tensor.shape)}"
            raise UserError(f"{folder}: '{name}' is {shapes}: {AGAIN}")
        if name in specs and specs[name].dtype.is_floating_point != tensor.is_floating_point():
            types = f"{str(specs[name].dtype)[6:]}, and a model's is {str(tensor.dtype)[6:]}"
            raise UserError(f"{folder}: '{name}' is {types}: save it unquantised")
    filled = {places[name] for name in specs if name in places}
    missing = [name for name in firsts.values() if name not in filled]
    for names, what in ((missing, "lacks"), (sorted(set(specs) - set(places)), "has no place for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{folder}: the model {what} '{names[0]}'{more}: {AGAIN}")
    return places


def write_model(model: UnivalForConditionalGeneration, folder: Path) -> None:
    """Write configuration and weights, the latter readable by others, too, as transformers' are not.

    Raises:
        OSError: no space.
    """
    with system_errors():
        model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        files.share(file)
