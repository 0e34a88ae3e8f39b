"""Planted selectivity and damage are correlated as SciPy does."""

import numpy as np
import scipy.stats
import xarray as xr
from synthetic import synthetic_results

from ioca_jax.inference import class_damage


def planted():
    """Results of four classes, with joint counts of random strength."""
    two = synthetic_results(hidden=(12, 9), seeds=4)
    other = two.assign_coords({"class": [2, 3]})
    results = xr.concat(
        [two, other],
        dim="class",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )
    rng = np.random.default_rng(0)
    strength = rng.integers(1, 40, size=(4, 21, 1, results.sizes["class"]))
    counts = np.concatenate([40 + strength, 60 - strength], axis=2)
    results["joint_count"] = (("seed", "neuron", "code", "class"), counts)
    return results


def test_correlations_are_those_of_scipy():
    results = planted()
    found = class_damage.class_correlations(results, 1, "mean")
    counts = results["joint_count"].isel(neuron=slice(0, 12))
    counts = counts.transpose("seed", "neuron", "code", "class").values.astype(float)
    intact = results["correct"].isel(scope=0, ordering=0, step=0, drop=True)
    lost = (intact - results["single_correct"]).sel(clamp="mean")
    lost = lost.isel(neuron=slice(0, 12)).transpose("seed", "neuron", "class").values
    for seed, own, other in ((0, 0, 0), (3, 2, 1)):
        table = counts[seed]
        given = table[:, :, own] / table[:, :, own].sum(axis=1, keepdims=True)
        overall = table.sum(axis=2) / table.sum(axis=(1, 2))[:, None]
        divergence = scipy.stats.entropy(given, overall, axis=1)
        correlation = scipy.stats.spearmanr(divergence, lost[seed, :, other])
        expected = np.asarray(correlation)[0]
        np.testing.assert_allclose(found[seed, own, other], expected, atol=1e-6)


def test_damage_to_the_own_class_is_found():
    results = planted()
    classes = results.sizes["class"]
    counts = results["joint_count"].transpose("seed", "neuron", "code", "class")
    divergence = np.asarray(class_damage.class_divergences(counts.values))
    single = results["single_correct"].transpose("seed", "clamp", "neuron", "class")
    lost = np.argsort(np.argsort(divergence, axis=1), axis=1)[:, None]
    moved = np.roll(lost, 1, axis=-1)  # of the next class
    single.values[:] = 1000 - np.where(np.arange(21)[:, None] < 12, lost, moved)
    results["single_correct"] = single
    table = class_damage.predict_class_damage(results)
    about = zip(table["layer"], table["clamp"], table["quantity"], strict=True)
    effects = dict(zip(about, table["effect"], strict=True))
    for clamp in ("zero", "mean"):
        np.testing.assert_allclose(effects[1, clamp, "own class"], 1, atol=2e-3)
        assert effects[1, clamp, "own class less others"] > 0.3
        # The damage is to another class: nothing is left for the own.
        assert effects[2, clamp, "own class less others"] < 1 / classes
    assert len(table) == 2 * 2 * 2
