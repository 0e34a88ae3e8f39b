"""What is lost where: accuracy along curves within the values of annotations."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ioca_jax.inference.families import above_chance, clamps_of, judge_family
from ioca_jax.results.subsets import over_seeds

_AXES = ("seed", "clamp", "ordering", "step", "annotation_value")


def compare_values(results: xr.Dataset) -> pd.DataFrame:
    """Whether orders cost the examples of one value of an annotation more than others.

    The loss of accuracy is the mean over the curve of the intact network's accuracy
    less the ablated one's, by trapezia over the share of neurons ablated, mean over
    random draws.

    Args:
        results: a run's results, of data with annotations.

    Returns:
        A row per scope, ``annotation``, ``value``, ``ranked_by``, ``direction`` and
        clamp: ``lost``, the accuracy that examples of this value lose, ``lost_others``,
        that examples of the annotation's other values lose, means over networks, and
        ``effect``, the difference, with interval and tests as in ``compare_orders``.
    """
    if "correct_by_value" not in results:
        raise ValueError(
            "expected a run whose data have annotations, got one without; give the "
            "Dataset annotations"
        )
    kept = above_chance(results)
    rows, values = [], []
    for (scope, ranked_by, direction), lost in _losses(kept).items():
        about = {"scope": scope, "ranked_by": ranked_by, "direction": direction}
        for place, annotation, value in _values_of(kept):
            own, others = lost[..., place, 0], lost[..., place, 1]
            for index, clamp in enumerate(clamps_of(kept)):
                means = own[:, index].mean(), others[:, index].mean()
                rows.append(
                    {
                        "annotation": annotation,
                        "value": value,
                        **about,
                        "clamp": clamp,
                        **dict(zip(("lost", "lost_others"), means, strict=True)),
                    }
                )
                values.append((own - others)[:, index])
    return judge_family(rows, values)


def _values_of(results: xr.Dataset) -> list[tuple[int, str, int]]:
    """Places, annotations and values that occur among test examples, and not alone."""
    names, numbers = results["annotation"].values, results["value"].values
    sizes = results["value_size"].values
    return [
        (place, str(name), int(numbers[place]))
        for place, name in enumerate(names)
        if 0 < sizes[place] < sizes[names == name].sum()
    ]


def _losses(
    results: xr.Dataset,
) -> dict[tuple[str, str, str], Float[np.ndarray, "S clamps values 2"]]:
    """By scope and order, accuracy lost by examples of each value, and by the others.

    From counts of examples, so that equal losses are equal.
    """
    return over_seeds(results[["correct_by_value"]], _losses_of_piece)


def _losses_of_piece(results: xr.Dataset) -> dict[tuple[str, str, str], np.ndarray]:
    names, sizes = results["annotation"].values, results["value_size"].values
    is_other = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    sizes = np.stack([sizes, is_other @ sizes], axis=-1)
    ranked_by, direction = results["ranked_by"].values, results["direction"].values
    found = {}
    for scope in results["scope"].values:
        counts = results["correct_by_value"].sel(scope=scope).transpose(*_AXES).values
        is_point = (counts >= 0).all(axis=(0, 1, 2, 4))
        counts = counts[:, :, :, is_point].astype(np.int64)
        both = np.stack([counts, counts @ is_other.T], axis=-1)
        lost = both[:, :, :, :1] - both
        steps = results["step"].values[is_point]
        # Twice the trapezia, whole.
        width = np.diff(steps)[:, None, None]
        twice = ((lost[:, :, :, 1:] + lost[:, :, :, :-1]) * width).sum(axis=3)
        for name in dict.fromkeys(zip(ranked_by, direction, strict=True)):
            chosen = (ranked_by == name[0]) & (direction == name[1])
            whole = 2 * steps[-1] * int(chosen.sum()) * np.maximum(sizes, 1)
            total = twice[:, :, chosen].sum(axis=2)
            found[(str(scope), str(name[0]), str(name[1]))] = total / whole
    return found
