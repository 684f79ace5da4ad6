"""Between the original's state dicts (UnIVAL, OFA) and our model folders.

All sizes are read off the shapes of the tensors. What shapes do not tell (hop of the audio front-end,
resolution) comes from the options, else from the configuration that the checkpoint carries, else from the
released scripts.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from unival.errors import UserError
from unival.model import official_names
from unival.model.cnn14 import Cnn14Spec, CnnEncoder, mel_filters
from unival.model.configuration import UnivalConfig
from unival.model.convert.reader import Checkpoint
from unival.model.convert.unpickler import Inert, plain
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.positions import code_ids, grid_bucket, token_bucket

TIMM: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
RELEASED_HOP = 200
RELEASED_MEL_RATE = 32000
_FILLER = 769  # entries of image_position_idx after the grid, all 1024


class Weights(Protocol):
    """Names and tensors, whose shapes can be seen without reading them."""

    def __getitem__(self, name: str) -> Tensor: ...
    def __contains__(self, name: object) -> bool: ...
    def __iter__(self) -> Any: ...
    def get(self, name: str) -> Tensor | None:
        """The tensor of this name, None where there is none."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        ...


@dataclass(frozen=True)
class OriginalCheckpoint:
    """A checkpoint of the original, opened."""

    weights: Weights
    spare: Weights
    """The raw weights, for what the chosen ones lack (an EMA may leave buffers out)."""
    settings: dict[str, Any]
    """Whatever configuration the file carries, flat."""
    configuration: Any
    """The same as it stands in the file, as plain data."""


def read_source(path: Path | str, which: Literal["model", "ema"] = "model") -> OriginalCheckpoint:
    """Open a checkpoint: a dictionary with `model`, or a bare state dict.

    Raises:
        UserError: unreadable or refused content, or no EMA weights where they are asked for.
    """
    checkpoint = Checkpoint(path)
    tree = checkpoint.tree
    whole = isinstance(tree, dict) and "model" in tree
    raw = checkpoint.tensors(tree["model"] if whole else tree, "model")
    weights = raw
    if which == "ema":
        extra = dict.get(tree, "extra_state") if whole else None
        ema = dict.get(extra, "ema") if isinstance(extra, dict) else None
        if ema is None:
            raise UserError(f"{path}: holds no EMA weights: take `--weights model`")
        weights = checkpoint.tensors(ema, "extra_state.ema")
    kept = {key: tree[key] for key in ("args", "cfg") if whole and tree.get(key) is not None}
    return OriginalCheckpoint(weights, raw, _flat(list(kept.values())), plain(kept))


def _flat(parts: list[Any]) -> dict[str, Any]:
    """All scalar settings of argparse and OmegaConf objects by their own name; the first one found counts."""
    settings: dict[str, Any] = {}
    stack = [plain(part) for part in parts if isinstance(part, dict | Inert)]
    while stack:
        for key, value in stack.pop(0).items():
            if isinstance(value, dict):
                stack.append(value)
            else:
                settings.setdefault(key, value)
    return settings


def read_config(
    weights: Weights,
    settings: Mapping[str, Any],
    audio_hop: int | None = None,
    mel_rate: int | None = None,
) -> UnivalConfig:
    """The configuration of a model with these tensors.

    Args:
        weights: under official names.
        settings: of the checkpoint: `attn_scale_factor`, `hop_size` are used where present.
        audio_hop: samples between audio frames; None: from the settings, else 200 as in all released scripts.
        mel_rate: rate in Hz that the mel filters assume; None: that of those in the file, else the released.

    Raises:
        UserError: tensors that every model has are missing, or sizes and settings are those of no model.
    """
    try:
        return _config(weights, settings, audio_hop, mel_rate)
    except KeyError as error:
        raise UserError(f"not a checkpoint of UnIVAL or OFA: it has no {error}") from error
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"sizes of tensors, or settings, are those of no model: {error}") from error


def _config(
    weights: Weights, settings: Mapping[str, Any], audio_hop: int | None, mel_rate: int | None
) -> UnivalConfig:
    vocab_size, width = weights.shape("encoder.embed_tokens.weight")
    layers = {side: _count(weights, rf"{side}\.layers\.(\d+)\.") for side in ("encoder", "decoder")}
    sides = {
        side: (
            weights.shape(f"{side}.layers.0.self_attn.c_attn")[0],
            weights.shape(f"{side}.layers.0.fc1.weight")[0],
            weights.shape(f"{side}.embed_positions.weight")[0] - 2,
        )
        for side in layers
    }
    token_rows = weights.shape("encoder.token_rel_pos_table_list.0.weight")[0]
    grid_rows = weights.shape("encoder.image_rel_pos_table_list.0.weight")[0]
    distance = _first(weights, "encoder.token_rp_bucket", 1024)
    codes = _first(weights, "decoder.image_position_idx", _FILLER + 1 + 32**2) - _FILLER - 1
    hop = audio_hop or whole(settings, "hop_size", RELEASED_HOP)
    return UnivalConfig(
        vocab_size=vocab_size,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=sides["encoder"][0],
        decoder_attention_heads=sides["decoder"][0],
        encoder_ffn_dim=sides["encoder"][1],
        decoder_ffn_dim=sides["decoder"][1],
        max_source_positions=sides["encoder"][2],
        max_target_positions=sides["decoder"][2],
        token_bucket_size=(token_rows + 1) // 2,
        token_bucket_max_distance=distance,
        image_bucket_size=(math.isqrt(grid_rows - 3) + 1) // 2,
        code_image_size=8 * math.isqrt(codes),
        attention_scale_factor=float(settings.get("attn_scale_factor") or 2.0),
        image_encoder=_image_spec(weights),
        video_encoder=_video_spec(weights),
        audio_encoder=_audio_spec(weights, hop, mel_rate),
    )


def whole(settings: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number of the settings, or the default where it is absent or 0.

    Raises:
        UserError: it is none.
    """
    try:
        return int(settings.get(name) or default)
    except (TypeError, ValueError) as error:
        raise UserError(f"setting {name}: expected a whole number, found {settings[name]!r}") from error


def _first(weights: Weights, name: str, default: int) -> int:
    return weights.shape(name)[0] if name in weights else default


def _count(weights: Weights, pattern: str) -> int:
    numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    return max(numbers) + 1 if numbers else 0


def _depths(weights: Weights, prefix: str) -> list[int]:
    stages = _count(weights, rf"{re.escape(prefix)}layer(\d+)\.")
    return [_count(weights, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in range(1, stages)]


def _ready_features(weights: Weights, modality: str) -> dict[str, Any] | None:
    """A model without its backbone keeps the projection: it takes feature maps instead of media."""
    name = f"encoder.{modality}_proj.weight"
    return {"type": "identity", "out_channels": weights.shape(name)[1]} if name in weights else None


def _image_spec(weights: Weights) -> dict[str, Any] | None:
    prefix = "encoder.embed_images."
    if prefix + "conv1.weight" not in weights:
        return _ready_features(weights, "image")
    depths = _depths(weights, prefix)
    if tuple(depths) in TIMM:
        return {"type": "timm", "name": TIMM[tuple(depths)]}
    return {"type": "resnet", "depths": depths, "width": weights.shape(prefix + "conv1.weight")[0]}


def _video_spec(weights: Weights) -> dict[str, Any] | None:
    prefix = "encoder.embed_videos."
    if prefix + "conv1.weight" not in weights:
        return _ready_features(weights, "video")
    width, per_group = weights.shape(prefix + "layer1.0.conv2.weight")[:2]
    return {
        "type": "resnext3d",
        "depths": _depths(weights, prefix),
        "width": width,
        "cardinality": width // per_group,
        "stem_width": weights.shape(prefix + "conv1.weight")[0],
    }


def _audio_spec(weights: Weights, hop: int, mel_rate: int | None) -> dict[str, Any] | None:
    prefix = "encoder.embed_audios."
    if prefix + "bn0.weight" not in weights:
        return _ready_features(weights, "audio")
    blocks = _count(weights, rf"{re.escape(prefix)}conv_block(\d+)\.") - 1
    channels = [weights.shape(f"{prefix}conv_block{block + 1}.conv1.weight")[0] for block in range(blocks)]
    kind = "cnn14" if blocks >= 6 else "cnn10"
    if prefix + "conv_block1.conv2.weight" not in weights:
        kind = "cnn6"
    filters = prefix + "logmel_extractor.melW"
    n_fft = 2 * (weights.shape(filters)[0] - 1) if filters in weights else 1024
    mels = weights.shape(prefix + "bn0.weight")[0]
    spec = {"type": kind, "channels": channels, "mels": mels, "n_fft": n_fft, "hop": hop}
    if mel_rate is None and not _has_filters_of(
        Cnn14Spec("cnn14", mels=mels, n_fft=n_fft), weights.get(filters)
    ):
        mel_rate = RELEASED_MEL_RATE
    return spec if mel_rate is None else spec | {"mel_sampling_rate": mel_rate}


def _has_filters_of(spec: Cnn14Spec, filters: Tensor | None) -> bool:
    """Whether these are the mel filters of the audio's own rate."""
    right = mel_filters(spec)
    if filters is None or filters.shape != right.shape:
        return False
    return torch.allclose(filters.float(), right, atol=1e-3 * float(right.max()))


def to_model(source: OriginalCheckpoint, config: UnivalConfig) -> UnivalForConditionalGeneration:
    """Our model with the weights of `source`, in float32.

    Raises:
        UserError: unknown, missing or misshapen tensors.
    """
    state: dict[str, Tensor] = {}
    # the encoder's embedding counts, so its copies come last
    for name in sorted(source.weights, key=official_names.TIED.__contains__):
        try:
            ours = official_names.ours(name)
        except KeyError as error:
            raise UserError(
                f"unknown tensor '{name}': not a checkpoint of UnIVAL or OFA, or a variant of it"
            ) from error
        if ours is not None and ours not in state:
            state[ours] = _float32(source.weights[name])
    with torch.device("meta"):
        model = UnivalForConditionalGeneration(config)
    wanted = model.state_dict()
    for ours in wanted:
        if ours not in state and ours not in model.all_tied_weights_keys:
            state[ours] = _spare(source.spare, ours)
    for ours, tensor in state.items():
        if ours not in wanted or tensor.shape != wanted[ours].shape:
            expected = list(wanted[ours].shape) if ours in wanted else "no such tensor"
            raise UserError(f"tensor '{ours}' has shape {list(tensor.shape)}, the model expects {expected}")
        state[ours] = tensor.to(wanted[ours].dtype)  # batch norm's counters may have been halved too
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _spare(spare: Weights, ours: str) -> Tensor:
    name = official_names.official(ours)
    if name in spare:
        return _float32(spare[name])
    if ours.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    raise UserError(f"the checkpoint has no tensor '{name}'")


def to_official(model: UnivalForConditionalGeneration) -> dict[str, Tensor]:
    """The state dict of the original for our model, with its tied copies, index buffers and unused head."""
    config = model.config
    tied = set(model.all_tied_weights_keys)
    state = {
        official_names.official(name): tensor
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    state |= dict.fromkeys(official_names.TIED, state["encoder.embed_tokens.weight"])
    distances = torch.arange(config.token_bucket_max_distance)
    places = torch.arange(config.image_bucket_size**2 + 1)
    tokens = token_bucket(
        distances[:, None] - distances, config.token_bucket_size, config.token_bucket_max_distance
    )
    grid = grid_bucket(places, places, config.image_bucket_size)
    for side in ("encoder", "decoder"):
        state[f"{side}.version"] = torch.tensor([3.0])
        state[f"{side}.token_rp_bucket"], state[f"{side}.image_rp_bucket"] = tokens, grid
    code_width = config.code_image_size // 8
    codes = code_ids(code_width**2 + 1, code_width, config.image_bucket_size)
    state["decoder.image_position_idx"] = torch.cat([codes, torch.full((_FILLER,), 1024)])
    if (config.image_encoder or {}).get("type") == "timm":
        image: Any = model.encoder.media["image"].backbone
        state["encoder.embed_images.fc.weight"] = torch.zeros(1000, image.out_channels)
        state["encoder.embed_images.fc.bias"] = torch.zeros(1000)
    if "audio" in model.encoder.media and isinstance(model.encoder.media["audio"].backbone, CnnEncoder):
        state |= _audio_buffers(model.encoder.media["audio"].backbone.spec)
    return state


def _audio_buffers(spec: Cnn14Spec) -> dict[str, Tensor]:
    """The STFT as two convolution kernels, and the mel filters."""
    prefix = "encoder.embed_audios."
    sample, bin_ = np.arange(spec.n_fft), np.arange(spec.n_fft // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / spec.n_fft)
    kernel = window * np.exp(-2j * np.pi * np.outer(bin_, sample) / spec.n_fft)
    parts = {"real": np.real(kernel), "imag": np.imag(kernel)}
    stft = {
        f"{prefix}spectrogram_extractor.stft.conv_{part}.weight": torch.from_numpy(
            values[:, None].astype(np.float32)
        )
        for part, values in parts.items()
    }
    return stft | {f"{prefix}logmel_extractor.melW": mel_filters(spec).clone()}
