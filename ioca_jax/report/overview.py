"""The page of a sweep."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ioca_jax.inference.families import too_few_for_tests
from ioca_jax.report.findings import order_name, scope_name
from ioca_jax.report.page import Chart, Section, embed, overview_page
from ioca_jax.report.page_tables import Source

_ORDER = ("scope", "clamp", "ranked_by", "direction")


def sweep_page(table: pd.DataFrame, folder: pathlib.Path, command: str) -> str:
    """A sweep's report as HTML.

    Args:
        table: of ``runs.csv``, a row per run.
        folder: of the sweep, with the runs' folders and ``runs.png``.
        command: that made it.

    Returns:
        One page that links to the runs' pages.
    """
    areas = _areas(table)
    settled = table.drop(columns=list(table.filter(regex="^area")))
    columns = [str(name).removeprefix("test_error_") for name in settled]
    settled = settled.set_axis(columns, axis="columns")
    title = "Runs, with mean test error in %, its 95 % interval and standard deviation"
    sources = {"runs": Source(settled, title, "runs.csv")}
    errors = Chart("runs", "", "name", "mean test error (%)", "mean")
    sections = [Section("Test errors and settings", "", [errors], tables=["runs"])]
    if len(areas):
        sources["areas"] = Source(areas, "Areas under accuracy curves", "runs.csv")
        alt = "Test error of every run, and areas under its accuracy curves"
        chart = Chart(
            *("areas", "scope clamp ranked_by direction", "name"),
            unit="area under the accuracy curve, mean over networks",
            value="area",
        )
        section = Section(
            "Areas under accuracy curves",
            "An area is the mean accuracy while neurons are ablated one after another, "
            "from 0 to 1: the greater, the less harm the order does. Lines are 95 % "
            "intervals over networks.",
            charts=[chart],
            pictures=embed(folder / "runs.png", alt),
            tables=["areas"],
        )
        sections.insert(0, section)
    done = table[table["status"] != "failed"]
    counts = table["status"].value_counts().to_dict()
    told = ", ".join(f"{number} {status}" for status, number in counts.items())
    skipped = " (finished before)" * ("skipped" in counts)
    return overview_page(
        f"Sweep of {len(table)} runs: {told}{skipped}",
        {"Test errors": list(_errors(table)), "Areas": list(_extremes(areas))},
        sections,
        sources,
        {str(name): str(name) for name in done["name"]},
        command,
        _few(table),
    )


def _few(table: pd.DataFrame) -> str:
    """How many runs have too few networks above chance for tests."""
    numbers = table["above_chance"].dropna().astype(int).tolist()
    few = [number for number in numbers if too_few_for_tests(number)]
    if not few:
        return ""
    ends = " to ".join(map(str, dict.fromkeys((min(few), max(few)))))
    return (
        f"In {len(few)} of {len(numbers)} runs too few networks are above chance "
        f"({ends}): {too_few_for_tests(min(few))}."
    )


def _areas(table: pd.DataFrame) -> pd.DataFrame:
    """The columns ``area.SCOPE.CLAMP.RANKED_BY.DIRECTION`` as rows, those known."""
    rows = []
    for column in (str(name) for name in table if str(name).startswith("area.")):
        # A scope's name may have dots.
        head, clamp, ranked_by, direction = column.rsplit(".", 3)
        about = (head.removeprefix("area."), clamp, ranked_by, direction)
        known = table.dropna(subset=[column])
        ends = [column.replace("area", end, 1) for end in ("area_low", "area_high")]
        rows += [
            (name, *about, *numbers)
            for name, *numbers in known[["name", column, *ends]].to_numpy().tolist()
        ]
    return pd.DataFrame(rows, columns=["name", *_ORDER, "area", "low", "high"])


def _errors(table: pd.DataFrame) -> Iterator[str]:
    known = table.dropna(subset=["test_error_mean"]).sort_values("test_error_mean")
    rows = known.to_dict("records")
    if rows:
        least, greatest = (
            f"{row['name']}, {row['test_error_mean']:.2f} %"
            + _interval(row["test_error_low"], row["test_error_high"], 2, " %")
            for row in (rows[0], rows[-1])
        )
        yield f"The mean test error is least in {least}, and greatest in {greatest}."


def _extremes(areas: pd.DataFrame) -> Iterator[str]:
    """By scope and clamp, the runs of least and greatest area in random order."""
    rows = areas.to_dict("records")
    for scope, clamp in dict.fromkeys((row["scope"], row["clamp"]) for row in rows):
        for order in (("random", "random"), ("mutual_information", "descending")):
            about = (scope, clamp, *order)
            own = [row for row in rows if tuple(row[n] for n in _ORDER) == about]
            own.sort(key=lambda row: row["area"])
            if len(own) > 1:
                yield (
                    f"In {scope_name(scope)}, clamped to {clamp}, the area under the "
                    f"accuracy curve in {order_name(*order)} is {_range(own)}."
                )


def _range(rows: list[dict]) -> str:
    """The least and greatest area of runs in their order, as far as they differ."""
    if f"{rows[0]['area']:.3f}" == f"{rows[-1]['area']:.3f}":
        return f"{rows[0]['area']:.3f} in all {len(rows)} runs"
    least, greatest = (
        f"{row['name']}, {row['area']:.3f}{_interval(row['low'], row['high'], 3)}"
        for row in (rows[0], rows[-1])
    )
    return f"least in {least}, and greatest in {greatest}"


def _interval(low: float, high: float, digits: int, unit: str = "") -> str:
    """An interval over networks behind its mean, if there is one."""
    if not np.isfinite([low, high]).all():
        return ""
    return f" (95 % interval {low:.{digits}f} to {high:.{digits}f}{unit})"
