"""What the model looks at while it writes an answer: its cross-attention over the medium.

T tokens of the answer, S encoder tokens, N heads, H, W places of a feature map.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unival.engine.batches.builder import VALUES, BatchBuilder
from unival.engine.batches.rows import Rows
from unival.engine.batches.views import FixedViews
from unival.engine.inference.predict import encoder_inputs
from unival.model.cnn14 import log_mel
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.record import Modality


@dataclass(frozen=True)
class Look:
    """A medium as the model is shown it, and how much each place counts."""

    pictures: list[np.ndarray]
    """The image; of a clip, a frame for each step of the feature map; of a sound, its log-mel spectrogram,
    low notes at the bottom. uint8 (height, width, 3)."""
    weights: list[np.ndarray]
    """Of each picture (H, W), float32: means over tokens, layers and heads. Over all pictures they sum to the
    share of the attention that the medium has beside the prompt."""


@torch.no_grad()
def look(model: UnivalForConditionalGeneration, processor: UnivalProcessor, rows: Rows, answer: str) -> Look:
    """The attention of a model in evaluation mode to the medium of the only row, while it writes `answer`."""
    view, task = FixedViews(processor), rows.task
    inputs, prefix_1P = encoder_inputs(BatchBuilder(processor), view, rows, rows.records, model.device)
    values = {name: inputs.pop(name) for name in VALUES.values() if name in inputs}
    media = model.encoder.embed_media(**values)
    encoded = model.encoder(**inputs, media_tokens=media)
    prefix = [] if prefix_1P is None else prefix_1P[0].tolist()
    written = processor.tokenizer.encode_text(f" {answer}") or [processor.tokenizer.eos_token_id]
    tokens = [model.config.decoder_start_token_id, *prefix, *written[:-1]]
    (grid,) = media.grids.values()
    weights_S = _cross_attention(model, encoded, tokens, len(written))[: int(np.prod(grid))]
    maps = weights_S.view(grid).cpu().numpy()
    modality, key = task.media(rows.records[0])[0]
    if modality == "audio":
        return Look([_spectrogram(model, values["audio_values"])], [maps.T[::-1]])
    pictures = _pictures(view(rows, modality, key, None), modality, len(maps))
    return Look(pictures, [maps] if modality == "image" else list(maps))


def _cross_attention(
    model: UnivalForConditionalGeneration, encoded: Any, tokens: list[int], count: int
) -> Tensor:
    """Attention (S,) of the last `count` tokens: each is where the next one is chosen."""
    found_S: list[Tensor] = []

    def keep(module: Any, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        states_1TD, key, _, bias = arguments
        found_S.append(module.weights(states_1TD, key, bias)[0, :, -count:].mean((0, 1)))

    hooks = [layer.cross_attn.register_forward_hook(keep) for layer in model.decoder.layers]  # type: ignore[union-attr, operator]
    try:
        model.decoder(torch.tensor([tokens], device=model.device), encoded)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found_S).mean(0).float()


def _pictures(fitted: np.ndarray, modality: Modality, count: int) -> list[np.ndarray]:
    """The image, or of a clip the middle frame of each of `count` equal parts."""
    if modality == "image":
        return [fitted]
    return list(fitted[((np.arange(count) + 0.5) * len(fitted) / count).astype(int)])


def _spectrogram(model: UnivalForConditionalGeneration, values_1S: Tensor) -> np.ndarray:
    """Decibels from the faintest to the loudest as grey, uint8 (mels, frames, 3)."""
    mel_FB = log_mel(values_1S, model.encoder.media["audio"].backbone.spec)[0, 0].cpu().numpy()  # type: ignore[union-attr, arg-type]
    level = (mel_FB - mel_FB.min()) / max(float(np.ptp(mel_FB)), 1e-6)
    grey_BF = (level * 255).round().astype(np.uint8).T[::-1]
    return np.repeat(grey_BF[..., None], 3, axis=2)
