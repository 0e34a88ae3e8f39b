"""Networks of five libraries, traced, against copies with masks written into them."""

from typing import Any, NamedTuple

import cuts
import frameworks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cuts import Case

import ioca_jax as ioca
from ioca_jax.networks.layers import Values, split_by_layer
from ioca_jax.networks.network import Network


class Traced(NamedTuple):
    case: Case
    network: Network
    outputs: dict[str, np.ndarray]  # as seen by hand, [N, *layer.shape]
    logits: np.ndarray
    apply: Any  # compiled once
    by_hand: Any


@pytest.fixture(scope="module", params=frameworks.CASES)
def traced(request: pytest.FixtureRequest) -> Traced:
    case = frameworks.CASES[request.param]()
    network = ioca.trace_network(case.apply, case.variables, case.x, case.layers)

    @jax.jit
    def look(variables, x):
        seen = {}

        def cut(name, value, axis=-1):
            heads = name.endswith(":input")  # neurons first, then the vector
            seen[name] = value if heads else jnp.moveaxis(value, axis, -1)
            return value

        return case.by_hand(cut, variables, x), seen

    @jax.jit
    def by_hand(variables, x, keep, clamp):
        return case.by_hand(cuts.clamping(keep, clamp), variables, x)

    logits, outputs = jax.tree.map(np.asarray, look(case.variables, case.x))
    return Traced(case, network, outputs, logits, jax.jit(network.apply), by_hand)


def random_masks(network: ioca.Network, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=network.num_neurons) < 0.6


def by_name(network: ioca.Network, flat: np.ndarray) -> dict[str, Any]:
    ends = np.cumsum([layer.num_neurons for layer in network.layers])
    names = [layer.name for layer in network.layers]
    return dict(zip(names, np.split(flat, ends[:-1]), strict=True))


def pooled_means(traced: Traced) -> np.ndarray:
    columns = []
    for layer in traced.network.layers:
        outputs = traced.outputs[layer.name].astype(np.float64)
        neurons = 1 + len(layer.positions)
        others = tuple(axis for axis in range(1, outputs.ndim) if axis != neurons)
        columns.append(outputs.mean(axis=others))
    return np.concatenate(columns, axis=1)


def test_layers_have_the_networks_own_names(traced: Traced):
    shapes = {layer.name: layer.shape for layer in traced.network.layers}
    assert shapes == traced.case.shapes
    assert list(shapes) == list(traced.case.shapes)


def test_it_is_a_network(traced: Traced):
    network = traced.network
    assert isinstance(network, Network)
    assert network.num_classes == 3
    widths = [layer.num_neurons for layer in network.layers]
    assert network.num_neurons == sum(widths)
    assert np.array_equal(
        network.layer_of_neuron, np.repeat(np.arange(len(widths)), widths)
    )


def test_logits_are_the_networks_and_activations_means(traced: Traced):
    case = traced.case
    logits, activations = traced.apply(case.variables, case.x)
    original = jax.jit(case.apply)(case.variables, case.x)
    assert np.allclose(logits, original, atol=1e-6)
    assert np.allclose(logits, traced.logits, atol=1e-5)
    assert np.allclose(activations, pooled_means(traced), atol=1e-5)


@pytest.mark.parametrize("clamped_to", ["zero", "mean"])
@pytest.mark.parametrize("seed", [0, 1])
def test_ablated_logits_are_those_of_a_copy_with_masks(
    traced: Traced, clamped_to: str, seed: int
):
    case, network = traced.case, traced.network
    keep, means = random_masks(network, seed), pooled_means(traced).mean(axis=0)
    clamp = (means if clamped_to == "mean" else 0 * means).astype(np.float32)
    logits, activations = traced.apply(
        case.variables, case.x, ioca.Ablation(keep, clamp)
    )
    expected = traced.by_hand(
        case.variables, case.x, by_name(network, keep), by_name(network, clamp)
    )
    assert np.allclose(logits, expected, atol=1e-5)
    assert not np.allclose(logits, traced.logits, atol=1e-2)
    gone = np.asarray(activations)[:, ~keep]
    assert np.allclose(gone, clamp[~keep], atol=1e-6)


def test_stopped_at_any_layer_and_resumed_it_is_the_same(traced: Traced):
    case, network = traced.case, traced.network
    keep = random_masks(network, 2)
    ablation = ioca.Ablation(keep, np.full(network.num_neurons, 0.3, np.float32))

    @jax.jit
    def staged(variables, x, ablation):
        values = network.prefix(variables, x, 0, ablation)
        results = [network.above(variables, 0, values, ablation)]
        for layer in range(1, len(network.layers)):
            values = network.advance(variables, layer - 1, values, ablation)
            if layer % 3 != 2:
                results.append(network.above(variables, layer, values, ablation))
        middle = len(network.layers) // 2
        direct = network.prefix(variables, x, middle, ablation)
        return [*results, network.above(variables, middle, direct, ablation)]

    whole = traced.apply(case.variables, case.x, ablation)
    for logits, upper in staged(case.variables, case.x, ablation):
        assert np.allclose(logits, whole[0], atol=1e-5)
        assert np.allclose(upper, whole[1][:, -upper.shape[1] :], atol=1e-5)


def test_one_example_is_the_first_of_many(traced: Traced):
    case, network = traced.case, traced.network
    last = len(network.layers) - 1

    @jax.jit
    def staged(variables, x):
        values = network.prefix(variables, x, last)
        return network.above(variables, last, values)[0], values.outputs

    logits, outputs = staged(case.variables, case.x[:1])
    assert np.allclose(logits, traced.logits[:1], atol=1e-5)
    name = network.layers[last].name
    assert np.allclose(outputs, traced.outputs[name][:1], atol=1e-5)


def test_it_is_known_where_logits_are_affine(traced: Traced):
    network = traced.network
    affine = [
        layer.name
        for index, layer in enumerate(network.layers)
        if network.is_affine_above(index)
    ]
    assert affine == list(traced.case.affine)


@pytest.mark.parametrize("traced", ["equinox"], indirect=True)
def test_vmap_over_networks_is_a_loop(traced: Traced):
    case, network = traced.case, traced.network
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), case.variables)
    ablation = ioca.Ablation(random_masks(network, 3), jnp.zeros(network.num_neurons))
    many = jax.jit(jax.vmap(lambda one: network.apply(one, case.x, ablation)))(stacked)
    for index in range(2):
        one = jax.tree.map(lambda leaf: leaf[index], stacked)  # noqa: B023
        single = traced.apply(one, case.x, ablation)
        assert np.allclose(many[0][index], single[0], rtol=1e-4, atol=1e-4)
        assert np.allclose(many[1][index], single[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("traced", ["linen"], indirect=True)
def test_gradients_are_the_networks(traced: Traced):
    case, network = traced.case, traced.network

    def gradient(run):
        return jax.jit(jax.grad(lambda v: (run(v, case.x) ** 2).sum()))(case.variables)

    expected = gradient(case.apply)
    found = gradient(lambda variables, x: network.apply(variables, x)[0])
    for one, other in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("traced", ["linen"], indirect=True)
def test_gradients_by_activations_come_from_a_shift(traced: Traced):
    case, network = traced.case, traced.network
    zeros = {
        layer.name: jnp.zeros((len(case.x), *layer.shape)) for layer in network.layers
    }
    last = len(network.layers) - 1
    name = network.layers[last].name

    def by_shift(shift):
        return network.outputs(case.variables, case.x, shift=shift)[0].sum()

    def by_value(outputs, values):
        values = Values(outputs, values.rest, len(case.x))
        return network.above(case.variables, last, values)[0].sum()

    found = jax.jit(jax.grad(by_shift))(zeros)[name]
    values = network.prefix(case.variables, case.x, last)
    expected = jax.jit(jax.grad(by_value))(values.outputs, values)
    assert np.allclose(found, expected, atol=1e-5)
    assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize("traced", ["keras"], indirect=True)
def test_flat_arrays_split_by_layer(traced: Traced):
    network = traced.network
    flat = np.arange(network.num_neurons)
    split = split_by_layer(network.layers, flat)
    assert {k: v.tolist() for k, v in split.items()} == {
        k: v.tolist() for k, v in by_name(network, flat).items()
    }
