"""Areas under curves: closed forms, NumPy's trapezoid, counts of examples."""

import re

import numpy as np
import pytest
from synthetic import synthetic_results, with_accuracy

import ioca_jax as ioca
from ioca_jax.inference.areas import ablated_at_loss, areas_by_order, normalized_area

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


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        ([1.0, np.nan, 0.0, 0.5], "expected NaN only past the end of a curve, got a"),
        ([[1.0, 0.5, 0.2], [np.nan, 0.5, 0.2]], "expected NaN only past the end"),
        ([], r"expected numbers of shape \[..., K\+1\], got float64 of shape \[0\]"),
        (0.5, "expected numbers of shape .*, got float64 of shape"),
        ([1j, 0.5], "expected numbers of shape .*, got complex128 of shape"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_no_curve_is_refused(accuracy, message):
    with pytest.raises(ValueError, match=f"^accuracy: {message}"):
        ioca.area_under_curve(np.array(accuracy))


@pytest.mark.parametrize("chance", [0.1, 0.25])
def test_normalized_area_closed_forms(chance):
    intact = chance + 0.6
    # Nothing lost, half, all at once, worse than chance, better than intact.
    areas = np.array([intact, chance + 0.3, chance, chance - 0.06, intact + 0.06])
    normalized = normalized_area(areas, intact, chance)
    assert normalized.dtype == np.float64
    expected = [1, 0.5, 0, -0.1, 1.1]
    np.testing.assert_allclose(normalized, expected, rtol=0, atol=TOLERANCE)
    # Networks along the first axis, each with its own intact accuracy.
    of_two = normalized_area(areas[:2, None], np.array([[intact], [chance]]), chance)
    np.testing.assert_array_equal(of_two, [[1], [np.nan]])
    assert np.isnan(normalized_area(areas, chance - 0.1, chance)).all()


def results_with_counts(counts):
    """Results of these counts [S, orderings, K+1] in a network of one layer."""
    seeds, _, points = counts.shape
    measures = ("a", "b")
    results = synthetic_results(
        hidden=(points - 1,), seeds=seeds, measures=measures, random_orders=10
    )
    accuracy = np.broadcast_to(
        counts[:, None, None] / 100_000, results["accuracy"].shape
    )
    return with_accuracy(results, accuracy)


def test_areas_of_a_run_are_those_of_its_curves():
    results = results_with_counts(
        np.random.default_rng(0).integers(0, 100_000, (3, 14, 6))
    )
    areas = areas_by_order(results)
    assert len(areas) == 2 * (2 * 2 + 1)
    curves = results["accuracy"].values.astype(np.float64)
    ordering = results["ordering"].values.tolist()
    expected = ioca.area_under_curve(curves[:, :, 0, ordering.index("b_descending_0")])
    # Counts over 100,000 in float32: right to 6e-8.
    found = areas["network", "b", "descending"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    expected = ioca.area_under_curve(curves[:, :, 1, 4:]).mean(axis=-1)
    found = areas["layer_1", "random", "random"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_orders_with_equal_counts_have_equal_areas():
    """In float32, means of ten equal accuracies differ from that accuracy."""
    rng = np.random.default_rng(0)
    counts = np.repeat(rng.integers(1, 100_000, (20, 1, 8)), 14, axis=1)
    # Of orders "a" the inner points are in another order: other curves of equal area.
    counts[:, :2, 1:-1] = rng.permuted(counts[:, :2, 1:-1], axis=-1)
    areas = areas_by_order(results_with_counts(counts))
    for (scope, _, _), found in areas.items():
        np.testing.assert_array_equal(found, areas[scope, "random", "random"])
    accuracy = (counts / 100_000).astype(np.float32)
    assert (accuracy[:, 4:].mean(axis=1) != accuracy[:, 4]).mean() > 0.1


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


@pytest.mark.parametrize("point", [1e-9, 1e-7, 1e-6, 1e-5])
def test_no_loss_is_not_a_small_loss(point):
    # A curve that starts level: in float32, and as means that differ by rounding.
    level = np.full(4, 0.9, np.float32)
    assert np.isnan(ablated_at_loss(level, (point,)))
    falls = np.array([0.9, 0.9, 0.9 - 2 * point, 0.1])
    np.testing.assert_array_equal(ablated_at_loss(falls, (point,)), 2)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("steps", [[0, 1], [0, 2, 1], [0.0, np.nan, 2.0], [[0, 1, 2]]])
def test_steps_that_do_not_ascend_are_refused(steps):
    curve, shape = np.array([0.9, 0.5, 0.1]), list(np.shape(steps))
    expected = (
        "steps: expected 3 ascending numbers of ablated neurons, one for each point, "
        f"got shape {shape}: {np.asarray(steps).tolist()}"
    )
    for function in (ioca.area_under_curve, ablated_at_loss):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            function(curve, steps=steps)


def test_curves_at_steps_have_trapezia_of_unequal_width():
    curve, steps = np.array([1.0, 0.5, 0.0]), np.array([0, 1, 10])
    assert ioca.area_under_curve(curve, steps) == pytest.approx((0.75 + 2.25) / 10)
    lost = ablated_at_loss(curve, (0.4, 0.9), steps=steps)
    assert lost.tolist() == [1, 10]
