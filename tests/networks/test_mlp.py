"""The network against an independent one, and ablation as an argument."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network
from reference import forward

import ioca_jax as ioca
from ioca_jax.networks.models import as_network

# float32 sums of at most 12 terms of order 1, against float64
assert_close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("activation", "batch_norm"),
    list(itertools.product(["relu", "sigmoid", "tanh"], [False, True])),
)
def test_agrees_with_an_independent_network(activation, batch_norm):
    model, variables = random_network(activation=activation, batch_norm=batch_norm)
    x, _ = random_examples()
    rng = np.random.default_rng(0)
    keep = rng.random(model.num_neurons) < 0.6
    clamp = rng.normal(size=model.num_neurons).astype(np.float32)
    for ablation, arguments in (
        (None, ()),
        (ioca.Ablation(keep, clamp), (keep, clamp)),
    ):
        logits, activations = model.apply(variables, x, ablation)
        expected_logits, expected_activations = forward(model, variables, x, *arguments)
        assert_close(logits, expected_logits)
        assert_close(activations, expected_activations)


def test_an_ablated_output_is_its_clamp_value_in_training_too():
    model, variables = random_network(dropout_rate=0.5, batch_norm=True)
    x, _ = random_examples()
    keep = np.arange(model.num_neurons) % 3 > 0
    clamp = np.linspace(-1, 1, model.num_neurons).astype(np.float32)
    (_, activations), _ = model.apply(
        variables,
        x,
        ioca.Ablation(keep, clamp),
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats"],
    )
    np.testing.assert_array_equal(
        activations[:, ~keep], np.broadcast_to(clamp[~keep], (len(x), (~keep).sum()))
    )


def test_mean_clamp_is_bias_balancing():
    """A clamp at the mean equals a removed neuron and its mean in the next biases.

    It is not the output multiplied by a firing rate, a known mistake.
    """
    model, variables = random_network(hidden=(6, 5), activation="sigmoid")
    x, _ = random_examples()
    _, activations = model.apply(variables, x)
    mean, neuron = np.asarray(activations.mean(axis=0)), 2
    keep = np.arange(model.num_neurons) != neuron
    logits, _ = model.apply(variables, x, ioca.Ablation(keep, mean))

    params = jax.tree.map(np.array, variables["params"])
    next_layer = params["dense_1"]
    next_layer["bias"] += next_layer["kernel"][neuron] * mean[neuron]
    for name in ("kernel", "bias"):
        params["dense_0"][name] = np.delete(params["dense_0"][name], neuron, axis=-1)
    next_layer["kernel"] = np.delete(next_layer["kernel"], neuron, axis=0)
    smaller = ioca.MLP(hidden=(5, 5), num_classes=4, activation="sigmoid")
    expected, _ = smaller.apply({"params": params}, x)
    assert_close(logits, expected)


def test_batch_norm_folds_into_affine_maps():
    model, variables = random_network(batch_norm=True, activation="tanh")
    x, _ = random_examples()
    chain = as_network(model, x).chain(-1)
    assert chain is not None
    *hidden, last = chain.maps(variables).values()
    inputs = x
    for kernel, bias, _ in hidden:
        inputs = np.tanh(inputs @ np.asarray(kernel) + np.asarray(bias))
    logits, _ = forward(model, variables, x)
    assert_close(inputs @ last.kernel + last.bias, logits)


def test_vmap_over_ablations_is_a_loop():
    model, variables = random_network()
    x, _ = random_examples()
    masks = np.random.default_rng(3).random((4, model.num_neurons)) < 0.5
    clamp = jnp.full(model.num_neurons, 0.1)
    together = jax.vmap(
        lambda keep: model.apply(variables, x, ioca.Ablation(keep, clamp))[0]
    )(masks)
    for mask, logits in zip(masks, together, strict=True):
        alone, _ = model.apply(variables, x, ioca.Ablation(mask, clamp))
        # The products may be blocked otherwise: rounding only.
        assert_close(logits, alone, rtol=1e-5, atol=1e-6)


def test_neuron_axis():
    model = ioca.MLP(hidden=[2, 3], num_classes=4)
    assert model.num_neurons == 5
    np.testing.assert_array_equal(model.layer_of_neuron, [0, 0, 1, 1, 1])
    assert model.layer_slices == (slice(0, 2), slice(2, 5))
    assert hash(model) == hash(ioca.MLP(hidden=(2, 3), num_classes=4))


def test_examples_are_flattened():
    model, variables = random_network()
    x, _ = random_examples()
    shaped = x.reshape(len(x), 2, 3, 2)
    for flat, other in zip(
        model.apply(variables, x), model.apply(variables, shaped), strict=True
    ):
        np.testing.assert_array_equal(flat, other)
    created = model.init(jax.random.key(0), shaped)
    assert created["params"]["dense_0"]["kernel"].shape == (12, 7)


KEEP, CLAMP = np.ones(18, bool), np.zeros(18, np.float32)
NOT_MASKS = (
    "keep: expected bool [..., 18], True for each hidden neuron that is kept, got {}; "
    "it is neither the clamp nor a list of neurons"
)


@pytest.mark.parametrize(
    ("keep", "clamp", "message"),
    [
        (CLAMP, KEEP, NOT_MASKS.format("float32 of shape [18]")),
        (np.arange(18), CLAMP, NOT_MASKS.format("int64 of shape [18]")),
        (KEEP[:5], CLAMP, NOT_MASKS.format("bool of shape [5]")),
        (
            KEEP,
            KEEP,
            "clamp: expected one number, or float32 [..., 18], a value for each "
            "hidden neuron, got "
            "bool of shape [18]",
        ),
        (
            ~KEEP,
            np.full(18, np.nan, np.float32),
            "clamp: expected numbers, got NaN for 18 of 18 values; an ablated neuron "
            "outputs a number",
        ),
        (
            KEEP[None],
            CLAMP,
            "keep: expected shape [18], got [1, 18]; vmap over ablations, or "
            "evaluate_masks, takes many",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_ablations(keep, clamp, message):
    model, variables = random_network()
    x, _ = random_examples()
    ablation = ioca.Ablation(keep, clamp)
    with pytest.raises(ValueError, match="expected") as caught:
        model.apply(variables, x, ablation)
    assert str(caught.value) == message
    if "NaN" not in message:  # what is not a value is known while tracing too
        with pytest.raises(ValueError, match=f"^{message[:15]}"):
            jax.jit(model.apply)(variables, x, ablation)


@pytest.mark.parametrize(
    ("fields", "num_networks", "num_inputs", "message"),
    [
        ({}, None, 12, None),
        (
            {"hidden": (7, 5)},
            None,
            12,
            "given: expected those of one network, with params/dense_2/bias float32 "
            "[4], as traced, got float32 [6]",
        ),
        (
            {},
            3,
            12,
            "given: expected those of 3 networks, with params/dense_0/bias float32 [3, "
            "7], as traced, got float32 [7]",
        ),
        (
            {},
            None,
            13,
            "given: expected those of one network, with params/dense_0/kernel float32 "
            "[13, 7], as traced, got float32 [12, 7]",
        ),
        (
            {"batch_norm": True},
            None,
            12,
            "given: expected those of one network, with batch_stats/norm_0/mean "
            "float32 [7], as traced, got no such variable",
        ),
    ],
)
def test_variables_of_another_network(fields, num_networks, num_inputs, message):
    model, _ = random_network(**fields)
    _, variables = random_network()
    network = as_network(model, np.zeros((1, num_inputs), np.float32))
    if message is None:
        network.check_variables(variables)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        network.check_variables(variables, num_networks, "given")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden": (10, 0)},
            r"hidden: expected one or more widths, each a positive integer, got "
            r"\[10, 0\]",
        ),
        ({"hidden": ()}, r"hidden: expected one or more widths.*got \[\]"),
        ({"hidden": (3.5,)}, r"hidden: expected .* positive integer, got \[3.5\]"),
        ({"hidden": 8}, r"hidden: expected a sequence, got 8; .* one value is \(8,\)"),
        ({"num_classes": 1}, "num_classes: expected at least 2 .*, got 1"),
        (
            {"activation": "swish"},
            "activation: expected one of relu, sigmoid, tanh, gelu, gelu_exact, got "
            "'swish'",
        ),
        ({"batch_norm": "no"}, "batch_norm: expected True or False, got 'no'"),
        ({"dropout_rate": "a"}, "dropout_rate: expected a finite number, got 'a'"),
        (
            {"dropout_rate": 1.0},
            r"dropout_rate: expected a share in \[0, 1\), got 1.0",
        ),
        (
            {"matmul_precision": "float16"},
            "matmul_precision: expected one of highest, high, default, got 'float16'",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_fields(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ioca.MLP(**({"hidden": (3,), "num_classes": 2} | fields))
