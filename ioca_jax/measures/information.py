"""Joint counts become bits: entropy, mutual information, Kullback-Leibler selectivity.

All three are plug-in values: the joint law is the empirical one (arXiv 1804.06679,
section III). A measure sees counts and nothing else, so it is tested with hand-made
tables. ``0 log 0 = 0``: empty codes and absent classes contribute nothing, and a dead
neuron has entropy 0 and mutual information 0 exactly.

Limits: the plug-in mutual information of N examples is too high by about
``(B-1)(C-1) / (2 N ln 2)`` bits, 6.5e-4 for one bit, ten classes and N = 10,000. The
Miller-Madow values are corrected for that (G. A. Miller, "Note on the bias of
information estimates", 1955), and ``permutation_null`` tells what chance alone gives.
KL selectivity favours rare classes: its ceiling is ``log2(1 / min_y P(y))``, and
``selective_class`` names the class.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.measures.counts import EXACT_IN_FLOAT32, joint_counts


def entropy(counts: Int[ArrayLike, "*batch B C"]) -> Float[Array, "*batch"]:
    """Entropy of a neuron's code.

    ``H(T) = - sum_t P(t) log2 P(t)``

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [0, log2 B]; 0 where nothing was counted.
    """
    of_code, _ = _probabilities(jnp.asarray(counts))
    return jnp.maximum(-jnp.sum(_x_log2_ratio(of_code, 1.0), axis=-1), 0)


def mutual_information(counts: Int[ArrayLike, "*batch B C"]) -> Float[Array, "*batch"]:
    """Mutual information between a neuron's code and the class.

    ``I(T;Y) = H(T) - H(T|Y) = sum_y P(y) D(P(T|Y=y) || P(T))``

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [0, min(H(T), H(Y))].
    """
    table = jnp.asarray(counts)
    of_class = table.sum(axis=-2).astype(jnp.float32)
    weights = of_class / jnp.maximum(of_class.sum(axis=-1, keepdims=True), 1)
    return jnp.sum(weights * class_divergences(table), axis=-1)


def kl_selectivity(counts: Int[ArrayLike, "*batch B C"]) -> Float[Array, "*batch"]:
    """Kullback-Leibler selectivity: how far one class moves the neuron's code.

    ``max_y D(P(T|Y=y) || P(T))``, over the classes that occur.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [I(T;Y), log2(1 / min_y P(y))].
    """
    return jnp.max(class_divergences(counts), axis=-1)


def entropy_miller_madow(
    counts: Int[ArrayLike, "*batch B C"],
) -> Float[Array, "*batch"]:
    """Entropy of a neuron's code, corrected for the examples being few.

    ``H(T) + (b - 1) / (2 N ln 2)``, with the b codes that occur among N examples.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, not negative; 0 exactly for a dead neuron.
    """
    of_code = jnp.asarray(counts).sum(axis=-1)
    return entropy(counts) + _miller_madow(of_code, axis=-1)


def mutual_information_miller_madow(
    counts: Int[ArrayLike, "*batch B C"],
) -> Float[Array, "*batch"]:
    """Mutual information with the class, corrected for the examples being few.

    ``I(T;Y) + ((b - 1) + (c - 1) - (m - 1)) / (2 N ln 2)``, with the b codes, c classes
    and m pairs of them that occur among N examples.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits; about 0 on average for a neuron that says nothing of the
        class, and so sometimes negative: the sign is kept. 0 exactly for a dead one.
    """
    table = jnp.asarray(counts)
    of_code, of_class = table.sum(axis=-1), table.sum(axis=-2)
    pairs = table.reshape(*table.shape[:-2], -1)
    correction = (
        _miller_madow(of_code, axis=-1)
        + _miller_madow(of_class, axis=-1)
        - _miller_madow(pairs, axis=-1)
    )
    return mutual_information(table) + correction


def selective_class(counts: Int[ArrayLike, "*batch B C"]) -> Int[Array, "*batch"]:
    """The class that attains the Kullback-Leibler selectivity.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        int32 [...] in [0, C), the first of equal ones; -1 where the selectivity is 0.
    """
    divergences = class_divergences(counts)
    best = jnp.argmax(divergences, axis=-1).astype(jnp.int32)
    return jnp.where(divergences.max(axis=-1) > 0, best, -1)


def class_divergences(
    counts: Int[ArrayLike, "*batch B C"],
) -> Float[Array, "*batch C"]:
    """``D(P(T|Y=y) || P(T))`` for every class y.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [..., C], bits, not negative; 0 for a class that does not occur.
    """
    of_code, given_class = _probabilities(jnp.asarray(counts))
    terms = _x_log2_ratio(given_class, of_code[..., None])
    return jnp.maximum(jnp.sum(terms, axis=-2), 0)


def _probabilities(counts: Array) -> tuple[Array, Array]:
    """P(t) [..., B] and P(t|y) [..., B, C]; zeros where nothing was counted."""
    of_class = counts.sum(axis=-2, keepdims=True).astype(jnp.float32)
    of_code = counts.sum(axis=-1).astype(jnp.float32)
    total = of_code.sum(axis=-1, keepdims=True)
    given_class = counts.astype(jnp.float32) / jnp.maximum(of_class, 1)
    return of_code / jnp.maximum(total, 1), given_class


def _x_log2_ratio(x: Array, y: Array | float) -> Array:
    """``x log2(x / y)``, 0 where x is 0 (there y may be 0 too)."""
    occurs = x > 0
    ratio = jnp.where(occurs, x, 1) / jnp.where(occurs, y, 1)
    return jnp.where(occurs, x * jnp.log2(ratio), 0)


def _miller_madow(counts: Array, axis: int) -> Array:
    """The bias of a plug-in entropy with its sign turned, bits."""
    occur = jnp.sum(counts > 0, axis=axis)
    total = jnp.sum(counts, axis=axis)
    bits = (occur - 1) / (2 * np.log(2) * jnp.maximum(total, 1))
    return jnp.maximum(bits, 0).astype(jnp.float32)


PAPER_MEASURES = {
    "entropy": entropy,
    "mutual_information": mutual_information,
    "kl_selectivity": kl_selectivity,
}
MEASURES = PAPER_MEASURES | {
    "entropy_miller_madow": entropy_miller_madow,
    "mutual_information_miller_madow": mutual_information_miller_madow,
}
# Those that labels decide: the others are the same whatever the labels.
MEASURES_OF_LABELS = tuple(name for name in MEASURES if "entropy" not in name)


class Null(NamedTuple):
    """How often permuted labels give a measure as great as the one observed.

    Attributes:
        p_value: float32 [H], of each neuron alone: ``(b + 1) / (m + 1)`` where b of m
            permutations give the neuron as much. Never 0.
        p_value_family: float32 [H], the same against the greatest value of *any* neuron
            in each permutation: corrected for looking at H neurons, whatever their
            correlations.
        mean: float32 [H], the measure's mean over permutations: what chance gives.
    """

    p_value: Float[Array, " H"]
    p_value_family: Float[Array, " H"]
    mean: Float[Array, " H"]


# Equal tables give equal values; what a program's order of summing differs by is less.
_EQUAL_BITS = 1e-6
_PERMUTATIONS_AT_ONCE = 16


@partial(jax.jit, static_argnames="number")
def permuted_labels(
    labels: Int[Array, " N"], key: Array, number: int
) -> Int[Array, "number N"]:
    """Labels in random orders, drawn once for all that is tested against them.

    Args:
        labels: int32 [N] in [0, C).
        key: of the draws.
        number: m.

    Returns:
        int32 [m, N].
    """

    def one(key: Array) -> Array:
        # Two of the 2^32 equal is rare, and then their labels keep their order.
        return jax.lax.sort_key_val(jax.random.bits(key, labels.shape), labels)[1]

    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(number))
    return jax.lax.map(one, keys, batch_size=_PERMUTATIONS_AT_ONCE)


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "measures"))
def null_of_labels(
    codes: Int[Array, "N H"],
    labels: Int[Array, " N"],
    permuted: Int[Array, "number N"],
    num_codes: int,
    num_classes: int,
    measures: tuple[str, ...],
) -> dict[str, Null]:
    """``permutation_null`` against permutations that are given.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        permuted: int32 [m, N] out of ``permuted_labels``.
        num_codes: B.
        num_classes: C.
        measures: names out of ``MEASURES_OF_LABELS``.

    Returns:
        As ``permutation_null``.
    """
    num_neurons, number = codes.shape[1], len(permuted)
    observed = joint_counts(codes, labels, num_codes, num_classes)
    present = jnp.arange(1, num_codes, dtype=codes.dtype)
    indicators = (codes[:, :, None] == present).astype(jnp.float32)
    indicators = indicators.reshape(len(codes), -1)
    classes = jnp.arange(num_classes, dtype=labels.dtype)[:, None]

    def measured(tables):
        return jnp.stack([MEASURES[name](tables) for name in measures])

    values = measured(observed)  # [measures, H]

    def one(shuffled):
        is_class = (shuffled == classes).astype(jnp.float32)
        met = jnp.matmul(is_class, indicators, precision="highest").astype(jnp.int32)
        met = met.T.reshape(num_neurons, num_codes - 1, num_classes)
        first = observed.sum(axis=1) - met.sum(axis=1)
        null = measured(jnp.concatenate([first[:, None], met], axis=1))
        least = values - _EQUAL_BITS
        most = null.max(axis=-1, keepdims=True)
        return null >= least, most >= least, null

    def add_block(carry, block):
        counted = [part.sum(axis=0) for part in jax.vmap(one)(block)]
        return jax.tree.map(jnp.add, carry, tuple(counted)), None

    # As many at once as divide the number, so that none is a special case.
    size = max(n for n in range(1, _PERMUTATIONS_AT_ONCE + 1) if number % n == 0)
    blocks = permuted.reshape(-1, size, permuted.shape[1])
    zeros = jnp.zeros(values.shape, jnp.int32)
    (alone, family, total), _ = jax.lax.scan(
        add_block, (zeros, zeros, jnp.zeros(values.shape)), blocks
    )
    p_values = [(count + 1) / (number + 1) for count in (alone, family)]
    return {
        name: Null(p_values[0][index], p_values[1][index], total[index] / number)
        for index, name in enumerate(measures)
    }


def permutation_null(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    num_codes: int,
    num_classes: int,
    *,
    key: Array,
    measures: Sequence[str] = ("mutual_information", "kl_selectivity"),
    permutations: int = 1000,
) -> dict[str, Null]:
    """Tests every neuron against chance: the labels are permuted, the codes stay.

    One permutation serves all neurons, so their correlations are those of the data, and
    the greatest value of a permutation is one that the whole network could have shown.
    Under chance, ``2 N ln(2) I(T;Y)`` of one neuron is about chi-square with
    ``(B-1)(C-1)`` degrees of freedom. For the false discovery rate give ``p_value`` to
    ``statistics.false_discovery``.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        num_codes: B.
        num_classes: C.
        key: of the permutations; the same key gives the same ones.
        measures: names out of ``MEASURES_OF_LABELS``.
        permutations: m, at least 1; the least p-value is 1 / (m + 1).

    Returns:
        By measure, p-values and the mean under chance. Holds [N, H (B-1)] float32.

    Raises:
        ValueError: an unknown measure, or one that labels do not change, no
            permutations, a single class, more than 2^24 examples, or shapes that do not
            fit each other.
    """
    unfit = [name for name in measures if name not in MEASURES_OF_LABELS]
    if unfit or not measures:
        raise ValueError(
            f"measures: expected some of {', '.join(MEASURES_OF_LABELS)}, which labels "
            f"decide, got {', '.join(map(repr, unfit)) or 'none'}"
        )
    check_permutations(permutations)
    codes, labels = jnp.asarray(codes), jnp.asarray(labels)
    if len(labels) > EXACT_IN_FLOAT32:
        raise ValueError(
            f"expected at most {EXACT_IN_FLOAT32} examples, which are counted exactly, "
            f"got {len(labels)}; test a part of them"
        )
    check_classes(labels)
    permuted = permuted_labels(labels, key, permutations)
    return null_of_labels(
        codes, labels, permuted, num_codes, num_classes, tuple(measures)
    )


def check_permutations(permutations: int) -> None:
    """Refuses a null without permutations.

    Args:
        permutations: m.

    Raises:
        ValueError: fewer than one.
    """
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")


def check_classes(labels: Int[ArrayLike, " N"]) -> None:
    """Refuses labels that are all the same, of which nothing can be known.

    Args:
        labels: int32 [N]; not looked at while tracing.

    Raises:
        ValueError: fewer than two classes.
    """
    if isinstance(labels, Tracer):
        return
    present = np.unique(np.asarray(labels))
    if len(present) < 2:
        raise ValueError(
            "labels: expected examples of two classes or more, got "
            f"{f'only class {present[0]}' if len(present) else 'no examples'}; "
            "information on the class needs classes to tell apart"
        )
