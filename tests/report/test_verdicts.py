"""Verdicts on claims, from rows of several seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from unival import compose, config, files
from unival.errors import UserError
from unival.report import verdicts
from unival.study import evidence, power, processes, subsets
from unival.study.claims import Claim
from unival.study.evidence import Evidence, Seed
from unival.study.tables import Repeat

CONF = Path(__file__).parents[2] / "conf"
ROWS = 200


def scores(values: np.ndarray) -> pandas.Series:
    rows = [(f"r{row}", f"image={row}") for row in range(len(values))]
    return pandas.Series(values, index=pandas.MultiIndex.from_tuples(rows, names=["row", "medium"]))


def study(seeds: int, gains: dict[str, float], level: float = 0.6) -> Evidence:
    """Models `new` and `old` on tasks that `new` gains so much on, whatever the seed."""
    rng = np.random.default_rng(0)
    found = {}
    for seed in range(seeds):
        tables = {}
        for task, gain in gains.items():
            for model, mean in (("old", level), ("new", level + gain)):
                shift = rng.normal(0, 0.01)
                right = rng.random(ROWS) < mean + shift
                tables[model, task, "test"] = scores(right.astype(float))
        found[seed] = Seed(tables, dict.fromkeys(gains, 0.3))
    return Evidence(found, "old", [])


def claim(margin: float = 0.0, tasks: tuple[str, ...] = ("vqa", "grounding")) -> Claim:
    over = [{"task": task} for task in tasks]
    return Claim("new is better", "T1", ["new"], ["old"], over, "old is better", margin=margin)


def verdict(evidence: Evidence, wanted: Claim) -> verdicts.Verdict:
    return verdicts.check({"one": wanted}, evidence)[0]


@pytest.mark.parametrize(
    ("seeds", "gain", "margin", "expected"),
    [
        (6, 0.2, 0.0, "supported"),
        (6, -0.2, 0.0, "refuted"),
        (6, 0.0, 0.0, "undecided"),
        (6, 0.0, 0.2, "supported"),
        (6, -0.3, 0.1, "refuted"),
        (5, 0.2, 0.0, "5 seeds: no verdict"),
        (1, 0.2, 0.0, "one seed: no verdict"),
    ],
)
def test_the_rule(seeds: int, gain: float, margin: float, expected: str) -> None:
    found = verdict(study(seeds, {"vqa": gain, "grounding": gain}), claim(margin))
    assert found.verdict == expected
    assert found.seeds == seeds
    assert (found.p is None) == (seeds == 1)


def test_an_effect_is_a_share_of_the_better_arm() -> None:
    found = verdict(study(6, {"vqa": 0.2, "grounding": 0.2}), claim())
    assert found.effect == pytest.approx(0.2 / 0.8, abs=0.05)


def test_what_no_model_has_learned_is_not_counted() -> None:
    """One of two tasks, and then both, with models at the level of the baseline."""
    good, bad = study(6, {"vqa": 0.2}), study(6, {"grounding": 0.0}, level=0.3)
    seeds = {
        number: Seed(good.seeds[number].scores | bad.seeds[number].scores, {"vqa": 0.3, "grounding": 0.3})
        for number in range(6)
    }
    both = verdict(Evidence(seeds, "old", []), claim())
    alone = verdict(good, claim(tasks=("vqa",)))
    assert (both.effect, both.verdict) == (alone.effect, "supported")
    assert "1 of 2 comparisons are between models no better than blind" in both.evidence
    assert verdict(bad, claim(tasks=("grounding",))).verdict == "not learned"


def test_a_claim_about_a_study_that_did_not_run_is_not_tested() -> None:
    found = verdict(study(6, {"entailment": 0.2}), claim())
    assert (found.verdict, found.effect, found.evidence) == (
        "not tested", None, "no such comparison in this run",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "told"), [(["a", "b"], ""), (["a"], "1 of 2 comparisons are not in this run")]
)
def test_two_comparisons_of_one_task_are_two(there: list[str], told: str) -> None:
    """Two pairs of models on the same task, of which one may be missing."""
    pairs = study(6, {"vqa": 0.2})
    for seed in pairs.seeds.values():
        (old, new) = seed.scores.pop(("old", "vqa", "test")), seed.scores.pop(("new", "vqa", "test"))
        for pair in there:
            seed.scores[f"{pair}-old", "vqa", "test"], seed.scores[f"{pair}-new", "vqa", "test"] = old, new
    over = [{"task": "vqa", "pair": pair} for pair in ("a", "b")]
    found = verdict(
        pairs, Claim("new is better", "T1", ["{pair}-new"], ["{pair}-old"], over, "old is better")
    )
    assert found.verdict == "supported"
    assert ("are not in this run" in found.evidence) == bool(told) and told in found.evidence


def test_verdicts_are_corrected_for_the_number_of_claims() -> None:
    several = verdicts.check(
        {str(number): claim() for number in range(5)}, study(6, {"vqa": 0.1, "grounding": 0.1})
    )
    assert all(one.p_holm == pytest.approx(min(5 * one.p, 1)) for one in several)


def test_power_of_one_seed_says_why_the_others_do_not_count() -> None:
    alone = study(1, {"vqa": 0.2})
    for left_out, why in (([], "run more"), (["Seed 1 is **left out**: why."], "Seed 1 is left out: why.")):
        with pytest.raises(UserError, match=f"one seed says nothing.*{why}"):
            power.table({"one": claim()}, replace(alone, left_out=left_out), [6])


@pytest.mark.parametrize(
    ("seeds", "gains", "effect", "expected"),
    [
        (6, {"vqa": 0.3, "grounding": 0.2}, 0.5, "supported"),
        (6, {"vqa": 0.3, "grounding": -0.2}, 0.0, "undecided"),
        (6, {"vqa": -0.3, "grounding": -0.2}, -0.5, "refuted"),
        (1, {"vqa": 0.3, "grounding": 0.2}, 0.5, "one seed: no verdict"),
    ],
)
def test_wins_are_counted_by_comparison_and_seed(
    seeds: int, gains: dict[str, float], effect: float, expected: str
) -> None:
    """However large each is; the spread is that between seeds."""
    wanted = replace(claim(), measure="wins")
    found = verdict(study(seeds, gains), wanted)
    assert (found.effect, found.verdict, found.n) == (effect, expected, ROWS)
    assert (found.low, found.high) == ((effect, effect) if seeds > 1 else (-0.5, 0.5))


def test_a_tie_is_half_a_win() -> None:
    even = study(6, {"vqa": 0.0})
    for seed in even.seeds.values():
        seed.scores["new", "vqa", "test"] = seed.scores["old", "vqa", "test"]
    assert verdict(even, replace(claim(tasks=("vqa",)), measure="wins")).effect == 0


def test_against_the_baseline_a_model_that_learned_nothing_counts() -> None:
    found = study(6, {"vqa": 0.0}, level=0.3)
    against = Claim("learns", "T5", ["new"], ["baseline"], [{"task": "vqa"}], "does not")
    assert verdict(found, against).verdict == "undecided"


def test_the_committed_claims_are_valid() -> None:
    for name, values in config.load(CONF / "claims.yaml").items():
        assert config.build(Claim, values, name).refuted_by


def test_every_model_of_the_claims_is_made_by_the_edition_for_them() -> None:
    tree = compose.compose(replace(compose.read_params(), edition="study"))
    resolved = {stage: compose.resolve(tree, stage, None) for stage in ("merge", "evaluate", "ablate")}
    merge, evaluate, ablate = resolved.values()
    made = {f"merged/{name}" for name in (*merge["merges"], *merge["refinetune"])}
    made |= {f"finetune/{task}" for task in evaluate["experts"]} | {evaluate["pretrained"], "baseline"}
    made |= {f"{name}/{part}" for name, study in ablate["definitions"].items() for part in study["variants"]}
    drawn = subsets.models(evaluate["subsets"]["experts"], evaluate["subsets"]["number"])
    made |= {subsets.name(experts) for experts in drawn}
    last = evaluate["interpolation"]["points"] + 1
    pairs = ["-".join(pair) for pair in evaluate["interpolation"]["pairs"]]
    made |= {f"{pair}@{place / last:g}" for pair in pairs for place in range(last + 1)}
    for name, values in config.load(CONF / "claims.yaml").items():
        wanted = config.build(Claim, values, name)
        for words in wanted.over:
            for arm in (wanted.better, wanted.than):
                lacking = {*wanted.arm(arm, words, evaluate["pretrained"])} - made
                assert not lacking, f"{name}: {words}"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better": []}, "better is empty"),
        ({"margin": 2.0}, "margin is 2.0"),
        ({"margin": 0.1, "measure": "wins"}, "wins have none"),
        ({"than": ["only_{taks}"]}, "did you mean 'task'"),
        ({"over": [{"pair": "a-b"}]}, "names no task"),
    ],
)
def test_wrong_claims_are_refused(change: dict, message: str) -> None:
    values = next(iter(config.load(CONF / "claims.yaml").values()))
    with pytest.raises(UserError, match=message):
        config.build(Claim, values | change, "conf/claims.yaml: one")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"study": "other"}, "another configuration"),
        ({"data": "other"}, "another prepared data"),
        ({"code": "other"}, "another code than the study has now: `dvc repro -f -s seeds`"),
        ({"failed": "pretrain-video_text"}, "training diverged in pretrain-video_text"),
        (None, "has not run"),
    ],
)
def test_seeds_of_another_study_are_named_and_left_out(tmp_path: Path, change: dict | None, why: str) -> None:
    files.write_json(tmp_path / "data/benchmark.json", {})
    data = tmp_path / "data"
    note = Repeat(
        seed=1, study="mine", data=evidence.data_digest(data), code=processes.code(), commit=None, machine={}
    )
    if change is not None:
        files.write_json(tmp_path / "reports/seeds/1/seed.json", vars(note) | change)
    files.write_text(tmp_path / "build/config/seeds.yaml", "study: mine\n")
    found = evidence.read(tmp_path, data, 0, [1])
    assert list(found.seeds) == ([0, 1] if not why else [0])
    assert why in "".join(found.left_out) and len(found.left_out) == bool(why)


WIDE, NARROW = {"processor": "P", "instructions": "AVX512"}, {"processor": "P", "instructions": "AVX2"}
MIXED = {"processor": "P", "instructions": ["AVX2", "AVX512"]}


@pytest.mark.parametrize(
    ("here", "there", "compared", "told"),
    [
        (WIDE, NARROW, True, []),
        (WIDE, WIDE, False, ["the same ones both times"]),
        (WIDE, MIXED, False, ["it ran again on several kinds (instructions AVX2 and AVX512)"]),
        (MIXED, NARROW, False, ["counts, but ran on **mixed kernels**: ", "it ran on several kinds (instr"]),
        (MIXED, None, False, ["counts, but ran on **mixed kernels**: instructions AVX2 and AVX512."]),
        (WIDE, {**NARROW, "failed": "merge"}, False, ["diverged in merge"]),
        (WIDE, {**NARROW, "code": "other"}, False, ["another code than the study has now: `unival kernels`"]),
        (WIDE, None, False, []),
    ],
)
def test_a_seed_is_compared_where_each_run_of_it_had_kernels_of_one_kind(
    tmp_path: Path, here: dict, there: dict | None, compared: bool, told: list[str]
) -> None:
    """And where not, the report says why; the seed itself counts as any other."""
    files.write_json(tmp_path / "data/benchmark.json", {})
    files.write_text(tmp_path / "build/config/seeds.yaml", "study: mine\n")
    note = {"seed": 1, "study": "mine", "data": evidence.data_digest(tmp_path / "data"), "commit": None}
    for folder, ran in (("seeds", here), ("kernels", there)):
        if ran is not None:
            made = {"code": processes.code(), "failed": "", **ran}
            changed = {name: made.pop(name) for name in ("code", "failed")}
            path = tmp_path / "reports" / folder / "1/seed.json"
            files.write_json(path, {**note, **changed, "machine": made})
    found = evidence.read(tmp_path, tmp_path / "data", 0, [1])
    assert list(found.seeds) == [0, 1] and list(found.kernels) == [1] * compared
    assert len(found.left_out) == len(told)
    assert all(words in sentence for words, sentence in zip(told, found.left_out, strict=True))
