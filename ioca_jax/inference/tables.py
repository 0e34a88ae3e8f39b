"""All tables of a run by name, and the files that they are written to."""

import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import xarray as xr

from ioca_jax.inference.claims import judge_claims
from ioca_jax.inference.class_damage import predict_class_damage
from ioca_jax.inference.comparisons import seeds_needed
from ioca_jax.inference.families import ALPHA, above_chance, rankings
from ioca_jax.inference.hypotheses import form_hypotheses
from ioca_jax.inference.interactions import (
    LEAST_FOR_INTERVALS,
    correlate_pairs,
    has_interactions,
    joint_behaviour,
)
from ioca_jax.inference.neurons import compare_variants, count_neurons
from ioca_jax.inference.order_tests import (
    compare_orders,
    correlate_effects,
    difference_curves,
)
from ioca_jax.inference.self_repair import measure_self_repair
from ioca_jax.inference.trajectories import trajectory_table, trends_of_training
from ioca_jax.inference.verdicts import conclude, test_hypotheses
from ioca_jax.results.selection import converged

# Of all tables. A layer may be called 0, null or True: its name is no value.
_TEXT = {
    *("claim", "clamp", "direction", "effect_in", "end", "finding", "instrument"),
    *("layer", "layer_name", "measure", "name", "pair_measure", "quantity"),
    *("ranked_by", "reason", "scope", "sentence", "setting", "status", "suggested"),
    *("trend", "unit", "variant", "verdict"),
}
_INTEGER = re.compile(r"-?\d+")


def load_table(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a table that a run or a sweep has written as CSV.

    ``pandas.read_csv`` takes a layer called ``0`` for a number, and one called ``NA``
    or ``null`` for a missing value.

    Args:
        path: of the file, such as ``tables/orders.csv`` in a run's folder.

    Returns:
        The table. Columns of names and sentences are text, ``layer`` also where layers
        are numbered; others are integers, floats (NaN where nothing stands) or
        booleans.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not CSV.

    Example:
        >>> import ioca_jax as ioca
        >>> neurons = ioca.load_table("runs/demo/tables/neurons.csv")  # of make demo
        >>> neurons["layer"].tolist()
        ['1', '2']
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"expected a table (CSV) at {path}, found none")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise ValueError(
            f"{path}: expected a table (CSV), got a file that cannot be read ({reason})"
        ) from error
    columns: dict[str, list[str]] = table.to_dict("list")
    return pd.DataFrame(
        {n: cells if n in _TEXT else _values(cells) for n, cells in columns.items()}
    )


def _values(cells: list[str]) -> list[Any]:
    """Cells of one column as integers, booleans or floats; as text if they are not."""
    if all(map(_INTEGER.fullmatch, cells)):
        return list(map(int, cells))
    if all(cell in ("True", "False") for cell in cells):
        return [cell == "True" for cell in cells]
    try:
        return [float(cell or "nan") for cell in cells]
    except ValueError:
        return cells


def tabulate(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """All tables for which a run has enough networks, orders and interactions, by name.

    ``neurons``; ``variants`` with robustness; ``self_repair`` with direct effects,
    three networks and a path around layers; with random orders and three networks
    ``orders``, ``differences``, ``effects`` and ``class_damage``, with five also
    ``hypotheses``, with six and the paper's measures ``claims``. With interactions and
    three networks ``pairs`` and ``joint``, with hypotheses and six also ``verdicts`` (a
    row per hypothesis and instrument) and ``conclusions`` (a row per hypothesis). With
    trajectories ``trajectories``, with three networks and two epochs also ``trends``.
    """
    tables = order_tables(results)
    return tables | interaction_tables(results, tables)


def order_tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Tables of orders, effects, hypotheses, claims and variants."""
    try:
        kept = above_chance(results)
    except ValueError:
        return {}
    tables = {"neurons": count_neurons(kept)}
    if "direct_loss" in kept and kept.sizes["seed"] >= LEAST_FOR_INTERVALS:
        repair = measure_self_repair(kept)
        tables |= {"self_repair": repair} if len(repair) else {}
    if "variant_score" in kept:
        tables["variants"] = compare_variants(kept)
    if "random" not in kept["ranked_by"].values:
        return tables
    needed: list[tuple[int, str, Callable[[xr.Dataset], pd.DataFrame]]] = [
        (3, "orders", compare_orders),
        (3, "differences", difference_curves),
        (3, "effects", correlate_effects),
        (3, "class_damage", predict_class_damage),
        (seeds_needed(ALPHA, two_sided=False), "hypotheses", form_hypotheses),
    ]
    if rankings(kept):
        needed.append((seeds_needed(ALPHA), "claims", judge_claims))
    enough = [
        (name, make) for least, name, make in needed if least <= len(kept["seed"])
    ]
    return tables | {name: make(kept) for name, make in enough}


def interaction_tables(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Tables of pairs, groups and trajectories, beside those of orders."""
    found = {}
    try:
        networks = above_chance(results).sizes["seed"]
    except ValueError:
        networks = 0
    if has_interactions(results) and networks >= LEAST_FOR_INTERVALS:
        found["pairs"] = correlate_pairs(results)
        found["joint"] = joint_behaviour(results)
        if "hypotheses" in tables and networks >= seeds_needed(ALPHA):
            found["verdicts"] = test_hypotheses(results, tables["hypotheses"])
            found["conclusions"] = conclude(found["verdicts"])
    finished = converged(results).sizes["seed"]
    if "trajectory_score" in results and finished:
        found["trajectories"] = trajectory_table(results)
        enough = finished >= LEAST_FOR_INTERVALS
        if enough and results.sizes["trajectory_epoch"] > 1:
            found["trends"] = trends_of_training(results)
    return found
