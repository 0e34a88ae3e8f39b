"""Checks of the examples and variables that a network is given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ioca_jax.arrays import LARGEST_UNSCALED
from ioca_jax.checks import (
    as_array,
    as_examples,
    check_examples,
    check_no_nan,
    is_known,
)
from ioca_jax.networks.models import Model, as_network
from ioca_jax.networks.network import Network


def checked_network(
    model: Network | Model, x: Any, y: ArrayLike, num_classes: int | None = None
) -> Network:
    """The network of a model, for examples and labels that fit it.

    Labels are the network's classes, or of a number of others.

    Refuses what ``check_examples`` does, and pixels of networks trained on shares:
    networks of this library are trained on a ``Dataset``, which divides 8-bit pixels by
    255; what other networks take is theirs to say.
    """
    if isinstance(model, (Network, Model)):
        tokens = model.tokens if isinstance(model, Network) else None
        check_examples(x, y, num_classes or model.num_classes, tokens)
    x = as_examples("x", x)
    network = as_network(model, x)
    check_scaled(network, "x", x)
    check_counted(network, "x", x)
    return network


def check_counted(network: Network, name: str, x: Any) -> None:
    """Refuses examples of which no position counts, if they are known."""
    if network.pooling.counts is None or not all(map(is_known, jax.tree.leaves(x))):
        return
    with jax.ensure_compile_time_eval():
        numbers = np.asarray(network.counted(x)).sum(axis=1)
    if not numbers.all():
        raise ValueError(
            f"{name}: expected a position that counts in every example, got none in "
            f"{(numbers == 0).sum()} of {len(numbers)}; leave such examples out"
        )


def check_scaled(network: Network, name: str, x: Any) -> None:
    """Refuses 8-bit pixels of a built-in network, if their values are known."""
    if network.model is None or not is_known(x):
        return
    given = as_array(name, x)
    if not jnp.issubdtype(given.dtype, jnp.integer) or not given.size:
        return
    with jax.ensure_compile_time_eval():
        greatest = int(given.max())
    if greatest > LARGEST_UNSCALED:
        raise ValueError(
            f"{name}: expected examples scaled as in training, got integers up to "
            f"{greatest}; divide pixels by 255, or take the arrays of the Dataset"
        )


def check_converged(variables: Any) -> None:
    """Refuses a network that diverged, if its variables are known.

    Infinite variables may be meant: a mask of attention, say.
    """
    for leaf in jax.tree.leaves(variables):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            check_no_nan("variables", leaf, "the network diverged; train it otherwise")
