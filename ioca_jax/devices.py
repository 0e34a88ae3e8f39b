"""The devices of a host, and how work is spread over them.

Seeds are spread over devices where networks are trained, and examples where they are
evaluated; a sum over devices then ends the work, and counts are the same as on one. XLA
runs a chain of small operations on one core of a CPU. So there each core evaluates a
share of the examples, in a thread; ``use_all_cores`` makes a device of each core, and
they train networks too.
"""

import contextlib
import contextvars
import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Num

from ioca_jax.batching import IGNORE_LABEL, count_examples
from ioca_jax.checks import as_array, as_examples, device_examples
from ioca_jax.host_arrays import AnyArray, host_view

AXIS = "device"
# Of programs that draw at random once: XLA's third level, the default, takes up to ten
# times as long to compile them as its first, for the same bits.
COMPILED_QUICKLY = {"xla_backend_optimization_level": 1}


def use_all_cores() -> None:
    """Makes a JAX device of every CPU core; elsewhere than on CPUs it does nothing.

    Call it before anything runs in JAX; afterwards it is too late and changes nothing.
    Training needs it; what only evaluates networks keeps all cores busy without it.

    Example:
        >>> import jax, ioca_jax as ioca
        >>> ioca.use_all_cores()
        >>> jax.device_count() >= 1  # on a CPU the number of its cores
        True
    """
    if _cpu_devices_are_chosen():
        return
    try:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    except RuntimeError:
        return  # JAX is running already, with the devices that it has


def keep_programs(directory: str) -> None:
    """Keeps every compiled program in a directory, for later processes.

    JAX itself keeps those that took a second; a study has a hundred that took less, and
    half of its time to compile goes into them.
    """
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cpu_devices_are_chosen() -> bool:
    return jax.config.jax_num_cpu_devices > 0  # pyright: ignore[reportAttributeAccessIssue]


_limit: contextvars.ContextVar[int | None] = contextvars.ContextVar(
    "devices", default=None
)


@contextlib.contextmanager
def limited_devices(number: int) -> Iterator[None]:
    """Works on so many of this process's devices within the context.

    On a CPU devices are virtual: entered before anything runs in JAX, there are as many
    as wanted.
    """
    if number < 1:
        raise ValueError(f"num_devices: expected at least 1, got {number}")
    with contextlib.suppress(RuntimeError):  # JAX is running, with the devices it has
        jax.config.update("jax_num_cpu_devices", number)
    available = len(jax.local_devices())
    if number > available:
        raise ValueError(
            f"num_devices: expected at most {available}, the "
            f"{jax.local_devices()[0].platform} devices of this process, got {number}"
        )
    token = _limit.set(number)
    try:
        yield
    finally:
        _limit.reset(token)


def device_mesh() -> Mesh:
    """The devices of this process that work, along the one axis ``device``."""
    devices = jax.local_devices()[: _limit.get()]
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(tree: Any) -> Any:
    """Copies a pytree of arrays to every device."""
    return jax.device_put(tree, NamedSharding(device_mesh(), P()))


def place_examples(x: Any, y: Int[ArrayLike, "N *T"]) -> tuple[Any, Int[Array, "N *T"]]:
    """Puts examples where many evaluations will want them, once.

    Args:
        x: examples [N, ...], or a pytree of arrays that begin with N.
        y: labels [N], or [N, T] of tokens.

    Returns:
        The same on the devices, a share on each if N is a multiple of their number.

    Raises:
        ValueError: not one label for each example.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x, y = ioca.place_examples(np.zeros((64, 4), np.float32), np.zeros(64, int))
        >>> x.shape, len(x.devices()) >= 1
        ((64, 4), True)
    """
    x, y, mesh = device_examples("x", x), jnp.asarray(y), device_mesh()
    number = count_examples(x)
    if y.shape[:1] != (number,):
        raise ValueError(
            f"y: expected shape {[number]}, a label for each example, got "
            f"{list(y.shape)}"
        )
    if len(y) % mesh.size:
        return x, y
    return jax.device_put((x, y), NamedSharding(mesh, P(AXIS)))


def spread_examples(x: Num[ArrayLike, "N *shape"]) -> Num[Array, "n *shape"]:
    """Puts a share of the examples on every device, zeros added so that all are equal.

    For ``fetch_examples``.
    """
    mesh = device_mesh()
    x = np.asarray(x)
    filled = np.pad(x, _padding(x, -len(x) % mesh.size))
    return jax.device_put(filled, NamedSharding(mesh, P(AXIS)))


def fetch_examples(
    own: Num[Array, "n *shape"], wanted: Int[Array, " b"]
) -> Num[Array, "b *shape"]:
    """The wanted examples from the devices that have them, under ``shard_map``.

    Every device asks for as many.
    """
    of_all = jax.lax.all_gather(wanted, AXIS)  # [devices, b]
    rows = of_all - jax.lax.axis_index(AXIS) * len(own)
    mine = (rows >= 0) & (rows < len(own))
    mine = mine.reshape(*mine.shape, *[1] * (own.ndim - 1))
    sent = jnp.where(mine, own[jnp.clip(rows, 0, len(own) - 1)], 0)
    # One device has the image and the others add zeros: nothing is rounded.
    return jax.lax.psum_scatter(sent, AXIS)


def _padding(x: ArrayLike, missing: int) -> list[tuple[int, int]]:
    """Pad widths that add examples at the end."""
    return [(0, missing), *[(0, 0)] * (jnp.ndim(x) - 1)]


def _split_over_devices(x: Any, y: AnyArray) -> tuple[Any, Array]:
    """A share on every device, filled up by examples labelled ``IGNORE_LABEL``."""
    missing = -len(y) % device_mesh().size
    if missing:
        x = jax.tree.map(lambda leaf: jnp.pad(leaf, _padding(leaf, missing)), x)
        y = jnp.pad(y, _padding(y, missing), constant_values=IGNORE_LABEL)
    return jax.device_put((x, y), NamedSharding(device_mesh(), P(AXIS)))


def examples_and_labels(
    x: Any, y: Int[ArrayLike, "N *T"]
) -> tuple[Any, Int[AnyArray, "N *T"]]:
    """Checked examples, and labels as int32, for ``sum_over_examples``.

    NumPy arrays stay what they are: each share of them is put on its device.
    """
    y = host_view(as_array("y", y))
    if isinstance(y, np.ndarray):
        return as_examples("x", x), y.astype(np.int32, copy=False)
    return as_examples("x", x), jnp.asarray(y, jnp.int32)


# Smaller shares of the examples cost more than a second core gains.
_FEWEST_IN_A_SHARE = 256


def shares_at_once(y: Int[AnyArray, "N *T"]) -> int:
    """Into how many shares ``sum_over_examples`` splits examples.

    One per device; on a CPU that the user has not split into devices, one per core.
    """
    shares = device_mesh().size
    if jax.default_backend() != "cpu" or isinstance(y, Tracer):
        return shares
    if shares == 1 and _limit.get() is None and not _cpu_devices_are_chosen():
        shares = len(os.sched_getaffinity(0))
    return max(1, min(shares, len(y) // _FEWEST_IN_A_SHARE))


def sum_over_examples(
    function: Callable[..., Any],
    engine: Any,
    arrays: Any,
    x: Any,
    y: Int[AnyArray, "N *T"],
) -> Any:
    """Applies a function to shares of the examples and adds up.

    The function takes the engine, arrays, examples (an array [N, ...], or a pytree of
    such) and labels, and returns a pytree of sums over the examples whose label is not
    ``IGNORE_LABEL``. Equal engines share a compilation. Shares are worked on at once
    (``shares_at_once``). While tracing, the function is applied as it is: the caller
    decides what runs where.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((arrays, x, y))):
        # Under a trace, NumPy arrays cannot be indexed by what is traced.
        return function(engine, *jax.tree.map(jnp.asarray, (arrays, x, y)))
    if jax.default_backend() == "cpu":
        return _sum_in_threads(function, engine, arrays, x, y)
    examples = _split_over_devices(x, y)
    return _sum(function, engine, device_mesh(), arrays, *examples)


@partial(jax.jit, static_argnames=("function", "engine", "mesh"))
def _sum(function, engine, mesh, arrays, x, y):
    def local(arrays, x, y):
        return jax.lax.psum(function(engine, arrays, x, y), AXIS)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=P(),
        check_vma=False,
    )(arrays, x, y)


def _sum_in_threads(function, engine, arrays, x, y):
    """``_sum`` on a CPU: one program, run on several shares at once.

    Threads on one device are twice as fast as ``shard_map`` over virtual devices.
    """
    mesh, shares = device_mesh(), shares_at_once(y)
    images, labels = jax.tree.map(np.asarray, x), np.asarray(y)
    size = -(-len(labels) // shares)

    def share(index: int) -> tuple[Any, np.ndarray]:
        first_new = min(index * size, len(labels))
        start = min(first_new, len(labels) - size)
        own = labels[start : start + size].copy()
        own[: first_new - start] = IGNORE_LABEL
        # Views: XLA seldom copies them.
        return jax.tree.map(lambda leaf: leaf[start : start + size], images), own

    arrays, examples = jax.device_put(
        (jax.tree.map(_whole_bytes, arrays), [share(index) for index in range(shares)]),
        mesh.devices.flat[0],
    )
    # Threads do not inherit what the caller has configured for its own alone.
    program = _apply.lower(function, engine, arrays, *examples[0]).compile()
    with ThreadPoolExecutor(shares) as threads:
        sums = threads.map(
            lambda some: jax.block_until_ready(program(arrays, *some)), examples
        )
        on_host = (jax.tree.map(np.asarray, some) for some in sums)
        total = reduce(partial(jax.tree.map, np.add), on_host)
    return replicated(total) if mesh.size > 1 else jax.device_put(total)


@partial(jax.jit, static_argnames=("function", "engine"))
def _apply(function, engine, arrays, x, y):
    narrow = jax.tree.map(
        lambda leaf: leaf.narrowed() if isinstance(leaf, _Widened) else leaf,
        arrays,
        is_leaf=lambda leaf: isinstance(leaf, _Widened),
    )
    return function(engine, narrow, x, y)


@partial(jax.tree_util.register_dataclass, data_fields=["wide"], meta_fields=["dtype"])
@dataclasses.dataclass(frozen=True)
class _Widened:
    """An array of less than a byte a number, such as ``int4``, in a wider type.

    XLA packs such arrays. A program that is compiled ahead of its call refuses the
    layout in which JAX passes them.
    """

    wide: Any
    dtype: Any

    def narrowed(self) -> Array:
        """The array in its own type."""
        return self.wide.astype(self.dtype)


def _whole_bytes(leaf: ArrayLike) -> Any:
    """An array that a program compiled ahead of its call takes."""
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    dtype = leaf.dtype
    if jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits < 8:
        return _Widened(leaf.astype(jnp.int8), dtype)  # int8 holds uint4 as well
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 8:
        return _Widened(leaf.astype(jnp.float32), dtype)
    return leaf
