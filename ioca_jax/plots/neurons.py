"""Measures of single neurons, and the effects of ablating them."""

import itertools
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ioca_jax.inference.class_damage import class_correlations
from ioca_jax.inference.statistics import mean_interval
from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import (
    layers_of,
    loss_increase,
    neurons_of,
    over_seeds,
    readable,
)

_GROUPS = 10  # of a layer's neurons
_SHOWN: style.Look = {"color": "black", "marker": ".", "linestyle": "", "markersize": 2}
MEASURES_IN_A_FIGURE = 5  # more lines or panels are not legible


def measure_distributions(results: xr.Dataset) -> Figure:
    """Distribution of each measure in each layer: a violin, and a point per neuron."""
    most = drawable.MOST_VIOLINS
    kept = drawable.select_converged(results, "measure_distributions", most)
    few, note = drawable.few_networks(kept)
    measures, looks = drawable.labels_of(kept, "measure"), style.layer_looks(kept)
    title = f"Distribution of each measure over the neurons of each layer{note}"
    names = [look["label"] for look in looks.values()]
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [measures],
        lambda measure: style.Labels(y=drawable.measure_label(kept, measure)),
        columns=max(1, min(4, 14 // (1 + len(names)))),
        share_y=lambda key: key,
    )
    for measure, axes in panels.items():
        for position, (layer, look) in enumerate(looks.items()):
            scores = drawable.scores_of(few, measure, layer)
            style.draw_distribution(axes, position, scores, look)
        axes.set_xticks(range(len(names)), names)
        if len(names) > 4 or max(map(len, names)) > style.LONG_NAME:
            aslant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
            axes.set_xticks(range(len(names)), names, **aslant)
    entries = style.distribution_entries(
        "one neuron of one network", "density of the neurons"
    )
    style.add_legend(figure, entries)
    return figure


def measure_scatter(results: xr.Dataset) -> Figure:
    """Each of the first five measures against each other one, a point per neuron.

    Rows of panels per pair of measures, a panel per layer.
    """
    measures = drawable.labels_of(results, "measure")[:MEASURES_IN_A_FIGURE]
    pairs = list(itertools.combinations(measures, 2))
    most = drawable.layers_on_a_page(max(1, len(pairs)))
    kept = drawable.select_converged(results, "measure_scatter", most)
    kept, note = drawable.few_networks(kept)
    if not pairs:
        raise ValueError(
            "measure_scatter: expected results with two measures or more, got "
            f"{measures[0]} alone"
        )
    title = f"Pairs of measures: a point per neuron of each network{note}"
    looks = style.layer_looks(kept)
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [[(*pair, layer) for layer in looks] for pair in pairs],
        lambda key: style.Labels(
            looks[key[2]]["label"],
            drawable.measure_label(kept, key[0]),
            drawable.measure_label(kept, key[1]),
        ),
        share_x=itemgetter(0, 1),
        share_y=itemgetter(0, 1),
    )
    for (first, second, layer), axes in panels.items():
        x, y = (drawable.scores_of(kept, name, layer) for name in (first, second))
        style.draw_points(axes, x, y, looks[layer])
        style.few_ticks(axes)
    return figure


def single_effects(
    results: xr.Dataset,
    clamp: str | None = None,
    measures: Sequence[str] | None = None,
) -> Figure:
    """Increase of the test loss when one neuron is ablated, against some measures.

    Rows of panels per measure, a panel per layer. ``clamp`` is that of the ablated
    neurons, by default the last one of the results.
    """
    measures = list(measures or drawable.labels_of(results, "measure"))
    most = drawable.layers_on_a_page(len(measures))
    kept = drawable.select_converged(results, "single_effects", most, clamp=clamp)
    few, note = drawable.few_networks(kept)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    title = (
        f"Effect of ablating one neuron, clamped to {clamp}: a point per neuron of "
        f"each network{note}"
    )
    looks = style.layer_looks(kept)
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [[(measure, layer) for layer in looks] for measure in measures],
        lambda key: style.Labels(
            looks[key[1]]["label"],
            drawable.measure_label(kept, key[0]),
            "increase of\ntest loss (nats)",
        ),
        share_x=itemgetter(0),
    )
    increase = loss_increase(few, clamp).transpose("seed", "neuron").values
    for (measure, layer), axes in panels.items():
        x = drawable.scores_of(few, measure, layer)
        y = increase[:, neurons_of(few, layer)].ravel()
        style.draw_points(axes, x, y, looks[layer])
        axes.axhline(0, color="0.4", linewidth=0.6)
        style.few_ticks(axes)
    style.set_asinh_scale(next(iter(panels.values())), increase)
    return figure


def class_costs(results: xr.Dataset, measure: str, clamp: str | None = None) -> Figure:
    """Change of each class's accuracy when one neuron is ablated, by its measure.

    A panel per layer: classes by tenths of the layer's neurons, in ascending order of
    the measure; a cell is the mean over the tenth and over networks. A dot marks cells
    whose 95 % interval over networks excludes 0, which is a sign-flip test of each cell
    by itself; fewer than six networks have no dots. The default clamp is the first one
    of the results.
    """
    most = drawable.layers_on_a_page(1)
    kept = drawable.select_converged(
        results, "class_costs", most, measure=measure, clamp=clamp
    )
    clamp = clamp or drawable.labels_of(kept, "clamp")[0]
    layers = layers_of(kept)
    intact = kept["correct"].isel(scope=0, ordering=0, step=0, drop=True)
    needed = kept[["single_correct", "score"]].assign(intact=intact).sel(clamp=clamp)
    costs_of = over_seeds(
        needed,
        lambda piece: {
            layer: _costs_by_tenth(piece, measure, layer) for layer in layers
        },
    )
    few = drawable.without_marks(kept, "there are no dots")
    title = (
        "Change of each class's accuracy when one neuron is ablated, clamped to "
        f"{clamp}: mean over networks and tenths of a layer, in ascending order of "
        f"{readable(measure)}"
        f"{few or '; dots are not corrected for the number of cells'}"
    )
    means = {layer: costs.mean(axis=0) for layer, costs in costs_of.items()}
    groups_of = {layer: mean.shape[1] for layer, mean in means.items()}
    labels = dict.fromkeys(range(_GROUPS), "neuron in order")
    labels[_GROUPS] = "tenth of the layer"
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [layers],
        lambda layer: style.Labels(
            drawable.layer_name(layer), labels[groups_of[layer]], "class"
        ),
        share_x=groups_of.get,
    )
    limit = style.colour_limit(np.concatenate([one.ravel() for one in means.values()]))
    images = []
    for layer, axes in panels.items():
        images.append(
            style.draw_image(axes, means[layer], "diverging", limit, aspect="auto")
        )
        if not few:
            low, high = mean_interval(costs_of[layer])
            rows, columns = np.nonzero((low > 0) | (high < 0))
            axes.plot(columns, rows, **_SHOWN)
        style.name_classes(axes.yaxis, kept["class"].values, len(panels))
        style.name_classes(axes.xaxis, np.arange(groups_of[layer]) + 1, 1)
    label = "change of accuracy\n(percentage points)"
    style.add_colour_bar(list(panels.values()), images[0], label, extend="both")
    if not few:
        style.add_legend(figure, {"sign-flip test of the cell: p at most 0.05": _SHOWN})
    return figure


def _costs_by_tenth(results: xr.Dataset, measure: str, layer: Any) -> np.ndarray:
    """Changes in percentage points [S, classes, tenths] of a layer."""
    change = results["single_correct"] - results["intact"]
    share = change / results["class_size"]
    percent = 100 * share.transpose("seed", "class", "neuron").values
    groups = min(_GROUPS, len(neurons_of(results, layer)))
    of_networks = []
    for index, of_neurons in enumerate(percent):
        network = results.isel(seed=index)
        ordered = drawable.neurons_in_order(network, measure, layer)
        parts = np.array_split(of_neurons[:, ordered], groups, axis=1)
        of_networks.append(np.stack([part.mean(axis=1) for part in parts], axis=1))
    return np.stack(of_networks)


def class_damage(results: xr.Dataset, clamp: str | None = None) -> Figure:
    """Whether selectivity for a class predicts the damage to it: a panel per layer.

    A cell is the rank correlation over neurons, mean over networks; the diagonal is the
    class itself. The default clamp is the last one of the results.
    """
    most = drawable.layers_on_a_page(1)
    kept = drawable.select_converged(results, "class_damage", most, clamp=clamp)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    title = (
        "Correlation over neurons of the selectivity for a class with the accuracy "
        f"that each class loses, clamped to {clamp}: mean over networks"
    )
    number = len(layers_of(kept))
    columns = -(-number // -(-number // drawable.COLUMNS))
    width = style.TEXT_WIDTH if columns > 1 else style.COLUMN_WIDTH
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [layers_of(kept)],
        lambda layer: style.Labels(
            drawable.layer_name(layer),
            "class that loses accuracy",
            "class of the selectivity",
        ),
        # Of a square panel; 0.9 inches are the colour bar and labels, 0.4 labels.
        height=0.4 + (width - 0.9) / columns,
    )
    means = {}
    for layer in panels:
        found = class_correlations(kept, layer, clamp)
        known = np.isfinite(found).any(axis=0)
        mean = np.nansum(found, axis=0) / np.maximum(np.isfinite(found).sum(axis=0), 1)
        means[layer] = np.where(known, mean, np.nan)
    limit = style.colour_limit(np.stack(list(means.values())))
    images = []
    for layer, axes in panels.items():
        images.append(
            style.draw_image(axes, means[layer], "diverging", limit, aspect="equal")
        )
        for axis in (axes.xaxis, axes.yaxis):
            style.name_classes(axis, kept["class"].values, len(panels))
    label = "Spearman's correlation"
    style.add_colour_bar(list(panels.values()), images[0], label, extend="both")
    return figure
