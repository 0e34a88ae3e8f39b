"""The page of a sweep."""

import pathlib
from collections.abc import Iterator

import pandas as pd

from ioca_jax.inference.families import too_few_for_tests
from ioca_jax.report.findings import order_name, scope_name
from ioca_jax.report.page import Chart, Section, embed, overview_page
from ioca_jax.report.page_tables import Source

_AREA = ("area", "scope", "clamp", "ranked_by", "direction")


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
    settled = table.drop(columns=list(table.filter(like="area.")))
    sources = {"runs": Source(settled, "Runs, with mean test error in %", "runs.csv")}
    sections = [Section("Settings and test errors", tables=["runs"])]
    if len(areas):
        sources["areas"] = Source(areas, "Areas under accuracy curves", "runs.csv")
        alt = "Test error of every run, and areas under its accuracy curves"
        chart = Chart(
            *("areas", "scope clamp ranked_by direction", "name"),
            unit="area under the accuracy curve, mean over networks",
            value="area",
        )
        sections.append(
            Section(
                "Areas under accuracy curves",
                "An area is the mean accuracy while neurons are ablated one after "
                "another, from 0 to 1: the greater, the less harm the order does.",
                charts=[chart],
                pictures=embed(folder / "runs.png", alt),
                tables=["areas"],
            )
        )
    done = table[table["status"] != "failed"]
    return overview_page(
        f"Sweep of {len(table)} runs",
        {"Runs": list(_errors(table)), "Orders": list(_extremes(areas))},
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
        rows += [
            (name, *about, float(area))
            for name, area in zip(known["name"], known[column], strict=True)
        ]
    return pd.DataFrame(rows, columns=["name", *_AREA[1:], "area"])


def _errors(table: pd.DataFrame) -> Iterator[str]:
    counts = table["status"].value_counts().to_dict()
    told = ", ".join(f"{number} {status}" for status, number in counts.items())
    skipped = " (skipped: finished before)" * ("skipped" in counts)
    yield f"Of {len(table)} runs: {told}{skipped}."
    known = table.dropna(subset=["test_error_mean"]).sort_values("test_error_mean")
    rows = known.to_dict("records")
    if rows:
        best, worst = rows[0], rows[-1]
        yield (
            f"The mean test error is least in {best['name']}, "
            f"{best['test_error_mean']:.2f} %, and greatest in {worst['name']}, "
            f"{worst['test_error_mean']:.2f} %."
        )


def _extremes(areas: pd.DataFrame) -> Iterator[str]:
    """In the whole network, the runs of least and greatest area in random order."""
    rows = [row for row in areas.to_dict("records") if row["scope"] == "network"]
    for clamp in dict.fromkeys(row["clamp"] for row in rows):
        for order in (("random", "random"), ("mutual_information", "descending")):
            own = [
                row
                for row in rows
                if (row["clamp"], row["ranked_by"], row["direction"]) == (clamp, *order)
            ]
            if len(own) > 1:
                least, greatest = (
                    end(own, key=lambda row: row["area"]) for end in (min, max)
                )
                yield (
                    f"In {scope_name('network')}, clamped to {clamp}, the area under "
                    f"the accuracy curve in {order_name(*order)} is from "
                    f"{least['area']:.3f} ({least['name']}) to "
                    f"{greatest['area']:.3f} ({greatest['name']})."
                )
