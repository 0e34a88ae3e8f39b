"""Measures of neurons and layers along training, over networks."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.families import ALPHA, judge_family
from ioca_jax.inference.interactions import direction_shown
from ioca_jax.results.subsets import (
    Layer,
    converged,
    hidden_layer_of,
    layers_of,
    neurons_of,
    num_test_examples,
)


def trajectory_table(results: xr.Dataset) -> pd.DataFrame:
    """Measures of each layer at every epoch, means over networks.

    Of all networks that did not diverge: those at chance too, which may have memorised.
    A row per ``layer`` and ``trajectory_epoch``: ``test_error`` (share), the median
    over the layer's neurons of each measure of information (``median_MEASURE``, bits),
    ``layer_entropy``, ``layer_information`` and ``layer_information_decoded`` (bits),
    and the median over groups of the ``redundancy_index``.
    """
    kept = _converged_with_trajectories(results)
    rows = []
    for layer in layers_of(kept):
        courses = {"test_error": _test_errors(kept)}
        courses |= {name: course for name, (course, _) in _courses(kept, layer).items()}
        for index, epoch in enumerate(kept["trajectory_epoch"].values):
            means = {n: float(course[:, index].mean()) for n, course in courses.items()}
            rows.append({"layer": layer, "trajectory_epoch": int(epoch), **means})
    return pd.DataFrame(rows)


def trends_of_training(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """Whether the quantities of ``trajectory_table`` grow or shrink to the last epoch.

    A row per ``layer`` (text, ``all`` for the test error), ``quantity``, ``from_epoch``
    (the first after 0, and 0 where it was looked at) and ``to_epoch``: ``unit``, mean
    difference and tests as in ``compare_orders``, and ``trend``: ``grows``,
    ``shrinks``, ``neither``, or nothing where there is no test.
    """
    kept = _converged_with_trajectories(results)
    epochs = kept["trajectory_epoch"].values.tolist()
    *earlier, last = sorted(epochs)
    after = [epoch for epoch in earlier if epoch > 0][:1]
    starts = [epoch for epoch in earlier if epoch == 0] + after
    if not starts:
        raise ValueError(
            f"expected trajectories of at least 2 epochs, got epoch {last} alone; look "
            "at more"
        )
    courses = {
        ("all", "test_error"): (_test_errors(kept), "1"),
        **{
            (str(layer), name): course
            for layer in layers_of(kept)
            for name, course in _courses(kept, layer).items()
        },
    }
    rows, values = [], []
    for (layer, quantity), (course, unit) in courses.items():
        for start in starts:
            about = {"layer": layer, "quantity": quantity, "unit": unit}
            rows.append({**about, "from_epoch": start, "to_epoch": last})
            ends = epochs.index(last), epochs.index(start)
            values.append(course[:, ends[0]] - course[:, ends[1]])
    table = judge_family(rows, values, alpha=alpha)
    words = ("grows", "shrinks")
    table["trend"] = direction_shown(table, alpha, words)
    return table


def _courses(
    results: xr.Dataset, layer: Layer
) -> dict[str, tuple[Float[np.ndarray, "S epochs"], str]]:
    """By name, a layer's quantities at every epoch, and their units."""
    of_neurons = results["trajectory_score"].isel(neuron=neurons_of(results, layer))
    found = {}
    for measure in results["measure"].values:
        scores = of_neurons.sel(measure=measure)
        if np.isfinite(scores).any():
            found[f"median_{measure}"] = _by_epoch(scores.median("neuron")), "bit"
    of_layer = hidden_layer_of(results, layer)
    for name in ("layer_entropy", "layer_information", "layer_information_decoded"):
        found[name] = _by_epoch(of_layer[name]), "bit"
    index = of_layer["layer_redundancy_index"].median("group")
    return found | {"redundancy_index": (_by_epoch(index), "1")}


def _test_errors(results: xr.Dataset) -> Float[np.ndarray, "S epochs"]:
    """From counts of examples, so that equal changes are equal."""
    num_examples = num_test_examples(results)
    accuracy = _by_epoch(results["trajectory_accuracy"])
    return (num_examples - np.rint(accuracy * num_examples)) / num_examples


def _by_epoch(values: xr.DataArray) -> Float[np.ndarray, "S epochs"]:
    return values.transpose("seed", "trajectory_epoch").values.astype(np.float64)


def _converged_with_trajectories(results: xr.Dataset) -> xr.Dataset:
    if "trajectory_score" not in results:
        raise ValueError(
            "expected a run with trajectories, got one without; run it with "
            "trajectories"
        )
    kept = converged(results)
    if not kept.sizes["seed"]:
        raise ValueError(
            "expected a network that did not diverge, got none; train otherwise"
        )
    return kept
