"""What all tests over networks share: which networks count, levels, corrections."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference.areas import areas_by_order, normalized_area
from ioca_jax.inference.comparisons import bootstrap_test, seeds_needed, sign_flip_test
from ioca_jax.inference.statistics import correlation_interval, mean_interval
from ioca_jax.results.subsets import (
    Layer,
    converged,
    evenly,
    intact_accuracy,
    loss_increase,
    neurons_of,
    take_seeds,
)

ALPHA = 0.05
# Of normalised area: differences below this are negligible.
MARGIN = 0.01
CLAIMED = ("mutual_information", "kl_selectivity")
PAPER_MEASURES = ("entropy", *CLAIMED)
_AXES = ("seed", "clamp", "scope", "ordering", "step")


def above_chance(results: xr.Dataset) -> xr.Dataset:
    """The networks that converged and are better than chance when intact.

    Raises ValueError if there is none, or one twice, or part of what a run gives.
    """
    check_results(results)
    kept = converged(results)
    better = intact_accuracy(kept) > _chance(kept) + 0.01
    if not better.any():
        raise ValueError(
            f"expected networks above chance, got {results.sizes['seed']} "
            "that diverged or are at chance; train longer or otherwise"
        )
    return take_seeds(kept, better).transpose("seed", ...)


def networks_in_tests(results: xr.Dataset) -> xr.Dataset:
    """The networks above chance, which tests are over; none where there is none."""
    try:
        return above_chance(results)
    except ValueError:
        return results.isel(seed=slice(0))


def check_results(results: xr.Dataset) -> None:
    """Refuses what is no results, lacks their axes, or has a seed twice.

    The same network would count as independent evidence.
    """
    if not isinstance(results, xr.Dataset):
        raise ValueError(
            f"results: expected a run's results, got a {type(results).__name__}; pass "
            "what run_study or load_results returns"
        )
    for name in _AXES:
        if name not in results.dims:
            raise ValueError(
                f"results: expected the axes {', '.join(_AXES)}, got none named "
                f"{name}; select by a list, as in results.sel({name}=[...])"
            )
    if "diverged" not in results:
        raise ValueError(
            "results: expected a whole run's results, got "
            f"{', '.join(map(str, results.data_vars))} without diverged; pass what "
            "load_results returns"
        )
    seeds, number = np.unique(results["seed"].values, return_counts=True)
    if (number > 1).any():
        raise ValueError(
            f"seed: expected every network once, got seed {seeds[number > 1][0]} "
            "twice; of runs that share seeds, take each network from one of them, or "
            "test the runs apart"
        )


def judge_family(
    rows: Sequence[dict],
    values: Sequence[np.ndarray],
    *,
    threshold: float | Sequence[float] = 0.0,
    steps: Sequence[float] | None = None,
    largest: float | Sequence[float] = 1.0,
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """Means of the rows' values over networks, their intervals, and two-sided tests.

    The rows are one family: ``effect_table`` with ``add_tests`` of the same values.
    """
    table = effect_table(rows, values, steps=steps, largest=largest)
    return add_tests(table, values, threshold=threshold, alpha=alpha)


def effect_table(
    rows: Sequence[dict],
    values: Sequence[np.ndarray],
    *,
    steps: Sequence[float] | None = None,
    largest: float | Sequence[float] = 1.0,
) -> pd.DataFrame:
    """Rows with ``effect``, the mean of their values [S], and its interval.

    The 95 % interval is ``low`` to ``high``; NaN where a network has no value. Rows of
    correlations are given with their least differences, ``steps``, and their largest
    sizes, 2 for a difference of two correlations, at which the interval is cut off.
    """
    together = _together(values)
    whole = np.isfinite(together).all(axis=0)
    columns = np.full((3, len(rows)), np.nan)
    if whole.any():
        together = together[:, whole]
        mean = together.mean(axis=0)
        if steps is None:
            low, high = mean_interval(together)
        else:
            ends = mean_interval(together, step=np.asarray(steps)[whole])
            most = np.broadcast_to(largest, len(rows))[whole]
            low, high = np.clip(ends, -most, most)
        # The mean of equal values may differ from them in the last bit.
        columns[:, whole] = mean, np.minimum(low, mean), np.maximum(high, mean)
    return pd.DataFrame(rows).assign(effect=columns[0], low=columns[1], high=columns[2])


def add_tests(
    table: pd.DataFrame,
    values: Sequence[np.ndarray],
    *,
    threshold: float | Sequence[float] = 0.0,
    alternative: str = "two-sided",
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """The table with tests over networks of each row's values [S] against a threshold.

    ``p_value`` of the sign-flip test and ``p_corrected`` for all rows; ``p_bootstrap``,
    corrected likewise, of ``bootstrap_test``, which allows for skewed differences. NaN
    where a network has no value, and everywhere for fewer networks than the sign-flip
    test needs to reject at ``alpha``: their p-values could not have been low.
    """
    together = _together(values)
    whole = np.isfinite(together).all(axis=0)
    whole &= len(together) >= seeds_needed(alpha, two_sided=alternative == "two-sided")
    columns = np.full((3, len(table)), np.nan)
    if whole.any():
        bounds = np.broadcast_to(np.asarray(threshold, np.float64), len(table))
        about = {"threshold": bounds[whole], "alternative": alternative}
        test = sign_flip_test(together[:, whole], **about)
        robust = bootstrap_test(together[:, whole], **about)
        p_values = [test.p_value, test.p_corrected, robust.p_corrected]
        columns[:, whole] = np.stack(p_values)
    names = ("p_value", "p_corrected", "p_bootstrap")
    return table.assign(**dict(zip(names, columns, strict=True)))


def _together(values: Sequence[np.ndarray]) -> np.ndarray:
    """Values [S, rows] of a table's rows, of which there may be none."""
    return np.stack(values, axis=1) if values else np.empty((0, 0))


def too_few_for_tests(networks: int, alpha: float = ALPHA) -> str:
    """That no test over so many networks can reject, and how many more can; or ``""``.

    Where only one-sided tests can, which hypotheses on curves have, that is said.
    """
    needed = seeds_needed(alpha)
    more = needed - networks
    if more <= 0:
        return ""
    level = f"{100 * alpha:g} %"
    if networks < seeds_needed(alpha, two_sided=False):
        text = f"no test over networks can reach {level}; {needed} can"
    else:
        text = (
            f"only the one-sided tests of hypotheses on curves can reach {level}; with "
            f"{needed} all tests can"
        )
    return f"{text}, {more} more {'is' if more == 1 else 'are'} needed"


def normalized_areas(results: xr.Dataset) -> dict[tuple[str, str, str], np.ndarray]:
    """Normalised areas [S, clamps] by scope, ranking and direction."""
    intact = intact_accuracy(results)[:, None]
    return {
        name: normalized_area(area, intact, _chance(results))
        for name, area in areas_by_order(results).items()
    }


def _chance(results: xr.Dataset) -> float:
    return 1 / results.sizes["class"]


def scores_and_effects(
    results: xr.Dataset, layer: Layer, measure: str, clamp: str
) -> tuple[np.ndarray, np.ndarray]:
    """A measure [S, w] of a layer's neurons, and the rise of the loss without each."""
    rise = loss_increase(results, clamp)
    scores = results["score"].sel(measure=measure)
    of_layer = evenly(neurons_of(results, layer))
    return scores.isel(neuron=of_layer).values, rise.isel(neuron=of_layer).values


def clamps_of(results: xr.Dataset) -> list[str]:
    """The names of the clamps."""
    return [str(clamp) for clamp in results["clamp"].values]


def orders_of(results: xr.Dataset) -> list[tuple[str, str]]:
    """What neurons are ranked by, and directions, but for random orders."""
    pairs = zip(results["ranked_by"].values, results["direction"].values, strict=True)
    return [(str(r), str(d)) for r, d in pairs if r != "random"]


def rankings(results: xr.Dataset) -> list[str]:
    """The paper's measures that neurons are ranked by."""
    ranked = dict.fromkeys(ranked for ranked, _ in orders_of(results))
    there = {*PAPER_MEASURES} & {*results["measure"].values.tolist()}
    return [name for name in ranked if name in there]


def finite_mean(values: np.ndarray) -> float:
    """The mean over finite values, NaN without any."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def interval_over_networks(values: np.ndarray, step: float) -> tuple[float, float]:
    """The 95 % interval of correlations over networks, NaN for fewer than three."""
    if len(values) < 3:
        return float("nan"), float("nan")
    low, high = correlation_interval(values, step=step)
    return float(low), float(high)


def need_random_orders(results: xr.Dataset) -> None:
    """Refuses results without random orders."""
    if "random" not in results["ranked_by"].values:
        raise ValueError(
            "expected a run with random orders, to compare with, got one without; run "
            "it with random_orders of 1 or more"
        )


def need_seeds(results: xr.Dataset, alpha: float, *, two_sided: bool) -> None:
    """Refuses fewer networks than a sign-flip test needs at a level."""
    least = seeds_needed(alpha, two_sided=two_sided)
    if results.sizes["seed"] < least:
        raise ValueError(
            f"expected at least {least} networks, with which a sign-flip test can "
            f"reach p = {alpha:g}, got {results.sizes['seed']} above chance; run more "
            "seeds"
        )
