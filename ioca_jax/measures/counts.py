"""Codes and labels become joint counts: integers, exact, on the device.

Counting is a matrix product of indicators: for each code, the count of (code, class)
for all neurons at once is ``indicator^T @ one_hot(labels)``. A float32 product counts
exactly up to 2^24, so longer inputs are summed in int32 over parts. ``fold_examples``
streams over examples that do not fit on the device; counts of parts add up.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from ioca_jax.checks import check_codes_and_labels

EXACT_IN_FLOAT32 = 2**24


def joint_counts(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    *,
    num_codes: int,
    num_classes: int,
) -> Int[Array, "H B C"]:
    """Counts how often each neuron's code meets each class.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C). While tracing, an example with a label outside is
            not counted (chunks mark examples to leave out so).
        num_codes: B.
        num_classes: C, at least 2.

    Returns:
        int32 [H, B, C], exact.

    Raises:
        ValueError: codes or labels that are not integers, or out of range where they
            are known; a single class; shapes that do not fit each other.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> codes, labels = jnp.array([[0], [1], [1], [1]]), jnp.array([0, 0, 1, 1])
        >>> ioca.joint_counts(codes, labels, num_codes=2, num_classes=2)[0].tolist()
        [[1, 0], [1, 2]]
    """
    check_codes_and_labels(codes, labels, num_codes=num_codes, num_classes=num_classes)
    codes, labels = jnp.asarray(codes, jnp.int32), jnp.asarray(labels, jnp.int32)
    parts = [
        _count(codes[start : start + EXACT_IN_FLOAT32], part, num_codes, num_classes)
        for start in range(0, max(1, len(labels)), EXACT_IN_FLOAT32)
        for part in [labels[start : start + EXACT_IN_FLOAT32]]
    ]
    return sum(parts[1:], parts[0])


def _count(codes: Array, labels: Array, num_codes: int, num_classes: int) -> Array:
    """``joint_counts`` of at most 2^24 examples."""
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)

    def count_code(code: Array) -> Array:
        indicator = (codes == code).astype(jnp.float32)
        return jnp.matmul(indicator.T, one_hot, precision="highest")

    # What is not counted under another code is counted under code 0.
    others = jnp.arange(1, num_codes, dtype=codes.dtype)
    if num_codes == 2:  # no loop, so that XLA fuses the indicator with what made it
        others = count_code(others[0])[None]
    else:
        others = jax.lax.map(count_code, others)
    none = one_hot.sum(axis=0) - others.sum(axis=0)
    counts = jnp.concatenate([none[None], others])
    return jnp.moveaxis(counts, 0, 1).astype(jnp.int32)


_EXAMPLES_IN_A_BLOCK = 512


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def pair_counts(
    codes: Int[Array, "N H"],
    labels: Int[Array, " N"],
    *,
    num_codes: int,
    num_classes: int,
) -> Int[Array, "H H pair_codes C"]:
    """Joint counts [H, H, B*B, C] of the codes of each pair of neurons and the class.

    The joint code of neurons i and j is ``code_i * B + code_j``, so that
    ``mutual_information`` of the result is I(Ti,Tj;Y) of all pairs. Indicators of the
    codes but 0 are multiplied class by class, in blocks of examples sorted by class;
    counts of code 0 follow from the margins. Exact for N up to 2^24 in each class.
    """
    num_examples, num_neurons = codes.shape
    by_class = jnp.argsort(labels)
    starts = jnp.searchsorted(labels[by_class], jnp.arange(num_classes + 1))
    sizes = jnp.diff(starts)
    size = min(_EXAMPLES_IN_A_BLOCK, num_examples)
    blocks_before = jnp.cumulative_sum(-(-sizes // size), include_initial=True)

    codes = codes[by_class]
    present = jnp.arange(1, num_codes, dtype=codes.dtype)
    indicators = (codes[:, :, None] == present).astype(jnp.float32)
    indicators = indicators.reshape(num_examples, -1)

    def add_block(carry, block):
        pairs, singles = carry
        label = jnp.searchsorted(blocks_before, block, side="right") - 1
        label = jnp.minimum(label, num_classes - 1)
        start = starts[label] + (block - blocks_before[label]) * size
        end = jnp.where(block < blocks_before[-1], starts[label + 1], 0)
        # A slice that would leave the array is moved back: count by position.
        first = jnp.minimum(start, num_examples - size)
        position = first + jnp.arange(size)
        counted = ((position >= start) & (position < end)).astype(jnp.float32)
        here = jax.lax.dynamic_slice_in_dim(indicators, first, size)
        here = here * counted[:, None]
        product = jnp.matmul(here.T, here, precision="highest")
        return (
            pairs.at[label].add(product.astype(jnp.int32)),
            singles.at[label].add(here.sum(axis=0).astype(jnp.int32)),
        ), None

    width = indicators.shape[1]
    zeros = (
        jnp.zeros((num_classes, width, width), jnp.int32),
        jnp.zeros((num_classes, width), jnp.int32),
    )
    most_blocks = -(-num_examples // size) + num_classes
    (pairs, singles), _ = jax.lax.scan(add_block, zeros, jnp.arange(most_blocks))

    pairs = pairs.reshape(num_classes, num_neurons, -1, num_neurons, num_codes - 1)
    singles = singles.reshape(num_classes, num_neurons, -1)
    shape = (num_classes, num_neurons, num_codes - 1, num_neurons)
    code_of_i = jnp.broadcast_to(singles[:, :, :, None], shape) - pairs.sum(axis=4)
    pairs = jnp.concatenate([code_of_i[..., None], pairs], axis=4)
    of_j = jnp.concatenate([(sizes[:, None] - singles.sum(2))[..., None], singles], 2)
    code_0_of_i = of_j[:, None] - pairs.sum(axis=2)
    pairs = jnp.concatenate([code_0_of_i[:, :, None], pairs], axis=2)
    # [C, H, B, H, B] to [H, H, B*B, C]
    pairs = pairs.transpose(1, 3, 2, 4, 0)
    return pairs.reshape(num_neurons, num_neurons, num_codes**2, num_classes)
