"""Planted direct and total effects."""

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_results

from ioca_jax.inference.self_repair import measure_self_repair
from ioca_jax.report import sections


@pytest.fixture
def results():
    """Three layers: the first repaired, nothing around the second."""
    results = synthetic_results(hidden=(4, 3, 2), seeds=8)
    rng = np.random.default_rng(0)
    single = results["single_loss"].transpose("seed", "clamp", "neuron")
    direct = single.copy(data=np.full(single.shape, 0.5, np.float32))  # as intact
    noise = rng.normal(0, 0.01, (8, 2, 4))
    direct.values[:, 0, :4] = single.values[:, 0, :4] + 0.2 + noise[:, 0]
    direct.values[:, 1, :4] = single.values[:, 1, :4] - 0.3 + noise[:, 1]
    return results.assign(direct_loss=direct)


def test_planted_repair_is_found(results):
    table = measure_self_repair(results)
    assert table["layer"].tolist() == [1, 1]
    assert table["clamp"].tolist() == ["zero", "mean"]
    np.testing.assert_allclose(table["effect"], [0.2, -0.3], atol=0.01)
    np.testing.assert_allclose(table["direct"] - table["total"], table["effect"])
    single = results["single_loss"].sel(clamp="zero").isel(neuron=slice(0, 4))
    assert table["total"].tolist()[0] == pytest.approx(
        single.values.mean() - 0.5, rel=1e-5
    )
    assert max(table["p_corrected"].tolist()) < 0.02
    assert sections.self_repair("Repair", table)[-1].startswith(
        "direct less total above 0"
    )


def test_layers_without_a_way_around_have_no_row(results):
    held = results["direct_loss"].copy(deep=True)
    held.values[:] = 0.5
    table = measure_self_repair(results.assign(direct_loss=held))
    assert isinstance(table, pd.DataFrame)
    assert table.empty
