"""Figures of small results, each drawn once for all tests that look at it."""

import re
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from synthetic import THREE, joint_results, synthetic_results

from ioca_jax import plots

# By figure, what its function needs beside results.
PLAIN: dict[str, dict[str, Any]] = {
    "ablation_curves": {},
    "bias_balancing": {},
    "class_costs": {"measure": "mutual_information"},
    "class_curves": {"ranked_by": "mutual_information"},
    "measure_distributions": {},
    "measure_scatter": {},
    "single_effects": {},
    "training_history": {},
}
OF_COUNTS = {"class_damage"}
INTERACTIONS = {
    "joint_information_curves",
    "pair_agreement",
    "pair_matrices",
    "redundancy_indices",
}
TRAJECTORIES = {"information_plane", "trajectories"}


@cache
def small() -> xr.Dataset:
    """Results of 3 networks of 4 and 3 neurons, with interactions and trajectories."""
    return joint_results(hidden=(4, 3))


def draw(name: str, results: xr.Dataset, **given: Any) -> Figure:
    if name in ("difference_curves", "order_effects"):
        given = {"table": tables()[name]} | given
    return getattr(plots, name)(results, **PLAIN.get(name, {}) | given)


@cache
def drawn(name: str) -> Figure:
    """A figure of ``small``, which no test changes."""
    return draw(name, small())


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Tables of comparisons of orders, with random numbers in them."""
    generator = np.random.default_rng(3)
    rows = [
        {"scope": scope, "clamp": clamp, "ranked_by": m, "direction": d, "step": step}
        for scope, size in (("network", 7), ("layer_1", 4), ("layer_2", 3))
        for clamp in ("zero", "mean")
        for m in THREE
        for d in ("ascending", "descending")
        for step in range(size + 1)
    ]
    differences = pd.DataFrame(rows)
    differences[["low", "mean", "high"]] = np.sort(
        generator.normal(size=(len(rows), 3)), axis=1
    )
    orders = differences.query("step == 0").assign(effect=differences["mean"])
    p_values = generator.choice([0.01, 0.2], len(orders))
    orders = orders.assign(p_corrected=p_values)
    return {"difference_curves": differences, "order_effects": orders}


least = partial(
    synthetic_results, hidden=(2,), seeds=2, measures=THREE[:2], random_orders=1
)


def panel_names(figure: Figure) -> list[str]:
    """Titles of the panels, with the clamp that their row's first panel is of."""
    names, titles, clamp = [], {}, ""
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            continue
        if axes.get_ylabel():
            _, found, clamp = axes.get_ylabel().partition("clamped to ")
            clamp = ", " + found + clamp if found else ""
        spec = axes.get_subplotspec()
        assert spec is not None
        column = spec.colspan.start  # a title stands on the uppermost panel it is of
        titles[column] = axes.get_title() or titles.get(column, "")
        names.append(re.sub(r": \d+( neurons)?$", "", titles[column]) + clamp)
    return names


def panel(figure: Figure, name: str) -> Axes:
    """The only panel of a name, or of a title; a colour bar is none."""
    (index,) = (i for i, one in enumerate(panel_names(figure)) if one == name)
    return figure.axes[index]


def labelled(figure: Figure, label: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == label)
    return axes


def line(axes: Axes, label: str) -> Line2D:
    (found,) = (line for line in axes.get_lines() if line.get_label() == label)
    return found


def heights(drawn: Line2D) -> np.ndarray:
    return np.asarray(drawn.get_ydata())


def drawn_points(axes: Axes) -> list[Line2D]:
    """The points of each layer or group, which no line joins."""
    return [line for line in axes.get_lines() if line.get_linestyle() == "None"]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for made in figure.legends for text in made.get_texts()]


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def bands(axes: Axes) -> list[tuple[float, float]]:
    """The lower and upper end of every band at its start, 0."""
    ends = []
    for band in axes.collections:
        vertices = np.asarray(band.get_paths()[0].vertices)
        at_start = vertices[vertices[:, 0] == 0, 1]
        ends.append((at_start.min(), at_start.max()))
    return ends
