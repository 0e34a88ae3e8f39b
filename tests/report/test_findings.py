"""The findings say the numbers of the tables."""

import json

import numpy as np
import pandas as pd
from synthetic import synthetic_results

from ioca_jax.report.findings import clearest_comparisons
from ioca_jax.report.tables import find


def test_the_clearest_comparison_of_each_claim_is_told():
    names = ["claim", "scope", "clamp", "measure", "effect", "low", "high"]
    names += ["p_corrected", "verdict"]
    rows = [
        ("1", "network", "zero", "entropy", -0.03, -0.06, 0.01, 0.18, "undecided"),
        ("1", "network", "mean", "entropy", -0.01, -0.06, 0.01, 0.5, "undecided"),
        ("4", "layer_2", "mean", "random", 0.05, 0.04, 0.06, 0.0078, "holds"),
        ("5", "layer_2", "", "random", 0.05, 0.04, 0.06, 0.0078, "holds"),
    ]
    first, second, third = clearest_comparisons(
        pd.DataFrame(rows, columns=names), ["1", "4", "5"]
    )
    assert first == (
        "Over the whole network, ascending order is no better than random order: "
        "undecided (network, entropy, clamp zero). Ascending minus random order, "
        "normalised area: -0.030, 95 % interval -0.060 to +0.010, corrected p = 0.18."
    )
    assert second.startswith("Ablation in deeper layers does less harm: holds (layer")
    assert ": holds (layer 2, random). Mean minus zero clamp" in third
    assert clearest_comparisons(pd.DataFrame(columns=names), ["1", "4"]) == []


def test_the_orders_furthest_from_random_are_named():
    rows = [
        ("network", "mean", "entropy", "ascending", 0.5, -0.02),
        ("network", "zero", "kl_selectivity", "descending", 0.25, -0.25),
        ("network", "zero", "entropy", "ascending", 0.75, 0.125),
        ("layer_2", "zero", "entropy", "ascending", 0.6, 0.01),
        ("layer_1", "zero", "entropy", "descending", 0.4, -0.5),
    ]
    names = ["scope", "clamp", "ranked_by", "direction", "area", "effect"]
    orders = pd.DataFrame(rows, columns=names).assign(
        low=-0.3, high=0.2, p_corrected=0.04
    )
    results = synthetic_results().assign_attrs(configuration=json.dumps({}))
    found = find(results, {"orders": orders})
    assert [*found] == ["Accuracy"]
    _, worst, best, counted, *of_layer = found["Accuracy"]
    assert worst == (
        "In the whole network, descending order of KL selectivity (clamped to zero) "
        "reduces accuracy most: its normalised area under the accuracy curve, 0.250, "
        "is 0.250 below that of random order (95 % interval -0.300 to +0.200, "
        "corrected p = 0.04)."
    )
    assert "preserves accuracy best: " in best
    assert "0.750, is 0.125 above that of random order" in best
    assert counted == (
        "In the whole network, the area is significantly below that of random order "
        "in 2 of 3 comparisons of an order and a clamp, above it in 1."
    )
    of_layer, counted = of_layer  # no order in layer 1 is above random order
    assert counted.endswith(
        "in 1 of 1 comparisons of an order and a clamp, above it in 0."
    )
    assert of_layer.startswith("In layer 1, descending order of entropy (clamped to z")
    orders["p_corrected"] = [0.06, 0.06, 0.05, 0.04, 0.06]
    _, best, _, of_layer = find(results, {"orders": orders})["Accuracy"]
    assert "0.750, is 0.125 above that of random order" in best
    assert of_layer == (
        "In layer 1, the area is significantly below that of random order in 0 of 1 "
        "comparisons of an order and a clamp, above it in 0."
    )
    orders["p_corrected"] = np.nan
    _, *untested = find(results, {"orders": orders})["Accuracy"]
    assert len(untested) == 2
    assert all(
        text.endswith("; there are too few networks, or no random orders, for a test.")
        for text in untested
    )


def test_networks_that_diverged_are_left_out_or_said():
    results = synthetic_results(seeds=3, diverged=(0, 2))
    error = 100 * (1 - float(results["accuracy"][1, 0, 0, 0, 0]))
    assert find(results, {})["Accuracy"][0] == (
        f"The network has a test error of {error:.2f} %; 2 more diverged and are left "
        "out."
    )
    results["diverged"].values[:] = True
    assert find(results, {}) == {"Accuracy": ["All 3 networks diverged in training."]}
