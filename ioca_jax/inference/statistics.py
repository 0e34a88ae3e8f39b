"""Intervals, bands, rank correlations and false discovery rates over networks.

The network is the unit of analysis: neurons of one network share its training and are
not an independent sample, so a rank correlation over neurons is one number per network,
and such numbers are tested over networks (``comparisons``). Arrays begin with S.

Sources: P. Hall, "Theoretical comparison of bootstrap confidence intervals", Annals of
Statistics 16 (1988), for intervals; F. J. E. Telschow and A. Schwartzman, "Simultaneous
confidence bands for functional data using the Gaussian kinematic formula", Journal of
Statistical Planning and Inference 216 (2022), for bands.

Limits: networks have to be independent, and the band assumes Gaussian curves. Random
draws have a fixed seed: the same data give the same numbers.
"""

import math
from collections.abc import Iterator

import numpy as np
import scipy.special
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from ioca_jax.checks import check_integer

# Numbers held at once where all combinations would be too many: 32 MiB of float64.
BLOCK = 2**22
# Statistics and shares below are of the order of 1 and right to about 1e-14.
TIE = 1e-9
# As a share of the level. Twice the error of a float32 p-value and more; (b + 1) / (m +
# 1) misses a level by more than that for fewer than a million permutations.
_P_VALUE_TIE = 1e-6
# Up to this many networks intervals are Student's: resamples of so few are too alike.
_MOST_FOR_STUDENT = 5
# As many leave no bit of a quantile open.
_HALVINGS = 60
# Correlations nearer to 1 than this count as this near: Fisher's z of 1 is infinite.
_CORRELATION_TIE = 1e-6


def significant(
    p_values: Float[ArrayLike, "*shape"], alpha: float
) -> Bool[np.ndarray, "*shape"]:
    """Whether p-values are at most a level, False for NaN: compared here and only here.

    P-values of permutations are stored in float32, where 1/20 is 0.0500000007: what
    exceeds the level by a millionth of it or less counts as equal.
    """
    most = alpha * (1 + _P_VALUE_TIE)
    return np.asarray(np.asarray(p_values, np.float64) <= most)


def mean_interval(
    values: Real[ArrayLike, "S *batch"],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Confidence interval for a mean over at least 3 networks, NaN where one is NaN.

    From 6 networks on the studentised bootstrap (bootstrap-t): the quantiles of ``t* =
    (mean* - mean) / se*`` over resamples replace Student's, ``[mean - t*_high se, mean
    - t*_low se]``. A resample without spread counts as infinitely far out; a quantile
    that is infinite for that (most values are equal) is replaced by Student's. From 3
    to 5 networks Student's: the bootstrap's intervals are up to 8 times as wide there.

    Share of nominal 95 % intervals that contain the mean, in 4,000 data sets or more:

    =======================  =====  =====  =====  =====  =====
    networks                 3      5      6      8      10
    =======================  =====  =====  =====  =====  =====
    normal                   0.949  0.951  0.946  0.947  0.944
    gamma, skewness 1        0.935  0.930  0.938  0.948  0.947
    exponential, skewness 2  0.888  0.880  0.927  0.935  0.943
    uniform                  0.921  0.934  0.956  0.965  0.973
    =======================  =====  =====  =====  =====  =====

    (Student's for ten exponential values: 0.899; percentile intervals: 0.863.)
    """
    of_seed = np.asarray(values, np.float64)
    num_seeds, *batch = of_seed.shape
    _check_interval(num_seeds, confidence, "values")
    check_integer("resamples", resamples, least=1)
    columns = of_seed.reshape(num_seeds, -1)
    mean, centred, error = mean_and_error(columns)
    # asarray: NumPy's quantiles of Student's law are scalars.
    student = scipy.stats.t.ppf((1 + confidence) / 2, num_seeds - 1)
    quantiles = np.full((2, columns.shape[1]), np.inf)
    if num_seeds > _MOST_FOR_STUDENT:
        cut = math.floor((1 - confidence) / 2 * (resamples - 1))
        width = max(1, BLOCK // resamples)
        for start in range(0, columns.shape[1], width):
            part = slice(start, start + width)
            blocks = resampled_t(centred[:, part], error[part], resamples, seed)
            t = np.concatenate(list(blocks))
            t.partition([cut, resamples - 1 - cut], axis=0)
            quantiles[:, part] = t[[cut, resamples - 1 - cut]]
    lowest, highest = np.where(
        np.isinf(quantiles), student * np.array([[-1], [1]]), quantiles
    )
    low, high = mean - highest * error, mean - lowest * error
    return low.reshape(batch), high.reshape(batch)


def correlation_interval(
    correlations: Float[ArrayLike, "S *batch"],
    *,
    confidence: float = 0.95,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Confidence interval for a mean over networks of correlations, within [-1, 1].

    From 6 networks on ``mean_interval``, cut off at -1 and 1. From 3 to 5 networks
    Student's interval of Fisher's ``z = artanh(r)``, transformed back: few correlations
    are nearer to normal there. Of nominal 95 % intervals 0.945 to 0.97 contain the
    mean, for beta laws with means of 0 to 0.8 and 3 to 10 networks; 0.90 to 0.94 for
    skewness -2.5 (mean 0.9), where Student's interval of three has 0.789.
    """
    given = np.asarray(correlations, np.float64)
    if len(given) > _MOST_FOR_STUDENT:
        low, high = mean_interval(given, confidence=confidence)
        return np.clip(low, -1, 1), np.clip(high, -1, 1)
    most = 1 - _CORRELATION_TIE
    low, high = mean_interval(
        np.arctanh(np.clip(given, -most, most)), confidence=confidence
    )
    is_constant = (given == given[:1]).all(axis=0)
    return (
        np.where(is_constant, given[0], np.tanh(low)),
        np.where(is_constant, given[0], np.tanh(high)),
    )


def simultaneous_band(
    curves: Real[ArrayLike, "S *batch points"],
    *,
    confidence: float = 0.95,
) -> tuple[Float[np.ndarray, "*batch points"], Float[np.ndarray, "*batch points"]]:
    """Band that contains the whole mean curve [S, ..., points] with a confidence.

    NaN points do not widen the band at others. The band is
    ``mean ± q se``, where q solves the Gaussian kinematic formula for the greatest
    ``|t|`` along a curve of length L, with ``v = S - 1`` degrees of freedom:

        2 P(T_v > q) + L / pi (1 + q^2 / v)^(-(v - 1) / 2) = 1 - confidence

    L is the length of the path of the standardised residuals on the unit sphere; it is
    0 for curves that move as one, and then q is Student's. Where Bonferroni's q for the
    number of points is less (rough curves), that is taken.

    Share of nominal 95 % bands that contain the mean curve, in 2,000 data sets of
    curves of 101 points and ten correlation lengths (rough: a Brownian bridge):

    ========================  =====  =====  =====  =====  =====
    networks                  3      5      6      10     20
    ========================  =====  =====  =====  =====  =====
    Gaussian                  0.958  0.965  0.962  0.957  0.949
    Gaussian, rough           0.952  0.974  0.967  0.972  0.973
    log-normal, skewness 0.8  0.958  0.948  0.939  0.924  0.917
    log-normal, skewness 1.8  0.941  0.906  0.868  0.823  0.844
    ========================  =====  =====  =====  =====  =====

    Means over random orders and differences of paired curves are less skewed than
    single curves. Bands of 3 and 4 networks are wide: q is 45 and 14 for the Gaussian
    curves, with 10 networks 4.
    """
    of_seed = np.asarray(curves, np.float64)
    num_seeds, *batch = of_seed.shape
    _check_interval(num_seeds, confidence, "curves")
    columns = of_seed.reshape(num_seeds, -1)
    mean, centred, error = mean_and_error(columns)
    varies = error > 0
    # Of unit length, whatever the scale: no sum of squares underflows.
    unit = np.where(varies, centred, 0) / np.where(varies, error, 1)
    unit = (unit / math.sqrt(num_seeds * (num_seeds - 1))).reshape(
        num_seeds, -1, batch[-1]
    )
    bands = list(enumerate(varies.reshape(-1, batch[-1])))
    length = np.array([_path_length(unit[:, band, here]) for band, here in bands])
    points = np.array([max(1, here.sum()) for _, here in bands])
    quantiles = _largest_t(length, points, num_seeds - 1, confidence)
    half_width = error * np.repeat(quantiles, batch[-1])
    return (mean - half_width).reshape(batch), (mean + half_width).reshape(batch)


def _path_length(unit: np.ndarray) -> float:
    """Length of a path [S, points] on the unit sphere, opposite ends being one."""
    later, earlier = unit[:, 1:], unit[:, :-1]
    chord = np.minimum(
        np.linalg.norm(later - earlier, axis=0), np.linalg.norm(later + earlier, axis=0)
    )
    return 2 * np.arcsin(np.minimum(chord / 2, 1)).sum()


def _largest_t(
    length: np.ndarray, points: np.ndarray, freedom: int, confidence: float
) -> np.ndarray:
    """Quantiles of the greatest |t| along paths with these lengths and points."""
    alpha = 1 - confidence
    # Not less than Student's, nor more than Bonferroni's.
    low = np.full(len(length), -scipy.special.stdtrit(freedom, alpha / 2))
    high = -scipy.special.stdtrit(freedom, alpha / 2 / points)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        along = (1 + middle**2 / freedom) ** (-(freedom - 1) / 2)
        chance = 2 * scipy.special.stdtr(freedom, -middle) + length / math.pi * along
        low = np.where(chance > alpha, middle, low)
        high = np.where(chance > alpha, high, middle)
    return high


def kendall_tau(
    x: Real[ArrayLike, "*#batch H"], y: Real[ArrayLike, "*#batch H"]
) -> Float[np.ndarray, "*batch"]:
    """Kendall's tau-b of two scores [..., H] of a network's neurons, by SciPy.

    ``(concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)``; NaN
    where one side is constant or has a NaN.
    """
    scores = _paired_scores(x, y)
    if scores[0].shape[-1] < 2:
        shape = np.broadcast_shapes(*(score.shape[:-1] for score in scores))
        return np.full(shape, np.nan)
    found = scipy.stats.kendalltau(*scores, axis=-1)  # pyright: ignore[reportCallIssue]
    return np.asarray(found.statistic, np.float64)


def spearman(
    x: Real[ArrayLike, "*#batch H"], y: Real[ArrayLike, "*#batch H"]
) -> Float[np.ndarray, "*batch"]:
    """Spearman's rank correlation of two scores [..., H] of a network's neurons.

    As ``scipy.stats.spearmanr``, but ranks are computed once for all pairs of scores,
    and leading axes broadcast. NaN where one side is constant or has a NaN.
    """
    scores = _paired_scores(x, y)
    middle = (scores[0].shape[-1] + 1) / 2
    ranks = [scipy.stats.rankdata(score, axis=-1) - middle for score in scores]
    squares = [(rank**2).sum(axis=-1) for rank in ranks]
    possible = np.sqrt(squares[0]) * np.sqrt(squares[1])
    together = np.einsum("...i,...i->...", *ranks)
    rho = together / np.where(possible > 0, possible, np.nan)
    missing = [np.isnan(score).any(axis=-1) for score in scores]
    # Rounding may leave [-1, 1].
    return np.where(missing[0] | missing[1], np.nan, np.clip(rho, -1, 1))


def false_discovery(
    p_values: Float[ArrayLike, "*shape"], axis: int = -1
) -> Float[np.ndarray, "*shape"]:
    """Benjamini and Hochberg's adjusted p-values along an axis; NaN stays.

    Rejecting where they are at most alpha keeps the expected share of false rejections
    below alpha, for independent or positively dependent tests.
    """
    given = np.asarray(p_values, np.float64)
    if ((given < 0) | (given > 1)).any():
        raise ValueError(
            "p_values: expected numbers in [0, 1] or NaN, got "
            f"{np.nanmin(given)} to {np.nanmax(given)}; pass p-values, not statistics"
        )

    def adjusted(family: np.ndarray) -> np.ndarray:
        result, tested = family.copy(), ~np.isnan(family)
        if tested.any():
            result[tested] = scipy.stats.false_discovery_control(family[tested])
        return result

    return np.apply_along_axis(adjusted, axis, given)


def _check_interval(num_seeds: int, confidence: float, name: str) -> None:
    """Refuses too few networks, and what is not a confidence."""
    check_seeds(num_seeds, name)
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence: expected a number in (0, 1), got {confidence}; 0.95 is 95 %"
        )


def check_seeds(num_seeds: int, name: str) -> None:
    """Refuses fewer networks than a spread can be estimated from."""
    if num_seeds < 3:
        raise ValueError(
            f"{name}: expected at least 3 seeds, got {num_seeds}; train more networks"
        )


def mean_and_error(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [M], values around it [S, M], standard error [M]; 0 where all are equal."""
    mean = columns.mean(axis=0)
    # A mean of equal floats may differ from them in the last bit.
    mean = np.where((columns == columns[0]).all(axis=0), columns[0], mean)
    centred = columns - mean
    num_seeds = len(columns)
    variance = (centred**2).sum(axis=0) / (num_seeds - 1)
    return mean, centred, np.sqrt(variance / num_seeds)


def _paired_scores(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, in which SciPy counts; one score of each neuron."""
    scores = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if scores[0].shape[-1:] != scores[1].shape[-1:]:
        raise ValueError(
            f"y: expected shape [..., {scores[0].shape[-1]}], a score of each neuron "
            f"that x scores, got {list(scores[1].shape)}; score the same neurons"
        )
    return scores


def resampled_t(
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
