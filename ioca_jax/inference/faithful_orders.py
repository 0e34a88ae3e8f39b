"""The faithfulness of what a study's ascending orders keep, tested over networks.

CPR and CMD of ``faithfulness``, of every ascending order and of random orders, in every
metric that the study's curves have.
"""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.faithfulness import MIB_FRACTIONS, faithfulness, missing_steps
from ioca_jax.inference.families import (
    above_chance,
    add_tests,
    clamps_of,
    effect_table,
    judge_family,
    normalized_areas,
)
from ioca_jax.results.subsets import count_correct, over_seeds

_AXES = ("scope", "seed", "clamp", "ordering", "step")
_RANDOM = "random"
_Areas = dict[tuple[str, str, str, str], Float[np.ndarray, "S clamps"]]


def compare_faithfulness(results: xr.Dataset) -> pd.DataFrame:
    """CPR and CMD of the neurons that each ascending order keeps, over networks.

    Args:
        results: a run's results.

    Returns:
        A row per scope, metric, ``quantity``, ``ranked_by`` and clamp. Quantities are
        ``CPR`` and ``CMD`` from all points, and, where the curves have them, ``CPR,
        MIB`` and ``CMD, MIB`` at MIB's ten shares; ``ranked_by`` is a measure, in
        ascending order, or ``random``, the mean over draws. ``value`` is the mean over
        networks and ``value_low`` to ``value_high`` its 95 % interval; ``effect`` is by
        how much it is above that of random orders, with interval and tests as in
        ``compare_orders``. NaN where a network has no faithfulness, because it is as
        good with all neurons ablated.

    Raises:
        ValueError: fewer than three networks above chance.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> table = ioca.compare_faithfulness(results)
        >>> sorted(set(table["quantity"]))
        ['CMD', 'CMD, MIB', 'CPR', 'CPR, MIB']
    """
    kept = above_chance(results)
    rows, values, differences = [], [], []
    areas = circuit_areas(kept)
    for (scope, metric, quantity, ranked_by), area in areas.items():
        random = areas.get((scope, metric, quantity, _RANDOM), np.nan)
        difference = area - (np.nan if ranked_by == _RANDOM else random)
        for index, clamp in enumerate(clamps_of(kept)):
            about = {"scope": scope, "clamp": clamp, "metric": metric}
            rows.append(about | {"quantity": quantity, "ranked_by": ranked_by})
            values.append(area[:, index])
            differences.append(difference[:, index])
    names = {"effect": "value", "low": "value_low", "high": "value_high"}
    table = effect_table(rows, values).rename(columns=names)
    effects = effect_table([{}] * len(rows), differences)
    return add_tests(pd.concat([table, effects], axis=1), differences)


def compare_regret(results: xr.Dataset) -> pd.DataFrame:
    """Order regret: by how much ascending orders are below the learned order.

    Args:
        results: a run's results, with ``learned_zero`` or ``learned_mean`` among its
            measures.

    Returns:
        A row per scope, clamp that an order was learned under, ``quantity`` (``CPR`` in
        accuracy, or ``normalised area``) and ``ranked_by`` (other measures, in
        ascending order, or ``random``): ``learned``, that of the learned order, and
        ``effect``, by how much it is above, with interval and tests as in
        ``compare_orders``. Below 0 an order is better than the learned one, which is
        fitted to other examples than curves are evaluated on.
    """
    if not has_learned(results):
        raise ValueError(
            "measures: expected learned_zero or learned_mean, with a clamp of that "
            f"name, got {', '.join(map(str, results['measure'].values))}"
        )
    kept = above_chance(results)
    areas = {
        (scope, quantity, ranked_by): area
        for (scope, metric, quantity, ranked_by), area in circuit_areas(kept).items()
        if (metric, quantity) == ("accuracy", "CPR")
    }
    for (scope, ranked_by, direction), area in normalized_areas(kept).items():
        if direction != "descending":
            areas[scope, "normalised area", ranked_by] = area
    rows, values = [], []
    for (scope, quantity, ranked_by), area in areas.items():
        for index, clamp in enumerate(clamps_of(kept)):
            learned = areas.get((scope, quantity, f"learned_{clamp}"))
            if learned is not None and ranked_by != f"learned_{clamp}":
                about = {"scope": scope, "clamp": clamp, "quantity": quantity}
                mean = learned[:, index].mean()
                rows.append(about | {"ranked_by": ranked_by, "learned": mean})
                values.append((learned - area)[:, index])
    return judge_family(rows, values)


def has_learned(results: xr.Dataset) -> bool:
    """Whether an order is learned under one of the clamps that curves have."""
    learned = {f"learned_{clamp}" for clamp in clamps_of(results)}
    return not learned.isdisjoint(results["ranked_by"].values.tolist())


def circuit_areas(results: xr.Dataset) -> _Areas:
    """By scope, metric, quantity and ranking, areas [S, clamps], mean over draws.

    Accuracy is counted in whole examples: orders with equal counts have equal areas.
    """
    names = {"correct", "loss", "metric_mean"} & {*map(str, results.data_vars)}
    return over_seeds(results[sorted(names)], _areas_of_piece)


def _areas_of_piece(results: xr.Dataset) -> _Areas:
    metrics = {
        "accuracy": count_correct(results["correct"].transpose(*_AXES, "class").values),
        "loss": results["loss"].transpose(*_AXES).values.astype(np.float64),
    }
    if "metric_mean" in results:
        of_metrics = results["metric_mean"].transpose("metric", *_AXES)
        names = map(str, of_metrics["metric"].values)
        metrics |= zip(names, of_metrics.values.astype(np.float64), strict=True)
    is_random = results["ranked_by"].values == _RANDOM
    ascending = is_random | (results["direction"].values == "ascending")
    ranked_by = results["ranked_by"].values[ascending]
    found: _Areas = {}
    # Counts say which points a scope has; a metric may be NaN at some of these.
    is_point = ~np.isnan(metrics["accuracy"]).all(axis=(1, 2, 3))
    for metric, of_scopes in metrics.items():
        for scope, curves, own in zip(
            results["scope"].values, of_scopes, is_point, strict=True
        ):
            steps, curves = results["step"].values[own], curves[..., own]
            for quantity, area in _quantities(curves[:, :, ascending], steps).items():
                for ranked in dict.fromkeys(ranked_by.tolist()):
                    of_draws = area[:, :, ranked_by == ranked]
                    name = (str(scope), metric, quantity, str(ranked))
                    found[name] = of_draws.mean(axis=2)
    return found


def _quantities(curves: np.ndarray, steps: np.ndarray) -> dict[str, np.ndarray]:
    """By name, areas of curves [S, clamps, orders, P] at some steps.

    ``faithfulness`` takes points that are NaN for all curves for another scope's. These
    are the scope's own: a curve with NaN has no area.
    """
    is_nan = np.isnan(curves)
    curves = np.where(is_nan, 0, curves)
    cpr, cmd = faithfulness(curves, steps=steps)
    found = {"CPR": cpr, "CMD": cmd}
    if not missing_steps(MIB_FRACTIONS, steps).size:
        cpr, cmd = faithfulness(curves, MIB_FRACTIONS, steps=steps)
        found |= {"CPR, MIB": cpr, "CMD, MIB": cmd}
    has_nan = is_nan.any(axis=-1)
    return {name: np.where(has_nan, np.nan, area) for name, area in found.items()}
