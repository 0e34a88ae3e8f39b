"""Points read off Figure 1 of the paper's first version, and ours beside them."""

import pandas as pd
import xarray as xr

from ioca_jax.results.selection import mean_curve

STEPS = (0, 20, 40, 60, 79)
# By layer, clamp and order, at these numbers of neurons ablated of 100, to about 0.01;
# one is below the plot's edge.
PUBLISHED = {
    ("layer_1", "zero", "mutual_information"): (0.977, 0.932, 0.835, 0.69, 0.497),
    ("layer_1", "zero", "random"): (0.977, 0.915, 0.775, 0.625, float("nan")),
    ("layer_1", "mean", "mutual_information"): (0.977, 0.960, 0.920, 0.825, 0.61),
    ("layer_1", "mean", "random"): (0.977, 0.958, 0.908, 0.775, 0.51),
    ("layer_2", "zero", "mutual_information"): (0.977, 0.975, 0.965, 0.935, 0.838),
    ("layer_2", "zero", "random"): (0.977, 0.974, 0.965, 0.935, 0.813),
    ("layer_2", "mean", "mutual_information"): (0.977, 0.975, 0.970, 0.958, 0.83),
    ("layer_2", "mean", "random"): (0.977, 0.975, 0.969, 0.95, 0.80),
}


def published_points(results: xr.Dataset) -> pd.DataFrame:
    """The published points beside ours, which are means over networks."""
    rows = []
    for (scope, clamp, ranked_by), accuracies in PUBLISHED.items():
        direction = "random" if ranked_by == "random" else "ascending"
        curve = mean_curve(results, clamp, scope, ranked_by, direction)
        for step, accuracy in zip(STEPS, accuracies, strict=True):
            ours = float(curve.sel(step=step).mean())
            rows.append((scope, clamp, ranked_by, direction, step, accuracy, ours))
    names = ["scope", "clamp", "ranked_by", "direction", "step", "accuracy", "ours"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(difference=table["ours"] - table["accuracy"])
