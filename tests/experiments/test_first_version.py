"""Training settings of the first version: what each of them changes."""

import dataclasses

import command_line
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from synthetic import own_data

import ioca_jax as ioca

MODEL = ioca.MLP(hidden=(7, 5), num_classes=4, activation="sigmoid")
DATA = own_data()


@pytest.fixture(scope="module")
def job():
    with command_line.loaded("experiments.first_version") as module:
        yield module


@pytest.fixture(scope="module")
def trained(job):
    def train(**changes):
        splits = (tuple(map(jnp.asarray, s)) for s in (DATA.train, DATA.validation))
        training = job.Training(**{"epochs": 3} | changes)
        return job._train_one(training, MODEL, jax.random.key(0), *splits)

    return train


def leaves(params, name):
    return np.concatenate([np.ravel(layer[name]) for layer in params.values()])


def test_every_field_is_varied_by_a_setting(job):
    fields = [field.name for field in dataclasses.fields(job.Training)]
    varied = {
        name
        for name in fields
        for training in job.SETTINGS.values()
        if getattr(training, name) != getattr(job.Training(), name)
    }
    assert varied == set(fields)
    assert {training.initial for training in job.SETTINGS.values()} == set(job._INITIAL)


def test_networks_without_biases_keep_them_at_zero(trained):
    assert not leaves(trained(bias=None), "bias").any()
    assert leaves(trained(), "bias").all()


def test_the_penalty_is_of_kernels_unless_biases_are_included(trained):
    # So strong that what is penalised shrinks at each of 20 steps of 0.001.
    kernels = trained(bias=1.0, l2=30.0, epochs=20)
    both = trained(bias=1.0, l2=30.0, epochs=20, penalise_biases=True)
    free = trained(bias=1.0, epochs=20)
    for params in (kernels, both):
        penalised = np.abs(leaves(params, "kernel")).mean()
        assert penalised < np.abs(leaves(free, "kernel")).mean() - 0.01
    assert np.abs(leaves(kernels, "bias")).mean() > 0.99
    assert np.abs(leaves(both, "bias")).mean() < 0.99


def test_initial_kernels_have_the_named_spread(job):
    model = ioca.MLP(hidden=(300, 200), num_classes=4)
    spreads = {
        "glorot uniform": np.sqrt(2 / 500),
        "glorot normal": np.sqrt(2 / 500),
        "lecun normal": np.sqrt(1 / 300),
        "truncated normal 0.1": 0.088,  # of a normal cut at two deviations
        "normal 1": 1.0,
    }
    assert set(spreads) == set(job._INITIAL)
    for name, spread in spreads.items():
        training = job.Training(initial=name, bias=0.1)
        params = job._initialise(training, model, jax.random.key(1), inputs=10)
        np.testing.assert_allclose(params["dense_1"]["kernel"].std(), spread, rtol=0.03)
        assert (leaves(params, "bias") == np.float32(0.1)).all()


def test_the_best_epoch_is_kept(trained):
    def accuracy(params):
        logits, _ = MODEL.apply({"params": params}, DATA.validation.x)
        return np.mean(np.argmax(logits, axis=-1) == DATA.validation.y)

    # The first k epochs of a longer training have other keys: compare within it.
    best, last = (trained(epochs=12, best_epoch=best) for best in (True, False))
    assert accuracy(best) >= accuracy(last)
    different = leaves(best, "kernel") != leaves(last, "kernel")
    assert different.any() or accuracy(best) == accuracy(last)


def test_settings_are_compared_by_their_differences(job):
    orders = ["mutual_information", "mutual_information", "random", "random"]
    table = pd.DataFrame(
        {
            "scope": "layer_2",
            "clamp": "zero",
            "ranked_by": orders,
            "step": [60, 79, 60, 79],
            "accuracy": [0.9, 0.8, np.nan, 0.7],
            "ours": [0.92, 0.65, 0.5, 0.71],
        }
    )
    table["difference"] = table["ours"] - table["accuracy"]
    (row,) = job.compare({"glorot": table}, {"glorot": "2.50 ± 0.10"}).to_dict(
        "records"
    )
    assert row["within 0.03 of 3"] == 2
    assert row["largest difference"] == "0.150"
    assert row["layer 2, zero, 79 ablated, MI"] == "0.650"
    assert row["layer 2, zero, 79 ablated, random"] == "0.710"


def test_results_of_another_training_are_refused(job, tmp_path):
    (tmp_path / "study.nc").write_text("")
    (tmp_path / "training.txt").write_text(str(job.Training(epochs=3)))
    with pytest.raises(ValueError, match="those of Training.*epochs=3.*choose another"):
        job.run_setting(job.Training(), None, DATA, tmp_path)
