"""Scores become orders of ablation, and orders become cumulative masks.

An order is a list of neuron indices on the flat axis; ablating its first k, for every
k, is a curve. Orders are nested by construction: row k of the masks differs from row
k-1 in exactly one neuron. Equal scores (dead neurons, say) are broken at random by a
key: broken by index, ties would be correlated across measures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

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
        scores: float32 [H].
        neurons: int32 [K] indices of the neurons to order, those of a layer, say; None
            is all.
        direction: ``ascending`` (least score first) or ``descending``.
        key: breaks ties at random.

    Returns:
        int32 [K], the neurons in the order of ablation.

    Raises:
        ValueError: an unknown direction, indices out of range or twice, or a score
            that is NaN.
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(f"scores: expected shape [H], got {list(scores.shape)}")
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction: expected one of {', '.join(DIRECTIONS)} (random_order draws "
            f"at random), got {direction!r}"
        )
    if not isinstance(scores, Tracer) and bool(jnp.isnan(scores).any()):
        raise ValueError(
            f"scores: expected numbers, got NaN for {int(jnp.isnan(scores).sum())} of "
            f"{len(scores)} neurons; such neurons have no place in an order"
        )
    if neurons is None:
        neurons = jnp.arange(len(scores), dtype=jnp.int32)
    shuffled = random_order(checked_neurons(neurons, len(scores)), key=key)
    rank = scores[shuffled] if direction == "ascending" else -scores[shuffled]
    return shuffled[jnp.argsort(rank, stable=True)]


def random_order(neurons: Int[ArrayLike, " K"], *, key: Array) -> Int[Array, " K"]:
    """Draws an order uniformly over neurons.

    Args:
        neurons: int32 [K] indices of the neurons to order.
        key: of the draw.

    Returns:
        int32 [K], a permutation of ``neurons``.
    """
    return jax.random.permutation(key, jnp.asarray(neurons, jnp.int32))


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
    """
    order = checked_neurons(order, num_neurons)
    if order.ndim != 1:
        raise ValueError(f"order: expected shape [K], got {list(order.shape)}")
    # The step at which each neuron goes; those that stay go after the last.
    step = jnp.full(num_neurons, len(order)).at[order].set(jnp.arange(len(order)))
    return step >= jnp.arange(len(order) + 1)[:, None]


def checked_neurons(order: ArrayLike, num_neurons: int) -> Int[Array, "*batch K"]:
    """Orders as int32 [..., K], refused unless each lists distinct neurons.

    Args:
        order: integers [..., K].
        num_neurons: H.

    Returns:
        The same as an array on the device. Values are not looked at while tracing.

    Raises:
        ValueError: not integers [..., K], longer than H, out of range, or twice.
    """
    array: Any = order if isinstance(order, Tracer) else np.asarray(order)
    if array.ndim < 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            "order: expected integers of shape [K], neuron indices, got "
            f"{array.dtype} of shape {list(array.shape)}"
        )
    if array.shape[-1] > num_neurons:
        raise ValueError(
            f"order: expected at most {num_neurons} neurons, all that the network has, "
            f"got {array.shape[-1]}"
        )
    if isinstance(array, np.ndarray) and array.size:
        if array.min() < 0 or array.max() >= num_neurons:
            outside = array[(array < 0) | (array >= num_neurons)]
            raise ValueError(
                f"order: expected neuron indices in [0, {num_neurons - 1}], got "
                f"{int(outside.flat[0])}"
            )
        ordered = np.sort(array, axis=-1)
        twice = ordered[..., 1:][ordered[..., 1:] == ordered[..., :-1]]
        if twice.size:
            raise ValueError(
                f"order: expected every neuron once, got {int(twice.flat[0])} twice"
            )
    return jnp.asarray(array, jnp.int32)
