"""Results become figures: what a reader looks at before the tables.

Nothing is computed here but means, spreads and counts over networks, random draws,
neurons and groups, and the order in which neurons are drawn: tests and intervals come
as tables out of ``claims``. Every figure is legible without colour: what differs in
colour differs in marker or line style too. Colours are those of M. Okabe and K. Ito,
"Color Universal Design", which people with the common kinds of colour blindness tell
apart.

Figures are drawn without pyplot and without touching matplotlib's global settings, so
they can be drawn in any thread and without a screen.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ioca_jax.plots import selection

# Okabe and Ito's, without black (kept for random orders) and yellow (too pale). The
# first two, which most figures need, are dark and light in print without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
# One more than the colours, so that pairs repeat only after the 42nd.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Where there are more lines than colours.
DASHES = ("-", "--", "-.")
DIRECTIONS = {"ascending": "lowest first", "descending": "highest first"}
# More lines or panels than these make than a reader can tell apart.
MEASURES_IN_A_FIGURE = 5
_PANEL = (3.3, 2.7)  # inches
LEAST_WIDTH = 6.0  # inches, for titles and legends
PANELS_IN_A_ROW = 4
# Beyond this a PDF holds the points of a panel as an image, or viewers choke on it.
_POINTS_AS_VECTORS = 5000
# Purple is redundancy and orange synergy, alone as in the diverging map.
_MAPS = {"diverging": "PuOr", "redundancy": "Purples", "synergy": "Oranges"}
SIGN = "above 0: redundancy, below: synergy"
UNKNOWN = "0.75"
NEITHER: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.5}


def draw_curves(
    axes: Axes, curves: Sequence[tuple[xr.DataArray, dict[str, Any]]]
) -> None:
    """Mean lines over seeds with bands of ± one standard deviation."""
    curves = [(curve, style) for curve, style in curves if curve.size]
    for index, (curve, style) in enumerate(curves):
        step, mean = curve["step"].values, curve.mean("seed").values
        axes.plot(
            step,
            mean,
            markevery=marker_positions(len(step), index, len(curves)),
            **style,
        )
        if curve.sizes["seed"] > 1:
            spread = curve.std("seed", ddof=1).values
            axes.fill_between(
                step,
                mean - spread,
                mean + spread,
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )


def draw_distribution(
    axes: Axes,
    place: int,
    values: np.ndarray,
    look: dict[str, Any],
    points: np.ndarray | None = None,
) -> None:
    """A violin with its median, and every value, or the points given, as a point."""
    # A layer of dead neurons is a line. What differs by rounding alone should be one
    # too: it has neither a density nor a scale.
    values = np.round(values, 9)
    violin = axes.violinplot(
        values,
        [place],
        widths=0.8,
        showextrema=False,
        showmedians=True,
        facecolor=(look["color"], 0.3),
        linecolor="black",
    )
    violin["cmedians"].set_zorder(3)
    # Multiples of the golden ratio spread evenly, and the same every time.
    points = values if points is None else points
    turns = np.arange(len(points)) * (5**0.5 - 1) / 2
    jitter = 0.4 * ((turns + 0.5) % 1 - 0.5)
    draw_points(axes, place + jitter, points, look, size=7.0)


def add_distribution_legend(
    figure: Figure,
    thing: str,
    point: str,
    lines: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """The legend of figures by ``draw_distribution``."""
    dot = Line2D([], [], linestyle="", color="0.3", marker="o", mfc="none", ms=3)
    lines = lines or {}
    add_legend(
        figure,
        [
            dot,
            Line2D([], [], color="black"),
            Patch(color="0.8"),
            *(Line2D([], [], **look) for look in lines.values()),
        ],
        [point, "median", f"density of the {thing}s", *lines],
    )


def draw_image(
    axes: Axes,
    values: np.ndarray,
    colours: str,
    label: str,
    *,
    limit: float,
    aspect: Literal["auto", "equal"],
) -> None:
    """A matrix with its colour bar; NaN is grey."""
    diverging = colours == "diverging"
    image = axes.imshow(
        values,
        cmap=colormaps[_MAPS[colours]].with_extremes(bad=UNKNOWN),
        vmin=-limit if diverging else 0.0,
        vmax=limit,
        aspect=aspect,
        interpolation="nearest",
    )
    axes.grid(visible=False)
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, extend="both" if diverging else "max")
    bar.set_label(label, fontsize="small")


def write_in_corner(
    axes: Axes,
    text: str,
    vertical: Literal["top", "bottom"],
    horizontal: Literal["left", "right"],
) -> None:
    """Small text in a corner of a panel."""
    axes.text(
        {"left": 0.02, "right": 0.98}[horizontal],
        {"bottom": 0.02, "top": 0.98}[vertical],
        text,
        transform=axes.transAxes,
        ha=horizontal,
        va=vertical,
        fontsize="x-small",
        color="0.3",
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
    )


def limit_of_most(values: np.ndarray) -> float:
    """The end of a scale that is not that of a few neurons which matter most."""
    size = np.abs(values[np.isfinite(values)])
    return (float(np.quantile(size, 0.99)) if size.size else 0.0) or 1.0


def linear_range(values: np.ndarray) -> float:
    """To where a symmetric logarithmic scale is linear.

    Most lie there; a power of ten, so that ticks do not meet.
    """
    size = np.abs(values[np.isfinite(values)])
    most = float(np.quantile(size, 0.75)) if size.size else 0.0
    return 10.0 ** float(np.ceil(np.log10(max(most, 1e-6))))


def draw_points(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    look: dict[str, Any],
    size: float,
    label: str | None = None,
) -> None:
    """Hollow points."""
    axes.scatter(
        x,
        y,
        s=size,
        marker=look["marker"],
        facecolors="none",
        edgecolors=look["color"],
        linewidths=0.6,
        alpha=0.7,
        label=label,
        rasterized=len(x) > _POINTS_AS_VECTORS,
    )


def look(index: int, **more: Any) -> dict[str, Any]:
    """Colour and marker of the index-th of the things that a panel tells apart."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        **more,
    }


def marker_positions(points: int, index: int, lines: int) -> tuple[int, int]:
    """Where a line's markers are: about eight, apart from those of other lines."""
    stride = max(1, points // 8)
    return index * stride // lines, stride


def make_panels(
    results: xr.Dataset,
    title: str,
    rows: int,
    columns: int,
    used: int | None = None,
    *,
    size: tuple[float, float] = _PANEL,
    **sharing: Any,
) -> tuple[Figure, list[Axes]]:
    """A titled figure and the panels of it that are used, row by row."""
    width = max(columns * size[0], LEAST_WIDTH)
    figure = Figure(figsize=(width, rows * size[1] + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **sharing).ravel()
    for axes in panels:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[used:] if used else ():
        axes.remove()
    text = "\n".join(
        textwrap.fill(line, int(width * 13))
        for line in (title, selection.subject(results))
    )
    figure.suptitle(text, fontsize="medium", parse_math=False)
    return figure, list(panels[:used])


def add_curve_legend(figure: Figure, results: xr.Dataset) -> None:
    """The legend of the first panel's lines and of their bands."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if results.sizes["seed"] > 1:
        handles.append(Patch(color="0.8"))
        labels.append(
            f"band: ± standard deviation over {results.sizes['seed']} networks"
        )
    add_legend(figure, handles, labels)


def add_legend(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str]
) -> None:
    """A legend below the panels, for which the figure grows."""
    width, height = figure.get_size_inches()
    inches_an_entry = 0.6 + 0.075 * max(len(label) for label in labels)
    columns = min(len(labels), max(1, int(width / inches_an_entry)))
    rows = -(-len(labels) // columns)
    figure.set_size_inches(width, height + 0.2 * rows + 0.1)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=-(-len(labels) // rows),
        fontsize="small",
        frameon=False,
        handlelength=3,
    )
