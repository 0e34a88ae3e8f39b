"""A whole layer: entropy of its quantised output, and information about the class."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.groups import (
    count_cells,
    joint_code,
    joint_table,
    possible_codes,
    supported_codes,
)
from ioca_jax.measures.information import entropy, mutual_information_miller_madow
from ioca_jax.measures.pairs import EXAMPLES_PER_CELL, checked_codes


class LayerInformation(NamedTuple):
    """Information of the joint code of a whole layer.

    Attributes: cells: pairs of joint code and class that occur. entropy: bits, plug-in:
    of N examples at most ``log2 N``, which it reaches where every example has a code of
    its own. information_miller_madow: bits, ``I(T;Y)``; NaN where there are fewer than
    ``EXAMPLES_PER_CELL`` examples for a cell, as in most layers. information_decoded:
    bits, that part of ``I(T;Y)`` which a naive Bayes decoder recovers: a lower bound
    but for the error of estimating it from N examples.
    """

    cells: Int[Array, ""]
    entropy: Float[Array, ""]
    information_miller_madow: Float[Array, ""]
    information_decoded: Float[Array, ""]


def layer_information(
    codes: Int[ArrayLike, "N n"],
    labels: Int[ArrayLike, " N"],
    *,
    num_codes: int,
    num_classes: int,
) -> LayerInformation:
    """Joint entropy of a layer's codes [N, n], and their information about the class.

    Joint codes of a layer mostly occur once, so its information cannot be estimated
    from counts. It can be bounded from below: a function of the code has no more
    information about the class than the code (data processing). Here the function is
    the class that naive Bayes decoders predict, each fitted to one half of the examples
    and applied to the other.
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    if len(labels) < 2:
        raise ValueError("expected at least 2 examples, one to decode, got 1")
    return _layer_information(codes, labels, num_codes, num_classes)


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _layer_information(codes, labels, num_codes, num_classes):
    code = joint_code(codes, num_codes)
    cells = count_cells(code, labels, num_classes)
    # A sample may have as many codes as examples, whatever it can support.
    most = possible_codes(num_codes, codes.shape[1], len(labels))
    whole = jnp.zeros((most, 1), jnp.int32).at[code, 0].add(1, mode="drop")
    size = supported_codes(codes, codes.shape[1], num_codes)
    table = joint_table(code, labels, size, num_classes)
    supported = cells * EXAMPLES_PER_CELL <= len(labels)
    return LayerInformation(
        cells,
        entropy(whole),
        jnp.where(supported, mutual_information_miller_madow(table), jnp.nan),
        _decoded_information(codes, labels, num_codes, num_classes),
    )


def _decoded_information(codes, labels, num_codes, num_classes) -> Float[Array, ""]:
    """Mean over both halves of the information that is decoded."""
    # Every other one: examples may be sorted by class.
    parts = [(codes[start::2], labels[start::2]) for start in (0, 1)]
    bits = []
    for fitted, asked in (parts, parts[::-1]):
        counts = joint_counts(*fitted, num_codes=num_codes, num_classes=num_classes)
        counts = counts + 1.0  # Laplace's rule
        given_class = jnp.log(counts / counts.sum(axis=1, keepdims=True))
        frequency = jnp.bincount(fitted[1], length=num_classes) + 1.0
        score = jnp.log(frequency) + sum(
            jnp.matmul(
                (asked[0] == code).astype(jnp.float32),
                given_class[:, code],
                precision="highest",
            )
            for code in range(num_codes)
        )
        named = jnp.argmax(score, axis=1)
        table = joint_table(named, asked[1], num_classes, num_classes)
        bits.append(mutual_information_miller_madow(table))
    return (bits[0] + bits[1]) / 2
