"""Robustness of measures to quantiser and data; numbers of informative neurons."""

import itertools

import numpy as np
import pandas as pd
import xarray as xr

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
    ``high`` (NaN with fewer than three networks); the row "second half" is against
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
            }
        )
    return pd.DataFrame(rows)


def _has_values(results: xr.Dataset) -> dict[str, np.ndarray]:
    """Whether a network's measures have a value in any variant, bool [S, measures]."""
    scores = results["variant_score"].transpose("seed", "measure", "variant", "neuron")
    return {"any": np.asarray(np.isfinite(scores.values).any(axis=(2, 3)))}


def count_neurons(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """Counts each layer's dead, always active and significantly informative neurons.

    A row per layer, means over networks: ``neurons``; ``dead``, whose code is always
    the lowest; ``always_on``, whose code is always the highest; ``family_MEASURE``,
    those above the maximum over neurons in ``1 - alpha`` of the permutations;
    ``discovered_MEASURE``, those found at a false discovery rate of ``alpha``, both for
    measures that were tested; ``selective_for_CLASS``, those whose KL selectivity that
    class attains.
    """
    kept = above_chance(results)
    found = over_seeds(kept[["joint_count"]], _constant_codes)
    census = {
        name: xr.DataArray(flags, dims=("seed", "neuron"))
        for name, flags in found.items()
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
    for layer in layers_of(kept):
        of_layer = neurons_of(kept, layer)
        means = {
            name: float(flags.isel(neuron=of_layer).sum("neuron").mean("seed"))
            for name, flags in census.items()
        }
        rows.append({"layer": layer, "neurons": len(of_layer), **means})
    return pd.DataFrame(rows)


def _constant_codes(results: xr.Dataset) -> dict[str, np.ndarray]:
    """By name, which neurons [S, H] have always the lowest or the highest code."""
    by_code = results["joint_count"].sum("class").transpose("seed", "neuron", "code")
    total = by_code.sum("code")
    return {
        "dead": (by_code.isel(code=0) == total).values,
        "always_on": (by_code.isel(code=-1) == total).values,
    }
