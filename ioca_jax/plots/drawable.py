"""Selections from results that figures share, their checks, and their labels."""

import json
from typing import Any

import numpy as np
import xarray as xr

from ioca_jax.inference.families import networks_in_tests, too_few_for_tests
from ioca_jax.results.subsets import (
    converged,
    describe_dataset,
    describe_quantizer,
    layer_of_scope,
    layer_title,
    layers_of,
    neurons_of,
    readable,
    scope_of,
    scope_size,
)

MOST_LINES, MOST_VIOLINS = 6, 16  # of layers in a panel; more are not legible
COLUMNS, _ROWS = 4, 8  # of panels on a page
MOST_NETWORKS = 500  # more points of networks hide one another
_LONGEST_NAME = 22  # characters, of layers in titles and legends
_UNITS = {"bit": "bits", "nat": "nats", "1": "no unit"}
_INTERACTIONS = "run the study with interactions"
_TRAJECTORY_EPOCHS = "run the study with trajectory epochs"
_TRAJECTORIES = (
    "trajectory_score",
    "trajectory_accuracy",
    "layer_entropy",
    "layer_information",
    "layer_information_decoded",
    "layer_redundancy_index",
)
_HISTORY = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
# By figure, the variables that not every study has, and how to get them.
_REQUIRED = {
    "pair_matrices": (("pair_value", "pair_effect_loss"), _INTERACTIONS),
    "pair_agreement": (("pair_value", "pair_effect_loss"), _INTERACTIONS),
    "joint_information_curves": (
        ("joint_information_miller_madow", "joint_information_null"),
        _INTERACTIONS,
    ),
    "redundancy_indices": (("redundancy_index",), _INTERACTIONS),
    "trajectories": (_TRAJECTORIES, _TRAJECTORY_EPOCHS),
    "information_plane": (_TRAJECTORIES, _TRAJECTORY_EPOCHS),
    "class_damage": (("joint_count",), "every study has them"),
    "training_history": (_HISTORY, "only a study that trains its networks has them"),
}


def missing_variables(results: xr.Dataset, figure: str) -> list[str]:
    """The variables that a figure requires and the results lack."""
    required, _ = _REQUIRED.get(figure, ((), ""))
    return [name for name in required if name not in results]


def check_variables(results: xr.Dataset, figure: str) -> None:
    """Raises ValueError if the results lack a variable that a figure requires."""
    if missing := missing_variables(results, figure):
        raise ValueError(
            f"{figure}: expected results with {', '.join(missing)}, got results "
            f"without; {_REQUIRED[figure][1]}"
        )


def check_label(results: xr.Dataset, figure: str, axis: str, label: str) -> None:
    """Raises ValueError if an axis of the results lacks a label."""
    labels = dict.fromkeys(labels_of(results, axis))
    if label not in labels:
        raise ValueError(
            f"{figure}: expected {axis} to be one of {', '.join(labels)}, got {label!r}"
        )


def layers_on_a_page(blocks: int, others: int = 0) -> int:
    """How many layers can have a panel each in each of some blocks of panels.

    ``others`` are further panels of each block.
    """
    return max(1, _ROWS // blocks) * COLUMNS - others


def select_converged(
    results: xr.Dataset,
    figure: str,
    most_layers: int = MOST_LINES,
    **labels: str | None,
) -> xr.Dataset:
    """The networks that converged and at most ``most_layers`` of their layers.

    Raises ValueError if they lack a required variable, a network that converged, or a
    label that is given by its axis (None is not checked).
    """
    check_variables(results, figure)
    kept = converged(results)
    if not kept.sizes["seed"]:
        raise ValueError(
            f"{figure}: expected a network that converged, got {results.sizes['seed']} "
            "that diverged; training_history shows their losses"
        )
    for axis, label in labels.items():
        if label is not None:
            check_label(kept, figure, axis, label)
    return with_few_layers(kept, most_layers)


def with_few_layers(results: xr.Dataset, most: int) -> xr.Dataset:
    """Results of at most ``most`` layers, evenly spaced, first and last too."""
    layers = layers_of(results)
    if len(layers) <= most:
        return results
    places = np.linspace(0, len(layers) - 1, most).round().astype(int)
    chosen = [layers[place] for place in places]
    neurons = np.concatenate([neurons_of(results, layer) for layer in chosen])
    axes = {"neuron": neurons, "other": neurons, "hidden_layer": places}
    scopes = ["network", *map(scope_of, chosen)]
    return results.sel(scope=scopes).isel(axes, missing_dims="ignore")


def few_networks(results: xr.Dataset) -> tuple[xr.Dataset, str]:
    """At most ``MOST_NETWORKS`` networks, evenly spaced, and a note that says so.

    For figures with a point or a line for each network.
    """
    number = results.sizes["seed"]
    if number <= MOST_NETWORKS:
        return results, ""
    step = -(-number // MOST_NETWORKS)
    some = results.isel(seed=slice(None, None, step))
    return some, f"; {some.sizes['seed']} of {number:,} networks are drawn"


def without_marks(results: xr.Dataset, marks: str) -> str:
    """A note that too few networks are above chance for a figure's marks, or ``""``."""
    why = too_few_for_tests(networks_in_tests(results).sizes["seed"])
    return f"; {marks}, as {why}" if why else ""


def labels_of(results: xr.Dataset, axis: str) -> list[str]:
    """The labels of an axis."""
    return [str(label) for label in results[axis].values]


def layer_name(layer: Any) -> str:
    """A layer's name for legends and titles, long ones shortened in the middle."""
    name = layer_title(layer)
    if len(name) <= _LONGEST_NAME:
        return name
    end = _LONGEST_NAME // 2
    return f"{name[: end - 1]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"


def panel_title(scope: str) -> str:
    """The name of a scope."""
    return "whole network" if scope == "network" else layer_name(layer_of_scope(scope))


def sized_title(results: xr.Dataset, scope: str) -> str:
    """The name of a scope and its number of neurons, in the width of a panel."""
    name, size = panel_title(scope), scope_size(results, scope)
    text = f"{name}: {size} neurons"
    return text if len(text) < 30 else f"{name}: {size}"


def scores_of(results: xr.Dataset, measure: str, layer: Any) -> np.ndarray:
    """A measure of all neurons of a layer in all networks, float64 [S * width]."""
    scores = results["score"].isel(neuron=neurons_of(results, layer))
    return scores.sel(measure=measure).values.ravel().astype(np.float64)


def neurons_in_order(network: xr.Dataset, measure: str, layer: Any) -> np.ndarray:
    """Indices of a layer's neurons in ascending order of a measure, of one network."""
    scores = network["score"].sel(measure=measure).values
    of_layer = neurons_of(network, layer)
    return of_layer[np.argsort(scores[of_layer], kind="stable")]


def measure_label(results: xr.Dataset, measure: str) -> str:
    """A measure and its unit, for an axis."""
    unit = str(results["unit"].sel(measure=measure).values)
    return f"{readable(measure)} ({_UNITS.get(unit, unit)})"


def random_label(results: xr.Dataset) -> str:
    """Random orders, and how many were averaged."""
    draws = int((results["ranked_by"] == "random").sum())
    return "random order" + (f", mean of {draws} draws" if draws > 1 else "")


def heading(
    results: xr.Dataset,
    title: str,
    kept: xr.Dataset | None = None,
    *,
    of_codes: bool = True,
) -> tuple[str, str]:
    """A figure's title, and below it data, network, quantiser, number of networks.

    ``kept`` are the results that are drawn, if they may lack layers of ``results``.
    The quantiser is told where what is drawn is ``of_codes``.
    """
    config = json.loads(results.attrs["configuration"])
    seeds = results.sizes["seed"]
    converging = converged(results).sizes["seed"] if "diverged" in results else seeds
    number = converging or seeds
    networks = f"{number} network{'s' if number > 1 else ''}"
    if not converging:
        networks += ", diverged"
    elif converging < seeds:
        networks += f" ({seeds - converging} diverged, left out)"
    if kept is not None and len(layers_of(kept)) < len(layers_of(results)):
        networks += (
            f", {len(layers_of(kept))} of {len(layers_of(results))} layers drawn"
        )
    told = [describe_dataset(config), results.attrs["network"]]
    told += [describe_quantizer(results.attrs["quantizer"])] * of_codes
    return title, ", ".join([*told, networks])
