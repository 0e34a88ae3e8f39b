"""Which products make the logits, and which values a clamp can replace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca

RNG = np.random.default_rng(0)
X = np.asarray(RNG.normal(size=(6, 5)), np.float32)


def weights(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[-2:][0]), jnp.float32)


def hidden(v, x):
    return jax.nn.relu(x @ v["a"])


def layers_of(apply, variables, x=X):
    return [layer.name for layer in ioca.trace_network(apply, variables, x).layers]


OUTPUTS = {
    "zeros beside it": (
        1,
        lambda z: jnp.concatenate([jnp.zeros_like(z), z], axis=1),
    ),
    "both signs": (
        1,
        lambda z: jnp.stack([jax.nn.log_sigmoid(-z[:, 0]), z[:, 0]], axis=1),
    ),
    "sliced": (4, lambda z: z[:, :3]),
    "reshaped": (2, lambda z: (z[:, None].transpose(0, 2, 1) * 2).reshape(-1, 2)[:, :]),
    "mean": (2, lambda z: jnp.stack([z, z + 1], 2).mean(axis=2)),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_product_that_makes_the_logits_is_no_layer(case):
    width, finish = OUTPUTS[case]
    variables = {"a": weights(5, 6), "out": weights(6, width)}
    apply = lambda v, x: finish(hidden(v, x) @ v["out"])  # noqa: E731
    network = ioca.trace_network(apply, variables, X)
    assert [layer.name for layer in network.layers] == ["a"]
    assert network.unreachable == ("out: makes the logits",)
    assert network.is_affine_above(0) == (case != "both signs")


def test_the_logits_of_an_ensemble_are_no_layer():
    variables = {"a": weights(2, 5, 6), "out": weights(2, 6, 3)}

    def apply(v, x):
        return jax.vmap(lambda one: hidden(one, x) @ one["out"])(v).mean(axis=0)

    network = ioca.trace_network(apply, variables, X)
    assert [(one.name, one.num_neurons) for one in network.layers] == [("a", 12)]


HIDDEN = {
    "skip to the logits": lambda v, z: z @ v["out"] + z[:, :3],
    "prototypes": lambda v, z: -((z[:, None] - v["points"]) ** 2).sum(axis=-1),
    "softmax": lambda v, z: jax.nn.softmax(z)[:, :3],
    "attention": lambda v, z: (z[:, None] * z[:, :, None] @ z[:, :, None])[:, :3, 0],
    "mixed": lambda v, z: z[:, :3] + z.sum(axis=1, keepdims=True),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_hidden_layer_before_logits_stays_one(case):
    variables = {"a": weights(5, 6), "out": weights(6, 3), "points": weights(3, 6)}
    assert layers_of(lambda v, x: HIDDEN[case](v, hidden(v, x)), variables) == ["a"]


def test_a_gate_as_wide_as_the_logits_is_no_layer():
    variables = {"a": weights(5, 6), "out": weights(6, 3), "gate": weights(5, 3)}

    def apply(v, x):
        return hidden(v, x) @ v["out"] * jax.nn.sigmoid(x @ v["gate"])

    assert layers_of(apply, variables) == ["a"]


def to_int8(z):
    return jnp.clip(jnp.round(jax.nn.relu(z) / 0.1), 0, 127).astype(jnp.int8)


@pytest.mark.parametrize("codes", [to_int8, lambda z: z > 0], ids=["int8", "bool"])
def test_a_site_is_never_an_integer(codes):
    variables = {"a": weights(5, 6), "b": weights(6, 5), "out": weights(5, 3)}

    def above(v, code):
        z = code.astype(jnp.float32) @ v["b"] + jnp.where(code[:, :5] > 0, 1.0, -1.0)
        return jax.nn.relu(z) @ v["out"]

    apply = lambda v, x: above(v, codes(x @ v["a"]))  # noqa: E731
    network = ioca.trace_network(apply, variables, X)
    _, outputs = network.outputs(variables, X)
    assert {array.dtype for array in outputs.values()} == {jnp.dtype(jnp.float32)}
    ablation = ioca.Ablation(np.arange(11) > 5, np.full(11, 0.7, np.float32))
    logits, activations = network.apply(variables, X, ablation)
    assert np.allclose(activations[:, :6], 0.7)
    held = jnp.ones((6, 6), codes(jnp.asarray(X)).dtype)  # 0.7, rounded
    assert np.allclose(logits, above(variables, held), atol=1e-5)


def test_a_product_of_integers_is_told():
    variables = {
        "a": jnp.ones((5, 6), jnp.int8),
        "b": weights(6, 4),
        "out": weights(4, 3),
    }

    def apply(v, x):
        code = x @ v["a"]
        z = code.astype(jnp.float32)[:, :4] + (code[:, :4] > 0)
        return jax.nn.relu(z @ v["b"][:4]) @ v["out"]

    network = ioca.trace_network(apply, variables, X.astype(np.int8))
    assert [layer.name for layer in network.layers] == ["b"]
    assert "a: of integers, which no clamp replaces" in network.unreachable


def test_weights_that_the_function_holds_are_told():
    held, mask = weights(5, 8), jnp.tril(jnp.ones((8, 8)))
    variables = {"a": weights(8, 6), "out": weights(6, 3)}

    def apply(v, x):
        inner = jax.nn.relu(x @ held.astype(jnp.float32)) * mask.sum()
        return jax.nn.relu(inner @ jnp.eye(8) @ v["a"]) @ v["out"]

    network = ioca.trace_network(apply, variables, X)
    assert network.unreachable == (
        "out: makes the logits",
        "an array 5 x 8: weights that apply holds; pass them in variables",
    )


def norm(z):
    centred = z - z.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1)


def pool(z):
    window = (1, 2, 1)
    return jax.lax.reduce_window(z, -jnp.inf, jax.lax.max, window, window, "VALID")


IMAGES = np.asarray(RNG.normal(size=(6, 4, 5)), np.float32)
PLACES = {  # what follows the product, and the part of it that is the site
    "scale": (lambda z: 2 * jax.nn.relu(z * 3 + 1) - 1,) * 2,
    "residual": (lambda z, x: jnp.tanh(z) + x.sum(-1, keepdims=True), jnp.tanh),
    "norm": (lambda z: jax.nn.relu(norm(z)), lambda z: z),
    "softmax": (jax.nn.softmax, lambda z: z),
    "pool": (lambda z: pool(jax.nn.relu(z)), jax.nn.relu),
    "activation after pool": (lambda z: jax.nn.relu(pool(z)), lambda z: z),
    "comparison": (lambda z: (z > 0).astype(float), lambda z: (z > 0).astype(float)),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_a_layer_is_measured(case):
    after, site = PLACES[case]
    variables = {"a": weights(5, 6), "out": weights(6, 3)}

    def apply(v, x):
        z = x @ v["a"]
        z = after(z, x) if case == "residual" else after(z)
        return z.mean(axis=1) @ v["out"]

    network = ioca.trace_network(apply, variables, IMAGES, "a")
    found = network.outputs(variables, IMAGES)[1]["a"]
    assert np.allclose(found, site(IMAGES @ variables["a"]), atol=1e-5)


def test_both_branches_of_a_gated_layer_are_layers():
    variables = {"up": weights(5, 6), "gate": weights(5, 6), "down": weights(6, 3)}

    def apply(v, x):
        return (jax.nn.silu(x @ v["gate"]) * (x @ v["up"])) @ v["down"]

    assert sorted(layers_of(apply, variables)) == ["gate", "up"]
    network = ioca.trace_network(apply, variables, X, "down:input")
    gate, up = X @ variables["gate"], X @ variables["up"]
    found = network.apply(variables, X)[1]
    assert np.allclose(found, jax.nn.silu(gate) * up, atol=1e-5)
