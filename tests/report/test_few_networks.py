"""Runs of too few networks for tests say so once, and give no verdict anywhere."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pages import Page
from synthetic import joint_results, planted_results, synthetic_results

from ioca_jax.inference.families import effect_table, judge_family
from ioca_jax.report.page import run_page
from ioca_jax.report.summary import summarize
from ioca_jax.report.tables import few_networks, findings, tabulate

P_VALUES = ["p_value", "p_corrected", "p_bootstrap"]
VERDICT = re.compile(
    r"\b(significant(ly)?|holds|fails|decided|undecided|redundant|synergistic|neither|"
    r"confirmed|contradicted|grows?|shrinks?|is shown|corrected p|verdict)\b"
)
NEEDED = "no test over networks can reach 5 %; 6 can, "


def whole_run(seeds: int) -> xr.Dataset:
    """Every table that a study of 3 and 2 neurons with all options has."""
    results = joint_results(hidden=(3, 2), seeds=seeds, random_orders=2)
    rng = np.random.default_rng(0)
    neurons = results.sizes["neuron"]
    direct = results["single_loss"].values + 0.1 * rng.random((seeds, 2, neurons))
    variant = rng.random((seeds, 3, results.sizes["measure"], neurons))
    results = results.assign(
        direct_loss=results["single_loss"].copy(data=direct),
        variant_score=(("seed", "variant", "measure", "neuron"), variant),
    )
    order = np.full((seeds, 3, results.sizes["ordering"], neurons), -1)
    for index in np.ndindex(seeds, results.sizes["ordering"]):
        for scope, (first, size) in enumerate(((0, 5), (0, 3), (3, 2))):
            places = index[0], scope, index[1], slice(size)
            order[places] = first + rng.permutation(size)
    results["order"] = (("seed", "scope", "ordering", "position"), order)
    results["joint_count"].values[:] = rng.integers(9, 99, (seeds, neurons, 2, 2))
    return results.assign_coords(
        variant=["coarse", "first half", "second half"]
    ).assign_attrs(
        configuration=json.dumps({"dataset": "mnist5k", "epochs": 3}),
        seconds=json.dumps({"loaded": 1.0, "computed": 2.5, "compiling": 0.5}),
    )


@pytest.fixture(scope="module")
def of_six() -> xr.Dataset:
    return whole_run(6)


def shown(page: str) -> str:
    """What a page shows, without scripts, styles and the meanings of columns."""
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    page = re.sub(r'(<th scope="col") title="[^"]*"', r"\1", page)
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        (1, f"1 network: {NEEDED}5 more are needed."),
        (3, f"3 networks: {NEEDED}3 more are needed."),
        (
            5,
            "5 networks: only the one-sided tests of hypotheses on curves can reach "
            "5 %; with 6 all tests can, 1 more is needed.",
        ),
        (6, ""),
    ],
)
def test_networks_that_tests_lack_are_counted(seeds, told):
    assert few_networks(planted_results(seeds=seeds)) == told


def test_networks_at_chance_and_diverged_ones_do_not_count():
    results = synthetic_results(seeds=8, diverged=(1,))
    results["correct"].values[2:5, ..., 0, :] = 10  # of 20: chance
    results["accuracy"].values[2:5, ..., 0] = 0.5
    told = "4 of 8 networks above chance (left out: 3 at chance, 1 diverged): "
    assert few_networks(results) == f"{told}{NEEDED}2 more are needed."
    followed = results.assign(trajectory_score=results["score"])
    assert few_networks(followed) == (
        f"{told}{NEEDED}2 more are needed; changes through training are tested over "
        "the 7 that converged."
    )
    text = summarize(
        results.assign_attrs(
            configuration='{"dataset": "mnist5k", "epochs": 3}',
            seconds='{"loaded": 1.0, "compiling": 0.5}',
        ),
        {},
    )
    line = "At chance, in no test over networks: 3 of 8 networks (seeds 2, 3, 4)"
    assert line in text.splitlines()
    results["diverged"].values[:] = True
    assert few_networks(results) == (
        f"0 of 8 networks above chance (left out: 8 diverged): {NEEDED}6 more are "
        "needed."
    )


def test_three_networks_have_no_verdict_in_any_text(of_six):
    results = of_six.isel(seed=range(3))
    tables = tabulate(results)
    assert {"orders", "effects", "faithfulness", "self_repair", "trends"} <= {*tables}
    for name, table in tables.items():
        assert table.filter(P_VALUES).isna().to_numpy().all(), name
        for column in {"finding", "trend"} & {*table}:
            assert set(table[column]) == {""}
    page = run_page(results, tables)
    told = few_networks(results)
    assert shown(page).count(f'<p class="banner" role="note">{told}</p>') == 1
    found = [text for texts in findings(results, tables).values() for text in texts]
    assert len(found) > 3
    summary = summarize(results, tables)
    assert summary.split("\n\n")[1] == told
    for text in (shown(page), summary, *found):
        assert not VERDICT.search(text), VERDICT.search(text)
    assert Page(page).data["curves"]["networks"] == 3


def test_six_networks_have_tests_and_verdicts(of_six):
    tables = tabulate(of_six)
    for name, table in tables.items():
        tested = table.dropna(subset=["effect"]) if "effect" in table else table
        if name == "joint":
            tested = tested[tested["finding"] != ""]
        assert tested.filter(P_VALUES).notna().to_numpy().all(), name
    page = run_page(of_six, tables)
    assert 'class="banner"' not in page
    assert VERDICT.search(shown(page))
    assert "corrected p" in summarize(of_six, tables)


@pytest.mark.parametrize("seeds", [3, 6])
def test_effects_lie_inside_their_intervals_in_all_tables(of_six, seeds):
    checked = set()
    for name, table in tabulate(of_six.isel(seed=range(seeds))).items():
        for effect, low, high in (
            ("effect", "low", "high"),
            ("value", "value_low", "value_high"),
            ("spearman", "low", "high"),
            ("mean", "low", "high"),
        ):
            if {effect, low, high} <= {*table} and not (
                effect == "spearman" and "effect" in table
            ):
                known = table.dropna(subset=[effect])
                assert np.all(known[low] <= known[effect]), name
                assert np.all(known[effect] <= known[high]), name
                checked.add(name)
    assert {"orders", "variants", "class_damage", "joint", "differences"} <= checked


@given(
    values=arrays.arrays(
        np.float64,
        st.tuples(st.sampled_from([3, 5, 6, 9]), st.just(3)),
        elements=st.sampled_from([-2, -1, -0.1, 0, 0.1, 1 / 3, 0.7, 1, 2]),
    ),
    correlations=st.booleans(),
)
def test_an_effect_lies_inside_its_interval(values, correlations):
    """Equal values, whose float mean differs from them, and values at the limits."""
    about = {"steps": [0.1, 0.2, 0.1], "largest": 2.0} if correlations else {}
    table = effect_table([{}] * 3, [*values.T], **about)
    assert np.all(table["low"] <= table["effect"])
    assert np.all(table["effect"] <= table["high"])


def test_a_difference_of_correlations_may_be_beyond_1():
    values = [np.array([1.9, 2.0, 1.7])]
    row = judge_family([{}], values, steps=[0.1], largest=[2.0]).iloc[0]
    assert row["effect"] == pytest.approx(5.6 / 3)
    assert (row["low"] < row["effect"], row["high"]) == (True, 2.0)
    assert pd.isna(row["p_corrected"])
