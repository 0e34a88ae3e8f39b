"""The summary has the numbers of the results and of the tables."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic import THREE, synthetic_results, with_layer_names

from ioca_jax.report.sections import claims
from ioca_jax.report.summary import _networks_to_decide, summarize


@pytest.fixture
def results() -> xr.Dataset:
    made = synthetic_results(seeds=3, diverged=(1,))
    return made.assign_attrs(
        configuration=json.dumps({"dataset": "mnist5k", "epochs": 3}),
        seconds=json.dumps({"loaded": 1.0, "computed": 2.5, "compiling": 0.5}),
    )


def test_the_first_lines_are_data_networks_times_and_errors(results):
    lines = summarize(results, {}).splitlines()
    error = 100 * (1 - results["accuracy"].values[[0, 2], 0, 0, 0, 0])
    assert lines[:5] == [
        "mnist5k: 3 networks 5-4-3-2 relu, 3 epochs, quantiser threshold:0",
        "Data loaded after 1 s, computed after 2.5 s; of this, compilation took 0.5 s",
        "Diverged in training, left out below: 1 of 3 networks (seeds 1)",
        f"Test error: {error.mean():.2f} ± {error.std(ddof=1):.2f} %, range "
        f"{error.min():.2f} to {error.max():.2f} % (mean ± standard deviation over "
        "networks)",
        "",
    ]


def test_networks_trained_elsewhere_have_neither_epochs_nor_a_history(results):
    history = [name for name in results if str(name).startswith(("train_", "valid"))]
    results = results.drop_vars(history).assign_attrs(
        variables_digest="0", configuration='{"dataset": "mnist5k"}'
    )
    first = summarize(results, {}).splitlines()[0]
    assert first == (
        "mnist5k: 3 networks 5-4-3-2 relu, trained elsewhere, quantiser threshold:0"
    )


def test_networks_that_all_diverged_have_no_more_lines(results):
    results["diverged"].values[:] = True
    lines = summarize(results, {}).splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("3 of 3 networks (seeds 0, 1, 2)")


def test_ranges_of_measures_are_by_layer_as_the_results_name_it(results):
    results = with_layer_names(results, ["conv1", "layers/0/mlp"])
    text = summarize(results, {})
    rows = text.split("networks\n  layer ")[1].split("\n\n")[0].splitlines()[1:]
    for index, row in enumerate(rows):
        layer, measure = divmod(index, 3)
        neurons = slice(0, 4) if layer == 0 else slice(4, 7)
        scores = results["score"].values[[0, 2], measure, neurons]
        numbers = (scores.min(), np.median(scores), scores.max())
        first = ["conv1", "layers/0/mlp"][layer : layer + (measure == 0)]
        expected = [*first, THREE[measure], "bit", *(f"{n:.3f}" for n in numbers)]
        assert row.split() == expected
    assert len(rows) == 6


def test_pairs_name_the_other_measure_of_strongest_correlation(results):
    rows = {
        "pair_measure": ["co_information_miller_madow", "weak", "strong", "strong"],
        "layer": [1, 1, 1, 2],
        "effect": [0.1, 0.2, -0.5, np.nan],
    }
    pairs = pd.DataFrame(rows).assign(
        clamp="mean", effect_in="loss", low=-0.25, high=0.25, p_corrected=0.5
    )
    text = summarize(results, {"pairs": pairs})
    assert (
        "strong                       loss       -0.500  -0.250 to +0.250  0.5" in text
    )
    assert "weak" not in text


def test_few_networks_are_told_after_the_first_lines(results):
    assert summarize(results, {}).split("\n\n")[1] == (
        "2 of 3 networks above chance (left out: 1 diverged): no test over networks "
        "can reach 5 %; 6 can, 4 more are needed."
    )


def test_undecided_claims_say_how_many_networks_would_decide():
    numbers = {"networks_for_half": [12.0, 31.0, np.inf, np.nan]}
    table = pd.DataFrame(numbers)
    (line,) = _networks_to_decide(table, 8)
    assert line == (
        "Undecided are 3 of 4 comparisons; with effects and spread as here, about 31 "
        "networks would decide half of them (an estimate; this run has 8)"
    )
    (line,) = _networks_to_decide(table.iloc[2:], 8)
    assert ", over 200 networks would decide half of them" in line
    assert _networks_to_decide(table.tail(1), 8) == []


def test_claims_too_small_to_decide_have_their_intervals():
    rows = {
        "claim": ["1", "1", "1", "4"],
        "verdict": ["undecided", "undecided", "undecided", "fails"],
        "networks_for_power": [np.inf, np.inf, 30.0, np.nan],
        "networks_for_half": [18.0, 120.0, 11.0, np.nan],
        "low": [-0.02, -0.01, -0.9, 0.5],
        "high": [0.01, 0.03, 0.9, 0.6],
        "skewness": [0.5, -1.5, 1.0, np.nan],
        "usual_skewness": 1.1,
        "undefined": 0,
    }
    lines = claims("Claims", pd.DataFrame(rows))
    first, fourth = (line.split() for line in lines[2:4])
    assert first[:8] == ["1", "0", "0", "3", "18", "2:", "-0.020", "to"]
    assert first[8] == "+0.030"
    assert fourth[:5] == ["4", "0", "1", "0", "ablation"]
    decided = claims("Claims", pd.DataFrame(rows).tail(1).assign(skewness=0.5))
    assert decided[2].split() == fourth
    symmetric = (
        "\nThese tests assume that differences between networks are symmetric, which "
    )
    skewness = "their skewness is 1.08 (root mean square over comparisons), and at most"
    samples = "in 95 % of symmetric samples like this."
    assert lines[-1].endswith(
        f"{symmetric}nothing contradicts: {skewness} 1.10 {samples}"
    )
    skewed = pd.DataFrame(rows).assign(usual_skewness=1.07)
    assert claims("Claims", skewed)[-1].endswith(
        f"{symmetric}is in doubt here: {skewness} 1.07 {samples} Prefer p_bootstrap of "
        "claims.csv, which allows for skewness."
    )
