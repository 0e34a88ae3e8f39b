"""O-information of groups: positive is redundancy, negative synergy.

F. Rosas et al., arXiv 1902.11239. Few examples bias it towards synergy, so each value
has a null distribution of permuted codes beside it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.checks import checked_groups
from ioca_jax.measures.groups import (
    check_groups_supported,
    count_cells,
    joint_code,
    joint_table,
    possible_codes,
)
from ioca_jax.measures.information import (
    check_permutations,
    mutual_information,
    mutual_information_miller_madow,
    permuted_labels,
    reaches,
)
from ioca_jax.measures.pairs import EXAMPLES_PER_CELL, checked_codes


class OInformation(NamedTuple):
    """O-information of groups: positive, redundancy dominates; negative, synergy.

    Attributes:
        of_neurons: float32 [M], bits, of the neurons among themselves.
        of_neurons_miller_madow: float32 [M], bits.
        null_of_neurons: float32 [M], bits, the mean with each neuron's codes permuted
            separately, which makes the neurons independent.
        p_value_of_neurons: float32 [M], the share of these at least as far from 0.
        with_class: float32 [M], bits, of the neurons and the class.
        with_class_miller_madow: float32 [M], bits.
        null_with_class: float32 [M], bits, the mean under permuted labels, which is
            ``of_neurons`` apart from bias.
        p_value_with_class: float32 [M], the share of these at least as far from
            ``of_neurons``.
    """

    of_neurons: Float[Array, "*batch"]
    of_neurons_miller_madow: Float[Array, "*batch"]
    null_of_neurons: Float[Array, "*batch"]
    p_value_of_neurons: Float[Array, "*batch"]
    with_class: Float[Array, "*batch"]
    with_class_miller_madow: Float[Array, "*batch"]
    null_with_class: Float[Array, "*batch"]
    p_value_with_class: Float[Array, "*batch"]


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
    """O-information of groups of two or more neurons, alone and with the class.

    ``(n - 2) H(X_1..X_n) + sum_j (H(X_j) - H(all but X_j))``. Positive: redundancy
    dominates; negative: synergy does; 0 for two variables. Of two neurons and the class
    it is their co-information.

    Source: F. Rosas et al., "Quantifying high-order interdependencies via multivariate
    extensions of the mutual information", arXiv 1902.11239, equation 5.
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    groups = checked_groups("groups", groups, codes.shape[1], at_least=2)
    check_permutations(permutations)
    bits, cells = _o_information(
        codes, labels, groups, key, num_codes, num_classes, permutations
    )
    check_groups_supported(cells, len(labels), groups.shape[1])
    return bits


@partial(jax.jit, static_argnames=("num_codes", "num_classes", "permutations"))
def _o_information(codes, labels, groups, key, num_codes, num_classes, permutations):
    size = groups.shape[1]
    draws = _Draws(
        labels=permuted_labels(labels, key, permutations),
        examples=_permuted_examples(len(labels), size, key, permutations),
    )
    # Codes permuted separately may form as many joint codes as there are examples.
    sizes = _Sizes(num_codes, num_classes, possible_codes(num_codes, size, len(labels)))

    def of_group(group):
        members = codes[:, group]
        cells = count_cells(joint_code(members, num_codes), labels, num_classes)
        is_supported = cells * EXAMPLES_PER_CELL <= len(labels)
        bits = _of_group(members, labels, draws, sizes)
        bits = jax.tree.map(lambda leaf: jnp.where(is_supported, leaf, jnp.nan), bits)
        return bits, cells

    return jax.lax.map(of_group, groups)


class _Draws(NamedTuple):
    """The null distributions: permuted labels, and for each neuron its own order."""

    labels: Int[Array, "permutations N"]
    examples: Int[Array, "permutations N size"]


class _Sizes(NamedTuple):
    """B, C, and how many joint codes a table has room for."""

    num_codes: int
    num_classes: int
    joint_codes: int


class _Bits(NamedTuple):
    """A sum of mutual informations: plug-in, corrected, and of absolute terms.

    The rounding of the plug-in value is a share of the last.
    """

    plain: Float[Array, "*batch"]
    corrected: Float[Array, "*batch"]
    scale: Float[Array, "*batch"]


def _permuted_examples(num_examples: int, size: int, key: Array, permutations: int):
    """Examples in an order of its own for each neuron of a group, [m, N, size]."""
    keys = jax.random.split(jax.random.fold_in(key, permutations), size)
    examples = jnp.arange(num_examples, dtype=jnp.int32)
    orders = [permuted_labels(examples, key, permutations) for key in keys]
    return jnp.stack(orders, axis=-1)


def _of_group(members, labels, draws: _Draws, sizes: _Sizes) -> OInformation:
    """The values of one group's codes [N, size]."""

    def permuted(examples):
        return _of_neurons(jnp.take_along_axis(members, examples, axis=0), sizes)

    subsets = _subset_codes(members, sizes)
    of_class = partial(_class_gain, subsets, members.shape[1], sizes)
    own, gain = _of_neurons(members, sizes), of_class(labels)
    null = jax.lax.map(permuted, draws.examples).plain
    null_gain = jax.lax.map(of_class, draws.labels).plain
    return OInformation(
        of_neurons=own.plain,
        of_neurons_miller_madow=own.corrected,
        null_of_neurons=null.mean(),
        p_value_of_neurons=_two_sided_p_value(own, null),
        with_class=own.plain + gain.plain,
        with_class_miller_madow=own.corrected + gain.corrected,
        null_with_class=own.plain + null_gain.mean(),
        p_value_with_class=_two_sided_p_value(gain, null_gain),
    )


def _gain_terms(k: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What a variable Y adds to the O-information of k others, of a group of ``size``.

    By equation 5 of Rosas et al. it is
    ``(1 - k) I(X_1..X_k; Y) + sum_j I(all but X_j; Y)``, and 0 for k below 2.
    Returns the sets of variables, bool [terms, size], and weights [terms].
    """
    before = np.arange(size) < k
    sets = np.concatenate([before[None], before & ~np.eye(size, dtype=bool)[:k]])
    weights = np.array([1 - k, *[1] * k], np.float32)
    number = k + 1 if k >= 2 else 0
    return sets[:number], weights[:number]


def _of_neurons(members: Int[Array, "N size"], sizes: _Sizes) -> _Bits:
    """O-information of the neurons: each one's gain over those before it, added up."""
    size = members.shape[1]
    gains = [_gain_terms(k, size) for k in range(size)]
    sets, weights = (np.concatenate(part) for part in zip(*gains, strict=True))
    neurons = np.repeat(np.arange(size), [len(terms) for _, terms in gains])

    def term(set_and_neuron):
        chosen, neuron = set_and_neuron
        code = joint_code(jnp.where(chosen, members, 0), sizes.num_codes)
        table_sizes = sizes.joint_codes, sizes.num_codes
        return _informations(joint_table(code, members[:, neuron], *table_sizes))

    return _weighted_sum(weights, *jax.lax.map(term, (sets, neurons)))


def _subset_codes(members: Int[Array, "N size"], sizes: _Sizes) -> Array:
    """Joint codes [terms, N] of the sets in the class's gain."""
    sets, _ = _gain_terms(members.shape[1], members.shape[1])
    return jax.lax.map(
        lambda chosen: joint_code(jnp.where(chosen, members, 0), sizes.num_codes), sets
    )


def _class_gain(subsets: Array, size: int, sizes: _Sizes, labels: Array) -> _Bits:
    """What the class adds to the O-information of a group of ``size`` neurons."""
    _, weights = _gain_terms(size, size)

    def term(code):
        table = joint_table(code, labels, sizes.joint_codes, sizes.num_classes)
        return _informations(table)

    return _weighted_sum(weights, *jax.lax.map(term, subsets))


def _informations(table: Array) -> tuple[Array, Array]:
    return mutual_information(table), mutual_information_miller_madow(table)


def _weighted_sum(weights: np.ndarray, plain: Array, corrected: Array) -> _Bits:
    terms = jnp.asarray(weights) * plain
    return _Bits(terms.sum(), (weights * corrected).sum(), jnp.abs(terms).sum())


def _two_sided_p_value(observed: _Bits, null: Float[Array, " draws"]) -> Array:
    """``(b + 1) / (m + 1)`` where b of m draws are at least as far from 0."""
    as_far = reaches(jnp.abs(null), jnp.abs(observed.plain), observed.scale)
    return (as_far.sum() + 1) / jnp.float32(len(null) + 1)
