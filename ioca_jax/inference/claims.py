"""Curves become statements: what a run shows, how large it is, and how sure that is.

Everything here is a table over the networks of one run: a comparison a row, with its
effect, a 95 % interval for its mean over networks, and a p-value corrected for all
comparisons of the table. The network is the unit, never the neuron: a table's tests
need at least six networks (two-sided) or five (one-sided), and refuse fewer.

Areas are *normalised*: 1 for an order that costs nothing, 0 for one that leaves chance
at once (``areas.normalized_area``). Chance is one over the number of classes.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.areas import ablated_at_loss, areas_by_order, normalized_area
from ioca_jax.inference.comparisons import (
    bootstrap_test,
    seeds_needed,
    sign_flip_test,
)
from ioca_jax.inference.statistics import (
    correlation_interval,
    false_discovery,
    kendall_tau,
    mean_interval,
    significant,
    simultaneous_band,
    spearman,
)
from ioca_jax.results.files import (
    converged,
    in_words,
    intact_accuracy,
    mean_curve,
    neurons_of,
    summed_curve,
)

ALPHA = 0.05
# Of normalised area: what is less than this is as good as nothing.
MARGIN = 0.01
# More measures' bands than these no figure holds.
_MEASURES_WITH_BANDS = 5


class Claim(NamedTuple):
    """A claim of arXiv 1804.06679, as a test.

    Attributes:
        text: what is claimed.
        effect: what is compared, and in what unit.
    """

    text: str
    effect: str


CLAIMS = {
    "1": Claim(
        "over the whole network, lowest first is no better than random",
        "lowest first less random, normalised area",
    ),
    "1, first version": Claim(
        "over the whole network, lowest first is worse than random",
        "lowest first less random, normalised area",
    ),
    "2, lowest first": Claim(
        "within a layer, lowest first is better than random",
        "lowest first less random, normalised area",
    ),
    "2, highest first": Claim(
        "within a layer, highest first is worse than random",
        "random less highest first, normalised area",
    ),
    "2, single neurons": Claim(
        "within a layer, a neuron's value ranks with the loss that its ablation alone "
        "costs",
        "Kendall's tau-b",
    ),
    "3": Claim(
        "mutual information and KL selectivity are higher in deeper layers",
        "median less that of the layer below, bits",
    ),
    "4": Claim(
        "ablation in deeper layers does less harm",
        "random orders, less the layer below, normalised area",
    ),
    "5": Claim(
        "clamping to the mean does less harm than clamping to zero",
        "mean less zero, random orders, normalised area",
    ),
    "7, depth": Claim(
        "the entropy of a neuron is higher in deeper layers",
        "median less that of the layer below, bits",
    ),
}
VERDICTS = ("holds", "fails", "undecided")
_CLAIMED = ("mutual_information", "kl_selectivity")
_PAPER_MEASURES = ("entropy", *_CLAIMED)


def learned(results: xr.Dataset) -> xr.Dataset:
    """The networks that there is something to say of: better than chance when intact.

    Args:
        results: a run's results.

    Returns:
        The same without diverged networks and those at chance.

    Raises:
        ValueError: none is left.
    """
    kept = converged(results)
    better = intact_accuracy(kept) > _chance(kept) + 0.01
    if not better.any():
        raise ValueError(
            f"expected networks that learned something, got {results.sizes['seed']} "
            "that diverged or are at chance; train longer or otherwise"
        )
    return kept.isel(seed=np.flatnonzero(better))


def compare_orders(results: xr.Dataset) -> pd.DataFrame:
    """Compares every order with random ones, network by network.

    Args:
        results: a run's results, with random orders.

    Returns:
        A row per scope, clamp, ``ranked_by`` and ``direction``: ``area``, normalised,
        mean over networks; ``effect``, by how much it is above that of random orders,
        with its interval ``low`` to ``high``; ``p_value`` (two-sided sign-flip test)
        and ``p_corrected`` for all rows; ``lost_1``, ``lost_5``, ``lost_10``: the
        number of neurons at which the mean curve has lost 1, 5, 10 points of accuracy.

    Raises:
        ValueError: too few networks, no random orders, or nothing to compare with them.
    """
    kept = learned(results)
    areas = _areas(kept)
    _need_random(kept)
    rows, differences = [], []
    for (scope, ranked, direction), area in areas.items():
        if ranked == "random":
            continue
        random = areas[scope, "random", "random"]
        for index, clamp in enumerate(kept["clamp"].values):
            curve = mean_curve(kept, str(clamp), scope, ranked, direction).mean("seed")
            lost = ablated_at_loss(curve.values)
            rows.append(
                {
                    "scope": scope,
                    "clamp": str(clamp),
                    "ranked_by": ranked,
                    "direction": direction,
                    "area": area[:, index].mean(),
                    **dict(zip(("lost_1", "lost_5", "lost_10"), lost, strict=True)),
                }
            )
            differences.append(area[:, index] - random[:, index])
    return tested(rows, differences)


def difference_curves(results: xr.Dataset) -> pd.DataFrame:
    """By how much each order's accuracy is above that of random ones, at every step.

    Args:
        results: a run's results, with random orders.

    Returns:
        A row per scope, clamp, ``ranked_by`` (the first five measures), ``direction``
        and ``step``: ``mean`` over networks, and ``low`` and ``high`` of a band that
        holds the whole curve of expected differences with 95 % confidence.

    Raises:
        ValueError: fewer networks than a band takes, or no random orders.
    """
    kept = learned(results)
    _need_random(kept)
    orders = _orders(kept)[: 2 * _MEASURES_WITH_BANDS]
    tables = []
    for scope in map(str, kept["scope"].values):
        names, curves = [], []
        random = {
            clamp: summed_curve(kept, clamp, scope, "random", "random")
            for clamp in map(str, kept["clamp"].values)
        }
        for order, clamp in itertools.product(orders, map(str, kept["clamp"].values)):
            names.append((scope, clamp, *order))
            own = summed_curve(kept, clamp, scope, *order)
            curves.append(_difference(own, random[clamp]))
        together = np.stack(curves, axis=1)
        bands = simultaneous_band(together)
        for name, *values in zip(names, together.mean(axis=0), *bands, strict=True):
            about = dict(
                zip(("scope", "clamp", "ranked_by", "direction"), name, strict=True)
            )
            mean, low, high = values
            step = np.arange(len(mean))
            tables.append(
                pd.DataFrame(
                    {**about, "step": step, "mean": mean, "low": low, "high": high}
                )
            )
    return pd.concat(tables, ignore_index=True)


def _difference(
    first: tuple[xr.DataArray, int], second: tuple[xr.DataArray, int]
) -> Float[np.ndarray, "S points"]:
    """Difference of accuracies given as counts: whole numbers divided once."""
    (correct, out_of), (other_correct, other_out_of) = first, second
    whole = correct.values * other_out_of - other_correct.values * out_of
    return whole / (out_of * other_out_of)


def correlate_effects(results: xr.Dataset) -> pd.DataFrame:
    """Correlates each measure with what ablating single neurons costs in test loss.

    Within each layer of each network, since pooling layers would make correlation of
    their levels; then over networks.

    Args:
        results: a run's results.

    Returns:
        A row per layer, clamp and measure: ``effect``, the mean of Kendall's tau-b
        between the measure and the rise of the loss, with its interval and tests as in
        ``compare_orders``; ``spearman``, the mean of Spearman's rank correlation; and
        ``networks``, those whose neurons of the layer are not all alike. Rows without
        enough of them have NaN.

    Raises:
        ValueError: too few networks.
    """
    kept = learned(results)
    rise = kept["single_loss"] - _intact_loss(kept)
    rows, values = [], []
    for layer, clamp, measure in itertools.product(
        np.unique(kept["layer"].values), kept["clamp"].values, kept["measure"].values
    ):
        of_layer = neurons_of(kept, layer)
        scores = kept["score"].sel(measure=measure).isel(neuron=of_layer).values
        effects = rise.sel(clamp=clamp).isel(neuron=of_layer).values
        tau = kendall_tau(scores, effects)
        rows.append(
            {
                "layer": int(layer),
                "clamp": str(clamp),
                "measure": str(measure),
                "spearman": _mean(spearman(scores, effects)),
                "networks": int(np.isfinite(tau).sum()),
            }
        )
        values.append(tau)
    return tested(rows, values, interval=correlation_interval)


def form_hypotheses(
    results: xr.Dataset, *, margin: float = MARGIN, alpha: float = ALPHA
) -> pd.DataFrame:
    """What the curves suggest of joint behaviour, by a rule with a stated test.

    * High-valued neurons whose ablation does no more harm than that of random ones are
      *redundant* with others: the area with the highest first is not more than
      ``margin`` below that of random orders.
    * Low-valued neurons whose ablation does more harm than that of random ones are
      *synergistic*, they carry information only jointly: the area with the lowest
      first is below that of random orders.

    Each is a one-sided sign-flip test over networks, corrected for all rows; what is
    not shown is *undecided*. These are hypotheses: cumulative ablation does not prove
    them.

    Args:
        results: a run's results, with random orders.
        margin: of normalised area, at least 0.
        alpha: the level of the tests, of all together.

    Returns:
        A row per layer, clamp, measure and end (``highest``, ``lowest``): ``effect``,
        by how much more harm than random, in normalised area, with its interval;
        ``p_value``, ``p_corrected``; ``verdict``; ``sentence``.

    Raises:
        ValueError: too few networks for the level, no random orders, or a negative
            margin.

    Source:
        The rule is claim 6 of arXiv 1804.06679; margin and tests are ours.
    """
    if not margin >= 0:
        raise ValueError(f"margin: expected a number not negative, got {margin}")
    kept = learned(results)
    _need_random(kept)
    need_seeds(kept, alpha, two_sided=False)
    areas = _areas(kept)
    rows, harms, shown = [], [], []
    for (scope, ranked, direction), area in areas.items():
        if scope == "network" or ranked == "random":
            continue
        highest = direction == "descending"
        for index, clamp in enumerate(kept["clamp"].values):
            harm = areas[scope, "random", "random"][:, index] - area[:, index]
            rows.append(
                {
                    "layer": int(scope.removeprefix("layer_")),
                    "clamp": str(clamp),
                    "measure": ranked,
                    "end": "highest" if highest else "lowest",
                }
            )
            harms.append(harm)
            shown.append(margin - harm if highest else harm)
    table = tested(rows, harms, np.stack(shown, axis=1), alternative="greater")
    is_shown = significant(table["p_corrected"].to_numpy(), alpha)
    suggested = np.where(table["end"] == "highest", "redundant", "synergistic")
    table["verdict"] = np.where(is_shown, suggested, "undecided")
    table["sentence"] = [
        _sentence(row, kept.sizes["seed"], margin) for row in table.to_dict("records")
    ]
    return table


def tabulate(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Every table that a run has the networks and the orders for.

    Args:
        results: a run's results.

    Returns:
        By name: ``neurons``; ``variants`` with robustness; with random orders and three
        networks ``orders``, ``differences`` and ``effects``, with five also
        ``hypotheses``, with six and the paper's measures ``claims``.
    """
    try:
        kept = learned(results)
    except ValueError:
        return {}
    tables = {"neurons": count_neurons(kept)}
    if "variant_score" in kept:
        tables["variants"] = compare_variants(kept)
    if "random" not in kept["ranked_by"].values:
        return tables
    needed: list[tuple[int, str, Callable[[xr.Dataset], pd.DataFrame]]] = [
        (3, "orders", compare_orders),
        (3, "differences", difference_curves),
        (3, "effects", correlate_effects),
        (seeds_needed(ALPHA, two_sided=False), "hypotheses", form_hypotheses),
    ]
    if _rankings(kept):
        needed.append((seeds_needed(ALPHA), "claims", judge_claims))
    enough = [
        (name, make) for least, name, make in needed if least <= len(kept["seed"])
    ]
    return tables | {name: make(kept) for name, make in enough}


class _Comparison(NamedTuple):
    """A claim made a number for every network: above the threshold, or below it."""

    claim: str
    about: dict[str, str]
    differences: Float[np.ndarray, " S"]
    threshold: float = 0.0
    above: bool = True


def judge_claims(
    results: xr.Dataset, *, margin: float = MARGIN, alpha: float = ALPHA
) -> pd.DataFrame:
    """Holds the paper's claims against a run.

    A claim *holds* where a two-sided sign-flip test over networks, corrected for all
    rows, says so; it *fails* where that says the opposite; else it is *undecided*.

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
    kept = learned(results)
    _need_random(kept)
    need_seeds(kept, alpha, two_sided=True)
    if not _rankings(kept):
        raise ValueError(
            f"expected a run with some of {', '.join(_PAPER_MEASURES)}, which the "
            f"claims are about, got one with {', '.join(kept['measure'].values)}"
        )
    comparisons = [
        comparison
        for compare in (_over_all_layers, _within_layers, _between_layers, _of_clamps)
        for comparison in compare(kept, margin)
    ]
    rows = [{"claim": c.claim, **c.about} for c in comparisons]
    table = tested(
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
    areas, found = _areas(results), []
    for measure, (index, clamp) in itertools.product(
        _rankings(results), enumerate(results["clamp"].values)
    ):
        area = areas["network", measure, "ascending"][:, index]
        random = areas["network", "random", "random"][:, index]
        about = _about("network", clamp, measure)
        found += [
            _Comparison("1", about, area - random, margin, above=False),
            _Comparison("1, first version", about, area - random, above=False),
        ]
    return found


def _within_layers(results: xr.Dataset, margin: float) -> list[_Comparison]:
    del margin
    areas, found = _areas(results), []
    rise = results["single_loss"] - _intact_loss(results)
    for layer, measure, (index, clamp) in itertools.product(
        np.unique(results["layer"].values),
        [name for name in _rankings(results) if name in _CLAIMED],
        enumerate(results["clamp"].values),
    ):
        scope = f"layer_{layer}"
        about = _about(scope, clamp, measure)
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
            # A layer of equal neurons has no ranks: it says nothing either way.
            _Comparison("2, single neurons", about, np.nan_to_num(tau)),
        ]
    return found


def _between_layers(results: xr.Dataset, margin: float) -> list[_Comparison]:
    del margin
    areas, found = _areas(results), []
    layers = np.unique(results["layer"].values).tolist()
    for upper, lower in zip(layers[1:], layers, strict=False):
        where = f"layer_{upper} over layer_{lower}"
        for measure in _rankings(results):
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
            claim = "3" if measure in _CLAIMED else "7, depth"
            about = _about(where, "", measure)
            found.append(_Comparison(claim, about, medians[0] - medians[1]))
        for index, clamp in enumerate(results["clamp"].values):
            upper_area, lower_area = (
                areas[f"layer_{layer}", "random", "random"][:, index]
                for layer in (upper, lower)
            )
            about = _about(where, clamp, "random")
            found.append(_Comparison("4", about, upper_area - lower_area))
    return found


def _of_clamps(results: xr.Dataset, margin: float) -> list[_Comparison]:
    del margin
    return [
        _Comparison("5", _about(scope, "mean", "random"), gain)
        for scope, gain in gains_of_the_mean(results).items()
    ]


def gains_of_the_mean(results: xr.Dataset) -> dict[str, Float[np.ndarray, " S"]]:
    """What clamping to the mean saves over clamping to zero, in random order.

    Args:
        results: a run's results, of networks that learned.

    Returns:
        By scope, the difference of normalised areas of every network; empty for a run
        without both clamps.
    """
    clamps = results["clamp"].values.tolist()
    if not {"zero", "mean"} <= set(clamps):
        return {}
    areas = _areas(results)
    of_scope = {
        str(s): areas[str(s), "random", "random"] for s in results["scope"].values
    }
    return {
        scope: area[:, clamps.index("mean")] - area[:, clamps.index("zero")]
        for scope, area in of_scope.items()
    }


def compare_variants(results: xr.Dataset) -> pd.DataFrame:
    """Whether neurons rank the same by another quantiser, or on other examples.

    Args:
        results: a run's results, with ``robustness``.

    Returns:
        A row per variant, measure and layer: ``spearman``, the mean over networks of
        Spearman's rank correlation with the run's own values, with its interval
        ``low`` to ``high`` (NaN with fewer than three networks); the row "second half"
        is against "first half", examples that it shares none with.

    Raises:
        ValueError: a run without ``robustness``.
    """
    if "variant_score" not in results:
        raise ValueError(
            "expected a run with the variants of its measures, got one without; run "
            "it with robustness"
        )
    kept, rows = learned(results), []
    measured = kept["variant_score"].transpose("measure", ...).values
    informative = np.isfinite(measured).any(axis=(1, 2, 3))
    for variant, measure, layer in itertools.product(
        kept["variant"].values,
        kept["measure"].values[informative],
        np.unique(kept["layer"].values),
    ):
        of_layer = neurons_of(kept, layer)
        own = kept["score"].sel(measure=measure)
        if variant == "second half":
            own = kept["variant_score"].sel(measure=measure, variant="first half")
        other = kept["variant_score"].sel(measure=measure, variant=variant)
        found = spearman(
            own.isel(neuron=of_layer).values, other.isel(neuron=of_layer).values
        )
        found = found[np.isfinite(found)]
        low, high = _interval(found)
        rows.append(
            {
                "variant": str(variant),
                "measure": str(measure),
                "layer": int(layer),
                "spearman": _mean(found),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def count_neurons(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """Counts each layer's neurons that say nothing, or no more than chance.

    Args:
        results: a run's results.
        alpha: the level.

    Returns:
        A row per layer, means over networks: ``neurons``; ``dead``, whose code is never
        but the lowest; ``always_on``, whose code is always the highest;
        ``family_MEASURE``, those above what any neuron shows in ``1 - alpha`` of the
        permutations; ``discovered_MEASURE``, those found at a false discovery rate of
        ``alpha`` (Benjamini-Hochberg), both for measures that were tested;
        ``selective_for_CLASS``, those whose KL selectivity that class attains.
    """
    kept = learned(results)
    by_code = kept["joint_count"].sum("class")
    total = by_code.sum("code")
    census = {
        "dead": by_code.isel(code=0) == total,
        "always_on": by_code.isel(code=-1) == total,
    }
    if "p_value" in kept:
        for measure in kept["measure"].values:
            p_values = kept["p_value"].sel(measure=measure)
            if np.isfinite(p_values).all():
                family = kept["p_value_family"].sel(measure=measure).values
                rate = false_discovery(p_values.values)
                for name, p in (("family", family), ("discovered", rate)):
                    found = significant(p, alpha)
                    census[f"{name}_{measure}"] = p_values.copy(data=found)
    for label in kept["class"].values if "selective_class" in kept else ():
        census[f"selective_for_{label}"] = kept["selective_class"] == label
    rows = []
    for layer in np.unique(kept["layer"].values):
        of_layer = neurons_of(kept, layer)
        means = {
            name: float(flags.isel(neuron=of_layer).sum("neuron").mean("seed"))
            for name, flags in census.items()
        }
        rows.append({"layer": int(layer), "neurons": len(of_layer), **means})
    return pd.DataFrame(rows)


def tested(
    rows: Sequence[dict],
    values: Sequence[np.ndarray],
    shown: np.ndarray | None = None,
    *,
    threshold: float | Sequence[float] = 0.0,
    alternative: str = "two-sided",
    interval: Callable = mean_interval,
) -> pd.DataFrame:
    """Rows with the mean of their values over networks, its interval, and tests.

    Args:
        rows: what each is about, at least one.
        values: for each, [S], a number for every network.
        shown: what to test instead of the values, [S, rows].
        threshold: that the tests are against, one for all rows or one for each.
        alternative: of the tests.
        interval: ``statistics.mean_interval``, or ``correlation_interval`` for values
            in [-1, 1].

    Returns:
        The rows with ``effect``, its 95 % interval ``low`` to ``high``; ``p_value`` of
        the sign-flip test and ``p_corrected``, for all rows; and ``p_bootstrap``,
        corrected likewise, of ``comparisons.bootstrap_test``, which allows for skewed
        differences. NaN where a network has no value.

    Raises:
        ValueError: fewer networks than an interval takes, three.
    """
    table, together = pd.DataFrame(rows), np.stack(values, axis=1)
    shown = together if shown is None else shown
    whole = np.isfinite(together).all(axis=0)
    names = ["effect", "low", "high", "p_value", "p_corrected", "p_bootstrap"]
    for name in names:
        table[name] = np.nan
    if whole.any():
        bounds = np.broadcast_to(np.asarray(threshold, np.float64), len(rows))
        about = {"threshold": bounds[whole], "alternative": alternative}
        low, high = interval(together[:, whole])
        test = sign_flip_test(shown[:, whole], **about)
        robust = bootstrap_test(shown[:, whole], **about)
        columns = (together[:, whole].mean(axis=0), low, high)
        columns += (test.p_value, test.p_corrected, robust.p_corrected)
        table.loc[whole, names] = np.stack(columns, axis=1)
    return table


def _areas(results: xr.Dataset) -> dict[tuple[str, str, str], np.ndarray]:
    """Normalised areas [S, clamps] by scope, ranking and direction."""
    intact = intact_accuracy(results)[:, None]
    return {
        name: normalized_area(area, intact, _chance(results))
        for name, area in areas_by_order(results).items()
    }


def _chance(results: xr.Dataset) -> float:
    return 1 / results.sizes["class"]


def _intact_loss(results: xr.Dataset) -> xr.DataArray:
    return results["loss"].isel(scope=0, ordering=0, step=0, drop=True)


def _orders(results: xr.Dataset) -> list[tuple[str, str]]:
    """What neurons are ranked by, and directions, but for random orders."""
    pairs = zip(results["ranked_by"].values, results["direction"].values, strict=True)
    return [(str(r), str(d)) for r, d in pairs if r != "random"]


def _rankings(results: xr.Dataset) -> list[str]:
    """The paper's measures that neurons are ranked by."""
    ranked = dict.fromkeys(ranked for ranked, _ in _orders(results))
    return [name for name in ranked if name in _PAPER_MEASURES]


def _about(scope: object, clamp: object, measure: str) -> dict[str, str]:
    return {"scope": str(scope), "clamp": str(clamp), "measure": measure}


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 3:
        return float("nan"), float("nan")
    low, high = correlation_interval(values)
    return float(low), float(high)


def _need_random(results: xr.Dataset) -> None:
    if "random" not in results["ranked_by"].values:
        raise ValueError(
            "expected a run with random orders, to compare with, got one without; run "
            "it with random_orders of 1 or more"
        )


def need_seeds(results: xr.Dataset, alpha: float, *, two_sided: bool) -> None:
    """Refuses fewer networks than a sign-flip test needs to reject anything.

    Args:
        results: a run's results, of networks that learned.
        alpha: the level.
        two_sided: whether differences of either sign count.

    Raises:
        ValueError: too few.
    """
    least = seeds_needed(alpha, two_sided=two_sided)
    if results.sizes["seed"] < least:
        raise ValueError(
            f"expected at least {least} networks, with which a sign-flip test can "
            f"reach p = {alpha:g}, got {results.sizes['seed']} that learned; run more "
            "seeds"
        )


def _sentence(row: Mapping[Hashable, Any], networks: int, margin: float) -> str:
    """A hypothesis as a researcher could quote it."""
    measure = in_words(row["measure"])
    less = "less" if row["effect"] >= 0 else "more"
    numbers = (
        f"normalised area {abs(row['effect']):.3f} {less} than in random order, 95 % "
        f"interval of the harm {row['low']:.3f} to {row['high']:.3f}, corrected p = "
        f"{row['p_corrected']:.2g}, {networks} networks"
    )
    which = (
        f"In layer {row['layer']}, clamped to {row['clamp']}, ablating the neurons of"
    )
    harm = {
        "redundant": f"does no more harm than random ones, to within {margin:g}",
        "synergistic": "does more harm than random ones",
    }
    said = harm.get(
        row["verdict"],
        "is not shown to do "
        + ("as little harm as" if row["end"] == "highest" else "more harm than")
        + " random ones",
    )
    follows = {
        "redundant": "they are redundant with others",
        "synergistic": "they carry information jointly with others",
    }
    conclusion = follows.get(row["verdict"], "nothing is suggested")
    return f"{which} {row['end']} {measure} {said} ({numbers}): {conclusion}."
