"""The numbers that a report page's charts are drawn from, small and aggregated.

Curves are means over networks; values of single neurons are those of each network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ioca_jax.inference.families import clamps_of, orders_of
from ioca_jax.report.findings import order_name, scope_name
from ioca_jax.results.subsets import (
    count_correct,
    layer_title,
    layers_of,
    loss_increase,
    neurons_of,
    num_test_examples,
    orderings_of,
    over_seeds,
    readable,
    scope_of,
)

# Numbers of about seven characters each: 0.7 MB of curves and 0.7 MB of neurons.
_NUMBERS = 100_000
_LEAST_POINTS, _MOST_POINTS = 21, 401
_RANDOM = ("random", "random")


def curve_data(results: xr.Dataset) -> dict[str, Any]:
    """Quantities along every order, means over networks with standard deviations.

    Args:
        results: of networks that converged.

    Returns:
        ``clamps``; ``scopes``, each with its ``steps``; ``orders``; ``quantities``,
        each with ``mean`` and ``deviation`` by clamp, scope, order and step, rounded to
        4 digits. Long curves are thinned evenly, and of many layers some are left out,
        evenly.
        ``deviation`` is None without a spread; that of random orders of a single
        network is over draws.
    """
    clamps = clamps_of(results)
    orders = orders_of(results)
    if "random" in results["ranked_by"].values:
        orders.append(_RANDOM)
    per_scope = 2 * len(clamps) * len(orders) * len(quantities_of(results))
    scopes = _spread(results["scope"].values, _NUMBERS // (per_scope * _LEAST_POINTS))
    points = _NUMBERS // (per_scope * len(scopes))
    points = min(max(points, _LEAST_POINTS), _MOST_POINTS)
    steps = {scope: _steps(results, scope, points) for scope in scopes}
    quantities = {
        name: _quantity(results, name, scopes, steps, orders)
        for name in quantities_of(results)
    }
    return {
        "clamps": clamps,
        "scopes": [
            {
                "name": scope,
                "title": scope_name(scope),
                "steps": results["step"].values[steps[scope]].tolist(),
            }
            for scope in scopes
        ],
        "orders": [
            {"ranked_by": r, "direction": d, "title": order_name(r, d)}
            for r, d in orders
        ],
        "measures": _measure_titles(results),
        "networks": results.sizes["seed"],
        "layers_left_out": results.sizes["scope"] - len(scopes),
        "quantities": quantities,
    }


def quantities_of(results: xr.Dataset) -> list[str]:
    """What is followed along curves, by name: accuracy, loss, further metrics."""
    further = results["metric"].values.tolist() if "metric" in results.coords else []
    return ["accuracy", "loss", *further]


def _quantity(
    results: xr.Dataset,
    name: str,
    scopes: Sequence[str],
    steps: Mapping[str, np.ndarray],
    orders: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Means and deviations of one quantity, [clamp][scope][order] lists, or None."""
    shape = results.sizes["clamp"], len(scopes), len(orders)
    mean, deviation = np.full((2, *shape), None, object)
    for j, scope in enumerate(scopes):
        of_scope = _courses(_values_of(results, name, scope, steps[scope]), orders)
        for i, k in np.ndindex(shape[0], shape[2]):
            mean[i, j, k], deviation[i, j, k] = (
                None if np.isnan(course[i, k]).any() else _plain(course[i, k])
                for course in of_scope
            )
    unit = {"accuracy": "1", "loss": "nat"}.get(name)
    if unit is None:
        unit = str(results["metric_unit"].sel(metric=name).values)
    return {"unit": unit, "mean": mean.tolist(), "deviation": deviation.tolist()}


def _values_of(
    results: xr.Dataset, name: str, scope: str, steps: np.ndarray
) -> xr.Dataset:
    """A quantity as ``values``; accuracies as counts by class, which add exactly."""
    if name == "accuracy":
        values = results["correct"]
    elif name == "loss":
        values = results["loss"]
    else:
        values = results["metric_mean"].sel(metric=name)
    values = values.sel(scope=scope).isel(step=steps)
    return values.to_dataset(name="values").merge(results[["class_size"]])


def _measure_titles(results: xr.Dataset) -> dict[str, str]:
    """By name, titles of what neurons are ranked by."""
    return {name: readable(name) for name in dict(orders_of(results))}


def _spread(names: np.ndarray, most: int) -> list[str]:
    """At most so many names, the first and the last and evenly spaced ones."""
    most = max(most, 2)
    if len(names) > most:
        names = names[np.linspace(0, len(names) - 1, most).round().astype(int)]
    return [str(name) for name in names]


def _steps(results: xr.Dataset, scope: str, points: int) -> np.ndarray:
    accuracy = results["accuracy"].sel(scope=scope).isel(clamp=0, ordering=0, seed=0)
    there = np.flatnonzero(np.isfinite(accuracy.values))
    chosen = np.linspace(0, len(there) - 1, points).round().astype(int)
    return there[np.unique(chosen)]


def _courses(
    values: xr.Dataset, orders: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations [clamps, orders, steps] of a quantity in a scope."""
    is_count = "class" in values["values"].dims
    axes = ("seed", "clamp", "ordering", "step", *("class",) * is_count)
    draws = [orderings_of(values, *order) for order in orders]
    networks = values.sizes["seed"]

    def summed(piece: xr.Dataset) -> dict[str, np.ndarray]:
        """Over networks; of a single network the draws are what varies."""
        found = piece["values"].transpose(*axes).values
        found = count_correct(found) if is_count else found.astype(np.float64)
        of_orders = [found[:, :, own] for own in draws]
        if networks > 1:
            of_orders = [own.mean(axis=2, keepdims=True) for own in of_orders]
        return {
            power: np.stack([(own**n).sum(axis=(0, 2)) for own in of_orders], 1)[None]
            for power, n in (("total", 1), ("squares", 2))
        }

    sums = over_seeds(values[["values"]], summed)
    total, squares = (sums[name].sum(axis=0) for name in ("total", "squares"))
    samples = [networks if networks > 1 else len(own) for own in draws]
    number = np.array(samples)[:, None]
    mean = total / number
    spread = np.maximum(squares - number * mean**2, 0) / np.maximum(number - 1, 1)
    deviation = np.where(number > 1, np.sqrt(spread), np.nan)
    examples = num_test_examples(values) if is_count else 1
    return mean / examples, deviation / examples


def neuron_data(results: xr.Dataset) -> dict[str, Any]:
    """Measures, single effects and places in orders of the networks' neurons.

    At most 100,000 numbers: the first networks are taken, as many as fit with all their
    neurons. Where one network has more, some of its neurons are left out, evenly.

    Args:
        results: of networks that converged.

    Returns:
        ``layers`` and their ``scopes``; by neuron ``layer`` and ``index``; the number
        of all ``neurons`` and ``measures``; and ``networks``, each with its ``seed``;
        by measure ``scores``; by clamp ``effects``, the increase of the test loss in
        nats; by order ``in_network`` and ``in_layer``, the places in these scopes'
        orders, from 0, or None.
    """
    layers, orders = layers_of(results), orders_of(results)
    layer = np.empty(results.sizes["neuron"], int)
    index = np.empty_like(layer)
    for number, name in enumerate(layers):
        own = neurons_of(results, name)
        layer[own], index[own] = number, np.arange(len(own))
    measures = [str(name) for name in results["measure"].values]
    each = len(measures) + results.sizes["clamp"] + 2 * len(orders) + 2
    neurons = min(_NUMBERS // each, len(layer))
    chosen = np.linspace(0, len(layer) - 1, neurons).round().astype(int)
    networks = min(_NUMBERS // (each * neurons), results.sizes["seed"])
    needed = {"score", "loss", "single_loss", "order"} & set(results.data_vars)
    of_seeds = results[sorted(needed)]
    return {
        "neurons": len(layer),
        "layers": [layer_title(name) for name in layers],
        "scopes": [scope_of(name) for name in layers],
        "layer": layer[chosen].tolist(),
        "index": index[chosen].tolist(),
        "measures": [
            {"name": n, "title": readable(n), "unit": str(results["unit"].values[i])}
            for i, n in enumerate(measures)
        ],
        "networks": [
            _neurons_of_one(of_seeds.isel(seed=i).load(), layer, chosen)
            for i in range(networks)
        ],
    }


def _neurons_of_one(
    one: xr.Dataset, layer: np.ndarray, chosen: np.ndarray
) -> dict[str, Any]:
    """What ``neuron_data`` has of one network's chosen neurons."""
    rise = np.stack([loss_increase(one, clamp).values for clamp in clamps_of(one)])
    places = [_places(one, order, layer) for order in orders_of(one)]
    scores = one["score"].transpose("measure", "neuron").values
    return {
        "seed": int(one["seed"]),
        "scores": [_plain(row) for row in scores[:, chosen]],
        "effects": [_plain(row) for row in rise[:, chosen]],
        **{
            name: [found[i][chosen].tolist() if found else None for found in places]
            for i, name in enumerate(("in_network", "in_layer"))
        },
    }


def _places(
    one: xr.Dataset, order: tuple[str, str], layer: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Places of all neurons in an order of the network and in those of layers."""
    if "order" not in one:
        return None
    neurons = one["order"].isel(ordering=orderings_of(one, *order)[0])
    neurons = neurons.transpose("scope", "position").values
    scopes = one["scope"].values.tolist()
    in_network, in_layer = np.full((2, len(layer)), -1)
    for scope in ["network", *map(scope_of, layers_of(one))]:
        of_scope = neurons[scopes.index(scope)]
        of_scope = of_scope[of_scope >= 0]
        where = in_network if scope == "network" else in_layer
        where[of_scope] = np.arange(len(of_scope))
    return in_network, in_layer


def _plain(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON with 4 significant digits; None for NaN."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]
