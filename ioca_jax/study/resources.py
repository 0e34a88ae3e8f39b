"""What a study takes of memory, disk and time, counted before it starts.

Bytes follow from the schema of the results and the sizes of its axes. They are what is
taken at least: what does not fit by them cannot run. Time is an order of magnitude:
multiplications and additions over a rate that small networks reach.
"""

import math
import os
import pathlib
import shutil
from typing import NamedTuple

import jax

from ioca_jax.ablation.pruning import num_parameters
from ioca_jax.data import Dataset
from ioca_jax.devices import device_mesh
from ioca_jax.networks.mlp import MLP
from ioca_jax.networks.training import bytes_per_seed
from ioca_jax.results.variables import VARIABLES
from ioca_jax.study import joint
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.labels import variants

# Results and networks of all seeds: those of the chunks, joined, and being written.
_COPIES = 3
# Floating-point operations a second of a device, of networks of 100 neurons a layer.
_RATE_OF_A_CPU, _RATE_OF_AN_ACCELERATOR = 1e10, 1e13


class Needs(NamedTuple):
    """What a study takes at least.

    Attributes:
        results: bytes of a network's results.
        network: bytes of a network's weights.
        training: bytes of the training of one network.
        permutations: bytes of the permuted labels.
        operations: floating-point operations for a network.
    """

    results: int
    network: int
    training: int
    permutations: int
    operations: float

    def seconds(self, num_networks: int) -> float:
        """About how long so many networks take here.

        Args:
            num_networks: to be trained, measured and ablated.

        Returns:
            Seconds, an order of magnitude.
        """
        on_cpu = jax.default_backend() == "cpu"
        rate = _RATE_OF_A_CPU if on_cpu else _RATE_OF_AN_ACCELERATOR
        devices = device_mesh().size * jax.process_count()
        return num_networks * self.operations / (rate * devices)


def count_needs(
    config: StudyConfig, model: MLP, data: Dataset, *, trains: bool = True
) -> Needs:
    """Counts what a study takes.

    Args:
        config: the study.
        model: the networks' shape.
        data: the dataset.
        trains: whether networks are trained, or given.

    Returns:
        Bytes and operations.
    """
    num_train, *shape = data.train.x.shape
    weights = num_parameters(model, math.prod(shape))
    looked_at = len(config.trajectory_epochs)
    training = 0
    if trains:
        training = bytes_per_seed(model, config.train_config(), data, looked_at)
    epochs = config.epochs if trains else 0
    num_validation = len(data.validation.y)
    tables = model.num_neurons * (config.num_codes - 1) * model.num_classes
    return Needs(
        results=_bytes_of_results(config, model, data, epochs),
        network=4 * weights,
        training=training,
        permutations=4 * config.permutations * num_validation,
        operations=6.0 * weights * num_train * epochs
        + 2.0 * config.permutations * num_validation * tables
        + _operations_of_curves(config, model, len(data.test.y)),
    )


def _bytes_of_results(
    config: StudyConfig, model: MLP, data: Dataset, epochs: int
) -> int:
    """Of one network, by the schema."""
    neurons, looked_at = model.num_neurons, len(config.trajectory_epochs)
    sizes = {
        "seed": 1,
        "measure": len(config.measures),
        "neuron": neurons,
        "position": neurons,
        "step": neurons + 1,
        "clamp": len(config.clamps),
        "scope": model.num_layers + 1,
        "ordering": 2 * len(config.measures) + config.random_orders,
        "class": model.num_classes,
        "code": config.num_codes,
        "epoch": epochs,
    }
    if config.robustness:
        sizes["variant"] = len(variants(config, model, 1))
    if looked_at:
        sizes |= {"trajectory_epoch": looked_at, "hidden_layer": model.num_layers}
    if config.interactions:
        axes = joint.coordinates(model, len(data.validation.y), config.num_codes)
        for name, values in axes.items():
            axis, values = values if isinstance(values, tuple) else (name, values)
            sizes[axis] = len(values)
    total = 0
    for variable in VARIABLES.values():
        if set(variable.dims) <= sizes.keys():
            count = 4
            for axis in variable.dims:
                count *= sizes[axis]
            total += count
    return total


def _operations_of_curves(config: StudyConfig, model: MLP, num_test: int) -> float:
    """Of one network: each neuron ablated changes what lies above its layer."""
    widths = (*model.hidden, model.num_classes)
    above = [a * b for a, b in zip(widths[1:], widths[2:], strict=False)]
    of_orders = sum(
        width * (widths[layer + 1] + sum(above[layer:]))
        for layer, width in enumerate(model.hidden)
    )
    orders = 2 * len(config.measures) + config.random_orders
    # Each neuron is in two scopes, and alone.
    return 2.0 * num_test * of_orders * len(config.clamps) * (2 * orders + 1)


def check_fits(
    needs: Needs, num_networks: int, folder: pathlib.Path, num_finished: int = 0
) -> None:
    """Refuses a study that takes more than there is.

    Args:
        needs: of the study.
        num_networks: of the run, or its shard.
        folder: the run's, made already or not.
        num_finished: networks that the folder holds already.

    Raises:
        ValueError: too much for memory, or for the disk.
    """
    of_all = num_networks * (needs.results + needs.network)
    parts = {
        f"results and weights of {num_networks:,} networks; give fewer seeds (or "
        "shards of them), random_orders or hidden neurons": _COPIES * of_all,
        "training of one network; give fewer hidden neurons": needs.training,
        "permuted labels; give fewer permutations": needs.permutations,
    }
    largest = max(parts, key=lambda part: parts[part])
    _check("memory", sum(parts.values()), free_memory(), largest)
    missing = max(0, num_networks - num_finished)
    on_disk = missing * (needs.results + needs.network) + num_networks * needs.network
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    _check("disk", on_disk, shutil.disk_usage(place).free, next(iter(parts)))


def _check(what: str, needed: int, free: int, most: str) -> None:
    if needed > free:
        raise ValueError(
            f"{what}: expected a study that fits in the {free / 1e9:,.1f} GB that are "
            f"free, got one that takes {needed / 1e9:,.1f} GB or more, "
            f"{(needed - free) / 1e9:,.1f} GB too much, most of it for {most}"
        )


def free_memory() -> int:
    """Memory that this process may still take.

    Returns:
        Bytes: what the system has available, within the limit of its control group.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = pathlib.Path("/proc/meminfo")
    if meminfo.exists():
        fields = (line.split() for line in meminfo.read_text().splitlines())
        kib = {field[0]: int(field[1]) for field in fields}
        available = 1024 * kib.get("MemAvailable:", available // 1024)
    limit = pathlib.Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(available, int(text)) if text.isdigit() else available
