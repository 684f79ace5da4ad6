"""The recorded reference sets of UNIVAL_PARITY: found, read and turned into our arguments.

Nothing about sizes is written here: they come from the sets' manifests.
"""

import importlib.util
import json
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from unival.model import UnivalConfig, UnivalForConditionalGeneration, official_names

ROOT = os.environ.get("UNIVAL_PARITY")
TIMM_DEPTHS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
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
    def seed(self) -> int:
        return self.json("config.json" if (self.folder / "config.json").exists() else "base.json")["seed"]

    def tensors(self, file: str, prefix: str) -> dict[str, Tensor]:
        """Tensors of a file whose names start with `prefix`, under the rest of their names."""
        with safe_open(self.folder / file, "pt") as handle:
            names = [name for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): handle.get_tensor(name) for name in names}

    def _layers(self, stack: str) -> int:
        return sum(key.startswith(f"{stack}.layers.") and key.endswith(".fc1.bias") for key in self.shapes)

    def depths(self, module: str) -> tuple[int, ...]:
        stages = []
        for stage in range(1, 5):
            blocks = {key.split(".")[3] for key in self.shapes if key.startswith(f"{module}.layer{stage}.")}
            if blocks:
                stages.append(len(blocks))
        return tuple(stages)

    def backbones(self) -> dict[str, dict[str, Any]]:
        """Specifications of the real encoders."""
        specs: dict[str, dict[str, Any]] = {}
        if "encoder.embed_images.conv1.weight" in self.shapes:
            specs["image"] = {"type": "timm", "name": TIMM_DEPTHS[self.depths("encoder.embed_images")]}
        grouped = self.shapes.get("encoder.embed_videos.layer1.0.conv2.weight")
        if grouped:
            depths = list(self.depths("encoder.embed_videos"))
            specs["video"] = {"type": "resnext3d", "depths": depths, "width": grouped[0]}
            specs["video"]["cardinality"] = grouped[0] // grouped[1]
        if "encoder.embed_audios.bn0.weight" in self.shapes:
            blocks = sorted(
                k for k in self.shapes if k.endswith("conv2.weight") and "embed_audios.conv_block" in k
            )
            described = self.json("config.json" if (self.folder / "config.json").exists() else "base.json")
            hop = described["hop_size"] if "hop_size" in described else described["audio_cfg"]["hop_size"]
            channels = [self.shapes[key][0] for key in blocks]
            mels = self.shapes["encoder.embed_audios.bn0.weight"][0]
            specs["audio"] = {"type": "cnn14", "channels": channels, "hop": hop, "mels": mels}
        return specs

    def config(self, identity: bool) -> UnivalConfig:
        """The configuration; with `identity` the encoders take recorded feature maps."""
        shapes = self.shapes
        vocabulary, width = shapes["encoder.embed_tokens.weight"]
        specs = self.backbones()
        if identity:
            specs = {
                name: {"type": "identity", "out_channels": shapes[f"encoder.{name}_proj.weight"][1]}
                for name in specs
            }
        return UnivalConfig(
            vocab_size=vocabulary,
            d_model=width,
            encoder_layers=self._layers("encoder"),
            decoder_layers=self._layers("decoder"),
            encoder_attention_heads=shapes["encoder.layers.0.self_attn.c_attn"][0],
            decoder_attention_heads=shapes["decoder.layers.0.self_attn.c_attn"][0],
            encoder_ffn_dim=shapes["encoder.layers.0.fc1.bias"][0],
            decoder_ffn_dim=shapes["decoder.layers.0.fc1.bias"][0],
            dropout=0.0,
            encoder_drop_path=0.0,
            decoder_drop_path=0.0,
            max_source_positions=shapes["encoder.embed_positions.weight"][0] - 2,
            max_target_positions=shapes["decoder.embed_positions.weight"][0] - 2,
            token_bucket_size=(shapes["encoder.token_rel_pos_table_list.0.weight"][0] + 1) // 2,
            token_bucket_max_distance=shapes["encoder.token_rp_bucket"][0],
            image_bucket_size=round((shapes["encoder.embed_image_positions.weight"][0] - 1) ** 0.5),
            code_image_size=8 * round((shapes["decoder.image_position_idx"][0] - 770) ** 0.5),
            **{f"{name}_encoder": spec for name, spec in specs.items()},
        )

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
