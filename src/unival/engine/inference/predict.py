"""Predictions of a model on the rows of a task: batched, constrained, deterministic.

Media that several rows of a batch share are encoded once. Frames and crops are fixed. A result does not
depend on the batch size beyond rounding.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unival.engine.batches.builder import INDEX, BatchBuilder, BatchMedia, pad_rows
from unival.engine.batches.rows import Rows
from unival.engine.batches.views import Change, FixedViews
from unival.engine.inference.candidates import Candidates
from unival.engine.machine.distributed import World
from unival.model.constraints import Constraint, Locations, Trie
from unival.model.generation import SearchOptions, beam_search
from unival.model.modeling import UnivalForConditionalGeneration
from unival.model.processing import UnivalProcessor
from unival.record import Record
from unival.tasks import Task, Value


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
    processor: UnivalProcessor,
    rows: Rows,
    *,
    batch_size: int = 128,
    corrupt: Change | None = None,
    alternatives: int = 0,
    ranks: World | None = None,
) -> list[Prediction]:
    """Predict every row, in order.

    Args:
        model: runs where its weights are; set to evaluation mode meanwhile.
        corrupt: a shift to apply to the decoded media.
        alternatives: how many next best texts to keep (of the beams, or of the candidates).
        ranks: share the batches, which are those of one process, so that the predictions are, too; all call
            it, and get all.
    """
    was_training = model.training
    model.eval()
    try:
        task, count = rows.task, len(rows.records)
        decoder = Decoder(model, processor, task, alternatives)
        builder, view = BatchBuilder(processor), FixedViews(processor, corrupt)
        rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
        batches: list[list[Prediction]] = []
        for start in range(rank * batch_size, count, size * batch_size):
            records = [rows.records[index] for index in range(start, min(start + batch_size, count))]
            inputs, prefix_BP = encoder_inputs(builder, view, rows, records, model.device)
            decoded = decoder(inputs, prefix_BP, [record.id for record in records])
            predictions = []
            for record, texts in zip(records, decoded, strict=True):
                text, score = texts[0]
                value = task.parse(text, record)
                predictions.append(Prediction(record.id, text, value, score, tuple(texts[1:])))
            batches.append(predictions)
        dealt = ranks.gather(batches) if ranks else [batches]
        in_order = (batch for turn in zip_longest(*dealt, fillvalue=[]) for batch in turn)
        return list(chain.from_iterable(in_order))
    finally:
        model.train(was_training)


def encoder_inputs(
    builder: BatchBuilder, view: FixedViews, rows: Rows, records: Sequence[Record], device: torch.device
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Arguments of the encoder on `device`, and the decoder prompts (B, P) where there are any.

    What says nothing is left out: a mask without padding, an index by which each row shows one medium of its
    own. The index stays on the host.
    """
    media, task = BatchMedia(builder.processor, view), rows.task
    examples = [task.inference(record) for record in records]
    encoded = [builder.encode(e, (task.name, 0), media.add(rows, e.media)) for e in examples]
    inputs = builder.inputs(encoded, media)
    if bool(inputs["attention_mask"].all()):
        del inputs["attention_mask"]
    own_B1 = torch.arange(len(records))[:, None]
    for name in INDEX.values():
        if name in inputs and torch.equal(inputs[name], own_B1):
            del inputs[name]
    host = INDEX.values()
    moved = {name: tensor if name in host else tensor.to(device) for name, tensor in inputs.items()}
    moved |= {name: tensor.to(device) for name, tensor in media.values().items()}
    prefixes = [example.prefix for example in encoded]
    pad = builder.tokenizer.pad_token_id
    return moved, pad_rows(prefixes, pad).to(device) if any(prefixes) else None


class Decoder:
    """The search that a task asks for, made once for many batches."""

    def __init__(
        self,
        model: UnivalForConditionalGeneration,
        processor: UnivalProcessor,
        task: Task,
        alternatives: int = 0,
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
        """The best text of each row and the next best, with probabilities; or a sample, drawn by its id.

        The first is what the task's own search finds, so that asking for more changes no answer; where its
        beams are too few for the others, these come from a wider search, which may know a likelier text.
        """
        if self.candidates is not None:
            return self._choose(inputs, prefix_BP)
        encoded = {"encoder_outputs": self.model.encoder(**inputs)}
        texts = self._search(encoded, prefix_BP, ids, self.config.beams)
        if self.kept <= self.config.beams or self.config.search == "sample":
            return texts
        wider = self._search(encoded, prefix_BP, ids, self.kept)
        return [
            [best, *(text for text in others if text[0] != best[0])][: self.kept]
            for (best, *_), others in zip(texts, wider, strict=True)
        ]

    def _search(
        self, encoded: Mapping[str, Any], prefix_BP: Tensor | None, ids: Sequence[str], beams: int
    ) -> list[list[tuple[str, float]]]:
        sampling = self.config.search == "sample"
        forced = 0 if prefix_BP is None else prefix_BP.shape[1]
        shortest = 0 if prefix_BP is None else int((prefix_BP != self.tokenizer.pad_token_id).sum(1).min())
        options = SearchOptions(
            beams=1 if sampling else beams,
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
        hypotheses = beam_search(
            self.model, encoded, options, prefix_BP=prefix_BP, constraint=self.constraint, draws_BT=draws_BT
        )
        return self._texts(hypotheses.tokens, hypotheses.token_scores, hypotheses.scores, prefix_BP)

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
        finished_BK = (order_BK > -torch.inf).tolist()
        starts, rows = start_B.tolist(), tokens_BKT[:, : self.kept].tolist()
        return [
            [
                (self.tokenizer.decode_text(tokens[start:]), probability)
                for tokens, probability, finished in zip(row, probabilities, flags, strict=False)
                if finished
            ]
            for row, start, probabilities, flags in zip(
                rows, starts, probability_BK, finished_BK, strict=True
            )
        ]
