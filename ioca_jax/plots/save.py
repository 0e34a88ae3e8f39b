"""The figures of a run, and their files."""

import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import xarray as xr
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from ioca_jax.plots import curves, drawable, groups, neurons, pairs, training
from ioca_jax.results.files import atomic_write, writing
from ioca_jax.results.subsets import converged

_DOTS_PER_INCH = 200


def save_figures(
    results: xr.Dataset,
    directory: str | os.PathLike,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[pathlib.Path]:
    """Saves every figure for which there are data, as PNG and as PDF.

    Files are named by the figure's function (``ablation_curves_2``, ... and
    ``single_effects_2``, ... have the measures beyond the first five). The same results
    give the same bytes. ``tables`` are those of ``tabulate``.
    """
    folder = pathlib.Path(directory)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in drawable_figures(results, tables or {}).items():
        paths += save_figure(draw(), folder / name)
    return paths


def save_figure(figure: Figure, stem: pathlib.Path) -> list[pathlib.Path]:
    """Saves a figure as PNG and as PDF, each of them whole or not at all."""
    writers = {"png": partial(_write_png, figure), "pdf": partial(_write_pdf, figure)}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in writers]
    for path, write in zip(paths, writers.values(), strict=True):
        atomic_write(path, write)
    return paths


# Figure.savefig draws a figure twice for each file, once for its layout alone. The
# canvas of a format lays the figure out as it draws it.


def _write_png(figure: Figure, path: pathlib.Path) -> None:
    figure.set_dpi(_DOTS_PER_INCH)
    # Level 6, the default, takes twice the time and is 4 % smaller.
    FigureCanvasAgg(figure).print_png(path, pil_kwargs={"compress_level": 3})
    figure.set_layout_engine("none")  # the PDF has the same layout


def _write_pdf(figure: Figure, path: pathlib.Path) -> None:
    # TrueType: venues refuse Matplotlib's default, fonts of Type 3.
    with rc_context({"pdf.fonttype": 42}):
        FigureCanvasPdf(figure).print_pdf(path, metadata={"CreationDate": None})


def drawable_figures(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame]
) -> dict[str, Callable[[], Figure]]:
    """By name, functions that draw the figures for which there are data."""
    figures: dict[str, Callable[[], Figure]] = {}
    if not drawable.missing_variables(results, "training_history"):
        figures["training_history"] = partial(training.training_history, results)
    if not converged(results).sizes["seed"]:
        return figures
    measures = drawable.labels_of(results, "measure")
    preferred = "mutual_information"
    measure = preferred if preferred in measures else measures[0]
    at_once = neurons.MEASURES_IN_A_FIGURE
    for start in range(0, len(measures), at_once):
        page = f"_{start // at_once + 1}" if start else ""
        some = measures[start : start + at_once]
        for draw in (curves.ablation_curves, neurons.single_effects):
            name = f"{draw.__name__}{page}"
            figures[name] = partial(draw, results, measures=some)
    drawn = [
        neurons.measure_distributions,
        neurons.class_damage,
        partial(curves.class_curves, ranked_by=measure),
        partial(neurons.class_costs, measure=measure),
        pairs.pair_matrices,
        partial(pairs.pair_agreement, table=tables.get("pairs")),
        partial(groups.joint_information_curves, measure=measure),
        groups.redundancy_indices,
        training.trajectories,
        training.information_plane,
    ]
    if {"zero", "mean"} <= set(drawable.labels_of(results, "clamp")):
        drawn.append(partial(curves.bias_balancing, measure=measure))
    if len(measures) > 1:
        drawn.append(neurons.measure_scatter)
    if "differences" in tables:
        drawn.append(partial(curves.difference_curves, table=tables["differences"]))
    if "orders" in tables:
        drawn.append(partial(curves.order_effects, table=tables["orders"]))
    for draw in drawn:
        name = draw.func.__name__ if isinstance(draw, partial) else draw.__name__
        if not drawable.missing_variables(results, name):
            figures[name] = partial(draw, results)
    return figures
