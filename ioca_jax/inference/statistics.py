"""Curves become statements over seeds. The network is the unit, never the neuron.

A curve is one network's accuracy over the number of neurons ablated. What is said of it
is a mean over networks with an interval, a band that holds for every k at once, or a
test that pairs networks by seed. Neurons of one network share its training and are no
independent sample: a rank correlation over neurons is one number of a network, and such
numbers are tested over seeds.

Sources: P. Hall, "Theoretical comparison of bootstrap confidence intervals", Annals of
Statistics 16 (1988), for the interval; P. H. Westfall and S. S. Young,
"Resampling-Based Multiple Testing" (1993), for the step-down correction; Y. Benjamini
and Y. Hochberg, "Controlling the false discovery rate", JRSS B 57 (1995).

Limits: a network's seed has to be drawn independently of the others'. The band takes
curves for Gaussian, the sign flips take differences for symmetric around the threshold
where it is met. Everything that is random has a fixed seed: the same data give the same
numbers.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Float, Real

ALTERNATIVES = ("two-sided", "greater", "less")

# Numbers held at once where all combinations would be too many: 32 MiB of float64.
_BLOCK = 2**22
# Statistics and shares below are of the order of 1 and right to about 1e-14.
_TIE = 1e-9
# Accuracies are counts / N in float32, right to 6e-8 (and apart by more than 1e-6 for
# fewer than a million examples).
_ACCURACY_TIE = 1e-6
# As a share of the threshold: differences of such accuracies from thresholds of 0.002
# and more.
_THRESHOLD_TIE = 1e-4


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


def normalized_area(
    accuracy: Float[ArrayLike, "*batch points"], chance: float
) -> Float[np.ndarray, "*batch"]:
    """Area under a curve as a share of what the intact network has above chance.

    ``(area - chance) / (intact - chance)``, with ``intact`` the curve's own point 0: 1
    where nothing is lost, 0 where all is. Networks of unequal accuracy compare.

    Args:
        accuracy: float32 [..., K+1]. Points past a shorter scope's end are NaN, the
            same for all leading axes.
        chance: accuracy of a classifier that has learnt nothing, in [0, 1).

    Returns:
        float64 [...]; below 0 where ablated networks do worse than chance, above 1
        where ablation helps; NaN where the intact network is not above chance.
    """
    intact = np.asarray(accuracy, np.float64)[..., 0]
    above = np.where(intact > chance, intact - chance, np.nan)
    return np.asarray((area_under_curve(accuracy) - chance) / above)


def ablated_at_loss(
    accuracy: Float[ArrayLike, "*batch points"],
    points: tuple[float, ...] = (0.01, 0.05, 0.10),
) -> Float[np.ndarray, "*batch losses"]:
    """How many neurons go before so much accuracy has gone.

    The least k with ``accuracy[0] - accuracy[k] >= point``; that the curve may rise
    again does not count. A loss that falls short of its point by 1e-6 or less counts as
    reached: accuracies are counts / N in float32, and 0.98 - 0.97 is not 0.01 there.

    Args:
        accuracy: float32 [..., K+1]; NaN past a shorter scope's end.
        points: losses of accuracy, shares of all examples (0.01 is one percentage
            point), each in (0, 1].

    Returns:
        float64 [..., len(points)], numbers of neurons, whole, in [1, K]; NaN where the
        loss is never reached.

    Raises:
        ValueError: a loss outside (0, 1].
    """
    losses = np.asarray(points, np.float64)
    if not ((losses > 0) & (losses <= 1)).all():
        raise ValueError(
            f"points: expected losses in (0, 1], got {list(points)}; 0.01 is one "
            "percentage point"
        )
    curves = np.asarray(accuracy, np.float64)
    lost = (curves[..., :1] - curves)[..., None, :]
    reached = lost >= losses[:, None] - _ACCURACY_TIE
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), np.nan)


def areas_by_order(
    results: xr.Dataset,
    area: Callable[[np.ndarray], np.ndarray] = area_under_curve,
) -> dict[tuple[str, str, str], Float[np.ndarray, "S clamps"]]:
    """Areas under the accuracy curves, mean over random draws.

    Args:
        results: a run's results, of networks that converged.
        area: of curves [..., K+1].

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
        of_scope = area(curves)
        for ranked, towards in zip(ranked_by, direction, strict=True):
            chosen = (ranked_by == ranked) & (direction == towards)
            name = (str(scope), str(ranked), str(towards))
            areas[name] = of_scope[:, :, chosen].mean(axis=-1)
    return areas


def bootstrap_interval(
    values: Real[ArrayLike, "S *batch"],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Interval for a mean over seeds: the studentised bootstrap (bootstrap-t).

    Networks are drawn again with replacement; the quantiles of
    ``t* = (mean* - mean) / se*`` stand where Student's would, low tail for high end:
    ``[mean - t*_high se, mean - t*_low se]``.

    Studentised, because percentile and BCa intervals take a spread estimated from a few
    networks for the true one. How many of 20,000 nominal 95 % intervals of ten values
    held the mean: of normal values, 94.8 % of these, 89.6 % of BCa's, 89.8 % of
    percentiles; of exponential values, 94.4 %, 88.0 % and 86.3 % (Student's: 90.1 %).

    A resample without spread counts as infinitely far out. Where a quantile is infinite
    for that (three seeds, or values most of which are equal), Student's takes its
    place. Four or five seeds cover, in intervals often several times Student's width.

    Args:
        values: [S, ...], one number of each network, S at least 3.
        confidence: in (0, 1).
        resamples: number of bootstrap samples, the same for all trailing axes.
        seed: of the resampling.

    Returns:
        Low and high end, float64 [...]; of width zero where all values are equal, NaN
        where one is NaN.

    Raises:
        ValueError: fewer than 3 seeds, or a confidence outside (0, 1).
    """
    of_seed = np.asarray(values, np.float64)
    num_seeds, *batch = of_seed.shape
    _check_interval(num_seeds, confidence, "values")
    columns = of_seed.reshape(num_seeds, -1)
    mean, centred, error = _mean_and_error(columns)
    weights = np.random.default_rng(seed).multinomial(
        num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples
    )
    weights = weights / num_seeds
    cut = math.floor((1 - confidence) / 2 * (resamples - 1))
    # asarray: NumPy's quantiles of Student's law are scalars.
    student = scipy.stats.t.ppf((1 + confidence) / 2, num_seeds - 1)
    quantiles = np.empty((2, columns.shape[1]))
    width = max(1, _BLOCK // resamples)
    for start in range(0, columns.shape[1], width):
        part = slice(start, start + width)
        shift = weights @ centred[:, part]
        variance = weights @ centred[:, part] ** 2 - shift**2
        has_spread = variance > _TIE * error[part] ** 2
        resampled_error = np.sqrt(np.where(has_spread, variance, 1) / (num_seeds - 1))
        t = shift / resampled_error
        t = np.where(has_spread, t, np.where(shift > 0, np.inf, -np.inf))
        t.partition([cut, resamples - 1 - cut], axis=0)
        quantiles[:, part] = t[[cut, resamples - 1 - cut]]
    lowest, highest = np.where(
        np.isinf(quantiles), student * np.array([[-1], [1]]), quantiles
    )
    low, high = mean - highest * error, mean - lowest * error
    return low.reshape(batch), high.reshape(batch)


def simultaneous_band(
    curves: Real[ArrayLike, "S *batch points"],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*batch points"], Float[np.ndarray, "*batch points"]]:
    """Band that holds the whole mean curve, every k at once, with that confidence.

    ``mean ± q se``, where q is the quantile of ``max_k |t*_k|`` over samples of S
    Gaussian curves whose covariance over k is the one observed. At one k that is
    Student's interval; over all, q grows with how freely the curve moves along k.

    Limits: curves count as Gaussian. How many of 2,000 nominal 95 % bands held the mean
    curve, for processes of ten correlation lengths and 8, 10 and 20 networks: 95 %,
    96 % and 95 % of Gaussian ones; 91 %, 91 % and 93 % of those with skewness 0.8;
    82 %, 82 % and 85 % of those with skewness 1.8. Differences of paired curves are
    less skewed than curves; where much hangs on it, ``sign_flip_test`` assumes less.

    Args:
        curves: [S, ..., K+1], S at least 3; a band for each of the axes between. Points
            past a shorter scope's end are NaN.
        confidence: in (0, 1).
        resamples: number of Gaussian samples, the same for all axes between.
        seed: of the Gaussian samples.

    Returns:
        Low and high end, float64 [..., K+1]; of width zero where all networks agree,
        NaN where one is NaN; neither takes part in the maximum.

    Raises:
        ValueError: fewer than 3 seeds, or a confidence outside (0, 1).
    """
    of_seed = np.asarray(curves, np.float64)
    num_seeds, *batch = of_seed.shape
    _check_interval(num_seeds, confidence, "curves")
    columns = of_seed.reshape(num_seeds, -1)
    mean, centred, error = _mean_and_error(columns)
    varies = error > 0
    # The scale cancels in t. Of unit spread, no sum of squares underflows.
    unit = np.where(varies, centred, 0) / np.where(varies, error, 1)
    rng = np.random.default_rng(seed)
    largest = np.empty((resamples, math.prod(batch[:-1])))
    width = max(1, _BLOCK // max(1, num_seeds * columns.shape[1]))
    for start in range(0, resamples, width):
        part = largest[start : start + width]
        # Mean and spread of Gaussian samples are independent: one normal vector makes
        # the mean, S-1 more the sum of squares around it.
        normal = rng.standard_normal((len(part), num_seeds, num_seeds))
        drawn = (normal.reshape(-1, num_seeds) @ unit).reshape(
            len(part), num_seeds, columns.shape[1]
        )
        spread = np.einsum("bsk,bsk->bk", drawn[:, 1:], drawn[:, 1:])
        spread = np.sqrt(np.where(varies, spread, 1) / (num_seeds - 1))
        t = np.abs(drawn[:, 0]) / spread
        part[:] = t.reshape(*part.shape, batch[-1]).max(axis=-1, initial=0)
    quantile = np.quantile(largest, confidence, axis=0)
    half_width = error * np.repeat(quantile, batch[-1])
    return (mean - half_width).reshape(batch), (mean + half_width).reshape(batch)


class SignFlipTest(NamedTuple):
    """What ``sign_flip_test`` says of each of M planned comparisons.

    Attributes:
        mean: float64 [M], mean difference over seeds, in the unit of the differences.
        p_value: float64 [M], in (0, 1], each comparison by itself.
        p_corrected: float64 [M], in (0, 1], not below ``p_value``: where it is at most
            alpha is rejected, and any false rejection at all is as rare as alpha.
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
    resamples: int = 2**14 - 1,
    seed: int = 0,
) -> SignFlipTest:
    """Paired test of M planned comparisons: would signs drawn by lot say as much?

    A seed's difference keeps its size and takes a random sign; the statistic is
    ``sum_s d_s / sqrt(sum_s d_s^2)``, free of scale and monotone in Student's t. The
    correction is Westfall and Young's step-down maximum: a comparison is held against
    the largest statistic among those that are no clearer than itself, under flips that
    all comparisons of a seed share, so that what is correlated costs little.

    All 2^S flips where they are at most ``resamples + 1``; otherwise ``resamples``
    random ones, and the observed signs count as one more, so that p is never 0.

    Args:
        differences: [S, M], a network's difference in each planned comparison; S is the
            number of seeds. For other directions in one family, negate columns.
        threshold: what the mean difference is tested against, in its unit. A difference
            within 1e-4 of the threshold's size counts as equal to it: accuracies are
            float32, and all of one sign by rounding would be significant.
        alternative: ``two-sided``, ``greater`` (than the threshold) or ``less``.
        alpha: the level at which the caller means to reject; if given, too few seeds
            for any rejection are an error.
        resamples: number of random flips at most.
        seed: of the random flips.

    Returns:
        Means and p-values, [M] each; a comparison all of whose differences are at the
        threshold has p = 1.

    Raises:
        ValueError: another shape, NaN, an unknown alternative, or fewer seeds than
            ``alpha`` takes.
    """
    observed = np.asarray(differences, np.float64)
    if observed.ndim != 2 or not observed.size:
        raise ValueError(
            f"differences: expected shape [S, M], a row for each seed, got "
            f"{list(observed.shape)}"
        )
    _check_numbers(observed, "differences")
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

    reference = statistic(np.ones((1, num_seeds)))[0]
    clearest_first = np.argsort(-reference, kind="stable")
    exact = 2**num_seeds <= resamples + 1
    num_flips = 2**num_seeds if exact else resamples
    rng = np.random.default_rng(seed)
    alone, together = np.zeros((2, num_comparisons), np.int64)
    width = max(1, _BLOCK // max(num_seeds, num_comparisons))
    for start in range(0, num_flips, width):
        stop = min(start + width, num_flips)
        if exact:
            flips = np.arange(start, stop)[:, None] >> np.arange(num_seeds) & 1
        else:
            flips = rng.integers(0, 2, (stop - start, num_seeds))
        flipped = statistic(1.0 - 2.0 * flips)
        alone += (flipped >= reference - _TIE).sum(axis=0)
        least_first = flipped[:, clearest_first[::-1]]
        largest = np.maximum.accumulate(least_first, axis=1)[:, ::-1]
        together += (largest >= reference[clearest_first] - _TIE).sum(axis=0)
    # Among all flips is the observed one; random ones are given it.
    given = 0 if exact else 1
    corrected = np.empty(num_comparisons)
    corrected[clearest_first] = np.maximum.accumulate(together + given)
    return SignFlipTest(
        mean=observed.mean(axis=0),
        p_value=(alone + given) / (num_flips + given),
        p_corrected=corrected / (num_flips + given),
    )


def seeds_needed(alpha: float, *, two_sided: bool = True) -> int:
    """The fewest seeds with which ``sign_flip_test`` can reject at all.

    The least S with ``2 / 2^S <= alpha``, or ``1 / 2^S`` for one side: among all flips
    are the observed signs (and, for two sides, their opposite), which are as extreme.

    Args:
        alpha: level of the test, in (0, 1).
        two_sided: whether differences of either sign count.

    Returns:
        S, a number of networks; a seed without a difference does not count as one.

    Raises:
        ValueError: a level outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a level in (0, 1), got {alpha}; 0.05 is 5 %")
    return math.ceil(math.log2((2 if two_sided else 1) / alpha))


class IndependentTest(NamedTuple):
    """What ``independent_test`` says of two settings.

    Attributes:
        difference: float64 [...], mean of the first less mean of the second.
        p_value: float64 [...], in (0, 1].
    """

    difference: Float[np.ndarray, "*batch"]
    p_value: Float[np.ndarray, "*batch"]


def independent_test(
    first: Real[ArrayLike, "S1 *batch"],
    second: Real[ArrayLike, "S2 *batch"],
    *,
    alternative: str = "two-sided",
    resamples: int = 2**14 - 1,
    seed: int = 0,
) -> IndependentTest:
    """Permutation test of two settings whose networks are not paired.

    Networks change places between the settings; the statistic is the difference of the
    means (``scipy.stats.permutation_test``). The null hypothesis is that both settings
    have one law, spread included. All divisions into S1 and S2 networks where they are
    at most ``resamples``, random ones otherwise; p is never 0. Two-sided is twice the
    lesser tail.

    Args:
        first: [S1, ...], a number of each network of one setting.
        second: [S2, ...], the same of the other.
        alternative: ``two-sided``, or the first is ``greater`` or ``less``.
        resamples: number of divisions at most.
        seed: of the random divisions.

    Returns:
        Difference and p-value, [...] each, not corrected for their number.

    Raises:
        ValueError: fewer than 2 networks of a setting, NaN, or an unknown alternative.
    """
    samples = [np.asarray(first, np.float64), np.asarray(second, np.float64)]
    for name, sample in zip(("first", "second"), samples, strict=True):
        if len(sample) < 2:
            raise ValueError(
                f"{name}: expected at least 2 networks, got {len(sample)}; train more"
            )
        _check_numbers(sample, name)
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
        batch=max(1, _BLOCK // max(1, pooled.size)),
        alternative=alternative,
        axis=0,
        rng=np.random.default_rng(seed),
    )
    return IndependentTest(np.asarray(difference), np.asarray(tested.pvalue))


def kendall_tau(
    x: Real[ArrayLike, "*#batch H"], y: Real[ArrayLike, "*#batch H"]
) -> Float[np.ndarray, "*batch"]:
    """Kendall's tau-b: do two scores order a network's neurons alike?

    ``(concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)``. Time
    grows with H^2, memory does not.

    Args:
        x: [..., H], a score of each neuron.
        y: [..., H], another; leading axes broadcast.

    Returns:
        float64 [...], in [-1, 1]; NaN where one side is constant or has a NaN.

    Raises:
        ValueError: unequal numbers of neurons.
    """
    scores = _paired_scores(x, y)
    num_neurons = scores[0].shape[-1]
    agreement, untied = np.zeros(()), [np.zeros(()), np.zeros(())]
    height = max(1, _BLOCK // max(1, *(score.size for score in scores)))
    for start in range(0, num_neurons, height):
        part = slice(start, start + height)
        signs = [_pair_signs(score, part) for score in scores]
        # float32 counts the pairs of one neuron exactly, up to 2^24 neurons.
        pairs = np.einsum("...ij,...ij->...i", *signs)
        agreement = agreement + pairs.sum(axis=-1, dtype=np.float64)
        untied = [
            total + np.count_nonzero(sign, axis=(-2, -1))
            for total, sign in zip(untied, signs, strict=True)
        ]
    possible = np.sqrt(untied[0]) * np.sqrt(untied[1])
    tau = agreement / np.where(possible > 0, possible, np.nan)
    return _correlation(tau, *scores)


def spearman(
    x: Real[ArrayLike, "*#batch H"], y: Real[ArrayLike, "*#batch H"]
) -> Float[np.ndarray, "*batch"]:
    """Spearman's rank correlation of two scores over a network's neurons.

    Pearson's correlation of ranks; equal scores share the mean of their ranks.

    Args:
        x: [..., H], a score of each neuron.
        y: [..., H], another; leading axes broadcast.

    Returns:
        float64 [...], in [-1, 1]; NaN where one side is constant or has a NaN.

    Raises:
        ValueError: unequal numbers of neurons.
    """
    scores = _paired_scores(x, y)
    middle = (scores[0].shape[-1] + 1) / 2
    ranks = [scipy.stats.rankdata(score, axis=-1) - middle for score in scores]
    squares = [(rank**2).sum(axis=-1) for rank in ranks]
    possible = np.sqrt(squares[0]) * np.sqrt(squares[1])
    together = np.einsum("...i,...i->...", *ranks)
    rho = together / np.where(possible > 0, possible, np.nan)
    return _correlation(rho, *scores)


def false_discovery(
    p_values: Float[ArrayLike, "*shape"], axis: int = -1
) -> Float[np.ndarray, "*shape"]:
    """Benjamini and Hochberg's adjusted p-values, of those that are there.

    Rejecting where they are at most alpha keeps the expected share of false rejections
    below alpha, for independent or positively dependent tests: for exploring many,
    where ``sign_flip_test`` corrects a planned few.

    Args:
        p_values: [...], in [0, 1]; NaN where there was no test.
        axis: along which tests are one family.

    Returns:
        float64 [...], in [0, 1], not below ``p_values``; NaN stays, and does not count.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    given = np.moveaxis(np.asarray(p_values, np.float64), axis, -1)
    if ((given < 0) | (given > 1)).any():
        raise ValueError(
            "p_values: expected numbers in [0, 1] or NaN, got "
            f"{np.nanmin(given)} to {np.nanmax(given)}; pass p-values, not statistics"
        )
    least_first = np.argsort(given, axis=-1)  # NaN last
    num_tests = (~np.isnan(given)).sum(axis=-1, keepdims=True)
    ranks = np.arange(1, given.shape[-1] + 1)
    scaled = np.take_along_axis(given, least_first, axis=-1) * (num_tests / ranks)
    # fmin: NaN, which come first from the end, do not spread.
    adjusted = np.fmin.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    in_place = np.empty_like(given)
    np.put_along_axis(in_place, least_first, adjusted, axis=-1)
    return np.moveaxis(in_place, -1, axis)


def _check_interval(num_seeds: int, confidence: float, name: str) -> None:
    """Refuses what no interval comes out of."""
    if num_seeds < 3:
        raise ValueError(
            f"{name}: expected at least 3 seeds, got {num_seeds}; train more networks"
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence: expected a number in (0, 1), got {confidence}; 0.95 is 95 %"
        )


def _check_numbers(values: np.ndarray, name: str) -> None:
    """Refuses NaN and infinities."""
    missing = ~np.isfinite(values)
    if missing.any():
        raise ValueError(
            f"{name}: expected finite numbers, got {int(missing.sum())} of "
            f"{values.size} that are not; leave those networks out first"
        )


def _check_alternative(alternative: str) -> None:
    """Refuses what is none of ``ALTERNATIVES``."""
    if alternative not in ALTERNATIVES:
        raise ValueError(
            f"alternative: expected one of {', '.join(ALTERNATIVES)}, got "
            f"{alternative!r}"
        )


def _mean_and_error(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [M], values around it [S, M], standard error [M]; 0 where all are equal."""
    mean = columns.mean(axis=0)
    # A mean of equal floats may differ from them in the last bit.
    mean = np.where((columns == columns[0]).all(axis=0), columns[0], mean)
    centred = columns - mean
    num_seeds = len(columns)
    variance = (centred**2).sum(axis=0) / (num_seeds - 1)
    return mean, centred, np.sqrt(variance / num_seeds)


def _paired_scores(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, one score of each neuron."""
    scores = np.asarray(x), np.asarray(y)
    if scores[0].shape[-1:] != scores[1].shape[-1:]:
        raise ValueError(
            f"y: expected shape [..., {scores[0].shape[-1]}], a score of each neuron "
            f"that x scores, got {list(scores[1].shape)}; score the same neurons"
        )
    return scores


def _pair_signs(score: np.ndarray, part: slice) -> np.ndarray:
    """Whether a neuron of ``part`` is above (1) or below (-1) each, float32."""
    one, other = score[..., part, None], score[..., None, :]
    return (one > other).astype(np.float32) - (one < other).astype(np.float32)


def _correlation(value: ArrayLike, *scores: np.ndarray) -> np.ndarray:
    """``value`` [...] within [-1, 1], NaN where one of the scores [..., H] is."""
    missing = [np.isnan(score).any(axis=-1) for score in scores]
    within = np.clip(value, -1, 1)  # rounding leaves it
    return np.where(missing[0] | missing[1], np.nan, within)
