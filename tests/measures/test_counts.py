"""Joint counts are exact: against a slow loop, for many examples, by parts, traced."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics.cluster import contingency_matrix

import ioca_jax as ioca
from ioca_jax.measures import counts as histograms


def counted_one_by_one(codes, labels, num_codes, num_classes) -> np.ndarray:
    """The oracle: every example adds one, and a label outside [0, C) adds nothing."""
    counts = np.zeros((codes.shape[1], num_codes, num_classes), np.int64)
    counted = (labels >= 0) & (labels < num_classes)
    for neuron in range(codes.shape[1]):
        np.add.at(counts[neuron], (codes[counted, neuron], labels[counted]), 1)
    return counts


def random_codes(num_examples, num_neurons, num_codes, num_classes, seed=0):
    """Codes [N, H] with a dead neuron, and imbalanced labels [N] with class 1 absent"""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, num_codes, (num_examples, num_neurons), np.int32)
    codes[:, 0] = 0
    of_class = np.arange(num_classes) ** 2 + 1.0
    of_class[1] = 0
    labels = rng.choice(num_classes, num_examples, p=of_class / of_class.sum())
    return codes, labels.astype(np.int32)


@pytest.mark.parametrize(
    ("num_examples", "num_neurons", "num_codes", "num_classes"),
    [(1, 3, 2, 10), (999, 7, 64, 10), (5_000, 5, 3, 3), (70_000, 4, 2, 10)],
)
def test_counts_are_exact(num_examples, num_neurons, num_codes, num_classes):
    codes, labels = random_codes(num_examples, num_neurons, num_codes, num_classes)
    counts = ioca.joint_counts(
        codes, labels, num_codes=num_codes, num_classes=num_classes
    )
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(
        counts, counted_one_by_one(codes, labels, num_codes, num_classes)
    )


def test_counts_agree_with_scikit_learn():
    codes, labels = random_codes(2_000, 3, 4, 5)
    counts = np.asarray(ioca.joint_counts(codes, labels, num_codes=4, num_classes=5))
    # scikit-learn leaves out codes and classes that do not occur.
    np.testing.assert_array_equal(
        counts[2][:, [0, 2, 3, 4]], contingency_matrix(codes[:, 2], labels)
    )
    assert not counts[0, 1:].any()  # the dead neuron's empty codes
    assert not counts[:, :, 1].any()  # the absent class


def test_counts_are_exact_past_the_integers_of_float32():
    num_examples = 2**24 + 3  # float32 has no such number
    codes = np.zeros((num_examples, 1), np.int8)
    labels = np.zeros(num_examples, np.int8)
    counts = ioca.joint_counts(codes, labels, num_codes=1, num_classes=2)
    assert counts.tolist() == [[[num_examples, 0]]]


@pytest.mark.parametrize("part", [7, 49, 50])
def test_parts_add_up(part, monkeypatch):
    codes, labels = random_codes(50, 3, 4, 5)
    monkeypatch.setattr(histograms, "EXACT_IN_FLOAT32", part)
    np.testing.assert_array_equal(
        ioca.joint_counts(codes, labels, num_codes=4, num_classes=5),
        counted_one_by_one(codes, labels, 4, 5),
    )


def test_no_examples_count_nothing():
    counts = ioca.joint_counts(
        np.zeros((0, 2), np.int32), np.zeros(0, np.int32), num_codes=2, num_classes=3
    )
    np.testing.assert_array_equal(counts, np.zeros((2, 2, 3)))


count_4_by_5 = jax.jit(partial(ioca.joint_counts, num_codes=4, num_classes=5))


@settings(max_examples=50)
@given(
    codes=hnp.arrays(np.int32, (12, 3), elements=st.integers(0, 3)),
    labels=hnp.arrays(np.int32, 12, elements=st.integers(-1, 5)),
    order=st.permutations(range(12)),
)
def test_every_counted_example_counts_once(codes, labels, order):
    counts = np.asarray(count_4_by_5(codes, labels))
    np.testing.assert_array_equal(counts, counted_one_by_one(codes, labels, 4, 5))
    in_range = np.sum((labels >= 0) & (labels < 5))
    np.testing.assert_array_equal(counts.sum(axis=(1, 2)), np.full(3, in_range))
    shuffled = count_4_by_5(codes[order], labels[order])
    np.testing.assert_array_equal(shuffled, counts)


def test_transforms_agree():
    seeds = [random_codes(200, 3, 4, 5, seed=seed) for seed in range(3)]
    codes, labels = (np.stack(parts) for parts in zip(*seeds, strict=True))
    expected = [counted_one_by_one(*seed, 4, 5) for seed in seeds]
    np.testing.assert_array_equal(jax.vmap(count_4_by_5)(codes, labels), expected)
    eager = jax.vmap(
        lambda codes, labels: ioca.joint_counts(
            codes, labels, num_codes=4, num_classes=5
        )
    )
    np.testing.assert_array_equal(eager(codes, labels), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros(4, int)}, "codes: expected shape [N, H]"),
        ({"codes": np.full((4, 2), 0.5)}, "codes: expected integers, got float64"),
        # An alphabet of another quantiser: what is beyond it was counted as code 0.
        ({"codes": np.full((4, 2), 2)}, "codes: expected values in [0, 1], got 2"),
        ({"codes": np.full((4, 2), -1)}, "codes: expected values in [0, 1], got -1"),
        ({"labels": np.zeros(5, int)}, "labels: expected 4, one for each example"),
        ({"labels": np.zeros((4, 1), int)}, "labels: expected shape [N]"),
        ({"labels": np.full(4, 3)}, "labels: expected values in [0, 2], got 3"),
        ({"labels": np.full(4, -1)}, "labels: expected values in [0, 2], got -1"),
        ({"labels": np.zeros(4)}, "labels: expected integers, got float64"),
        ({"num_classes": 3.0}, "num_classes: expected an integer, got 3.0"),
        ({"num_codes": 2.5}, "num_codes: expected an integer, got 2.5"),
        ({"num_codes": True}, "num_codes: expected an integer, got True"),
        ({"num_classes": 1}, "num_classes: expected at least 2 classes"),
    ],
)
def test_what_cannot_be_counted(change, message, unchecked_shapes):
    right = {
        "codes": np.zeros((4, 2), np.int32),
        "labels": np.array([0, 1, 2, 0]),
        "num_codes": 2,
        "num_classes": 3,
    }
    ioca.joint_counts(**right)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ioca.joint_counts(**right | change)


def test_small_integers_count_beyond_their_range():
    codes = np.full((3, 1), 5, np.int8)
    labels = np.array([5, 5, 100], np.int8)
    counts = ioca.joint_counts(codes, labels, num_codes=300, num_classes=300)
    assert int(counts.sum()) == 3
    assert int(counts[0, 5, 5]) == 2


@pytest.mark.parametrize(
    ("num_codes", "num_examples"), [(2, 37), (2, 1800), (3, 700), (4, 513)]
)
def test_pairs_are_counted_as_one_by_one(num_codes, num_examples):
    rng = np.random.default_rng(num_codes)
    codes = rng.integers(num_codes, size=(num_examples, 5)).astype(np.int32)
    # Class 2 does not occur, class 0 is most, and some examples are to be left out.
    classes = np.array([0, 0, 0, 1, 3, -1])
    labels = rng.choice(classes, num_examples).astype(np.int32)
    counts = histograms.pair_counts(
        jnp.asarray(codes), jnp.asarray(labels), num_codes=num_codes, num_classes=4
    )
    assert counts.dtype == jnp.int32
    for i, j in itertools.product(range(5), range(5)):
        expected = np.zeros((num_codes**2, 4), int)
        joint = codes[:, i] * num_codes + codes[:, j]
        np.add.at(expected, (joint[labels >= 0], labels[labels >= 0]), 1)
        np.testing.assert_array_equal(counts[i, j], expected)


def test_information_of_pairs():
    """A copy adds nothing, two bits of the class add up, and XOR is seen jointly."""
    labels = np.arange(4000) % 4
    noise = np.random.default_rng(0).integers(2, size=4000)
    codes = np.stack(
        [labels // 2, labels // 2, labels % 2, noise, noise ^ (labels // 2)]
    )
    counts = histograms.pair_counts(
        jnp.asarray(codes.T, jnp.int32),
        jnp.asarray(labels, jnp.int32),
        num_codes=2,
        num_classes=4,
    )
    bits = np.asarray(ioca.mutual_information(counts))
    np.testing.assert_allclose(bits[0, 1], 1, atol=1e-5)
    np.testing.assert_allclose(bits[0, 2], 2, atol=1e-5)
    # noise and noise XOR bit: neither knows the class, together they know the bit (up
    # to the bias of 4,000 examples, about 1e-3 bits)
    np.testing.assert_allclose(bits[3, 4], 1, atol=5e-3)
    assert bits[3, 3] < 5e-3
    assert bits[4, 4] < 5e-3
    np.testing.assert_allclose(bits, bits.T, atol=1e-6)
