"""Two arrays as examples give the figures of one array that holds both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca
from ioca_jax.ablation.clamps import optimal_clamp
from ioca_jax.ablation.greedy import greedy_orders
from ioca_jax.ablation.pair_effects import pair_effects
from ioca_jax.ablation.singles import single_ablations

RNG = np.random.default_rng(0)
X = np.asarray(RNG.normal(size=(120, 7)), np.float32)
PAIR = (X[:, :3], X[:, 3:])
Y = (X[:, 0] > 0).astype(int) + (X[:, 4] > 0)
WEIGHTS = {
    "a": np.asarray(RNG.normal(size=(7, 4)), np.float32),
    "b": np.asarray(RNG.normal(size=(4, 3)), np.float32),
    "out": np.asarray(RNG.normal(size=(3, 3)), np.float32),
}


def of_one(v, x):
    return jnp.tanh(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["out"]


@pytest.fixture(scope="module")
def networks():
    def of_pair(v, x):
        return of_one(v, jnp.concatenate(x, axis=1))

    one = ioca.trace_network(of_one, WEIGHTS, X)
    return (one, X), (ioca.trace_network(of_pair, WEIGHTS, PAIR), PAIR)


def assert_same(networks, compute):
    """Of a function of a network and its examples."""
    one, several = (compute(network, x) for network, x in networks)
    leaves = zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True)
    for found, expected in leaves:
        if jnp.issubdtype(jnp.result_type(found), jnp.integer):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_measures_and_clamps(networks):
    measures = ("mutual_information", "taylor_mean", "activation_variance")

    def compute(network, x):
        found = ioca.measure_neurons(
            network, WEIGHTS, x, Y, quantizer="quantile:2", measures=measures
        )
        key = jax.random.key(0)
        return found, optimal_clamp(network, WEIGHTS, found.clamp, x, Y, key)

    assert_same(networks, compute)


def test_curves_under_constants_and_donors(networks):
    def compute(network, x):
        placed = ioca.place_examples(x, Y)
        donors = jax.tree.map(lambda array: array[::-1], x)
        resampled = ioca.resample(network, x, donors, jax.random.key(1))
        order = np.array([4, 0, 6, 2])
        return [
            ioca.ablation_curve(network, WEIGHTS, order, clamp, *placed)
            for clamp in (0.3, resampled)
        ]

    assert_same(networks, compute)


def test_single_neurons_pairs_and_greedy_orders(networks):
    many = jax.tree.map(lambda leaf: leaf[None], WEIGHTS)
    clamp = np.full((1, 7), 0.2, np.float32)
    keys = jax.random.split(jax.random.key(0), 1)

    def compute(network, x):
        return (
            single_ablations(network, many, clamp, x, Y, direct=True),
            pair_effects(network, many, clamp, x, Y, 0).loss_alone,
            greedy_orders(network, many, clamp, x, Y, np.arange(4), keys=keys),
        )

    assert_same(networks, compute)


def test_donors_of_other_arrays_are_refused(networks):
    _, (network, x) = networks
    with pytest.raises(
        ValueError, match=r"^donors: expected arrays as x\[0\], x\[1\], got donors$"
    ):  # noqa: E501
        ioca.resample(network, x, X, jax.random.key(0))
    with pytest.raises(
        ValueError,
        match=r"^donors\[1\]: expected one or more examples of shape \[4\], got shape "
        r"\[120, 3\]$",
    ):
        ioca.resample(network, x, (x[0], x[0]), jax.random.key(0))
