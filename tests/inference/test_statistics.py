"""Statements over seeds: closed forms, oracles of SciPy and plain loops, calibration.

Calibration is counted over simulated data sets of known truth, with fixed seeds.
"""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ioca_jax as ioca
from ioca_jax.inference import statistics
from ioca_jax.inference.statistics import (
    ALTERNATIVES,
    ablated_at_loss,
    bootstrap_interval,
    false_discovery,
    independent_test,
    kendall_tau,
    normalized_area,
    seeds_needed,
    sign_flip_test,
    simultaneous_band,
    spearman,
)

# Sums of at most 101 float64 numbers below 1: 101 * 1.1e-16.
TOLERANCE = 2e-14


@pytest.mark.parametrize("num_ablated", [1, 2, 100])
def test_closed_forms(num_ablated):
    k = np.arange(num_ablated + 1) / num_ablated
    curves = {
        "constant": (np.full(num_ablated + 1, 0.3), 0.3),
        "linear": (1 - 0.9 * k, 0.55),
        # Right until the last neuron goes; the last of K trapezia is a triangle.
        "cliff": (np.where(k < 1, 1.0, 0.0), 1 - 0.5 / num_ablated),
        "fails at once": (np.where(k > 0, 0.1, 0.1), 0.1),
    }
    for curve, expected in curves.values():
        area = ioca.area_under_curve(curve)
        assert area.shape == ()
        assert area.dtype == np.float64
        np.testing.assert_allclose(area, expected, rtol=0, atol=TOLERANCE)


def test_it_is_numpys_trapezoid():
    curve = np.random.default_rng(0).uniform(size=31)
    expected = np.trapezoid(curve, np.linspace(0, 1, 31))
    area = ioca.area_under_curve(curve)
    np.testing.assert_allclose(area, expected, rtol=0, atol=TOLERANCE)


def test_points_past_the_end_of_a_scope_do_not_count():
    curves = np.random.default_rng(0).uniform(size=(3, 2, 11))
    padded = np.concatenate([curves, np.full((3, 2, 9), np.nan)], axis=-1)
    np.testing.assert_array_equal(
        ioca.area_under_curve(padded), ioca.area_under_curve(curves)
    )
    np.testing.assert_array_equal(
        ioca.area_under_curve(padded[0, 0]), ioca.area_under_curve(curves[0, 0])
    )


def test_leading_axes_are_a_loop():
    curves = np.random.default_rng(0).uniform(size=(3, 2, 11)).astype(np.float32)
    looped = [[ioca.area_under_curve(curve) for curve in seed] for seed in curves]
    areas = ioca.area_under_curve(curves)
    assert areas.shape == (3, 2)
    np.testing.assert_allclose(areas, looped, rtol=0, atol=TOLERANCE)


def test_nothing_ablated_is_the_height_itself():
    # K = 0: a share of neurons has no meaning, the curve is a point.
    np.testing.assert_array_equal(ioca.area_under_curve(np.array([0.7])), 0.7)
    padded = np.array([[0.7, np.nan], [0.2, np.nan]])
    np.testing.assert_array_equal(ioca.area_under_curve(padded), [0.7, 0.2])


def test_a_curve_that_is_nan_has_no_area():
    assert np.isnan(ioca.area_under_curve(np.full(5, np.nan)))
    # A network whose curve is missing does not shorten the others'.
    curves = np.array([[1, 0.5, 0], [np.nan] * 3])
    np.testing.assert_array_equal(ioca.area_under_curve(curves), [0.5, np.nan])
    half = np.array([[1, 0.5, 0], [1, np.nan, np.nan]])
    np.testing.assert_array_equal(ioca.area_under_curve(half), [0.5, np.nan])


@pytest.mark.parametrize("chance", [0.1, 0.25])
def test_normalized_area_closed_forms(chance):
    intact = chance + 0.6
    share = np.arange(11) / 10
    curves = np.stack(
        [
            np.full(11, intact),
            np.full(11, chance),
            intact - 0.6 * share,
            intact - 1.2 * share,
        ]
    )
    # The curve of chance throughout has nothing to lose.
    expected = [1, np.nan, 0.5, 0]
    area = normalized_area(curves, chance)
    assert area.dtype == np.float64
    np.testing.assert_allclose(area, expected, rtol=0, atol=TOLERANCE)
    padded = np.pad(curves, ((0, 0), (0, 3)), constant_values=np.nan)
    np.testing.assert_array_equal(normalized_area(padded, chance), area)
    # From the intact network's point on at chance: half of the first trapezium is left.
    at_once = np.where(share > 0, chance, intact)
    np.testing.assert_allclose(
        normalized_area(at_once, chance), 0.05, rtol=0, atol=TOLERANCE
    )
    assert np.isnan(normalized_area(curves - 0.7, chance)).all()


def test_neurons_ablated_at_a_loss():
    curves = np.array(
        [
            [0.98, 0.975, 0.97, 0.93, 0.99, 0.10],
            [0.98, 0.90, 0.98, 0.98, np.nan, np.nan],
            [0.50, 0.60, 0.70, 0.80, 0.90, 1.00],
            [np.nan] * 6,
        ]
    )
    expected = [[2, 3, 5], [1, 1, np.nan], [np.nan] * 3, [np.nan] * 3]
    neurons = ablated_at_loss(curves)
    assert neurons.dtype == np.float64
    np.testing.assert_array_equal(neurons, expected)
    np.testing.assert_array_equal(ablated_at_loss(curves[0]), expected[0])
    np.testing.assert_array_equal(
        ablated_at_loss(curves.reshape(2, 2, 6), (0.05, 0.04)),
        np.array([[3, 3], [1, 1], [np.nan] * 2, [np.nan] * 2]).reshape(2, 2, 2),
    )


def test_a_loss_of_just_so_many_examples_is_reached():
    # Every accuracy of 10,000 examples; each loses 100 of them, and one fewer before.
    intact = np.arange(100, 10_001)
    counts = np.stack([intact, intact - 99, intact - 100], axis=-1)
    accuracy = counts.astype(np.float32) / np.float32(10_000)
    # As floats are, most fall short of it.
    assert (accuracy[:, 0] - accuracy[:, 2] < 0.01).mean() > 0.1
    np.testing.assert_array_equal(ablated_at_loss(accuracy, (0.01,)), 2)


@pytest.mark.parametrize("point", [0.0, -0.01, 1.5, np.nan])
def test_a_loss_that_is_none_is_refused(point):
    with pytest.raises(ValueError, match=r"^points: expected losses in \(0, 1\], got"):
        ablated_at_loss(np.ones(3), (0.01, point))


def binomial_tolerance(share: float, *sizes: int) -> float:
    """Three standard errors of a share counted over so many independent samples.

    Several sizes: each is a source of error of its own (data sets; shared resamples).
    """
    return 3 * np.sqrt(share * (1 - share) * sum(1 / size for size in sizes))


def t_of_all_resamples(values: np.ndarray) -> np.ndarray:
    """Student's t of the S^S resamples around their mean, one by one; sorted."""
    t = []
    for resample in itertools.product(values, repeat=len(values)):
        shift, spread = np.mean(resample) - values.mean(), np.std(resample, ddof=1)
        if len(set(resample)) == 1:
            t.append(np.copysign(np.inf, shift))
        else:
            t.append(np.sqrt(len(values)) * shift / spread)
    return np.sort(t)


@pytest.mark.parametrize("seed", range(3))
def test_interval_is_that_of_all_resamples(seed):
    values = np.random.default_rng(seed).gamma(2, size=5)
    low, high = bootstrap_interval(values, resamples=100_000)
    t = t_of_all_resamples(values)
    # Where 2.5 % of 100,000 random resamples end among all 3,125, to four standard
    # errors: 0.2 %. Both are often the same of the 126 values of t.
    error = scipy.stats.sem(values)
    outer, inner = (
        values.mean() - t[[-1 - rank, rank]] * error
        for rank in (round(0.023 * len(t)), round(0.027 * len(t)))
    )
    assert outer[0] - 1e-9 <= low <= inner[0] + 1e-9
    assert inner[1] - 1e-9 <= high <= outer[1] + 1e-9


def student_interval(values: np.ndarray, confidence: float) -> np.ndarray:
    """Low and high end of Student's interval, pointwise over trailing axes."""
    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    half = half * scipy.stats.sem(values)
    return np.stack([values.mean(axis=0) - half, values.mean(axis=0) + half])


def share_covered(ends, mean: float) -> float:
    return ((ends[0] <= mean) & (mean <= ends[1])).mean()


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_covers_the_mean_of_ten_networks(confidence):
    values = np.random.default_rng(0).normal(3, 1e-3, size=(10, 2000))
    covered = share_covered(
        bootstrap_interval(values, confidence=confidence, resamples=2000), 3
    )
    tolerance = binomial_tolerance(confidence, 2000, 2000)
    assert abs(covered - confidence) < tolerance
    # The percentile interval would not pass.
    plain = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=500,
        method="percentile",
        batch=50,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert share_covered(plain, 3) < confidence - tolerance


def test_interval_of_skewed_values_beats_students():
    values = np.random.default_rng(0).exponential(size=(10, 2000))
    covered = share_covered(bootstrap_interval(values, resamples=2000), 1)
    students = share_covered(student_interval(values, 0.95), 1)
    # Of the same samples; Student's is known to be low here (0.90).
    assert students < 0.95 - binomial_tolerance(0.95, 2000)
    assert students + 0.02 < covered < 0.95 + binomial_tolerance(0.95, 2000)


@given(
    values=hnp.arrays(np.float64, (6, 2), elements=st.floats(-1, 1, width=16)),
    scale=st.sampled_from([-3.0, 0.25, 2.0]),
)
@settings(max_examples=25)
def test_interval_moves_with_its_values(values, scale):
    low, high = bootstrap_interval(values, resamples=200)
    assert (low <= high).all()
    moved = bootstrap_interval(scale * values + 5, resamples=200)
    expected = np.sort([scale * low + 5, scale * high + 5], axis=0)
    # Rounding of 5 + x, seen through t*, whose resampled error may be small.
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)


def test_interval_of_trailing_axes_is_a_loop(monkeypatch):
    values = np.random.default_rng(0).normal(size=(8, 3, 5))
    whole = bootstrap_interval(values)
    assert whole[0].shape == whole[1].shape == (3, 5)
    monkeypatch.setattr(statistics, "_BLOCK", 40_000)  # four columns at once
    np.testing.assert_allclose(bootstrap_interval(values), whole, rtol=1e-12)
    one = bootstrap_interval(values[:, 1, 2])
    assert one[0].shape == ()
    np.testing.assert_allclose(one, [end[1, 2] for end in whole], rtol=1e-12)
    np.testing.assert_array_equal(
        bootstrap_interval(values), bootstrap_interval(values)
    )
    assert (bootstrap_interval(values, seed=1)[0] != whole[0]).any()


def test_interval_of_equal_few_and_missing_values():
    # 0.1 + 0.1 + ... is not 10 * 0.1.
    for end in bootstrap_interval(np.full((10, 2), 0.1)):
        np.testing.assert_array_equal(end, 0.1)
    values = np.array([[1, 1], [2, np.nan], [4, 3]])
    low, high = bootstrap_interval(values)
    np.testing.assert_array_equal(np.isnan([low, high]), [[False, True]] * 2)
    # One in nine of three networks' resamples has no spread: Student's interval.
    np.testing.assert_allclose(
        (low[0], high[0]), student_interval(values[:, 0], 0.95), rtol=1e-12
    )
    # So has a third of those of nine that agree and one below: no resample far above
    # the mean has spread, so that Student's is the low end.
    tied = np.append(np.ones(9), 0.5)
    low, high = bootstrap_interval(tied)
    np.testing.assert_allclose(low, student_interval(tied, 0.95)[0], rtol=1e-12)
    assert high > tied.mean()


@pytest.mark.parametrize("interval", [bootstrap_interval, simultaneous_band])
def test_intervals_refuse_too_few_seeds_and_no_confidence(interval):
    with pytest.raises(
        ValueError, match=r"expected at least 3 seeds, got 2; train more networks$"
    ):
        interval(np.ones((2, 4)))
    with pytest.raises(
        ValueError, match=r"^confidence: expected a number in \(0, 1\), got 95.0; 0.95"
    ):
        interval(np.ones((3, 4)), confidence=95.0)


def smooth_curves(
    num_seeds: int, num_sets: int, num_points: int, skew: float
) -> tuple[np.ndarray, float]:
    """Curves [S, sets, K+1] of a squared-exponential Gaussian process, and their mean.

    Ten correlation lengths make the axis. Skewed: its exponential.
    """
    k = np.linspace(0, 1, num_points)
    covariance = np.exp(-0.5 * ((k[:, None] - k) / 0.1) ** 2)
    factor = np.linalg.cholesky(covariance + 1e-9 * np.eye(num_points))
    rng = np.random.default_rng(num_seeds)
    curves = rng.standard_normal((num_seeds, num_sets, num_points)) @ factor.T
    # Each point has its own spread.
    curves = curves * (0.5 + k)
    if skew:
        return np.exp(skew * curves / (0.5 + k)), np.exp(skew**2 / 2)
    return curves, 0.0


@pytest.mark.parametrize(
    ("num_seeds", "num_points", "skew"),
    [(8, 201, 0), (10, 101, 0), (20, 51, 0), (10, 101, 0.25)],
)
def test_band_covers_the_whole_mean_curve(num_seeds, num_points, skew):
    # 0.9 rather than 0.95: too wide a band shows, too.
    confidence, num_sets, resamples = 0.9, 600, 1500
    curves, mean = smooth_curves(num_seeds, num_sets, num_points, skew)
    low, high = simultaneous_band(curves, confidence=confidence, resamples=resamples)
    covered = ((low <= mean) & (mean <= high)).all(axis=-1).mean()
    tolerance = binomial_tolerance(confidence, num_sets, resamples)
    # Skewed curves (skewness 0.8) are known to be covered less often, by 0.04 to 0.05.
    known = 0.045 if skew else 0
    assert abs(covered - (confidence - known)) < tolerance
    # Pointwise intervals hold each point that often, and all of them far less often.
    low, high = student_interval(curves, confidence)
    pointwise = (low <= mean) & (mean <= high)
    assert abs(pointwise.mean() - confidence) < 0.03
    assert pointwise.all(axis=-1).mean() < confidence - known - 5 * tolerance
    # Bonferroni's would be right for K + 1 independent points; here it is too wide.
    low, high = student_interval(curves, 1 - (1 - confidence) / num_points)
    assert ((low <= mean) & (mean <= high)).all(axis=-1).mean() > covered + 0.03


def test_band_of_one_point_is_students_interval():
    curves = np.random.default_rng(0).normal(3, 2, size=(10, 1))
    low, high = simultaneous_band(curves, resamples=100_000)
    # The 95 % quantile of 100,000 |t|, to three standard errors: each is
    # sqrt(0.95 * 0.05 / 100,000) over the density there, 0.45 % of the quantile.
    expected = np.diff(student_interval(curves, 0.95), axis=0)[0]
    np.testing.assert_allclose(high - low, expected, rtol=0.0135)
    np.testing.assert_allclose((high + low) / 2, curves.mean(axis=0), rtol=1e-12)
    # Points that are copies of one another, of whatever scale, are one point.
    copies = simultaneous_band(curves * [1, -20, 1e-3], resamples=100_000)
    np.testing.assert_allclose((copies[1] - copies[0]), (high - low) * [1, 20, 1e-3])


def test_band_without_spread_and_past_the_end_of_a_scope():
    rng = np.random.default_rng(0)
    curves = rng.normal(size=(8, 20))
    expected = simultaneous_band(curves)
    padded = np.concatenate(
        [np.full((8, 1), 0.1), curves, np.full((8, 3), np.nan)], axis=1
    )
    for end, of_curves in zip(simultaneous_band(padded), expected, strict=True):
        assert end.shape == (24,)
        assert end[0] == 0.1
        np.testing.assert_allclose(end[1:-3], of_curves, rtol=1e-12)
        assert np.isnan(end[-3:]).all()
    for end in simultaneous_band(np.full((8, 4), 0.1)):
        np.testing.assert_array_equal(end, 0.1)


def test_band_of_axes_between_is_a_loop(monkeypatch):
    curves = np.random.default_rng(0).normal(size=(8, 2, 3, 20))
    whole = simultaneous_band(curves)
    assert whole[0].shape == whole[1].shape == (2, 3, 20)
    one = simultaneous_band(curves[:, 1, 2])
    np.testing.assert_allclose(one, [end[1, 2] for end in whole], rtol=1e-9)
    monkeypatch.setattr(statistics, "_BLOCK", 8 * 120 * 999)  # 999 samples at once
    np.testing.assert_allclose(simultaneous_band(curves), whole, rtol=1e-9)
    assert (simultaneous_band(curves, seed=1)[0] != whole[0]).all()


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_sign_flips_agree_with_scipy(alternative):
    differences = np.random.default_rng(0).normal(0.4, 1, size=(9, 6))
    # Whole numbers: many flips tie with the observed signs.
    differences[:, 3:] = np.round(differences[:, 3:])
    differences[:, 5] /= 10
    bound = np.array([0, 0.1, -0.3, 0, 1, 0.1])
    tested = sign_flip_test(differences, threshold=bound, alternative=alternative)
    expected = scipy.stats.permutation_test(
        (np.round(differences - bound, 12),),
        # Rounded: sums that tie are equal.
        lambda d, axis: np.round(d.sum(axis=axis), 9),
        permutation_type="samples",
        n_resamples=2**9,  # all
        vectorized=True,
        alternative=alternative,
    ).pvalue
    np.testing.assert_allclose(tested.p_value, expected, rtol=1e-12)
    np.testing.assert_allclose(tested.mean, differences.mean(axis=0), rtol=1e-12)


def step_down(differences: np.ndarray, alternative: str) -> np.ndarray:
    """Westfall and Young's corrected p-values of Student's t, one by one."""

    def t_values(signed: np.ndarray) -> np.ndarray:
        t = signed.mean(axis=0) / scipy.stats.sem(signed)
        return {"two-sided": abs(t), "greater": t, "less": -t}[alternative]

    observed = t_values(differences)
    flips = list(itertools.product([-1, 1], repeat=len(differences)))
    of_flip = [t_values(differences * np.array(flip)[:, None]) for flip in flips]
    corrected, least = np.empty(len(observed)), 0.0
    remaining = list(range(len(observed)))
    while remaining:
        clearest = max(remaining, key=lambda comparison: observed[comparison])
        count = sum(
            max(t[other] for other in remaining) >= observed[clearest] - 1e-9
            for t in of_flip
        )
        corrected[clearest] = least = max(least, count / len(flips))
        remaining.remove(clearest)
    return corrected


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_step_down_agrees_with_a_plain_loop(alternative):
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(7, 1))
    effects = np.array([3, 0, 1.5, 0, -2])
    differences = shared + rng.normal(effects, 1, size=(7, 5))
    tested = sign_flip_test(differences, alternative=alternative)
    expected = step_down(differences, alternative)
    np.testing.assert_allclose(tested.p_corrected, expected, rtol=1e-12)
    # Not a formality.
    assert (tested.p_corrected > tested.p_value + 0.01).any()


NULLS = ("correlated", "heavy-tailed", "half are effects")


@pytest.mark.parametrize("law", NULLS)
def test_family_wise_error_is_as_rare_as_promised(law):
    num_sets, alpha = 600, 0.05
    rng = np.random.default_rng(0)
    false_alarms = uncorrected = bonferroni = 0
    for _ in range(num_sets):
        differences = rng.normal(size=(10, 1)) + 0.5 * rng.normal(size=(10, 20))
        if law == "heavy-tailed":
            # Student's law with one degree of freedom has not even a mean.
            differences = differences / np.abs(rng.normal(size=(10, 1)))
        is_null = np.ones(20, bool)
        if law == "half are effects":
            is_null[::2] = False
            differences[:, ::2] += 20
        tested = sign_flip_test(differences * 10.0 ** np.arange(-10, 10))
        assert (tested.p_corrected[~is_null] <= alpha).all()
        false_alarms += (tested.p_corrected[is_null] <= alpha).any()
        uncorrected += (tested.p_value[is_null] <= alpha).any()
        bonferroni += (20 * tested.p_value[is_null] <= alpha).any()
    # Not just below: flips shared by all comparisons make it exact, up to the 1,024
    # flips (50 of them are 0.0488).
    tolerance = binomial_tolerance(alpha, num_sets)
    assert abs(false_alarms / num_sets - alpha) < tolerance
    assert uncorrected / num_sets > alpha + tolerance
    # Of the same data sets: what treats flips of comparisons as unrelated loses power.
    assert bonferroni < 0.7 * false_alarms


def test_clear_effects_are_found_and_holm_is_no_stronger():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(10, 1)) + 0.5 * rng.normal(size=(10, 20))
    differences[:, :5] += 4
    tested = sign_flip_test(differences, alpha=0.05)
    assert (tested.p_corrected[:5] == 2 / 1024).all()
    assert (tested.p_corrected[5:] > 0.05).all()
    order = np.argsort(tested.p_value)
    holm = np.empty(20)
    holm[order] = np.maximum.accumulate(tested.p_value[order] * np.arange(20, 0, -1))
    assert (tested.p_corrected <= holm).all()
    # Ten seeds and twenty comparisons: Bonferroni's least p is 20 * 2 / 1,024.
    assert (tested.p_corrected[:5] < holm[:5] / 10).all()


def test_random_flips_estimate_all_flips():
    differences = np.random.default_rng(0).normal(0.3, 1, size=(14, 6))
    differences[:, 5] = 1
    exact = sign_flip_test(differences)
    resamples = 4000
    drawn = sign_flip_test(differences, resamples=resamples)
    for p, estimate in (
        (exact.p_value, drawn.p_value),
        (exact.p_corrected, drawn.p_corrected),
    ):
        # Four standard errors, and one count for the observed signs.
        error = 4 * np.sqrt(p * (1 - p) / resamples) + 1 / resamples
        assert (np.abs(estimate - p) < error).all()
    assert exact.p_value[5] == 2 / 2**14
    one_sided = sign_flip_test(differences[:, 5:], resamples=99, alternative="greater")
    np.testing.assert_array_equal(one_sided.p_value, 0.01)
    again = sign_flip_test(differences, resamples=resamples)
    np.testing.assert_array_equal(again.p_value, drawn.p_value)
    other = sign_flip_test(differences, resamples=resamples, seed=1)
    assert (other.p_value != drawn.p_value).any()


@pytest.mark.parametrize("num_seeds", [12, 20])
def test_flips_in_blocks_are_the_same(num_seeds, monkeypatch):
    differences = np.random.default_rng(0).normal(0.3, 1, size=(num_seeds, 6))
    whole = sign_flip_test(differences, resamples=5000)
    monkeypatch.setattr(statistics, "_BLOCK", 20 * 999)
    blocked = sign_flip_test(differences, resamples=5000)
    np.testing.assert_array_equal(blocked.p_value, whole.p_value)
    np.testing.assert_array_equal(blocked.p_corrected, whole.p_corrected)


def test_differences_at_the_threshold_say_nothing():
    # Accuracies in float32: the difference of 0.98 and 0.96 is not quite 0.02, and all
    # ten deviate to the same side.
    accuracy = np.array([0.98, 0.96], np.float32)
    difference = np.float64(accuracy[0] - accuracy[1])
    assert difference != 0.02
    differences = np.stack([np.full(10, difference), np.full(10, 0.03)], axis=1)
    for alternative in ALTERNATIVES:
        tested = sign_flip_test(differences, threshold=0.02, alternative=alternative)
        assert tested.p_value[0] == tested.p_corrected[0] == 1
    tested = sign_flip_test(np.zeros((10, 3)))
    np.testing.assert_array_equal(tested.p_value, 1)
    np.testing.assert_array_equal(tested.p_corrected, 1)


@given(
    differences=hnp.arrays(np.float64, (6, 4), elements=st.integers(-4, 4)),
    alternative=st.sampled_from(ALTERNATIVES),
)
@settings(max_examples=50)
def test_sign_flip_invariants(differences, alternative):
    tested = sign_flip_test(differences, alternative=alternative)
    assert (tested.p_value >= 1 / 64).all()
    assert (tested.p_corrected >= tested.p_value).all()
    assert (tested.p_corrected <= 1).all()
    # The scale of a comparison and the orders of comparisons and seeds mean nothing.
    order = [2, 0, 3, 1]
    moved = sign_flip_test(
        (differences * [1e-5, 3, 0.1, 1e9])[::-1, order], alternative=alternative
    )
    np.testing.assert_array_equal(moved.p_value, tested.p_value[order])
    np.testing.assert_array_equal(moved.p_corrected, tested.p_corrected[order])
    mirrored = {"two-sided": "two-sided", "greater": "less", "less": "greater"}
    mirror = sign_flip_test(-differences, alternative=mirrored[alternative])
    np.testing.assert_array_equal(mirror.p_corrected, tested.p_corrected)
    # One comparison is a family that needs no correction.
    alone = sign_flip_test(differences[:, :1], alternative=alternative)
    np.testing.assert_array_equal(alone.p_corrected, tested.p_value[:1])


@pytest.mark.parametrize(
    ("alpha", "both_sides", "one_side"),
    [(0.5, 2, 1), (0.05, 6, 5), (0.0625, 5, 4), (0.0624, 6, 5), (0.01, 8, 7)],
)
def test_seeds_needed_are_enough_and_fewer_are_not(alpha, both_sides, one_side):
    for alternative, needed in (("two-sided", both_sides), ("greater", one_side)):
        assert seeds_needed(alpha, two_sided=alternative == "two-sided") == needed
        clear = np.ones((needed, 3))
        tested = sign_flip_test(clear, alternative=alternative, alpha=alpha)
        assert (tested.p_corrected <= alpha).all()
        fewer = (
            sign_flip_test(clear[:-1], alternative=alternative) if needed > 1 else None
        )
        assert fewer is None or (fewer.p_value > alpha).all()


def test_what_cannot_be_tested_is_refused(unchecked_shapes):
    with pytest.raises(
        ValueError,
        match=r"^differences: expected at least 6 seeds, with fewer no outcome is "
        r"significant at alpha = 0.05 \(two-sided\), got 5; train more networks$",
    ):
        sign_flip_test(np.ones((5, 2)), alpha=0.05)
    with pytest.raises(
        ValueError, match=r"^alpha: expected a level in \(0, 1\), got 5.0;"
    ):
        sign_flip_test(np.ones((5, 2)), alpha=5.0)
    with pytest.raises(
        ValueError, match=r"^differences: expected finite numbers, got 1 of 4 that"
    ):
        sign_flip_test(np.array([[1, 2], [3, np.nan]]))
    for shape in ((5,), (5, 2, 2), (0, 2)):
        with pytest.raises(
            ValueError, match=r"^differences: expected shape \[S, M\], a row for each"
        ):
            sign_flip_test(np.ones(shape))
    for test in (
        lambda alternative: sign_flip_test(np.ones((5, 2)), alternative=alternative),
        lambda alternative: independent_test(
            np.ones(5), np.ones(5), alternative=alternative
        ),
    ):
        with pytest.raises(
            ValueError,
            match=r"^alternative: expected one of two-sided, .*, less, got 'above'$",
        ):
            test("above")
    with pytest.raises(
        ValueError, match=r"^second: expected at least 2 networks, got 1"
    ):
        independent_test(np.ones(5), np.ones(1))
    with pytest.raises(
        ValueError, match=r"^first: expected finite numbers, got 1 of 2"
    ):
        independent_test(np.array([1, np.nan]), np.ones(2))
    for correlation in (kendall_tau, spearman):
        with pytest.raises(
            ValueError, match=r"^y: expected shape \[..., 4\], a score of each neuron"
        ):
            correlation(np.ones((2, 4)), np.ones((2, 1)))
    with pytest.raises(
        ValueError,
        match=r"^p_values: expected numbers in \[0, 1\] or NaN, got 0.1 to 3",
    ):
        false_discovery(np.array([0.1, np.nan, 3]))


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_unpaired_settings_agree_with_every_division(alternative):
    rng = np.random.default_rng(0)
    # Accuracies with ties: far from zero, close to one another; some of equal means.
    first, second = rng.integers(-3, 4, (5, 2000)), rng.integers(-3, 4, (6, 2000))
    is_level = first.mean(axis=0) == second.mean(axis=0)
    is_level[:10] = True
    first, second = 0.97 + first[:, is_level] / 1000, 0.97 + second[:, is_level] / 1000
    tested = independent_test(first, second, alternative=alternative)
    np.testing.assert_allclose(
        tested.difference, first.mean(axis=0) - second.mean(axis=0), rtol=0, atol=1e-15
    )
    pooled = np.round(np.concatenate([first, second]), 3)
    sums = np.stack(
        [
            pooled[list(chosen)].sum(axis=0)
            for chosen in itertools.combinations(range(11), 5)
        ]
    )
    # Of eleven networks' sums those of the first five tell the difference of means.
    greater = (sums >= sums[0] - 1e-9).mean(axis=0)
    less = (sums <= sums[0] + 1e-9).mean(axis=0)
    both = np.minimum(2 * np.minimum(greater, less), 1)
    expected = {"two-sided": both, "greater": greater, "less": less}[alternative]
    np.testing.assert_allclose(tested.p_value, expected, rtol=1e-12)


def test_unpaired_settings_by_random_divisions():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(9, 2)), rng.normal([0.5, 9], size=(9, 2))
    exact = independent_test(first, second, resamples=50_000)
    drawn = independent_test(first, second, resamples=3000)
    # Twice a tail: twice its standard error, four of them, and the observed division.
    p = exact.p_value
    tolerance = 8 * np.sqrt(p / 2 / 3000) + 2 / 3000
    assert (np.abs(drawn.p_value - p) < tolerance).all()
    assert drawn.p_value[1] == 2 / 3001
    np.testing.assert_array_equal(
        independent_test(first, second, resamples=3000).p_value, drawn.p_value
    )
    alike = independent_test(np.full(5, 0.1), np.full(6, 0.1))
    assert alike.p_value == 1
    assert alike.p_value.shape == alike.difference.shape == ()


CORRELATIONS = {
    "kendall_tau": (kendall_tau, scipy.stats.kendalltau),
    "spearman": (spearman, scipy.stats.spearmanr),
}


@pytest.mark.parametrize("num_values", [3, 10, None])
@pytest.mark.parametrize("num_neurons", [2, 3, 50, 301])
@pytest.mark.parametrize("name", CORRELATIONS)
def test_rank_correlations_agree_with_scipy(name, num_neurons, num_values, monkeypatch):
    monkeypatch.setattr(
        statistics, "_BLOCK", 30_000
    )  # blocks of neurons that end early
    correlation, oracle = CORRELATIONS[name]
    rng = np.random.default_rng(num_neurons)
    shared = rng.normal(size=num_neurons)
    x = rng.normal(size=(2, 1, num_neurons)) + shared
    y = rng.normal(size=(3, num_neurons)) - shared
    if num_values:
        x, y = np.floor(num_values * x), np.floor(num_values * y / 4)
    measured = correlation(x, y)
    assert measured.shape == (2, 3)
    assert measured.dtype == np.float64
    for i, j in np.ndindex(2, 3):
        is_constant = np.ptp(x[i, 0]) == 0 or np.ptp(y[j]) == 0
        expected = np.nan if is_constant else oracle(x[i, 0], y[j]).statistic
        # Counts are exact; SciPy's ranks correlate in float64.
        np.testing.assert_allclose(measured[i, j], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_rank_correlations_see_order_alone(name):
    correlation, _ = CORRELATIONS[name]
    x = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    np.testing.assert_allclose(correlation(x, x), 1, rtol=1e-15)
    np.testing.assert_allclose(correlation(x, -np.exp(x)), -1, rtol=1e-15)
    assert correlation(x[0], x[1]).shape == ()
    np.testing.assert_array_equal(correlation(x[0], x[1]), correlation(x, x[1])[0])
    np.testing.assert_array_equal(correlation(x[0], x[1]), correlation(x[1], x[0]))
    ranks = np.argsort(np.argsort(x, axis=-1), axis=-1)
    np.testing.assert_array_equal(correlation(ranks, ranks[0]), correlation(x, x[0]))


@pytest.mark.parametrize("name", CORRELATIONS)
def test_rank_correlations_with_nothing_to_order_are_nan(name):
    correlation, _ = CORRELATIONS[name]
    x = np.arange(12.0).reshape(2, 6)
    assert np.isnan(correlation(x, np.full(6, 0.1))).all()
    assert np.isnan(correlation(x[:, :1], x[:, :1])).all()
    missing = np.where(x == 3, np.nan, x)
    np.testing.assert_array_equal(np.isnan(correlation(missing, x)), [True, False])
    np.testing.assert_array_equal(np.isnan(correlation(x, missing)), [True, False])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_false_discovery_is_scipys_of_what_is_there(axis):
    rng = np.random.default_rng(0)
    p = np.round(rng.uniform(size=(7, 5, 9)) ** 2, 2)  # with ties, zeros among them
    p[rng.uniform(size=p.shape) < 0.2] = np.nan
    p[:, :, 2] = p[:, 2] = p[2] = np.nan  # families of none
    adjusted = false_discovery(p, axis=axis)
    assert adjusted.shape == p.shape

    def by_scipy(family: np.ndarray) -> np.ndarray:
        expected, there = family.copy(), ~np.isnan(family)
        if there.any():
            expected[there] = scipy.stats.false_discovery_control(family[there])
        return expected

    expected = np.apply_along_axis(by_scipy, axis, p)
    np.testing.assert_allclose(adjusted, expected, rtol=1e-12)
    np.testing.assert_array_equal(false_discovery(p[0, 0]), by_scipy(p[0, 0]))
