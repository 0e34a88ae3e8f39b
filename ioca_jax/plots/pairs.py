"""Redundancy and synergy of pairs of neurons."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import layers_of, neurons_of

_CO_INFORMATION = "co_information_miller_madow"
# More points than these would hide each other: they are counted in bins instead.
_POINTS_APART = 1000
_BINS = 60  # on each axis


def pair_matrices(results: xr.Dataset, clamp: str | None = None) -> Figure:
    """Redundancy and synergy of every pair of neurons, in the first network.

    Co-information, redundancy, synergy, and the pair effect in the test loss (by
    default of the last clamp). Lines separate layers, in which neurons of high
    co-information are side by side; entries without a value are grey.
    """
    kept = drawable.select_converged(results, "pair_matrices", clamp=clamp)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    one = kept.isel(seed=0)
    title = (
        "Redundancy and synergy of pairs of neurons, network of seed "
        f"{int(one['seed'])}; neurons of a layer clustered by co-information"
    )
    names = [drawable.layer_name(layer) for layer in layers_of(one)]
    are_long = max(map(len, names)) > style.LONG_NAME
    size = (5.6 if are_long else 4.4, 3.7)
    figure, panels = style.make_panels(results, title, 4, 2, size=size)
    pairs = one["pair_value"]
    shared, redundancy, synergy = (
        pairs.sel(pair_measure=name)
        for name in (_CO_INFORMATION, "redundancy_i_min", "synergy_i_min")
    )
    effect = one["pair_effect_loss"].sel(clamp=clamp)
    parts = [neurons_of(one, layer) for layer in layers_of(one)]
    parts = [part[_clustered(shared.values[np.ix_(part, part)])] for part in parts]
    arranged = np.concatenate(parts)
    ends = np.cumsum([len(part) for part in parts])
    centres = [end - (len(part) + 1) / 2 for part, end in zip(parts, ends, strict=True)]
    matrices = {
        "co-information, Miller-Madow": (shared, "diverging", "bits"),
        "redundancy, I_min, plug-in": (redundancy, "redundancy", "bits"),
        "synergy, I_min, plug-in": (synergy, "synergy", "bits"),
        f"pair effect in test loss, clamped to {clamp}": (effect, "diverging", "nats"),
    }
    for axes, (name, (matrix, colours, unit)) in zip(
        panels, matrices.items(), strict=True
    ):
        values = matrix.values[np.ix_(arranged, arranged)].copy()
        np.fill_diagonal(values, np.nan)  # a neuron with itself is not a pair
        unit = f"{unit} ({style.SIGN})" if colours == "diverging" else unit
        style.draw_image(axes, values, colours, unit, aspect="equal")
        axes.set_title(name, fontsize="medium")
        for end in ends[:-1] - 0.5:
            axes.axvline(end, color="black", linewidth=0.8)
            axes.axhline(end, color="black", linewidth=0.8)
        axes.tick_params(length=0, labelsize="small")
        if not are_long:
            axes.set_xticks(centres, names)
            axes.set_yticks(centres, names, rotation=90, va="center")
        else:  # beside the left panels only; columns are in the same order
            beside = names if axes in panels[::2] else [""] * len(names)
            axes.set_xticks([])
            axes.set_yticks(centres, beside)
    label = "not a pair, or no value (effects: pairs within a layer only)"
    style.add_legend(figure, {label: style.UNKNOWN})
    return figure


def _clustered(similarity: np.ndarray) -> np.ndarray:
    """Leaves of the average linkage in the order that has similar ones adjacent."""
    pairs = squareform(similarity.astype(np.float64), checks=False)
    if not np.isfinite(pairs).any():
        return np.arange(len(similarity))
    distances = np.nanmax(pairs) - pairs
    distances = np.where(np.isfinite(distances), distances, np.nanmax(distances))
    linkage = hierarchy.linkage(distances, "average", optimal_ordering=True)
    return hierarchy.leaves_list(linkage)


def pair_agreement(
    results: xr.Dataset,
    clamp: str | None = None,
    table: pd.DataFrame | None = None,
) -> Figure:
    """Co-information of pairs of neurons against the effect of ablating both.

    A panel per layer; a point per pair of every network, or counts in bins if there are
    many. Titles have the rank correlations of ``tables["pairs"]``, if given.
    """
    kept = drawable.select_converged(results, "pair_agreement", clamp=clamp)
    kept, note = drawable.few_networks(kept)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    looks = style.layer_looks(kept)
    title = (
        "Pairs of neurons of a layer: co-information against the effect of ablating "
        f"both beyond the sum of single effects, clamped to {clamp}{note}"
    )
    if table is not None:
        title += "; Spearman's rho is a mean over networks with its 95 % interval"
    figure, panels = style.make_panels(results, title, len(looks), size=(4.2, 3.2))
    shared = kept["pair_value"].sel(pair_measure=_CO_INFORMATION)
    effect = kept["pair_effect_loss"].sel(clamp=clamp)
    for axes, (layer, look) in zip(panels, looks.items(), strict=True):
        of_layer = neurons_of(kept, layer)
        first, second = of_layer[np.array(np.triu_indices(len(of_layer), 1))]
        x, y = (
            side.transpose("seed", "neuron", "other").values[:, first, second].ravel()
            for side in (shared, effect)
        )
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        style.set_asinh_scale(axes, y)
        if len(x) > _POINTS_APART:
            _draw_density(axes, x, y)
        else:
            style.draw_points(axes, x, y, look, size=2.6)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.axvline(0, color="0.4", linewidth=0.8)
        name = look["label"] + _correlation(table, layer, clamp)
        axes.set_title(name, fontsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("co-information, Miller-Madow (bits)")
        axes.set_ylabel("pair effect in test loss (nats)")
        style.write_in_corner(axes, "redundant by both", "upper right")
        style.write_in_corner(axes, "synergistic by both", "lower left")
    return figure


def _correlation(table: pd.DataFrame | None, layer: Any, clamp: str) -> str:
    """A line with the rank correlation of a layer, empty without one."""
    if table is None:
        return ""
    here = table[
        (table["layer"] == layer)
        & (table["clamp"] == clamp)
        & (table["pair_measure"] == _CO_INFORMATION)
        & (table["effect_in"] == "loss")
    ]
    return "".join(
        f"\nSpearman's rho = {row['effect']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        + f"\ncorrected p = {row['p_corrected']:.2g}"
        * bool(np.isfinite(row["p_corrected"]))
        for _, row in here.iterrows()
    )


def _draw_density(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Counts of pairs in bins that are equal on the scales of the axes."""
    scales = axes.xaxis.get_transform(), axes.yaxis.get_transform()
    shown = [scale.transform(side) for scale, side in zip(scales, (x, y), strict=True)]
    counts, *edges = np.histogram2d(*shown, bins=_BINS)
    bounds = [
        scale.inverted().transform(side)
        for scale, side in zip(scales, edges, strict=True)
    ]
    image = axes.pcolormesh(
        *bounds,
        np.where(counts > 0, counts, np.nan).T,
        norm=LogNorm(1, max(2, counts.max())),
        cmap="viridis_r",
        rasterized=True,
    )
    style.add_colour_bar(axes, image, "number of pairs")
