"""Every column of every table has a description, and every description a column."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from synthetic import THREE, planted_joint_results, synthetic_results

from ioca_jax.report import columns
from ioca_jax.report.page import run_page
from ioca_jax.report.tables import TABLES, tabulate

LEARNED = THREE[0], "learned_mean"


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    """A run with everything that a table needs."""
    results = planted_joint_results(seeds=6)
    measures = ["learned_mean", *results["measure"].values[1:]]
    ranked_by = np.char.replace(results["ranked_by"].values.astype(str), *LEARNED)
    results = results.assign_coords(measure=measures, ranked_by=("ordering", ranked_by))
    rng = np.random.default_rng(0)

    def randoms(*dims: str, **more: int) -> tuple[tuple[str, ...], np.ndarray]:
        sizes = {**results.sizes, **more}
        return dims, rng.random([sizes[dim] for dim in dims])

    is_point = results["correct"].isel({"class": 0}, drop=True) >= 0
    by_value = xr.DataArray([4, 3], dims="annotation_value") * is_point - ~is_point
    of_neurons = ("seed", "measure", "neuron")
    results = results.assign(
        variant_score=randoms("variant", *of_neurons, variant=1),
        direct_loss=randoms("seed", "clamp", "neuron"),
        correct_by_value=by_value,
        p_value=randoms(*of_neurons),
        p_value_family=randoms(*of_neurons),
        selective_class=results["joint_count"].isel(code=0).argmax("class"),
    ).assign_coords(
        variant=["uniform:4"],
        annotation=("annotation_value", ["side", "side"]),
        value=("annotation_value", [0, 1]),
        value_size=("annotation_value", [20, 20]),
    )
    return results.assign_attrs(
        configuration=json.dumps({"permutations": 99}), classes_of="examples"
    )


def test_columns_and_descriptions_are_the_same(results):
    tables = tabulate(results)
    assert list(tables) == [table.name for table in TABLES]
    for table in TABLES:
        found = [columns.described(table.columns, name) for name in tables[table.name]]
        assert {known for known, _ in found} == set(table.columns), table.name


def test_headings_of_a_page_have_the_descriptions():
    configuration = json.dumps({"dataset": "mnist5k", "epochs": 3})
    results = synthetic_results(seeds=4).assign_attrs(
        configuration=configuration, seconds="{}"
    )
    tables = {"orders": tabulate(results)["orders"]}
    (heading,) = re.findall(
        r'<th scope="col" title="([^"]*)" class=n data-name="low">',
        run_page(results, tables),
    )
    assert heading == (
        "lower end of the 95 % interval of effect over networks, not corrected for the "
        "other rows"
    )


def test_a_name_in_capitals_stands_for_several_columns():
    name, text = columns.described(columns.NEURONS, "discovered_kl_selectivity")
    assert name == "discovered_MEASURE"
    assert text.startswith("neurons informative at a false discovery rate of 5 %")
    assert columns.described(columns.NEURONS, "area") == ("", "")
