"""Areas under curves: closed forms, scopes that end early, leading axes."""

import numpy as np
import pytest

import ioca_jax as ioca

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
