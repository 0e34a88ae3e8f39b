"""Examples in chunks of one static shape, none dropped and none counted twice.

A whole dataset's activations need not fit on the device at once: a fold over chunks
carries sums. Where the chunk size does not divide N, the last chunk overlaps the one
before it, and the examples seen already carry the label -1; so no padded copy of the
images is made and nothing recompiles.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

Carry = TypeVar("Carry")

IGNORE_LABEL = -1  # the label of an example that an earlier chunk has accounted for


def fold_examples(
    step: Callable[[Carry, Num[Array, "n *shape"], Int[Array, " n"]], Carry],
    carry: Carry,
    x: Num[Array, "N *shape"],
    y: Int[Array, " N"],
    *,
    chunk_size: int,
) -> Carry:
    """Folds a function over chunks of examples.

    Args:
        step: takes the carry, the chunk's examples [n, ...] and labels [n], and returns
            the carry. It must leave out examples whose label is ``IGNORE_LABEL``.
        carry: the first carry, a pytree of arrays.
        x: examples [N, ...].
        y: labels [N], none negative.
        chunk_size: n, at least 1; more than N is N.

    Returns:
        The last carry.
    """
    num_examples = len(y)
    size = min(chunk_size, num_examples)

    def body(carry: Carry, index: Array) -> tuple[Carry, None]:
        first_new = index * size
        start = jnp.minimum(first_new, num_examples - size)
        x_chunk = jax.lax.dynamic_slice_in_dim(x, start, size)
        y_chunk = jax.lax.dynamic_slice_in_dim(y, start, size)
        is_new = start + jnp.arange(size) >= first_new
        return step(carry, x_chunk, jnp.where(is_new, y_chunk, IGNORE_LABEL)), None

    return jax.lax.scan(body, carry, jnp.arange(-(-num_examples // size)))[0]
