"""Colours, panels, legends and the drawing that figures share.

Every figure is legible without colour: what differs in colour also differs in marker
or line style. The colours are those of M. Okabe and K. Ito, "Color Universal Design",
which people with common colour vision deficiencies can distinguish.

Figures are drawn without pyplot and without changes to matplotlib's global settings,
so they can be drawn in any thread and without a screen.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnchoredText
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ioca_jax.plots import drawable
from ioca_jax.results.subsets import layers_of, readable

Look = dict[str, Any]  # properties of a line: colour, marker, style, label

# Okabe and Ito's without black (for random orders) and yellow (too pale). The first
# two, which most figures need, are dark and light in print without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
# One more than the colours: colour and marker repeat together only after 42 lines.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.")
DIRECTIONS = {"ascending": "lowest first", "descending": "highest first"}
ACCURACY = "test accuracy"
SIGN = "above 0: redundancy, below 0: synergy"
# Purple is redundancy and orange is synergy, also in the diverging map.
_MAPS = {"diverging": "PuOr", "redundancy": "Purples", "synergy": "Oranges"}
UNKNOWN = "0.75"  # the grey of matrix entries without a value
BAND = "0.8"  # the grey that stands for bands in legends
REFERENCE: Look = {"color": "black", "linestyle": ":", "linewidth": 1}
LONG_NAME = 8  # characters; longer names do not fit side by side
_PANEL = (3.3, 2.7)  # inches
LEAST_WIDTH = 6.0  # inches, for titles and legends
# A PDF holds more points than this as an image, since viewers are slow with them.
_POINTS_AS_VECTORS = 5000


def look(index: int, **more: Any) -> Look:
    """Colour and marker of a panel's line or layer number ``index``."""
    colour, marker = COLOURS[index % len(COLOURS)], _MARKERS[index % len(_MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 5, **more}


def dashed_look(index: int, **more: Any) -> Look:
    """As ``look``, and the line style changes once the colours are used up."""
    return look(index, linestyle=DASHES[index // len(COLOURS) % 3], **more)


def layer_looks(results: xr.Dataset) -> dict[Any, Look]:
    """Looks of the layers, labelled with their names."""
    layers = layers_of(results)
    return {
        layer: look(index, label=drawable.layer_name(layer))
        for index, layer in enumerate(layers)
    }


def order_label(ranked_by: str, direction: str) -> str:
    """An order's name for legends and titles."""
    if ranked_by == "random":
        return "random order"
    return f"{readable(ranked_by)}, {DIRECTIONS[direction]}"


def order_looks(measures: Sequence[str]) -> dict[tuple[str, str], Look]:
    """Looks of both orders of each measure, by ``(ranked_by, direction)``.

    Descending orders are dashed and have hollow markers.
    """
    hollow = {"ascending": {}, "descending": {"linestyle": "--", "mfc": "white"}}
    return {
        (measure, direction): look(
            index, label=order_label(measure, direction), **hollow[direction]
        )
        for index, measure in enumerate(measures)
        for direction in DIRECTIONS
    }


def random_looks(results: xr.Dataset) -> dict[tuple[str, str], Look]:
    """The look of random orders, by ``(ranked_by, direction)``; empty without them."""
    if "random" not in results["ranked_by"]:
        return {}
    label = drawable.random_label(results)
    return {("random", "random"): {**REFERENCE, "linewidth": 2, "label": label}}


def make_panels(
    results: xr.Dataset, title: str, count: int, columns: int = 4, **options: Any
) -> tuple[Figure, list[Axes]]:
    """``panel_grid`` titled with what the results are of."""
    return panel_grid((title, drawable.subject(results)), count, columns, **options)


def panel_grid(
    title: Sequence[str],
    count: int,
    columns: int,
    *,
    size: tuple[float, float] = _PANEL,
    **sharing: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with a title of some paragraphs, and its panels row by row."""
    columns = min(count, columns)
    rows = -(-count // columns)
    width = max(columns * size[0], LEAST_WIDTH)
    figure = Figure(figsize=(width, rows * size[1] + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **sharing).ravel()
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        add_grid(axes)
        # The other two hold the ticks; these have the extent of the panel itself.
        axes.spines[["top", "right"]].set_in_layout(False)
    add_title(figure, *title)
    return figure, list(panels[:count])


def clamp_panels(
    results: xr.Dataset,
    title: str,
    scopes: Sequence[str],
    clamps: Sequence[str],
    **options: Any,
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A panel for each ``(clamp, scope)``: a row per clamp, a column per scope."""
    count = len(clamps) * len(scopes)
    figure, panels = make_panels(results, title, count, len(scopes), **options)
    named = dict(zip(itertools.product(clamps, scopes), panels, strict=True))
    for (clamp, scope), axes in named.items():
        title = drawable.panel_title(scope, clamp)
        axes.set_title(title, fontsize="medium", y=1.0)  # None searches for a place
    return figure, named


def add_grid(axes: Axes, axis: Literal["both", "x"] = "both") -> None:
    """Pale grid lines behind everything else."""
    axes.grid(axis=axis, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def add_title(figure: Figure, *paragraphs: str) -> None:
    """The figure's title, wrapped to its width."""
    width = int(figure.get_figwidth() * 13)
    text = "\n".join(textwrap.fill(paragraph, width) for paragraph in paragraphs)
    figure.suptitle(text, fontsize="medium", parse_math=False)


def add_legend(figure: Figure, entries: Mapping[str, Artist | Look | str]) -> None:
    """A legend below the panels, for which the figure grows.

    By label, an entry is an artist, the look of a line, or the colour of a patch.
    """
    handles = []
    for entry in entries.values():
        if isinstance(entry, str):
            entry = Patch(color=entry)
        elif isinstance(entry, Mapping):
            entry = Line2D([], [], **entry)
        handles.append(entry)
    width, height = figure.get_size_inches()
    inches_an_entry = 0.6 + 0.075 * max(len(label) for label in entries)
    columns = min(len(entries), max(1, int(width / inches_an_entry)))
    rows = -(-len(entries) // columns)
    figure.set_size_inches(width, height + 0.2 * rows + 0.1)
    figure.legend(
        handles,
        list(entries),
        loc="outside lower center",
        ncols=-(-len(entries) // rows),
        fontsize="small",
        frameon=False,
        handlelength=3,
    )


def drawn_entries(axes: Axes) -> dict[str, Any]:
    """Legend entries of what is drawn in a panel."""
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def deviation_entry(results: xr.Dataset) -> dict[str, str]:
    """The legend entry of bands over networks; none for a single network."""
    networks = results.sizes["seed"]
    label = f"band: ± standard deviation over {networks} networks"
    return {label: BAND} if networks > 1 else {}


def add_curve_legend(figure: Figure, results: xr.Dataset) -> None:
    """The legend of the lines of the first panel and of their bands."""
    add_legend(figure, drawn_entries(figure.axes[0]) | deviation_entry(results))


def draw_band(axes: Axes, x: Any, low: Any, high: Any, look: Look) -> None:
    """A pale band in the colour of its line."""
    axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)


def draw_curves(axes: Axes, curves: Sequence[tuple[xr.DataArray, Look]]) -> None:
    """Means over networks along ``step``, with bands of ± one standard deviation."""
    curves = [(curve.astype(np.float64), look) for curve, look in curves if curve.size]
    for index, (curve, look) in enumerate(curves):
        step, mean = curve["step"].values, curve.mean("seed").values
        markers = marker_positions(len(step), index, len(curves))
        axes.plot(step, mean, markevery=markers, **look)
        if curve.sizes["seed"] > 1:
            spread = curve.std("seed", ddof=1).values
            draw_band(axes, step, mean - spread, mean + spread, look)


def marker_positions(points: int, index: int, lines: int) -> tuple[int, int]:
    """Start and stride of a line's markers: about eight, apart from other lines'."""
    stride = max(1, points // 8)
    return index * stride // lines, stride


def set_integer_ticks(axes: Axes) -> None:
    """At most six ticks on the x-axis, at integers."""
    steps = [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=steps))


def draw_points(axes: Axes, x: Any, y: Any, look: Look, size: float) -> None:
    """Hollow points of a width in points, below lines.

    Files of markers of one line take a fraction of the time of a scatter's.
    """
    axes.plot(
        x,
        y,
        linestyle="",
        marker=look["marker"],
        markersize=size,
        markerfacecolor="none",
        markeredgecolor=look["color"],
        markeredgewidth=0.6,
        alpha=0.7,
        label=look.get("label"),
        rasterized=len(x) > _POINTS_AS_VECTORS,
        zorder=1,
    )


def draw_distribution(
    axes: Axes,
    position: int,
    values: np.ndarray,
    look: Look,
    points: np.ndarray | None = None,
) -> None:
    """A violin with its median, and every value, or the given points, as points."""
    # Values that differ by rounding alone have neither a density nor a scale; equal
    # values, as of a layer of dead neurons, are drawn as a line.
    values = np.round(values, 9)
    violin = axes.violinplot(
        values,
        [position],
        widths=0.8,
        showextrema=False,
        showmedians=True,
        facecolor=(look["color"], 0.3),
        linecolor="black",
    )
    violin["cmedians"].set_zorder(3)
    points = values if points is None else points
    # Multiples of the golden ratio spread the points evenly and reproducibly.
    turns = np.arange(len(points)) * (5**0.5 - 1) / 2
    jitter = 0.4 * ((turns + 0.5) % 1 - 0.5)
    draw_points(axes, position + jitter, points, look, size=2.6)


def distribution_entries(points: str, density: str) -> dict[str, Look | str]:
    """Legend entries of figures by ``draw_distribution``."""
    dot = {"linestyle": "", "color": "0.3", "marker": "o", "mfc": "none", "ms": 3}
    return {points: dot, "median": {"color": "black"}, density: BAND}


def draw_image(
    axes: Axes,
    values: np.ndarray,
    colours: str,
    label: str,
    *,
    aspect: Literal["auto", "equal"] = "auto",
    limit: float | None = None,
) -> None:
    """A matrix with its colour bar; NaN is grey, and ``limit`` the end of the scale."""
    limit = limit or colour_limit(values)
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
    add_colour_bar(axes, image, label, extend="both" if diverging else "max")


def add_colour_bar(
    axes: Axes, image: ScalarMappable, label: str, **options: Any
) -> None:
    """A colour bar beside a panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.colorbar(image, ax=axes, **options).set_label(label, fontsize="small")


def colour_limit(values: np.ndarray) -> float:
    """The 99 % quantile of the absolute values, so that outliers do not set a scale."""
    return _absolute_quantile(values, 0.99) or 1.0


def set_asinh_scale(axes: Axes, values: np.ndarray) -> None:
    """A y-axis that is linear for most of the values, and logarithmic beyond.

    All values are within it, and its ticks are at 1 and 3 times powers of ten.
    """
    width = _absolute_quantile(values, 0.75) or 1.0
    finite = [0.0, *values[np.isfinite(values)]]
    ends = np.arcsinh(np.array([min(finite), max(finite)]) / width)
    pad = 0.05 * max(ends[1] - ends[0], 0.1)
    low, high = width * np.sinh(ends + [-pad, pad])
    axes.set_yscale("asinh", linear_width=width)
    axes.set_ylim(low, high)
    largest = max(-low, high)
    powers = 10.0 ** np.arange(np.floor(np.log10(width / 3)), np.log10(largest) + 1)
    sizes = np.outer(powers, (1, 3)).ravel()
    ticks = np.concatenate([-sizes[::-1], [0], sizes])
    places = np.arcsinh(ticks / width)
    # A line of text is about a twentieth of a panel's height.
    apart = 0.09 * (ends[1] - ends[0] + 2 * pad)
    kept = [0.0]
    for tick, place in zip(ticks, places, strict=True):
        is_inside = low <= tick <= high
        far = all(abs(place - np.arcsinh(other / width)) > apart for other in kept)
        if is_inside and far:
            kept.append(float(tick))
    axes.yaxis.set_major_locator(FixedLocator(sorted(kept)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:.2g}")


def _absolute_quantile(values: np.ndarray, share: float) -> float:
    size = np.abs(values[np.isfinite(values)])
    return float(np.quantile(size, share)) if size.size else 0.0


def write_in_corner(
    axes: Axes, text: str, corner: Literal["upper right", "lower left"]
) -> None:
    """Small text in a corner of a panel."""
    font = {"size": "x-small", "color": "0.3"}
    box = AnchoredText(text, corner, prop=font, pad=0.2, borderpad=0.2)
    box.patch.set(alpha=0.7, linewidth=0)
    axes.add_artist(box)
