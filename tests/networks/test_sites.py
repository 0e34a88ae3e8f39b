"""What tracing finds in plain functions, what it leaves alone, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.ad_checkpoint import checkpoint_name

import ioca_jax as ioca

RNG = np.random.default_rng(0)


def weights(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[-2:][0]), dtype)


X = np.asarray(RNG.normal(size=(6, 5)), np.float32)
SEQUENCES = np.asarray(RNG.normal(size=(6, 4, 5)), np.float32)
TWO = {"a": weights(5, 7), "b": weights(7, 4), "out": weights(4, 3)}


def two_layers(v, x):
    return jax.nn.relu(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["out"]


def ablate(keep: Any, clamp: Any) -> ioca.Ablation:
    """Flat arrays, or arrays by layer."""
    return ioca.Ablation(keep, clamp)


def names(network: ioca.Network) -> list[str]:
    return [layer.name for layer in network.layers]


def activations_of(network: Any, variables: Any, x: Any) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, network.outputs(variables, x)[1])


@pytest.fixture(scope="module")
def traced_two() -> Any:
    return ioca.trace_network(two_layers, TWO, X)


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "erf_gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "hard_swish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "where": lambda x: jnp.where(x > 0.1, x, -0.5),
    "clip": lambda x: jnp.clip(x, -0.3, 0.3),
}


def test_a_layer_ends_after_its_activation_however_that_is_written():
    variables = {name: weights(5, 2) for name in ACTIVATIONS} | {"out": weights(24, 3)}

    def apply(v, x):
        parts = [f(x @ v[name] + 0.1) for name, f in ACTIVATIONS.items()]
        return jnp.concatenate(parts, axis=1) @ v["out"]

    network = ioca.trace_network(apply, variables, X)
    assert names(network) == list(ACTIVATIONS)
    found = activations_of(network, variables, X)
    for name, function in ACTIVATIONS.items():
        expected = function(X @ variables[name] + 0.1)
        assert np.allclose(found[name], expected, atol=1e-6), name


def test_derivatives_of_activations_stay_as_they_were(traced_two: Any):
    """At zero, ``relu`` has derivative 0, the maximum that it is made of 1/2."""
    zeros = jnp.zeros_like(X)
    gradient = jax.grad(lambda x: traced_two.apply(TWO, x)[0].sum())(zeros)
    assert not gradient.any()


def test_what_several_equations_use_is_cut_before_them():
    """Both what is activated and what is not goes on: the site is above both."""
    variables = {"a": weights(5, 4), "out": weights(4, 3)}

    def apply(v, x):
        before = x @ v["a"] + 1
        return (jax.nn.relu(before) * x[:, :4] + before * x[:, 1:]) @ v["out"]

    network = ioca.trace_network(apply, variables, X)
    found = activations_of(network, variables, X)["a"]
    assert np.allclose(found, X @ variables["a"] + 1, atol=1e-6)
    ablation = ablate(np.zeros(4, bool), np.full(4, 0.5, np.float32))
    logits, _ = network.apply(variables, X, ablation)
    assert np.allclose(
        logits, 0.5 * (X[:, :4] + X[:, 1:]) @ variables["out"], atol=1e-6
    )


@pytest.mark.parametrize(
    "finish",
    [
        lambda h, v: h @ v["out"] + v["bias"],
        lambda h, v: (v["out"].T @ h.T).T,
        lambda h, v: (h[:, None] @ v["out"])[:, 0] * 2,
        lambda h, v: jnp.stack([h @ v["out"], h @ v["out"]], axis=1).mean(axis=1),
        lambda h, v: jax.nn.log_softmax(h @ v["out"]),
    ],
    ids=["bias", "transpose", "scaled", "mean", "log_softmax"],
)
def test_the_layer_that_makes_the_logits_is_none(finish):
    variables = {
        "hidden": weights(5, 3),
        "out": weights(3, 3),
        "bias": weights(1, 3)[0],
    }
    network = ioca.trace_network(
        lambda v, x: finish(jnp.tanh(x @ v["hidden"]), v), variables, X
    )
    assert names(network) == ["hidden"]
    assert "makes the logits" in str(network)


def test_one_jaxpr_called_twice_has_values_of_its_own_each_time():
    variables = {"one": weights(5, 5), "two": weights(5, 5), "out": weights(5, 3)}
    block = jax.jit(lambda w, x: jnp.sin(x @ w))

    def apply(v, x):
        return block(v["two"], block(v["one"], x)) @ v["out"]

    network = ioca.trace_network(apply, variables, X)
    assert names(network) == ["one", "two"]
    assert np.allclose(network.apply(variables, X)[0], apply(variables, X), atol=1e-6)
    first = np.arange(10) < 5
    logits, _ = network.apply(variables, X, ablate(first, np.zeros(10)))
    expected = 0 * block(variables["one"], X) @ variables["out"]
    assert np.allclose(logits, expected, atol=1e-6)


def test_shared_weights_give_numbered_layers():
    variables = {"shared": {"kernel": weights(5, 5)}, "out": weights(5, 3)}

    def apply(v, x):
        for _ in range(3):
            x = jnp.tanh(x @ v["shared"]["kernel"])
        return x @ v["out"]

    network = ioca.trace_network(apply, variables, X)
    assert names(network) == ["shared#0", "shared#1", "shared#2"]


def test_names_keep_the_last_key_where_weights_differ_by_it_alone():
    variables = {"block": {"q": weights(5, 5), "k": weights(5, 5)}, "o": weights(5, 3)}

    def apply(v, x):
        return (x @ v["block"]["q"] * jnp.tanh(x @ v["block"]["k"])) @ v["o"]

    network = ioca.trace_network(apply, variables, X)
    assert names(network) == ["block/q", "block/k"]


def attention(v, x):
    q, k, h = (x @ v[name] for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("ntd,nsd->nts", q, k))
    return jnp.einsum("nts,nsd->ntd", weights, h).mean(axis=1) @ v["out"]


def test_embeddings_and_products_of_data_are_no_layers():
    variables = {name: weights(5, 5) for name in "qkv"}
    variables |= {"table": weights(9, 5), "out": weights(5, 3)}

    def apply(v, tokens):
        return attention(v, v["table"][tokens])

    tokens = RNG.integers(9, size=(6, 4)).astype(np.int32)
    assert names(ioca.trace_network(apply, variables, tokens)) == ["q", "k", "v"]


def test_tokens_may_be_folded_into_the_examples_axis():
    variables = {"a": weights(5, 7), "out": weights(7, 3)}

    def apply(v, x):
        hidden = jnp.tanh(x.reshape(-1, 5) @ v["a"])
        return (hidden @ v["out"]).reshape(*x.shape[:2], 3).mean(axis=1)

    network = ioca.trace_network(apply, variables, SEQUENCES)
    assert network.layers == (ioca.Layer("a", 7, "dense", (4,)),)
    found = activations_of(network, variables, SEQUENCES)["a"]
    assert np.allclose(found, np.tanh(SEQUENCES @ variables["a"]), atol=1e-6)


def test_bfloat16_stays():
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), TWO)
    x = X.astype(jnp.bfloat16)
    network = ioca.trace_network(two_layers, variables, x)
    ablation = ablate(np.arange(11) % 2 == 0, np.full(11, 0.3, np.float32))
    logits, activations = network.apply(variables, x, ablation)
    assert logits.dtype == jnp.bfloat16
    assert activations.dtype == jnp.float32
    _, outputs = network.outputs(variables, x, ablation)
    assert {array.dtype for array in outputs.values()} == {jnp.dtype(jnp.bfloat16)}
    assert not network.is_affine_above(1)


def test_heads_are_the_input_of_an_output_projection():
    """Queries in groups share keys and values; heads are merged by a reshape."""
    variables = {
        "q": weights(5, 8),
        "k": weights(5, 4),
        "v": weights(5, 4),
        "o": weights(8, 6),
        "out": weights(6, 3),
    }

    def apply(v, x):
        q = (x @ v["q"]).reshape(*x.shape[:2], 2, 2, 2)  # 2 groups of 2 heads
        k, h = ((x @ v[name]).reshape(*x.shape[:2], 2, 2) for name in "kv")
        scores = jax.nn.softmax(jnp.einsum("ntgqd,nsgd->ngqts", q, k))
        mixed = jnp.einsum("ngqts,nsgd->ntgqd", scores, h).reshape(*x.shape[:2], 8)
        return jnp.tanh(mixed @ v["o"]).mean(axis=1) @ v["out"]

    network = ioca.trace_network(apply, variables, SEQUENCES, "o:input")
    assert network.layers == (ioca.Layer("o:input", 4, "heads", (4,), (2,)),)
    constant = RNG.normal(size=(4, 2)).astype(np.float32)
    ablation = ablate(np.zeros(4, bool), {"o:input": constant})
    expected = jnp.tanh(constant.reshape(8) @ variables["o"]) @ variables["out"]
    assert np.allclose(
        network.apply(variables, SEQUENCES, ablation)[0], expected, atol=1e-6
    )


def test_heads_do_not_depend_on_the_letters_of_einsum():
    """It lists the axes that it contracts by their letters; these are 3 heads of 4."""
    variables = {"v": weights(5, 12), "o": weights(3, 4, 6), "out": weights(6, 3)}

    def mixed(v, x):
        values = (x @ v["v"]).reshape(*x.shape[:2], 3, 4)

        def step(state, new):
            state = 0.9 * state + new
            return state, state

        return jax.lax.scan(step, 0 * values[:, 0], values.swapaxes(0, 1))[1]

    def by(equation):
        def apply(v, x):
            heads = jnp.einsum(equation, mixed(v, x).swapaxes(0, 1), v["o"])
            return jnp.tanh(heads).mean(axis=1) @ v["out"]

        return ioca.trace_network(apply, variables, SEQUENCES, "o:input").layers

    expected = (ioca.Layer("o:input", 3, "heads", (4,), (4,)),)
    assert by("nthd,hdk->ntk") == by("ntab,abk->ntk") == expected


def test_random_keys_may_be_among_the_variables():
    """As those of a dropout of Flax NNX are; evaluation does not use them."""
    variables = TWO | {"key": jax.random.key(0)}
    network = ioca.trace_network(two_layers, variables, X)
    logits, _ = network.apply(variables, X)
    np.testing.assert_allclose(logits, two_layers(TWO, X), rtol=1e-6)


HEADS_LAST = "ntdh,nsdh->nhts", "nhts,nsdh->ntdh"  # 2 heads of 3


@pytest.mark.parametrize("output", ["merged", "folded", "apart"])
def test_heads_may_be_behind_their_vector(output: str):
    variables = {name: weights(6, 6) for name in "qkvo"} | {"out": weights(6, 3)}

    def apply(v, x):
        q, k, h = ((x @ v[name]).reshape(*x.shape[:2], 3, 2) for name in "qkv")
        share = jax.nn.softmax(jnp.einsum(HEADS_LAST[0], q, k))
        mixed = jnp.einsum(HEADS_LAST[1], share, h)
        if output == "apart":
            mixed = jnp.einsum("ntdh,dho->nto", mixed, v["o"].reshape(3, 2, 6))
        else:
            shape = (-1, 6) if output == "folded" else x.shape
            mixed = (mixed.reshape(shape) @ v["o"]).reshape(x.shape)
        return mixed.mean(axis=1) @ v["out"]

    x = np.asarray(RNG.normal(size=(5, 4, 6)), np.float32)
    network = ioca.trace_network(apply, variables, x, "o:input")
    assert network.layers == (ioca.Layer("o:input", 2, "heads", (4,), (3,)),)
    constant = RNG.normal(size=(2, 3)).astype(np.float32)
    ablation = ablate(np.zeros(2, bool), {"o:input": constant})
    expected = constant.T.reshape(6) @ variables["o"] @ variables["out"]
    found = network.apply(variables, x, ablation)[0]
    assert np.allclose(found, np.broadcast_to(expected, (5, 3)), atol=1e-5)


def test_an_input_is_cut_for_its_layer_alone():
    variables = {"a": weights(5, 4), "b": weights(5, 4), "out": weights(4, 3)}

    def apply(v, x):
        x = jnp.tanh(x)
        return (jnp.tanh(x @ v["a"]) + x @ v["b"]) @ v["out"]

    network = ioca.trace_network(apply, variables, X, ["b:input"])
    ablation = ablate(np.zeros(5, bool), np.zeros(5, np.float32))
    logits, _ = network.apply(variables, X, ablation)
    expected = jnp.tanh(jnp.tanh(X) @ variables["a"]) @ variables["out"]
    assert np.allclose(logits, expected, atol=1e-6)


def named_residual(v, x):
    x = x + jnp.tanh(x @ v["a"])
    x = checkpoint_name(x, "stream")
    return jax.nn.relu(x @ v["b"]) @ v["out"]


RESIDUAL = {"a": weights(5, 5), "b": weights(5, 4), "out": weights(4, 3)}


def test_named_values_are_layers_if_asked_for():
    network = ioca.trace_network(named_residual, RESIDUAL, X, ["b", "stream"])
    assert network.layers == (
        ioca.Layer("stream", 5, "named"),
        ioca.Layer("b", 4, "dense"),
    )
    found = activations_of(network, RESIDUAL, X)["stream"]
    assert np.allclose(found, X + np.tanh(X @ RESIDUAL["a"]), atol=1e-6)


def test_layers_are_chosen_by_names_and_patterns():
    def chosen(layers):
        return names(ioca.trace_network(named_residual, RESIDUAL, X, layers))

    assert chosen(None) == ["a", "b"]
    assert chosen("b") == ["b"]
    assert chosen(["b", "*"]) == ["a", "stream", "b"]
    assert chosen(["*:input"]) == ["a:input", "b:input", "out:input"]
    with pytest.raises(
        ValueError, match=r"layers: 'c' matches none of a, b, a:input, b"
    ):
        chosen(["a", "c"])


def test_two_names_of_one_value_are_refused():
    def apply(v, x):
        return checkpoint_name(jnp.tanh(x @ v["a"]), "same") @ v["out"]

    variables = {"a": weights(5, 4), "out": weights(4, 3)}
    with pytest.raises(ValueError, match="layers: a and same name one value"):
        ioca.trace_network(apply, variables, X, ["a", "same"])


POOLS = {
    "mean": lambda a: a.mean(axis=1),
    "max": lambda a: a.max(axis=1),
    "share_active": lambda a: (a > 0).mean(axis=1),
    "last": lambda a: a[:, -1],
}


@pytest.mark.parametrize("pool", POOLS)
def test_positions_become_one_number(pool: str):
    variables = {"a": weights(5, 7), "out": weights(7, 3)}

    def apply(v, x):
        return (jnp.sin(x @ v["a"])).max(axis=1) @ v["out"]

    network = ioca.trace_network(apply, variables, SEQUENCES, pool=pool)
    _, activations = network.apply(variables, SEQUENCES)
    expected = POOLS[pool](np.sin(SEQUENCES @ np.asarray(variables["a"])))
    assert np.allclose(activations, expected, atol=1e-6)


def test_a_clamp_may_differ_between_positions():
    variables = {"a": weights(5, 7), "out": weights(7, 3)}

    def apply(v, x):
        return jnp.sin(x @ v["a"]).max(axis=1) @ v["out"]

    network = ioca.trace_network(apply, variables, SEQUENCES)
    keep = np.arange(7) % 2 == 0
    clamp = RNG.normal(size=(4, 7)).astype(np.float32)
    logits, _ = network.apply(variables, SEQUENCES, ablate(keep, {"a": clamp}))
    hidden = np.where(keep, np.sin(SEQUENCES @ np.asarray(variables["a"])), clamp)
    assert np.allclose(logits, hidden.max(axis=1) @ variables["out"], atol=1e-5)


def scanned(length: int, reverse: bool = False):
    def apply(v, x):
        def body(x, w):
            x = jnp.tanh(x @ w)
            return x, x.sum(axis=1, keepdims=True)

        x, sums = jax.lax.scan(body, x, v["layers"]["w"], reverse=reverse)
        return (x + sums[0]) @ v["out"]

    return apply, {"layers": {"w": weights(length, 5, 5)}, "out": weights(5, 3)}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_over_stacked_layers_is_unrolled(reverse: bool):
    apply, variables = scanned(3, reverse)
    network = ioca.trace_network(apply, variables, X)
    order = [2, 1, 0] if reverse else [0, 1, 2]
    assert names(network) == [f"layers/{index}" for index in order]
    assert np.allclose(network.apply(variables, X)[0], apply(variables, X), atol=1e-6)
    keep = np.arange(15) < 10
    logits, _ = network.apply(variables, X, ablate(keep, np.full(15, 0.2)))
    sums = 1.0 if reverse else np.tanh(X @ variables["layers"]["w"][0]).sum(axis=1)
    expected = (0.2 + np.zeros((6, 5)) + np.reshape(sums, (-1, 1))) @ variables["out"]
    assert np.allclose(logits, expected, atol=1e-5)


NOT_REACHED = (
    "not reached; what works: products with its inputs before it, a name "
    "(checkpoint_name) after it, NAME:input of the next layer"
)


def test_what_cannot_be_reached_is_told():
    apply, variables = scanned(65)
    variables |= {"cell": weights(5, 5), "loop": weights(5, 5), "top": weights(5, 5)}

    def whole(v, x):
        step = lambda h, x: (jnp.tanh(h @ v["cell"] + x), None)  # noqa: E731
        x, _ = jax.lax.scan(step, x, jnp.stack([x, x, x]))
        x = jax.lax.fori_loop(0, x.shape[1], lambda i, x: jnp.sin(x @ v["loop"]), x)
        return apply(v, jnp.tanh(x @ v["top"]))

    network = ioca.trace_network(whole, variables, X)
    assert str(network) == "\n".join(
        [
            "layer  kind activation shape  neurons",
            "  top dense                5        5",
            "5 neurons, 3 classes; positions pooled by mean",
            "Not among the layers:",
            "  out: makes the logits",
            f"  cell: inside a scan of 3 iterations, {NOT_REACHED}",
            f"  loop: inside a scan of 5 iterations, {NOT_REACHED}",
            "  layers/w: inside a scan of 65 iterations, more than the 64 that are "
            f"unrolled, {NOT_REACHED}",
        ]
    )


def test_masks_of_upper_layers_leave_lower_ones_unbatched(traced_two: Any):
    masks = RNG.uniform(size=(50, 4)) < 0.5

    def one(keep):
        ablation = ablate({"b": keep}, {"b": jnp.zeros(4)})
        return traced_two.apply(TWO, X, ablation)[0]

    jaxpr = jax.make_jaxpr(jax.vmap(one))(masks)
    batched = [
        eqn.outvars[0].aval.shape
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "dot_general"
    ]
    assert sorted(len(shape) for shape in batched) == [2, 2, 3]
    flat = np.concatenate([np.ones((50, 7), bool), masks], axis=1)
    for mask, logits in zip(flat, jax.vmap(one)(masks), strict=True):
        whole, _ = traced_two.apply(TWO, X, ablate(mask, np.zeros(11)))
        assert np.allclose(logits, whole, atol=1e-6)


def test_it_is_a_static_argument_and_compiles_once(compiled: list[str]):
    network = ioca.trace_network(two_layers, TWO, X)

    def run_it(network, keep):
        return network.apply(TWO, X, ablate(keep, jnp.zeros(11)))

    run = jax.jit(run_it, static_argnums=0)
    for count in range(4):
        run(network, np.arange(11) < count)
    assert compiled.count("jit(run_it)") == 1


def test_constants_held_by_the_function_are_used():
    offset = jnp.asarray(RNG.normal(size=(5,)), jnp.float32)
    network = ioca.trace_network(lambda v, x: two_layers(v, x + offset), TWO, X)
    found = jax.jit(network.apply)(TWO, X)[0]
    assert np.allclose(found, two_layers(TWO, X + offset), atol=1e-6)


class InTraining(linen.Module):
    dropout: float = 0.0
    norm: bool = False

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(4)(x)
        if self.norm:
            x = linen.BatchNorm(use_running_average=False)(x)
        return linen.Dense(3)(linen.Dropout(self.dropout, deterministic=False)(x))


def in_training(**fields):
    model = InTraining(**fields)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(rngs, X)

    def apply(variables, x):
        rngs = {"dropout": jax.random.key(2)}
        return model.apply(variables, x, rngs=rngs, mutable=["batch_stats"])[0]

    return apply, variables


MIXED = "mixes examples: the logits of an example change with the others; switch batch"
TRAINING = {
    "dropout": (
        *in_training(dropout=0.5),
        r"draws random numbers \(\w+\); switch dropout and batch norm to inference$",
    ),
    "batch norm": (*in_training(norm=True), MIXED),
    "flip": (
        lambda v, x: two_layers(v, x + jnp.flip(x, axis=0)),
        TWO,
        MIXED,
    ),
    "similarity": (
        lambda v, x: two_layers(v, jax.nn.softmax(x @ x.T) @ x),
        TWO,
        MIXED,
    ),
}


@pytest.mark.parametrize("case", TRAINING)
def test_training_mode_is_refused(case: str):
    apply, variables, message = TRAINING[case]
    with pytest.raises(ValueError, match=f"^apply: {message}"):
        ioca.trace_network(apply, variables, X)


class ResNet18(linen.Module):
    """The ImageNet network; 1 x 1 convolutions where shapes change."""

    @linen.compact
    def __call__(self, x):
        def conv(x, width, size, stride=1):
            x = linen.Conv(width, (size, size), stride, use_bias=False)(x)
            return linen.BatchNorm(use_running_average=True)(x)

        x = linen.relu(conv(x, 64, 7, 2))
        x = linen.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for width in (64, 128, 256, 512):
            for stride in (1 if width == 64 else 2, 1):
                y = conv(linen.relu(conv(x, width, 3, stride)), width, 3)
                if y.shape != x.shape:
                    x = conv(x, width, 1, stride)
                x = linen.relu(x + y)
        return linen.Dense(1000)(x.mean(axis=(1, 2)))


@pytest.mark.slow
def test_a_network_of_the_size_of_resnet18_is_traced():
    model, x = ResNet18(), np.ones((2, 224, 224, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    network = ioca.trace_network(model.apply, variables, x)
    assert len(network.layers) == 20
    assert network.num_neurons == 4800
    logits = jax.jit(network.apply)(variables, x)[0]
    assert np.allclose(logits, jax.jit(model.apply)(variables, x), atol=1e-4)


def no_layers(v, x):
    return x[:, :3] * v["b"].sum()


class Module:
    def __call__(self, x):
        return x


REFUSED = {
    "no function": (TWO, TWO, X, "expected a function apply.variables, x., got a dict"),
    "three arguments": (
        lambda v, x, key: x,
        TWO,
        X,
        "expected a function .* other arguments: missing a required argument: 'key'",
    ),
    "a module of one argument": (
        Module(),
        None,
        X,
        "apply: expected a function apply.variables, x., got a Module, a module that "
        "is called with x alone: split it into a function and its variables, as in "
        "docs/guides/networks.md, Flax NNX$",
    ),
    "swapped": (
        two_layers,
        X,
        TWO,
        r"x\['b'\]: expected 5 examples, as in x\['a'\], got 7",
    ),
    "no examples": (two_layers, TWO, X[:0], r"x: expected examples .* got \[0, 5\]"),
    "fails": (
        two_layers,
        TWO,
        X[:, :4],
        r"apply: failed .* float32 \[2, 4\]: TypeError",
    ),
    "two outputs": (
        lambda v, x: (two_layers(v, x), x),
        TWO,
        X,
        "expected one output, the logits, got a tuple of 2; return the logits alone",
    ),
    "one class of tokens": (
        lambda v, x: x @ v["a"][:, :1],
        TWO,
        SEQUENCES,
        r"\[N, C\], or \[N, T, C\] of T tokens, got float32 \[2, 4, 1\] for N = 2",
    ),
    "a module": (two_layers, TWO | {"f": jnp.tanh}, X, "variables: .* at 'f'"),
    "integers": (
        lambda v, x: two_layers(v, x).argmax(axis=1),
        TWO,
        X,
        r"expected logits \[N, C\], or \[N, T, C\] .*, got int32 \[2\] for N = 2",
    ),
    "probabilities": (
        lambda v, x: jax.nn.softmax(two_layers(v, x)),
        TWO,
        X,
        "expected logits, got probabilities, .* or jnp.log of the probabilities",
    ),
    "one logit": (
        lambda v, x: two_layers(v, x)[:, :1],
        TWO,
        X,
        r"of two classes or more, got one number .* \[2, 1\] .* return jnp.concatenate",
    ),
    "a column": (
        lambda v, x: two_layers(v, x)[:, 0],
        TWO,
        X,
        r"of two classes or more, got one number .* \[2\] .* return jnp.concatenate",
    ),
    "constant": (lambda v, x: v["b"][: len(x)], TWO, X, "logits that depend on x"),
    "no layers": (no_layers, TWO, X, "no hidden layers found; .* got: b: combined nu"),
    "linear": (lambda v, x: x @ v["a"], TWO, X, "got: a: makes the logits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, unchecked_shapes: None):
    apply, variables, x, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        ioca.trace_network(apply, variables, x)
    assert "\n" not in str(caught.value)


def test_an_order_of_contraction_that_depends_on_the_number_of_examples_is_refused():
    variables = {"a": weights(50, 30), "b": weights(30, 50), "out": weights(50, 3)}

    def apply(v, x, optimize: Any = "optimal"):
        inner = jnp.einsum("nd,dr,rh->nh", x, v["a"], v["b"], optimize=optimize)
        return jax.nn.relu(inner) @ v["out"]

    x = np.ones((1000, 50), np.float32)
    message = r"others for 2 than for 1000; .* fixed order \(optimize=\[\(0, 1\), "
    with pytest.raises(ValueError, match=message) as caught:
        ioca.trace_network(apply, variables, x)
    with pytest.raises(ValueError, match=message):
        ioca.trace_network(apply, variables, x[:4]).apply(variables, x)
    assert "\n" not in str(caught.value)
    fixed = lambda v, x: apply(v, x, optimize=[(0, 1), (0, 1)])  # noqa: E731
    network = ioca.trace_network(fixed, variables, x)
    assert network.apply(variables, x)[0].shape == (1000, 3)


def test_tokens_of_another_type_are_refused_with_the_remedy():
    variables = {"table": weights(9, 5), "a": weights(5, 7), "out": weights(7, 3)}

    def apply(v, x):
        return jnp.tanh(v["table"][x].mean(axis=1) @ v["a"]) @ v["out"]

    tokens = np.ones((4, 6), np.int32)
    network = ioca.trace_network(apply, variables, tokens)
    with pytest.raises(ValueError, match=r"got float32 .* x.astype\(jnp.int32\)"):
        network.apply(variables, tokens.astype(np.float32))


def test_an_unknown_pool_is_refused():
    with pytest.raises(
        ValueError, match="pool: expected one of mean, max, share_active"
    ):
        ioca.trace_network(two_layers, TWO, X, pool="sum")


KEEP, CLAMP = np.ones(11, bool), np.zeros(11, np.float32)
MISUSED = {
    "variables": (TWO | {"b": weights(7, 5)}, X, None, r"^variables: expected those of "
                  r"one network, with b float32 \[7, 4\], as traced, got "),
    "more variables": (TWO | {"z": X}, X, None, r"z no such variable, as traced, got "
                       r"float32 \[6, 5\]$"),
    "examples": (TWO, SEQUENCES, None, r"x: expected float32 \[N >= 1, 5\], as traced"),
    "integers": (TWO, X.astype(int), None, r"expected float32 .* got int32 \[6, 5\]$"),
    "mask": (TWO, X, (KEEP[:10], CLAMP), r"keep: expected \[11\], .* got \[10\]"),
    "clamp": (TWO, X, (KEEP, CLAMP[None]), r"clamp: expected \[11\], .* got \[1, 11\]"),
    "floats": (TWO, X, (CLAMP, CLAMP), "keep: expected bool, got float32"),
    "a name": (TWO, X, (KEEP, {"c": CLAMP}), "clamp: no layer 'c'; layers: a, b"),
    "no clamp": (TWO, X, (KEEP, {"a": CLAMP[:7]}), "clamp: lacks b, which"),
    "width": (TWO, X, ({"a": KEEP}, CLAMP), r"keep: expected \[7\] for a, got \[11\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSED)
def test_what_does_not_fit_the_network_is_refused(case: str, traced_two: Any):
    variables, x, ablation, message = MISUSED[case]
    ablation = None if ablation is None else ablate(*ablation)
    with pytest.raises(ValueError, match=message) as caught:
        traced_two.apply(variables, x, ablation)
    assert "\n" not in str(caught.value)
