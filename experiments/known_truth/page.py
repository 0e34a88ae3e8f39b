"""The page of results, from the rows of all parts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from ioca_jax.inference.statistics import mean_interval
from ioca_jax.report.sections import markdown

from .measures import ALL, CLAMPS, ORACLE, RANDOM
from .networks import KINDS, UNITS

LEVEL, TOLERANCE, POWER, CALLED = 0.05, 0.014, 0.8, 0.95
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
_TESTS = {
    "orders": "an order differs from random order (`orders`)",
    "orders, bootstrap": "the same by `p_bootstrap`",
    "differences, a band": "a band of `differences` leaves 0 out somewhere",
    "faithfulness": "CPR or CMD differ from random order (`faithfulness`)",
    "regret": "an order differs from the learned one (`regret`)",
    "annotations": "an order costs the examples of a value more (`annotations`)",
    "effects": "a measure correlates with single effects (`effects`)",
    "class_damage": "selectivity predicts damage to a class (`class_damage`)",
    "self_repair": "later layers repair (`self_repair`)",
    "hypotheses": "neurons of low value are synergistic (`hypotheses`)",
    "claims": "a claim of the paper is decided wrongly (`claims`)",
    "settings of a sweep": "two settings of a sweep differ (`independent_test`)",
    "neurons, family": "a neuron of a network is informative (`family`)",
    "neurons, discovered": "a neuron of a network is discovered (`discovered`)",
    "pairs of a network": "a pair of a network is significant (`pair_p_value`)",
    "pairs and their effects": "a pair measure correlates with effects (`pairs`)",
    "joint, by information": "a layer is redundant or synergistic, by information",
    "joint, by pair effects": "the same by pair effects (`joint`)",
    "conclusions": "a hypothesis is confirmed or replaced (`conclusions`)",
}
_WHY = {
    "joint, by pair effects": "cross-entropy is convex in the logits, so that the cost "
    "of two units is not the sum of both costs even where units are unrelated: the "
    "null hypothesis that the table tests is false here, which its docstring says",
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
are. The tests in `tests/test_known_truth.py` check what is planted by editing weights
in NumPy.
"""


def write_page(parts: Mapping[str, pd.DataFrame], about: Mapping[str, Any]) -> str:
    """The page, of those parts that there are."""
    text = [_HEAD.format(units=len(UNITS), **about), _kinds()]
    misses: list[str] = []
    if "measures" in parts:
        text += _of_measures(parts["measures"])
    if "pairs" in parts:
        text += _of_pairs(parts["pairs"], misses)
    if "nulls" in parts:
        text += _of_nulls(parts["nulls"], misses)
    if "pairs" in parts:
        text += _of_power(parts["pairs"], misses)
    if misses:
        text += ["## What misses its target", "\n".join(f"- {m}" for m in misses)]
    text.append(f"Computed with {about['command']}, in {about['minutes']} minutes.")
    return "\n\n".join(part.strip("\n") for part in text) + "\n"


def _kinds() -> str:
    rows = []
    for kind in KINDS:
        units = [unit for unit in UNITS if unit.kind == kind]
        weights = ", ".join(dict.fromkeys(f"{u.importance:g}" for u in units))
        row = {"kind": kind, "units": len(units), "planted importance": weights}
        rows.append(row | {"a unit": _MEANINGS[kind]})
    return markdown(pd.DataFrame(rows))


def _interval(values: np.ndarray) -> str:
    """The mean over networks and its 95 % interval."""
    if len(values) < 3:
        return f"{np.mean(values):.2f}"
    low, high = mean_interval(np.asarray(values, np.float64))
    return f"{np.mean(values):.2f} ({low:.2f} to {high:.2f})"


def _of_measures(rows: pd.DataFrame) -> list[str]:
    networks = rows["network"].nunique()
    dense = rows[rows["architecture"] == rows["architecture"].iloc[0]]
    names = dict.fromkeys(rows["measure"])
    by = dense.groupby(["measure", "quantity"])["value"]
    means, spread = by.mean(), by.apply(lambda v: _interval(v.to_numpy()))
    kinds = [kind for kind in KINDS if kind not in _USELESS]
    of_dense = [
        {
            "measure": name,
            ALL: spread[name, ALL],
            **{kind: f"{means[name, kind]:.2f}" for kind in kinds},
            "tau of graded": f"{means[name, 'tau of graded']:.2f}",
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
    by_architecture = everywhere.map(lambda v: "" if np.isnan(v) else f"{v:.2f}")
    return [
        "## Which measures find the planted units",
        f"AUROC in the dense networks: the chance that a planted unit scores above a "
        f"unit of no use, ties counted half; means over {networks} networks. "
        f'"{ALL}" compares the units whose planted importance is above 0 with all '
        "others, decoys and backups among these, with its 95 % interval. The columns "
        "of kinds compare them with irrelevant, constant and dead units: for a decoy "
        "and a backup 1 means that the measure takes them for important. The last "
        "column is Kendall's tau-b with the five planted sizes.",
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


def _told(means: pd.Series, names: list[str]) -> list[str]:
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


def _share(values: pd.Series) -> tuple[float, float, float]:
    """A share and its 95 % interval; exact where all are 0 or 1."""
    number, total = len(values), float(values.sum())
    if not ((values == 0) | (values == 1)).all():
        half = 1.96 * values.std(ddof=1) / np.sqrt(number)
        return total / number, total / number - half, total / number + half
    found = scipy.stats.binomtest(round(total), number).proportion_ci()
    return total / number, found.low, found.high


def _of_pairs(rows: pd.DataFrame, misses: list[str]) -> list[str]:
    of_networks = rows[rows["of"] == "network"]
    table = []
    for (planted, instrument), group in of_networks.groupby(
        ["planted", "instrument"], sort=False
    ):
        share, low, high = _share(group["right"])
        is_error = instrument.endswith("any pair")
        row = {"planted": planted, "instrument": instrument, "share": f"{share:.3f}"}
        table.append(row | {"95 % interval": f"{low:.3f} to {high:.3f}"})
        if not is_error and share < CALLED:
            misses.append(
                f"{planted} by {instrument}: right in {100 * share:.0f} % of networks, "
                f"target {100 * CALLED:.0f} %."
            )
    number = of_networks.groupby(["planted", "instrument"]).size().max()
    return [
        "## Whether tables name the planted pairs and backups",
        f"Share of {number} networks with a residual path in which an instrument is "
        "right. Co-information and O-information are right where they are significant "
        "at 5 % (co-information of any pair of the network) and of the right sign; "
        "measures of groups where the planted pair is on the right side; pair effects, "
        "which have no test for single pairs, where the planted pair is among the most "
        "extreme of the layer, as many as are planted of its sign. Direct less total "
        "effects are right where the principal's are the greatest. The row of a unit "
        "of no use counts networks in which any pair with such a unit is called, which "
        "is an error. The backup works where its principal outputs 0, and not where it "
        "outputs its mean, so with clamp `mean` the principal is not repaired.",
        markdown(pd.DataFrame(table)),
    ]


def _of_nulls(rows: pd.DataFrame, misses: list[str]) -> list[str]:
    table = []
    for test, title in _TESTS.items():
        group = rows[rows["test"] == test]["share"]
        if not len(group):
            continue
        share, low, high = _share(group)
        row = {"a verdict": title, "studies": len(group), "false": f"{share:.3f}"}
        table.append(row | {"95 % interval": f"{low:.3f} to {high:.3f}"})
        if share > LEVEL + TOLERANCE:
            why = f": {_WHY[test]}" if test in _WHY else ""
            misses.append(
                f"False positives, {title}: {100 * share:.1f} % ({100 * low:.1f} to "
                f"{100 * high:.1f} %){why}."
            )
    return [
        "## False positives",
        "Null networks of two laws, each with two layers of six units side by side, in "
        "studies of eight. In *exchangeable* networks all units pass features of one "
        "law and are read with one weight: no order, layer, clamp or annotation is "
        "better than another. In *uninformative* ones the units' features are "
        "independent of the class, and a path around them classifies. A verdict is the "
        "whole family of a table, false where any row is significant at a corrected 5 "
        "%; of the rows on neurons and pairs each network is a verdict, of bands each "
        f"curve. Target: at most {100 * LEVEL:g} ± {100 * TOLERANCE:g} %. The learned "
        "order is replaced by one by chance. Claim 1 says that ascending order is no "
        "better than random order, which is true here: it may hold. Trends along "
        "training have no row, as training that changes nothing in expectation is not "
        "to be had.",
        markdown(pd.DataFrame(table)),
    ]


def _of_power(rows: pd.DataFrame, misses: list[str]) -> list[str]:
    of_studies = rows[rows["of"] == "study"]
    if not len(of_studies):
        return []
    table = []
    for instrument, group in of_studies.groupby("instrument", sort=False):
        by_size = group.groupby("networks")["right"].mean()
        row = {"table": instrument, "effect": f"{group['effect'].mean():+.3f}"}
        table.append(row | {f"{n} networks": f"{s:.2f}" for n, s in by_size.items()})
        if by_size.get(8, 1.0) < POWER:
            enough = [size for size, share in by_size.items() if share >= POWER]
            takes = f"it takes {enough[0]}" if enough else "20 are not enough"
            misses.append(
                f"Power of `{instrument}` with 8 networks: {by_size[8]:.2f}; {takes}."
            )
    number = of_studies[of_studies["networks"] == 8].groupby("instrument").size().max()
    return [
        "## Power",
        f"Share of studies ({number} of 8 networks) in which the table's test, "
        "corrected for its whole family, finds what is planted in the first layer: "
        "ascending order by mutual information is better than random order (`orders`, "
        "`faithfulness`, `claims`), mutual information correlates with effects "
        "(`effects`), selectivity with the damage to a class (`class_damage`), "
        "co-information with pair effects (`pairs`), clamp `mean`; and the second "
        "layer repairs (`self_repair`), clamp `zero`. The effect is the mean that the "
        "table shows, in its unit.",
        markdown(pd.DataFrame(table)),
    ]
