"""Facts that a correct implementation of each method obeys, as functions that assert; no training needed.

`test_identities.py` runs them on the code, `test_mutations.py` on the code with a seeded fault.
"""

import math

import torch

from unival.errors import UserError
from unival.merging import adamerging, collect, elementwise, spectral
from unival.merging.checkpoint import StateSource
from unival.merging.engine import merge_states
from unival.merging.method import METHODS
from unival.merging.options import OPTIONS
from unival.merging.recipe import AlignRule, Depth, ModuleRule, Recipe

IDENTITIES = []


def identity(function):
    IDENTITIES.append(function)
    return function


def random_state(seed, shapes=None, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or {
        "layers.0.weight": (24, 16),
        "layers.1.weight": (16, 16),
        "norm.bias": (9,),
        "gain": (),
    }
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def around(base, seed, scale=0.05):
    noise = random_state(seed, {name: tuple(value.shape) for name, value in base.items()}, scale)
    return {name: base[name] + noise[name] for name in base}


def family(number=3, scale=0.05, base=None):
    base = base or random_state(0)
    return base, {"abcdefgh"[i]: around(base, i + 1, scale) for i in range(number)}


def merged(method, models, base=None, statistics=None, align=(), order=None, **fields):
    recipe = Recipe(method, tuple(order or models), align=tuple(align), **fields)
    sources = {name: StateSource(state, name) for name, state in models.items()}
    extra = {name: StateSource(state, name) for name, state in (statistics or {}).items()}
    return merge_states(recipe, sources, StateSource(base, "base") if base else None, extra)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def close(found, wanted, tolerance=1e-5):
    for name in wanted:
        torch.testing.assert_close(
            found[name], wanted[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def mean_of(models):
    return {
        name: torch.stack([m[name] for m in models.values()]).double().mean(0).float() for name in models["a"]
    }


def shifted(base, changes):
    return {name: base[name] + changes[name] for name in base}


# --- averages and lines ----------------------------------------------------------------------------


@identity
def average_of_one_or_equal_models_is_exact():
    base = random_state(0)
    same(merged("average", {"a": base}, weights={"a": 0.7}), base)
    for number in (2, 3, 7):
        same(merged("average", dict.fromkeys("abcdefgh"[:number], base)), base)


@identity
def average_is_the_correctly_rounded_mean_in_bfloat16():
    for number in (2, 3, 5):
        models = {
            n: {"w": random_state(i, {"w": (4000,)})["w"].bfloat16()} for i, n in enumerate("abcde"[:number])
        }
        exact = torch.stack([m["w"].double() for m in models.values()]).mean(0).bfloat16()
        found = merged("average", models)["w"]
        assert (found == exact).double().mean() >= 0.999
        line = merged("interpolate", {n: models[n] for n in "ab"}, options={"t": 0.2})["w"]
        wanted = (0.8 * models["a"]["w"].double() + 0.2 * models["b"]["w"].double()).bfloat16()
        assert (line == wanted).double().mean() >= 0.999


@identity
def order_of_models_changes_no_bit():
    base, models = family()
    backwards = dict(reversed(models.items()))
    options = {"dare": {"density": 0.3}, "dare_ties": {"density": 0.3}}
    statistics = {
        n: {k: v.abs() + 0.1 for k, v in random_state(i + 20).items()} for i, n in enumerate(models)
    }
    for name in models:
        for key in ("layers.0.weight", "layers.1.weight"):
            statistics[name][key] = statistics[name][key].mT @ statistics[name][key]
    for method in METHODS.names():
        if not OPTIONS[method].ordered:
            extra = statistics if method == "regmean" else None
            if method == "fisher":
                extra = {n: {k: v.abs() + 0.1 for k, v in m.items()} for n, m in models.items()}
            fields = {"options": options.get(method, {}), "seed": 5, "statistics": extra}
            same(merged(method, backwards, base, **fields), merged(method, models, base, **fields))


@identity
def an_owned_tensor_is_exact_and_shared_ones_are_renormalised():
    _, models = family(4)
    models["b"]["audio"] = torch.randn(11, generator=torch.Generator().manual_seed(9))
    for name in "cd":
        models[name]["video"] = torch.full((3,), 2.0)
    out = merged("average", models, align=[AlignRule("audio|video", "owners")])
    assert torch.equal(out["audio"], models["b"]["audio"])
    assert torch.equal(out["video"], torch.full((3,), 2.0))


@identity
def trained_takes_the_only_changed_tensor():
    base, models = family(3)
    for name in "ab":
        models[name]["norm.bias"] = base["norm.bias"]
        models[name]["gain"] = models["c"]["gain"] = base["gain"]
    out = merged("average", models, base, align=[AlignRule("norm|gain", "trained")])
    assert torch.equal(out["norm.bias"], models["c"]["norm.bias"])
    assert torch.equal(out["gain"], base["gain"])


@identity
def statistics_are_averaged_whatever_the_method():
    base, models = family(3)
    base["running_var"] = torch.full((5,), 1.0)
    for name in models:
        models[name]["running_var"] = torch.full((5,), 0.1 if name == "a" else 0.4)
    statistics = {n: {k: v.abs() for k, v in m.items()} for n, m in models.items()}
    plain = {n: {k: v for k, v in m.items() if k != "running_var"} for n, m in models.items()}
    for method in ("task_arithmetic", "ties", "tsv_m", "fisher"):
        rule, options = AlignRule("running_var$", "mean"), {"scale": 2.0} if method != "fisher" else {}
        out = merged(
            method, models, base, statistics, [rule], options=options, weights={"a": 3, "b": 1, "c": 1}
        )
        torch.testing.assert_close(out.pop("running_var"), torch.full((5,), 0.3))
        rest = {k: v for k, v in base.items() if k != "running_var"}
        same(out, merged(method, plain, rest, statistics, options=options, weights={"a": 3, "b": 1, "c": 1}))


@identity
def statistics_of_batch_norm_need_no_rule():
    """Methods that add changes take the plain mean, which stays a variance; others take them as weights."""
    base, models = family(2)
    values = {"running_mean": (-1.0, 3.0), "running_var": (1.0, 0.2)}
    for number, model in enumerate(models.values()):
        model |= {f"norm.{name}": torch.full((5,), pair[number]) for name, pair in values.items()}
    base |= {"norm.running_mean": torch.zeros(5), "norm.running_var": torch.full((5,), 2.0)}
    for method in METHODS.names():
        kind = METHODS[method]
        if kind.needs_statistics:
            continue
        weights = None if OPTIONS[method].ordered else {"a": 1, "b": 3}
        options = {"scale": 2.0} if "scale" in OPTIONS[method].__annotations__ else {}
        out = merged(method, models, base, weights=weights, options=options)
        share = 0.75 if method == "average" else 0.5
        for name, (first, second) in values.items():
            found, line = out[f"norm.{name}"], first + share * (second - first)
            if method != "slerp":
                torch.testing.assert_close(found, torch.full((5,), line), msg=f"{method}: {name}")
    summed = merged(
        "task_arithmetic", models, base, align=[AlignRule("running", "owners")], options={"scale": 2.0}
    )
    assert summed["norm.running_var"].max() < 0  # what the mean is for


@identity
def counters_of_batch_norm_are_those_of_the_base():
    """Whatever method and rule; without a base they have to be equal, or to be ruled."""
    base, models = family(2)
    for number, state in enumerate((base, *models.values())):
        state["norm.num_batches_tracked"] = torch.tensor(100 + 7 * number)
    for method in ("average", "interpolate", "task_arithmetic", "ties", "tsv_m"):
        for rules in ([], [AlignRule("norm", "trained")], [AlignRule("num_batches", "base")]):
            assert merged(method, models, base, align=rules)["norm.num_batches_tracked"] == 100
    taken = merged("average", models, base, align=[AlignRule("num_batches", "take", "b")])
    assert taken["norm.num_batches_tracked"] == 114
    try:
        merged("average", models)
    except UserError as error:
        assert "norm.num_batches_tracked: integer values differ" in str(error)
    else:
        raise AssertionError("counters without a base were merged")
    models["b"]["norm.num_batches_tracked"] = models["a"]["norm.num_batches_tracked"]
    assert merged("average", models)["norm.num_batches_tracked"] == 107


@identity
def line_is_exact_at_both_ends():
    _, models = family(2)
    same(merged("interpolate", models, options={"t": 0.0}), models["a"])
    same(merged("interpolate", models, options={"t": 1.0}), models["b"])
    unrelated = {"a": random_state(1), "b": random_state(2)}
    same(merged("interpolate", unrelated, options={"t": 1.0}), unrelated["b"])
    close(merged("interpolate", models, options={"t": 0.5}), mean_of(models), 1e-6)
    near_first = merged("interpolate", models, options={"t": 0.1})
    close(near_first, {n: 0.9 * models["a"][n] + 0.1 * models["b"][n] for n in near_first}, 1e-6)


# --- arcs ------------------------------------------------------------------------------------------


@identity
def slerp_ends_equal_symmetric_orthogonal():
    a, b = random_state(1), random_state(2)
    for t, end in ((0.0, a), (1.0, b)):
        close(merged("slerp", {"a": a, "b": b}, options={"t": t}), end, 1e-6)
    close(merged("slerp", {"a": a, "b": a}, options={"t": 0.3}), a, 1e-6)
    swapped = merged("slerp", {"a": b, "b": a}, options={"t": 0.7})
    close(merged("slerp", {"a": a, "b": b}, options={"t": 0.3}), swapped, 1e-6)
    x, y = {"w": torch.tensor([3.0, 0, 0])}, {"w": torch.tensor([0, 3.0, 0])}
    half = merged("slerp", {"a": x, "b": y}, options={"t": 0.5})["w"]
    torch.testing.assert_close(half, (x["w"] + y["w"]) / math.sqrt(2))
    third = merged("slerp", {"a": x, "b": y}, options={"t": 1 / 3})["w"]
    torch.testing.assert_close(third.norm(), torch.tensor(3.0))


@identity
def slerp_of_nearly_parallel_tensors_is_the_line():
    a = random_state(1, {"w": (5000,)})
    b = {"w": a["w"] * (1 + 1e-7)}
    close(merged("slerp", {"a": a, "b": b}, options={"t": 0.4}), a, 1e-6)
    base = random_state(0)
    x, y = around(base, 1), around(base, 2)
    close(merged("slerp_task_vectors", {"a": x, "b": y}, base, options={"t": 0.0}), x, 1e-6)


# --- task vectors ----------------------------------------------------------------------------------


@identity
def task_arithmetic_at_zero_one_and_the_mean():
    base, models = family(4)
    same(merged("task_arithmetic", models, base, options={"scale": 0.0}), base)
    same(merged("task_arithmetic", {"a": models["a"]}, base, options={"scale": 1.0}), models["a"])
    same(merged("task_arithmetic", models, base, options={"scale": 0.25}), merged("average", models))


@identity
def task_arithmetic_is_linear_and_negates():
    base, models = family(2)
    tau = {n: models["a"][n] + models["b"][n] - 2 * base[n] for n in base}
    for scale in (-0.5, 0.3, 1.7):
        wanted = {n: base[n] + scale * tau[n] for n in base}
        close(merged("task_arithmetic", models, base, options={"scale": scale}), wanted)


@identity
def lines_scales_by_depth_in_each_stack():
    shapes = {f"{s}.layers.{i}.w": (6,) for s in ("encoder", "decoder") for i in range(3)} | {"head": (4,)}
    base = random_state(0, shapes)
    models = {"a": around(base, 1)}
    one = {"scale": 1.0}
    plain = merged("task_arithmetic", models, base, options=one)
    same(merged("task_arithmetic", models, base, options=one, depth=Depth(1.0, 0.0)), plain)
    out = merged("task_arithmetic", models, base, options=one, depth=Depth(0.2, 0.6))
    factors = {"0": 0.2, "1": 0.5, "2": 0.8}
    wanted = {
        n: base[n] + factors.get(n.split(".")[2] if "." in n else "", 0.2) * (models["a"][n] - base[n])
        for n in base
    }
    close(out, wanted, 1e-6)


@identity
def module_weights_and_scales_reach_their_tensors_only():
    base, models = family(2)
    rule = ModuleRule(r"layers\.0", weights={"a": 1.0, "b": 0.0})
    out = merged("average", models, modules=(rule,), weights={"a": 0.5, "b": 0.5})
    assert torch.equal(out["layers.0.weight"], models["a"]["layers.0.weight"])
    close({"norm.bias": out["norm.bias"]}, {"norm.bias": mean_of(models)["norm.bias"]})
    for weights, b in ((None, 1.0), ({"a": 0.5, "b": 0.5}, 0.5)):  # one that is not given stays the recipe's
        part, whole = (
            merged("average", models, modules=(ModuleRule("norm", weights=own),), weights=weights)
            for own in ({"a": 3.0}, {"a": 3.0, "b": b})
        )
        assert torch.equal(part["norm.bias"], whole["norm.bias"])
    out = merged("task_arithmetic", models, base, modules=(ModuleRule("norm", scale=0.0),))
    assert torch.equal(out["norm.bias"], base["norm.bias"])
    assert not torch.equal(out["gain"], base["gain"])


# --- TIES, DARE, breadcrumbs -----------------------------------------------------------------------


@identity
def ties_of_one_model_or_of_agreeing_ones():
    base, models = family(1)
    for scope in ("model", "tensor"):
        close(merged("ties", models, base, options={"density": 1.0, "scope": scope}), models["a"], 1e-6)
    up = {name: random_state(seed, None, 0.1) for seed, name in ((5, "a"), (6, "b"))}
    agreeing = {name: shifted(base, {n: v.abs() for n, v in values.items()}) for name, values in up.items()}
    close(merged("ties", agreeing, base, options={"density": 1.0}), mean_of(agreeing), 1e-6)


@identity
def ties_elects_by_mass_without_the_loser_and_without_weights():
    base = {"w": torch.zeros(3)}
    models = {"a": {"w": torch.tensor([1.0, 2.0, 1.0])}, "b": {"w": torch.tensor([-2.0, 1.0, -1.0])}}
    out = merged("ties", models, base, options={"density": 1.0}, weights={"a": 1.0, "b": 0.1})["w"]
    torch.testing.assert_close(out, torch.tensor([-2.0, (2 + 0.1) / 1.1, 0.0]))
    total = merged("ties", models, base, options={"density": 1.0, "merge": "sum"})["w"]
    torch.testing.assert_close(total, torch.tensor([-2.0, 3.0, 0.0]))


@identity
def ties_scales_with_the_task_vectors():
    base = {name: torch.zeros_like(value) for name, value in random_state(0).items()}
    models = {n: random_state(i + 1) for i, n in enumerate("abc")}
    once = merged("ties", models, base, options={"density": 0.3})
    for factor in (4.0, -2.0, 1e-6):
        scaled = {n: {k: v * factor for k, v in m.items()} for n, m in models.items()}
        again = merged("ties", scaled, base, options={"density": 0.3})
        for name in base:
            torch.testing.assert_close(again[name] / factor, once[name], rtol=1e-5, atol=1e-6)


@identity
def ties_keeps_exactly_the_asked_count():
    shapes = {"x": (700, 100), "y": (1000,), "z": (3,)}
    base = {n: torch.zeros(s) for n, s in shapes.items()}
    total = sum(v.numel() for v in base.values())
    values = torch.randperm(total, generator=torch.Generator().manual_seed(0)).float() + 1
    parts = values.split([v.numel() for v in base.values()])
    model = {n: p.view(base[n].shape) for n, p in zip(shapes, parts, strict=True)}
    for density in (1.0, 0.2, 0.001):
        out = merged("ties", {"a": model}, base, options={"density": density})
        kept = torch.cat([v.flatten() for v in out.values()]).nonzero().numel()
        assert kept == max(1, round(density * total))
        out = merged("ties", {"a": model}, base, options={"density": density, "scope": "tensor"})
        for name, value in out.items():
            assert value.count_nonzero() == max(1, round(density * value.numel())), name


@identity
def ties_with_mass_points_keeps_all_equal_values():
    base = {"w": torch.zeros(200_000)}
    model = {"w": torch.where(torch.arange(200_000) % 10 == 0, 1.0, 0.5)}
    model["w"][7] = 3.0
    out = merged("ties", {"a": model}, base, options={"density": 0.05})["w"]
    assert out.count_nonzero() == 20_001
    mostly_frozen = {"w": torch.where(torch.arange(200_000) < 100, 1.0, 0.0)}
    close(merged("ties", {"a": mostly_frozen}, base, options={"density": 0.5}), mostly_frozen)


@identity
def dare_without_dropping_is_task_arithmetic():
    base, models = family()
    plain = merged("task_arithmetic", models, base, options={"scale": 0.3})
    same(merged("dare", models, base, options={"density": 1.0, "scale": 0.3}), plain)


@identity
def dare_is_unbiased_also_for_small_tensors_and_keeps_a_binomial_share():
    base = {"small": torch.zeros(4), "large": torch.zeros(4096)}
    model = {"a": {"small": torch.tensor([1.0, -2.0, 3.0, 0.5]), "large": torch.ones(4096)}}
    seeds = 300
    options = {"density": 0.3, "scale": 1.0}
    runs = [merged("dare", model, base, options=options, seed=seed) for seed in range(seeds)]
    for name in base:
        mean = torch.stack([run[name] for run in runs]).mean(0)
        sigma = model["a"][name].abs() * math.sqrt(0.7 / 0.3 / seeds)
        assert ((mean - model["a"][name]).abs() <= 5 * sigma).all(), name
    kept = float(runs[0]["large"].count_nonzero()) / 4096
    assert abs(kept - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 4096)
    assert set(runs[0]["large"].unique().tolist()) <= {0.0, float(torch.tensor(1.0) / 0.3)}


@identity
def dare_masks_differ_by_seed_model_and_tensor():
    base = {"x": torch.zeros(4096), "y": torch.zeros(4096)}
    one = {"x": torch.ones(4096), "y": torch.ones(4096)}
    out = merged("dare", {"a": one}, base, seed=1)
    other = merged("dare", {"a": one}, base, seed=2)
    renamed = merged("dare", {"b": one}, base, seed=1)
    for left, right in ((out["x"], out["y"]), (out["x"], other["x"]), (out["x"], renamed["x"])):
        assert 0.4 < float((left == right).double().mean()) < 0.6


@identity
def dare_ties_drops_first_and_then_elects():
    base = {"w": torch.zeros(5000)}
    models = {"a": {"w": torch.ones(5000)}, "b": {"w": torch.full((5000,), -1.5)}}
    out = merged("dare_ties", models, base, options={"density": 0.5})["w"]
    values = {round(float(value), 4) for value in out.unique()}
    assert values == {-3.0, 0.0, 2.0}  # b where it is kept, a where only a is, nothing where both fell


@identity
def breadcrumbs_drops_both_tails_and_survives_small_tensors():
    base = {"big": torch.zeros(1000), "small": torch.zeros(25)}
    model = {"a": {n: torch.arange(1.0, v.numel() + 1) for n, v in base.items()}}
    out = merged("breadcrumbs", model, base, options={"density": 0.5, "top": 0.01, "scale": 1.0})
    kept = out["big"].nonzero().flatten() + 1
    assert (kept.min(), kept.max(), len(kept)) == (491, 990, 500)
    assert out["small"].count_nonzero() == round(0.5 * 25) and out["small"][-1] == 25
    full = merged("breadcrumbs", model, base, options={"density": 1.0, "top": 0.01, "scale": 1.0})
    assert full["small"].count_nonzero() == 25 and full["big"].count_nonzero() == 990


# --- geometry --------------------------------------------------------------------------------------


def simplex(models, spread, centre, scale=1.0, size=768):
    axes = torch.linalg.qr(
        torch.randn(size, models + 1, generator=torch.Generator().manual_seed(3)).double()
    )[0].T
    mu = torch.zeros(size).double()
    base = {"w": (mu + scale * centre * axes[0]).float()}
    found = {"abcdefgh"[i]: {"w": (mu + scale * spread * axes[i + 1]).float()} for i in range(models)}
    return base, found


@identity
def model_stock_is_the_projection_for_every_number_of_models():
    for number in (2, 3, 5):
        for scale in (1.0, 1e-4):
            base, models = simplex(number, spread=0.7, centre=1.3, scale=scale)
            share = 1.3**2 / (1.3**2 + 0.7**2 / number)
            mean = mean_of(models)
            wanted = share * mean["w"].double() + (1 - share) * base["w"].double()
            found = merged("model_stock", models, base)["w"].double()
            assert (found - wanted).norm() <= 1e-5 * base["w"].norm()


@identity
def model_stock_limits_and_scale_freedom():
    for scale in (1e-2, 1e-5, 1e-6, 1e-12):
        base = {"w": torch.zeros(768)}
        one = {"w": torch.randn(768, generator=torch.Generator().manual_seed(1)) * scale}
        found = merged("model_stock", {"a": one, "b": one, "c": one}, base)["w"]
        torch.testing.assert_close(found / scale, one["w"] / scale, rtol=1e-5, atol=1e-6)
    base = {"w": torch.tensor([1.0, 1.0, 1.0])}
    orthogonal = {"a": {"w": torch.tensor([2.0, 1, 1])}, "b": {"w": torch.tensor([1.0, 2, 1])}}
    same(merged("model_stock", orthogonal, base), base)
    opposite = {"a": {"w": torch.tensor([2.0, 1, 1])}, "b": {"w": torch.tensor([0.0, 1, 1])}}
    same(merged("model_stock", opposite, base), base)


@identity
def consensus_keeps_what_enough_tasks_use():
    base = {"w": torch.zeros(3)}
    models = {"a": {"w": torch.tensor([1.0, 1.0, 0.0])}, "b": {"w": torch.tensor([1.0, 0.0, 0.0])}}
    out = merged("consensus", models, base, options={"threshold": 0.4, "agreeing": 2, "scale": 1.0})["w"]
    torch.testing.assert_close(out, torch.tensor([2.0, 0.0, 0.0]))
    close(merged("consensus", {"a": models["a"]}, base, options={"scale": 1.0}), models["a"])


@identity
def tall_masks_look_at_changes_not_at_weights():
    base = {"w": torch.full((4000,), 10.0)}
    models = {n: around(base, i + 1, 1.0) for i, n in enumerate("ab")}
    out = merged("consensus", models, base, options={"threshold": 1.0, "agreeing": 2, "scale": 1.0})["w"]
    changes = [m["w"] - base["w"] for m in models.values()]
    both = (changes[0].abs() > changes[1].abs()) & (changes[1].abs() > changes[0].abs())
    assert not both.any() and torch.equal(out, base["w"])
    kept = [elementwise.tall_mask(c, sum(changes), 0.4).double().mean() for c in changes]
    assert all(0.6 < float(share) < 0.8 for share in kept)  # |x| > 0.4 |y|: 1 - atan(0.4) 2 / pi = 0.758


# --- statistics ------------------------------------------------------------------------------------


@identity
def fisher_equal_scaled_and_owned():
    _, models = family(3)
    ones = {n: {k: torch.ones_like(v) for k, v in m.items()} for n, m in models.items()}
    close(merged("fisher", models, statistics=ones), mean_of(models), 1e-6)
    values = {n: {k: v.abs() + 0.1 for k, v in random_state(i + 20).items()} for i, n in enumerate(models)}
    plain = merged("fisher", models, statistics=values)
    for factor in (1e-9, 1e9, 1e-25):
        scaled = {n: {k: v * factor for k, v in f.items()} for n, f in values.items()}
        close(merged("fisher", models, statistics=scaled), plain, 1e-5)
    only = {n: {k: v * (n == "b") for k, v in f.items()} for n, f in values.items()}
    same(merged("fisher", models, statistics=only), models["b"])
    exact = {
        k: sum(values[n][k].double() * models[n][k].double() for n in models)
        / sum(values[n][k].double() for n in models)
        for k in plain
    }
    close({k: v.double() for k, v in plain.items()}, exact, 1e-5)


@identity
def fisher_of_logistic_regression_in_closed_form():
    torch.manual_seed(0)
    net = torch.nn.Linear(5, 1, bias=False)
    xs = torch.randn(64, 5)
    ys = (torch.rand(64) < torch.sigmoid(net(xs))[:, 0]).float()

    def log_likelihood(model, example):
        x, y = example
        return -torch.nn.functional.binary_cross_entropy_with_logits(model(x)[0], y)

    found = collect.fisher(net, zip(xs, ys, strict=True), log_likelihood)["weight"][0]
    p = torch.sigmoid(net(xs))[:, 0].detach()
    torch.testing.assert_close(found, (((ys - p)[:, None] * xs) ** 2).mean(0), rtol=1e-5, atol=1e-7)


def regression(number=3, rows=200, size=12, outputs=5):
    generator = torch.Generator().manual_seed(11)
    xs = [torch.randn(rows, size, generator=generator).double() for _ in range(number)]
    ys = [torch.randn(rows, outputs, generator=generator).double() for _ in range(number)]
    fits = [torch.linalg.lstsq(x, y).solution.mT for x, y in zip(xs, ys, strict=True)]
    return xs, ys, fits


@identity
def regmean_is_the_joint_least_squares():
    xs, ys, fits = regression()
    models = {"abc"[i]: {"l.weight": fit} for i, fit in enumerate(fits)}
    grams = {"abc"[i]: {"l.weight": x.mT @ x / len(x)} for i, x in enumerate(xs)}
    joint = torch.linalg.lstsq(torch.cat(xs), torch.cat(ys)).solution.mT
    found = merged(
        "regmean", models, statistics=grams, options={"alpha": 1.0, "ridge": 0.0}, accumulate="float64"
    )
    torch.testing.assert_close(found["l.weight"], joint, rtol=1e-6, atol=1e-8)
    equal = dict.fromkeys(models, models["a"])
    found = merged("regmean", equal, statistics=grams, accumulate="float64")
    torch.testing.assert_close(found["l.weight"], models["a"]["l.weight"], rtol=1e-9, atol=1e-9)
    columns = merged(
        "regmean", models, statistics=grams, options={"alpha": 0.0, "ridge": 0.0}, accumulate="float64"
    )
    shares = torch.stack([grams[n]["l.weight"].diagonal() for n in models])
    wanted = sum(models[n]["l.weight"] * shares[i] for i, n in enumerate(models)) / shares.sum(0)
    torch.testing.assert_close(columns["l.weight"], wanted, rtol=1e-8, atol=1e-8)


@identity
def regmean_with_too_few_samples_stays_bounded():
    xs, _, _ = regression(2, rows=8, size=32)
    generator = torch.Generator().manual_seed(2)
    models = {n: {"l.weight": torch.randn(5, 32, generator=generator)} for n in "ab"}
    grams = {"ab"[i]: {"l.weight": (x.mT @ x / len(x)).float()} for i, x in enumerate(xs)}
    largest = max(float(m["l.weight"].norm()) for m in models.values())
    for alpha in (1.0, 0.9):
        found = merged("regmean", models, statistics=grams, options={"alpha": alpha})["l.weight"]
        assert float(found.norm()) < 3 * largest


@identity
def gram_hooks_see_the_inputs_of_linear_layers():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    xs = [torch.randn(10, 6) for _ in range(3)]
    found = collect.grams(net, xs, lambda model, x: model(x))
    joined = torch.cat(xs)
    torch.testing.assert_close(found["0.weight"], joined.mT @ joined / 30)
    hidden = net[:2](joined).detach()
    torch.testing.assert_close(found["2.weight"], hidden.mT @ hidden / 30)


@identity
def wudi_is_regmean_with_its_own_grams():
    base, models = family(2)
    deltas = [models[n]["layers.0.weight"] - base["layers.0.weight"] for n in models]
    found = merged("wudi", models, base, options={"ridge": 1e-9}, accumulate="float64")["layers.0.weight"]
    tau = (found - base["layers.0.weight"]).double().requires_grad_()
    loss = sum((((tau - d.double()) @ d.double().mT) ** 2).sum() / d.double().square().sum() for d in deltas)
    (gradient,) = torch.autograd.grad(loss, tau)
    start = sum(d.double() for d in deltas).requires_grad_()
    before = sum(
        (((start - d.double()) @ d.double().mT) ** 2).sum() / d.double().square().sum() for d in deltas
    )
    (slope,) = torch.autograd.grad(before, start)
    assert gradient.norm() < 1e-3 * slope.norm()


# --- spectra ---------------------------------------------------------------------------------------


@identity
def iso_c_makes_singular_values_equal():
    deltas = [random_state(i, {"w": (20, 12)})["w"] for i in range(3)]
    values = torch.linalg.svdvals(spectral.iso_c(deltas))
    torch.testing.assert_close(
        values, torch.full_like(values, float(torch.linalg.svdvals(sum(deltas)).mean()))
    )


@identity
def tsv_m_of_one_task_and_of_orthogonal_ones():
    one = random_state(1, {"w": (20, 12)})["w"]
    torch.testing.assert_close(spectral.tsv_m([one]), one, rtol=1e-4, atol=1e-5)
    left = torch.linalg.qr(torch.randn(20, 4, generator=torch.Generator().manual_seed(1)))[0]
    right = torch.linalg.qr(torch.randn(12, 4, generator=torch.Generator().manual_seed(2)))[0]
    tasks = [
        left[:, :2] @ torch.diag(torch.tensor([3.0, 1.0])) @ right[:, :2].T,
        left[:, 2:] @ right[:, 2:].T,
    ]
    torch.testing.assert_close(spectral.tsv_m(tasks), sum(tasks), rtol=1e-4, atol=1e-5)


@identity
def tsv_m_keeps_no_more_directions_than_there_are():
    tasks = [random_state(i, {"w": (10, 12)})["w"] for i in range(4)]
    assert int(torch.linalg.matrix_rank(spectral.tsv_m(tasks))) == 8  # floor(10 / 4) of each


@identity
def module_scales_reach_what_is_no_matrix_too():
    base, models = family()
    for method in ("iso_c", "tsv_m", "wudi", "task_arithmetic", "ties", "model_stock"):
        found = merged(method, models, base, modules=(ModuleRule("", scale=0.0),))
        same(found, base)


@identity
def matrix_methods_give_the_mean_to_everything_else():
    base, models = family(2)
    for method in ("iso_c", "tsv_m", "wudi", "regmean"):
        out = merged(method, models, base, statistics={n: {"unknown": torch.ones(1)} for n in models})
        close({"norm.bias": out["norm.bias"]}, {"norm.bias": mean_of(models)["norm.bias"]}, 1e-6)


# --- AdaMerging ------------------------------------------------------------------------------------


@identity
def adamerging_follows_finite_differences_and_fixed_is_task_arithmetic():
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3)
    base = {n: v.detach().clone() for n, v in net.state_dict().items()}
    models = {n: around(base, i + 1, 0.5) for i, n in enumerate("ab")}
    batches = [torch.randn(16, 4) * size for size in (1.0, 3.0, 0.3)]

    def loss(call, x):
        return adamerging.entropy(call(x))

    fixed = adamerging.adamerging(net, base, models, [], loss)
    rules = tuple(ModuleRule(f"^{name}$", weights=weights) for name, weights in fixed.items())
    wanted = merged("task_arithmetic", models, base, options={"scale": 0.3})
    close(merged("task_arithmetic", models, base, options={"scale": 1.0}, modules=rules), wanted, 1e-6)

    def at(scales, x):
        state = {
            n: base[n].double()
            + sum(s * (m[n] - base[n]) for s, m in zip(scales, models.values(), strict=True))
            for n in base
        }
        logits = torch.func.functional_call(net, state, (x.double(),))
        return torch.distributions.Categorical(logits=logits).entropy().mean()

    moved = adamerging.adamerging(net, base, models, batches, loss, layerwise=False, rate=1e-3, clamp=False)
    scales = torch.full((2,), 0.3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([scales], lr=1e-3)
    for x in batches:  # sizes differ, so that the second step tells how large the first slope was
        steps = 1e-5 * torch.eye(2, dtype=torch.float64)
        with torch.no_grad():
            slopes = [(at(scales + step, x) - at(scales - step, x)) / 2e-5 for step in steps]
        scales.grad = torch.stack(slopes)
        adam.step()
    found = torch.tensor(list(moved["weight"].values()), dtype=torch.float64)
    torch.testing.assert_close(found, scales.detach(), rtol=0, atol=2e-6)


@identity
def adamerging_gives_no_coefficient_to_statistics():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).eval()
    base = {n: v.detach().clone() for n, v in net.state_dict().items()}
    models = {n: {k: v + i for k, v in base.items()} for i, n in enumerate("ab", 1)}
    x, seen = torch.randn(8, 4), []

    def loss(call, batch):
        seen.append(call(batch))
        return adamerging.entropy(seen[-1])

    table = adamerging.adamerging(net, base, models, [x], loss, start=0.0)
    assert table.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
    net[1].running_mean += 1.5
    net[1].running_var += 1.5
    torch.testing.assert_close(seen[0], net(x))


# --- integers --------------------------------------------------------------------------------------


@identity
def integers_are_copied_and_never_averaged():
    _, models = family(2)
    for value in (3, 2**53 + 1):
        index = {n: m | {"index": torch.tensor([value, -7])} for n, m in models.items()}
        assert torch.equal(merged("average", index)["index"], torch.tensor([value, -7]))
    index["b"]["index"] = torch.tensor([value + 1, -7])
    try:
        merged("average", index)
    except UserError as error:
        assert "index: integer values differ" in str(error)
    else:
        raise AssertionError("differing integers were merged")
