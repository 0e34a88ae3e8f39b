"""Direct effects against a network with a residual stream, written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network

import ioca_jax as ioca
from ioca_jax.ablation.singles import single_ablations

SHAPES = {"embed": (12, 6), "a": (12, 5), "b": (5, 6), "c": (6, 4), "d": (4, 6)}


def apply(variables, x):
    stream = x @ variables["embed"] + jax.nn.relu(x @ variables["a"]) @ variables["b"]
    stream = stream + jax.nn.relu(stream @ variables["c"]) @ variables["d"]
    return stream @ variables["logits"]


def variables_of(seed):
    rng = np.random.default_rng(seed)
    shapes = SHAPES | {"logits": (6, 4)}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def losses_by_hand(w, x, y, clamp):
    """Of the intact network, and of each neuron ablated: total, and direct."""
    w = {name: value.astype(np.float64) for name, value in w.items()}

    def relu(values):
        return np.maximum(values, 0)

    def loss(first, second=None, cut=None):
        stream = x @ w["embed"] + first @ w["b"]
        second = relu(stream @ w["c"]) if second is None else second
        if cut is not None:
            second = second.copy()
            second[:, cut] = clamp[5 + cut]
        logits = (stream + second @ w["d"]) @ w["logits"]
        own = logits[np.arange(len(y)), y]
        return (np.log(np.exp(logits).sum(axis=1)) - own).mean()

    first = relu(x @ w["a"])
    held = relu((x @ w["embed"] + first @ w["b"]) @ w["c"])
    total, direct = [], []
    for neuron in range(5):
        cut = first.copy()
        cut[:, neuron] = clamp[neuron]
        total.append(loss(cut))
        direct.append(loss(cut, held))
    of_second = [loss(first, cut=neuron) for neuron in range(4)]
    return loss(first), np.array(total + of_second), np.array(direct + of_second)


@pytest.mark.parametrize("memory_gb", [1.0, 1e-6])
def test_effects_are_those_of_a_loop(memory_gb):
    x, y = random_examples()
    seeds = [variables_of(seed) for seed in (0, 1)]
    network = ioca.trace_network(apply, seeds[0], x, layers=["a", "c"])
    assert network.num_neurons == 9
    clamp = np.random.default_rng(2).uniform(0, 1, (2, 9)).astype(np.float32)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    arguments = network, stacked, clamp, x, y
    direct = single_ablations(*arguments, direct=True, memory_gb=memory_gb)
    total = single_ablations(*arguments, memory_gb=memory_gb)
    for seed, weights in enumerate(seeds):
        intact, of_total, of_direct = losses_by_hand(weights, x, y, clamp[seed])
        np.testing.assert_allclose(direct.intact.loss[seed], intact, rtol=1e-4)
        np.testing.assert_allclose(total.alone.loss[seed], of_total, rtol=1e-4)
        np.testing.assert_allclose(direct.alone.loss[seed], of_direct, rtol=1e-4)
        assert np.abs(of_total - of_direct)[:5].max() > 0.01


def test_without_a_way_around_only_the_last_layer_acts():
    model, variables = random_network()
    x, y = random_examples()
    clamp = np.zeros((1, model.num_neurons), np.float32)
    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    found = single_ablations(model, stacked, clamp, x, y, direct=True)
    rise = np.asarray(found.alone.loss[0] - found.intact.loss[0])
    last = model.layer_of_neuron == model.layer_of_neuron.max()
    assert (np.abs(rise[~last]) < 1e-6).all()
    assert np.abs(rise[last]).max() > 1e-3
    total = single_ablations(model, stacked, clamp, x, y)
    np.testing.assert_allclose(
        found.alone.loss[0][last], total.alone.loss[0][last], rtol=1e-5
    )
