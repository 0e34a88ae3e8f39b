"""Curves become statements over seeds. The network is the unit, never the neuron."""

import numpy as np
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Float


def area_under_curve(
    accuracy: Float[ArrayLike, "*batch points"],
) -> Float[np.ndarray, "*batch"]:
    """Mean height of a curve over the share of neurons ablated.

    The trapezoidal area over k / K for k = 0 ... K: 1 for a network that is never wrong
    until the last neuron goes, the constant's accuracy for one that fails at once.

    Args:
        accuracy: float32 [..., K+1]. Points past a shorter scope's end are NaN, the
            same for all leading axes.

    Returns:
        float64 [...], in the range of ``accuracy``; NaN for a curve that is NaN.
    """
    curves = np.asarray(accuracy, np.float64)
    is_point = ~np.isnan(curves).all(axis=tuple(range(curves.ndim - 1)))
    if is_point.any():
        curves = curves[..., is_point]
    if curves.shape[-1] == 1:
        return curves[..., 0]
    # asarray: NumPy makes a scalar of the area under a single curve.
    return np.asarray(np.trapezoid(curves, axis=-1) / (curves.shape[-1] - 1))


def areas_by_order(
    results: xr.Dataset,
) -> dict[tuple[str, str, str], Float[np.ndarray, "S clamps"]]:
    """Areas under the accuracy curves, mean over random draws.

    Args:
        results: a run's results, of networks that converged.

    Returns:
        By scope, what neurons are ranked by, and direction: float64 [S, clamps], in the
        order of ``results["clamp"]``.
    """
    by_scope = results["accuracy"].transpose(
        "scope", "seed", "clamp", "ordering", "step"
    )
    ranked_by, direction = results["ranked_by"].values, results["direction"].values
    areas = {}
    for scope, curves in zip(results["scope"].values, by_scope.values, strict=True):
        of_scope = area_under_curve(curves)
        for ranked, towards in zip(ranked_by, direction, strict=True):
            chosen = (ranked_by == ranked) & (direction == towards)
            name = (str(scope), str(ranked), str(towards))
            areas[name] = of_scope[:, :, chosen].mean(axis=-1)
    return areas
