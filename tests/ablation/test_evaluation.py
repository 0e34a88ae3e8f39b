"""Scores of logits against NumPy: ties, infinities, NaN and labels that are none."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import ioca_jax as ioca
from ioca_jax.ablation.evaluation import quick_exp, right_and_losses, sum_by_class
from ioca_jax.batching import IGNORE_LABEL

NUM_EXAMPLES = 60


def random_logits(num_classes):
    """Few values, so that there are ties; some infinite, some NaN."""
    rng = np.random.default_rng(num_classes)
    values = [-1.0, 0.0, 0.5, np.inf, -np.inf, np.nan]
    logits = rng.choice(values, p=[0.3, 0.3, 0.3, 0.05, 0.03, 0.02], size=(7, 60))
    logits = np.tile(logits, (-(-num_classes // 7), 1))[:num_classes]
    return logits.astype(np.float32), rng.integers(num_classes, size=NUM_EXAMPLES)


# Beyond 64 classes the sums are made otherwise.
@pytest.mark.parametrize("num_classes", [2, 5, 70])
def test_scores_are_numpys(num_classes):
    logits, y = random_logits(num_classes)
    is_nan = np.isnan(logits).any(axis=0)
    assert 0 < is_nan.sum() < NUM_EXAMPLES
    first = np.where(is_nan, -2, np.nan_to_num(logits, nan=-9).argmax(axis=0))
    own = logits[y, np.arange(NUM_EXAMPLES)].astype(np.float64)
    with warnings.catch_warnings(action="ignore"):
        best = logits.max(axis=0).astype(np.float64)
        losses = np.log(np.exp(logits - best).sum(axis=0)) + best - own
    arrays = jnp.asarray(logits), jnp.asarray(y, jnp.int32)
    right, found = right_and_losses(*arrays)
    np.testing.assert_array_equal(right, first == y)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    correct, _ = sum_by_class(right, found, arrays[1], num_classes)
    expected = np.bincount(y[first == y], minlength=num_classes)
    np.testing.assert_array_equal(correct, expected)


@pytest.mark.parametrize("engine", ["masks", "incremental"])
def test_logits_of_16_bits_are_scored_in_32(engine):
    """More correct examples of a class than bfloat16 counts, and their losses."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 6)).astype(np.float32)
    shapes = {"a": (6, 5), "b": (5, 2)}
    v = {
        name: jnp.asarray(rng.normal(size=s), "bfloat16") for name, s in shapes.items()
    }

    def apply(v, x, keep: Any = True):
        outputs = jax.nn.relu(x.astype("bfloat16") @ v["a"])
        return jnp.where(keep, outputs, 0) @ v["b"]

    y = np.asarray(apply(v, x).argmax(axis=1), np.int32)
    network = ioca.trace_network(apply, v, x)
    order = np.arange(5, dtype=np.int32)
    curve = ioca.ablation_curve(network, v, order, 0.0, x, y, engine=engine)
    for step, counts in enumerate(np.asarray(curve.correct)):
        logits = np.asarray(apply(v, x, np.arange(5) >= step), np.float64)
        right = y[logits.argmax(axis=1) == y]
        np.testing.assert_array_equal(counts, np.bincount(right, minlength=2))
        losses = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(900), y]
        assert curve.loss[step] == pytest.approx(losses.mean(), abs=1e-4)
    assert curve.correct.max() > 256


@pytest.mark.parametrize("exp", [jnp.exp, quick_exp])
@pytest.mark.parametrize("num_classes", [3, 70])
def test_small_losses_keep_their_digits(num_classes, exp):
    """A loss of 1e-6, beside logits of 0 and of 1e4, and one of 30."""
    gaps = np.array([14, 16, 30, 2, 0.125], np.float32)
    for offset in (0, 1e4):
        logits = np.full((num_classes, 10), offset, np.float32)
        logits[1] += np.repeat(gaps, 2)
        y = np.tile(np.array([1, 0], np.int32), 5)
        exact = logits.astype(np.float64)
        losses = np.log1p((num_classes - 1) * np.exp(exact[0] - exact[1]))
        losses += np.where(y == 1, 0, exact[1] - exact[0])
        _, found = jax.jit(right_and_losses, static_argnums=2)(logits, y, exp)
        np.testing.assert_allclose(found, losses, rtol=5e-6)


@pytest.mark.parametrize("num_classes", [5, 70])
def test_labels_that_are_no_classes_are_never_right_and_have_no_loss(num_classes):
    logits = jnp.ones((num_classes, 3))
    right, losses = right_and_losses(logits, jnp.array([IGNORE_LABEL, num_classes, 0]))
    np.testing.assert_array_equal(right, [False, False, True])
    np.testing.assert_allclose(losses, [np.nan, np.nan, np.log(num_classes)], rtol=1e-6)
    # Those that an earlier chunk has accounted for are left out of the sum.
    y = jnp.array([IGNORE_LABEL, IGNORE_LABEL, 0])
    _, loss = sum_by_class(*right_and_losses(logits, y), y, num_classes)
    np.testing.assert_allclose(loss, np.log(num_classes), rtol=1e-6)


def test_the_quick_exponential_is_one():
    x = np.append(-np.geomspace(1e-6, 87, 10_000), 0).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    found = np.asarray(jax.jit(quick_exp)(x), np.float64)
    assert np.all(np.abs(found / expected - 1) <= 2e-7 + 8e-8 * np.abs(x))
    assert found[-1] == 1
    extremes = quick_exp(jnp.array([-np.inf, -1e30, np.nan]))
    assert np.all(extremes[:2] < 2e-38)
    assert np.isnan(extremes[2])
