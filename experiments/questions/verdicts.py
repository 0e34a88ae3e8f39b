"""Tables of the questions: effects over networks, tests, verdicts, both sides."""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from ioca_jax.inference.families import ALPHA, judge_family
from ioca_jax.inference.statistics import significant
from ioca_jax.report.sections import markdown
from ioca_jax.results.files import atomic_write

UNDECIDED = "undecided"


def judge(
    rows: Sequence[dict], values: Sequence[np.ndarray], above: str, below: str
) -> pd.DataFrame:
    """One family: each row's mean over networks, interval, tests and verdict.

    The verdict is ``above`` where the mean is significantly above 0, ``below`` where it
    is significantly below, and undecided otherwise; p-values are corrected for all rows
    (Westfall-Young).
    """
    table = judge_family(rows, values)
    shown = significant(table["p_corrected"].to_numpy(), ALPHA)
    side = np.where(table["effect"] > 0, above, below)
    return table.assign(verdict=np.where(shown, side, UNDECIDED))


def estimates(
    table: pd.DataFrame, names: Sequence[str], effect: str, form: str = "+.3f"
) -> pd.DataFrame:
    """The columns named, and effect, interval, corrected p and verdict as text."""
    spaced = {name: name.replace("_", " ") for name in names}
    text = table.filter(list(names)).rename(columns=spaced)

    def number(value: float) -> str:
        return f"{value:{form}}" if np.isfinite(value) else ""

    text[effect] = [number(value) for value in table["effect"]]
    text["95 % interval"] = [
        f"{number(low)} to {number(high)}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    text["corrected p"] = [f"{p:.2g}" for p in table["p_corrected"]]
    return text.assign(verdict=table["verdict"])


def counts(
    table: pd.DataFrame, index: Sequence[str], by: str, above: str, below: str
) -> pd.DataFrame:
    """Rows above / below / undecided, a column for each value of ``by``."""
    order = (above, below, UNDECIDED)
    cells = table.pivot_table(
        index=list(index),
        columns=by,
        values="verdict",
        aggfunc=lambda v: " / ".join(str((v == name).sum()) for name in order),
        sort=False,
    )
    return pd.DataFrame(cells.fillna("").reset_index())


def write_report(
    folder: pathlib.Path,
    tables: Mapping[str, pd.DataFrame],
    data: Mapping[str, pd.DataFrame],
) -> str:
    """Writes results.md of titled tables, and a CSV file of each table in ``data``."""
    for name, table in data.items():
        file = folder / f"{name}.csv"
        atomic_write(file, partial(table.to_csv, index=False))
    parts = [f"{title}\n\n{markdown(table)}" for title, table in tables.items()]
    text = "\n\n".join(parts) + "\n"
    atomic_write(folder / "results.md", lambda part: part.write_text(text, "utf-8"))
    return text
