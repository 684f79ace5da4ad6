"""Beam search with the semantics of the original's decoder (fairseq's), vectorised on the device.

`generate` of transformers works too; this search reproduces the original's hypotheses and scores and is
faster: the beams of a row share its encoder keys and values, nothing is computed per hypothesis on the host,
and a constraint shrinks the output projection to the tokens it can ever allow.

B rows, K beams, R rows of the decoder (B at first, then B * K), C candidates (2 K), V vocabulary, T tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from unival.model.constraints import Constraint
from unival.model.linear import linear
from unival.model.loss import at_least_float
from unival.model.modeling import UnivalForConditionalGeneration

HEAD_BLOCK = 256  # rows of the output projection in one product


@dataclass(frozen=True)
class SearchOptions:
    """How to search: lengths count generated and forced tokens, without BOS and EOS."""

    beams: int = 5
    max_tokens: int = 200
    min_tokens: int = 1
    length_penalty: float = 1.0
    """Exponent of the length (with EOS) that divides a hypothesis' score."""
    normalised: bool = True
    """False: a score is the plain sum of log-probabilities."""
    temperature: float = 1.0
    no_repeat_ngram: int = 0
    top_k: int = 0
    """Sampling: only the likeliest so many tokens; 0: all."""
    top_p: float = 1.0
    """Sampling: only the likeliest tokens that together have this probability."""


@dataclass
class Hypotheses:
    """Finished hypotheses of each row, best first.

    tokens: (B, K, T) up to and with EOS, then padding. scores: (B, K), -inf where fewer than K were found.
    token_scores: (B, K, T) log-probability of each token, 0 at padding.
    """

    tokens: Tensor
    scores: Tensor
    token_scores: Tensor


class _Head:
    """The output projection and the softmax over it.

    On a CPU a product of few rows with a large matrix takes half the time in blocks that its cache holds, and
    results of megabytes are written to the same memory at each step: new pages cost as much as the softmax.
    """

    def __init__(self, weight_VD: Tensor) -> None:
        self.weight_VD = weight_VD
        self.blocked = weight_VD.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        self.blocks = [block.t() for block in weight_VD.split(HEAD_BLOCK)]
        self.logits_RV = self.logp_RV = weight_VD.new_empty(0, 0)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """(R, V), at least float32; overwritten by the next call."""
        if not self.blocked:
            return at_least_float(linear(hidden_RD, self.weight_VD))
        if len(self.logits_RV) != len(hidden_RD):
            self.logits_RV = hidden_RD.new_empty(len(hidden_RD), len(self.weight_VD))
            self.logp_RV = torch.empty_like(at_least_float(self.logits_RV))
        for block_DV, part_RV in zip(self.blocks, self.logits_RV.split(HEAD_BLOCK, 1), strict=True):
            torch.mm(hidden_RD, block_DV, out=part_RV)
        return at_least_float(self.logits_RV)

    def log_softmax(self, logits_RV: Tensor) -> Tensor:
        """Of logits of the last call; overwritten by the next one."""
        return torch.log_softmax(logits_RV, 1, out=self.logp_RV if self.blocked else None)


@torch.no_grad()
def beam_search(
    model: UnivalForConditionalGeneration,
    inputs: Mapping[str, Any],
    options: SearchOptions,
    *,
    prefix_BP: Tensor | None = None,
    constraint: Constraint | None = None,
    draws_BT: Tensor | None = None,
) -> Hypotheses:
    """Search for the best outputs of a batch, or sample one for each row.

    A hypothesis is finished when its EOS is among the best K candidates of its row; a row is finished with K
    hypotheses or at `max_tokens`, without early stopping on scores.

    Args:
        model: in evaluation mode.
        inputs: of the encoder, or `encoder_outputs`; and `code_mask`.
        options: see `SearchOptions`.
        prefix_BP: tokens that each row starts with (a decoder prompt), padded on the right. They count in
            lengths and scores and are part of the result.
        constraint: applied before the softmax, from the end of the prefix on.
        draws_BT: samples, by these numbers in [0, 1), one for each token and EOS; needs one beam.
    """
    if draws_BT is not None and (options.beams != 1 or draws_BT.shape[1] <= options.max_tokens):
        raise ValueError("sampling needs beams = 1 and a number for each token and EOS")
    return _Search(model, dict(inputs), options, prefix_BP, constraint, draws_BT).run()


class _Search:
    """The state of one search: live beams, finished hypotheses, the decoder's cache."""

    def __init__(
        self,
        model: UnivalForConditionalGeneration,
        inputs: dict[str, Any],
        options: SearchOptions,
        prefix_BP: Tensor | None,
        constraint: Constraint | None,
        draws_BT: Tensor | None,
    ) -> None:
        self.model, self.options, self.constraint = model, options, constraint
        self.code_mask_B = inputs.pop("code_mask", None)
        self.encoded = inputs["encoder_outputs"] if "encoder_outputs" in inputs else model.encoder(**inputs)
        states_BSD = self.encoded.last_hidden_state
        self.device, self.rows = states_BSD.device, len(states_BSD)
        self.pad, self.eos = model.config.pad_token_id, model.config.eos_token_id
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.live = 1  # beams of a row: 1 until they differ, then K
        self.tokens_RT = torch.full((self.rows, 1), model.config.decoder_start_token_id, device=self.device)
        kind: Any = {"device": self.device, "dtype": torch.promote_types(states_BSD.dtype, torch.float32)}
        self.cumulative_RT = torch.zeros(self.rows, 0, **kind)
        self.state_R = torch.zeros(self.rows, dtype=torch.long, device=self.device)
        self.head = _Head(model.lm_head.weight)
        self.ids_V: Tensor | None = None  # of the head's rows; None: all
        self.columns: dict[int, int] = {}  # rows of the head by id, where they are not all
        self.draws_BT = None if draws_BT is None else draws_BT.to(self.device)
        self.prefix_BP = torch.empty(self.rows, 0, dtype=torch.long) if prefix_BP is None else prefix_BP
        self.prefix_BP = self.prefix_BP[:, : options.max_tokens].to(self.device)
        beams, length = options.beams, options.max_tokens + 1
        self.ignored_BK = torch.zeros(self.rows, beams, dtype=torch.bool, device=self.device)
        self.count_B = torch.zeros(self.rows, dtype=torch.long, device=self.device)
        # one slot more than beams takes what is not to be kept
        self.done_scores = torch.full((self.rows, beams + 1), -math.inf, **kind)
        self.done_tokens = torch.full((self.rows, beams + 1, length), self.pad, device=self.device)
        self.done_cumulative = torch.zeros(self.rows, beams + 1, length, **kind)

    def run(self) -> Hypotheses:
        """Search to the end."""
        last = self.options.max_tokens
        for step in range(self._force_common_prefix(), last + 1):
            scores_RV = self._continuations(step)
            if self.draws_BT is None:
                candidates = self._candidates(scores_RV)
            else:
                candidates = self._sampled(self.draws_BT[:, step], scores_RV)
            over_BC = self._finish(step, *candidates)
            finished = step == last
            if self.device.type == "cpu" or step % 4 == 3:  # elsewhere, looking waits for the device
                finished = finished or bool((self.count_B >= self.options.beams).all())
            if finished:
                break
            self._continue(step, over_BC, *candidates)
        return self._result()

    def _decode(self, tokens_RT: Tensor) -> Tensor:
        code_mask = None if self.code_mask_B is None else self.code_mask_B.repeat_interleave(self.live, 0)
        return self.model.decoder(tokens_RT, self.encoded, None, code_mask, self.cache)

    def _force_common_prefix(self) -> int:
        """Decode in one pass the forced tokens that all rows have; their number."""
        length = int((self.prefix_BP != self.pad).sum(1).min()) if self.prefix_BP.shape[1] else 0
        if length:
            forced_BP = self.prefix_BP[:, :length]
            hidden = self._decode(torch.cat([self.tokens_RT, forced_BP[:, :-1]], dim=1))
            logits_BPV = at_least_float(linear(hidden, self.head.weight_VD)) / self.options.temperature
            scores_BP = logits_BPV.gather(2, forced_BP[..., None])[..., 0] - logits_BPV.logsumexp(2)
            self.tokens_RT = torch.cat([self.tokens_RT, forced_BP], dim=1)
            self.cumulative_RT = scores_BP.cumsum(1)
        return length

    def _continuations(self, step: int) -> Tensor:
        """Log-probabilities of every continuation of every beam (R, V)."""
        forced_R = None
        if step < self.prefix_BP.shape[1]:
            forced_R = self.prefix_BP[:, step].repeat_interleave(self.live)
        elif self.constraint is not None and self.ids_V is None and self._few():
            self.ids_V = self.constraint.vocabulary.to(self.device)
            self.columns = {token: column for column, token in enumerate(self.ids_V.tolist())}
            self.head = _Head(self.head.weight_VD.index_select(0, self.ids_V))
        hidden_RD = self._decode(self.tokens_RT[:, -1:])[:, -1]
        logits_RV = self.head.logits(hidden_RD)
        if self.options.temperature != 1.0:
            logits_RV /= self.options.temperature
        if self.constraint is not None:
            logits_RV.masked_fill_(~self._allowed(forced_R), -math.inf)
        scores_RV = self.head.log_softmax(logits_RV)
        self._forbid(scores_RV, step, step == self.options.max_tokens, forced_R)
        return scores_RV

    def _few(self) -> bool:
        """Whether the rows of the head that a constraint needs are worth a copy."""
        return self.constraint is not None and 2 * len(self.constraint.vocabulary) < len(self.head.weight_VD)

    def _allowed(self, forced_R: Tensor | None) -> Tensor:
        """(R, V) bool over the columns of the output projection."""
        assert self.constraint is not None
        allowed_RV = self.constraint.allowed(self.state_R)
        if self.ids_V is not None:
            return allowed_RV
        if len(self.constraint.vocabulary) == len(self.head.weight_VD):  # its columns are all ids, in order
            return allowed_RV if forced_R is None else allowed_RV | (forced_R != self.pad)[:, None]
        forced_R = torch.full_like(self.state_R, self.pad) if forced_R is None else forced_R
        everything_RV = (forced_R != self.pad)[:, None].repeat(1, len(self.head.weight_VD))
        everything_RV[:, self.constraint.vocabulary.to(self.device)] |= allowed_RV
        return everything_RV

    def _column(self, token: int) -> int:
        """A token's column."""
        return token if self.ids_V is None else self.columns[token]

    def _forbid(self, scores_RV: Tensor, step: int, last: bool, forced_R: Tensor | None) -> None:
        """Apply in place what does not take part in the softmax: padding, lengths, forced tokens, n-grams."""
        eos = self._column(self.eos)
        if last:
            ending_R = scores_RV[:, eos].clone()
            scores_RV.fill_(-math.inf)[:, eos] = ending_R
        elif forced_R is not None:
            other_RV = torch.arange(len(self.head.weight_VD), device=self.device) != forced_R[:, None]
            scores_RV.masked_fill_(other_RV & (forced_R != self.pad)[:, None], -math.inf)
        elif step < self.options.min_tokens:
            scores_RV[:, eos] = -math.inf
        hidden = [self.pad] if last or self.constraint is None else [self.pad, *self.constraint.only_at_end]
        for token in hidden:
            if self.ids_V is None or token in self.columns:
                scores_RV[:, self._column(token)] = -math.inf
        size = self.options.no_repeat_ngram
        if size and not last and self.tokens_RT.shape[1] >= size:
            windows_RWn = self.tokens_RT.unfold(1, size, 1)
            start_Rn = self.tokens_RT[:, self.tokens_RT.shape[1] - size + 1 :]
            repeats_RW = (windows_RWn[..., :-1] == start_Rn[:, None]).all(2)
            banned_RW = windows_RWn[..., -1]
            if self.ids_V is not None:
                column_RW = torch.searchsorted(self.ids_V, banned_RW.contiguous()).clamp(
                    max=len(self.ids_V) - 1
                )
                repeats_RW &= self.ids_V[column_RW] == banned_RW
                banned_RW = column_RW
            penalty_RW = torch.zeros_like(repeats_RW, dtype=scores_RV.dtype).masked_fill_(
                repeats_RW, -math.inf
            )
            scores_RV.scatter_add_(1, banned_RW, penalty_RW)

    def _scores_so_far(self) -> Tensor:
        """(R, 1) the sums of the log-probabilities of each beam."""
        if self.cumulative_RT.shape[1]:
            return self.cumulative_RT[:, -1:]
        return self.cumulative_RT.new_zeros(len(self.cumulative_RT), 1)

    def _candidates(self, scores_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best 2 K continuations of each row: scores, beams and tokens, each (B, C)."""
        count = 2 * self.options.beams
        width = min(count, scores_RV.shape[1])  # no beam gives more
        # The best 2 K of a row are among the best 2 K of each of its beams, so V columns are sorted once.
        # Twice K: at most K of them end, one for each beam, and K must be left to go on with.
        best_RW, column_RW = scores_RV.topk(width)
        best_BN = (best_RW + self._scores_so_far()).view(self.rows, -1)
        if best_BN.shape[1] < count:  # a small constraint: the rest are dead ends
            best_BN = F.pad(best_BN, (0, count - best_BN.shape[1]), value=-math.inf)
        scores_BC, index_BC = best_BN.topk(count)
        index_BC = index_BC.clamp(max=self.live * width - 1)  # of the padding: any place, its score is -inf
        tokens_BC = column_RW.view(self.rows, -1).gather(1, index_BC)
        if self.ids_V is not None:
            tokens_BC = self.ids_V[tokens_BC]
        return scores_BC, index_BC // width, tokens_BC

    def _sampled(self, draws_B: Tensor, scores_BV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One drawn continuation of each row, and a dead end: scores, beams and tokens, each (B, 2)."""
        probability_BV, column_BV = scores_BV.softmax(1).nan_to_num().sort(dim=1, descending=True)
        before_BV = probability_BV.cumsum(1) - probability_BV
        probability_BV.masked_fill_(before_BV >= self.options.top_p, 0.0)
        if self.options.top_k:
            probability_BV[:, self.options.top_k :] = 0.0
        sums_BV = probability_BV.cumsum(1)
        place_B1 = torch.searchsorted(sums_BV, (draws_B * sums_BV[:, -1])[:, None].to(sums_BV), right=True)
        column_B1 = column_BV.gather(
            1, place_B1.minimum((probability_BV > 0).sum(1, keepdim=True) - 1).clamp(min=0)
        )
        scores_B1 = scores_BV.gather(1, column_B1) + self._scores_so_far()
        scores_BC = F.pad(scores_B1, (0, 1), value=-math.inf)
        tokens_B1 = column_B1 if self.ids_V is None else self.ids_V[column_B1]
        return scores_BC, torch.zeros_like(scores_BC, dtype=torch.long), tokens_B1.repeat(1, 2)

    def _finish(self, step: int, scores_BC: Tensor, beams_BC: Tensor, tokens_BC: Tensor) -> Tensor:
        """Store the candidates that end among the first K; returns (B, C) what cannot be continued."""
        beams = self.options.beams
        eos_BC = (tokens_BC == self.eos) & (scores_BC != -math.inf)
        eos_BC[:, :beams] &= ~self.ignored_BK
        # A row holds K finished hypotheses and one more slot, which is written and never read: what has not
        # ended, or comes when K are there, goes there, so that rows need no branch. Ends of one step take
        # the next slots in the order of their scores (cumsum).
        ends_BK = eos_BC[:, :beams] & (self.count_B < beams)[:, None]
        slots_BK = torch.where(ends_BK, self.count_B[:, None] + ends_BK.cumsum(1) - 1, beams).clamp(max=beams)
        self.count_B = self.count_B + ends_BK.sum(1)
        scores_BK = scores_BC[:, :beams]
        cumulative = torch.cat(
            [self._of_beams(self.cumulative_RT, beams_BC[:, :beams]), scores_BK[..., None]], 2
        )
        tokens = torch.cat(
            [self._of_beams(self.tokens_RT[:, 1:], beams_BC[:, :beams]), tokens_BC[:, :beams, None]], 2
        )
        if self.options.normalised:
            scores_BK = scores_BK / (step + 1) ** self.options.length_penalty
        slots_BKT = slots_BK[..., None].expand_as(tokens)
        self.done_scores.scatter_(1, slots_BK, scores_BK)
        self.done_tokens[..., : step + 1].scatter_(1, slots_BKT, tokens)
        self.done_cumulative[..., : step + 1].scatter_(1, slots_BKT, cumulative)
        eos_BC[:, :beams] |= self.ignored_BK
        return eos_BC

    def _of_beams(self, values_RT: Tensor, beams_BK: Tensor) -> Tensor:
        """Gather the histories (B, K, T) of the chosen beams."""
        rows_BK = torch.arange(self.rows, device=self.device)[:, None] * self.live + beams_BK
        return values_RT[rows_BK]

    def _continue(
        self, step: int, over_BC: Tensor, scores_BC: Tensor, beams_BC: Tensor, tokens_BC: Tensor
    ) -> None:
        """Go on with the best K candidates that have not ended."""
        beams, count = self.options.beams, scores_BC.shape[1]
        # The candidates are in the order of their scores: place plus C for those that are over puts these
        # behind all others. A beam whose rank is C or more goes on from a dead one: computed and ignored.
        rank_BC = over_BC * count + torch.arange(count, device=self.device)
        rank_BK, chosen_BK = rank_BC.topk(beams, largest=False)
        self.ignored_BK = rank_BK >= count
        beams_BK, tokens_BK = beams_BC.gather(1, chosen_BK), tokens_BC.gather(1, chosen_BK)
        # caches and histories have a row for each beam of each input (one at the first step, K later)
        rows_R = (torch.arange(self.rows, device=self.device)[:, None] * self.live + beams_BK).flatten()
        self.cache.self_attention_cache.reorder_cache(rows_R)  # type: ignore[arg-type]
        scores_R1 = scores_BC.gather(1, chosen_BK).view(-1, 1)
        self.tokens_RT = torch.cat([self.tokens_RT[rows_R], tokens_BK.view(-1, 1)], 1)
        self.cumulative_RT = torch.cat([self.cumulative_RT[rows_R], scores_R1], 1)
        if self.constraint is not None:
            state_R, tokens_R = self.state_R[rows_R], tokens_BK.flatten()
            advanced_R = self.constraint.advance(state_R, tokens_R)
            if step < self.prefix_BP.shape[1]:
                in_prefix_R = (self.prefix_BP[:, step] != self.pad).repeat_interleave(beams)
                advanced_R = torch.where(in_prefix_R, state_R, advanced_R)
            self.state_R = advanced_R
        self.live = beams

    def _result(self) -> Hypotheses:
        scores_BK, order_BK = self.done_scores[:, :-1].sort(dim=1, descending=True, stable=True)
        order_BKT = order_BK[..., None].expand(-1, -1, self.done_tokens.shape[2])
        tokens_BKT = self.done_tokens.gather(1, order_BKT)
        cumulative_BKT = self.done_cumulative.gather(1, order_BKT)
        token_scores_BKT = cumulative_BKT.diff(dim=2, prepend=cumulative_BKT.new_zeros(*scores_BK.shape, 1))
        return Hypotheses(tokens_BKT, scores_BK, token_scores_BKT.masked_fill(tokens_BKT == self.pad, 0.0))
