"""Curves, geometry, search, statistics and the command line around merging."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from unival.commands import merge as command
from unival.errors import UserError
from unival.merging import collect, curves, search
from unival.merging.geometry import geometry
from unival.merging.live import Interpolation
from unival.merging.select import kth_largest
from unival.metrics import significance


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


# --- curves ----------------------------------------------------------------------------------------


def test_a_curve_ends_at_the_parents_and_does_not_drift():
    net, first, second = model(0), model(1).state_dict(), model(2).state_dict()
    second["1.num_batches_tracked"] = torch.tensor(0)
    with Interpolation(net, first, second) as line:
        for _, moved in line.points(np.linspace(0, 1, 11).tolist()):
            middle = {n: v.clone() for n, v in moved.state_dict().items()}
        assert all(torch.equal(middle[n], second[n]) for n in second)
        again = {n: v.clone() for n, v in line.move(0.3).state_dict().items()}
        line.move(0.9)
        assert all(torch.equal(line.move(0.3).state_dict()[n], again[n]) for n in again)
        assert all(torch.equal(line.move(0).state_dict()[n], first[n]) for n in first)


def test_a_curve_may_start_at_the_live_model_itself():
    net, second = nn.Linear(3, 3), nn.Linear(3, 3).state_dict()
    start = net.weight.detach().clone()
    with Interpolation(net, net.state_dict(), second) as line:
        line.move(1)
        assert torch.equal(line.move(0).weight, start)


def test_a_live_model_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"'0.bias' is \[4\] in the live model and \[8\]"):
        Interpolation(
            nn.Sequential(nn.Linear(8, 4)),
            nn.Sequential(nn.Linear(8, 8)).state_dict(),
            nn.Sequential(nn.Linear(8, 8)).state_dict(),
        )
    with pytest.raises(UserError, match=r"no tensor '1\.bias'"):
        Interpolation(nn.Sequential(nn.Linear(8, 8)), model(0).state_dict(), model(1).state_dict())


def test_a_model_linear_in_its_weights_has_no_barrier():
    torch.manual_seed(0)
    x, ends = torch.randn(50, 8), [nn.Linear(8, 1) for _ in range(2)]
    live, ts = nn.Linear(8, 1), np.linspace(0, 1, 11).tolist()
    with torch.no_grad(), Interpolation(live, ends[0].state_dict(), ends[1].state_dict()) as line:
        means = np.array([float(moved(x).mean()) for _, moved in line.points(ts)])
    assert curves.barrier(ts, means)[0] == pytest.approx(0, abs=1e-6)


def test_barrier_is_the_largest_excess_over_the_chord():
    ts = [0, 0.25, 0.5, 0.75, 1]
    heights, places = curves.barrier(ts, np.array([[1, 1.5, 3, 2.5, 2], [1, 0, 0, 0, 1]]))
    assert heights.tolist() == [1.5, 0.0] and places.tolist() == [0.5, 0.0]
    for wrong in ([0.1, 1], [0, 0.9], [0, 1, 0.5, 1]):
        with pytest.raises(ValueError, match="both ends"):
            curves.barrier(wrong, np.zeros(len(wrong)))


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(-2, 5)] * 2), min_size=1, max_size=7))
def test_dominated_area_counts_unit_squares(points):
    squares = {(x, y) for p in points for x in range(p[0]) for y in range(p[1])}
    assert curves.dominated_area(points) == pytest.approx(len(squares))
    front = curves.pareto_front(points)
    assert curves.dominated_area([points[i] for i in front]) == pytest.approx(len(squares))


def test_holm_and_effective_robustness():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    on_the_line = [(0.5, 0.4), (0.9, 0.6)]
    assert curves.effective_robustness(0.8, 0.55 + 0.05, on_the_line) == pytest.approx(0.05)


# --- geometry --------------------------------------------------------------------------------------


def test_cosines_and_norms_per_module(tmp_path):
    base = {"encoder.layers.0.w": torch.zeros(2), "decoder.layers.0.w": torch.tensor([3.0, 4.0])}
    changes = {"a": ([3.0, 0], [0, 1.0]), "b": ([0, 2.0], [0, 2.0]), "c": ([0, 0], [0, 0])}
    paths = {}
    for name, values in {"base": ([0, 0], [0, 0]), **changes}.items():
        (tmp_path / name).mkdir()
        state = {k: v + torch.tensor(c) for (k, v), c in zip(base.items(), values, strict=True)}
        save_file(state, tmp_path / name / "model.safetensors")
        paths[name] = tmp_path / name
    rows = geometry({n: paths[n] for n in "abc"}, paths["base"])
    found = {(r["module"], r["first"], r["second"]): r for r in rows}
    assert found["encoder.layers", "a", "b"]["cosine"] == 0
    assert found["decoder.layers", "a", "b"]["cosine"] == 1
    assert found["all", "a", "b"]["cosine"] == pytest.approx(2 / np.sqrt(10 * 8))
    assert found["all", "a", "a"]["norm_first"] == pytest.approx(np.sqrt(10))
    assert found["decoder.layers", "b", "b"]["relative_first"] == pytest.approx(2 / 5)
    assert found["all", "a", "c"]["cosine"] is None


def test_counters_have_no_direction():
    states = {name: nn.BatchNorm1d(3).state_dict() for name in ("base", "a", "b")}
    for number, state in enumerate(states.values()):
        state["weight"] += number
        state["num_batches_tracked"] += 10 * number
    rows = geometry({name: states[name] for name in "ab"}, states["base"])
    assert [row["cosine"] for row in rows if row["module"] == "all"] == pytest.approx([1, 1, 1])


# --- search ----------------------------------------------------------------------------------------


def bump(point):
    x, y = point["x"], point["y"]
    return 80 - 30 * (x - 0.62) ** 2 - 50 * (y - 0.31) ** 2 - 20 * (x - 0.62) * (y - 0.31)


AXES = {"x": np.linspace(0, 1, 11).tolist(), "y": np.linspace(0, 1, 11).tolist()}
BOUNDS = {"x": (0.0, 1.0), "y": (0.0, 1.0)}


def test_coordinate_search_is_near_the_grid_optimum_with_a_quarter_of_its_evaluations():
    _, best = search.grid(search.Objective(bump, "val"), AXES)
    for seed in range(5):
        noise = np.random.default_rng(seed)
        objective = search.Objective(lambda p, n=noise: bump(p) + n.normal(0, 0.1), "val", budget=30)
        point, _ = search.coordinate(objective, BOUNDS)
        assert objective.evaluations <= 30 < 0.25 * 121
        assert bump(point) >= best - 0.3


def test_results_are_remembered_and_budgets_hold(tmp_path):
    calls = []
    objective = search.Objective(
        lambda p: calls.append(p) or bump(p), "val", "recipe", 20, tmp_path / "cache.json"
    )
    search.grid(objective, AXES)
    assert len(calls) == objective.evaluations == 20
    again = search.Objective(
        lambda p: calls.append(p) or bump(p), "val", "recipe", 5, tmp_path / "cache.json"
    )
    search.grid(again, AXES)
    assert again.evaluations == 5 and len(calls) == 25
    other = search.Objective(lambda p: calls.append(p) or bump(p), "val", "other", 5, tmp_path / "cache.json")
    search.grid(other, AXES)
    assert len(calls) == 30
    with pytest.raises(UserError, match="no evaluation"):
        search.grid(search.Objective(bump, "val", budget=0), AXES)


def test_greedy_soup_takes_what_helps():
    gains = {"a": 3.0, "b": 2.0, "c": -5.0}

    def score(weights):
        soup = [name for name, weight in weights.items() if weight]
        return sum(gains[name] for name in soup) if len(soup) > 1 else gains[soup[0]]

    weights, best = search.greedy_soup(search.Objective(score, "val"), list(gains))
    assert weights == {"a": 0.5, "b": 0.5, "c": 0.0} and best == 5.0
    weights, _ = search.greedy_soup(search.Objective(lambda w: 1.0, "val"), list(gains))
    assert weights["a"] == 1.0


def test_optuna_finds_the_top():
    pytest.importorskip("optuna")
    objective = search.Objective(bump, "val")
    _, best = search.optuna_search(objective, BOUNDS, trials=40)
    assert best > 78 and objective.evaluations <= 40


NAN = float("nan")


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_a_point_without_a_score_never_wins(bad, tmp_path):
    """NaN is neither more nor less than anything: the first of a list, or all after it, would win."""

    def score(point):
        return bad if point["x"] < 0.4 else -((point["x"] - 0.7) ** 2)

    def objective(**fields):
        return search.Objective(score, "val", **fields)

    cache = tmp_path / "cache.json"
    for _ in range(2):  # the second from memory
        point, best = search.grid(objective(cache=cache), {"x": [0.0, 0.3, 0.6, 0.9]})
        assert point == {"x": 0.6} and best == pytest.approx(-0.01)
    point, best = search.coordinate(objective(), {"x": (-0.8, 1.0)})  # whose middle has none
    assert best > -0.05 and point["x"] > 0.4
    alone = {"a": bad, "b": 0.5, "c": bad, "d": 0.4}
    soup = search.Objective(
        lambda w: 0.6 if w["b"] == w["d"] == 0.5 else max(alone[k] for k in w if w[k] == max(w.values())),
        "val",
    )
    weights, best = search.greedy_soup(soup, list(alone))
    assert best == 0.6 and {name for name, weight in weights.items() if weight} == {"b", "d"}


def test_optuna_never_takes_a_point_without_a_score():
    pytest.importorskip("optuna")
    objective = search.Objective(lambda point: NAN if point["x"] < 0.5 else point["x"], "val")
    point, best = search.optuna_search(objective, {"x": (0.0, 1.0)}, trials=20)
    assert point["x"] == best >= 0.5


def test_a_search_without_any_score_says_so():
    for run in (
        lambda found: search.grid(found, {"x": [0, 1]}),
        lambda found: search.coordinate(found, {"x": (0, 1)}),
        lambda found: search.greedy_soup(found, ["a", "b"]),
    ):
        with pytest.raises(UserError, match=r"none of .* points has a finite score on 'val'"):
            run(search.Objective(lambda point: NAN, "val"))


@pytest.mark.parametrize(
    "text", ["[]", "null", "5", "{", '"x"', '{"k": "high"}', '{"k": [1]}', "[" * 100_000]
)
def test_a_damaged_memory_of_a_search_is_as_good_as_none(tmp_path, text):
    (tmp_path / "cache.json").write_text(text)
    objective = search.Objective(lambda point: point["x"], "val", cache=tmp_path / "cache.json")
    assert search.grid(objective, {"x": [1, 2]}) == ({"x": 2.0}, 2.0)
    again = search.Objective(objective.evaluate, "val", cache=tmp_path / "cache.json")
    assert search.grid(again, {"x": [1, 2]}) == ({"x": 2.0}, 2.0) and again.evaluations == 0


def test_a_point_with_nan_is_on_no_front():
    assert curves.pareto_front([(NAN, 9), (1, 1), (0, 0), (2, NAN), (NAN, NAN)]) == [1]


# --- selection -------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=400),
    st.integers(0, 400),
    st.integers(0, 40),
    st.integers(0, 10),
)
def test_selection_is_exact_for_any_sample_and_repeated_values(values, rank, sampled, seed):
    stream = np.array(values, dtype=np.float32)
    rank = rank % len(stream) + 1
    sample = np.random.default_rng(seed).choice(stream, sampled)
    parts = np.array_split(stream, 3)
    found = kth_largest(lambda: [[p] for p in parts], [sample.astype(np.float32)], [len(stream)], [(0, rank)])
    assert found == [float(np.sort(stream)[::-1][rank - 1])]


def test_selection_survives_a_misleading_sample():
    stream = np.random.default_rng(0).random(100_000).astype(np.float32)
    for sample in (stream[stream > 0.9], stream[stream < 0.1]):
        found = kth_largest(lambda: [[stream]], [sample], [len(stream)], [(0, 20_000), (0, 99_999)])
        assert found == [float(v) for v in np.sort(stream)[::-1][[19_999, 99_998]]]


# --- statistics ------------------------------------------------------------------------------------


def test_batch_norm_is_estimated_anew_and_modes_come_back():
    net = model(0)
    xs = [torch.randn(64, 8) * 3 + 1 for _ in range(4)]
    hidden = net[0](torch.cat(xs)).detach()
    net.eval()
    found = collect.reestimate_batch_norm(net, xs, lambda m, x: m(x))
    assert found.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert torch.equal(found["1.running_var"], net[1].running_var)
    torch.testing.assert_close(net[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-4)
    assert not net[1].training and net[1].momentum == 0.1


def test_batches_count_as_their_rows_in_batch_norm():
    """Statistics of a short last batch weigh as much as its rows."""
    net, rows = nn.Sequential(nn.BatchNorm1d(3)), torch.randn(11, 3) * torch.arange(1.0, 12)[:, None]
    found = collect.reestimate_batch_norm(net, rows.split([5, 4, 2]), lambda m, x: m(x))
    assert torch.allclose(found["0.running_mean"], rows.mean(0), atol=1e-5)
    spreads = [len(part) / 11 * part.var(0) for part in rows.split([5, 4, 2])]
    assert torch.allclose(found["0.running_var"], sum(spreads), rtol=1e-5)
    assert not net[0]._forward_pre_hooks and net[0].momentum == 0.1


def test_batch_norm_that_no_batch_reaches_keeps_its_statistics():
    net = nn.ModuleDict({"seen": nn.BatchNorm1d(2), "unseen": nn.BatchNorm1d(2)})
    net["unseen"].running_mean += 7
    found = collect.reestimate_batch_norm(net, [torch.randn(8, 2)], lambda m, x: m["seen"](x))
    assert {name.split(".")[0] for name in found} == {"seen"}
    assert net["unseen"].running_mean.tolist() == [7, 7] and net["seen"].running_mean.abs().max() > 0


def test_statistics_are_saved_with_their_origin(tmp_path):
    found = collect.grams(model(0).eval(), [torch.randn(5, 8)], lambda m, x: m(x))
    collect.save(tmp_path / "gram.safetensors", found, {"split": "val", "rows": 5})
    assert load_file(tmp_path / "gram.safetensors").keys() == {"0.weight", "2.weight"}
    with pytest.raises(UserError, match="no examples"):
        collect.fisher(model(0), [], lambda m, x: m(x).sum())


# --- command line ----------------------------------------------------------------------------------


def call(*words):
    command.main([str(word) for word in words])


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UNIVAL_HASH_CACHE", str(tmp_path / "hashes.json"))
    for seed, name in enumerate(("base", "a", "b")):
        (tmp_path / name).mkdir()
        save_file(model(seed).state_dict(), tmp_path / name / "model.safetensors")
    (tmp_path / "recipe.yaml").write_text("method: ties\noptions: {density: 0.5}\n")
    models = [w for name in "ab" for w in ("--model", f"{name}={tmp_path / name}")]
    out = tmp_path / "out"
    call("run", tmp_path / "recipe.yaml", *models, "--base", tmp_path / "base", "--out", out)
    assert "ties of a, b" in capsys.readouterr().out
    call("verify", out)
    assert "repeats byte for byte" in capsys.readouterr().out
    call("report", out)
    assert json.loads((out / "merge.json").read_text())["recipe_digest"] in capsys.readouterr().out
    call("geometry", *models, "--base", tmp_path / "base", "--out", tmp_path / "geometry.csv")
    assert (tmp_path / "geometry.csv").read_text().startswith("module,first,second,cosine")
    call("methods")
    assert "task_arithmetic " in capsys.readouterr().out
    call("methods", "ties")
    assert "option density: 0.2" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected <name>=<path>"):
        call("run", tmp_path / "recipe.yaml", "--model", "a", "--out", out)
    (tmp_path / "two.yaml").write_text("method: average\nmodels: [a]\n")
    (tmp_path / "both.yaml").write_text("method: average\nmodels: [a, b]\n")
    with pytest.raises(UserError, match="--model b: not one of the models"):
        call("run", tmp_path / "two.yaml", *models, "--out", out)
    with pytest.raises(UserError, match=r"give a path for every model: --model b=<path>"):
        call("run", tmp_path / "both.yaml", "--model", f"a={tmp_path / 'a'}", "--out", out)
    (tmp_path / "dense.yaml").write_text("method: ties\noptions: {density: 2}\n")
    with pytest.raises(UserError, match=r"dense\.yaml: options: density"):
        call("run", tmp_path / "dense.yaml", *models, "--base", tmp_path / "base", "--out", out)
    with pytest.raises(UserError, match="unknown action 'verfy': did you mean 'verify'"):
        call("verfy", out)
    with pytest.raises(UserError, match="--threads 0: give 1 or more"):
        call("run", tmp_path / "two.yaml", *models, "--out", out, "--threads", 0)
    with pytest.raises(UserError, match="is not a merge"):
        call("verify", tmp_path / "a")
