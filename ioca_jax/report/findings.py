"""Sentences with numbers, made from the rows of a run's tables."""

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.claims import CLAIMS, VERDICTS
from ioca_jax.inference.families import ALPHA
from ioca_jax.inference.interactions import DIRECTIONS, LAST_LESS_FIRST
from ioca_jax.inference.statistics import significant
from ioca_jax.inference.verdicts import CONCLUSIONS
from ioca_jax.results.subsets import (
    intact_accuracy,
    layer_of_scope,
    layer_title,
    readable,
)

_Row = Mapping[Hashable, Any]
Rows = list[dict[Hashable, Any]]
_MOST_OF_A_KIND = 4


def order_name(ranked_by: str, direction: str) -> str:
    """An order in a sentence."""
    if ranked_by == "random":
        return "random order"
    return f"{direction} order of {readable(ranked_by)}"


def scope_name(scope: str) -> str:
    """A scope in a sentence."""
    whole = scope == "network"
    return "the whole network" if whole else layer_title(layer_of_scope(scope))


def error_sentence(results: xr.Dataset, kept: xr.Dataset) -> str:
    """The test error of the networks that converged."""
    error = 100 * (1 - intact_accuracy(kept))
    number = kept.sizes["seed"]
    if number == 1:
        text = f"The network has a test error of {error[0]:.2f} %"
    else:
        text = (
            f"The {number} networks have a test error of {error.mean():.2f} % (mean; "
            f"standard deviation {error.std(ddof=1):.2f}, range {error.min():.2f} to "
            f"{error.max():.2f} %)"
        )
    left_out = results.sizes["seed"] - number
    return (
        f"{text}; {left_out} more diverged and are left out."
        if left_out
        else f"{text}."
    )


def order_sentences(rows: Rows) -> Iterator[str]:
    """By scope, the orders furthest from random order that tests show, and how many."""
    if not _tested(rows):
        return
    for scope, own in _by(rows, "scope"):
        clauses = list(_order_clauses(own))
        if scope == "network":
            yield from (f"In {scope_name(scope)}, {clause}." for clause in clauses)
        else:
            yield f"In {scope_name(scope)}, {'; '.join(clauses)}."


def _order_clauses(rows: Rows) -> Iterator[str]:
    """On the orders of one scope."""
    below, above = _shown(rows)
    if below:
        row = min(below, key=lambda row: row["effect"])
        yield _order(row, "is furthest below random order")
    if above:
        row = max(above, key=lambda row: row["effect"])
        yield _order(row, "is furthest above random order")
    yield (
        f"the area is significantly below that of random order in {len(below)} of "
        f"{len(rows)} comparisons of an order and a clamp, above it in {len(above)}"
    )


def _order(row: _Row, stands: str) -> str:
    order = order_name(row["ranked_by"], row["direction"])
    return (
        f"{order} (clamped to {row['clamp']}) {stands}: its normalised area under the "
        f"accuracy curve is {row['area']:.3f}{_relative(row)}"
    )


def _relative(row: _Row) -> str:
    """The signed difference from random order, where there is one."""
    if not np.isfinite(row["effect"]):
        return ""
    return f", {row['effect']:+.3f} relative to random order ({_interval(row)})"


def faithfulness_sentences(rows: Rows) -> Iterator[str]:
    """By scope, the ascending order of greatest CPR, by its accuracy.

    Where tests show an order to be above random order, the greatest of those.
    """
    known = [
        row
        for row in rows
        if (row["metric"], row["quantity"]) == ("accuracy", "CPR")
        and row["ranked_by"] != "random"
        and np.isfinite(row["value"])
    ]
    name = "circuit performance ratio (CPR)"
    for scope, own in _by(known, "scope"):
        _, above = _shown(own)
        row = max(above or own, key=lambda row: row["value"])
        are = "are the most faithful in accuracy"
        if above:
            are += " of those significantly above random order"
        elif _tested(own):
            are = (
                "have the greatest faithfulness in accuracy, but no measure's are "
                "significantly more faithful than random ones"
            )
        yield (
            f"Of the neurons of highest value in {scope_name(scope)}, those of "
            f"{readable(row['ranked_by'])} (others clamped to {row['clamp']}) {are}: "
            f"{name} {row['value']:.3f}{_relative(row)}."
        )
        name = "CPR"


def regret_sentences(rows: Rows) -> Iterator[str]:
    """By scope and clamp, the measure of least regret beside the learned order."""
    known = [
        row
        for row in rows
        if row["quantity"] == "normalised area"
        and row["ranked_by"] != "random"
        and np.isfinite(row["effect"])
    ]
    for scope, of_scope in _by(known, "scope"):
        for clamp, own in _by(of_scope, "clamp"):
            row = min(own, key=lambda row: row["effect"])
            yield (
                f"In {scope_name(scope)}, the order learned on the validation split "
                f"(clamped to {clamp}) has a normalised area of {row['learned']:.3f}; "
                f"of other ascending orders that of {readable(row['ranked_by'])} has "
                f"the least regret, {row['effect']:+.3f} ({_interval(row)})."
            )


def annotation_sentences(rows: Rows) -> Iterator[str]:
    """For each annotation the order that costs one value most beyond the others."""
    for name, own in _by(rows, "annotation"):
        if not _tested(own):
            continue
        less, more = _shown(own)
        yield (
            f"Examples of one value of {name} lose significantly more than those of "
            f"its other values in {len(more)} of {len(own)} comparisons of a value, an "
            f"order and a clamp, less in {len(less)}."
        )
        if not more:
            continue
        row = max(more, key=lambda row: row["effect"])
        yield (
            f"Examples with {name} = {row['value']} lose most beyond others in "
            f"{order_name(row['ranked_by'], row['direction'])} of "
            f"{scope_name(row['scope'])} (clamped to {row['clamp']}): "
            f"{row['lost']:.3f} of accuracy, mean over the curve, {row['effect']:+.3f} "
            f"relative to examples of other values ({_interval(row)})."
        )


def area_sentences(kept: xr.Dataset) -> Iterator[str]:
    """Areas in the whole network, where there are too few networks for tests."""
    areas = {
        (order_name(*order), str(clamp)): area
        for (scope, *order), by_clamp in areas_by_order(kept).items()
        if scope == "network"
        for clamp, area in zip(kept["clamp"].values, by_clamp.mean(axis=0), strict=True)
    }
    why = "there are too few networks for a test"
    if "random" not in kept["ranked_by"].values:
        why = "there are no random orders to compare it with"
    ends = (("least", min(areas, key=areas.__getitem__)),)
    ends += (("greatest", max(areas, key=areas.__getitem__)),)
    for end, (order, clamp) in ends:
        yield (
            f"In the whole network, {order} (clamped to {clamp}) has the {end} area "
            f"under the accuracy curve, {areas[order, clamp]:.3f}; {why}."
        )


def effect_sentences(rows: Rows) -> Iterator[str]:
    """By layer, the measure that correlates most with the effects of single neurons."""
    known = [row for row in rows if np.isfinite(row["effect"])]
    for layer, own in _by(known, "layer"):
        row = max(own, key=lambda row: abs(row["effect"]))
        yield (
            f"In {layer_title(layer)}, {readable(row['measure'])} has the "
            "strongest rank correlation with the increase of the test loss when one "
            f"neuron is ablated (clamped to {row['clamp']}): Kendall's tau-b "
            f"{row['effect']:+.3f} ({_interval(row)})."
        )


def neuron_sentences(rows: Rows) -> Iterator[str]:
    """Neurons that are dead or always on, by layer."""
    for name, what in (("dead", "dead"), ("always_on", "always on")):
        numbers = [(row["layer"], row.get(name, 0.0)) for row in rows]
        if any(number for _, number in numbers):
            by_layer = (f"{n:.1f} in {layer_title(layer)}" for layer, n in numbers)
            yield f"Neurons that are {what}, mean over networks: {', '.join(by_layer)}."


def judged_claims(rows: Rows) -> Iterator[str]:
    """For each claim how often it holds, fails and is undecided, of such rows."""
    for name, claim in CLAIMS.items():
        own = [row for row in rows if row["claim"] == name]
        if own:
            counts = Counter(row["verdict"] for row in own)
            said = [f"{v} in {counts[v]}" for v in VERDICTS]
            middle = np.median([row["effect"] for row in own])
            yield (
                f"{_capital(claim.text)}: {', '.join(said)} of {len(own)} comparisons; "
                f"median effect {middle:+.3f} ({claim.effect}).{_undefined(own)}"
            )
    yield skewness_sentence(rows)


def skewness_sentence(rows: Rows) -> str:
    """The skewness of a family's differences, and what symmetric ones usually have."""
    values = np.array([row["skewness"] for row in rows])
    together, usual = np.sqrt(np.nanmean(values**2)), rows[0]["usual_skewness"]
    measured = (
        f"their skewness is {together:.2f} (root mean square over comparisons), and "
        f"at most {usual:.2f} in 95 % of symmetric samples like this"
    )
    if together > usual:
        return (
            "These tests assume that differences between networks are symmetric, which "
            f"is in doubt here: {measured}. Prefer p_bootstrap of claims.csv, which "
            "allows for skewness."
        )
    return (
        "These tests assume that differences between networks are symmetric, which "
        f"nothing contradicts: {measured}."
    )


def joint_sentences(rows: Rows) -> Iterator[str]:
    """By layer, how many tests of pairs and groups show a direction."""
    for layer, own in _by([row for row in rows if row["finding"]], "layer"):
        counts = Counter(row["finding"] for row in own)
        words = (*DIRECTIONS, "neither")
        numbers = ", ".join(f"{counts[word]} {word}" for word in words)
        where = layer_title(layer)
        if layer == LAST_LESS_FIRST:
            where = "the last layer less that in the first"
        yield (
            f"Of {len(own)} tests of the joint behaviour of pairs and groups in "
            f"{where}: {numbers}."
        )


def conclusion_sentences(rows: Rows) -> Iterator[str]:
    """How many hypotheses pairs and groups confirm, and the first other conclusions."""
    suggested = [row["verdict"] for row in rows if row["suggested"] in DIRECTIONS]
    if suggested:
        counts = Counter(suggested)
        numbers = ", ".join(f"{counts[word]} {word}" for word in CONCLUSIONS)
        yield (
            f"Of {len(suggested)} hypotheses that curves suggest, tested on pairs and "
            f"groups: {numbers}."
        )
    decided = [row["sentence"] for row in rows if row["verdict"] in DIRECTIONS]
    for text in decided[:_MOST_OF_A_KIND]:
        yield f"{_capital(text).removesuffix('.')}."


def trend_sentences(rows: Rows) -> Iterator[str]:
    """How many changes through training tests show, and the first ones."""
    tested = [row for row in rows if row["trend"]]
    if not tested:
        return
    counts = Counter(row["trend"] for row in tested)
    yield (
        f"Of {len(tested)} tested changes through training: {counts['grows']} grow, "
        f"{counts['shrinks']} shrink, {counts['neither']} neither."
    )
    shown = [row for row in rows if row["trend"] in ("grows", "shrinks")]
    shown.sort(key=lambda row: row["layer"] != "all")
    for row in shown[:_MOST_OF_A_KIND]:
        where = "" if row["layer"] == "all" else f" of {layer_title(row['layer'])}"
        unit = "" if row["unit"] == "1" else f" {row['unit']}s"
        yield (
            f"From epoch {row['from_epoch']} to {row['to_epoch']} the "
            f"{readable(row['quantity'])}{where} {row['trend']}: it changes by "
            f"{row['effect']:+.3f}{unit} ({_interval(row)})."
        )


def _by(rows: Rows, name: str) -> Iterator[tuple[Any, Rows]]:
    """Each value of a column, and its rows."""
    for value in dict.fromkeys(row[name] for row in rows):
        yield value, [row for row in rows if row[name] == value]


def _tested(rows: Rows) -> bool:
    """Whether there is a test of any row."""
    return any(np.isfinite(row["p_corrected"]) for row in rows)


def _shown(rows: Rows) -> tuple[Rows, Rows]:
    """The rows whose effect a test shows to be below 0, and above 0."""
    shown = [row for row in rows if significant(row["p_corrected"], ALPHA)]
    below = [row for row in shown if row["effect"] < 0]
    return below, [row for row in shown if row["effect"] > 0]


def _undefined(rows: Sequence[_Row]) -> str:
    """A sentence on taus that are not defined, if there are some."""
    own = [row for row in rows if row.get("undefined", 0)]
    if not own:
        return ""
    numbers = sorted({int(row["undefined"]) for row in own})
    networks = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    where = f"In {len(own)} of these" if len(rows) > 1 else "In this comparison"
    return (
        f" {where}, tau is undefined in {networks} network"
        f"{'s' * (numbers[-1] > 1)}, where all neurons of the layer are alike, and "
        "counts as 0."
    )


def unbroken(text: str) -> str:
    """A sentence whose lines do not break within ``95 % interval`` or ``p = 0.05``."""
    return re.sub(r" (?=%|= )|(?<=[%=]) (?=interval|\d)", "\N{NO-BREAK SPACE}", text)


def _interval(row: _Row) -> str:
    """The 95 % interval and the corrected p-value, as far as they are numbers."""
    parts = []
    if np.isfinite(row["low"]):
        parts.append(f"95 % interval {row['low']:+.3f} to {row['high']:+.3f}")
    if np.isfinite(row["p_corrected"]):
        parts.append(f"corrected p = {row['p_corrected']:.2g}")
    return ", ".join(parts) or "without a test"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
