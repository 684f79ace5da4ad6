"""The recorded reference sets of UNIVAL_PARITY: found, read and turned into our arguments.

Nothing about sizes is written here: they come from the sets' manifests.
"""

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from unival.model import UnivalConfig, UnivalForConditionalGeneration, official_names
from unival.model.cnn14 import Cnn14Spec
from unival.model.convert import official

ROOT = os.environ.get("UNIVAL_PARITY")
BACKBONE = re.compile(r"encoder\.embed_(images|videos|audios)\.")
FRONT_END = {"sampling_rate": "sample_rate", "n_fft": "window_size", "fmin": "fmin", "fmax": "fmax"}
MODALITIES = {"patch_images": "pixel", "patch_videos": "video", "patch_audios": "audio"}


def sets(file: str) -> list[Path]:
    """Folders of the recorded sets that hold `file`."""
    return sorted(path.parent for path in Path(ROOT).glob(f"*/{file}")) if ROOT else []


def cases(file: str, read: Any) -> list[Any]:
    """A pytest parameter per case that `read` yields as (id, value) from each set's `file`; else a skip."""
    found = [
        pytest.param((folder, value), id=f"{folder.name}-{name}")
        for folder in sets(file)
        for name, value in read(json.loads((folder / file).read_text()))
    ]
    skip = pytest.param(
        None, id="absent", marks=pytest.mark.skip("UNIVAL_PARITY names no folder with " + file)
    )
    return found or [skip]


@cache
def weights_rule() -> Any:
    """The recipe of the recorded weights, read from the folder."""
    spec = importlib.util.spec_from_file_location("weights_rule", Path(ROOT or "") / "weights_rule.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Shapes(dict[str, Any]):
    """Names and shapes of tensors whose values are not at hand."""

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name])

    def get(self, name: str, default: Any = None) -> None:
        return None


@dataclass(frozen=True)
class RecordedSet:
    """A folder with the manifest of the original's state dict."""

    folder: Path

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        manifest = json.loads((self.folder / "state_dict_manifest.json").read_text())
        return {key: entry["shape"] for key, entry in manifest.items()}

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @cached_property
    def described(self) -> dict[str, Any]:
        """What the set says of itself."""
        return self.json("config.json" if (self.folder / "config.json").exists() else "base.json")

    @property
    def seed(self) -> int:
        return self.described["seed"]

    def tensors(self, file: str, prefix: str) -> dict[str, Tensor]:
        """Tensors of a file whose names start with `prefix`, under the rest of their names."""
        with safe_open(self.folder / file, "pt") as handle:
            names = [name for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): handle.get_tensor(name) for name in names}

    def config(self, identity: bool) -> UnivalConfig:
        """The configuration, read as from a checkpoint; with `identity` the encoders take feature maps."""
        shapes = Shapes(self.shapes)
        if identity:
            shapes = Shapes({key: shape for key, shape in shapes.items() if not BACKBONE.match(key)})
        described = self.described
        front_end = described.get("audio_cfg", {})
        settings = front_end | described.get("hyperparameters", described)
        config = official.read_config(shapes, settings)
        config.dropout = config.encoder_drop_path = config.decoder_drop_path = 0.0
        if config.audio_encoder and not identity:
            config.audio_encoder["mel_sampling_rate"] = None
            for ours, theirs in FRONT_END.items():
                if theirs in front_end:
                    config.audio_encoder[ours] = type(getattr(Cnn14Spec, ours))(front_end[theirs])
        return config

    def weights(self, model: UnivalForConditionalGeneration) -> None:
        """Load the recorded weights, by the rule, into a model."""
        rule, wanted = weights_rule(), model.state_dict()
        loaded = {}
        for key, shape in self.shapes.items():
            name = official_names.ours(key)
            if name in wanted and name not in loaded and not rule.skipped(key):
                loaded[name] = torch.from_numpy(rule.value(key, shape, self.seed))
        missing, unexpected = model.load_state_dict(loaded, strict=False)
        model.tie_weights()
        tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
        left = {key for key in missing if not key.endswith("num_batches_tracked")} - tied
        assert not left and not unexpected, (left, unexpected)


@cache
def core_model(folder: Path) -> UnivalForConditionalGeneration:
    """The set's model with identity encoders, in evaluation mode."""
    recorded = RecordedSet(folder)
    model = UnivalForConditionalGeneration(recorded.config(identity=True)).eval()
    recorded.weights(model)
    return model


def inputs(recorded: dict[str, Tensor], pad: int = 1) -> dict[str, Any]:
    """A case's `in.*` tensors as arguments of our encoder, and `code_mask`."""
    tokens = recorded["src_tokens"]
    arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": tokens != pad}
    shown = [name for name in MODALITIES if name in recorded]
    if len(shown) > 1:  # beside videos and audio the original ships a dummy image
        shown.remove("patch_images")
    for name in shown:
        kind = MODALITIES[name]
        present = recorded["patch_masks"]
        arguments[f"{kind}_values"] = recorded[name]
        arguments[f"{kind}_index"] = torch.where(present, torch.arange(len(present)), -1)[:, None]
    if "code_masks" in recorded:
        arguments["code_mask"] = recorded["code_masks"]
    return arguments


def decoder_inputs(recorded: dict[str, Tensor], pad: int = 1) -> dict[str, Tensor]:
    """A case's decoder side as our arguments."""
    tokens = recorded["prev_output_tokens"]
    return {"decoder_input_ids": tokens, "decoder_attention_mask": tokens != pad}


def valid_rows(recorded: dict[str, Tensor], ours: Tensor) -> tuple[Tensor, Tensor]:
    """Recorded and our encoder states (time first and batch first) at the positions without padding."""
    valid = ~recorded["encoder_padding_mask"]
    return recorded["encoder_out"].transpose(0, 1)[valid], ours[valid]


def official_parameters(model: UnivalForConditionalGeneration) -> dict[str, torch.nn.Parameter]:
    """The model's parameters by official name."""
    return {official_names.official(name): parameter for name, parameter in model.named_parameters()}
