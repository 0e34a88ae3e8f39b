"""Accuracy along orders of ablation, and how orders compare with random ones.

Means, standard deviations and counts are computed here; intervals and tests come as
tables from the package ``inference``.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ioca_jax.inference.families import ALPHA
from ioca_jax.inference.statistics import significant
from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import (
    evenly,
    mean_curve,
    orderings_of,
    over_seeds,
    readable,
)

_MEASURE = "mutual_information"
_COLUMNS = 200  # of an image, at most


def ablation_curves(
    results: xr.Dataset, measures: Sequence[str] | None = None
) -> Figure:
    """Accuracy against the number of ablated neurons, for every order of some measures.

    Rows of panels per clamp, a panel per scope; a line per measure and direction, mean
    over networks, with a band of ± one standard deviation, and the mean of random
    orders.
    """
    most = _layers_by_clamp(results)
    kept = drawable.select_converged(results, "ablation_curves", most)
    figure, panels = _accuracy_panels(results, kept, "Cumulative ablation")
    known = drawable.labels_of(results, "measure")
    looks = style.order_looks(known, measures) | style.random_looks(kept)
    for (clamp, scope), axes in panels.items():
        curves = [
            (mean_curve(kept, clamp, scope, *order), look)
            for order, look in looks.items()
        ]
        style.draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    style.add_curve_legend(figure, kept)
    return figure


def bias_balancing(results: xr.Dataset, measure: str = _MEASURE) -> Figure:
    """Accuracy for both clamps, figure 1 of arXiv 1804.06679.

    A panel per layer; the measure's ascending order and the mean of random orders.
    """
    most = drawable.layers_on_a_page(1)
    kept = drawable.select_converged(results, "bias_balancing", most, measure=measure)
    for clamp in ("zero", "mean"):
        drawable.check_label(kept, "bias_balancing", "clamp", clamp)
    title = "Bias balancing: neurons clamped to their mean or to zero"
    layers = kept.sel(scope=kept["scope"] != "network")
    figure, panels = _accuracy_panels(results, layers, title, clamps=[""])
    known = drawable.labels_of(results, "measure")
    looks = style.order_looks(known, [measure])
    del looks[measure, "descending"]
    for order, look in style.random_looks(kept).items():
        looks[order] = style.look(0) | look
    clamps = {"zero": {}, "mean": {"linestyle": "--", "mfc": "white"}}
    for (_, scope), axes in panels.items():
        curves = [
            (
                mean_curve(kept, clamp, scope, *order),
                look | own | {"label": f"{look['label']}, {style.clamped_to(clamp)}"},
            )
            for order, look in looks.items()
            for clamp, own in clamps.items()
        ]
        style.draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    style.add_curve_legend(figure, kept)
    return figure


def difference_curves(results: xr.Dataset, table: pd.DataFrame) -> Figure:
    """Accuracy of each order minus that of random orders, by a table.

    Panels as in ``ablation_curves``. A line is thick where its 95 % band, simultaneous
    over all steps, excludes 0; the bands overlap too much to be drawn. With fewer
    networks than a test needs, no line is thick.
    """
    kept = drawable.with_few_layers(results, _layers_by_clamp(results))
    few = drawable.without_marks(results, "no line is thick")
    title = f"Accuracy difference from random orders{few}"
    figure, panels = _accuracy_panels(results, kept, title, "accuracy difference")
    chosen = list(dict.fromkeys(table["ranked_by"]))
    looks = style.order_looks(drawable.labels_of(results, "measure"), chosen)
    by_line = dict(list(table.groupby(["clamp", "scope", "ranked_by", "direction"])))
    for (clamp, scope), axes in panels.items():
        for index, (order, look) in enumerate(looks.items()):
            line = by_line[clamp, scope, *order]
            step, mean = line["step"].to_numpy(), line["mean"].to_numpy()
            markers = style.marker_positions(len(line), index, len(looks))
            thin = look | {"linewidth": 0.7, "markevery": markers}
            axes.plot(step, mean, **thin)
            is_shown = ((line["low"] > 0) | (line["high"] < 0)) & (not few)
            shown = np.where(is_shown, mean, np.nan)
            axes.plot(step, shown, color=look["color"], linewidth=2.5, alpha=0.6)
        axes.axhline(0, **style.REFERENCE)
    entries = style.drawn_entries(figure.axes[0])
    entries[drawable.random_label(results)] = style.REFERENCE
    if not few:
        label = "thick: 95 % band over all steps excludes 0"
        entries[label] = {"color": "0.3", "linewidth": 2.5}
    style.add_legend(figure, entries)
    return figure


def order_effects(results: xr.Dataset, table: pd.DataFrame) -> Figure:
    """Normalised area under the accuracy curve, minus that of random orders.

    From ``tables["orders"]``. A row per measure, with the mean effect and its 95 %
    interval for each direction; markers of effects that are significant at 5 % are
    filled.
    """
    measures = list(dict.fromkeys(table["ranked_by"]))
    kept = drawable.with_few_layers(results, _layers_by_clamp(results))
    title = "Normalised area under the accuracy curve, difference from random orders"
    blocks, roomy = _by_clamp(kept), 0.6 + 0.2 * len(measures)
    rows = len(blocks) * -(-len(blocks[0]) // drawable.COLUMNS)
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        blocks,
        lambda key: style.Labels(
            drawable.panel_title(key[1]), "area difference", style.clamped_to(key[0])
        ),
        height=max(0.4 + 0.12 * len(measures), min(roomy, style.PAGE / rows)),
    )
    looks = style.order_looks(drawable.labels_of(results, "measure"), measures)
    by_panel = dict(list(table.groupby(["clamp", "scope", "direction"])))
    for (clamp, scope), axes in panels.items():
        for direction, offset, marker in _DIRECTIONS:
            here = by_panel[clamp, scope, direction].set_index("ranked_by")
            colours = [looks[name, direction]["color"] for name in measures]
            _draw_effects(axes, here.reindex(measures), offset, marker, colours)
        axes.axvline(0, **style.REFERENCE)
        axes.set_yticks(np.arange(len(measures)), map(readable, measures))
        axes.set_ylim(len(measures) - 0.5, -0.5)
        style.few_ticks(axes)
    p_values = table["p_corrected"].to_numpy()
    is_any = significant(p_values, ALPHA).any()
    hollow = {"mfc": "white"}
    entries = {
        style.DIRECTIONS[direction]: style.DOT
        | {"marker": marker}
        | ({} if is_any else hollow)
        for direction, _, marker in _DIRECTIONS
    }
    if is_any:
        entries["significant (corrected p at most 0.05)"] = style.DOT
        entries["not significant"] = style.DOT | hollow
    elif np.isfinite(p_values).any():
        none = "none is significant (corrected p at most 0.05)"
        entries[none] = style.DOT | hollow
    else:
        entries["mean over networks, without a test"] = style.DOT | hollow
    entries["95 % interval over networks"] = {"color": "0.3", "linewidth": 1}
    style.add_legend(figure, entries)
    return figure


# Where in the row of a measure, and by which marker.
_DIRECTIONS = (("ascending", -0.17, "^"), ("descending", 0.17, "v"))


def _draw_effects(
    axes: Axes, effects: pd.DataFrame, offset: float, marker: str, colours: list[str]
) -> None:
    """Effects with their intervals, one above the other, filled if significant."""
    rows = np.arange(len(effects)) + offset
    axes.hlines(rows, effects["low"], effects["high"], color=colours, linewidth=1)
    is_shown = significant(effects["p_corrected"].to_numpy(), ALPHA)
    fills = np.where(is_shown, colours, "white")
    fills = fills.tolist()
    look = {"edgecolors": colours, "linewidths": 0.7, "zorder": 3}
    axes.scatter(effects["effect"], rows, s=14, c=fills, marker=marker, **look)


def published_points(results: xr.Dataset, points: pd.DataFrame) -> Figure:
    """Accuracy curves with points that were read off published plots.

    ``points`` has columns ``scope``, ``clamp``, ``ranked_by``, ``direction``, ``step``
    and ``accuracy``; panels as in ``ablation_curves``.
    """
    most = _layers_by_clamp(results)
    kept = drawable.select_converged(results, "published_points", most)
    scopes, clamps = (list(dict.fromkeys(points[name])) for name in ("scope", "clamp"))
    title = "Comparison with points read off the published plots"
    chosen = kept.sel(scope=scopes, clamp=clamps)
    figure, panels = _accuracy_panels(results, chosen, title)
    looks = style.order_looks(drawable.labels_of(results, "measure"))
    random = style.look(0, color="black", linestyle=":")
    looks["random", "random"] = random | {"label": drawable.random_label(kept)}
    orders = dict.fromkeys(zip(points["ranked_by"], points["direction"], strict=True))
    by_order = dict(list(points.groupby(["clamp", "scope", "ranked_by", "direction"])))
    for (clamp, scope), axes in panels.items():
        curves = []
        for order in orders:
            label = f"published, {style.order_label(*order)}"
            own = {"linestyle": "", "zorder": 3, "label": label}
            here = by_order.get((clamp, scope, *order), points[:0])
            axes.plot(here["step"], here["accuracy"], **looks[order] | own)
            curve = mean_curve(kept, clamp, scope, *order)
            curves.append((curve, looks[order] | {"marker": ""}))
        style.draw_curves(axes, curves)
    style.add_curve_legend(figure, kept)
    return figure


def class_curves(
    results: xr.Dataset, ranked_by: str, direction: str = "ascending"
) -> Figure:
    """Accuracy of each class along one order, mean over networks and draws.

    Panels as in ``ablation_curves``; a row per class, whose accuracy is a colour.
    """
    most = _layers_by_clamp(results)
    kept = drawable.select_converged(results, "class_curves", most, ranked_by=ranked_by)
    title = f"Accuracy of each class: {style.order_label(ranked_by, direction)}"
    figure, panels = _accuracy_panels(results, kept, title, "class")
    means = _shares_by_class(kept, orderings_of(kept, ranked_by, direction))
    images = []
    for (clamp, scope), axes in panels.items():
        here = means.sel(clamp=clamp, scope=scope).dropna("step", how="all")
        step = here["step"].values
        # An image has columns of one width, steps may be further apart.
        columns = np.linspace(0, step[-1], min(step[-1] + 1, _COLUMNS))
        values = [np.interp(columns, step, mean) for mean in here.values.T]
        width = columns[1] / 2
        ends = (-width, step[-1] + width, len(values) - 0.5, -0.5)
        look = {"aspect": "auto", "extent": ends}
        images.append(style.draw_image(axes, np.array(values), "accuracy", 1.0, **look))
        style.name_classes(axes.yaxis, kept["class"].values, len(panels))
    style.add_colour_bar(list(panels.values()), images[0], style.ACCURACY)
    return figure


def _shares_by_class(results: xr.Dataset, orderings: np.ndarray) -> xr.DataArray:
    """Accuracy of each class, mean over draws and networks; NaN past a scope's end."""
    correct = results["correct"].isel(ordering=evenly(orderings))
    axes = ("clamp", "scope", "step", "class")
    correct = correct.transpose("seed", "ordering", *axes)

    def count(piece: xr.Dataset) -> dict[str, np.ndarray]:
        return {"total": piece["correct"].values.sum(axis=(0, 1), dtype=np.int64)[None]}

    total = over_seeds(correct.to_dataset(name="correct"), count)["total"].sum(axis=0)
    examples = results.sizes["seed"] * len(orderings) * results["class_size"]
    counts = correct.isel(seed=0, ordering=0, drop=True).copy(data=total)
    return counts.where(counts >= 0) / examples


def _accuracy_panels(
    results: xr.Dataset,
    kept: xr.Dataset,
    title: str,
    label: str = style.ACCURACY,
    clamps: Sequence[str] | None = None,
    **options: Any,
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels against the ablated neurons, by clamp and scope of what is kept."""

    def labels(key: tuple[str, str]) -> style.Labels:
        clamp, scope = key
        title = drawable.sized_title(results, scope)
        return style.Labels(title, "neurons ablated", style.clamped_to(clamp, label))

    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        _by_clamp(kept, clamps),
        labels,
        share_x=itemgetter(1),
        **options,
    )
    for axes in panels.values():
        style.set_integer_ticks(axes)
    return figure, panels


def _by_clamp(
    kept: xr.Dataset, clamps: Sequence[str] | None = None
) -> list[list[tuple[str, str]]]:
    """Each clamp with each scope, a block per clamp."""
    scopes = drawable.labels_of(kept, "scope")
    clamps = clamps or drawable.labels_of(kept, "clamp")
    return [[(clamp, scope) for scope in scopes] for clamp in clamps]


def _layers_by_clamp(results: xr.Dataset) -> int:
    """How many layers have a panel for each clamp, beside the whole network."""
    return drawable.layers_on_a_page(results.sizes["clamp"], 1)
