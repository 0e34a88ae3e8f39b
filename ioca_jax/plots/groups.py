"""Joint information and redundancy of groups of neurons."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import mean_curve, orderings_of, steps_of_scopes

_NULL: style.Look = {"color": "0.5", "linestyle": ":", "linewidth": 0.8}
_SHADE = "0.92"


def joint_information_curves(
    results: xr.Dataset,
    measure: str = "mutual_information",
    clamp: str | None = None,
) -> Figure:
    """Joint information about the class along orders of ablation.

    A column per scope: in the upper row the joint information of the ablated and of the
    remaining neurons, with its mean under permuted labels; in the lower row accuracy.
    Steps without an estimate, for lack of examples, are shaded; their scale is
    compressed if they are many.
    """
    kept = drawable.select_converged(
        results, "joint_information_curves", clamp=clamp, measure=measure
    )
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    scopes = drawable.labels_of(kept, "scope")
    title = (
        "Joint information with the class along orders of ablation, and accuracy with "
        f"neurons clamped to {clamp}"
    )
    columns = len(scopes)
    figure, panels = style.make_panels(
        results, title, 2 * columns, columns, sharex="col", sharey="row"
    )
    looks = {
        (measure, direction): style.look(
            index,
            label=style.order_label(measure, direction),
            linestyle=style.DASHES[index],
        )
        for index, direction in enumerate(style.DIRECTIONS)
    }
    for order, look in style.random_looks(kept).items():
        looks[order] = look | {"marker": "^", "markersize": 4, "linewidth": 1.5}
    shaded = False
    for scope, above, below in zip(
        scopes, panels[:columns], panels[columns:], strict=True
    ):
        unknown, size = _draw_joint_information(above, kept, scope, looks)
        curves = [
            (mean_curve(kept, clamp, scope, *order), look)
            for order, look in looks.items()
        ]
        style.draw_curves(below, curves)
        below.set_ylim(bottom=0)
        style.set_integer_ticks(below)
        above.set_title(drawable.panel_title(scope), fontsize="medium")
        below.set_xlabel(f"neurons ablated (of {size})")
        shaded |= unknown.size > 0
        _shade_unknown(above, below, unknown, size)
    panels[0].set_ylabel("joint information with\nthe class, Miller-Madow (bits)")
    panels[columns].set_ylabel(style.ACCURACY)
    entries: dict[str, Any] = {look["label"]: look for look in looks.values()}
    dot = {"linestyle": "", "color": "0.3", "marker": "o", "markersize": 5}
    entries |= {
        "upper row: ablated neurons": dot,
        "upper row: remaining neurons": dot | {"mfc": "white"},
        "permuted labels, plug-in, mean": _NULL,
    }
    if shaded:
        entries["too few examples for an estimate (compressed if wide)"] = _SHADE
    style.add_legend(figure, entries | style.deviation_entry(kept))
    return figure


def _draw_joint_information(
    axes: Axes,
    results: xr.Dataset,
    scope: str,
    looks: dict[tuple[str, str], style.Look],
) -> tuple[np.ndarray, int]:
    """Draws the estimates; returns the steps without one, and the last step."""
    steps = steps_of_scopes(results)[scope]
    estimated = np.zeros(len(steps), bool)
    curves = []
    for order, look in looks.items():
        for side, fill in (("ablated", {}), ("left", {"mfc": "white"})):
            curve, null = (
                _joint_curve(results, f"joint_information_{name}", side, scope, order)
                for name in ("miller_madow", "null")
            )
            estimated |= np.isin(steps, curve["step"].values)
            curves.append((curve, look | fill))
            axes.plot(null["step"], null.mean("seed"), **_NULL)
    style.draw_curves(axes, curves)
    return steps[~estimated], int(steps[-1])


def _joint_curve(
    results: xr.Dataset, name: str, side: str, scope: str, order: tuple[str, str]
) -> xr.DataArray:
    """[seed, step], mean over draws, where all networks and draws have an estimate."""
    curves = results[name].sel(side=side, scope=scope)
    curves = curves.isel(ordering=orderings_of(results, *order))
    return curves.dropna("step", how="any").mean("ordering").transpose("seed", "step")


def _shade_unknown(above: Axes, below: Axes, unknown: np.ndarray, size: int) -> None:
    """Shades the steps without an estimate, and compresses them if they are many."""
    if not unknown.size:
        return
    start, end = unknown[0] - 0.5, unknown[-1] + 0.5
    for axes in (above, below):
        axes.axvspan(start, end, color=_SHADE, linewidth=0, zorder=0)
    known = size + 1 - (end - start)
    if end - start > known / 6:  # a narrower one has no space for text
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
        forward, inverse = (
            partial(np.interp, xp=a, fp=b) for a, b in ((true, shown), (shown, true))
        )
        above.set_xscale("function", functions=(forward, inverse))
        locator = MaxNLocator(2, integer=True, min_n_ticks=1)
        ticks = [*locator.tick_values(0, start), *locator.tick_values(end, size)]
        shown_ticks = [t for t in ticks if 0 <= t <= start or end <= t <= size]
        below.set_xticks(shown_ticks)
        below.set_xlim(-known / 20, size + known / 20)


def redundancy_indices(results: xr.Dataset) -> Figure:
    """Distribution of the redundancy index of random groups of neurons.

    A panel per scope; for each group size a violin of the groups of all networks, and
    the median of every network as a point. The scale leaves out outliers; their number
    is written in the panel.
    """
    kept = drawable.select_converged(results, "redundancy_indices")
    kept, note = drawable.few_networks(kept)
    scopes, sizes = drawable.labels_of(kept, "scope"), kept["group_size"].values
    title = (
        "Redundancy index of random groups of neurons: sum of the neurons' information "
        f"with the class over their joint information{note}"
    )
    figure, panels = style.make_panels(
        results, title, len(scopes), len(scopes), sharey=True
    )
    index = kept["redundancy_index"].astype(np.float64)
    known = index.values[np.isfinite(index.values)]
    low, high = np.quantile(np.append(known, 1.0), (0.002, 0.998))
    margin = 0.08 * (high - low) or 0.5
    low, high = min(low, 1.0) - margin, max(high, 1.0) + margin
    for number, (axes, scope) in enumerate(zip(panels, scopes, strict=True)):
        outside = 0
        for position, size in enumerate(sizes):
            here = index.sel(scope=scope, group_size=size)
            values = here.values[np.isfinite(here.values)]
            outside += int(((values < low) | (values > high)).sum())
            if values.size:
                medians = here.median("group").dropna("seed").values
                # Clipping keeps the median, and the density within the scale.
                clipped, look = np.clip(values, low, high), style.look(number)
                style.draw_distribution(axes, position, clipped, look, medians)
        axes.axhline(1, **style.REFERENCE)
        axes.set_title(drawable.panel_title(scope), fontsize="medium")
        axes.set_xticks(np.arange(len(sizes)), sizes)
        axes.set_xlabel("neurons in a group")
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        if outside:
            style.write_in_corner(axes, f"{outside} outside the scale", "upper right")
    panels[0].set_ylim(low, high)
    panels[0].set_ylabel("redundancy index")
    entries = style.distribution_entries(
        "median of one network's groups", "density of the groups"
    )
    entries[style.SIGN.replace("0", "1")] = style.REFERENCE
    style.add_legend(figure, entries)
    return figure
