"""Which value is a layer's: what its product is followed through, and where it ends."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

import ioca_jax as ioca
from ioca_jax.networks import rules

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype(np.float32)
W = {
    name: (RNG.normal(size=shape) / 2).astype(np.float32)
    for name, shape in (("a", (5, 4)), ("b", (4, 3)))
}
PRODUCT = X @ W["a"]
KNOTS = np.array([-2, -0.5, 0.3, 2], np.float32)
HEIGHTS = np.array([1, -1, 2, 0.5], np.float32)
MESH = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
SHARDED = NamedSharding(MESH, PartitionSpec("d"))


def network_of(activation: Callable, variables: Any = W, x: Any = X) -> Any:
    """Layer ``a``, followed by some activation, then ``b``, which makes the logits."""

    def apply(v, x):
        return activation(x @ v["a"]) @ v["b"]

    return ioca.trace_network(apply, variables, x)


def values_of(network: Any, variables: Any = W, x: Any = X) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in network.outputs(variables, x)[1].items()}


def shard(h):
    return jax.lax.with_sharding_constraint(h, SHARDED)


def relu_by_while(h):
    """A loop of three rounds, of which the first does the work."""

    def body(state):
        count, h = state
        return count + 1, jnp.where(h > 0, h, 0)

    return jax.lax.while_loop(lambda state: state[0] < 3, body, (0, h))[1]


def cube_by_scan(h):
    return jax.lax.scan(lambda c, _: (c * h, None), jnp.ones_like(h), None, 3)[0]


# What is computed from the product, and the same in NumPy.
FOLLOWED = {
    "sharding": (lambda h: jax.nn.relu(shard(h)), lambda h: np.maximum(h, 0)),
    "barrier": (
        lambda h: jax.nn.relu(jax.lax.optimization_barrier((h, jnp.ones(2)))[0]),
        lambda h: np.maximum(h, 0),
    ),
    "device_put": (
        lambda h: jax.nn.relu(jax.device_put(h, jax.devices()[0])),
        lambda h: np.maximum(h, 0),
    ),
    "select": (
        lambda h: jnp.select([h > 0.5, h < -0.5], [h, h * 2], 0.25),
        lambda h: np.select([h > 0.5, h < -0.5], [h, h * 2], 0.25),
    ),
    "piecewise": (
        lambda h: jnp.piecewise(h, [h > 0.5, h < -0.5], [jnp.sin, jnp.cos, 0.25]),
        lambda h: np.piecewise(h, [h > 0.5, h < -0.5], [np.sin, np.cos, 0.25]),
    ),
    "switch": (
        jax.vmap(
            jax.vmap(
                lambda a: jax.lax.switch((a > 0).astype(int), [jnp.sin, jnp.cos], a)
            )
        ),
        lambda h: np.where(h > 0, np.cos(h), np.sin(h)),
    ),
    "interp": (
        lambda h: jnp.interp(h, KNOTS, HEIGHTS),
        lambda h: np.interp(h, KNOTS, HEIGHTS),
    ),
    "polyval": (
        lambda h: jnp.polyval(HEIGHTS, h),
        lambda h: np.polyval(HEIGHTS, h),
    ),
    "map": (lambda h: jax.lax.map(jnp.tanh, h), np.tanh),
    "map in batches": (lambda h: jax.lax.map(jnp.tanh, h.T, batch_size=2).T, np.tanh),
    "digamma": (jax.scipy.special.digamma, scipy.special.digamma),
    "gammaln": (jax.scipy.special.gammaln, scipy.special.gammaln),
    "i1e": (jax.scipy.special.i1e, scipy.special.i1e),
    "while": (relu_by_while, lambda h: np.maximum(h, 0)),
    "scan": (cube_by_scan, lambda h: h**3),
    "cond": (
        lambda h: jax.lax.cond(jnp.sum(KNOTS) > 0, jnp.sin, jnp.cos, h),
        lambda h: np.sin(h) if KNOTS.sum() > 0 else np.cos(h),
    ),
    "remat of a vmap": (
        jax.checkpoint(jax.vmap(lambda h: jax.nn.relu(shard(h[None])[0]))),
        lambda h: np.maximum(h, 0),
    ),
    "a table": (
        lambda h: jnp.asarray(HEIGHTS)[jnp.clip(jnp.round(h), 0, 3).astype(int)],
        lambda h: HEIGHTS[np.clip(np.round(h), 0, 3).astype(int)],
    ),
    "a basis": (
        lambda h: jnp.exp(-((h[:, :, None] - KNOTS) ** 2)).sum(axis=2),
        lambda h: np.exp(-((h[:, :, None] - KNOTS) ** 2)).sum(axis=2),
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_a_layer_is_followed_through_what_treats_each_number_by_itself(case: str):
    activation, expected = FOLLOWED[case]
    network = network_of(activation)
    assert [layer.name for layer in network.layers] == ["a"]
    assert network.unreachable == ("b: makes the logits",)
    found = values_of(network)["a"]
    assert np.allclose(found, expected(PRODUCT), atol=1e-5, equal_nan=True)


ENDED = {
    "cumsum": lambda h: jnp.cumsum(h, axis=1),
    "cumlogsumexp": lambda h: jax.lax.cumlogsumexp(h, axis=1),
    "sort": lambda h: jnp.sort(h, axis=1),
    "rev": lambda h: h[:, ::-1],
    "softmax": jax.nn.softmax,
    "scan over neurons": lambda h: (
        jax.lax.scan(lambda c, a: (c + a, c + a), jnp.zeros(len(h)), h.T)[1].T
    ),
    "neighbours": lambda h: h + jnp.roll(h, 1, axis=1),
    "maximum in a loop": lambda h: jax.lax.scan(
        lambda c, _: (c - c.max(axis=1, keepdims=True), None), h, None, 2
    )[0],
    "sum of a table": lambda h: h * (h[:, :, None] * h[:, None]).sum(axis=2),
}


@pytest.mark.parametrize("case", ENDED)
def test_a_layer_ends_where_its_neurons_meet(case: str):
    found = values_of(network_of(ENDED[case]))["a"]
    assert np.allclose(found, PRODUCT, atol=1e-6)


def test_steps_that_are_looked_into_are_not_listed_where_neurons_meet():
    """A softmax has a derivative of its own, whose equations are read."""
    network = network_of(jax.nn.softmax)
    assert network.unreachable == ("b: makes the logits",)


def callback(h):
    return jax.pure_callback(lambda h: np.maximum(h, 0), h, h)


def newton(h):
    """A loop for each number: how long all run depends on all of them."""
    step = lambda y: y - (y**3 - jnp.abs(h) - 1) / (3 * y**2)  # noqa: E731
    return jax.lax.while_loop(
        lambda y: (jnp.abs(step(y) - y) > 1e-3).any(), step, h * 0 + 2
    )


@pytest.mark.parametrize(
    ("activation", "step"), [(callback, "pure_callback"), (newton, "while")]
)
def test_what_cannot_be_followed_is_listed(activation: Callable, step: str):
    network = network_of(activation)
    line = f"a: taken before a {step}, which cannot be followed"
    assert line in network.unreachable
    assert line in str(network)
    assert np.allclose(values_of(network)["a"], PRODUCT, atol=1e-6)


def test_a_product_that_contracts_nothing_is_a_scale():
    """Layer ``a`` alone is left, and is taken after the scale, as with ``*``."""
    scale = np.array([0.5, -1, 2, 3], np.float32)
    variables = W | {"g": scale}

    def apply(v, x):
        return jnp.einsum("nd,d->nd", jax.nn.relu(x @ v["a"]), v["g"]) @ v["b"]

    network = ioca.trace_network(apply, variables, X)
    assert [layer.name for layer in network.layers] == ["a"]
    assert network.unreachable == ("b: makes the logits",)
    hidden = np.maximum(PRODUCT, 0) * scale
    assert np.allclose(values_of(network, variables)["a"], hidden, atol=1e-6)
    clamp = np.arange(4, dtype=np.float32)
    keep = np.array([True, False, True, False])
    logits, _ = network.apply(variables, X, ioca.Ablation(keep, clamp))
    expected = np.where(keep, hidden, clamp) @ W["b"]
    assert np.allclose(logits, expected, atol=1e-5)


def test_a_convolution_of_single_pixels_by_channel_is_a_scale():
    variables = W | {"g": RNG.normal(size=(4, 1, 1)).astype(np.float32)}

    def apply(v, x):
        h = jax.nn.relu(x @ v["a"])[..., None]
        numbers = ("NCW", "OIW", "NCW")
        h = jax.lax.conv_general_dilated(
            h, v["g"], (1,), "VALID", dimension_numbers=numbers, feature_group_count=4
        )
        return h[..., 0] @ v["b"]

    network = ioca.trace_network(apply, variables, X)
    assert [layer.name for layer in network.layers] == ["a"]
    expected = np.maximum(PRODUCT, 0) * variables["g"][:, 0, 0]
    assert np.allclose(values_of(network, variables)["a"], expected, atol=1e-6)


def test_an_outer_product_is_a_layer_of_one_input():
    variables = {"a": W["a"][0], "b": W["b"]}

    def apply(v, x):
        return jax.nn.relu(jnp.einsum("n,h->nh", x, v["a"])) @ v["b"]

    network = ioca.trace_network(apply, variables, X[:, 0])
    assert [layer.name for layer in network.layers] == ["a"]
    expected = np.maximum(np.outer(X[:, 0], variables["a"]), 0)
    assert np.allclose(values_of(network, variables, X[:, 0])["a"], expected, atol=1e-6)


def counted_while(v, x):
    """As a solver does: a counter is carried beside what depends on x."""
    state = (0, jax.nn.relu(x @ v["a"]))
    step = lambda c: (c[0] + 1, jnp.tanh(c[1]))  # noqa: E731
    count, h = jax.lax.while_loop(lambda c: c[0] < 3, step, state)
    return h @ v["b"] / count


def counted_scan(v, x):
    def step(carry, _):
        return (carry[0] + 1, jnp.tanh(carry[1])), carry[0]

    (_, h), counts = jax.lax.scan(step, (0, jax.nn.relu(x @ v["a"])), None, 3)
    return h @ v["b"] / (counts[-1] + 1)


def counted_cond(v, x):
    h = jax.nn.relu(x @ v["a"])
    branch = lambda c: (c[0] + 3, jnp.tanh(jnp.tanh(jnp.tanh(c[1]))))  # noqa: E731
    count, h = jax.lax.cond(v["b"].sum() < 1e9, branch, lambda c: c, (0, h))
    return h @ v["b"] / count


@pytest.mark.parametrize("apply", [counted_while, counted_scan, counted_cond])
def test_a_counter_that_a_loop_carries_does_not_depend_on_the_examples(apply: Callable):
    network = ioca.trace_network(apply, W, X)
    hidden = np.tanh(np.tanh(np.tanh(np.maximum(PRODUCT, 0))))
    assert np.allclose(values_of(network)["a"], hidden, atol=1e-6)
    assert np.allclose(network.apply(W, X)[0], hidden @ W["b"] / 3, atol=1e-6)


def test_what_a_loop_hands_from_output_to_output_is_found_by_a_fixed_point():
    """The last of four values depends on x after three rounds, not after two."""

    def apply(v, x):
        start = (jnp.tanh(x @ v["a"]), *(jnp.ones((len(x), 4)) for _ in range(3)))
        shift = lambda _, c: (c[0], *c[:3])  # noqa: E731
        return (
            jax.lax.while_loop(
                lambda c: c[0] < 3, lambda c: (c[0] + 1, shift(0, c[1])), (0, start)
            )[1][3]
            @ v["b"]
        )

    network = ioca.trace_network(apply, W, X)
    assert np.allclose(network.apply(W, X)[0], np.tanh(PRODUCT) @ W["b"], atol=1e-6)


# What turns a complex value into a real one, and the same in NumPy.
REAL = {
    "real": (lambda p: jax.nn.relu(p.real), lambda p: np.maximum(p.real, 0)),
    "imag": (lambda p: jnp.tanh(p.conj().imag), lambda p: np.tanh(-p.imag)),
    "abs": (jnp.abs, np.abs),
    "product": (lambda p: p.real * p.imag, lambda p: p.real * p.imag),
}


@pytest.mark.parametrize("case", REAL)
def test_a_complex_product_is_followed_to_a_real_value(case: str):
    real, expected = REAL[case]
    variables = W | {"a": W["a"] * np.array([1, 1j, 1 - 2j, -1], np.complex64)}
    network = network_of(real, variables)
    hidden = expected(X @ variables["a"])
    assert np.allclose(values_of(network, variables)["a"], hidden, atol=1e-5)
    keep, clamp = np.arange(4) > 1, np.full(4, 0.25, np.float32)
    logits, _ = network.apply(variables, X, ioca.Ablation(keep, clamp))
    expected_logits = np.where(keep, hidden, clamp) @ W["b"]
    assert np.allclose(logits, expected_logits, atol=1e-5)


def test_a_linear_recurrent_unit_has_a_real_layer_and_a_complex_one():
    """The state is complex and mixes positions; what is read from it is real."""
    sequences = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    variables = {
        "decay": np.array([0.9, 0.5 + 0.5j], np.complex64),
        "B": (W["a"][:, :2] + 1j * W["a"][:, 2:]).astype(np.complex64),
        "C": (W["b"][:2] - 1j * W["b"][2:]).astype(np.complex64),
        "out": W["b"][:3],
    }

    def states(v, x):
        step = lambda one, two: (one[0] * two[0], two[0] * one[1] + two[1])  # noqa: E731
        inputs = x @ v["B"]
        decay = jnp.broadcast_to(v["decay"], inputs.shape)
        return jax.lax.associative_scan(step, (decay, inputs), axis=1)[1]

    def apply(v, x):
        return jax.nn.relu((states(v, x) @ v["C"]).real).mean(axis=1) @ v["out"]

    network = ioca.trace_network(apply, variables, sequences)
    assert [layer.name for layer in network.layers] == ["C"]
    assert network.unreachable == (
        "B: complex, and clamps are real; name a real value that is computed from it "
        "(checkpoint_name), or choose the next layer's NAME:input",
        "out: makes the logits",
        "decay: combined number by number with values of no single layer, no product",
    )
    state, found = 0, values_of(network, variables, sequences)["C"]
    for time in range(4):
        state = state * variables["decay"] + sequences[:, time] @ variables["B"]
        expected = np.maximum((state @ variables["C"]).real, 0)
        assert np.allclose(found[:, time], expected, atol=1e-5)


@jax.tree_util.register_pytree_with_keys_class
class Wrapped:
    """An array as libraries wrap it, under some key."""

    def __init__(self, array: Any, key: Any):
        self.array, self.key = array, key

    def tree_flatten_with_keys(self):
        return [(self.key, self.array)], self.key

    @classmethod
    def tree_unflatten(cls, key, children):
        return cls(children[0], key)


GET = jax.tree_util.GetAttrKey
WRAPPED = {
    "NNX": lambda w: Wrapped(w, GET("value")),
    "Penzai": lambda w: Wrapped(Wrapped(w, GET("data_array")), GET("value")),
    "Haliax": lambda w: Wrapped(w, GET("array")),
    "without keys": lambda w: Wrapped(w, jax.tree_util.FlattenedIndexKey(0)),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_keys_of_wrappers_are_no_part_of_names(case: str):
    variables = {
        name: {"kernel": WRAPPED[case](w), "bias": WRAPPED[case](w[0])}
        for name, w in W.items()
    }

    def apply(v, x):
        plain = jax.tree.map(lambda leaf: leaf, jax.tree.leaves(v))
        return jax.nn.relu(x @ plain[1] + plain[0]) @ plain[3] + plain[2]

    network = ioca.trace_network(apply, variables, X)
    assert [layer.name for layer in network.layers] == ["a"]
    assert network.unreachable == ("b: makes the logits",)


def test_a_key_that_tells_weights_apart_stays_in_the_name():
    """``value`` of attention is no wrapper: ``query`` lies beside it."""

    class Pair(Wrapped):
        def tree_flatten_with_keys(self):
            return [(GET("value"), self.array), (GET("query"), self.key)], None

        @classmethod
        def tree_unflatten(cls, key, children):
            return cls(*children)

    jax.tree_util.register_pytree_with_keys_class(Pair)
    variables = {"heads": Pair(W["a"], W["a"] + 1), "b": W["b"]}

    def apply(v, x):
        pair = jax.tree.leaves(v["heads"])
        return jax.nn.relu((x @ pair[0]) * jnp.tanh(x @ pair[1])) @ v["b"]

    network = ioca.trace_network(apply, variables, X)
    assert [layer.name for layer in network.layers] == ["heads/value", "heads/query"]


def test_a_name_is_found_whatever_its_primitive_is_called():
    mark = jax.extend.core.Primitive("checkpoint_name_of_another_version")
    mark.def_impl(lambda h, name: h)
    mark.def_abstract_eval(lambda h, name: h)
    mlir.register_lowering(mark, lambda context, h, name: [h])
    apply = lambda v, x: mark.bind(x + x @ v["a"] @ v["a"].T, name="h") @ v["out"]  # noqa: E731
    variables = {"a": W["a"], "out": RNG.normal(size=(5, 3)).astype(np.float32)}
    network = ioca.trace_network(apply, variables, X, layers=["h"])
    expected = X + X @ W["a"] @ W["a"].T
    assert np.allclose(values_of(network, variables)["h"], expected, atol=1e-5)


def turned_axes(given: rules.Given, inputs: rules.Inputs) -> Any:
    """Of [N, T, H] to [N, H, T]."""
    return inputs[0] and tuple(inputs[0][axis] for axis in (0, 2, 1))


def test_a_rule_of_the_user_makes_a_primitive_followed(monkeypatch: pytest.MonkeyPatch):
    """A layer's activation stands after a primitive that exchanges two axes."""
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    turn = jax.extend.core.Primitive("turn")
    turn.def_impl(lambda h: jnp.swapaxes(h, 1, 2))
    turn.def_abstract_eval(
        lambda h: h.update(shape=tuple(h.shape[i] for i in (0, 2, 1)))
    )
    lower = mlir.lower_fun(lambda h: jnp.swapaxes(h, 1, 2), multiple_results=False)
    mlir.register_lowering(turn, lower)
    x = RNG.normal(size=(6, 2, 5)).astype(np.float32)
    apply = lambda v, x: jax.nn.relu(turn.bind(x @ v["a"])).sum(2) @ v["b"]  # noqa: E731
    products = x @ W["a"]
    before = ioca.trace_network(apply, W, x)
    assert np.allclose(values_of(before, x=x)["a"], products, atol=1e-5)

    exchanged = rules.Rule(
        axes=turned_axes, is_affine_in=lambda positions: True, has_same_numbers=True
    )
    rules.register(exchanged, "turn")
    network = ioca.trace_network(apply, W, x)
    relus = np.maximum(products, 0)
    assert np.allclose(values_of(network, x=x)["a"], relus, atol=1e-5)
    keep, relus[:, :, 1] = np.arange(4) != 1, -0.5
    logits, _ = network.apply(W, x, ioca.Ablation(keep, -0.5))
    assert np.allclose(logits, relus.sum(1) @ W["b"], atol=1e-5)


def test_a_loop_over_weights_that_its_counter_indexes_is_unrolled():
    """Layers are named, and ablated, as those of a scan over the same weights."""
    square = RNG.normal(size=(3, 5, 5)).astype(np.float32) / 2
    shift = RNG.normal(size=(3, 5)).astype(np.float32)
    variables = {"blocks": {"w": square, "bias": shift}, "out": W["a"]}

    def looped(v, x):
        def step(i, h):
            return jnp.tanh(h @ v["blocks"]["w"][i] + v["blocks"]["bias"][i])

        return jax.lax.fori_loop(0, 3, step, x) @ v["out"]

    network = ioca.trace_network(looped, variables, X)
    names = [layer.name for layer in network.layers]
    assert names == ["blocks/0", "blocks/1", "blocks/2"]
    keep = np.arange(15) != 7  # the third neuron of the second layer
    logits, _ = network.apply(variables, X, ioca.Ablation(keep, np.full(15, 0.5)))
    h = X
    for index in range(3):
        h = np.tanh(h @ square[index] + shift[index])
        h[:, 2] = 0.5 if index == 1 else h[:, 2]
    assert np.allclose(logits, h @ W["a"], atol=1e-5)


def test_layers_inside_a_shard_map_over_one_device_are_found():
    def inside(v, x):
        h = jax.nn.relu(x @ v["a"]) * (1 + jax.lax.axis_index("d"))
        return jax.lax.psum(jax.nn.gelu(h) @ v["b"], "d") / jax.lax.psum(1, "d")

    spec = PartitionSpec()
    apply = jax.shard_map(inside, mesh=MESH, in_specs=(spec, spec), out_specs=spec)
    network = ioca.trace_network(apply, W, X)
    assert [layer.name for layer in network.layers] == ["a"]
    expected = np.asarray(jax.nn.gelu(np.maximum(PRODUCT, 0)))
    assert np.allclose(values_of(network)["a"], expected, atol=1e-6)
    assert np.allclose(network.apply(W, X)[0], expected @ W["b"], atol=1e-5)
