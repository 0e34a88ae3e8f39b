"""Neurons alone and together: redundancy and synergy, from counts and by ablation.

Two neurons are redundant where they say the same of the class, and synergistic where
together they say what neither says alone. The informational side reads that off joint
counts of codes and classes: co-information, and the partial information decomposition
(P. Williams and R. Beer, arXiv 1004.2515) under three measures that disagree, so each
has its name: ``i_min`` (Williams and Beer), ``mmi`` (the lesser of two mutual
informations; A. Barrett, arXiv 1411.2832) and BROJA (N. Bertschinger et al., arXiv
1311.4369). The interventional side ablates: what two ablations cost together beyond
what they cost one by one.

One sign everywhere: **positive speaks for redundancy, negative for synergy**, in
co-information, in O-information and in ``PairEffects``.

Limits. Joint quantities are biased upwards where cells are many and examples few, and
co-information and O-information towards synergy. So each has a Miller-Madow value and a
null of permuted labels beside it, and an estimate is refused below
``EXAMPLES_PER_CELL`` = 5 examples for each cell of joint code and class. Why five: the
plug-in bias is about ``cells / (2 N ln 2)`` bits, then at most 0.15; Miller-Madow takes
away its first order, and the rest falls as ``(cells / N)^2``. Measured on seven or
eight one-bit neurons with 1.6 to 2.2 bits on ten classes, a corrected value was 0.11
bits too high with five examples for a cell, 0.05 with ten, 0.01 with thirteen. With
fewer most cells are seen once or never, and no correction helps. Groups count the cells
that *occur*, as Miller-Madow does: the codes of a layer are far fewer than their
alphabet. All pairs share one table, so there it is the alphabet's ``B B C`` cells.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
import threadpoolctl
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.evaluation import right_and_losses
from ioca_jax.batching import SEEN, fold_examples
from ioca_jax.checks import (
    check_clamp,
    check_classes,
    check_codes_and_labels,
    check_counts,
    check_examples,
    check_names,
)
from ioca_jax.devices import sum_over_examples
from ioca_jax.measures.counts import EXACT_IN_FLOAT32, joint_counts, pair_counts
from ioca_jax.measures.information import (
    check_permutations,
    class_divergences,
    entropy,
    entropy_miller_madow,
    mutual_information,
    mutual_information_miller_madow,
    permuted_labels,
    reaches,
)
from ioca_jax.networks.mlp import (
    MLP,
    activate,
    folded_layers,
    multiply,
    pre_activations,
)

EXAMPLES_PER_CELL = 5

# Pairs, informational -----------------------------------------------------------------

PAIR_MEASURES = (
    "joint_information",
    "co_information",
    "redundancy_i_min",
    "unique_i_min",
    "synergy_i_min",
    "redundancy_mmi",
    "unique_mmi",
    "synergy_mmi",
    "joint_information_miller_madow",
    "co_information_miller_madow",
    "redundancy_mmi_miller_madow",
    "unique_mmi_miller_madow",
    "synergy_mmi_miller_madow",
)


def pair_values(
    counts: Int[ArrayLike, "*batch pair_codes C"],
) -> dict[str, Float[Array, "*batch"]]:
    """What two neurons say of the class, alone and together.

    - ``joint_information``: ``I(Ti,Tj;Y)``.
    - ``co_information``: ``I(Ti;Y) + I(Tj;Y) - I(Ti,Tj;Y)``, redundancy less synergy
      under any decomposition. Positive: redundancy dominates; negative: synergy does.
    - ``redundancy_i_min``: ``sum_y P(y) min(D_i(y), D_j(y))`` with ``D_i(y)`` the
      divergence ``D(P(Ti|Y=y) || P(Ti))``, the specific information of Williams and
      Beer. ``redundancy_mmi``: ``min(I(Ti;Y), I(Tj;Y))``.
    - ``unique_...``: of the first neuron, ``I(Ti;Y)`` less the redundancy.
    - ``synergy_...``: redundancy less co-information: what only both say.

    Names that end in ``miller_madow`` are made of corrected mutual informations. There
    is none for ``i_min``: its minimum is taken class by class, and the correction is of
    the whole. What is not used of the result, ``jit`` leaves out.

    Args:
        counts: int32 [..., B*B, C] joint counts of ``code_i * B + code_j`` and class.

    Returns:
        By name out of ``PAIR_MEASURES``, float32 [...], bits. Plug-in values but
        co-information are not negative; corrected ones may be.

    Raises:
        ValueError: a number of pair codes that is no square.

    Source:
        P. Williams and R. Beer, arXiv 1004.2515, section 4; A. Barrett, arXiv
        1411.2832.
    """
    check_counts(counts)
    table = jnp.asarray(counts, jnp.int32)
    first, second = _tables_of_each(table)
    bits = {}
    for suffix, information in (
        ("", mutual_information),
        ("_miller_madow", mutual_information_miller_madow),
    ):
        of_first, of_second, joint = map(information, (first, second, table))
        co_information = of_first + of_second - joint
        bits["joint_information" + suffix] = joint
        bits["co_information" + suffix] = co_information
        redundancies = {"mmi": jnp.minimum(of_first, of_second)}
        if not suffix:
            redundancies["i_min"] = _i_min(first, second)
        for name, redundancy in redundancies.items():
            # A corrected value keeps its sign; below 0 a plug-in value is rounding.
            least = -jnp.inf if suffix else 0.0
            bits[f"redundancy_{name}{suffix}"] = redundancy
            bits[f"unique_{name}{suffix}"] = jnp.maximum(of_first - redundancy, least)
            bits[f"synergy_{name}{suffix}"] = jnp.maximum(
                redundancy - co_information, least
            )
    return {name: bits[name] for name in PAIR_MEASURES}


def _tables_of_each(table: Array) -> tuple[Array, Array]:
    """Counts [..., B, C] of the first and of the second neuron of pairs."""
    num_codes = math.isqrt(table.shape[-2])
    if num_codes**2 != table.shape[-2]:
        raise ValueError(
            "counts: expected int32 [..., B*B, C], the codes of a pair and the "
            f"classes, got shape {list(table.shape)}"
        )
    both = table.reshape(*table.shape[:-2], num_codes, num_codes, table.shape[-1])
    return both.sum(axis=-2), both.sum(axis=-3)


def _i_min(first: Array, second: Array) -> Array:
    """The redundancy of Williams and Beer, of counts [..., B, C]."""
    of_class = first.sum(axis=-2).astype(jnp.float32)
    weights = of_class / jnp.maximum(of_class.sum(axis=-1, keepdims=True), 1)
    least = jnp.minimum(class_divergences(first), class_divergences(second))
    return jnp.sum(weights * least, axis=-1)


def pair_information(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    *,
    num_codes: int,
    num_classes: int,
    measures: Sequence[str] = PAIR_MEASURES,
    memory_gb: float = 1.0,
) -> dict[str, Float[Array, "H H"]]:
    """Redundancy and synergy of all pairs of neurons, within and across layers.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        num_codes: B.
        num_classes: C.
        measures: names out of ``PAIR_MEASURES``.
        memory_gb: bounds what is held at once; counts are ``4 H^2 B^2 C`` bytes, and
            some copies of them are made.

    Returns:
        By measure, float32 [H, H], bits, as ``pair_values`` says; row i, column j is
        the pair (i, j). All are symmetric but ``unique_...``, what neuron i says that
        neuron j does not. The diagonal is a neuron with a copy of itself.

    Raises:
        ValueError: an unknown measure, too many codes for the examples or the budget, a
            code out of range, a single class, or shapes that do not fit each other.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    check_names("measures", measures, PAIR_MEASURES)
    _check_pairs_supported(len(labels), num_codes, num_classes)
    rows = _rows_at_once(codes.shape[1], num_codes, num_classes, memory_gb)
    return _pair_information(
        codes, labels, num_codes, num_classes, tuple(measures), rows
    )


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "names", "rows"))
def _pair_information(codes, labels, num_codes, num_classes, names, rows):
    counts = pair_counts(codes, labels, num_codes=num_codes, num_classes=num_classes)

    def of_row(row):
        bits = pair_values(row)
        return {name: bits[name] for name in names}

    return jax.lax.map(of_row, counts, batch_size=rows)


class PairNull(NamedTuple):
    """How often permuted labels give a pair of neurons a value as great.

    Attributes:
        p_value: float32 [H, H], of each pair alone: ``(b + 1) / (m + 1)`` where b of m
            permutations give the pair as much. Never 0; NaN on the diagonal.
        p_value_family: float32 [H, H], the same against the greatest value of *any*
            pair in each permutation: corrected for looking at all pairs.
        mean: float32 [H, H], bits, the mean over permutations: what chance gives.
    """

    p_value: Float[Array, "H H"]
    p_value_family: Float[Array, "H H"]
    mean: Float[Array, "H H"]


def pair_null(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    *,
    num_codes: int,
    num_classes: int,
    key: Array,
    measures: Sequence[str] = ("co_information", "redundancy_mmi", "synergy_mmi"),
    permutations: int = 200,
    memory_gb: float = 1.0,
) -> dict[str, PairNull]:
    """Tests all pairs of neurons against chance: the labels are permuted.

    One permutation serves all pairs, so their correlations are those of the data.
    Tested is that labels say nothing of either neuron: two neurons that say independent
    things of the class also show some redundancy by ``mmi`` and ``i_min``, and it is
    significant. Co-information is compared by its magnitude, for it has either sign.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        num_codes: B.
        num_classes: C.
        key: of the permutations; the same key gives the same ones.
        measures: names out of ``PAIR_MEASURES``.
        permutations: m, at least 1; the least p-value is 1 / (m + 1).
        memory_gb: as in ``pair_information``.

    Returns:
        By measure, p-values and the mean under chance.

    Raises:
        ValueError: as ``pair_information``, or no permutations.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    check_names("measures", measures, PAIR_MEASURES)
    check_permutations(permutations)
    _check_pairs_supported(len(labels), num_codes, num_classes)
    rows = _rows_at_once(codes.shape[1], num_codes, num_classes, memory_gb)
    permuted = permuted_labels(labels, key, permutations)
    return _pair_null(
        codes, labels, permuted, num_codes, num_classes, tuple(measures), rows
    )


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "names", "rows"))
def _pair_null(codes, labels, permuted, num_codes, num_classes, names, rows):
    is_pair = ~jnp.eye(codes.shape[1], dtype=bool)

    # What all values are made of, and to a share of which they are right.
    kept = (*names, "joint_information")

    def measured(labels):
        bits = _pair_information(codes, labels, num_codes, num_classes, kept, rows)
        values = jnp.stack([bits[name] for name in names])  # [measures, H, H]
        return values, bits["joint_information"]

    signed = [name.startswith("co_information") for name in names]
    signed = jnp.asarray(signed)[:, None, None]

    def compared(bits):
        return jnp.where(is_pair, jnp.where(signed, jnp.abs(bits), bits), -jnp.inf)

    bits, joint = measured(labels)
    observed, scale = compared(bits), jnp.abs(bits) + joint

    def add(carry, shuffled):
        bits, _ = measured(shuffled)
        null = compared(bits)
        most = null.max(axis=(1, 2), keepdims=True)
        as_great = (reaches(x, observed, scale) for x in (null, most))
        return jax.tree.map(jnp.add, carry, (*as_great, bits)), None

    zeros = jnp.zeros(observed.shape, jnp.int32)
    carry = (zeros, zeros, jnp.zeros(observed.shape))
    (alone, family, total), _ = jax.lax.scan(add, carry, permuted)
    number = len(permuted)
    p_values = [
        jnp.where(is_pair, (count + 1) / (number + 1), jnp.nan)
        for count in (alone, family)
    ]
    return {
        name: PairNull(p_values[0][index], p_values[1][index], total[index] / number)
        for index, name in enumerate(names)
    }


def pair_tables(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    pairs: Int[ArrayLike, "P 2"],
    *,
    num_codes: int,
    num_classes: int,
) -> Int[Array, "P pair_codes C"]:
    """Joint counts of chosen pairs, for ``pair_values`` and ``broja``.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        pairs: int32 [P, 2] neurons.
        num_codes: B.
        num_classes: C.

    Returns:
        int32 [P, B*B, C]; the code of a pair is ``code_i * B + code_j``.

    Raises:
        ValueError: pairs out of range or of one neuron, a code out of range, a single
            class, or shapes that do not fit each other.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    pairs = _checked_groups("pairs", pairs, codes.shape[1], size=2)
    both = codes[:, pairs[:, 0]] * num_codes + codes[:, pairs[:, 1]]
    return joint_counts(both, labels, num_codes=num_codes**2, num_classes=num_classes)


class Decomposition(NamedTuple):
    """What two neurons say of the class, in four parts that add up to I(Ti,Tj;Y).

    Attributes:
        redundancy: float64 [P], bits, what both say.
        unique_first: float64 [P], bits, what only the first says.
        unique_second: float64 [P], bits, what only the second says.
        synergy: float64 [P], bits, what neither says alone.
        gap: float64 [P], bits: no part is further than this from its exact value.
    """

    redundancy: Float[np.ndarray, " P"]
    unique_first: Float[np.ndarray, " P"]
    unique_second: Float[np.ndarray, " P"]
    synergy: Float[np.ndarray, " P"]
    gap: Float[np.ndarray, " P"]


# What a gap may be: the solver stops at some 1e-9 bits.
_GREATEST_GAP = 1e-6


def broja(counts: Int[ArrayLike, "P pair_codes C"]) -> Decomposition:
    """The decomposition of Bertschinger and others, of chosen pairs.

    ``I(Ti;Y) - R = min_Q I_Q(Ti;Y|Tj)`` over the laws Q with the pair laws of (Ti, Y)
    and of (Tj, Y) as observed. The convex dual,
    ``max sum_ty P(t,y) a(t,y) + sum_sy P(s,y) b(s,y)`` subject to
    ``log sum_y exp(a(t,y) + b(s,y)) <= 0`` for all codes t, s, has few variables and
    smooth constraints. SciPy's SLSQP solves it; its value is a bound from one side, and
    the law that its multipliers give, fitted to the margins, one from the other.

    A loop over pairs on the host: about 0.05 s each for one bit and ten classes.

    Args:
        counts: int32 [P, B*B, C] out of ``pair_tables``; not traced.

    Returns:
        The parts, not negative, plug-in values.

    Raises:
        ValueError: a number of pair codes that is no square, or nothing counted.
        ArithmeticError: the solver left a gap greater than 1e-6 bits.

    Source:
        N. Bertschinger et al., "Quantifying unique information", arXiv 1311.4369,
        definition 1; the dual: A. Makkeh et al., "BROJA-2PID", arXiv 1803.05238.
    """
    check_counts(counts)
    tables = np.asarray(counts)
    if tables.ndim == 3:
        _tables_of_each(jnp.asarray(tables))
    num_codes = math.isqrt(tables.shape[1]) if tables.ndim == 3 else 0
    if tables.ndim != 3 or not tables.sum(axis=(1, 2)).all():
        raise ValueError(
            "counts: expected int32 [P, B*B, C] with examples counted for every pair, "
            f"got shape {list(tables.shape)}"
            f"{' and a pair without examples' if tables.ndim == 3 else ''}"
        )
    parts = []
    for index, table in enumerate(tables):
        law = table.reshape(num_codes, num_codes, -1) / table.sum()
        # Of matrices of 40 rows threads make 50 times more work.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            lower, upper = _union_information(law)
        if abs(upper - lower) > _GREATEST_GAP:
            raise ArithmeticError(
                f"pair {index}: expected BROJA to at most {_GREATEST_GAP} bits, got a "
                f"gap of {abs(upper - lower):.1e}; merge codes or leave the pair out"
            )
        first, second = (_information_of_law(law.sum(axis=axis)) for axis in (1, 0))
        joint = _information_of_law(law.reshape(num_codes**2, -1))
        union = min(max(lower, first, second), joint)
        redundancy = max(first + second - union, 0)
        parts.append(
            (
                redundancy,
                union - second,
                union - first,
                joint - union,
                abs(upper - lower),
            )
        )
    return Decomposition(*np.reshape(parts, (-1, 5)).T)


def _entropy_of_law(law: np.ndarray) -> float:
    return float(np.sum(scipy.special.entr(law))) / math.log(2)


def _information_of_law(law: np.ndarray) -> float:
    """I(T;Y) of probabilities [B, C], bits, float64."""
    alone = _entropy_of_law(law.sum(axis=1)) + _entropy_of_law(law.sum(axis=0))
    return max(alone - _entropy_of_law(law), 0.0)


def _union_information(law: np.ndarray) -> tuple[float, float]:
    """Bounds of ``min_Q I_Q(Ti,Tj;Y)`` of probabilities [B, B, C], bits."""
    first, second = law.sum(axis=1), law.sum(axis=0)  # [B, C]
    in_first, in_second = first > 0, second > 0
    number = in_first.sum()
    together = (in_first[:, None] & in_second).any(axis=-1)  # codes that may meet
    weights = np.concatenate([first[in_first], second[in_second]])

    def exponents(variables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = np.full(first.shape, -np.inf), np.full(second.shape, -np.inf)
        a[in_first], b[in_second] = variables[:number], variables[number:]
        return a, b

    def slack(variables):
        a, b = exponents(variables)
        sums = scipy.special.logsumexp((a[:, None] + b)[together], axis=-1)
        return np.negative(sums)

    def slack_gradient(variables):
        a, b = exponents(variables)
        shares = np.zeros(law.shape)
        shares[together] = scipy.special.softmax((a[:, None] + b)[together], axis=-1)
        eye = np.eye(len(law))
        by_first = np.einsum("tsy,tu->tsuy", shares, eye)[:, :, in_first]
        by_second = np.einsum("tsy,su->tsuy", shares, eye)[:, :, in_second]
        return -np.concatenate([by_first, by_second], axis=-1)[together]

    given_first = first / np.maximum(first.sum(axis=1, keepdims=True), 1e-300)
    start = np.concatenate([np.log(given_first[in_first]), np.zeros(in_second.sum())])
    found = scipy.optimize.minimize(
        lambda variables: (-weights @ variables, -weights),
        start,
        jac=True,
        method="SLSQP",
        constraints={"type": "ineq", "fun": slack, "jac": slack_gradient},
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    a, b = exponents(found.x)
    # Moved to where every constraint holds, any value is a bound.
    excess = np.full(together.shape, -np.inf)
    excess[together] = -slack(found.x)
    a = a - np.where(together.any(axis=1), excess.max(axis=1), 0)[:, None]
    of_classes = _entropy_of_law(first.sum(axis=0))
    lower = first[in_first] @ a[in_first] + second[in_second] @ b[in_second]

    # A multiplier is the probability of its two codes. Where one is 0 some of the law
    # of independence given the class stays, so that the margins can be met.
    multipliers = np.zeros(together.shape)
    multipliers[together] = np.maximum(found.multipliers, 0)
    law = multipliers[..., None] * np.exp(a[:, None] + b)
    law = law + 1e-12 * (first[:, None] > 0) * (second > 0)
    for _ in range(1000):
        law = law * _ratio(first, law.sum(axis=1))[:, None]
        law = law * _ratio(second, law.sum(axis=0))
        if np.abs(law.sum(axis=1) - first).max() < 1e-13:
            break
    upper = of_classes + _entropy_of_law(law.sum(axis=-1)) - _entropy_of_law(law)
    return of_classes + float(lower) / math.log(2), upper


def _ratio(wanted: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.divide(wanted, there, out=np.zeros_like(wanted), where=there > 0)


# Groups -------------------------------------------------------------------------------


class GroupInformation(NamedTuple):
    """What a group of neurons says of the class together.

    Attributes:
        cells: int32 [...], pairs of joint code and class that occur.
        entropy: float32 [...], bits, of the joint code: ``H(T)``. NaN, like all below,
            where there are fewer than ``EXAMPLES_PER_CELL`` examples for a cell.
        entropy_miller_madow: float32 [...], bits.
        information: float32 [...], bits: ``I(T;Y)``.
        information_miller_madow: float32 [...], bits; may be negative.
        null_information: float32 [...], bits, the mean under permuted labels: how much
            of ``information`` chance alone would give. Permuted labels fill more cells
            than true ones, so it is rather too much than too little.
        null_information_miller_madow: float32 [...], bits; 0 were the correction exact.
        p_value: float32 [...], of ``information``: ``(b + 1) / (m + 1)``.
    """

    cells: Int[Array, "*batch"]
    entropy: Float[Array, "*batch"]
    entropy_miller_madow: Float[Array, "*batch"]
    information: Float[Array, "*batch"]
    information_miller_madow: Float[Array, "*batch"]
    null_information: Float[Array, "*batch"]
    null_information_miller_madow: Float[Array, "*batch"]
    p_value: Float[Array, "*batch"]

    @property
    def examples_needed(self) -> Int[Array, "*batch"]:
        """How many examples an estimate takes, int32 [...]; more cells may occur."""
        return EXAMPLES_PER_CELL * self.cells


def random_groups(
    neurons: Int[ArrayLike, " K"], size: int, number: int, *, key: Array
) -> Int[Array, "M size"]:
    """Draws groups of neurons at random, each without repetition.

    Args:
        neurons: int32 [K] to draw from.
        size: neurons in a group.
        number: M.
        key: of the draws.

    Returns:
        int32 [M, size].

    Raises:
        ValueError: a size that is not in [1, K], or no groups.
    """
    neurons = jnp.asarray(neurons, jnp.int32)
    if not 1 <= size <= len(neurons):
        raise ValueError(
            f"size: expected from 1 to {len(neurons)}, the neurons to draw from, got "
            f"{size}"
        )
    if number < 1:
        raise ValueError(f"number: expected at least 1 group, got {number}")
    keys = jax.random.split(key, number)
    return jax.vmap(lambda key: jax.random.permutation(key, neurons)[:size])(keys)


def group_information(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    groups: Int[ArrayLike, "M size"],
    *,
    num_codes: int,
    num_classes: int,
    key: Array,
    permutations: int = 100,
) -> GroupInformation:
    """Joint entropy and information with the class of groups of neurons.

    The joint code of a group is its codes in mixed radix; where the alphabet is greater
    than what the examples could support, its rank among the codes that occur.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        groups: int32 [M, size] neurons.
        num_codes: B.
        num_classes: C.
        key: of the permutations of labels, the same for all groups.
        permutations: m, at least 1; the least p-value is 1 / (m + 1).

    Returns:
        The values [M], and those of permuted labels.

    Raises:
        ValueError: a group with fewer than ``EXAMPLES_PER_CELL`` examples for each cell
            that occurs (while tracing its values are NaN instead), groups out of range
            or with a neuron twice, no permutations, a code out of range, a single
            class, or shapes that do not fit each other.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    groups = _checked_groups("groups", groups, codes.shape[1])
    check_permutations(permutations)
    permuted = permuted_labels(labels, key, permutations)
    bits = _group_information(codes, labels, permuted, groups, num_codes, num_classes)
    _check_groups_supported(bits.cells, len(labels), groups.shape[1])
    return bits


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _group_information(codes, labels, permuted, groups, num_codes, num_classes):
    def of_group(group):
        code = _joint_code(codes[:, group], num_codes)
        return _values_of_code(
            code, labels, permuted, _sizes(codes, len(group), num_codes), num_classes
        )

    return jax.lax.map(of_group, groups)


def _sizes(codes: Array, group_size: int, num_codes: int) -> int:
    """Codes in a table of a group: no more than the examples can support."""
    supported = max(1, len(codes) // EXAMPLES_PER_CELL)
    return _alphabet(num_codes, group_size, supported)


def _alphabet(num_codes: int, group_size: int, most: int) -> int:
    """Joint codes that a group can have, or as many as there may be."""
    return min(num_codes ** min(group_size, 64), most)


def _joint_code(members: Int[Array, "N size"], num_codes: int) -> Int[Array, " N"]:
    """A group's codes [N, size] as one, less than N or than ``B ** size``."""
    num_examples, size = members.shape
    if num_codes**size <= _sizes(members, size, num_codes):
        return _mixed_radix(members, num_codes)
    # As many at once as an int32 holds beside a rank.
    at_once = 1
    while num_examples * num_codes ** (at_once + 1) < 2**31:
        at_once += 1
    missing = -size % at_once
    words = jnp.pad(members, ((0, 0), (0, missing)))
    words = _mixed_radix(words.reshape(num_examples, -1, at_once), num_codes)

    def refine(code, word):
        return _ranks(code * num_codes**at_once + word), None

    return jax.lax.scan(refine, jnp.zeros(num_examples, jnp.int32), words.T)[0]


def _mixed_radix(members: Int[Array, "*batch size"], num_codes: int) -> Array:
    weights = num_codes ** np.arange(members.shape[-1])[::-1]
    return jnp.sum(members * weights.astype(np.int32), axis=-1)


def _ranks(code: Int[Array, " N"]) -> Int[Array, " N"]:
    """The rank of each value among the distinct ones, from 0."""
    positions = jnp.arange(len(code), dtype=jnp.int32)
    ordered, order = jax.lax.sort_key_val(code, positions)
    is_new = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
    ranks = jnp.cumsum(is_new, dtype=jnp.int32)
    return jnp.zeros_like(code).at[order].set(ranks, unique_indices=True)


def _count_cells(code: Array, labels: Array, num_classes: int) -> Array:
    """How many pairs of code and class occur."""
    ordered = jnp.sort(code * num_classes + labels)
    return 1 + jnp.sum(ordered[1:] != ordered[:-1], dtype=jnp.int32)


def _table(code: Array, labels: Array, size: int, num_classes: int) -> Array:
    """Joint counts [size, C]; codes beyond the table are not counted."""
    zeros = jnp.zeros((size, num_classes), jnp.int32)
    return zeros.at[code, labels].add(1, mode="drop")


def _values_of_code(code, labels, permuted, size, num_classes) -> GroupInformation:
    """What a joint code [N] says of the class; NaN where examples are too few."""
    cells = _count_cells(code, labels, num_classes)

    def informations(labels):
        table = _table(code, labels, size, num_classes)
        return mutual_information(table), mutual_information_miller_madow(table)

    def measured():
        table = _table(code, labels, size, num_classes)
        plain, corrected = informations(labels)
        null, null_corrected = jax.lax.map(informations, permuted)
        as_great = jnp.sum(reaches(null, plain, plain))
        return (
            entropy(table),
            entropy_miller_madow(table),
            plain,
            corrected,
            null.mean(),
            null_corrected.mean(),
            (as_great + 1) / jnp.float32(len(permuted) + 1),
        )

    return jax.lax.cond(
        cells * EXAMPLES_PER_CELL <= len(labels),
        lambda: GroupInformation(cells, *measured()),
        lambda: _without_estimate(cells),
    )


def _without_estimate(cells: Int[Array, ""]) -> GroupInformation:
    numbers = len(GroupInformation._fields) - 1
    return GroupInformation(cells, *[jnp.full((), jnp.nan)] * numbers)


class OrderInformation(NamedTuple):
    """Joint information along an order of ablation.

    Attributes:
        ablated: of the first k neurons of the order, values [..., K+1].
        left: of the K - k others of the order, values [..., K+1].
    """

    ablated: GroupInformation
    left: GroupInformation


def information_along_order(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    order: Int[ArrayLike, "*orders K"],
    *,
    num_codes: int,
    num_classes: int,
    key: Array,
    permutations: int = 100,
) -> OrderInformation:
    """What the neurons ablated so far say of the class together, and those left.

    Point k is beside point k of a curve. Where examples are too few for an estimate the
    values are NaN, and ``examples_needed`` says how many it would take: joint codes
    multiply, and a curve of one-bit neurons ends after some seven to fifteen of them.
    Cells are counted up to the first such point; past it more occur, and ``cells`` are
    that point's.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        order: int32 [..., K] neurons.
        num_codes: B.
        num_classes: C.
        key: of the permutations of labels.
        permutations: m, at least 1.

    Returns:
        The values; information grows along ``ablated`` and falls along ``left``.

    Raises:
        ValueError: an order out of range or with a neuron twice, no permutations, a
            code out of range, a single class, or shapes that do not fit each other.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    shape = np.shape(order)
    flat = order if len(shape) == 2 else jnp.reshape(order, (-1, *shape[-1:]))
    flat = _checked_groups("order", flat, codes.shape[1])
    check_permutations(permutations)
    permuted = permuted_labels(labels, key, permutations)
    bits = _along_orders(codes, labels, permuted, flat, num_codes, num_classes)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape[:-1], -1), bits)


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _along_orders(codes, labels, permuted, orders, num_codes, num_classes):
    size = _sizes(codes, orders.shape[1], num_codes)

    def values(code):
        return _values_of_code(code, labels, permuted, size, num_classes)

    def prefixes(order):
        def step(carry, neuron):
            code, last = carry

            def refine():
                refined = _ranks(code * num_codes + codes[:, neuron])
                bits = values(refined)
                return (refined, bits), bits

            def refuse():
                return carry, _without_estimate(last.cells)

            supported = last.cells * EXAMPLES_PER_CELL <= len(labels)
            return jax.lax.cond(supported, refine, refuse)

        nothing = jnp.zeros(len(labels), jnp.int32)
        first = values(nothing)
        _, others = jax.lax.scan(step, (nothing, first), order)
        return jax.tree.map(
            lambda one, more: jnp.concatenate([one[None], more]), first, others
        )

    def of_order(order):
        left = jax.tree.map(lambda leaf: leaf[::-1], prefixes(order[::-1]))
        return OrderInformation(prefixes(order), left)

    return jax.lax.map(of_order, orders)


def redundancy_index(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    groups: Int[ArrayLike, "M size"],
    *,
    num_codes: int,
    num_classes: int,
) -> Float[Array, " M"]:
    """How often what a group says of the class is said.

    ``sum_j I(Tj;Y) / I(T;Y)``, with Miller-Madow values. Above 1: what neurons say
    overlaps, redundancy dominates (n copies give n). 1: each says something else. Below
    1: synergy dominates (inputs of an XOR give 0).

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        groups: int32 [M, size] neurons, those of ``random_groups``, say.
        num_codes: B.
        num_classes: C.

    Returns:
        float32 [M], 1; about in [0, size]; NaN where I(T;Y) is not positive.

    Raises:
        ValueError: as ``group_information``.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    groups = _checked_groups("groups", groups, codes.shape[1])
    index, cells = _redundancy_index(codes, labels, groups, num_codes, num_classes)
    _check_groups_supported(cells, len(labels), groups.shape[1])
    return index


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _redundancy_index(codes, labels, groups, num_codes, num_classes):
    singles = joint_counts(codes, labels, num_codes=num_codes, num_classes=num_classes)
    alone = mutual_information_miller_madow(singles)
    size = _sizes(codes, groups.shape[1], num_codes)

    def of_group(group):
        code = _joint_code(codes[:, group], num_codes)
        cells = _count_cells(code, labels, num_classes)
        table = _table(code, labels, size, num_classes)
        joint = mutual_information_miller_madow(table)
        known = (joint > 0) & (cells * EXAMPLES_PER_CELL <= len(labels))
        index = alone[group].sum() / jnp.where(known, joint, 1)
        return jnp.where(known, index, jnp.nan), cells

    return jax.lax.map(of_group, groups, batch_size=_GROUPS_AT_ONCE)


class LayerInformation(NamedTuple):
    """What the joint code of a whole layer says.

    Attributes:
        cells: int32, pairs of joint code and class that occur.
        entropy: float32, bits, plug-in: of N examples no more than ``log2 N``, which it
            reaches where every example has a code of its own.
        information_miller_madow: float32, bits, ``I(T;Y)``; NaN where there are fewer
            than ``EXAMPLES_PER_CELL`` examples for a cell, as in most layers.
        information_decoded: float32, bits, what is left of ``I(T;Y)`` in the class that
            a naive Bayes decoder names: no more than ``I(T;Y)``, but for the error of
            an estimate from N examples and C x C cells.
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
    """Joint entropy and information with the class of many neurons.

    Joint codes of a layer mostly occur once, so its information cannot be estimated
    from counts. It can be bounded from below: what is computed from a code says no more
    of the class than the code (data processing). Here it is the class that naive Bayes
    decoders name, each fitted to one half of the examples and asked for the other.

    Args:
        codes: int32 [N, n] in [0, B), of the n neurons of a layer.
        labels: int32 [N] in [0, C), N at least 2.
        num_codes: B.
        num_classes: C.

    Returns:
        The values.

    Raises:
        ValueError: a code out of range, a single class, a single example, or shapes
            that do not fit each other.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    if len(labels) < 2:
        raise ValueError("expected at least 2 examples, one to decode, got 1")
    return _layer_information(codes, labels, num_codes, num_classes)


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _layer_information(codes, labels, num_codes, num_classes):
    code = _joint_code(codes, num_codes)
    cells = _count_cells(code, labels, num_classes)
    # A sample may have as many codes as examples, whatever it can support.
    most = _alphabet(num_codes, codes.shape[1], len(labels))
    whole = jnp.zeros((most, 1), jnp.int32).at[code, 0].add(1, mode="drop")
    size = _sizes(codes, codes.shape[1], num_codes)
    table = _table(code, labels, size, num_classes)
    supported = cells * EXAMPLES_PER_CELL <= len(labels)
    return LayerInformation(
        cells,
        entropy(whole),
        jnp.where(supported, mutual_information_miller_madow(table), jnp.nan),
        _decoded_information(codes, labels, num_codes, num_classes),
    )


def _decoded_information(codes, labels, num_codes, num_classes) -> Float[Array, ""]:
    """Mean over both halves of what decoders fitted to the other say."""
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
        table = _table(named, asked[1], num_classes, num_classes)
        bits.append(mutual_information_miller_madow(table))
    return (bits[0] + bits[1]) / 2


_GROUPS_AT_ONCE = 16


class OInformation(NamedTuple):
    """O-information of groups: positive, redundancy dominates; negative, synergy.

    Attributes:
        of_neurons: float32 [M], bits, of the neurons among themselves.
        of_neurons_miller_madow: float32 [M], bits.
        null_of_neurons: float32 [M], bits, the mean with every neuron's codes permuted
            on their own: what neurons that know nothing of each other would give.
        p_value_of_neurons: float32 [M], how often those are as far from 0.
        with_class: float32 [M], bits, of the neurons and the class.
        with_class_miller_madow: float32 [M], bits.
        null_with_class: float32 [M], bits, the mean under permuted labels, which leave
            it at ``of_neurons`` but for bias.
        p_value_with_class: float32 [M], how often those are as far from
            ``of_neurons``.
    """

    of_neurons: Float[Array, " M"]
    of_neurons_miller_madow: Float[Array, " M"]
    null_of_neurons: Float[Array, " M"]
    p_value_of_neurons: Float[Array, " M"]
    with_class: Float[Array, " M"]
    with_class_miller_madow: Float[Array, " M"]
    null_with_class: Float[Array, " M"]
    p_value_with_class: Float[Array, " M"]


def o_information(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    groups: Int[ArrayLike, "M size"],
    *,
    num_codes: int,
    num_classes: int,
    key: Array,
    permutations: int = 100,
) -> OInformation:
    """O-information of groups of neurons, alone and with the class.

    ``(n - 2) H(X_1..X_n) + sum_j (H(X_j) - H(all but X_j))``. Positive: redundancy
    dominates; negative: synergy does; 0 for two variables. Of two neurons and the class
    it is their co-information.

    Args:
        codes: int32 [N, H] in [0, B).
        labels: int32 [N] in [0, C).
        groups: int32 [M, size] neurons, two or more in each.
        num_codes: B.
        num_classes: C.
        key: of the permutations.
        permutations: m, at least 1.

    Returns:
        The values, and those of permuted codes and labels.

    Raises:
        ValueError: groups of one neuron; otherwise as ``group_information``.

    Source:
        F. Rosas et al., "Quantifying high-order interdependencies via multivariate
        extensions of the mutual information", arXiv 1902.11239, equation 5.
    """
    codes, labels = _checked_codes(codes, labels, num_codes, num_classes)
    groups = _checked_groups("groups", groups, codes.shape[1], at_least=2)
    check_permutations(permutations)
    bits, cells = _o_information(
        codes, labels, groups, key, num_codes, num_classes, permutations
    )
    _check_groups_supported(cells, len(labels), groups.shape[1])
    return bits


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "permutations"))
def _o_information(codes, labels, groups, key, num_codes, num_classes, permutations):
    number = groups.shape[1]
    classes = jnp.concatenate(
        [labels[None], permuted_labels(labels, key, permutations)]
    )
    # Where each neuron of a group finds its codes: at first its own, then permuted.
    keys = jax.random.split(jax.random.fold_in(key, permutations), number)
    positions = jnp.arange(len(labels), dtype=jnp.int32)
    apart = [permuted_labels(positions, key, permutations) for key in keys]
    own = jnp.broadcast_to(positions[:, None], (1, len(labels), number))
    places = jnp.concatenate([own, jnp.stack(apart, axis=-1)])
    # Codes permuted on their own may make as many joint ones as there are examples.
    size = _alphabet(num_codes, number, len(labels))
    gains = [_gain(k, number) for k in range(number + 1)]

    def informations(code, others, num_others):
        table = _table(code, others, size, num_others)
        return mutual_information(table), mutual_information_miller_madow(table)

    def added_up(weights, bits):
        """Plain, corrected, and what their rounding is a share of."""
        plain, corrected = (weights * each for each in bits)
        return plain.sum(), corrected.sum(), jnp.abs(plain).sum()

    def of_neurons(members):
        def term(kept_and_neuron):
            kept, neuron = kept_and_neuron
            code = _joint_code(jnp.where(kept, members, 0), num_codes)
            return informations(code, members[:, neuron], num_codes)

        kept, weights = (np.concatenate(part) for part in zip(*gains[:-1], strict=True))
        neurons = np.repeat(np.arange(number), [len(gain[0]) for gain in gains[:-1]])
        return added_up(weights, jax.lax.map(term, (kept, neurons)))

    def of_group(group):
        members = codes[:, group]
        cells = _count_cells(_joint_code(members, num_codes), labels, num_classes)
        supported = cells * EXAMPLES_PER_CELL <= len(labels)
        plain, corrected, scale = jax.lax.map(
            lambda place: of_neurons(jnp.take_along_axis(members, place, axis=0)),
            places,
        )
        kept, weights = gains[-1]
        subsets = jax.lax.map(
            lambda kept: _joint_code(jnp.where(kept, members, 0), num_codes), kept
        )

        def of_class(classes):
            term = partial(informations, others=classes, num_others=num_classes)
            return added_up(weights, jax.lax.map(term, subsets))

        gain, gain_corrected, gain_scale = jax.lax.map(of_class, classes)
        bits = OInformation(
            plain[0],
            corrected[0],
            plain[1:].mean(),
            _p_value_of_size(plain, scale[0]),
            plain[0] + gain[0],
            corrected[0] + gain_corrected[0],
            plain[0] + gain[1:].mean(),
            _p_value_of_size(gain, gain_scale[0]),
        )
        return jax.tree.map(
            lambda leaf: jnp.where(supported, leaf, jnp.nan), bits
        ), cells

    return jax.lax.map(of_group, groups)


def _gain(k: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What a variable adds to the O-information of k others, of a group of ``number``.

    ``(1 - k) I(X_1..X_k; Y) + sum_j I(all but X_j; Y)``, what equation 5 of Rosas
    et al. with Y is more than without:
    sets bool [terms, number] and weights [terms]; nothing for k below 2.
    """
    before = np.arange(number) < k
    sets = np.concatenate([before[None], before & ~np.eye(number, dtype=bool)[:k]])
    weights = np.array([1 - k, *[1] * k], np.float32)
    there = k >= 2
    return sets[: there * len(sets)], weights[: there * len(weights)]


def _p_value_of_size(bits: Float[Array, " draws"], scale: Array) -> Float[Array, ""]:
    """How often draws are as far from 0 as the first of them, the observed one."""
    size = jnp.abs(bits)
    as_great = jnp.sum(reaches(size[1:], size[0], scale))
    return (as_great + 1) / jnp.float32(len(bits))


# Pairs, interventional ----------------------------------------------------------------


class PairEffects(NamedTuple):
    """What two ablations cost together beyond what they cost one by one.

    ``D(i,j) - D(i) - D(j)``, D being what an ablation costs: accuracy lost, or loss
    gained. Positive: the two stand in for each other, and only ablating both is felt,
    as of copies: redundancy. Negative: either one gone, the other is worth less, as of
    the inputs of an XOR: synergy.

    Cross-entropy is convex in the logits: two harms that have nothing to do with each
    other add up to a little more than their sum. So a small positive mean in loss is no
    redundancy yet; compare pairs with pairs.

    Attributes:
        accuracy: float32 [..., w, w] or [..., P], share of accuracy, in [-2, 2].
        loss: the same in mean cross-entropy, nats.
        accuracy_alone: float32 [..., w] or [..., P, 2], ``D(i)`` in accuracy, share.
        loss_alone: the same in mean cross-entropy, nats.
    """

    accuracy: Float[Array, "*batch"]
    loss: Float[Array, "*batch"]
    accuracy_alone: Float[Array, "*single"]
    loss_alone: Float[Array, "*single"]


def pair_effects(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    layer: int,
    *,
    memory_gb: float = 1.0,
) -> PairEffects:
    """Ablates every pair of neurons of a layer, of many networks.

    Two ablations in a layer change the next layer's pre-activations by two rank-one
    terms, so a pair costs what lies above that; in the last hidden layer that is the
    score alone. Each pair is looked at once. Losses are subtracted example by example,
    before they are summed: their difference is far less than they are.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        clamp: float32 [S, ..., H]: the constant output of ablated neurons.
        x: float32 [N, D] images.
        y: int32 [N] classes.
        layer: a hidden layer, counted from 0, of width w.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The effects [S, ..., w, w], symmetric, NaN on the diagonal, and those of each
        neuron alone [S, ..., w].

    Raises:
        ValueError: a layer that is not there, a budget that is not positive, or arrays
            whose shapes do not fit the network or each other.
    """
    if not 0 <= layer < model.num_layers:
        raise ValueError(
            f"layer: expected a hidden layer from 0 to {model.num_layers - 1}, got "
            f"{layer}"
        )
    x, y, clamp = _checked_network(model, clamp, x, y)
    _check_memory(memory_gb)
    width, num_examples = model.hidden[layer], len(y)
    above = (*model.hidden[layer + 1 :], model.num_classes)
    inputs = x.shape[1] + 2 * sum(model.hidden[:layer])
    held = inputs + 4 * width + 3 * sum(above)
    most = min(num_examples, max(256, _FLOATS_AT_A_STEP // max(above)))
    examples = max(1, min(most, int(memory_gb * 1e9 / (4 * held))))
    clamps = clamp.reshape(clamp.shape[0], -1, clamp.shape[-1])
    engine = _PairEngine(model, layer, examples)
    sums = sum_over_examples(engine, (variables, clamps), x, y)
    right, loss, right_alone, loss_alone, right_intact = sums
    costs_alone = right_intact[..., None] - right_alone
    costs = (right_intact[..., None, None] - right).astype(jnp.float32)
    apart = costs_alone[..., :, None] + costs_alone[..., None, :]
    later = jnp.triu(jnp.ones((width, width), bool), 1)

    def both_ways(upper: Array) -> Array:
        upper = jnp.where(later, upper / num_examples, 0)
        whole = upper + jnp.swapaxes(upper, -1, -2)
        whole = jnp.where(jnp.eye(width, dtype=bool), jnp.nan, whole)
        return whole.reshape(*clamp.shape[:-1], width, width)

    return PairEffects(
        both_ways(costs - apart),
        both_ways(loss),
        (costs_alone / num_examples).reshape(*clamp.shape[:-1], width),
        (loss_alone / num_examples).reshape(*clamp.shape[:-1], width),
    )


# Beyond about this many floats in an array that each step rewrites, caches are left.
_FLOATS_AT_A_STEP = 256 * 1024


class _PairEngine(NamedTuple):
    """Sums over examples for all pairs i < j of a layer, of networks and clamps."""

    model: MLP
    layer: int
    examples: int

    def __call__(self, arrays, x, y):
        def of_network(network):
            variables, clamps = network
            affine = folded_layers(self.model, variables)
            return jax.lax.map(
                lambda clamp: self._all_pairs(affine, clamp, x, y), clamps
            )

        return jax.lax.map(of_network, arrays)

    def _all_pairs(self, affine, clamp, x, y):
        model = self.model
        width = model.hidden[self.layer]
        clamp = clamp[model.layer_slices[self.layer]]
        kernel = affine[self.layer + 1].kernel  # [w, next]

        def chunk(carry, x_chunk, y_chunk):
            outputs = x_chunk
            for weights, bias in affine[: self.layer + 1]:
                outputs = activate(model, multiply(model, outputs, weights) + bias)
            outputs = jax.lax.optimization_barrier(outputs).T  # [w, n]
            change = clamp[:, None] - outputs
            intact = pre_activations(model, affine[self.layer + 1], outputs)

            def without(inputs, neuron):
                return inputs + kernel[neuron][:, None] * change[neuron]

            def scored(inputs):
                for weights in affine[self.layer + 2 :]:
                    inputs = pre_activations(model, weights, activate(model, inputs))
                right, losses = right_and_losses(inputs, y_chunk)
                return jnp.sum(right & (y_chunk != SEEN), dtype=jnp.int32), losses

            def alone(neuron):
                return scored(without(intact, neuron))

            right_intact, losses_intact = scored(intact)
            right_alone, losses_alone = jax.lax.map(alone, jnp.arange(width))
            gains = jnp.where(y_chunk == SEEN, 0, losses_alone - losses_intact)

            def of_first(first, sums):
                inputs = without(intact, first)
                fixed = losses_intact + gains[first]

                def of_second(second, sums):
                    right, losses = scored(without(inputs, second))
                    beyond = jnp.where(
                        y_chunk == SEEN, 0, losses - fixed - gains[second]
                    )
                    return (
                        sums[0].at[second].add(right),
                        sums[1].at[second].add(beyond.sum()),
                    )

                rows = (sums[0][first], sums[1][first])
                rows = jax.lax.fori_loop(first + 1, width, of_second, rows)
                return tuple(
                    whole.at[first].set(row)
                    for whole, row in zip(sums, rows, strict=True)
                )

            right, loss, *single = carry
            right, loss = jax.lax.fori_loop(0, width, of_first, (right, loss))
            found = (right_alone, gains.sum(axis=1), right_intact)
            return (right, loss, *jax.tree.map(jnp.add, tuple(single), found))

        zeros = (
            jnp.zeros((width, width), jnp.int32),
            jnp.zeros((width, width)),
            jnp.zeros(width, jnp.int32),
            jnp.zeros(width),
            jnp.zeros((), jnp.int32),
        )
        return fold_examples(chunk, zeros, x, y, chunk_size=self.examples)


def chosen_pair_effects(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    pairs: Int[ArrayLike, "P 2"],
    *,
    memory_gb: float = 1.0,
) -> PairEffects:
    """Ablates chosen pairs of neurons, of any layers, of many networks.

    Each pair is two orders of two steps, either one first.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        clamp: float32 [S, ..., H]: the constant output of ablated neurons.
        x: float32 [N, D] images.
        y: int32 [N] classes.
        pairs: int32 [P, 2] neurons.
        memory_gb: as in ``ablation_curves``.

    Returns:
        The effects [S, ..., P], and those of the two alone [S, ..., P, 2].

    Raises:
        ValueError: pairs out of range or of one neuron, or as ``ablation_curves``.
    """
    x, y, clamp = _checked_network(model, clamp, x, y)
    pairs = _checked_groups("pairs", pairs, model.num_neurons, size=2)
    orders = jnp.stack([pairs, pairs[:, ::-1]], axis=1)  # [P, 2, 2]
    leading = (clamp.shape[0], *[1] * (clamp.ndim - 2))
    found = ablation_curves(
        model,
        variables,
        jnp.broadcast_to(orders, (*leading, *orders.shape)),
        clamp[..., None, None, :],
        x,
        y,
        layers=tuple(np.unique(model.layer_of_neuron[np.asarray(pairs)]).tolist())
        if not isinstance(pairs, Tracer)
        else None,
        memory_gb=memory_gb,
    )
    right = found.correct.sum(axis=-1)
    effects = []
    for cost in (
        (right[..., :1] - right) / jnp.float32(len(y)),
        found.loss - found.loss[..., :1],
    ):
        alone, both = cost[..., 1], cost[..., 0, 2]
        effects.append((both - alone.sum(axis=-1), alone))
    (accuracy, accuracy_alone), (loss, loss_alone) = effects
    return PairEffects(accuracy, loss, accuracy_alone, loss_alone)


# What is refused ----------------------------------------------------------------------


def _checked_codes(
    codes: ArrayLike, labels: ArrayLike, num_codes: int, num_classes: int
) -> tuple[Array, Array]:
    """Codes and labels on the device, of shapes and values that fit."""
    check_codes_and_labels(codes, labels, num_codes=num_codes, num_classes=num_classes)
    codes, labels = jnp.asarray(codes, jnp.int32), jnp.asarray(labels, jnp.int32)
    # Counts are exact in float32, and a rank beside a code or class fits an int32.
    most = min(EXACT_IN_FLOAT32, (2**31 - 1) // max(num_codes, num_classes))
    if len(labels) > most:
        raise ValueError(
            f"expected at most {most} examples, which are counted exactly, got "
            f"{len(labels)}; take a part of them"
        )
    check_classes(labels)
    return codes, labels


def _check_memory(memory_gb: float) -> None:
    if not (np.isfinite(memory_gb) and memory_gb > 0):
        raise ValueError(f"memory_gb: expected a positive number, got {memory_gb}")


def check_pairs(
    num_neurons: int,
    num_examples: int,
    *,
    num_codes: int,
    num_classes: int,
    memory_gb: float = 1.0,
) -> None:
    """Refuses what ``pair_information`` would, before there are codes.

    Args:
        num_neurons: H.
        num_examples: N.
        num_codes: B.
        num_classes: C.
        memory_gb: as in ``pair_information``.

    Raises:
        ValueError: too many codes for the examples or the budget.
    """
    _check_pairs_supported(num_examples, num_codes, num_classes)
    _rows_at_once(num_neurons, num_codes, num_classes, memory_gb)


def _check_pairs_supported(num_examples: int, num_codes: int, num_classes: int) -> None:
    cells = num_codes**2 * num_classes
    if num_examples < EXAMPLES_PER_CELL * cells:
        most = math.isqrt(num_examples // (EXAMPLES_PER_CELL * num_classes))
        raise ValueError(
            f"num_codes: expected at most {most} codes for pairs of neurons with "
            f"{num_examples} examples, {EXAMPLES_PER_CELL} for each of B*B*C cells, "
            f"got {num_codes}; quantize more coarsely, or take "
            f"{EXAMPLES_PER_CELL * cells} examples"
        )


# Counting all pairs and measuring a block of rows hold about so many copies of counts.
_COPIES_OF_COUNTS = 4
_COPIES_OF_A_ROW = 12


def _rows_at_once(
    num_neurons: int, num_codes: int, num_classes: int, memory_gb: float
) -> int:
    """Rows of the matrix of pairs that are measured at once."""
    _check_memory(memory_gb)
    row_gb = 4e-9 * num_neurons * num_codes**2 * num_classes
    counts_gb = _COPIES_OF_COUNTS * num_neurons * row_gb
    if counts_gb > memory_gb:
        raise ValueError(
            f"memory_gb: expected at least {counts_gb:.2g} for all pairs of "
            f"{num_neurons} neurons with {num_codes} codes and {num_classes} classes, "
            f"got {memory_gb:g}; raise it, quantize more coarsely, or take the neurons "
            "of one layer at a time"
        )
    return max(1, min(num_neurons, int(memory_gb / (_COPIES_OF_A_ROW * row_gb))))


def _checked_groups(
    name: str,
    groups: ArrayLike,
    num_neurons: int,
    *,
    size: int | None = None,
    at_least: int = 1,
) -> Int[Array, "M size"]:
    """Groups as int32 [M, size], refused unless each lists distinct neurons."""
    array: Any = groups if isinstance(groups, Tracer) else np.asarray(groups)
    wanted = size or "size"
    if (
        array.ndim != 2
        or not jnp.issubdtype(array.dtype, jnp.integer)
        or (size is not None and array.shape[1] != size)
        or array.shape[1] < at_least
    ):
        raise ValueError(
            f"{name}: expected integers of shape [{'P' if size else 'M'}, {wanted}]"
            f"{f' with size at least {at_least}' if at_least > 1 else ''}, neuron "
            f"indices, got {array.dtype} of shape {list(array.shape)}"
        )
    if isinstance(array, np.ndarray) and array.size:
        outside = array[(array < 0) | (array >= num_neurons)]
        if outside.size:
            raise ValueError(
                f"{name}: expected neuron indices in [0, {num_neurons - 1}], got "
                f"{int(outside[0])}"
            )
        ordered = np.sort(array, axis=1)
        twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
        if twice.size:
            raise ValueError(
                f"{name}: expected every neuron once in each, got {int(twice[0])} twice"
            )
    return jnp.asarray(array, jnp.int32)


def _check_groups_supported(cells: Array, num_examples: int, size: int) -> None:
    """Refuses groups whose joint code the examples cannot support."""
    if isinstance(cells, Tracer) or not cells.size:
        return
    needed = EXAMPLES_PER_CELL * np.asarray(cells)
    if needed.max() > num_examples:
        group = int(np.argmax(needed > num_examples))
        raise ValueError(
            f"groups: expected at least {needed[group]} examples for group {group} of "
            f"{size} neurons, {EXAMPLES_PER_CELL} for each of the {int(cells[group])} "
            f"pairs of joint code and class that occur, got {num_examples}; take more "
            "examples or smaller groups"
        )


def _checked_network(
    model: MLP, clamp: ArrayLike, x: ArrayLike, y: ArrayLike
) -> tuple[Array, Array, Array]:
    check_examples(x, y, model.num_classes)
    check_clamp(clamp, model.num_neurons)
    if np.ndim(clamp) < 2:
        raise ValueError(
            f"clamp: expected float32 [S, ..., {model.num_neurons}], a value for each "
            f"hidden neuron of each network, got shape {list(np.shape(clamp))}"
        )
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    return x, y, jnp.asarray(clamp, jnp.float32)
