"""Groups of neurons: joint information with the class, also along an order of ablation.

Groups count the joint codes that *occur*, as the Miller-Madow correction does: the
codes of a layer are far fewer than their alphabet. An estimate is refused below
``EXAMPLES_PER_CELL`` = 5 examples for each cell of joint code and class. Why five: the
plug-in bias is about ``cells / (2 N ln 2)`` bits, then at most 0.15; Miller-Madow
removes its first order, and the rest falls as ``(cells / N)^2``. Measured on seven or
eight one-bit neurons with 1.6 to 2.2 bits on ten classes, a corrected value was 0.11
bits too high with five examples for a cell, 0.05 with ten, 0.01 with thirteen.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.checks import checked_groups
from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.information import (
    check_permutations,
    entropy,
    entropy_miller_madow,
    mutual_information,
    mutual_information_miller_madow,
    permuted_labels,
    reaches,
)
from ioca_jax.measures.pairs import EXAMPLES_PER_CELL, checked_codes


class GroupInformation(NamedTuple):
    """Joint information of groups of neurons about the class, in bits.

    ``cells`` are pairs of joint code and class that occur; all else is NaN where there
    are fewer than ``EXAMPLES_PER_CELL`` examples for a cell. ``entropy`` is ``H(T)`` of
    the joint code, ``information`` is ``I(T;Y)``; ``null_...`` are means under permuted
    labels (these fill more cells than the true ones, so the null is rather too large),
    and ``p_value`` of ``information`` is ``(b + 1) / (m + 1)``.
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
        """Examples that an estimate needs; more cells may occur."""
        return EXAMPLES_PER_CELL * self.cells


def random_groups(
    neurons: Int[ArrayLike, " K"], size: int, number: int, *, key: Array
) -> Int[Array, "M size"]:
    """Draws M groups of neurons at random, each without repetition."""
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
    """Joint entropy of groups of neurons and their information about the class.

    The joint code of a group is its codes in mixed radix; where the alphabet is greater
    than the examples could support, its rank among the codes that occur. Too few
    examples are refused; while tracing, values are NaN instead. The permutations of
    labels are the same for all groups.
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    groups = checked_groups("groups", groups, codes.shape[1])
    check_permutations(permutations)
    permuted = permuted_labels(labels, key, permutations)
    bits = _group_information(codes, labels, permuted, groups, num_codes, num_classes)
    check_groups_supported(bits.cells, len(labels), groups.shape[1])
    return bits


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _group_information(codes, labels, permuted, groups, num_codes, num_classes):
    def of_group(group):
        code = joint_code(codes[:, group], num_codes)
        return _values_of_code(
            code,
            labels,
            permuted,
            supported_codes(codes, len(group), num_codes),
            num_classes,
        )

    return jax.lax.map(of_group, groups)


def supported_codes(codes: Array, group_size: int, num_codes: int) -> int:
    """Codes in a table of a group: at most those the examples can support."""
    supported = max(1, len(codes) // EXAMPLES_PER_CELL)
    return possible_codes(num_codes, group_size, supported)


def possible_codes(num_codes: int, group_size: int, most: int) -> int:
    """Joint codes that a group can have, at most ``most``."""
    return min(num_codes ** min(group_size, 64), most)


def joint_code(members: Int[Array, "N size"], num_codes: int) -> Int[Array, " N"]:
    """A group's codes [N, size] as one, less than N or than ``B ** size``."""
    num_examples, size = members.shape
    if num_codes**size <= supported_codes(members, size, num_codes):
        return _mixed_radix(members, num_codes)
    # The most columns whose codes an int32 holds beside a rank.
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


def count_cells(code: Array, labels: Array, num_classes: int) -> Array:
    """How many pairs of code and class occur."""
    ordered = jnp.sort(code * num_classes + labels)
    return 1 + jnp.sum(ordered[1:] != ordered[:-1], dtype=jnp.int32)


def joint_table(code: Array, labels: Array, size: int, num_classes: int) -> Array:
    """Joint counts [size, C] but for labels -1 and codes beyond the table."""
    zeros = jnp.zeros((size, num_classes), jnp.int32)
    labels = jnp.where(labels < 0, num_classes, labels)  # -1 would count from the end
    return zeros.at[code, labels].add(1, mode="drop")


def _values_of_code(code, labels, permuted, size, num_classes) -> GroupInformation:
    """Information of a joint code [N]; NaN where examples are too few."""
    cells = count_cells(code, labels, num_classes)

    def informations(labels):
        table = joint_table(code, labels, size, num_classes)
        return mutual_information(table), mutual_information_miller_madow(table)

    def measured():
        table = joint_table(code, labels, size, num_classes)
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
    """Of the first k neurons of an order, and of those ``left``, [K+1] each."""

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
    permuted: Int[Array, "number N"] | None = None,
) -> OrderInformation:
    """Joint information of the neurons ablated so far, and of the remaining ones.

    Point k corresponds to point k of a curve; orders are [..., K]. Where examples are
    too few the values are NaN, and ``examples_needed`` estimates how many are needed:
    joint codes multiply, and a curve of one-bit neurons ends after some seven to
    fifteen of them. Cells are counted up to the first such point; past it more occur,
    and ``cells`` are that point's. ``permuted`` are as in ``pair_null``.
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    shape = np.shape(order)
    flat = order if len(shape) == 2 else jnp.reshape(order, (-1, *shape[-1:]))
    flat = checked_groups("order", flat, codes.shape[1])
    check_permutations(permutations)
    if permuted is None:
        permuted = permuted_labels(labels, key, permutations)
    bits = _along_orders(codes, labels, permuted, flat, num_codes, num_classes)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape[:-1], -1), bits)


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _along_orders(codes, labels, permuted, orders, num_codes, num_classes):
    size = supported_codes(codes, orders.shape[1], num_codes)

    def values(code):
        return _values_of_code(code, labels, permuted, size, num_classes)

    def of_order(order):
        columns = codes.T[order]
        left = _prefix_values(values, columns[::-1], num_codes)
        left = jax.tree.map(lambda leaf: leaf[::-1], left)
        return OrderInformation(_prefix_values(values, columns, num_codes), left)

    return jax.lax.map(of_order, orders)


class _Prefix(NamedTuple):
    """The joint code [N] of the first k neurons, and its values."""

    code: Array
    values: GroupInformation


def _prefix_values(
    values: Callable[[Array], GroupInformation],
    columns: Int[Array, "K N"],
    num_codes: int,
) -> GroupInformation:
    """Values of the first k columns, k from 0 to K; none after the first NaN."""
    num_examples = columns.shape[1]

    def extended(prefix: _Prefix, column: Array) -> _Prefix:
        code = _ranks(prefix.code * num_codes + column)
        return _Prefix(code, values(code))

    def unsupported(prefix: _Prefix, column: Array) -> _Prefix:
        return prefix._replace(values=_without_estimate(prefix.values.cells))

    def step(prefix, column):
        is_supported = prefix.values.cells * EXAMPLES_PER_CELL <= num_examples
        prefix = jax.lax.cond(is_supported, extended, unsupported, prefix, column)
        return prefix, prefix.values

    nothing = jnp.zeros(num_examples, jnp.int32)
    first = _Prefix(nothing, values(nothing))
    _, others = jax.lax.scan(step, first, columns)
    return jax.tree.map(
        lambda one, more: jnp.concatenate([one[None], more]), first.values, others
    )


def redundancy_index(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    groups: Int[ArrayLike, "M size"],
    *,
    num_codes: int,
    num_classes: int,
) -> Float[Array, " M"]:
    """``sum_j I(Tj;Y) / I(T;Y)`` of groups, with Miller-Madow values.

    Above 1 the neurons' information overlaps: redundancy dominates (n copies give n).
    Below 1 synergy dominates (inputs of an XOR give 0). NaN where I(T;Y) is not
    positive.
    """
    arguments = codes, labels, groups, num_codes, num_classes
    return _checked_ratio(_redundancy_index, *arguments)


def vulnerability(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    groups: Int[ArrayLike, "M size"],
    *,
    num_codes: int,
    num_classes: int,
) -> Float[Array, " M"]:
    """``sum_j I(Tj;Y|T without j) / I(T;Y)`` of groups, with Miller-Madow values.

    How many times a group's information is lost if each neuron goes in turn: 0 for
    copies, 1 for neurons whose information adds up, n for the n inputs of a parity. NaN
    where I(T;Y) is not positive. Source: Gutknecht et al., arXiv 2504.15779.
    """
    arguments = codes, labels, groups, num_codes, num_classes
    return _checked_ratio(_vulnerability, *arguments)


def _checked_ratio(function, codes, labels, groups, num_codes, num_classes):
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    groups = checked_groups("groups", groups, codes.shape[1])
    ratio, cells = function(codes, labels, groups, num_codes, num_classes)
    check_groups_supported(cells, len(labels), groups.shape[1])
    return ratio


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _redundancy_index(codes, labels, groups, num_codes, num_classes):
    singles = joint_counts(codes, labels, num_codes=num_codes, num_classes=num_classes)
    alone = mutual_information_miller_madow(singles)

    def of_group(group):
        joint, cells = _joint(codes[:, group], labels, num_codes, num_classes)
        return _ratio(alone[group].sum(), joint, cells, len(labels)), cells

    return jax.lax.map(of_group, groups, batch_size=_GROUPS_AT_ONCE)


@partial(jax.jit, static_argnames=("num_codes", "num_classes"))
def _vulnerability(codes, labels, groups, num_codes, num_classes):
    members = np.arange(groups.shape[1])
    others = np.stack([np.delete(members, member) for member in members])

    def of_group(group):
        joint, cells = _joint(codes[:, group], labels, num_codes, num_classes)
        left, _ = jax.lax.map(
            lambda rest: _joint(codes[:, rest], labels, num_codes, num_classes),
            group[others],
        )
        return _ratio(jnp.sum(joint - left), joint, cells, len(labels)), cells

    return jax.lax.map(of_group, groups, batch_size=_GROUPS_AT_ONCE)


def _joint(members, labels, num_codes, num_classes):
    """I(T;Y) of a joint code, and how many cells it fills."""
    code = joint_code(members, num_codes)
    size = supported_codes(members, members.shape[1], num_codes)
    table = joint_table(code, labels, size, num_classes)
    cells = count_cells(code, labels, num_classes)
    return mutual_information_miller_madow(table), cells


def _ratio(part, joint, cells, num_examples):
    """NaN where the joint information is not positive or not supported."""
    known = (joint > 0) & (cells * EXAMPLES_PER_CELL <= num_examples)
    return jnp.where(known, part / jnp.where(known, joint, 1), jnp.nan)


_GROUPS_AT_ONCE = 16


def check_groups_supported(cells: Array, num_examples: int, size: int) -> None:
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
