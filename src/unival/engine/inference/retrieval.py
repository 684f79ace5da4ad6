"""Zero-shot retrieval: of every pair of a medium and a text, how well they go together.

By captioning: how much likelier the text is as the medium's caption than as that of the others. Or by
matching: the model reads both in one sequence and says "yes" or "no", as in pretraining (docs/reference.md
2.4). Neither has an index to look up: the time grows with the number of pairs.

M media, C texts, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from unival.engine.batches.builder import BatchBuilder, pad_rows
from unival.engine.batches.rows import Rows
from unival.engine.batches.views import FixedViews
from unival.engine.inference.predict import encoder_inputs
from unival.engine.inference.predictor import DEFAULTS, Predictor
from unival.errors import UserError
from unival.metrics import retrieval
from unival.metrics.bootstrap import Interval, interval
from unival.model.loss import IGNORED
from unival.record import Modality, Record

DEPTHS = (1, 5, 10)
CAPTIONING: dict[Modality, str] = {modality: task for modality, (task, _) in DEFAULTS.items()}
"""The task whose rows give media and texts."""
MATCHING: dict[Modality, str] = {"image": "matching", "video": "video_matching"}
"""The task that compares them."""
BATCH = 64
"""Texts that a medium is compared with at once."""


@dataclass(frozen=True)
class Gallery:
    """Media, and the texts that are looked for among all of them."""

    media: Sequence[Record]
    texts: Sequence[str]
    relevant_MC: np.ndarray
    """Whether a text is one of the medium's own; texts that read alike are one."""


def gallery(rows: Sequence[Record], texts: int) -> Gallery:
    """The media of captioning rows, with the first `texts` captions of each.

    Raises:
        UserError: no rows, or one without a caption.
    """
    own = [dict.fromkeys(row.references[:texts]) for row in rows]
    if not own or not all(own):
        raise UserError("retrieval needs rows with captions: take another split")
    shown = list(dict.fromkeys(text for captions in own for text in captions))
    place = {text: number for number, text in enumerate(shown)}
    relevant_MC = np.zeros((len(own), len(shown)), dtype=bool)
    for medium, captions in enumerate(own):
        relevant_MC[medium, [place[text] for text in captions]] = True
    return Gallery(rows, shown, relevant_MC)


@torch.no_grad()
def captioned(predictor: Predictor, modality: Modality, wanted: Gallery) -> np.ndarray:
    """log p(text | medium) - log p(text) for every pair, (M, C); the media are in the predictor's store.

    p(text) is the mean over the gallery's media: without it, texts that are likely of anything come first. In
    the other direction it changes nothing. Source: Lin et al. 2024, arXiv:2306.01879, section 4.

    Raises:
        UserError: a text that is too long for the model.
    """
    model, task = predictor.model, CAPTIONING[modality]
    rows = predictor.rows(
        [predictor.question(modality, row.media()[0][1], task=task) for row in wanted.media]
    )
    written = _written(predictor, rows, wanted.texts)
    order = sorted(range(len(written)), key=lambda place: len(written[place]))
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]  # of like length
    builder, view = BatchBuilder(predictor.processor), FixedViews(predictor.processor)
    logp_MC = torch.empty(len(rows.records), len(written))
    for record, logp_C in zip(tqdm(rows.records, unit=" media", disable=None), logp_MC, strict=True):
        encoded = model.encoder(**encoder_inputs(builder, view, rows, [record], model.device)[0])
        for part in parts:
            labels_CT = pad_rows([written[place] for place in part], IGNORED).to(model.device)
            shifted_CT = model.prepare_decoder_input_ids_from_labels(labels_CT)
            logits_CTV = model(decoder_input_ids=shifted_CT, encoder_outputs=encoded).logits.float()
            loss_N = F.cross_entropy(
                logits_CTV.flatten(0, 1), labels_CT.flatten(), ignore_index=IGNORED, reduction="none"
            )
            logp_C[part] = -loss_N.view_as(labels_CT).sum(1).cpu()
    return (logp_MC - logp_MC.logsumexp(0) + np.log(len(logp_MC))).numpy()


def _written(predictor: Predictor, rows: Rows, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts in the form in which the task trains captions, with EOS."""
    tokenizer, rng = predictor.processor.tokenizer, np.random.default_rng(0)  # there is nothing to draw
    written = []
    for text in texts:
        (example,) = rows.task.finetuning(replace(rows.records[0], references=(text,)), rng)
        written.append([*tokenizer.encode_text(example.target), tokenizer.eos_token_id])
        if len(written[-1]) > predictor.model.config.max_target_positions:
            raise UserError(f"'{text[:40]}...': too long a caption for the model: shorten it")
    return written


def matched(predictor: Predictor, modality: Modality, wanted: Gallery) -> np.ndarray:
    """Log-odds of "yes" for every pair, (M, C); the media are in the predictor's store.

    Raises:
        UserError: a text that is too long for the model.
    """
    place = {text: number for number, text in enumerate(wanted.texts)}
    texts = sorted(wanted.texts, key=len)  # those of a batch are of like length
    odds_MC = np.empty((len(wanted.media), len(texts)))
    for row, odds_C in zip(tqdm(wanted.media, unit=" media", disable=None), odds_MC, strict=True):
        ((_, key),) = row.media()
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            asked = [predictor.question(modality, key, text, MATCHING[modality]) for text in part]
            for text, made in zip(part, predictor.answer(asked, alternatives=1), strict=True):
                said = {made.text: made.score, **dict(made.alternatives)}
                odds_C[place[text]] = np.log(said["yes"]) - np.log(said["no"])
    return odds_MC


def recalls(
    folds: Sequence[tuple[Gallery, np.ndarray]], modality: Modality
) -> Iterator[tuple[str, Interval, float, int]]:
    """(name, recall with its interval, that of a random order, queries) of both directions and every depth.

    Folds are searched each by itself and count together. Queries about one medium are drawn together.
    """
    # texts for a medium, then media for a text
    tables = [(f.relevant_MC, odds_MC, [row.id for row in f.media]) for f, odds_MC in folds]
    turned = [
        (relevant_MC.T, odds_MC.T, [ids[medium] for medium in relevant_MC.argmax(axis=0)])
        for relevant_MC, odds_MC, ids in tables
    ]
    for name, parts in ((f"{modality}_to_text", tables), (f"text_to_{modality}", turned)):
        ranks_Q = np.concatenate([retrieval.ranks(odds, relevant) for relevant, odds, _ in parts])
        media = [medium for *_, ids in parts for medium in ids]
        for depth in DEPTHS:
            found_Q = (ranks_Q <= depth).astype(np.float64)
            chance = np.concatenate([retrieval.chance(relevant, depth) for relevant, *_ in parts]).mean()
            yield f"{name}_r@{depth}", interval(found_Q, groups=media), float(chance), len(ranks_Q)
