"""Constrained decoding: nothing outside the set, whatever the logits; searches that agree."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unival.engine.inference.candidates import Candidates
from unival.model.constraints import Locations, Trie
from unival.model.generation import SearchOptions, beam_search

BOS, PAD, EOS, VOCABULARY, WIDTH = 0, 1, 2, 40, 6


class RandomModel:
    """A decoder whose states depend on the row and on all tokens so far, and nothing else."""

    def __init__(self, seed, rows, scale=3.0):
        generator = torch.Generator().manual_seed(seed)
        self.config = SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=BOS)
        self.lm_head = SimpleNamespace(weight=torch.randn(VOCABULARY, WIDTH, generator=generator) * scale)
        self.embed = torch.randn(VOCABULARY, WIDTH, generator=generator)
        self.encoded = SimpleNamespace(last_hidden_state=torch.randn(rows, 1, WIDTH, generator=generator))

    def decoder(self, tokens, encoded, mask=None, code_mask=None, cache=None):
        rows = encoded.last_hidden_state[:, 0]
        rows = rows.repeat_interleave(len(tokens) // len(rows), 0)
        values = self.embed[tokens]
        if cache is not None:
            values = cache.self_attention_cache.update(values[:, None], values[:, None], 0)[0][:, 0]
        states = values.cumsum(1)[:, -tokens.shape[1] :]
        return torch.tanh(states + rows[:, None])


def random_answers(rng):
    """Few or many (so that nodes have more than 32 children), of few or nearly all tokens."""
    count = int(rng.choice([*range(1, 9), 100, 300]))
    last = int(rng.choice([14, VOCABULARY]))
    sequences = {tuple(rng.integers(4, last, int(rng.integers(1, 5))).tolist()) for _ in range(count)}
    return sorted(sequences)


def generated(tokens):
    row = [int(token) for token in tokens]
    return tuple(row[: row.index(EOS)])


@pytest.mark.parametrize("beams", [1, 3])
def test_a_trie_yields_members_only(beams):
    """320 random tries of two tests x 32 rows, each with its own logits: 10,240 searches."""
    rng = np.random.default_rng(beams)
    for seed in range(160):
        answers = random_answers(rng)
        model = RandomModel(seed, rows=32, scale=float(rng.uniform(0.1, 30)))
        found = beam_search(
            model, {"encoder_outputs": model.encoded}, SearchOptions(beams, 6, normalised=False),
            constraint=Trie(answers, EOS, VOCABULARY * (seed % 2)),
        )  # fmt: skip
        finished = (found.scores > -torch.inf).tolist()
        for row, flags in zip(found.tokens.tolist(), finished, strict=True):
            assert flags[0]
            assert all(generated(tokens) in answers for tokens, flag in zip(row, flags, strict=True) if flag)


def test_beams_and_candidates_agree_when_the_beams_suffice():
    rng = np.random.default_rng(0)
    for seed in range(60):
        answers = random_answers(rng)[:9]
        model = RandomModel(seed, rows=4)
        scores_BC = Candidates(answers, EOS, PAD).score(model, model.encoded)
        torch.testing.assert_close(scores_BC.exp().sum(1), torch.ones(4), atol=1e-4, rtol=0)
        found = beam_search(
            model, {"encoder_outputs": model.encoded}, SearchOptions(len(answers) + 1, 6, normalised=False),
            constraint=Trie(answers, EOS, VOCABULARY * (seed % 2)),
        )  # fmt: skip
        for row in range(4):
            best = answers[int(scores_BC[row].argmax())]
            assert generated(found.tokens[row, 0]) == best
            assert float(found.scores[row, 0]) == pytest.approx(float(scores_BC[row].max()), abs=1e-4)


def test_candidate_scores_are_the_renormalised_products():
    answers = [(5,), (5, 6), (7, 8, 9), (7, 8, 10), (11,)]
    model = RandomModel(1, rows=3)
    scores_BC = Candidates(answers, EOS, PAD).score(model, model.encoded)
    for row in range(3):
        one = SimpleNamespace(last_hidden_state=model.encoded.last_hidden_state[row : row + 1])
        for place, answer in enumerate(answers):
            total = 0.0
            for depth, token in enumerate([*answer, EOS]):
                children = {([*other, EOS])[depth] for other in answers if other[:depth] == answer[:depth]}
                tokens = torch.tensor([[BOS, *answer[:depth]]])
                logits = model.decoder(tokens, one)[0, -1] @ model.lm_head.weight.T
                total += float(logits[token] - logits[sorted(children)].logsumexp(0))
            assert float(scores_BC[row, place]) == pytest.approx(total, abs=1e-4)


def test_candidates_after_prompts_of_unequal_length(monkeypatch):
    answers = [(5,), (5, 6), (7, 8, 9), (12,)]
    model = RandomModel(2, rows=3)
    prefix_BP = torch.tensor([[20, 21, 22], [23, PAD, PAD], [PAD, PAD, PAD]])
    scores_BC = Candidates(answers, EOS, PAD).score(model, model.encoded, prefix_BP)
    for row, length in enumerate((3, 1, 0)):
        one = SimpleNamespace(last_hidden_state=model.encoded.last_hidden_state[row : row + 1])
        prefix = prefix_BP[row : row + 1, :length] if length else None
        alone = Candidates(answers, EOS, PAD).score(model, one, prefix)
        torch.testing.assert_close(scores_BC[row], alone[0])
    monkeypatch.setattr("unival.engine.inference.candidates.CHUNK_TOKENS", 1)
    monkeypatch.setattr("unival.engine.inference.candidates.CHUNK_SCORES", 1)
    chunked_BC = Candidates(answers, EOS, PAD).score(model, model.encoded, prefix_BP)
    torch.testing.assert_close(chunked_BC, scores_BC)


def test_one_candidate_is_certain():
    model = RandomModel(0, rows=2)
    scores_BC = Candidates([(5, 6)], EOS, PAD).score(model, model.encoded)
    assert scores_BC.tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="distinct"):
        Candidates([(5,), (5,)], EOS, PAD)


@pytest.mark.parametrize("beams", [1, 4])
def test_locations_yield_exactly_four_bins(beams):
    for seed in range(100):
        model = RandomModel(seed, rows=4, scale=20.0)
        found = beam_search(
            model, {"encoder_outputs": model.encoded}, SearchOptions(beams, 4, 4, normalised=False),
            constraint=Locations(30, 10, EOS),
        )  # fmt: skip
        for row in range(4):
            for beam in range(beams):
                tokens = generated(found.tokens[row, beam])
                assert len(tokens) == 4 and all(30 <= token < 40 for token in tokens)


def sampled(model, seed=0, **options):
    chosen = SearchOptions(1, 5, normalised=False, **options)
    draws_BT = torch.from_numpy(np.random.default_rng(seed).random((len(model.encoded.last_hidden_state), 6)))
    return beam_search(model, {"encoder_outputs": model.encoded}, chosen, draws_BT=draws_BT)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}])
def test_sampling_without_a_choice_is_greedy_search(options):
    model = RandomModel(3, rows=64, scale=1.0)
    greedy = beam_search(model, {"encoder_outputs": model.encoded}, SearchOptions(1, 5, normalised=False))
    assert torch.equal(sampled(model, **options).tokens, greedy.tokens)


def test_samples_are_distributed_as_the_model_says():
    model = RandomModel(4, rows=1, scale=1.0)
    logits_V = model.decoder(torch.tensor([[BOS]]), model.encoded)[0, -1] @ model.lm_head.weight.T
    model.encoded.last_hidden_state = model.encoded.last_hidden_state.repeat(20_000, 1, 1)
    allowed_V = torch.arange(VOCABULARY) != PAD
    allowed_V[EOS] = False  # min_tokens is 1
    for options, temperature in (
        ({}, 1.0),
        ({"temperature": 2.0}, 2.0),
        ({"top_k": 3}, 1.0),
        ({"top_p": 0.6}, 1.0),
    ):
        found = sampled(model, **options)
        expected_V = (logits_V / temperature).masked_fill(~allowed_V, -torch.inf).softmax(0)
        order_V = expected_V.argsort(descending=True)
        before_V = expected_V[order_V].cumsum(0) - expected_V[order_V]
        last = int((before_V < options.get("top_p", 1.0)).sum())
        expected_V[order_V[min(options.get("top_k", 40), last) :]] = 0.0
        share_V = torch.bincount(found.tokens[:, 0, 0], minlength=VOCABULARY) / 20_000
        assert float((share_V - expected_V / expected_V.sum()).abs().max()) < 0.015
        assert not share_V[expected_V == 0].any()
        scores = found.token_scores[:, 0, 0]
        torch.testing.assert_close(scores, (logits_V / temperature).log_softmax(0)[found.tokens[:, 0, 0]])


def test_samples_obey_the_rules():
    answers = [(5,), (5, 6), (7, 8, 9)]
    model = RandomModel(5, rows=256)
    draws_BT = torch.rand(256, 7, generator=torch.Generator().manual_seed(0))
    found = beam_search(
        model, {"encoder_outputs": model.encoded}, SearchOptions(1, 6, normalised=False),
        constraint=Trie(answers, EOS), draws_BT=draws_BT,
    )  # fmt: skip
    assert {generated(tokens) for tokens in found.tokens[:, 0].tolist()} <= set(answers)
    free = sampled(model, min_tokens=4, no_repeat_ngram=1)
    for tokens in free.tokens[:, 0].tolist():
        assert len(generated(tokens)) >= 4 and len(set(generated(tokens))) == len(generated(tokens))
    with pytest.raises(ValueError, match="beams = 1"):
        beam_search(model, {"encoder_outputs": model.encoded}, SearchOptions(2, 6), draws_BT=draws_BT)
