"""Curves of accuracy over ablated neurons, and tables made of them."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ioca_jax.plots import selection, style
from ioca_jax.results.files import in_words, mean_curve, orderings_of


def _accuracy_panels(
    results: xr.Dataset, title: str, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of accuracy over ablated neurons, by clamp and scope."""
    figure, panels = style.make_panels(
        results, title, len(clamps), len(scopes), sharex="col", sharey=True
    )
    by_name = dict(zip(itertools.product(clamps, scopes), panels, strict=True))
    for (clamp, scope), axes in by_name.items():
        name = selection.scope_name(scope)
        heading = f"{name}, clamped to {clamp}" if clamp else name
        axes.set_title(heading, fontsize="medium")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if clamp == clamps[-1]:
            axes.set_xlabel(
                f"neurons ablated (of {selection.scope_size(results, scope)})"
            )
        if scope == scopes[0]:
            axes.set_ylabel("test accuracy (share correct)")
    return figure, by_name


def ablation_curves(
    results: xr.Dataset, measures: Sequence[str] | None = None
) -> Figure:
    """Draws accuracy over the number of ablated neurons, for every order.

    Args:
        results: a run's results.
        measures: whose orders; None takes all.

    Returns:
        A row of panels per clamp, a column per scope; a line per measure and direction,
        its band ± one standard deviation over seeds, and the mean of random orders.

    Raises:
        ValueError: no network that converged.
    """
    kept = selection.converged_only(results)
    scopes, clamps = (
        selection.names_of(kept, "scope"),
        selection.names_of(kept, "clamp"),
    )
    figure, panels = _accuracy_panels(results, "Cumulative ablation", scopes, clamps)
    dashed = {"linestyle": "--", "mfc": "white"}
    styles = {
        (measure, direction): style.look(
            index,
            label=f"{in_words(measure)}, {described}",
            **dashed if direction == "descending" else {},
        )
        for index, measure in enumerate(measures or selection.names_of(kept, "measure"))
        for direction, described in style.DIRECTIONS.items()
    }
    styles["random", "random"] = {
        "label": selection.random_label(kept),
        "color": "black",
        "linestyle": ":",
        "linewidth": 2,
    }
    for (clamp, scope), axes in panels.items():
        curves = [
            (mean_curve(kept, clamp, scope, *which), look)
            for which, look in styles.items()
        ]
        style.draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    style.add_curve_legend(figure, kept)
    return figure


def bias_balancing(results: xr.Dataset, measure: str = "mutual_information") -> Figure:
    """Draws what clamping to the mean saves, as Figure 1 of the paper.

    Args:
        results: a run's results, with both clamps.
        measure: ablated lowest first.

    Returns:
        A panel per layer; the measure's ascending order and the mean of random orders,
        each with neurons clamped to zero and to their mean.

    Raises:
        ValueError: no network that converged, a clamp that the run lacks, or a measure
            that it lacks.
    """
    kept = selection.converged_only(results)
    for given, axis in ((measure, "measure"), ("zero", "clamp"), ("mean", "clamp")):
        selection.check_named(kept, "bias_balancing", axis, given)
    scopes = [
        scope for scope in selection.names_of(kept, "scope") if scope != "network"
    ]
    figure, panels = _accuracy_panels(
        results, "Bias balancing: clamping to the mean rather than zero", scopes, [""]
    )
    orders = {
        (measure, "ascending"): (f"{in_words(measure)}, lowest first", {}),
        ("random", "random"): (
            selection.random_label(kept),
            {"linestyle": ":", "linewidth": 2, "mfc": "white"},
        ),
    }
    for (_, scope), axes in panels.items():
        curves = [
            (
                mean_curve(kept, clamp, scope, *which),
                style.look(index, label=f"{label}, clamped to {clamp}", **given),
            )
            for which, (label, given) in orders.items()
            for index, clamp in enumerate(("zero", "mean"))
        ]
        style.draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    style.add_curve_legend(figure, kept)
    return figure


def difference_curves(results: xr.Dataset, table: pd.DataFrame) -> Figure:
    """Draws how far each order's accuracy is above that of random ones.

    Args:
        results: a run's results.
        table: out of ``claims.difference_curves``.

    Returns:
        A row of panels per clamp, a column per scope; a line per measure and direction,
        its band simultaneous over all steps.
    """
    scopes, clamps = (
        selection.names_of(results, "scope"),
        selection.names_of(results, "clamp"),
    )
    figure, panels = _accuracy_panels(
        results, "Accuracy above that of random orders", scopes, clamps
    )
    dashed = {"linestyle": "--", "mfc": "white"}
    measures = list(dict.fromkeys(table["ranked_by"]))
    for (clamp, scope), axes in panels.items():
        here = table[(table["clamp"] == clamp) & (table["scope"] == scope)]
        lines = list(itertools.product(enumerate(measures), style.DIRECTIONS.items()))
        for place, ((index, measure), (direction, described)) in enumerate(lines):
            chosen = (here["ranked_by"] == measure) & (here["direction"] == direction)
            line = here[chosen]
            look = style.look(index, **dashed if direction == "descending" else {})
            axes.plot(
                line["step"],
                line["mean"],
                label=f"{in_words(measure)}, {described}",
                markevery=style.marker_positions(len(line), place, len(lines)),
                **look,
            )
            axes.fill_between(
                line["step"],
                line["low"],
                line["high"],
                color=look["color"],
                alpha=0.12,
                linewidth=0,
            )
        axes.axhline(0, color="black", linewidth=1, linestyle=":")
        if scope == scopes[0]:
            axes.set_ylabel("accuracy above random")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    handles += [Line2D([], [], color="black", linestyle=":"), Patch(color="0.8")]
    labels += [selection.random_label(results), "band: 95 %, for all steps at once"]
    style.add_legend(figure, handles, labels)
    return figure


def order_effects(results: xr.Dataset, table: pd.DataFrame) -> Figure:
    """Draws by how much each order's area is above that of random ones.

    Args:
        results: a run's results.
        table: out of ``claims.compare_orders``.

    Returns:
        A row of panels per clamp, a column per scope; a line per measure, its mean
        effect and 95 % interval for each direction, filled where the test says so.
    """
    measures = list(dict.fromkeys(table["ranked_by"]))
    scopes, clamps = (
        selection.names_of(results, "scope"),
        selection.names_of(results, "clamp"),
    )
    figure, panels = style.make_panels(
        results,
        "Normalised area above that of random orders",
        len(clamps),
        len(scopes),
        sharex=True,
        sharey=True,
    )
    width = 1.6 + len(scopes) * 2.6
    height = len(clamps) * (0.9 + 0.27 * len(measures)) + 0.6
    figure.set_size_inches(max(width, style.LEAST_WIDTH), height)
    for axes, (clamp, scope) in zip(
        panels, itertools.product(clamps, scopes), strict=True
    ):
        for index, direction in enumerate(style.DIRECTIONS):
            here = table[
                (table["clamp"] == clamp)
                & (table["scope"] == scope)
                & (table["direction"] == direction)
            ].set_index("ranked_by")
            here = here.reindex(measures)
            lines = np.arange(len(measures)) + (-0.17, 0.17)[index]
            look = style.look(index)
            axes.hlines(lines, here["low"], here["high"], color=look["color"])
            is_shown = (here["p_corrected"] <= 0.05).to_numpy()
            for chosen, fill in ((is_shown, look["color"]), (~is_shown, "white")):
                axes.plot(
                    here["effect"].to_numpy()[chosen],
                    lines[chosen],
                    **look | {"linestyle": "", "mfc": fill, "zorder": 3},
                )
        axes.axvline(0, color="black", linewidth=1, linestyle=":")
        axes.set_title(
            f"{selection.scope_name(scope)}, clamped to {clamp}", fontsize="medium"
        )
        axes.set_yticks(np.arange(len(measures)), [in_words(name) for name in measures])
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.tick_params(labelsize="small")
        if clamp == clamps[-1]:
            axes.set_xlabel("area above random", fontsize="small")
    handles = [
        Line2D([], [], **style.look(index, linestyle="-")) for index in range(2)
    ] + [
        Line2D([], [], color="0.3", marker="o", linestyle="", markersize=5, mfc=fill)
        for fill in ("0.3", "white")
    ]
    labels = [
        *style.DIRECTIONS.values(),
        "corrected p at most 0.05",
        "not (line: 95 % interval over networks)",
    ]
    style.add_legend(figure, handles, labels)
    return figure


def published_points(results: xr.Dataset, points: pd.DataFrame) -> Figure:
    """Draws curves with points that were read off somebody's plots.

    Args:
        results: a run's results.
        points: columns ``scope``, ``clamp``, ``ranked_by``, ``direction``, ``step`` and
            ``accuracy``.

    Returns:
        A row of panels per clamp, a column per scope of the points; a line per order,
        mean over networks, its band ± one standard deviation, and the points.

    Raises:
        ValueError: no network that converged.
    """
    kept = selection.converged_only(results)
    scopes = list(dict.fromkeys(points["scope"]))
    clamps = list(dict.fromkeys(points["clamp"]))
    figure, panels = _accuracy_panels(
        results, "Against points read off the published plots", scopes, clamps
    )
    orders = dict.fromkeys(zip(points["ranked_by"], points["direction"], strict=True))
    named = {
        (ranked, towards): selection.random_label(kept)
        if ranked == "random"
        else f"{in_words(ranked)}, {style.DIRECTIONS[towards]}"
        for ranked, towards in orders
    }
    for (clamp, scope), axes in panels.items():
        curves = [
            (
                mean_curve(kept, clamp, scope, *order),
                style.look(
                    index, label=name, marker="", linestyle=("-", "--")[index % 2]
                ),
            )
            for index, (order, name) in enumerate(named.items())
        ]
        style.draw_curves(axes, curves)
        here = points[(points["clamp"] == clamp) & (points["scope"] == scope)]
        for index, (ranked, towards) in enumerate(named):
            chosen = (here["ranked_by"] == ranked) & (here["direction"] == towards)
            look = style.look(index, linestyle="", zorder=3)
            axes.plot(
                here["step"][chosen],
                here["accuracy"][chosen],
                label=f"published, {named[ranked, towards]}".replace(
                    selection.random_label(kept), "random order"
                ),
                **look,
            )
    style.add_curve_legend(figure, kept)
    return figure


def class_curves(
    results: xr.Dataset, ranked_by: str, direction: str = "ascending"
) -> Figure:
    """Draws accuracy by class along the curves of one order.

    Args:
        results: a run's results.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        A row of panels per clamp, a column per scope; a line per class, mean over
        networks and draws.

    Raises:
        ValueError: no network that converged, or an order that the run lacks.
    """
    kept = selection.converged_only(results)
    if ranked_by not in kept["ranked_by"]:
        raise ValueError(
            f"class_curves: expected a run with orders by {ranked_by!r}, got one with "
            f"{', '.join(dict.fromkeys(selection.names_of(kept, 'ranked_by')))}"
        )
    ordered = (
        "in random order"
        if ranked_by == "random"
        else f"{in_words(ranked_by)} {style.DIRECTIONS[direction]}"
    )
    scopes, clamps = (
        selection.names_of(kept, "scope"),
        selection.names_of(kept, "clamp"),
    )
    figure, panels = _accuracy_panels(
        results, f"Accuracy by class, {ordered}", scopes, clamps
    )
    correct = kept["correct"]
    correct = correct.isel(ordering=orderings_of(kept, ranked_by, direction))
    share = correct.where(correct >= 0) / kept["class_size"]
    share = share.mean(("seed", "ordering"))
    lines = kept.sizes["class"]
    for (clamp, scope), axes in panels.items():
        here = share.sel(clamp=clamp, scope=scope).dropna("step", how="all")
        for index, label in enumerate(kept["class"].values):
            axes.plot(
                here["step"],
                here.sel({"class": label}),
                label=f"class {label}",
                markevery=style.marker_positions(here.sizes["step"], index, lines),
                **style.look(index, linestyle=style.DASHES[index // 6 % 3]),
            )
        axes.set_ylim(0, 1)
    style.add_legend(figure, *figure.axes[0].get_legend_handles_labels())
    return figure
