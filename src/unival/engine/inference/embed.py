"""Media and texts as vectors: the mean of the encoder's states, of length one.

A medium is read alone and a text alone, without a prompt. No objective has trained these vectors (the
original's pretraining has no contrast, docs/reference.md 2.4): they tell like media from unlike ones, and
like texts, but a text is not near its picture. `unival.engine.inference.retrieval` asks the model about both.

N items, L positions, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers.feature_extraction_utils import BatchFeature

from unival.engine.inference.predictor import Predictor
from unival.errors import UserError
from unival.record import Modality, is_unicode

BATCH = 32


def embed_media(predictor: Predictor, modality: Modality, keys: Sequence[str]) -> np.ndarray:
    """Vectors of media by their keys in the predictor's store, float32 (N, D).

    Raises:
        UserError: a medium that cannot be read, or of a kind that the model has no encoder for.
    """
    processor, store = predictor.processor, predictor.store
    if modality not in predictor.model.config.media:
        raise UserError(f"{keys[0]}: is {modality}, and the model has no encoder for it")

    def batch(part: Sequence[str]) -> BatchFeature:
        if modality == "image":
            return processor(images=[store.image(key) for key in part])
        if modality == "video":
            return processor(videos=[store.video(key, processor.video_frames) for key in part])
        return processor(audio=[store.audio(key, processor.sampling_rate) for key in part])

    return _embed(predictor, keys, batch)


def embed_texts(predictor: Predictor, texts: Sequence[str]) -> np.ndarray:
    """Vectors of texts, float32 (N, D).

    Raises:
        UserError: a text that is empty, no Unicode, or too long for the model.
    """
    longest = predictor.model.config.max_source_positions
    for text in texts:
        if not text.strip() or not is_unicode(text):
            raise UserError(f"{text!a}: is no text: leave it out, or type it again")
        if len(predictor.processor.tokenizer.encode_text(f" {text}")) + 2 > longest:  # begin and end
            raise UserError(f"'{text[:40]}...': more than {longest} tokens: shorten it")
    return _embed(predictor, texts, lambda part: predictor.processor(text=[f" {text}" for text in part]))


@torch.no_grad()
def _embed(
    predictor: Predictor, items: Sequence[Any], batch: Callable[[Sequence[Any]], BatchFeature]
) -> np.ndarray:
    model, vectors = predictor.model, []
    for start in range(0, len(items), BATCH):
        inputs = batch(items[start : start + BATCH])
        host = {name: value for name, value in inputs.items() if name.endswith("_index")}
        encoded = model.encoder(**inputs.to(model.device) | host)
        states_BLD, mask_BL = encoded.last_hidden_state, encoded.attention_mask
        assert states_BLD is not None
        weight_BL1 = (
            states_BLD.new_ones((*states_BLD.shape[:2], 1)) if mask_BL is None else mask_BL[..., None]
        )
        mean_BD = (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
        vectors.append(F.normalize(mean_BD.float(), dim=1).cpu().numpy())
    return np.concatenate(vectors)
