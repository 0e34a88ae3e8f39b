"""Neurons, layers and networks over the epochs of training."""

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
_CEILING: style.Look = {"color": "0.2", "linestyle": (0, (6, 3)), "linewidth": 1}
_ENTROPY = "entropy of the\nquantised layer, plug-in (bits)"
_DECODED = "I(layer; class), lower bound\nby a decoder (bits)"


def training_history(results: xr.Dataset) -> Figure:
    """Loss and accuracy over the epochs of training.

    Diverged networks are drawn if there are no others, while their values are finite.
    """
    drawable.check_variables(results, "training_history")
    kept = converged(results)
    kept = kept if kept.sizes["seed"] else results
    figure, panels = style.make_panels(
        results.drop_dims("neuron"), "Training history", 2
    )
    labels = {"loss": "loss (nats)", "accuracy": "accuracy"}
    splits = {
        "train": "training, mean over the epoch (loss with penalty)",
        "validation": "validation, at the end of the epoch",
    }
    for axes, (quantity, label) in zip(panels, labels.items(), strict=True):
        for index, (split, described) in enumerate(splits.items()):
            history = kept[f"{split}_{quantity}"].transpose("epoch", "seed")
            history = history.where(np.isfinite(history))
            look = style.look(index, label=described, linestyle=style.DASHES[index])
            if history.sizes["seed"] > 1:
                thin = {"color": look["color"], "linewidth": 0.6, "alpha": 0.5}
                some, _ = drawable.few_networks(history.to_dataset(name="history"))
                axes.plot(history["epoch"], some["history"], **thin)
            markers = style.marker_positions(history.sizes["epoch"], index, len(splits))
            mean = history.mean("seed")
            axes.plot(history["epoch"], mean, markevery=markers, **look)
        axes.set_xlabel("epochs of training")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].set_yscale("log")
    entries = style.drawn_entries(panels[0])
    if kept.sizes["seed"] > 1:
        label = f"one of {kept.sizes['seed']} networks (thick: mean)"
        entries |= {label: {"color": "0.3", "linewidth": 0.6}}
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
    count = len(measures) + 4
    columns = min(-(-count // 2), 4)
    figure, panels = style.make_panels(results, "Through training", count, columns)
    looks = style.layer_looks(kept)
    for axes, measure in zip(panels, measures, strict=False):
        axes.set_title("neurons: median and quartiles", fontsize="small")
        axes.set_ylabel(drawable.measure_label(kept, measure))
        for layer, look in looks.items():
            of_layer = kept["trajectory_score"].isel(neuron=neurons_of(kept, layer))
            _draw_quartiles(axes, of_layer.sel(measure=measure), "neuron", look)
    layer_panel, information, groups, error = panels[len(measures) :]
    several = kept.sizes["seed"] > 1
    spread = ": mean ± standard deviation" if several else ""
    for axes, thing in ((layer_panel, "layers"), (information, "layers")):
        axes.set_title(f"{thing}{spread}", fontsize="small")
    error.set_title(f"networks{spread}", fontsize="small")
    curves = [
        (hidden_layer_of(kept, layer)["layer_entropy"], look)
        for layer, look in looks.items()
    ]
    style.draw_curves(layer_panel, curves)
    layer_panel.axhline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    layer_panel.set_ylabel(_ENTROPY)
    entries: dict[str, Any] = {look["label"]: look for look in looks.values()}
    entries |= _draw_layer_information(information, kept, looks)
    _draw_layer_redundancy(groups, kept, looks)
    entries |= _draw_errors(error, kept) | _ceiling_entry(kept)
    last = max(
        int(kept[name].max()) for name in ("step", "epoch") if name in kept.coords
    )
    for index, axes in enumerate(panels):
        _set_epoch_scale(axes, last)
        if index + columns >= count:
            axes.set_xlabel(_EPOCHS)
    style.add_legend(figure, entries)
    return figure


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
) -> dict[str, style.Look]:
    """Decoded information, and estimates where there are any: legend entries then."""
    estimated = False
    for layer, look in looks.items():
        of_layer = hidden_layer_of(results, layer)
        estimate = of_layer["layer_information"].dropna("step")
        estimated |= estimate.size > 0
        dashed = look | {"linestyle": "--", "mfc": "white"}
        curves = [(of_layer["layer_information_decoded"], look), (estimate, dashed)]
        style.draw_curves(axes, curves)
    axes.set_ylabel("I(layer; class) (bits)" if estimated else _DECODED)
    if not estimated:
        return {}
    line = {"color": "0.3", "marker": "o", "markersize": 5}
    return {
        "information, lower bound by a decoder": line,
        "information, Miller-Madow": line | {"linestyle": "--", "mfc": "white"},
    }


def _draw_layer_redundancy(
    axes: Axes, results: xr.Dataset, looks: Mapping[Any, style.Look]
) -> None:
    size = int(results.attrs["trajectory_group_size"])
    known = f"groups of {size}: median and quartiles"
    axes.set_title(known if size else "groups: too few examples", fontsize="small")
    axes.set_ylabel("redundancy index\n(above 1: redundancy)")
    for layer, look in looks.items():
        of_layer = hidden_layer_of(results, layer)["layer_redundancy_index"]
        _draw_quartiles(axes, of_layer, "group", look)
    axes.axhline(1, **style.REFERENCE)


def _draw_errors(axes: Axes, results: xr.Dataset) -> dict[str, style.Look]:
    """Test error, and training error if the results have a history."""
    test = {"color": "black", "marker": "o", "markersize": 4}
    entries = {"test error": test}
    curves = [(1 - results["trajectory_accuracy"], test)]
    if "train_accuracy" in results:
        training = {"color": "0.5", "marker": "s", "markersize": 4}
        training |= {"linestyle": "--", "mfc": "white"}
        entries["training error, mean over the epoch"] = training
        of_epoch = 1 - results["train_accuracy"]
        curves.append((of_epoch.rename(epoch="step"), training))
    style.draw_curves(axes, curves)
    axes.set_ylabel("error rate")
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
    figure, (axes,) = style.make_panels(results, title, 1, size=(6.6, 4.4))
    norm = SymLogNorm(1, _FIRST_EPOCH, vmin=0, vmax=max(1, epochs.max()))
    colours: dict[str, Any] = {"cmap": "viridis", "norm": norm}
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
            small = {"s": 14, "alpha": 0.5, "linewidths": 0, "marker": marker}
            axes.scatter(x.values.ravel(), y.values.ravel(), **small, **colours)
        x, y = x.mean("seed").values, y.mean("seed").values
        line = {"color": look["color"], "linestyle": style.DASHES[index % 3]}
        axes.plot(x, y, **line)
        large = {"s": 45, "linewidths": 1.5, "marker": marker, "zorder": 3}
        colours["c"] = epochs
        points = axes.scatter(x, y, edgecolors=look["color"], **large, **colours)
        for place in {0, len(epochs) - 1}:
            _label_epoch(axes, int(epochs[place]), (float(x[place]), float(y[place])))
        label = look["label"] + (", mean" if seeds > 1 else "")
        entries[label] = look | line | {"mfc": "white"}
    axes.axvline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    axes.set_xlabel(_ENTROPY.replace("\n", " "))
    axes.set_ylabel(_DECODED.replace("\n", " "))
    assert points is not None
    ticks = {"ticks": epochs.tolist(), "format": "{x:.0f}"}
    style.add_colour_bar(axes, points, _EPOCHS, **ticks)
    if seeds > 1:
        dot = {"color": "0.3", "marker": "o", "markersize": 2.5, "linestyle": ""}
        entries["small: one network"] = dot
    style.add_legend(figure, entries | _ceiling_entry(kept))
    return figure


def _label_epoch(axes: Axes, epoch: int, point: tuple[float, float]) -> None:
    """Names the epoch of a point, on its left, away from the upper limit."""
    axes.annotate(
        f"epoch {epoch}",
        point,
        (-6, -9),
        textcoords="offset points",
        ha="right",
        fontsize="x-small",
        zorder=4,
    )
