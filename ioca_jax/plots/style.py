"""Colours, panels, legends and the drawing that figures share.

A figure is as wide as the text of a paper, or as one of two columns, and fits a page
with its text in 7 and 8 points. It is legible without colour: what differs in colour
also differs in marker, line style or place. The colours of measures are those of M.
Okabe and K. Ito, "Color Universal Design", which people with common colour vision
deficiencies can distinguish; layers go from dark to light with their depth.

Figures are drawn without pyplot and without changes to matplotlib's global settings,
so they can be drawn in any thread and without a screen.
"""

import textwrap
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
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
_MAPS = {
    "diverging": "PuOr",
    "redundancy": "Purples",
    "synergy": "Oranges",
    "accuracy": "viridis",
}
UNKNOWN = "0.75"  # the grey of matrix entries without a value
BAND = "0.8"  # the grey that stands for bands in legends
REFERENCE: Look = {"color": "black", "linestyle": ":", "linewidth": 0.8}
DOT: Look = {"linestyle": "", "color": "0.3", "marker": "o", "markersize": 3}
LONG_NAME = 8  # characters; longer names do not fit side by side
TEXT_WIDTH, COLUMN_WIDTH = 6.75, 3.25  # inches
FONT, _TITLE_FONT = 7, 8  # points
_INCHES_A_CHARACTER = 0.0078 * FONT  # the mean of the font
PAGE = 7.8  # inches, for panels
# A PDF holds more points than this as an image, since viewers are slow with them.
_POINTS_AS_VECTORS = 5000


class Labels(NamedTuple):
    """Of a panel: its title and what its axes show."""

    title: str = ""
    x: str = ""
    y: str = ""


def look(index: int, **more: Any) -> Look:
    """Colour and marker of a panel's line number ``index``."""
    colour, marker = COLOURS[index % len(COLOURS)], _MARKERS[index % len(_MARKERS)]
    thin = {"linewidth": 1, "markersize": 3, "markeredgewidth": 0.7}
    return {"color": colour, "marker": marker, **thin, **more}


def layer_looks(results: xr.Dataset) -> dict[Any, Look]:
    """Looks of the layers, labelled with their names, dark to light by depth."""
    layers = layers_of(results)
    shades = colormaps["viridis"](np.linspace(0, 0.6, len(layers)))
    return {
        layer: look(
            index, color=to_hex(shades[index]), label=drawable.layer_name(layer)
        )
        for index, layer in enumerate(layers)
    }


def order_label(ranked_by: str, direction: str) -> str:
    """An order's name for legends and titles."""
    if ranked_by == "random":
        return "random order"
    return f"{readable(ranked_by)}, {DIRECTIONS[direction]}"


def order_looks(
    known: Sequence[str], chosen: Sequence[str] | None = None
) -> dict[tuple[str, str], Look]:
    """Looks of both orders of each chosen measure, by ``(ranked_by, direction)``.

    A measure looks the same in every figure of the results, whose measures are
    ``known``. Descending orders are dashed and have hollow markers.
    """
    hollow = {"ascending": {}, "descending": {"linestyle": "--", "mfc": "white"}}
    return {
        (measure, direction): look(
            known.index(measure),
            label=order_label(measure, direction),
            **hollow[direction],
        )
        for measure in chosen or known
        for direction in DIRECTIONS
    }


def random_looks(results: xr.Dataset) -> dict[tuple[str, str], Look]:
    """The look of random orders, by ``(ranked_by, direction)``; empty without them."""
    if "random" not in results["ranked_by"]:
        return {}
    label = drawable.random_label(results)
    return {("random", "random"): {**REFERENCE, "linewidth": 1.5, "label": label}}


def small_multiples(
    heading: Sequence[str],
    blocks: Sequence[Sequence[Any]],
    labels: Callable[[Any], Labels],
    *,
    columns: int = drawable.COLUMNS,
    height: float | None = None,
    share_x: Callable[[Any], Hashable] = lambda key: None,
    share_y: Callable[[Any], Hashable] = lambda key: None,
) -> tuple[Figure, dict[Any, Axes]]:
    """A titled figure of panels of one size, by key.

    Args:
        heading: the title's paragraphs.
        blocks: the panels' keys; each block begins a row, and goes on in the next ones.
        labels: of a key. A title stands where the panel above has another one, the
            label of an axis where the neighbour has another axis.
        columns: at most.
        height: of a panel, inches; by default so that the panels fit a page.
        share_x: panels of one value share their x-axis.
        share_y: likewise.
    """
    longest = max(map(len, blocks))
    columns = -(-longest // -(-longest // columns))
    key_at: dict[tuple[int, int], tuple[Any, int]] = {}
    rows = 0
    for block, keys in enumerate(blocks):
        for index, key in enumerate(keys):
            key_at[rows + index // columns, index % columns] = key, block
        rows += -(-len(keys) // columns)
    height = height or min(2.1, 0.6 + 3.2 / columns, max(PAGE / rows, 0.85))
    width = TEXT_WIDTH if len(key_at) > 1 else COLUMN_WIDTH
    figure = Figure(figsize=(width, rows * height))
    pads = {"w_pad": 0.03, "h_pad": 0.03, "wspace": 0, "hspace": 0}  # inches
    figure.set_layout_engine("constrained", **pads)
    grid = figure.add_gridspec(rows, columns)
    panels, of_x, of_y = {}, {}, {}
    for (row, column), (key, block) in key_at.items():
        x, y = share_x(key), share_y(key)
        axes = figure.add_subplot(
            grid[row, column], sharex=of_x.get(x), sharey=of_y.get(y)
        )
        panels[key] = of_x[x] = of_y[y] = axes
        below, left = key_at.get((row + 1, column)), key_at.get((row, column - 1))
        is_lowest = below is None or share_x(below[0]) != x
        is_first = left is None or share_y(left[0]) != y
        prepare_axes(axes)
        axes.tick_params(labelbottom=is_lowest, labelleft=is_first)
        title, x_label, y_label = labels(key)
        above = key_at.get((row - 1, column))
        if above is None or labels(above[0]).title != title:
            # Without a height, matplotlib searches for one.
            axes.set_title(title, fontsize=FONT, y=1.0, pad=3, parse_math=False)
        if is_lowest and (below is None or below[1] != block):
            axes.set_xlabel(x_label, labelpad=2)
        if is_first:
            axes.set_ylabel(y_label, labelpad=2)
    add_title(figure, *heading)
    return figure, panels


def prepare_axes(axes: Axes) -> None:
    """Pale grid lines behind everything else, thin lines, and text of the size."""
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    # The other two hold the ticks; these have the extent of the panel itself.
    axes.spines[["top", "right"]].set_in_layout(False)
    axes.spines[:].set_linewidth(0.6)
    axes.tick_params(which="both", labelsize=FONT, length=2, width=0.6, pad=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(FONT)
        axis.get_offset_text().set_fontsize(FONT)


def clamped_to(clamp: str, label: str = "") -> str:
    """A label of a row of panels that says to what neurons are clamped, if to one."""
    clamped = f"clamped to {clamp}" if clamp else ""
    return ",\n".join(part for part in (label, clamped) if part)


def add_title(figure: Figure, *paragraphs: str) -> None:
    """The figure's title, wrapped to its width, for which the figure grows."""
    width, height = figure.get_size_inches()
    characters = int(width / (_INCHES_A_CHARACTER * _TITLE_FONT / FONT))
    # Lines do not break within "clamped to mean", whose words stay together.
    text = "\n".join(
        textwrap.fill(
            part.replace(
                "clamped to ", "clamped\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"
            ),
            characters,
            break_on_hyphens=False,
        )
        for part in paragraphs
    ).replace("\N{NO-BREAK SPACE}", " ")
    figure.suptitle(text, fontsize=_TITLE_FONT, parse_math=False)
    figure.set_size_inches(width, height + 0.14 * (text.count("\n") + 1) + 0.06)


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
    inches_an_entry = 0.55 + _INCHES_A_CHARACTER * max(len(label) for label in entries)
    columns = min(len(entries), max(1, int(width / inches_an_entry)))
    rows = -(-len(entries) // columns)
    figure.set_size_inches(width, height + 0.14 * rows + 0.06)
    figure.legend(
        handles,
        list(entries),
        loc="outside lower center",
        ncols=-(-len(entries) // rows),
        fontsize=FONT,
        frameon=False,
        handlelength=2.5,
        labelspacing=0.3,
        columnspacing=1.5,
        borderpad=0.2,
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
    """Start and stride of a line's markers: about six, apart from other lines'."""
    stride = max(1, points // 6)
    return index * stride // lines, stride


def set_integer_ticks(axes: Axes) -> None:
    """At most five ticks on the x-axis, at integers."""
    steps = [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=steps))


def name_classes(axis: Axis, classes: np.ndarray, panels: int) -> None:
    """The names of as many classes as there is space for in one of some panels."""
    every = -(-len(classes) // (10 if panels <= 4 * drawable.COLUMNS else 4))
    axis.set_ticks(range(0, len(classes), every), classes[::every], fontsize=FONT - 1)
    axis.set_tick_params(length=0)


def few_ticks(axes: Axes) -> None:
    """At most four ticks on the x-axis, whose numbers do not touch."""
    axes.xaxis.set_major_locator(MaxNLocator(3))


def draw_points(axes: Axes, x: Any, y: Any, look: Look, size: float = 2) -> None:
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
        alpha=0.8,
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
    )
    # violinplot itself takes no colours before matplotlib 3.11.
    bodies: Any = violin["bodies"]
    for body in bodies:
        body.set(facecolor=look["color"], alpha=0.3)
    violin["cmedians"].set(color="black", zorder=3, linewidth=1)
    points = values if points is None else points
    # Multiples of the golden ratio spread the points evenly and reproducibly.
    turns = np.arange(len(points)) * (5**0.5 - 1) / 2
    jitter = 0.4 * ((turns + 0.5) % 1 - 0.5)
    draw_points(axes, position + jitter, points, look, size=1.6)


def distribution_entries(points: str, density: str) -> dict[str, Look | str]:
    """Legend entries of figures by ``draw_distribution``."""
    return {points: DOT | {"mfc": "none"}, "median": {"color": "black"}, density: BAND}


def draw_image(
    axes: Axes, values: np.ndarray, colours: str, limit: float, **options: Any
) -> AxesImage:
    """A matrix in the colours of a scale that ends at ``limit``; NaN is grey."""
    image = axes.imshow(
        values,
        cmap=colormaps[_MAPS[colours]].with_extremes(bad=UNKNOWN),
        vmin=-limit if colours == "diverging" else 0.0,
        vmax=limit,
        interpolation="nearest",
        **options,
    )
    axes.grid(visible=False)
    return image


def add_colour_bar(
    axes: Axes | Sequence[Axes], image: ScalarMappable, label: str, **options: Any
) -> None:
    """A colour bar beside a panel, or beside all panels of one scale."""
    some = [axes] if isinstance(axes, Axes) else list(axes)
    figure = some[0].get_figure()
    assert isinstance(figure, Figure)
    size = {"aspect": 30, "fraction": 0.05, "pad": 0.01} if len(some) > 1 else {}
    bar = figure.colorbar(image, ax=some, **size | options)
    bar.set_label(label, fontsize=FONT)
    bar.ax.spines["outline"].set_linewidth(0.6)
    bar.ax.tick_params(which="both", labelsize=FONT, length=2, width=0.6, pad=2)


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
    figure, spec = axes.get_figure(), axes.get_subplotspec()
    assert isinstance(figure, Figure)
    assert spec is not None
    # Of a row of panels, 0.4 inches are labels; a line of text is 0.15 inches high.
    inches = max(figure.get_figheight() / spec.get_gridspec().nrows - 0.4, 0.4)
    apart = 0.15 / inches * (ends[1] - ends[0] + 2 * pad)
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
    font = {"size": FONT, "color": "0.3"}
    box = AnchoredText(text, corner, prop=font, pad=0.2, borderpad=0.2)
    box.patch.set(alpha=0.7, linewidth=0)
    axes.add_artist(box)
