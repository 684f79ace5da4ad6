"""Fresh models that start from public weights: BART for the text part, ImageNet / Kinetics / AudioSet
encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unival.errors import UserError
from unival.model import official_names
from unival.model.convert.reader import Checkpoint
from unival.model.modeling import UnivalForConditionalGeneration
from unival.weights import load

HEADS = ("fc.", "fc1.", "fc_audioset.", "spectrogram_extractor.", "logmel_extractor.", "avgpool.")


def read_weights(path: Path | str) -> Mapping[str, Tensor]:
    """Names and tensors of a `.pt` / `.pth` file (bare, or under `model` or `state_dict`) or a safetensors
    file.

    Raises:
        UserError: unreadable or refused content.
    """
    if Path(path).suffix == ".safetensors":
        return load(path)
    checkpoint = Checkpoint(path)
    content: Any = checkpoint.tree
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return checkpoint.tensors(content[key], key)
    return checkpoint.tensors(content, "weights")


def start_from_bart(model: UnivalForConditionalGeneration, path: Path | str, seed: int) -> list[str]:
    """Copy BART's tensors (fairseq's or transformers' names) into a fresh model; returns our names of them.

    As the original does it (docs/reference.md 1.8): every tensor whose name and shape exist in the model is
    taken. Of the token embedding all of BART's rows are copied, place by place, so `<mask>` and the first
    codes inherit its dummy rows; the other rows are drawn from N(0, d_model^-0.5).

    Raises:
        UserError: not a BART of this width.
    """
    taken = []
    state = model.state_dict()
    for name, tensor in _fairseq_names(read_weights(path)).items():
        if name == "encoder.embed_tokens.weight":
            _copy_rows(state["shared.weight"], tensor, seed, path)
            taken.append("shared.weight")
            continue
        try:
            ours = official_names.ours(name)
        except KeyError:  # heads and biases of BART that the model does not have
            continue
        if (
            ours is not None
            and ours != "shared.weight"
            and ours in state
            and state[ours].shape == tensor.shape
        ):
            state[ours].copy_(tensor)
            taken.append(ours)
    if "shared.weight" not in taken or len(taken) < 10:
        raise UserError(f"{path}: not a BART of width {model.config.d_model}: only {len(taken)} tensors fit")
    return taken


def _fairseq_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {name.removeprefix("model."): weights[name] for name in weights}
    if "shared.weight" in renamed:
        renamed["encoder.embed_tokens.weight"] = renamed.pop("shared.weight")
    return renamed


def _copy_rows(rows_VD: Tensor, bart_VD: Tensor, seed: int, path: Path | str) -> None:
    if bart_VD.ndim != 2 or bart_VD.shape[1] != rows_VD.shape[1]:
        raise UserError(f"{path}: its embedding is {list(bart_VD.shape)}, the model's {list(rows_VD.shape)}")
    count = min(len(rows_VD), len(bart_VD))
    rest = torch.empty(len(rows_VD) - count, rows_VD.shape[1])
    rest.normal_(0.0, rows_VD.shape[1] ** -0.5, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rows_VD[:count] = bart_VD[:count].to(rows_VD)
        rows_VD[count:] = rest.to(rows_VD)


def start_encoder(model: UnivalForConditionalGeneration, modality: str, path: Path | str) -> int:
    """Fill the encoder of `modality` from public weights, without their heads; returns how many tensors.

    Raises:
        UserError: the model has no such encoder, or the weights are of another network.
    """
    if modality not in model.encoder.media:
        raise UserError(f"{path}: the model has no {modality} encoder to start from it")
    backbone: Any = model.encoder.media[modality].backbone
    weights = read_weights(path)
    state = {}
    for name in weights:
        short = name.removeprefix("module.")
        if not short.startswith(HEADS):
            state[short] = weights[name]
    other = f"{path}: not the network of the {modality} encoder"
    try:
        lacking, besides = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:  # its second line names the first tensor of another shape
        raise UserError(f"{other}: {str(error).splitlines()[1].strip()}") from error
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    for what, names in (("lacks", lacking), ("has", besides)):
        if names:
            raise UserError(f"{other}: it {what} '{names[0]}'")
    return len(state)
