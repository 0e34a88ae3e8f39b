"""Statements from curves: planted effects are found, nulls are not, numbers by hand."""

import itertools
import json
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from synthetic import (
    SCOPES,
    SEEDS,
    THREE,
    binomial_tolerance,
    planted_results,
    synthetic_results,
    with_accuracy,
)

import ioca_jax as ioca
from ioca_jax.inference import claims, families, hypotheses, neurons, order_tests
from ioca_jax.report import sections
from ioca_jax.report.findings import judged_claims
from ioca_jax.report.tables import tabulate

PLANTED = {
    ("network", "mutual_information", "ascending"): -0.1,
    ("network", "entropy", "ascending"): 0.1,
    ("layer_1", "mutual_information", "ascending"): 0.1,
    ("layer_1", "mutual_information", "descending"): -0.1,
    ("layer_2", "mutual_information", "ascending"): -0.1,
    ("layer_2", "mutual_information", "descending"): 0.1,
}


def area_of_bump(size: int) -> float:
    """Normalised: the trapezoids of the bump over intact less chance."""
    share = np.arange(size + 1) / size
    return float(np.trapezoid(np.sin(np.pi * share), share)) / (0.95 - 0.5)


def test_orders_are_compared_with_random_ones():
    results = planted_results(PLANTED)
    table = order_tests.compare_orders(results)
    assert len(table) == 3 * 2 * 3 * 2
    for row in table.to_dict("records"):
        planted = PLANTED.get((row["scope"], row["ranked_by"], row["direction"]), 0.0)
        expected = planted * area_of_bump(SCOPES[row["scope"]])
        # Noise of 0.01 and a quarter of that, over ten networks, four errors.
        assert abs(row["effect"] - expected) < 4 * 0.0125 / 10**0.5 / 0.45
        assert row["low"] < row["effect"] < row["high"]
        assert (row["p_corrected"] <= 0.05) == (planted != 0)
        assert row["p_corrected"] >= row["p_value"]


def test_an_effect_recomputed_by_hand():
    results = planted_results(PLANTED, clamp_gain=0.05)
    accuracy = results["accuracy"].sel(clamp="mean", scope="layer_2").values[..., :21]
    areas = np.trapezoid(accuracy, axis=-1) / 20
    normalised = (areas - 0.5) / (accuracy[..., 0] - 0.5)
    effects = normalised[:, 3] - normalised[:, 6:].mean(axis=1)
    table = order_tests.compare_orders(results).query(
        "scope == 'layer_2' and clamp == 'mean' and ranked_by == 'mutual_information' "
        "and direction == 'descending'"
    )
    row = table.iloc[0]
    np.testing.assert_allclose(row["effect"], effects.mean(), rtol=1e-6)
    np.testing.assert_allclose(row["area"], normalised[:, 3].mean(), rtol=1e-6)
    expected = scipy.stats.permutation_test(
        (effects,), np.mean, permutation_type="samples", n_resamples=2**SEEDS
    )
    np.testing.assert_allclose(row["p_value"], expected.pvalue, rtol=1e-6)
    curve = accuracy[:, 3].mean(axis=0)
    lost = [np.flatnonzero(curve[0] - curve >= loss - 1e-6)[0] for loss in (0.01, 0.1)]
    assert row["lost_1"] == lost[0]
    assert row["lost_10"] == lost[1]


def test_difference_curves_hold_what_is_planted():
    results = planted_results(PLANTED)
    table = order_tests.difference_curves(results)
    here = table.query(
        "scope == 'layer_1' and clamp == 'zero' and ranked_by == 'mutual_information' "
        "and direction == 'ascending'"
    )
    assert here["step"].tolist() == list(range(31))
    planted = 0.1 * np.sin(np.pi * np.arange(31) / 30)
    low, high = here["low"].to_numpy(), here["high"].to_numpy()
    assert (low <= planted + 1e-9).all()
    assert (planted - 1e-9 <= high).all()
    accuracy = results["accuracy"].sel(clamp="zero", scope="layer_1").values[..., :31]
    mean = (accuracy[:, 2] - accuracy[:, 6:].mean(axis=1)).mean(axis=0)
    np.testing.assert_allclose(here["mean"], mean, atol=1e-6)


def verdicts_of(table: pd.DataFrame, claim: str, scope: str, measure: str) -> set[str]:
    chosen = table[["claim", "scope", "measure"]] == [claim, scope, measure]
    return set(table[chosen.all(axis=1)]["verdict"])


def test_claims_hold_fail_or_are_undecided():
    results = planted_results(PLANTED, clamp_gain=0.1, layer_gain=-0.2)
    table = claims.judge_claims(results)
    assert set(claims.CLAIMS) - {"5, other clamps"} == set(table["claim"])
    assert set(claims.claims_of(table)) == set(table["claim"])
    columns = ["networks_for_half", "networks_for_power"]
    undecided = (table["verdict"] == "undecided").to_numpy()
    assert 0 < undecided.sum() < len(table)
    for_half, for_power = table[columns].to_numpy().T
    np.testing.assert_array_equal(np.isnan(for_half), ~undecided)
    np.testing.assert_array_equal(np.isnan(for_power), ~undecided)
    assert (for_half[undecided] > 6).all()
    assert (for_half[undecided] <= for_power[undecided]).all()
    areas = families.normalized_areas(results)
    gain = areas["layer_1", "random", "random"] @ [-1, 1]
    of_clamps = table.query("claim == '5' and scope == 'layer_1'")
    np.testing.assert_allclose(of_clamps["skewness"], scipy.stats.skew(gain))
    verdicts = partial(verdicts_of, table)
    assert verdicts("1", "network", "mutual_information") == {"holds"}
    assert verdicts("1, first version", "network", "mutual_information") == {"holds"}
    assert verdicts("1", "network", "entropy") == {"fails"}
    assert verdicts("1, first version", "network", "entropy") == {"fails"}
    assert verdicts("1, first version", "network", "kl_selectivity") == {"undecided"}
    for claim in ("2, lowest first", "2, highest first"):
        assert verdicts(claim, "layer_1", "mutual_information") == {"holds"}
        assert verdicts(claim, "layer_2", "mutual_information") == {"fails"}
        assert verdicts(claim, "layer_1", "kl_selectivity") == {"undecided"}
    assert verdicts("4", "layer_2 over layer_1", "random") == {"fails"}
    assert verdicts("5", "layer_1", "random") == {"holds"}


def test_other_clamps_are_compared_with_the_mean():
    results = planted_results(PLANTED, clamp_gain=0.1)
    named = results.assign_coords(clamp=["mean", "resample"])
    table = claims.judge_claims(named).query("claim == '5, other clamps'")
    assert table["scope"].tolist() == ["network", "layer_1", "layer_2"]
    assert set(table["clamp"]) == {"resample"}
    assert set(table["verdict"]) == {"holds"}
    old = claims.judge_claims(results).query("claim == '5'")
    np.testing.assert_allclose(table["effect"], old["effect"])


def test_depth_and_single_neurons():
    results = planted_results()
    rng = np.random.default_rng(1)
    deep = results["layer"].values == 2
    for index, name in enumerate(THREE):
        moved = rng.uniform(size=(SEEDS, 50)) + (
            deep if name != "entropy" else -1 * deep
        )
        results["score"].values[:, index] = moved
    # What a neuron's ablation costs ranks with its mutual information in layer 1 alone.
    cost = rng.uniform(size=(SEEDS, 2, 50))
    cost[:, :, :30] = results["score"].values[:, 1:2, :30] ** 3
    results["single_loss"].values[:] = 0.5 + cost
    verdicts = partial(verdicts_of, claims.judge_claims(results))
    between = "layer_2 over layer_1"
    assert verdicts("3", between, "kl_selectivity") == {"holds"}
    assert verdicts("7, depth", between, "entropy") == {"fails"}
    single = "2, single neurons"
    assert verdicts(single, "layer_1", "mutual_information") == {"holds"}
    assert verdicts(single, "layer_2", "mutual_information") == {"undecided"}
    effects = order_tests.correlate_effects(results)
    assert len(effects) == 2 * 2 * 3
    row = effects.query(
        "layer == 1 and clamp == 'mean' and measure == 'mutual_information'"
    ).iloc[0]
    np.testing.assert_allclose(row["effect"], 1)
    np.testing.assert_allclose(row["spearman"], 1)
    row = effects.query("layer == 2 and clamp == 'zero' and measure == 'entropy'").iloc[
        0
    ]
    taus = []
    for scores, costs in zip(results["score"].values, cost, strict=True):
        found = scipy.stats.kendalltau(scores[0, 30:], costs[0, 30:])
        taus.append(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(row["effect"], np.mean(taus), atol=1e-6)


def test_a_layer_of_equal_neurons_has_no_correlation():
    results = planted_results()
    results["score"].values[:, :, :30] = 0
    effects = order_tests.correlate_effects(results)
    first, second = effects.query("layer == 1"), effects.query("layer == 2")
    assert np.isnan(first["effect"].to_numpy()).all()
    assert set(first["networks"]) == {0}
    assert np.isfinite(second["effect"].to_numpy()).all()
    claims.judge_claims(results)


def test_hypotheses_are_formed_by_the_rule():
    table = hypotheses.form_hypotheses(planted_results(PLANTED))
    assert len(table) == 2 * 2 * 3 * 2
    decided = table.query("verdict != 'undecided'")
    found = {
        (row["layer"], row["measure"], row["end"], row["verdict"])
        for row in decided.to_dict("records")
    }
    # In layer 2 highest first does less harm than random, and lowest first more.
    assert {
        (2, "mutual_information", "highest", "redundant"),
        (2, "mutual_information", "lowest", "synergistic"),
    } <= found
    assert not [row for row in found if row[1] == "mutual_information" and row[0] == 1]
    row = decided.query("end == 'lowest' and clamp == 'zero'").iloc[0]
    effect, low, high = row["effect"], row["low"], row["high"]
    assert row["sentence"] == (
        "In layer 2, clamped to zero, ablating the neurons of lowest mutual "
        f"information does more harm than random ones (normalised area {effect:.3f} "
        f"less than in random order, 95 % interval of the harm {low:.3f} to "
        f"{high:.3f}, corrected p = {row['p_corrected']:.2g}, 10 networks): they carry "
        "information jointly with others."
    )


def test_no_more_harm_than_random_is_shown_within_a_margin_only():
    # The same as random: with a wide margin shown, with none not.
    wide = hypotheses.form_hypotheses(planted_results(), margin=0.1)
    assert set(wide.query("end == 'highest'")["verdict"]) == {"redundant"}
    none = hypotheses.form_hypotheses(planted_results(), margin=0.0)
    assert "redundant" not in set(none["verdict"])
    with pytest.raises(ValueError, match="margin: expected a number not negative"):
        hypotheses.form_hypotheses(planted_results(), margin=-0.1)


def test_nulls_are_rarely_decided(monkeypatch):
    """Runs without an effect in which any synergy is found, at 5 %.

    Of 120 runs: an error rate of 12 % fails with 0.9, one of 20 % with 0.999. Intervals
    and the second test are left out, for time.
    """
    monkeypatch.setattr(families, "bootstrap_test", families.sign_flip_test)
    results = planted_results(seeds=5).isel(clamp=[0])
    accuracy = results["accuracy"].values
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(120):
        noise = rng.normal(0, 0.01, (*accuracy.shape[:-1], 1))
        noise = noise * np.sin(np.pi * np.arange(51) / 50)
        table = hypotheses.form_hypotheses(
            with_accuracy(results, accuracy + noise), margin=0.0
        )
        false += set(table["verdict"]) != {"undecided"}
    assert false / 120 < 0.05 + binomial_tolerance(0.05, 120)
    assert false > 0


def test_orders_that_agree_do_not_differ():
    """Means of ten equal float32 accuracies differ from that accuracy by rounding."""
    results = planted_results(random_orders=10)
    first = results["accuracy"].isel(ordering=[0] * results.sizes["ordering"])
    level = with_accuracy(results, first.values)
    orders = order_tests.compare_orders(level)
    np.testing.assert_array_equal(orders[["effect", "low", "high"]], 0)
    np.testing.assert_array_equal(orders[["p_value", "p_corrected", "p_bootstrap"]], 1)
    curves = order_tests.difference_curves(level)
    np.testing.assert_array_equal(curves[["mean", "low", "high"]], 0)


def test_steps_without_a_difference_do_not_widen_bands():
    results = planted_results(PLANTED, random_orders=10)
    accuracy = results["accuracy"].values.copy()
    ascending = results["ordering"].values.tolist().index("entropy_ascending_0")
    # One example more than random orders in all networks, but for step 10.
    random = np.rint(accuracy[..., 7:8, :] * 100_000) / 100_000
    accuracy[..., 6:, :] = random
    accuracy[..., ascending, :] = random[..., 0, :] + 1e-5
    accuracy[..., ascending, 10] += 1e-3 * np.arange(10)[:, None, None]
    table = order_tests.difference_curves(with_accuracy(results, accuracy)).query(
        "ranked_by == 'entropy' and direction == 'ascending' and scope == 'layer_1'"
    )
    width = (table["high"] - table["low"]).to_numpy().reshape(2, 31)
    assert (np.delete(width, 10, axis=1) == 0).all()
    error = 1e-3 * scipy.stats.sem(np.arange(10))
    expected = 2 * scipy.stats.t.ppf(0.975, 9) * error
    np.testing.assert_allclose(width[:, 10], expected, rtol=1e-6)


def test_tables_of_a_run_that_has_few_networks():
    results = planted_results()
    results["joint_count"] = (
        ("seed", "neuron", "code", "class"),
        np.full((SEEDS, 50, 2, 2), 7, np.int32),
    )
    of_three = {"neurons", "orders", "faithfulness", "differences", "effects"}
    of_three |= {"class_damage"}
    of_few = {
        2: {"neurons"},
        3: of_three,
        5: of_three | {"hypotheses"},
        6: of_three | {"hypotheses", "claims"},
    }
    for seeds, expected in of_few.items():
        assert set(tabulate(results.isel(seed=range(seeds)))) == expected
    without = results.isel(ordering=range(6))
    assert set(tabulate(without)) == {"neurons", "faithfulness"}
    none = results.assign(diverged=results["diverged"] | True)
    assert tabulate(none) == {}


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (
            claims.judge_claims,
            {"seed": range(5)},
            r"expected at least 6 networks, with which a sign-flip test can reach "
            r"p = 0.05, got 5 above chance; run more seeds",
        ),
        (
            hypotheses.form_hypotheses,
            {"seed": range(4)},
            r"expected at least 5 networks, with which .* got 4 above chance; run more "
            r"seeds",
        ),
        (
            order_tests.compare_orders,
            {"ordering": range(6)},
            "expected a run with random orders, to compare with, got one without; run "
            "it with random_orders of 1 or more",
        ),
        (
            neurons.compare_variants,
            {},
            "expected a run with the variants of its measures, got one without; run it "
            "with robustness",
        ),
    ],
)
def test_what_is_missing_is_said(function, change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        function(planted_results().isel(**change))


@pytest.mark.parametrize("margin", [-0.01, np.nan, np.inf, "0.01"])
@pytest.mark.parametrize("function", [claims.judge_claims, hypotheses.form_hypotheses])
def test_margins_are_finite_and_not_negative(function, margin, unchecked_shapes):
    with pytest.raises(ValueError, match="^margin: expected a .*number.*, got "):
        function(planted_results(), margin=margin)


def test_networks_that_repeat_are_refused():
    twice = planted_results().isel(seed=[0, 1, 2, 3, 4, 5, 1])
    for function in (
        claims.judge_claims,
        hypotheses.form_hypotheses,
        order_tests.compare_orders,
    ):
        with pytest.raises(
            ValueError, match="^seed: expected every network once, got seed 1 twice; "
        ):
            function(twice)


def test_claims_are_about_the_papers_measures():
    results = planted_results()
    names = {"entropy": "taylor_zero", "mutual_information": "taylor_mean"}
    results = results.assign_coords(
        ranked_by=("ordering", [names.get(n, n) for n in results["ranked_by"].values])
    )
    table = claims.judge_claims(results)
    assert set(table["measure"]) == {"kl_selectivity", "random"}
    assert "taylor_mean" in set(hypotheses.form_hypotheses(results)["measure"])
    others = results.isel(ordering=[0, 1, 2, 3, 6, 7, 8, 9])
    with pytest.raises(
        ValueError, match="^expected a run with some of entropy, mutual"
    ):
        claims.judge_claims(others.assign_coords(measure=["a", "b", "c"]))


def test_networks_at_chance_are_left_out():
    results = planted_results(PLANTED)
    results["accuracy"].values[[2, 5]] = np.where(
        np.isnan(results["accuracy"].values[[2, 5]]), np.nan, 0.5
    )
    assert families.above_chance(results)["seed"].values.tolist() == [
        0,
        1,
        3,
        4,
        6,
        7,
        8,
        9,
    ]
    table = hypotheses.form_hypotheses(results)
    assert table["sentence"].str.contains("8 networks").all()
    results["accuracy"].values[:] = 0.5
    with pytest.raises(ValueError, match="got 10 that diverged or are at chance"):
        families.above_chance(results)


def test_neurons_are_counted():
    results = planted_results(seeds=2)
    counts = np.full((2, 50, 2, 2), 7, np.int32)
    counts[:, 0, 1] = 0  # dead
    counts[:, 1:3, 0] = 0  # always on
    counts[1, 40, 1] = 0
    results["joint_count"] = (("seed", "neuron", "code", "class"), counts)
    results["selective_class"] = (
        ("seed", "neuron"),
        np.tile(np.arange(50) % 2, (2, 1)),
    )
    p_values = np.full((2, 3, 50), 0.9)
    p_values[:, 0] = np.nan
    p_values[:, 1, :5] = 0.001
    family = np.where(
        np.isnan(p_values), np.nan, np.where(np.arange(50) < 3, 0.01, 0.9)
    )
    for name, values in (("p_value", p_values), ("p_value_family", family)):
        results[name] = (("seed", "measure", "neuron"), values)
    first, second = neurons.count_neurons(results).to_dict("records")
    assert first == {
        **{"layer": 1, "neurons": 30, "dead": 1, "always_on": 2},
        **{"family_mutual_information": 3, "discovered_mutual_information": 5},
        **{"family_kl_selectivity": 3, "discovered_kl_selectivity": 0},
        **{f"by_permutation_{name}": 30 for name in THREE[1:]},
        **{"selective_for_0": 15, "selective_for_1": 15},
    }
    assert second["dead"] == 0.5
    assert second["family_mutual_information"] == 0


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[-1, 2], [3, 4]], "^counts: expected none negative, got -1"),
        ([[0.5, 2], [3, np.nan]], "^counts: expected integers"),
        ([1, 2, 3], r"^counts: expected shape \[\.\.\., B, C\]"),
    ],
)
def test_the_g_test_refuses_what_are_no_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        neurons.independence_p_values(np.array(counts))


def test_p_values_of_the_g_test_are_those_of_scipy():
    """Tables with absent codes and classes, which SciPy has to be given without."""
    rng = np.random.default_rng(0)
    counts = rng.integers(20, 60, size=(6, 3, 4))
    counts[1, 2] = counts[2, :, 3] = counts[3, :2] = counts[4, 0] = 0
    counts[4, :, 1] = 0
    counts[5, 1, 2:] = 0
    found = neurons.independence_p_values(counts)
    for p_value, table in zip(found, counts, strict=True):
        there = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
        rows, columns, total = there.sum(axis=1), there.sum(axis=0), there.sum()
        if len(rows) == 1:
            assert p_value == 1
            continue
        statistic, _, freedom, _ = scipy.stats.chi2_contingency(
            there, correction=False, lambda_="log-likelihood"
        )
        williams = 1 + (total / rows - 1 / len(rows)).sum() * (
            total / columns - 1 / len(columns)
        ).sum() / (6 * total * freedom)
        expected = scipy.stats.chi2.sf(statistic / williams, freedom)
        np.testing.assert_allclose(p_value, expected, rtol=1e-9)
    many = np.array([[30_100, 30_000], [29_900, 30_000]], np.int32)
    on_device = neurons.independence_p_values(jnp.asarray(many))
    likely: Any = scipy.stats.chi2_contingency(
        many, correction=False, lambda_="log-likelihood"
    )
    np.testing.assert_allclose(on_device, likely[1], rtol=1e-4)  # without Williams'
    # Nothing was counted, and an expected count of 9.9.
    assert neurons.independence_p_values(np.zeros((2, 2), int)) == 1
    assert np.isnan(neurons.independence_p_values(np.array([[9, 11], [90, 91]])))


def test_two_informative_neurons_of_forty_are_discovered():
    """200 permutations need four of forty neurons at the least p-value."""
    rng = np.random.default_rng(0)
    networks, size, labels = 50, 40, np.arange(1000) % 10
    chance = np.full((size, 2), 0.5)
    chance[:2] = 0.65, 0.35
    codes = rng.random((networks, size, 1000)) < chance[:, (labels < 5) * 1]
    on = np.stack([codes[..., labels == y].sum(axis=-1) for y in range(10)], axis=-1)
    results = planted_results(seeds=networks)
    about = ("seed", "neuron", "code", "class")
    counts = np.full((networks, 50, 2, 10), 50)
    counts[:, :size] = np.stack([100 - on, on], axis=2)
    results = results.drop_dims("class").assign(joint_count=(about, counts))
    p_values = np.ones((networks, 3, 50))
    p_values[:, 0] = np.nan
    p_values[:, 1:, :2] = 1 / 201
    for name in ("p_value", "p_value_family"):
        results[name] = (("seed", "measure", "neuron"), p_values)
    results.attrs["configuration"] = json.dumps({"permutations": 200})
    table = neurons.count_neurons(results)
    by_permutation = table.iloc[0]
    assert sections.neurons("Neurons", table)[-1] == (
        "  (permutations give the p-values of 50 neurons for mutual information, 50 "
        "neurons for KL selectivity; with so few permutations, these are discovered "
        "only where 5 or more of all 50 neurons are: give more --permutations)"
    )
    few = results.assign_attrs(configuration=json.dumps({"permutations": 2}))
    assert sections.neurons("Neurons", neurons.count_neurons(few))[-1].endswith(
        "permutations, none of these can be discovered: give more --permutations)"
    )
    assert by_permutation["discovered_mutual_information"] == 0
    assert by_permutation["least_by_permutation"] == 5  # of 50 neurons
    found = neurons.count_neurons(results.assign_attrs(classes_of="examples")).iloc[0]
    assert found["by_permutation_mutual_information"] == 0
    assert found["by_permutation_kl_selectivity"] == 30
    assert found["discovered_kl_selectivity"] == 0
    # Both, and a false one in about one network of ten.
    assert 2 <= found["discovered_mutual_information"] < 2.3
    tokens = neurons.count_neurons(results.assign_attrs(classes_of="tokens")).iloc[0]
    assert tokens["discovered_mutual_information"] == 0


def test_neurons_at_the_level_are_counted():
    """The least p-value of 19 permutations is 1/20, which is more in float32."""
    results = planted_results(seeds=2)
    results["joint_count"] = (
        ("seed", "neuron", "code", "class"),
        np.full((2, 50, 2, 2), 7, np.int32),
    )
    p_values = np.full((2, 3, 50), 1 / 20, np.float32)
    assert (p_values.astype(np.float64) > 0.05).all()
    for name in ("p_value", "p_value_family"):
        results[name] = (("seed", "measure", "neuron"), p_values)
    table = neurons.count_neurons(results)
    for kind, measure in itertools.product(("family", "discovered"), THREE):
        assert table[f"{kind}_{measure}"].tolist() == [30, 20]


def test_intervals_of_correlations_stay_within_their_range():
    """Five networks, of which one ranks alike: the bootstrap's end is below -1."""
    results = planted_results(seeds=5)
    scores = results["score"].values[:, 0, :30]
    rng = np.random.default_rng(0)
    cost = rng.uniform(size=(5, 2, 50))
    cost[0, :, :30] = scores[0]
    results["single_loss"].values[:] = 0.5 + cost
    table = order_tests.correlate_effects(results)
    assert (table["low"].to_numpy() >= -1).all()
    assert (table["high"].to_numpy() <= 1).all()
    row = table.query("layer == 1 and clamp == 'zero' and measure == 'entropy'").iloc[0]
    taus = [
        scipy.stats.kendalltau(scores[seed], cost[seed, 0, :30]).statistic  # pyright: ignore[reportAttributeAccessIssue]
        for seed in range(5)
    ]
    error = np.hypot(scipy.stats.sem(taus), 4 / (30 * 29) / np.sqrt(12))
    half = scipy.stats.t.ppf(0.975, 4) * error
    expected = np.clip(np.mean(taus) + np.array([-half, half]), -1, 1)
    np.testing.assert_allclose(row[["low", "high"]].astype(float), expected, atol=1e-6)


def test_a_tau_that_is_not_defined_counts_as_0_and_is_told():
    results = planted_results(seeds=8)
    scores = results["score"].values
    scores[:3, 1, 30:] = 0.25  # mutual information in layer 2 of three networks
    rng = np.random.default_rng(0)
    results["single_loss"].values[:] = 0.5 + rng.uniform(size=(8, 2, 50))
    table = ioca.judge_claims(results)
    about = {"claim": "2, single neurons", "scope": "layer_2", "clamp": "zero"}
    rows = {
        row["measure"]: row
        for row in table.to_dict("records")
        if all(row[name] == value for name, value in about.items())
    }
    taus = (
        [0.0] * 3
        + [
            scipy.stats.kendalltau(scores[s, 1, 30:], effects).statistic  # pyright: ignore[reportAttributeAccessIssue]
            for s, effects in enumerate(results["single_loss"].values[:, 0, 30:])
            if s > 2
        ]
    )
    row = rows["mutual_information"]
    assert row["undefined"] == 3
    assert row["effect"] == pytest.approx(np.mean(taus), abs=1e-9)
    assert rows["kl_selectivity"]["undefined"] == 0
    assert sum(table["undefined"].tolist()) == 2 * 3  # clamps
    note = (
        "In 2 of these, tau is undefined in 3 networks, where all neurons of the "
        "layer are alike, and counts as 0."
    )
    sentences = [*judged_claims(table.to_dict("records"))]
    (told,) = (text for text in sentences if "tau is undefined" in text)
    assert told.startswith("Within a layer, a neuron's value correlates in rank")
    assert told.endswith(f" (Kendall's tau-b). {note}")
    (alone, _) = judged_claims([row])
    assert alone.endswith(
        " In this comparison, tau is undefined in 3 networks, where all neurons of the "
        "layer are alike, and counts as 0."
    )
    assert sections.claims("Claims", table)[-1].splitlines()[-1] == (
        "An undefined tau, of a layer whose neurons are all alike, counts as 0: in 2 "
        "comparisons, of 3 networks each"
    )


def test_variants_are_rank_correlations():
    results = planted_results(seeds=4)
    rng = np.random.default_rng(0)
    scores = results["score"].values
    variant = rng.uniform(size=(4, 3, 3, 50))
    variant[:, 0] = -scores  # all ranks turned round
    variant[:, 2] = variant[:, 1] ** 2  # the halves agree
    variant[:, :, 2] = np.nan  # not of information
    results["variant_score"] = (("seed", "variant", "measure", "neuron"), variant)
    results = results.assign_coords(variant=["coarse", "first half", "second half"])
    table = neurons.compare_variants(results)
    assert set(table["measure"]) == set(THREE[:2])
    by_name = table.set_index(["variant", "measure", "layer"])["spearman"]
    np.testing.assert_allclose(by_name.loc["coarse"], -1)
    np.testing.assert_allclose(by_name.loc["second half"], 1)
    expected = []
    for of_seed, of_variant in zip(scores, variant, strict=True):
        found = scipy.stats.spearmanr(of_seed[0, 30:], of_variant[1, 0, 30:])
        expected.append(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]
    found = by_name.loc["first half", "entropy", 2]
    np.testing.assert_allclose(found, np.mean(expected), atol=1e-6)


def test_the_summary_says_what_the_tables_say():
    results = planted_results(PLANTED)
    results.attrs |= {
        "configuration": '{"dataset": "mnist5k", "epochs": 3}',
        "seconds": '{"loaded": 1.0, "compiling": 0.5}',
    }
    results["joint_count"] = (
        ("seed", "neuron", "code", "class"),
        np.full((SEEDS, 50, 2, 2), 7, np.int32),
    )
    text = ioca.summarize(results)
    tables = tabulate(results)
    for sentence in tables["hypotheses"].query("verdict != 'undecided'")["sentence"]:
        assert f"  {sentence}\n" in text
    judged = tables["claims"].query("claim == '2, lowest first'")["verdict"]
    counts = [str((judged == verdict).sum()) for verdict in claims.VERDICTS]
    (line,) = [li for li in text.splitlines() if li.startswith("  2, lowest first")]
    assert line.split("first", 1)[1].split()[:3] == counts
    assert isinstance(tables["orders"], pd.DataFrame)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda r: r.sel(clamp="mean"), "^results: .* none named clamp; select by a l"),
        (lambda r: r.isel(seed=0), "^results: expected the axes .* none named seed; "),
        (lambda r: r[["accuracy"]], "^results: .*, got accuracy without diverged; pa"),
        (lambda r: r.sel(scope=["layer_1"]), "^scope: .* of its layers, got layer_1; "),
    ],
)
def test_parts_of_results_are_refused_in_a_line(part, message):
    with pytest.raises(ValueError, match=message):
        ioca.judge_claims(part(synthetic_results(seeds=8)))


def test_other_parts_and_orders_of_axes_are_judged():
    results = synthetic_results(seeds=8)
    whole = ioca.judge_claims(results)
    turned = ioca.judge_claims(results.transpose("step", ..., "seed"))
    pd.testing.assert_frame_equal(turned, whole)
    of_entropy = ioca.judge_claims(results.sel(measure=["entropy"]))
    assert set(of_entropy["claim"]) < set(whole["claim"])
    assert len(ioca.form_hypotheses(results.sel(scope=["network"]))) == 0
