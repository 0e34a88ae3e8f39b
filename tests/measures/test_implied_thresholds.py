"""``threshold`` alone, in networks found by tracing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = (np.arange(60) % 3).astype(np.int32)
WEIGHTS = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {"a": (5, 4), "b": (4, 6), "out": (6, 3)}.items()
}
REFUSED = (
    r"quantizer: expected outputs on both sides of 0, where 'threshold' alone is, got "
    r"all of layer {} {} it; name one that fits, such as threshold:0.5, uniform:8 or "
    r"quantile:2"
)


def traced(first, second):
    def apply(v, x):
        return second(first(x @ v["a"]) @ v["b"]) @ v["out"]

    return ioca.trace_network(apply, WEIGHTS, X)


def below(z):
    return -jax.nn.softplus(z)


@pytest.mark.parametrize("sigmoid", [jax.nn.sigmoid, lambda z: jax.lax.logistic(z)])
def test_it_is_one_half_for_sigmoids(sigmoid):
    network = traced(jax.jit(sigmoid), lambda z: sigmoid(z)[:, None].reshape(z.shape))
    found = ioca.measure_neurons(network, WEIGHTS, X, Y)
    expected = ioca.measure_neurons(network, WEIGHTS, X, Y, quantizer="threshold:0.5")
    assert (found.edges == 0.5).all()
    assert found.scores["entropy"].max() > 0.5
    assert (found.joint_counts == expected.joint_counts).all()


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ((jax.nn.relu, jax.nn.softplus), REFUSED.format("b", "above")),
        ((below, jnp.tanh), REFUSED.format("a", "below")),
        ((jnp.tanh, jax.nn.sigmoid), REFUSED.format("b", "above")),
    ],
)
def test_a_layer_on_one_side_of_it_is_refused(functions, message, tmp_path):
    network = traced(*functions)
    with pytest.raises(ValueError, match=message):
        ioca.measure_neurons(network, WEIGHTS, X, Y)
    data = ioca.Dataset.from_arrays(X[:40], Y[:40], X[40:], Y[40:])
    config = ioca.StudyConfig(seeds=(0, 1), random_orders=1, permutations=1)
    variables = jax.tree.map(lambda leaf: np.stack([leaf, 1.5 * leaf]), WEIGHTS)
    given = {"data": data, "network": network, "variables": variables}
    with pytest.raises(ValueError, match=message):
        ioca.run_study(config, tmp_path, **given)
    found = ioca.measure_neurons(network, WEIGHTS, X, Y, quantizer="quantile:2")
    assert found.scores["entropy"].max() > 0.5


def test_a_study_records_the_threshold(tmp_path):
    network = traced(jax.nn.sigmoid, jax.nn.sigmoid)
    data = ioca.Dataset.from_arrays(X[:40], Y[:40], X[40:], Y[40:])
    config = ioca.StudyConfig(seeds=(0, 1), random_orders=1, permutations=1)
    variables = jax.tree.map(lambda leaf: np.stack([leaf, 1.5 * leaf]), WEIGHTS)
    given = {"data": data, "network": network, "variables": variables}
    results = ioca.run_study(config, tmp_path, **given, draw=False)
    assert results.attrs["quantizer"] == "threshold:0.5"
    assert results["score"].sel(measure="entropy").max() > 0.5
