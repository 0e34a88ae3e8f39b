"""How often each test is wrong in networks for which its null hypothesis holds.

Two laws of networks, of two layers of six units that both read inputs and both reach
the logits:

* *exchangeable*: every unit passes a feature of its own. Given the class all features
  have one law, and all units are read with one weight. No order, layer or clamp is
  better than another, and no measure has a rank correlation with effects.
* *uninformative*: the units' features are independent of the class and of each other; a
  path around the units classifies. No unit, pair or group is informative, and no pair
  measure is correlated with the effects of pairs.

Each network reads features of its own, drawn given classes that all networks share, so
networks are independent. Eight form a study; a study's tables are those of a run.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

import ioca_jax as ioca
from ioca_jax.inference.comparisons import independent_test
from ioca_jax.inference.faithful_orders import compare_regret
from ioca_jax.inference.families import normalized_areas
from ioca_jax.inference.interactions import DIRECTIONS
from ioca_jax.inference.neurons import count_neurons
from ioca_jax.inference.statistics import significant
from ioca_jax.report.tables import tabulate

from . import networks

ALPHA = 0.05
IN_STUDY = 8
WIDTH = 6
Rows = list[dict[str, Any]]
_EXAMPLES = 400  # 25 for each cell of three binary units and two classes
RIGHT = 0.62  # chance that an exchangeable feature agrees with the class
RIGHT_AROUND = 0.8  # and the feature that goes around uninformative units
_COMMON: dict[str, Any] = {"random_orders": 4, "measures": ("mutual_information",)}


def apply(variables: Any, x: jax.Array) -> jax.Array:
    """Two layers side by side, and a feature that goes around them."""
    own = jax.lax.dynamic_index_in_dim(x, variables["reads"], 1, keepdims=False)
    first = jnp.tanh(own[:, :WIDTH] @ variables["first"])
    second = jnp.tanh(own[:, WIDTH : 2 * WIDTH] @ variables["second"])
    read = first @ variables["first_out"] + second @ variables["second_out"]
    logit = read + own[:, -1] * variables["around"]
    return jnp.stack([-logit / 2, logit / 2], axis=-1)


class Law(NamedTuple):
    """A law of null networks: features given the classes, and how a study is run."""

    draw_features: Callable
    draw_readout: Callable
    around: float
    settings: dict[str, Any]


def agreeing(rng: np.random.Generator, labels: np.ndarray, chance: float, n: int):
    """Features, -1 or 1, that agree with the class with a chance."""
    agrees = rng.random((len(labels), n)) < chance
    return np.where(agrees, 1, -1) * (2 * labels[:, None] - 1)


def _exchangeable(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    return agreeing(rng, labels, RIGHT, 2 * WIDTH + 1)


def _uninformative(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    nothing = agreeing(rng, labels, 0.5, 2 * WIDTH)
    return np.hstack([nothing, agreeing(rng, labels, RIGHT_AROUND, 1)])


LAWS = {
    "exchangeable": Law(
        _exchangeable,
        lambda rng: np.full(2 * WIDTH, np.log(RIGHT / (1 - RIGHT)) * 2),
        0.0,
        {"permutations": 0, "direct_effects": True},
    ),
    "uninformative": Law(
        _uninformative,
        lambda rng: rng.normal(0, 0.4, 2 * WIDTH),
        2.0,
        {"permutations": 200, "interactions": True, "random_orders": 2},
    ),
}


def _variables(rng: np.random.Generator, law: Law) -> dict[str, np.ndarray]:
    """Weights of one network; units have random places and signs."""
    found: dict[str, Any] = {"around": np.float32(law.around)}
    readout = law.draw_readout(rng)
    for name, part in zip(("first", "second"), np.split(readout, 2), strict=True):
        place = rng.permutation(WIDTH)
        sign = rng.choice([-1, 1], WIDTH)
        weights = np.zeros((WIDTH, WIDTH), np.float32)
        weights[place, np.arange(WIDTH)] = 4 * sign
        found |= {name: weights, f"{name}_out": (sign * part).astype(np.float32)}
    return found


@functools.cache
def _network(number: int) -> ioca.Network:
    """What null networks compute; traced once, so that compiled programs are kept."""
    rng = np.random.default_rng(0)
    variables = _variables(rng, LAWS["exchangeable"]) | {"reads": np.int32(0)}
    return ioca.trace_network(apply, variables, np.zeros((8, number, 2 * WIDTH + 1)))


def draw_studies(law: Law, studies: int, rng: np.random.Generator) -> list[xr.Dataset]:
    """Results of studies of eight networks each, of one law."""
    seeds = tuple(range(studies * IN_STUDY))
    config = ioca.StudyConfig(seeds=seeds, **(_COMMON | law.settings))
    cut = _EXAMPLES + 8
    # Each split is half of each class: a network that is at chance is so exactly.
    labels = np.concatenate([networks.draw_labels(rng, n) for n in (cut, _EXAMPLES)])
    x = np.stack([law.draw_features(rng, labels) for _ in seeds], axis=1)
    drawn = [_variables(rng, law) for _ in seeds]
    variables: dict[str, Any] = {
        leaf: np.stack([one[leaf] for one in drawn]) for leaf in drawn[0]
    }
    variables["reads"] = np.arange(len(drawn), dtype=np.int32)
    value = rng.integers(0, 2, len(labels))
    x = x.astype(np.float32)
    data = ioca.Dataset.from_arrays(
        *(x[:cut], labels[:cut], x[cut:], labels[cut:]),
        num_validation=_EXAMPLES,
        annotations={"value": (value[:cut], value[cut:])},
        name="units drawn",
    )
    results = networks.study(config, data, _network(len(seeds)), variables)
    return [
        results.isel(seed=slice(start, start + IN_STUDY))
        for start in range(0, len(seeds), IN_STUDY)
    ]


def false_findings(name: str, studies: int, rng: np.random.Generator) -> Rows:
    """A row per study and test: the share of its verdicts that are false.

    A family is one verdict, false where any of its rows is significant; tests of single
    networks and bands have a verdict for each network and each curve.
    """
    found = draw_studies(LAWS[name], studies, rng)
    count = {"exchangeable": _of_orders, "uninformative": _of_information}[name]
    rows = []
    for place, results in enumerate(found):
        for test, verdicts in count(results).items():
            rows.append({"study": place, "test": test, "share": np.mean(verdicts)})
    if name == "exchangeable":
        rows += _between_studies(found)
    return rows


def _any(p_values: Any) -> bool:
    return bool(significant(p_values.to_numpy(), ALPHA).any())


def _of_orders(results: xr.Dataset) -> dict[str, Any]:
    """False verdicts on orders, layers, clamps and annotations."""
    tables: dict[str, Any] = tabulate(results)
    ranked_by = results["ranked_by"]
    # An order by chance in place of the learned one, which takes minutes to learn.
    by_chance = ranked_by.where(ranked_by != "mutual_information", "learned_zero")
    regret = compare_regret(results.assign_coords(ranked_by=by_chance))
    found: dict[str, Any] = {
        name: _any(tables[name]["p_corrected"])
        for name in ("orders", "faithfulness", "annotations", "effects", "class_damage")
    }
    found["regret"] = _any(regret["p_corrected"])
    found["orders, bootstrap"] = _any(tables["orders"]["p_bootstrap"])
    curves = tables["differences"].groupby(["scope", "clamp", "ranked_by", "direction"])
    found["differences, a band"] = [
        bool(((curve["low"] > 0) | (curve["high"] < 0)).any()) for _, curve in curves
    ]
    if "self_repair" in tables:
        found["self_repair"] = _any(tables["self_repair"]["p_corrected"])
    found["hypotheses"] = bool((tables["hypotheses"]["verdict"] == "synergistic").any())
    claims = tables["claims"]
    true = (claims["claim"] == "1") & (claims["verdict"] == "holds")
    found["claims"] = bool(((claims["verdict"] != "undecided") & ~true).any())
    return found


def _between_studies(studies: list[xr.Dataset]) -> Rows:
    """Two settings of a sweep that have one law."""
    areas = [normalized_areas(s)["network", "random", "random"][:, 0] for s in studies]
    p_values = [
        float(independent_test(*pair).p_value) for pair in itertools.pairwise(areas)
    ]
    return [
        {"study": place, "test": "settings of a sweep", "share": float(p <= ALPHA)}
        for place, p in enumerate(p_values)
    ]


def _of_information(results: xr.Dataset) -> dict[str, Any]:
    """False verdicts on the information of neurons, pairs and groups."""
    tables: dict[str, Any] = tabulate(results)
    alone: list[Any] = []
    for place in range(results.sizes["seed"]):
        counted: Any = count_neurons(results.isel(seed=[place]))
        alone.append(counted.filter(regex="^(family|discovered)_").sum() > 0)
    of_networks: Any = pd.DataFrame(alone)
    found: dict[str, Any] = {
        f"neurons, {column.partition('_')[0]}": of_networks[column].tolist()
        for column in of_networks
    }
    found["pairs and their effects"] = _any(tables["pairs"]["p_corrected"])
    joint = tables["joint"]
    shown = joint["finding"].isin(DIRECTIONS)
    of_effects = joint["instrument"].str.startswith("pair effects")
    found["joint, by information"] = bool((shown & ~of_effects).any())
    found["joint, by pair effects"] = bool((shown & of_effects).any())
    if "conclusions" in tables:
        verdicts = tables["conclusions"]["verdict"]
        found["conclusions"] = bool(verdicts.isin(("confirmed", *DIRECTIONS)).any())
    return found
