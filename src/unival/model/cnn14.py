"""Audio encoder: log-mel front-end and the CNN14 / CNN10 / CNN6 of PANNs (Kong et al., 2020), without heads.

The front-end always runs in float32, whatever precision the model has: a Hann STFT (centred, reflected),
power, Slaney mel filters, decibels. Its window and filters are functions of the specification, kept out of
the weights.

M clips, S samples, F frames, B mel bins, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from unival.device import sent
from unival.model.backbone import Backbone, BackboneSpec, read_spec


@dataclass(frozen=True)
class Cnn14Spec(BackboneSpec):
    """Blocks of two 3x3 convolutions; all but the last halve time and frequency."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Channels of each block: their number is the depth."""
    pool_last: bool = False
    """Whether the last block also halves time and frequency."""
    sampling_rate: int = 48000
    n_fft: int = 1024
    """STFT window and transform length in samples."""
    hop: int = 480
    """Samples between frames."""
    mels: int = 64
    fmin: float = 50.0
    fmax: float = 14000.0
    """Lowest and highest frequency of the mel filters, in Hz."""
    mel_sampling_rate: int | None = None
    """Rate that the mel filters assume when it differs from the audio's. The released UnIVAL weights were
    trained with the filters of 32 kHz on audio of 48 kHz: 32000 reproduces that."""
    dropout: float = 0.2
    """After each block but the last, in training."""
    time_stripes: int = 2
    time_stripe_width: int = 64
    """SpecAugment in training: stripes of fewer than so many frames are silenced; likewise mel bins below."""
    mel_stripes: int = 2
    mel_stripe_width: int = 8

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError("channels must be positive numbers, one for each block")
        if min(self.sampling_rate, self.n_fft, self.hop, self.mels) < 1:
            raise ValueError("sampling_rate, n_fft, hop and mels must be positive")
        if not 0 <= self.fmin < self.fmax <= (self.mel_sampling_rate or self.sampling_rate) / 2:
            raise ValueError(
                f"fmin {self.fmin:g} and fmax {self.fmax:g} must lie between 0 and half the rate"
            )


@dataclass(frozen=True)
class Cnn10Spec(Cnn14Spec):
    """Five blocks, each of them pooled."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 1024)
    pool_last: bool = True


@dataclass(frozen=True)
class Cnn6Spec(Cnn14Spec):
    """Four blocks of one 5x5 convolution, each of them pooled."""

    channels: tuple[int, ...] = (64, 128, 256, 512)
    pool_last: bool = True


def build_audio_encoder(spec: Mapping[str, Any]) -> Backbone:
    """The audio encoder that `spec` describes, with random weights.

    Raises:
        UserError: an unknown type or key, or a wrong value.
    """
    types = {"cnn14": Cnn14Spec, "cnn10": Cnn10Spec, "cnn6": Cnn6Spec}
    return CnnEncoder(read_spec(spec, types, "audio_encoder"))


@cache
def mel_filters(spec: Cnn14Spec) -> Tensor:
    """Triangular filters of equal area on Slaney's mel scale (n_fft / 2 + 1, mels), float32.

    torchaudio works in the default precision; its float32 filters are off by up to 1.4e-3 dB at 48 kHz.
    """
    rate, default = spec.mel_sampling_rate or spec.sampling_rate, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("cpu"):
            filters = melscale_fbanks(
                spec.n_fft // 2 + 1, spec.fmin, spec.fmax, spec.mels, rate, norm="slaney", mel_scale="slaney"
            )
    finally:
        torch.set_default_dtype(default)
    return filters.float()


@torch.compiler.assume_constant_result
def _filters_on(device: torch.device, spec: Cnn14Spec) -> Tensor:
    return sent(mel_filters(spec), device)


def log_mel(samples_MS: Tensor, spec: Cnn14Spec) -> Tensor:
    """Waveforms (M, S) to decibels per frame and mel bin (M, 1, F, B), F = S / hop + 1, floor at -100 dB."""
    device = samples_MS.device
    with torch.autocast(device.type, enabled=False):
        spectrum = torch.stft(
            samples_MS.float(),
            spec.n_fft,
            spec.hop,
            window=torch.hann_window(spec.n_fft, dtype=torch.float32, device=device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # (M, n_fft / 2 + 1, F)
        mel_MBF = _filters_on(device, spec).T @ power
        return (10.0 * mel_MBF.clamp(min=1e-10).log10()).transpose(1, 2).unsqueeze(1)


class CnnEncoder(Backbone):
    """Waveform to features; parameter names as in the public AudioSet weights."""

    def __init__(self, spec: Cnn14Spec) -> None:
        super().__init__()
        self.spec = spec
        mel_filters(spec)  # worked out here, where no other thread makes tensors meanwhile
        # torch's 2d one has wrong gradients for such strides in evaluation
        self.bn0 = nn.BatchNorm1d(spec.mels)
        channels = 1
        self.blocks = [f"conv_block{index + 1}" for index in range(len(spec.channels))]
        block_type = ConvBlock5x5 if isinstance(spec, Cnn6Spec) else ConvBlock
        for name, width in zip(self.blocks, spec.channels, strict=True):
            self.add_module(name, block_type(channels, width))
            channels = width
        self.out_channels = channels
        self.finish()

    def forward(self, values: Tensor) -> Tensor:
        """Waveforms (M, S) to features (M, C, time, mel)."""
        mel_M1FB = log_mel(values, self.spec).to(self.bn0.weight.dtype)
        features = self.bn0(mel_M1FB.squeeze(1).transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        if self.training:
            features = silence_stripes(features, 2, self.spec.time_stripes, self.spec.time_stripe_width)
            features = silence_stripes(features, 3, self.spec.mel_stripes, self.spec.mel_stripe_width)
        features = features.contiguous(memory_format=torch.channels_last)
        last = self.blocks[-1]
        for name in self.blocks:
            features = self.get_submodule(name)(features)
            if name != last or self.spec.pool_last:
                features = F.avg_pool2d(features, 2)
            if name != last:
                features = F.dropout(features, self.spec.dropout, self.training)
        return features


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, values: Tensor) -> Tensor:
        """(M, C, time, mel) to (M, C', time, mel)."""
        values = F.relu(self.bn1(self.conv1(values)), inplace=True)
        return F.relu(self.bn2(self.conv2(values)), inplace=True)


class ConvBlock5x5(nn.Module):
    """One 5x5 convolution with batch norm and ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, values: Tensor) -> Tensor:
        """(M, C, time, mel) to (M, C', time, mel)."""
        return F.relu(self.bn1(self.conv1(values)), inplace=True)


def silence_stripes(features: Tensor, axis: int, stripes: int, width: int) -> Tensor:
    """SpecAugment (Park et al., 2019): zero `stripes` random stripes along `axis`, each of 0..width-1 places,
    drawn for each clip."""
    total = features.shape[axis]
    clips = features.shape[0]
    position = torch.arange(total, device=features.device)
    for _ in range(stripes if width > 0 else 0):
        length = torch.randint(0, min(width, total), (clips, 1), device=features.device)
        start = (torch.rand(clips, 1, device=features.device) * (total - length)).long()
        keep = (position < start) | (position >= start + length)
        shape = [clips, 1, 1, 1]
        shape[axis] = total
        features = features * keep.view(shape)
    return features
