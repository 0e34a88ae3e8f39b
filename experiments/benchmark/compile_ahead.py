r"""What the compiler of a TPU says of every engine, on a machine without one.

``libtpu`` compiles real programs for a described topology: how long that takes and
what memory a device needs are known before anything runs. The programs are those of a
run: examples are spread over the devices, every device has all networks. Examples:

  # Every engine on 1 to 256 chips.
  python -m experiments.benchmark.compile_ahead
  # A deep network.
  python -m experiments.benchmark.compile_ahead --hidden=1024,1024,1024,1024,1024 \
      --topologies=v5e:1x1 --engines=prefix_sums

Columns: ``compile`` is in seconds of processor time; ``peak`` is of one device,
arguments among it; bytes and operations are the compiler's of one device, the body of a
loop counted once: they compare versions of one engine, not engines.
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import ioca_jax as ioca
from ioca_jax import devices
from ioca_jax.ablation import curves
from ioca_jax.ablation.kernel import kernel_engine

from .. import config_flags

_NUM_CLASSES = 10


def _field(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class CompileConfig:
    """What to compile; the flags are its fields."""

    topologies: tuple[str, ...] = _field(
        ("v5e:1x1", "v5e:2x2", "v5e:4x4", "v5e:16x16"),
        "Kinds of TPU and how their chips lie, such as v4:2x2x1 or v6e:16x16.",
    )
    engines: tuple[str, ...] = _field(
        curves.ENGINES, f"Out of {', '.join(curves.ENGINES)}."
    )
    hidden: tuple[int, ...] = _field((100, 100), "Widths of the hidden layers.")
    num_inputs: int = _field(784, "Inputs of an example.")
    num_examples: int = _field(10_240, "Examples, on all devices together.")
    num_seeds: int = _field(8, "Networks in the batch.")
    num_orders: int = _field(4, "Orders of each network, of all its neurons.")
    memory_gb: float = _field(1.0, "Memory budget of a device, in GB.")

    def __post_init__(self):
        """Checks the engines."""
        for name in self.engines:
            if name not in curves.ENGINES:
                raise ValueError(
                    f"engines: expected one or more of {', '.join(curves.ENGINES)}, "
                    f"got {name!r}"
                )


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of one engine on one topology.

    Attributes:
        topology: its name.
        num_devices: its devices.
        engine: the engine.
        seconds: of processor time, to compile; NaN where that failed.
        peak: bytes of one device.
        bytes: that one device reads and writes, the body of a loop once.
        operations: of one device, likewise.
        problem: why it failed, one line.
    """

    topology: str
    num_devices: int
    engine: str
    seconds: float = float("nan")
    peak: float = float("nan")
    bytes: float = float("nan")
    operations: float = float("nan")
    problem: str = ""


def topology_devices(name: str) -> Sequence[Any]:
    """The devices of a topology that is not there.

    Args:
        name: as in ``CompileConfig.topologies``.

    Returns:
        Devices to compile for.

    Raises:
        ValueError: no libtpu, or a topology that it does not know.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "topologies: expected libtpu, which compiles for TPUs without one, got "
            "none installed; pip install -e '.[tpu-compile]'"
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or it looks for a host of TPUs
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"topologies: expected names such as v5e:2x2, got {name!r} "
            f"({str(error).splitlines()[0]})"
        ) from error


def compile_row(
    config: CompileConfig, engine: str, topology: str, on: Sequence[Any]
) -> Row:
    """Compiles one engine's curves of the batch for some devices.

    Args:
        config: the batch.
        engine: the engine.
        topology: what the row calls the devices.
        on: the devices.

    Returns:
        The row; a program that does not compile has its ``problem``.
    """
    mesh = Mesh(np.array(on), (devices.AXIS,), axis_types=(AxisType.Auto,))
    row = Row(topology, mesh.size, engine)
    try:
        program = _program(config, engine, mesh)
        with jax.set_mesh(mesh):  # Pallas asks it what it compiles for
            lowered = devices._sum.lower(*program)
        start = time.process_time()
        compiled = lowered.compile()
    except (ValueError, RuntimeError) as error:
        return dataclasses.replace(row, problem=str(error).splitlines()[0])
    seconds = time.process_time() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return dataclasses.replace(
        row,
        seconds=seconds,
        peak=getattr(memory, "peak_memory_in_bytes", float("nan")),
        bytes=cost.get("bytes accessed", float("nan")),
        operations=cost.get("flops", float("nan")),
    )


def _program(config: CompileConfig, name: str, mesh: Mesh) -> tuple[Any, ...]:
    """What ``ablation_curves`` would compile: function, engine, mesh, arguments."""
    model = ioca.MLP(config.hidden, _NUM_CLASSES)
    num_examples = -(-config.num_examples // mesh.size) * mesh.size
    x, y = jnp.zeros((num_examples, config.num_inputs)), jnp.zeros(num_examples, int)
    neurons = jnp.zeros((config.num_seeds, config.num_orders, model.num_neurons), int)
    keys = jax.random.split(jax.random.key(0), config.num_seeds)
    variables = jax.eval_shape(jax.vmap(lambda key: model.init(key, x[:1])), keys)
    layers, num_steps = tuple(range(len(config.hidden))), model.num_neurons
    if name == "kernel":
        sizes = (len(x), config.num_inputs, num_steps)
        platform = mesh.devices.flat[0].platform
        engine = kernel_engine(model, 0, *sizes, config.memory_gb, backend=platform)
        function = type(engine).orders
    else:
        function, engine = curves._engine(
            name, model, variables, layers, x, num_steps, config.memory_gb
        )
    arrays = _on(mesh, P(), (variables, neurons, neurons.astype(float)))
    return function, engine, mesh, arrays, *_on(mesh, P(devices.AXIS), (x, y))


def _on(mesh: Mesh, spec: P, tree: Any) -> Any:
    """The shapes of arrays as they lie on devices."""
    place = partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, spec))
    return jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), tree)


HEADER = (
    f"{'topology':10} {'devices':>7} {'engine':12} {'compile s':>9} {'peak MB':>8} "
    f"{'MB':>9} {'GFLOP':>9}"
)


def table_line(row: Row) -> str:
    """A row as a line under ``HEADER``.

    Args:
        row: the row.

    Returns:
        Text.
    """
    start = f"{row.topology:10} {row.num_devices:7} {row.engine:12} "
    if row.problem:
        return start + row.problem
    return start + (
        f"{row.seconds:9.1f} {row.peak / 1e6:8.1f} {row.bytes / 1e6:9.1f} "
        f"{row.operations / 1e9:9.3g}"
    )


config_flags.define(CompileConfig)
flags.adopt_module_key_flags(config_flags)  # --help lists them


def main() -> None:
    """Compiles what the flags ask for, and prints the table."""
    config = config_flags.parse(CompileConfig)
    jax.config.update("jax_platforms", "cpu")  # no TPU is looked for
    jax.config.update("jax_enable_compilation_cache", False)
    on = {name: topology_devices(name) for name in config.topologies}
    print(HEADER)
    for topology, chips in on.items():
        for engine in config.engines:
            row = compile_row(config, engine, topology, chips)
            print(table_line(row), flush=True)


if __name__ == "__main__":
    config_flags.run_main(main)
