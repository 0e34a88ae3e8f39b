"""The paper's claims, judged: each holds, fails or stays undecided.

A claim is a family of comparisons, one for each scope, clamp and measure. A comparison
is one number for each network; sign-flip tests over networks, corrected for the family,
give the verdict.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.families import (
    ALPHA,
    CLAIMED,
    MARGIN,
    PAPER_MEASURES,
    above_chance,
    comparison_of,
    intact_loss,
    need_random_orders,
    need_seeds,
    normalized_areas,
    rankings,
    test_family,
)
from ioca_jax.inference.statistics import (
    kendall_tau,
    significant,
)
from ioca_jax.results.selection import layers_of, neurons_of, scope_of


class Claim(NamedTuple):
    """A claim of arXiv 1804.06679: its text, and what is compared, in which unit."""

    text: str
    effect: str


CLAIMS = {
    "1": Claim(
        "over the whole network, ascending order is no better than random order",
        "ascending minus random order, normalised area",
    ),
    "1, first version": Claim(
        "over the whole network, ascending order is worse than random order",
        "ascending minus random order, normalised area",
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
    "7, depth": Claim(
        "the entropy of a neuron is higher in deeper layers",
        "median minus that of the layer below, bits",
    ),
}
VERDICTS = ("holds", "fails", "undecided")


class _Comparison(NamedTuple):
    """A claim as a number for every network, above a threshold or below."""

    claim: str
    about: dict[str, str]
    differences: Float[np.ndarray, " S"]
    threshold: float = 0.0
    above: bool = True


def judge_claims(
    results: xr.Dataset, *, margin: float = MARGIN, alpha: float = ALPHA
) -> pd.DataFrame:
    """Tests the paper's claims on a run.

    A claim *holds* where a two-sided sign-flip test over networks, corrected for all
    rows, rejects in its favour; it *fails* where the test rejects in the other
    direction; otherwise it is *undecided*.

    Args:
        results: a run's results, with random orders.
        margin: of normalised area; "no better than random" means better by less.
        alpha: the level of the tests, of all together.

    Returns:
        A row per comparison: ``claim`` (a key of ``CLAIMS``), ``scope``, ``clamp``,
        ``measure``, ``effect`` with its interval ``low`` to ``high``, ``p_value``,
        ``p_corrected``, ``networks``, ``verdict``.

    Raises:
        ValueError: too few networks for the level, no random orders, or none of the
            paper's measures.
    """
    kept = above_chance(results)
    need_random_orders(kept)
    need_seeds(kept, alpha, two_sided=True)
    if not rankings(kept):
        raise ValueError(
            f"expected a run with some of {', '.join(PAPER_MEASURES)}, which the "
            f"claims are about, got one with {', '.join(kept['measure'].values)}"
        )
    comparisons = [
        *_over_all_layers(kept, margin),
        *_within_layers(kept),
        *_between_layers(kept),
        *_of_clamps(kept),
    ]
    rows = [{"claim": c.claim, **c.about} for c in comparisons]
    table = test_family(
        rows,
        [c.differences for c in comparisons],
        threshold=[c.threshold for c in comparisons],
    )
    is_above = table["effect"].to_numpy() > [c.threshold for c in comparisons]
    claimed = np.array([c.above for c in comparisons])
    said = np.where(is_above == claimed, "holds", "fails")
    is_shown = significant(table["p_corrected"].to_numpy(), alpha)
    table["verdict"] = np.where(is_shown, said, "undecided")
    is_tau = table["claim"] == "2, single neurons"
    ends = ["low", "high"]
    table.loc[is_tau, ends] = table.loc[is_tau, ends].clip(-1, 1)
    return table


def _over_all_layers(results: xr.Dataset, margin: float) -> list[_Comparison]:
    areas, found = normalized_areas(results), []
    for measure, (index, clamp) in itertools.product(
        rankings(results), enumerate(results["clamp"].values)
    ):
        area = areas["network", measure, "ascending"][:, index]
        random = areas["network", "random", "random"][:, index]
        about = comparison_of("network", clamp, measure)
        found += [
            _Comparison("1", about, area - random, margin, above=False),
            _Comparison("1, first version", about, area - random, above=False),
        ]
    return found


def _within_layers(results: xr.Dataset) -> list[_Comparison]:
    areas, found = normalized_areas(results), []
    rise = results["single_loss"] - intact_loss(results)
    for layer, measure, (index, clamp) in itertools.product(
        layers_of(results),
        [name for name in rankings(results) if name in CLAIMED],
        enumerate(results["clamp"].values),
    ):
        scope = scope_of(layer)
        about = comparison_of(scope, clamp, measure)
        random = areas[scope, "random", "random"][:, index]
        of_layer = neurons_of(results, layer)
        tau = kendall_tau(
            results["score"].sel(measure=measure).isel(neuron=of_layer).values,
            rise.sel(clamp=clamp).isel(neuron=of_layer).values,
        )
        lowest = areas[scope, measure, "ascending"][:, index]
        highest = areas[scope, measure, "descending"][:, index]
        found += [
            _Comparison("2, lowest first", about, lowest - random),
            _Comparison("2, highest first", about, random - highest),
            # A layer of equal neurons has no ranks: that is evidence for neither.
            _Comparison("2, single neurons", about, np.nan_to_num(tau)),
        ]
    return found


def _between_layers(results: xr.Dataset) -> list[_Comparison]:
    areas, found = normalized_areas(results), []
    layers = layers_of(results)
    for upper, lower in zip(layers[1:], layers, strict=False):
        where = f"{scope_of(upper)} over {scope_of(lower)}"
        for measure in rankings(results):
            medians = [
                np.median(
                    results["score"]
                    .sel(measure=measure)
                    .isel(neuron=neurons_of(results, layer))
                    .values,
                    axis=1,
                )
                for layer in (upper, lower)
            ]
            claim = "3" if measure in CLAIMED else "7, depth"
            about = comparison_of(where, "", measure)
            found.append(_Comparison(claim, about, medians[0] - medians[1]))
        for index, clamp in enumerate(results["clamp"].values):
            upper_area, lower_area = (
                areas[scope_of(layer), "random", "random"][:, index]
                for layer in (upper, lower)
            )
            about = comparison_of(where, clamp, "random")
            found.append(_Comparison("4", about, upper_area - lower_area))
    return found


def _of_clamps(results: xr.Dataset) -> list[_Comparison]:
    return [
        _Comparison("5", comparison_of(scope, "mean", "random"), gain)
        for scope, gain in gains_of_the_mean(results).items()
    ]


def gains_of_the_mean(results: xr.Dataset) -> dict[str, Float[np.ndarray, " S"]]:
    """Normalised area gained by clamping to the mean instead of zero, in random order.

    By scope, a number for every network; empty for a run without both clamps.
    """
    clamps = results["clamp"].values.tolist()
    if not {"zero", "mean"} <= set(clamps):
        return {}
    areas = normalized_areas(results)
    of_scope = {
        str(s): areas[str(s), "random", "random"] for s in results["scope"].values
    }
    return {
        scope: area[:, clamps.index("mean")] - area[:, clamps.index("zero")]
        for scope, area in of_scope.items()
    }
