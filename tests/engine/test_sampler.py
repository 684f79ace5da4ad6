"""The rows of a step are a pure function; quotas are exact; nothing repeats before all was seen."""

import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unival import config
from unival.engine.batches.mixture import Mixture, MixtureConfig, StreamConfig, micro_batches
from unival.engine.batches.sampler import Sampler, permutation
from unival.engine.settings import ConflictConfig, OptimizerConfig, TrainConfig, described
from unival.errors import UserError

SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1)


@st.composite
def samplers(draw):
    sizes = draw(SIZES)
    streams = [StreamConfig(task, rows=draw(st.integers(1, 9))) for task in sizes]
    if len(streams) > 1 and draw(st.booleans()):
        streams[-1] = StreamConfig(streams[-1].task, every=draw(st.integers(1, 8)))
    rows = sum(stream.rows for stream in streams)
    block = draw(st.sampled_from([0, 1, 3, 7]))
    mixture = MixtureConfig(rows, streams, balanced=draw(st.booleans()), block=block)
    return Sampler(Mixture(mixture, sizes), seed=draw(st.integers(0, 2**32)))


@settings(max_examples=60)
@given(samplers(), st.integers(0, 500))
def test_pure_function_of_the_step(sampler, step):
    rows = sampler.global_rows(step)
    for other in (step + 1, 0):
        sampler.global_rows(other)
    permutation.cache_clear()
    again = Sampler(sampler.mixture, sampler.seed)
    assert again.global_rows(step) == rows
    assert [ref.rng(3).random() for ref in again.global_rows(step)] == [ref.rng(3).random() for ref in rows]


@settings(max_examples=60)
@given(samplers(), st.integers(0, 50))
def test_same_global_batch_for_any_ranks_and_accumulation(sampler, step):
    expected = Counter(sampler.global_rows(step))
    for world in (1, 2, 4):
        for accumulate in (1, 2, 4):
            dealt = Counter()
            for rank in range(world):
                for part in sampler.rows(step, rank, world, accumulate):
                    dealt.update(part)
            assert dealt == expected


@settings(max_examples=60)
@given(samplers())
def test_no_row_repeats_before_all_were_seen(sampler):
    drawn = {}
    for step in range(30):
        for ref in sampler.global_rows(step):
            drawn.setdefault(ref.stream, []).append(ref)
    for refs in drawn.values():
        assert [ref.position for ref in refs] == list(range(len(refs)))
        pool = sampler.mixture.tasks if refs[0].stream == "all" else (refs[0].stream,)
        size = sampler.mixture.size(pool)
        for start in range(0, len(refs), size):
            part = [(ref.task, ref.index) for ref in refs[start : start + size]]
            assert len(set(part)) == len(part)
            assert len(part) < size or set(part) == {
                (task, index) for task in pool for index in range(sampler.mixture.sizes[task])
            }


def test_quotas_and_auxiliary_streams_are_exact():
    streams = [StreamConfig("caption", 6), StreamConfig("vqa", 3), StreamConfig("cc12m", every=4)]
    sizes = {"caption": 100, "vqa": 7, "cc12m": 11}
    sampler = Sampler(Mixture(MixtureConfig(9, streams), sizes), 0)
    counts = [Counter(ref.task for ref in sampler.global_rows(step)) for step in range(40)]
    assert all(count["caption"] == 6 and count["vqa"] == 3 for count in counts)
    # one auxiliary row whenever (main rows so far) % 4 == 0, as the original counts
    assert [count["cc12m"] for count in counts[:4]] == [2, 1, 2, 1]
    assert sum(count["cc12m"] for count in counts) == 40 * 6 / 4


def test_proportional_weighs_by_size():
    streams = [StreamConfig("large", 5), StreamConfig("small", 5)]
    mixture = Mixture(MixtureConfig(10, streams, balanced=False), {"large": 900, "small": 100})
    drawn = Counter(ref.task for step in range(100) for ref in Sampler(mixture, 1).global_rows(step))
    assert drawn == {"large": 900, "small": 100}


def test_passes_differ_and_depend_on_the_seed():
    orders = [permutation(seed, "a", epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_dealing_keeps_the_share_of_every_task():
    streams = [StreamConfig("a", 8), StreamConfig("b", 4)]
    sampler = Sampler(Mixture(MixtureConfig(12, streams), {"a": 50, "b": 50}), 0)
    for rank in range(4):
        (part,) = sampler.rows(5, rank, world=4)
        assert Counter(ref.task for ref in part) == {"a": 2, "b": 1}


def test_a_share_of_the_rows_is_the_first_of_them():
    """They come again when all have been seen; at least one is there."""
    streams = [StreamConfig("a", 5, share=0.1), StreamConfig("b", 1, share=1e-6)]
    sampler = Sampler(Mixture(MixtureConfig(6, streams), {"a": 100, "b": 100}), 0)
    refs = [ref for step in range(2) for ref in sampler.global_rows(step)]
    assert sorted(ref.index for ref in refs if ref.task == "a") == list(range(10))
    assert [ref.index for ref in refs if ref.task == "b"] == [0, 0]


BLOCK = 10
"""Rows. A stream of 2,560 or more has 256 lanes."""


def in_blocks(rows, **streams):
    mixture = MixtureConfig(rows * len(streams), [StreamConfig(task, rows) for task in streams], block=BLOCK)
    return Sampler(Mixture(mixture, streams), seed=5)


@pytest.mark.parametrize("size", [8192, 8195])
def test_a_rank_meets_its_own_part_of_the_blocks(size):
    """Side by side, in all passes, but for the few rows that do not divide."""
    sampler = in_blocks(1000, a=size, b=size // 2)
    met = {rank: {"a": set(), "b": set()} for rank in range(4)}
    for step in range(3 * size // 1000):
        for rank, tasks in met.items():
            for ref in sampler.rows(step, rank, world=4)[0]:
                tasks[ref.task].add(ref.index)
    for task, rows in sampler.mixture.sizes.items():
        parts = [tasks[task] for tasks in met.values()]
        assert set.union(*parts) == set(range(rows))
        divided = rows - rows % 256
        assert [{4 * row // divided for row in part if row < divided} for part in parts] == [
            {0},
            {2},
            {1},
            {3},
        ]


def test_a_block_is_read_to_its_end_and_shuffled():
    sampler = in_blocks(256, a=256 * 25)  # a lane has blocks of 10, 10 and 5 rows
    orders = set()
    for lane in range(9):
        rows = [sampler.rows(step, lane, 256)[0][0].index % 25 for step in range(50)]
        for one in (rows[:25], rows[25:]):
            assert sorted(one) == list(range(25)) != one
            blocks = [row // BLOCK for row in one]
            assert sum(before != after for before, after in pairwise(blocks)) == 2
            orders.add(tuple(dict.fromkeys(blocks)))
    assert len(orders) > 1


def test_models_that_are_older_than_an_option_stay_those_of_their_settings():
    plain, used = (
        described(
            TrainConfig(
                9, MixtureConfig(8, [StreamConfig("a", 8)], block=block), OptimizerConfig(1.0), 0,
                conflict=conflict,
            )
        )
        for block, conflict in ((0, None), (BLOCK, ConflictConfig()))
    )  # fmt: skip
    assert used["mixture"].pop("block") == BLOCK and used.pop("conflict")["points"] > 1
    assert plain == used


def test_few_rows_are_shuffled_as_one_block():
    sampler = in_blocks(4, a=BLOCK)
    rows = [ref.index for step in range(5) for ref in sampler.global_rows(step)]
    assert sorted(rows[:BLOCK]) == sorted(rows[BLOCK:]) == list(range(BLOCK))
    assert rows[:BLOCK] != rows[BLOCK:]


def test_memory_does_not_grow_with_the_rows():
    """Of a rank: the order of the blocks of its lanes, and the rows of those that are open."""
    for size in (10**6, 10**9):
        sampler = Sampler(Mixture(MixtureConfig(256, [StreamConfig("a", 256)], block=10_000), {"a": size}), 0)
        tracemalloc.start()
        for step in range(0, 4000, 200):
            sampler.rows(step, rank=3, world=64)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 2**20


@pytest.mark.fault
def test_each_rank_gets_rows_of_a_stream_that_is_dealt_by_itself():
    streams = [StreamConfig("a", 3), StreamConfig("b", 5)]
    for block, message in ((0, "8 rows a step"), (BLOCK, "5 rows of the largest stream a step")):
        mixture = MixtureConfig(8, streams, block=block)
        assert micro_batches(mixture, 4, 2) == 2
        with pytest.raises(UserError, match=f"{message} cannot be dealt to 3 ranks x 3"):
            micro_batches(mixture, 9, 3)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            {"rows": 9, "streams": [{"task": "a", "rows": 4}, {"task": "b", "rows": 4}]},
            "a 4 \\+ b 4 = 8, but rows is 9",
        ),
        ({"rows": 4, "streams": []}, "streams is empty"),
        (
            {"rows": 4, "streams": [{"task": "a", "rows": 4}], "block": -1},
            "block is -1: it must be 0 or above",
        ),
        ({"rows": 4, "streams": [{"task": "a", "rows": 4, "every": 2}]}, "give one of them"),
        ({"rows": 4, "streams": [{"task": "a", "rows": 4, "share": 0}]}, "above 0 and at most 1"),
        ({"rows": 0, "streams": [{"task": "a", "every": 2}]}, "first stream 'a' is the main one"),
        ({"rows": 8, "streams": [{"task": "a", "rows": 4}, {"task": "a", "rows": 4}]}, "listed 2 times"),
        ({"rows": 4, "streams": [{"task": "a", "row": 4}]}, "did you mean 'rows'"),
    ],
)
def test_bad_mixtures(mixture, message):
    with pytest.raises(UserError, match=message):
        config.build(MixtureConfig, mixture, "phase.yaml: mixture")


@pytest.mark.fault
def test_stream_without_data():
    mixture = MixtureConfig(4, [StreamConfig("caption", 4)])
    with pytest.raises(UserError, match="no data for stream 'caption': did you mean 'captions'"):
        Mixture(mixture, {"captions": 3})
    with pytest.raises(UserError, match="'caption' has no rows"):
        Mixture(mixture, {"caption": 0})
