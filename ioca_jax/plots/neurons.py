"""Measures of single neurons, and the effects of ablating them."""

import itertools
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
_SHOWN: style.Look = {"color": "black", "marker": ".", "linestyle": "", "markersize": 4}
MEASURES_IN_A_FIGURE = 5  # more lines or panels are not legible


def measure_distributions(results: xr.Dataset) -> Figure:
    """Distribution of each measure in each layer: a violin, and a point per neuron."""
    kept = drawable.select_converged(results, "measure_distributions")
    kept, note = drawable.few_networks(kept)
    measures, looks = drawable.labels_of(kept, "measure"), style.layer_looks(kept)
    title = f"Distribution of each measure over the neurons of each layer{note}"
    figure, panels = style.make_panels(results, title, len(measures))
    for axes, measure in zip(panels, measures, strict=True):
        for position, (layer, look) in enumerate(looks.items()):
            scores = drawable.scores_of(kept, measure, layer)
            style.draw_distribution(axes, position, scores, look)
        names = [look["label"] for look in looks.values()]
        axes.set_xticks(range(len(names)), names)
        if len(names) > 4 or max(map(len, names)) > style.LONG_NAME:
            aslant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
            axes.set_xticks(range(len(names)), names, fontsize="small", **aslant)
        axes.set_ylabel(drawable.measure_label(kept, measure))
    entries = style.distribution_entries(
        "one neuron of one network", "density of the neurons"
    )
    style.add_legend(figure, entries)
    return figure


def measure_scatter(results: xr.Dataset) -> Figure:
    """Each of the first five measures against each other one, a point per neuron."""
    kept = drawable.select_converged(results, "measure_scatter")
    kept, note = drawable.few_networks(kept)
    measures = drawable.labels_of(kept, "measure")[:MEASURES_IN_A_FIGURE]
    pairs = list(itertools.combinations(measures, 2))
    if not pairs:
        raise ValueError(
            "measure_scatter: expected results with two measures or more, got "
            f"{measures[0]} alone"
        )
    title = f"Pairs of measures: a point per neuron of each network{note}"
    figure, panels = style.make_panels(results, title, len(pairs))
    for axes, pair in zip(panels, pairs, strict=True):
        for layer, look in style.layer_looks(kept).items():
            x, y = (drawable.scores_of(kept, measure, layer) for measure in pair)
            style.draw_points(axes, x, y, look, size=3.5)
        axes.set_xlabel(drawable.measure_label(kept, pair[0]))
        axes.set_ylabel(drawable.measure_label(kept, pair[1]))
    style.add_legend(figure, style.drawn_entries(panels[0]))
    return figure


def single_effects(results: xr.Dataset, clamp: str | None = None) -> Figure:
    """Increase of the test loss when one neuron is ablated, against each measure.

    ``clamp`` is that of the ablated neurons, by default the last one of the results.
    """
    kept = drawable.select_converged(results, "single_effects", clamp=clamp)
    kept, note = drawable.few_networks(kept)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    measures = drawable.labels_of(kept, "measure")
    title = (
        f"Effect of ablating one neuron, clamped to {clamp}: a point per neuron of "
        f"each network{note}"
    )
    figure, panels = style.make_panels(results, title, len(measures), sharey=True)
    increase = loss_increase(kept, clamp).transpose("seed", "neuron").values
    for axes, measure in zip(panels, measures, strict=True):
        for layer, look in style.layer_looks(kept).items():
            x = drawable.scores_of(kept, measure, layer)
            y = increase[:, neurons_of(kept, layer)].ravel()
            style.draw_points(axes, x, y, look, size=3.0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xlabel(drawable.measure_label(kept, measure))
    for axes in panels[::4]:
        axes.set_ylabel("increase of test loss (nats)")
    style.set_asinh_scale(panels[0], increase)
    style.add_legend(figure, style.drawn_entries(panels[0]))
    return figure


def class_costs(results: xr.Dataset, measure: str, clamp: str | None = None) -> Figure:
    """Change of each class's accuracy when one neuron is ablated, by its measure.

    A panel per layer: classes by tenths of the layer's neurons, in ascending order of
    the measure; a cell is the mean over the tenth and over networks. A dot marks cells
    whose 95 % interval over networks excludes 0, which is a sign-flip test of each cell
    by itself; fewer than six networks have no dots. The default clamp is the first one
    of the results.
    """
    kept = drawable.select_converged(
        results, "class_costs", measure=measure, clamp=clamp
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
    by_layer = [costs_of[layer] for layer in layers]
    few = drawable.without_marks(kept, "there are no dots")
    title = (
        "Change of each class's accuracy when one neuron is ablated, clamped to "
        f"{clamp}: mean over networks and tenths of a layer, in ascending order of "
        f"{readable(measure)}"
        f"{few or '; dots are not corrected for the number of cells'}"
    )
    figure, panels = style.make_panels(results, title, len(layers), 2)
    limit = style.colour_limit(
        np.concatenate([c.mean(axis=0).ravel() for c in by_layer])
    )
    for axes, layer, costs in zip(panels, layers, by_layer, strict=True):
        label = "change of accuracy\n(percentage points)"
        style.draw_image(axes, costs.mean(axis=0), "diverging", label, limit=limit)
        if not few:
            low, high = mean_interval(costs)
            rows, columns = np.nonzero((low > 0) | (high < 0))
            axes.plot(columns, rows, **_SHOWN)
        axes.set_title(drawable.layer_name(layer), fontsize="medium")
        axes.set_ylabel("class")
        axes.set_yticks(np.arange(costs.shape[1]), kept["class"].values)
        axes.tick_params(axis="y", labelsize="x-small")
        groups = costs.shape[2]
        numbers = [str(number + 1) for number in range(groups)]
        axes.set_xticks(range(groups), numbers, fontsize="x-small")
        axes.set_xlabel(
            "tenth of the layer" if groups == _GROUPS else "neuron in order"
        )
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
    kept = drawable.select_converged(results, "class_damage", clamp=clamp)
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    layers = layers_of(kept)
    title = (
        "Correlation over neurons of the selectivity for a class with the accuracy "
        f"that each class loses, clamped to {clamp}: mean over networks"
    )
    figure, panels = style.make_panels(results, title, len(layers))
    for axes, layer in zip(panels, layers, strict=True):
        found = class_correlations(kept, layer, clamp)
        known = np.isfinite(found).any(axis=0)
        mean = np.nansum(found, axis=0) / np.maximum(np.isfinite(found).sum(axis=0), 1)
        values = np.where(known, mean, np.nan)
        label = "Spearman's correlation"
        style.draw_image(axes, values, "diverging", label, aspect="equal")
        axes.set_title(drawable.layer_name(layer), fontsize="medium")
        classes = kept["class"].values
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(range(len(classes)), classes, fontsize="x-small")
        axes.set_xlabel("class that loses accuracy")
        axes.set_ylabel("class of the selectivity")
    return figure
