"""Whether tables name planted pairs and backups, and find planted orders.

The networks have a residual path, so that direct effects are defined. What is counted
in single networks: whether the planted pair has the right sign, or is the most extreme
of its layer, as no table has a test for single pairs. What is
counted in studies of several networks: whether a table's test, corrected for its
family, finds what is planted.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import xarray as xr

import ioca_jax as ioca
from ioca_jax.inference.class_damage import predict_class_damage
from ioca_jax.inference.interactions import (
    CO_INFORMATION,
    chance_free,
    correlate_pairs,
)
from ioca_jax.inference.order_tests import correlate_effects
from ioca_jax.inference.self_repair import measure_self_repair
from ioca_jax.inference.statistics import significant
from ioca_jax.measures.groups import redundancy_index, vulnerability
from ioca_jax.measures.o_information import o_information

from .networks import Planted, study
from .weights import PAIRS, UNITS

ALPHA = 0.05
SIZES = (6, 8, 12, 20)
"""Networks of a study, for which power is counted."""
Rows = list[dict[str, Any]]
_SIGN = {"redundant": 1, "synergistic": -1}
_INFORMATIVE = 0.8  # the least importance of units that should be found informative


def name_planted(planted: Planted) -> Rows:
    """A row per network or study, what is planted, and instrument: right or not."""
    seeds = tuple(range(len(planted.places)))
    config = ioca.StudyConfig(
        seeds=seeds,
        measures=("mutual_information",),
        random_orders=2,
        interactions=True,
        direct_effects=True,
    )
    results = study(config, planted.data, planted.network, planted.variables)
    rows = []
    for place in seeds:
        of_network = results.isel(seed=place)
        found = [
            *_pairs_named(planted, of_network, place),
            *_groups_named(planted, place),
            *_units_named(planted, of_network, place),
        ]
        for what, instrument, right in found:
            about = {"of": "network", "planted": what, "instrument": instrument}
            rows.append(about | {"networks": 1, "right": float(right)})
    return rows + _power(results)


def _planted_pairs(planted: Planted, place: int) -> dict[str, tuple[int, int]]:
    """By kind, the planted pair of a network."""
    found = {}
    for kind in PAIRS:
        units = planted.places_of(kind)[place].tolist()
        if kind == "backup":
            units += planted.places_of("principal")[place].tolist()
        found[kind] = (units[0], units[1])
    return found


def _pairs_named(planted: Planted, results: xr.Dataset, place: int) -> Iterable[tuple]:
    """Whether co-information and pair effects have the right sign for planted pairs."""
    bits = chance_free(results).values
    for kind, pair in _planted_pairs(planted, place).items():
        sign = _SIGN[PAIRS[kind]]
        yield kind, "co-information", sign * bits[pair] > 0
        rivals = 2 if sign > 0 else 1  # as many pairs of this sign are planted
        width = len(UNITS)
        upper = np.triu_indices(width, 1)
        for clamp in results["clamp"].values:
            effects = results["pair_effect_loss"].sel(clamp=clamp).values
            effects = sign * effects[:width, :width]
            rank = (effects[upper] > effects[pair]).sum()
            is_named = effects[pair] > 0 and rank < rivals
            yield kind, f"pair effects in loss, {clamp}", is_named


def _groups_named(planted: Planted, place: int) -> Iterable[tuple]:
    """Whether the measures of groups have the right side for the planted pairs."""
    one = jax.tree.map(lambda leaf: leaf[place], planted.variables)
    x, y = planted.data.validation
    outputs = planted.network.apply(one, x)[1]
    codes = ioca.quantize(outputs, "threshold:0")
    pairs = _planted_pairs(planted, place)
    groups = np.array(list(pairs.values()))
    sizes = {"num_codes": 2, "num_classes": 2}
    index = np.asarray(redundancy_index(codes, y, groups, **sizes)) - 1
    lost = 1 - np.asarray(vulnerability(codes, y, groups, **sizes))
    bits = o_information(codes, y, groups, **sizes, key=jax.random.key(place))
    shown = significant(np.asarray(bits.p_value_with_class), ALPHA)
    for number, kind in enumerate(pairs):
        sign = _SIGN[PAIRS[kind]]
        yield kind, "redundancy index", sign * index[number] > 0
        yield kind, "vulnerability", sign * lost[number] > 0
        right = sign * float(bits.with_class_miller_madow[number]) > 0
        yield kind, "O-information", shown[number] and right


def _units_named(planted: Planted, results: xr.Dataset, place: int) -> Iterable[tuple]:
    """Whether effects name principal and backup, and p-values informative units."""
    width = len(UNITS)
    (principal,), (backup,) = (
        planted.places_of(kind)[place].tolist() for kind in ("principal", "backup")
    )
    for clamp in results["clamp"].values:
        effect = results.sel(clamp=clamp)
        repaired = (effect["direct_loss"] - effect["single_loss"]).values[:width]
        yield "principal", f"direct less total, {clamp}", repaired.argmax() == principal
        with_principal = effect["pair_effect_loss"].values[principal, :width]
        named = np.nanargmax(np.where(np.isnan(with_principal), -1, with_principal))
        yield "backup", f"pair effects with its principal, {clamp}", named == backup
    family = results["p_value_family"].sel(measure="mutual_information").values[:width]
    shown = significant(family, ALPHA)
    for at, unit in zip(planted.places[place], UNITS, strict=True):
        alone = unit.kind in ("graded", "duplicate", "principal")
        if alone and unit.importance >= _INFORMATIVE:
            name = f"{unit.kind}, {unit.importance:g}"
            yield name, "mutual information, family", shown[at]


def _power(results: xr.Dataset) -> Rows:
    """Whether tests over networks find what is planted, in studies of several sizes."""
    rows = []
    for size in SIZES:
        for start in range(0, results.sizes["seed"] - size + 1, size):
            some = results.isel(seed=slice(start, start + size))
            for table, test in TESTS.items():
                shown, effect = test(some)
                about = {"of": "study", "planted": "a layer", "instrument": table}
                right = {"right": float(shown), "effect": effect}
                rows.append(about | {"networks": size} | right)
    return rows


def _found(table: Any, **about: str) -> tuple[bool, float]:
    """Whether a table has a positive effect in one row, and how large it is."""
    chosen = np.all([table[name] == value for name, value in about.items()], axis=0)
    (row,) = table[chosen].to_dict("records")
    shown = significant(row["p_corrected"], ALPHA) and row["effect"] > 0
    return bool(shown), float(row["effect"])


_MEASURE = {"clamp": "mean", "ranked_by": "mutual_information", "scope": "first"}


def _orders(results: xr.Dataset) -> tuple[bool, float]:
    return _found(ioca.compare_orders(results), **_MEASURE, direction="ascending")


def _faithfulness(results: xr.Dataset) -> tuple[bool, float]:
    table = ioca.compare_faithfulness(results)
    return _found(table, **_MEASURE, metric="accuracy", quantity="CPR")


def _claims(results: xr.Dataset) -> tuple[bool, float]:
    table = ioca.judge_claims(results)
    about = {"claim": "2, lowest first", "scope": "first", "clamp": "mean"}
    return _found(table, **about, measure="mutual_information")


def _first(**about: str) -> dict[str, str]:
    return {"layer": "first", "clamp": "mean", **about}


def _effects(results: xr.Dataset) -> tuple[bool, float]:
    return _found(correlate_effects(results), **_first(measure="mutual_information"))


def _class_damage(results: xr.Dataset) -> tuple[bool, float]:
    return _found(predict_class_damage(results), **_first(quantity="own class"))


def _pairs(results: xr.Dataset) -> tuple[bool, float]:
    about = {"pair_measure": CO_INFORMATION, "effect_in": "loss"}
    return _found(correlate_pairs(results), **_first(**about))


def _self_repair(results: xr.Dataset) -> tuple[bool, float]:
    return _found(measure_self_repair(results), layer="first", clamp="zero")


TESTS: dict[str, Callable[[xr.Dataset], tuple[bool, float]]] = {
    "orders": _orders,
    "faithfulness": _faithfulness,
    "claims": _claims,
    "effects": _effects,
    "class_damage": _class_damage,
    "pairs": _pairs,
    "self_repair": _self_repair,
}
"""By table, whether it finds what is planted, and the effect it shows."""
