"""Published architectures: what is found in each is what a copy by hand has."""

import fnmatch
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import published_cnns as cnns
import published_transformers as transformers
import pytest
from cuts import clamping, perturbed
from flax import linen, nnx

import ioca_jax as ioca
from ioca_jax.networks.exclusions import grouped
from ioca_jax.networks.layers import split_by_layer

GUIDE = pathlib.Path(ioca.__file__).parent.parent / "docs" / "guides" / "models.md"
IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype(np.float32)
TOKENS = np.random.default_rng(0).normal(size=(5, 7, 5)).astype(np.float32)
ABLATIONS = 20


class Published(NamedTuple):
    """An architecture.

    Attributes:
        module: of Flax Linen, or a class of Flax NNX.
        by_hand: the copy.
        units: what a unit is, by pattern of the layers' names.
        layers: what is asked for besides all layers.
        x: examples.
    """

    module: Any
    by_hand: Callable[..., Any]
    units: dict[str, str]
    layers: tuple[str, ...] = ()
    x: np.ndarray = IMAGES

    def functions(self) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
        """The network and its copy, each of variables and examples; variables."""
        if isinstance(self.module, linen.Module):
            variables = jax.eval_shape(self.module.init, jax.random.key(0), self.x)
            return self.module.apply, self.by_hand, filled(variables)
        graph, state = nnx.split(nnx.eval_shape(lambda: self.module(nnx.Rngs(0))))

        def by_hand(cut, state, x):
            return self.by_hand(cut, nnx.to_pure_dict(state), x)

        return lambda state, x: nnx.merge(graph, state)(x), by_hand, filled(state)


def filled(variables: Any) -> Any:
    """Random variables of some shapes; scales and variances are about 1, none is 1."""
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> jax.Array:
        if any(key in jax.tree_util.keystr(path[-2:]) for key in ("scale", "var")):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(value, leaf.dtype)

    return jax.tree.map_with_path(fill, variables)


AFTER = "a channel after batch norm and activation"
BEFORE_SUM = "a channel after batch norm, before the residual sum"
COSTLY = ("DenseNet", "EfficientNet")  # to compile
ARCHITECTURES = {
    "ResNet": Published(
        cnns.ResNet(),
        cnns.resnet_by_hand,
        {
            "stem": AFTER,
            "*_conv*": AFTER,
            "*_out": BEFORE_SUM,
            "*_shortcut": BEFORE_SUM,
            "stream#*": "a channel of the stream after a block",
        },
        ("stream*",),
    ),
    "VGG": Published(
        cnns.VGG(),
        cnns.vgg_by_hand,
        {
            "*_conv*": "a channel after the activation, before pooling",
            "dense*": "a neuron after the activation",
        },
    ),
    "DenseNet": Published(
        cnns.DenseNet(),
        cnns.densenet_by_hand,
        {
            "stem": "a channel that all layers of the first block receive",
            "*_conv1": "a channel of the bottleneck after the next batch norm and the "
            "activation",
            "*_conv2": "a channel that the layer appends to the features, for all "
            "layers above",
            "transition": "a channel before pooling",
            "features#*": "a channel of the features after a block",
        },
        ("features*",),
    ),
    "ConvNeXt": Published(
        cnns.ConvNeXt,
        cnns.convnext_by_hand,
        {
            "stem": "a channel before layer norm",
            "*/depthwise": "a channel before layer norm",
            "*/up": "a hidden unit of the inverted MLP after the activation",
            "*/down": "a channel after the layer scale, before the residual sum",
            "reduce": "a channel of the stream",
        },
    ),
    "EfficientNet": Published(
        cnns.EfficientNet,
        cnns.efficientnet_by_hand,
        {
            "stem": AFTER,
            "*/expand": AFTER,
            "*/depthwise": "a channel after batch norm and activation, before the gate",
            "*/squeeze": "a hidden unit of squeeze and excitation",
            "*/excite": "the gate of one channel, between 0 and 1",
            "*/project:input": "a channel after the gate",
            "*/project": "a channel after batch norm, before the residual sum if any",
            "head": AFTER,
        },
        ("*/project:input",),
    ),
    "ViT": Published(
        transformers.ViT,
        transformers.vit_by_hand,
        {
            "patch": "a channel of the patches' embedding, before positions are added",
            "*/attention/out:input": "a head, a vector",
            "*/attention/out": "what all heads add to one channel of the stream",
            "*/attention/*": "one number of a query, key or value",
            "*/up": "a hidden unit of the MLP after the activation",
            "*/down": "what the MLP adds to one channel of the stream",
        },
        ("*/attention/out:input",),
    ),
    "Decoder": Published(
        transformers.Decoder,
        transformers.decoder_by_hand,
        {
            "*/query": "one number of a query, before rotary positions",
            "*/key": "one number of a key, before rotary positions, for all heads of "
            "its group",
            "*/value": "one number of a value, for all heads of its group",
            "*/out:input": "a query head, a vector",
            "*/out": "what all heads add to one channel of the stream",
            "*/gate": "a hidden unit of the gate after the activation",
            "*/up": "a hidden unit before the gate",
            "*/down:input": "a hidden unit of the MLP: the product of both",
            "*/down": "what the MLP adds to one channel of the stream",
        },
        ("*/out:input", "*/down:input"),
        np.random.default_rng(0).integers(11, size=(5, 6)).astype(np.int32),
    ),
    "Mixture of experts": Published(
        transformers.Experts(is_dense=True),
        functools.partial(transformers.experts_by_hand, True),
        {
            "embed": "a channel of the stream",
            "router": "the score of an expert, before the softmax",
            "gate": "a hidden unit of an expert's gate after the activation",
            "up": "a hidden unit of an expert, before the gate",
            "down:input": "a hidden unit of an expert: the product of both",
            "down": "what an expert adds to one channel, before it is weighed",
        },
        ("down:input",),
        TOKENS,
    ),
    "Mixture of experts, weights chosen by index": Published(
        transformers.Experts(is_dense=False),
        functools.partial(transformers.experts_by_hand, False),
        {
            "embed": "a channel of the stream",
            "router": "the score of an expert, before the softmax",
            "hidden": "a hidden unit of whatever expert is chosen",
        },
        ("hidden",),
        TOKENS,
    ),
}


class Traced(NamedTuple):
    """A network, the function that it was traced from, and its copy.

    Attributes:
        run: of variables, examples, keep [21, H] and clamp [21, H]: logits, outputs.
    """

    network: ioca.Network
    apply: Callable[..., Any]
    by_hand: Callable[..., Any]
    variables: Any
    x: np.ndarray
    run: Callable[..., Any]

    def ablations(self) -> tuple[np.ndarray, np.ndarray]:
        """Random ablations; the first ablates nothing."""
        shape, rng = (1 + ABLATIONS, self.network.num_neurons), np.random.default_rng(1)
        keep = rng.uniform(size=shape) < rng.uniform(0.2, 0.9, size=(shape[0], 1))
        keep[0] = True
        return keep, rng.normal(size=shape).astype(np.float32)


def each(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of variables, examples and one ablation as that of several."""
    return jax.jit(jax.vmap(function, in_axes=(None, None, 0, 0)))


@functools.cache
def trace(name: str) -> Traced:
    published = ARCHITECTURES[name]
    apply, by_hand, variables = published.functions()
    layers = ["*", *published.layers]
    network = ioca.trace_network(apply, variables, published.x, layers)

    def run(variables, x, keep, clamp):
        return network.outputs(variables, x, ioca.Ablation(keep, clamp))

    return Traced(network, apply, by_hand, variables, published.x, each(run))


def ablated_by_hand(
    traced: Traced, variables: Any, x: Any, keep: Any, clamp: Any
) -> tuple[Any, dict]:
    """Logits, and each layer's outputs with the neurons before a head's vector."""
    parts = [split_by_layer(traced.network.layers, array) for array in (keep, clamp)]
    cut, outputs = clamping(*parts), {}

    def record(name: str, value: jax.Array, axis: int = -1) -> jax.Array:
        assert name not in outputs
        outputs[name] = cut(name, value, axis)
        return outputs[name]

    return traced.by_hand(record, variables, x), outputs


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in COSTLY))
        for name in ARCHITECTURES
    ],
)
def test_twenty_random_ablations_equal_a_copy_by_hand(name: str):
    """The first ablation leaves everything intact: the model's own logits."""
    traced = trace(name)
    variables, x, (keep, clamp) = traced.variables, traced.x, traced.ablations()
    logits, outputs = traced.run(variables, x, keep, clamp)
    by_hand = each(functools.partial(ablated_by_hand, traced))
    expected, written = by_hand(variables, x, keep, clamp)
    own = jax.jit(traced.apply)(variables, x)
    np.testing.assert_allclose(logits[0], own, rtol=1e-5, atol=1e-5)
    assert outputs.keys() == written.keys()
    for layer, values in outputs.items():
        same = jnp.reshape(written[layer], values.shape)
        np.testing.assert_allclose(values, same, rtol=1e-4, atol=1e-4, err_msg=layer)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    moved = np.abs(logits[1:] - own).reshape(ABLATIONS, -1).max(axis=1)
    assert moved.min() > 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_in_no_layer_is_listed(name: str):
    """Nothing else changes the logits where all layers are clamped."""
    traced = trace(name)
    network, (keep, clamp) = traced.network, traced.ablations()
    listed = {note.partition(": ")[0] for note in network.unreachable}
    assert not listed & {layer.name for layer in network.layers}
    for layer, part in zip(network.layers, network.layer_slices, strict=True):
        keep[:, part] = layer.kind in ("heads", "input", "named")
    expected, _ = traced.run(traced.variables, traced.x, keep, clamp)
    for path, _ in jax.tree.leaves_with_path(traced.variables):
        key = jax.tree_util.keystr(path, simple=True, separator="/")
        variable = key.removeprefix("params/").removesuffix("/value")
        if not listed & {variable, variable.rpartition("/")[0]}:
            changed = perturbed(traced.variables, key)
            found, _ = traced.run(changed, traced.x, keep, clamp)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def section(name: str) -> str:
    """What the guide says of an architecture."""
    network, rows = trace(name).network, {}
    for layer in network.layers:
        units = ARCHITECTURES[name].units
        pattern = next(p for p in units if fnmatch.fnmatchcase(layer.name, p))
        shape = " x ".join(map(str, layer.shape))
        rows.setdefault((pattern, layer.kind), {})[shape] = None
    lines = ["| layers | kind | activation shape | a unit is |", "|---|---|---|---|"]
    for (pattern, kind), shapes in rows.items():
        unit = ARCHITECTURES[name].units[pattern]
        lines.append(f"| `{pattern}` | {kind} | {', '.join(shapes)} | {unit} |")
    notes = [f"- {note}" for note in grouped(network.unreachable)]
    return "\n".join([*lines, "", "Not among the layers:", "", *notes])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_guide_says_what_is_found(name: str):
    sections = GUIDE.read_text().split("\n## ")
    (own,) = [text for text in sections if text.startswith(f"{name}\n")]
    assert section(name) in own, f"expected in {GUIDE.name}:\n{section(name)}"
