"""Redundancy and synergy of pairs of neurons."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ioca_jax.plots import selection, style
from ioca_jax.results.files import in_words, neurons_of

PAIR_VARIABLES = {"pair_value", "pair_effect_loss"}
_CO_INFORMATION = "co_information_miller_madow"
# Beyond this points of pairs hide each other, and are counted in so many bins an axis.
_POINTS_APART = 1000
_BINS = 60


def pair_matrices(
    results: xr.Dataset, clamp: str | None = None, arranged_by: str = "clustered"
) -> Figure:
    """Draws redundancy and synergy of every pair of neurons, in one network.

    Args:
        results: a run's results, with interactions.
        clamp: of the ablated neurons; None takes the run's last.
        arranged_by: the order of a layer's neurons: a measure, lowest first, or
            ``clustered``, so that neurons of great co-information are neighbours.

    Returns:
        Four panels, neurons by neurons, of the first network that converged:
        co-information, redundancy, synergy, and the pair effect in the test loss. Lines
        part layers; what is not known is grey.

    Raises:
        ValueError: no network that converged, a run without interactions, or a clamp or
            measure that the run lacks.
    """
    selection.check_held(results, "pair_matrices", PAIR_VARIABLES, "interactions")
    kept = selection.converged_only(results)
    clamp = selection.clamp_or_last(kept, "pair_matrices", clamp)
    if arranged_by != "clustered":
        selection.check_named(kept, "pair_matrices", "measure", arranged_by)
    one = kept.isel(seed=0)
    ordered = (
        "clustered"
        if arranged_by == "clustered"
        else f"lowest {in_words(arranged_by)} first"
    )
    figure, panels = style.make_panels(
        results,
        "Redundancy and synergy of pairs of neurons, in the network of seed "
        f"{int(one['seed'])}; within layers {ordered}",
        2,
        2,
        size=(4.4, 3.7),
    )
    pairs = one["pair_value"]
    matrices = [
        ("co-information, Miller-Madow", "diverging", _CO_INFORMATION),
        ("redundancy by I_min, plug-in", "redundancy", "redundancy_i_min"),
        ("synergy by I_min, plug-in", "synergy", "synergy_i_min"),
        (f"pair effect in test loss, clamped to {clamp}", "diverging", None),
    ]
    arranged = _arranged(one, arranged_by)
    places = np.arange(len(arranged))
    of_place = one["layer"].values[arranged]
    for axes, (title, colours, name) in zip(panels, matrices, strict=True):
        matrix = (
            pairs.sel(pair_measure=name)
            if name
            else one["pair_effect_loss"].sel(clamp=clamp)
        )
        values = matrix.values[np.ix_(arranged, arranged)]
        # A neuron with itself is no pair, and outshines all that are.
        values = np.where(places[:, None] == places, np.nan, values)
        unit = "bits" if name else "nats"
        style.draw_image(
            axes,
            values,
            colours,
            f"{unit} ({style.SIGN})" if colours == "diverging" else unit,
            limit=style.limit_of_most(values),
            aspect="equal",
        )
        axes.set_title(title, fontsize="medium")
        for end in np.flatnonzero(np.diff(of_place)) + 0.5:
            axes.axvline(end, color="black", linewidth=0.8)
            axes.axhline(end, color="black", linewidth=0.8)
        centres = [
            places[of_place == layer].mean() for layer in selection.layers_of(kept)
        ]
        labels = [f"layer {layer}" for layer in selection.layers_of(kept)]
        axes.set_xticks(centres, labels)
        axes.set_yticks(centres, labels, rotation=90, va="center")
        axes.tick_params(length=0, labelsize="small")
    style.add_legend(
        figure,
        [Patch(color=style.UNKNOWN)],
        ["not a pair, or not known (effects: pairs of a layer only)"],
    )
    return figure


def _arranged(network: xr.Dataset, arranged_by: str) -> np.ndarray:
    """The neurons layer by layer, in each by a measure or by likeness."""
    parts = []
    for layer in selection.layers_of(network):
        of_layer = neurons_of(network, layer)
        if arranged_by == "clustered":
            shared = network["pair_value"].sel(pair_measure=_CO_INFORMATION)
            within = _clustered(shared.values[np.ix_(of_layer, of_layer)])
        else:
            scores = network["score"].sel(measure=arranged_by).values[of_layer]
            within = np.argsort(scores, kind="stable")
        parts.append(of_layer[within])
    return np.concatenate(parts)


def _clustered(likeness: np.ndarray) -> np.ndarray:
    """Leaves of the average linkage, so that neighbours are as like as can be."""
    pairs = squareform(likeness.astype(np.float64), checks=False)
    if not np.isfinite(pairs).any():
        return np.arange(len(likeness))
    distances = np.nanmax(pairs) - pairs
    distances = np.where(np.isfinite(distances), distances, np.nanmax(distances))
    linkage = hierarchy.linkage(distances, "average", optimal_ordering=True)
    return hierarchy.leaves_list(linkage)


def pair_agreement(
    results: xr.Dataset,
    clamp: str | None = None,
    table: pd.DataFrame | None = None,
) -> Figure:
    """Draws what pairs of neurons share of the class against what ablating both costs.

    Args:
        results: a run's results, with interactions.
        clamp: of the ablated neurons; None takes the run's last.
        table: rank correlations, with columns ``layer``, ``clamp``, ``pair_measure``,
            ``effect_in``, ``effect``, ``low``, ``high`` and ``p_corrected``; None tells
            none.

    Returns:
        A panel per layer; a point per pair of every network, or where these are many
        how many there are: co-information, and the pair effect in the test loss.

    Raises:
        ValueError: no network that converged, a run without interactions, or a clamp
            that it lacks.
    """
    selection.check_held(results, "pair_agreement", PAIR_VARIABLES, "interactions")
    kept = selection.converged_only(results)
    clamp = selection.clamp_or_last(kept, "pair_agreement", clamp)
    layers = selection.layers_of(kept)
    title = (
        "Information against intervention: what pairs of neurons of a layer share, and "
        f"what ablating both costs beyond each, clamped to {clamp}"
    )
    if table is not None:
        title += (
            "; rank correlation: mean over networks, its 95 % interval, corrected p"
        )
    figure, panels = style.make_panels(
        results,
        title,
        -(-len(layers) // style.PANELS_IN_A_ROW),
        min(len(layers), style.PANELS_IN_A_ROW),
        len(layers),
        size=(4.2, 3.2),
    )
    shared = kept["pair_value"].sel(pair_measure=_CO_INFORMATION)
    effect = kept["pair_effect_loss"].sel(clamp=clamp)
    threshold = style.linear_range(effect.values)
    for index, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
        first, second = np.triu_indices(len(neurons_of(kept, layer)), 1)
        first, second = (neurons_of(kept, layer)[side] for side in (first, second))
        x, y = (
            side.transpose("seed", "neuron", "other").values[:, first, second].ravel()
            for side in (shared, effect)
        )
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        axes.set_yscale("symlog", linthresh=threshold)
        if len(x) > _POINTS_APART:
            _draw_density(axes, x, y, "pairs")
        else:
            style.draw_points(axes, x, y, style.look(index), size=7.0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_title(
            _agreement_title(table, layer, clamp, f"layer {layer}"), fontsize="medium"
        )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("co-information, Miller-Madow (bits)")
        axes.set_ylabel("pair effect in test loss (nats)")
        style.write_in_corner(axes, "redundant in both", "top", "right")
        style.write_in_corner(axes, "synergistic in both", "bottom", "left")
    return figure


def _agreement_title(
    table: pd.DataFrame | None, layer: int, clamp: str, name: str
) -> str:
    if table is None:
        return name
    here = table[
        (table["layer"] == layer)
        & (table["clamp"] == clamp)
        & (table["pair_measure"] == _CO_INFORMATION)
        & (table["effect_in"] == "loss")
    ]
    for _, row in here.iterrows():
        name += (
            f"\nrank correlation {row['effect']:.2f} "
            f"[{row['low']:.2f}, {row['high']:.2f}], p {row['p_corrected']:.2g}"
        )
    return name


def _draw_density(axes: Axes, x: np.ndarray, y: np.ndarray, things: str) -> None:
    """How many points there are, with a colour bar, on the scales that axes have."""
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
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(image, ax=axes).set_label(things, fontsize="small")
