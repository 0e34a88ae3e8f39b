"""Accuracy along orders of ablation, and how orders compare with random ones.

Means, standard deviations and counts are computed here; intervals and tests come as
tables from the package ``inference``.
"""

from collections.abc import Sequence

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
    scope_size,
)


def ablation_curves(
    results: xr.Dataset, measures: Sequence[str] | None = None
) -> Figure:
    """Accuracy against the number of ablated neurons, for every order of some measures.

    A row of panels per clamp, a column per scope; a line per measure and direction,
    mean over networks, with a band of ± one standard deviation, and the mean of random
    orders.
    """
    kept = drawable.select_converged(results, "ablation_curves")
    scopes, clamps = _scopes_and_clamps(kept)
    figure, panels = _accuracy_panels(results, "Cumulative ablation", scopes, clamps)
    looks = style.order_looks(measures or drawable.labels_of(kept, "measure"))
    looks |= style.random_looks(kept)
    for (clamp, scope), axes in panels.items():
        curves = [
            (mean_curve(kept, clamp, scope, *order), look)
            for order, look in looks.items()
        ]
        style.draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    style.add_curve_legend(figure, kept)
    return figure


def bias_balancing(results: xr.Dataset, measure: str = "mutual_information") -> Figure:
    """Accuracy for both clamps, figure 1 of arXiv 1804.06679.

    A panel per layer; the measure's ascending order and the mean of random orders.
    """
    kept = drawable.select_converged(results, "bias_balancing", measure=measure)
    for clamp in ("zero", "mean"):
        drawable.check_label(kept, "bias_balancing", "clamp", clamp)
    scopes = [name for name in drawable.labels_of(kept, "scope") if name != "network"]
    title = "Bias balancing: neurons clamped to their mean or to zero"
    figure, panels = _accuracy_panels(results, title, scopes, [""])
    orders = {
        (measure, "ascending"): {"label": style.order_label(measure, "ascending")}
    }
    for order, look in style.random_looks(kept).items():
        orders[order] = look | {"mfc": "white"}
    for (_, scope), axes in panels.items():
        curves = []
        for order, look in orders.items():
            for index, clamp in enumerate(("zero", "mean")):
                label = f"{look['label']}, clamped to {clamp}"
                own = look | style.look(index, label=label)
                curves.append((mean_curve(kept, clamp, scope, *order), own))
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
    scopes, clamps = _scopes_and_clamps(drawable.with_few_layers(results))
    few = drawable.without_marks(results, "no line is thick")
    title = f"Accuracy difference from random orders{few}"
    figure, panels = _accuracy_panels(results, title, scopes, clamps)
    looks = style.order_looks(list(dict.fromkeys(table["ranked_by"])))
    by_line = dict(list(table.groupby(["clamp", "scope", "ranked_by", "direction"])))
    for (clamp, scope), axes in panels.items():
        for index, (order, look) in enumerate(looks.items()):
            line = by_line[clamp, scope, *order]
            step, mean = line["step"].to_numpy(), line["mean"].to_numpy()
            markers = style.marker_positions(len(line), index, len(looks))
            axes.plot(step, mean, markevery=markers, linewidth=0.8, **look)
            is_shown = ((line["low"] > 0) | (line["high"] < 0)) & (not few)
            shown = np.where(is_shown, mean, np.nan)
            axes.plot(step, shown, color=look["color"], linewidth=3, alpha=0.6)
        axes.axhline(0, **style.REFERENCE)
        if scope == scopes[0]:
            axes.set_ylabel("accuracy difference")
    entries = style.drawn_entries(figure.axes[0])
    entries[drawable.random_label(results)] = style.REFERENCE
    if not few:
        label = "thick: 95 % band, simultaneous over all steps, excludes 0"
        entries[label] = {"color": "0.3", "linewidth": 3}
    style.add_legend(figure, entries)
    return figure


def order_effects(results: xr.Dataset, table: pd.DataFrame) -> Figure:
    """Normalised area under the accuracy curve, minus that of random orders.

    From ``tables["orders"]``. A row per measure, with the mean effect and its 95 %
    interval for each direction; markers of effects that are significant at 5 % are
    filled.
    """
    measures = list(dict.fromkeys(table["ranked_by"]))
    scopes, clamps = _scopes_and_clamps(drawable.with_few_layers(results))
    title = "Normalised area under the accuracy curve, difference from random orders"
    size = (1.6 / len(scopes) + 2.6, 0.9 + 0.27 * len(measures))
    shared = {"sharex": True, "sharey": True, "size": size}
    figure, panels = style.clamp_panels(results, title, scopes, clamps, **shared)
    names = [readable(name) for name in measures]
    by_panel = dict(list(table.groupby(["clamp", "scope", "direction"])))
    for (clamp, scope), axes in panels.items():
        for index, direction in enumerate(style.DIRECTIONS):
            here = by_panel[clamp, scope, direction].set_index("ranked_by")
            offset = (-0.17, 0.17)[index]
            _draw_effects(axes, here.reindex(measures), offset, style.look(index))
        axes.axvline(0, **style.REFERENCE)
        axes.set_yticks(np.arange(len(measures)), names)
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.tick_params(labelsize="small")
        if clamp == clamps[-1]:
            axes.set_xlabel("area difference", fontsize="small")
    dot = {"color": "0.3", "marker": "o", "linestyle": "", "markersize": 5}
    hollow = {"mfc": "white"}
    p_values = table["p_corrected"].to_numpy()
    is_any = significant(p_values, ALPHA).any()
    looks = [style.look(index) | ({} if is_any else hollow) for index in range(2)]
    entries = dict(zip(style.DIRECTIONS.values(), looks, strict=True))
    if is_any:
        entries["significant (corrected p at most 0.05)"] = dot
        entries["not significant"] = dot | hollow
    elif np.isfinite(p_values).any():
        entries["none is significant (corrected p at most 0.05)"] = dot | hollow
    else:
        entries["mean over networks, without a test"] = dot | hollow
    entries["95 % interval over networks"] = {"color": "0.3"}
    style.add_legend(figure, entries)
    return figure


def _draw_effects(
    axes: Axes, effects: pd.DataFrame, offset: float, look: style.Look
) -> None:
    """Effects with their intervals, one above the other, filled if significant."""
    rows = np.arange(len(effects)) + offset
    axes.hlines(rows, effects["low"], effects["high"], color=look["color"])
    is_shown = significant(effects["p_corrected"].to_numpy(), ALPHA)
    for chosen, fill in ((is_shown, look["color"]), (~is_shown, "white")):
        own = look | {"linestyle": "", "mfc": fill, "zorder": 3}
        axes.plot(effects["effect"].to_numpy()[chosen], rows[chosen], **own)


def published_points(results: xr.Dataset, points: pd.DataFrame) -> Figure:
    """Accuracy curves with points that were read off published plots.

    ``points`` has columns ``scope``, ``clamp``, ``ranked_by``, ``direction``, ``step``
    and ``accuracy``; panels as in ``ablation_curves``.
    """
    kept = drawable.select_converged(results, "published_points")
    scopes, clamps = (list(dict.fromkeys(points[name])) for name in ("scope", "clamp"))
    title = "Comparison with points read off the published plots"
    figure, panels = _accuracy_panels(results, title, scopes, clamps)
    orders = dict.fromkeys(zip(points["ranked_by"], points["direction"], strict=True))
    by_order = dict(list(points.groupby(["clamp", "scope", "ranked_by", "direction"])))
    for (clamp, scope), axes in panels.items():
        curves = []
        for index, order in enumerate(orders):
            name = style.order_label(*order)
            look = style.look(index, label=f"published, {name}", linestyle="", zorder=3)
            here = by_order.get((clamp, scope, *order), points[:0])
            axes.plot(here["step"], here["accuracy"], **look)
            name = drawable.random_label(kept) if order[0] == "random" else name
            line = {"label": name, "marker": "", "linestyle": style.DASHES[index % 2]}
            curves.append((mean_curve(kept, clamp, scope, *order), look | line))
        style.draw_curves(axes, curves)
    style.add_curve_legend(figure, kept)
    return figure


def class_curves(
    results: xr.Dataset, ranked_by: str, direction: str = "ascending"
) -> Figure:
    """Accuracy of each class along one order, mean over networks and draws.

    Whiskers at every second marker are ± one standard deviation over networks.
    """
    kept = drawable.select_converged(results, "class_curves", ranked_by=ranked_by)
    scopes, clamps = _scopes_and_clamps(kept)
    title = f"Accuracy of each class: {style.order_label(ranked_by, direction)}"
    figure, panels = _accuracy_panels(results, title, scopes, clamps)
    chosen = orderings_of(kept, ranked_by, direction)
    means, spreads = _shares_by_class(kept, chosen)
    classes, networks = kept.sizes["class"], kept.sizes["seed"]
    for (clamp, scope), axes in panels.items():
        here = means.sel(clamp=clamp, scope=scope).dropna("step", how="all")
        step = here["step"].values
        spread = spreads.sel(clamp=clamp, scope=scope, step=step)
        for index in range(classes):
            look = style.dashed_look(
                index, label=f"class {kept['class'].values[index]}"
            )
            start, stride = style.marker_positions(len(step), index, classes)
            mean = here.isel({"class": index}).values
            axes.plot(step, mean, markevery=(start, stride), **look)
            if networks > 1:
                every = (start, 2 * stride)
                whiskers = {"ecolor": look["color"], "alpha": 0.5, "fmt": "none"}
                deviation = spread.isel({"class": index}).values
                axes.errorbar(step, mean, deviation, errorevery=every, **whiskers)
        axes.set_ylim(0, 1)
    label = f"whisker: ± standard deviation over {networks} networks"
    tick = {"color": "0.3", "marker": "|", "markersize": 12, "linestyle": ""}
    entries = style.drawn_entries(figure.axes[0])
    style.add_legend(figure, entries | ({label: tick} if networks > 1 else {}))
    return figure


def _shares_by_class(
    results: xr.Dataset, orderings: np.ndarray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Accuracy of each class, mean over draws: mean and deviation over networks.

    The mean is NaN past a scope's end, the deviation is NaN for a single network.
    """
    correct = results["correct"].isel(ordering=evenly(orderings))
    axes = ("clamp", "scope", "step", "class")
    correct = correct.transpose("seed", "ordering", *axes)

    def count(piece: xr.Dataset) -> dict[str, np.ndarray]:
        of_network = piece["correct"].values.sum(axis=1, dtype=np.int64)
        sums = of_network.sum(axis=0), (of_network**2).sum(axis=0)
        return {"total": sums[0][None], "squares": sums[1][None]}

    sums = over_seeds(correct.to_dataset(name="correct"), count)
    total, squares = (sums[name].sum(axis=0) for name in ("total", "squares"))
    number = results.sizes["seed"]
    variance = (squares - total**2 / number) / max(number - 1, 1)
    variance = np.where(number > 1, np.maximum(variance, 0), np.nan)
    labels = correct.isel(seed=0, ordering=0, drop=True)
    examples = len(orderings) * results["class_size"]
    mean = labels.copy(data=total / number)
    return mean.where(mean >= 0) / examples, labels.copy(
        data=np.sqrt(variance)
    ) / examples


def _accuracy_panels(
    results: xr.Dataset, title: str, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of accuracy against ablated neurons, by clamp and scope."""
    shared = {"sharex": "col", "sharey": True}
    figure, panels = style.clamp_panels(results, title, scopes, clamps, **shared)
    for (clamp, scope), axes in panels.items():
        style.set_integer_ticks(axes)
        if clamp == clamps[-1]:
            size = scope_size(results, scope)
            axes.set_xlabel(f"neurons ablated (of {size})")
        if scope == scopes[0]:
            axes.set_ylabel(style.ACCURACY)
    return figure, panels


def _scopes_and_clamps(results: xr.Dataset) -> tuple[list[str], list[str]]:
    return drawable.labels_of(results, "scope"), drawable.labels_of(results, "clamp")
