"""Several runs, or pruned networks, in one figure."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from ioca_jax.plots import selection, style
from ioca_jax.results.files import in_words


def claims_overview(
    table: pd.DataFrame, claims: Mapping[str, tuple[str, str]]
) -> Figure:
    """Draws every comparison that claims rest on, of many settings.

    Args:
        table: rows of ``claims.judge_claims`` with a column ``setting``.
        claims: by name, what is claimed, and what the effect is; in that order.

    Returns:
        A panel per claim, a line per setting; a mark per comparison at its effect,
        filled where the claim holds or fails.
    """
    settings = list(dict.fromkeys(table["setting"]))
    columns = min(len(claims), 3)
    rows = -(-len(claims) // columns)
    figure = Figure(
        figsize=(2.4 + 3.0 * columns, 0.8 + rows * (1.1 + 0.16 * len(settings))),
        layout="constrained",
    )
    figure.suptitle(
        "What holds of the claims: a mark per comparison (scope, clamp, measure), mean "
        "over networks",
        fontsize="medium",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    looks = {
        "holds": {"color": style.COLOURS[0], "marker": "o"},
        "fails": {"color": style.COLOURS[3], "marker": "X"},
        "undecided": {"color": "0.5", "marker": "o", "mfc": "none"},
    }
    handles = []
    for axes, (claim, (text, effect)) in zip(panels, claims.items(), strict=False):
        here = table[table["claim"] == claim]
        handles.clear()
        for verdict, look in looks.items():
            chosen = here[here["verdict"] == verdict]
            lines = [settings.index(name) for name in chosen["setting"]]
            mark = {"linestyle": "", "markersize": 5, **look}
            handles += axes.plot(chosen["effect"], lines, **mark)
        axes.axvline(0, color="black", linewidth=1, linestyle=":")
        axes.set_title(textwrap.fill(f"{claim}: {text}", 44), fontsize="small")
        axes.set_xlabel(effect, fontsize="x-small")
        axes.set_yticks(np.arange(len(settings)), settings, parse_math=False)
        axes.set_ylim(len(settings) - 0.5, -0.5)
        axes.tick_params(labelsize="x-small")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels[len(claims) :]:
        axes.remove()
    style.add_legend(figure, handles, list(looks))
    return figure


def pruning_curves(results: xr.Dataset) -> Figure:
    """Draws accuracy over the parameters that pruned networks have left.

    Args:
        results: what ``experiments.prune`` writes: ``accuracy`` by seed, ranked_by,
            keep, clamp and stage (``pruned``, ``retrained``), ``parameters`` by keep,
            ``intact_accuracy`` by seed, and ``intact_parameters``.

    Returns:
        A row of panels per clamp, a column per stage; a line per measure, its band ±
        one standard deviation over networks, random pruning, and the intact networks'
        mean.
    """
    clamps, stages = (
        selection.names_of(results, "clamp"),
        selection.names_of(results, "stage"),
    )
    figure, panels = style.make_panels(
        results,
        "Pruning: the neurons of greatest score are kept in each layer; the stages "
        "have scales of their own",
        len(clamps),
        len(stages),
        sharex=True,
        sharey="col",  # retrained networks lie close together
    )
    epochs = int(results.attrs["retrain_epochs"])
    described = {
        "retrained": f"retrained {epochs} epoch{'s' if epochs > 1 else ''}",
    }
    styles = {
        name: style.look(
            index, label=in_words(name), linestyle=style.DASHES[index // 6 % 3]
        )
        for index, name in enumerate(selection.names_of(results, "ranked_by"))
    }
    dotted = {"linestyle": ":", "linewidth": 2, "marker": ".", "zorder": 3}
    styles["random"] = {"label": "random neurons", "color": "black", **dotted}
    every_size = results["accuracy"].assign_coords(
        step=("keep", results["parameters"].values)
    )
    every_size = every_size.swap_dims(keep="step").sortby("step")
    for (clamp, stage), axes in zip(
        itertools.product(clamps, stages), panels, strict=True
    ):
        chosen = every_size.sel(clamp=clamp, stage=stage).transpose("seed", ...)
        axes.axhline(
            float(results["intact_accuracy"].mean()),
            color="0.3",
            linewidth=0.8,
            label="intact networks, mean",
        )
        style.draw_curves(
            axes,
            [(chosen.sel(ranked_by=name), look) for name, look in styles.items()],
        )
        heading = f"{described.get(stage, stage)}, clamped to {clamp}"
        axes.set_title(heading, fontsize="medium")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        if clamp == clamps[-1]:
            whole = int(results["intact_parameters"])
            axes.set_xlabel(f"parameters left (of {whole:,})")
        if stage == stages[0]:
            axes.set_ylabel("test accuracy (share correct)")
    style.add_curve_legend(figure, results)
    return figure


def compare_runs(table: pd.DataFrame) -> Figure:
    """Draws test error and areas under accuracy curves of several runs.

    Args:
        table: a row per run: ``name``, ``networks``, ``diverged``, ``test_error_mean``
            and ``test_error_sd`` in percent, and mean areas in columns named
            ``area.scope.clamp.ranked_by.direction``. Runs whose ``networks`` is missing
            have no results, and are left out.

    Returns:
        A line per run in every panel: above, its test error ± one standard deviation;
        below, a row of panels per clamp and a column per scope, a mark per order.

    Raises:
        ValueError: no run with a network that converged.
    """
    runs = table.dropna(subset=["networks"])
    if not runs["test_error_mean"].notna().to_numpy().any():
        raise ValueError(
            "compare_runs: expected a run with a network that converged, got "
            f"{len(table)} without"
        )
    areas = [name.split(".")[1:] for name in runs.columns if name.startswith("area.")]
    scopes, clamps, ranked_by = (
        list(dict.fromkeys(parts)) for parts in list(zip(*areas, strict=True))[:3]
    )
    orders = list(dict.fromkeys(tuple(parts[2:]) for parts in areas))
    # A run may lack layers, clamps or orders that others have.
    every = [
        ".".join(["area", scope, clamp, *order])
        for scope, clamp, order in itertools.product(scopes, clamps, orders)
    ]
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *every])))
    figure, top, panels = _run_panels(runs, scopes, clamps)
    lines = np.arange(len(runs))
    top.errorbar(
        runs["test_error_mean"].to_numpy(),
        lines,
        xerr=runs["test_error_sd"].fillna(0).to_numpy(),
        color="black",
        fmt="o",
        markersize=4,
        capsize=3,
    )
    has_spread = runs["test_error_sd"].notna().to_numpy().any()
    described = ", mean ± standard deviation over networks" if has_spread else ""
    top.set_xlabel(f"test error (%){described}", fontsize="small")
    measures = [name for name in ranked_by if name != "random"]
    # Within a run's line, each measure has its own height.
    heights = (np.arange(len(measures)) + 0.5) / max(1, len(measures)) - 0.5
    for (clamp, scope), axes in panels.items():
        prefix = f"area.{scope}.{clamp}"
        for index, (measure, height) in enumerate(zip(measures, heights, strict=True)):
            ends = []
            for direction, described in style.DIRECTIONS.items():
                ends.append(runs[f"{prefix}.{measure}.{direction}"].to_numpy())
                hollow = {"mfc": "white"} if direction == "descending" else {}
                axes.plot(
                    ends[-1],
                    lines + 0.7 * height,
                    label=f"{in_words(measure)}, {described}",
                    **style.look(index, linestyle="", zorder=3, **hollow),
                )
            axes.hlines(
                lines + 0.7 * height,
                *ends,
                color=style.look(index)["color"],
                linewidth=0.8,
            )
        if "random" in ranked_by:
            axes.vlines(
                runs[f"{prefix}.random.random"].to_numpy(),
                lines - 0.42,
                lines + 0.42,
                color="black",
            )
    handles, labels = next(iter(panels.values())).get_legend_handles_labels()
    if "random" in ranked_by:
        mark = {"marker": "|", "markersize": 10, "markeredgewidth": 1.5}
        handles.append(Line2D([], [], linestyle="", color="black", **mark))
        labels.append("random orders, mean")
    style.add_legend(figure, handles, labels)
    return figure


def _run_panels(
    runs: pd.DataFrame, scopes: Sequence[str], clamps: Sequence[str]
) -> tuple[Figure, Axes, dict[tuple[str, str], Axes]]:
    """A panel over the whole width, and below it one by clamp and scope."""
    names = [
        _run_label(name, int(networks), int(diverged))
        for name, networks, diverged in zip(
            runs["name"], runs["networks"], runs["diverged"], strict=True
        )
    ]
    inches = len(runs) * (0.14 + 0.14 * max(name.count("\n") + 1 for name in names))
    figure = Figure(
        figsize=(
            2.5 + max(len(scopes) * 2.4, style.LEAST_WIDTH - 2.5),
            0.5 + (1 + len(clamps)) * (0.7 + inches),
        ),
        layout="constrained",
    )
    text = (
        "Runs compared: test error, and area under the accuracy curve over the share "
        "of neurons ablated, mean over networks"
    )
    if runs.filter(like="area.").isna().to_numpy().any():
        text += "; empty where a run lacks the layer, or no network converged"
    figure.suptitle(
        textwrap.fill(text, int(figure.get_figwidth() * 13)), fontsize="medium"
    )
    grid = figure.add_gridspec(1 + len(clamps), len(scopes))
    top = figure.add_subplot(grid[0, :])
    top.set_title("intact networks", fontsize="medium")
    top.set_yticks(np.arange(len(runs)), names, parse_math=False)
    top.set_ylim(len(runs) - 0.5, -0.5)
    panels: dict[tuple[str, str], Axes] = {}
    for row, clamp in enumerate(clamps):
        for column, scope in enumerate(scopes):
            axes = figure.add_subplot(
                grid[1 + row, column],
                sharex=next(iter(panels.values()), None),
                sharey=top,
            )
            axes.set_title(
                f"{selection.scope_name(scope)}, clamped to {clamp}", fontsize="medium"
            )
            axes.tick_params(labelleft=column == 0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            if row == len(clamps) - 1:
                axes.set_xlabel("area (mean share correct)", fontsize="small")
            panels[clamp, scope] = axes
    for axes in (top, *panels.values()):
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize="small")
        axes.tick_params(axis="y", length=0)
        for line in range(0, len(runs), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="0.95", zorder=-1)
    return figure, top, panels


def _run_label(name: str, networks: int, diverged: int) -> str:
    """A run's name in lines that fit beside a panel, with what was left out of it."""
    text = name.replace(",", ", ")
    if diverged:
        note = f"({diverged} of {networks} diverged, left out)"
        text += " " + note.replace(" ", "\N{NO-BREAK SPACE}")
    return textwrap.fill(text, 40, break_on_hyphens=False)
