"""Flax models of Hugging Face's transformers, unmodified, against edited weights."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import scipy.special

import ioca_jax as ioca

transformers = pytest.importorskip("transformers", minversion="4.57")
if not hasattr(transformers, "FlaxBertModel"):
    pytest.skip("this transformers has no Flax models", allow_module_level=True)

pytestmark = pytest.mark.slow
NUM_EXAMPLES, NUM_CLASSES = 24, 3
SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_labels": NUM_CLASSES,
    "initializer_range": 0.5,
}
RNG = np.random.default_rng(0)


class Model(NamedTuple):
    """A model, how it is called, examples, and what its inner module takes for them."""

    name: str
    model: Any
    apply: Callable[..., Any]
    x: Any
    inputs: tuple[Any, ...]
    readers: dict[str, str]  # by layer, the product that takes its outputs


def bert() -> Model:
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=10, **SIZES)
    model = transformers.FlaxBertForSequenceClassification(config)
    lengths = RNG.integers(3, 8, size=(NUM_EXAMPLES, 1))
    ids = RNG.integers(30, size=(NUM_EXAMPLES, 7)).astype(np.int32)
    mask = (np.arange(7) < lengths).astype(np.int32)
    inputs = ids, mask, 0 * ids, 0 * ids + np.arange(7), None
    return Model(
        *("bert", model, lambda params, x: model(**x, params=params).logits),
        {"input_ids": ids, "attention_mask": mask},
        inputs,
        {"bert/pooler/dense": "classifier"},
    )


def vit() -> Model:
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
    model = transformers.FlaxViTForImageClassification(config)
    x = RNG.normal(size=(NUM_EXAMPLES, 1, 8, 8)).astype(np.float32)
    inputs = (np.moveaxis(x, 1, -1),)
    apply = lambda params, x: model(x, params=params).logits  # noqa: E731
    return Model("vit", model, apply, x, inputs, {})


def edited(params: Any, name: str, rows: slice, value: np.ndarray) -> Any:
    """Weights of a product that takes a constant for some of its inputs."""
    weights = jax.tree.map(np.array, params)
    own = functools.reduce(operator.getitem, name.split("/"), weights)
    own["bias"] += value @ own["kernel"][rows]
    own["kernel"][rows] = 0
    return weights


def hidden_means(model: Model) -> list[np.ndarray]:
    """The means of each block's hidden units, which the model hands out itself."""
    _, captured = model.model.module.apply(
        {"params": model.model.params},
        *model.inputs,
        capture_intermediates=lambda m, _: type(m).__name__.endswith("Intermediate"),
        mutable=["intermediates"],
    )
    return [np.mean(values, axis=(0, 1)) for values in jax.tree.leaves(captured)]


@pytest.mark.parametrize("make", [bert, vit])
def test_a_model_is_measured_and_ablated_as_with_edited_weights(make: Callable):
    model = make()
    name, _, apply, x, _, readers = model
    for block in (f"{name}/encoder/layer/{index}" for index in range(2)):
        readers[f"{block}/intermediate/dense"] = f"{block}/output/dense"
        heads = f"{block}/attention/output/dense"
        readers[f"{heads}:input"] = heads
    params, run = model.model.params, jax.jit(apply)
    network = ioca.trace_network(apply, params, x, list(readers))
    np.testing.assert_allclose(network.apply(params, x)[0], run(params, x), atol=1e-5)
    assert {layer.name for layer in network.layers} == readers.keys()

    y = RNG.integers(NUM_CLASSES, size=NUM_EXAMPLES).astype(np.int32)
    measured = ioca.measure_neurons(network, params, x, y)
    hidden = [
        measured.activation_mean[part]
        for layer, part in zip(network.layers, network.layer_slices, strict=True)
        if layer.name.endswith("intermediate/dense")
    ]
    np.testing.assert_allclose(hidden, hidden_means(model), rtol=1e-4, atol=1e-5)

    order = RNG.permutation(network.num_neurons).astype(np.int32)
    curve = ioca.ablation_curve(network, params, order, measured.clamp, x, y)
    places, first = [], 0  # of each neuron: what reads it, its rows there, its clamp
    for layer in network.layers:
        width = math.prod(layer.vector)
        for row in range(0, layer.num_neurons * width, width):
            clamp = np.asarray(measured.clamp)[first + row :][:width]
            places.append((readers[layer.name], slice(row, row + width), clamp))
        first += layer.num_neurons * width
    for step in range(len(order) + 1):
        if step:
            params = edited(params, *places[order[step - 1]])
        logits = np.asarray(run(params, x), np.float64)
        right = (logits.argmax(axis=1) == y) @ np.eye(NUM_CLASSES)[y]
        np.testing.assert_array_equal(curve.correct[step], right)
        losses = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
        np.testing.assert_allclose(curve.loss[step], losses.mean(), rtol=1e-4)
