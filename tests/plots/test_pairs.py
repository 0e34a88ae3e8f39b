"""Pairs are drawn in the arranged order, each once, and counted if they are many."""

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from synthetic import THREE, joint_results

from plots.drawn import draw, drawn_points, panel, small, title

CO_INFORMATION = "co_information_miller_madow"


def matrix_of(axes: Axes) -> np.ndarray:
    (image,) = axes.get_images()
    return np.ma.filled(np.ma.asarray(image.get_array(), np.float64), np.nan)


def test_pair_matrices_are_the_values_in_one_order_within_layers():
    results = small()
    figure = draw("pair_matrices", results, clamp="zero")
    assert "network of seed 0" in title(figure)
    values = results["pair_value"].isel(seed=0)
    shared = values.sel(pair_measure=CO_INFORMATION).values.astype(np.float64)
    np.fill_diagonal(shared, np.nan)
    first = matrix_of(panel(figure, "co-information, Miller-Madow"))
    layers = itertools.permutations(range(4)), itertools.permutations(range(4, 7))
    orders = [[*one, *other] for one, other in itertools.product(*layers)]
    (arranged,) = (
        order
        for order in orders
        if np.array_equal(shared[np.ix_(order, order)], first, equal_nan=True)
    )
    for name, expected in (
        ("redundancy, I_min, plug-in", values.sel(pair_measure="redundancy_i_min")),
        ("synergy, I_min, plug-in", values.sel(pair_measure="synergy_i_min")),
        (
            "pair effect in test loss, clamped to zero",
            results["pair_effect_loss"].isel(seed=0).sel(clamp="zero"),
        ),
    ):
        axes = panel(figure, name)
        expected = expected.values[np.ix_(arranged, arranged)].astype(np.float64)
        np.fill_diagonal(expected, np.nan)
        np.testing.assert_array_equal(matrix_of(axes), expected)
        low, high = axes.get_images()[0].get_clim()
        assert low in (-high, 0)  # 0 is the middle, or the end
        names = [text.get_text() for text in axes.get_yticklabels()]
        assert names == ["layer 1", "layer 2"] * (axes in figure.axes[:4:2])
        assert axes.get_yticks().tolist() == [1.5, 5]
        borders = [np.asarray(border.get_xdata())[0] for border in axes.get_lines()]
        assert borders[0] == 3.5


def test_neurons_of_high_co_information_are_neighbours():
    results = joint_results(hidden=(4,), seeds=1)
    planted = np.array([[9, 0, 3, 1], [0, 9, 1, 3], [3, 1, 9, 0], [1, 3, 0, 9]])
    index = results["pair_measure"].values.tolist().index(CO_INFORMATION)
    results["pair_value"].values[0, index] = planted
    matrix = matrix_of(draw("pair_matrices", results).axes[0])
    # 0 beside 2, 1 beside 3, and in the middle two that have 1 rather than 0
    assert [matrix[0, 1], matrix[1, 2], matrix[2, 3]] == [3, 1, 3]


def test_pair_agreement_has_every_pair_of_a_layer_once():
    table = pd.DataFrame(
        {
            "layer": [1, 2, 2],
            "clamp": "mean",
            "pair_measure": CO_INFORMATION,
            "effect_in": ["loss", "loss", "accuracy"],
            "effect": [0.25, -0.5, 0.75],
            "low": [0.125, -0.6, 0.7],
            "high": [0.5, -0.4, 0.8],
            "p_corrected": [0.03125, np.nan, 0.01],
        }
    )
    figure = draw("pair_agreement", small(), table=table)
    pairs = small()["pair_value"].sel(pair_measure=CO_INFORMATION).values
    effects = small()["pair_effect_loss"].sel(clamp="mean").values
    titles = [
        "layer 1\n\u03c1 = 0.25 [0.12, 0.50]\ncorrected p = 0.031",
        "layer 2\n\u03c1 = -0.50 [-0.60, -0.40]",
    ]
    for name, neurons in zip(titles, (range(4), range(4, 7)), strict=True):
        (points,) = drawn_points(panel(figure, name))
        places = np.asarray(points.get_xydata())
        first, second = np.array(list(itertools.combinations(neurons, 2))).T
        np.testing.assert_array_equal(places[:, 0], pairs[:, first, second].ravel())
        np.testing.assert_array_equal(places[:, 1], effects[:, first, second].ravel())


def test_many_pairs_are_counted():
    results = joint_results(hidden=(60,), measures=THREE[:1], clamps=("mean",))
    axes, bar = draw("pair_agreement", results).axes
    (mesh,) = axes.collections
    assert isinstance(mesh, QuadMesh)
    counts = np.ma.filled(np.ma.asarray(mesh.get_array()), 0)
    assert np.nansum(counts) == 3 * 60 * 59 / 2
    assert bar.get_ylabel() == "number of pairs"
    # The first bin starts at the lowest value, although the scale is not linear.
    corners = np.asarray(mesh.get_coordinates())
    effects = results["pair_effect_loss"].values
    lowest, highest = corners[..., 1].min(), corners[..., 1].max()
    np.testing.assert_allclose(lowest, np.nanmin(effects), rtol=1e-6)
    np.testing.assert_allclose(highest, np.nanmax(effects), rtol=1e-6)
