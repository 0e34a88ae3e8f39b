"""Sections of the page on pairs, layers, false positives and power."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from ioca_jax.report.sections import markdown

from .nulls import RIGHT

Table = Any  # of pandas, whose own annotations are too narrow for what follows
LEVEL, TOLERANCE, POWER, CALLED = 0.05, 0.014, 0.8, 0.95
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
    "pairs and their effects": "a pair measure correlates with effects (`pairs`)",
    "joint, by information": "a layer is redundant or synergistic, by information",
    "joint, by pair effects": "the same by pair effects (`joint`)",
    "conclusions": "a hypothesis is confirmed or replaced (`conclusions`)",
}
_WHY = {
    "pair effects": "single pairs have no test, and the loss is convex in the logits: "
    "two units that are read strongly, or two constants set to 0, cost more together "
    "than alone and exceed planted pairs; clamped to its mean, a unit of an exclusive "
    "or leaves a half, two leave a constant, and the backup does not act",
    "direct less total": "the backup does not act where its principal outputs its mean",
    "groups": "the redundancy index is judged only where three quarters of a layer's "
    "groups have information, and here groups of three units without a whole pair have "
    "none",
    "self_repair": "the table is the mean over a layer, in which units that reach the "
    "logits through the second layer alone have no direct effect and outweigh the one "
    "principal that is repaired; direct less total effects of single units name it",
    "joint, by pair effects": "cross-entropy is convex in the logits, so that the cost "
    "of two units is not the sum of both costs even where units are unrelated: the "
    "null hypothesis that the table tests is false here, which its docstring says",
}


def _why(name: str) -> str:
    """Why something misses its target, as far as that is known."""
    known = [why for start, why in _WHY.items() if name.startswith(start)]
    return f": {known[0]}" if known else ""


def _share(values: Table) -> tuple[float, float, float]:
    """A share and its 95 % interval; exact where all are 0 or 1."""
    number, total = len(values), float(values.sum())
    if not ((values == 0) | (values == 1)).all():
        half = 1.96 * values.std(ddof=1) / np.sqrt(number)
        low, high = np.clip([total / number - half, total / number + half], 0, 1)
        return total / number, float(low), float(high)
    found = scipy.stats.binomtest(round(total), number).proportion_ci()
    return total / number, found.low, found.high


def of_pairs(rows: Table, misses: list[str]) -> list[str]:
    """Whether tables name the planted pairs and backups."""
    of_networks = rows[rows["of"] == "network"]
    table = []
    for (planted, instrument), group in of_networks.groupby(
        ["planted", "instrument"], sort=False
    ):
        share, low, high = _share(group["right"])
        row = {"planted": planted, "instrument": instrument, "share": f"{share:.3f}"}
        table.append(row | {"95 % interval": f"{low:.3f} to {high:.3f}"})
        if share < CALLED:
            misses.append(
                f"{planted} by {instrument}: right in {100 * share:.0f} % of networks, "
                f"target {100 * CALLED:.0f} %{_why(instrument)}."
            )
    number = of_networks.groupby(["planted", "instrument"]).size().min()
    return [
        "## Whether tables name the planted pairs and backups",
        f"Share of {number} networks with a residual path in which an instrument is "
        "right. O-information is right where it is significant at 5 % and of the right "
        "sign; co-information, less its mean over permuted labels, and measures of "
        "groups where the planted pair is on the right side; pair effects, "
        "which have no test for single pairs, where the planted pair is among the most "
        "extreme of the layer, as many as are planted of its sign. Direct less total "
        "effects are right where the principal's are the greatest. The backup works "
        "where its principal outputs 0, and not where it outputs its mean, so with "
        "clamp `mean` the principal is not repaired.",
        markdown(pd.DataFrame(table)),
    ]


def of_layers(rows: Table, misses: list[str]) -> list[str]:
    """Whether the table of layers calls redundant and synergistic ones."""
    table = []
    for (planted, instrument), group in rows.groupby(
        ["planted", "instrument"], sort=False
    ):
        share, low, high = _share(group["right"])
        row = {"planted": planted, "instrument": instrument, "share": f"{share:.3f}"}
        row |= {"95 % interval": f"{low:.3f} to {high:.3f}"}
        table.append(row | {"effect": f"{group['effect'].mean():+.3f}"})
        if share < CALLED:
            misses.append(
                f"A {planted} by {instrument}: found in {100 * share:.0f} % of studies "
                f"of eight networks, target {100 * CALLED:.0f} %{_why(instrument)}."
            )
    return [
        "### Layers",
        "Share of layers that the table `joint` calls rightly in studies of eight "
        "networks, corrected for all its rows. A layer is three pairs: of copies of a "
        f"feature that agrees with the class in {100 * RIGHT:.0f} % of examples "
        "(redundant), or of features whose product does, and neither alone "
        "(synergistic).",
        markdown(pd.DataFrame(table)),
    ]


def of_nulls(rows: Table, misses: list[str]) -> list[str]:
    """How often each verdict is false."""
    table = []
    for test, title in _TESTS.items():
        group = rows[rows["test"] == test]["share"]
        if not len(group):
            continue
        share, low, high = _share(group)
        row = {"a verdict": title, "studies": len(group), "false": f"{share:.3f}"}
        table.append(row | {"95 % interval": f"{low:.3f} to {high:.3f}"})
        if share > LEVEL + TOLERANCE and low > LEVEL:  # more than by chance
            misses.append(
                f"False positives, {title}: {100 * share:.1f} % ({100 * low:.1f} to "
                f"{100 * high:.1f} %){_why(test)}."
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
        f"curve. Target: at most {100 * LEVEL:g} ± {100 * TOLERANCE:g} %, "
        "which is the chance error of a thousand verdicts; with fewer the interval "
        "says what is known. The learned "
        "order is replaced by one by chance. Claim 1 says that ascending order is no "
        "better than random order, which is true here: it may hold. Trends along "
        "training have no row, as training that changes nothing in expectation is not "
        "to be had.",
        markdown(pd.DataFrame(table)),
    ]


def of_power(rows: Table, misses: list[str]) -> list[str]:
    """How often tests over networks find what is planted."""
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
                f"Power of `{instrument}` with 8 networks: {by_size[8]:.2f}; {takes}"
                f"{_why(instrument)}."
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
