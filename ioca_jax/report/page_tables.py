"""Tables as a page shows them: rounded text, exact values, and what fits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

# Of all tables of a page, at about 40 bytes: 1.4 MB. What is left out is in files.
_MOST_CELLS = 36_000


class Cell(NamedTuple):
    """A table's cell: its text, and its value where the text is rounded."""

    text: str
    value: str = ""
    is_number: bool = False


class Source(NamedTuple):
    """A table, its title, and the address of the file that has all of it."""

    table: pd.DataFrame
    title: str
    file: str = ""


class Table(NamedTuple):
    """A table as a page shows it, and how many of its rows are left out."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left_out: int = 0
    file: str = ""


def make_tables(sources: Mapping[str, Source]) -> dict[str, Table]:
    """Tables for one page by name; the longest ones are cut to their first rows.

    Small tables are whole; the others get equal shares of what is left.
    """
    left = _MOST_CELLS
    made = {}
    by_size = sorted(sources.items(), key=lambda item: item[1].table.size)
    for waiting, (name, source) in zip(
        range(len(by_size), 0, -1), by_size, strict=True
    ):
        columns = max(1, source.table.shape[1])
        rows = min(len(source.table), max(10, left // waiting // columns))
        left -= rows * columns
        made[name] = _make_table(name, source, rows)
    return {name: made[name] for name in sources}


def _make_table(name: str, source: Source, rows: int) -> Table:
    table = source.table
    shown = [
        [_cell(value) for value in row]
        for row in table.head(rows).itertuples(index=False, name=None)
    ]
    columns = [str(column) for column in table.columns]
    return Table(name, source.title, columns, shown, len(table) - rows, source.file)


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
