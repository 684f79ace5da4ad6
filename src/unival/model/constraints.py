"""What limits the tokens of a beam search: a range, four locations, or a trie of answers.

R rows of the decoder, V' tokens that a constraint can ever allow.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

LOCATIONS = 4
WIDE = 32
"""A node of a trie with more children has a row of its own."""


class Constraint(Protocol):
    """Limits the tokens of a search. Its state is one integer per hypothesis, -1 where no state is left."""

    vocabulary: Tensor
    """(V',) ids of all tokens it can ever allow, ascending, EOS among them."""
    only_at_end: Sequence[int]
    """Ids that count in the softmax but can only be chosen at the last step."""

    def allowed(self, state_R: Tensor) -> Tensor:
        """(R, V') bool: the tokens in the softmax."""

    def advance(self, state_R: Tensor, tokens_R: Tensor) -> Tensor:
        """The states after these tokens; a search starts in state 0."""


class TokenRange:
    """Tokens start..stop-1 and the special ones (grounding: the location bins).

    For image codes the specials are `only_at_end`: the original removes them after the softmax.
    """

    def __init__(
        self, start: int, stop: int, specials: Sequence[int], only_at_end: Sequence[int] = ()
    ) -> None:
        self.vocabulary = torch.tensor(sorted({*specials, *range(start, stop)}))
        self.only_at_end = only_at_end

    def allowed(self, state_R: Tensor) -> Tensor:
        """The whole range."""
        return torch.ones(1, len(self.vocabulary), dtype=torch.bool, device=state_R.device)

    def advance(self, state_R: Tensor, tokens_R: Tensor) -> Tensor:
        """A range has no state."""
        return state_R


class Locations:
    """Exactly four location tokens, then the end: always a box. The state counts tokens."""

    only_at_end: Sequence[int] = ()

    def __init__(self, bin_offset: int, num_bins: int, eos: int) -> None:
        self.vocabulary = torch.tensor(sorted([eos, *range(bin_offset, bin_offset + num_bins)]))
        self.is_eos_V = self.vocabulary == eos

    def allowed(self, state_R: Tensor) -> Tensor:
        """(R, V') bool: locations while there are fewer than four, then EOS."""
        return (state_R >= LOCATIONS)[:, None] == self.is_eos_V.to(state_R.device)[None]

    def advance(self, state_R: Tensor, tokens_R: Tensor) -> Tensor:
        """One more token."""
        return state_R + 1


class Trie:
    """Exactly one of the given token sequences, then EOS (VQA and entailment answers).

    E edges. The children of N nodes: a row of the vocabulary for each of the W that have many of them, at
    most M columns for the others, where the column after the last stands for none.
    """

    only_at_end: Sequence[int] = ()

    def __init__(self, sequences: Iterable[Sequence[int]], eos: int, vocabulary_size: int = 0) -> None:
        """`vocabulary_size`: the model's; a trie with most of its tokens then needs no table of columns."""
        nodes: list[dict[int, int]] = [{}]
        for sequence in sequences:
            node = 0
            for token in sequence:
                if token not in nodes[node]:
                    nodes[node][token] = len(nodes)
                    nodes.append({})
                node = nodes[node][token]
            nodes[node][eos] = -1
        # An edge is the number node * V' + column, and the numbers ascend: a child is found by bisection in
        # all rows at once, in memory that grows with the edges and not with nodes times tokens.
        edges = sorted(
            (node, token, child) for node, children in enumerate(nodes) for token, child in children.items()
        )
        self.vocabulary = torch.tensor(sorted({token for _, token, _ in edges}))
        if 2 * len(self.vocabulary) >= vocabulary_size > 0:
            self.vocabulary = torch.arange(vocabulary_size)
        node_E, token_E, self.child_E = torch.tensor(edges).T.contiguous()
        column_E = torch.searchsorted(self.vocabulary, token_E)
        self.edge_E = node_E * len(self.vocabulary) + column_E  # ascending
        # What a node allows is needed as a row over V'. Near the root few nodes have many children: their
        # rows are kept whole. Deep down many have a few: their columns are scattered into an empty row.
        counts_N = torch.bincount(node_E, minlength=len(nodes))
        wide_W = (counts_N > WIDE).nonzero()[:, 0]
        self.row_N = torch.zeros(len(nodes) + 1, dtype=torch.long)  # the last: state -1, the path has left
        self.row_N[wide_W] = torch.arange(1, len(wide_W) + 1)
        self.open_WV = torch.zeros(len(wide_W) + 1, len(self.vocabulary) + 1, dtype=torch.bool)
        wide_E = self.row_N[node_E] > 0
        self.open_WV[self.row_N[node_E[wide_E]], column_E[wide_E]] = True
        self.narrow_NM = torch.full((len(nodes) + 1, min(WIDE, int(counts_N.max()))), len(self.vocabulary))
        # edges are in the order of their nodes: number of an edge less that of its node's first
        place_E = torch.arange(len(node_E)) - (counts_N.cumsum(0) - counts_N)[node_E]
        self.narrow_NM[node_E[~wide_E], place_E[~wide_E]] = column_E[~wide_E]
        self.narrow_NM[-1, 0] = torch.searchsorted(self.vocabulary, eos)  # state -1 allows EOS alone

    def _to(self, device: torch.device) -> None:
        if self.edge_E.device != device:
            for name in ("vocabulary", "child_E", "edge_E", "row_N", "open_WV", "narrow_NM"):
                setattr(self, name, getattr(self, name).to(device))

    def allowed(self, state_R: Tensor) -> Tensor:
        """The children of each node; EOS alone where the path has left the trie."""
        self._to(state_R.device)
        open_RV = self.open_WV[self.row_N[state_R]]
        return open_RV.scatter_(1, self.narrow_NM[state_R], True)[:, :-1]

    def advance(self, state_R: Tensor, tokens_R: Tensor) -> Tensor:
        """The child along each token, -1 where there is none."""
        self._to(state_R.device)
        # bisection gives a place for what is not there, too, maybe one beyond the last: looked at afterwards
        column_R = torch.searchsorted(self.vocabulary, tokens_R).clamp(max=len(self.vocabulary) - 1)
        edge_R = state_R * len(self.vocabulary) + column_R
        place_R = torch.searchsorted(self.edge_E, edge_R).clamp(max=len(self.edge_E) - 1)
        there_R = (self.edge_E[place_R] == edge_R) & (self.vocabulary[column_R] == tokens_R) & (state_R >= 0)
        return torch.where(there_R, self.child_E[place_R], -1)
