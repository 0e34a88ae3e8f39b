"""Neurons, layers and networks over the epochs of training."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    MaxNLocator,
    NullLocator,
    ScalarFormatter,
    SymmetricalLogLocator,
)

from ioca_jax.plots import selection, style
from ioca_jax.results.files import converged, neurons_of

TRAJECTORY_VARIABLES = {
    "trajectory_score",
    "trajectory_accuracy",
    "layer_entropy",
    "layer_information",
    "layer_information_decoded",
    "layer_redundancy_index",
}
_FIRST_EPOCH = 0.4  # the width of the first epoch, in decades
_CEILING: dict[str, Any] = {"color": "0.2", "linestyle": (0, (6, 3)), "linewidth": 1}
_LAYER_ENTROPY = "H of the quantised layer,\nplug-in (bits)"


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
    figure, panels = style.make_panels(results, "Training history", 1, 2, 2)
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
            look = style.look(index, linestyle=("-", "--")[index])
            if history.sizes["seed"] > 1:
                thin = {"color": look["color"], "linewidth": 0.6, "alpha": 0.5}
                axes.plot(history["epoch"], history, **thin)
            axes.plot(
                history["epoch"],
                history.mean("seed"),
                label=described,
                markevery=style.marker_positions(
                    history.sizes["epoch"], index, len(splits)
                ),
                **look,
            )
        axes.set_xlabel("epochs of training")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].set_yscale("log")
    handles, names = panels[0].get_legend_handles_labels()
    if kept.sizes["seed"] > 1:
        handles.append(Line2D([], [], color="0.3", linewidth=0.6))
        names.append(f"one of the {kept.sizes['seed']} networks (thick: their mean)")
    style.add_legend(figure, handles, names)
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
    selection.check_held(
        results, "trajectories", TRAJECTORY_VARIABLES, "trajectory epochs"
    )
    held = [*TRAJECTORY_VARIABLES, "train_accuracy"]
    kept = selection.converged_only(results)[held].rename(trajectory_epoch="step")
    scores = kept["trajectory_score"]
    measures = [
        name
        for name in selection.names_of(kept, "measure")
        if np.isfinite(scores.sel(measure=name).values).any()
    ]
    count = len(measures) + 4
    columns = min(-(-count // 2), style.PANELS_IN_A_ROW)
    figure, panels = style.make_panels(
        results, "Through training", -(-count // columns), columns, count
    )
    layers = selection.layers_of(kept)
    looks = {layer: style.look(index) for index, layer in enumerate(layers)}
    for axes, measure in zip(panels, measures, strict=False):
        axes.set_title("neurons: median, middle half", fontsize="small")
        axes.set_ylabel(selection.measure_label(kept, measure))
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
        style.draw_curves(entropy, [(of_layer["layer_entropy"], look)])
        decoded = of_layer["layer_information_decoded"]
        estimate = of_layer["layer_information"].dropna("step")
        counted |= estimate.size > 0
        dashed = look | {"linestyle": "--", "mfc": "white"}
        style.draw_curves(information, [(decoded, look), (estimate, dashed)])
        groups = of_layer["layer_redundancy_index"]
        _draw_middle_half(index, groups, "group", look)
    information.set_ylabel(
        "I(layer;Y) (bits)" if counted else "I(layer;Y), at least,\nby a decoder (bits)"
    )
    entropy.axhline(np.log2(kept.attrs["num_validation"]), **_CEILING)
    index.axhline(1, **style.NEITHER)
    training = (1 - kept["train_accuracy"]).rename(epoch="step")
    testing = 1 - kept["trajectory_accuracy"]
    curves = {
        "test error": (testing, {"color": "black", "marker": "o", "markersize": 4}),
        "training error, mean over the epoch": (
            training,
            style.look(1, color="0.5", linestyle="--", markersize=4, mfc="white"),
        ),
    }
    style.draw_curves(error, [(curve, look) for curve, look in curves.values()])
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
    style.add_legend(figure, handles, labels)
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
    selection.check_held(
        results, "information_plane", TRAJECTORY_VARIABLES, "trajectory epochs"
    )
    kept = selection.converged_only(results)
    epochs = kept["trajectory_epoch"].values
    figure, (axes,) = style.make_panels(
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
    for index, layer in enumerate(selection.layers_of(kept)):
        look = style.look(index)
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
        axes.plot(x, y, color=look["color"], linestyle=style.DASHES[index % 3])
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
        Line2D(
            [], [], **style.look(index, linestyle=style.DASHES[index % 3], mfc="white")
        )
        for index in range(len(selection.layers_of(kept)))
    ]
    labels = [f"layer {layer}" for layer in selection.layers_of(kept)]
    if kept.sizes["seed"] > 1:
        labels = [f"{label}, mean" for label in labels]
        small = {"marker": "o", "markersize": 2.5, "linestyle": ""}
        handles.append(Line2D([], [], color="0.3", **small))
        labels.append("small: one network")
    style.add_legend(
        figure,
        [*handles, Line2D([], [], **_CEILING)],
        [*labels, _ceiling_label(kept)],
    )
    return figure
