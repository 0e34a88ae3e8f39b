"""The paper's claims, judged: each holds, fails or stays undecided.

A claim is a family of comparisons, one for each scope, clamp and measure. A comparison
is one number for each network; sign-flip tests over networks, corrected for the family,
give the verdict.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.checks import check_number
from ioca_jax.inference.comparisons import networks_for_undecided
from ioca_jax.inference.families import (
    ALPHA,
    CLAIMED,
    MARGIN,
    PAPER_MEASURES,
    above_chance,
    clamps_of,
    judge_family,
    need_random_orders,
    need_seeds,
    normalized_areas,
    rankings,
    scores_and_effects,
)
from ioca_jax.inference.statistics import family_skewness, kendall_tau, significant
from ioca_jax.results.subsets import layers_of, neurons_of, scope_of


class Claim(NamedTuple):
    """A claim of arXiv 1804.06679: its text, and what is compared, in which unit.

    It holds where the effect is above the threshold, or below it.
    """

    text: str
    effect: str
    threshold: float = 0.0
    above: bool = True


CLAIMS = {
    "1": Claim(
        "over the whole network, ascending order is no better than random order",
        "ascending minus random order, normalised area",
        threshold=MARGIN,
        above=False,
    ),
    "1, first version": Claim(
        "over the whole network, ascending order is worse than random order",
        "ascending minus random order, normalised area",
        above=False,
    ),
    "2, lowest first": Claim(
        "within a layer, ascending order is better than random order",
        "ascending minus random order, normalised area",
    ),
    "2, highest first": Claim(
        "within a layer, descending order is worse than random order",
        "random minus descending order, normalised area",
    ),
    "2, single neurons": Claim(
        "within a layer, a neuron's value correlates in rank with the loss increase "
        "when it alone is ablated",
        "Kendall's tau-b",
    ),
    "3": Claim(
        "mutual information and KL selectivity are higher in deeper layers",
        "median minus that of the layer below, bits",
    ),
    "4": Claim(
        "ablation in deeper layers does less harm",
        "random orders, layer minus the layer below, normalised area",
    ),
    "5": Claim(
        "clamping to the mean does less harm than clamping to zero",
        "mean minus zero clamp, random orders, normalised area",
    ),
    "5, other clamps": Claim(
        "this clamp does less harm than clamping to the mean",
        "clamp minus mean clamp, random orders, normalised area",
    ),
    "7, depth": Claim(
        "the entropy of a neuron is higher in deeper layers",
        "median minus that of the layer below, bits",
    ),
}
VERDICTS = ("holds", "fails", "undecided")


def claims_of(table: pd.DataFrame) -> dict[str, Claim]:
    """The claims that a table of ``judge_claims`` has comparisons of."""
    judged = set(table["claim"])
    return {name: claim for name, claim in CLAIMS.items() if name in judged}


class _Comparison(NamedTuple):
    """A claim as a number for every network, above its threshold or below.

    A number that is not defined is 0, which is evidence for neither.
    """

    claim: str
    about: dict[str, str]
    differences: Float[np.ndarray, " S"]
    threshold: float = 0.0
    undefined: int = 0


def judge_claims(
    results: xr.Dataset, *, margin: float = MARGIN, alpha: float = ALPHA
) -> pd.DataFrame:
    """Tests the paper's claims on a run.

    A claim *holds* where a two-sided sign-flip test over networks, corrected for all
    rows, rejects in its favour; it *fails* where the test rejects in the other
    direction; otherwise it is *undecided*.

    Args:
        results: a run's results, with random orders.
        margin: of normalised area, at least 0; "no better than random" means better
            by less.
        alpha: the level of the tests, of all together.

    Returns:
        A row per comparison: ``claim`` (a key of ``CLAIMS``), ``scope``, ``clamp``,
        ``measure``, ``effect`` with its interval ``low`` to ``high``, ``p_value``,
        ``p_corrected``, ``verdict``; ``undefined``, in how many networks Kendall's tau
        of claim 2 is not defined, because all neurons of the layer are alike, and
        counts as 0; and for undecided comparisons
        ``networks_for_power`` and ``networks_for_half``: how many networks decide it
        with a probability of 0.8 and 0.5, infinite beyond 200, where the effect is too
        small, or its spread too uncertain, to plan for (see its interval); and the
        ``skewness`` of the differences, with ``usual_skewness``, which the root mean
        square over rows exceeds in 5 % of symmetric samples: the test needs symmetry.

    Raises:
        ValueError: too few networks for the level, no random orders, or none of the
            paper's measures.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> table = ioca.judge_claims(results)
        >>> set(table["verdict"]) <= {"holds", "fails", "undecided"}
        True
    """
    check_number("margin", margin, least=0.0)
    kept = above_chance(results)
    need_random_orders(kept)
    need_seeds(kept, alpha, two_sided=True)
    if not rankings(kept):
        raise ValueError(
            f"expected a run with some of {', '.join(PAPER_MEASURES)}, which the "
            f"claims are about, got one with {', '.join(kept['measure'].values)}"
        )
    scopes = kept["scope"].values.tolist()
    if "network" not in scopes or len(scopes) <= len(layers_of(kept)):
        raise ValueError(
            "scope: expected the whole network and each of its layers, got "
            f"{', '.join(scopes)}; judge the run, then select rows of the table"
        )
    areas = normalized_areas(kept)
    comparisons = [
        *_over_all_layers(kept, areas, margin),
        *_within_layers(kept, areas),
        *_between_layers(kept, areas),
        *_between_clamps(kept),
    ]
    rows = [{"claim": c.claim, **c.about} for c in comparisons]
    thresholds = [c.threshold for c in comparisons]
    differences = [c.differences for c in comparisons]
    table = judge_family(rows, differences, threshold=thresholds, alpha=alpha)
    table["undefined"] = [c.undefined for c in comparisons]
    is_claimed = (table["effect"] > thresholds) == [
        CLAIMS[c.claim].above for c in comparisons
    ]
    is_shown = significant(table["p_corrected"].to_numpy(), alpha)
    decided = np.where(is_claimed, "holds", "fails")
    table["verdict"] = np.where(is_shown, decided, "undecided")
    together, p_values = np.stack(differences, axis=1), table["p_corrected"].to_numpy()
    about = {"threshold": np.array(thresholds), "alpha": alpha}
    for name, power in (("networks_for_power", 0.8), ("networks_for_half", 0.5)):
        table[name] = networks_for_undecided(together, p_values, power=power, **about)
    skewness = family_skewness(together)
    table["skewness"], table["usual_skewness"] = skewness.of_each, skewness.usual
    is_tau = table["claim"] == "2, single neurons"
    ends = ["low", "high"]
    table.loc[is_tau, ends] = table.loc[is_tau, ends].clip(-1, 1)
    return table


_Areas = dict[tuple[str, str, str], np.ndarray]


def _about(scope: str, clamp: str, measure: str) -> dict[str, str]:
    return {"scope": scope, "clamp": clamp, "measure": measure}


def _over_all_layers(
    results: xr.Dataset, areas: _Areas, margin: float
) -> Iterable[_Comparison]:
    random = areas["network", "random", "random"]
    for measure in rankings(results):
        differences = areas["network", measure, "ascending"] - random
        for clamp, difference in zip(clamps_of(results), differences.T, strict=True):
            about = _about("network", clamp, measure)
            yield _Comparison("1", about, difference, margin)
            yield _Comparison("1, first version", about, difference)


def _within_layers(results: xr.Dataset, areas: _Areas) -> Iterable[_Comparison]:
    measures = [name for name in rankings(results) if name in CLAIMED]
    for layer, measure, (index, clamp) in itertools.product(
        layers_of(results), measures, enumerate(clamps_of(results))
    ):
        scope = scope_of(layer)
        about = _about(scope, clamp, measure)
        ascending, descending, random = (
            areas[scope, *order][:, index]
            for order in (
                *((measure, "ascending"), (measure, "descending")),
                ("random", "random"),
            )
        )
        yield _Comparison("2, lowest first", about, ascending - random)
        yield _Comparison("2, highest first", about, random - descending)
        tau = kendall_tau(*scores_and_effects(results, layer, measure, clamp))
        unknown = np.isnan(tau)  # a layer of equal neurons has no ranks
        yield _Comparison(
            *("2, single neurons", about, np.where(unknown, 0, tau)),
            undefined=int(unknown.sum()),
        )


def _between_layers(results: xr.Dataset, areas: _Areas) -> Iterable[_Comparison]:
    for lower, upper in itertools.pairwise(layers_of(results)):
        scopes = scope_of(upper), scope_of(lower)
        where = " over ".join(scopes)
        for measure in rankings(results):
            scores = results["score"].sel(measure=measure).transpose("seed", "neuron")
            medians = [
                np.median(scores.values[:, neurons_of(results, layer)], axis=1)
                for layer in (upper, lower)
            ]
            claim = "3" if measure in CLAIMED else "7, depth"
            difference = medians[0] - medians[1]
            yield _Comparison(claim, _about(where, "", measure), difference)
        of_upper, of_lower = (areas[scope, "random", "random"] for scope in scopes)
        differences = (of_upper - of_lower).T
        for clamp, difference in zip(clamps_of(results), differences, strict=True):
            yield _Comparison("4", _about(where, clamp, "random"), difference)


def _between_clamps(results: xr.Dataset) -> Iterable[_Comparison]:
    for scope, gain in clamp_gains(results, "mean", "zero").items():
        yield _Comparison("5", _about(scope, "mean", "random"), gain)
    others = [name for name in clamps_of(results) if name not in ("zero", "mean")]
    for clamp in others:
        for scope, gain in clamp_gains(results, clamp, "mean").items():
            yield _Comparison("5, other clamps", _about(scope, clamp, "random"), gain)


def clamp_gains(
    results: xr.Dataset, clamp: str, other: str
) -> dict[str, Float[np.ndarray, " S"]]:
    """Normalised area gained by one clamp instead of another, in random order.

    By scope, a number for every network; empty for a run without both clamps.
    """
    clamps = clamps_of(results)
    if not {clamp, other} <= set(clamps):
        return {}
    return {
        scope: area[:, clamps.index(clamp)] - area[:, clamps.index(other)]
        for (scope, ranked_by, _), area in normalized_areas(results).items()
        if ranked_by == "random"
    }
