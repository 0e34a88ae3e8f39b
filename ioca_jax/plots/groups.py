"""Joint information and redundancy of groups of neurons."""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import (
    mean_curve,
    orderings_of,
    scope_of,
    steps_of_scopes,
)

_NULL: style.Look = {"color": "0.5", "linestyle": ":", "linewidth": 0.8}
_SHADE = "0.92"
# By row of panels, what it shows.
_ROWS = {
    "ablated": "information of\nablated (bits)",
    "left": "information of\nremaining (bits)",
    "accuracy": style.ACCURACY,
}


def joint_information_curves(
    results: xr.Dataset,
    measure: str = "mutual_information",
    clamp: str | None = None,
) -> Figure:
    """Joint information about the class along orders of ablation.

    A panel per scope for the joint information of the ablated neurons, for that of the
    remaining neurons, each with its mean under permuted labels, and for accuracy. Steps
    without an estimate, for lack of examples, are shaded; their scale is
    compressed if they are many.
    """
    most = drawable.layers_on_a_page(len(_ROWS), 1)
    kept = drawable.select_converged(
        results, "joint_information_curves", most, clamp=clamp, measure=measure
    )
    clamp = clamp or drawable.labels_of(kept, "clamp")[-1]
    scopes = drawable.labels_of(kept, "scope")
    title = (
        "Joint information with the class (Miller-Madow) along orders of ablation, and "
        f"accuracy with neurons clamped to {clamp}"
    )
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [[(row, scope) for scope in scopes] for row in _ROWS],
        lambda key: style.Labels(
            drawable.sized_title(results, key[1]), "neurons ablated", _ROWS[key[0]]
        ),
        share_x=itemgetter(1),
        share_y=lambda key: key[0] == "accuracy",
    )
    known = drawable.labels_of(results, "measure")
    looks = style.order_looks(known, [measure]) | style.random_looks(kept)
    shaded = False
    for scope in scopes:
        curves = [
            (mean_curve(kept, clamp, scope, *order), look)
            for order, look in looks.items()
        ]
        below = panels["accuracy", scope]
        style.draw_curves(below, curves)
        below.set_ylim(bottom=0)
        style.set_integer_ticks(below)
        above = {side: panels[side, scope] for side in ("ablated", "left")}
        steps = steps_of_scopes(results)[scope]
        unknown = _draw_joint_information(above, kept, scope, steps, looks)
        shaded |= unknown.size > 0
        _shade_unknown([*above.values(), below], unknown, int(steps[-1]))
    entries: dict[str, Any] = {look["label"]: look for look in looks.values()}
    entries["permuted labels, plug-in, mean"] = _NULL
    if shaded:
        entries["too few examples for an estimate"] = _SHADE
    style.add_legend(figure, entries | style.deviation_entry(kept))
    return figure


def _draw_joint_information(
    panels: Mapping[str, Axes],
    results: xr.Dataset,
    scope: str,
    steps: np.ndarray,
    looks: Mapping[tuple[str, str], style.Look],
) -> np.ndarray:
    """Draws the estimates of both sides; returns the steps without any."""
    estimated = np.zeros(len(steps), bool)
    for side, axes in panels.items():
        curves = []
        for order, look in looks.items():
            curve, null = (
                _joint_curve(results, f"joint_information_{name}", side, scope, order)
                for name in ("miller_madow", "null")
            )
            estimated |= np.isin(steps, curve["step"].values)
            curves.append((curve, look))
            axes.plot(null["step"], null.mean("seed"), **_NULL)
        style.draw_curves(axes, curves)
    return steps[~estimated]


def _joint_curve(
    results: xr.Dataset, name: str, side: str, scope: str, order: tuple[str, str]
) -> xr.DataArray:
    """[seed, step], mean over draws, where all networks and draws have an estimate."""
    curves = results[name].sel(side=side, scope=scope)
    curves = curves.isel(ordering=orderings_of(results, *order))
    return curves.dropna("step", how="any").mean("ordering").transpose("seed", "step")


def _shade_unknown(panels: Sequence[Axes], unknown: np.ndarray, size: int) -> None:
    """Shades the steps without an estimate, and compresses them if they are many.

    The panels share their x-axis; the last one has an accuracy at these steps.
    """
    if not unknown.size:
        return
    start, end = unknown[0] - 0.5, unknown[-1] + 0.5
    for axes in panels:
        axes.axvspan(start, end, color=_SHADE, linewidth=0, zorder=0)
    known = size + 1 - (end - start)
    if not 0 < known < end - start:
        return
    true = [start - size, start, end, end + size]
    shown = [start - size, start, start + known / 3, start + known / 3 + size]
    forward, inverse = (
        partial(np.interp, xp=a, fp=b) for a, b in ((true, shown), (shown, true))
    )
    panels[0].set_xscale("function", functions=(forward, inverse))
    locator = MaxNLocator(2, integer=True, min_n_ticks=1)
    ticks = [*locator.tick_values(0, start), *locator.tick_values(end, size)]
    shown_ticks = [t for t in ticks if 0 <= t <= start or end <= t <= size]
    panels[0].set_xticks(shown_ticks)
    panels[0].set_xlim(-known / 20, size + known / 20)


def redundancy_indices(results: xr.Dataset) -> Figure:
    """Distribution of the redundancy index of random groups of neurons.

    A panel per scope; for each group size a violin of the groups of all networks, and
    the median of every network as a point. The scale leaves out outliers; their number
    is written in the panel.
    """
    most = drawable.layers_on_a_page(1, 1)
    kept = drawable.select_converged(results, "redundancy_indices", most)
    kept, note = drawable.few_networks(kept)
    scopes, sizes = drawable.labels_of(kept, "scope"), kept["group_size"].values
    title = (
        "Redundancy index of random groups of neurons: sum of the neurons' information "
        f"with the class over their joint information{note}"
    )
    figure, panels = style.small_multiples(
        drawable.heading(results, title, kept),
        [scopes],
        lambda scope: style.Labels(
            drawable.panel_title(scope), "neurons in a group", "redundancy index"
        ),
    )
    looks = {"network": style.look(0, color="0.3")} | {
        scope_of(layer): look for layer, look in style.layer_looks(kept).items()
    }
    index = kept["redundancy_index"].astype(np.float64)
    known = index.values[np.isfinite(index.values)]
    low, high = np.quantile(np.append(known, 1.0), (0.002, 0.998))
    margin = 0.08 * (high - low) or 0.5
    low, high = min(low, 1.0) - margin, max(high, 1.0) + margin
    for scope, axes in panels.items():
        outside = 0
        for position, size in enumerate(sizes):
            here = index.sel(scope=scope, group_size=size)
            values = here.values[np.isfinite(here.values)]
            outside += int(((values < low) | (values > high)).sum())
            if values.size:
                medians = here.median("group").dropna("seed").values
                # Clipping keeps the median, and the density within the scale.
                clipped = np.clip(values, low, high)
                style.draw_distribution(axes, position, clipped, looks[scope], medians)
        axes.axhline(1, **style.REFERENCE)
        axes.set_xticks(np.arange(len(sizes)), sizes)
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        if outside:
            style.write_in_corner(axes, f"{outside} outside the scale", "upper right")
        axes.set_ylim(low, high)
    entries = style.distribution_entries(
        "median of one network's groups", "density of the groups"
    )
    entries[style.SIGN.replace("0", "1")] = style.REFERENCE
    style.add_legend(figure, entries)
    return figure
