"""Seeded faults, each the bug of some public tool or a likely slip: every one is caught by an identity."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from unival.errors import UserError
from unival.merging import adamerging, align, collect, elementwise, engine, rng, spectral
from unival.merging.methods import matrices, points, sparse

from . import identities

pytestmark = pytest.mark.fault


def owner_scaling(patch):
    """The partial, already scaled average stands in for a model that lacks the tensor."""
    original = points.normalized

    def faulty(job):
        return original(job) if len(job.models) != 2 else [0.25, 0.25]

    patch.setattr(points, "normalized", faulty)


def stock_epsilon(patch):
    """An absolute epsilon in the cosine."""
    original = points.gram
    patch.setattr(points, "gram", lambda job: original(job) + 1e-8 * torch.eye(len(job.models)))


def ties_full_density(patch):
    """K = 100 % asks for an element that does not exist: the smallest is lost."""
    patch.setattr(sparse, "kept_count", lambda density, total: max(1, round(density * total) - 1))
    patch.setattr(sparse.Ties, "start", _start_without_shortcut)


def _start_without_shortcut(self, job):
    ranks = [(i, sparse.kept_count(self.options.density, job.count)) for i in range(len(job.models))]
    return sparse.thresholds([job], job.models, [job.count] * len(job.models), ranks, self.deltas)


def ties_one_too_many(patch):
    patch.setattr(sparse, "kept_count", lambda density, total: min(total, round(density * total) + 1))


def ties_weighted_election(patch):
    """Weights multiply the task vectors before signs are elected."""
    original = elementwise.elect

    def faulty(deltas, weights, mean=True):
        return original([d * w for d, w in zip(deltas, weights, strict=True)], [1.0] * len(deltas), mean)

    patch.setattr(elementwise, "elect", faulty)


def ties_tensor_scope_for_model(patch):
    patch.setattr(sparse.Ties, "prepare", lambda self, jobs: setattr(self, "whole", None))


def breadcrumbs_tiny_top(patch):
    """floor(top n) = 0 becomes an empty slice that drops everything."""
    original = sparse.Breadcrumbs.start

    def faulty(self, job):
        found = original(self, job)
        return found if int(self.options.top * job.count) else [(np.inf, np.inf)] * len(found)

    patch.setattr(sparse.Breadcrumbs, "start", faulty)


def dare_l1_rescale(patch):
    """Rescaling to the l1 norm of the tensor instead of 1 / density."""

    def faulty(delta, mask, density):
        kept = torch.where(mask > 0, delta, 0)
        norm = kept.abs().sum()
        return kept * (delta.abs().sum() / norm) if norm > 0 else kept

    patch.setattr(elementwise, "drop_and_rescale", faulty)


def dare_without_rescale(patch):
    patch.setattr(
        elementwise, "drop_and_rescale", lambda delta, mask, density: torch.where(mask > 0, delta, 0)
    )


def dare_order_dependent(patch):
    """Masks drawn from one running generator."""
    generator = np.random.default_rng(0)
    patch.setattr(sparse, "keep_mask", lambda key, start, count, density: generator.random(count) < density)


def dare_one_mask_for_all(patch):
    patch.setattr(sparse, "mask_key", lambda seed, model, tensor: seed)


def fisher_of_a_batch(patch):
    """The gradient of the whole batch, squared."""
    original = collect.fisher

    def faulty(model, examples, log_likelihood):
        batch = list(examples)
        return original(model, [batch], lambda net, b: sum(log_likelihood(net, e) for e in b) / len(b))

    patch.setattr(collect, "fisher", faulty)


def fisher_additive_floor(patch):
    original = elementwise.fisher
    patch.setattr(elementwise, "fisher", lambda m, f, w: original(m, [x + 1e-6 for x in f], w))


def regmean_singular(patch):
    """No ridge, a plain inverse."""

    def faulty(weights, grams, anchor, ridge):
        total = sum(grams).double()
        right = sum(w.double() @ g.double() for w, g in zip(weights, grams, strict=True))
        return (right.float() @ torch.linalg.inv(total.float())).to(anchor.dtype), 1.0

    patch.setattr(spectral, "gram_solve", faulty)


def regmean_transposed(patch):
    original = spectral.gram_solve
    patch.setattr(
        spectral, "gram_solve", lambda w, g, a, r: original(w, [torch.diag(x.diagonal()) for x in g], a, r)
    )


def tall_absolute_weights(patch):
    """The base is handed over where a task vector belongs."""
    original = elementwise.consensus
    patch.setattr(elementwise, "consensus", lambda d, t, k: original([x + 10 for x in d], t, k) - 10 * len(d))


def tall_without_minus(patch):
    patch.setattr(
        elementwise, "tall_mask", lambda delta, merged, threshold: delta.abs() > threshold * merged.abs()
    )


def tsv_null_vectors(patch):
    patch.setattr(spectral, "SINGULAR_CUT", -1.0)


def iso_sum_instead_of_mean(patch):
    original = spectral.iso_c
    patch.setattr(spectral, "iso_c", lambda deltas: original(deltas) * len(deltas))


def statistics_merged_like_weights(patch):
    original = align._assign

    def faulty(name, rule, *rest):
        return original(name, rule and dataclasses.replace(rule, rule="owners"), *rest)

    patch.setattr(align, "_assign", faulty)


def statistics_summed(patch):
    """A variance is base + scale * sum of changes, too."""
    patch.setattr(align, "STATISTIC", re.compile("(?!)"))


def counters_of_the_first_model(patch):
    original = align._integer
    patch.setattr(align, "COUNTER", re.compile("(?!)"))
    patch.setattr(align, "_integer", lambda name, owners, *rest: original(name, owners[:1], *rest))


def average_in_the_type_of_the_file(patch):
    patch.setattr(engine.Plan, "_arithmetic", lambda self: next(iter(self.models["a"].specs.values())).dtype)


def average_of_products(patch):
    """sum w_i theta_i in float32 with w_i already divided: equal models come out changed."""
    patch.setattr(elementwise, "linear", lambda t, w: sum(x * y for x, y in zip(t, w, strict=True)))


def line_the_other_way(patch):
    patch.setattr(elementwise, "interpolate", lambda a, b, t: torch.lerp(b, a, t))


def line_by_steps(patch):
    patch.setattr(elementwise, "interpolate", lambda a, b, t: a + t * (b - a))


def slerp_of_unit_vectors(patch):
    """The angle from acos of a float32 cosine."""

    def faulty(job, terms):
        found = [float(np.float32(v)) for v in original(job, terms)]
        return found if len(found) != 2 else [np.float32(found[0] + 1e-7), found[1]]

    original = points.sums
    patch.setattr(points, "sums", faulty)


def slerp_norm_lost(patch):
    original = points.Slerp.start
    patch.setattr(points.Slerp, "start", lambda self, job: tuple(x * 0.9 for x in original(self, job)))


def depth_over_the_whole_model(patch):
    from unival.merging import recipe

    patch.setattr(
        recipe, "_blocks_per_stack", lambda depth, names: {"encoder.layers": 6, "decoder.layers": 6}
    )


def module_rules_ignored(patch):
    patch.setattr(engine, "coefficients", lambda recipe, names: dict.fromkeys(names, (recipe.weights, 1.0)))


def trained_means_present(patch):
    patch.setattr(align, "same_bytes", lambda one, other, name, other_name=None: False)


def models_in_the_order_of_the_list(patch):
    """Sums over the models as listed: the last bits follow the list."""
    original = elementwise.linear
    patch.setattr(elementwise, "linear", lambda t, w: original(t, w) + 1e-6 * t[0])


def stock_of_angles(patch):
    original = points.ModelStock.start

    def faulty(self, job):
        share = original(self, job)
        return share**1.5

    patch.setattr(points.ModelStock, "start", faulty)


def stock_shrunk_products(patch):
    original = points.gram
    patch.setattr(
        points,
        "gram",
        lambda job: original(job) * _signs(job),
    )


def _signs(job):
    return 1 - 0.2 * (1 - torch.eye(len(job.models)))


def entropy_upwards(patch):
    original = adamerging.entropy
    patch.setattr(adamerging, "entropy", lambda logits, mask=None: -original(logits, mask))


def mask_from_the_chunk(patch):
    original = rng.keep_mask
    patch.setattr(sparse, "keep_mask", lambda key, start, count, density: original(0, start, count, density))


def slopes_off(patch):
    """A term that no unlabelled batch asks for."""
    original = adamerging.entropy
    patch.setattr(
        adamerging, "entropy", lambda logits, mask=None: original(logits, mask) + logits.mean() * 0.1
    )


def integers_averaged(patch):
    def faulty(name, owners, models, recipe, rule):
        spec = models[owners[0]].specs[name]
        return align.Assignment(name, spec.shape, spec.dtype, tuple(owners), None, rule)

    patch.setattr(align, "_integer", faulty)


def integers_of_the_first_model(patch):
    original = align._integer
    patch.setattr(align, "_integer", lambda name, owners, *rest: original(name, owners[:1], *rest))


def nobody_agrees(patch):
    """0 / 0 where no entry has the elected sign."""

    def faulty(deltas, weights, mean=True):
        sign = sum(deltas).sign()
        agreeing = [(delta * sign).clamp_min(0) for delta in deltas]
        total = sum(a * w for a, w in zip(agreeing, weights, strict=True)) * sign
        return total / sum(a.sign() * w for a, w in zip(agreeing, weights, strict=True)) if mean else total

    patch.setattr(elementwise, "elect", faulty)


def matrices_for_all(patch):
    patch.setattr(matrices.MatrixMethod, "block", lambda self, job, state, start, models, base: models[0])


def gram_not_averaged(patch):
    original = collect.grams
    patch.setattr(collect, "grams", lambda *a: {k: v * 30 for k, v in original(*a).items()})


FAULTS = {
    owner_scaling: "an_owned_tensor_is_exact_and_shared_ones_are_renormalised",
    stock_epsilon: "model_stock_limits_and_scale_freedom",
    stock_of_angles: "model_stock_is_the_projection_for_every_number_of_models",
    stock_shrunk_products: "model_stock_is_the_projection_for_every_number_of_models",
    ties_full_density: "ties_keeps_exactly_the_asked_count",
    ties_one_too_many: "ties_keeps_exactly_the_asked_count",
    ties_weighted_election: "ties_elects_by_mass_without_the_loser_and_without_weights",
    ties_tensor_scope_for_model: "ties_keeps_exactly_the_asked_count",
    breadcrumbs_tiny_top: "breadcrumbs_drops_both_tails_and_survives_small_tensors",
    dare_l1_rescale: "dare_is_unbiased_also_for_small_tensors_and_keeps_a_binomial_share",
    dare_without_rescale: "dare_is_unbiased_also_for_small_tensors_and_keeps_a_binomial_share",
    dare_order_dependent: "order_of_models_changes_no_bit",
    dare_one_mask_for_all: "dare_masks_differ_by_seed_model_and_tensor",
    mask_from_the_chunk: "dare_masks_differ_by_seed_model_and_tensor",
    fisher_of_a_batch: "fisher_of_logistic_regression_in_closed_form",
    fisher_additive_floor: "fisher_equal_scaled_and_owned",
    regmean_singular: "regmean_with_too_few_samples_stays_bounded",
    regmean_transposed: "regmean_is_the_joint_least_squares",
    gram_not_averaged: "gram_hooks_see_the_inputs_of_linear_layers",
    tall_absolute_weights: "consensus_keeps_what_enough_tasks_use",
    tall_without_minus: "tall_masks_look_at_changes_not_at_weights",
    tsv_null_vectors: "tsv_m_of_one_task_and_of_orthogonal_ones",
    iso_sum_instead_of_mean: "iso_c_makes_singular_values_equal",
    statistics_merged_like_weights: "statistics_are_averaged_whatever_the_method",
    statistics_summed: "statistics_of_batch_norm_need_no_rule",
    counters_of_the_first_model: "counters_of_batch_norm_are_those_of_the_base",
    average_in_the_type_of_the_file: "average_is_the_correctly_rounded_mean_in_bfloat16",
    average_of_products: "average_of_one_or_equal_models_is_exact",
    line_the_other_way: "line_is_exact_at_both_ends",
    line_by_steps: "line_is_exact_at_both_ends",
    slerp_of_unit_vectors: "slerp_ends_equal_symmetric_orthogonal",
    slerp_norm_lost: "slerp_ends_equal_symmetric_orthogonal",
    depth_over_the_whole_model: "lines_scales_by_depth_in_each_stack",
    module_rules_ignored: "module_weights_and_scales_reach_their_tensors_only",
    trained_means_present: "trained_takes_the_only_changed_tensor",
    models_in_the_order_of_the_list: "average_of_one_or_equal_models_is_exact",
    nobody_agrees: "ties_elects_by_mass_without_the_loser_and_without_weights",
    entropy_upwards: "adamerging_follows_finite_differences_and_fixed_is_task_arithmetic",
    slopes_off: "adamerging_follows_finite_differences_and_fixed_is_task_arithmetic",
    integers_averaged: "integers_are_copied_and_never_averaged",
    integers_of_the_first_model: "integers_are_copied_and_never_averaged",
    matrices_for_all: "matrix_methods_give_the_mean_to_everything_else",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_is_caught(fault, monkeypatch):
    fault(monkeypatch)
    with pytest.raises((AssertionError, UserError)):  # NaN in a result is refused
        getattr(identities, FAULTS[fault])()
