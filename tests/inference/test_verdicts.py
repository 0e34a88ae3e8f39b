"""Pairs and groups against planted truths, hand-made numbers and SciPy."""

import itertools
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from synthetic import (
    SEEDS,
    information_by_hand,
    joint_results,
    planted_joint_results,
    planted_results,
    with_layer_names,
)

import ioca_jax as ioca
from ioca_jax.inference import families, interactions, trajectories, verdicts
from ioca_jax.report import sections
from ioca_jax.report.tables import tabulate
from ioca_jax.study.interactions import PAIR_VALUES

CURVES = {
    ("layer_1", "mutual_information", "descending"): 0.1,
    ("layer_2", "mutual_information", "ascending"): -0.1,
}
INSTRUMENTS = (*verdicts.INFORMATIONAL, *verdicts.INTERVENTIONAL)


@cache
def planted():
    """Layer 1 is redundant by all instruments, layer 2 synergistic by ablation."""
    return planted_joint_results(
        co_information=(0.01, 0.01),
        pair_effect=(0.001, -0.001),
        redundancy=(0.3, 0.3),
        curves=CURVES,
    )


def hypotheses(*rows: tuple[int, str, str]) -> pd.DataFrame:
    """By layer, end and verdict, of mutual information, clamped to mean."""
    return pd.DataFrame(
        [
            {
                **{"layer": layer, "clamp": "mean", "measure": "mutual_information"},
                **{"end": end, "verdict": verdict},
            }
            for layer, end, verdict in rows
        ]
    )


def only(table: pd.DataFrame, **values: object) -> dict[Any, Any]:
    rows = table.to_dict("records")
    (row,) = (r for r in rows if values == {name: r[name] for name in values})
    return row


# Pairs --------------------------------------------------------------------------------


def test_ranks_of_pairs_are_those_of_scipy_ties_and_all():
    results = planted()
    results = results.assign(
        # Accuracies are counts: many pairs are alike.
        pair_effect_accuracy=results["pair_effect_accuracy"].round(3)
    )
    table = interactions.correlate_pairs(results)
    assert len(table) == 2 * 2 * len(PAIR_VALUES) * 2
    assert set(table["networks"]) == {SEEDS}
    neurons = range(30, 50)
    for effect_in, clamp, measure in (
        ("accuracy", "mean", "synergy_mmi"),
        ("loss", "zero", "co_information_miller_madow"),
    ):
        values = results["pair_value"].sel(pair_measure=measure).values
        effects = results[f"pair_effect_{effect_in}"].sel(clamp=clamp).values
        expected = []
        for seed in range(SEEDS):
            pairs = [(seed, i, j) for i in neurons for j in neurons if i < j]
            found = scipy.stats.spearmanr(
                [values[pair] for pair in pairs], [effects[pair] for pair in pairs]
            )
            expected.append(found.statistic)  # pyright: ignore[reportAttributeAccessIssue]
        about = {"clamp": clamp, "pair_measure": measure, "effect_in": effect_in}
        row = only(table, layer=2, **about)
        # float64 throughout.
        np.testing.assert_allclose(row["effect"], np.mean(expected), atol=1e-12)
        assert row["low"] < row["effect"] < row["high"]


def test_information_that_knows_the_effects_is_found():
    results = planted().copy(deep=True)
    measure = PAIR_VALUES.index("redundancy_mmi")
    effects = results["pair_effect_loss"].values
    mixed = effects[:, 0] + np.where(np.isnan(effects[:, 0]), 0, 1e-4)
    results["pair_value"].values[:, measure] = np.nan_to_num(mixed)
    table = interactions.correlate_pairs(results)
    shown = table.query("p_corrected <= 0.05")
    assert set(shown["pair_measure"]) == {"redundancy_mmi"}
    row = only(shown, layer=1, clamp="zero", effect_in="loss")
    np.testing.assert_allclose(row["effect"], 1)


def test_layers_of_one_neuron_and_of_equal_pairs_have_no_correlation():
    results = joint_results(hidden=(4, 1), seeds=4)
    results["accuracy"].values[..., 0] = 0.9
    results["pair_value"].values[:, 0] = 0.25
    table = interactions.correlate_pairs(results)
    silent = (table["layer"] == 2) | (table["pair_measure"] == PAIR_VALUES[0])
    assert table["effect"].isna().equals(silent)
    assert set(table[silent]["networks"]) == {0}
    joint = interactions.joint_behaviour(results)
    assert np.isnan(only(joint, layer="2", instrument="co-information")["effect"])
    assert set(joint["finding"]) == {""}  # four networks show nothing
    silenced = sections.pairs("Pairs", table.assign(effect=np.nan))
    assert any("co_information_miller_madow" in line for line in silenced)


# Layers -------------------------------------------------------------------------------


def test_what_dominates_in_layers_is_found():
    results = planted_joint_results(
        co_information=(0.01, -0.01), pair_effect=(0.001, -0.002), redundancy=(0.3, 0.0)
    )
    table = interactions.joint_behaviour(results)
    expected = {"1": "redundant", "2": "synergistic", "last less first": "synergistic"}
    for (layer, says), (instrument, clamp) in itertools.product(
        expected.items(),
        (
            ("co-information", ""),
            ("pair effects in loss", "zero"),
            ("pair effects in accuracy", "mean"),
        ),
    ):
        row = only(table, layer=layer, instrument=instrument, clamp=clamp)
        assert row["finding"] == says
        assert row["low"] < row["effect"] < row["high"]
    assert only(table, layer="1", instrument="groups")["finding"] == "redundant"
    assert only(table, layer="2", instrument="groups")["finding"] == "neither"
    last = only(table, layer="last less first", instrument="groups")
    assert last["finding"] == "synergistic"
    index = results["redundancy_index"].values[:, :, -1].mean(axis=(0, 2))
    np.testing.assert_allclose(last["effect"], index[2] - index[1], rtol=1e-6)


@pytest.mark.parametrize(("known", "finding"), [(9, "redundant"), (8, "")])
def test_groups_without_information_show_nothing(known, finding):
    results = planted_joint_results(
        co_information=(0, 0), pair_effect=(0, 0), redundancy=(0.3, 0.3)
    )
    assert results.sizes["group"] == 12
    # Where the joint information is not positive, there is no ratio to it.
    results["redundancy_index"].values[0, 1, ..., known:] = np.nan
    table = interactions.joint_behaviour(results)
    assert only(table, layer="1", instrument="groups")["finding"] == finding
    assert only(table, layer="2", instrument="groups")["finding"] == "redundant"


def test_numbers_of_a_layer_by_hand():
    results = planted()
    table = interactions.joint_behaviour(results)
    values = results["pair_value"].sel(pair_measure="co_information")
    null = results["pair_null"]
    pairs = [(i, j) for i in range(30) for j in range(30) if i < j]
    means = [
        np.mean([float(values[seed, i, j] - null[seed, i, j]) for i, j in pairs])
        for seed in range(SEEDS)
    ]
    found = only(table, layer="1", instrument="co-information")
    np.testing.assert_allclose(found["effect"], np.mean(means), rtol=1e-6)
    expected = scipy.stats.permutation_test(
        (np.array(means),), np.mean, permutation_type="samples", n_resamples=2**SEEDS
    )
    np.testing.assert_allclose(found["p_value"], expected.pvalue, rtol=1e-6)
    # Runs of earlier versions have no chance level.
    table = interactions.joint_behaviour(results.drop_vars("pair_null"))
    values = results["pair_value"].sel(pair_measure="co_information_miller_madow")
    of_pairs = values.values[:, *np.transpose(pairs)].astype(np.float64)
    found = only(table, layer="1", instrument="co-information")
    np.testing.assert_allclose(found["effect"], of_pairs.mean(), rtol=1e-6)
    described = table.query("instrument in ['redundancy_i_min', 'synergy_i_min']")
    assert len(described) == 3 * 2
    assert set(described["p_value"].isna()) == {True}
    assert set(described["effect"].isna()) == {False}
    assert set(described["finding"]) == {""}


def test_groups_are_of_the_greatest_size_that_all_networks_have():
    results = planted().copy(deep=True)
    index = results["redundancy_index"].values  # [S, scopes, sizes, groups]
    index[3, 2, 1] = np.nan  # a network has no groups of three in layer 2
    index[:, 1, 0], index[:, 2, 0], index[:, 1, 1] = 1.5, 0.75, 2.0
    index[0, 1, 1, :3] = np.nan  # three quarters are there, that will do
    table = interactions.joint_behaviour(results).query("instrument == 'groups'")
    effects = table.set_index("layer")["effect"].to_dict()
    assert effects == {"1": 1.0, "2": -0.25, "last less first": -0.75}


# Hypotheses ---------------------------------------------------------------------------


def test_hypotheses_are_confirmed_contradicted_mixed_or_left_open():
    table = verdicts.judge_hypotheses(
        planted(),
        hypotheses(
            (1, "highest", "redundant"),
            (1, "lowest", "synergistic"),
            (1, "lowest", "undecided"),
            (2, "highest", "redundant"),
        ),
    )
    assert len(table) == 4 * 4
    assert set(table.query("layer == 1")["finding"]) == {"redundant"}
    of_second = table.query("layer == 2").set_index("instrument")["finding"].to_dict()
    assert of_second == {
        **dict.fromkeys(verdicts.INFORMATIONAL, "redundant"),
        **dict.fromkeys(verdicts.INTERVENTIONAL, "synergistic"),
    }
    concluded = verdicts.conclude(table)
    assert concluded["verdict"].tolist() == [
        *("confirmed", "contradicted", "redundant", "mixed")
    ]
    assert concluded["redundant"].tolist() == [4, 4, 4, 2]
    assert concluded["synergistic"].tolist() == [0, 0, 0, 2]
    bits, index, nats, share = table["effect"].tolist()[-4:]
    assert concluded["sentence"].tolist()[-1] == (
        "In layer 2, clamped to mean, the curves suggest that the neurons of highest "
        f"mutual information are redundant; redundant by co-information ({bits:+.2g} "
        f"bits), groups ({index:+.2g} bits); synergistic by pair effects in loss "
        f"({nats:+.2g} nats), pair effects in accuracy ({share:+.2g}): mixed."
    )
    nothing = verdicts.judge_hypotheses(
        planted_joint_results(), hypotheses((1, "highest", "redundant"))
    )
    assert verdicts.conclude(nothing)["verdict"].tolist() == ["open"]


@pytest.mark.parametrize(
    ("suggested", "said", "verdict"),
    [
        # Co-information, groups, pair effects in loss, in accuracy: redundant,
        # synergistic, neither, or without estimate.
        ("redundant", "rnrn", "confirmed"),
        ("redundant", "-rnr", "confirmed"),
        ("redundant", "rrnn", "open"),
        ("redundant", "nnrr", "open"),
        ("redundant", "nnnn", "open"),
        ("redundant", "rrrs", "mixed"),
        ("redundant", "rsnn", "mixed"),
        ("redundant", "snns", "contradicted"),
        ("redundant", "ssnn", "open"),
        ("synergistic", "nssn", "confirmed"),
        ("synergistic", "r-nr", "contradicted"),
        ("undecided", "rnrn", "redundant"),
        ("undecided", "nsns", "synergistic"),
        ("undecided", "rsrs", "mixed"),
        ("undecided", "rrn-", "open"),
    ],
)
def test_the_rule_of_verdicts(suggested, said, verdict):
    words = {"r": "redundant", "s": "synergistic", "n": "neither", "-": ""}
    about = {"layer": 1, "clamp": "zero", "measure": "entropy", "end": "lowest"}
    weighed = pd.DataFrame(
        [
            {
                **{**about, "suggested": suggested, "instrument": instrument},
                **{"unit": "1", "effect": 0.5, "finding": words[letter]},
            }
            for instrument, letter in zip(INSTRUMENTS, said, strict=True)
        ]
    )
    row = only(verdicts.conclude(weighed))
    assert row["verdict"] == verdict
    assert row["sentence"].endswith(f": {verdict}.")
    assert ("no estimate" in row["sentence"]) == ("-" in said)
    counts = [row[name] for name in ("redundant", "synergistic", "neither")]
    assert counts == [said.count(letter) for letter in "rsn"]


def test_a_hypothesis_weighed_by_hand():
    results = planted().copy(deep=True)
    score = results["score"].sel(measure="mutual_information").values
    joint = results["joint_information_miller_madow"].values
    joint[4, :, 2, :, 4] = np.nan  # three neurons then, of a quarter of five
    random = (results["ranked_by"] == "random").values
    joint[:, 0, 2, random] *= 0.5
    table = verdicts.judge_hypotheses(results, hypotheses((2, "lowest", "undecided")))
    plug_in = results["pair_value"].sel(pair_measure="co_information").values
    bits = plug_in - results["pair_null"].values
    loss = results["pair_effect_loss"].sel(clamp="mean").values
    alone = information_by_hand(results["joint_count"].values)
    ordering = results["ordering"].values.tolist()
    ascending = ordering.index("mutual_information_ascending_0")
    here, elsewhere, groups = [], [], []
    for seed in range(SEEDS):
        lowest = set(sorted(range(30, 50), key=lambda n: score[seed, n])[:5])
        for chosen, where in ((True, here), (False, elsewhere)):
            pairs = [
                (seed, i, j)
                for i, j in itertools.combinations(range(30, 50), 2)
                if bool({i, j} & lowest) == chosen
            ]
            where.append(
                [np.mean([np.float64(a[pair]) for pair in pairs]) for a in (bits, loss)]
            )
        three = sorted(lowest, key=lambda n: score[seed, n])[:3]
        groups.append(alone[seed, three].sum() - joint[seed, 0, 2, ascending, 3])
    effects, others = np.mean(here, axis=0), np.mean(elsewhere, axis=0)
    by_name = table.set_index("instrument")
    names = ["co-information", "pair effects in loss"]
    np.testing.assert_allclose(by_name.loc[names, "effect"], effects, rtol=1e-7)
    beside = by_name.loc[names, "beside_others"]
    np.testing.assert_allclose(beside, effects - others, rtol=1e-6)
    # Informations are float32.
    found = by_name.loc["groups"]
    np.testing.assert_allclose(found["effect"], np.mean(groups), rtol=1e-5)
    order = results["order"].values[:, 2, random, :3]
    summed = alone[np.arange(SEEDS)[:, None, None], order].sum(axis=2)
    drawn = (summed - joint[:, 0, 2, random, 3]).mean()
    expected = np.mean(groups) - drawn
    np.testing.assert_allclose(found["beside_others"], expected, rtol=1e-5)
    assert by_name["neurons"].to_dict() == {
        **dict.fromkeys(INSTRUMENTS, 5),
        "groups": 3,
    }


def test_a_quarter_that_is_unlike_the_rest_stands_beside_it():
    results = planted().copy(deep=True)
    score = results["score"].sel(measure="mutual_information").values
    measure = PAIR_VALUES.index("co_information")
    for seed in range(SEEDS):
        highest = np.argsort(score[seed, :30])[-7:]
        bits = results["pair_value"].values[seed, measure]
        bits[highest, :30] += 0.02
        bits[:30, highest] += 0.02 * ~np.isin(np.arange(30), highest)[:, None]
    table = verdicts.judge_hypotheses(
        results,
        hypotheses((1, "highest", "undecided"), (2, "highest", "undecided")),
    )
    shown = only(table, layer=1, instrument="co-information")
    # Pair noise of 0.014 over some 180 pairs of each of ten networks: four errors.
    assert abs(shown["beside_others"] - 0.02) < 4 * 0.014 / (180 * SEEDS) ** 0.5 * 2
    assert shown["p_beside_others"] <= 0.05
    assert only(table, layer=2, instrument="co-information")["p_beside_others"] > 0.05


def test_effects_that_all_pairs_of_a_layer_share_are_no_finding():
    """As the convexity of the loss gives them."""
    results = planted().copy(deep=True)
    effect = results["pair_effect_loss"].values
    effect[:] = 0.05 + np.random.default_rng(0).normal(0, 0.002, effect.shape)
    table = verdicts.judge_hypotheses(results, hypotheses((1, "highest", "redundant")))
    row = only(table, instrument="pair effects in loss")
    assert (row["p_corrected"] <= 0.05) & (row["p_beside_others"] > 0.05)
    assert row["finding"] == "neither"
    assert only(table, instrument="pair effects in accuracy")["finding"] == "redundant"


def test_groups_without_an_estimate_say_nothing():
    results = planted().copy(deep=True)
    results["joint_information_miller_madow"].values[2, :, :, :, 2:] = np.nan
    table = verdicts.judge_hypotheses(results, hypotheses((1, "highest", "redundant")))
    groups = only(table, instrument="groups")
    assert np.isnan(groups["effect"])
    assert (groups["neurons"], groups["finding"]) == (0, "")
    concluded = only(verdicts.conclude(table))
    assert concluded["verdict"] == "confirmed"
    assert concluded["sentence"].endswith("; no estimate by groups: confirmed.")


def test_hypotheses_of_small_layers():
    results = joint_results(hidden=(3, 2, 1), seeds=6)
    results["accuracy"].values[..., 0] = 0.9
    counts = np.random.default_rng(0).integers(20, 90, (6, 6, 2, 2)).astype(np.int32)
    results["joint_count"] = (("seed", "neuron", "code", "class"), counts)
    orders = np.full((6, 4, results.sizes["ordering"], 6), -1, np.int32)
    for scope, own in enumerate(([0, 1, 2, 3, 4, 5], [0, 1, 2], [3, 4], [5])):
        orders[:, scope, :, : len(own)] = own
    results["order"] = (("seed", "scope", "ordering", "position"), orders)
    rows = [(layer, "highest", "redundant") for layer in (1, 2, 3)]
    table = verdicts.judge_hypotheses(results, hypotheses(*rows))
    pairs, groups = (
        table.query(f"instrument == '{name}'") for name in verdicts.INFORMATIONAL
    )
    # The examples would support three.
    assert groups["neurons"].tolist() == [2, 2, 0]
    # Two of two neurons leave no others, and one makes no pair.
    assert pairs["neurons"].tolist() == [2, 2, 1]
    assert pairs["effect"].notna().tolist() == [True, True, False]
    assert set(pairs["beside_others"].isna()) == {True}


def test_all_rows_of_a_table_are_one_family(monkeypatch):
    """So its error rate is that of the sign-flip test, counted with its own tests."""
    tests = []

    def recorded(differences, **about):
        tests.append(sign_flip_test(differences, **about))
        return tests[-1]

    sign_flip_test = families.sign_flip_test
    monkeypatch.setattr(families, "sign_flip_test", recorded)
    table = interactions.joint_behaviour(planted())
    judged = table.dropna(subset="p_corrected")
    assert len(judged) == 3 * (1 + 2 + 2 * 2)
    # Descriptions are tested apart, and their p-values left out.
    (family,) = (f for f in tests if len(f.p_value) == len(judged))
    np.testing.assert_array_equal(judged["p_corrected"], family.p_corrected)
    shown = np.isin(judged["finding"].to_numpy(str), interactions.DIRECTIONS)
    assert 0 < shown.sum() < len(judged)
    np.testing.assert_array_equal(shown, family.p_corrected <= 0.05)
    tests.clear()
    weighed = verdicts.judge_hypotheses(
        planted(), hypotheses((1, "highest", "redundant"), (2, "lowest", "undecided"))
    )
    effects, beside_others = tests
    np.testing.assert_array_equal(weighed["p_corrected"], effects.p_corrected)
    np.testing.assert_array_equal(weighed["p_beside_others"], beside_others.p_corrected)


# Training -----------------------------------------------------------------------------


def test_trajectories_and_trends():
    results = joint_results(seeds=6, trajectory_epochs=(0, 2, 4, 8))
    results["accuracy"].values[..., 0] = 0.9
    score = results["trajectory_score"].values
    score[:, :, 2] = np.nan  # not a measure of information
    results["layer_information"].values[0, :, 0] = 3.0
    # Two bits less at the end than at the start, in layer 2.
    results["layer_entropy"].values[:, 3, 1] = (
        results["layer_entropy"].values[:, 0, 1] - 2
    )
    table = trajectories.trajectory_table(results)
    assert "median_kl_selectivity" not in table
    assert table[["layer", "trajectory_epoch"]].to_numpy().tolist() == [
        [layer, epoch] for layer in (1, 2) for epoch in (0, 2, 4, 8)
    ]
    row = only(table, layer=2, trajectory_epoch=8)
    expected = np.median(score[:, 3, 1, 4:].astype(np.float64), axis=-1).mean()
    np.testing.assert_allclose(row["median_mutual_information"], expected, rtol=1e-6)
    error = 1 - results["trajectory_accuracy"].values[:, 3].mean(dtype=np.float64)
    np.testing.assert_allclose(row["test_error"], error, rtol=1e-6)
    assert np.isnan(row["layer_information"])
    # One network alone has it.
    assert np.isnan(only(table, layer=1, trajectory_epoch=2)["layer_information"])
    index = results["layer_redundancy_index"].values[:, 3, 1]
    expected = np.median(index.astype(np.float64), axis=-1).mean()
    np.testing.assert_allclose(row["redundancy_index"], expected, rtol=1e-6)

    trends = trajectories.trends_of_training(results)
    assert set(zip(trends["from_epoch"], trends["to_epoch"], strict=True)) == {
        (0, 8),
        (2, 8),
    }
    fell = only(trends, layer="2", quantity="layer_entropy", from_epoch=0)
    np.testing.assert_allclose(fell["effect"], -2, rtol=1e-6)
    assert fell["trend"] == "shrinks"
    silent = trends.query("quantity == 'layer_information'")
    assert set(silent["effect"].isna()) == {True}
    assert set(silent["trend"]) == {""}
    assert len(trends.query("layer == 'all'")) == 2
    without_start = results.isel(trajectory_epoch=[1, 2, 3])
    assert set(trajectories.trends_of_training(without_start)["from_epoch"]) == {2}
    with pytest.raises(ValueError, match="got epoch 8 alone; look at more$"):
        trajectories.trends_of_training(results.isel(trajectory_epoch=[3]))


def test_equal_changes_of_test_errors_are_equal():
    """Accuracies in float32 make differences of one example unequal."""
    results = joint_results(seeds=6, trajectory_epochs=(0, 1))
    before = np.array([3, 11, 17, 22, 29, 36])
    after = before + [4, 4, -4, 4, 4, 4]
    accuracy = np.stack([before, after], axis=1) / 40
    results["trajectory_accuracy"].values[:] = accuracy.astype(np.float32)
    change = np.float64(np.float32(after / 40)) - np.float64(np.float32(before / 40))
    assert np.ptp(abs(change)) > 0
    row = only(trajectories.trends_of_training(results), layer="all", from_epoch=0)
    np.testing.assert_allclose(row["effect"], -4 * 4 / 6 / 40)
    # Of 64 flips: all signs alike, or all but one.
    assert row["p_value"] == 2 * (1 + 6) / 64


# All of it ----------------------------------------------------------------------------


def test_tables_of_a_run_that_has_few_networks():
    results = planted()
    trained, direct = {"trajectories", "trends"}, {"pairs", "joint"}
    tested = {"verdicts", "conclusions"}

    def joint_tables(results):
        return set(tabulate(results)) & (trained | direct | tested)

    for seeds, expected in (
        (2, {"trajectories"}),
        (3, direct | trained),
        (5, direct | trained),
        (6, direct | trained | tested),
    ):
        assert joint_tables(results.isel(seed=range(seeds))) == expected
    alone = results.isel(seed=range(3), trajectory_epoch=[2])
    assert joint_tables(alone) == direct | {"trajectories"}
    assert joint_tables(planted_results()) == set()
    none = results.assign(diverged=results["diverged"] | True)
    assert tabulate(none) == {}
    # Networks that memorise noise are at chance, and there to be looked at.
    at_chance = results.copy(deep=True)
    at_chance["accuracy"].values[..., 0] = 0.5
    assert set(tabulate(at_chance)) == trained


def test_hypotheses_of_curves_are_followed_to_the_summary():
    results = planted().copy()
    results.attrs |= {
        "configuration": '{"dataset": "mnist5k", "epochs": 3}',
        "seconds": '{"loaded": 1.0, "compiling": 0.5}',
    }
    tables = tabulate(results)
    assert {"orders", "hypotheses", "claims", "joint", "trends"} <= set(tables)
    about = {"measure": "mutual_information", "clamp": "zero"}
    concluded = tables["conclusions"]
    row = only(concluded, layer=1, end="highest", **about)
    assert (row["suggested"], row["verdict"]) == ("redundant", "confirmed")
    row = only(concluded, layer=2, end="lowest", **about)
    assert (row["suggested"], row["verdict"]) == ("synergistic", "mixed")
    text = ioca.summarize(results, tables)
    told = concluded[
        (concluded["suggested"] != "undecided")
        | concluded["verdict"].isin(interactions.DIRECTIONS)
    ]
    assert 0 < len(told) < len(concluded)
    for sentence in concluded["sentence"]:
        assert (f"  {sentence}\n" in text + "\n") == (sentence in set(told["sentence"]))
    for heading in ("Pairs and groups: ", "Spearman's rho over the pairs"):
        assert f"\n{heading}" in text
    row = only(tables["joint"], layer="1", instrument="co-information")
    (line,) = (
        line
        for line in text.splitlines()
        if line.split()[:2] == ["1", "co-information"]
    )
    assert f"{row['effect']:+.3g}" in line
    assert line.endswith("redundant")


def test_tables_of_named_layers_are_those_of_numbered_ones():
    numbered = joint_results(hidden=(3, 2), seeds=5)
    counts = np.random.default_rng(0).integers(9, 99, (5, 5, 2, 2))
    numbered["joint_count"] = (("seed", "neuron", "code", "class"), counts)
    expected = tabulate(numbered)
    assert {"effects", "hypotheses", "pairs", "joint", "trends"} <= set(expected)
    same = tabulate(with_layer_names(numbered, ["layer_1", "layer_2"]))
    found = tabulate(with_layer_names(numbered, ["a/b:input", "layer_1"]))
    named = {1: "a/b:input", 2: "layer_1", "1": "a/b:input", "2": "layer_1"}
    named |= {"layer_1": "a/b:input", "layer_2": "layer_1"}
    for name, table in expected.items():
        pd.testing.assert_frame_equal(same[name], table)
        for column in {"layer", "scope"} & set(table):
            table[column] = [named.get(label, label) for label in table[column]]
        columns = [column for column in table if column != "sentence"]
        pd.testing.assert_frame_equal(
            pd.DataFrame(found[name][columns]), pd.DataFrame(table[columns])
        )
    assert found["hypotheses"]["sentence"].str.contains("In a/b:input, clamped").any()


@pytest.mark.parametrize(
    ("function", "lacking", "message"),
    [
        (
            interactions.correlate_pairs,
            "interactions",
            "expected a run with interactions, got one without; run it with "
            "interactions",
        ),
        (
            interactions.joint_behaviour,
            "interactions",
            "expected a run with interactions, got one without; run it with "
            "interactions",
        ),
        (
            lambda results: verdicts.judge_hypotheses(
                results, hypotheses((1, "highest", "redundant"))
            ),
            "networks",
            r"expected at least 6 networks, with which a sign-flip test can reach "
            r"p = 0.05, got 2 above chance; run more seeds",
        ),
        (
            interactions.joint_behaviour,
            "networks",
            "values: expected at least 3 seeds, got 2; train more networks",
        ),
        (
            lambda results: verdicts.judge_hypotheses(
                results.isel(ordering=[0, 1, 6, 7]),
                hypotheses((1, "highest", "redundant")),
            ),
            "orders",
            "hypotheses: expected orders that the run has, got highest "
            "mutual_information; form them from the same results",
        ),
        (
            trajectories.trajectory_table,
            "interactions",
            "expected a run with trajectories, got one without; run it with "
            "trajectories",
        ),
    ],
)
def test_what_is_missing_is_said(function, lacking, message):
    results = planted_results() if lacking == "interactions" else planted()
    results = results.isel(seed=range(2)) if lacking == "networks" else results
    with pytest.raises(ValueError, match=f"^{message}$"):
        function(results)
