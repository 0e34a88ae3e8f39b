"""The findings say the numbers of the tables."""

import json
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from synthetic import synthetic_results

from ioca_jax.report import sections
from ioca_jax.report.findings import (
    Rows,
    annotation_sentences,
    clearest_comparisons,
    conclusion_sentences,
    joint_sentences,
    judged_claims,
    trend_sentences,
)
from ioca_jax.report.tables import findings


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
    found = findings(results, {"orders": orders})
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
    _, best, _, of_layer = findings(results, {"orders": orders})["Accuracy"]
    assert "0.750, is 0.125 above that of random order" in best
    assert of_layer == (
        "In layer 1, the area is significantly below that of random order in 0 of 1 "
        "comparisons of an order and a clamp, above it in 0."
    )
    orders["p_corrected"] = np.nan
    _, *untested = findings(results, {"orders": orders})["Accuracy"]
    assert len(untested) == 2
    assert all(
        text.endswith("; there are too few networks, or no random orders, for a test.")
        for text in untested
    )


def test_networks_that_diverged_are_left_out_or_said():
    results = synthetic_results(seeds=3, diverged=(0, 2))
    error = 100 * (1 - float(results["accuracy"][1, 0, 0, 0, 0]))
    assert findings(results, {})["Accuracy"][0] == (
        f"The network has a test error of {error:.2f} %; 2 more diverged and are left "
        "out."
    )
    results["diverged"].values[:] = True
    assert findings(results, {}) == {
        "Accuracy": ["All 3 networks diverged in training."]
    }


def test_counts_come_with_those_of_the_opposite():
    """Of planted rows; what a test shows is told beside the opposite, and what not."""
    rows: Rows = [{"finding": word} for word in ["redundant"] * 3 + ["neither", ""]]
    assert [*joint_sentences(rows)] == [
        "Of 4 tests of the joint behaviour of pairs and groups: 3 redundant, 0 "
        "synergistic, 1 neither."
    ]
    assert [*joint_sentences(rows[-1:])] == []
    about: dict[Hashable, Any] = {
        "layer": "all",
        "unit": "1",
        "from_epoch": 0,
        "to_epoch": 9,
    }
    about |= {"effect": 0.5, "low": 0.25, "high": 0.75, "p_corrected": 0.03}
    trends: Rows = [
        about | {"quantity": "test_error", "trend": trend}
        for trend in ("neither", "shrinks", "neither", "")
    ]
    assert [*trend_sentences(trends)] == [
        "Of 3 tested changes through training: 0 grow, 1 shrink, 2 neither.",
        "From epoch 0 to 9 the test error shrinks, by +0.500 (95 % interval +0.250 to "
        "+0.750, corrected p = 0.03).",
    ]
    assert [*trend_sentences(trends[-1:])] == []
    concluded: Rows = [
        {"suggested": "redundant", "verdict": verdict, "sentence": "curves."}
        for verdict in ("confirmed", "open", "open", "contradicted")
    ]
    concluded += [concluded[0] | {"suggested": "undecided", "verdict": "redundant"}]
    assert [*conclusion_sentences(concluded)] == [
        "Of 4 hypotheses that curves suggest, tested on pairs and groups: 1 confirmed, "
        "1 contradicted, 0 mixed, 2 open.",
        "Curves.",
    ]
    usual: dict[Hashable, Any] = {"skewness": 0.0, "usual_skewness": 1.0}
    judged: Rows = [
        usual | {"claim": "4", "verdict": verdict, "effect": effect}
        for verdict, effect in (("holds", 0.5), ("undecided", 0.25), ("holds", 0.75))
    ]
    counts, *_ = judged_claims(judged)
    assert counts == (
        "Ablation in deeper layers does less harm: holds in 2, fails in 0, undecided "
        "in 1 of 3 comparisons; median effect +0.500 (random orders, layer minus the "
        "layer below, normalised area)."
    )


def test_annotations_are_told_with_both_sides():
    rows: Rows = [
        {
            "annotation": "digit",
            "value": value,
            "scope": "network",
            "clamp": "zero",
            "ranked_by": "entropy",
            "direction": "ascending",
            "lost": 0.5,
            "effect": effect,
            "low": effect - 0.125,
            "high": effect + 0.125,
            "p_corrected": p_value,
        }
        for value, effect, p_value in (
            (0, 0.25, 0.03),
            (1, 0.5, 0.5),
            (2, -0.25, 0.05),
            (3, -0.5, 0.01),
        )
    ]
    counts, clearest = annotation_sentences(rows)
    assert counts == (
        "Examples of one value of digit lose significantly more than those of its "
        "other values in 1 of 4 comparisons of a value, an order and a clamp, less "
        "in 2."
    )
    assert clearest.startswith("Examples with digit = 0 lose most beyond others in ")
    (counts,) = annotation_sentences(rows[1:])
    assert counts.endswith(
        "in 0 of 3 comparisons of a value, an order and a clamp, less in 2."
    )
    untested: Rows = [row | {"p_corrected": np.nan} for row in rows]
    assert [*annotation_sentences(untested)] == []
    title, *lines = sections.annotations("Annotations", pd.DataFrame(untested))
    assert (title, lines) == ("Annotations: 4 comparisons, without a test", [])


def test_hypotheses_are_counted_by_what_they_suggest():
    ends = ["highest"] * 3 + ["lowest"] * 2
    verdicts = ["redundant", "undecided", "redundant", "undecided", "undecided"]
    table = pd.DataFrame({"end": ends, "verdict": verdicts, "sentence": "It is so."})
    assert sections.hypotheses("Hypotheses", table) == [
        "Hypotheses: 2 of 3 redundant, 0 of 2 synergistic, the others undecided",
        "  It is so.",
        "  It is so.",
    ]
