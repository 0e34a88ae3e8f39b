"""What a study takes of memory, disk and time, counted before it starts.

Bytes follow from the schema of the results and the sizes of its axes; they are a lower
bound, so a study that does not fit by them cannot run. Time is an order of magnitude:
multiplications and additions over a rate that small networks reach. Where curves may
take long on a CPU, in a network that is no chain, they are timed (``timing``).
"""

import math
import os
import pathlib
import resource
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ioca_jax.ablation.points import number_of_points, points_of_scope
from ioca_jax.checks import number_counted
from ioca_jax.devices import device_mesh, shares_at_once
from ioca_jax.networks.network import Network
from ioca_jax.networks.traceable import with_count
from ioca_jax.networks.training import bytes_per_seed, seeds_that_fit
from ioca_jax.results.files import free_memory
from ioca_jax.results.variables import VARIABLES
from ioca_jax.study import interactions
from ioca_jax.study.plan import Plan
from ioca_jax.study.timing import seconds_of_curves

# Seeds on a device at a time: enough that what a chunk costs beside is little, few
# enough that little is lost with a chunk. Accelerators want many at once.
_SEEDS_ON_A_CPU, _SEEDS_ON_AN_ACCELERATOR = 4, 64
# Of a network, the least that a chunk has: computed, joined, and being written.
_COPIES = 3
# Layers whose operations are counted one by one; those of deeper networks, on average.
_LAYERS_COUNTED = 32
# Floating-point operations a second of a device, of networks of 100 neurons a layer.
_RATE_OF_A_CPU, _RATE_OF_AN_ACCELERATOR = 1e10, 1e13
# Seconds of a study by operations, from which on its curves are timed.
_WORTH_TIMING = 120


class Needs(NamedTuple):
    """What a study takes at least.

    Attributes:
        results: bytes of a network's results.
        network: bytes of a network's weights.
        chunk: networks that are computed at a time.
        training: bytes of the training of one network.
        permutations: bytes of the permuted labels.
        operations: floating-point operations for a network, without curves that were
            timed.
        curves: seconds that the curves of a network take, if they were timed; else 0.
    """

    results: int
    network: int
    chunk: int
    training: int
    permutations: int
    operations: float
    curves: float = 0.0

    def seconds(self, num_networks: int) -> float:
        """An order of magnitude of the time that so many networks take here."""
        on_cpu = jax.default_backend() == "cpu"
        rate = _RATE_OF_A_CPU if on_cpu else _RATE_OF_AN_ACCELERATOR
        by_operations = self.operations / (rate * device_mesh().size)
        return num_networks * (by_operations + self.curves)


def count_needs(plan: Plan) -> Needs:
    """Counts what a study takes that trains its networks, or is given some."""
    network, data = plan.network, plan.data
    num_validation = number_counted(data.validation.y)
    example = with_count(data.train.x, 1)
    variables = plan.shapes_of_variables()
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    forward, above = _operations_of_example(network, variables, example)
    training, of_training = 0, 0.0
    if plan.training:
        kept = len(plan.trajectory_epochs)
        training = bytes_per_seed(plan.model, plan.training, data, kept)
        # Backwards is twice forwards.
        of_training = 3.0 * forward * len(data.train.y) * plan.epochs
    tables = network.num_neurons * (plan.num_codes - 1) * network.num_classes
    of_permutations = 2.0 * plan.permutations * num_validation * tables
    needs = Needs(
        results=_bytes_of_results(plan),
        network=4 * weights,
        chunk=_chunk_size(plan),
        training=training,
        permutations=4 * plan.permutations * num_validation,
        operations=of_training + of_permutations + _operations_of_curves(plan, above),
    )
    is_long = needs.seconds(len(plan.fields["seeds"])) > _WORTH_TIMING
    if not is_long or jax.default_backend() != "cpu" or network.chain(0) is not None:
        return needs
    shares = shares_at_once(jnp.asarray(data.test.y))
    curves = seconds_of_curves(plan) / shares
    return needs._replace(operations=of_training + of_permutations, curves=curves)


def seeds_on_devices(number: int, on_cpu: bool) -> int:
    """Seeds in a chunk that is computed on so many devices."""
    return number * (_SEEDS_ON_A_CPU if on_cpu else _SEEDS_ON_AN_ACCELERATOR)


def _chunk_size(plan: Plan) -> int:
    """Seeds in a chunk."""
    on_cpu = jax.default_backend() == "cpu"
    size = plan.seeds_at_once or seeds_on_devices(device_mesh().size, on_cpu)
    if not plan.training:
        return size
    kept = len(plan.trajectory_epochs)
    most = seeds_that_fit(plan.model, plan.data, plan.training, plan.memory_gb, kept)
    return min(most, size)


def _axes(plan: Plan) -> dict[str, int]:
    """Lengths of the axes of one network's results.

    Not of ``coordinates``: what is too large for memory has no coordinates there.
    """
    network = plan.network
    neurons, layers = network.num_neurons, len(network.layers)
    points = sum(_points_of_scopes(plan).values())
    sizes = {
        "seed": 1,
        "measure": len(plan.measures),
        "neuron": neurons,
        "position": neurons,
        "step": min(points, neurons + 1),
        "clamp": len(plan.clamps),
        "scope": layers + 1,
        "ordering": plan.num_orderings,
        "class": network.num_classes,
        "code": plan.num_codes,
        "metric": len(plan.metrics),
        "annotation_value": sum(plan.data.annotation_values.values()),
        "epoch": plan.epochs,
    }
    if plan.variants:
        sizes["variant"] = len(plan.variants)
    if plan.trajectory_epochs:
        sizes["trajectory_epoch"] = len(plan.trajectory_epochs)
        sizes["hidden_layer"] = layers
    if plan.interactions:
        num_validation = number_counted(plan.data.validation.y)
        labels = interactions.coordinates(network, num_validation, plan.num_codes)
        sizes |= {axis: len(values) for axis, values in labels.items()}
    return sizes


def _bytes_of_results(plan: Plan) -> int:
    """Bytes of all variables of the schema whose axes a study has, of one network."""
    sizes = _axes(plan)
    return sum(
        4 * math.prod(sizes[axis] for axis in variable.dims)
        for variable in VARIABLES.values()
        if set(variable.dims) <= sizes.keys()
    )


def _operations_of_example(
    network: Network, variables: Any, example: Any
) -> tuple[float, list[float]]:
    """Of one example, from input to logits, and from each layer's outputs to these."""
    forward = _operations(network.apply, variables, example)
    layers = range(len(network.layers))
    # To lower each part would take long.
    if network.model is None or len(layers) > _LAYERS_COUNTED:
        return forward, [forward / 2 for _ in layers]
    below = [
        _operations(partial(network.prefix, layer=layer), variables, example)
        for layer in layers
    ]
    return forward, [forward - operations for operations in below]


def _operations(function: Callable, *shapes: Any) -> float:
    """As XLA counts them before it optimises."""
    counted: Any = jax.jit(function).lower(*shapes).cost_analysis()
    return float(counted["flops"])


def _points_of_scopes(plan: Plan) -> dict[str, int]:
    """How many points a curve of each scope has, about."""
    found = {}
    for scope, neurons in plan.scopes.items():
        number = len(neurons)
        points = points_of_scope(plan.points, number)
        found[scope] = number_of_points(points, number) or number + 1
    return found


def _operations_of_curves(plan: Plan, above: Sequence[float]) -> float:
    """Operations of one network's curves; each neuron is in two scopes, and alone.

    A step computes what lies above its neuron's layer. With constants a chain gets by
    with less: a neuron changes the sums of the next layer by one product each.
    """
    network, orders = plan.network, plan.num_orderings
    whole = sum(
        layer.num_neurons * operations
        for layer, operations in zip(network.layers, above, strict=True)
    )
    by_constants = whole
    chain = network.chain(0)
    if chain is not None:
        widths = (*chain.widths, chain.num_classes)
        above_next = [2 * a * b for a, b in zip(widths[1:], widths[2:], strict=False)]
        by_constants = sum(
            width * (2 * widths[layer + 1] + sum(above_next[layer:]))
            for layer, width in enumerate(chain.widths)
        )
    resampled = sum(clamp.startswith("resample") for clamp in plan.clamps)
    of_clamps = resampled * whole + (len(plan.clamps) - resampled) * by_constants
    number = len(plan.data.test.y)
    if plan.points == "all":
        return float(number * (2 * orders + 1) * of_clamps)
    # Between two points neurons of all layers of a scope are ablated.
    lowest = [0, *range(len(network.layers))]
    points = zip(_points_of_scopes(plan).values(), lowest, strict=True)
    of_points = len(plan.clamps) * sum(n * above[layer] for n, layer in points)
    return float(number * (orders * of_points + of_clamps))


def check_fits(
    needs: Needs,
    num_networks: int,
    folder: pathlib.Path,
    num_finished: int = 0,
    chunks_at_once: int = 1,
) -> tuple[int, int]:
    """Bytes of memory and disk; refuses a study that takes more than is free.

    ``num_networks`` are those of the run or its shard; the folder, which need not exist
    yet, holds ``num_finished`` of them. This machine computes ``chunks_at_once``.
    """
    of_one = needs.results + needs.network
    missing = max(0, num_networks - num_finished)
    at_once = max(1, min(needs.chunk, missing))
    several = "one network" if at_once == 1 else f"{at_once} networks at a time"
    fewer = "" if at_once == 1 else "seeds_at_once, "
    parts = {
        f"results and weights of {several}; give fewer {fewer}random_orders or "
        "hidden neurons": _COPIES * of_one * at_once,
        "training of one network; give fewer hidden neurons": needs.training,
        "permuted labels; give fewer permutations": needs.permutations,
    }
    largest = max(parts, key=lambda part: parts[part])
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        largest += ", or raise the limit of addresses (ulimit -v)"
    in_memory = chunks_at_once * sum(parts.values())
    _check("memory", in_memory, free_memory(), largest)
    # Networks lie in the chunks, and beside them until these are removed; results are
    # compressed the second time.
    on_disk = missing * of_one + num_networks * needs.network
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    most = (
        f"results and weights of {num_networks:,} networks; give fewer seeds (or "
        "shards of them), random_orders or hidden neurons"
    )
    usage = shutil.disk_usage(place)
    if not usage.total or not os.access(place, os.W_OK):
        raise OSError(
            f"workdir: expected a folder that can be written, got {folder}; choose "
            "another workdir"
        )
    _check("disk", on_disk, usage.free, most)
    return in_memory, on_disk


def _check(what: str, needed: int, free: int, most: str) -> None:
    if needed > free:
        raise ValueError(
            f"{what}: expected a study that fits in the {size(free)} that are free, "
            f"got one that takes {size(needed)} or more, {size(needed - free)} too "
            f"much, most of it for {most}"
        )


def size(number: int) -> str:
    """A number of bytes as text, in GB or, below 0.1 GB, in MB."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"
