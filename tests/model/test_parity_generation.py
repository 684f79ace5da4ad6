"""Greedy and beam hypotheses against those of the original's decoder, token for token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reference import RecordedSet, cases, core_model, inputs

from unival.model.constraints import TokenRange, Trie
from unival.model.generation import Hypotheses, SearchOptions, beam_search

pytestmark = pytest.mark.parity
SPECIALS = range(4)
RECORDED = cases("generation.json", lambda content: [(search["name"], search) for search in content])


def options(arguments: dict[str, Any], source_length: int) -> SearchOptions:
    """The original's generation arguments as ours."""
    return SearchOptions(
        beams=arguments["beam"],
        max_tokens=int(arguments.get("max_len_a", 0) * source_length + arguments["max_len_b"]),
        min_tokens=arguments.get("min_len", 1),
        length_penalty=arguments.get("lenpen", 1.0),
        normalised=not arguments.get("unnormalized", False),
        temperature=arguments.get("temperature", 1.0),
        no_repeat_ngram=arguments.get("no_repeat_ngram_size", 0),
    )


def assert_same(found: Hypotheses, recorded: list[list[dict[str, Any]]], pad: int) -> None:
    for row, hypotheses in enumerate(recorded):
        for rank, expected in enumerate(hypotheses):
            length = len(expected["tokens"])
            assert found.tokens[row, rank, :length].tolist() == expected["tokens"]
            assert (found.tokens[row, rank, length:] == pad).all()
            assert found.scores[row, rank].item() == pytest.approx(expected["score"], abs=1e-4)
            scores = found.token_scores[row, rank, :length].tolist()
            assert scores == pytest.approx(expected["positional_scores"], abs=1e-4)
        assert (found.scores[row, len(hypotheses) :] == -torch.inf).all()


@pytest.mark.parametrize("case", RECORDED)
def test_hypotheses(case: tuple[Path, dict[str, Any]]) -> None:
    folder, search = case
    model = core_model(folder)
    given = RecordedSet(folder).tensors("cases.safetensors", f"{search['case']}.in.")
    arguments = inputs(given)
    constraint: Any = None
    if "trie" in search:
        constraint = Trie(search["trie"], model.config.eos_token_id)
    if "constraint_range" in search:
        start, stop = map(int, search["constraint_range"].split(","))
        constraint = TokenRange(start, stop, SPECIALS, SPECIALS if search.get("gen_code") else ())
    if search.get("gen_code"):
        arguments["code_mask"] = torch.ones(len(given["src_tokens"]), dtype=torch.bool)
    prefix = torch.tensor(search["prefix_tokens"], dtype=torch.long) if search.get("prefix_tokens") else None
    found = beam_search(
        model,
        arguments,
        options(search["args"], given["src_tokens"].shape[1]),
        prefix_BP=prefix,
        constraint=constraint,
    )
    assert_same(found, search["hyps"], model.config.pad_token_id)
