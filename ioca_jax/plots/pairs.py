"""Redundancy and synergy of pairs of neurons."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import layers_of, neurons_of

_RHO = "\N{GREEK SMALL LETTER RHO}"
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
    most = drawable.MOST_VIOLINS
    kept = drawable.select_converged(results, "pair_matrices", most, clamp=clamp)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    one = kept.isel(seed=0)
    title = (
        "Redundancy and synergy of pairs of neurons, network of seed "
        f"{int(one['seed'])}; neurons of a layer clustered by co-information"
    )
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
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [list(matrices)],
        lambda name: style.Labels(name),
        columns=2,
        height=2.7,
    )
    for name, (matrix, colours, unit) in matrices.items():
        axes = panels[name]
        values = matrix.values[np.ix_(arranged, arranged)].copy()
        np.fill_diagonal(values, np.nan)  # a neuron with itself is not a pair
        unit = f"{unit} ({style.SIGN})" if colours == "diverging" else unit
        limit = style.colour_limit(values)
        image = style.draw_image(axes, values, colours, limit, aspect="equal")
        extend = "both" if colours == "diverging" else "max"
        style.add_colour_bar(axes, image, unit, extend=extend)
        for end in ends[:-1] - 0.5:
            axes.axvline(end, color="black", linewidth=0.6)
            axes.axhline(end, color="black", linewidth=0.6)
        axes.tick_params(length=0)
        # Columns are in the same order.
        axes.set_xticks([])
        axes.set_yticks(centres, map(drawable.layer_name, layers_of(one)))
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
    most = drawable.layers_on_a_page(1)
    kept = drawable.select_converged(results, "pair_agreement", most, clamp=clamp)
    some, note = drawable.few_networks(kept)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    title = (
        "Pairs of neurons of a layer: co-information (Miller-Madow) against the effect "
        f"of ablating both beyond the sum of single effects, clamped to {clamp}{note}"
    )
    if table is not None:
        title += f"; {_RHO} is Spearman's, a mean over networks with its 95 % interval"
    looks = style.layer_looks(kept)
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [list(looks)],
        lambda layer: style.Labels(
            looks[layer]["label"] + _correlation(table, layer, clamp),
            "co-information (bits)",
            "pair effect in\ntest loss (nats)",
        ),
        height=1.7,
    )
    pairs = {layer: _known_pairs(some, layer, clamp) for layer in looks}
    effects = np.concatenate([y for _, y in pairs.values()])
    style.set_asinh_scale(next(iter(panels.values())), effects)
    norm = LogNorm(1, 2)  # of the number of pairs in a bin
    images = []
    for layer, axes in panels.items():
        x, y = pairs[layer]
        if len(x) > _POINTS_APART:
            images.append(_draw_density(axes, x, y, norm))
        else:
            style.draw_points(axes, x, y, looks[layer])
        axes.axhline(0, color="0.4", linewidth=0.6)
        axes.axvline(0, color="0.4", linewidth=0.6)
        style.few_ticks(axes)
        style.write_in_corner(axes, "redundant by both", "upper right")
        style.write_in_corner(axes, "synergistic by both", "lower left")
    if images:
        style.add_colour_bar(list(panels.values()), images[0], "number of pairs")
    return figure


def _known_pairs(
    results: xr.Dataset, layer: Any, clamp: str
) -> tuple[np.ndarray, np.ndarray]:
    """Co-information and effect of each pair of a layer in each network."""
    of_layer = neurons_of(results, layer)
    first, second = of_layer[np.array(np.triu_indices(len(of_layer), 1))]
    x, y = (
        side.transpose("seed", "neuron", "other").values[:, first, second].ravel()
        for side in (
            results["pair_value"].sel(pair_measure=_CO_INFORMATION),
            results["pair_effect_loss"].sel(clamp=clamp),
        )
    )
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


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
        f"\n{_RHO} = {row['effect']:.2f} "
        f"[{row['low']:.2f}, {row['high']:.2f}]"
        + f"\ncorrected p = {row['p_corrected']:.2g}"
        * bool(np.isfinite(row["p_corrected"]))
        for _, row in here.iterrows()
    )


def _draw_density(
    axes: Axes, x: np.ndarray, y: np.ndarray, norm: LogNorm
) -> ScalarMappable:
    """Counts of pairs in bins that are equal on the scales of the axes."""
    scales = axes.xaxis.get_transform(), axes.yaxis.get_transform()
    shown = [scale.transform(side) for scale, side in zip(scales, (x, y), strict=True)]
    counts, *edges = np.histogram2d(*shown, bins=_BINS)
    bounds = [
        scale.inverted().transform(side)
        for scale, side in zip(scales, edges, strict=True)
    ]
    norm.vmax = max(norm.vmax or 0, counts.max())
    return axes.pcolormesh(
        *bounds,
        np.where(counts > 0, counts, np.nan).T,
        norm=norm,
        cmap="viridis_r",
        rasterized=True,
    )
