"""Several runs, settings or sizes of pruned networks in one figure."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import readable


def claims_overview(
    table: pd.DataFrame, claims: Mapping[str, tuple[str, str]]
) -> Figure:
    """The comparisons on which claims are judged, for several settings.

    ``table`` has rows of ``judge_claims`` and a column ``setting``; ``claims`` are
    texts and effects by name. A panel per claim, a row per setting; a mark per
    comparison at its effect, its colour and shape by verdict.
    """
    settings = list(dict.fromkeys(table["setting"]))
    title = (
        "Verdicts on the claims: a mark per comparison (scope, clamp, measure), mean "
        "over networks"
    )
    size = (3.8, 1.1 + 0.16 * len(settings))
    figure, panels = style.panel_grid([title], len(claims), 3, size=size, sharey=True)
    mark: style.Look = {"linestyle": "", "markersize": 5, "marker": "o"}
    looks: dict[str, style.Look] = {
        "holds": mark | {"color": style.COLOURS[0]},
        "fails": mark | {"color": style.COLOURS[3], "marker": "X"},
        "undecided": mark | {"color": "0.5", "mfc": "none"},
    }
    for axes, (claim, (text, effect)) in zip(panels, claims.items(), strict=True):
        here = table[table["claim"] == claim]
        for verdict, look in looks.items():
            chosen = here[here["verdict"] == verdict]
            rows = [settings.index(name) for name in chosen["setting"]]
            axes.plot(chosen["effect"], rows, **look)
        axes.axvline(0, **style.REFERENCE)
        axes.set_title(textwrap.fill(f"{claim}: {text}", 44), fontsize="small")
        axes.set_xlabel(effect, fontsize="x-small")
        _name_rows(axes, settings)
        axes.tick_params(labelsize="x-small")
    style.add_legend(figure, looks)
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A row per name, the first on top."""
    axes.set_yticks(np.arange(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)


def pruning_curves(results: xr.Dataset) -> Figure:
    """Accuracy of pruned networks against their remaining parameters.

    ``results`` are those of ``ioca prune``. A row of panels per clamp, a column
    per stage; a line per measure with a band of ± one standard deviation, random
    pruning, and the mean of the intact networks.
    """
    clamps, stages = (drawable.labels_of(results, name) for name in ("clamp", "stage"))
    title = "Pruning: each layer keeps its neurons of highest score"
    # Retrained networks differ little, so each stage has its own scale.
    shared = {"sharex": True, "sharey": "col"}
    figure, panels = style.clamp_panels(results, title, stages, clamps, **shared)
    looks = {
        name: style.dashed_look(index, label=readable(name))
        for index, name in enumerate(drawable.labels_of(results, "ranked_by"))
    }
    if "random" in looks:
        dotted = {"linestyle": ":", "linewidth": 2, "marker": ".", "zorder": 3}
        looks["random"] = {"label": "random neurons", "color": "black", **dotted}
    accuracy = results["accuracy"].assign_coords(
        step=("keep", results["parameters"].values)
    )
    accuracy = accuracy.swap_dims(keep="step").sortby("step").transpose("seed", ...)
    intact = {"color": "0.3", "linewidth": 0.8, "label": "intact networks, mean"}
    for (clamp, stage), axes in panels.items():
        axes.axhline(float(results["intact_accuracy"].mean()), **intact)
        chosen = accuracy.sel(clamp=clamp, stage=stage)
        curves = [(chosen.sel(ranked_by=name), look) for name, look in looks.items()]
        style.draw_curves(axes, curves)
        if stage == "retrained":
            epochs = int(results.attrs["retrain_epochs"])
            unit = "epoch" if epochs == 1 else "epochs"
            name = f"retrained for {epochs} {unit}, clamped to {clamp}"
            axes.set_title(name, fontsize="medium")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        if clamp == clamps[-1]:
            whole = int(results["intact_parameters"])
            axes.set_xlabel(f"remaining parameters (of {whole:,})")
        if stage == stages[0]:
            axes.set_ylabel(style.ACCURACY)
    style.add_curve_legend(figure, results)
    return figure


def compare_runs(table: pd.DataFrame) -> Figure:
    """Test error and areas under accuracy curves of several runs.

    ``table`` has a row per run: ``name``, ``networks`` (missing if there are no
    results), ``diverged``, ``test_error_mean`` and ``test_error_sd`` in percent, and
    mean areas in columns named ``area.scope.clamp.ranked_by.direction``. Raises
    ValueError without a network that converged.
    """
    runs = table.dropna(subset=["networks"])
    if not runs["test_error_mean"].notna().to_numpy().any():
        raise ValueError(
            "compare_runs: expected a run with a network that converged, got "
            f"{len(table)} without"
        )
    areas = runs.filter(regex="^area[.]").columns.str.removeprefix("area.")
    areas = areas.str.rsplit(".", n=3)
    scopes, clamps, ranked_by = (
        list(dict.fromkeys(parts)) for parts in list(zip(*areas, strict=True))[:3]
    )
    figure, top, panels = _run_panels(runs, scopes, clamps)
    rows = np.arange(len(runs))
    spread = runs["test_error_sd"].fillna(0).to_numpy()
    dot = {"color": "black", "fmt": "o", "markersize": 4, "capsize": 3}
    top.errorbar(runs["test_error_mean"].to_numpy(), rows, xerr=spread, **dot)
    has_spread = runs["test_error_sd"].notna().to_numpy().any()
    described = ", mean ± standard deviation over networks" if has_spread else ""
    top.set_xlabel(f"test error (%){described}", fontsize="small")
    measures = [name for name in ranked_by if name != "random"]
    for (clamp, scope), axes in panels.items():
        _draw_areas(axes, runs, f"area.{scope}.{clamp}", measures)
    entries = style.drawn_entries(next(iter(panels.values())))
    if "random" in ranked_by:
        mark = {"marker": "|", "markersize": 10, "markeredgewidth": 1.5}
        entries["random orders, mean"] = {"linestyle": "", "color": "black", **mark}
    style.add_legend(figure, entries)
    return figure


def _draw_areas(
    axes: Axes, runs: pd.DataFrame, prefix: str, measures: Sequence[str]
) -> None:
    """A row per run, in which each measure has its own height."""
    rows = np.arange(len(runs))
    looks = style.order_looks(measures)
    for index, measure in enumerate(measures):
        heights = rows + 0.7 * ((index + 0.5) / len(measures) - 0.5)
        ends = []
        for direction in style.DIRECTIONS:
            area = _column(runs, f"{prefix}.{measure}.{direction}")
            look = looks[measure, direction] | {"linestyle": "", "zorder": 3}
            axes.plot(area, heights, **look)
            ends.append(area)
        colour = looks[measure, "ascending"]["color"]
        axes.hlines(heights, *ends, color=colour, linewidth=0.8)
    random = _column(runs, f"{prefix}.random.random")
    axes.vlines(random, rows - 0.42, rows + 0.42, color="black")


def _column(runs: pd.DataFrame, name: str) -> np.ndarray:
    """Numbers of the runs, NaN if no run has the layer, clamp or order."""
    return runs[name].to_numpy() if name in runs else np.full(len(runs), np.nan)


def _run_panels(
    runs: pd.DataFrame, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, Axes, dict[tuple[str, str], Axes]]:
    """A panel over the whole width, and below it a panel per clamp and scope."""
    columns = (runs[name] for name in ("name", "networks", "diverged"))
    names = [
        _run_label(name, int(networks), int(diverged))
        for name, networks, diverged in zip(*columns, strict=True)
    ]
    inches = len(runs) * (0.14 + 0.14 * max(name.count("\n") + 1 for name in names))
    width = 2.5 + max(len(scopes) * 2.4, style.LEAST_WIDTH - 2.5)
    height = 0.5 + (1 + len(clamps)) * (0.7 + inches)
    figure = Figure(figsize=(width, height), layout="constrained")
    title = (
        "Comparison of runs: test error, and area under the accuracy curve against the "
        "share of ablated neurons, mean over networks"
    )
    if runs.filter(like="area.").isna().to_numpy().any():
        title += "; empty where a run lacks the layer, or no network converged"
    style.add_title(figure, title)
    titles = [
        [drawable.panel_title(scope, clamp) for scope in scopes] for clamp in clamps
    ]
    mosaic: list[Any] = [["intact networks"] * len(scopes), *titles]
    named = figure.subplot_mosaic(mosaic, sharey=True)
    top, *below = named.values()
    _name_rows(top, names)
    panels = dict(zip(itertools.product(clamps, scopes), below, strict=True))
    for (clamp, scope), axes in panels.items():
        if axes is not below[0]:
            axes.sharex(below[0])
        axes.tick_params(labelleft=scope == scopes[0])
        if clamp == clamps[-1]:
            axes.set_xlabel("area (mean accuracy)", fontsize="small")
    below[0].xaxis.set_major_locator(MaxNLocator(4))
    for title, axes in named.items():
        axes.set_title(title, fontsize="medium")
        style.add_grid(axes, "x")
        axes.tick_params(labelsize="small")
        axes.tick_params(axis="y", length=0)
        for line in range(0, len(runs), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="0.95", zorder=-1)
    return figure, top, panels


def _run_label(name: str, networks: int, diverged: int) -> str:
    """A run's name in lines that fit beside a panel, and how many networks diverged."""
    text = name.replace(",", ", ")
    if diverged:
        note = f"({diverged} of {networks} diverged, left out)"
        text += " " + note.replace(" ", "\N{NO-BREAK SPACE}")
    return textwrap.fill(text, 40, break_on_hyphens=False)
