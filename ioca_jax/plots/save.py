"""Which figures a run gets, and their files."""

import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ioca_jax.plots import selection, style
from ioca_jax.plots.curves import (
    ablation_curves,
    bias_balancing,
    class_curves,
    difference_curves,
    order_effects,
)
from ioca_jax.plots.groups import (
    GROUP_VARIABLES,
    ORDER_VARIABLES,
    joint_information_curves,
    redundancy_indices,
)
from ioca_jax.plots.neurons import (
    class_costs,
    measure_distributions,
    measure_scatter,
    single_effects,
)
from ioca_jax.plots.pairs import PAIR_VARIABLES, pair_agreement, pair_matrices
from ioca_jax.plots.training import (
    TRAJECTORY_VARIABLES,
    information_plane,
    training_history,
    trajectories,
)
from ioca_jax.results.files import converged, write_whole

_DOTS_PER_INCH = 150
_METADATA = {"png": {}, "pdf": {"CreationDate": None}}


def save_figures(
    results: xr.Dataset,
    directory: str | os.PathLike,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[pathlib.Path]:
    """Draws every figure that there are data for, as PNG and as PDF.

    The same results give the same bytes.

    Args:
        results: a run's results.
        directory: where the files go; made if need be.
        tables: out of ``report.tabulate``.

    Returns:
        The paths of the files written, whole each: ``training_history`` always; unless
        every network diverged also ``ablation_curves`` (and ``ablation_curves_2``, ...
        where there are many measures), ``measure_distributions``, ``single_effects``,
        ``class_curves`` and ``class_costs``, ``bias_balancing`` if there are both
        clamps, ``measure_scatter`` if there are two measures; of a run with
        interactions ``pair_matrices``, ``pair_agreement``,
        ``joint_information_curves`` and ``redundancy_indices``, of one with trajectory
        epochs ``trajectories`` and ``information_plane``; ``difference_curves`` and
        ``order_effects`` where the tables are.
    """
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in _drawable(results, tables or {}).items():
        paths += save_figure(draw(results), folder / name)
    return paths


def save_figure(figure: Figure, stem: pathlib.Path) -> list[pathlib.Path]:
    """Writes a figure as PNG and as PDF, each whole.

    Args:
        figure: what to write.
        stem: the files' path without its ending.

    Returns:
        The paths of the files.
    """
    paths = []
    for kind, metadata in _METADATA.items():
        path = stem.with_name(f"{stem.name}.{kind}")
        write_whole(
            path,
            partial(figure.savefig, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata),
        )
        paths.append(path)
        figure.set_layout_engine("none")  # laid out by now: it takes most of the time
    return paths


def _drawable(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame]
) -> dict[str, Callable[[xr.Dataset], Figure]]:
    """By name, the figures that there are data for."""
    figures: dict[str, Callable[[xr.Dataset], Figure]] = {}
    if converged(results).sizes["seed"]:
        measures, held = selection.names_of(results, "measure"), set(results.data_vars)
        for start in range(0, len(measures), style.MEASURES_IN_A_FIGURE):
            some = measures[start : start + style.MEASURES_IN_A_FIGURE]
            page = f"_{start // style.MEASURES_IN_A_FIGURE + 1}" if start else ""
            figures[f"ablation_curves{page}"] = partial(ablation_curves, measures=some)
        figures["measure_distributions"] = measure_distributions
        preferred = "mutual_information"
        chosen = preferred if preferred in measures else measures[0]
        if {"zero", "mean"} <= set(selection.names_of(results, "clamp")):
            figures["bias_balancing"] = partial(bias_balancing, measure=chosen)
        if len(measures) > 1:
            figures["measure_scatter"] = measure_scatter
        figures["single_effects"] = single_effects
        figures["class_curves"] = partial(class_curves, ranked_by=chosen)
        figures["class_costs"] = partial(class_costs, measure=chosen)
        agreement = partial(pair_agreement, table=tables.get("pairs"))
        along_orders = partial(joint_information_curves, measure=chosen)
        if held >= PAIR_VARIABLES:
            figures["pair_matrices"] = pair_matrices
            figures["pair_agreement"] = agreement
        if held >= ORDER_VARIABLES:
            figures["joint_information_curves"] = along_orders
        if held >= GROUP_VARIABLES:
            figures["redundancy_indices"] = redundancy_indices
        if held >= TRAJECTORY_VARIABLES:
            figures["trajectories"] = trajectories
            figures["information_plane"] = information_plane
        of_tables = {"differences": difference_curves, "orders": order_effects}
        for name, draw in of_tables.items():
            if name in tables:
                figures[draw.__name__] = partial(draw, table=tables[name])
    figures["training_history"] = training_history
    return figures
