"""The page of results: what is planted, and which measures find it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ioca_jax.inference.statistics import mean_interval
from ioca_jax.report.sections import markdown

from . import sections
from .measures import ALL, CLAMPS, ORACLE, RANDOM
from .weights import KINDS, UNITS

Table = sections.Table
_USELESS = ("irrelevant", "constant", "dead")
_MEANINGS = {
    "graded": "passes a feature of its own, read with one of five weights",
    "duplicate": "two units pass one feature; half of its weight reads each",
    "exclusive or": "two units pass features whose exclusive or is read, never alone",
    "principal": "passes a feature that a backup passes too",
    "backup": "is read only where its principal outputs nothing",
    "decoy": "passes an informative feature that nothing reads",
    "irrelevant": "passes a feature that is independent of the class; nothing reads it",
    "constant": "outputs one number, which is read and offset by a bias",
    "dead": "outputs 0",
}
_HEAD = """# An instrument with known truth

Networks whose important units are planted, and what the library's measures, orders and
tests make of them. `python -m experiments.known_truth` writes this page.

## How to run it, and how to cite it

```console
$ python -m experiments.known_truth            # all of it
$ python -m experiments.known_truth --quick    # small numbers, for a look
$ python -m experiments.known_truth --parts=measures --page=mine.md \\
    --measures=package.module:function
```

The last command adds a measure of your own to the tables below: a `Score`, or a
function of a `Measurement`, as `docs/guides/scores.md` says. What is finished is kept
under `--workdir`, and the same command goes on from there.

Cite it as "ioca_jax {version}, instrument with known truth, seed {seed}"; its
repository has a `CITATION.cff`.

## What is planted

A network reads thirteen binary features. Each of the {units} units of its first layer
passes one, is constant, or is dead; the second layer computes what needs two units.
The places of units, their scales and the features of every network are drawn anew.
Given the class, the features that different networks read are independent, so networks
are. `tests/experiments/test_known_truth.py` checks what is planted by editing weights
in NumPy.
"""


def write_page(parts: Mapping[str, Table], about: Mapping[str, Any]) -> str:
    """The page, of those parts that there are."""
    text = [_HEAD.format(units=len(UNITS), **about), _kinds()]
    misses: list[str] = []
    if "measures" in parts:
        text += _of_measures(parts["measures"])
    if "pairs" in parts:
        text += sections.of_pairs(parts["pairs"], misses)
    if "layers" in parts:
        text += sections.of_layers(parts["layers"], misses)
    if "nulls" in parts:
        text += sections.of_nulls(parts["nulls"], misses)
    if "pairs" in parts:
        text += sections.of_power(parts["pairs"], misses)
    if misses:
        text += ["## What misses its target", "\n".join(f"- {m}" for m in misses)]
    return "\n\n".join(part.strip("\n") for part in text) + "\n"


def _kinds() -> str:
    rows = []
    for kind in KINDS:
        units = [unit for unit in UNITS if unit.kind == kind]
        weights = ", ".join(dict.fromkeys(f"{u.importance:g}" for u in units))
        row = {"kind": kind, "units": len(units), "planted importance": weights}
        rows.append(row | {"a unit": _MEANINGS[kind]})
    return markdown(pd.DataFrame(rows))


def _text(value: float) -> str:
    """A number; nothing where it is not defined, as the tau of equal scores."""
    return "" if np.isnan(value) else f"{value:.2f}"


def _interval(values: np.ndarray) -> str:
    """The mean over networks and its 95 % interval."""
    if len(values) < 3:
        return f"{np.mean(values):.2f}"
    low, high = mean_interval(np.asarray(values, np.float64))
    return f"{np.mean(values):.2f} ({low:.2f} to {high:.2f})"


def _of_measures(rows: Table) -> list[str]:
    networks = rows["network"].nunique()
    dense = rows[rows["architecture"] == rows["architecture"].iloc[0]]
    names = dict.fromkeys(rows["measure"])
    by = dense.groupby(["measure", "quantity"])["value"]
    means, spread = by.mean(), by.apply(lambda v: _interval(v.to_numpy()))
    columns = [kind for kind in KINDS if kind not in _USELESS] + ["tau of graded"]
    of_dense = [
        {
            "measure": name,
            ALL: spread[name, ALL],
            **{column: _text(means[name, column]) for column in columns},
        }
        for name in names
        if (name, ALL) in means
    ]
    regret = [
        {"measure": name}
        | {clamp: spread[name, f"regret, {clamp}"] for clamp in CLAMPS}
        for name in names
        if (name, ALL) in means and name != ORACLE
    ]
    everywhere = rows[rows["quantity"] == ALL].pivot_table(
        index="measure", columns="architecture", values="value", sort=False
    )
    by_architecture = everywhere.map(_text)
    return [
        "## Which measures find the planted units",
        f"AUROC in the dense networks: the chance that a planted unit scores above a "
        f"unit of no use, ties counted half; means over {networks} networks. "
        f'"{ALL}" compares the units whose planted importance is above 0 with all '
        "others, decoys and backups among these, with its 95 % interval. The columns "
        "of kinds compare them with irrelevant, constant and dead units: for a decoy "
        "and a backup 1 means that the measure takes them for important. A unit that "
        "cannot be told from an irrelevant one has 0.83 where constant and dead units "
        "score below it. The last column is Kendall's tau-b with the planted sizes.",
        markdown(pd.DataFrame(of_dense)),
        f'"{ALL}" by architecture. In untrained networks, whose weights are drawn, the '
        "same places mean nothing, and 0.5 is right.",
        markdown(by_architecture.reset_index()),
        "### Order regret",
        "The normalised area of ascending order by planted importance less that of "
        "ascending order by the measure, dense networks, by clamp. Below 0 a measure's "
        "order is better than the planted one.",
        markdown(pd.DataFrame(regret)),
        *_told(means, list(names)),
    ]


def _told(means: Table, names: list[str]) -> list[str]:
    """What the tables say, from their figures."""
    names = [n for n in names if n not in (ORACLE, RANDOM) and (n, ALL) in means]

    def those(kind: str, least: float, most: float = 1.0) -> str:
        chosen = [n for n in names if least <= means[n, kind] <= most]
        return ", ".join(f"`{name}`" for name in chosen) or "none"

    best = sorted(names, key=lambda name: -means[name, ALL])[:3]
    lines = [
        f"Best over all in dense networks: {', '.join(f'`{n}`' for n in best)}.",
        f"Measures that find exclusive-or pairs (0.9 or more): "
        f"{those('exclusive or', 0.9)}; that do not (0.6 or less): "
        f"{those('exclusive or', 0, 0.6)}.",
        f"Measures that take decoys for important (0.9 or more): "
        f"{those('decoy', 0.9)}; a decoy is informative and not read.",
        f"Measures that take backups for important (0.9 or more): "
        f"{those('backup', 0.9)}; measures that do not find the principal (0.6 or "
        f"less), which its backup replaces: {those('principal', 0, 0.6)}.",
    ]
    return ["### What follows", "\n".join(f"- {line}" for line in lines)]
