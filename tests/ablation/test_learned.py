"""Learned orders: near the best of all nested orders; soft masks by hand."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ACTIVATIONS

import ioca_jax as ioca
from ioca_jax.ablation import learned
from ioca_jax.networks.layers import SoftAblation, split_by_layer
from ioca_jax.networks.models import as_network

KEY = jax.random.key(0)
MODEL = ioca.MLP(hidden=(5, 3), num_classes=3)
X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
VARIABLES: Any = MODEL.init(jax.random.key(4), X)
VARIABLES["params"]["dense_2"]["kernel"] *= 4  # sure of its predictions
# The network's own predictions: it is never wrong until neurons go.
Y = np.asarray(MODEL.apply(VARIABLES, X)[0]).argmax(axis=1).astype(np.int32)
CLAMP = np.asarray(MODEL.apply(VARIABLES, X)[1]).mean(axis=0)


@pytest.mark.parametrize("clamp", [np.zeros(8, np.float32), CLAMP])
def test_it_is_near_the_best_of_all_orders_of_a_layer(clamp):
    every = np.array([*itertools.permutations(range(5))], np.int32)
    curves = ioca.ablation_curve(MODEL, VARIABLES, every, clamp, X, Y)
    loss, accuracy = map(ioca.area_under_curve, (curves.loss, curves.accuracy))
    arrays = jax.tree.map(lambda leaf: leaf[None], (VARIABLES, jnp.asarray(clamp)))
    (fitted,) = learned._fit_all(
        as_network(MODEL, X), tuple(range(5)), *arrays, X, Y, KEY[None]
    )
    order = ioca.learned_order(
        MODEL, VARIABLES, X, Y, clamp, key=KEY, neurons=np.arange(5)
    )
    places = [every.tolist().index(one.tolist()) for one in (fitted, order)]
    assert loss.std() > 0.02  # orders differ
    assert loss[places[0]] <= loss.min() + 0.01
    # Accuracy is not what is fitted, but decides between fitted and greedy order.
    assert accuracy[places[1]] >= accuracy[places[0]]
    assert accuracy[places[1]] >= np.quantile(accuracy, 0.9)


def test_the_whole_network_is_ordered_and_keys_decide():
    order = ioca.learned_order(MODEL, VARIABLES, X, Y, 0.0, key=KEY)
    assert order.dtype == jnp.int32
    assert sorted(order.tolist()) == list(range(8))
    again = ioca.learned_order(MODEL, VARIABLES, X, Y, np.zeros(8), key=KEY)
    assert again.tolist() == order.tolist()


@pytest.mark.slow
def test_convolutions_are_ordered_too(monkeypatch):
    monkeypatch.setattr(learned, "_STEPS", 20)
    model = ioca.CNN(channels=(3,), hidden=(2,), num_classes=3, image_shape=(4, 4, 1))
    x = X[:64, :, None, None] * np.ones((1, 1, 4, 1), np.float32)
    variables = model.init(KEY, x)
    order = ioca.learned_order(
        model, variables, x, Y[:64], 0.0, key=KEY, neurons=np.arange(4)
    )
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_shares_add_up_and_follow_the_scores():
    scores = jnp.asarray(np.random.default_rng(1).normal(0, 2, 12), jnp.float32)
    kept = jnp.array([0.5, 3.0, 7.25, 11.5])
    shares = np.asarray(learned.soft_keep(scores, kept))
    np.testing.assert_allclose(shares.sum(axis=1), kept, atol=0.05)
    assert (np.diff(shares[:, np.argsort(scores)], axis=1) > 0).all()
    # Far apart, the shares are a mask of the highest scores.
    hard = learned.soft_keep(100 * scores, jnp.array([4.0]))[0]
    assert np.flatnonzero(hard > 0.5).tolist() == sorted(np.argsort(scores)[-4:])
    np.testing.assert_allclose(hard * (1 - hard), 0, atol=1e-3)


def test_the_gradient_is_of_what_neurons_do_beside_each_other():
    scores = jnp.asarray(np.random.default_rng(2).normal(size=6), jnp.float32)
    weights = jnp.arange(6.0) ** 2
    kept = jnp.array([2.5])

    def value(scores):
        return (learned.soft_keep(scores, kept) * weights).sum()

    gradient = np.asarray(jax.grad(value)(scores))
    assert abs(gradient.sum()) < 1e-4
    # Of the shares that add up exactly: w_i (v_i - mean of v by w), w = s (1 - s).
    share = np.asarray(learned.soft_keep(scores, kept)[0])
    slope = share * (1 - share)
    expected = slope * (weights - (slope * weights).sum() / slope.sum())
    np.testing.assert_allclose(gradient, expected, atol=0.02)


def test_soft_masks_mix_outputs_and_clamps():
    network = as_network(MODEL, X)
    rng = np.random.default_rng(3)
    keep = rng.random((len(X), 8)).astype(np.float32)
    keep[:, 5] = 1
    parts = [split_by_layer(network.layers, array) for array in (keep, CLAMP)]
    logits, _ = network.apply(VARIABLES, X, SoftAblation(*parts))
    params = jax.tree.map(np.float64, VARIABLES["params"])
    outputs = X.astype(np.float64)
    for layer, own in enumerate((slice(0, 5), slice(5, 8))):
        dense = params[f"dense_{layer}"]
        outputs = ACTIVATIONS["relu"](outputs @ dense["kernel"] + dense["bias"])
        outputs = keep[:, own] * outputs + (1 - keep[:, own]) * CLAMP[own]
    expected = outputs @ params["dense_2"]["kernel"] + params["dense_2"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    # Shares of 0 and 1 are a mask.
    mask = rng.random(8) < 0.5
    shares = split_by_layer(network.layers, mask.astype(np.float32))
    hard, _ = network.apply(VARIABLES, X, SoftAblation(shares, parts[1]))
    exact, _ = network.apply(VARIABLES, X, ioca.Ablation(mask, CLAMP))
    np.testing.assert_array_equal(hard, exact)


def test_tokens_that_do_not_count_have_no_loss():
    logits = np.random.default_rng(4).normal(size=(2, 3, 4)).astype(np.float32)
    labels = np.array([[0, 3, -1], [-1, -1, 2]], np.int32)
    powers = np.exp(logits.astype(np.float64))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    expected = -np.log([shares[0, 0, 0], shares[0, 1, 3], shares[1, 2, 2]]).mean()
    found = learned._mean_loss(jnp.asarray(logits), jnp.asarray(labels))
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"neurons": [0, 0]}, "order: expected every neuron once, got 0 twice"),
        ({"neurons": [8]}, "order: expected neuron indices in [0, 7], got 8"),
        ({"key": 3}, "key: expected"),
        ({"clamp": np.zeros(3)}, "clamp: expected"),
    ],
)
def test_what_is_refused(arguments, text):
    given = {"clamp": 0.0, "key": KEY} | arguments
    with pytest.raises(ValueError, match="expected") as caught:
        ioca.learned_order(MODEL, VARIABLES, X, Y, **given)
    assert str(caught.value).startswith(text)
