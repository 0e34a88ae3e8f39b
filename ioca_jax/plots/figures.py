"""Results become figures: what a reader looks at before the tables.

Nothing is computed here but means, spreads and counts over networks, random draws,
neurons and groups, and the order in which neurons are drawn: tests and intervals come
as tables out of ``claims``. Every figure is legible without colour: what differs in
colour differs in marker or line style too. Colours are those of M. Okabe and K. Ito,
"Color Universal Design", which people with the common kinds of colour blindness tell
apart.

Figures are drawn without pyplot and without touching matplotlib's global settings, so
they can be drawn in any thread and without a screen.
"""

import itertools
import json
import os
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    ScalarFormatter,
    SymmetricalLogLocator,
)
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ioca_jax.results.files import (
    converged,
    dataset_in_words,
    in_words,
    mean_curve,
    neurons_of,
    orderings_of,
    write_whole,
)

# Okabe and Ito's, without black (kept for random orders) and yellow (too pale). The
# first two, which most figures need, are dark and light in print without colour.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
# One more than the colours, so that pairs repeat only after the 42nd.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Where there are more lines than colours.
_DASHES = ("-", "--", "-.")
_DIRECTIONS = {"ascending": "lowest first", "descending": "highest first"}
_UNITS = {"bit": "bits", "nat": "nats", "1": "no unit"}
# More lines or panels than these make than a reader can tell apart.
_MEASURES_IN_A_FIGURE = 5
_PANEL = (3.3, 2.7)  # inches
_LEAST_WIDTH = 6.0  # inches, for titles and legends
_PANELS_IN_A_ROW = 4
_DOTS_PER_INCH = 150
_METADATA = {"png": {}, "pdf": {"CreationDate": None}}
# Beyond this a PDF holds the points of a panel as an image, or viewers choke on it.
_POINTS_AS_VECTORS = 5000
# Beyond this points of pairs hide each other, and are counted in so many bins an axis.
_POINTS_APART = 1000
_BINS = 60
# Purple is redundancy and orange synergy, alone as in the diverging map.
_MAPS = {"diverging": "PuOr", "redundancy": "Purples", "synergy": "Oranges"}
_CO_INFORMATION = "co_information_miller_madow"
_SIGN = "above 0: redundancy, below: synergy"
_LAYER_ENTROPY = "H of the quantised layer,\nplug-in (bits)"
_FIRST_EPOCH = 0.4  # the width of the first epoch, in decades
_UNKNOWN = "0.75"
_SHADE = "0.92"
_NULL: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 0.8}
_CEILING: dict[str, Any] = {"color": "0.2", "linestyle": (0, (6, 3)), "linewidth": 1}
_NEITHER: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.5}
_PAIRS = {"pair_value", "pair_effect_loss"}
_ALONG_ORDERS = {"joint_information_miller_madow", "joint_information_null"}
_GROUPS = {"redundancy_index"}
_TRAJECTORIES = {
    "trajectory_score",
    "trajectory_accuracy",
    "layer_entropy",
    "layer_information",
    "layer_information_decoded",
    "layer_redundancy_index",
}


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
    kept = _kept(results)
    scopes, clamps = _names(kept, "scope"), _names(kept, "clamp")
    figure, panels = _accuracy_panels(results, "Cumulative ablation", scopes, clamps)
    dashed = {"linestyle": "--", "mfc": "white"}
    styles = {
        (measure, direction): _look(
            index,
            label=f"{in_words(measure)}, {described}",
            **dashed if direction == "descending" else {},
        )
        for index, measure in enumerate(measures or _names(kept, "measure"))
        for direction, described in _DIRECTIONS.items()
    }
    styles["random", "random"] = {
        "label": _random_label(kept),
        "color": "black",
        "linestyle": ":",
        "linewidth": 2,
    }
    for (clamp, scope), axes in panels.items():
        curves = [
            (mean_curve(kept, clamp, scope, *which), style)
            for which, style in styles.items()
        ]
        _draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    _curve_legend(figure, kept)
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
    kept = _kept(results)
    for given, axis in ((measure, "measure"), ("zero", "clamp"), ("mean", "clamp")):
        _check_named(kept, "bias_balancing", axis, given)
    scopes = [scope for scope in _names(kept, "scope") if scope != "network"]
    figure, panels = _accuracy_panels(
        results, "Bias balancing: clamping to the mean rather than zero", scopes, [""]
    )
    orders = {
        (measure, "ascending"): (f"{in_words(measure)}, lowest first", {}),
        ("random", "random"): (
            _random_label(kept),
            {"linestyle": ":", "linewidth": 2, "mfc": "white"},
        ),
    }
    for (_, scope), axes in panels.items():
        curves = [
            (
                mean_curve(kept, clamp, scope, *which),
                _look(index, label=f"{label}, clamped to {clamp}", **style),
            )
            for which, (label, style) in orders.items()
            for index, clamp in enumerate(("zero", "mean"))
        ]
        _draw_curves(axes, curves)
        axes.set_ylim(bottom=0)
    _curve_legend(figure, kept)
    return figure


def measure_distributions(results: xr.Dataset) -> Figure:
    """Draws how each measure is distributed in each layer.

    Args:
        results: a run's results.

    Returns:
        A panel per measure; a violin per layer with its median, and every neuron of
        every network as a point.

    Raises:
        ValueError: no network that converged.
    """
    kept = _kept(results)
    measures, layers = _names(kept, "measure"), _layers(kept)
    figure, panels = _panels(
        results,
        "Distribution of each measure over the neurons of each layer",
        -(-len(measures) // _PANELS_IN_A_ROW),
        min(len(measures), _PANELS_IN_A_ROW),
        len(measures),
    )
    for axes, measure in zip(panels, measures, strict=True):
        for index, layer in enumerate(layers):
            scores = _scores(kept, measure, layer)
            _draw_distribution(axes, layer, scores, _look(index))
        axes.set_xlabel("hidden layer (counted from the input)")
        axes.set_xticks(layers)
        axes.set_ylabel(_measure_label(kept, measure))
    _distribution_legend(figure, "neuron", "one neuron of one network")
    return figure


def measure_scatter(results: xr.Dataset) -> Figure:
    """Draws every measure against every other, neuron by neuron.

    Args:
        results: a run's results, with two measures or more; of many, the first five.

    Returns:
        A panel per pair of measures; a point per neuron of every network, its colour
        and marker by layer.

    Raises:
        ValueError: no network that converged, or fewer than two measures.
    """
    kept = _kept(results)
    names = _names(kept, "measure")[:_MEASURES_IN_A_FIGURE]
    pairs = list(itertools.combinations(names, 2))
    if not pairs:
        raise ValueError(
            "measure_scatter: expected a run with two measures or more, got one with "
            f"{', '.join(_names(kept, 'measure'))}"
        )
    figure, panels = _panels(
        results,
        "Measures against each other, a point per neuron of each network",
        -(-len(pairs) // _PANELS_IN_A_ROW),
        min(len(pairs), _PANELS_IN_A_ROW),
        len(pairs),
    )
    for axes, pair in zip(panels, pairs, strict=True):
        for index, layer in enumerate(_layers(kept)):
            x, y = (_scores(kept, measure, layer) for measure in pair)
            _draw_points(axes, x, y, _look(index), size=12.0, label=f"layer {layer}")
        axes.set_xlabel(_measure_label(kept, pair[0]))
        axes.set_ylabel(_measure_label(kept, pair[1]))
    _legend(figure, *panels[0].get_legend_handles_labels())
    return figure


def single_effects(results: xr.Dataset, clamp: str | None = None) -> Figure:
    """Draws each measure against what ablating single neurons does to the test loss.

    Args:
        results: a run's results.
        clamp: of the ablated neurons; None takes the run's last.

    Returns:
        A panel per measure; a point per neuron of every network, its colour and marker
        by layer.

    Raises:
        ValueError: no network that converged.
    """
    kept = _kept(results)
    clamp = _chosen_clamp(kept, "single_effects", clamp)
    measures = _names(kept, "measure")
    figure, panels = _panels(
        results,
        f"Loss that ablating one neuron costs, clamped to {clamp}, a point per neuron "
        "of each network",
        -(-len(measures) // _PANELS_IN_A_ROW),
        min(len(measures), _PANELS_IN_A_ROW),
        len(measures),
    )
    intact = kept["loss"].isel(scope=0, ordering=0, step=0).sel(clamp=clamp)
    rise = kept["single_loss"].sel(clamp=clamp) - intact
    threshold = _linear_range(rise.values)
    for axes, measure in zip(panels, measures, strict=True):
        for index, layer in enumerate(_layers(kept)):
            of_layer = neurons_of(kept, layer)
            costs = rise.isel(neuron=of_layer).transpose("seed", "neuron")
            _draw_points(
                axes,
                _scores(kept, measure, layer),
                costs.values.ravel(),
                _look(index),
                size=9.0,
                label=f"layer {layer}",
            )
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_xlabel(_measure_label(kept, measure))
        axes.set_ylabel("rise of test loss (nats)")
    _legend(figure, *panels[0].get_legend_handles_labels())
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
    scopes, clamps = _names(results, "scope"), _names(results, "clamp")
    figure, panels = _accuracy_panels(
        results, "Accuracy above that of random orders", scopes, clamps
    )
    dashed = {"linestyle": "--", "mfc": "white"}
    measures = list(dict.fromkeys(table["ranked_by"]))
    for (clamp, scope), axes in panels.items():
        here = table[(table["clamp"] == clamp) & (table["scope"] == scope)]
        lines = list(itertools.product(enumerate(measures), _DIRECTIONS.items()))
        for place, ((index, measure), (direction, described)) in enumerate(lines):
            chosen = (here["ranked_by"] == measure) & (here["direction"] == direction)
            line = here[chosen]
            look = _look(index, **dashed if direction == "descending" else {})
            axes.plot(
                line["step"],
                line["mean"],
                label=f"{in_words(measure)}, {described}",
                markevery=_every(len(line), place, len(lines)),
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
    labels += [_random_label(results), "band: 95 %, for all steps at once"]
    _legend(figure, handles, labels)
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
    scopes, clamps = _names(results, "scope"), _names(results, "clamp")
    figure, panels = _panels(
        results,
        "Normalised area above that of random orders",
        len(clamps),
        len(scopes),
        sharex=True,
        sharey=True,
    )
    width = 1.6 + len(scopes) * 2.6
    height = len(clamps) * (0.9 + 0.27 * len(measures)) + 0.6
    figure.set_size_inches(max(width, _LEAST_WIDTH), height)
    for axes, (clamp, scope) in zip(
        panels, itertools.product(clamps, scopes), strict=True
    ):
        for index, direction in enumerate(_DIRECTIONS):
            here = table[
                (table["clamp"] == clamp)
                & (table["scope"] == scope)
                & (table["direction"] == direction)
            ].set_index("ranked_by")
            here = here.reindex(measures)
            lines = np.arange(len(measures)) + (-0.17, 0.17)[index]
            look = _look(index)
            axes.hlines(lines, here["low"], here["high"], color=look["color"])
            is_shown = (here["p_corrected"] <= 0.05).to_numpy()
            for chosen, fill in ((is_shown, look["color"]), (~is_shown, "white")):
                axes.plot(
                    here["effect"].to_numpy()[chosen],
                    lines[chosen],
                    **look | {"linestyle": "", "mfc": fill, "zorder": 3},
                )
        axes.axvline(0, color="black", linewidth=1, linestyle=":")
        axes.set_title(f"{_scope_name(scope)}, clamped to {clamp}", fontsize="medium")
        axes.set_yticks(np.arange(len(measures)), [in_words(name) for name in measures])
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.tick_params(labelsize="small")
        if clamp == clamps[-1]:
            axes.set_xlabel("area above random", fontsize="small")
    handles = [Line2D([], [], **_look(index, linestyle="-")) for index in range(2)] + [
        Line2D([], [], color="0.3", marker="o", linestyle="", markersize=5, mfc=fill)
        for fill in ("0.3", "white")
    ]
    labels = [
        *_DIRECTIONS.values(),
        "corrected p at most 0.05",
        "not (line: 95 % interval over networks)",
    ]
    _legend(figure, handles, labels)
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
    kept = _kept(results)
    scopes = list(dict.fromkeys(points["scope"]))
    clamps = list(dict.fromkeys(points["clamp"]))
    figure, panels = _accuracy_panels(
        results, "Against points read off the published plots", scopes, clamps
    )
    orders = dict.fromkeys(zip(points["ranked_by"], points["direction"], strict=True))
    named = {
        (ranked, towards): _random_label(kept)
        if ranked == "random"
        else f"{in_words(ranked)}, {_DIRECTIONS[towards]}"
        for ranked, towards in orders
    }
    for (clamp, scope), axes in panels.items():
        curves = [
            (
                mean_curve(kept, clamp, scope, *order),
                _look(index, label=name, marker="", linestyle=("-", "--")[index % 2]),
            )
            for index, (order, name) in enumerate(named.items())
        ]
        _draw_curves(axes, curves)
        here = points[(points["clamp"] == clamp) & (points["scope"] == scope)]
        for index, (ranked, towards) in enumerate(named):
            chosen = (here["ranked_by"] == ranked) & (here["direction"] == towards)
            look = _look(index, linestyle="", zorder=3)
            axes.plot(
                here["step"][chosen],
                here["accuracy"][chosen],
                label=f"published, {named[ranked, towards]}".replace(
                    _random_label(kept), "random order"
                ),
                **look,
            )
    _curve_legend(figure, kept)
    return figure


def claims_overview(
    table: pd.DataFrame, claims: Mapping[str, tuple[str, str]]
) -> Figure:
    """Draws every comparison that claims rest on, of many settings.

    Args:
        table: rows of ``claims.judge_claims`` with a column ``setting``.
        claims: by name, what is claimed, and what the effect is; in that order.

    Returns:
        A panel per claim, a line per setting; a mark per comparison at its effect,
        filled where the claim holds or fails.
    """
    settings = list(dict.fromkeys(table["setting"]))
    columns = min(len(claims), 3)
    rows = -(-len(claims) // columns)
    figure = Figure(
        figsize=(2.4 + 3.0 * columns, 0.8 + rows * (1.1 + 0.16 * len(settings))),
        layout="constrained",
    )
    figure.suptitle(
        "What holds of the claims: a mark per comparison (scope, clamp, measure), mean "
        "over networks",
        fontsize="medium",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    looks = {
        "holds": {"color": _COLOURS[0], "marker": "o"},
        "fails": {"color": _COLOURS[3], "marker": "X"},
        "undecided": {"color": "0.5", "marker": "o", "mfc": "none"},
    }
    handles = []
    for axes, (claim, (text, effect)) in zip(panels, claims.items(), strict=False):
        here = table[table["claim"] == claim]
        handles.clear()
        for verdict, look in looks.items():
            chosen = here[here["verdict"] == verdict]
            lines = [settings.index(name) for name in chosen["setting"]]
            style = {"linestyle": "", "markersize": 5, **look}
            handles += axes.plot(chosen["effect"], lines, **style)
        axes.axvline(0, color="black", linewidth=1, linestyle=":")
        axes.set_title(textwrap.fill(f"{claim}: {text}", 44), fontsize="small")
        axes.set_xlabel(effect, fontsize="x-small")
        axes.set_yticks(np.arange(len(settings)), settings, parse_math=False)
        axes.set_ylim(len(settings) - 0.5, -0.5)
        axes.tick_params(labelsize="x-small")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[len(claims) :]:
        axes.remove()
    _legend(figure, handles, list(looks))
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
    kept = _kept(results)
    if ranked_by not in kept["ranked_by"]:
        raise ValueError(
            f"class_curves: expected a run with orders by {ranked_by!r}, got one with "
            f"{', '.join(dict.fromkeys(_names(kept, 'ranked_by')))}"
        )
    ordered = (
        "in random order"
        if ranked_by == "random"
        else f"{in_words(ranked_by)} {_DIRECTIONS[direction]}"
    )
    scopes, clamps = _names(kept, "scope"), _names(kept, "clamp")
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
                markevery=_every(here.sizes["step"], index, lines),
                **_look(index, linestyle=_DASHES[index // 6 % 3]),
            )
        axes.set_ylim(0, 1)
    _legend(figure, *figure.axes[0].get_legend_handles_labels())
    return figure


def class_costs(results: xr.Dataset, measure: str, clamp: str | None = None) -> Figure:
    """Draws which classes the ablation of each neuron alone costs, in one network.

    Args:
        results: a run's results.
        measure: by which a layer's neurons are arranged, lowest first.
        clamp: of the ablated neuron; None takes the run's first.

    Returns:
        A panel per layer: neurons by classes, the change of the class's accuracy in
        points of percent, of the first network that converged.

    Raises:
        ValueError: no network that converged, or a measure that the run lacks.
    """
    kept = _kept(results)
    if measure not in _names(kept, "measure"):
        raise ValueError(
            f"class_costs: expected a run with the measure {measure!r}, got one with "
            f"{', '.join(_names(kept, 'measure'))}"
        )
    clamp = clamp or _names(kept, "clamp")[0]
    one = kept.isel(seed=0)
    intact = one["correct"].isel(scope=0, ordering=0, step=0).sel(clamp=clamp)
    change = (one["single_correct"].sel(clamp=clamp) - intact) / one["class_size"]
    points = 100 * change.transpose("class", "neuron")
    layers = _layers(kept)
    figure, panels = _panels(
        results,
        f"Accuracy that ablating one neuron costs each class, clamped to {clamp}, "
        f"network of seed {int(one['seed'])}",
        len(layers),
        1,
    )
    limit = _limit_of_most(points.values)
    for axes, layer in zip(panels, layers, strict=True):
        of_layer = neurons_of(one, layer)
        scores = one["score"].sel(measure=measure).values[of_layer]
        arranged = points.isel(neuron=of_layer[np.argsort(scores, kind="stable")])
        _draw_image(
            axes,
            arranged.values,
            "diverging",
            "points of accuracy",
            limit=limit,
            aspect="auto",
        )
        axes.set_title(f"layer {layer}", fontsize="medium")
        axes.set_ylabel("class")
        axes.set_yticks(np.arange(points.sizes["class"]), points["class"].values)
        axes.tick_params(axis="y", labelsize="x-small")
        axes.set_xlabel(f"neurons of the layer, lowest {in_words(measure)} first")
    return figure


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
    _check_held(results, "pair_matrices", _PAIRS, "interactions")
    kept = _kept(results)
    clamp = _chosen_clamp(kept, "pair_matrices", clamp)
    if arranged_by != "clustered":
        _check_named(kept, "pair_matrices", "measure", arranged_by)
    one = kept.isel(seed=0)
    ordered = (
        "clustered"
        if arranged_by == "clustered"
        else f"lowest {in_words(arranged_by)} first"
    )
    figure, panels = _panels(
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
        _draw_image(
            axes,
            values,
            colours,
            f"{unit} ({_SIGN})" if colours == "diverging" else unit,
            limit=_limit_of_most(values),
            aspect="equal",
        )
        axes.set_title(title, fontsize="medium")
        for end in np.flatnonzero(np.diff(of_place)) + 0.5:
            axes.axvline(end, color="black", linewidth=0.8)
            axes.axhline(end, color="black", linewidth=0.8)
        centres = [places[of_place == layer].mean() for layer in _layers(kept)]
        labels = [f"layer {layer}" for layer in _layers(kept)]
        axes.set_xticks(centres, labels)
        axes.set_yticks(centres, labels, rotation=90, va="center")
        axes.tick_params(length=0, labelsize="small")
    _legend(
        figure,
        [Patch(color=_UNKNOWN)],
        ["not a pair, or not known (effects: pairs of a layer only)"],
    )
    return figure


def _arranged(network: xr.Dataset, arranged_by: str) -> np.ndarray:
    """The neurons layer by layer, in each by a measure or by likeness."""
    parts = []
    for layer in _layers(network):
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
    _check_held(results, "pair_agreement", _PAIRS, "interactions")
    kept = _kept(results)
    clamp = _chosen_clamp(kept, "pair_agreement", clamp)
    layers = _layers(kept)
    title = (
        "Information against intervention: what pairs of neurons of a layer share, and "
        f"what ablating both costs beyond each, clamped to {clamp}"
    )
    if table is not None:
        title += (
            "; rank correlation: mean over networks, its 95 % interval, corrected p"
        )
    figure, panels = _panels(
        results,
        title,
        -(-len(layers) // _PANELS_IN_A_ROW),
        min(len(layers), _PANELS_IN_A_ROW),
        len(layers),
        size=(4.2, 3.2),
    )
    shared = kept["pair_value"].sel(pair_measure=_CO_INFORMATION)
    effect = kept["pair_effect_loss"].sel(clamp=clamp)
    threshold = _linear_range(effect.values)
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
            _draw_points(axes, x, y, _look(index), size=7.0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_title(
            _agreement_title(table, layer, clamp, f"layer {layer}"), fontsize="medium"
        )
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("co-information, Miller-Madow (bits)")
        axes.set_ylabel("pair effect in test loss (nats)")
        _write_in_corner(axes, "redundant in both", "top", "right")
        _write_in_corner(axes, "synergistic in both", "bottom", "left")
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


def joint_information_curves(
    results: xr.Dataset,
    measure: str = "mutual_information",
    clamp: str | None = None,
) -> Figure:
    """Draws what neurons say of the class together, along orders of ablation.

    Args:
        results: a run's results, with interactions.
        measure: whose orders are drawn beside the random ones.
        clamp: of the ablated neurons; None takes the run's last.

    Returns:
        A column per scope: above, the joint information of the neurons ablated so far
        and of those left, with what permuted labels give; below, accuracy. Bands are ±
        one standard deviation over networks. Where examples are too few for any
        estimate panels are shaded and, if that is wide, their scale is compressed.

    Raises:
        ValueError: no network that converged, a run without interactions, or a measure
            or clamp that it lacks.
    """
    _check_held(results, "joint_information_curves", _ALONG_ORDERS, "interactions")
    kept = _kept(results)
    clamp = _chosen_clamp(kept, "joint_information_curves", clamp)
    _check_named(kept, "joint_information_curves", "measure", measure)
    scopes = _names(kept, "scope")
    figure, panels = _panels(
        results,
        "Joint information with the class along orders of ablation, and accuracy with "
        f"neurons clamped to {clamp}",
        2,
        len(scopes),
        sharex="col",
        sharey="row",
    )
    random = {"color": "black", "marker": "^", "linestyle": ":", "markersize": 4}
    orders = {
        (measure, "ascending"): (f"{in_words(measure)}, lowest first", _look(0)),
        (measure, "descending"): (
            f"{in_words(measure)}, highest first",
            _look(1, linestyle="--"),
        ),
        ("random", "random"): (_random_label(kept), random),
    }
    if "random" not in kept["ranked_by"]:
        del orders["random", "random"]
    grid = np.reshape(np.asarray(panels, object), (2, len(scopes)))
    shaded = False
    for (above, below), scope in zip(grid.T, scopes, strict=True):
        size = _scope_size(kept, scope)
        estimated = np.zeros(size + 1, bool)
        curves = []
        for order, (_, look) in orders.items():
            for side, fill in (("ablated", {}), ("left", {"mfc": "white"})):
                curve, null = (
                    _joint_curve(kept, name, side, scope, *order)
                    for name in (
                        "joint_information_miller_madow",
                        "joint_information_null",
                    )
                )
                estimated[curve["step"].values] = True
                curves.append((curve, look | fill))
                above.plot(null["step"], null.mean("seed"), **_NULL)
        _draw_curves(above, curves)
        _draw_curves(
            below,
            [
                (mean_curve(kept, clamp, scope, *order), look)
                for order, (_, look) in orders.items()
            ],
        )
        below.set_ylim(bottom=0)
        below.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        shaded |= not estimated.all()
        _mark_unknown(above, below, estimated)
        above.set_title(_scope_name(scope), fontsize="medium")
        below.set_xlabel(f"neurons ablated (of {size})")
    grid[0, 0].set_ylabel("joint information with\nthe class, Miller-Madow (bits)")
    grid[1, 0].set_ylabel("test accuracy (share correct)")
    handles: list[Artist] = [Line2D([], [], **look) for _, look in orders.values()]
    labels = [label for label, _ in orders.values()]
    side = {"linestyle": "", "color": "0.3", "marker": "o", "markersize": 5}
    handles += [
        Line2D([], [], **side),
        Line2D([], [], **side, mfc="white"),
        Line2D([], [], **_NULL),
    ]
    labels += [
        "above: neurons ablated so far",
        "above: neurons left",
        "labels permuted, plug-in, mean",
    ]
    if shaded:
        handles.append(Patch(color=_SHADE))
        labels.append("too few examples for an estimate; compressed where wide")
    if kept.sizes["seed"] > 1:
        handles.append(Patch(color="0.8"))
        labels.append("band: ± standard deviation over networks")
    _legend(figure, handles, labels)
    return figure


def _joint_curve(
    results: xr.Dataset,
    name: str,
    side: str,
    scope: str,
    ranked_by: str,
    direction: str,
) -> xr.DataArray:
    """[seed, step], mean over draws, where every network and draw has an estimate."""
    curves = results[name].sel(side=side, scope=scope)
    curves = curves.isel(ordering=orderings_of(results, ranked_by, direction))
    curves = curves.dropna("step", how="any")
    return curves.mean("ordering").transpose("seed", "step")


def _mark_unknown(above: Axes, below: Axes, estimated: np.ndarray) -> None:
    """Shades where no order has an estimate, and gives that little room."""
    unknown = np.flatnonzero(~estimated)
    size = len(estimated) - 1
    if not unknown.size:
        return
    start, end = unknown[0] - 0.5, unknown[-1] + 0.5
    for axes in (above, below):
        axes.axvspan(start, end, color=_SHADE, linewidth=0, zorder=0)
    known = size + 1 - (end - start)
    if end - start > known / 6:  # else there is no room for words
        above.text(
            (max(start, 0) + min(end, size)) / 2,
            0.5,
            "too few\nexamples",
            transform=above.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="center",
            fontsize="small",
            color="0.3",
        )
    if 0 < known < end - start:
        true = [start - size, start, end, end + size]
        shown = [start - size, start, start + known / 3, start + known / 3 + size]
        scales = (partial(np.interp, xp=true, fp=shown),)
        scales += (partial(np.interp, xp=shown, fp=true),)
        above.set_xscale("function", functions=scales)
        locate = MaxNLocator(2, integer=True, min_n_ticks=1)
        ticks = [
            tick
            for low, high in ((0, start), (end, size))
            if low < high
            for tick in locate.tick_values(low, high)
            if low <= tick <= high
        ]
        below.set_xticks(ticks)
        margin = known / 20
        below.set_xlim(-margin, size + margin)


def redundancy_indices(results: xr.Dataset) -> Figure:
    """Draws how the redundancy index of random groups is distributed.

    Args:
        results: a run's results, with interactions.

    Returns:
        A panel per scope; a violin of the groups of all networks per group size, with
        its median, and the median of every network as a point. Few groups lie far away:
        the scale is that of the others, and says how many it leaves out.

    Raises:
        ValueError: no network that converged, or a run without interactions.
    """
    _check_held(results, "redundancy_indices", _GROUPS, "interactions")
    kept = _kept(results)
    scopes, sizes = _names(kept, "scope"), kept["group_size"].values
    figure, panels = _panels(
        results,
        "Redundancy index of groups of neurons drawn at random: the neurons' "
        "information with the class, summed, over their joint one",
        1,
        len(scopes),
        sharey=True,
    )
    index = kept["redundancy_index"]
    known = index.values[np.isfinite(index.values)]
    low, high = np.quantile(np.append(known, 1.0), (0.002, 0.998))
    margin = 0.08 * (high - low) or 0.5
    low, high = min(low, 1.0) - margin, max(high, 1.0) + margin
    for number, (axes, scope) in enumerate(zip(panels, scopes, strict=True)):
        outside = 0
        for place, size in enumerate(sizes):
            here = index.sel(scope=scope, group_size=size)
            values = here.values[np.isfinite(here.values)].astype(np.float64)
            outside += int(((values < low) | (values > high)).sum())
            if values.size:
                of_networks = here.median("group").dropna("seed").values
                # Clipped, its median is the same, and its density that of most.
                values = np.clip(values, low, high)
                _draw_distribution(axes, place, values, _look(number), of_networks)
        axes.axhline(1, **_NEITHER)
        axes.set_title(_scope_name(scope), fontsize="medium")
        axes.set_xticks(np.arange(len(sizes)), sizes)
        axes.set_xlabel("neurons in a group")
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        if outside:
            _write_in_corner(axes, f"{outside} outside the scale", "top", "right")
    panels[0].set_ylim(low, high)
    panels[0].set_ylabel("redundancy index (no unit)")
    meaning = {f"1 ({_SIGN.replace('0', '1')})": _NEITHER}
    _distribution_legend(figure, "group", "median of one network's groups", meaning)
    return figure


def trajectories(results: xr.Dataset) -> Figure:
    """Draws neurons, layers and groups through training.

    Args:
        results: a run's results, with trajectory epochs.

    Returns:
        A panel per measure of information, of a layer's entropy, of its information
        with the class, of the redundancy index, and of the error; a line per layer.

    Raises:
        ValueError: no network that converged, or a run without trajectory epochs.
    """
    _check_held(results, "trajectories", _TRAJECTORIES, "trajectory epochs")
    held = [*_TRAJECTORIES, "train_accuracy"]
    kept = _kept(results)[held].rename(trajectory_epoch="step")
    scores = kept["trajectory_score"]
    measures = [
        name
        for name in _names(kept, "measure")
        if np.isfinite(scores.sel(measure=name).values).any()
    ]
    count = len(measures) + 4
    columns = min(-(-count // 2), _PANELS_IN_A_ROW)
    figure, panels = _panels(
        results, "Through training", -(-count // columns), columns, count
    )
    layers = _layers(kept)
    looks = {layer: _look(index) for index, layer in enumerate(layers)}
    for axes, measure in zip(panels, measures, strict=False):
        axes.set_title("neurons: median, middle half", fontsize="small")
        axes.set_ylabel(_measure_label(kept, measure))
        for layer, look in looks.items():
            of_layer = scores.isel(neuron=neurons_of(kept, layer))
            _draw_middle_half(axes, of_layer.sel(measure=measure), "neuron", look)
    entropy, information, index, error = panels[len(measures) :]
    spread = ": mean ± standard deviation" if kept.sizes["seed"] > 1 else ""
    entropy.set_title(f"layers{spread}", fontsize="small")
    information.set_title(f"layers{spread}", fontsize="small")
    error.set_title(f"networks{spread}", fontsize="small")
    size = int(kept.attrs["trajectory_group_size"])
    index.set_title(
        f"groups of {size}: median, middle half"
        if size
        else "groups: too few examples for any",
        fontsize="small",
    )
    entropy.set_ylabel(_LAYER_ENTROPY)
    index.set_ylabel("redundancy index\n(above 1: redundancy)")
    error.set_ylabel("error (share wrong)")
    counted = False
    for layer, look in looks.items():
        of_layer = kept.sel(hidden_layer=layer)
        _draw_curves(entropy, [(of_layer["layer_entropy"], look)])
        decoded = of_layer["layer_information_decoded"]
        estimate = of_layer["layer_information"].dropna("step")
        counted |= estimate.size > 0
        dashed = look | {"linestyle": "--", "mfc": "white"}
        _draw_curves(information, [(decoded, look), (estimate, dashed)])
        groups = of_layer["layer_redundancy_index"]
        _draw_middle_half(index, groups, "group", look)
    information.set_ylabel(
        "I(layer;Y) (bits)" if counted else "I(layer;Y), at least,\nby a decoder (bits)"
    )
    entropy.axhline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    index.axhline(1, **_NEITHER)
    training = (1 - kept["train_accuracy"]).rename(epoch="step")
    testing = 1 - kept["trajectory_accuracy"]
    curves = {
        "test error": (testing, {"color": "black", "marker": "o", "markersize": 4}),
        "training error, mean over the epoch": (
            training,
            _look(1, color="0.5", linestyle="--", markersize=4, mfc="white"),
        ),
    }
    _draw_curves(error, [(curve, look) for curve, look in curves.values()])
    error.set_ylim(bottom=0)
    last = max(*kept["step"].values.tolist(), *kept["epoch"].values.tolist())
    for axes in panels:
        _mark_epochs(axes, last)
    for axes in panels[-columns:]:
        axes.set_xlabel("epochs of training (0: before)")
    handles = [Line2D([], [], **look) for look in looks.values()]
    labels = [f"layer {layer}" for layer in layers]
    if counted:
        handles += [
            Line2D([], [], color="0.3", marker="o", markersize=5),
            Line2D([], [], color="0.3", marker="o", linestyle="--", mfc="white"),
        ]
        labels += ["information, at least (decoder)", "information, Miller-Madow"]
    handles += [Line2D([], [], **look) for _, look in curves.values()]
    labels += list(curves)
    handles.append(Line2D([], [], **_CEILING))
    labels.append(_ceiling_label(kept))
    _legend(figure, handles, labels)
    return figure


def _draw_middle_half(
    axes: Axes, values: xr.DataArray, dim: str, look: dict[str, Any]
) -> None:
    """Median of a layer's things, and the quarters beside it, mean over networks."""
    things = values.transpose(dim, "seed", "step")
    table = pd.DataFrame(things.values.reshape(len(things), -1))
    # pandas takes it that a network may have none that is known.
    cut = table.quantile([0.25, 0.5, 0.75]).to_numpy().reshape(3, *things.shape[1:])
    cut = xr.DataArray(cut, dims=("cut", "seed", "step")).mean("seed").values
    axes.plot(values["step"], cut[1], **look)
    axes.fill_between(
        values["step"],
        cut[0],
        cut[2],
        color=look["color"],
        alpha=0.15,
        linewidth=0,
    )


def _mark_epochs(axes: Axes, last: int) -> None:
    """A scale of epochs that shows the first ones, and begins before training."""
    axes.set_xscale("symlog", linthresh=1, linscale=_FIRST_EPOCH)
    axes.xaxis.set_major_locator(
        SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5))
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.2, 1.2 * max(last, 1))


def _ceiling_label(results: xr.Dataset) -> str:
    return f"most that {results.attrs['num_validation']:,} examples can show"


def information_plane(results: xr.Dataset) -> Figure:
    """Draws how layers move through the information plane in training.

    Args:
        results: a run's results, with trajectory epochs.

    Returns:
        A panel: the entropy of a layer's quantised outputs, and at least what they say
        of the class; a line per layer through its epochs, mean over networks, and a
        small point per network. Epochs are coloured; the first and the last have their
        numbers.

    Raises:
        ValueError: no network that converged, or a run without trajectory epochs.
    """
    _check_held(results, "information_plane", _TRAJECTORIES, "trajectory epochs")
    kept = _kept(results)
    epochs = kept["trajectory_epoch"].values
    figure, (axes,) = _panels(
        results,
        "Layers in the information plane, through training",
        1,
        1,
        size=(6.6, 4.4),
    )
    colours: dict[str, Any] = {
        "cmap": "viridis",
        "norm": SymLogNorm(1, _FIRST_EPOCH, vmin=0, vmax=max(1, epochs.max())),
    }
    points = None
    for index, layer in enumerate(_layers(kept)):
        look = _look(index)
        x, y = (
            kept[name].sel(hidden_layer=layer).transpose("seed", "trajectory_epoch")
            for name in ("layer_entropy", "layer_information_decoded")
        )
        every = np.tile(epochs, kept.sizes["seed"])
        marker = look["marker"]
        if kept.sizes["seed"] > 1:
            axes.scatter(
                x.values.ravel(),
                y.values.ravel(),
                s=14,
                c=every,
                marker=marker,
                alpha=0.5,
                linewidths=0,
                **colours,
            )
        x, y = x.mean("seed").values, y.mean("seed").values
        axes.plot(x, y, color=look["color"], linestyle=_DASHES[index % 3])
        points = axes.scatter(
            x,
            y,
            s=45,
            c=epochs,
            marker=marker,
            edgecolors=look["color"],
            linewidths=1.5,
            zorder=3,
            **colours,
        )
        for place in {0, len(epochs) - 1}:
            axes.annotate(
                f"epoch {epochs[place]}",
                (x[place], y[place]),
                (5, -10),
                textcoords="offset points",
                fontsize="x-small",
                zorder=4,
            )
    axes.axvline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    axes.set_xlabel("H of the quantised layer, plug-in (bits)")
    axes.set_ylabel("I(layer;Y), at least, by a decoder (bits)")
    assert points is not None
    bar = figure.colorbar(points, ax=axes)
    bar.set_label("epochs of training (0: before)", fontsize="small")
    bar.set_ticks(epochs.tolist(), labels=[str(epoch) for epoch in epochs])
    handles = [
        Line2D([], [], **_look(index, linestyle=_DASHES[index % 3], mfc="white"))
        for index in range(len(_layers(kept)))
    ]
    labels = [f"layer {layer}" for layer in _layers(kept)]
    if kept.sizes["seed"] > 1:
        labels = [f"{label}, mean" for label in labels]
        small = {"marker": "o", "markersize": 2.5, "linestyle": ""}
        handles.append(Line2D([], [], color="0.3", **small))
        labels.append("small: one network")
    _legend(
        figure,
        [*handles, Line2D([], [], **_CEILING)],
        [*labels, _ceiling_label(kept)],
    )
    return figure


def training_history(results: xr.Dataset) -> Figure:
    """Draws loss and accuracy over the epochs of training.

    Args:
        results: a run's results. Diverged networks are drawn if there are no others,
            as far as their figures are finite.

    Returns:
        A panel of loss and one of accuracy; for training and validation a thin line per
        network and a thick one for their mean.
    """
    kept = converged(results)
    kept = kept if kept.sizes["seed"] else results
    figure, panels = _panels(results, "Training history", 1, 2, 2)
    labels = {
        "loss": "loss (nats; in training with penalty)",
        "accuracy": "accuracy (share correct)",
    }
    splits = {
        "train": "training, mean over the epoch",
        "validation": "validation, at the epoch's end",
    }
    for axes, (quantity, label) in zip(panels, labels.items(), strict=True):
        for index, (split, described) in enumerate(splits.items()):
            history = kept[f"{split}_{quantity}"].transpose("epoch", "seed")
            history = history.where(np.isfinite(history))
            style = _look(index, linestyle=("-", "--")[index])
            if history.sizes["seed"] > 1:
                thin = {"color": style["color"], "linewidth": 0.6, "alpha": 0.5}
                axes.plot(history["epoch"], history, **thin)
            axes.plot(
                history["epoch"],
                history.mean("seed"),
                label=described,
                markevery=_every(history.sizes["epoch"], index, len(splits)),
                **style,
            )
        axes.set_xlabel("epochs of training")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].set_yscale("log")
    handles, names = panels[0].get_legend_handles_labels()
    if kept.sizes["seed"] > 1:
        handles.append(Line2D([], [], color="0.3", linewidth=0.6))
        names.append(f"one of the {kept.sizes['seed']} networks (thick: their mean)")
    _legend(figure, handles, names)
    return figure


def pruning_curves(results: xr.Dataset) -> Figure:
    """Draws accuracy over the parameters that pruned networks have left.

    Args:
        results: what ``experiments.prune`` writes: ``accuracy`` by seed, ranked_by,
            keep, clamp and stage (``pruned``, ``retrained``), ``parameters`` by keep,
            ``intact_accuracy`` by seed, and ``intact_parameters``.

    Returns:
        A row of panels per clamp, a column per stage; a line per measure, its band ±
        one standard deviation over networks, random pruning, and the intact networks'
        mean.
    """
    clamps, stages = _names(results, "clamp"), _names(results, "stage")
    figure, panels = _panels(
        results,
        "Pruning: the neurons of greatest score are kept in each layer; the stages "
        "have scales of their own",
        len(clamps),
        len(stages),
        sharex=True,
        sharey="col",  # retrained networks lie close together
    )
    epochs = int(results.attrs["retrain_epochs"])
    described = {
        "retrained": f"retrained {epochs} epoch{'s' if epochs > 1 else ''}",
    }
    styles = {
        name: _look(index, label=in_words(name), linestyle=_DASHES[index // 6 % 3])
        for index, name in enumerate(_names(results, "ranked_by"))
    }
    dotted = {"linestyle": ":", "linewidth": 2, "marker": ".", "zorder": 3}
    styles["random"] = {"label": "random neurons", "color": "black", **dotted}
    every_size = results["accuracy"].assign_coords(
        step=("keep", results["parameters"].values)
    )
    every_size = every_size.swap_dims(keep="step").sortby("step")
    for (clamp, stage), axes in zip(
        itertools.product(clamps, stages), panels, strict=True
    ):
        chosen = every_size.sel(clamp=clamp, stage=stage).transpose("seed", ...)
        axes.axhline(
            float(results["intact_accuracy"].mean()),
            color="0.3",
            linewidth=0.8,
            label="intact networks, mean",
        )
        _draw_curves(
            axes,
            [(chosen.sel(ranked_by=name), style) for name, style in styles.items()],
        )
        heading = f"{described.get(stage, stage)}, clamped to {clamp}"
        axes.set_title(heading, fontsize="medium")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        if clamp == clamps[-1]:
            whole = int(results["intact_parameters"])
            axes.set_xlabel(f"parameters left (of {whole:,})")
        if stage == stages[0]:
            axes.set_ylabel("test accuracy (share correct)")
    _curve_legend(figure, results)
    return figure


def compare_runs(table: pd.DataFrame) -> Figure:
    """Draws test error and areas under accuracy curves of several runs.

    Args:
        table: a row per run: ``name``, ``networks``, ``diverged``, ``test_error_mean``
            and ``test_error_sd`` in percent, and mean areas in columns named
            ``area.scope.clamp.ranked_by.direction``. Runs whose ``networks`` is missing
            have no results, and are left out.

    Returns:
        A line per run in every panel: above, its test error ± one standard deviation;
        below, a row of panels per clamp and a column per scope, a mark per order.

    Raises:
        ValueError: no run with a network that converged.
    """
    runs = table.dropna(subset=["networks"])
    if not runs["test_error_mean"].notna().to_numpy().any():
        raise ValueError(
            "compare_runs: expected a run with a network that converged, got "
            f"{len(table)} without"
        )
    areas = [name.split(".")[1:] for name in runs.columns if name.startswith("area.")]
    scopes, clamps, ranked_by = (
        list(dict.fromkeys(parts)) for parts in list(zip(*areas, strict=True))[:3]
    )
    orders = list(dict.fromkeys(tuple(parts[2:]) for parts in areas))
    # A run may lack layers, clamps or orders that others have.
    every = [
        ".".join(["area", scope, clamp, *order])
        for scope, clamp, order in itertools.product(scopes, clamps, orders)
    ]
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *every])))
    figure, top, panels = _run_panels(runs, scopes, clamps)
    lines = np.arange(len(runs))
    top.errorbar(
        runs["test_error_mean"].to_numpy(),
        lines,
        xerr=runs["test_error_sd"].fillna(0).to_numpy(),
        color="black",
        fmt="o",
        markersize=4,
        capsize=3,
    )
    has_spread = runs["test_error_sd"].notna().to_numpy().any()
    described = ", mean ± standard deviation over networks" if has_spread else ""
    top.set_xlabel(f"test error (%){described}", fontsize="small")
    measures = [name for name in ranked_by if name != "random"]
    # Within a run's line, each measure has its own height.
    heights = (np.arange(len(measures)) + 0.5) / max(1, len(measures)) - 0.5
    for (clamp, scope), axes in panels.items():
        prefix = f"area.{scope}.{clamp}"
        for index, (measure, height) in enumerate(zip(measures, heights, strict=True)):
            ends = []
            for direction, described in _DIRECTIONS.items():
                ends.append(runs[f"{prefix}.{measure}.{direction}"].to_numpy())
                hollow = {"mfc": "white"} if direction == "descending" else {}
                axes.plot(
                    ends[-1],
                    lines + 0.7 * height,
                    label=f"{in_words(measure)}, {described}",
                    **_look(index, linestyle="", zorder=3, **hollow),
                )
            axes.hlines(
                lines + 0.7 * height, *ends, color=_look(index)["color"], linewidth=0.8
            )
        if "random" in ranked_by:
            axes.vlines(
                runs[f"{prefix}.random.random"].to_numpy(),
                lines - 0.42,
                lines + 0.42,
                color="black",
            )
    handles, labels = next(iter(panels.values())).get_legend_handles_labels()
    if "random" in ranked_by:
        mark = {"marker": "|", "markersize": 10, "markeredgewidth": 1.5}
        handles.append(Line2D([], [], linestyle="", color="black", **mark))
        labels.append("random orders, mean")
    _legend(figure, handles, labels)
    return figure


def _run_panels(
    runs: pd.DataFrame, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, Axes, dict[tuple[str, str], Axes]]:
    """A panel over the whole width, and below it one by clamp and scope."""
    names = [
        _run_label(name, int(networks), int(diverged))
        for name, networks, diverged in zip(
            runs["name"], runs["networks"], runs["diverged"], strict=True
        )
    ]
    inches = len(runs) * (0.14 + 0.14 * max(name.count("\n") + 1 for name in names))
    figure = Figure(
        figsize=(
            2.5 + max(len(scopes) * 2.4, _LEAST_WIDTH - 2.5),
            0.5 + (1 + len(clamps)) * (0.7 + inches),
        ),
        layout="constrained",
    )
    text = (
        "Runs compared: test error, and area under the accuracy curve over the share "
        "of neurons ablated, mean over networks"
    )
    if runs.filter(like="area.").isna().to_numpy().any():
        text += "; empty where a run lacks the layer, or no network converged"
    figure.suptitle(
        textwrap.fill(text, int(figure.get_figwidth() * 13)), fontsize="medium"
    )
    grid = figure.add_gridspec(1 + len(clamps), len(scopes))
    top = figure.add_subplot(grid[0, :])
    top.set_title("intact networks", fontsize="medium")
    top.set_yticks(np.arange(len(runs)), names, parse_math=False)
    top.set_ylim(len(runs) - 0.5, -0.5)
    panels: dict[tuple[str, str], Axes] = {}
    for row, clamp in enumerate(clamps):
        for column, scope in enumerate(scopes):
            axes = figure.add_subplot(
                grid[1 + row, column],
                sharex=next(iter(panels.values()), None),
                sharey=top,
            )
            axes.set_title(
                f"{_scope_name(scope)}, clamped to {clamp}", fontsize="medium"
            )
            axes.tick_params(labelleft=column == 0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            if row == len(clamps) - 1:
                axes.set_xlabel("area (mean share correct)", fontsize="small")
            panels[clamp, scope] = axes
    for axes in (top, *panels.values()):
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize="small")
        axes.tick_params(axis="y", length=0)
        for line in range(0, len(runs), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="0.95", zorder=-1)
    return figure, top, panels


def _run_label(name: str, networks: int, diverged: int) -> str:
    """A run's name in lines that fit beside a panel, with what was left out of it."""
    text = name.replace(",", ", ")
    if diverged:
        note = f"({diverged} of {networks} diverged, left out)"
        text += " " + note.replace(" ", "\N{NO-BREAK SPACE}")
    return textwrap.fill(text, 40, break_on_hyphens=False)


def save_figures(
    results: xr.Dataset,
    directory: str | os.PathLike,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[pathlib.Path]:
    """Draws every figure that there are data for, as PNG and as PDF.

    The same results give the same bytes.

    Args:
        results: a run's results.
        directory: where the files go; made if need be.
        tables: out of ``report.tabulate``.

    Returns:
        The paths of the files written, whole each: ``training_history`` always; unless
        every network diverged also ``ablation_curves`` (and ``ablation_curves_2``, ...
        where there are many measures), ``measure_distributions``, ``single_effects``,
        ``class_curves`` and ``class_costs``, ``bias_balancing`` if there are both
        clamps, ``measure_scatter`` if there are two measures; of a run with
        interactions ``pair_matrices``, ``pair_agreement``,
        ``joint_information_curves`` and ``redundancy_indices``, of one with trajectory
        epochs ``trajectories`` and ``information_plane``; ``difference_curves`` and
        ``order_effects`` where the tables are.
    """
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in _drawable(results, tables or {}).items():
        paths += save_figure(draw(results), folder / name)
    return paths


def save_figure(figure: Figure, stem: pathlib.Path) -> list[pathlib.Path]:
    """Writes a figure as PNG and as PDF, each whole.

    Args:
        figure: what to write.
        stem: the files' path without its ending.

    Returns:
        The paths of the files.
    """
    paths = []
    for kind, metadata in _METADATA.items():
        path = stem.with_name(f"{stem.name}.{kind}")
        write_whole(
            path,
            partial(figure.savefig, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata),
        )
        paths.append(path)
        figure.set_layout_engine("none")  # laid out by now: it takes most of the time
    return paths


def _drawable(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame]
) -> dict[str, Callable[[xr.Dataset], Figure]]:
    """By name, the figures that there are data for."""
    figures: dict[str, Callable[[xr.Dataset], Figure]] = {}
    if converged(results).sizes["seed"]:
        measures, held = _names(results, "measure"), set(results.data_vars)
        for start in range(0, len(measures), _MEASURES_IN_A_FIGURE):
            some = measures[start : start + _MEASURES_IN_A_FIGURE]
            page = f"_{start // _MEASURES_IN_A_FIGURE + 1}" if start else ""
            figures[f"ablation_curves{page}"] = partial(ablation_curves, measures=some)
        figures["measure_distributions"] = measure_distributions
        preferred = "mutual_information"
        chosen = preferred if preferred in measures else measures[0]
        if {"zero", "mean"} <= set(_names(results, "clamp")):
            figures["bias_balancing"] = partial(bias_balancing, measure=chosen)
        if len(measures) > 1:
            figures["measure_scatter"] = measure_scatter
        figures["single_effects"] = single_effects
        figures["class_curves"] = partial(class_curves, ranked_by=chosen)
        figures["class_costs"] = partial(class_costs, measure=chosen)
        agreement = partial(pair_agreement, table=tables.get("pairs"))
        along_orders = partial(joint_information_curves, measure=chosen)
        if held >= _PAIRS:
            figures["pair_matrices"] = pair_matrices
            figures["pair_agreement"] = agreement
        if held >= _ALONG_ORDERS:
            figures["joint_information_curves"] = along_orders
        if held >= _GROUPS:
            figures["redundancy_indices"] = redundancy_indices
        if held >= _TRAJECTORIES:
            figures["trajectories"] = trajectories
            figures["information_plane"] = information_plane
        of_tables = {"differences": difference_curves, "orders": order_effects}
        for name, draw in of_tables.items():
            if name in tables:
                figures[draw.__name__] = partial(draw, table=tables[name])
    figures["training_history"] = training_history
    return figures


def _kept(results: xr.Dataset) -> xr.Dataset:
    kept = converged(results)
    if not kept.sizes["seed"]:
        raise ValueError(
            "expected results with a network that converged, got "
            f"{results.sizes['seed']} that diverged; draw training_history to see how"
        )
    return kept


def _check_held(results: xr.Dataset, figure: str, wanted: set[str], what: str) -> None:
    if not wanted <= set(results.data_vars):
        raise ValueError(
            f"{figure}: expected a run with {what}, got one without; run it with {what}"
        )


def _check_named(results: xr.Dataset, figure: str, axis: str, name: str) -> None:
    there = dict.fromkeys(_names(results, axis))
    if name not in there:
        raise ValueError(
            f"{figure}: expected a run with the {axis} {name!r}, got one with "
            f"{', '.join(there)}"
        )


def _chosen_clamp(results: xr.Dataset, figure: str, clamp: str | None) -> str:
    """The clamp asked for, or the run's last."""
    clamp = clamp or _names(results, "clamp")[-1]
    _check_named(results, figure, "clamp", clamp)
    return clamp


def _names(results: xr.Dataset, axis: str) -> list[str]:
    return [str(name) for name in results[axis].values]


def _layers(results: xr.Dataset) -> list[int]:
    return np.unique(results["layer"].values).tolist()


def _scope_size(results: xr.Dataset, scope: str) -> int:
    of_scope = results["accuracy"].sel(scope=scope).dropna("step", how="all")
    return of_scope.sizes["step"] - 1


def _scope_name(scope: str) -> str:
    return "whole network" if scope == "network" else in_words(scope)


def _measure_label(results: xr.Dataset, measure: str) -> str:
    unit = str(results["unit"].sel(measure=measure).values)
    return f"{in_words(measure)} ({_UNITS.get(unit, unit)})"


def _random_label(results: xr.Dataset) -> str:
    draws = int((results["ranked_by"] == "random").sum())
    return "random order" + (f", mean of {draws} draws" if draws > 1 else "")


def _scores(results: xr.Dataset, measure: str, layer: int) -> np.ndarray:
    """A measure of every neuron of a layer, of all networks, float64."""
    of_layer = neurons_of(results, layer)
    scores = results["score"].sel(measure=measure).isel(neuron=of_layer)
    return scores.values.ravel().astype(np.float64)


def _draw_curves(
    axes: Axes, curves: Sequence[tuple[xr.DataArray, dict[str, Any]]]
) -> None:
    """Mean lines over seeds with bands of ± one standard deviation."""
    curves = [(curve, style) for curve, style in curves if curve.size]
    for index, (curve, style) in enumerate(curves):
        step, mean = curve["step"].values, curve.mean("seed").values
        axes.plot(step, mean, markevery=_every(len(step), index, len(curves)), **style)
        if curve.sizes["seed"] > 1:
            spread = curve.std("seed", ddof=1).values
            axes.fill_between(
                step,
                mean - spread,
                mean + spread,
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )


def _draw_distribution(
    axes: Axes,
    place: int,
    values: np.ndarray,
    look: dict[str, Any],
    points: np.ndarray | None = None,
) -> None:
    """A violin with its median, and every value, or the points given, as a point."""
    # A layer of dead neurons is a line. What differs by rounding alone should be one
    # too: it has neither a density nor a scale.
    values = np.round(values, 9)
    violin = axes.violinplot(
        values,
        [place],
        widths=0.8,
        showextrema=False,
        showmedians=True,
        facecolor=(look["color"], 0.3),
        linecolor="black",
    )
    violin["cmedians"].set_zorder(3)
    # Multiples of the golden ratio spread evenly, and the same every time.
    points = values if points is None else points
    turns = np.arange(len(points)) * (5**0.5 - 1) / 2
    jitter = 0.4 * ((turns + 0.5) % 1 - 0.5)
    _draw_points(axes, place + jitter, points, look, size=7.0)


def _distribution_legend(
    figure: Figure,
    thing: str,
    point: str,
    lines: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    dot = Line2D([], [], linestyle="", color="0.3", marker="o", mfc="none", ms=3)
    lines = lines or {}
    _legend(
        figure,
        [
            dot,
            Line2D([], [], color="black"),
            Patch(color="0.8"),
            *(Line2D([], [], **look) for look in lines.values()),
        ],
        [point, "median", f"density of the {thing}s", *lines],
    )


def _draw_image(
    axes: Axes,
    values: np.ndarray,
    colours: str,
    label: str,
    *,
    limit: float,
    aspect: Literal["auto", "equal"],
) -> None:
    """A matrix with its colour bar; NaN is grey."""
    diverging = colours == "diverging"
    image = axes.imshow(
        values,
        cmap=colormaps[_MAPS[colours]].with_extremes(bad=_UNKNOWN),
        vmin=-limit if diverging else 0.0,
        vmax=limit,
        aspect=aspect,
        interpolation="nearest",
    )
    axes.grid(visible=False)
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, extend="both" if diverging else "max")
    bar.set_label(label, fontsize="small")


def _write_in_corner(
    axes: Axes,
    text: str,
    vertical: Literal["top", "bottom"],
    horizontal: Literal["left", "right"],
) -> None:
    axes.text(
        {"left": 0.02, "right": 0.98}[horizontal],
        {"bottom": 0.02, "top": 0.98}[vertical],
        text,
        transform=axes.transAxes,
        ha=horizontal,
        va=vertical,
        fontsize="x-small",
        color="0.3",
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
    )


def _limit_of_most(values: np.ndarray) -> float:
    """The end of a scale that is not that of a few neurons which matter most."""
    size = np.abs(values[np.isfinite(values)])
    return (float(np.quantile(size, 0.99)) if size.size else 0.0) or 1.0


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


def _linear_range(values: np.ndarray) -> float:
    """To where a symmetric logarithmic scale is linear.

    Most lie there; a power of ten, so that ticks do not meet.
    """
    size = np.abs(values[np.isfinite(values)])
    most = float(np.quantile(size, 0.75)) if size.size else 0.0
    return 10.0 ** float(np.ceil(np.log10(max(most, 1e-6))))


def _draw_points(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    look: dict[str, Any],
    size: float,
    label: str | None = None,
) -> None:
    axes.scatter(
        x,
        y,
        s=size,
        marker=look["marker"],
        facecolors="none",
        edgecolors=look["color"],
        linewidths=0.6,
        alpha=0.7,
        label=label,
        rasterized=len(x) > _POINTS_AS_VECTORS,
    )


def _look(index: int, **more: Any) -> dict[str, Any]:
    """Colour and marker of the index-th of the things that a panel tells apart."""
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        **more,
    }


def _every(points: int, index: int, lines: int) -> tuple[int, int]:
    """Where a line's markers are: about eight, apart from those of other lines."""
    stride = max(1, points // 8)
    return index * stride // lines, stride


def _accuracy_panels(
    results: xr.Dataset, title: str, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Panels of accuracy over ablated neurons, by clamp and scope."""
    figure, panels = _panels(
        results, title, len(clamps), len(scopes), sharex="col", sharey=True
    )
    by_name = dict(zip(itertools.product(clamps, scopes), panels, strict=True))
    for (clamp, scope), axes in by_name.items():
        name = _scope_name(scope)
        heading = f"{name}, clamped to {clamp}" if clamp else name
        axes.set_title(heading, fontsize="medium")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if clamp == clamps[-1]:
            axes.set_xlabel(f"neurons ablated (of {_scope_size(results, scope)})")
        if scope == scopes[0]:
            axes.set_ylabel("test accuracy (share correct)")
    return figure, by_name


def _panels(
    results: xr.Dataset,
    title: str,
    rows: int,
    columns: int,
    used: int | None = None,
    *,
    size: tuple[float, float] = _PANEL,
    **sharing: Any,
) -> tuple[Figure, list[Axes]]:
    """A titled figure and the panels of it that are used, row by row."""
    width = max(columns * size[0], _LEAST_WIDTH)
    figure = Figure(figsize=(width, rows * size[1] + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **sharing).ravel()
    for axes in panels:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[used:] if used else ():
        axes.remove()
    text = "\n".join(
        textwrap.fill(line, int(width * 13)) for line in (title, _subject(results))
    )
    figure.suptitle(text, fontsize="medium", parse_math=False)
    return figure, list(panels[:used])


def _subject(results: xr.Dataset) -> str:
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


def _curve_legend(figure: Figure, results: xr.Dataset) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if results.sizes["seed"] > 1:
        handles.append(Patch(color="0.8"))
        labels.append(
            f"band: ± standard deviation over {results.sizes['seed']} networks"
        )
    _legend(figure, handles, labels)


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend below the panels, for which the figure grows."""
    width, height = figure.get_size_inches()
    inches_an_entry = 0.6 + 0.075 * max(len(label) for label in labels)
    columns = min(len(labels), max(1, int(width / inches_an_entry)))
    rows = -(-len(labels) // columns)
    figure.set_size_inches(width, height + 0.2 * rows + 0.1)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=-(-len(labels) // rows),
        fontsize="small",
        frameon=False,
        handlelength=3,
    )
