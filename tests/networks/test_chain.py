"""Chains of affine maps, found in functions of any kind, against masks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

import ioca_jax as ioca
from ioca_jax.networks.network import Network

RNG = np.random.default_rng(0)
X = RNG.normal(size=(41, 6)).astype(np.float32)
Y = (np.arange(41) % 3).astype(np.int32)


def numbers(*shape):
    return RNG.normal(size=shape).astype(np.float32)


DENSE = {
    "in": numbers(6, 6),
    "a": {"w": numbers(6, 9), "b": numbers(9)},
    "c": {"w": numbers(9, 7), "b": numbers(7)},
    "out": {"w": numbers(7, 3), "b": numbers(3)},
    "norm": {"scale": 1 + abs(numbers(9)), "offset": numbers(9), "mean": numbers(9)},
    "slope": numbers(9),
    "one": np.float32(0.3),
}


def dense(layer, x):
    return x @ layer["w"] + layer["b"]


def normed(v, x):
    return (x - v["norm"]["mean"]) * v["norm"]["scale"] + v["norm"]["offset"]


def with_second(between):
    """A network whose second layer ends in a function of its variables."""

    def apply(v, x):
        x = between(v, dense(v["a"], jax.nn.sigmoid(x @ v["in"])))
        return dense(v["out"], jnp.tanh(dense(v["c"], x)))

    return apply


def prelu(v, x):
    return jnp.where(x > 0, x, v["slope"] * x) * v["one"]


def summed(v, x):
    hidden = jax.nn.relu(x @ v["a"]["w"] + (x @ v["a"]["w"][:, :2]) @ v["c"]["w"][:2].T)
    return dense(v["out"], jax.nn.gelu(dense(v["c"], hidden)))


CHAINS = {
    "plain": with_second(lambda v, x: jnp.where(x > 0, x, 0.0)),
    "batch norm and a scale before": with_second(
        lambda v, x: jax.nn.relu(2 * normed(v, x))
    ),
    "batch norm after": with_second(lambda v, x: normed(v, jax.nn.silu(x))),
    "slopes of its own": with_second(prelu),
    "elu": with_second(lambda v, x: jax.nn.elu(x, 0.7)),
    "mapped": jax.vmap(with_second(lambda v, x: jax.nn.relu(x)), (None, 0)),
    "transposed": lambda v, x: (
        (v["out"]["w"].T @ jax.nn.relu(v["a"]["w"][:, :7].T @ x.T)).T
    ),
}


def check_curves(network: Network, variables, engines=("rank_one", "prefix_sums")):
    order = np.random.default_rng(1).permutation(network.num_neurons).astype(np.int32)
    clamp = ioca.measure_neurons(network, variables, X, Y, quantizer="quantile:2").clamp
    arguments = (network, variables, order, clamp, X, Y)
    expected = ioca.ablation_curve(*arguments, engine="masks")
    for engine in engines:
        found = ioca.ablation_curve(*arguments, engine=engine)
        np.testing.assert_array_equal(found.correct, expected.correct, engine)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_found_however_it_is_written(name):
    network = ioca.trace_network(CHAINS[name], DENSE, X)
    chain = network.chain(0)
    assert chain is not None
    assert network.chain(0) is chain
    check_curves(network, DENSE)


def test_the_maps_are_those_by_hand():
    network = ioca.trace_network(CHAINS["batch norm after"], DENSE, X)
    chain = network.chain(-1)
    assert chain is not None
    maps = chain.maps(DENSE)
    np.testing.assert_array_equal(maps[1].kernel, DENSE["a"]["w"])
    np.testing.assert_array_equal(maps[2].bias, DENSE["c"]["b"])
    parameters = [np.asarray(array) for array in maps[1].parameters]
    for name in ("scale", "offset", "mean"):
        assert any(np.array_equal(DENSE["norm"][name], own) for own in parameters)
    before = with_second(lambda v, x: jax.nn.relu(3 * normed(v, x)))
    chain = ioca.trace_network(before, DENSE, X).chain(-1)
    assert chain is not None
    first = chain.maps(DENSE)[1]
    norm = {name: values.astype(np.float64) for name, values in DENSE["norm"].items()}
    by_hand = 3 * DENSE["a"]["w"] * norm["scale"]
    np.testing.assert_allclose(first.kernel, by_hand, rtol=1e-6)
    shifted = (DENSE["a"]["b"] - norm["mean"]) * norm["scale"] + norm["offset"]
    np.testing.assert_allclose(first.bias, 3 * shifted, rtol=1e-5)
    assert first.parameters == ()


def test_an_equinox_network_is_a_chain():
    mlp = eqx.nn.MLP(6, 3, 8, 2, key=jax.random.key(0))
    arrays, rest = eqx.partition(mlp, eqx.is_array)

    def apply(arrays, x):
        return jax.vmap(eqx.combine(arrays, rest))(x)

    network = ioca.trace_network(apply, arrays, X)
    assert network.chain(0) is not None
    check_curves(network, arrays)


def residual(v, x):
    hidden = jax.nn.relu(dense(v["a"], x))
    return dense(v["out"], jax.nn.relu(dense(v["c"], hidden)) + x @ v["a"]["w"][:, :7])


def rounded(v, x):
    x = jax.nn.relu(dense(v["a"], x)).astype(jnp.bfloat16).astype(jnp.float32)
    return dense(v["out"], jnp.tanh(dense(v["c"], x)))


def stopped(v, x):
    """Affine in its layer, with no gradient to show it."""
    hidden = jax.nn.relu(x @ v["c"]["w"][:6])
    return dense(v["out"], jax.lax.stop_gradient(hidden + x[:, :1]))


NO_CHAINS = {
    "residual": residual,
    "normalised over neurons": with_second(lambda v, x: jax.nn.softmax(x)),
    "stopped": with_second(lambda v, x: jax.lax.stop_gradient(jax.nn.relu(x))),
    "half": rounded,
    "stopped after a sum": stopped,
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_what_is_none_has_the_right_figures_too(name):
    network = ioca.trace_network(NO_CHAINS[name], DENSE, X)
    if name not in ("half", "stopped"):
        assert network.chain(0) is None
    check_curves(network, DENSE, engines=("incremental", None))


def test_a_chain_may_begin_above_convolutions():
    model = ioca.CNN((2,), (5, 4), 3, (4, 4, 1))
    x = np.random.default_rng(2).normal(size=(41, 4, 4, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    network = ioca.trace_network(lambda v, x: model.apply(v, x)[0], variables, x)
    assert network.chain(0) is None
    assert network.chain(1) is not None
    order, clamp = np.array([4, 8, 2, 6], np.int32), np.full(11, 0.2, np.float32)
    arguments = (variables, order, clamp, x, Y)
    found = ioca.ablation_curve(network, *arguments, engine="rank_one")
    expected = ioca.ablation_curve(model, *arguments, engine="masks")
    np.testing.assert_array_equal(found.correct, expected.correct)


def test_an_equation_that_fails_shows_the_users_line():
    odd = Primitive("odd")
    odd.def_impl(lambda x: x)
    odd.def_abstract_eval(lambda x: x)
    mlir.register_lowering(odd, lambda context, x: [x])

    def apply(v, x):
        return odd.bind(dense(v["out"], jax.nn.relu(dense(v["a"], x)[:, :7])))

    network = ioca.trace_network(apply, DENSE, X, layers=["a"])
    masks = ~np.eye(9, dtype=bool)
    with pytest.raises(NotImplementedError, match="Batching rule for 'odd'") as caught:
        ioca.evaluate_masks(network, DENSE, masks, 0, X, Y)
    shown, error = [], caught.value
    while error is not None:
        frame = error.__traceback__
        while frame is not None:
            shown.append((frame.tb_frame.f_code.co_filename, frame.tb_lineno))
            frame = frame.tb_next
        error = error.__cause__ or error.__context__
    line = apply.__code__.co_firstlineno + 1
    assert (__file__, line) in shown
