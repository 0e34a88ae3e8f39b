"""Curves at chosen points, and areas that are bounded."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compilations, random_examples, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

import ioca_jax as ioca
from ioca_jax.ablation.engines import ENGINES
from ioca_jax.ablation.metrics import Sums
from ioca_jax.ablation.points import TOLERANCE, area_bound, bisect, chosen_steps


@pytest.fixture(scope="module")
def case():
    model, variables = random_network(hidden=(9, 8, 7))
    x, y = random_examples(num_examples=60)
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(24) for _ in range(3)]).astype(np.int32)
    return model, variables, orders, rng.normal(size=24).astype(np.float32), x, y


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("points", [5, np.array([0, 1, 7, 23, 24]), [0, 24], 100])
def test_chosen_points_are_those_of_the_whole_curve(case, engine, points):
    whole = ioca.ablation_curve(*case, engine="masks", metrics=["kl"])
    assert whole.steps.tolist() == list(range(25))
    assert whole.bound is None
    some = ioca.ablation_curve(*case, engine=engine, points=points, metrics=["kl"])
    steps = some.steps
    if isinstance(points, int) and points == 5:
        assert steps.tolist() == [0, 6, 12, 18, 24]
    assert (steps.dtype, some.correct.shape) == (np.int32, (3, len(steps), 4))
    np.testing.assert_array_equal(some.correct, whole.correct[:, steps])
    np.testing.assert_allclose(some.loss, whole.loss[:, steps], rtol=2e-5)
    np.testing.assert_allclose(
        some.metrics["kl"], whole.metrics["kl"][:, steps], rtol=1e-4, atol=1e-6
    )


def test_points_where_the_curve_bends(case):
    whole = ioca.ablation_curve(*case)
    auto = ioca.ablation_curve(*case, points="auto")
    np.testing.assert_array_equal(auto.correct, whole.correct[:, auto.steps])
    np.testing.assert_allclose(auto.loss, whole.loss[:, auto.steps], rtol=2e-5)
    bound = np.array(auto.bound, np.float32)
    assert bound.shape == (3,)
    assert (bound <= TOLERANCE).all()
    exact = ioca.area_under_curve(whole.accuracy)
    found = ioca.area_under_curve(auto.accuracy, auto.steps)
    # A curve that is not monotone between points may leave the bound.
    assert (np.abs(found - exact) <= 0.02).all()


@st.composite
def monotone_curves(draw):
    """Counts [curves, K+1] out of 1,000 that fall from right to wrong."""
    steps = draw(st.integers(1, 300))
    curves = draw(st.integers(1, 3))
    values = st.integers(0, 1000)
    counts = draw(
        st.lists(
            st.lists(values, min_size=2, max_size=12), min_size=curves, max_size=curves
        )
    )
    at = np.linspace(0, 1, steps + 1)
    rows = []
    for some in counts:
        knots = np.sort(some)[::-1]
        rows.append(np.interp(at, np.linspace(0, 1, len(knots)) ** 2, knots))
    return np.round(rows).astype(np.int32)


@settings(max_examples=25)
@given(monotone_curves())
def test_bisection_keeps_its_word_on_monotone_curves(counts):
    number, asked = counts.shape[-1] - 1, []

    def evaluate(steps):
        asked.append(steps)
        correct = jnp.asarray(counts)[None, :, steps, None]
        return Sums(correct, correct[..., 0] * 1.0, {}, {})

    sums, steps = bisect(evaluate, number, 1000)
    assert all(len(some) == 8 for some in asked)
    assert (steps[0], steps[-1]) == (0, number)
    assert (np.diff(steps) > 0).all()
    np.testing.assert_array_equal(sums.correct[0, :, :, 0], counts[:, steps])
    accuracy = counts / 1000
    bound = np.asarray(area_bound(accuracy[:, steps], steps)).sum(axis=-1)
    assert (bound <= TOLERANCE + 1e-6).all() or len(steps) == 64
    whole = ioca.area_under_curve(accuracy)
    some = ioca.area_under_curve(accuracy[:, steps], steps)
    assert (np.abs(whole - some) <= bound + 1e-6).all()


def test_flat_curves_take_two_rounds():
    calls = []

    def evaluate(steps):
        calls.append(steps)
        correct = jnp.full((1, 1, 8, 2), 5)
        return Sums(correct, jnp.zeros((1, 1, 8)), {}, {})

    _, steps = bisect(evaluate, 1000, 10)
    assert (len(calls), len(steps)) == (2, 16)


def test_another_order_or_other_steps_compile_nothing_new(case):
    model, variables, orders, clamp, x, y = case

    def curve(order, steps):
        return ioca.ablation_curve(
            model, variables, order, clamp, x, y, points=steps, engine="incremental"
        )

    curve(orders[0], [0, 3, 9, 24])
    with compilations() as counted:
        curve(orders[1], [0, 10, 20, 24])
    assert not counted


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("points", "error"),
    [
        (1, "points: expected at least 2, both ends, got 1"),
        (
            [0, 5, 5, 24],
            "points: expected ascending steps from 0 to 24, all neurons of the order, "
            "got 0, 5, 5, 24",
        ),
        (
            [0, 5],
            "points: expected ascending steps from 0 to 24, all neurons of the order, "
            "got 0, 5",
        ),
        (
            [],
            "points: expected a number of points, 'auto', or ascending steps from 0 to "
            "24, got []",
        ),
        (
            "all",
            "points: expected a number of points, 'auto', or ascending steps from 0 to "
            "24, got 'all'",
        ),
        (
            2.5,
            "points: expected a number of points, 'auto', or ascending steps from 0 to "
            "24, got 2.5",
        ),
    ],
)
def test_other_points_are_refused(case, points, error):
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        ioca.ablation_curve(*case, points=points)


@pytest.mark.usefixtures("unchecked_shapes")
def test_points_that_look_at_the_curve_or_are_traced_are_refused_while_jax_traces(case):
    model, variables, orders, clamp, x, y = case

    def curve(variables, order, points):
        arguments = (model, variables, order, clamp, x, y)
        return ioca.ablation_curve(*arguments, points=points).accuracy

    error = (
        "^points: expected a number or steps while JAX traces, got 'auto', which looks "
        "at the curve"
    )
    for traced in ({"order": orders[0]}, {"variables": variables}):
        known = {"order": orders[0], "variables": variables, "points": "auto"}
        with pytest.raises(ValueError, match=error):
            jax.jit(lambda given, known=known: curve(**known | given))(traced)
    with pytest.raises(
        ValueError, match="^points: expected a number of points, 'auto'"
    ):
        jax.jit(lambda points: curve(variables, orders[0], points))(jnp.arange(25))


def test_evenly_spaced_points_have_both_ends():
    assert chosen_steps(3, 10).tolist() == [0, 5, 10]
    assert chosen_steps(50, 784).shape == (50,)
    assert chosen_steps(50, 3).tolist() == [0, 1, 2, 3]
