"""Tables as a page shows them: rounded text, exact values, and what fits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ioca_jax.inference.claims import CLAIMS
from ioca_jax.report.columns import described
from ioca_jax.results.subsets import readable

# Of all tables of a page, at about 40 bytes: 1.4 MB. What is left out is in files.
_MOST_CELLS = 36_000
# Pages have the corrected p-value alone, and no column for every class.
_IN_FILES = (
    "^(p_value|p_bootstrap|skewness|usual_skewness|undefined|networks_for_half"
    "|selective_for_.*|(least_)?by_permutation.*)$"
)
_HEADINGS = {"networks_for_power": "networks to decide", "p_corrected": "p, corrected"}


class Cell(NamedTuple):
    """A table's cell: its text, and its value where the text is rounded."""

    text: str
    value: str = ""
    is_number: bool = False


class Source(NamedTuple):
    """A table, its title, the file that has all of it, and what its columns mean."""

    table: pd.DataFrame
    title: str
    file: str = ""
    columns: Mapping[str, str] = {}


class Table(NamedTuple):
    """A table as a page shows it, and how much of it is left out.

    Columns come with their meanings, which are empty where there are none.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    left_out: int = 0
    columns_left_out: int = 0
    file: str = ""


def make_tables(sources: Mapping[str, Source]) -> dict[str, Table]:
    """Tables for one page by name; the longest ones are cut to their first rows.

    Small tables are whole; the others get equal shares of what is left.
    """
    left = _MOST_CELLS
    made = {}
    shown = {name: _shown(source.table) for name, source in sources.items()}
    by_size = sorted(shown.items(), key=lambda item: item[1].size)
    for waiting, (name, table) in zip(range(len(by_size), 0, -1), by_size, strict=True):
        columns = max(1, table.shape[1])
        rows = min(len(table), max(10, left // waiting // columns))
        left -= rows * columns
        made[name] = _make_table(name, sources[name], table, rows)
    return {name: made[name] for name in sources}


def claim_text(name: str) -> str:
    """A claim of the paper as a page names it."""
    text = CLAIMS[name].text if name in CLAIMS else name
    return f"{text[0].upper()}{text[1:]}"


def heading(column: str) -> str:
    """A column's name above it."""
    return _HEADINGS.get(column, readable(column))


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Claims by their text, the verdict second, and no column that only files have."""
    table = table.drop(columns=list(table.filter(regex=_IN_FILES)))
    if "claim" in table:
        table = table.assign(claim=[claim_text(str(name)) for name in table["claim"]])
    if "verdict" in table:
        table.insert(1, "verdict", table.pop("verdict"))
    return table


def _make_table(name: str, source: Source, table: pd.DataFrame, rows: int) -> Table:
    shown = [
        [_cell(value) for value in row]
        for row in table.head(rows).itertuples(index=False, name=None)
    ]
    columns = {
        str(column): described(source.columns, str(column))[1]
        for column in table.columns
    }
    fewer = source.table.shape[1] - table.shape[1]
    return Table(
        name, source.title, columns, shown, len(table) - rows, fewer, source.file
    )


def _cell(value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    number = math.nan if value is None or value is pd.NA else float(value)
    if math.isnan(number):
        return Cell("", "", True)
    exact = f"{number:.8g}"
    text = exact if number.is_integer() else f"{number:.4g}"
    return Cell(text, "" if text == exact else exact, True)
