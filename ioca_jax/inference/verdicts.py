"""Hypotheses that ablation curves suggest, tested by pairs and groups of neurons.

Two kinds of instruments look at neurons jointly. Informational instruments estimate
joint information about the class: co-information of pairs, redundancy of groups.
Interventional instruments ablate two neurons and compare the cost with the sum of the
single costs. A hypothesis is *confirmed* where both kinds agree with it and none shows
the opposite.

Limits. Pair effects in loss are slightly positive even for unrelated neurons, because
cross-entropy is convex in the logits; an interventional instrument therefore shows a
direction only where some neurons differ from the others of their layer. Informative
neurons share much information whatever their order, so each value is compared with that
of the layer's other pairs. Groups are as large as the examples support, a few neurons.
With five examples for each cell of code and class a joint information is still some
hundredths of a bit too large, which looks like synergy; groups are therefore judged
from ``JUDGED_EXAMPLES_PER_CELL`` = 25 examples, where simulated neurons that are
independent given the class are called synergistic no more often than the level.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from ioca_jax.inference.families import ALPHA, judge_family, need_seeds
from ioca_jax.inference.interactions import (
    DIRECTIONS,
    EFFECTS,
    JUDGED_EXAMPLES_PER_CELL,
    UNITS,
    Pairs,
    above_chance_with_interactions,
    chance_free,
    direction_shown,
    finite_mean_where,
    pairs_of,
)
from ioca_jax.inference.statistics import significant
from ioca_jax.measures.information import mutual_information_miller_madow
from ioca_jax.results.subsets import (
    Layer,
    layer_title,
    neurons_of,
    orderings_of,
    over_seeds,
    readable,
    scope_of,
)

INFORMATIONAL = ("co-information", "groups")
INTERVENTIONAL = ("pair effects in loss", "pair effects in accuracy")
CONCLUSIONS = ("confirmed", "contradicted", "mixed", "open")
"""On a hypothesis that curves suggest."""


def judge_hypotheses(
    results: xr.Dataset, hypotheses: pd.DataFrame, *, alpha: float = ALPHA
) -> pd.DataFrame:
    """Tests the hypotheses of ``form_hypotheses`` with pairs and groups of neurons.

    A hypothesis is about the neurons of highest or lowest value of a measure: here the
    quarter of the layer that is ablated first in that order (at least two neurons).
    Pairs are of such a neuron with any other of its layer. The group is the first k
    neurons of the order, k from 2 to the quarter the greatest that has in every network
    ``JUDGED_EXAMPLES_PER_CELL`` for each cell; its redundancy is the sum of the
    neurons' information less their joint information (Miller-Madow, both).

    A row per hypothesis (``layer``, ``clamp``, ``measure``, ``end``, ``suggested``) and
    ``instrument``: ``co-information`` and ``groups`` (bits), ``pair effects in loss``
    (nats) and ``in accuracy`` (share) at that clamp; ``neurons``, the size of the
    quarter or the group (0: none); mean, tests and ``finding``
    as in ``joint_behaviour``; ``beside_others``, the effect less that of the layer's
    pairs without a neuron of the quarter or, for groups, of the first k of random
    orders; and ``p_beside_others``, corrected for all rows. Pair effects show a
    direction only where they also differ significantly from those of the others in it.
    """
    kept = above_chance_with_interactions(results)
    need_seeds(kept, alpha, two_sided=True)
    # At once: by single operations, each would be compiled.
    measure = jax.jit(mutual_information_miller_madow)

    def measure_piece(piece: xr.Dataset) -> dict[str, np.ndarray]:
        return {"bits": np.asarray(measure(piece["joint_count"].values), np.float64)}

    alone = over_seeds(kept[["joint_count"]], measure_piece)["bits"]
    rows, effects, beyond_others = [], [], []
    for hypothesis in hypotheses.to_dict("records"):
        about = {
            name: hypothesis[name] for name in ("layer", "clamp", "measure", "end")
        }
        for found in _evidence(kept, about, alone):
            about_found = dict(zip(found._fields[:3], found[:3], strict=True))
            suggested = {"suggested": hypothesis["verdict"]}
            rows.append({**about, **suggested, **about_found})
            effects.append(found.effect)
            beyond_others.append(found.effect - found.effect_of_others)
    table = judge_family(rows, effects, alpha=alpha)
    table["finding"] = direction_shown(table, alpha)
    beside = judge_family(rows, beyond_others, alpha=alpha)
    table["beside_others"] = beside["effect"]
    table["p_beside_others"] = beside["p_corrected"]
    differs = np.sign(table["beside_others"]) == np.sign(table["effect"])
    differs &= significant(table["p_beside_others"].to_numpy(), alpha)
    is_pair_effect = table["instrument"].isin(INTERVENTIONAL)
    has_direction = table["finding"].isin(DIRECTIONS)
    table.loc[is_pair_effect & has_direction & ~differs, "finding"] = "neither"
    return table


class _Evidence(NamedTuple):
    """An instrument's values for the neurons of a hypothesis, and for others."""

    instrument: str
    unit: str
    neurons: int
    effect: Float[np.ndarray, " S"]
    effect_of_others: Float[np.ndarray, " S"]


def _evidence(
    results: xr.Dataset, about: Mapping[str, Any], alone: Float[np.ndarray, "S H"]
) -> Iterable[_Evidence]:
    """The evidence of all instruments on one hypothesis."""
    layer = about["layer"]
    ordered = _order_of(results, layer, about["measure"], about["end"])
    quarter = min(max(2, ordered.shape[1] // 4), ordered.shape[1])
    is_in_quarter = np.zeros(alone.shape, bool)
    np.put_along_axis(is_in_quarter, ordered[:, :quarter], True, axis=1)
    pairs = pairs_of(results, layer)
    chosen = is_in_quarter[:, pairs.first] | is_in_quarter[:, pairs.second]

    def of_pairs(instrument: str, unit: str, values: xr.DataArray) -> _Evidence:
        parts = {"values": values, "chosen": (("seed", "pair"), chosen)}
        means = over_seeds(xr.Dataset(parts), partial(_means_by_choice, pairs))
        return _Evidence(instrument, unit, quarter, means["chosen"], means["others"])

    yield of_pairs("co-information", "bit", chance_free(results))
    yield _Evidence("groups", "bit", *_group_of(results, about, quarter, alone))
    for name in EFFECTS:
        effects = results[f"pair_effect_{name}"].sel(clamp=about["clamp"])
        yield of_pairs(f"pair effects in {name}", UNITS[name], effects)


def _means_by_choice(pairs: Pairs, piece: xr.Dataset) -> dict[str, np.ndarray]:
    """Means [S] over the chosen pairs, and over the others."""
    values, chosen = pairs.take(piece["values"]), piece["chosen"].values
    return {
        "chosen": finite_mean_where(values, chosen),
        "others": finite_mean_where(values, ~chosen),
    }


def _group_of(
    results: xr.Dataset,
    about: Mapping[str, Any],
    quarter: int,
    alone: Float[np.ndarray, "S H"],
) -> tuple[int, Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Size of the group ablated first, its redundancy, that of random ones."""
    in_order = (about["measure"], _direction(about["end"]))
    bits = _redundancy_along(results, about["layer"], *in_order, alone)[:, 0]
    steps = results["step"].values
    is_usable = np.isfinite(bits).all(axis=0) & (steps >= 2) & (steps <= quarter)
    usable = np.flatnonzero(is_usable)
    if not usable.size:
        nothing = np.full(len(alone), np.nan)
        return 0, nothing, nothing
    last = usable[-1]
    drawn = _redundancy_along(results, about["layer"], "random", "random", alone)
    of_draws = drawn[:, :, last]
    return (
        int(steps[last]),
        bits[:, last],
        finite_mean_where(of_draws, np.isfinite(of_draws)),
    )


def _redundancy_along(
    results: xr.Dataset, layer: Layer, ranked_by: str, direction: str, alone: np.ndarray
) -> Float[np.ndarray, "S orderings points"]:
    """Redundancy of the neurons ablated at each step, bits, NaN where not judged."""
    where = orderings_of(results, ranked_by, direction)
    along = results[["joint_information_miller_madow", "joint_cells", "order"]]
    along = along.sel(side="ablated", scope=scope_of(layer)).isel(ordering=where)
    along = along.transpose("seed", "ordering", "step", "position")
    joint, cells, order = (variable.values for variable in along.values())
    enough = cells * JUDGED_EXAMPLES_PER_CELL <= results.attrs["num_validation"]
    own = np.where(order >= 0, alone[np.arange(len(alone))[:, None, None], order], 0)
    summed = np.cumsum(own, axis=-1)[..., results["step"].values - 1]
    known = np.where(enough, joint, np.nan).astype(np.float64)
    return np.where(results["step"].values > 0, summed - known, np.nan)


def conclude(tested: pd.DataFrame) -> pd.DataFrame:
    """Combines the instruments into a verdict on each hypothesis.

    A direction is *agreed* on where at least one informational and one interventional
    instrument show it, and none shows the opposite. ``confirmed``: what the curves
    suggest is agreed on; ``contradicted``: its opposite is; ``mixed``: instruments show
    both; ``open``: anything else. Where the curves suggest nothing, the verdict is the
    direction agreed on, ``mixed`` or ``open``. A row per hypothesis, also with the
    number of instruments for each finding and a ``sentence``.
    """
    keys = ["layer", "clamp", "measure", "end", "suggested"]
    rows = []
    for _, instruments in tested.groupby(keys, sort=False):
        about = {key: instruments[key].iloc[0] for key in keys}
        findings = instruments["finding"].tolist()
        counts = {name: findings.count(name) for name in (*DIRECTIONS, "neither")}
        by_instrument = zip(instruments["instrument"], findings, strict=True)
        verdict = _verdict(about["suggested"], dict(by_instrument))
        sentence = _sentence(about, instruments.to_dict("records"), verdict)
        rows.append({**about, **counts, "verdict": verdict, "sentence": sentence})
    return pd.DataFrame(rows)


def _verdict(suggested: str, findings: Mapping[str, str]) -> str:
    """The verdict from each instrument's finding."""
    if set(findings.values()).issuperset(DIRECTIONS):
        return "mixed"
    for direction in DIRECTIONS:
        showing = {name for name, found in findings.items() if found == direction}
        if showing & set(INFORMATIONAL) and showing & set(INTERVENTIONAL):
            if suggested not in DIRECTIONS:
                return direction
            return "confirmed" if direction == suggested else "contradicted"
    return "open"


def _sentence(
    about: Mapping[str, Any],
    instruments: Sequence[Mapping[Hashable, Any]],
    verdict: str,
) -> str:
    """A hypothesis and its verdict, as a researcher could quote it."""
    suggestion = f"the neurons of {about['end']} {readable(about['measure'])}"
    if about["suggested"] in DIRECTIONS:
        suggestion = f"that {suggestion} are {about['suggested']}"
    else:
        suggestion = f"nothing about {suggestion}"
    units = {"bit": " bits", "nat": " nats", "1": ""}
    parts = []
    for finding in (*DIRECTIONS, "neither", ""):
        names = [
            f"{row['instrument']} ({row['effect']:+.2g}{units[row['unit']]})"
            if finding
            else str(row["instrument"])
            for row in instruments
            if row["finding"] == finding
        ]
        if names:
            parts.append(f"{finding or 'no estimate'} by {', '.join(names)}")
    return (
        f"In {layer_title(about['layer'])}, clamped to {about['clamp']}, the curves "
        f"suggest {suggestion}; {'; '.join(parts)}: {verdict}."
    )


def _order_of(
    results: xr.Dataset, layer: Layer, measure: str, end: str
) -> Int[np.ndarray, "S K"]:
    """The layer's neurons, those that the hypothesis is about first."""
    where = orderings_of(results, measure, _direction(end))
    if not where.size:
        raise ValueError(
            f"hypotheses: expected orders that the run has, got {end} {measure}; form "
            "them from the same results"
        )
    order = results["order"].sel(scope=scope_of(layer)).isel(ordering=where[0])
    width = len(neurons_of(results, layer))
    return order.transpose("seed", "position").values[:, :width]


def _direction(end: str) -> str:
    return "descending" if end == "highest" else "ascending"
