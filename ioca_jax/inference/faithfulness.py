"""Faithfulness: how much of what a network does its highest neurons do alone.

An ascending order ablates the neurons of lowest score first, so the point with k
neurons ablated keeps the K - k of highest score: a circuit, whose size is the share
``q = 1 - k / K``. Its faithfulness in a metric m is

    f(q) = (m(q) - m(0)) / (m(1) - m(0)),

1 for the intact network and 0 with all neurons of the scope ablated. CPR, the circuit
performance ratio, is the area under f over the share kept, the greater the better; CMD,
the circuit-model distance, is the area under |1 - f|, the smaller the better.

Source: A. Mueller et al., "MIB: a mechanistic interpretability benchmark", arXiv
2504.13151, who keep ten shares, ``MIB_FRACTIONS``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of units that MIB keeps."""


def faithfulness(
    values: Float[ArrayLike, "*batch points"],
    fractions: Sequence[float] | Float[ArrayLike, " shares"] | None = None,
    *,
    steps: Int[ArrayLike, " points"] | None = None,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Areas under the faithfulness of the neurons that an ascending order keeps.

    ``f = (m - m_ablated) / (m_intact - m_ablated)``, with the metric m of the network
    that keeps a share q of K neurons, of the intact network, and with all K ablated.
    CPR is the area under f over q, CMD that under ``|1 - f|``, by the trapezoid rule.

    Args:
        values: [..., K+1], a metric at every point of curves in ascending order:
            accuracy, loss, or any other. Points past a shorter scope's end are NaN for
            all curves.
        fractions: shares q to keep, ascending in [0, 1], between the first and the last
            of which the areas are: a share is step ``K - round(q K)``. MIB's ten are
            ``ioca_jax.MIB_FRACTIONS``, with which a network that
            loses nothing has a CPR of 0.999. None takes all points, from 0 to 1.
        steps: int [P], the numbers of ablated neurons that values [..., P] are of,
            ascending from 0 to K; None if they are of all steps. Fractions are then
            shares at whose steps there are values: nothing is interpolated.

    Returns:
        CPR and CMD, float64 [...]; NaN where the intact network and the one with all
        neurons ablated have the same value, or where a value is NaN.

    Raises:
        ValueError: values that are not numbers [..., K+1] with K of 1 or more, steps
            that are not ascending from 0, or fractions that are out of [0, 1], not
            ascending, fewer than two, or not among the steps.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> accuracy = np.array([0.9, 0.9, 0.7, 0.1])  # with 0, 1, 2, 3 ablated of 3
        >>> cpr, cmd = ioca.faithfulness(accuracy)
        >>> round(float(cpr), 3), round(float(cmd), 3)
        (0.75, 0.25)

    Source: A. Mueller et al., arXiv 2504.13151, section 3.
    """
    values, steps = _checked_curves(values, steps)
    size = steps[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        intact, ablated = values[..., :1], values[..., -1:]
        faithful = (values - ablated) / np.where(
            intact == ablated, np.nan, intact - ablated
        )
    if fractions is None:
        kept, faithful = 1 - steps[::-1] / size, faithful[..., ::-1]
    else:
        kept = _checked_fractions(fractions)
        faithful = faithful[..., _places(kept, steps)]
    distance = np.abs(1 - faithful)
    # asarray: NumPy makes a scalar of the area under a single curve.
    cpr, cmd = (np.asarray(np.trapezoid(f, kept)) for f in (faithful, distance))
    return cpr, cmd


def _checked_curves(
    values: ArrayLike, steps: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Curves as float64 and their steps, without points that are NaN for all."""
    given = np.asarray(values)
    if given.ndim < 1 or 0 in given.shape or given.dtype.kind not in "fiu":
        raise ValueError(
            "values: expected numbers of shape [..., K+1], got "
            f"{given.dtype} of shape {list(given.shape)}"
        )
    curves = given.astype(np.float64)
    is_point = ~np.isnan(curves).all(axis=tuple(range(curves.ndim - 1)))
    if steps is None:
        places = np.arange(curves.shape[-1])
        # What is NaN for all curves is past their end, unless all of them is.
        size = np.flatnonzero(is_point)[-1] + 1 if is_point.any() else len(places)
        is_point = places < size
    else:
        places = _checked_steps(steps, curves.shape[-1])
        is_point |= ~is_point.any()
    is_point |= np.arange(len(places)) == 0  # f needs the intact network
    curves, places = curves[..., is_point], places[is_point]
    if len(places) < 2:
        raise ValueError(
            "values: expected curves of one neuron or more, at least two points, got "
            f"{len(places)}; without ablation there is no faithfulness"
        )
    return curves, places


def _checked_steps(steps: ArrayLike, points: int) -> np.ndarray:
    given = np.asarray(steps)
    fits = given.shape == (points,) and given.dtype.kind in "iu"
    if not fits or given[0] != 0 or (np.diff(given.astype(np.int64)) <= 0).any():
        raise ValueError(
            f"steps: expected {points} integers, one for each value, ascending from 0, "
            f"got {given.dtype} of shape {list(given.shape)}: {_shown(given)}"
        )
    return given.astype(np.int64)


def _checked_fractions(fractions: Any) -> np.ndarray:
    try:
        given = np.asarray(fractions, np.float64)
    except (TypeError, ValueError):
        given = np.array(np.nan)
    fits = given.ndim == 1 and len(given) > 1
    # Comparisons with NaN are False.
    if (
        not fits
        or not ((given >= 0) & (given <= 1)).all()
        or not (np.diff(given) > 0).all()
    ):
        raise ValueError(
            "fractions: expected two or more shares in [0, 1], ascending, got "
            f"{_shown(fractions)}; 0.5 keeps half of the neurons"
        )
    return given


def _places(kept: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Where the steps of shares are among those that have values."""
    missing = missing_steps(kept, steps)
    if missing.size:
        raise ValueError(
            "fractions: expected shares whose steps K - round(q K) are among those "
            f"evaluated, got none at {_shown(missing)} of K = {steps[-1]}; evaluate "
            "them too, or take all points by fractions=None"
        )
    return np.searchsorted(steps, _steps_of(kept, steps))


def missing_steps(
    fractions: Sequence[float] | Float[np.ndarray, " shares"],
    steps: Int[np.ndarray, " points"],
) -> Int[np.ndarray, " missing"]:
    """The steps of shares kept that are not among those evaluated, which end with K."""
    return np.setdiff1d(_steps_of(np.asarray(fractions), steps), steps)


def _steps_of(kept: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return (steps[-1] - np.rint(kept * steps[-1])).astype(np.int64)


def _shown(values: object) -> str:
    """A few numbers in one line."""
    flat = np.ravel(np.asarray(values)).tolist()
    return ", ".join(map(str, flat[:6])) + (", ..." if len(flat) > 6 else "")
