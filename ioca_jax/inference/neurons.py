"""Robustness of measures to quantiser and data; numbers of informative neurons."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import scipy.special
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ioca_jax.checks import check_counts
from ioca_jax.inference.families import (
    ALPHA,
    above_chance,
    finite_mean,
    interval_over_networks,
)
from ioca_jax.inference.statistics import (
    false_discovery,
    significant,
    spearman,
    spearman_step,
)
from ioca_jax.results.subsets import layers_of, neurons_of, over_seeds


def compare_variants(results: xr.Dataset) -> pd.DataFrame:
    """Whether neurons rank the same by another quantiser, or on other examples.

    A row per variant, measure and layer: ``spearman``, the mean over networks of
    Spearman's rank correlation with the run's own values, with its interval ``low`` to
    ``high`` (NaN with fewer than three networks), over ``networks``, those whose
    neurons of the layer are not all alike; the row "second half" is against
    "first half", examples that it shares none with.
    """
    if "variant_score" not in results:
        raise ValueError(
            "expected a run with the variants of its measures, got one without; run "
            "it with robustness"
        )
    kept, rows = above_chance(results), []
    informative = over_seeds(kept[["variant_score"]], _has_values)["any"].any(axis=0)
    for variant, measure, layer in itertools.product(
        kept["variant"].values,
        kept["measure"].values[informative],
        layers_of(kept),
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
        low, high = interval_over_networks(found, spearman_step(len(of_layer)))
        rows.append(
            {
                "variant": str(variant),
                "measure": str(measure),
                "layer": layer,
                "spearman": finite_mean(found),
                "low": low,
                "high": high,
                "networks": len(found),
            }
        )
    return pd.DataFrame(rows)


def _has_values(results: xr.Dataset) -> dict[str, np.ndarray]:
    """Whether a network's measures have a value in any variant, bool [S, measures]."""
    scores = results["variant_score"].transpose("seed", "measure", "variant", "neuron")
    return {"any": np.asarray(np.isfinite(scores.values).any(axis=(2, 3)))}


_LEAST_EXPECTED = 10
# The law of their counts is that of the G-test; KL selectivity's is not known.
_OF_G_TEST = ("mutual_information", "mutual_information_miller_madow")


def independence_p_values(
    counts: Int[ArrayLike, "*batch B C"],
) -> Float[np.ndarray, "*batch"]:
    """P-values of the G-test that code and class are independent, by its known law.

    ``G = 2 N ln(2) I(T;Y)`` over Williams' correction is about chi-square with ``(b -
    1)(c - 1)`` degrees of freedom, of the b codes and c classes that occur. It holds
    for examples that are independent of each other. Unlike a share of permutations, the
    p-value may be as small as the data say.

    Simulated neurons that are independent of ten classes, with two or four codes and a
    least expected count of 10, have 1.0 to 1.25 times as many p-values below 2.5e-4,
    the first discovery of 200 neurons, as they should (1.3 to 1.6 without the
    correction). Of networks with 200 such neurons, 4.9 % (correlation 0.5: 5.5 %) have
    any discovery at a false discovery rate of 5 %, with 1,000 examples. Two informative
    neurons of 40 (on with a probability of 0.6 in five of the classes, of 0.4 in the
    others) are discovered in 97 % of cases, with 200 permutations in 1 %.

    Args:
        counts: int [..., B, C] joint counts of code and class.

    Returns:
        float64 [...]; 1 for a dead neuron; NaN where an expected count is below 10.

    Raises:
        ValueError: counts that are not integers [..., B, C], or negative.

    Example:
        >>> import numpy as np
        >>> from ioca_jax.inference.neurons import independence_p_values
        >>> counts = np.array([[[30, 70], [70, 30]], [[50, 50], [50, 50]]])
        >>> independence_p_values(counts).round(6).tolist()
        [0.0, 1.0]

    Source: D. A. Williams, "Improved likelihood ratio tests for complete contingency
    tables", Biometrika 63 (1976).
    """
    check_counts(counts)
    counts = np.asarray(counts, np.int64)  # products of JAX's int32 wrap around
    of_code, of_class = (counts.sum(axis=axis, keepdims=True) for axis in (-1, -2))
    total = np.maximum(of_code.sum(axis=-2, keepdims=True), 1)
    expected = of_code * of_class / total
    statistic = 2 * scipy.special.rel_entr(counts, expected).sum(axis=(-2, -1))
    freedom, excess = 1, 1.0
    for sums in (of_code, of_class):
        occurs = sums > 0
        inverse = (total / np.where(occurs, sums, np.inf)).sum(axis=(-2, -1))
        freedom = freedom * (occurs.sum(axis=(-2, -1)) - 1)
        excess = excess * (inverse - 1)
    positive = np.maximum(freedom, 1)
    correction = 1 + excess / (6 * total[..., 0, 0] * positive)
    p_values = scipy.special.chdtrc(positive, statistic / correction)
    least = np.where(expected > 0, expected, np.inf).min(axis=(-2, -1))
    p_values = np.where(least >= _LEAST_EXPECTED, p_values, np.nan)
    return np.where(freedom > 0, p_values, 1.0)


def count_neurons(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """Counts each layer's dead, always active and significantly informative neurons.

    A row per layer, means over networks: ``neurons``; ``dead``, whose code is always
    the lowest; ``always_on``, whose code is always the highest; ``family_MEASURE``,
    those above the maximum over neurons in ``1 - alpha`` of the permutations;
    ``discovered_MEASURE``, those found at a false discovery rate of ``alpha``, both for
    measures that were tested; ``selective_for_CLASS``, those whose KL selectivity that
    class attains.

    Discovery of mutual information uses ``independence_p_values`` where they hold:
    classes are of whole examples, and expected counts at least 10. Other neurons have
    the p-value of m permutations, at least ``1 / (m + 1)``: they are
    ``by_permutation_MEASURE``, and discovered only where ``least_by_permutation`` =
    ``H / (alpha (m + 1))`` of the network's H neurons have so small a p-value.
    """
    kept = above_chance(results)
    found = over_seeds(kept[["joint_count"]], _constant_codes)
    census = {
        name: xr.DataArray(flags, dims=("seed", "neuron"))
        for name, flags in found.items()
    }
    census |= _informative(kept, alpha)
    for label in kept["class"].values if "selective_class" in kept else ():
        census[f"selective_for_{label}"] = kept["selective_class"] == label
    rows = []
    for layer in layers_of(kept):
        of_layer = neurons_of(kept, layer)
        means = {
            name: float(flags.isel(neuron=of_layer).sum("neuron").mean("seed"))
            for name, flags in census.items()
        }
        rows.append({"layer": layer, "neurons": len(of_layer), **means})
    table = pd.DataFrame(rows)
    if "p_value" in kept and "permutations" in (config := _configuration(kept)):
        least = kept.sizes["neuron"] / (alpha * (config["permutations"] + 1))
        table["least_by_permutation"] = math.ceil(least)
    return table


def _informative(results: xr.Dataset, alpha: float) -> dict[str, xr.DataArray]:
    """By name, which neurons [S, H] are significantly informative by each measure."""
    if "p_value" not in results:
        return {}
    known = np.full((results.sizes["seed"], results.sizes["neuron"]), np.nan)
    # Not said by earlier runs, whose labels may have been of tokens.
    if results.attrs.get("classes_of") == "examples":
        known = over_seeds(results[["joint_count"]], _of_counts)["p_value"]
    census = {}
    for measure in results["measure"].values:
        permuted = results["p_value"].sel(measure=measure).transpose("seed", "neuron")
        if not np.isfinite(permuted).all():
            continue
        by_law = np.isfinite(known) & (measure in _OF_G_TEST)
        p_values = np.where(by_law, known, permuted.values)
        family = results["p_value_family"].sel(measure=measure)
        found = {
            "family": significant(family.transpose("seed", "neuron").values, alpha),
            "discovered": significant(false_discovery(p_values), alpha),
            "by_permutation": ~by_law,
        }
        for name, flags in found.items():
            census[f"{name}_{measure}"] = permuted.copy(data=flags)
    return census


def _of_counts(results: xr.Dataset) -> dict[str, np.ndarray]:
    """P-values [S, H] of the G-test of each neuron."""
    counts = results["joint_count"].transpose("seed", "neuron", "code", "class")
    return {"p_value": independence_p_values(counts.values)}


def _configuration(results: xr.Dataset) -> dict:
    return json.loads(results.attrs.get("configuration", "{}"))


def _constant_codes(results: xr.Dataset) -> dict[str, np.ndarray]:
    """By name, which neurons [S, H] have always the lowest or the highest code."""
    by_code = results["joint_count"].sum("class").transpose("seed", "neuron", "code")
    total = by_code.sum("code")
    return {
        "dead": (by_code.isel(code=0) == total).values,
        "always_on": (by_code.isel(code=-1) == total).values,
    }
