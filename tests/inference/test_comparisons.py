"""Tests over networks: SciPy's and plain loops as oracles, error rates by simulation.

Error rates are counted over simulated data sets with a fixed seed.
"""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import binomial_tolerance

from ioca_jax.inference import comparisons
from ioca_jax.inference.comparisons import (
    ALTERNATIVES,
    bootstrap_test,
    independent_test,
    networks_for_power,
    networks_for_undecided,
    seeds_needed,
    sign_flip_test,
)
from ioca_jax.inference.statistics import family_skewness


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
    """Counted of 600 sets at 5 %: an error of 10 % fails with 0.97, of 12 % surely."""
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


@pytest.mark.parametrize(("sigma", "of_flips"), [(0, 0.04), (0.5, 0.22)])
def test_skewed_differences_need_the_bootstrap(sigma, of_flips):
    """Family-wise error at 5 %, of 40 normal or log-normal comparisons (skewness 1.75).

    Counted of 300 sets of ten networks: a bootstrap error of 10 % fails with 0.998.
    """
    num_sets, alpha = 300, 0.05
    rng = np.random.default_rng(0)
    by_flips = by_bootstrap = found = 0
    for _ in range(num_sets):
        differences = rng.standard_normal((10, 40))
        if sigma:
            differences = np.exp(sigma * differences) - np.exp(sigma**2 / 2)
        tested = sign_flip_test(differences, resamples=1023)
        by_flips += (tested.p_corrected <= alpha).any()
        differences[:, 0] += 2 * differences.std()
        tested = bootstrap_test(differences, resamples=499).p_corrected <= alpha
        by_bootstrap += tested[1:].any()
        found += tested[0]
    assert abs(by_flips / num_sets - of_flips) < binomial_tolerance(of_flips, num_sets)
    # Conservative: of independent comparisons about 0.005.
    assert by_bootstrap / num_sets < alpha
    assert found / num_sets > 0.3


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_bootstrap_of_single_comparisons_keeps_its_level(alternative):
    """Of 4,000 comparisons of ten networks at 5 %: an error of 7 % fails surely."""
    differences = np.random.default_rng(0).normal(1, 1, size=(10, 4000))
    tested = bootstrap_test(differences, threshold=1.0, alternative=alternative)
    rejected = (tested.p_value <= 0.05).mean()
    assert abs(rejected - 0.05) < binomial_tolerance(0.05, 4000, 1999)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_bootstrap_agrees_with_a_plain_loop(alternative):
    rng = np.random.default_rng(2)
    differences = rng.gamma(2, size=(7, 4)) - np.array([0.5, 2, 1.8, 3])
    tested = bootstrap_test(
        differences, threshold=0.25, alternative=alternative, resamples=400
    )
    counts = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), size=400)

    def t_values(sample, centre):
        return (sample.mean(axis=0) - centre) / scipy.stats.sem(sample)

    with np.errstate(divide="ignore"):
        drawn = np.array(
            [
                t_values(np.repeat(differences, n, axis=0), differences.mean(axis=0))
                for n in counts
            ]
        )
    by_side = []
    for sign in {"greater": [1], "less": [-1], "two-sided": [1, -1]}[alternative]:
        observed = sign * t_values(differences, 0.25)
        remaining, least, corrected = list(range(4)), 0.0, np.empty(4)
        alone = ((sign * drawn >= observed).sum(axis=0) + 1) / 401
        while remaining:
            clearest = max(remaining, key=lambda comparison: observed[comparison])
            reached = (sign * drawn)[:, remaining].max(axis=1) >= observed[clearest]
            corrected[clearest] = least = max(least, (reached.sum() + 1) / 401)
            remaining.remove(clearest)
        by_side.append((alone, corrected))
    expected = np.minimum(len(by_side) * np.min(by_side, axis=0), 1)
    np.testing.assert_allclose(tested.p_value, expected[0], rtol=1e-12)
    np.testing.assert_allclose(tested.p_corrected, expected[1], rtol=1e-12)
    np.testing.assert_allclose(tested.mean, differences.mean(axis=0), rtol=1e-12)


def test_bootstrap_in_blocks_is_the_same_and_equal_values_say_nothing(monkeypatch):
    differences = np.random.default_rng(0).normal(0.5, 1, size=(8, 5))
    differences[:, 3] = 0.1
    whole = bootstrap_test(differences)
    assert whole.p_value[3] == whole.p_corrected[3] == 1
    monkeypatch.setattr(comparisons, "BLOCK", 5 * 99)
    for field, blocked in zip(whole, bootstrap_test(differences), strict=True):
        np.testing.assert_array_equal(field, blocked)


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
    monkeypatch.setattr(comparisons, "BLOCK", 20 * 999)
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
    for test, shape in itertools.product(
        (sign_flip_test, bootstrap_test), ((5,), (5, 2, 2), (0, 2))
    ):
        with pytest.raises(
            ValueError, match=r"^differences: expected shape \[S, M\], a row for each"
        ):
            test(np.ones(shape))
    for test in (
        lambda alternative: sign_flip_test(np.ones((5, 2)), alternative=alternative),
        lambda alternative: bootstrap_test(np.ones((5, 2)), alternative=alternative),
        lambda alternative: independent_test(
            np.ones(5), np.ones(5), alternative=alternative
        ),
    ):
        with pytest.raises(
            ValueError,
            match=r"^alternative: expected one of two-sided, .*, less, got 'above'$",
        ):
            test("above")
    thresholds: list[Any] = [np.nan, np.inf, [0.0, -np.inf]]
    for test, threshold in itertools.product(
        (sign_flip_test, bootstrap_test), thresholds
    ):
        with pytest.raises(
            ValueError, match=r"^threshold: expected finite numbers, got 1 of \d that"
        ):
            test(np.ones((5, 2)), threshold=threshold)
    for test in (
        lambda number: sign_flip_test(np.ones((20, 2)), resamples=number),
        lambda number: bootstrap_test(np.ones((5, 2)), resamples=number),
        lambda number: independent_test(np.ones(5), np.ones(5), resamples=number),
    ):
        for number, wanted in ((0, "at least 1"), (-5, "at least 1"), (2.5, "an int")):
            with pytest.raises(ValueError, match=f"^resamples: expected {wanted}"):
                test(number)
    with pytest.raises(
        ValueError, match=r"^second: expected at least 2 networks, got 1"
    ):
        independent_test(np.ones(5), np.ones(1))
    with pytest.raises(
        ValueError, match=r"^first: expected finite numbers, got 1 of 2"
    ):
        independent_test(np.array([1, np.nan]), np.ones(2))
    with pytest.raises(
        ValueError, match=r"^differences: expected at least 3 seeds, got 2; train more"
    ):
        bootstrap_test(np.ones((2, 4)))


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


def drawn_power(t: float, pilot: int, number: int, alpha: float) -> float:
    """Share of new samples that Student's test rejects, effects from the posterior."""
    rng = np.random.default_rng(0)
    draws = 60_000
    spread = np.sqrt((pilot - 1) / rng.chisquare(pilot - 1, draws))
    mean = (t + spread * rng.normal(size=draws)) / np.sqrt(pilot)
    error = np.sqrt(rng.chisquare(number - 1, draws) / (number - 1) / number)
    new = (mean / spread + rng.normal(size=draws) / np.sqrt(number)) / error
    return float((np.abs(new) > scipy.stats.t.isf(alpha / 2, number - 1)).mean())


def test_networks_for_power_reach_it_on_average():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 4)) + [1.2, 1.2, 1.2, 2.0]
    t = np.asarray(scipy.stats.ttest_1samp(values, -0.1, axis=0))[0]
    for power, alpha in ((0.8, 0.0025), (0.5, 0.01)):
        numbers = networks_for_power(values, -0.1, alpha, power)
        assert len(set(numbers)) > 2
        for number, of_row in zip(numbers, t, strict=True):
            reached = drawn_power(of_row, 8, int(number), alpha)
            assert reached > power - 0.01
            if number > seeds_needed(alpha):
                fewer = drawn_power(of_row, 8, int(number) - 1, alpha)
                assert fewer < power + 0.01


def test_networks_for_power_have_limits():
    # Of a known effect of 0.3 standard deviations, Student's test needs 90 networks.
    known = 0.3 + np.sqrt(19_999 / 20_000) * np.tile([-1.0, 1.0], 10_000)
    assert networks_for_power(known, 0.0, alpha=0.05) == 90
    assert networks_for_power(known / 1e6, 0.5, alpha=0.05) == 6
    equal = np.array([[0.0, 1.0, np.nan]] * 4)
    expected = [np.inf, 6, np.nan]
    np.testing.assert_array_equal(networks_for_power(equal, 0.0, 0.05), expected)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_planned_for_is_refused():
    values = np.random.default_rng(0).normal(size=(8, 2))
    with pytest.raises(ValueError, match=r"^power: expected a probability .* got 1.5"):
        networks_for_power(values, 0.0, 0.05, power=1.5)
    with pytest.raises(ValueError, match=r"^alpha: expected a level .* got 2"):
        networks_for_undecided(values, np.array([0.1, 0.2]), alpha=2)
    with pytest.raises(ValueError, match=r"^p_corrected: .* \[3\] and \[8, 2\]"):
        networks_for_undecided(values, np.array([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match=r"^differences: .* \[S, M\], .* got \[8\]"):
        family_skewness(values[:, 0])


def test_networks_for_undecided_are_of_what_the_family_leaves_open():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(8, 12)) + np.linspace(0, 3, 12)
    values[:, 3] = 0.25
    bounds = np.where(np.arange(12) == 3, 0.25, 0.1)
    p_values = sign_flip_test(values, threshold=bounds).p_corrected
    p_values[5] = np.nan
    is_open = p_values > 0.05
    assert 3 < is_open.sum() < 11
    numbers = networks_for_undecided(values, p_values, threshold=bounds)
    np.testing.assert_array_equal(np.isnan(numbers), ~is_open)
    assert numbers[3] == np.inf
    of_open = values[:, is_open & (np.arange(12) != 3)]
    alone = np.asarray(scipy.stats.ttest_1samp(of_open, 0.1, axis=0))[1].min()
    factor = min(np.nanmin(p_values[is_open]) / alone, is_open.sum())
    assert factor > 1.5
    for index in np.flatnonzero(is_open):
        planned = networks_for_power(values[:, index], bounds[index], 0.05 / factor)
        assert numbers[index] == planned
    assert np.isnan(networks_for_undecided(values, np.full(12, 0.05))).all()
    # Bonferroni's factor is the most, where a clear comparison is not decided.
    clear = values[:, 4:]
    expected = networks_for_power(clear, 0.0, 0.05 / 8)
    np.testing.assert_array_equal(networks_for_undecided(clear, np.ones(8)), expected)
    # No correction makes a p-value smaller, though the sign-flip test's may be.
    outlier = np.array([[5.0], [0.1], [0.1], [0.1], [0.1], [-0.01]])
    p_value = sign_flip_test(outlier).p_corrected
    _, students = np.asarray(scipy.stats.ttest_1samp(outlier[:, 0], 0))
    assert students > 5 * p_value[0]
    expected = networks_for_power(outlier, 0.0, 0.05)
    np.testing.assert_array_equal(networks_for_undecided(outlier, p_value), expected)
