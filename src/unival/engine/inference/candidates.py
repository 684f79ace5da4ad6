"""The exact search over a set of answers.

Probabilities are renormalised over the trie's children, as in a beam search under `model.constraints.Trie`,
so that only nodes with several children need the decoder, and the answers' probabilities sum to one. Answers
of one token each cost one decoder position a row.

B rows, P decoder paths, T tokens, N branching nodes, E edges below them, C candidates, V' distinct tokens.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from unival.model.encoder import UnivalEncoderOutput
from unival.model.linear import linear
from unival.model.modeling import UnivalForConditionalGeneration

CHUNK_TOKENS = 32_768
"""Decoder positions scored at once."""
CHUNK_SCORES = 8_000_000
"""Scores of one node's children held at once."""


def continuations(sequences: Iterable[Sequence[int]], eos: int) -> dict[tuple[int, ...], set[int]]:
    """For every prefix of the sequences the tokens that may follow it."""
    following: dict[tuple[int, ...], set[int]] = {}
    for sequence in sequences:
        for place, token in enumerate([*sequence, eos]):
            following.setdefault(tuple(sequence[:place]), set()).add(token)
    return following


class Candidates:
    """A set of token sequences, each followed by EOS, to be scored at once.

    Raises:
        ValueError: no candidates, or one twice.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], eos: int, pad: int) -> None:
        if not sequences or len(set(map(tuple, sequences))) < len(sequences):
            raise ValueError("candidates must be distinct and at least one")
        self.size, self.pad = len(sequences), pad
        # A token that must follow has probability 1: only nodes with a choice are scored. One run of the
        # decoder along a path scores all nodes on it, so the paths are the nodes that no other goes on from.
        children = continuations(sequences, eos)
        nodes = sorted(node for node, tokens in children.items() if len(tokens) > 1)
        inner = {node[:place] for node in nodes for place in range(len(node))}
        paths = [node for node in nodes if node not in inner] or [()]
        place_of = {node: index for index, node in enumerate(nodes)}
        covering = {path[:place]: index for index, path in enumerate(paths) for place in range(len(path) + 1)}
        self.paths_PT = torch.full((len(paths), max(map(len, paths))), pad)
        for index, path in enumerate(paths):
            self.paths_PT[index, : len(path)] = torch.tensor(path, dtype=torch.long)
        self.path_N = torch.tensor([covering[node] for node in nodes], dtype=torch.long)
        self.depth_N = torch.tensor([len(node) for node in nodes], dtype=torch.long)
        # scores are taken over V' columns, the tokens of any choice; a mask (N, V') leaves each node its own
        edges = [(place_of[node], token) for node in nodes for token in sorted(children[node])]
        self.tokens_V = torch.tensor(sorted({token for _, token in edges}), dtype=torch.long)
        self.node_E = torch.tensor([node for node, _ in edges], dtype=torch.long)
        self.column_E = torch.searchsorted(
            self.tokens_V, torch.tensor([t for _, t in edges], dtype=torch.long)
        )
        self.child_NV = torch.zeros(len(nodes), len(self.tokens_V), dtype=torch.bool)
        self.child_NV[self.node_E, self.column_E] = True
        self.edges_of_C = _edges_of(sequences, eos, edges, place_of)

    def _to(self, device: torch.device) -> None:
        if self.paths_PT.device != device:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value.to(device))

    @torch.no_grad()
    def score(
        self,
        model: UnivalForConditionalGeneration,
        encoded: UnivalEncoderOutput,
        prefix_BP: Tensor | None = None,
    ) -> Tensor:
        """Log-probability of every candidate for every row, float32 (B, C).

        Args:
            model: in evaluation mode.
            encoded: its encoder's output for B rows.
            prefix_BP: tokens the decoder is given first, padded on the right.
        """
        assert encoded.last_hidden_state is not None
        rows, device = len(encoded.last_hidden_state), encoded.last_hidden_state.device
        self._to(device)
        if not len(self.path_N):
            return torch.zeros(rows, self.size, device=device)
        start_B = torch.zeros(rows, dtype=torch.long, device=device)
        if prefix_BP is not None:
            start_B = (prefix_BP != self.pad).sum(1).to(device)
        input_BPT = self._decoder_input(model.config.decoder_start_token_id, prefix_BP, start_B)
        head_VD = model.lm_head.weight.index_select(0, self.tokens_V)
        paths = max(CHUNK_TOKENS // (rows * input_BPT.shape[2]), 1)
        edge_BE = torch.empty(rows, len(self.node_E), device=device)
        for first in range(0, len(self.paths_PT), paths):
            chosen_P = slice(first, first + paths)
            hidden = model.decoder(input_BPT[:, chosen_P].flatten(0, 1), encoded)
            self._score_nodes(hidden.unflatten(0, (rows, -1)), head_VD, start_B, first, edge_BE)
        # a candidate's log-probability is the sum over its choices; short ones point at a zero at the end
        padded_BE = torch.cat([edge_BE, edge_BE.new_zeros(rows, 1)], dim=1)
        return padded_BE[:, self.edges_of_C].sum(2)

    def _decoder_input(self, bos: int, prefix_BP: Tensor | None, start_B: Tensor) -> Tensor:
        """(B, P, T): BOS, the row's prefix, the path; padding after it."""
        rows, (paths, depth) = len(start_B), self.paths_PT.shape
        longest = int(start_B.max()) if prefix_BP is not None else 0
        input_BPT = start_B.new_full((rows, paths, 1 + longest + depth), self.pad)
        input_BPT[:, :, 0] = bos
        if prefix_BP is not None and longest:
            input_BPT[:, :, 1 : 1 + longest] = prefix_BP[:, None, :longest].to(start_B.device)
        # the path begins behind BOS and the row's own prefix, whose lengths differ: padding goes to the end
        place_BT = 1 + start_B[:, None] + torch.arange(depth, device=start_B.device)
        place_BPT = place_BT[:, None].expand(rows, paths, depth)
        return input_BPT.scatter_(2, place_BPT, self.paths_PT.expand(rows, paths, depth))

    def _score_nodes(
        self, hidden_BPTD: Tensor, head_VD: Tensor, start_B: Tensor, first: int, edge_BE: Tensor
    ) -> None:
        """Write the log-probability of the edges below the nodes that these paths cover."""
        rows = torch.arange(len(start_B), device=start_B.device)[:, None]
        mine = (self.path_N >= first) & (self.path_N < first + hidden_BPTD.shape[1])
        for nodes_N in mine.nonzero()[:, 0].split(max(CHUNK_SCORES // (len(start_B) * len(head_VD)), 1)):
            # the decoder's output at a place predicts the token after it: BOS is at 0, so no 1 is added here
            place_BN = start_B[:, None] + self.depth_N[nodes_N]
            hidden_BND = hidden_BPTD[rows, self.path_N[nodes_N] - first, place_BN]
            logits_BNV = linear(hidden_BND, head_VD).float()
            logits_BNV.masked_fill_(~self.child_NV[nodes_N], -torch.inf)
            scores_BNV = logits_BNV.log_softmax(-1)
            edges_E = torch.isin(self.node_E, nodes_N).nonzero()[:, 0]
            local_E = torch.searchsorted(nodes_N, self.node_E[edges_E])
            edge_BE[:, edges_E] = scores_BNV[:, local_E, self.column_E[edges_E]]


def _edges_of(
    sequences: Sequence[Sequence[int]],
    eos: int,
    edges: list[tuple[int, int]],
    place_of: dict[tuple[int, ...], int],
) -> Tensor:
    """(C, longest): the edges on each candidate's way, padded with E, the index of a zero."""
    index = {edge: place for place, edge in enumerate(edges)}
    rows = [
        [
            index[place_of[tuple(sequence[:place])], token]
            for place, token in enumerate([*sequence, eos])
            if tuple(sequence[:place]) in place_of
        ]
        for sequence in sequences
    ]
    table = torch.full((len(rows), max(max(map(len, rows)), 1)), len(edges))
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    return table
