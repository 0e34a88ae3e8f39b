"""Checks of the examples and variables that a network is given."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ioca_jax.checks import as_array, check_examples, check_no_nan, is_known
from ioca_jax.data import LARGEST_UNSCALED
from ioca_jax.networks.layered import LayeredNetwork
from ioca_jax.networks.network import Network


def check_inputs(network: Network, x: ArrayLike, y: ArrayLike) -> None:
    """Refuses what ``check_examples`` does, and pixels of networks trained on shares.

    Networks of this library are trained on a ``Dataset``, which divides 8-bit pixels by
    255; what other networks take is theirs to say.
    """
    check_examples(x, y, network.num_classes)
    check_scaled(network, "x", x)


def check_scaled(network: Network, name: str, x: ArrayLike) -> None:
    """Refuses 8-bit pixels of a built-in network, if their values are known."""
    if not isinstance(network, LayeredNetwork) or not is_known(x):
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
