"""Selections from results: curves, orders, layers, networks that converged."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr


def compact(numbers: Sequence[int]) -> str:
    """Numbers as the command line takes them, ``0:3,7``.

    Args:
        numbers: integers, ascending.

    Returns:
        The text.
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1]:
            parts[-1][1] += 1
        else:
            parts.append([number, number + 1])
    return ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in parts)


def intact_accuracy(results: xr.Dataset) -> np.ndarray:
    """Test accuracy before anything is ablated.

    Args:
        results: a run's results.

    Returns:
        float32 [S].
    """
    return results["accuracy"].isel(clamp=0, scope=0, ordering=0, step=0).values


def num_test_examples(results: xr.Dataset) -> int:
    """How many examples accuracies are shares of.

    Args:
        results: a run's results.

    Returns:
        The size of the test split.
    """
    return int(results["class_size"].sum())


def count_correct(correct: np.ndarray) -> np.ndarray:
    """Test examples classified correctly, over all classes.

    Accuracies are compared as these counts, of which sums and differences are exact.

    Args:
        correct: int32 [..., C], by true class, -1 past a scope's end.

    Returns:
        Whole numbers, float64 [...]; NaN past a scope's end.
    """
    return np.where(correct[..., 0] < 0, np.nan, correct.sum(axis=-1))


def summed_curve(
    results: xr.Dataset, clamp: str, scope: str, ranked_by: str, direction: str
) -> tuple[xr.DataArray, int]:
    """Correct classifications [seed, step] to the scope's end, of all random draws.

    Args:
        results: a run's results.
        clamp: which.
        scope: which.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        The counts, whole numbers as float64, and how many examples they are out of.
    """
    where = orderings_of(results, ranked_by, direction)
    correct = results["correct"].sel(clamp=clamp, scope=scope).isel(ordering=where)
    correct = correct.transpose("ordering", "seed", "step", "class")
    counts = correct[0, ..., 0].copy(data=count_correct(correct.values).sum(axis=0))
    counts = counts.drop_vars(["ordering", "ranked_by", "direction", "draw", "class"])
    is_point = ~np.isnan(counts.values).all(axis=0)
    return counts[:, is_point], len(where) * num_test_examples(results)


def mean_curve(
    results: xr.Dataset, clamp: str, scope: str, ranked_by: str, direction: str
) -> xr.DataArray:
    """Accuracy [seed, step] to the scope's end, mean over random draws.

    Args:
        results: a run's results.
        clamp: which.
        scope: which.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        The curves, float64.
    """
    counts, examples = summed_curve(results, clamp, scope, ranked_by, direction)
    return counts / examples


def readable(name: str) -> str:
    """A stored name as a reader would write it.

    Args:
        name: of a measure, a scope, ...

    Returns:
        The same with spaces.
    """
    return name.replace("_", " ").replace("kl ", "KL ")


def orderings_of(results: xr.Dataset, ranked_by: str, direction: str) -> np.ndarray:
    """Where orders of one kind lie on the axis ``ordering``.

    Args:
        results: a run's results.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        int [orders]: one, or all random draws; none if the run lacks it.
    """
    chosen = results["ranked_by"].values == ranked_by
    return np.flatnonzero(chosen & (results["direction"].values == direction))


def describe_dataset(configuration: Mapping[str, Any]) -> str:
    """What networks were trained on, for titles.

    Args:
        configuration: of a run, by field.

    Returns:
        The dataset's name, and its label noise if there is any.
    """
    name = pathlib.Path(configuration["dataset"]).name
    noise = configuration.get("label_noise", 0.0)
    return f"{name} with label noise {noise:g}" if noise else name


def neurons_of(results: xr.Dataset, layer: int | np.integer | str) -> np.ndarray:
    """Where a layer's neurons lie on the neuron axis.

    Args:
        results: a run's results.
        layer: as the coordinate ``layer`` has it.

    Returns:
        int [width].
    """
    return np.flatnonzero(results["layer"].values == layer)


def layers_of(results: xr.Dataset) -> list[Any]:
    """The layers as the coordinate ``layer`` has them.

    Args:
        results: a run's results.

    Returns:
        A label per layer, first layer first.
    """
    return list(dict.fromkeys(results["layer"].values.tolist()))


def converged(results: xr.Dataset) -> xr.Dataset:
    """The seeds whose training did not diverge.

    Args:
        results: a run's results.

    Returns:
        The same without the diverged seeds.
    """
    return results.isel(seed=np.flatnonzero(~results["diverged"].values.astype(bool)))
