import numpy as np
import pytest

from unival.data import shifts
from unival.errors import UserError

RNG = np.random.default_rng(0)
IMAGE = np.clip(RNG.normal(128, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
VIDEO = np.stack([IMAGE, IMAGE[::-1]])
SOUND = (0.3 * np.sin(np.arange(4000) / 3)).astype(np.float32)
OF_PICTURES = [name for name in shifts.SHIFTS.names() if shifts.SHIFTS[name].modality == "image"]


def example(name: str) -> tuple[str, np.ndarray]:
    modality = shifts.SHIFTS[name].modality
    return modality, SOUND if modality == "audio" else IMAGE


@pytest.mark.parametrize("name", shifts.SHIFTS.names())
def test_severity_grows_and_the_kind_stays(name: str) -> None:
    modality, array = example(name)
    distances = []
    for severity in shifts.SEVERITIES:
        result = shifts.apply(name, severity, modality, array, "k")  # type: ignore[arg-type]
        assert result.shape == array.shape and result.dtype == array.dtype
        distances.append(float(np.abs(result.astype(float) - array).mean()))
    assert distances == sorted(distances) and distances[0] > 0
    if modality == "audio":
        assert np.abs(result).max() <= 1


@pytest.mark.parametrize("name", ["noise", "audio_noise"])
def test_the_same_row_always_gets_the_same_corruption(name: str) -> None:
    modality, array = example(name)
    first, again, other = (
        shifts.apply(name, 3, modality, array, key)  # type: ignore[arg-type]
        for key in ("a", "a", "b")
    )
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("name", OF_PICTURES)
def test_frames_of_a_video_are_corrupted_too(name: str) -> None:
    result = shifts.apply(name, 2, "video", VIDEO, "k")
    assert result.shape == VIDEO.shape and (result != VIDEO).any()


def test_audio_noise_has_the_stated_ratio() -> None:
    quiet = SOUND / 100
    noise = shifts.apply("audio_noise", 3, "audio", quiet, "k") - quiet
    assert abs(10 * np.log10(np.mean(quiet**2) / np.mean(noise**2)) - 6) < 0.3


@pytest.mark.fault
def test_wrong_name_severity_or_medium_is_refused() -> None:
    with pytest.raises(UserError, match="unknown shift 'nois': did you mean 'noise'"):
        shifts.apply("nois", 1, "image", IMAGE, "k")
    with pytest.raises(UserError, match="severity 6"):
        shifts.apply("noise", 6, "image", IMAGE, "k")
    with pytest.raises(UserError, match="for audio, not for image"):
        shifts.apply("audio_noise", 1, "image", IMAGE, "k")
