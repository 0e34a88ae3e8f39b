"""All pairs of neurons: joint information with the class, and its decompositions.

The partial information decomposition (P. Williams and R. Beer, arXiv 1004.2515) is
given under two measures here, which disagree: ``i_min`` (Williams and Beer) and ``mmi``
(the smaller of two mutual informations; A. Barrett, arXiv 1411.2832). Positive
co-information is redundancy, negative synergy.

Joint quantities are biased upwards where cells are many and examples few. So an
estimate is refused below ``EXAMPLES_PER_CELL`` = 5 examples for each of the ``B B C``
cells.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.checks import (
    check_classes,
    check_codes_and_labels,
    check_counts,
    check_memory,
    check_names,
)
from ioca_jax.measures.counts import EXACT_IN_FLOAT32, pair_counts
from ioca_jax.measures.information import (
    check_permutations,
    class_divergences,
    mutual_information,
    mutual_information_miller_madow,
    permuted_labels,
)

EXAMPLES_PER_CELL = 5
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
    """Information of two neurons about the class, alone and together, in bits.

    Counts are [..., B*B, C], of ``code_i * B + code_j`` and class.

    - ``joint_information``: ``I(Ti,Tj;Y)``.
    - ``co_information``: ``I(Ti;Y) + I(Tj;Y) - I(Ti,Tj;Y)``, redundancy less synergy
      under any decomposition. Positive: redundancy dominates; negative: synergy does.
    - ``redundancy_i_min``: ``sum_y P(y) min(D_i(y), D_j(y))`` with ``D_i(y)`` the
      divergence ``D(P(Ti|Y=y) || P(Ti))``, the specific information of Williams and
      Beer. ``redundancy_mmi``: ``min(I(Ti;Y), I(Tj;Y))``.
    - ``unique_...``: of the first neuron, ``I(Ti;Y)`` less the redundancy.
    - ``synergy_...``: redundancy less co-information, what only the pair carries.

    Names that end in ``miller_madow`` are made of corrected mutual informations, which
    may be negative. There is none for ``i_min``: its minimum is taken class by class,
    and the correction is of the whole. ``jit`` leaves out what is not used of the
    result.

    Source: P. Williams and R. Beer, arXiv 1004.2515, section 4; A. Barrett, arXiv
    1411.2832.
    """
    check_counts(counts)
    table = jnp.asarray(counts, jnp.int32)
    first, second = tables_of_each(table)
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


def tables_of_each(table: Array) -> tuple[Array, Array]:
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
    """``pair_values`` of all pairs of neurons, across layers too, [H, H].

    Row i, column j is the pair (i, j). All measures are symmetric but ``unique_...``,
    the information of neuron i that neuron j lacks. The diagonal is a neuron with a
    copy of itself. Counts are ``4 H^2 B^2 C`` bytes, and ``memory_gb`` bounds some
    copies of them.
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
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


def pair_null(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    *,
    num_codes: int,
    num_classes: int,
    key: Array,
    measures: Sequence[str] = ("co_information",),
    permutations: int = 50,
    memory_gb: float = 1.0,
    permuted: Int[Array, "number N"] | None = None,
) -> dict[str, Float[Array, "H H"]]:
    """Means of ``pair_information`` over permuted labels, the pairs' chance levels.

    A value's bias is in its chance level too: of neurons that are independent of the
    class, the difference is 0 on average, also where they depend on each other and some
    joint codes are rare. The same permutations serve all pairs.

    A share of permutations is no test of co-information: permuted labels are
    independent of both neurons, and those of two informative neurons whose
    co-information is 0 are not.

    ``permuted`` are labels to take in place of permutations of single ones, such as
    those of whole sentences; -1 counts nowhere.
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    check_names("measures", measures, PAIR_MEASURES)
    check_permutations(permutations)
    _check_pairs_supported(len(labels), num_codes, num_classes)
    rows = _rows_at_once(codes.shape[1], num_codes, num_classes, memory_gb)
    if permuted is None:
        permuted = permuted_labels(labels, key, permutations)
    return _pair_null(codes, permuted, num_codes, num_classes, tuple(measures), rows)


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "names", "rows"))
def _pair_null(codes, permuted, num_codes, num_classes, names, rows):
    def add(sums, labels):
        bits = _pair_information(codes, labels, num_codes, num_classes, names, rows)
        return jax.tree.map(jnp.add, sums, bits), None

    zeros = dict.fromkeys(names, jnp.zeros((codes.shape[1],) * 2))
    sums, _ = jax.lax.scan(add, zeros, permuted)
    return jax.tree.map(lambda total: total / len(permuted), sums)


def checked_codes(
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


def check_pairs(
    num_neurons: int,
    num_examples: int,
    *,
    num_codes: int,
    num_classes: int,
    memory_gb: float = 1.0,
) -> None:
    """Refuses sizes that ``pair_information`` would, before there are codes."""
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
    check_memory(memory_gb)
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
