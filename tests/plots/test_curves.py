"""Curves are means over networks and draws, with their bands and their labels."""

import numpy as np
import pandas as pd
import pytest
from synthetic import THREE, joint_results, synthetic_results

from ioca_jax import plots
from plots.drawn import (
    bands,
    draw,
    drawn,
    heights,
    least,
    legend_texts,
    line,
    panel,
    panel_names,
    small,
    tables,
    title,
)


def test_ablation_curves_are_means_over_networks_to_the_end_of_the_scope():
    figure = drawn("ablation_curves")
    assert panel_names(figure) == [
        f"{scope}, clamped to {clamp}"
        for clamp in ("zero", "mean")
        for scope in ("whole network", "layer 1", "layer 2")
    ]
    accuracy = small()["accuracy"].values.astype(np.float64)
    for clamp, clamp_name in enumerate(("zero", "mean")):
        for scope, (name, size) in enumerate(
            (("whole network", 7), ("layer 1", 4), ("layer 2", 3))
        ):
            axes = panel(figure, f"{name}, clamped to {clamp_name}")
            assert len(axes.get_lines()) == 7
            for ordering, label in enumerate(
                f"{measure}, {direction} first"
                for measure in ("entropy", "mutual information", "KL selectivity")
                for direction in ("lowest", "highest")
            ):
                expected = accuracy[:, clamp, scope, ordering, : size + 1].mean(axis=0)
                curve = line(axes, label)
                np.testing.assert_array_equal(curve.get_xdata(), np.arange(size + 1))
                np.testing.assert_allclose(heights(curve), expected, rtol=1e-6)


def test_random_is_the_mean_over_draws_and_networks_black_and_dotted():
    curve = line(
        panel(drawn("ablation_curves"), "layer 1, clamped to mean"),
        "random order, mean of 2 draws",
    )
    expected = small()["accuracy"].values[:, 1, 1, 6:, :5].mean(axis=(0, 1))
    np.testing.assert_allclose(heights(curve), expected, rtol=1e-6)
    assert curve.get_color() == "black"
    assert curve.get_linestyle() == ":"


def test_bands_are_one_standard_deviation_over_networks():
    figure = drawn("ablation_curves")
    of_seed = small()["accuracy"].values[:, 0, 1, :, 0].astype(np.float64)
    of_seed = np.column_stack([of_seed[:, :6], of_seed[:, 6:].mean(axis=1)])
    mean, spread = of_seed.mean(axis=0), of_seed.std(axis=0, ddof=1)
    expected = np.stack([mean - spread, mean + spread], axis=1)
    ends = bands(panel(figure, "layer 1, clamped to zero"))
    np.testing.assert_allclose(ends, expected, rtol=1e-6)
    assert legend_texts(figure)[-1] == "band: ± standard deviation over 3 networks"


@pytest.mark.parametrize(("measures", "with_colour"), [(7, False), (10, True)])
def test_lines_of_a_panel_differ(measures, with_colour):
    """Up to seven measures without colour, more in colour or marker."""
    names = [f"measure_{index}" for index in range(measures)]
    figure = draw("ablation_curves", least(measures=names, clamps=("mean",)))
    lines = figure.axes[0].get_lines()
    looks = {
        (str(one.get_color()) * with_colour, one.get_marker(), one.get_linestyle())
        for one in lines
    }
    assert len(looks) == len(lines) == 2 * measures + 1


def test_a_single_network_has_no_spread():
    figure = draw("ablation_curves", least(seeds=1))
    assert not any(axes.collections for axes in figure.axes)
    assert not any("deviation" in text for text in legend_texts(figure))


def test_no_random_orders_no_random_line():
    results = least(random_orders=0)
    for name, lines in (("ablation_curves", 4), ("bias_balancing", 2)):
        figure = draw(name, results)
        assert {len(axes.get_lines()) for axes in figure.axes} == {lines}
        assert not any("random" in text for text in legend_texts(figure))


@pytest.mark.parametrize("measure", ["mutual_information", "entropy"])
def test_bias_balancing_draws_measure_and_random_under_both_clamps(measure):
    figure = draw("bias_balancing", small(), measure=measure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["layer 1: 4 neurons", "layer 2: 3 neurons"]
    accuracy = small()["accuracy"].values
    axes = panel(figure, "layer 2")
    ascending = {"entropy": 0, "mutual_information": 2}[measure]
    for clamp, name in enumerate(("zero", "mean")):
        for label, orderings in (
            (f"{measure.replace('_', ' ')}, lowest first", [ascending]),
            ("random order, mean of 2 draws", [6, 7]),
        ):
            curve = line(axes, f"{label}, clamped to {name}")
            expected = accuracy[:, clamp, 2][:, orderings, :4].mean(axis=(0, 1))
            np.testing.assert_allclose(heights(curve), expected, rtol=1e-6)
    assert len(axes.get_lines()) == 4


@pytest.mark.parametrize(
    ("given", "measure", "message"),
    [
        (
            {"clamps": ("zero",)},
            "entropy",
            "^bias_balancing: expected clamp to be one of zero, got 'mean'$",
        ),
        (
            {"measures": ("entropy", "kl_selectivity")},
            "mutual_information",
            "^bias_balancing: expected measure to be one of entropy, kl_selectivity, "
            "got 'mutual_information'$",
        ),
    ],
)
def test_bias_balancing_names_what_the_results_lack(given, measure, message):
    with pytest.raises(ValueError, match=message):
        plots.bias_balancing(synthetic_results(**given), measure=measure)


@pytest.mark.parametrize("name", ["ablation_curves", "bias_balancing"])
def test_axes_of_curves_have_labels(name):
    axes = drawn(name).axes
    assert axes[0].get_ylabel().startswith("test accuracy")
    assert [one.get_xlabel() for one in axes[-2:]] == ["neurons ablated"] * 2


def test_class_curves_are_shares_of_each_class():
    figure = draw("class_curves", small(), ranked_by="random", direction="random")
    assert "Accuracy of each class: random order" in title(figure)
    axes = panel(figure, "layer 2, clamped to mean")
    (image,) = axes.get_images()
    correct = small()["correct"].values[:, 1, 2, 6:, :4]
    expected = correct.mean(axis=(0, 1)).T / 20
    np.testing.assert_allclose(np.asarray(image.get_array()), expected, rtol=1e-6)
    assert image.get_extent() == [-0.5, 3.5, 1.5, -0.5]  # a pixel per step and class
    assert image.get_clim() == (0, 1)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["0", "1"]


def test_class_curves_of_chosen_points_are_interpolated_between_them():
    results = small().isel(step=[0, 4, 7]).sel(scope=["network"])
    figure = draw("class_curves", results, ranked_by="entropy", direction="ascending")
    (image,) = panel(figure, "whole network, clamped to zero").get_images()
    correct = results["correct"].values[:, 0, 0, 0].mean(axis=0) / 20
    expected = [np.interp(np.arange(8), [0, 4, 7], one) for one in correct.T]
    np.testing.assert_allclose(np.asarray(image.get_array()), expected, rtol=1e-6)


def test_class_curves_need_an_order_of_the_results():
    message = "class_curves: expected ranked_by to be one of entropy, .*, got 'vari"
    with pytest.raises(ValueError, match=message):
        plots.class_curves(small(), "variance")


def test_difference_curves_draw_the_table():
    six = joint_results(hidden=(4, 3), seeds=6)
    few, figure = drawn("difference_curves"), draw("difference_curves", six)
    axes = panel(figure, "layer 1, clamped to mean")
    here = tables()["difference_curves"]
    here = here.query("scope == 'layer_1' and clamp == 'mean'")
    order = here.query("ranked_by == 'kl_selectivity' and direction == 'descending'")
    curve = line(axes, "KL selectivity, highest first")
    np.testing.assert_array_equal(heights(curve), order["mean"])
    thin, thick = (axes.get_lines()[start:12:2] for start in (0, 1))
    by_line = here.groupby(["ranked_by", "direction"], sort=False)
    for one, other, (_, order) in zip(thin, thick, by_line, strict=True):
        shown = (order["low"] > 0) | (order["high"] < 0)
        np.testing.assert_array_equal(heights(other), order["mean"].where(shown))
        assert other.get_linewidth() > 2 * one.get_linewidth()
    assert np.isfinite(np.concatenate([*map(heights, thick)])).any()
    assert legend_texts(figure)[-1] == "thick: 95 % band over all steps excludes 0"
    lines = panel(few, "layer 1, clamped to mean").get_lines()[1:12:2]
    assert not np.isfinite(np.concatenate([*map(heights, lines)])).any()
    assert legend_texts(few) == legend_texts(figure)[:-1]
    assert (
        "; no line is thick, as no test over networks can reach 5 %; 6 can, 3 more "
        "are needed"
    ) in title(few)


def test_order_effects_are_filled_where_they_are_significant():
    figure = drawn("order_effects")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["entropy", "mutual information", "KL selectivity"]
    axes = panel(figure, "layer 2, clamped to zero")
    intervals, points = axes.collections[:2]  # of the ascending orders
    here = tables()["order_effects"]
    here = here.query("scope == 'layer_2' and clamp == 'zero'")
    here = here.query("direction == 'ascending'")
    offsets = np.asarray(points.get_offsets())
    np.testing.assert_array_equal(offsets[:, 0], here["effect"])
    is_hollow = (np.asarray(points.get_facecolor()) == 1).all(axis=1)
    np.testing.assert_array_equal(~is_hollow, here["p_corrected"] <= 0.05)
    assert 0 < is_hollow.sum() < 3
    ends = [np.asarray(path.vertices)[:, 0] for path in intervals.get_paths()]
    np.testing.assert_allclose(ends, here[["low", "high"]])


def test_effects_of_which_none_is_significant_say_so():
    table = tables()["order_effects"].assign(p_corrected=0.06)
    texts = legend_texts(draw("order_effects", small(), table=table))
    assert "none is significant (corrected p at most 0.05)" in texts
    assert "not significant" not in texts
    table = table.assign(p_corrected=np.nan)
    texts = legend_texts(draw("order_effects", small(), table=table))
    assert texts[2:] == [
        "mean over networks, without a test",
        "95 % interval over networks",
    ]


def test_published_points_are_drawn_beside_the_curves():
    points = pd.DataFrame(
        {
            "scope": "layer_1",
            "clamp": ["zero", "zero", "mean"],
            "ranked_by": ["entropy", "entropy", "random"],
            "direction": ["ascending", "ascending", "random"],
            "step": [0, 3, 2],
            "accuracy": [0.9, 0.5, 0.7],
        }
    )
    figure = draw("published_points", small(), points=points)
    accuracy = small()["accuracy"].values[:, :, 1, :, :5]
    axes = panel(figure, "layer 1, clamped to zero")
    own = accuracy[:, 0, 0].mean(axis=0)
    np.testing.assert_allclose(heights(line(axes, "entropy, lowest first")), own, 1e-6)
    published = line(axes, "published, entropy, lowest first")
    np.testing.assert_array_equal(published.get_xydata(), [[0, 0.9], [3, 0.5]])
    assert not len(heights(line(axes, "published, random order")))
    axes = panel(figure, "layer 1, clamped to mean")
    published = line(axes, "published, random order")
    np.testing.assert_array_equal(published.get_xydata(), [[2, 0.7]])
    own = accuracy[:, 1, 6:].mean(axis=(0, 1))
    curve = line(axes, "random order, mean of 2 draws")
    np.testing.assert_allclose(heights(curve), own, rtol=1e-6)


def test_effects_in_many_layers_fit_a_page():
    results = joint_results(hidden=(1,) * 12, seeds=2, measures=THREE[:2])
    table = pd.DataFrame(
        [
            {"scope": scope, "clamp": clamp, "ranked_by": m, "direction": direction}
            for scope in results["scope"].values
            for clamp in ("zero", "mean")
            for m in THREE[:2]
            for direction in ("ascending", "descending")
        ]
    ).assign(effect=0.1, low=0.0, high=0.2, p_corrected=0.5)
    figure = draw("order_effects", results, table=table)
    assert len(figure.axes) == 2 * 13
    assert figure.get_figheight() < 9
