"""Layers of quantised products and of several products, against masks by hand.

Each network is written once with a hook at the values that its layers should have. The
traced function leaves the values as they are; the copy replaces them by hand.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ioca_jax as ioca

RNG = np.random.default_rng(5)
X = np.asarray(RNG.normal(size=(6, 5)), np.float32)
TOKENS = np.asarray(RNG.normal(size=(6, 4, 5)), np.float32)
IMAGES = np.asarray(RNG.normal(size=(4, 6, 6, 2)), np.float32)
LABELS = RNG.integers(3, size=6)
relu = jax.nn.relu

Hook = Callable[[str, Any], Any]


def weights(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(shape[-2:][0]), jnp.float32)


def integers(*shape: int, dtype: Any = jnp.int8, largest: int = 127) -> jax.Array:
    return jnp.asarray(RNG.integers(-largest, largest + 1, size=shape), dtype)


def leave(name: str, value: Any) -> Any:
    del name
    return value


def check(network: Callable, variables: Any, x: Any, layers: list[str]) -> Any:
    """Holds a traced network to its hooks: activations, and logits of any mask."""
    traced = ioca.trace_network(lambda v, x: network(v, x, leave), variables, x)
    assert [layer.name for layer in traced.layers] == layers
    keep = {layer.name: RNG.random(layer.num_neurons) < 0.5 for layer in traced.layers}
    clamp = {name: RNG.normal(size=len(mask)) for name, mask in keep.items()}
    clamp = {name: value.astype(np.float32) for name, value in clamp.items()}

    @jax.jit
    def both(variables, x):
        seen: dict[str, Any] = {}
        network(variables, x, lambda name, value: seen.setdefault(name, value))
        expected = network(
            variables, x, lambda name, value: jnp.where(keep[name], value, clamp[name])
        )
        found, _ = traced.apply(variables, x, ioca.Ablation(keep, clamp))
        return traced.outputs(variables, x)[1], seen, found, expected

    activations, seen, found, expected = both(variables, x)
    for name, value in activations.items():
        assert np.allclose(value, seen[name], atol=1e-5), name
    assert np.allclose(found, expected, atol=1e-4)
    return traced


def cross_entropy(logits: Any) -> float:
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(LABELS)), LABELS]
    return float((np.log(np.exp(logits).sum(axis=1)) - own).mean())


def check_curve(
    network: Callable, variables: Any, traced: Any, given: Any = None
) -> None:
    """Both evaluations against masks by hand, at every point of an order.

    The copy has the same variables, unless others are given to the traced network.
    """
    order = RNG.permutation(traced.num_neurons)
    clamp = RNG.normal(size=traced.num_neurons).astype(np.float32)
    masks = ioca.cumulative_masks(order, traced.num_neurons)
    places = {
        layer.name: place
        for layer, place in zip(traced.layers, traced.layer_slices, strict=True)
    }

    @jax.jit
    @jax.vmap
    def by_hand(mask):
        def cut(name, value):
            place = places[name]
            return jnp.where(mask[place], value, clamp[place])

        return network(variables, X, cut)

    losses = [cross_entropy(logits) for logits in by_hand(masks)]
    given = variables if given is None else given
    whole = ioca.evaluate_masks(traced, given, masks, clamp, X, LABELS)
    curve = ioca.ablation_curve(traced, given, order, clamp, X, LABELS)
    assert np.allclose(whole.loss, losses, atol=1e-4)
    assert np.allclose(curve.loss, losses, atol=1e-4)
    assert np.array_equal(whole.correct, curve.correct)


# Quantised as the network runs


def accumulate(q: Any, kernel: Any) -> Any:
    return jax.lax.dot_general(
        q,
        kernel,
        (((q.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32 if q.dtype != jnp.int8 else jnp.int32,
    )


def symmetric(x, kernel, t):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    scale = jnp.where(scale < 1e-9, 1, scale)
    q = jnp.round(x / scale).astype(jnp.int8)
    return relu(accumulate(q, kernel).astype(jnp.float32) * scale * t)


def scaled_last(x, kernel, t):
    """The activation function is computed of integers."""
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    q = jnp.clip(jnp.round(x / scale), -127, 127).astype(jnp.int8)
    return relu(accumulate(q, kernel)).astype(jnp.float32) * (scale * t)


def in_eight_bits(x, kernel, t):
    scale = jnp.abs(x).max(-1, keepdims=True) / 448
    q = (x / scale).astype(jnp.float8_e4m3fn)
    kernel = kernel.astype(jnp.float8_e4m3fn)
    return jnp.tanh(accumulate(q, kernel) * t * scale)


def with_zero_point(x):
    low = x.min(-1, keepdims=True)
    scale = (x.max(-1, keepdims=True) - low) / 255
    zero = jnp.round(-low / scale) - 128
    return (jnp.round(x / scale) + zero).astype(jnp.int8), scale, zero.astype(jnp.int8)


def asymmetric(x, kernel, t):
    q, scale, zero = with_zero_point(x)
    sums = kernel.astype(jnp.int32).sum(0)
    return relu((accumulate(q, kernel) - zero * sums).astype(jnp.float32) * scale * t)


def asymmetric_by_a_product(x, kernel, t):
    q, scale, zero = with_zero_point(x)
    whole = accumulate(q, kernel) - accumulate(jnp.broadcast_to(zero, q.shape), kernel)
    return relu(whole.astype(jnp.float32) * scale * t)


def normalised_behind(x, kernel, t):
    """RMS norm of the layer's input, applied to what comes out."""
    scale = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return relu(x @ (kernel.astype(jnp.float32) * t) * scale)


QUANTISED = [
    symmetric,
    scaled_last,
    in_eight_bits,
    asymmetric,
    asymmetric_by_a_product,
    normalised_behind,
]
KERNELS = {
    "a": integers(5, 4),
    "b": integers(4, 4),
    "t": jnp.asarray([0.01, 0.02, 0.015, 0.01], jnp.float32),
    "out": weights(4, 3),
}


def two_quantised(dense: Callable) -> Callable:
    """The scale of the second layer is computed from the outputs of the first."""

    def network(v, x, hook):
        hidden = hook("a", dense(x, v["a"], v["t"]))
        hidden = hook("b", dense(hidden, v["b"], v["t"]))
        hidden = hidden if hidden.ndim == 2 else hidden.mean(axis=1)
        return hidden @ v["out"]

    return network


@pytest.mark.parametrize("dense", QUANTISED, ids=lambda dense: dense.__name__)
def test_the_scale_of_quantised_inputs_belongs_to_the_layer(dense: Callable):
    check(two_quantised(dense), KERNELS, TOKENS, ["a", "b"])


def test_curves_of_quantised_layers_are_those_of_masks_by_hand():
    network = two_quantised(asymmetric)
    traced = check(network, KERNELS, X, ["a", "b"])
    check_curve(network, KERNELS, traced)


GATED = {
    "a": weights(5, 4),
    "w": weights(5, 4),
    "g": weights(5, 1),
    "out": weights(4, 3),
}


def test_one_quantised_neuron_has_its_scale():
    kernels = KERNELS | {"a": integers(5, 1), "b": integers(1, 4)}

    def network(v, x, hook):
        hidden = hook("a", symmetric(x, v["a"], v["t"][0]))
        return hook("b", asymmetric(x[..., :1] + hidden, v["b"], v["t"])) @ v["out"]

    check(network, kernels, X, ["a", "b"])


def gated(v, x, hook):
    hidden = hook("a", relu(x @ v["a"])) * hook("g", jax.nn.sigmoid(x @ v["g"]))
    return hidden @ v["out"]


def gated_before(v, x, hook):
    hidden = hook("a", x @ v["a"]) * hook("g", jax.nn.sigmoid(x @ v["g"]))
    return relu(hidden) @ v["out"]


def normalised(v, x, hook):
    hidden = hook("a", x @ v["a"])
    return relu(hidden / jnp.abs(hidden).max(1, keepdims=True)) @ v["out"]


def masked(v, x, hook):
    """Masks of tokens, as factors and by selection."""
    mask = x[..., :1] > 0
    one = relu(hook("a", (x * mask) @ v["a"]) * mask)
    other = relu(jnp.where(mask, hook("w", x @ v["w"]), 0))
    return (one + other).sum(axis=1) @ v["out"]


def scaled_after(v, x, hook):
    """A factor after the activation function scales what the layer hands on."""
    return (hook("a", relu(x @ v["a"])) / jnp.abs(x).max(1, keepdims=True)) @ v["out"]


def of_one_neuron(v, x, hook):
    """The residual is as wide as the layer, and constant along its one neuron."""
    hidden = jnp.tanh(x[:, :1] + hook("g", x @ v["g"]))
    return hidden @ v["out"][:1]


ENDS = {
    "gate": (gated, X, ["a", "g"]),
    "gate before": (gated_before, X, ["a", "g"]),
    "norm": (normalised, X, ["a"]),
    "mask": (masked, TOKENS, ["a", "w"]),
    "after": (scaled_after, X, ["a"]),
    "one neuron": (of_one_neuron, X, ["g"]),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_is_no_scale_of_the_layer_ends_it(case: str):
    network, x, layers = ENDS[case]
    check(network, GATED, x, layers)


def test_a_scale_that_differs_between_neurons_is_told():
    variables = {"a": integers(5, 5), "b": weights(5, 4), "out": weights(4, 3)}

    def apply(v, x):
        scale = 1 + jnp.abs(x)
        hidden = accumulate(jnp.round(x / scale * 9).astype(jnp.int8), v["a"])
        hidden = relu(hidden.astype(jnp.float32) * scale)
        return relu(hidden @ v["b"]) @ v["out"]

    network = ioca.trace_network(apply, variables, X)
    assert network.unreachable == (
        "a: of quantised numbers, whose scale (mul) differs between both examples and "
        "neurons",
        "out: makes the logits",
    )
    assert [layer.name for layer in network.layers] == ["b"]


# Several products


def lora(v, x, hook):
    hidden = hook(
        "w", relu(x @ v["w"] + 2 * ((x @ v["p"] + v["low"]) @ v["q"]) + v["bias"])
    )
    return hidden @ v["out"] + (hidden @ v["r"]) @ v["s"]


def lora_first(v, x, hook):
    """The adapter comes first, and all weights are used twice."""
    for index in range(2):
        both = (x @ v["p"]) @ v["q"] - x[:, 1:] @ v["v"]
        hidden = hook(f"v#{index}", jnp.tanh(both))
        x = jnp.concatenate([hidden, x[:, :1]], axis=1)
    return x[:, :4] @ v["out"]


def parallel(v, x, hook):
    """On the last axis, so that there may be tokens; a slice is affine as well."""
    sum_of_three = x @ v["w"] + x[..., :4] @ v["v"] + x @ v["p"] @ v["q"]
    hidden = hook("w", jax.nn.silu(sum_of_three))
    return hidden.reshape(len(x), -1, 4).mean(axis=1) @ v["out"]


def quantised_lora(v, x, hook):
    scale = jnp.abs(x).max(1, keepdims=True) / 127
    q = jnp.round(x / scale).astype(jnp.int8)
    hidden = accumulate(q, v["a"]).astype(jnp.float32) * scale * v["t"]
    return hook("a", relu(hidden + (x @ v["p"]) @ v["q"])) @ v["out"]


def quantised_input_of_relu(v, x, hook):
    """The adapter sees another value than what is quantised."""
    hidden = relu(x)
    scale = jnp.abs(hidden).max(1, keepdims=True) / 127
    q = jnp.round(hidden / scale).astype(jnp.int8)
    hidden = accumulate(q, v["a"]).astype(jnp.float32) * scale * v["t"]
    return (
        relu(hook("a", hidden) + hook("q", hook("p", x @ v["p"]) @ v["q"])) @ v["out"]
    )


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def branches(v, x, hook):
    both = convolve(x, v["wide"]) + convolve(x, v["narrow"])
    hidden = hook("wide", relu(both * 0.5 + v["bias"]))
    return hidden.mean(axis=(1, 2)) @ v["out"]


def stacked(v, x, hook):
    """In a scan over layers, each with its adapter; by hand one after another."""

    def step(x, layer):
        return relu(x @ layer["w"] + (x @ layer["p"]) @ layer["q"]), None

    if hook is leave:
        return jax.lax.scan(step, x, v["layers"])[0] @ v["out"]
    for index in range(2):
        layer = {name: leaf[index] for name, leaf in v["layers"].items()}
        x = hook(f"layers/{index}", step(x, layer)[0])
    return x @ v["out"]


ADAPTED = {
    "w": weights(5, 4),
    "v": weights(4, 4),
    "p": weights(5, 2),
    "q": weights(2, 4),
    "low": jnp.ones(2) / 2,
    "bias": jnp.ones(4) / 4,
    "out": weights(4, 3),
    "r": weights(4, 1),
    "s": weights(1, 3),
    "a": KERNELS["a"],
    "t": KERNELS["t"],
}
CONVOLUTIONS = {
    "wide": weights(3, 3, 2, 4),
    "narrow": weights(1, 1, 2, 4),
    "bias": jnp.ones(4) / 4,
    "out": weights(4, 3),
}
STACKED = {
    "layers": {"w": weights(2, 5, 5), "p": weights(2, 5, 2), "q": weights(2, 2, 5)},
    "out": weights(5, 3),
}
SUMS = {
    "lora": (lora, ADAPTED, X, ["w"]),
    "parallel": (parallel, ADAPTED, TOKENS, ["w"]),
    "twice": (lora_first, ADAPTED, X, ["v#0", "v#1"]),
    "quantised": (quantised_lora, ADAPTED, X, ["a"]),
    "relu quantised": (quantised_input_of_relu, ADAPTED, X, ["a", "p", "q"]),
    "convolutions": (branches, CONVOLUTIONS, IMAGES, ["wide"]),
    "scan": (stacked, STACKED, X, ["layers/0", "layers/1"]),
}


@pytest.mark.parametrize("case", SUMS)
def test_products_that_are_summed_are_one_layer(case: str):
    check(*SUMS[case])


def test_curves_of_a_layer_of_several_products_are_those_of_masks_by_hand():
    traced = check(lora, ADAPTED, X, ["w"])
    assert traced.is_affine_above(0)
    check_curve(lora, ADAPTED, traced)


def test_what_is_part_of_a_layer_is_told():
    traced = ioca.trace_network(lambda v, x: lora(v, x, leave), ADAPTED, X)
    assert str(traced) == "\n".join(
        [
            "layer  kind activation shape  neurons",
            "    w dense                4        4",
            "4 neurons, 3 classes; positions pooled by mean",
            "Not among the layers:",
            "  p: inside w, affine from its input to its sum",
            "  q: summed into w, one layer",
            "  out: makes the logits",
            "  r: inside out, affine from its input to its sum",
            "  s: summed into out, one layer",
        ]
    )


def test_the_products_of_a_layer_share_its_input():
    """Ablating the input affects both; the adapter's bottleneck has a name as well."""
    inputs = ["w:input", "q:input", "out:input"]
    traced = ioca.trace_network(lambda v, x: lora(v, x, leave), ADAPTED, X, inputs)
    widths = {"w:input": 5, "q:input": 2, "out:input": 4}
    assert {layer.name: layer.num_neurons for layer in traced.layers} == widths
    keep = {name: np.arange(width) > 0 for name, width in widths.items()}
    clamp = {name: np.full(width, 0.5) for name, width in widths.items()}

    def cut(name, value):
        return jnp.where(keep[name], value, clamp[name])

    x = cut("w:input", X)
    low = cut("q:input", x @ ADAPTED["p"] + ADAPTED["low"])
    hidden = relu(x @ ADAPTED["w"] + 2 * (low @ ADAPTED["q"]) + ADAPTED["bias"])
    hidden = cut("out:input", hidden)
    expected = hidden @ ADAPTED["out"] + hidden @ ADAPTED["r"] @ ADAPTED["s"]
    found, _ = jax.jit(traced.apply)(ADAPTED, X, ioca.Ablation(keep, clamp))
    assert np.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="layers: 'p:input' matches none of w, "):
        ioca.trace_network(lambda v, x: lora(v, x, leave), ADAPTED, X, "p:input")


class Adapted(nnx.Module):
    """Flax NNX's own adapters, around a layer and inside one."""

    def __init__(self, rngs: nnx.Rngs):
        inner = nnx.Linear(5, 4, rngs=rngs)
        self.first = nnx.LoRA(5, 2, 4, base_module=inner, rngs=rngs)
        self.second = nnx.LoRALinear(4, 4, lora_rank=2, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, hook: Hook = leave):
        x = hook("first/base_module", relu(self.first(x)))
        return self.out(hook("second", nnx.gelu(self.second(x))))


def test_adapters_of_flax_nnx_have_the_names_of_what_they_adapt():
    module = Adapted(nnx.Rngs(0))
    graph, state = nnx.split(module)
    state = jax.tree.map(lambda leaf: leaf + 0.1, state)  # adapters begin at zero

    def network(state, x, hook):
        return nnx.merge(graph, state)(x, hook)

    check(network, state, X, ["first/base_module", "second"])


def residual(v, x, hook):
    hidden = hook("a", x @ v["a"])
    return relu(hidden + hook("h", hidden @ v["h"])) @ v["out"]


def residual_of_a_sum(v, x, hook):
    """What is added has come out of the first product, in whatever order."""
    hidden = hook("a", x @ v["a"])
    stream = hidden + (hook("h", hidden @ v["h"]) - x[:, :4])
    return relu(stream) @ v["out"]


def shortcut(v, x, hook):
    inner = hook("a", jnp.tanh(x @ v["a"]))
    return relu(hook("h", inner @ v["h"]) + hook("w", x @ v["w"])) @ v["out"]


def recurrent(v, x, hook):
    """The first state is held, so that the first step is one product."""
    state = jnp.ones(4) / 2
    for index in range(2):
        inputs, states = x[:, index] @ v["w"], state @ v["h"]
        if index == 0:
            state = hook("w#0", jnp.tanh(inputs + states))
        else:
            state = jnp.tanh(hook("w#1", inputs) + hook("h", states))
    return state @ v["out"]


def mixer(v, x, hook):
    """Neurons of one product are the positions of the other."""
    channels = hook("c", x @ v["c"])
    tokens = hook("h", jnp.einsum("st,ntc->ncs", v["h"], x))
    return relu(channels + tokens.swapaxes(1, 2)).mean(axis=1) @ v["out"][:3]


def used_before_the_sum(v, x, hook):
    """An addend that is seen elsewhere has no one site with the other."""
    one, other = hook("a", x @ v["a"]), hook("w", x @ v["w"])
    return (jnp.tanh(one) * x[:, :4] + relu(one + other)) @ v["out"]


def bottleneck_used_elsewhere(v, x, hook):
    """What is inside the sum and seen elsewhere is a layer of its own."""
    low = hook("p", x @ v["p"])
    hidden = hook("w", relu(x @ v["w"] + low @ v["q"]))
    return hidden @ v["out"] + jnp.tanh(low) @ v["out"][:2]


def adapted_stream(v, x, hook):
    """What both the adapter and its layer are computed from is not inside them."""
    hidden = hook("a", x @ v["a"])
    hidden = hidden + hook("h", hidden @ v["h"])
    return hook("k", relu(hidden @ v["k"] + hidden @ v["n"] @ v["q"])) @ v["out"]


def adapted_sum(v, x, hook):
    hidden = hook("a", x @ v["a"] + x @ v["w"])
    return hook("k", relu(hidden @ v["k"] + hidden @ v["n"] @ v["q"])) @ v["out"]


APART = {
    "adapted stream": (adapted_stream, X, ["a", "h", "k"]),
    "adapted sum": (adapted_sum, X, ["a", "k"]),
    "residual": (residual, X, ["a", "h"]),
    "residual of a sum": (residual_of_a_sum, X, ["a", "h"]),
    "shortcut": (shortcut, X, ["a", "h", "w"]),
    "recurrent": (recurrent, TOKENS, ["w#0", "w#1", "h"]),
    "mixer": (mixer, TOKENS[..., :3], ["c", "h"]),
    "used before": (used_before_the_sum, X, ["a", "w"]),
    "used elsewhere": (bottleneck_used_elsewhere, X, ["p", "w"]),
}


@pytest.mark.parametrize("case", APART)
def test_residual_sums_and_shortcuts_stay_as_they_are(case: str):
    network, x, layers = APART[case]
    own = {"a": (5, 4), "h": (4, 4), "c": (3, 3), "k": (4, 4), "n": (4, 2)}
    variables = ADAPTED | {name: weights(*shape) for name, shape in own.items()}
    check(network, variables, x, layers)


def test_heads_with_an_adapter_are_ablated_for_both_products():
    variables = {name: weights(4, 4) for name in ("q", "k", "v", "o")}
    variables |= {"p": weights(4, 2), "r": weights(2, 4), "out": weights(4, 3)}

    def network(v, x, hook):
        q, k, h = ((x @ v[n]).reshape(*x.shape[:2], 2, 2) for n in ("q", "k", "v"))
        share = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k))
        mixed = hook("heads", jnp.einsum("nhts,nshd->nthd", share, h))
        mixed = mixed.reshape(*x.shape[:2], 4)
        mixed = mixed @ v["o"] + (mixed @ v["p"]) @ v["r"]
        return jnp.tanh(mixed).mean(axis=1) @ v["out"]

    x = TOKENS[..., :4]
    traced = ioca.trace_network(
        lambda v, x: network(v, x, leave), variables, x, "o:input"
    )
    assert traced.layers == (ioca.Layer("o:input", 2, "heads", (4,), (2,)),)
    keep, clamp = np.array([True, False]), np.array([0.5, -1], np.float32)
    found, _ = jax.jit(traced.apply)(variables, x, ioca.Ablation(keep, clamp))
    expected = jax.jit(network, static_argnums=2)(
        variables,
        x,
        lambda _, heads: jnp.where(keep[:, None], heads, clamp[:, None]),
    )
    assert np.allclose(found, expected, atol=1e-5)


# Numbers of less than a byte


@pytest.mark.parametrize("dtype", ["int4", "uint2", "float4_e2m1fn"])
def test_weights_of_less_than_a_byte_are_evaluated(dtype: str):
    whole = np.asarray(RNG.integers(0, 4, size=(5, 4)), np.float32)
    variables = {"a": jnp.asarray(whole).astype(dtype), "out": weights(4, 3)}

    def network(v, x, hook):
        return hook("a", relu(x @ (v["a"].astype(jnp.float32) / 4))) @ v["out"]

    traced = ioca.trace_network(lambda v, x: network(v, x, leave), variables, X)
    hidden = np.maximum(X @ (whole / 4), 0)
    assert np.allclose(traced.apply(variables, X)[1], hidden, atol=1e-6)
    check_curve(network, variables | {"a": jnp.asarray(whole)}, traced, variables)
