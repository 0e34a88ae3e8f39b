"""O-information of groups: positive is redundancy, negative synergy.

F. Rosas et al., arXiv 1902.11239. It is biased towards synergy when examples are few,
so each value has a null of permuted codes beside it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.checks import (
    checked_groups,
)
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
    size = possible_codes(num_codes, number, len(labels))
    gains = [_gain(k, number) for k in range(number + 1)]

    def informations(code, others, num_others):
        table = joint_table(code, others, size, num_others)
        return mutual_information(table), mutual_information_miller_madow(table)

    def added_up(weights, bits):
        """Plain, corrected, and what their rounding is a share of."""
        plain, corrected = (weights * each for each in bits)
        return plain.sum(), corrected.sum(), jnp.abs(plain).sum()

    def of_neurons(members):
        def term(kept_and_neuron):
            kept, neuron = kept_and_neuron
            code = joint_code(jnp.where(kept, members, 0), num_codes)
            return informations(code, members[:, neuron], num_codes)

        kept, weights = (np.concatenate(part) for part in zip(*gains[:-1], strict=True))
        neurons = np.repeat(np.arange(number), [len(gain[0]) for gain in gains[:-1]])
        return added_up(weights, jax.lax.map(term, (kept, neurons)))

    def of_group(group):
        members = codes[:, group]
        cells = count_cells(joint_code(members, num_codes), labels, num_classes)
        supported = cells * EXAMPLES_PER_CELL <= len(labels)
        plain, corrected, scale = jax.lax.map(
            lambda place: of_neurons(jnp.take_along_axis(members, place, axis=0)),
            places,
        )
        kept, weights = gains[-1]
        subsets = jax.lax.map(
            lambda kept: joint_code(jnp.where(kept, members, 0), num_codes), kept
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
