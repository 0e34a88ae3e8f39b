"""Faithfulness of a study's orders: loops over its curves, planted effects."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import planted_results, synthetic_results
from test_faithfulness import by_mibs_formula

import ioca_jax as ioca
from ioca_jax.inference.faithful_orders import compare_regret
from ioca_jax.report.findings import faithfulness_sentences, regret_sentences
from ioca_jax.report.tables import findings, tabulate

SIZES = {"network": 7, "layer_1": 4, "layer_2": 3}


@pytest.fixture(scope="module")
def results():
    made = synthetic_results(seeds=4)
    for index, size in enumerate(SIZES.values()):  # all worse than the intact network
        made["correct"].values[:, :, index, :, size] = 5
        made["loss"].values[:, :, index, :, size] = 1.5
    return made


def rows_of(table: pd.DataFrame, **where) -> list[dict]:
    rows = table.to_dict("records")
    return [row for row in rows if all(row[n] == v for n, v in where.items())]


def values_by_hand(results, *, scope, clamp, metric, ranked_by, quantity):
    """[S], a curve after another; the mean over draws of a random order."""
    kept = results.sel(scope=scope, clamp=clamp)
    chosen = (kept["ranked_by"] == ranked_by) & (kept["direction"] != "descending")
    size = SIZES[scope]
    every = np.arange(size + 1) / size
    shares = ioca.MIB_FRACTIONS if "MIB" in quantity else every
    found = []
    for seed in range(kept.sizes["seed"]):
        of_draws = []
        for ordering in np.flatnonzero(chosen.values):
            one = kept.isel(seed=seed, ordering=ordering)
            curve = (
                one["correct"].sum("class") / 40
                if metric == "accuracy"
                else one[metric]
            )
            areas = by_mibs_formula(curve.values[: size + 1], shares)
            of_draws.append(areas["CMD" in quantity])
        found.append(np.mean(of_draws))
    return np.array(found)


def test_values_and_effects_are_those_of_the_curves(results):
    table = ioca.compare_faithfulness(results)
    assert (
        len(table) == 3 * 2 * 4 * 4 * 2
    )  # scopes, metrics, quantities, orders, clamps
    for row in table.iloc[::7].to_dict("records"):
        about = {n: row[n] for n in ("scope", "clamp", "metric", "quantity")}
        own = values_by_hand(results, **about, ranked_by=row["ranked_by"])
        assert row["value"] == pytest.approx(own.mean(), abs=1e-6)
        half = 3.182446 * own.std(ddof=1) / 2  # Student's, of four networks
        ends = row["value_low"], row["value_high"]
        np.testing.assert_allclose(ends, own.mean() + [-half, half], atol=1e-5)
        random = values_by_hand(results, **about, ranked_by="random")
        if row["ranked_by"] == "random":
            assert np.isnan([row["effect"], row["p_corrected"]]).all()
        else:
            assert row["effect"] == pytest.approx((own - random).mean(), abs=1e-6)
            assert row["low"] <= row["effect"] <= row["high"]


def test_a_metric_that_is_nan_where_all_neurons_are_ablated_has_no_faithfulness(
    results,
):
    undefined = results.copy(deep=True)
    for index, size in enumerate(SIZES.values()):
        undefined["loss"].values[:, :, index, :, size] = np.nan
    table = ioca.compare_faithfulness(undefined)
    about = {"quantity": "CPR", "ranked_by": "mutual_information", "clamp": "zero"}
    of_loss = rows_of(table, metric="loss", **about)
    assert np.isnan([row["value"] for row in of_loss]).tolist() == [True] * len(SIZES)
    of_accuracy = rows_of(table, metric="accuracy", **about)
    assert np.isfinite([row["value"] for row in of_accuracy]).all()


def test_a_planted_order_is_found_and_no_other():
    planted = ("network", "mutual_information", "ascending")
    table = ioca.compare_faithfulness(planted_results({planted: 0.05}))
    shown = [r for r in rows_of(table, metric="accuracy") if r["p_corrected"] <= 0.05]
    assert {(row["scope"], row["ranked_by"]) for row in shown} == {planted[:2]}
    signs = {row["quantity"]: np.sign(row["effect"]) for row in shown}
    assert signs == {"CPR": 1, "CMD": -1, "CPR, MIB": 1, "CMD, MIB": -1}


def test_points_that_were_not_evaluated_are_left_out(results):
    few = results.isel(step=[0, 2, 3, 4, 7])
    table = ioca.compare_faithfulness(few)
    assert rows_of(table, scope="layer_1", quantity="CPR, MIB")
    # Shares of 0.5 and 0.2 of seven neurons are steps 3 and 6.
    of_network = rows_of(table, scope="network")
    assert {row["quantity"] for row in of_network} == {"CPR", "CMD"}
    one = few.sel(scope="network", clamp="mean", ordering="entropy_ascending_0")
    curves = one["correct"].sum("class").transpose("seed", "step").values
    width = np.diff([0, 2, 3, 4, 7]) / 7
    faithful = (curves - curves[:, 4:]) / (curves[:, :1] - curves[:, 4:])
    by_hand = ((faithful[:, 1:] + faithful[:, :-1]) / 2 * width).sum(axis=1)
    about = {"metric": "accuracy", "ranked_by": "entropy", "clamp": "mean"}
    (row,) = rows_of(table, scope="network", quantity="CPR", **about)
    assert row["value"] == pytest.approx(by_hand.mean(), abs=1e-9)


def test_networks_that_lose_nothing_have_no_faithfulness(results):
    changed = results.copy(deep=True)
    changed["correct"].values[1, 0, 0, :, 7] = 15  # as the intact network
    table = ioca.compare_faithfulness(changed)
    about = {"metric": "accuracy", "quantity": "CPR", "ranked_by": "entropy"}
    numbers = ("value", "value_low", "effect", "low", "p_value", "p_corrected")
    for row in rows_of(table, scope="network", **about):
        is_number = [np.isfinite(row[name]) for name in numbers]
        # Four networks have no test.
        assert is_number == [row["clamp"] == "mean"] * 4 + [False] * 2


def test_the_most_faithful_order_is_told(results):
    rows = pd.DataFrame(
        {
            "scope": "network",
            "clamp": "mean",
            "metric": ["accuracy", "accuracy", "accuracy", "loss", "accuracy"],
            "quantity": ["CPR", "CPR", "CPR", "CPR", "CMD"],
            "ranked_by": ["entropy", "kl_selectivity", "random", "entropy", "entropy"],
            "value": [0.5, 0.75, 0.875, 0.9, 0.9],
            "effect": [-0.375, -0.125, np.nan, 0.5, 0.5],
            "low": -0.25, "high": 0.125, "p_corrected": 0.03,
        }
    )  # fmt: skip
    made = results.assign_attrs(configuration=json.dumps({}))
    told = findings(made, {"faithfulness": rows})["Accuracy"][-1]
    start = (
        "Of the neurons of highest value in the whole network, those of KL selectivity "
        "(others clamped to mean)"
    )
    ratio = "circuit performance ratio (CPR)"
    assert told == (
        f"{start} have the greatest faithfulness in accuracy, but no measure's are "
        f"significantly more faithful than random ones: {ratio} 0.750, -0.125 relative "
        "to random order (95 % interval -0.250 to +0.125, corrected p = 0.03)."
    )
    alone = rows[:2].assign(effect=np.nan, p_corrected=np.nan).to_dict("records")
    assert [*faithfulness_sentences(alone)] == [
        f"{start} are the most faithful in accuracy: {ratio} 0.750."
    ]
    # A smaller CPR, which tests show to be above that of random order.
    rows.loc[0, "effect"] = 0.125
    first, second = faithfulness_sentences(
        [*rows.to_dict("records"), *rows.assign(scope="layer_1").to_dict("records")]
    )
    highest = "(others clamped to mean) are the most faithful in accuracy of those"
    assert first.startswith(
        "Of the neurons of highest value in the whole network, those of entropy "
        f"{highest} significantly above random order: {ratio} 0.500, +0.125 relative"
    )
    assert f"{highest} significantly above random order: CPR 0.500, " in second
    assert [*faithfulness_sentences(rows.tail(3).to_dict("records"))] == []


def test_studies_without_random_orders_have_values():
    table = ioca.compare_faithfulness(synthetic_results(seeds=3, random_orders=0))
    assert len(table)
    assert not rows_of(table, ranked_by="random")
    assert np.isnan(table["effect"].to_numpy()).all()


def test_regret_is_how_far_orders_are_below_the_learned_one():
    measures = ("entropy", "learned_mean")
    results = synthetic_results(seeds=4, measures=measures)
    for index, size in enumerate(SIZES.values()):
        results["correct"].values[:, :, index, :, 0] = 19
        results["correct"].values[:, :, index, :, size] = 5
    results["accuracy"].values[..., 0] = 38 / 40
    table = compare_regret(results)
    # Only the clamp that an order is learned under has a regret.
    assert {*table["clamp"]} == {"mean"}
    assert len(table) == 3 * 2 * 2  # scopes, quantities, entropy and random
    for row in table.to_dict("records"):
        about = {"scope": row["scope"], "clamp": "mean", "metric": "accuracy"}
        ranked = ("learned_mean", row["ranked_by"])
        if row["quantity"] == "CPR":
            own, other = (
                values_by_hand(results, **about, ranked_by=name, quantity="CPR")
                for name in ranked
            )
        else:
            own, other = (normalized_by_hand(results, row["scope"], n) for n in ranked)
        assert row["learned"] == pytest.approx(own.mean(), abs=1e-6)
        assert row["effect"] == pytest.approx((own - other).mean(), abs=1e-6)
        half = 3.182446 * (own - other).std(ddof=1) / 2
        assert row["high"] - row["effect"] == pytest.approx(half, abs=1e-5)
    with pytest.raises(ValueError, match="learned_zero") as caught:
        compare_regret(results.sel(clamp=["zero"]))
    assert str(caught.value) == (
        "measures: expected learned_zero or learned_mean, with a clamp of that name, "
        "got entropy, learned_mean"
    )


def test_a_learned_order_without_others_has_no_regret():
    alone = synthetic_results(seeds=6, measures=("learned_mean",), random_orders=0)
    assert len(compare_regret(alone)) == 0
    assert "regret" not in tabulate(alone)


def normalized_by_hand(results, scope, ranked_by):
    kept = results.sel(scope=scope, clamp="mean")
    chosen = (kept["ranked_by"] == ranked_by) & (kept["direction"] != "descending")
    counts = kept["correct"].sum("class").transpose("ordering", "seed", "step").values
    curves = counts[chosen.values][..., : SIZES[scope] + 1] / 40
    area = np.trapezoid(curves, dx=1 / SIZES[scope], axis=-1).mean(axis=0)
    return (area - 0.5) / (38 / 40 - 0.5)


def test_the_measure_of_least_regret_is_told():
    rows = [
        ("network", "mean", "normalised area", "entropy", 0.75, 0.5),
        ("network", "mean", "normalised area", "jmi", 0.75, 0.125),
        ("network", "mean", "normalised area", "random", 0.75, 0.0625),
        ("network", "mean", "CPR", "entropy", 0.5, 0.03),
        ("layer_1", "mean", "normalised area", "entropy", 0.5, 0.03),
    ]
    names = ("scope", "clamp", "quantity", "ranked_by", "learned", "effect")
    more = {"low": 0.0625, "high": 0.25, "p_corrected": 0.04}
    table: Any = [dict(zip(names, row, strict=True)) | more for row in rows]
    assert [*regret_sentences(table)] == [
        "In the whole network, the order learned on the validation split (clamped to "
        "mean) has a normalised area of 0.750; of other ascending orders that of jmi "
        "has the least regret, +0.125 (95 % interval +0.062 to +0.250, corrected p = "
        "0.04).",
        "In layer 1, the order learned on the validation split (clamped to mean) has a "
        "normalised area of 0.500; of other ascending orders that of entropy has the "
        "least regret, +0.030 (95 % interval +0.062 to +0.250, corrected p = 0.04).",
    ]
