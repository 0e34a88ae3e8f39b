"""Joint information and redundancy of groups of neurons."""

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ioca_jax.plots import selection, style
from ioca_jax.results.files import in_words, mean_curve, orderings_of

ORDER_VARIABLES = {"joint_information_miller_madow", "joint_information_null"}
GROUP_VARIABLES = {"redundancy_index"}
_NULL: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 0.8}
_SHADE = "0.92"


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
    selection.check_held(
        results, "joint_information_curves", ORDER_VARIABLES, "interactions"
    )
    kept = selection.converged_only(results)
    clamp = selection.clamp_or_last(kept, "joint_information_curves", clamp)
    selection.check_named(kept, "joint_information_curves", "measure", measure)
    scopes = selection.names_of(kept, "scope")
    figure, panels = style.make_panels(
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
        (measure, "ascending"): (f"{in_words(measure)}, lowest first", style.look(0)),
        (measure, "descending"): (
            f"{in_words(measure)}, highest first",
            style.look(1, linestyle="--"),
        ),
        ("random", "random"): (selection.random_label(kept), random),
    }
    if "random" not in kept["ranked_by"]:
        del orders["random", "random"]
    grid = np.reshape(np.asarray(panels, object), (2, len(scopes)))
    shaded = False
    for (above, below), scope in zip(grid.T, scopes, strict=True):
        size = selection.scope_size(kept, scope)
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
        style.draw_curves(above, curves)
        style.draw_curves(
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
        above.set_title(selection.scope_name(scope), fontsize="medium")
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
    style.add_legend(figure, handles, labels)
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
    selection.check_held(results, "redundancy_indices", GROUP_VARIABLES, "interactions")
    kept = selection.converged_only(results)
    scopes, sizes = selection.names_of(kept, "scope"), kept["group_size"].values
    figure, panels = style.make_panels(
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
                style.draw_distribution(
                    axes, place, values, style.look(number), of_networks
                )
        axes.axhline(1, **style.NEITHER)
        axes.set_title(selection.scope_name(scope), fontsize="medium")
        axes.set_xticks(np.arange(len(sizes)), sizes)
        axes.set_xlabel("neurons in a group")
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        if outside:
            style.write_in_corner(axes, f"{outside} outside the scale", "top", "right")
    panels[0].set_ylim(low, high)
    panels[0].set_ylabel("redundancy index (no unit)")
    meaning = {f"1 ({style.SIGN.replace('0', '1')})": style.NEITHER}
    style.add_distribution_legend(
        figure, "group", "median of one network's groups", meaning
    )
    return figure
