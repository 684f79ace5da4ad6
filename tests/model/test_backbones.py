"""Image, video and audio encoders: recorded networks, tiny variants, frozen batch norms, strict keys."""

import re
from pathlib import Path
from typing import Any

import pytest
import reference
import torch

from unival.errors import UserError
from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.backbone import Backbone
from unival.model.cnn14 import Cnn14Spec, build_audio_encoder, log_mel, mel_filters, silence_stripes
from unival.model.resnet import build_image_encoder
from unival.model.resnext3d import build_video_encoder

DEPTHS = {"50": [3, 4, 6, 3], "101": [3, 4, 23, 3], "152": [3, 8, 36, 3]}
RECORDED = reference.cases(
    "backbones.json",
    lambda content: [(case["tag"], case | {"seed": content["seed"]}) for case in content["cases"]],
)
IMAGE = {"type": "resnet", "depths": [1, 1], "width": 8, "stem_stride": 4}
VIDEO = {
    "type": "resnext3d",
    "depths": [1, 1],
    "width": 8,
    "cardinality": 4,
    "stem_width": 8,
    "stem_kernel": [3, 3, 3],
    "stem_stride": [1, 2, 2],
    "pool_stride": None,
}
AUDIO = {"type": "cnn14", "channels": [4, 8], "sampling_rate": 8000, "n_fft": 256, "hop": 160, "fmax": 4000.0}


def build(name: str) -> Backbone:
    """The encoder of a recorded name."""
    if name.startswith("timm_"):
        return build_image_encoder({"type": "timm", "name": name.removeprefix("timm_")})
    if match := re.fullmatch(r"ofa_resnet(\d+)", name):
        return build_image_encoder({"type": "resnet", "depths": DEPTHS[match[1]][:3]})
    if match := re.fullmatch(r"(all_)?resnext(\d+)", name):
        stages = 4 if match[1] else 3
        return build_video_encoder({"type": "resnext3d", "depths": DEPTHS[match[2]][:stages]})
    match = re.fullmatch(r"pann_(cnn\d+)_hop(\d+)", name)
    assert match is not None, name
    return build_audio_encoder({"type": match[1], "hop": int(match[2])})


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Within `tolerance` of the largest wanted value."""
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


@pytest.mark.parity
@pytest.mark.parametrize("recorded", RECORDED)
def test_recorded_network(recorded: Any) -> None:
    folder, case = recorded
    rule, prefix, tag = reference.weights_rule(), case["key_prefix"], case["tag"]
    network = build(case["backbone"])
    wanted = {key.removeprefix(prefix): shape for key, shape in case["keys"].items() if not rule.skipped(key)}
    own = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert wanted == {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")}
    values = {key: rule.value(prefix + key, shape, case["seed"]) for key, shape in wanted.items()}
    network.load_state_dict({key: torch.from_numpy(value) for key, value in values.items()}, strict=False)
    stored = reference.RecordedSet(folder).tensors("backbones.safetensors", tag + ".")
    with torch.no_grad():
        assert close(network.eval()(stored["in"]), stored["out"])
        if "logmel" in stored:
            difference = log_mel(stored["in"], network.spec) - stored["logmel"]  # type: ignore[arg-type]
            assert difference.abs().max() < 5e-4
        if "train_out" in stored:
            assert close(network.train()(stored["in"]), stored["train_out"])
            after = {key: value for key, value in stored.items() if key.startswith("train_after.")}
            for key, value in after.items():
                assert close(network.state_dict()[key.removeprefix("train_after.")], value), key


@pytest.mark.parametrize(
    ("network", "shape", "grid"),
    [
        (build_image_encoder(IMAGE), (2, 3, 48, 48), (6, 6)),
        (build_image_encoder(IMAGE | {"stem_stride": 2}), (2, 3, 48, 48), (12, 12)),
        (build_image_encoder({"type": "timm", "name": "test_resnet"}), (2, 3, 64, 64), (2, 2)),
        (build_video_encoder(VIDEO), (2, 3, 4, 48, 48), (2, 12, 12)),
        (build_audio_encoder(AUDIO), (2, 8000), (25, 32)),
        (build_audio_encoder(AUDIO | {"type": "cnn6", "pool_last": True}), (2, 8000), (12, 16)),
    ],
)
def test_tiny_grid_and_gradients(network: Backbone, shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    features = network.train()(torch.randn(shape))
    assert features.shape == (2, network.out_channels, *grid)
    features.square().mean().backward()
    missing = [name for name, value in network.named_parameters() if value.grad is None]
    assert not missing


def test_rows_do_not_depend_on_each_other_in_evaluation() -> None:
    for network, values in (
        (build_image_encoder(IMAGE), torch.randn(3, 3, 48, 48)),
        (build_video_encoder(VIDEO), torch.randn(3, 3, 4, 32, 32)),
        (build_audio_encoder(AUDIO), torch.randn(3, 8000)),
    ):
        network.eval()
        with torch.no_grad():
            together = network(values)
            alone = torch.cat([network(value[None]) for value in values])
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("build_encoder", "spec", "words"),
    [
        (build_image_encoder, {"type": "resnte"}, ["resnte", "resnet"]),
        (build_image_encoder, IMAGE | {"widht": 3}, ["widht", "width"]),
        (build_image_encoder, IMAGE | {"stem_stride": 3}, ["stem_stride"]),
        (build_image_encoder, {"type": "timm", "name": "resnet1001"}, ["resnet1001"]),
        (build_image_encoder, {"depths": [1]}, ["type"]),
        (build_video_encoder, VIDEO | {"cardinality": 3}, ["cardinality"]),
        (build_video_encoder, VIDEO | {"stem_kernel": [3, 3]}, ["stem_kernel"]),
        (build_audio_encoder, AUDIO | {"fmax": 5000.0}, ["fmax"]),
        (build_audio_encoder, AUDIO | {"hop": "160"}, ["hop", "int"]),
    ],
)
def test_wrong_specification_is_named(build_encoder: Any, spec: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(spec)
    assert all(word in str(caught.value) for word in words)


def test_tone_lands_in_its_mel_bin() -> None:
    spec = Cnn14Spec("cnn14", sampling_rate=16000, n_fft=512, hop=160, mels=40, fmax=8000.0)
    for hertz in (300, 1000, 3000):
        wave = torch.sin(2 * torch.pi * hertz * torch.arange(16000) / 16000)
        loudest = int(log_mel(wave[None], spec)[0, 0, 50].argmax())
        assert mel_filters(spec)[round(hertz / 16000 * 512), loudest] > 0


def test_mel_filters_of_another_rate_are_stretched() -> None:
    right, released = Cnn14Spec("cnn14"), Cnn14Spec("cnn14", mel_sampling_rate=32000)
    assert not torch.allclose(mel_filters(right), mel_filters(released))
    assert torch.equal(mel_filters(released), mel_filters(Cnn14Spec("cnn14", sampling_rate=32000)))


def test_front_end_stays_in_float32() -> None:
    network = build_audio_encoder(AUDIO).eval()
    wave = torch.randn(1, 8000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(wave, network.spec), log_mel(wave, network.spec).float())  # type: ignore[arg-type]
        under_autocast = log_mel(wave, network.spec)  # type: ignore[arg-type]
    assert torch.equal(under_autocast, log_mel(wave, network.spec))  # type: ignore[arg-type]
    assert network.bfloat16()(wave).dtype == torch.bfloat16


def test_stripes_are_within_their_width() -> None:
    torch.manual_seed(0)
    features = silence_stripes(torch.ones(64, 1, 50, 10), 2, 1, 8)
    silent = (features[:, 0, :, 0] == 0).sum(1)
    assert silent.max() == 7 and silent.min() == 0
    assert torch.equal(features[..., :1].expand_as(features), features)


def test_an_encoder_can_be_added_when_loading(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 20,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "image_bucket_size": 6,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = UnivalConfig(**sizes, **heads, image_encoder=IMAGE)
    first = UnivalForConditionalGeneration(config)
    first.save_pretrained(tmp_path)
    added = UnivalForConditionalGeneration.from_pretrained(tmp_path, video_encoder=VIDEO, audio_encoder=AUDIO)
    state = added.state_dict()
    assert all(torch.equal(state[name], value) for name, value in first.state_dict().items())
    for modality in ("video", "audio"):
        for name, value in added.encoder.media[modality].backbone.state_dict().items():
            assert value.isfinite().all() and value.abs().max() < 10, name
            if name.endswith(("running_var", "bn1.weight")):
                assert torch.equal(value, torch.ones_like(value)), name
