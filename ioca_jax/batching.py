"""Examples in chunks of one static shape, none dropped and none counted twice.

A dataset's activations need not fit on the device at once: a fold over chunks carries
sums. Where the chunk size does not divide N, the last chunk overlaps the one before it,
and examples that were counted already have the label -1; so no padded copy of the
examples is made and nothing recompiles.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Carry = TypeVar("Carry")

IGNORE_LABEL = -1  # the label of an example that an earlier chunk has accounted for


def fold_examples(
    step: Callable[[Carry, Any, Int[Array, "n *T"]], Carry],
    carry: Carry,
    x: Any,
    y: Int[Array, "N *T"],
    *,
    chunk_size: int,
) -> Carry:
    """Folds a function over chunks of at most ``chunk_size`` examples.

    ``x`` is an array of examples [N, ...], or a pytree of such. ``step`` takes the
    carry, a chunk's examples and its labels, and must leave out examples whose label is
    ``IGNORE_LABEL``.
    """
    num_examples = len(y)
    chunks = -(-num_examples // chunk_size)
    size = -(-num_examples // chunks)  # all alike, so that few examples come twice

    def body(carry: Carry, index: Array) -> tuple[Carry, None]:
        first_new = index * size
        start = jnp.minimum(first_new, num_examples - size)
        x_chunk, y_chunk = jax.tree.map(
            lambda array: jax.lax.dynamic_slice_in_dim(array, start, size), (x, y)
        )
        is_new = start + jnp.arange(size) >= first_new
        is_new = is_new.reshape(-1, *[1] * (y.ndim - 1))
        return step(carry, x_chunk, jnp.where(is_new, y_chunk, IGNORE_LABEL)), None

    return jax.lax.scan(body, carry, jnp.arange(chunks))[0]


def count_examples(x: Any) -> int:
    """N, of an array of examples [N, ...] or a pytree of such."""
    return len(jax.tree.leaves(x)[0])


def count_labels(y: Any) -> Any:
    """How many labels count: N of [N]; of [N, T] those that are not -1."""
    return len(y) if y.ndim == 1 else (y != IGNORE_LABEL).sum()


def counted_examples(y: Any) -> Any:
    """bool [N]: the examples with a label that counts."""
    return y != IGNORE_LABEL if y.ndim == 1 else (y != IGNORE_LABEL).any(axis=1)


def samples_of(values: Array, y: Array, number: int | None = None) -> tuple:
    """Values and labels of all samples: of examples, or of their tokens.

    Args:
        values: [N, n], or [N, T, n] of tokens.
        y: labels [N] or [N, T].
        number: of labels [N, T] that are not -1; None leaves tokens with -1 in.

    Returns:
        Values [samples, n], and labels [samples].
    """
    if y.ndim == 1:
        return values, y
    values, labels = values.reshape(-1, values.shape[-1]), y.ravel()
    if number is None:
        return values, labels
    rows = jnp.flatnonzero(labels != IGNORE_LABEL, size=number)
    return values[rows], labels[rows]


def take_examples(x: Any, where: Any) -> Any:
    """Some of the examples: a slice, or indices."""
    return jax.tree.map(lambda leaf: leaf[where], x)


def numbers_in_example(x: Any) -> int:
    """How many numbers one example has."""
    return sum(leaf[0].size for leaf in jax.tree.leaves(x))


def number_that_fits(memory_gb: float, floats: int, most: int) -> int:
    """How many times ``floats`` float32 fit into a budget: at least 1."""
    return max(1, min(most, int(memory_gb * 1e9 / (4 * floats))))
