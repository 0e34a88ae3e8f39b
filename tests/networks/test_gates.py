"""Gates: what alone a network sees of a layer, against functions written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca

RNG = np.random.default_rng(0)
WEIGHTS = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in (("a", (5, 4)), ("b", (4, 6)), ("c", (4, 6)), ("d", (6, 3)))
}
X = RNG.normal(size=(7, 5)).astype(np.float32)


def stream(weights, x):
    """What passes by the layer is added: the sum is the gate."""
    hidden = jax.nn.relu(x @ weights["a"])
    after = jnp.pad(x, ((0, 0), (0, 1))) + 2 * (hidden @ weights["b"]) + 1
    return jnp.tanh(after) @ weights["d"]


def test_a_gate_is_an_affine_function_of_a_layer():
    network = ioca.trace_network(stream, WEIGHTS, X, layers=["a"])
    (gate,) = network.gates
    assert gate is not None
    # The product from 4 neurons to 6 numbers.
    assert (gate.shape, gate.operations) == ((6,), 2 * 4 * 6)
    values = network.prefix(WEIGHTS, X, 0)
    none, linear = network.at_gate(WEIGHTS, 0, values)
    passes_by = np.pad(X, ((0, 0), (0, 1))) + 1
    np.testing.assert_allclose(none, passes_by, rtol=1e-6)
    hidden = np.maximum(X @ WEIGHTS["a"], 0)
    np.testing.assert_allclose(linear(values.outputs), 2 * hidden @ WEIGHTS["b"], 1e-5)
    # Outputs 1 for all neurons, whatever the examples.
    _, of_two = network.at_gate(WEIGHTS, 0, network.blank_values(0))
    ones = 2 * WEIGHTS["b"].sum(axis=0)
    np.testing.assert_allclose(of_two(jnp.ones((2, 4))), np.stack([ones, ones]), 1e-5)


def multiplied(weights, x):
    """A gate of the examples would differ from example to example."""
    hidden = jax.nn.relu(x @ weights["a"])
    return jnp.tanh((x[:, :4] * hidden) @ weights["b"]) @ weights["d"]


def parallel(weights, x):
    """Another layer adds to where the first one's gate would be."""
    hidden = jax.nn.relu(x @ weights["a"])
    after = hidden @ weights["b"] + jax.nn.relu(x[:, :4] @ weights["c"])
    return jnp.tanh(after) @ weights["d"]


def twice(weights, x):
    """Two values depend on the layer, none of them alone."""
    hidden = jax.nn.relu(x @ weights["a"])
    return (jnp.tanh(hidden @ weights["b"]) + hidden @ weights["c"]) @ weights["d"]


def rounded(weights, x):
    hidden = jax.nn.relu(x @ weights["a"]).astype(jnp.bfloat16)
    after = hidden @ weights["b"].astype(jnp.bfloat16)
    return jnp.tanh(after.astype(jnp.float32)) @ weights["d"]


@pytest.mark.parametrize("apply", [multiplied, twice, rounded])
def test_layers_without_a_gate(apply):
    network = ioca.trace_network(apply, WEIGHTS, X, layers=["a"])
    assert network.gates == (None,)


def test_a_gate_ends_before_what_another_layer_changes():
    network = ioca.trace_network(parallel, WEIGHTS, X, layers=["a", "c"])
    order = np.array([4, 0, 7, 2, 1, 9, 3], np.int32)
    orders = np.stack([order, order[::-1]])[None]
    variables = jax.tree.map(lambda leaf: leaf[None], WEIGHTS)
    y = np.arange(len(X)) % 3
    clamp = np.ones((1, 1, network.num_neurons), np.float32)
    found, expected = (
        ioca.ablation_curves(network, variables, orders, clamp, X, y, engine=engine)
        for engine in ("incremental", "masks")
    )
    np.testing.assert_array_equal(found.correct, expected.correct)
    first, _ = network.gates
    # The product of the first layer alone, not the sum with the other layer.
    assert first is not None
    values = network.prefix(WEIGHTS, X, 0)
    none, _ = network.at_gate(WEIGHTS, 0, values)
    np.testing.assert_array_equal(none, np.zeros((7, 6)))
