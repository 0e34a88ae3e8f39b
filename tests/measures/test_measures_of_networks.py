"""Every measure of a traced CNN's neurons: NumPy and scikit-learn on its activations.

The network is one that ``MLP`` cannot be: channels with positions, layers that are not
in a row. Activations are computed by a copy of the function, layer by layer.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import entropy_of, information_of
from sklearn.metrics import mutual_info_score

import ioca_jax as ioca
from ioca_jax.ablation.pair_effects import pair_effects
from ioca_jax.measures.groups import (
    group_information,
    information_along_order,
    redundancy_index,
)
from ioca_jax.measures.o_information import o_information
from ioca_jax.measures.pairs import pair_information
from ioca_jax.measures.whole_layers import layer_information

WIDTHS = {"conv": 4, "deep": 3, "hidden": 5}
NUM_CLASSES = 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 5, 5, 1)).astype(np.float32)
VARIABLES = {
    "conv": RNG.normal(size=(3, 3, 1, 4)) / 3,
    "deep": RNG.normal(size=(3, 3, 4, 3)) / 6,
    "hidden": RNG.normal(size=(3, 5)) * 3,
    "logits": RNG.normal(size=(9, NUM_CLASSES)),
}
VARIABLES = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), VARIABLES)


def convolve(x, kernel, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=numbers
    )


def run(variables, x, cut=lambda name, value: value):
    """The channels of the first layer also reach the logits directly."""
    conv = cut("conv", jax.nn.relu(convolve(x, variables["conv"], "SAME")))
    deep = cut("deep", jnp.tanh(convolve(conv, variables["deep"], "VALID")))
    hidden = cut("hidden", jnp.tanh(deep.mean(axis=(1, 2)) @ variables["hidden"]))
    seen = jnp.concatenate([conv.max(axis=(1, 2)), hidden], axis=1)
    return seen @ variables["logits"]


# Classes of the network itself, a third of them replaced at random.
Y = np.where(
    RNG.random(len(X)) < 1 / 3,
    RNG.integers(NUM_CLASSES, size=len(X)),
    run(VARIABLES, X).argmax(axis=1),
).astype(np.int32)


@pytest.fixture(scope="module")
def network():
    return ioca.trace_network(lambda variables, x: run(variables, x), VARIABLES, X)


@pytest.fixture(scope="module")
def activations() -> np.ndarray:
    """[N, H], means over positions."""
    seen = []

    def keep(name, value):
        seen.append(value.mean(axis=tuple(range(1, value.ndim - 1))))
        return value

    run(VARIABLES, X, keep)
    return np.concatenate(seen, axis=1)


@pytest.fixture(scope="module")
def codes(activations) -> np.ndarray:
    return (activations > np.median(activations, axis=0)).astype(np.int32)


SIZES = {"num_codes": 2, "num_classes": NUM_CLASSES}
BITS = 1 / np.log(2)


def test_neurons(network, activations):
    found = ioca.measure_neurons(network, VARIABLES, X, Y, quantizer="threshold:0.1")
    assert {layer.name: layer.num_neurons for layer in network.layers} == WIDTHS
    np.testing.assert_allclose(
        found.activation_mean, activations.mean(axis=0), atol=1e-6
    )
    on = activations > 0.1
    assert 0.02 < on.mean() < 0.98
    expected = [BITS * mutual_info_score(column, Y) for column in on.T]
    np.testing.assert_allclose(found.scores["mutual_information"], expected, atol=1e-6)
    expected = [entropy_of(column) for column in on.T]
    np.testing.assert_allclose(found.scores["entropy"], expected, atol=1e-6)


def test_neurons_of_other_variables_compile_nothing(network, compiled):
    for quantizer in ("uniform:8", "quantile:4"):
        ioca.measure_neurons(network, VARIABLES, X, Y, quantizer=quantizer)
        assert compiled
        compiled.clear()
        others = jax.tree.map(lambda leaf: leaf * 1.5, VARIABLES)
        compiled.clear()
        ioca.measure_neurons(network, others, X, Y, quantizer=quantizer)
        assert not compiled


def test_pairs_across_layers(codes):
    found = pair_information(codes, Y, **SIZES, measures=("co_information",))
    alone = [BITS * mutual_info_score(column, Y) for column in codes.T]
    for first, second in [(0, 1), (2, 6), (5, 11), (8, 9)]:
        both = BITS * mutual_info_score(2 * codes[:, first] + codes[:, second], Y)
        np.testing.assert_allclose(
            found["co_information"][first, second],
            alone[first] + alone[second] - both,
            atol=2e-6,
        )


def test_groups_and_orders(codes):
    groups = np.array([[0, 5, 8], [11, 2, 4]], np.int32)
    key = jax.random.key(0)
    expected = np.array([information_of(codes[:, group], Y) for group in groups])
    options = {**SIZES, "key": key, "permutations": 3}
    found = group_information(codes, Y, groups, **options)
    np.testing.assert_allclose(found.information, expected, atol=2e-6)
    along = information_along_order(codes, Y, groups, **options)
    np.testing.assert_allclose(along.ablated.information[:, -1], expected, atol=2e-6)
    corrected = partial(information_of, corrected=True)
    alone = [sum(corrected(codes[:, [j]], Y) for j in group) for group in groups]
    together = [corrected(codes[:, group], Y) for group in groups]
    index = redundancy_index(codes, Y, groups, **SIZES)
    np.testing.assert_allclose(index, np.divide(alone, together), rtol=1e-3)
    bits = o_information(codes, Y, groups, **options)
    for found, (a, b, c) in zip(bits.of_neurons, codes.T[groups], strict=True):
        expected = entropy_of(a, b, c) + sum(map(entropy_of, (a, b, c)))
        expected -= entropy_of(a, b) + entropy_of(a, c) + entropy_of(b, c)
        np.testing.assert_allclose(found, expected, atol=5e-6)


def test_whole_layers(network, codes):
    for layer in range(len(network.layers)):
        of_layer = codes[:, network.layer_of_neuron == layer]
        found = layer_information(of_layer, Y, **SIZES)
        np.testing.assert_allclose(found.entropy, entropy_of(*of_layer.T), atol=2e-6)
        cells = len(np.unique(np.column_stack([of_layer, Y]), axis=0))
        assert found.cells == cells


def costs_by_hand(layer: str, neurons: tuple[int, ...], clamp: np.ndarray):
    """Share of examples classified wrongly, and mean cross-entropy."""

    def cut(name, value):
        if name != layer:
            return value
        return value.at[..., np.array(neurons, int)].set(clamp[np.array(neurons, int)])

    logits = np.float64(run(VARIABLES, X, cut))
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(Y)), Y]
    return np.array([np.mean(logits.argmax(axis=1) != Y), losses.mean()])


@pytest.mark.parametrize("layer", [0, 2])
def test_effects_of_pairs(network, activations, layer):
    clamp = activations.mean(axis=0)
    stacked = jax.tree.map(lambda leaf: leaf[None], VARIABLES)
    found = pair_effects(network, stacked, clamp[None], X, Y, layer, memory_gb=1e-4)
    name = network.layers[layer].name
    own = clamp[network.layer_of_neuron == layer]
    cost = partial(costs_by_hand, name, clamp=own)
    intact = cost(())
    for i, j in itertools.combinations(range(len(own)), 2):
        both, first, second = (cost(n) - intact for n in ((i, j), (i,), (j,)))
        accuracy, loss = both - first - second
        np.testing.assert_allclose(found.accuracy[0, i, j], accuracy, atol=1e-6)
        np.testing.assert_allclose(found.loss[0, i, j], loss, atol=2e-6)
        np.testing.assert_allclose(found.loss_alone[0, i], first[1], atol=2e-6)
    assert np.nanmax(np.abs(found.accuracy)) > 0.01
