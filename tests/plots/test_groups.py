"""Joint information where there are estimates, and groups with their outliers."""

import numpy as np
from matplotlib.offsetbox import AnchoredText
from matplotlib.patches import Rectangle
from synthetic import THREE, joint_results

from plots.drawn import draw, drawn_points, heights, legend_texts, panel


def test_joint_information_is_drawn_where_every_network_has_an_estimate():
    results = joint_results(hidden=(20, 3), measures=THREE[1:2])
    # One network has no estimate for two random neurons.
    information = results["joint_information_miller_madow"]
    information.values[1, 0, 1, 3, 2] = np.nan
    figure = draw("joint_information_curves", results, clamp="zero")
    above, left, below = figure.axes[1::3]
    assert above.get_title() == "layer 1: 20 neurons"
    values = information.values[:, :, 1]
    curves = [
        curve
        for pair in zip(*([*axes.get_lines()] for axes in (above, left)), strict=True)
        for curve in pair
        if curve.get_zorder() >= 2 and curve.get_color() != "0.5"
    ]
    expected = [
        ("ascending, ablated", [0, 1, 2, 3], values[:, 0, 0].mean(0)),
        ("ascending, left", [17, 18, 19, 20], values[:, 1, 0].mean(0)),
        ("descending, ablated", [0, 1, 2, 3], values[:, 0, 1].mean(0)),
        ("descending, left", [17, 18, 19, 20], values[:, 1, 1].mean(0)),
        ("random, ablated", [0, 1, 3], values[:, 0, 2:].mean((0, 1))),
        ("random, left", [17, 18, 19, 20], values[:, 1, 2:].mean((0, 1))),
    ]
    for curve, (name, steps, means) in zip(curves, expected, strict=True):
        np.testing.assert_array_equal(curve.get_xdata(), steps, name)
        np.testing.assert_allclose(heights(curve), means[steps], rtol=1e-5)
    accuracy = results["accuracy"].values[:, 0, 1, 0, :21].mean(0)
    np.testing.assert_allclose(heights(below.get_lines()[0]), accuracy, rtol=1e-6)
    # Steps 4 to 16 have no estimate: they are shaded, named, and compressed.
    for axes in (above, left, below):
        (shade,) = axes.patches
        assert isinstance(shade, Rectangle)
        edges = shade.get_corners()[:, 0]
        assert (edges.min(), edges.max()) == (3.5, 16.5)
        start, end = (axes.transData.transform((x, 0))[0] for x in (3.5, 16.5))
        assert (end - start) < axes.get_window_extent().width / 3
    assert "too few examples for an estimate" in legend_texts(figure)
    assert not figure.axes[2].patches


def test_outliers_of_the_redundancy_index_are_counted():
    results = joint_results(hidden=(4, 3), groups=200)
    index = results["redundancy_index"]
    index.values[0, 1, 0, 0], index.values[1, 1, 0, :] = 1e6, np.nan
    figure = draw("redundancy_indices", results)
    axes = panel(figure, "layer 1")
    for points, place in zip(drawn_points(axes), (0, 1), strict=True):
        medians = np.median(index.values[:, 1, place], axis=-1)
        expected = medians[np.isfinite(medians)]
        np.testing.assert_allclose(heights(points), expected, rtol=1e-6)
    assert axes.get_ylim()[1] < 3
    (note,) = axes.findobj(AnchoredText)
    assert note.txt.get_text().endswith("outside the scale")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "3"]
    assert legend_texts(figure)[-1] == "above 1: redundancy, below 1: synergy"
