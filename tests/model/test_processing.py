"""The processor: the recorded preprocessing, boxes, batches with rows of any media, files."""

import inspect
import io
import json
import wave
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_vocab import original
from transformers import AutoProcessor, AutoTokenizer

from unival.data import media
from unival.data.media import segment_frames
from unival.errors import UserError
from unival.model import UnivalConfig
from unival.model.cnn14 import Cnn14Spec, log_mel, mel_filters
from unival.model.processing import UnivalProcessor
from unival.tasks import text as normalisation
from unival.vocab import UnivalTokenizer

FILE = "preproc.json"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PIXELS = 1e-5


def recorded(key: str, name: Any = None, keep: Any = lambda case: True) -> list[Any]:
    """Recorded cases of a kind, one parameter each."""

    def read(content: dict[str, Any]) -> list[tuple[str, Any]]:
        found = enumerate(content.get(key, []))
        return [(name(case) if name else f"{key}{n}", (case, content)) for n, case in found if keep(case)]

    return reference.cases(FILE, read)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Everything stored beside the cases."""
    return {key: value.numpy() for key, value in _tensors(folder).items()}


@cache
def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return reference.RecordedSet(folder).tensors("preproc.safetensors", "")


def pixels(case: dict[str, Any]) -> dict[str, Any]:
    return IMAGENET if case.get("mean_std") == "imagenet" else {}


@pytest.mark.parity
@pytest.mark.parametrize("found", recorded("images", lambda c: c["key"], lambda c: c.get("stored")))
def test_recorded_image(found: Any) -> None:
    folder, (case, _) = found
    stored = tensors(folder)
    processor = UnivalProcessor(original(folder.parent), image_size=case["patch_image_size"], **pixels(case))
    image = processor.image(stored[f"image{case['image']}.uint8_hwc"])
    assert np.abs(image.numpy() - stored[case["key"] + ".patch_image"]).max() < PIXELS


@pytest.mark.parity
@pytest.mark.parametrize("found", recorded("refcoco", lambda c: c["key"]))
def test_recorded_grounding(found: Any) -> None:
    folder, (case, _) = found
    stored, tokenizer = tensors(folder), original(folder.parent)
    size = case["patch_image_size"]
    processor = UnivalProcessor(tokenizer, image_size=size, bin_scale=case["max_image_size"], **pixels(case))
    height, width = case["image_hw"]
    box = [float(corner) for corner in case["box_xyxy"].split(",")]
    bins = tokenizer.encode_text(processor.box_to_bins(box, (width, height)))
    assert [token - tokenizer.bin_offset for token in bins] == case["bins"]
    assert [*bins, tokenizer.eos_token_id] == case["target"]
    decoded = processor.bins_to_box([*bins, tokenizer.eos_token_id], (width, height))
    assert np.allclose(decoded, case["box_decoded"], atol=1e-4)
    prompt = f' which region does the text " {normalisation.normalise_caption(case["text"], 30)} " describe?'
    assert processor.text([prompt])["input_ids"][0].tolist() == case["source"]
    if case["stored"]:
        image = processor.image(stored[f"image{case['image']}.uint8_hwc"])
        assert np.abs(image.numpy() - stored[case["key"] + ".patch_image"]).max() < PIXELS


@pytest.mark.parity
@pytest.mark.parametrize("found", recorded("video", lambda c: c["key"]))
def test_recorded_video(found: Any) -> None:
    folder, (case, _) = found
    stored, key = tensors(folder), case["key"]
    frames = stored[key + ".frames_uint8_tchw"].transpose(0, 2, 3, 1)
    settings_ = {"video_frames": len(frames), "video_size": case["patch_frame_size"], "video_fit": "crop"}
    video = UnivalProcessor(original(folder.parent), **settings_).video(frames).numpy()
    assert np.abs(video - stored[key + ".patch_video"]).max() < PIXELS
    other = UnivalProcessor(original(folder.parent), **settings_, **IMAGENET).video(frames).numpy()
    assert np.abs(other[:, 0] - stored[key + ".patch_video_imnet_frame0"]).max() < PIXELS


class Recorded:
    """Gives the recorded start of a random crop."""

    def __init__(self, start: int) -> None:
        self.start = start

    def integers(self, low: int, high: int) -> int:
        return self.start


@pytest.mark.parity
@pytest.mark.parametrize("found", recorded("audio", lambda c: c["key"]))
def test_recorded_audio(found: Any) -> None:
    folder, (case, content) = found
    stored, key, facts = tensors(folder), case["key"], content["audio_cfg"]
    rate = facts["sample_rate"]
    processor = UnivalProcessor(
        original(folder.parent),
        sampling_rate=rate,
        audio_seconds=case["max_audio_len"] / rate,
        audio_fill=case["data_filling"],
    )
    crop: Any = Recorded(case["trunc_start_numpy_seed5"]) if case["longer"] else None
    waveform = processor.audio(stored[key.split("_")[0] + ".raw_f64"], crop)
    assert len(waveform) == case["out_len"]
    parts = {"waveform": slice(None), "waveform_head64": slice(64), "waveform_tail64": slice(-64, None)}
    for name, part in parts.items():
        if f"{key}.{name}" in stored:
            assert np.abs(waveform[part].numpy() - stored[f"{key}.{name}"]).max() < PIXELS
    if key + ".logmel" in stored:
        spec = Cnn14Spec(
            "cnn14",
            sampling_rate=rate,
            n_fft=facts["window_size"],
            hop=facts["hop_size"],
            mels=facts["mel_bins"],
            fmin=facts["fmin"],
            fmax=facts["fmax"],
        )
        assert np.abs(log_mel(waveform[None], spec)[0, 0].numpy() - stored[key + ".logmel"]).max() < 5e-4
        assert np.abs(mel_filters(spec).numpy() - stored["mel_filterbank_melW"]).max() < 1e-7


@pytest.mark.parity
@pytest.mark.parametrize("found", recorded("frame_sampling"))
def test_recorded_frames(found: Any) -> None:
    _, (case, _) = found
    total, wanted = case["vlen"], case["num_frames"]
    assert segment_frames(total, wanted) == case["middle"]
    for seed in range(20):
        drawn = segment_frames(total, wanted, np.random.default_rng(seed))
        for index, (first, last) in zip(drawn, case["rand_ranges_half_open"], strict=False):
            assert first <= index < max(last, first + 1)


@pytest.mark.parity
@pytest.mark.parametrize(
    "found",
    reference.cases(
        "tokenizer.json",
        lambda content: [
            (f"{kind}{n}", (kind, case))
            for kind in ("pre_caption", "pre_question")
            for n, case in enumerate(content[kind])
        ],
    ),
)
def test_recorded_normalisation(found: Any) -> None:
    _, (kind, case) = found
    normalise = {"pre_caption": normalisation.normalise_caption, "pre_question": normalisation.normalise}[
        kind
    ]
    assert normalise(case["text"], case["max_words"] or 1000) == case["out"]


@cache
def tiny() -> UnivalTokenizer:
    return UnivalTokenizer.train([" what is this?"] * 3, 280, num_codes=0, num_bins=100)


def processor(**changes: Any) -> UnivalProcessor:
    small = {
        "image_size": 16,
        "video_frames": 4,
        "video_size": 8,
        "sampling_rate": 1000,
        "audio_seconds": 0.5,
    }
    return UnivalProcessor(tiny(), **{**small, **changes})


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_image_of_the_right_size_is_only_normalised() -> None:
    image = noise(16, 16, 3)
    wanted = (torch.from_numpy(image).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert torch.allclose(processor().image(image), wanted, atol=1e-6)
    assert torch.equal(processor().image(Image.fromarray(image)), processor().image(image))
    assert processor().image(noise(9, 30)).shape == (3, 16, 16)


@settings(max_examples=200)
@given(st.data())
def test_boxes_come_back_within_half_a_bin(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 900)), data.draw(st.integers(1, 900))
    x0, x1 = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    y0, y1 = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    text = processor().box_to_bins((x0, y0, x1, y1), (width, height))
    ids = tiny().encode_text(text)
    assert len(ids) == 4 and min(ids) >= tiny().bin_offset
    for given_ in (text, ids, tiny().decode_text(ids)):
        back = processor().bins_to_box(given_, (width, height))
        assert back is not None
        half = np.array([width, height, width, height]) / 99 / 2
        assert (np.abs(np.array(back) - [x0, y0, x1, y1]) <= half * 1.001 + 1e-3).all()


FOUR = "<bin_1><bin_2><bin_3><bin_4>"


@pytest.mark.parametrize(
    "text", ["", "a cat", FOUR[:21], FOUR + "<bin_5>", FOUR + " a", "a " + FOUR, FOUR[:21] + "<bin_100>"]
)
def test_what_is_not_four_bins_is_no_box(text: str) -> None:
    assert processor().bins_to_box(text, (10, 10)) is None


def test_corners_are_put_in_order() -> None:
    box = processor().bins_to_box("<bin_99><bin_99><bin_0><bin_0>", (10, 20))
    assert box == pytest.approx((0, 0, 10, 20))


def test_grounding_scale_of_the_release_uses_the_lower_bins() -> None:
    whole = processor(image_size=384, bin_scale=512).box_to_bins((0, 0, 10, 10), (10, 10))
    assert whole == " <bin_0> <bin_0> <bin_74> <bin_74>"
    assert processor(image_size=384).box_to_bins((0, 0, 10, 10), (10, 10)).endswith("<bin_99> <bin_99>")


def test_video_fits() -> None:
    frames = noise(4, 16, 24, 3)
    assert processor().video(frames).shape == (3, 4, 8, 8)
    cropped = processor(video_fit="crop").video(frames)
    wanted = torch.from_numpy(frames[:, 4:12, 8:16]).permute(3, 0, 1, 2) / 127.5 - 1
    assert torch.allclose(cropped, wanted, atol=1e-6)
    short = processor().video(noise(2, 8, 8, 3))
    assert torch.equal(short[:, 1], short[:, 3]) and not torch.equal(short[:, 0], short[:, 1])
    for wrong in (noise(5, 8, 8, 3), noise(0, 8, 8, 3)):
        with pytest.raises(UserError, match="frames"):
            processor().video(wrong)


def test_audio_is_filled_or_cropped() -> None:
    short = np.linspace(-1, 1, 200)
    for fill, tail in (("repeatpad", np.zeros(100)), ("repeat", short[:100]), ("pad", np.zeros(300))):
        filled = processor(audio_fill=fill).audio(short).numpy()
        assert len(filled) == 500 and np.allclose(filled[500 - len(tail) :], tail, atol=1e-4)
    long = np.arange(700) / 32767
    assert np.allclose(processor().audio(long), long[100:600])
    starts = {float(processor().audio(long, np.random.default_rng(seed))[0]) for seed in range(20)}
    assert len(starts) > 5
    wrong: list[Any] = [
        np.zeros(0),
        np.zeros((2, 0)),
        np.zeros((1, 2, 500)),
        np.zeros(500, np.int16),
        "sound.wav",
    ]
    for samples in wrong:
        with pytest.raises(UserError, match="audio: expected samples"):
            processor().audio(samples)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_one_array_is_one_sound_whose_channels_are_averaged(channels: int) -> None:
    sound = np.random.default_rng(channels).uniform(-1, 1, (500, channels)).astype(np.float32)
    mean = processor().audio(sound.mean(1))
    for layout in (sound, sound.T, torch.from_numpy(sound), torch.from_numpy(sound.T)):
        assert torch.allclose(processor().audio(layout), mean, atol=1e-4)
    assert torch.allclose(processor()(audio=sound)["audio_values"], mean[None], atol=1e-4)
    told = processor()(audio=sound.T, text=" what")  # one text: one sound
    assert torch.allclose(told["audio_values"], mean[None], atol=1e-4) and told["audio_index"].tolist() == [
        [0]
    ]
    several = processor()(audio=[sound, sound.T], text=[" what", " this"])
    assert several["audio_index"].tolist() == [[0], [1]]
    batch = processor()(audio=np.stack([sound, sound]))
    assert batch["audio_values"].shape == (2, 500)


def test_sounds_and_channels_that_cannot_be_told_are_refused() -> None:
    for samples in (np.zeros((2, 500)), torch.zeros(2, 500)):
        for text in (None, [" what", " this"]):
            with pytest.raises(
                UserError, match=r"is 2 channels or several sounds: .*\(S, channels\).*a list"
            ):
                processor()(audio=samples, text=text)
    for shape in ((500, 500), (70, 500), (500, 70)):
        with pytest.raises(UserError, match=r"cannot tell the channels.*\(S, channels\).*list"):
            processor().audio(np.zeros(shape))


@pytest.mark.fault
@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf, 1e30, -30000.0])
def test_samples_beyond_any_sound_are_refused(sample: float) -> None:
    with pytest.raises(UserError, match=r"^audio: .*(NaN|full scale is 1)"):
        processor().audio(np.array([0.0, sample, 0.5]))


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """As a camera stores it that was held so: with EXIF."""
    image.getexif()[0x0112] = orientation
    return image


def test_a_picture_in_hand_is_turned_by_its_exif_as_a_file_is() -> None:
    stored = noise(16, 16, 3)
    upright = np.rot90(stored, -1)  # orientation 6: a quarter to the right
    assert np.array_equal(processor().fit_image(turned(Image.fromarray(stored), 6)), upright)
    frames = processor(video_frames=1, video_size=16).fit_video([turned(Image.fromarray(stored), 6)])
    assert np.array_equal(frames[0], upright)
    lying = Image.fromarray(noise(8, 16, 3))
    with pytest.raises(UserError, match="frames of several sizes"):
        processor().fit_video([lying, turned(lying.copy(), 6)])


def test_files_and_what_is_in_hand_give_the_model_the_same_values() -> None:
    made = processor(sampling_rate=8000, audio_seconds=0.1)
    samples = np.random.default_rng(0).uniform(-1, 1, (800, 6))
    body = (samples * 32767).round().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((6, 2, 8000, 0, "NONE", ""))
        file.writeframes(body.tobytes())
    heard = made.fit_audio(media.decode_audio(buffer.getvalue(), "x", 8000))
    assert np.abs(heard - made.fit_audio((body / 32768).astype(np.float32))).max() < 1e-4
    buffer = io.BytesIO()
    lying = turned(Image.fromarray(noise(20, 30, 1)[..., 0].astype(np.uint16) * 257), 6)
    lying.save(buffer, "PNG", exif=lying.getexif())
    seen = made.fit_image(media.open_image(buffer.getvalue(), "x"))
    assert np.array_equal(seen, made.fit_image(Image.open(buffer)))
    assert np.array_equal(seen, made.fit_image(media.decode_image(buffer.getvalue(), "x")))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_deep_picture_in_hand_is_scaled_not_clipped(mode: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    deep = {
        "I;16": grey.astype(np.uint16) * 257,
        "I": grey.astype(np.int32) * 257,
        "F": grey.astype(np.float32) / 255,
    }
    image = Image.fromarray(deep[mode])
    assert image.mode == mode and np.array_equal(processor().fit_image(image)[..., 0], grey)


@pytest.mark.fault
def test_a_deep_picture_whose_white_cannot_be_told_is_refused() -> None:
    grey = np.arange(256).reshape(16, 16)
    levels = [grey.astype(np.float32), np.full((16, 16), np.nan, np.float32), -grey.astype(np.float32)]
    levels += [grey.astype(np.int32), grey.astype(np.int32) * 1000, -grey.astype(np.int32)]
    for deep in levels:
        with pytest.raises(UserError, match=r"^image: grey levels .* 8"):
            processor().image(Image.fromarray(deep))


def test_batch_of_any_media() -> None:
    image, clip, wave = noise(16, 16, 3), noise(4, 8, 8, 3), np.zeros(500)
    batch = processor()(
        text=[" what", " what is this?", " this"],
        images=[image, None, [image, image]],
        videos=[None, clip, None],
        audio=[[wave], None, [wave]],
    )
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"][:, 0].tolist() == [0, 0, 0]
    assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == 1)
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    assert batch["pixel_index"].tolist() == [[0, -1], [-1, -1], [1, 2]]
    assert batch["video_values"].shape == (1, 3, 4, 8, 8)
    assert batch["video_index"].tolist() == [[-1], [0], [-1]]
    assert batch["audio_values"].shape == (2, 500)
    assert batch["audio_index"].tolist() == [[0], [-1], [1]]
    one = processor()(text=" what", images=image, return_tensors="pt")
    assert one["pixel_values"].shape == (1, 3, 16, 16) and one["pixel_index"].tolist() == [[0]]


def test_wrong_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="resample to 1000 Hz"):
        processor()(audio=np.zeros(5), sampling_rate=44100)
    with pytest.raises(UserError, match=r"different numbers of rows.*'input_ids': 1, 'pixel_index': 2"):
        processor()(images=[noise(16, 16, 3)] * 2, text=" one prompt")
    with pytest.raises(UserError, match="PyTorch"):
        processor()(text="a", return_tensors="np")
    with pytest.raises(UserError, match="padded to the longest row"):
        processor()(text="a", padding="max_length")
    with pytest.raises(UserError, match=r"image_sise.*image_size"):
        processor(image_sise=3)
    for wrong, found in (
        (np.zeros((16, 16, 3)), r"ndarray float64 \(16, 16, 3\)"),
        ("photo.jpg", "str"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"Tensor torch.uint8 torch.Size\(\[3, 16, 16\]\)"),
    ):
        with pytest.raises(UserError, match=f"uint8.*, found {found}"):
            processor()(images=wrong)
    for wrong in (noise(8, 8, 3), Image.fromarray(noise(8, 8, 3)), "clip.mp4"):  # one frame, or a path
        with pytest.raises(UserError, match="video: expected frames"):
            processor()(videos=wrong)
    with pytest.raises(UserError, match="no processor"):
        UnivalProcessor.from_pretrained(tmp_path)


def test_files_give_the_same_processor(tmp_path: Path) -> None:
    first = processor(bin_scale=20, audio_fill="pad")
    first.save_pretrained(tmp_path)
    again = UnivalProcessor.from_pretrained(tmp_path)
    assert again.settings == first.settings and again.tokenizer.get_vocab() == tiny().get_vocab()
    assert UnivalProcessor.from_pretrained(tmp_path, image_size=32).image_size == 32
    UnivalConfig().save_pretrained(tmp_path)
    auto = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(auto, UnivalProcessor) and auto.settings == first.settings
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), UnivalTokenizer)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == "UnivalProcessor"


def test_evaluation_draws_nothing() -> None:
    """Every random choice needs a generator that the caller gives."""
    source = inspect.getsource(inspect.getmodule(UnivalProcessor))  # type: ignore[arg-type]
    assert "np.random.rand" not in source and "import random" not in source
