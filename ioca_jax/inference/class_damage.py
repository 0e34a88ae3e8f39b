"""Does a neuron's selectivity for a class predict the damage to that class?

A neuron is selective for class c as far as its output, given the class, differs from
its output over all classes: ``D(P(T|Y=c) || P(T))``, whose maximum over classes is the
KL selectivity. The damage is the accuracy in class c that is lost when the neuron alone
is ablated. Source of the question: B. Zhou et al., "Revisiting the importance of
individual units in CNNs via ablation", arXiv 1806.02891.
"""

import itertools

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.families import above_chance, clamps_of, judge_family
from ioca_jax.inference.statistics import spearman, spearman_step
from ioca_jax.measures.information import class_divergences
from ioca_jax.results.subsets import Layer, evenly, layers_of, neurons_of, over_seeds


def class_correlations(
    results: xr.Dataset, layer: Layer, clamp: str
) -> Float[np.ndarray, "S C C"]:
    """Spearman's rank correlation over the neurons of a layer, in [-1, 1].

    Row c, column d: of the selectivity for class c with the accuracy that class d loses
    without the neuron; NaN where one of them is the same for all neurons.
    """
    of_layer = evenly(neurons_of(results, layer))
    first = {"scope": 0, "ordering": 0, "step": 0}
    parts = {
        "joint_count": results["joint_count"].isel(neuron=of_layer),
        "intact": results["correct"].sel(clamp=clamp).isel(first, drop=True),
        "alone": results["single_correct"].sel(clamp=clamp).isel(neuron=of_layer),
    }

    def correlate(piece: xr.Dataset) -> dict[str, np.ndarray]:
        counts = piece["joint_count"].transpose("seed", "neuron", "code", "class")
        divergences = np.asarray(class_divergences(counts.values))
        selectivity = np.moveaxis(divergences, 1, 2)
        lost = (piece["intact"] - piece["alone"]) / piece["class_size"]
        damage = lost.transpose("seed", "class", "neuron").values
        return {"rho": spearman(selectivity[:, :, None], damage[:, None])}

    return over_seeds(xr.Dataset(parts), correlate)["rho"]


def predict_class_damage(results: xr.Dataset) -> pd.DataFrame:
    """Correlates selectivity for a class with the damage to it, network by network.

    A row per layer, clamp and ``quantity``: the correlation with the damage to the
    neuron's ``own class``, mean over classes, and ``own class less others``, what is
    left of it beyond the correlation with the damage to other classes. ``effect`` is
    the mean over networks, with its interval and sign-flip tests corrected for all
    rows. Classes for which a correlation is not defined are left out.
    """
    kept = above_chance(results)
    rows, values, steps, largest = [], [], [], []
    for layer, clamp in itertools.product(layers_of(kept), clamps_of(kept)):
        found = class_correlations(kept, layer, clamp)
        is_own = np.eye(found.shape[-1], dtype=bool)
        own, others = (_means(found, where) for where in (is_own, ~is_own))
        about = {"layer": layer, "clamp": clamp}
        rows.append(about | {"quantity": "own class"})
        rows.append(about | {"quantity": "own class less others"})
        values += [own, own - others]
        classes = len(is_own)
        step = spearman_step(len(neurons_of(kept, layer))) / classes
        steps += [step, step / (classes - 1)]
        largest += [1.0, 2.0]
    return judge_family(rows, values, steps=steps, largest=largest)


def _means(values: Float[np.ndarray, "S C C"], where: np.ndarray) -> np.ndarray:
    """Means over the finite values of each network among those chosen; NaN for none."""
    chosen = np.where(where & np.isfinite(values), values, 0).sum(axis=(1, 2))
    number = (where & np.isfinite(values)).sum(axis=(1, 2))
    return np.where(number > 0, chosen / np.maximum(number, 1), np.nan)
