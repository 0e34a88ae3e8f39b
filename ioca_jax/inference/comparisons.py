"""Tests over networks: paired by seed with correction for many, and unpaired.

The network is the unit of analysis. The sign-flip test assumes differences that are
symmetric around the threshold; ``bootstrap_test`` does not, and finds less. Random
draws have a fixed seed: the same data give the same numbers.

Source: P. H. Westfall and S. S. Young, "Resampling-Based Multiple Testing" (1993), for
the step-down correction.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from ioca_jax.checks import check_integer
from ioca_jax.inference.statistics import (
    BLOCK,
    RESAMPLES,
    TIE,
    check_seeds,
    mean_and_error,
    sign_flips,
    significant,
)

ALTERNATIVES = ("two-sided", "greater", "less")

# As a share of the threshold: differences of float32 accuracies, right to 6e-8, from
# thresholds of 0.002 and more.
_THRESHOLD_TIE = 1e-4
# ``networks_for_power`` names no greater number: an effect of known size needs as many
# where it is below 0.3 standard deviations, at the level of one of 44 comparisons.
MOST_NETWORKS = 200
# Quantiles of the pilot's variance that power is averaged over.
_NODES = 24
_NONCENTRAL = 30.0


class PairedTest(NamedTuple):
    """Result of a test of M planned comparisons over networks, float64 [M] each.

    ``p_corrected`` is corrected for all M: rejecting where it is at most alpha makes
    any false rejection with a probability of at most alpha. P-values are never 0.
    """

    mean: Float[np.ndarray, " M"]
    p_value: Float[np.ndarray, " M"]
    p_corrected: Float[np.ndarray, " M"]


def sign_flip_test(
    differences: Real[ArrayLike, "S M"],
    *,
    threshold: float | Float[ArrayLike, " M"] = 0.0,
    alternative: str = "two-sided",
    alpha: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Paired test of M planned comparisons [S, M] against random signs.

    A network's difference keeps its size and takes a random sign; the statistic is
    ``sum_s d_s / sqrt(sum_s d_s^2)``, free of scale and monotone in Student's t. The
    correction is Westfall and Young's step-down maximum: a comparison is compared with
    the largest statistic among those that are no clearer than itself, under flips that
    all comparisons of a network share, so that correlated comparisons cost little.

    Differences have to be symmetric around the threshold where it is met, as when two
    exchangeable curves are subtracted; for skewed ones see ``bootstrap_test``. A
    difference within 1e-4 of the threshold's size counts as equal to it: accuracies are
    float32, and all of one sign by rounding would be significant. All 2^S flips where
    they are at most ``resamples + 1``; otherwise ``resamples`` random ones, and the
    observed signs count as one more. ``alpha`` refuses too few seeds for any rejection
    at that level.
    """
    observed = _checked_differences(differences)
    _check_numbers(np.asarray(threshold, np.float64), "threshold", "give a number")
    check_integer("resamples", resamples, least=1)
    _check_alternative(alternative)
    num_seeds, num_comparisons = observed.shape
    if alpha is not None:
        needed = seeds_needed(alpha, two_sided=alternative == "two-sided")
        if num_seeds < needed:
            raise ValueError(
                f"differences: expected at least {needed} seeds, with fewer no outcome "
                f"is significant at alpha = {alpha} ({alternative}), got {num_seeds}; "
                "train more networks"
            )
    bound = np.asarray(threshold, np.float64)
    above = observed - bound
    above = np.where(np.abs(above) <= _THRESHOLD_TIE * np.abs(bound), 0, above)
    if alternative == "less":
        above = -above
    # By the largest first: squares of the smallest numbers would underflow.
    scale = np.abs(above).max(axis=0)
    unit = above / np.where(scale > 0, scale, 1)
    norm = np.sqrt((unit**2).sum(axis=0))
    unit = unit / np.where(norm > 0, norm, 1)

    def statistic(signs: np.ndarray) -> np.ndarray:
        sums = signs @ unit
        return np.abs(sums) if alternative == "two-sided" else sums

    width = max(1, BLOCK // max(num_seeds, num_comparisons))
    flips = sign_flips(num_seeds, resamples, seed=seed, width=width)
    flipped = (statistic(1.0 - 2.0 * block) for block in flips)
    reference = statistic(np.ones((1, num_seeds)))[0]
    alone, corrected = _step_down(reference, flipped)
    num_flips = min(2**num_seeds, resamples + 1)
    return PairedTest(
        mean=observed.mean(axis=0),
        p_value=alone / num_flips,
        p_corrected=corrected / num_flips,
    )


def bootstrap_test(
    differences: Real[ArrayLike, "S M"],
    *,
    threshold: float | Float[ArrayLike, " M"] = 0.0,
    alternative: str = "two-sided",
    resamples: int = 1_999,
    seed: int = 0,
) -> PairedTest:
    """Paired test of M planned comparisons [S, M] whose differences may be skewed.

    Student's t of each comparison is compared with those of networks drawn again with
    replacement (bootstrap-t), corrected by the step-down maximum as in
    ``sign_flip_test``; two-sided is twice the lesser tail; p is 1 where all networks
    have one value. It keeps its level where the sign-flip test does not, and finds less
    where differences are symmetric.

    Share of 1,000 data sets with any false rejection at 5 %, of 40 independent
    comparisons of ten networks, and share in which one added effect of 1.5 standard
    deviations was found; differences are normal or shifted log-normal:

    ====================  =====  =====  =====  =====  =====
    skewness              0      0.5    1      1.8    3
    ====================  =====  =====  =====  =====  =====
    error, sign flips     0.038  0.047  0.085  0.232  0.445
    error, bootstrap      0.006  0.006  0.005  0.003  0.004
    found by sign flips   0.582  0.594  0.613  0.664  0.722
    found by bootstrap    0.218  0.244  0.298  0.415  0.464
    ====================  =====  =====  =====  =====  =====

    Of comparisons correlated by 0.5 before the exponential: at skewness 1.8 an error of
    0.14 by sign flips and 0.02 by the bootstrap (300 data sets).
    """
    observed = _checked_differences(differences)
    _check_numbers(np.asarray(threshold, np.float64), "threshold", "give a number")
    check_integer("resamples", resamples, least=1)
    _check_alternative(alternative)
    check_seeds(len(observed), "differences")
    mean, centred, error = mean_and_error(observed)
    varies = error > 0
    t = np.where(varies, mean - threshold, 0) / np.where(varies, error, 1)

    def resampled(sign: int) -> Iterator[np.ndarray]:
        for drawn in _resampled_t(centred, error, resamples, seed):
            yield sign * drawn

    signs = {"greater": (1,), "less": (-1,), "two-sided": (1, -1)}[alternative]
    counts = np.stack([_step_down(sign * t, resampled(sign)) for sign in signs])
    p_values = np.minimum(len(signs) * (counts.min(axis=0) + 1) / (resamples + 1), 1)
    p_values = np.where(varies, p_values, 1)
    return PairedTest(mean, *p_values)


def seeds_needed(alpha: float, *, two_sided: bool = True) -> int:
    """The fewest seeds with which ``sign_flip_test`` can reject at a level.

    The least S with ``2 / 2^S <= alpha``, or ``1 / 2^S`` for one side: among all flips
    are the observed signs (and, for two sides, their opposite), which are as extreme.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a level in (0, 1), got {alpha}; 0.05 is 5 %")
    return math.ceil(math.log2((2 if two_sided else 1) / alpha))


def networks_for_power(
    values: Real[ArrayLike, "S *batch"],
    threshold: float | Float[ArrayLike, "*#batch"],
    alpha: float,
    power: float = 0.8,
) -> Float[np.ndarray, "*batch"]:
    """How many networks a two-sided test needs to decide, from those of a pilot.

    The least n with which Student's test of n new networks rejects with a probability
    of ``power``, averaged over what the pilot leaves open: the posterior of the effect
    in standard deviations, with a flat prior of mean and log standard deviation. With
    ``t`` of the pilot's S networks, and its variance k times the true one, the new t
    has a noncentral t distribution:

        T_n / sqrt(1 + n / S) ~ nct(n - 1, t sqrt(k n / (n + S)))

    Delivered power is simulated in ``docs/statistics.md``.

    Args:
        values: of the pilot.
        threshold: of the test.
        alpha: level of the test.
        power: to reach.

    Returns:
        Numbers of at least ``seeds_needed(alpha)``; infinite beyond ``MOST_NETWORKS``,
        for effects too small or too uncertain to plan for; NaN if a value is missing.

    Example:
        >>> import numpy as np
        >>> from ioca_jax.inference.comparisons import networks_for_power
        >>> pilot = np.array([0.2, 0.5, 0.1, 0.8, 0.3, -0.2, 0.4, 0.6])
        >>> float(networks_for_power(pilot, 0.0, alpha=0.05))
        14.0
    """
    pilot = np.asarray(values, np.float64)
    num_seeds, *batch = pilot.shape
    check_seeds(num_seeds, "values")
    if not 0 < power < 1:
        raise ValueError(
            f"power: expected a probability in (0, 1), got {power}; 0.8 is 80 %"
        )
    bounds = np.broadcast_to(np.asarray(threshold, np.float64), batch).ravel()
    t = _student_t(pilot.reshape(num_seeds, -1), bounds)
    low = np.full(t.shape, seeds_needed(alpha))
    high = np.full(t.shape, MOST_NETWORKS + 1)
    while (low < high).any():
        middle = (low + high) // 2
        reached = _average_power(t, num_seeds, middle, alpha) >= power
        reached |= low == high
        low = np.where(reached, low, middle + 1)
        high = np.where(reached, middle, high)
    numbers = np.where(low > MOST_NETWORKS, np.inf, low)
    return np.where(np.isnan(t), np.nan, numbers).reshape(batch)


def networks_for_undecided(
    differences: Real[ArrayLike, "S M"],
    p_corrected: Float[np.ndarray, " M"],
    *,
    threshold: float | Float[ArrayLike, " M"] = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Float[np.ndarray, " M"]:
    """``networks_for_power`` of the comparisons that a family's test leaves undecided.

    The correction multiplies the p-value of the clearest of them, by Student's test, by
    a factor of at least 1, at most their number (Bonferroni's); each is planned for at
    the level alpha divided by that factor. NaN where the test decides, or a value is
    missing.
    """
    seeds_needed(alpha)  # refuses what is no level
    if np.shape(differences)[1:] != np.shape(p_corrected):
        raise ValueError(
            "p_corrected: expected the p-values of the comparisons in differences, got "
            f"shapes {list(np.shape(p_corrected))} and {list(np.shape(differences))}; "
            "test these differences first"
        )
    is_open = ~significant(p_corrected, alpha) & np.isfinite(p_corrected)
    numbers = np.full(len(is_open), np.nan)
    if is_open.any():
        pilot = np.asarray(differences, np.float64)[:, is_open]
        bounds = np.broadcast_to(np.asarray(threshold, np.float64), len(is_open))
        clearest = _student_t(pilot, bounds[is_open]).max()
        alone = 2 * scipy.stats.t.sf(clearest, len(pilot) - 1)
        share = np.clip(alone / p_corrected[is_open].min(), 1 / is_open.sum(), 1)
        level = share * alpha
        numbers[is_open] = networks_for_power(pilot, bounds[is_open], level, power)
    return numbers


def _student_t(
    values: Float[np.ndarray, "S M"], threshold: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """Size of Student's t, at most 1,000, where every power is 1."""
    mean, _, error = mean_and_error(values)
    distance = np.abs(mean - threshold)
    return distance / np.maximum(error, np.maximum(distance / 1e3, 1e-300))


def _average_power(
    t: Float[np.ndarray, " M"],
    num_seeds: int,
    number: Int[np.ndarray, " M"],
    alpha: float,
) -> Float[np.ndarray, " M"]:
    """The power of new networks, averaged over the variance that a pilot leaves open.

    The average is over evenly spaced quantiles of the pilot's relative variance.
    """
    freedom = num_seeds - 1
    chances = (np.arange(_NODES) + 0.5) / _NODES
    variance = scipy.stats.chi2.ppf(chances, freedom) / freedom
    share = (number / (number + num_seeds))[:, None]
    # SciPy has NaN for larger ones, with which the power is 1.
    noncentrality = np.minimum(t[:, None] * np.sqrt(share * variance), _NONCENTRAL)
    critical = scipy.stats.t.isf(alpha / 2, number - 1) * np.sqrt(
        num_seeds / (num_seeds + number)
    )
    above, below = (
        1 - scipy.special.nctdtr(number[:, None] - 1, effect, critical[:, None])
        for effect in (noncentrality, -noncentrality)
    )
    # The lower tail is NaN where it is below the rounding of 1.
    return (above + np.nan_to_num(below)).mean(axis=1)


class IndependentTest(NamedTuple):
    """Mean of the first setting less that of the second, and p-value."""

    difference: Float[np.ndarray, "*batch"]
    p_value: Float[np.ndarray, "*batch"]


def independent_test(
    first: Real[ArrayLike, "S1 *batch"],
    second: Real[ArrayLike, "S2 *batch"],
    *,
    alternative: str = "two-sided",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> IndependentTest:
    """Permutation test of two settings [S1, ...] and [S2, ...] that are not paired.

    Networks change places between the settings; the statistic is the difference of the
    means (``scipy.stats.permutation_test``). The null hypothesis is that both settings
    have one law, spread included. All divisions into S1 and S2 networks where they are
    at most ``resamples``, random ones otherwise; p is never 0 and not corrected.
    Two-sided is twice the lesser tail.
    """
    samples = [np.asarray(first, np.float64), np.asarray(second, np.float64)]
    for name, sample in zip(("first", "second"), samples, strict=True):
        if len(sample) < 2:
            raise ValueError(
                f"{name}: expected at least 2 networks, got {len(sample)}; train more"
            )
        _check_numbers(sample, name)
    check_integer("resamples", resamples, least=1)
    _check_alternative(alternative)
    difference = samples[0].mean(axis=0) - samples[1].mean(axis=0)
    # Around their common mean, and of unit size, sums that tie also tie in floats.
    pooled = np.concatenate(samples)
    pooled = pooled - pooled.mean(axis=0)
    scale = np.abs(pooled).max(axis=0)
    pooled = pooled / np.where(scale > 0, scale, 1)
    tested = scipy.stats.permutation_test(
        (pooled[: len(samples[0])], pooled[len(samples[0]) :]),
        lambda x, y, axis: np.round(x.mean(axis=axis) - y.mean(axis=axis), 9),
        permutation_type="independent",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BLOCK // max(1, pooled.size)),
        alternative=alternative,
        axis=0,
        rng=np.random.default_rng(seed),
    )
    return IndependentTest(np.asarray(difference), np.asarray(tested.pvalue))


def _resampled_t(
    centred: Float[np.ndarray, "S M"],
    error: Float[np.ndarray, " M"],
    resamples: int,
    seed: int,
) -> Iterator[Float[np.ndarray, "block M"]]:
    """Student's t of bootstrap samples around the mean; infinite without spread.

    In blocks of samples, of which many networks' weights would fill the memory.
    """
    num_seeds, num_comparisons = centred.shape
    rng = np.random.default_rng(seed)
    chances = np.full(num_seeds, 1 / num_seeds)
    width = max(1, BLOCK // max(num_seeds, num_comparisons))
    for start in range(0, resamples, width):
        size = min(width, resamples - start)
        # The share of each network in each sample.
        weights = rng.multinomial(num_seeds, chances, size=size) / num_seeds
        shift = weights @ centred
        variance = weights @ centred**2 - shift**2
        has_spread = variance > TIE * error**2
        resampled_error = np.sqrt(np.where(has_spread, variance, 1) / (num_seeds - 1))
        t = shift / resampled_error
        yield np.where(has_spread, t, np.where(shift > 0, np.inf, -np.inf))


def _step_down(
    observed: Float[np.ndarray, " M"], drawn: Iterable[Float[np.ndarray, "draws M"]]
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """How many draws reach each statistic, alone and by Westfall and Young's maximum.

    Statistics are great where clear; draws come in blocks. The second counts draws
    whose greatest statistic among the comparisons that are no clearer is as great, made
    monotone.
    """
    clearest_first = np.argsort(-observed, kind="stable")
    alone, together = np.zeros((2, len(observed)), np.int64)
    for block in drawn:
        alone += (block >= observed - TIE).sum(axis=0)
        least_first = block[:, clearest_first[::-1]]
        largest = np.maximum.accumulate(least_first, axis=1)[:, ::-1]
        together += (largest >= observed[clearest_first] - TIE).sum(axis=0)
    corrected = np.empty_like(together)
    corrected[clearest_first] = np.maximum.accumulate(together)
    return alone, corrected


def _checked_differences(differences: ArrayLike) -> np.ndarray:
    """As float64 [S, M], finite."""
    observed = np.asarray(differences, np.float64)
    if observed.ndim != 2 or not observed.size:
        raise ValueError(
            f"differences: expected shape [S, M], a row for each seed, got "
            f"{list(observed.shape)}"
        )
    _check_numbers(observed, "differences")
    return observed


def _check_numbers(
    values: np.ndarray,
    name: str,
    advice: str = "leave those networks out first",
) -> None:
    """Refuses NaN and infinities."""
    missing = ~np.isfinite(values)
    if missing.any():
        raise ValueError(
            f"{name}: expected finite numbers, got {int(missing.sum())} of "
            f"{values.size} that are not; {advice}"
        )


def _check_alternative(alternative: str) -> None:
    """Refuses an unknown alternative."""
    if alternative not in ALTERNATIVES:
        raise ValueError(
            f"alternative: expected one of {', '.join(ALTERNATIVES)}, got "
            f"{alternative!r}"
        )
