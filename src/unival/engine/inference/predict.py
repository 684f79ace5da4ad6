"""Predictions of a model on the rows of a task: batched, constrained, deterministic.

Media that several rows of a batch share are encoded once. Frames and crops are fixed. A result does not
depend on the batch size beyond rounding.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unival.engine.batches.collate import INDEX, VALUES, pad_rows
from unival.engine.batches.rows import Rows
from unival.engine.inference.candidates import Candidates
from unival.model.constraints import Constraint, Locations, Trie
from unival.model.generation import SearchOptions, beam_search
from unival.model.modeling import UnivalForConditionalGeneration
from unival.record import MEDIA, Medium
from unival.tasks import Example, Task, Value

Corrupt = Callable[[Medium, np.ndarray, str], np.ndarray]
"""A shift of decoded media: (medium, array, key) -> array."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about a row."""

    id: str
    text: str
    """The generated text."""
    value: Value
    """What the task reads in it: an answer, a caption, a box; None when it cannot be read."""
    score: float
    """Probability of the text; over the allowed answers where decoding is constrained."""
    alternatives: tuple[tuple[str, float], ...] = ()
    """Next best texts with their probabilities."""


@torch.no_grad()
def predict(
    model: UnivalForConditionalGeneration,
    processor: Any,
    rows: Rows,
    *,
    batch_size: int = 128,
    corrupt: Corrupt | None = None,
    alternatives: int = 0,
) -> list[Prediction]:
    """Predict every row, in order.

    Args:
        model: runs where its weights are; set to evaluation mode meanwhile.
        corrupt: a shift to apply to the decoded media.
        alternatives: how many next best texts to keep (of the beams, or of the candidates).
    """
    was_training = model.training
    model.eval()
    try:
        task, count = rows.task, len(rows.records)
        decoder = Decoder(model, processor, task, alternatives)
        batches = Batches(processor, rows, corrupt)
        predictions: list[Prediction] = []
        for start in range(0, count, batch_size):
            records = [rows.records[index] for index in range(start, min(start + batch_size, count))]
            inputs, prefix_BP = batches.inputs([task.inference(record) for record in records], model.device)
            found = decoder(inputs, prefix_BP, [record.id for record in records])
            for record, texts in zip(records, found, strict=True):
                text, score = texts[0]
                value = task.parse(text, record)
                predictions.append(Prediction(record.id, text, value, score, tuple(texts[1:])))
        return predictions
    finally:
        model.train(was_training)


class Batches:
    """Encoder inputs of examples."""

    def __init__(self, processor: Any, rows: Rows, corrupt: Corrupt | None = None) -> None:
        self.processor, self.store, self.cache, self.corrupt = processor, rows.store, rows.cache, corrupt
        self.tokens = lru_cache(maxsize=100_000)(processor.tokenizer.encode_text)

    def inputs(
        self, examples: Sequence[Example], device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Arguments of the encoder on `device`, and the decoder prompts (B, P) where there are any."""
        tokenizer = self.processor.tokenizer
        bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        input_ids_BL = pad_rows([[bos, *self.tokens(example.prompt), eos] for example in examples], pad)
        inputs = {"input_ids": input_ids_BL.to(device), **self._media(examples, device)}
        mask_BL = input_ids_BL != pad
        if not bool(mask_BL.all()):
            inputs["attention_mask"] = mask_BL.long().to(device)
        prefixes = [list(self.tokens(example.decoder_prompt)) for example in examples]
        return inputs, pad_rows(prefixes, pad).to(device) if any(prefixes) else None

    def _media(self, examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
        """Each medium of the batch once, and which rows show it (the index stays on the host)."""
        tensors: dict[str, Tensor] = {}
        for medium in MEDIA:
            keys = [[key for kind, key in example.media if kind == medium] for example in examples]
            places = {
                key: place for place, key in enumerate(dict.fromkeys(key for row in keys for key in row))
            }
            if places:
                tensors[VALUES[medium]] = torch.stack([self._load(medium, key) for key in places]).to(device)
                if [[place] for place in range(len(examples))] != (
                    index := [[places[k] for k in row] for row in keys]
                ):
                    tensors[INDEX[medium]] = pad_rows(index, -1)
        return tensors

    def _load(self, medium: Medium, key: str) -> Tensor:
        processor = self.processor
        array = self._decoded(medium, key)
        if self.corrupt is not None:
            array = self.corrupt(medium, array, key)
        return getattr(processor, medium)(array)

    def _decoded(self, medium: Medium, key: str) -> np.ndarray:
        store, name = self.store, (self.store, medium, key)
        if medium == "image":
            return self.cache.get(name, lambda: store.image(key))
        if medium == "video":
            frames = self.processor.video_frames
            return self.cache.get((*name, frames), lambda: store.video(key, frames))
        rate = self.processor.sampling_rate
        return self.cache.get((*name, rate), lambda: store.audio(key, rate))


class Decoder:
    """The search that a task asks for, made once for many batches."""

    def __init__(
        self, model: UnivalForConditionalGeneration, processor: Any, task: Task, alternatives: int = 0
    ) -> None:
        self.model, self.tokenizer = model, processor.tokenizer
        self.config = task.config.decode
        self.kept = 1 + alternatives
        self.constraint: Constraint | None = None
        self.candidates: Candidates | None = None
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        if task.config.constraint == "boxes":
            self.constraint = Locations(self.tokenizer.bin_offset, self.tokenizer.num_bins, eos)
        elif task.config.constraint == "answers":
            self.answers = list(dict.fromkeys(task.answers()))
            sequences = [self.tokenizer.encode_text(f" {answer}") for answer in self.answers]
            if self.config.search == "candidates":
                self.candidates = Candidates(sequences, eos, pad)
            else:
                self.constraint = Trie(sequences, eos, len(model.lm_head.weight))

    def __call__(
        self, inputs: Mapping[str, Tensor], prefix_BP: Tensor | None, ids: Sequence[str]
    ) -> list[list[tuple[str, float]]]:
        """The best texts of each row with their probabilities, best first; or a sample, drawn by its id."""
        if self.candidates is not None:
            return self._choose(inputs, prefix_BP)
        sampling = self.config.search == "sample"
        beams = 1 if sampling else max(self.config.beams, self.kept)
        forced = 0 if prefix_BP is None else prefix_BP.shape[1]
        shortest = 0 if prefix_BP is None else int((prefix_BP != self.tokenizer.pad_token_id).sum(1).min())
        options = SearchOptions(
            beams=beams,
            max_tokens=self.config.max_tokens + forced,
            min_tokens=self.config.min_tokens + shortest,
            length_penalty=self.config.length_penalty,
            normalised=self.config.length_penalty != 0,
            no_repeat_ngram=self.config.no_repeat_ngram,
            temperature=self.config.temperature,
            top_k=self.config.top_k,
            top_p=self.config.top_p,
        )
        draws_BT = self._draws(ids, options.max_tokens + 1) if sampling else None
        found = beam_search(
            self.model, inputs, options, prefix_BP=prefix_BP, constraint=self.constraint, draws_BT=draws_BT
        )
        return self._texts(found.tokens, found.token_scores, found.scores, prefix_BP)

    def _draws(self, ids: Sequence[str], length: int) -> Tensor:
        """Numbers in [0, 1) that depend on seed and row alone, (B, length)."""
        seeds = ([self.config.seed, zlib.crc32(name.encode())] for name in ids)
        return torch.from_numpy(np.stack([np.random.default_rng(seed).random(length) for seed in seeds]))

    def _choose(
        self, inputs: Mapping[str, Tensor], prefix_BP: Tensor | None
    ) -> list[list[tuple[str, float]]]:
        assert self.candidates is not None
        scores_BC = self.candidates.score(self.model, self.model.encoder(**inputs), prefix_BP)
        best = scores_BC.exp().topk(min(self.kept, len(self.answers)))
        return [
            [(self.answers[index], score) for index, score in zip(indices, scores, strict=True)]
            for indices, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _texts(
        self, tokens_BKT: Tensor, scores_BKT: Tensor, order_BK: Tensor, prefix_BP: Tensor | None
    ) -> list[list[tuple[str, float]]]:
        """Decoded hypotheses without the decoder prompt, whose tokens do not count in the probability."""
        start_B = torch.zeros(len(tokens_BKT), dtype=torch.long, device=tokens_BKT.device)
        if prefix_BP is not None:
            start_B = (prefix_BP != self.tokenizer.pad_token_id).sum(1)
        free_BT = torch.arange(tokens_BKT.shape[2], device=start_B.device) >= start_B[:, None]
        probability_BK = (scores_BKT * free_BT[:, None]).sum(2).exp().tolist()
        found_BK = (order_BK > -torch.inf).tolist()
        starts, rows = start_B.tolist(), tokens_BKT[:, : self.kept].tolist()
        return [
            [
                (self.tokenizer.decode_text(tokens[start:]), probability)
                for tokens, probability, found in zip(row, probabilities, flags, strict=False)
                if found
            ]
            for row, start, probabilities, flags in zip(rows, starts, probability_BK, found_BK, strict=True)
        ]
