"""Measures and effects of single neurons."""

import itertools

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ioca_jax.plots import selection, style
from ioca_jax.results.files import in_words, neurons_of


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
    kept = selection.converged_only(results)
    measures, layers = selection.names_of(kept, "measure"), selection.layers_of(kept)
    figure, panels = style.make_panels(
        results,
        "Distribution of each measure over the neurons of each layer",
        -(-len(measures) // style.PANELS_IN_A_ROW),
        min(len(measures), style.PANELS_IN_A_ROW),
        len(measures),
    )
    for axes, measure in zip(panels, measures, strict=True):
        for index, layer in enumerate(layers):
            scores = selection.scores_of(kept, measure, layer)
            style.draw_distribution(axes, layer, scores, style.look(index))
        axes.set_xlabel("hidden layer (counted from the input)")
        axes.set_xticks(layers)
        axes.set_ylabel(selection.measure_label(kept, measure))
    style.add_distribution_legend(figure, "neuron", "one neuron of one network")
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
    kept = selection.converged_only(results)
    names = selection.names_of(kept, "measure")[: style.MEASURES_IN_A_FIGURE]
    pairs = list(itertools.combinations(names, 2))
    if not pairs:
        raise ValueError(
            "measure_scatter: expected a run with two measures or more, got one with "
            f"{', '.join(selection.names_of(kept, 'measure'))}"
        )
    figure, panels = style.make_panels(
        results,
        "Measures against each other, a point per neuron of each network",
        -(-len(pairs) // style.PANELS_IN_A_ROW),
        min(len(pairs), style.PANELS_IN_A_ROW),
        len(pairs),
    )
    for axes, pair in zip(panels, pairs, strict=True):
        for index, layer in enumerate(selection.layers_of(kept)):
            x, y = (selection.scores_of(kept, measure, layer) for measure in pair)
            style.draw_points(
                axes, x, y, style.look(index), size=12.0, label=f"layer {layer}"
            )
        axes.set_xlabel(selection.measure_label(kept, pair[0]))
        axes.set_ylabel(selection.measure_label(kept, pair[1]))
    style.add_legend(figure, *panels[0].get_legend_handles_labels())
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
    kept = selection.converged_only(results)
    clamp = selection.clamp_or_last(kept, "single_effects", clamp)
    measures = selection.names_of(kept, "measure")
    figure, panels = style.make_panels(
        results,
        f"Loss that ablating one neuron costs, clamped to {clamp}, a point per neuron "
        "of each network",
        -(-len(measures) // style.PANELS_IN_A_ROW),
        min(len(measures), style.PANELS_IN_A_ROW),
        len(measures),
    )
    intact = kept["loss"].isel(scope=0, ordering=0, step=0).sel(clamp=clamp)
    rise = kept["single_loss"].sel(clamp=clamp) - intact
    threshold = style.linear_range(rise.values)
    for axes, measure in zip(panels, measures, strict=True):
        for index, layer in enumerate(selection.layers_of(kept)):
            of_layer = neurons_of(kept, layer)
            costs = rise.isel(neuron=of_layer).transpose("seed", "neuron")
            style.draw_points(
                axes,
                selection.scores_of(kept, measure, layer),
                costs.values.ravel(),
                style.look(index),
                size=9.0,
                label=f"layer {layer}",
            )
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_xlabel(selection.measure_label(kept, measure))
        axes.set_ylabel("rise of test loss (nats)")
    style.add_legend(figure, *panels[0].get_legend_handles_labels())
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
    kept = selection.converged_only(results)
    if measure not in selection.names_of(kept, "measure"):
        raise ValueError(
            f"class_costs: expected a run with the measure {measure!r}, got one with "
            f"{', '.join(selection.names_of(kept, 'measure'))}"
        )
    clamp = clamp or selection.names_of(kept, "clamp")[0]
    one = kept.isel(seed=0)
    intact = one["correct"].isel(scope=0, ordering=0, step=0).sel(clamp=clamp)
    change = (one["single_correct"].sel(clamp=clamp) - intact) / one["class_size"]
    points = 100 * change.transpose("class", "neuron")
    layers = selection.layers_of(kept)
    figure, panels = style.make_panels(
        results,
        f"Accuracy that ablating one neuron costs each class, clamped to {clamp}, "
        f"network of seed {int(one['seed'])}",
        len(layers),
        1,
    )
    limit = style.limit_of_most(points.values)
    for axes, layer in zip(panels, layers, strict=True):
        of_layer = neurons_of(one, layer)
        scores = one["score"].sel(measure=measure).values[of_layer]
        arranged = points.isel(neuron=of_layer[np.argsort(scores, kind="stable")])
        style.draw_image(
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
