"""A fold over chunks: every example once, for every chunk size, traced and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ioca_jax.batching import IGNORE_LABEL, fold_examples
from ioca_jax.measures.counts import joint_counts

NUM_EXAMPLES = 13  # prime: only 1 and 13 divide it
X = jnp.arange(NUM_EXAMPLES * 2, dtype=jnp.float32).reshape(NUM_EXAMPLES, 2)
Y = jnp.asarray(np.random.default_rng(0).integers(0, 3, NUM_EXAMPLES), jnp.int32)
CHUNK_SIZES = range(1, NUM_EXAMPLES + 4)
START = {
    "times_seen": jnp.zeros(NUM_EXAMPLES, jnp.int32),
    "sum": jnp.zeros(2),
    "of_class": jnp.zeros(3, jnp.int32),
}


def tally(carry, x, y):
    """Adds up the new examples; an image's first pixel tells which example it is."""
    is_new = y != IGNORE_LABEL
    identity = (x[:, 0] / 2).astype(jnp.int32)
    return {
        "times_seen": carry["times_seen"].at[identity].add(is_new.astype(jnp.int32)),
        "sum": carry["sum"] + jnp.where(is_new[:, None], x, 0).sum(axis=0),
        "of_class": carry["of_class"] + jnp.bincount(y + 1, length=4)[1:],
    }


def assert_whole(carry):
    np.testing.assert_array_equal(carry["times_seen"], np.ones(NUM_EXAMPLES))
    # Whole numbers far below 2^24: float32 adds them exactly in any order.
    np.testing.assert_array_equal(carry["sum"], X.sum(axis=0))
    np.testing.assert_array_equal(carry["of_class"], np.bincount(Y, minlength=3))


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_every_example_once_whatever_the_chunk_size(chunk_size):
    assert_whole(fold_examples(tally, START, X, Y, chunk_size=chunk_size))


def test_jit():
    fold = jax.jit(lambda x, y: fold_examples(tally, START, x, y, chunk_size=5))
    assert_whole(fold(X, Y))


def test_vmap():
    images, labels = jnp.stack([X, X[::-1]]), jnp.stack([Y, Y[::-1]])
    carries = jax.vmap(lambda x, y: fold_examples(tally, START, x, y, chunk_size=5))(
        images, labels
    )
    for seed in range(2):
        assert_whole(jax.tree.map(lambda leaf, seed=seed: leaf[seed], carries))


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 99])
def test_chunks_have_one_static_shape(chunk_size):
    shapes = set()

    def look(carry, x, y):
        shapes.add((x.shape, y.shape))
        return carry

    fold_examples(look, jnp.zeros(()), X, Y, chunk_size=chunk_size)
    size = min(chunk_size, NUM_EXAMPLES)
    assert shapes == {((size, 2), (size,))}


def test_seen_examples_are_left_out_of_joint_counts():
    # The mark that the fold makes is one that the counting room understands.
    def count(carry, x, y):
        return carry + joint_counts(
            (x > 11).astype(jnp.int32), y, num_codes=2, num_classes=3
        )

    whole = count(0, X, Y)
    start = jnp.zeros((2, 2, 3), jnp.int32)
    for chunk_size in (4, 7):
        chunked = fold_examples(count, start, X, Y, chunk_size=chunk_size)
        np.testing.assert_array_equal(chunked, whole)
