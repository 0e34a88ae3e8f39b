"""Orders of ablation compared with random orders, and measures with single effects."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.areas import ablated_at_loss
from ioca_jax.inference.families import (
    above_chance,
    clamps_of,
    finite_mean,
    judge_family,
    need_random_orders,
    normalized_areas,
    orders_of,
    scores_and_effects,
)
from ioca_jax.inference.statistics import (
    kendall_step,
    kendall_tau,
    simultaneous_band,
    spearman,
)
from ioca_jax.results.subsets import layers_of, mean_curve, summed_curve

# More measures' bands than these no figure holds.
_MEASURES_WITH_BANDS = 5
_ORDER = ("ranked_by", "direction")


def compare_orders(results: xr.Dataset) -> pd.DataFrame:
    """Compares every order with random ones, network by network.

    Args:
        results: a run's results, with random orders.

    Returns:
        A row per scope, clamp, ``ranked_by`` and ``direction``: ``area``, normalised,
        mean over networks; ``effect``, by how much it is above that of random orders,
        with its interval ``low`` to ``high``; ``p_value`` (two-sided sign-flip test)
        and ``p_corrected`` for all rows; ``p_bootstrap``, corrected likewise, for
        skewed differences (all three NaN for fewer than six networks, of which no
        outcome reaches 5 %); ``lost_1``, ``lost_5``, ``lost_10``: the
        number of neurons at which the mean curve has lost 1, 5, 10 points of accuracy.

    Raises:
        ValueError: too few networks, no random orders, or nothing to compare with them.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> table = ioca.compare_orders(results)
        >>> bool((table["low"] <= table["effect"]).all())
        True
    """
    kept = above_chance(results)
    areas = normalized_areas(kept)
    need_random_orders(kept)
    rows, differences = [], []
    for (scope, ranked, direction), area in areas.items():
        if ranked == "random":
            continue
        random = areas[scope, "random", "random"]
        for index, clamp in enumerate(clamps_of(kept)):
            curve = mean_curve(kept, clamp, scope, ranked, direction).mean("seed")
            lost = ablated_at_loss(curve.values, steps=curve["step"].values)
            rows.append(
                {
                    "scope": scope,
                    "clamp": clamp,
                    "ranked_by": ranked,
                    "direction": direction,
                    "area": area[:, index].mean(),
                    **dict(zip(("lost_1", "lost_5", "lost_10"), lost, strict=True)),
                }
            )
            differences.append(area[:, index] - random[:, index])
    return judge_family(rows, differences)


def difference_curves(results: xr.Dataset) -> pd.DataFrame:
    """Accuracy of each order less that of random ones, at every step.

    A row per scope, clamp, ``ranked_by`` (the first five measures), ``direction`` and
    ``step``: ``mean`` over networks, and ``low`` and ``high`` of a band that holds the
    whole curve of expected differences with 95 % confidence.
    """
    kept = above_chance(results)
    need_random_orders(kept)
    orders = orders_of(kept)[: 2 * _MEASURES_WITH_BANDS]
    tables = []
    for scope in map(str, kept["scope"].values):
        randoms = {
            clamp: summed_curve(kept, clamp, scope, "random", "random")
            for clamp in clamps_of(kept)
        }
        for order, (clamp, random) in itertools.product(orders, randoms.items()):
            own = summed_curve(kept, clamp, scope, *order)
            curves = np.ascontiguousarray(_difference(own, random))
            low, high = simultaneous_band(curves)
            about: dict[str, Any] = {"scope": scope, "clamp": clamp}
            about |= dict(zip(_ORDER, order, strict=True))
            lines = {"mean": curves.mean(axis=0), "low": low, "high": high}
            about["step"] = own[0]["step"].values
            tables.append(pd.DataFrame(about | lines))
    return pd.concat(tables, ignore_index=True)


def _difference(
    first: tuple[xr.DataArray, int], second: tuple[xr.DataArray, int]
) -> Float[np.ndarray, "S points"]:
    """Difference of accuracies given as counts: whole numbers divided once."""
    (correct, out_of), (other_correct, other_out_of) = first, second
    whole = correct.values * other_out_of - other_correct.values * out_of
    return whole / (out_of * other_out_of)


def correlate_effects(results: xr.Dataset) -> pd.DataFrame:
    """Correlates each measure with the effects of ablating single neurons.

    Within each layer of each network, since pooling layers would make correlation of
    their levels; then over networks. A row per layer, clamp and measure: ``effect``,
    the mean of Kendall's tau-b, with its interval and tests as in ``compare_orders``;
    ``spearman``, the mean of Spearman's rank correlation; and ``networks``, those whose
    neurons of the layer are not all alike. Rows without enough of them have NaN.
    """
    kept = above_chance(results)
    rows, values, steps = [], [], []
    for layer, clamp, measure in itertools.product(
        layers_of(kept), clamps_of(kept), kept["measure"].values
    ):
        scores, effects = scores_and_effects(kept, layer, measure, clamp)
        tau = kendall_tau(scores, effects)
        rows.append(
            {
                "layer": layer,
                "clamp": clamp,
                "measure": str(measure),
                "spearman": finite_mean(spearman(scores, effects)),
                "networks": int(np.isfinite(tau).sum()),
            }
        )
        values.append(tau)
        steps.append(kendall_step(scores.shape[-1]))
    return judge_family(rows, values, steps=steps)
