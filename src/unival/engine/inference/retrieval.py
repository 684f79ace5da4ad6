"""Zero-shot retrieval by matching: of every pair of a medium and a text, how likely they belong together.

The model reads both in one sequence, as it was pretrained to (docs/reference.md 2.4): there is no index to
look up, and the time grows with the number of pairs.

M media, C texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from unival.engine.inference.predictor import Predictor
from unival.errors import UserError
from unival.metrics import retrieval
from unival.metrics.bootstrap import Interval, interval
from unival.record import Modality, Record

DEPTHS = (1, 5, 10)
TASKS: dict[Modality, tuple[str, str]] = {
    "image": ("caption", "matching"),
    "video": ("video_caption", "video_matching"),
}
"""The task whose rows give media and texts, and the task that compares them."""
BATCH = 256
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


def match(predictor: Predictor, modality: Modality, wanted: Gallery) -> np.ndarray:
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
            asked = [predictor.question(modality, key, text, TASKS[modality][1]) for text in part]
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
