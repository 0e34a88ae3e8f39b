"""Codes and labels become joint counts: integers, exact, on the device.

Counting is a matrix product of indicators: for each code, the count of (code, class)
for all neurons at once is ``indicator^T @ one_hot(labels)``. A float32 product counts
exactly up to 2^24, so longer inputs are summed in int32 over parts. ``fold_examples``
streams over examples that do not fit on the device; counts of parts add up.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int

_EXACT_IN_FLOAT32 = 2**24


def joint_counts(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    num_codes: int,
    num_classes: int,
) -> Int[Array, "H B C"]:
    """Counts how often each neuron's code meets each class.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C). An example with a label outside is not counted
            (chunks mark examples to leave out so).
        num_codes: B.
        num_classes: C.

    Returns:
        int32 [H, B, C], exact.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    codes, labels = jnp.asarray(codes), jnp.asarray(labels)
    if codes.ndim != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(
            "expected codes [N, H] and labels [N], got shapes "
            f"{list(codes.shape)} and {list(labels.shape)}"
        )
    parts = [
        _count(codes[start : start + _EXACT_IN_FLOAT32], part, num_codes, num_classes)
        for start in range(0, max(1, len(labels)), _EXACT_IN_FLOAT32)
        for part in [labels[start : start + _EXACT_IN_FLOAT32]]
    ]
    return sum(parts[1:], parts[0])


def _count(codes: Array, labels: Array, num_codes: int, num_classes: int) -> Array:
    """``joint_counts`` of at most 2^24 examples."""
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)

    def count_code(code: Array) -> Array:
        indicator = (codes == code).astype(jnp.float32)
        return jnp.matmul(indicator.T, one_hot, precision="highest")

    counts = jax.lax.map(count_code, jnp.arange(num_codes, dtype=codes.dtype))
    return jnp.moveaxis(counts, 0, 1).astype(jnp.int32)
