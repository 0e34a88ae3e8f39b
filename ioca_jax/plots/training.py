"""Neurons, layers and networks over the epochs of training."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import converged, hidden_layer_of, neurons_of

_EPOCHS = "epochs of training (0: untrained)"
_FIRST_EPOCH = 0.4  # width of the first epoch on the scale, in decades
_CEILING: style.Look = {"color": "0.2", "linestyle": (0, (6, 3)), "linewidth": 0.8}
_ENTROPY = "entropy of the\nquantised layer, plug-in (bits)"
_DECODED = "I(layer; class), lower bound\nby a decoder (bits)"
_GROUPS = "redundancy index\n(above 1: redundancy)"
_LABELLED = 2  # layers; the names of further ones' epochs would collide
_NO_GROUPS = "groups: too few examples"
_ERROR = "error rate"


def training_history(results: xr.Dataset) -> Figure:
    """Loss and accuracy over the epochs of training.

    Diverged networks are drawn if there are no others, while their values are finite.
    """
    drawable.check_variables(results, "training_history")
    kept = converged(results)
    kept = kept if kept.sizes["seed"] else results
    labels = {"loss": "loss (nats)", "accuracy": "accuracy"}
    figure, panels = style.small_multiples(
        drawable.heading(results, "Training history", of_codes=False),
        [list(labels)],
        lambda quantity: style.Labels("", "epochs of training", labels[quantity]),
        share_y=lambda key: key,
    )
    splits = {
        "train": "training, mean over the epoch (loss with penalty)",
        "validation": "validation, at the end of the epoch",
    }
    for quantity, axes in panels.items():
        for index, (split, described) in enumerate(splits.items()):
            history = kept[f"{split}_{quantity}"].transpose("epoch", "seed")
            history = history.where(np.isfinite(history))
            look = style.look(index, label=described, linestyle=style.DASHES[index])
            if history.sizes["seed"] > 1:
                thin = {"color": look["color"], "linewidth": 0.4, "alpha": 0.5}
                some, _ = drawable.few_networks(history.to_dataset(name="history"))
                axes.plot(history["epoch"], some["history"], **thin)
            markers = style.marker_positions(history.sizes["epoch"], index, len(splits))
            mean = history.mean("seed")
            axes.plot(history["epoch"], mean, markevery=markers, **look)
        # Steps of 2, 5 and 10, which the last epoch is mostly a multiple of.
        axes.xaxis.set_major_locator(
            ticker.MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
    low, high = panels["loss"].get_ylim()
    if high > 10 * max(low, 0):  # fewer than ten times have few ticks
        panels["loss"].set_yscale("log")
        panels["loss"].yaxis.set_major_formatter("{x:g}")
    entries = style.drawn_entries(panels["loss"])
    if kept.sizes["seed"] > 1:
        label = f"one of {kept.sizes['seed']} networks (thick: mean)"
        entries |= {label: {"color": "0.3", "linewidth": 0.4}}
    style.add_legend(figure, entries)
    return figure


def trajectories(results: xr.Dataset) -> Figure:
    """Measures of neurons, layers and groups, and the error, through training."""
    kept = drawable.select_converged(results, "trajectories")
    kept = kept.drop_dims("step").rename(trajectory_epoch="step")
    measures = [
        measure
        for measure in drawable.labels_of(kept, "measure")
        if kept["trajectory_score"].sel(measure=measure).notnull().any()
    ]
    several = kept.sizes["seed"] > 1
    spread = ": mean ± standard deviation" if several else ""
    size = int(kept.attrs["trajectory_group_size"])
    groups = f"groups of {size}: median and quartiles" if size else _NO_GROUPS
    estimated = bool(kept["layer_information"].notnull().any())
    information = "I(layer; class) (bits)" if estimated else _DECODED
    labels = {
        measure: style.Labels(
            "neurons: median and quartiles",
            _EPOCHS,
            drawable.measure_label(kept, measure),
        )
        for measure in measures
    } | {
        _ENTROPY: style.Labels(f"layers{spread}", _EPOCHS, _ENTROPY),
        _DECODED: style.Labels(f"layers{spread}", _EPOCHS, information),
        _GROUPS: style.Labels(groups, _EPOCHS, _GROUPS),
        _ERROR: style.Labels(f"networks{spread}", _EPOCHS, _ERROR),
    }
    figure, panels = style.small_multiples(
        drawable.heading(results, "Through training", kept),
        [list(labels)],
        labels.__getitem__,
        columns=3,
        share_y=lambda key: key,
    )
    looks = style.layer_looks(kept)
    for measure, (layer, look) in itertools.product(measures, looks.items()):
        of_layer = kept["trajectory_score"].isel(neuron=neurons_of(kept, layer))
        of_measure = of_layer.sel(measure=measure)
        _draw_quartiles(panels[measure], of_measure, "neuron", look)
    curves = [
        (hidden_layer_of(kept, layer)["layer_entropy"], look)
        for layer, look in looks.items()
    ]
    style.draw_curves(panels[_ENTROPY], curves)
    panels[_ENTROPY].axhline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    entries: dict[str, Any] = {look["label"]: look for look in looks.values()}
    _draw_layer_information(panels[_DECODED], kept, looks)
    if estimated:
        entries |= _information_entries()
    for layer, look in looks.items():
        index = hidden_layer_of(kept, layer)["layer_redundancy_index"]
        _draw_quartiles(panels[_GROUPS], index, "group", look)
    panels[_GROUPS].axhline(1, **style.REFERENCE)
    entries |= _draw_errors(panels[_ERROR], kept) | _ceiling_entry(kept)
    last = max(
        int(kept[name].max()) for name in ("step", "epoch") if name in kept.coords
    )
    _set_epoch_scale(panels[_ERROR], last)  # which all panels share
    style.add_legend(figure, entries)
    return figure


def _information_entries() -> dict[str, Any]:
    """Legend entries of the two estimates of a layer's information."""
    line = style.DOT | {"linestyle": "-", "linewidth": 1}
    return {
        "information, lower bound by a decoder": line,
        "information, Miller-Madow": line | {"linestyle": "--", "mfc": "white"},
    }


def _draw_quartiles(
    axes: Axes, values: xr.DataArray, dim: str, look: style.Look
) -> None:
    """Median and quartiles over ``dim``, each a mean over networks."""
    values = values.transpose(dim, "seed", "step").astype(np.float64)
    # pandas, unlike NumPy, is silent where a network has no value.
    table = pd.DataFrame(values.values.reshape(len(values), -1))
    cut = table.quantile([0.25, 0.5, 0.75]).to_numpy().reshape(3, *values.shape[1:])
    low, median, high = xr.DataArray(cut, dims=("cut", "seed", "step")).mean("seed")
    axes.plot(values["step"], median, **look)
    style.draw_band(axes, values["step"], low, high, look)


def _draw_layer_information(
    axes: Axes, results: xr.Dataset, looks: Mapping[Any, style.Look]
) -> None:
    """Decoded information, and dashed the estimates where there are any."""
    for layer, look in looks.items():
        of_layer = hidden_layer_of(results, layer)
        estimate = of_layer["layer_information"].dropna("step")
        dashed = look | {"linestyle": "--", "mfc": "white"}
        curves = [(of_layer["layer_information_decoded"], look), (estimate, dashed)]
        style.draw_curves(axes, curves)


def _draw_errors(axes: Axes, results: xr.Dataset) -> dict[str, style.Look]:
    """Test error, and training error if the results have a history."""
    test = style.look(0, color="black")
    entries = {"test error": test}
    curves = [(1 - results["trajectory_accuracy"], test)]
    if "train_accuracy" in results:
        training = style.look(1, color="0.5", linestyle="--", mfc="white")
        entries["training error, mean over the epoch"] = training
        of_epoch = 1 - results["train_accuracy"]
        curves.append((of_epoch.rename(epoch="step"), training))
    style.draw_curves(axes, curves)
    axes.set_ylim(bottom=0)
    return entries


def _set_epoch_scale(axes: Axes, last: int) -> None:
    """A logarithmic scale of epochs that starts before training."""
    axes.set_xscale("symlog", linthresh=1, linscale=_FIRST_EPOCH)
    locator = ticker.SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(-0.2, 1.2 * max(last, 1))


def _ceiling_entry(results: xr.Dataset) -> dict[str, style.Look]:
    examples = results.attrs["num_validation"]
    return {f"upper limit of an estimate from {examples:,} examples": _CEILING}


def information_plane(results: xr.Dataset) -> Figure:
    """Layers in the information plane, through training.

    The entropy of a layer's quantised outputs, and a lower bound of their information
    with the class; a line per layer through its epochs, mean over networks, and a small
    point per network. Epochs are coloured; the first and the last are labelled.
    """
    kept = drawable.select_converged(results, "information_plane")
    epochs, seeds = kept["trajectory_epoch"].values, kept.sizes["seed"]
    title = "Layers in the information plane, through training"
    labels = style.Labels("", _ENTROPY.replace("\n", " "), _DECODED.replace("\n", " "))
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept), [[title]], lambda _: labels, height=2.6
    )
    axes = panels[title]
    norm = SymLogNorm(1, _FIRST_EPOCH, vmin=-1, vmax=max(1, epochs.max()))
    colours: dict[str, Any] = {"cmap": "Greys", "norm": norm}
    entries: dict[str, style.Look] = {}
    points = None
    for index, (layer, look) in enumerate(style.layer_looks(kept).items()):
        x, y = (
            hidden_layer_of(kept, layer)[name].transpose("seed", "trajectory_epoch")
            for name in ("layer_entropy", "layer_information_decoded")
        )
        marker = look["marker"]
        if seeds > 1:
            colours["c"] = np.tile(epochs, seeds)
            small = {"s": 5, "alpha": 0.5, "linewidths": 0, "marker": marker}
            axes.scatter(x.values.ravel(), y.values.ravel(), **small, **colours)
        x, y = x.mean("seed").values, y.mean("seed").values
        line = {"color": look["color"], "linestyle": style.DASHES[index % 3]}
        axes.plot(x, y, linewidth=1, **line)
        large = {"s": 20, "linewidths": 1, "marker": marker, "zorder": 3}
        colours["c"] = epochs
        points = axes.scatter(x, y, edgecolors=look["color"], **large, **colours)
        for place in {0, len(epochs) - 1} if index < _LABELLED else ():
            _label_epoch(axes, int(epochs[place]), (float(x[place]), float(y[place])))
        label = look["label"] + (", mean" if seeds > 1 else "")
        entries[label] = look | line | {"mfc": "white"}
    axes.axvline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    assert points is not None
    ticks = {"ticks": epochs.tolist(), "format": "{x:.0f}"}
    style.add_colour_bar(axes, points, _EPOCHS, **ticks)
    if seeds > 1:
        entries["small: one network"] = style.DOT | {"markersize": 2}
    style.add_legend(figure, entries | _ceiling_entry(kept))
    return figure


def _label_epoch(axes: Axes, epoch: int, point: tuple[float, float]) -> None:
    """Names the epoch of a point, on its left, away from the upper limit."""
    axes.annotate(
        f"epoch {epoch}",
        point,
        (-4, -7),
        textcoords="offset points",
        ha="right",
        fontsize=style.FONT - 1,
        zorder=4,
    )
