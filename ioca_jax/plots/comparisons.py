"""Several runs, settings or sizes of pruned networks in one figure."""

import textwrap
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from ioca_jax.plots import drawable, style
from ioca_jax.results.subsets import readable

_INTACT = "intact networks"
_MOST_SCOPES = 8
_LEAST_HEIGHT = 1.3  # inches; a row's label, turned, needs 0.8 of them


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
    figure, panels = style.small_multiples(
        [title],
        [list(claims)],
        lambda claim: style.Labels(
            textwrap.fill(f"{claim}: {claims[claim][0]}", 34), claims[claim][1]
        ),
        columns=3,
        height=0.7 + 0.12 * len(settings),
        share_x=lambda key: key,
    )
    looks: dict[str, style.Look] = {
        "holds": style.look(0, linestyle=""),
        "fails": style.look(3, linestyle="", marker="X"),
        "undecided": style.DOT | {"color": "0.5", "mfc": "none"},
    }
    for claim, axes in panels.items():
        here = table[table["claim"] == claim]
        for verdict, look in looks.items():
            chosen = here[here["verdict"] == verdict]
            rows = [settings.index(name) for name in chosen["setting"]]
            axes.plot(chosen["effect"], rows, **look)
        axes.axvline(0, **style.REFERENCE)
        _name_rows(axes, settings)
        style.few_ticks(axes)
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
    epochs = int(results.attrs["retrain_epochs"])
    titles = dict(zip(stages, stages, strict=True)) | {
        "retrained": f"retrained for {epochs} {'epoch' if epochs == 1 else 'epochs'}"
    }
    whole = f"remaining parameters (of {int(results['intact_parameters']):,})"
    figure, panels = style.small_multiples(
        drawable.heading(results, title),
        [[(clamp, stage) for stage in stages] for clamp in clamps],
        lambda key: style.Labels(
            titles[key[1]], whole, style.clamped_to(key[0], style.ACCURACY)
        ),
        # Retrained networks differ little, so each stage has its own scale.
        share_y=itemgetter(1),
    )
    ranked_by = drawable.labels_of(results, "ranked_by")
    looks = {
        name: style.look(index, label=readable(name), linestyle=style.DASHES[index % 3])
        for index, name in enumerate(ranked_by)
    }
    if "random" in looks:
        random = {"marker": ".", "zorder": 3, "label": "random neurons"}
        looks["random"] |= style.REFERENCE | random | {"linewidth": 1.5}
    accuracy = results["accuracy"].assign_coords(
        step=("keep", results["parameters"].values)
    )
    accuracy = accuracy.swap_dims(keep="step").sortby("step").transpose("seed", ...)
    intact = {"color": "0.3", "linewidth": 0.6, "label": "intact networks, mean"}
    for (clamp, stage), axes in panels.items():
        axes.axhline(float(results["intact_accuracy"].mean()), **intact)
        chosen = accuracy.sel(clamp=clamp, stage=stage)
        curves = [(chosen.sel(ranked_by=name), look) for name, look in looks.items()]
        style.draw_curves(axes, curves)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
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
    figure, panels = _run_panels(runs, scopes, clamps)
    top = panels.pop(_INTACT)
    rows = np.arange(len(runs))
    spread = runs["test_error_sd"].fillna(0).to_numpy()
    dot = {"color": "black", "fmt": "o", "markersize": 3, "capsize": 2, "linewidth": 1}
    top.errorbar(runs["test_error_mean"].to_numpy(), rows, xerr=spread, **dot)
    measures = [name for name in ranked_by if name != "random"]
    for (clamp, scope), axes in panels.items():
        _draw_areas(axes, runs, f"area.{scope}.{clamp}", measures)
    entries = style.drawn_entries(next(iter(panels.values())))
    if "random" in ranked_by:
        mark = {"marker": "|", "markersize": 6, "markeredgewidth": 1}
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
        axes.hlines(heights, *ends, color=colour, linewidth=0.6)
    random = _column(runs, f"{prefix}.random.random")
    axes.vlines(random, rows - 0.42, rows + 0.42, color="black", linewidth=1)


def _column(runs: pd.DataFrame, name: str) -> np.ndarray:
    """Numbers of the runs, NaN if no run has the layer, clamp or order."""
    return runs[name].to_numpy() if name in runs else np.full(len(runs), np.nan)


def _run_panels(
    runs: pd.DataFrame, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, dict[Any, Axes]]:
    """A panel of intact networks, and below it a panel per clamp and scope."""
    columns = (runs[name] for name in ("name", "networks", "diverged"))
    names = [
        _run_label(name, int(networks), int(diverged))
        for name, networks, diverged in zip(*columns, strict=True)
    ]
    inches = len(runs) * (0.08 + 0.12 * max(name.count("\n") + 1 for name in names))
    title = (
        "Comparison of runs: test error, and area under the accuracy curve, means over "
        "networks"
    )
    if runs.filter(like="area.").isna().to_numpy().any():
        title += "; empty where a run lacks the layer, or no network converged"
    # A network's only hidden layer is the whole network once more.
    shown = scopes[:1] if len(scopes) == 2 else scopes
    if len(scopes) > _MOST_SCOPES:
        places = np.linspace(0, len(scopes) - 1, _MOST_SCOPES).round().astype(int)
        shown = [scopes[place] for place in places]
        title += f"; {_MOST_SCOPES} of {len(scopes)} scopes are drawn"
    error = "test error (%)"
    if runs["test_error_sd"].notna().to_numpy().any():
        error += ",\nmean ± standard deviation\nover networks"

    def labels(key: Any) -> style.Labels:
        if key == _INTACT:
            return style.Labels(_INTACT, error)
        clamp, scope = key
        name = drawable.panel_title(scope)
        return style.Labels(name, "area (mean accuracy)", style.clamped_to(clamp))

    figure, panels = style.small_multiples(
        [title],
        [[_INTACT], *([(clamp, scope) for scope in shown] for clamp in clamps)],
        labels,
        height=max(0.5 + inches, _LEAST_HEIGHT),
        share_x=lambda key: key == _INTACT,
    )
    for axes in panels.values():
        _name_rows(axes, names)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        style.few_ticks(axes)
        for line in range(0, len(runs), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="0.95", zorder=-1)
    return figure, panels


def _run_label(name: str, networks: int, diverged: int) -> str:
    """A run's name in lines that fit beside a panel, and how many networks diverged."""
    text = name.replace(",", ", ")
    if diverged:
        note = f"({diverged} of {networks} diverged, left out)"
        text += " " + note.replace(" ", "\N{NO-BREAK SPACE}")
    return textwrap.fill(text, 32, break_on_hyphens=False)
