"""Areas under accuracy curves, and the number of neurons at which accuracy is lost.

Areas of a run are computed from counts of examples, which are whole numbers: two orders
with the same counts have the same area, and differ by 0 and not by a rounding error.
"""

import numpy as np
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from ioca_jax.results.subsets import count_correct, num_test_examples, over_seeds

# Accuracies given in float32 are counts / N, right to 6e-8 (and apart by more than 1e-6
# for fewer than a million examples).
_ACCURACY_TIE = 1e-6


def area_under_curve(
    accuracy: Float[ArrayLike, "*batch points"],
    steps: Int[ArrayLike, " points"] | None = None,
) -> Float[np.ndarray, "*batch"]:
    """Mean height of a curve over the share of neurons ablated.

    The trapezoidal area over k / K for k = 0 ... K: 1 for a network that is never wrong
    until the last neuron goes, the constant's accuracy for one that fails at once.

    Args:
        accuracy: float32 [..., K+1]. Points past a shorter scope's end are NaN, the
            same for all leading axes; other NaN are refused.
        steps: for curves [..., P] at chosen points, how many neurons are ablated at
            each, ascending: ``Evaluation.steps``, or the coordinate ``step`` of a
            study. Points that are NaN for all leading axes are left out.

    Returns:
        float64 [...], in the range of ``accuracy``; NaN for a curve that is NaN.

    Raises:
        ValueError: not numbers [..., K+1], a number after NaN, or steps that do not
            ascend.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> float(ioca.area_under_curve(np.array([1.0, 0.75, 0.5])))
        0.75
    """
    curves = _checked_curves(accuracy, tail_only=steps is None)
    at = _checked_steps(steps, curves.shape[-1])
    is_point = ~np.isnan(curves).all(axis=tuple(range(curves.ndim - 1)))
    if is_point.any():
        curves, at = curves[..., is_point], at[is_point]
    if curves.shape[-1] == 1:
        return curves[..., 0]
    # asarray: NumPy makes a scalar of the area under a single curve.
    return np.asarray(np.trapezoid(curves, at, axis=-1) / (at[-1] - at[0]))


def _checked_steps(
    steps: ArrayLike | None, num_points: int
) -> Real[np.ndarray, " points"]:
    """How many neurons are ablated at each point; all numbers from 0 if not given."""
    at = np.arange(num_points) if steps is None else np.asarray(steps)
    if at.shape != (num_points,) or not (np.diff(at) > 0).all():
        raise ValueError(
            f"steps: expected {num_points} ascending numbers of ablated neurons, one "
            f"for each point, got shape {list(at.shape)}: {at.tolist()[:8]}"
        )
    return at


def _checked_curves(accuracy: ArrayLike, *, tail_only: bool) -> np.ndarray:
    """Curves as float64, in which nothing but a tail is NaN if that is asked for."""
    given = np.asarray(accuracy)
    if given.ndim < 1 or not given.size or given.dtype.kind not in "fiu":
        raise ValueError(
            "accuracy: expected numbers of shape [..., K+1], got "
            f"{given.dtype} of shape {list(given.shape)}"
        )
    missing = np.isnan(given)
    inside = int((missing[..., :-1] & ~missing[..., 1:]).sum())
    if inside and tail_only:
        raise ValueError(
            "accuracy: expected NaN only past the end of a curve, got a number after "
            f"NaN at {inside} points; evaluate those points, or leave the curves out"
        )
    return given.astype(np.float64)


def twice_widths(steps: Int[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
    """Twice the weight of each point in a sum of trapezia, whole numbers."""
    return np.diff(steps, prepend=steps[0]) + np.diff(steps, append=steps[-1])


def normalized_area(
    area: Float[ArrayLike, "*#batch"],
    intact: Float[ArrayLike, "*#batch"],
    chance: float,
) -> Float[np.ndarray, "*batch"]:
    """Area under a curve as a share of what the intact network has above chance.

    ``(area - chance) / (intact - chance)``: 1 where ablation costs nothing, 0 for a
    network that is at chance from the first neuron on, NaN where the intact network is
    not above chance. It makes networks of unequal accuracy comparable.
    """
    intact = np.asarray(intact, np.float64)
    above = np.where(intact > chance, intact - chance, np.nan)
    return np.asarray((np.asarray(area, np.float64) - chance) / above)


def ablated_at_loss(
    accuracy: Float[ArrayLike, "*batch points"],
    points: tuple[float, ...] = (0.01, 0.05, 0.10),
    steps: Int[ArrayLike, " points"] | None = None,
) -> Float[np.ndarray, "*batch losses"]:
    """The least k with ``accuracy[0] - accuracy[k] >= point``; NaN if none.

    Curves at chosen points come with their ``steps``; the least of these is given.

    Losses are shares of all examples (0.01 is one percentage point), in (0, 1]. A loss
    that falls short of its point by 1e-6 or less (a tenth of the point where that is
    less) counts as reached: accuracies are counts / N in float32, and 0.98 - 0.97 is
    not 0.01 there.
    """
    losses = np.asarray(points, np.float64)
    if not ((losses > 0) & (losses <= 1)).all():
        raise ValueError(
            f"points: expected losses in (0, 1], got {list(points)}; 0.01 is one "
            "percentage point"
        )
    curves = np.asarray(accuracy, np.float64)
    lost = (curves[..., :1] - curves)[..., None, :]
    least = losses - np.minimum(_ACCURACY_TIE, losses / 10)
    reached = lost >= least[:, None]
    at = _checked_steps(steps, curves.shape[-1])
    return np.where(reached.any(axis=-1), at[reached.argmax(axis=-1)], np.nan)


def areas_by_order(
    results: xr.Dataset,
) -> dict[tuple[str, str, str], Float[np.ndarray, "S clamps"]]:
    """Areas under the accuracy curves [S, clamps], by scope, ranking and direction.

    As ``area_under_curve``, mean over random draws, but from counts of examples: a
    whole number divided once, so that orders with equal areas have equal numbers.
    """
    return over_seeds(results[["correct", "class_size"]], _areas_of_piece)


def _areas_of_piece(results: xr.Dataset) -> dict[tuple[str, str, str], np.ndarray]:
    correct = results["correct"].transpose(
        "scope", "seed", "clamp", "ordering", "step", "class"
    )
    num_examples = num_test_examples(results)
    ranked_by, direction = results["ranked_by"].values, results["direction"].values
    areas = {}
    for scope, by_class in zip(results["scope"].values, correct.values, strict=True):
        counts = count_correct(by_class)
        is_point = ~np.isnan(counts).all(axis=(0, 1, 2))
        # Twice the sum of the trapezia, whole.
        at = results["step"].values[is_point]
        twice = counts[..., is_point] @ twice_widths(at)
        steps = at[-1]
        for ranked, towards in zip(ranked_by, direction, strict=True):
            chosen = (ranked_by == ranked) & (direction == towards)
            whole = 2 * steps * num_examples * int(chosen.sum())
            name = (str(scope), str(ranked), str(towards))
            areas[name] = twice[:, :, chosen].sum(axis=-1) / whole
    return areas
