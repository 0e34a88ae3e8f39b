"""CPR and CMD: MIB's formula written out, closed forms, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ioca_jax as ioca


def by_mibs_formula(values, fractions):
    """Of one curve: a loop over trapezia between the shares that are kept."""
    size = len(values) - 1
    intact, ablated = float(values[0]), float(values[size])
    faithful = [
        (float(values[size - round(q * size)]) - ablated) / (intact - ablated)
        for q in fractions
    ]
    cpr = cmd = 0.0
    for i in range(len(fractions) - 1):
        width = fractions[i + 1] - fractions[i]
        cpr += width * (faithful[i] + faithful[i + 1]) / 2
        cmd += width * (abs(1 - faithful[i]) + abs(1 - faithful[i + 1])) / 2
    return cpr, cmd


@pytest.mark.parametrize("size", [1, 7, 50, 3000])
def test_it_is_mibs_formula(size):
    rng = np.random.default_rng(size)
    curves = rng.normal(size=(2, 3, size + 1)).astype(np.float32)
    every = np.arange(size + 1) / size
    for fractions, asked in ((ioca.MIB_FRACTIONS,) * 2, (every, None)):
        found = ioca.faithfulness(curves, asked)
        for index in np.ndindex(2, 3):
            expected = by_mibs_formula(curves[index], fractions)
            got = [area[index] for area in found]
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
        assert [area.dtype for area in found] == [np.float64] * 2


def test_closed_forms():
    share = np.linspace(0, 1, 101)
    loses_nothing = np.where(share < 1, 0.9, 0.1)
    # Above the intact network by 0.4 of the way, without a sign of its own in CMD.
    better = np.where((share > 0) & (share < 1), 1.3, np.where(share < 1, 0.9, -0.1))
    for curve, cpr, cmd in (
        (0.9 - 0.8 * share, 0.5, 0.5),
        (loses_nothing, 0.995, 0.005),
        (2 - 1.5 * (1 - share), 0.5, 0.5),  # a loss, which rises
        (better, 1.4 * 0.98 + 0.7 * 0.01 + 1.2 * 0.01, 0.4 * 0.98 + 0.009),
    ):
        found = ioca.faithfulness(curve)
        np.testing.assert_allclose(found, (cpr, cmd), rtol=0, atol=1e-12)
    assert ioca.faithfulness(np.array([1.0] * 2000 + [0.0]), ioca.MIB_FRACTIONS)[
        0
    ] == pytest.approx(0.999, abs=1e-12)


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=9),
    st.floats(0.1, 10),
    st.floats(-3, 3),
)
def test_units_of_the_metric_do_not_matter(values, scale, shift):
    values = np.array([1.0, *values, 0.0])
    found = ioca.faithfulness(values)
    np.testing.assert_allclose(
        ioca.faithfulness(scale * values + shift), found, atol=1e-9
    )
    np.testing.assert_allclose(ioca.faithfulness(-values), found, atol=1e-12)


def test_no_number_without_a_difference_to_divide_by():
    curves = np.array([[0.5, 0.9, 0.5], [0.5, 0.9, 0.1], [np.nan] * 3])
    cpr, cmd = ioca.faithfulness(curves)
    assert np.isnan(cpr).tolist() == np.isnan(cmd).tolist() == [True, False, True]
    assert np.isnan(ioca.faithfulness(curves[2], (0.5, 1.0))).all()


def test_points_past_the_end_of_a_scope_do_not_count():
    curves = np.random.default_rng(0).random((2, 8))
    padded = np.concatenate([curves, np.full((2, 5), np.nan)], axis=-1)
    for fractions in (None, ioca.MIB_FRACTIONS):
        np.testing.assert_array_equal(
            ioca.faithfulness(padded, fractions), ioca.faithfulness(curves, fractions)
        )
    within = curves.copy()
    within[0, 3] = np.nan  # of one curve: it has no area
    assert np.isnan(ioca.faithfulness(within)[0]).tolist() == [True, False]


def test_chosen_steps():
    curve = np.random.default_rng(1).random(11)
    steps = np.array([0, 1, 4, 9, 10])
    found = ioca.faithfulness(curve[steps], steps=steps)
    faithful = (curve[steps] - curve[10]) / (curve[0] - curve[10])
    width = np.diff(steps) / 10
    for area, f in zip(found, (faithful, np.abs(1 - faithful)), strict=True):
        middle = (f[1:] + f[:-1]) / 2
        np.testing.assert_allclose(area, (middle * width).sum(), atol=1e-12)
    # Steps of other scopes are NaN for all curves.
    spread = np.full(11, np.nan)
    spread[steps] = curve[steps]
    np.testing.assert_array_equal(ioca.faithfulness(spread, steps=np.arange(11)), found)
    # A curve without its first point is not that of a network with less to lose.
    without_first = np.where(steps == 0, np.nan, curve[steps])
    assert np.isnan(ioca.faithfulness(without_first, steps=steps)).all()
    shares = (0.0, 0.1, 0.6, 1.0)
    np.testing.assert_array_equal(
        ioca.faithfulness(curve[steps], shares, steps=steps),
        ioca.faithfulness(curve, shares),
    )


FOUR = np.array([0.9, 0.8, 0.4, 0.1])
TWO_OR_MORE = "fractions: expected two or more shares in [0, 1], ascending, got "
HALF = "; 0.5 keeps half of the neurons"


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"fractions": (0.5, 1.1)}, f"{TWO_OR_MORE}0.5, 1.1{HALF}"),
        ({"fractions": (-0.1, 1)}, f"{TWO_OR_MORE}-0.1, 1.0{HALF}"),
        ({"fractions": (1, 0.5)}, f"{TWO_OR_MORE}1.0, 0.5{HALF}"),
        ({"fractions": (0.5, np.nan)}, f"{TWO_OR_MORE}0.5, nan{HALF}"),
        ({"fractions": (0.5, 0.5, 1)}, f"{TWO_OR_MORE}0.5, 0.5, 1.0{HALF}"),
        ({"fractions": 0.5}, f"{TWO_OR_MORE}0.5{HALF}"),
        ({"fractions": "mib"}, f"{TWO_OR_MORE}mib{HALF}"),
        ({"values": 0.5}, "values: expected numbers of shape [..., K+1], got float64 "
         "of shape []"),
        ({"values": ["a", "b"]}, "values: expected numbers of shape [..., K+1], got "
         "<U1 of shape [2]"),
        ({"values": [0.5]}, "values: expected curves of one neuron or more, at least "
         "two points, got 1; without ablation there is no faithfulness"),
        ({"steps": [0, 2, 1, 3]}, "steps: expected 4 integers, one for each value, "
         "ascending from 0, got int64 of shape [4]: 0, 2, 1, 3"),
        ({"steps": [1, 2, 3, 4]}, "steps: expected 4 integers, one for each value, "
         "ascending from 0, got int64 of shape [4]: 1, 2, 3, 4"),
        ({"steps": [0, 3]}, "steps: expected 4 integers, one for each value, ascending "
         "from 0, got int64 of shape [2]: 0, 3"),
        ({"steps": [0, 2, 7, 10], "fractions": (0.3, 0.5, 1.0)},
         "fractions: expected shares whose steps K - round(q K) are among those "
         "evaluated, got none at 5 of K = 10; evaluate them too, or take all points by "
         "fractions=None"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments, text):
    with pytest.raises(ValueError, match=".") as caught:
        ioca.faithfulness(**({"values": FOUR} | arguments))
    assert str(caught.value) == text
