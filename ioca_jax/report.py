"""Results become the summary that a run prints: what a person reads first."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from ioca_jax.results import converged, intact_accuracy
from ioca_jax.statistics import areas_by_order


def summarize(results: xr.Dataset) -> str:
    """Says in words and small tables what a run found.

    Args:
        results: a run's results.

    Returns:
        Lines of text: the time it took, test error over seeds, each measure's range by
        layer, and the area under the accuracy curve of every scope and order.
    """
    config = json.loads(results.attrs["configuration"])
    kept = converged(results)
    lines = [
        f"{config['dataset']}: {results.sizes['seed']} networks "
        f"{results.attrs['network']}, {config['epochs']} epochs, quantiser "
        f"{results.attrs['quantizer']}",
        _times(json.loads(results.attrs["seconds"])),
    ]
    diverged = results["seed"].values[results["diverged"].values.astype(bool)]
    if len(diverged):
        named = ", ".join(str(seed) for seed in diverged)
        lines.append(
            f"Diverged in training, left out below: {len(diverged)} of "
            f"{results.sizes['seed']} networks (seeds {named})"
        )
    if not kept.sizes["seed"]:
        return "\n".join(lines)
    error = 100 * (1 - intact_accuracy(kept))
    lines += [
        f"Test error: {_mean_and_sd(error, 2)} %, from {error.min():.2f} to "
        f"{error.max():.2f} (mean ± standard deviation over seeds)",
        "",
        "Measures in bits, over all neurons and seeds",
        *_table(
            ["layer", "measure", "least", "median", "greatest"], _measure_rows(kept)
        ),
        "",
        "Area under the accuracy curve over the share of neurons ablated, mean ± "
        "standard deviation over seeds",
        *_table(
            ["scope", "order", *(f"clamp {c}" for c in kept["clamp"].values)],
            _area_rows(kept),
        ),
    ]
    return "\n".join(lines)


def _times(seconds: Mapping[str, float]) -> str:
    moments = ("loaded", "trained", "first_curves", "computed")
    told = ", ".join(
        f"{moment.replace('_', ' ')} after {seconds[moment]:.3g} s"
        for moment in moments
        if moment in seconds  # what was finished already took no time
    )
    return f"Data {told}; compiling took {seconds['compiling']:.3g} s of it"


def _measure_rows(results: xr.Dataset) -> list[list[str]]:
    rows = []
    for layer in np.unique(results["layer"].values):
        of_layer = results["score"].isel(
            neuron=np.flatnonzero(results["layer"].values == layer)
        )
        for measure in results["measure"].values:
            scores = of_layer.sel(measure=measure).values
            numbers = (scores.min(), np.median(scores), scores.max())
            rows.append([str(layer), str(measure), *(f"{n:.3f}" for n in numbers)])
    return rows


def _area_rows(results: xr.Dataset) -> list[list[str]]:
    rows = []
    for (scope, ranked, direction), areas in areas_by_order(results).items():
        name = ranked if ranked == "random" else f"{ranked} {direction}"
        rows.append([scope, name, *(_mean_and_sd(column, 3) for column in areas.T)])
    return rows


def _mean_and_sd(values: np.ndarray, digits: int) -> str:
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, a repeated leading cell left blank."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines, above = [], None
    for row in (header, *rows):
        shown = ["" if row[0] == above else row[0], *row[1:]]
        above = row[0]
        cells = [cell.ljust(width) for cell, width in zip(shown, widths, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
