"""Information of neurons, in bits, from joint counts of code and class.

Plug-in values: the joint law is the empirical one (arXiv 1804.06679, section III). A
measure depends on counts alone, so it is tested with hand-made tables. ``0 log 0 = 0``:
empty codes and absent classes contribute nothing, and a dead neuron has entropy 0 and
mutual information 0 exactly. A divergence is right to a share of itself, however small
it is: of 10^6 examples, chance gives a few 10^-6 bits.

Limits: the plug-in mutual information of N examples is too high by about ``(B-1)(C-1) /
(2 N ln 2)`` bits, 6.5e-4 for one bit, ten classes and N = 10,000. The Miller-Madow
values are corrected for that (G. A. Miller, "Note on the bias of information
estimates", 1955), and ``permutation_null`` estimates the chance level. KL selectivity
favours rare classes: its ceiling is ``log2(1 / min_y P(y))``.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py, xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.checks import (
    check_classes,
    check_codes_and_labels,
    check_counts,
    check_integer,
    check_names,
)
from ioca_jax.measures.counts import EXACT_IN_FLOAT32, joint_counts

# Divergences that are equal agree to this share of themselves. Each is a sum of parts
# that are not negative, made of exact integers: beside 40 decimal digits its error is
# at most 5e-7 of its value, for N up to 10^8.
ROUNDING = 2.0**-20
_NATS_PER_BIT = float(np.log(2))


def _of_counts(measure: Callable[..., Array]) -> Callable[[ArrayLike], Array]:
    """A measure that refuses arrays that are not counts, compiled by shape."""
    compiled = jax.jit(measure)

    @functools.wraps(measure)
    def checked(counts: ArrayLike) -> Array:
        check_counts(counts)
        return compiled(jnp.asarray(counts, jnp.int32))

    return checked


@_of_counts
def entropy(counts: Int[Array, "*batch B C"]) -> Float[Array, "*batch"]:
    """Entropy of a neuron's code.

    ``H(T) = - sum_t P(t) log2 P(t)``

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [0, log2 B]; 0 exactly for a dead neuron, and where
        nothing was counted.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> counts = jnp.array([[20, 30], [30, 20]])  # a fair bit
        >>> float(ioca.entropy(counts))
        1.0
    """
    of_code = counts.sum(axis=-1)
    total = of_code.sum(axis=-1, keepdims=True)
    share, others = (
        part / jnp.maximum(total, 1) for part in (of_code, total - of_code)
    )
    # The logarithm of a share near 1 is that of what is missing, which is exact.
    terms = jnp.where(share > 0.5, xlog1py(share, -others), xlogy(share, share))
    return jnp.abs(jnp.sum(terms, axis=-1)) / _NATS_PER_BIT


@_of_counts
def mutual_information(counts: Int[Array, "*batch B C"]) -> Float[Array, "*batch"]:
    """Mutual information between a neuron's code and the class.

    ``I(T;Y) = H(T) - H(T|Y) = sum_y P(y) D(P(T|Y=y) || P(T))``

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [0, min(H(T), H(Y))]; 0 exactly for a dead neuron, and
        for any whose code is independent of the class.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> same, independent = [[50, 0], [0, 50]], [[25, 25], [25, 25]]
        >>> ioca.mutual_information(jnp.array([same, independent])).tolist()
        [1.0, 0.0]
    """
    of_class = counts.sum(axis=-2)
    weights = of_class / jnp.maximum(of_class.sum(axis=-1, keepdims=True), 1)
    return jnp.sum(weights * class_divergences(counts), axis=-1)


@_of_counts
def kl_selectivity(counts: Int[Array, "*batch B C"]) -> Float[Array, "*batch"]:
    """Kullback-Leibler selectivity: how far one class moves the neuron's code.

    ``max_y D(P(T|Y=y) || P(T))``, over the classes that occur.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [I(T;Y), log2(1 / min_y P(y))].

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> counts = jnp.array([[25, 25, 25, 0], [0, 0, 0, 25]])  # on for one of four
        >>> float(ioca.kl_selectivity(counts))
        2.0
    """
    return jnp.max(class_divergences(counts), axis=-1)


@_of_counts
def entropy_miller_madow(
    counts: Int[Array, "*batch B C"],
) -> Float[Array, "*batch"]:
    """``H(T) + (b - 1) / (2 N ln 2)``, with the b codes that occur among N examples.

    The bias of few examples is corrected; 0 exactly for a dead neuron.
    """
    excess = jnp.sum(counts.sum(axis=-1) > 0, axis=-1) - 1
    return entropy(counts) + _miller_madow(counts, excess)


@_of_counts
def mutual_information_miller_madow(
    counts: Int[Array, "*batch B C"],
) -> Float[Array, "*batch"]:
    """``I(T;Y) + ((b - 1) + (c - 1) - (m - 1)) / (2 N ln 2)``, less biased.

    With the b codes, c classes and m pairs of them that occur among N examples. About 0
    on average for a neuron that is independent of the class, and so sometimes negative.
    """
    codes = jnp.sum(counts.sum(axis=-1) > 0, axis=-1)
    classes = jnp.sum(counts.sum(axis=-2) > 0, axis=-1)
    pairs = jnp.sum(counts > 0, axis=(-2, -1))
    excess = codes + classes - pairs - 1
    return mutual_information(counts) + _miller_madow(counts, excess)


@_of_counts
def selective_class(counts: Int[Array, "*batch B C"]) -> Int[Array, "*batch"]:
    """The first class that attains the KL selectivity; -1 where that is 0.

    Classes within 1e-6 of the value are equal.
    """
    divergences = class_divergences(counts)
    most = divergences.max(axis=-1, keepdims=True)
    first = jnp.argmax(reaches(divergences, most, most), axis=-1).astype(jnp.int32)
    return jnp.where(most[..., 0] > 0, first, -1)


@_of_counts
def class_divergences(
    counts: Int[Array, "*batch B C"],
) -> Float[Array, "*batch C"]:
    """``D(P(T|Y=y) || P(T))`` for every class y, [..., C], bits, not negative.

    0 exactly for a class that does not occur, and where the code is independent of it.
    """
    of_code, of_class = counts.sum(axis=-1), counts.sum(axis=-2)
    share = of_code / jnp.maximum(of_code.sum(axis=-1, keepdims=True), 1)
    terms = share[..., None] * _excess(
        counts, of_code[..., None], of_class[..., None, :]
    )
    return jnp.sum(terms, axis=-2) / _NATS_PER_BIT


# Of 1/3, the polynomial's rest is 1e-8.
_COEFFICIENTS = 1 / np.arange(17, 2, -2, dtype=np.float32)


def _excess(
    table: Int[Array, "*batch B C"],
    of_code: Int[Array, "*batch B 1"],
    of_class: Int[Array, "*batch 1 C"],
) -> Float[Array, "*batch B C"]:
    """``r ln r - r + 1``, not negative, of ``r = n(t,y) N / (n(t) n(y))``.

    Weighted with P(t) these add up to the divergence, as the added terms sum to 0. Near
    1 the logarithm would cancel. With ``s = (r - 1) / (r + 1)`` and ``ln r = 2 (s + s^3
    / 3 + s^5 / 5 + ...)``, it is ``2 s^2 / (1 - s) (1 + s (1 + s) (1 / 3 + s^2 / 5 +
    ...))``.
    """
    total = of_class.sum(axis=-1, keepdims=True)
    observed = table.astype(jnp.float32) * total
    expected = of_code.astype(jnp.float32) * of_class
    difference = _difference_of_products(table, total, of_code, of_class)
    s = difference / jnp.maximum(observed + expected, 1)
    is_near = jnp.abs(s) < 1 / 3
    near = jnp.where(is_near, s, 0)
    square = jnp.square(near)
    rest = jnp.polyval(jnp.asarray(_COEFFICIENTS), square)
    series = 2 * square / (1 - near) * (1 + near * (1 + near) * rest)
    ratio = observed / jnp.maximum(expected, 1)
    return jnp.where(is_near, series, xlogy(ratio, ratio) - ratio + 1)


def _difference_of_products(a: Array, b: Array, c: Array, d: Array) -> Array:
    """``a b - c d`` of counts, exact up to its one rounding to float32.

    The products have 64 bits: a word of the high ones and a word of the low ones.
    """
    a, b, c, d = (x.astype(jnp.uint32) for x in jnp.broadcast_arrays(a, b, c, d))
    first, second = (_high_word(a, b), a * b), (_high_word(c, d), c * d)
    is_less = (first[0] < second[0]) | (first[0] == second[0]) & (first[1] < second[1])
    (high, low), (high_less, low_less) = (
        tuple(jnp.where(is_less, *pair) for pair in zip(x, y, strict=True))
        for x, y in ((second, first), (first, second))
    )
    high = high - high_less - (low < low_less)
    size = high.astype(jnp.float32) * 2.0**32 + (low - low_less).astype(jnp.float32)
    return jnp.where(is_less, -size, size)


def _high_word(a: Array, b: Array) -> Array:
    """The upper 32 bits of products of uint32.

    By halves of 16 bits: ``jax.lax.mulhi`` does not compile for several devices.
    """
    half = 0xFFFF
    a_high, a_low, b_high, b_low = a >> 16, a & half, b >> 16, b & half
    across, back = a_high * b_low, a_low * b_high
    carry = (a_low * b_low >> 16) + (across & half) + (back & half)
    return a_high * b_high + (across >> 16) + (back >> 16) + (carry >> 16)


def _miller_madow(table: Array, excess: Array) -> Array:
    """``excess / (2 N ln 2)``, bits; 0 where nothing was counted."""
    total = table.sum(axis=(-2, -1))
    return jnp.where(total > 0, excess / (2 * _NATS_PER_BIT * jnp.maximum(total, 1)), 0)


def reaches(
    values: Float[Array, "*values"],
    observed: Float[Array, "*observed"],
    scale: Float[Array, "*scale"],
) -> Bool[Array, "*result"]:
    """Whether values are as great as observed ones, up to a share of ``scale``.

    The scale is the divergence that the observed values are made of.
    """
    return values >= observed - ROUNDING * scale


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
    """Test of a measure against permuted labels, float32 [H] or, of pairs, [H, H].

    ``p_value`` is ``(b + 1) / (m + 1)`` where b of m permutations give the neuron a
    value at least as great; ``p_value_family`` compares with the greatest value of
    *any* neuron (or pair) in each permutation: corrected for their number, whatever
    their correlations. ``mean`` is the mean over permutations, the chance level.
    """

    p_value: Float[Array, "*batch"]
    p_value_family: Float[Array, "*batch"]
    mean: Float[Array, "*batch"]


class NullSums(NamedTuple):
    """Sums over permutations, a row for each measure.

    ``alone`` counts permutations that give a neuron as great a value, ``family`` those
    that give one to any neuron, and ``total`` sums the values.
    """

    alone: Int[Array, "measures *batch"]
    family: Int[Array, "measures *batch"]
    total: Float[Array, "measures *batch"]

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "NullSums":
        """Before the first permutation."""
        counts = jnp.zeros(shape, jnp.int32)
        return cls(counts, counts, jnp.zeros(shape))

    def nulls(self, measures: Sequence[str], permutations: int) -> dict[str, Null]:
        """The tests by measure."""
        alone, family = ((n + 1) / (permutations + 1) for n in self[:2])
        mean = self.total / permutations
        return dict(zip(measures, map(Null, alone, family, mean), strict=True))


_PERMUTATIONS_AT_ONCE = 16


@partial(jax.jit, static_argnames="number")
def permuted_labels(
    labels: Int[Array, " N"], key: Array, number: int
) -> Int[Array, "number N"]:
    """Labels in m random orders, the same for all that is tested."""

    def one(key: Array) -> Array:
        # Two of the 2^32 equal is rare, and then their labels keep their order.
        return jax.lax.sort_key_val(jax.random.bits(key, labels.shape), labels)[1]

    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(number))
    return jax.lax.map(one, keys, batch_size=_PERMUTATIONS_AT_ONCE)


def permuted_samples(
    y: Int[Array, "N *T"], key: Array, number: int, num_counted: int
) -> Int[Array, "number samples"]:
    """Labels of all samples, of which whole examples change places.

    Args:
        y: labels [N], or [N, T] of tokens, -1 where none counts.
        key: of the permutations.
        number: m.
        num_counted: how many labels are not -1.

    Returns:
        int32 [m, samples], of the tokens that count; -1 for a token whose place in the
        other example has no label.
    """
    if y.ndim == 1:
        return permuted_labels(y, key, number)
    order = permuted_labels(jnp.arange(len(y), dtype=jnp.int32), key, number)
    rows = jnp.flatnonzero(y.ravel() >= 0, size=num_counted)
    return jax.lax.map(lambda examples: y[examples].ravel()[rows], order)


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "measures"))
def null_of_labels(
    codes: Int[Array, "N H"],
    labels: Int[Array, " N"],
    permuted: Int[Array, "number N"],
    *,
    num_codes: int,
    num_classes: int,
    measures: tuple[str, ...],
) -> dict[str, Null]:
    """``permutation_null`` against given permutations [m, N]; -1 counts nowhere."""
    num_neurons, number = codes.shape[1], len(permuted)
    observed = joint_counts(codes, labels, num_codes=num_codes, num_classes=num_classes)
    present = jnp.arange(1, num_codes, dtype=codes.dtype)
    indicators = (codes[:, :, None] == present).astype(jnp.float32)
    indicators = indicators.reshape(len(codes), -1)
    classes = jnp.arange(num_classes, dtype=labels.dtype)[:, None]

    def measured(tables):
        return jnp.stack([MEASURES[name](tables) for name in measures])

    values = measured(observed)  # [measures, H]
    # A corrected value is a difference of two, and no nearer than they are.
    scale = jnp.abs(values) + mutual_information(observed)

    def one(shuffled):
        is_class = (shuffled == classes).astype(jnp.float32)
        met = jnp.matmul(is_class, indicators, precision="highest").astype(jnp.int32)
        met = met.T.reshape(num_neurons, num_codes - 1, num_classes)
        first = is_class.sum(axis=1).astype(jnp.int32) - met.sum(axis=1)
        null = measured(jnp.concatenate([first[:, None], met], axis=1))
        most = null.max(axis=-1, keepdims=True)
        alone, family = (reaches(x, values, scale) for x in (null, most))
        return NullSums(alone, family, null)

    def add_block(sums, block):
        found = jax.tree.map(lambda part: part.sum(axis=0), jax.vmap(one)(block))
        return jax.tree.map(jnp.add, sums, found), None

    # The largest divisor of the number up to 16, so that every block is full.
    size = max(n for n in range(1, _PERMUTATIONS_AT_ONCE + 1) if number % n == 0)
    blocks = permuted.reshape(-1, size, permuted.shape[1])
    sums, _ = jax.lax.scan(add_block, NullSums.zeros(values.shape), blocks)
    return sums.nulls(measures, number)


def permutation_null(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    *,
    num_codes: int,
    num_classes: int,
    key: Array,
    measures: Sequence[str] = ("mutual_information", "kl_selectivity"),
    permutations: int = 1000,
) -> dict[str, Null]:
    """Tests every neuron against chance: the labels are permuted, the codes stay.

    One permutation serves all neurons, so their correlations are those of the data, and
    the greatest value of a permutation is one that the whole network could have shown.
    For the false discovery rate give p-values to ``statistics.false_discovery``. At 5 %
    it never finds fewer than ``20 H / (m + 1)`` of H neurons by permutations; the law
    of ``2 N ln(2) I(T;Y)`` (``inference.neurons.independence_p_values``) has no such
    limit, but holds for independent examples only.

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
            permutations, a single class, more than 2^24 examples, a code or label out
            of range, or shapes that do not fit each other.

    Example:
        >>> import jax, numpy as np, ioca_jax as ioca
        >>> labels = np.arange(200) % 2
        >>> codes = np.stack([labels, np.arange(200) // 2 % 2], axis=1)  # one is chance
        >>> sizes = {"num_codes": 2, "num_classes": 2, "permutations": 99}
        >>> null = ioca.permutation_null(codes, labels, key=jax.random.key(0), **sizes)
        >>> null["mutual_information"].p_value.tolist()
        [0.009999999776482582, 1.0]
    """
    # Labels decide no other measure.
    check_names("measures", measures, MEASURES_OF_LABELS)
    check_permutations(permutations)
    check_codes_and_labels(codes, labels, num_codes=num_codes, num_classes=num_classes)
    codes, labels = jnp.asarray(codes), jnp.asarray(labels)
    if len(labels) > EXACT_IN_FLOAT32:
        raise ValueError(
            f"expected at most {EXACT_IN_FLOAT32} examples, which are counted exactly, "
            f"got {len(labels)}; test a part of them"
        )
    check_classes(labels)
    permuted = permuted_labels(labels, key, permutations)
    return null_of_labels(
        codes,
        labels,
        permuted,
        num_codes=num_codes,
        num_classes=num_classes,
        measures=tuple(measures),
    )


def check_permutations(permutations: int) -> None:
    """Refuses a null distribution without permutations."""
    check_integer("permutations", permutations, least=1)
