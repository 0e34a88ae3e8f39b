"""Coordinates and attributes of ``study.nc``."""

import dataclasses
import datetime
import json
import math
from typing import Any

import jax
import numpy as np

from ioca_jax.data import Dataset
from ioca_jax.measures.quantization import parse_quantizer
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network
from ioca_jax.study import joint
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.inputs import Inputs
from ioca_jax.study.metadata import source_revision, versions
from ioca_jax.study.orders import orderings_of_study

_PACKAGES = ("ioca_jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray")
_MOST_LAYERS_LISTED = 4
_THRESHOLDS = {
    **dict.fromkeys(("relu", "gelu", "gelu_exact"), (0.5, 1)),
    "sigmoid": (0.25, 0.75),
    "tanh": (-0.5, 0.5),
}


def variants(
    config: StudyConfig, network: Network | Model, num_validation: int
) -> dict[str, tuple[str, slice]]:
    """Other quantisers, and parts of the validation split, to measure information by.

    Thresholds are tried where the network's activation function is known, whose range
    decides which are reasonable.
    """
    everything, half = slice(None), num_validation // 2
    thresholds = _THRESHOLDS.get(getattr(network, "activation", ""), ())
    quantizers = [
        *(f"threshold:{threshold:g}" for threshold in thresholds),
        *("quantile:2", "quantile:8", "uniform:2", "uniform:8"),
    ]
    parts = {
        "first half": slice(half),
        "second half": slice(half, 2 * half),
        "first fifth": slice(max(1, num_validation // 5)),
        "first twentieth": slice(max(1, num_validation // 20)),
    }
    return {q: (q, everything) for q in quantizers if q != config.quantizer} | {
        name: (config.quantizer, part) for name, part in parts.items()
    }


def coordinates(inputs: Inputs) -> dict[str, Any]:
    """Labels of the axes of a study's results, by name."""
    config, network = inputs.config, inputs.network
    num_validation = len(inputs.validation.y)
    sizes = [layer.num_neurons for layer in network.layers]
    orderings = orderings_of_study(config)
    labels: dict[str, Any] = {
        "seed": np.array(inputs.trained.seeds, np.int64),
        "measure": list(config.units),
        "unit": ("measure", list(config.units.values())),
        "neuron": np.arange(network.num_neurons),
        "layer": (
            "neuron",
            network.layer_of_neuron + 1,
            {"long_name": "layer, counted from 1"},
        ),
        "layer_name": (
            "neuron",
            np.repeat([layer.name for layer in network.layers], sizes),
            {"long_name": "layer, by the name of its scope"},
        ),
        "index_in_layer": ("neuron", np.concatenate([*map(np.arange, sizes)])),
        "clamp": list(config.clamps),
        "scope": list(inputs.scopes),
        "ordering": [ordering.label for ordering in orderings],
        "ranked_by": ("ordering", [ordering.ranked_by for ordering in orderings]),
        "direction": ("ordering", [ordering.direction for ordering in orderings]),
        "draw": ("ordering", [ordering.draw for ordering in orderings]),
        "position": np.arange(network.num_neurons),
        "step": np.arange(network.num_neurons + 1),
        "class": np.arange(network.num_classes),
        "class_size": (
            "class",
            np.bincount(inputs.test.y, minlength=network.num_classes),
            {"long_name": "test examples of each class"},
        ),
    }
    if config.robustness:
        labels["variant"] = list(variants(config, network, num_validation))
    if inputs.trained.history:
        labels["epoch"] = np.arange(1, config.epochs + 1)
    if config.interactions:
        labels |= joint.coordinates(network, num_validation, config.num_codes)
    if config.trajectory_epochs:
        labels["trajectory_epoch"] = list(config.trajectory_epochs)
        labels["hidden_layer"] = np.arange(len(network.layers)) + 1
    return labels


def attributes(
    config: StudyConfig, network: Network | Model, data: Dataset
) -> dict[str, str | int]:
    """What ``study.nc`` records about how it was made."""
    # Of the groups drawn along training; 0 if the codes are too many for any.
    size = joint.group_size_in_layers(
        len(data.validation.y), config.num_codes, network.num_classes
    )
    devices = {f"{d.platform} {d.device_kind}" for d in jax.devices()}
    attrs: dict[str, str | int] = {
        "title": "information-ordered cumulative ablation",
        "configuration": json.dumps(dataclasses.asdict(config)),
        "network": describe_network(network, math.prod(data.train.x.shape[1:])),
        "architecture": type(network).__name__,
        "example_shape": ",".join(map(str, data.train.x.shape[1:])),
        "quantizer": str(parse_quantizer(config.quantizer, config.activation)),
        "num_train": len(data.train.y),
        "num_validation": len(data.validation.y),
        "num_test": len(data.test.y),
        "data_digest": data.digest,
        "trajectory_group_size": size,
        "versions": json.dumps(versions(_PACKAGES)),
        "source_revision": source_revision(),
        "device": ", ".join(sorted(devices)),
        "precision": (
            f"float32, matrix products {config.matmul_precision}"
            if isinstance(network, Model)
            else "the network's own"
        ),
        "units": "information in bits, loss in nats, accuracy as a share",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if config.interactions:
        attrs |= joint.permutations_made(config.permutations)
    return attrs


def describe_network(network: Network | Model, num_inputs: int) -> str:
    """A network in a few words, for titles: ``784-100-100-10 relu``."""
    if isinstance(network, Model):
        return network.describe(num_inputs)
    layers = network.layers
    if len(layers) > _MOST_LAYERS_LISTED:
        return f"{len(layers)} layers with {network.num_neurons:,} neurons"
    return ", ".join(f"{layer.name} {layer.num_neurons}" for layer in layers)
