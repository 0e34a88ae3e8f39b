"""Arrays on a CPU as NumPy arrays: NumPy compiles no program for what it computes.

A small operation of JAX is a program of its own for each shape, which takes longer to
compile, or to fetch from a cache, than to run.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

AnyArray = jax.Array | np.ndarray
"""A JAX array, or a NumPy array that JAX takes as well."""


def host_view(array: Any) -> Any:
    """A JAX array of a CPU as a NumPy array, without a copy; others as they are."""
    if isinstance(array, Tracer) or not isinstance(array, jax.Array):
        return array
    if not array.is_fully_addressable or len(array.devices()) > 1:
        return array
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.extended)
    (device,) = array.devices()
    return np.asarray(array) if device.platform == "cpu" and not is_key else array


def module_of(array: Any) -> ModuleType:
    """The module whose functions compute with an array: NumPy, or ``jax.numpy``."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def divided(array: Any, number: int) -> Any:
    """float32 ``array / number``, bit for bit that of ``jax.numpy``.

    XLA multiplies several numbers by the reciprocal of a divisor that they share.
    """
    if module_of(array) is jnp:
        return array / jnp.float32(number)
    divisor = np.float32(number)
    return array / divisor if array.size == 1 else array * (np.float32(1) / divisor)
