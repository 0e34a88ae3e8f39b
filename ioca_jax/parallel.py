"""The devices of this host: which there are, and how work is spread over them.

Seeds are spread over devices where networks are trained, and examples where they are
evaluated; a sum over devices then ends the work, and counts are the same as on one. On
a CPU the devices are virtual: ``use_all_cores`` makes one of each core, which keeps all
cores busy where XLA would run a chain of small operations on one.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.streaming import SEEN

AXIS = "device"


def use_all_cores() -> None:
    """Makes a JAX device of every CPU core; elsewhere than on CPUs it does nothing.

    Call it before anything runs in JAX; afterwards it is too late and changes nothing.
    """
    if jax.config.jax_num_cpu_devices > 0:  # pyright: ignore[reportAttributeAccessIssue]
        return  # the user has chosen
    try:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    except RuntimeError:
        return  # JAX is running already, with the devices that it has


def device_mesh() -> Mesh:
    """This host's devices in a row.

    Returns:
        A mesh with the one axis ``device``.
    """
    devices = jax.local_devices()
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(tree: Any) -> Any:
    """Puts a copy of arrays on every device.

    Args:
        tree: a pytree of arrays.

    Returns:
        The same on the devices.
    """
    return jax.device_put(tree, NamedSharding(device_mesh(), P()))


def place_examples(
    x: Float[ArrayLike, "N D"], y: Int[ArrayLike, " N"]
) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
    """Puts examples where many evaluations will want them, once.

    Args:
        x: images [N, D].
        y: labels [N].

    Returns:
        The same on the devices, a share on each if N is a multiple of their number.
    """
    x, y, mesh = jnp.asarray(x), jnp.asarray(y), device_mesh()
    if len(y) % mesh.size:
        return x, y
    return jax.device_put((x, y), NamedSharding(mesh, P(AXIS)))


def _split_over_devices(x: Array, y: Array) -> tuple[Array, Array]:
    """A share on every device, filled up by examples labelled ``SEEN``."""
    missing = -len(y) % device_mesh().size
    if missing:
        x = jnp.pad(x, ((0, missing), (0, 0)))
        y = jnp.pad(y, (0, missing), constant_values=SEEN)
    return place_examples(x, y)


def sum_over_examples(
    function: Callable[[Any, Float[Array, "n D"], Int[Array, " n"]], Any],
    arrays: Any,
    x: Float[Array, "N D"],
    y: Int[Array, " N"],
) -> Any:
    """Applies a function to every device's share of the examples and adds up.

    Args:
        function: takes arrays, images and labels, and returns a pytree of sums over the
            examples whose label is not ``SEEN``. Equal functions share a compilation,
            so it should compare by value.
        arrays: what every device needs whole.
        x: images [N, D].
        y: labels [N].

    Returns:
        The sums. While tracing, the function is applied where it stands: whoever traces
        decides what runs where.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((arrays, x, y))):
        return function(arrays, x, y)
    return _sum(function, device_mesh(), arrays, *_split_over_devices(x, y))


@partial(jax.jit, static_argnames=("function", "mesh"))
def _sum(function, mesh, arrays, x, y):
    def local(arrays, x, y):
        return jax.lax.psum(function(arrays, x, y), AXIS)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=P(),
        check_vma=False,
    )(arrays, x, y)
