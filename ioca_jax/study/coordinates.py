"""Coordinates and attributes of ``study.nc``."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ioca_jax.arrays import describe_shape
from ioca_jax.batching import numbers_in_example
from ioca_jax.checks import number_counted
from ioca_jax.measures.quantization import parse_quantizer
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network
from ioca_jax.study import interactions
from ioca_jax.study.metadata import source_revision, versions
from ioca_jax.study.plan import Plan

_PACKAGES = ("ioca_jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray")
_MOST_LAYERS_LISTED = 4


def coordinates(
    plan: Plan, seeds: Sequence[int] | np.ndarray, steps: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What stands along the axes of a study's results, by name.

    ``steps`` are those at which the curves of each scope are evaluated.
    """
    network, orderings = plan.network, plan.orderings
    num_validation = number_counted(plan.data.validation.y)
    test = plan.data.test.y
    sizes = [layer.num_neurons for layer in network.layers]
    found: dict[str, Any] = {
        "seed": np.array(seeds, np.int64),
        "measure": list(plan.units),
        "unit": ("measure", list(plan.units.values())),
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
        "clamp": list(plan.clamps),
        "scope": list(plan.scopes),
        "ordering": [ordering.label for ordering in orderings],
        "ranked_by": ("ordering", [ordering.ranked_by for ordering in orderings]),
        "direction": ("ordering", [ordering.direction for ordering in orderings]),
        "draw": ("ordering", [ordering.draw for ordering in orderings]),
        "position": np.arange(network.num_neurons),
        "step": all_steps(steps),
        "class": np.arange(network.num_classes),
        "class_size": (
            "class",
            np.bincount(test[test >= 0], minlength=network.num_classes),
            {"long_name": "test examples of each class"},
        ),
    }
    if plan.points != "all":
        evaluated = [np.isin(found["step"], steps[scope]) for scope in plan.scopes]
        found["evaluated"] = ("scope", "step"), np.stack(evaluated)
    if plan.metrics:
        found["metric"] = [metric.name for metric in plan.metrics]
        found["metric_unit"] = "metric", [metric.unit for metric in plan.metrics]
    if plan.data.annotation_values:
        found |= _annotation_coordinates(plan)
    if plan.variants:
        found["variant"] = list(plan.variants)
    if plan.training:
        found["epoch"] = np.arange(1, plan.epochs + 1)
    if plan.interactions:
        found |= interactions.coordinates(network, num_validation, plan.num_codes)
    if plan.trajectory_epochs:
        found["trajectory_epoch"] = list(plan.trajectory_epochs)
        found["hidden_layer"] = np.arange(len(network.layers)) + 1
    return found


def _annotation_coordinates(plan: Plan) -> dict[str, Any]:
    """Of the axis of all annotations' values, one after another."""
    names, values, sizes = [], [], []
    for name, number in plan.data.annotation_values.items():
        of_test = plan.data.annotations[name][-1]
        labels = np.broadcast_to(
            of_test.reshape(-1, *[1] * (plan.data.test.y.ndim - 1)),
            plan.data.test.y.shape,
        )
        counted = labels[(labels >= 0) & (plan.data.test.y >= 0)]
        names += [name] * number
        values += range(number)
        sizes += np.bincount(counted, minlength=number).tolist()
    return {
        "annotation": ("annotation_value", names),
        "value": ("annotation_value", values),
        "value_size": (
            "annotation_value",
            sizes,
            {"long_name": "test examples of each value"},
        ),
    }


def all_steps(steps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Those at which any scope is evaluated, ascending."""
    return np.unique(np.concatenate(list(steps.values())))


def attributes(plan: Plan) -> dict[str, str | int]:
    """What ``study.nc`` records about how it was made."""
    network, data = plan.network, plan.data
    # Of the groups drawn along training; 0 if the codes are too many for any.
    size = interactions.group_size_in_layers(
        number_counted(data.validation.y), plan.num_codes, network.num_classes
    )
    devices = {f"{d.platform} {d.device_kind}" for d in jax.devices()}
    attrs: dict[str, str | int] = {
        "title": "information-ordered cumulative ablation",
        "configuration": json.dumps(plan.fields),
        "network": describe_network(plan.model, numbers_in_example(data.train.x)),
        "architecture": type(plan.model).__name__,
        "example_shape": _shape_as_text(data.train.x),
        "quantizer": str(parse_quantizer(plan.quantizer, plan.fields["activation"])),
        "classes_of": "examples" if data.validation.y.ndim == 1 else "tokens",
        "num_train": number_counted(data.train.y),
        "num_validation": number_counted(data.validation.y),
        "num_test": number_counted(data.test.y),
        "data_digest": data.digest,
        "trajectory_group_size": size,
        "versions": json.dumps(versions(_PACKAGES)),
        "source_revision": source_revision(),
        "device": ", ".join(sorted(devices)),
        "precision": (
            f"float32, matrix products {plan.model.matmul_precision}"
            if isinstance(plan.model, Model)
            else "the network's own"
        ),
        "units": "information in bits, loss in nats, accuracy as a share",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if plan.interactions:
        attrs |= interactions.permutations_made(plan.permutations)
    return attrs


def _shape_as_text(x: Any) -> str:
    """``28,28,1``; of several arrays with their names."""
    if isinstance(x, np.ndarray):
        return ",".join(map(str, x.shape[1:]))
    return describe_shape(x)


def describe_network(network: Network | Model, num_inputs: int) -> str:
    """A network in a few words, for titles: ``784-100-100-10 relu``."""
    if isinstance(network, Model):
        return network.describe(num_inputs)
    layers = network.layers
    if len(layers) > _MOST_LAYERS_LISTED:
        return f"{len(layers)} layers with {network.num_neurons:,} neurons"
    return ", ".join(f"{layer.name} {layer.num_neurons}" for layer in layers)
