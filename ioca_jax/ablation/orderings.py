"""Scores become orders of ablation, and orders become cumulative masks.

An order is a list of neuron indices on the flat axis; ablating its first k, for every
k, is a curve. Orders are nested by construction: row k of the masks differs from row
k-1 in exactly one neuron. Equal scores (dead neurons, say) are broken at random by a
key: broken by index, ties would be correlated across measures.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.checks import (
    as_array,
    check_integer,
    check_key,
    is_floating,
    is_known,
    is_real,
)
from ioca_jax.host_arrays import AnyArray, host_view, module_of

DIRECTIONS = ("ascending", "descending")


def order_neurons(
    scores: Float[ArrayLike, " H"],
    neurons: Int[ArrayLike, " K"] | None = None,
    direction: str = "ascending",
    *,
    key: Array,
) -> Int[Array, " K"]:
    """Sorts neurons by score.

    Args:
        scores: float32 [H], or integers.
        neurons: int32 [K] indices of the neurons to order, those of a layer, say; None
            is all.
        direction: ``ascending`` (least score first) or ``descending``.
        key: breaks ties at random.

    Returns:
        int32 [K], the neurons in the order of ablation.

    Raises:
        ValueError: an unknown direction, indices out of range or twice, scores that
            are not numbers, one that is NaN, or no key; while tracing, neurons with
            NaN come last.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> scores = jnp.array([0.3, 0.1, 0.9])
        >>> ioca.order_neurons(scores, key=jax.random.key(0)).tolist()
        [1, 0, 2]
    """
    scores = _checked_scores(scores)
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction: expected one of {', '.join(DIRECTIONS)} (random_order draws "
            f"at random), got {direction!r}"
        )
    number = int(np.isnan(host_view(scores)).sum()) if is_known(scores) else 0
    if number:
        raise ValueError(
            f"scores: expected numbers, got NaN for {number} of "
            f"{len(scores)} neurons; such neurons have no place in an order"
        )
    if neurons is None:
        neurons = np.arange(len(scores), dtype=np.int32)
    neurons = checked_neurons(neurons, len(scores))
    _check_one_order(neurons)
    check_key(key)
    return _sort(scores, neurons, key, direction == "descending")


@partial(jax.jit, static_argnames="descending")
def _sort(scores: Array, neurons: Array, key: Array, descending: bool) -> Array:
    shuffled = jax.random.permutation(key, neurons)
    rank = -scores[shuffled] if descending else scores[shuffled]
    return shuffled[jnp.argsort(rank, stable=True)]


def random_order(neurons: Int[ArrayLike, " K"], *, key: Array) -> Int[Array, " K"]:
    """Draws an order uniformly over neurons.

    Args:
        neurons: int32 [K] indices of the neurons to order.
        key: of the draw.

    Returns:
        int32 [K], a permutation of ``neurons``.

    Raises:
        ValueError: not indices [K], one negative or twice.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> order = ioca.random_order(jnp.arange(4, 8), key=jax.random.key(0))
        >>> sorted(order.tolist())
        [4, 5, 6, 7]
    """
    neurons = checked_neurons(neurons)
    _check_one_order(neurons)
    check_key(key)
    return jax.random.permutation(key, neurons)


def cumulative_masks(
    order: Int[ArrayLike, " K"], num_neurons: int
) -> Bool[Array, "rows H"]:
    """The masks of a curve: row k ablates the first k neurons of the order.

    Args:
        order: int32 [K].
        num_neurons: H.

    Returns:
        bool [K+1, H]; True keeps, and row k has exactly k False.

    Raises:
        ValueError: an order that is not [K], or with indices out of range or twice.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> ioca.cumulative_masks(jnp.array([2, 0]), num_neurons=3).astype(int).tolist()
        [[1, 1, 1], [1, 1, 0], [0, 1, 0]]
    """
    check_integer("num_neurons", num_neurons, least=1)
    order = checked_neurons(order, num_neurons)
    _check_one_order(order)
    # The step at which each neuron goes; those that stay go after the last.
    step = jnp.full(num_neurons, len(order)).at[order].set(jnp.arange(len(order)))
    return step >= jnp.arange(len(order) + 1)[:, None]


def checked_neurons(
    order: ArrayLike, num_neurons: int | None = None
) -> Int[AnyArray, "*batch K"]:
    """Orders as int32 [..., K], refused unless each lists distinct neurons.

    Args:
        order: integers [..., K].
        num_neurons: H; None where the caller does not know it.

    Returns:
        The same as an array. Values are not looked at while tracing.

    Raises:
        ValueError: not integers [..., K], longer than H, out of range, or twice.
    """
    array: Any = order if isinstance(order, jax.Array) else np.asarray(order)
    array = host_view(array)
    if array.ndim < 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            "order: expected integers of shape [K], neuron indices, got "
            f"{array.dtype} of shape {list(array.shape)}"
        )
    if num_neurons is not None and array.shape[-1] > num_neurons:
        raise ValueError(
            f"order: expected at most {num_neurons} neurons, all that the network has, "
            f"got {array.shape[-1]}"
        )
    if is_known(array) and array.size:
        _check_values(np.asarray(array), num_neurons)
    return module_of(array).asarray(array, np.int32)


def _checked_scores(scores: ArrayLike) -> Float[Array, " H"]:
    """Scores as float32 [H]; integers by their ranks, which no negation wraps."""
    given = as_array("scores", scores)
    if given.ndim != 1:
        raise ValueError(f"scores: expected shape [H], got {list(given.shape)}")
    if not is_real(given):
        raise ValueError(
            f"scores: expected float32 [H], a number for each neuron, got {given.dtype}"
        )
    if not is_floating(given) and is_known(given):
        given = np.unique(np.asarray(given), return_inverse=True)[1]
    return jnp.asarray(given, jnp.float32)


def _check_values(order: np.ndarray, num_neurons: int | None) -> None:
    most = np.iinfo(np.int32).max if num_neurons is None else num_neurons - 1
    outside = order[(order < 0) | (order > most)]
    if outside.size:
        raise ValueError(
            f"order: expected neuron indices in [0, {most}], got {int(outside.flat[0])}"
        )
    ordered = np.sort(order, axis=-1)
    twice = ordered[..., 1:][ordered[..., 1:] == ordered[..., :-1]]
    if twice.size:
        raise ValueError(
            f"order: expected every neuron once, got {int(twice.flat[0])} twice"
        )


def _check_one_order(order: AnyArray) -> None:
    if order.ndim != 1:
        raise ValueError(f"order: expected shape [K], got {list(order.shape)}")
