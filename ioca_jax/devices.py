"""Devices and processes, and how work is spread over them.

Seeds are spread over devices where networks are trained, and examples where they are
evaluated; a sum over devices then ends the work, and counts are the same as on one. XLA
runs a chain of small operations on one core of a CPU. So there each core evaluates a
share of the examples, in a thread; ``use_all_cores`` makes a device of each core, and
they train networks too.

Of several processes each works on seeds of its own, on its own devices; they meet where
results are gathered (``gather``) and where one decides for all (``on_primary``).
"""

import contextlib
import contextvars
import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
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

from ioca_jax.batching import IGNORE_LABEL

AXIS = "device"


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


def place_examples(
    x: Num[ArrayLike, "N *shape"], y: Int[ArrayLike, " N"]
) -> tuple[Num[Array, "N *shape"], Int[Array, " N"]]:
    """Puts examples where many evaluations will want them, once.

    Args:
        x: examples [N, ...].
        y: labels [N].

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
    x, y, mesh = jnp.asarray(x), jnp.asarray(y), device_mesh()
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"y: expected shape {list(x.shape[:1])}, a label for each example, got "
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


def _split_over_devices(x: Array, y: Array) -> tuple[Array, Array]:
    """A share on every device, filled up by examples labelled ``IGNORE_LABEL``."""
    missing = -len(y) % device_mesh().size
    if missing:
        x = jnp.pad(x, _padding(x, missing))
        y = jnp.pad(y, (0, missing), constant_values=IGNORE_LABEL)
    return place_examples(x, y)


# Smaller shares of the examples cost more than a second core gains.
_FEWEST_IN_A_SHARE = 256


def shares_at_once(x: Num[Array, "N *shape"]) -> int:
    """Into how many shares ``sum_over_examples`` splits examples.

    One for each device; where a CPU is one device that nobody asked for, one for each
    of its cores.
    """
    shares = device_mesh().size
    if jax.default_backend() != "cpu" or isinstance(x, Tracer):
        return shares
    if shares == 1 and _limit.get() is None and not _cpu_devices_are_chosen():
        shares = len(os.sched_getaffinity(0))
    return max(1, min(shares, len(x) // _FEWEST_IN_A_SHARE))


def sum_over_examples(
    function: Callable[..., Any],
    engine: Any,
    arrays: Any,
    x: Num[Array, "N *shape"],
    y: Int[Array, " N"],
) -> Any:
    """Applies a function to shares of the examples and adds up.

    The function takes the engine, arrays, examples and labels, and returns a pytree of
    sums over the examples whose label is not ``IGNORE_LABEL``. Equal engines share a
    compilation. Shares are worked on at once (``shares_at_once``). While tracing, the
    function is applied as it is: the caller decides what runs where.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((arrays, x, y))):
        return function(engine, arrays, x, y)
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
    mesh, shares = device_mesh(), shares_at_once(x)
    images, labels = np.asarray(x), np.asarray(y)
    size = -(-len(labels) // shares)

    def share(index: int) -> tuple[np.ndarray, np.ndarray]:
        first_new = min(index * size, len(labels))
        start = min(first_new, len(labels) - size)
        own = labels[start : start + size].copy()
        own[: first_new - start] = IGNORE_LABEL
        return images[start : start + size], own  # a view: XLA seldom copies it

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
        total = reduce(partial(jax.tree.map, jnp.add), sums)
    return replicated(total) if mesh.size > 1 else total


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


# Schedulers state the number of processes here, and JAX finds the others by itself.
_SCHEDULERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")


def start_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 60,
) -> None:
    """Joins the processes of a run, before anything else runs in JAX.

    Under Slurm, Open MPI and on TPU pods JAX finds the others by itself, without
    arguments. A process alone needs no call, but may make one.
    """
    given = (coordinator_address, num_processes, process_id)
    if coordinator_address is None or num_processes is None or process_id is None:
        if any(value is not None for value in given):
            raise ValueError(
                "coordinator_address, num_processes, process_id: expected all three or "
                f"none, got {', '.join(map(str, given))}"
            )
        several = [int(os.environ.get(name, 1)) > 1 for name in _SCHEDULERS]
        if not any(several) and "," not in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
            return
    else:
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"process_id: expected from 0 to {num_processes - 1}, got {process_id}"
            )
        host, _, port = coordinator_address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(
                f"coordinator_address: expected host:port, got {coordinator_address!r}"
            )
        if process_id:
            _wait_for(coordinator_address, timeout)
    # JAX would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *given,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=timeout,
        )
    except RuntimeError as error:
        raise TimeoutError(
            f"expected {num_processes or 'all'} processes to meet at "
            f"{coordinator_address or 'the coordinator'} within {timeout} s, got "
            f"{str(error).splitlines()[0]}"
        ) from error
    except ValueError as error:
        raise ValueError(
            "expected a scheduler that gives the addresses of the processes, got one "
            f"that gives only their number ({error}); start them by srun or "
            "mpirun, or give --coordinator_address, --num_processes and --process_id"
        ) from error
    own, of_all = jax.local_device_count(), jax.device_count()
    if own * jax.process_count() != of_all:
        raise ValueError(
            f"num_devices: expected as many in each of {jax.process_count()} processes,"
            f" got {own} here and {of_all} in all"
        )


def _wait_for(address: str, timeout: int) -> None:
    """Waits until somebody listens at an address."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"coordinator_address: expected a coordinator at {address} within "
                    f"{timeout} s, got {error}; is process 0 running?"
                ) from error
            time.sleep(0.2)


def is_started() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Whether this process is the one that writes: the only one, or number 0."""
    return jax.process_index() == 0


def on_primary(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process; all return its result, as JSON holds it.

    What it raises is a ``ValueError`` in the others.
    """
    if jax.process_count() == 1:
        return function()
    problem = None
    answer: Any = None
    if is_primary():
        try:
            answer = function()
        except Exception as error:
            problem = error
    told = broadcast(json.dumps([answer, problem and str(problem)]).encode())
    answer, message = json.loads(told)
    if problem is not None:
        raise problem
    if message is not None:
        raise ValueError(message)
    return answer


def broadcast(content: bytes) -> bytes:
    """Sends the first process's content, not empty, to all."""
    if jax.process_count() == 1:
        return content
    from jax.experimental.multihost_utils import broadcast_one_to_all

    with _all_are_there():
        size = int(broadcast_one_to_all(np.int32(len(content))))
        own = np.resize(np.frombuffer(content or b" ", np.uint8), size)
        return bytes(np.asarray(broadcast_one_to_all(own)))


@contextlib.contextmanager
def _all_are_there() -> Iterator[None]:
    """Makes one clear line of JAX's errors about a lost process."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "expected all processes of the run, got word that another one is gone; "
            "start all again with the same flags to go on from what is finished "
            f"({str(error).splitlines()[0]})"
        ) from error


def check_agreement(what: Mapping[str, str]) -> None:
    """Refuses, in every process, what differs between processes."""
    of_first = json.loads(broadcast(json.dumps(dict(what)).encode()))
    differ = np.array([what[name] != of_first.get(name) for name in what])
    anywhere = gather(differ[None]).any(axis=0)
    if anywhere.any():
        name = list(what)[int(anywhere.argmax())]
        raise ValueError(
            f"{name}: expected the same in every process, got {what[name]!r} here and "
            f"{of_first.get(name)!r} in the first; another process may differ"
        )


def gather(tree: Any) -> Any:
    """Joins arrays of all processes along the first axis, in the order of processes."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    with _all_are_there():
        return multihost_utils.process_allgather(tree, tiled=True)
