"""Intervals, bands, rank correlations: closed forms, SciPy, coverage by simulation.

Coverage is counted over simulated data sets with a fixed seed.
"""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import binomial_tolerance

from ioca_jax.inference import statistics
from ioca_jax.inference.comparisons import sign_flip_test
from ioca_jax.inference.statistics import (
    correlation_interval,
    false_discovery,
    family_skewness,
    kendall_step,
    kendall_tau,
    mean_interval,
    significant,
    simultaneous_band,
    spearman,
    spearman_step,
)


def student_interval(values: np.ndarray, confidence: float) -> np.ndarray:
    """Low and high end of Student's interval, pointwise over trailing axes."""
    half = scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    half = half * scipy.stats.sem(values)
    return np.stack([values.mean(axis=0) - half, values.mean(axis=0) + half])


def share_covered(ends, mean: float) -> float:
    return ((ends[0] <= mean) & (mean <= ends[1])).mean()


def p_of_all_flips(values: np.ndarray) -> float:
    """Two-sided sign-flip p-value of tenths, in whole numbers."""
    tenths = np.round(10 * values).astype(int)
    signs = np.array(list(itertools.product([-1, 1], repeat=len(tenths))))
    return (abs(signs @ tenths) >= abs(tenths.sum())).mean()


@given(
    tenths=st.lists(st.integers(-3, 9), min_size=6, max_size=12),
    confidence=st.sampled_from([0.8, 0.95]),
)
@settings(max_examples=60)
def test_interval_excludes_zero_where_the_sign_flip_test_rejects(tenths, confidence):
    values = np.array(tenths) / 10
    low, high = mean_interval(values, confidence=confidence)
    assert (low > 0 or high < 0) == (p_of_all_flips(values) <= 1 - confidence)
    assert values.min() <= low <= values.mean() + 1e-15
    assert values.mean() - 1e-15 <= high <= values.max()
    np.testing.assert_array_equal(
        mean_interval(-values, confidence=confidence), (-high, -low)
    )


@pytest.mark.parametrize("num_seeds", [6, 8, 11])
def test_interval_ends_are_means_of_subsets(num_seeds):
    values = np.random.default_rng(num_seeds).exponential(size=num_seeds)
    means = [
        np.mean(subset)
        for size in range(1, num_seeds + 1)
        for subset in itertools.combinations(values, size)
    ]
    rank = int(0.025 * 2**num_seeds)
    expected = np.sort(means)[[rank - 1, -rank]]
    np.testing.assert_allclose(mean_interval(values), expected, rtol=1e-12)


@pytest.mark.parametrize("num_seeds", [15, 30])
def test_interval_of_many_networks_agrees_with_random_flips(num_seeds):
    rng = np.random.default_rng(0)
    values = rng.normal(rng.uniform(0.3, 0.7, 400), 1, size=(num_seeds, 400))
    values[:, 200:] = np.round(values[:, 200:] * 5) / 10
    low, high = mean_interval(values)
    rejected = sign_flip_test(values).p_value <= 0.05
    assert 0.2 < rejected.mean() < 0.98
    np.testing.assert_array_equal((low > 0) | (high < 0), rejected)
    # Nearly Student's, of which the random flips are not aware.
    ends = student_interval(values[:, :200], 0.95)
    np.testing.assert_allclose(low[:200], ends[0], atol=0.15)
    np.testing.assert_allclose(high[:200], ends[1], atol=0.15)


@pytest.mark.parametrize(
    ("law", "least"), [("normal", 0.94), ("t3", 0.94), ("exponential", 0.9)]
)
def test_interval_covers_the_mean_of_ten_networks(law, least):
    """Counted of 2,000 sets; skewed values are covered less often."""
    rng = np.random.default_rng(0)
    draw = {"normal": rng.normal, "t3": rng.standard_t, "exponential": rng.exponential}
    values = draw[law](3, size=(10, 2000))
    mean = 0 if law == "t3" else 3
    covered = share_covered(mean_interval(values), mean)
    assert least < covered < 0.95 + binomial_tolerance(0.95, 2000)


def test_interval_of_trailing_axes_is_a_loop(monkeypatch):
    values = np.random.default_rng(0).normal(size=(8, 3, 5))
    whole = mean_interval(values)
    assert whole[0].shape == whole[1].shape == (3, 5)
    monkeypatch.setattr(statistics, "BLOCK", 1000)  # three columns at once
    np.testing.assert_allclose(mean_interval(values), whole, rtol=1e-12)
    one = mean_interval(values[:, 1, 2])
    assert one[0].shape == ()
    np.testing.assert_allclose(one, [end[1, 2] for end in whole], rtol=1e-12)
    assert mean_interval(values[..., :0])[0].shape == (3, 0)


def test_interval_of_equal_few_and_missing_values():
    # 0.1 + 0.1 + ... is not 10 * 0.1.
    for end in mean_interval(np.full((10, 2), 0.1)):
        np.testing.assert_array_equal(end, 0.1)
    for num_seeds in (3, 8):
        values = np.random.default_rng(0).normal(size=(num_seeds, 2))
        values[1, 1] = np.nan
        low, high = mean_interval(values)
        np.testing.assert_array_equal(np.isnan([low, high]), [[False, True]] * 2)
        alone = mean_interval(values[:, 0])
        np.testing.assert_allclose((low[0], high[0]), alone, rtol=1e-12)
    few = np.array([1.0, 2.0, 4.0])
    expected = student_interval(few, 0.95)
    np.testing.assert_allclose(mean_interval(few), expected, rtol=1e-12)


@pytest.mark.parametrize("interval", [mean_interval, simultaneous_band])
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
    ("num_seeds", "num_points", "skew", "expected"),
    [
        # 0.9 rather than 0.95: too wide a band shows, too.
        (3, 51, 0, 0.92),
        (4, 51, 0, 0.92),
        (8, 101, 0, 0.9),
        (20, 51, 0, 0.9),
        (10, 51, 0.25, 0.865),
    ],
)
def test_band_covers_the_whole_mean_curve(num_seeds, num_points, skew, expected):
    """Counted of 1,000 sets: a coverage off by 5 points fails with 0.98."""
    confidence, num_sets = 0.9, 1000
    curves, mean = smooth_curves(num_seeds, num_sets, num_points, skew)
    low, high = simultaneous_band(curves, confidence=confidence)
    covered = ((low <= mean) & (mean <= high)).all(axis=-1).mean()
    assert abs(covered - expected) < binomial_tolerance(confidence, num_sets)
    # Pointwise intervals hold each point that often, and all of them far less often.
    low, high = student_interval(curves, confidence)
    pointwise = (low <= mean) & (mean <= high)
    assert abs(pointwise.mean() - confidence) < 0.03
    assert pointwise.all(axis=-1).mean() < covered - 0.1
    if num_seeds >= 8:
        # Bonferroni's would be right for K + 1 independent points; here it is too wide.
        low, high = student_interval(curves, 1 - (1 - confidence) / num_points)
        by_bonferroni = ((low <= mean) & (mean <= high)).all(axis=-1).mean()
        assert by_bonferroni > covered + 0.015


def test_band_of_rough_curves_is_bonferronis_at_most():
    curves = np.random.default_rng(0).normal(size=(6, 300, 40))
    low, high = simultaneous_band(curves)
    covered = ((low <= 0) & (high >= 0)).all(axis=-1).mean()
    assert abs(covered - 0.95) < binomial_tolerance(0.95, 300)
    bonferroni = np.diff(student_interval(curves, 1 - 0.05 / 40), axis=0)[0]
    assert (high - low <= bonferroni * (1 + 1e-12)).all()


def test_band_of_one_point_is_students_interval():
    curves = np.random.default_rng(0).normal(3, 2, size=(10, 1))
    low, high = simultaneous_band(curves)
    expected = student_interval(curves, 0.95)
    np.testing.assert_allclose((low, high), expected, rtol=1e-9)
    # Points that are copies of one another, of whatever scale, are one point.
    copies = simultaneous_band(curves * [1, -20, 1e-3])
    np.testing.assert_allclose((copies[1] - copies[0]), (high - low) * [1, 20, 1e-3])


def test_band_solves_the_kinematic_formula():
    # Three networks whose residuals run along a half circle: its length is pi.
    angle = np.linspace(0, np.pi, 500)
    curves = np.stack([np.cos(angle + turn) for turn in 2 * np.pi / 3 * np.arange(3)])
    low, high = simultaneous_band(curves)
    q = ((high - low) / 2 / scipy.stats.sem(curves))[0]
    chance = 2 * scipy.stats.t.sf(q, 2) + 1 / np.sqrt(1 + q**2 / 2)
    np.testing.assert_allclose(chance, 0.05, rtol=1e-6)


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


def test_band_of_axes_between_is_a_loop():
    curves = np.random.default_rng(0).normal(size=(8, 2, 3, 20))
    whole = simultaneous_band(curves)
    assert whole[0].shape == whole[1].shape == (2, 3, 20)
    one = simultaneous_band(curves[:, 1, 2])
    np.testing.assert_allclose(one, [end[1, 2] for end in whole], rtol=1e-9)


@pytest.mark.parametrize("num_seeds", [3, 4, 5])
@pytest.mark.parametrize("share_equal", [0, 0.3])
def test_intervals_of_few_correlations_cover(share_equal, num_seeds):
    """Exact: all outcomes of taus of four neurons, in the same or a random order."""
    orders = np.array(list(itertools.permutations(range(4))))
    taus, counts = np.unique(kendall_tau(orders, np.arange(4)), return_counts=True)
    chances = (1 - share_equal) * counts / 24 + share_equal * (taus == 1)
    indices = np.array(list(itertools.product(range(len(taus)), repeat=num_seeds))).T
    weights = chances[indices].prod(axis=0)
    mean = chances @ taus

    def coverage(step: float) -> float:
        low, high = correlation_interval(taus[indices], step=step)
        return weights[(low <= mean) & (mean <= high)].sum()

    assert coverage(0.0) < coverage(kendall_step(4))
    assert coverage(kendall_step(4)) > 0.945


def test_intervals_of_few_correlations_are_students_with_a_step():
    step = 1 / 3
    taus = np.array([[1, 0.5], [2 / 3, 0.5], [2 / 3, 0.5]])
    low, high = correlation_interval(taus, step=step)
    # By hand: variances 1/27 and 0 of single taus, t of two degrees of freedom.
    half = scipy.stats.t.ppf(0.975, 2) * np.sqrt([1 / 81 + 1 / 108, 1 / 108])
    np.testing.assert_allclose(low, [7 / 9, 0.5] - half, rtol=1e-12)
    np.testing.assert_allclose(high, np.minimum([7 / 9, 0.5] + half, 1), rtol=1e-12)
    # One step for each column.
    other = correlation_interval(taus, step=np.array([step, 0.1]))
    np.testing.assert_allclose(other[0][0], low[0], rtol=1e-12)
    assert low[1] < other[0][1] < 0.5


@pytest.mark.parametrize("num_neurons", [2, 3, 5])
def test_steps_are_the_least_differences_of_correlations(num_neurons):
    orders = np.array(list(itertools.permutations(range(num_neurons))), float)
    for correlate, step in ((kendall_tau, kendall_step), (spearman, spearman_step)):
        values = np.unique(np.round(correlate(orders, orders[0]), 9))
        np.testing.assert_allclose(np.diff(values).min(), step(num_neurons), rtol=1e-6)


@given(
    correlations=hnp.arrays(
        np.float64,
        st.tuples(st.integers(3, 7), st.just(3)),
        elements=st.floats(-1, 1, width=16),
    )
)
@settings(max_examples=50)
def test_intervals_of_correlations_stay_within_their_range(correlations):
    low, high = correlation_interval(correlations)
    assert (low >= -1).all()
    assert (high <= 1).all()
    assert (low <= high).all()
    assert np.isnan(correlation_interval(np.array([0.1, np.nan, 0.3]))).all()
    mirrored = correlation_interval(-correlations)
    np.testing.assert_allclose(mirrored, (-high, -low), rtol=0, atol=1e-9)


@pytest.mark.parametrize("permutations", [19, 39, 59, 99, 199, 999, 4999])
def test_p_values_at_the_level_are_significant(permutations):
    counts = np.arange(1, permutations + 2)
    expected = 20 * counts <= permutations + 1
    assert expected.any()
    exact = counts / (permutations + 1)
    stored = exact.astype(np.float32)
    # A compiled program multiplies by the reciprocal, which may round once more.
    multiplied = np.float32(counts) * np.float32(1 / (permutations + 1))
    for p_values in (exact, stored, multiplied):
        np.testing.assert_array_equal(significant(p_values, 0.05), expected)
    assert not significant(np.nan, 0.05)
    # All but the last of 20 tests at 1/20: the adjusted p-value is the level itself.
    family = np.full(permutations + 1, stored[expected][-1])
    assert significant(false_discovery(family), 0.05).all()


CORRELATIONS = {
    "kendall_tau": (kendall_tau, scipy.stats.kendalltau),
    "spearman": (spearman, scipy.stats.spearmanr),
}


@pytest.mark.parametrize("num_values", [3, 10, None])
@pytest.mark.parametrize("num_neurons", [2, 3, 50, 301])
@pytest.mark.parametrize("name", CORRELATIONS)
def test_rank_correlations_agree_with_scipy(name, num_neurons, num_values):
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
        np.testing.assert_allclose(measured[i, j], expected, rtol=0, atol=1e-12)


def test_kendalls_tau_counts_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 4, (2, 9))
        pairs = list(itertools.combinations(range(9), 2))
        signs = np.array(
            [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
        )
        untied = np.sqrt(np.prod((signs != 0).sum(axis=0)))
        np.testing.assert_allclose(kendall_tau(x, y), signs.prod(axis=1).sum() / untied)


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
    with pytest.raises(
        ValueError,
        match=r"^p_values: expected numbers in \[0, 1\] or NaN, got 0.1 to 3",
    ):
        false_discovery(np.array([0.1, np.nan, 3]))


@pytest.mark.parametrize("name", CORRELATIONS)
def test_correlations_refuse_other_neurons(name, unchecked_shapes):
    correlation, _ = CORRELATIONS[name]
    with pytest.raises(
        ValueError, match=r"^y: expected shape \[..., 4\], a score of each neuron"
    ):
        correlation(np.ones((2, 4)), np.ones((2, 1)))


def test_skewness_of_a_family_is_scipys_and_free_of_scale():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 5))
    values[:, 2] = 0.25
    found = family_skewness(values)
    varies = np.arange(5) != 2
    expected = scipy.stats.skew(values[:, varies], axis=0)
    np.testing.assert_allclose(found.of_each[varies], expected, rtol=1e-9)
    assert found.of_each[2] == 0
    np.testing.assert_allclose(found.together, np.sqrt((expected**2).mean()))
    moved = family_skewness(3 - 7 * values)
    np.testing.assert_allclose(moved.usual, found.usual, rtol=1e-9)
    np.testing.assert_allclose(moved.of_each, -found.of_each, rtol=1e-9)
    values[1, 4] = np.nan
    without = family_skewness(values[:, :4])
    assert family_skewness(values).together == without.together
    assert np.isnan(family_skewness(values).of_each[4])
    assert family_skewness(np.ones((4, 2)))[1:] == (0.0, 0.0)


def test_skewed_families_are_unusual_and_symmetric_ones_are_not():
    """Of 30 symmetric families a level of 30 % fails with a probability of 0.97."""
    rng = np.random.default_rng(0)
    shape = (30, 14, 12)
    laws = {
        "normal": rng.normal(size=shape),
        "heavy": rng.standard_t(3, size=(30, 8, 44)),
        "skewed": rng.lognormal(0, 0.5, size=shape),
    }
    unusual = dict.fromkeys(laws, 0)
    for law, families in laws.items():
        for family in families:
            found = family_skewness(family)
            unusual[law] += found.together > found.usual
    assert unusual["normal"] <= 4
    assert unusual["heavy"] <= 4
    assert unusual["skewed"] >= 20
