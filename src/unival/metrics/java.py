"""Caption metrics that need Java: Stanford's PTB tokeniser, METEOR 1.5, SPICE where its models are.

Everything here is under names that end in `_ptb`, since the tokeniser differs from the one of `caption.py`.
"""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unival.errors import UserError
from unival.metrics import caption

TOKENISER = "tokenizer/stanford-corenlp-3.4.1.jar"
SPICE_MODELS = "spice/lib/stanford-corenlp-3.6.0-models.jar"
_DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""The tokens COCO's evaluation drops. The text is lower case by then, so that `-lrb-` stays."""


def available() -> bool:
    """Whether there is a Java to run."""
    return shutil.which("java") is not None


def _package() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("caption metrics: pycocoevalcap is not installed: pip install pycocoevalcap==1.2")
    return Path(next(iter(spec.submodule_search_locations)))


def ptb_tokenise(texts: Sequence[str]) -> list[str]:
    """The tokens of each text without punctuation, joined by spaces, by one call of Stanford's PTBTokenizer.

    All texts in their order, as the official evaluation gives them: the tokeniser looks at the next line.

    Raises:
        UserError: there is no Java, or the tokeniser gave another number of lines.
    """
    if not available():
        raise UserError(
            "caption metrics *_ptb: no Java found: install a JRE or use the metrics without `_ptb`"
        )
    command = ["java", "-cp", str(_package() / TOKENISER), "edu.stanford.nlp.process.PTBTokenizer"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as handle:
        handle.write("\n".join(" ".join(text.splitlines()) for text in texts))
        handle.flush()
        run = subprocess.run(
            [*command, "-preserveLines", "-lowerCase", handle.name], capture_output=True, check=True
        )
    lines = run.stdout.decode().split("\n")[: len(texts)]
    if len(lines) != len(texts):
        raise UserError(f"PTBTokenizer: {len(lines)} lines of {len(texts)} texts")
    return [" ".join(token for token in line.rstrip().split(" ") if token not in _DROPPED) for line in lines]


class Official(NamedTuple):
    """Scores with the official tokeniser; all names end in `_ptb`."""

    rows: dict[str, np.ndarray]
    """name -> score of every row, (rows,)."""
    corpus: dict[str, float]
    """name -> official score of the whole; for BLEU and METEOR that is not the mean of the rows."""


def scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Official:
    """BLEU, ROUGE-L, CIDEr-D, METEOR; SPICE and SPIDEr too where SPICE's models are installed."""
    truth = iter(ptb_tokenise([text for row in references for text in row]))
    tokenised = [[next(truth) for _ in row] for row in references]
    guesses = ptb_tokenise(candidates)
    rows = {
        "cider_ptb": caption.cider(guesses, tokenised, str),
        "rouge_l_ptb": caption.rouge_l(guesses, tokenised, str),
    }
    if (_package() / SPICE_MODELS).exists():
        rows["spice_ptb"] = _spice(candidates, references)
        rows["spider_ptb"] = (rows["spice_ptb"] + rows["cider_ptb"]) / 2
    corpus = {name: float(values.mean()) for name, values in rows.items()}
    sums = caption.bleu_statistics(guesses, tokenised, str).sum(0)
    for order in range(1, caption.ORDERS + 1):
        corpus[f"bleu_{order}_ptb"] = float(caption.bleu_of(order)(sums))
    corpus["meteor_ptb"], rows["meteor_ptb"] = _meteor(guesses, tokenised)
    return Official(rows, corpus)


def _meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    from pycocoevalcap.meteor.meteor import Meteor

    truth = {index: list(row) for index, row in enumerate(references)}
    guess = {index: [candidate] for index, candidate in enumerate(candidates)}
    corpus, rows = Meteor().compute_score(truth, guess)
    return float(corpus), np.array([float(row) for row in rows])


def _spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    from pycocoevalcap.spice.spice import Spice

    truth = {index: list(row) for index, row in enumerate(references)}
    guess = {index: [candidate] for index, candidate in enumerate(candidates)}
    _, rows = Spice().compute_score(truth, guess)
    return np.array([row["All"]["f"] for row in rows])
