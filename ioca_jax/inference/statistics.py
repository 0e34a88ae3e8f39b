"""Intervals, bands, rank correlations and false discovery rates over networks.

The network is the unit of analysis: neurons of one network share its training and are
not an independent sample, so a rank correlation over neurons is one number per network,
and such numbers are tested over networks (``comparisons``). Arrays begin with S.

Source of bands: F. J. E. Telschow and A. Schwartzman, "Simultaneous confidence bands
for functional data using the Gaussian kinematic formula", Journal of Statistical
Planning and Inference 216 (2022).

Limits: networks have to be independent, intervals assume values that are symmetric
around their mean, and the band assumes Gaussian curves. Random draws have a fixed seed:
the same data give the same numbers.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Real

# Numbers held at once where all combinations would be too many: 32 MiB of float64.
BLOCK = 2**22
# Statistics and shares below are of the order of 1 and right to about 1e-14.
TIE = 1e-9
# As a share of the level. Twice the error of a float32 p-value and more; (b + 1) / (m +
# 1) misses a level by more than that for fewer than a million permutations.
_P_VALUE_TIE = 1e-6
# Random flips of the signs; all 2^14 of 14 networks are one more.
RESAMPLES = 2**14 - 1
# Symmetric samples that a sample's skewness is compared with, and flips of each.
_SYMMETRIC, _FLIPS = 200, 64
# As many leave no bit of a quantile open.
_HALVINGS = 60


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
    step: float | Float[ArrayLike, "*#batch"] = 0.0,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Confidence interval for a mean over at least 3 networks, NaN where one is NaN.

    The interval holds the thresholds that the two-sided ``sign_flip_test`` does not
    reject: it excludes 0 exactly where ``p <= 1 - confidence``. A flip of some networks
    is as extreme as the observed signs where their mean is beyond the threshold. So
    both ends are means of subsets of networks, within the data: with ``K = floor((1 -
    confidence) / 2 * 2^S)``, the K-th smallest and the K-th largest. From 15 networks
    on, the subsets are the test's random flips.

    With fewer networks than the test needs to reject (3 to 5 at 95 %), the interval is
    Student's, with the squared standard error increased by ``step^2 / 12``: values in
    steps, such as rank correlations of a few neurons, may be equal by chance. ``step``
    is the least difference of two values.

    Coverage by number of networks and law is simulated in ``docs/statistics.md``.

    Source: J. A. Hartigan, "Using subsample values as typical values", Journal of the
    American Statistical Association 64 (1969).
    """
    of_seed = np.asarray(values, np.float64)
    num_seeds, *batch = of_seed.shape
    _check_interval(num_seeds, confidence, "values")
    columns = of_seed.reshape(num_seeds, -1)
    if (1 - confidence) * 2**num_seeds < 2:  # the least p-value is 2 / 2^S
        mean, _, error = mean_and_error(columns)
        error = np.hypot(error, np.broadcast_to(step, batch).ravel() / math.sqrt(12))
        half_width = scipy.stats.t.ppf((1 + confidence) / 2, num_seeds - 1) * error
        low, high = mean - half_width, mean + half_width
        return low.reshape(batch), high.reshape(batch)
    blocks = list(sign_flips(num_seeds, RESAMPLES, seed=0, width=BLOCK))
    flips = np.concatenate(blocks).astype(np.float64)
    width = max(1, BLOCK // len(flips))
    parts = [
        _flip_interval(columns[:, start : start + width], flips, confidence)
        for start in range(0, columns.shape[1], width)
    ]
    low, high = np.concatenate([np.empty((2, 0)), *parts], axis=1)
    return low.reshape(batch), high.reshape(batch)


def _flip_interval(
    columns: Float[np.ndarray, "S M"],
    flips: Float[np.ndarray, "N S"],
    confidence: float,
) -> Float[np.ndarray, "2 M"]:
    """Least and greatest threshold that the sign-flip test with these flips keeps."""
    num_seeds = len(columns)
    number = flips.sum(axis=1)
    is_part = (number > 0) & (number < num_seeds)
    # Flips of no network and of all are as extreme whatever the threshold.
    rank = math.floor((1 - confidence) * len(flips)) - (~is_part).sum()
    number, sums = number[is_part], columns.T @ flips[is_part].T
    means = sums / number
    of_rest = (columns.sum(axis=0)[:, None] - sums) / (num_seeds - number)
    low = np.partition(np.minimum(means, of_rest), rank)[:, rank]
    high = np.partition(np.maximum(means, of_rest), -1 - rank)[:, -1 - rank]
    least, most = columns.min(axis=0), columns.max(axis=0)
    ends = np.clip([low, high], least, most)
    # An end that is 0 but for rounding is 0, as in the test.
    return np.where(np.abs(ends) <= TIE * np.maximum(-least, most), 0, ends)


def sign_flips(
    num_seeds: int, resamples: int, *, seed: int, width: int
) -> Iterator[Int[np.ndarray, "block S"]]:
    """The networks whose sign is flipped (1), in blocks of ``width``; first none is.

    All 2^S choices where they are at most ``resamples + 1``, random ones otherwise.
    """
    if 2**num_seeds <= resamples + 1:
        for start in range(0, 2**num_seeds, width):
            block = np.arange(start, min(start + width, 2**num_seeds))
            yield block[:, None] >> np.arange(num_seeds) & 1
        return
    yield np.zeros((1, num_seeds), np.int64)
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, width):
        yield rng.integers(0, 2, (min(width, resamples - start), num_seeds))


def correlation_interval(
    correlations: Float[ArrayLike, "S *batch"],
    *,
    confidence: float = 0.95,
    step: float | Float[ArrayLike, "*#batch"] = 0.0,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """The ``mean_interval`` of correlations, cut off at -1 and 1.

    ``step`` is the least difference of such correlations: ``kendall_step`` and
    ``spearman_step`` of the number of neurons.
    """
    low, high = mean_interval(correlations, confidence=confidence, step=step)
    return np.asarray(np.clip(low, -1, 1)), np.asarray(np.clip(high, -1, 1))


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
    # SciPy takes a loop too; its function has an axis since version 1.17.
    of_each = np.vectorize(
        lambda x, y: scipy.stats.kendalltau(x, y).statistic,  # pyright: ignore[reportAttributeAccessIssue]
        otypes=[np.float64],
        signature="(h),(h)->()",
    )
    return of_each(*scores)


def kendall_step(num_neurons: int) -> float:
    """Least difference of two values of Kendall's tau without ties: one pair turned."""
    return 4 / max(1, num_neurons * (num_neurons - 1))


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


def spearman_step(num_neurons: int) -> float:
    """Least difference of two values of Spearman's rank correlation without ties."""
    return 12 / max(1, num_neurons * (num_neurons**2 - 1))


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


class FamilySkewness(NamedTuple):
    """Skewness of the values of M comparisons, and what is usual.

    Attributes:
        of_each: sample skewness of each comparison [M]; 0 without spread, NaN where a
            value is missing.
        together: root of the mean square over comparisons.
        usual: what ``together`` exceeds in 5 % of symmetric samples like this one.
    """

    of_each: Float[np.ndarray, " M"]
    together: float
    usual: float


def family_skewness(differences: Real[ArrayLike, "S M"]) -> FamilySkewness:
    """Sample skewness of M comparisons [S, M], and how much symmetric samples have.

    Symmetric samples have the distances of this sample from its centre, which is midway
    between mean and median, and random signs, which all comparisons of a network share.
    A sample's centre is not that of its law. So the skewness is divided by its mean
    over flips of the same sample around its own centre, for this sample and for each
    symmetric one, before they are compared. How often symmetric and skewed laws exceed
    the usual is simulated in ``docs/statistics.md``.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 2:
        raise ValueError(
            "differences: expected shape [S, M], a row for each seed, got "
            f"{list(values.shape)}"
        )
    check_seeds(len(values), "differences")
    of_each = np.where(np.isfinite(values).all(axis=0), 0.0, np.nan)
    varies = mean_and_error(values)[2] > 0
    if not varies.any():
        return FamilySkewness(of_each, 0.0, 0.0)
    centred = _centred(values[:, varies])
    rng = np.random.default_rng(0)
    signs = 1.0 - 2 * rng.integers(0, 2, (_SYMMETRIC + _FLIPS, len(values)))
    signs[0] = signs[_SYMMETRIC] = 1  # the sample itself
    samples = _centred(signs[:_SYMMETRIC, :, None] * centred)
    skewness = _flipped_skewness(samples, signs[_SYMMETRIC:])
    together = np.sqrt((skewness**2).mean(axis=-1))
    relative = together[:, 0] / together.mean(axis=1)
    usual = np.quantile(relative[1:], 0.95) * together[0].mean()
    of_each[varies] = skewness[0, 0]
    return FamilySkewness(of_each, float(together[0, 0]), float(usual))


def _centred(values: Float[np.ndarray, "*samples S M"]) -> np.ndarray:
    """Around a centre that outliers move half as much as the mean; of unit size."""
    middle = values.mean(axis=-2) + np.median(values, axis=-2)
    centred = values - middle[..., None, :] / 2
    size = np.sqrt((centred**2).mean(axis=-2, keepdims=True))
    return centred / np.where(size > 0, size, 1)


def _flipped_skewness(
    centred: Float[np.ndarray, "samples S M"], signs: Float[np.ndarray, "flips S"]
) -> Float[np.ndarray, "samples flips M"]:
    """Sample skewness of samples of unit size with flipped signs."""
    mean = signs @ centred / signs.shape[1]
    cubes = signs @ (centred * centred * centred) / signs.shape[1]
    variance = 1 - mean * mean
    third = cubes - 3 * mean + 2 * mean * mean * mean
    varies = variance > TIE
    variance = np.where(varies, variance, 1)
    return np.where(varies, third / (variance * np.sqrt(variance)), 0)


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
