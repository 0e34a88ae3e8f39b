"""The findings say the numbers of the tables."""

import json
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic import synthetic_results

from ioca_jax.report import sections
from ioca_jax.report.findings import (
    Rows,
    annotation_sentences,
    conclusion_sentences,
    effect_sentences,
    faithfulness_sentences,
    joint_sentences,
    judged_claims,
    neuron_sentences,
    regret_sentences,
    trend_sentences,
)
from ioca_jax.report.summary import summarize
from ioca_jax.report.tables import findings, first_findings, load_table, tabulate


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
        "is furthest below random order: its normalised area under the accuracy curve "
        "is 0.250, -0.250 relative to random order (95 % interval -0.300 to +0.200, "
        "corrected p = 0.04)."
    )
    assert "is furthest above random order: " in best
    assert "0.750, +0.125 relative to random order (" in best
    assert counted == (
        "In the whole network, the area is significantly below that of random order "
        "in 2 of 3 comparisons of an order and a clamp, above it in 1."
    )
    tested = "(95 % interval -0.300 to +0.200, corrected p = 0.04)"
    counted = "the area is significantly below that of random order in"
    assert of_layer == [
        "In layer 2, ascending order of entropy (clamped to zero) is furthest above "
        "random order: its normalised area under the accuracy curve is 0.600, "
        f"+0.010 relative to random order {tested}; {counted} 0 of 1 comparisons of an "
        "order and a clamp, above it in 1.",
        "In layer 1, descending order of entropy (clamped to zero) is furthest below "
        "random order: its normalised area under the accuracy curve is 0.400, "
        f"-0.500 relative to random order {tested}; {counted} 1 of 1 comparisons of an "
        "order and a clamp, above it in 0.",
    ]
    orders["p_corrected"] = [0.06, 0.06, 0.05, 0.04, 0.06]
    _, best, _, _, of_layer = findings(results, {"orders": orders})["Accuracy"]
    assert "0.750, +0.125 relative to random order (" in best
    assert of_layer == (
        f"In layer 1, {counted} 0 of 1 comparisons of an order and a clamp, above it "
        "in 0."
    )
    orders["p_corrected"] = np.nan
    _, *untested = findings(results, {"orders": orders})["Accuracy"]
    assert len(untested) == 2
    assert all(
        text.endswith("; there are too few networks for a test.") for text in untested
    )
    of_measures = results["ranked_by"].values != "random"
    alone = results.isel(ordering=of_measures)
    _, *untested = findings(alone, {})["Accuracy"]
    assert len(untested) == 2
    assert all(
        text.endswith("; there are no random orders to compare it with.")
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
    words = ["redundant"] * 3 + ["neither", ""]
    rows: Rows = [*({"layer": 1, "finding": word} for word in words)]
    of_next: Rows = [
        {"layer": "2", "finding": "synergistic"},  # from a file
        {"layer": "last less first", "finding": "neither"},
    ]
    assert [*joint_sentences([*of_next, *rows])] == [
        "Of 1 tests of the joint behaviour of pairs and groups in layer 2: 0 "
        "redundant, 1 synergistic, 0 neither.",
        "Of 1 tests of the joint behaviour of pairs and groups in the last layer less "
        "that in the first: 0 redundant, 0 synergistic, 1 neither.",
        "Of 4 tests of the joint behaviour of pairs and groups in layer 1: 3 "
        "redundant, 0 synergistic, 1 neither.",
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
        "From epoch 0 to 9 the test error shrinks: it changes by +0.500 (95 % interval "
        "+0.250 to +0.750, corrected p = 0.03).",
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


def test_layers_of_tables_from_files_are_called_layers(tmp_path):
    """There a layer's number is text. Of every layer its own measure is told."""
    names = ["layer", "measure", "clamp", "effect", "low", "high", "p_corrected"]
    rows = [
        (1, "entropy", "mean", 0.25, 0.125, 0.5, 0.03),
        (1, "mutual_information", "zero", -0.5, -0.75, -0.25, 0.04),
        (2, "entropy", "zero", 0.125, -0.25, 0.25, np.nan),
    ]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "effects.csv", index=False)
    effects = load_table(tmp_path / "effects.csv").to_dict("records")
    strongest = (
        "has the strongest rank correlation with the increase of the test loss when "
        "one neuron is ablated"
    )
    assert [*effect_sentences(effects)] == [
        f"In layer 1, mutual information {strongest} (clamped to zero): Kendall's "
        "tau-b -0.500 (95 % interval -0.750 to -0.250, corrected p = 0.04).",
        f"In layer 2, entropy {strongest} (clamped to zero): Kendall's tau-b +0.125 "
        "(95 % interval -0.250 to +0.250).",
    ]
    neurons: Rows = [{"layer": "1", "dead": 0.5}, {"layer": "conv", "dead": 2.0}]
    assert [*neuron_sentences(neurons)] == [
        "Neurons that are dead, mean over networks: 0.5 in layer 1, 2.0 in conv."
    ]


def test_every_scope_has_its_most_faithful_and_its_nearest_order():
    about: dict[Hashable, Any] = {"clamp": "zero", "low": np.nan, "high": np.nan}
    rows: Rows = [
        about
        | {"p_corrected": np.nan}
        | {"scope": scope, "ranked_by": name, "value": value, "effect": value}
        | {"metric": "accuracy", "quantity": "CPR", "learned": 0.75}
        for scope, name, value in (
            ("network", "entropy", 0.25),
            ("layer_1", "entropy", 0.5),
            ("network", "kl_selectivity", 0.5),
            ("layer_1", "random", 0.75),
        )
    ]
    assert [text.partition(" (")[0] for text in faithfulness_sentences(rows)] == [
        "Of the neurons of highest value in the whole network, those of KL selectivity",
        "Of the neurons of highest value in layer 1, those of entropy",
    ]
    rows = [row | {"quantity": "normalised area"} for row in rows]
    assert [text.rpartition("; ")[2] for text in regret_sentences(rows)] == [
        "of other ascending orders that of entropy has the least regret, +0.250 "
        "(without a test).",
        "of other ascending orders that of entropy has the least regret, +0.500 "
        "(without a test).",
    ]


def test_three_findings_come_first():
    """The test error, an order, and a claim; without a claim another order."""
    accuracy = ["error", "worst", "best", "counts"]
    claims = {"Claims of the paper": ["first", "second"]}
    found = {"Accuracy": accuracy, "Neurons": ["dead"]}
    assert first_findings(found | claims) == ["error", "worst", "first"]
    assert first_findings(found) == ["error", "worst", "best"]
    assert first_findings({"Accuracy": ["diverged"]}) == ["diverged"]


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("told", [findings, summarize, tabulate])
def test_what_is_no_result_is_refused_in_one_line(told):
    with pytest.raises(ValueError, match=".") as caught:
        told("runs/demo")
    assert str(caught.value) == (
        "results: expected a run's results, got a str; pass what run_study or "
        "load_results returns"
    )
    with pytest.raises(ValueError, match=".") as caught:
        told(xr.Dataset({"x": ("seed", [1.0])}))
    assert str(caught.value) == (
        "results: expected the axes seed, clamp, scope, ordering, step, got none named "
        "clamp; select by a list, as in results.sel(clamp=[...])"
    )
