"""Redundancy and synergy of pairs and groups of neurons, over networks.

Positive values are redundancy, negative values synergy.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from ioca_jax.inference.families import (
    ALPHA,
    above_chance,
    add_tests,
    effect_table,
    judge_family,
)
from ioca_jax.inference.statistics import significant, spearman, spearman_step
from ioca_jax.results.subsets import (
    Layer,
    layers_of,
    neurons_of,
    over_seeds,
    scope_of,
)

DIRECTIONS = ("redundant", "synergistic")
JUDGED_EXAMPLES_PER_CELL = 25
# A ratio to a group's information is about that layer where this share of its groups
# has one: of groups without information, half have a negative estimate and no ratio.
_INFORMATIVE_GROUPS = 0.75
LAST_LESS_FIRST = "last less first"
CO_INFORMATION = "co_information_miller_madow"
LEAST_FOR_INTERVALS = 3
EFFECTS = ("loss", "accuracy")
_PAIR_EFFECTS = tuple(f"pair_effect_{name}" for name in EFFECTS)
UNITS = {"loss": "nat", "accuracy": "1"}
INTERACTIONS = (
    "pair_value",
    *_PAIR_EFFECTS,
    "joint_information_miller_madow",
    "joint_cells",
    "redundancy_index",
    "o_information_with_class",
)


def correlate_pairs(results: xr.Dataset) -> pd.DataFrame:
    """Correlates each pair measure with the effect of ablating the pair.

    Spearman's rank correlation over the pairs of each layer of each network; a row per
    ``layer``, ``clamp``, ``pair_measure`` and ``effect_in`` (``loss``, ``accuracy``)
    with the mean over networks and tests as in ``compare_orders``, and ``networks``,
    those whose pairs are not all alike. Rows without all of them have NaN.
    """
    kept = above_chance_with_interactions(results)
    measures = kept["pair_measure"].values
    columns = [(str(c), name) for c in kept["clamp"].values for name in EFFECTS]
    rows, values, steps = [], [], []
    for layer in layers_of(kept):
        pairs = pairs_of(kept, layer)
        correlate = partial(_correlate_layer, pairs)
        rho = over_seeds(kept[["pair_value", *_PAIR_EFFECTS]], correlate)["rho"]
        for column, (clamp, effect_in) in enumerate(columns):
            for index, measure in enumerate(measures):
                of_networks = rho[:, index, column]
                rows.append(
                    {
                        "layer": layer,
                        "clamp": clamp,
                        "pair_measure": str(measure),
                        "effect_in": effect_in,
                        "networks": int(np.isfinite(of_networks).sum()),
                    }
                )
                values.append(of_networks)
                steps.append(spearman_step(pairs.number))
    return judge_family(rows, values, steps=steps)


def _correlate_layer(pairs: "Pairs", results: xr.Dataset) -> dict[str, np.ndarray]:
    """Rank correlations [S, measures, clamps and effects] over pairs."""
    informational = pairs.take(results["pair_value"], "pair_measure")
    effects = [pairs.take(results[name], "clamp") for name in _PAIR_EFFECTS]
    by_column = np.stack(effects, axis=2)  # [S, clamps, loss and accuracy, P]
    columns = by_column.shape[1] * by_column.shape[2]
    by_column = by_column.reshape(len(by_column), columns, pairs.number)
    return {"rho": spearman(informational[:, :, None], by_column[:, None])}


class _Quantity(NamedTuple):
    """One number of a layer for every network."""

    instrument: str
    unit: str
    clamp: str
    values: Float[np.ndarray, " S"]
    is_judged: bool = True


def joint_behaviour(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """Whether redundancy or synergy dominates in each layer, and how that changes.

    A row per ``layer`` (text; ``last less first`` is the difference of these two),
    ``instrument`` and ``clamp`` (empty where there is none), with ``unit``, mean and
    tests as in ``compare_orders``, and ``finding``: ``redundant``, ``synergistic``,
    ``neither``, or nothing where there is no test. The instruments:

    * ``co-information``: mean over pairs, less its mean over permuted labels
      (``chance_free``), bits;
    * ``redundancy_i_min``, ``synergy_i_min``: means over pairs, bits, plug-in, not
      negative, descriptions without a test (their difference is co-information);
    * ``groups``: the redundancy index less 1, median over random groups of the greatest
      size that three quarters of the groups of every network have one of (in both
      layers of a difference) and ``JUDGED_EXAMPLES_PER_CELL`` for each of its cells;
    * ``O-information with class``: median over groups, likewise, bits;
    * ``pair effects in loss`` and ``in accuracy``: means over pairs, nats and share of
      the test split.
    """
    kept = above_chance_with_interactions(results)
    layers = layers_of(kept)
    compared = [(str(layer), [layer]) for layer in layers]
    if len(layers) > 1:
        compared.append((LAST_LESS_FIRST, [layers[0], layers[-1]]))
    rows, values, judged = [], [], []
    for name, together in compared:
        first = list(_quantities(kept, together[0], together))
        last = list(_quantities(kept, together[-1], together))
        for one, other in zip(first, last, strict=True):
            about = {"instrument": one.instrument, "clamp": one.clamp, "unit": one.unit}
            rows.append({"layer": name, **about})
            values.append(
                other.values - one.values if len(together) > 1 else one.values
            )
            judged.append(one.is_judged)
    table = effect_table(rows, values)
    tested = add_tests(
        table.loc[np.flatnonzero(judged)],
        list(itertools.compress(values, judged)),
        alpha=alpha,
    )
    table = table.join(tested[tested.columns.difference(table.columns, sort=False)])
    table["finding"] = direction_shown(table, alpha)
    return table


def _quantities(
    results: xr.Dataset, layer: Layer, together: Sequence[Layer]
) -> Iterable[_Quantity]:
    """Of one layer; groups are of a size that all layers ``together`` have."""
    names = ["pair_value", "pair_null", *_PAIR_EFFECTS]
    variables = results[[name for name in names if name in results]]
    means = over_seeds(variables, partial(_means_of_pairs, pairs_of(results, layer)))
    mean = means.pop(CO_INFORMATION)
    yield _Quantity("co-information", "bit", "", mean)
    for name in ("redundancy_i_min", "synergy_i_min"):
        if name in means:
            yield _Quantity(name, "bit", "", means.pop(name), is_judged=False)
    index = _median_of_groups(results, "redundancy_index", layer, together)
    yield _Quantity("groups", "1", "", index - 1)
    if "vulnerability" in results:  # earlier runs have none
        median = _median_of_groups(results, "vulnerability", layer, together)
        yield _Quantity("vulnerability", "1", "", median, is_judged=False)
    bits = _median_of_groups(results, "o_information_with_class", layer, together)
    yield _Quantity("O-information with class", "bit", "", bits)
    for clamp in results["clamp"].values:
        for name in EFFECTS:
            mean = means[name, str(clamp)]
            yield _Quantity(f"pair effects in {name}", UNITS[name], str(clamp), mean)


def _means_of_pairs(pairs: "Pairs", results: xr.Dataset) -> dict[Any, np.ndarray]:
    """Means [S] over pairs: of measures by name, of effects by unit and clamp."""
    everything = np.ones((results.sizes["seed"], pairs.number), bool)
    found = {}
    for name in results["pair_measure"].values.tolist():
        if name in (CO_INFORMATION, "redundancy_i_min", "synergy_i_min"):
            bits = results["pair_value"].sel(pair_measure=name)
            if name == CO_INFORMATION:
                bits = chance_free(results)
            found[name] = finite_mean_where(pairs.take(bits), everything)
    for name, clamp in itertools.product(EFFECTS, results["clamp"].values):
        values = pairs.take(results[f"pair_effect_{name}"].sel(clamp=clamp))
        found[name, str(clamp)] = finite_mean_where(values, everything)
    return found


def chance_free(results: xr.Dataset) -> xr.DataArray:
    """Co-information of pairs less its mean over permuted labels, bits.

    Positive: redundancy; negative: synergy. In 2,000 simulated studies of ten networks
    of 20 neurons each, on 1,000 examples, the mean over pairs shows a direction as
    often as this, corrected by Miller and Madow and in this way:

    =================================================  ============  ============
    neurons, correlation 0.5 or as said                Miller-Madow  less chance
    =================================================  ============  ============
    independent of ten classes                         100 %         4.4 %
    the same, 10,000 examples                          7.2 %         4.5 %
    two about one of two bits of four classes each     4.7 %         6.3 %
    one that is nearly one of these bits, others none  96 %          7.6 %
    =================================================  ============  ============

    Nearly all of the Miller-Madow findings are synergy: rare joint codes leave a bias.
    Runs of schema version 4 and earlier have no chance level and Miller-Madow values.
    """
    if "pair_null" not in results:
        return results["pair_value"].sel(pair_measure=CO_INFORMATION)
    plug_in = results["pair_value"].sel(pair_measure="co_information")
    return plug_in - results["pair_null"]


def _median_of_groups(
    results: xr.Dataset, name: str, layer: Layer, together: Sequence[Layer]
) -> Float[np.ndarray, " S"]:
    """Over groups of the greatest size that is judged in all networks and layers.

    A ratio is undefined for groups without information, and its mean would be dominated
    by the least informative group.
    """
    values = results[name]
    most_cells = results.attrs["num_validation"] // JUDGED_EXAMPLES_PER_CELL
    num_codes, num_classes = results.sizes["code"], results.sizes["class"]
    sizes = [
        size
        for size in values["group_size"].values.tolist()
        if num_codes**size * num_classes <= most_cells
    ]
    scopes = [scope_of(number) for number in together]
    is_known = values.sel(scope=scopes).notnull()
    is_known = is_known.isel(group=is_known.any(("seed", "scope", "group_size")))
    has = (is_known.mean("group") >= _INFORMATIVE_GROUPS).all(("seed", "scope"))
    usable = [size for size in sizes if bool(has.sel(group_size=size))]
    if not usable:
        return np.full(values.sizes["seed"], np.nan)
    of_layer = values.sel(scope=scope_of(layer), group_size=max(usable))
    return of_layer.astype(np.float64).median("group").transpose("seed").values


class Pairs(NamedTuple):
    """The pairs of a layer, each once."""

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]

    @property
    def number(self) -> int:
        """P."""
        return len(self.first)

    def take(self, values: xr.DataArray, *between: str) -> Float[np.ndarray, "S *b P"]:
        """Their values, of every network."""
        square = values.transpose("seed", *between, "neuron", "other").values
        return square[..., self.first, self.second].astype(np.float64)


def pairs_of(results: xr.Dataset, layer: Layer) -> Pairs:
    """All pairs of neurons of a layer."""
    of_layer = neurons_of(results, layer)
    first, second = np.triu_indices(len(of_layer), 1)
    return Pairs(of_layer[first], of_layer[second])


def has_interactions(results: xr.Dataset) -> bool:
    """Whether a run measured pairs and groups."""
    return all(name in results for name in INTERACTIONS)


def above_chance_with_interactions(results: xr.Dataset) -> xr.Dataset:
    """The networks above chance of a run with interactions; refuses one without."""
    if not has_interactions(results):
        raise ValueError(
            "expected a run with interactions, got one without; run it with "
            "interactions"
        )
    return above_chance(results)


def direction_shown(
    table: pd.DataFrame, alpha: float, words: tuple[str, str] = DIRECTIONS
) -> np.ndarray:
    """The direction that a two-sided test shows, ``neither``, or empty: no test."""
    p_values = table["p_corrected"].to_numpy()
    direction = np.where(table["effect"] > 0, *words)
    shown = np.where(significant(p_values, alpha), direction, "neither")
    return np.where(np.isnan(p_values), "", shown)


def finite_mean_where(
    values: Float[np.ndarray, "S P"], chosen: Bool[np.ndarray, "S P"]
) -> Float[np.ndarray, " S"]:
    """Mean over the chosen, NaN where there are none or one of them is."""
    number = chosen.sum(axis=1)
    total = np.where(chosen, values, 0).sum(axis=1)
    return total / np.where(number > 0, number, np.nan)
