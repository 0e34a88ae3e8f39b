"""What a study takes of memory, disk and time, counted before it starts.

Bytes follow from the schema of the results and the sizes of its axes; they are a lower
bound, so a study that does not fit by them cannot run. Time is an order of magnitude:
multiplications and additions over a rate that small networks reach.
"""

import math
import os
import pathlib
import resource
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from ioca_jax.data import Dataset
from ioca_jax.devices import device_mesh
from ioca_jax.networks.models import CNN, MLP, as_network
from ioca_jax.networks.network import Network
from ioca_jax.networks.training import bytes_per_seed, seeds_that_fit
from ioca_jax.results.files import free_memory
from ioca_jax.results.variables import VARIABLES
from ioca_jax.study import joint
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.given import GivenNetworks
from ioca_jax.study.labels import variants

# Seeds on a device at a time: enough that what a chunk costs beside is little, few
# enough that little is lost with a chunk. Accelerators want many at once.
_SEEDS_ON_A_CPU, _SEEDS_ON_AN_ACCELERATOR = 4, 64
# Of a network, the least that a chunk has: computed, joined, and being written.
_COPIES = 3
# Layers whose operations are counted one by one; those of deeper networks, on average.
_LAYERS_COUNTED = 32
_MOST_LAYERS = 500
# Floating-point operations a second of a device, of networks of 100 neurons a layer.
_RATE_OF_A_CPU, _RATE_OF_AN_ACCELERATOR = 1e10, 1e13


class Needs(NamedTuple):
    """What a study takes at least.

    Attributes:
        results: bytes of a network's results.
        network: bytes of a network's weights.
        chunk: networks that are computed at a time.
        training: bytes of the training of one network.
        permutations: bytes of the permuted labels.
        operations: floating-point operations for a network.
    """

    results: int
    network: int
    chunk: int
    training: int
    permutations: int
    operations: float

    def seconds(self, num_networks: int) -> float:
        """An order of magnitude of the time that so many networks take here."""
        on_cpu = jax.default_backend() == "cpu"
        rate = _RATE_OF_A_CPU if on_cpu else _RATE_OF_AN_ACCELERATOR
        return num_networks * self.operations / (rate * device_mesh().size)


def count_needs(
    config: StudyConfig,
    network: Any,
    data: Dataset,
    given: GivenNetworks | None = None,
    seeds_at_once: int | None = None,
) -> Needs:
    """Counts what a study takes that trains its networks, or is given some.

    ``seeds_at_once`` is that of ``run_study``.
    """
    num_train, *shape = data.train.x.shape
    num_validation = len(data.validation.y)
    example = jax.ShapeDtypeStruct((1, *shape), data.train.x.dtype)
    variables = shapes_of_variables(network, data, given)
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    traced = as_network(network, example)
    forward, above = _operations_of_example(traced, variables, example)
    training, of_training = 0, 0.0
    if not given:
        train_config, kept = config.train_config(), len(config.trajectory_epochs)
        training = bytes_per_seed(network, train_config, data, kept)
        # Backwards is twice forwards.
        of_training = 3.0 * forward * num_train * config.epochs
    tables = network.num_neurons * (config.num_codes - 1) * network.num_classes
    of_permutations = 2.0 * config.permutations * num_validation * tables
    sizes = _axes(config, traced, data, 0 if given else config.epochs)
    return Needs(
        results=_bytes_of_results(sizes),
        network=4 * weights,
        chunk=_chunk_size(config, network, data, given, seeds_at_once),
        training=training,
        permutations=4 * config.permutations * num_validation,
        operations=of_training
        + of_permutations
        + _operations_of_curves(config, traced, above, len(data.test.y)),
    )


def shapes_of_variables(
    network: Any, data: Dataset, given: GivenNetworks | None
) -> Any:
    """Shapes of the variables of one network."""
    if given:
        return jax.eval_shape(
            lambda leaves: jax.tree.map(lambda leaf: leaf[0], leaves), given.variables
        )
    example = jax.ShapeDtypeStruct((1, *data.train.x.shape[1:]), data.train.x.dtype)
    return jax.eval_shape(network.init, jax.random.key(0), example)


def _chunk_size(
    config: StudyConfig,
    network: Any,
    data: Dataset,
    given: GivenNetworks | None,
    seeds_at_once: int | None,
) -> int:
    """Seeds in a chunk."""
    on_cpu = jax.default_backend() == "cpu"
    each = _SEEDS_ON_A_CPU if on_cpu else _SEEDS_ON_AN_ACCELERATOR
    size = seeds_at_once or each * device_mesh().size
    if given:
        return size
    train_config, kept = config.train_config(), len(config.trajectory_epochs)
    most = seeds_that_fit(network, data, train_config, config.memory_gb, kept)
    return min(most, size)


def _axes(
    config: StudyConfig, network: Network, data: Dataset, epochs: int
) -> dict[str, int]:
    """Lengths of the axes of one network's results."""
    neurons, layers = network.num_neurons, len(network.layers)
    sizes = {
        "seed": 1,
        "measure": len(config.measures),
        "neuron": neurons,
        "position": neurons,
        "step": neurons + 1,
        "clamp": len(config.clamps),
        "scope": layers + 1,
        "ordering": 2 * len(config.measures) + config.random_orders,
        "class": network.num_classes,
        "code": config.num_codes,
        "epoch": epochs,
    }
    if config.robustness:
        sizes["variant"] = len(variants(config, network, 1))
    if config.trajectory_epochs:
        sizes["trajectory_epoch"] = len(config.trajectory_epochs)
        sizes["hidden_layer"] = layers
    if config.interactions:
        num_validation = len(data.validation.y)
        labels: Mapping[str, Any] = joint.coordinates(
            network, num_validation, config.num_codes
        )
        for name, values in labels.items():
            axis, values = values if isinstance(values, tuple) else (name, values)
            sizes[axis] = len(values)
    return sizes


def _bytes_of_results(sizes: Mapping[str, int]) -> int:
    """Bytes of all variables of the schema whose axes a study has."""
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


def _operations_of_curves(
    config: StudyConfig, network: Network, above: Sequence[float], num_test: int
) -> float:
    """Operations of one network's curves; each neuron is in two scopes, and alone.

    A step computes what lies above its neuron's layer. With constants a chain gets by
    with less: a neuron changes the sums of the next layer by one product each.
    """
    orders = 2 * len(config.measures) + config.random_orders
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
    resampled = sum(clamp.startswith("resample") for clamp in config.clamps)
    of_clamps = resampled * whole + (len(config.clamps) - resampled) * by_constants
    return float(num_test * (2 * orders + 1) * of_clamps)


def check_depth(network: MLP | CNN) -> None:
    """Refuses to train networks so deep that to count what they take takes minutes.

    Each layer is a scope too, with curves of its own in every order.
    """
    layers = len(network.layers)
    if layers > _MOST_LAYERS:
        raise ValueError(
            f"hidden: expected at most {_MOST_LAYERS} layers, each of them a scope "
            f"with all orders, got {layers}; give fewer"
        )


def check_fits(
    needs: Needs, num_networks: int, folder: pathlib.Path, num_finished: int = 0
) -> tuple[int, int]:
    """Bytes of memory and disk; refuses a study that takes more than is free.

    ``num_networks`` are those of the run or its shard; the folder, which need not exist
    yet, holds ``num_finished`` of them.
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
    in_memory = sum(parts.values())
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
