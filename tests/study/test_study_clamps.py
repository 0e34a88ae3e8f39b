"""A study whose ablated neurons output what donors output, and one of constants."""

import dataclasses
import tempfile

import numpy as np
import pytest
import synthetic
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax import Split
from ioca_jax.study.plan import Request

CLAMPS = ("resample_class", "mean", "resample_neuron")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    config = dataclasses.replace(synthetic.TINY, clamps=CLAMPS)
    folder = tmp_path_factory.mktemp("clamps") / "run"
    ioca.run_study(config, folder, data=synthetic.own_data(), draw=False)
    return ioca.load_results(folder)


def test_a_class_without_donors_is_refused_before_training():
    data = own_data()
    others = data.validation.y != 2
    few = Split(data.validation.x[others], data.validation.y[others])
    data = dataclasses.replace(data, validation=few)
    config = dataclasses.replace(TINY, clamps=CLAMPS)
    with pytest.raises(ValueError, match="^clamps: .* every class of the test split "):
        Request.of(config, data=data).plan()


def test_other_clamps_change_nothing_of_the_mean(results, tiny_run):
    assert results["clamp"].values.tolist() == list(CLAMPS)
    alone = ioca.load_results(tiny_run)
    for name in ("correct", "loss", "single_correct", "single_loss", "order", "score"):
        found = results[name]
        if "clamp" in found.dims:
            found = found.sel(clamp=["mean"])
        np.testing.assert_allclose(found, alone[name], rtol=1e-6)


def test_clamps_differ_where_neurons_are_ablated(results):
    curves = results["loss"].sel(scope="network").transpose("clamp", "step", ...)
    curves = curves.values.reshape(3, 8, -1)
    np.testing.assert_allclose(curves[0, 0], curves[1, 0], rtol=1e-6)
    np.testing.assert_allclose(curves[2, 0], curves[1, 0], rtol=1e-6)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(curves[one, -1] - curves[other, -1]) > 1e-4).all()


@pytest.mark.slow
def test_fitted_constants_do_less_harm_than_means():
    config = ioca.StudyConfig(
        seeds=(0,), hidden=(20,), epochs=3, measures=("entropy",), random_orders=4,
        clamps=("optimal", "mean"), permutations=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ioca.run_study(config, folder + "/run", draw=False)
        losses = ioca.load_results(folder + "/run")["loss"]
    losses = losses.sel(ordering=losses["ranked_by"] == "random", scope="network")
    of_clamp = losses.mean(["ordering", "step", "seed"])
    assert of_clamp.sel(clamp="optimal") < of_clamp.sel(clamp="mean") - 0.05
