"""A traced copy of an MLP is measured and ablated like the MLP."""

import jax
import numpy as np
import pytest
from conftest import random_examples, random_network

import ioca_jax as ioca

MODEL, VARIABLES = random_network()
X, Y = random_examples()


@pytest.fixture(scope="module")
def traced():
    return ioca.trace_network(lambda v, x: MODEL.apply(v, x)[0], VARIABLES, X)


@pytest.fixture(scope="module")
def clamp():
    return np.asarray(MODEL.apply(VARIABLES, X)[1].mean(axis=0))


def equal(found: ioca.Evaluation, expected: ioca.Evaluation) -> None:
    np.testing.assert_array_equal(found.correct, expected.correct)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


def test_a_traced_network_has_the_neurons_of_its_mlp(traced):
    assert [layer.num_neurons for layer in traced.layers] == list(MODEL.hidden)
    np.testing.assert_array_equal(traced.layer_of_neuron, MODEL.layer_of_neuron)


@pytest.mark.parametrize("chunks", [1.0, 1e-6])
def test_masks_are_evaluated(traced, clamp, chunks):
    masks = np.random.default_rng(0).random((5, MODEL.num_neurons)) < 0.7
    arguments = (VARIABLES, masks, clamp, X, Y)
    found = ioca.evaluate_masks(traced, *arguments, memory_gb=chunks)
    equal(found, ioca.evaluate_masks(MODEL, *arguments))


@pytest.mark.parametrize("layer", [None, 1, 2])
def test_curves_are_those_of_the_mlp(traced, clamp, layer):
    layers = MODEL.layer_of_neuron
    neurons = (
        np.arange(len(layers)) if layer is None else np.flatnonzero(layers == layer)
    )
    order = np.random.default_rng(1).permutation(neurons).astype(np.int32)
    arguments = (VARIABLES, order, clamp, X, Y)
    equal(
        ioca.ablation_curve(traced, *arguments), ioca.ablation_curve(MODEL, *arguments)
    )


def test_many_networks_are_evaluated_in_one_program(traced, clamp):
    both = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), VARIABLES)
    order = np.tile(np.arange(MODEL.num_neurons, dtype=np.int32), (2, 1))
    arguments = (both, order, np.stack([clamp, clamp]), X, Y)
    found = ioca.ablation_curves(traced, *arguments)
    equal(found, ioca.ablation_curves(MODEL, *arguments))


def test_measures_are_those_of_the_mlp(traced):
    found = ioca.measure_neurons(traced, VARIABLES, X, Y)
    expected = ioca.measure_neurons(MODEL, VARIABLES, X, Y)
    np.testing.assert_array_equal(found.joint_counts, expected.joint_counts)
    np.testing.assert_allclose(
        found.activation_mean, expected.activation_mean, rtol=1e-5
    )


@pytest.mark.parametrize("engine", ["rank_one", "prefix_sums"])
def test_engines_for_chains_take_it(traced, clamp, engine):
    order = np.random.default_rng(2).permutation(MODEL.num_neurons).astype(np.int32)
    arguments = (VARIABLES, order, clamp, X, Y)
    found = ioca.ablation_curve(traced, *arguments, engine=engine)
    equal(found, ioca.ablation_curve(MODEL, *arguments, engine="masks"))
