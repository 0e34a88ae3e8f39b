"""Measures of single neurons, and the effects of ablating them."""

import itertools

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ioca_jax.inference.class_damage import class_correlations
from ioca_jax.plots import selection, style
from ioca_jax.results.selection import layers_of, neurons_of, readable

MEASURES_IN_A_FIGURE = 5  # more lines or panels are not legible


def measure_distributions(results: xr.Dataset) -> Figure:
    """Distribution of each measure in each layer: a violin, and a point per neuron."""
    kept = selection.select_converged(results, "measure_distributions")
    kept, note = selection.few_networks(kept)
    measures, looks = selection.labels_of(kept, "measure"), style.layer_looks(kept)
    title = f"Distribution of each measure over the neurons of each layer{note}"
    figure, panels = style.make_panels(results, title, len(measures))
    for axes, measure in zip(panels, measures, strict=True):
        for position, (layer, look) in enumerate(looks.items()):
            scores = selection.scores_of(kept, measure, layer)
            style.draw_distribution(axes, position, scores, look)
        names = [look["label"] for look in looks.values()]
        axes.set_xticks(range(len(names)), names)
        if len(names) > 4 or max(map(len, names)) > style.LONG_NAME:
            aslant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
            axes.set_xticks(range(len(names)), names, fontsize="small", **aslant)
        axes.set_ylabel(selection.measure_label(kept, measure))
    entries = style.distribution_entries(
        "one neuron of one network", "density of the neurons"
    )
    style.add_legend(figure, entries)
    return figure


def measure_scatter(results: xr.Dataset) -> Figure:
    """Each of the first five measures against each other one, a point per neuron."""
    kept = selection.select_converged(results, "measure_scatter")
    kept, note = selection.few_networks(kept)
    measures = selection.labels_of(kept, "measure")[:MEASURES_IN_A_FIGURE]
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
            x, y = (selection.scores_of(kept, measure, layer) for measure in pair)
            style.draw_points(axes, x, y, look, size=12.0)
        axes.set_xlabel(selection.measure_label(kept, pair[0]))
        axes.set_ylabel(selection.measure_label(kept, pair[1]))
    style.add_legend(figure, style.drawn_entries(panels[0]))
    return figure


def single_effects(results: xr.Dataset, clamp: str | None = None) -> Figure:
    """Increase of the test loss when one neuron is ablated, against each measure.

    ``clamp`` is that of the ablated neurons, by default the last one of the results.
    """
    kept = selection.select_converged(results, "single_effects", clamp=clamp)
    kept, note = selection.few_networks(kept)
    clamp = clamp or selection.labels_of(kept, "clamp")[-1]
    measures = selection.labels_of(kept, "measure")
    title = (
        f"Effect of ablating one neuron, clamped to {clamp}: a point per neuron of "
        f"each network{note}"
    )
    figure, panels = style.make_panels(results, title, len(measures), sharey=True)
    intact = kept["loss"].isel(scope=0, ordering=0, step=0).sel(clamp=clamp)
    increase = kept["single_loss"].sel(clamp=clamp) - intact
    increase = increase.transpose("seed", "neuron").values
    for axes, measure in zip(panels, measures, strict=True):
        for layer, look in style.layer_looks(kept).items():
            x = selection.scores_of(kept, measure, layer)
            y = increase[:, neurons_of(kept, layer)].ravel()
            style.draw_points(axes, x, y, look, size=9.0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xlabel(selection.measure_label(kept, measure))
    for axes in panels[::4]:
        axes.set_ylabel("increase of test loss (nats)")
    style.set_asinh_scale(panels[0], increase)
    style.add_legend(figure, style.drawn_entries(panels[0]))
    return figure


def class_costs(results: xr.Dataset, measure: str, clamp: str | None = None) -> Figure:
    """Change of each class's accuracy when one neuron is ablated, in the first network.

    A panel per layer: classes by neurons in ascending order of the measure. The default
    clamp is the first one of the results.
    """
    kept = selection.select_converged(
        results, "class_costs", measure=measure, clamp=clamp
    )
    clamp = clamp or selection.labels_of(kept, "clamp")[0]
    one = kept.isel(seed=0)
    intact = one["correct"].isel(scope=0, ordering=0, step=0).sel(clamp=clamp)
    change = (one["single_correct"].sel(clamp=clamp) - intact) / one["class_size"]
    percent = 100 * change.transpose("class", "neuron").values
    layers = layers_of(kept)
    title = "Effect of ablating one neuron on the accuracy of each class"
    which = f"clamped to {clamp}, network of seed {int(one['seed'])}"
    figure, panels = style.make_panels(results, title, len(layers), 1)
    limit = style.colour_limit(percent)
    for axes, layer in zip(panels, layers, strict=True):
        values = percent[:, selection.neurons_in_order(one, measure, layer)]
        label = "change of accuracy\n(percentage points)"
        style.draw_image(axes, values, "diverging", label, limit=limit)
        axes.set_title(f"{selection.layer_name(layer)}, {which}", fontsize="medium")
        axes.set_ylabel("class")
        axes.set_yticks(np.arange(len(values)), one["class"].values)
        axes.tick_params(axis="y", labelsize="x-small")
        axes.set_xlabel(f"neurons of the layer, lowest {readable(measure)} first")
        style.set_integer_ticks(axes)
    return figure


def class_damage(results: xr.Dataset, clamp: str | None = None) -> Figure:
    """Whether selectivity for a class predicts the damage to it: a panel per layer.

    A cell is the rank correlation over neurons, mean over networks; the diagonal is the
    class itself. The default clamp is the last one of the results.
    """
    kept = selection.select_converged(results, "class_damage", clamp=clamp)
    clamp = clamp or selection.labels_of(kept, "clamp")[-1]
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
        axes.set_title(selection.layer_name(layer), fontsize="medium")
        classes = kept["class"].values
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(range(len(classes)), classes, fontsize="x-small")
        axes.set_xlabel("class that loses accuracy")
        axes.set_ylabel("class of the selectivity")
    return figure
