"""Every variable that the logits depend on is in a layer or listed with a reason."""

from typing import Any

import frameworks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cuts import perturbed
from flax import linen
from jax.ad_checkpoint import checkpoint_name

import ioca_jax as ioca

RNG = np.random.default_rng(0)
X = np.asarray(RNG.normal(size=(6, 5)), np.float32)
TOKENS = RNG.integers(9, size=(6, 4)).astype(np.int32)


def weights(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[-2:][0]), jnp.float32)


A, UP, OUT = weights(5, 6), weights(3, 6, 7), weights(7, 3)
HELD = weights(2, 3)
CHOSEN = (
    "weights chosen for each example, so that a neuron is another unit for another "
    "example; name the result by checkpoint_name to take it"
)
ALONE = "combined number by number with values of no single layer, no product"
LOGITS = "out: makes the logits"


def expert_of(h):
    return jnp.argmax(h[:, :3], axis=1)


def gathered(v, x):
    h = jax.nn.relu(x @ v["a"])
    chosen, shift = (v[name][expert_of(h)] for name in ("up", "shift"))
    z = checkpoint_name(jnp.einsum("nd,ndf->nf", h, chosen) + shift, "experts")
    return jax.nn.relu(z) @ v["out"]


def scaled(v, x):
    """The numbers of a product that contracts nothing are no weights."""
    h = jax.nn.relu(x @ v["a"]).reshape(-1, 2, 3)
    h = jnp.einsum("nij,ij->nij", h, HELD)
    return h.reshape(-1, 6) @ v["out"]


def ragged(v, x):
    h = jax.nn.relu(x @ v["a"])
    order = jnp.argsort(expert_of(h))
    sizes = jnp.bincount(expert_of(h), length=3)
    z = jax.lax.ragged_dot(h[order], v["up"], sizes)
    return jax.nn.relu(jnp.zeros_like(z).at[order].set(z)) @ v["out"]


def exported(v, x):
    symbols = jax.export.symbolic_shape("n, d, f")
    n, d, f = symbols
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((d, f), (n, d))]
    inner = jax.export.export(jax.jit(lambda w, x: jax.nn.relu(x @ w)))(*shapes)
    return inner.call(v["up"][0], jax.nn.relu(x @ v["a"])) @ v["out"]


def called_back(v, x):
    h = jax.nn.relu(x @ v["a"])
    shape = jax.ShapeDtypeStruct((len(x), 7), jnp.float32)
    double = jax.pure_callback(lambda h: 2 * h, jax.typeof(h), h)
    return jax.pure_callback(np.matmul, shape, double, v["up"][0]) @ v["out"]


def embedded(v, x):
    h = v["token"][x] + v["place"]
    h = jnp.concatenate([jnp.broadcast_to(v["first"], (len(x), 1, 5)), h], axis=1)
    h = (h - h.mean(-1, keepdims=True)) * v["scale"] + v["offset"]
    z = jax.nn.relu(h @ v["a"] + v["bias"]).mean(axis=1)
    near = -((z[:, None] - v["points"]) ** 2).sum(-1)
    return near @ v["out"]["kernel"] * jnp.exp(v["out"]["temperature"])


SMALL: dict[str, Any] = {
    "gathered": (
        gathered,
        {"a": A, "up": UP, "shift": weights(3, 7), "out": OUT},
        X,
        [LOGITS, f"up: {CHOSEN}", "shift: looked up by index, not multiplied"],
    ),
    "ragged": (
        ragged,
        {"a": A, "up": UP, "out": OUT},
        X,
        [
            LOGITS,
            "up: multiplied by groups of rows (ragged_dot), not reached; what works: "
            "einsum over all experts, weighed",
        ],
    ),
    "exported": (
        exported,
        {"a": A, "up": UP, "out": OUT},
        X,
        [LOGITS, "up: inside a call_exported, not reached"],
    ),
    "scale": (
        scaled,
        {"a": A, "out": weights(6, 3)},
        X,
        [LOGITS],
    ),
    "callback": (
        called_back,
        {"a": A, "up": UP, "out": OUT},
        X,
        [
            "a: taken before a pure_callback, which cannot be followed",
            LOGITS,
            "no weights: inside a pure_callback, not reached",
            "up: inside a pure_callback, not reached",
        ],
    ),
    "embedded": (
        embedded,
        {
            "token": weights(9, 5),
            "place": weights(4, 5),
            "first": weights(1, 5),
            "scale": weights(5, 5)[0],
            "offset": weights(5, 5)[0],
            "a": A,
            "bias": weights(6, 6)[0],
            "points": weights(7, 6),
            "out": {"kernel": OUT, "temperature": jnp.float32(0.1)},
        },
        TOKENS,
        [
            LOGITS,
            "token: looked up by index, not multiplied",
            f"place: {ALONE}",
            "first: enters by concatenate, not as the weights of a product",
            f"scale: {ALONE}",
            f"offset: {ALONE}",
            f"points: {ALONE}",
        ],
    ),
}


def unaccounted(network: Any, variables: Any, x: Any) -> list[str]:
    """Variables that are not listed and change logits though all layers are clamped."""
    listed = {note.partition(": ")[0] for note in network.unreachable}
    size = network.num_neurons
    clamped = ioca.Ablation(np.zeros(size, bool), np.zeros(size, np.float32))
    run = jax.jit(lambda variables: network.apply(variables, x, clamped)[0])
    expected, wrong = run(variables), []
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shown = name.removeprefix("params/").removesuffix("/value")
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        if {shown, shown.rpartition("/")[0]} & listed or not is_float:
            continue
        if not np.allclose(run(perturbed(variables, name)), expected, atol=1e-6):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("case", SMALL)
def test_what_is_in_no_layer_is_listed(case: str):
    apply, variables, x, notes = SMALL[case]
    network = ioca.trace_network(apply, variables, x)
    assert network.unreachable == tuple(notes)
    assert unaccounted(network, variables, x) == []
    expected = jax.jit(apply)(variables, x)
    for note in notes[1:]:
        name = note.partition(": ")[0]
        if name in variables:
            found = apply(perturbed(variables, name), x)
            assert not np.allclose(found, expected, atol=1e-3), name


@pytest.mark.parametrize("case", frameworks.CASES)
def test_nothing_is_missing_in_networks_of_five_libraries(case: str):
    made = frameworks.CASES[case]()
    network = ioca.trace_network(made.apply, made.variables, made.x)
    assert unaccounted(network, made.variables, made.x) == []


def test_chosen_weights_are_ablated_by_their_name():
    apply, variables, x, _ = SMALL["gathered"]
    network = ioca.trace_network(apply, variables, x, ["experts"])
    h = np.maximum(x @ np.asarray(A), 0)
    one_by_one = [
        row @ np.asarray(UP[e]) + np.asarray(variables["shift"][e])
        for row, e in zip(h, np.argmax(h[:, :3], axis=1), strict=True)
    ]
    z = np.stack(one_by_one)
    assert np.allclose(network.apply(variables, x)[1], z, atol=1e-5)
    keep = np.arange(7) < 4
    ablation = ioca.Ablation(keep, np.full(7, 0.5, np.float32))
    expected = np.maximum(np.where(keep, z, 0.5), 0) @ np.asarray(OUT)
    assert np.allclose(network.apply(variables, x, ablation)[0], expected, atol=1e-5)


def test_many_variables_of_one_reason_are_one_line():
    class Normed(linen.Module):
        @linen.compact
        def __call__(self, x):
            for index in range(6):
                y = linen.relu(linen.Dense(5, name=f"up_{index}")(x))
                x = linen.LayerNorm(name=f"norm_{index}")(x + y)
            return linen.Dense(3, name="logits")(x)

    variables = Normed().init(jax.random.key(0), X)
    network = ioca.trace_network(Normed().apply, variables, X)
    assert len(network.unreachable) == 1 + 12
    assert str(network).splitlines()[-2:] == [
        "  logits: makes the logits",
        f"  norm_0/scale, norm_0/bias and 10 more: {ALONE}",
    ]


UNASSIGNED = (
    "rows cannot be assigned to examples; write apply for one example and jax.vmap it"
)


def dispatch(capacity: int | None, v: Any, x: Any) -> jax.Array:
    """Examples are put in their expert's rows, in the order in which they come."""
    h = jax.nn.relu(x @ v["a"])
    expert = expert_of(h)
    chosen = jax.nn.one_hot(expert, 3, dtype=jnp.int32)
    place = (jnp.cumsum(chosen, axis=0) * chosen).sum(axis=1) - 1
    rows = jnp.zeros((3, capacity or len(x), 6)).at[expert, place].add(h)
    z = jax.nn.relu(jnp.einsum("ecd,edf->ecf", rows, v["up"]))
    return jax.nn.relu(z[expert, place] @ v["b"]) @ v["out"]


DISPATCHED = {"a": A, "up": UP, "b": weights(7, 7), "out": OUT}


@pytest.mark.parametrize("capacity", [None, 8])
def test_experts_that_rows_are_sent_to_are_listed_and_others_found(capacity):
    apply = lambda v, x: dispatch(capacity, v, x)  # noqa: E731
    network = ioca.trace_network(apply, DISPATCHED, X)
    assert [layer.name for layer in network.layers] == ["a", "b"]
    assert sorted(network.unreachable) == [LOGITS, f"up: {UNASSIGNED}"]
    message = f"layers: 'up' matches none of a, b.*; up: {UNASSIGNED}$"
    with pytest.raises(ValueError, match=message):
        ioca.trace_network(apply, DISPATCHED, X, ["up"])
    h = np.maximum(X @ np.asarray(A), 0)
    experts = np.asarray(UP)[np.argmax(h[:, :3], axis=1)]
    z = np.maximum(np.einsum("nd,ndf->nf", h, experts), 0)
    b = np.maximum(z @ np.asarray(DISPATCHED["b"]), 0)
    found = network.apply(DISPATCHED, X)[1]
    assert np.allclose(found, np.concatenate([h, b], axis=1), atol=1e-5)


def test_the_remedy_for_experts_works():
    def apply(v, x):
        return jax.vmap(lambda one: dispatch(1, v, one[None])[0])(x)

    network = ioca.trace_network(apply, DISPATCHED, X)
    assert [layer.name for layer in network.layers] == ["a", "up", "b"]
    clamped = {"up": jnp.zeros(21, bool)}, {"up": jnp.full(21, 0.5)}
    found = network.apply(DISPATCHED, X, ioca.Ablation(*clamped))[0]
    z = np.full((6, 7), 0.5, np.float32)
    expected = np.maximum(z @ np.asarray(DISPATCHED["b"]), 0) @ np.asarray(OUT)
    assert np.allclose(found, expected, atol=1e-5)
