"""What constraints cost in decoding: a beam search inside a set against the same search without a set.

    PYTHONPATH=src python benchmarks/decode.py [--rounds 9]

A base-size decoder with random weights (vocabulary 59,457), beam 5, eight rows, four tokens each: both
searches take the same steps. They alternate; `ours` and `baseline` are medians of the CPU seconds of a
search, `ratio` is the median over the rounds of the ratio within a round. One JSON line per row: name, ours,
baseline, ratio, unit.

trie/3129      3,129 answers of four tokens (the size of VQA's answer set), masked before the softmax
trie/50000     50,000 answers
locations      exactly four of 1,000 location tokens (grounding)
candidates     every one of 3,129 answers of one token scored, against a beam search in the same trie
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from unival.engine.inference.candidates import Candidates
from unival.model import UnivalConfig, UnivalForConditionalGeneration
from unival.model.constraints import Constraint, Locations, Trie
from unival.model.generation import SearchOptions, beam_search

ROWS, TOKENS, SOURCE = 8, 4, 40
BIN_OFFSET, BINS, EOS, PAD = 58457, 1000, 2, 1


def answers(count: int, length: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(count)
    made: set[tuple[int, ...]] = set()
    while len(made) < count:
        made.add(tuple(torch.randint(4, 50000, (length,), generator=generator).tolist()))
    return sorted(made)


def compare(name: str, ours: Callable[[], object], baseline: Callable[[], object], rounds: int) -> None:
    times: list[tuple[float, float]] = []
    for turn in range(rounds + 1):
        pair = []
        for run in (ours, baseline):
            start = time.process_time()
            run()
            pair.append(time.process_time() - start)
        if turn:  # the first round warms up
            times.append((pair[0], pair[1]))
    row = {
        "name": name,
        "ours": round(statistics.median(a for a, _ in times), 4),
        "baseline": round(statistics.median(b for _, b in times), 4),
        "ratio": round(statistics.median(a / b for a, b in times), 3),
        "unit": "s",
    }
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = UnivalForConditionalGeneration(UnivalConfig()).eval().requires_grad_(False)
    encoded = model.encoder(input_ids=torch.randint(4, 50000, (ROWS, SOURCE)))
    inputs = {"encoder_outputs": encoded}
    options = SearchOptions(5, TOKENS, TOKENS, normalised=False)

    def search(constraint: Constraint | None) -> Callable[[], object]:
        return lambda: beam_search(model, inputs, options, constraint=constraint)

    sets: dict[str, Constraint] = {
        f"trie/{count}": Trie(answers(count, TOKENS), EOS, len(model.lm_head.weight))
        for count in (3129, 50_000)
    }
    for name, constraint in {**sets, "locations": Locations(BIN_OFFSET, BINS, EOS)}.items():
        compare(name, search(constraint), search(None), rounds)
    short = answers(3129, 1)
    candidates, trie = Candidates(short, EOS, PAD), Trie(short, EOS)
    one = SearchOptions(5, 1, 1, normalised=False)
    compare(
        "candidates",
        lambda: candidates.score(model, encoded),
        lambda: beam_search(model, inputs, one, constraint=trie),
        rounds,
    )


if __name__ == "__main__":
    main()
