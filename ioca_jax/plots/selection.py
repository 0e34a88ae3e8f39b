"""What figures select from results, and the labels of it."""

import json

import numpy as np
import xarray as xr

from ioca_jax.results.files import converged, dataset_in_words, in_words, neurons_of

_UNITS = {"bit": "bits", "nat": "nats", "1": "no unit"}


def converged_only(results: xr.Dataset) -> xr.Dataset:
    """The networks that converged, of which there must be one."""
    kept = converged(results)
    if not kept.sizes["seed"]:
        raise ValueError(
            "expected results with a network that converged, got "
            f"{results.sizes['seed']} that diverged; draw training_history to see how"
        )
    return kept


def check_held(results: xr.Dataset, figure: str, wanted: set[str], what: str) -> None:
    """Refuses results that lack the variables of a figure."""
    if not wanted <= set(results.data_vars):
        raise ValueError(
            f"{figure}: expected a run with {what}, got one without; run it with {what}"
        )


def check_named(results: xr.Dataset, figure: str, axis: str, name: str) -> None:
    """Refuses a name that an axis lacks."""
    there = dict.fromkeys(names_of(results, axis))
    if name not in there:
        raise ValueError(
            f"{figure}: expected a run with the {axis} {name!r}, got one with "
            f"{', '.join(there)}"
        )


def clamp_or_last(results: xr.Dataset, figure: str, clamp: str | None) -> str:
    """The clamp asked for, or the run's last."""
    clamp = clamp or names_of(results, "clamp")[-1]
    check_named(results, figure, "clamp", clamp)
    return clamp


def names_of(results: xr.Dataset, axis: str) -> list[str]:
    """The labels of an axis."""
    return [str(name) for name in results[axis].values]


def layers_of(results: xr.Dataset) -> list[int]:
    """The hidden layers, first layer first."""
    return np.unique(results["layer"].values).tolist()


def scope_size(results: xr.Dataset, scope: str) -> int:
    """The number of neurons of a scope."""
    of_scope = results["accuracy"].sel(scope=scope).dropna("step", how="all")
    return of_scope.sizes["step"] - 1


def scope_name(scope: str) -> str:
    """A scope as titles name it."""
    return "whole network" if scope == "network" else in_words(scope)


def measure_label(results: xr.Dataset, measure: str) -> str:
    """A measure and its unit, for an axis."""
    unit = str(results["unit"].sel(measure=measure).values)
    return f"{in_words(measure)} ({_UNITS.get(unit, unit)})"


def random_label(results: xr.Dataset) -> str:
    """Random orders, and how many were averaged."""
    draws = int((results["ranked_by"] == "random").sum())
    return "random order" + (f", mean of {draws} draws" if draws > 1 else "")


def scores_of(results: xr.Dataset, measure: str, layer: int) -> np.ndarray:
    """A measure of every neuron of a layer, of all networks, float64."""
    of_layer = neurons_of(results, layer)
    scores = results["score"].sel(measure=measure).isel(neuron=of_layer)
    return scores.values.ravel().astype(np.float64)


def subject(results: xr.Dataset) -> str:
    """What was trained and how many, for a figure's title."""
    config = json.loads(results.attrs["configuration"])
    seeds = results.sizes["seed"]
    kept = converged(results).sizes["seed"] if "diverged" in results else seeds
    networks = f"{kept or seeds} network{'s' if (kept or seeds) > 1 else ''}"
    if not kept:
        networks += ", diverged"
    elif kept < seeds:
        networks += f" ({seeds - kept} diverged, left out)"
    return (
        f"{dataset_in_words(config)}, {results.attrs['network']}, "
        f"quantiser {results.attrs['quantizer']}, {networks}"
    )
