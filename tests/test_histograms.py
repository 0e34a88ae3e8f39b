"""Joint counts are exact: against a slow loop, for many examples, by parts, traced."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics.cluster import contingency_matrix

import ioca_jax as ioca
from ioca_jax import histograms


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
    counts = ioca.joint_counts(codes, labels, num_codes, num_classes)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(
        counts, counted_one_by_one(codes, labels, num_codes, num_classes)
    )


def test_counts_agree_with_scikit_learn():
    codes, labels = random_codes(2_000, 3, 4, 5)
    counts = np.asarray(ioca.joint_counts(codes, labels, 4, 5))
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
    counts = ioca.joint_counts(codes, labels, 1, 1)
    assert counts.tolist() == [[[num_examples]]]


@pytest.mark.parametrize("part", [7, 49, 50])
def test_parts_add_up(part, monkeypatch):
    codes, labels = random_codes(50, 3, 4, 5)
    monkeypatch.setattr(histograms, "_EXACT_IN_FLOAT32", part)
    np.testing.assert_array_equal(
        ioca.joint_counts(codes, labels, 4, 5),
        counted_one_by_one(codes, labels, 4, 5),
    )


def test_no_examples_count_nothing():
    counts = ioca.joint_counts(np.zeros((0, 2), np.int32), np.zeros(0, np.int32), 2, 3)
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
    eager = jax.vmap(lambda codes, labels: ioca.joint_counts(codes, labels, 4, 5))
    np.testing.assert_array_equal(eager(codes, labels), expected)


@pytest.mark.parametrize(
    ("codes", "labels"), [((4,), (4,)), ((4, 2), (5,)), ((4, 2), (4, 1))]
)
def test_shapes_that_do_not_fit(codes, labels):
    # Users run without the annotations' checker, which would be the first to object.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="expected codes") as error:
            ioca.joint_counts(np.zeros(codes, np.int32), np.zeros(labels, int), 2, 2)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert str(error.value) == (
        "expected codes [N, H] and labels [N], got shapes "
        f"{list(codes)} and {list(labels)}"
    )
