"""Whether examples are independent, and on which axis of a value they are."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import ioca_jax as ioca

RNG = np.random.default_rng(0)
X = np.asarray(RNG.normal(size=(30, 5)), np.float32)
SEQUENCES = np.asarray(RNG.normal(size=(6, 4, 5)), np.float32)


def weights(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[-2:][0]), jnp.float32)


TWO = {"a": weights(5, 7), "out": weights(7, 3)}
MIXED = (
    "apply: mixes examples: the logits of an example change with the others; switch "
    "batch norm to inference, and make what belongs together, such as the nodes of a "
    "graph, one example (jax.vmap over graphs)"
)
PLACED = (
    "apply: the logits of an example change with its place among the examples; let "
    "apply compute them from the example alone, without its index in the batch"
)


def two_layers(v, x):
    return jax.nn.relu(x @ v["a"]) @ v["out"]


def graph(senders, receivers):
    """Nodes as examples, which edges held as arrays connect."""

    def connected(v, x):
        nodes = jnp.arange(len(x))
        ends = jnp.concatenate([jnp.asarray(receivers, int), nodes])
        starts = jnp.concatenate([jnp.asarray(senders, int), nodes])
        return two_layers(v, jnp.zeros_like(x).at[ends].add(x[starts]))

    return connected


def standardised(v, x):
    return two_layers(v, (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3))


NUMBERS = np.arange(30)
DEPENDENT = {
    "random edges": (graph(RNG.integers(30, size=40), RNG.integers(30, size=40)), X),
    "a ring": (graph(NUMBERS, np.roll(NUMBERS, 1)), X),
    "one edge": (graph([17], [29]), X),
    "edges to later nodes": (graph(NUMBERS[2:15], NUMBERS[15:28]), X),
    "one node": (lambda v, x: two_layers(v, x + x[-1:]), X),
    "batch statistics": (standardised, X),
    "statistics, one example": (standardised, X[:1]),
    "statistics, one example many times": (standardised, np.ones_like(X)),
    "the number of examples": (lambda v, x: two_layers(v, x / len(x)), X),
}
TABLE = weights(50, 5)
PLACES = {
    "a table": (lambda v, x: two_layers(v, x + TABLE[jnp.arange(len(x))]), X),
    "the first alone": (lambda v, x: two_layers(v, x.at[0].add(1)), X),
    "one example": (lambda v, x: two_layers(v, x + jnp.arange(len(x))[:, None]), X[:1]),
    "equal ones": (lambda v, x: two_layers(v, x.at[0].add(1)), np.ones_like(X)),
}


@pytest.mark.parametrize("case", DEPENDENT)
def test_examples_that_change_others_are_refused(case: str):
    apply, x = DEPENDENT[case]
    with pytest.raises(ValueError, match=f"^{re.escape(MIXED)}$"):
        ioca.trace_network(apply, TWO, x)


@pytest.mark.parametrize("case", PLACES)
def test_logits_that_depend_on_an_examples_place_are_refused(case: str):
    apply, x = PLACES[case]
    with pytest.raises(ValueError, match=f"^{re.escape(PLACED)}$"):
        ioca.trace_network(apply, TWO, x)


def test_a_graph_as_one_example_is_a_network():
    """The remedy for nodes as examples."""
    senders, receivers = RNG.integers(4, size=(2, 9))
    nodes = graph(senders, receivers)

    def apply(v, x):  # [N graphs, 4 nodes, 5]
        return jax.vmap(lambda one: nodes(v, one).mean(axis=0))(x)

    network = ioca.trace_network(apply, TWO, SEQUENCES)
    summed = SEQUENCES.copy()
    for start, end in zip(senders, receivers, strict=True):
        summed[:, end] += SEQUENCES[:, start]
    expected = np.maximum(summed @ np.asarray(TWO["a"]), 0)
    assert network.layers == (ioca.Layer("a", 7, "dense", (4,)),)
    assert np.allclose(network.outputs(TWO, SEQUENCES)[1]["a"], expected, atol=1e-5)


def quantized(v, x):
    scaled = x * len(x) / len(x)  # other last digits for another number of examples
    code = jnp.round(jax.nn.relu(scaled @ v["a"]) * 40) / 40
    return jnp.sign(jax.nn.relu(code @ v["b"]) - 0.2) @ v["out"]


def test_rounding_is_not_taken_for_other_examples():
    """The last digit of a bfloat16 is its third, and a code changes with it."""
    dtype = jnp.bfloat16
    variables = {"a": weights(64, 64), "b": weights(64, 64), "out": weights(64, 3)}
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    x = jnp.asarray(RNG.normal(size=(2000, 64)), dtype)
    network = ioca.trace_network(quantized, variables, x)
    assert [layer.name for layer in network.layers] == ["a", "b"]


def test_of_many_examples_some_are_tried(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def apply(v, x):
        seen.append(len(x))
        return two_layers(v, x)

    ioca.trace_network(apply, TWO, np.zeros((60_000, 5), np.float32))
    ioca.trace_network(lambda v, x: apply(v, jnp.tile(x, (1, 10_000))[:, :5]), TWO, X)
    assert seen == [2, 3, 2048, 2, 3, 2**20 // 50_000]


def test_positions_may_be_counted_before_examples_on_one_axis():
    """Rows [T * N], as libraries have them that put time first."""
    variables = TWO | {"b": weights(7, 6), "out": weights(6, 3)}

    def apply(v, x):
        rows = jnp.swapaxes(x, 0, 1).reshape(-1, 5)
        hidden = checkpoint_name(jnp.tanh(rows @ v["a"] + 0.1), "rows")
        hidden = hidden.reshape(x.shape[1], len(x), 7)
        return jnp.sin(hidden @ v["b"]).max(axis=0) @ v["out"]

    network = ioca.trace_network(apply, variables, SEQUENCES)
    assert network.layers == (
        ioca.Layer("a", 7, "dense", (4,)),
        ioca.Layer("b", 6, "dense", (4,)),
    )
    a, b, out = (np.asarray(variables[name]) for name in ("a", "b", "out"))
    one = np.tanh(SEQUENCES @ a + 0.1)
    found = network.outputs(variables, SEQUENCES)[1]
    assert np.allclose(found["a"], one, atol=1e-6)
    assert np.allclose(found["b"], np.sin(one @ b), atol=1e-6)
    keep = np.arange(7) < 3
    clamp = RNG.normal(size=(4, 7)).astype(np.float32)  # one for each position
    ablation = ioca.Ablation({"a": keep}, {"a": clamp})
    logits, _ = network.apply(variables, SEQUENCES, ablation)
    expected = np.sin(np.where(keep, one, clamp) @ b).max(axis=1) @ out
    assert np.allclose(logits, expected, atol=1e-5)


def attention(v, x, batch_first: bool):
    """Attention of two heads of three; rows are merged with time first unless asked."""
    if not batch_first:
        x = jnp.swapaxes(x, 0, 1)
    one, two = x.shape[:2]
    rows = x.reshape(one * two, 5)
    q, k, h = ((rows @ v[name]).reshape(one, two, 2, 3) for name in "qkv")
    first = "nt" if batch_first else "tn"
    score = jnp.einsum(f"{first}hd,{first.replace('t', 's')}hd->nhts", q, k)
    mixed = jnp.einsum(
        f"nhts,{first.replace('t', 's')}hd->{first}hd", jax.nn.softmax(score), h
    )
    y = jnp.tanh(mixed.reshape(one * two, 6) @ v["o"]).reshape(one, two, 6)
    return y.mean(axis=1 if batch_first else 0) @ v["out"]


def test_attention_with_time_first_is_that_with_examples_first():
    variables = {name: weights(5, 6) for name in "qkv"}
    variables |= {"o": weights(6, 6), "out": weights(6, 3)}
    names = ["q", "k", "v", "o:input", "o"]
    one, two = (
        ioca.trace_network(
            lambda v, x, first=first: attention(v, x, first),
            variables,
            SEQUENCES,
            names,
        )
        for first in (True, False)
    )
    assert one.layers == two.layers
    keep = RNG.uniform(size=one.num_neurons) < 0.5
    ablation = ioca.Ablation(keep, np.full(one.num_neurons, 0.3, np.float32))
    for given in (None, ablation):
        expected = one.apply(variables, SEQUENCES, given)
        found = two.apply(variables, SEQUENCES, given)
        assert np.allclose(found[0], expected[0], atol=1e-5)
        assert np.allclose(found[1], expected[1], atol=1e-5)


def test_a_counter_of_a_loop_is_no_other_example():
    def apply(v, x):
        step = lambda c: (c[0] + 1, jnp.tanh(c[1]))  # noqa: E731
        start = 0, jax.nn.relu(x @ v["a"])
        count, h = jax.lax.while_loop(lambda c: c[0] < 3, step, start)
        return h @ v["out"] / count

    network = ioca.trace_network(apply, TWO, X)
    assert network.layers[0].name == "a"
    assert np.allclose(network.apply(TWO, X)[0], apply(TWO, X), atol=1e-6)
