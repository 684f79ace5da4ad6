"""Caption metrics that need Java: Stanford's PTB tokeniser, METEOR 1.5, and SPICE where its models are installed.

Everything here is under names that end in `_ptb`, since the tokeniser differs from the one of `caption.py`.
"""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unival.errors import UserError
from unival.metrics import caption

TOKENISER = "tokenizer/stanford-corenlp-3.4.1.jar"
SPICE_MODELS = "spice/lib/stanford-corenlp-3.6.0-models.jar"
_DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""The tokens COCO's evaluation drops. The text is lower case by then, so that `-lrb-` stays: theirs to keep."""


def available() -> bool:
    """Whether there is a Java to run."""
    return shutil.which("java") is not None


def _package() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("caption metrics: pycocoevalcap is not installed: pip install pycocoevalcap==1.2")
    return Path(next(iter(spec.submodule_search_locations)))


def ptb_tokenise(texts: Sequence[str]) -> dict[str, str]:
    """text -> its tokens without punctuation, joined by spaces, by one call of Stanford's PTBTokenizer."""
    unique = list(dict.fromkeys(texts))
    if not available():
        raise UserError(
            "caption metrics *_ptb: no Java found: install a JRE or use the metrics without `_ptb`"
        )
    command = ["java", "-cp", str(_package() / TOKENISER), "edu.stanford.nlp.process.PTBTokenizer"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as handle:
        handle.write("\n".join(text.replace("\n", " ") for text in unique))
        handle.flush()
        run = subprocess.run(
            [*command, "-preserveLines", "-lowerCase", handle.name], capture_output=True, check=True
        )
    lines = run.stdout.decode().split("\n")
    return {
        text: " ".join(token for token in line.rstrip().split(" ") if token not in _DROPPED)
        for text, line in zip(unique, lines, strict=False)
    }


def row_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """`cider_ptb`, `rouge_l_ptb`, `meteor_ptb` of every row, and `spice_ptb`, `spider_ptb` with SPICE's models."""
    tokens = ptb_tokenise([*candidates, *(text for row in references for text in row)]).__getitem__
    scores = {
        "cider_ptb": caption.cider(candidates, references, tokens),
        "rouge_l_ptb": caption.rouge_l(candidates, references, tokens),
        "meteor_ptb": _meteor(
            [tokens(text) for text in candidates], [[tokens(text) for text in row] for row in references]
        ),
    }
    if (_package() / SPICE_MODELS).exists():
        scores["spice_ptb"] = _spice(candidates, references)
        scores["spider_ptb"] = (scores["spice_ptb"] + scores["cider_ptb"]) / 2
    return scores


def bleu_statistics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """`caption.bleu_statistics` with Stanford's tokens."""
    tokens = ptb_tokenise([*candidates, *(text for row in references for text in row)]).__getitem__
    return caption.bleu_statistics(candidates, references, tokens)


def meteor_corpus(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR of the whole corpus, which is not the mean of its rows."""
    tokens = ptb_tokenise([*candidates, *(text for row in references for text in row)]).__getitem__
    return _run_meteor([tokens(c) for c in candidates], [[tokens(r) for r in row] for row in references])[0]


def _meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array(_run_meteor(candidates, references)[1])


def _run_meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    from pycocoevalcap.meteor.meteor import Meteor

    truth = {index: list(row) for index, row in enumerate(references)}
    guess = {index: [candidate] for index, candidate in enumerate(candidates)}
    corpus, rows = Meteor().compute_score(truth, guess)
    return float(corpus), [float(row) for row in rows]


def _spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    from pycocoevalcap.spice.spice import Spice

    truth = {index: list(row) for index, row in enumerate(references)}
    guess = {index: [candidate] for index, candidate in enumerate(candidates)}
    _, rows = Spice().compute_score(truth, guess)
    return np.array([row["All"]["f"] for row in rows])
