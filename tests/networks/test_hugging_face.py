"""Flax models of Hugging Face's transformers, unmodified, against edited weights."""

import functools
import math
import operator
import pathlib
import re
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
    """A model and examples.

    Attributes:
        apply: calls the model.
        inputs: what its inner module takes for the examples.
        mask: [N, T], the tokens that are no padding.
        counts: the mask of some examples; None counts all tokens.
        readers: by layer, the product that takes its outputs.
    """

    name: str
    model: Any
    apply: Callable[..., Any]
    x: Any
    inputs: tuple[Any, ...]
    mask: np.ndarray
    counts: Callable[[Any], Any] | None
    readers: dict[str, str]


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
        *(inputs, mask, lambda x: x["attention_mask"] > 0),
        {"bert/pooler/dense": "classifier"},
    )


def vit() -> Model:
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
    model = transformers.FlaxViTForImageClassification(config)
    x = RNG.normal(size=(NUM_EXAMPLES, 1, 8, 8)).astype(np.float32)
    inputs = (np.moveaxis(x, 1, -1),)
    apply = lambda params, x: model(x, params=params).logits  # noqa: E731
    tokens = np.ones((NUM_EXAMPLES, 5), int)
    return Model("vit", model, apply, x, inputs, tokens, None, {})


def edited(params: Any, name: str, rows: slice, value: np.ndarray) -> Any:
    """Weights of a product that takes a constant for some of its inputs."""
    weights = jax.tree.map(np.array, params)
    own = functools.reduce(operator.getitem, name.split("/"), weights)
    own["bias"] += value @ own["kernel"][rows]
    own["kernel"][rows] = 0
    return weights


def hidden_units(model: Model) -> list[Any]:
    """Each block's hidden units [N, T, 12], which the model hands out itself."""
    _, captured = model.model.module.apply(
        {"params": model.model.params},
        *model.inputs,
        capture_intermediates=lambda m, _: type(m).__name__.endswith("Intermediate"),
        mutable=["intermediates"],
    )
    return jax.tree.leaves(captured)


class Place(NamedTuple):
    """Where a neuron's outputs are read, and its clamp."""

    reader: str
    rows: slice
    clamp: np.ndarray


def places_of(network: Any, clamp: Any, readers: dict[str, str]) -> list[Place]:
    """The place of each neuron."""
    places, first = [], 0
    for layer in network.layers:
        width = math.prod(layer.vector)
        for row in range(0, layer.num_neurons * width, width):
            rows = slice(row, row + width)
            constant = np.asarray(clamp)[first + row : first + row + width]
            places.append(Place(readers[layer.name], rows, constant))
        first += layer.num_neurons * width
    return places


def check_means(network: Any, measured: Any, model: Model, places: list[Place]) -> None:
    """Means over the tokens that are no padding."""
    units, mask = iter(hidden_units(model)), model.mask[:, :, None]
    for layer, part in zip(network.layers, network.layer_slices, strict=True):
        if layer.name.endswith("intermediate/dense"):
            counted = np.asarray(next(units)) * mask
            means = (counted.sum(axis=1) / mask.sum(axis=1)).mean(axis=0)
            found = measured.activation_mean[part]
            np.testing.assert_allclose(found, means, rtol=1e-4, atol=1e-5)
            means = counted.sum(axis=(0, 1)) / mask.sum()
            clamps = np.ravel([place.clamp for place in places[part]])
            np.testing.assert_allclose(clamps, means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [bert, vit])
def test_a_model_is_measured_and_ablated_as_with_edited_weights(make: Callable):
    model = make()
    apply, x, readers, params = model.apply, model.x, model.readers, model.model.params
    for block in (f"{model.name}/encoder/layer/{index}" for index in range(2)):
        readers[f"{block}/intermediate/dense"] = f"{block}/output/dense"
        heads = f"{block}/attention/output/dense"
        readers[f"{heads}:input"] = heads
    run, names = jax.jit(apply), list(readers)
    network = ioca.trace_network(apply, params, x, names, counts=model.counts)
    np.testing.assert_allclose(network.apply(params, x)[0], run(params, x), atol=1e-5)
    assert {layer.name for layer in network.layers} == readers.keys()

    y = RNG.integers(NUM_CLASSES, size=NUM_EXAMPLES).astype(np.int32)
    measured = ioca.measure_neurons(network, params, x, y)
    places = places_of(network, measured.clamp, readers)
    check_means(network, measured, model, places)
    order = RNG.permutation(network.num_neurons).astype(np.int32)
    curve = ioca.ablation_curve(network, params, order, measured.clamp, x, y)
    for step in range(len(order) + 1):
        if step:
            params = edited(params, *places[order[step - 1]])
        logits = np.asarray(run(params, x), np.float64)
        right = (logits.argmax(axis=1) == y) @ np.eye(NUM_CLASSES)[y]
        np.testing.assert_array_equal(curve.correct[step], right)
        losses = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
        np.testing.assert_allclose(curve.loss[step], losses.mean(), rtol=1e-4)


IDS = RNG.integers(3, 30, size=(6, 7)).astype(np.int32)
IMAGES = RNG.normal(size=(6, 3, 32, 32)).astype(np.float32)
GPT2 = {"vocab_size": 30, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
LLAMA = SIZES | {"vocab_size": 30, "num_attention_heads": 4, "num_key_value_heads": 2}
RESNET = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 2]}
OTHERS: dict[str, Any] = {  # heads are 2 in most
    "FlaxAlbertForSequenceClassification": (
        "AlbertConfig", SIZES | {"vocab_size": 30, "embedding_size": 6}, IDS, 2
    ),
    "FlaxRoFormerForSequenceClassification": (
        "RoFormerConfig", SIZES | {"vocab_size": 30}, IDS, 2
    ),
    "FlaxGPT2LMHeadModel": ("GPT2Config", GPT2, IDS, 2),
    "FlaxLlamaForCausalLM": ("LlamaConfig", LLAMA | {"hidden_size": 16}, IDS, 4),
    "FlaxBeitForImageClassification": (
        "BeitConfig", SIZES | {"image_size": 32, "patch_size": 16}, IMAGES, 2
    ),
    "FlaxResNetForImageClassification": ("ResNetConfig", RESNET, IMAGES, None),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_traced(name: str):
    config, fields, x, num_heads = OTHERS[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**fields))

    def apply(params, x):
        return model(x, params=params).logits

    network = ioca.trace_network(apply, model.params, x, ["*", "*:input"])
    expected = jax.jit(apply)(model.params, x)
    np.testing.assert_allclose(network.apply(model.params, x)[0], expected, atol=1e-5)
    heads = [layer.num_neurons for layer in network.layers if layer.kind == "heads"]
    assert heads == ([] if num_heads is None else [num_heads] * 2)
    assert not any("holds" in note for note in network.unreachable)


def test_the_guides_example_runs():
    guide = pathlib.Path(ioca.__file__).parent.parent / "docs" / "guides" / "models.md"
    (example,) = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    exec(compile(example, guide.name, "exec"), {})
