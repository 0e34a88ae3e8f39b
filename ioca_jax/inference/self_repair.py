"""Do later layers make up for an ablated neuron? Direct less total effects.

The total effect of a neuron is the rise of the loss when it alone is ablated; the
direct effect is that rise while later layers output what they did. Source: T. McGrath
et al., arXiv 2307.15771.
"""

import itertools

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference.families import above_chance, clamps_of, judge_family
from ioca_jax.results.subsets import layers_of, loss_increase, neurons_of

_ROUNDING = 1e-6


def measure_self_repair(results: xr.Dataset) -> pd.DataFrame:
    """Direct less total effects on the loss, mean over the neurons of a layer.

    Args:
        results: a run's results, with direct effects.

    Returns:
        A row per layer and clamp: ``total`` and ``direct`` in nats, means over neurons
        and networks; ``effect``, direct less total, with interval and tests as in
        ``compare_orders``: above 0 later layers repair, below 0 they add to the damage.
        Layers without a path around all later ones have no row, nor has the last.
    """
    kept = above_chance(results)
    intact = kept["loss"].isel(scope=0, ordering=0, step=0)
    rounding = _ROUNDING * max(1.0, float(intact.max()))  # of losses in float32
    rows, values = [], []
    for layer, clamp in itertools.product(layers_of(kept)[:-1], clamps_of(kept)):
        total, direct = (
            loss_increase(kept, clamp, name)
            .isel(neuron=neurons_of(kept, layer))
            .transpose("seed", "neuron")
            .values.astype(np.float64)
            for name in ("single_loss", "direct_loss")
        )
        if np.abs(direct).max() < rounding:  # every path leads through a later layer
            continue
        about = {"layer": layer, "clamp": clamp}
        rows.append(about | {"total": total.mean(), "direct": direct.mean()})
        values.append((direct - total).mean(axis=1))
    if not rows:
        return pd.DataFrame(columns=["layer", "clamp", "total", "direct", "effect"])
    return judge_family(rows, values)
