"""Counts that a computer's load does not change: programs, operations, bytes, memory.

``python tests/counts.py`` records them in ``counts.json``, beside this file, which
``test_compiled.py`` compares with. The figures of engines are XLA's, of the programs
that it compiles for a CPU. A loop's body counts once there, whatever its length.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from synthetic import own_data

import ioca_jax as ioca
from ioca_jax.ablation.pair_effects import pair_effects
from ioca_jax.ablation.singles import single_ablations

RECORDED = pathlib.Path(__file__).with_suffix(".json")
COMMAND = "python tests/counts.py"
# The same for tests, which compile in the cheapest way, and for others.
_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
_SEEDS, _ORDERS, _EXAMPLES, _SIDE, _CLASSES = 2, 8, 300, 8, 4


def _dense(weights: Any, x: Any) -> Any:
    hidden = x.reshape(len(x), -1)
    for name in ("first", "second"):
        hidden = jax.nn.relu(hidden @ weights[name])
    return hidden @ weights["last"]


def _convolutional(weights: Any, x: Any) -> Any:
    out = jax.lax.conv_general_dilated(
        *(x, weights["kernel"], (1, 1), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _dense(weights, jax.nn.relu(out))


def _traced(apply: Callable, channels: int) -> tuple[ioca.Network, Any]:
    """A network, and the shapes of the variables of several."""
    size = _SIDE * _SIDE * channels
    shapes: dict[str, tuple[int, ...]] = {
        "first": (size, 24), "second": (24, 16), "last": (16, _CLASSES),
    }  # fmt: skip
    if apply is _convolutional:
        shapes["kernel"] = (3, 3, 1, channels)
    one = {n: jax.ShapeDtypeStruct(shape, "float32") for n, shape in shapes.items()}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), one)
    x = jnp.zeros((2, _SIDE, _SIDE, 1))
    network = ioca.trace_network(apply, zeros, x)
    several = {
        name: jax.ShapeDtypeStruct((_SEEDS, *leaf.shape), leaf.dtype)
        for name, leaf in one.items()
    }
    return network, several


def _figures(function: Callable, *shapes: Any) -> dict[str, int]:
    """XLA's counts of a program, which is not run."""
    program = jax.jit(function).lower(*shapes).compile(_OPTIONS)
    cost: Any = program.cost_analysis()
    memory: Any = program.memory_analysis()
    return {
        "operations": int(cost["flops"]),
        "bytes": int(cost["bytes accessed"]),
        "memory": memory.temp_size_in_bytes + memory.output_size_in_bytes,
    }


def engine_figures() -> dict[str, dict[str, int]]:
    """By engine: operations, bytes accessed, and bytes held beside the arguments."""
    found = {}
    x = jax.ShapeDtypeStruct((_EXAMPLES, _SIDE, _SIDE, 1), "float32")
    y = jax.ShapeDtypeStruct((_EXAMPLES,), "int32")
    dense, of_dense = _traced(_dense, 1)
    other, of_other = _traced(_convolutional, 6)
    curves: list[tuple[str, Any, Any, str | None, tuple[int, ...]]] = [
        (engine, dense, of_dense, engine, (0, 1))
        for engine in ("rank_one", "prefix_sums", "masks")
    ]
    curves += [
        ("incremental", other, of_other, None, (0, 1, 2)),
        ("incremental, last layer", dense, of_dense, "incremental", (1,)),
    ]
    for name, network, variables, engine, layers in curves:
        neurons = sum(network.layers[layer].num_neurons for layer in layers)
        order = jax.ShapeDtypeStruct((_SEEDS, _ORDERS, neurons), "int32")
        clamp = jax.ShapeDtypeStruct((_SEEDS, 1, network.num_neurons), "float32")
        run = partial(ioca.ablation_curves, network, layers=layers, engine=engine)
        found[name] = _figures(run, variables, order, clamp, x, y)
    clamps = jax.ShapeDtypeStruct((_SEEDS, 2, other.num_neurons), "float32")
    singles = partial(single_ablations, other)
    found["singles"] = _figures(singles, of_other, clamps, x, y)
    clamps = jax.ShapeDtypeStruct((_SEEDS, 2, dense.num_neurons), "float32")
    pairs = partial(pair_effects, dense, layer=1)
    found["pair effects"] = _figures(pairs, of_dense, clamps, x, y)
    return found


def _compiled(run: Callable[[], Any]) -> int:
    """How many programs XLA compiles, or reads from JAX's cache, for a call."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(kwargs.get("fun_name")))

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    run()
    jax.monitoring.unregister_event_duration_listener(listen)
    return len(names)


def program_counts(folder: str) -> dict[str, int]:
    """Programs of the demonstration's study, smaller, and of one of traced networks.

    How many there are depends on what is computed, not on sizes.
    """
    from ioca_jax.cli.demo import CONFIG

    data, width = own_data(num_inputs=_SIDE * _SIDE), {"hidden": (6, 5)}
    demo = dataclasses.replace(CONFIG, **width, seeds=(0, 1), epochs=1)
    images = {
        name: ioca.Split(split.x.reshape(-1, _SIDE, _SIDE, 1), split.y)
        for name in ("train", "validation", "test")
        for split in [getattr(data, name)]
    }
    network, shapes = _traced(_convolutional, 2)
    rng = np.random.default_rng(0)
    variables = {
        name: rng.normal(size=leaf.shape).astype(np.float32) / 4
        for name, leaf in shapes.items()
    }
    given = ioca.StudyConfig(seeds=(0, 1), points="5")

    def run(name: str, config: ioca.StudyConfig, **more: Any) -> Callable[[], Any]:
        return partial(ioca.run_study, config, f"{folder}/{name}", draw=False, **more)

    return {
        "demo": _compiled(run("demo", demo, data=data)),
        "traced networks": _compiled(
            run(
                *("traced", given),
                data=dataclasses.replace(data, **images),
                network=network,
                variables=variables,
            )
        ),
    }


def measure() -> dict[str, Any]:
    """All counts, and the version of JAX that they are of."""
    with tempfile.TemporaryDirectory() as folder:
        programs = program_counts(folder)
    version = importlib.metadata.version("jax")
    return {"jax": version, "programs": programs, "engines": engine_figures()}


if __name__ == "__main__":
    text = json.dumps(measure(), indent=1) + "\n"
    if sys.argv[1:] == ["--print"]:
        print(text)
    else:
        RECORDED.write_text(text, "utf-8")
        print(f"wrote {os.path.relpath(RECORDED)}")
