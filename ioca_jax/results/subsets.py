"""Selections from results: curves, orders, layers, networks that converged.

Layers are labelled by their names; where a network's layers are only numbered (scopes
``layer_1``, ...), and in files without the coordinate ``layer_name``, by their numbers.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

Layer = int | np.integer | str

# Of the results of some networks that are held at once, and how many networks.
PIECE_BYTES = 2**26
_PIECE_SEEDS = 1024


def compact(numbers: Sequence[int]) -> str:
    """Ascending integers as the command line takes them, ``0:3,7``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1]:
            parts[-1][1] += 1
        else:
            parts.append([number, number + 1])
    return ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in parts)


def intact_accuracy(results: xr.Dataset) -> np.ndarray:
    """Test accuracy of every network without ablation, float32 [S]."""
    return results["accuracy"].isel(clamp=0, scope=0, ordering=0, step=0).values


def loss_increase(
    results: xr.Dataset, clamp: str, name: str = "single_loss"
) -> xr.DataArray:
    """Test loss with each neuron ablated alone less that of the intact network, nats.

    ``name``: ``single_loss``, or ``direct_loss`` with later layers held.
    """
    intact = results["loss"].isel(scope=0, ordering=0, step=0, drop=True)
    return results[name].sel(clamp=clamp) - intact.sel(clamp=clamp)


def steps_of_scopes(results: xr.Dataset) -> dict[str, np.ndarray]:
    """By scope, the numbers of ablated neurons at which its curves are evaluated."""
    steps, scopes = results["step"].values, map(str, results["scope"].values)
    if "evaluated" in results.coords:
        evaluated = results["evaluated"].transpose("scope", "step").values
        return dict(zip(scopes, (steps[own] for own in evaluated), strict=True))
    return {scope: steps[steps <= scope_size(results, scope)] for scope in scopes}


def scope_size(results: xr.Dataset, scope: str) -> int:
    """The number of neurons of a scope."""
    if scope == "network":
        return results.sizes["neuron"]
    return len(neurons_of(results, layers_by_scope(results)[scope]))


def num_test_examples(results: xr.Dataset) -> int:
    """The size of the test split."""
    return int(results["class_size"].sum())


def count_correct(correct: np.ndarray) -> np.ndarray:
    """Counts by class [..., C], -1 past a scope's end, as float64 totals [...], NaN.

    Accuracies are compared as these whole numbers: their sums and differences are
    exact.
    """
    return np.where(correct[..., 0] < 0, np.nan, correct.sum(axis=-1))


def summed_curve(
    results: xr.Dataset, clamp: str, scope: str, ranked_by: str, direction: str
) -> tuple[xr.DataArray, int]:
    """Correct classifications [seed, step] summed over draws, and of how many.

    Steps end with the scope; the counts are whole numbers in float64.
    """
    where = orderings_of(results, ranked_by, direction)
    # A variable, unlike a labelled array, is selected from in microseconds.
    correct = results.variables["correct"].isel(
        clamp=results.indexes["clamp"].get_loc(clamp),
        scope=results.indexes["scope"].get_loc(scope),
        ordering=evenly(where),
    )
    correct = correct.transpose("ordering", "seed", "step", "class")

    def sum_piece(piece: xr.Dataset) -> dict[str, np.ndarray]:
        return {"counts": count_correct(piece["correct"].values).sum(axis=0)}

    counts = over_seeds(xr.Dataset({"correct": correct}), sum_piece)["counts"]
    labels = {name: results.indexes[name] for name in ("seed", "step")}
    summed = xr.DataArray(counts, labels, ("seed", "step"))
    is_point = ~np.isnan(counts).all(axis=0)
    return summed[:, is_point], len(where) * num_test_examples(results)


def mean_curve(
    results: xr.Dataset, clamp: str, scope: str, ranked_by: str, direction: str
) -> xr.DataArray:
    """Accuracy [seed, step] to the scope's end, float64, mean over random draws."""
    counts, examples = summed_curve(results, clamp, scope, ranked_by, direction)
    return counts / examples


def readable(name: str) -> str:
    """A stored name, such as a measure's, with spaces."""
    return name.replace("_", " ").replace("kl ", "KL ")


def orderings_of(results: xr.Dataset, ranked_by: str, direction: str) -> np.ndarray:
    """Positions on the axis ``ordering``: of one order, or of all random draws."""
    chosen = results["ranked_by"].values == ranked_by
    return np.flatnonzero(chosen & (results["direction"].values == direction))


def describe_dataset(configuration: Mapping[str, Any]) -> str:
    """The name of a configuration's dataset, and its label noise if there is any."""
    name = configuration["dataset"]
    if name.endswith(".npz"):
        name = pathlib.Path(name).name
    noise = configuration.get("label_noise", 0.0)
    return f"{name} with label noise {noise:g}" if noise else name


def describe_quantizer(quantizer: str) -> str:
    """A quantiser in a title: ``binarised at 0``, ``8 bins of equal width``."""
    kind, _, number = quantizer.partition(":")
    known = {
        "threshold": f"binarised at {number}",
        "uniform": f"{number} bins of equal width",
        "quantile": f"{number} bins of equal counts",
    }
    return known.get(kind, quantizer)


def neurons_of(results: xr.Dataset, layer: Layer) -> np.ndarray:
    """Positions of a layer's neurons on the neuron axis."""
    return np.flatnonzero(_layer_of_neuron(results) == layer)


def layers_of(results: xr.Dataset) -> list[Any]:
    """The labels of the layers, first layer first."""
    return list(dict.fromkeys(_layer_of_neuron(results).tolist()))


def layers_by_scope(results: xr.Dataset) -> dict[str, Any]:
    """The labels of the layers by their scopes."""
    return {scope_of(layer): layer for layer in layers_of(results)}


def hidden_layer_of(results: xr.Dataset, layer: Layer) -> xr.Dataset:
    """Results of whole layers, of one layer."""
    return results.isel(hidden_layer=layers_of(results).index(layer))


def scope_of(layer: Layer) -> str:
    """The scope of a layer's own curves."""
    return layer if isinstance(layer, str) else f"layer_{layer}"


def layer_of_scope(scope: str) -> Layer:
    """The layer whose scope this is."""
    number = scope.removeprefix("layer_")
    return int(number) if scope != number and number.isdecimal() else scope


def layer_title(layer: Layer) -> str:
    """A layer in a sentence or a title; tables read from files have numbers as text."""
    return f"layer {layer}" if str(layer).isdecimal() else str(layer)


def _layer_of_neuron(results: xr.Dataset) -> np.ndarray:
    """A label for each neuron."""
    numbers = results["layer"].values
    if "layer_name" not in results.coords:
        return numbers
    names = results["layer_name"].values
    labels = [layer_of_scope(str(name)) for name in names]
    return numbers if labels == numbers.tolist() else names


def converged(results: xr.Dataset) -> xr.Dataset:
    """The results without the seeds whose training diverged."""
    return take_seeds(results, ~results["diverged"].values.astype(bool))


def take_seeds(results: xr.Dataset, chosen: np.ndarray) -> xr.Dataset:
    """The results of the seeds for which a mask [S] is True."""
    return results.isel(seed=evenly(np.flatnonzero(chosen)))


def evenly(positions: np.ndarray) -> slice | np.ndarray:
    """Ascending positions as a slice if they are evenly spaced.

    HDF5 reads a slice in a fraction of the time and memory of a list.
    """
    steps = np.unique(np.diff(positions))
    if len(steps) > 1 or not positions.size:
        return positions
    step = int(steps[0]) if steps.size else 1
    return slice(int(positions[0]), int(positions[-1]) + 1, step)


def over_seeds(
    results: xr.Dataset, function: Callable[[xr.Dataset], dict[Any, np.ndarray]]
) -> dict[Any, np.ndarray]:
    """Applies a function to results by pieces of the networks, in bounded memory.

    For results that were opened lazily: one piece of them is held at a time.

    Args:
        results: only of the variables that the function uses.
        function: gives arrays by name, [S, ...] of a piece's networks, each computed
            for itself, or [1, ...] of all of them together.

    Returns:
        The arrays of all pieces, joined along their first axis.
    """
    each = results.nbytes // max(1, results.sizes["seed"])
    size = max(1, min(_PIECE_SEEDS, PIECE_BYTES // max(1, each)))
    starts = range(0, max(1, results.sizes["seed"]), size)
    pieces = [
        function(results.isel(seed=slice(start, start + size)).load())
        for start in starts
    ]
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
