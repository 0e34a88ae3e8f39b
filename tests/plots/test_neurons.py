"""Every neuron of every network is drawn where its measures and effects are."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba_array
from synthetic import synthetic_results, with_layer_names

from ioca_jax import plots
from plots.drawn import (
    draw,
    drawn,
    drawn_points,
    legend_texts,
    panel,
    panel_names,
    small,
    title,
)

LAYERS = (slice(0, 4), slice(4, 7))
LABELS = ["entropy (bits)", "mutual information (bits)", "KL selectivity (bits)"]


def test_distributions_show_every_neuron_of_every_network_in_its_layer():
    figure = drawn("measure_distributions")
    assert [axes.get_ylabel() for axes in figure.axes] == LABELS
    for index, axes in enumerate(figure.axes):
        points = drawn_points(axes)
        assert len(points) == 2
        for layer, neurons in enumerate(LAYERS):
            x, y = np.asarray(points[layer].get_xydata()).T
            np.testing.assert_array_equal(np.round(x), layer)
            expected = small()["score"].values[:, index, neurons].ravel()
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)  # rounded
        names = [text.get_text() for text in axes.get_xticklabels()]
        assert names == ["layer 1", "layer 2"]
        violins = [c for c in axes.collections if isinstance(c, PolyCollection)]
        for line, violin in zip(points, violins, strict=True):
            pale = to_rgba_array(line.get_markeredgecolor(), 0.3)
            np.testing.assert_array_equal(violin.get_facecolor(), pale)


def test_layers_with_names_keep_them():
    results = with_layer_names(small(), ["conv1", "layers/0/mlp"])
    axes = draw("measure_distributions", results).axes[0]
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ticks == ["conv1", "layers/0/mlp"]
    titles = [axes.get_title() for axes in draw("single_effects", results).axes]
    assert titles[:2] == ticks
    titles = [axes.get_title() for axes in draw("class_costs", results).axes]
    assert titles[:2] == ticks


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("noise", [0, 1e-30])
def test_distributions_of_dead_layers_and_single_neurons(seeds, noise):
    hidden = (3, 1)
    shape = (seeds, 1, sum(hidden))
    scores = np.random.default_rng(0).random(shape, np.float32) * np.float32(noise)
    results = synthetic_results(
        hidden=hidden, seeds=seeds, scores=scores, measures=("entropy",)
    )
    figure = draw("measure_distributions", results)
    figure.draw_without_rendering()
    assert len(figure.axes) == 1


def test_scatter_has_a_row_per_pair_and_a_panel_per_layer():
    figure = drawn("measure_scatter")
    assert panel_names(figure) == ["layer 1", "layer 2"] * 3
    assert [axes.get_xlabel() for axes in figure.axes[::2]] == [
        *(LABELS[0], LABELS[0], LABELS[1])
    ]
    assert [axes.get_ylabel() for axes in figure.axes] == [
        *(LABELS[1], "", LABELS[2], "", LABELS[2], "")
    ]
    scores = small()["score"].values
    for axes, neurons in zip(figure.axes[4:], LAYERS, strict=True):
        (points,) = drawn_points(axes)
        expected = [scores[:, index, neurons].ravel() for index in (1, 2)]
        np.testing.assert_array_equal(np.asarray(points.get_xydata()).T, expected)
    first, second = figure.axes[4:]
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()


def test_scatter_needs_two_measures():
    with pytest.raises(ValueError, match="two measures or more, got entropy alone$"):
        plots.measure_scatter(synthetic_results(measures=("entropy",)))


def test_single_effects_are_increases_of_the_loss():
    figure = draw("single_effects", small(), clamp="zero")
    assert [axes.get_xlabel() for axes in figure.axes[::2]] == LABELS
    assert figure.axes[0].get_ylabel() == "increase of\ntest loss (nats)"
    increase = small()["single_loss"].values[:, 0] - 0.5
    for place, axes in enumerate(figure.axes):
        index, neurons = place // 2, LAYERS[place % 2]
        (points,) = drawn_points(axes)
        x, y = np.asarray(points.get_xydata()).T
        scores = small()["score"].values[:, index, neurons]
        np.testing.assert_array_equal(x, scores.ravel())
        np.testing.assert_allclose(y, increase[:, neurons].ravel(), rtol=1e-6)


def test_ticks_of_effects_are_apart():
    results = small().copy(deep=True)
    effects = results["single_loss"]
    effects.values[:] = 0.5 + 0.002 * np.random.default_rng(0).standard_t(
        3, effects.shape
    )
    axes = draw("single_effects", results, clamp="zero").axes[0]
    low, high = axes.get_ylim()
    ticks = np.array([tick for tick in axes.get_yticks() if low <= tick <= high])
    pixels = axes.transData.transform(np.stack([0 * ticks, ticks], axis=1))[:, 1]
    assert len(ticks) >= 4
    increase = effects.values[:, 0] - 0.5
    assert low < increase.min()
    assert increase.max() < high
    assert np.diff(pixels).min() > 15  # a line of text


def test_class_costs_are_means_over_networks_in_ascending_order_of_the_measure():
    figure = draw("class_costs", small(), measure="entropy", clamp="mean")
    for layer, neurons in ((1, np.arange(4)), (2, np.arange(4, 7))):
        (image,) = panel(figure, f"layer {layer}").get_images()
        of_networks = []
        for seed in range(3):
            scores = small()["score"].values[seed, 0, neurons]
            arranged = neurons[np.argsort(scores)]
            change = small()["single_correct"].values[seed, 1][arranged] - 15
            of_networks.append(100 * change.T / 20)
        expected = np.mean(of_networks, axis=0)
        np.testing.assert_allclose(np.asarray(image.get_array()), expected)
    with pytest.raises(ValueError, match="measure to be one of entropy, .*, got 'cost"):
        plots.class_costs(small(), "cost")


def test_class_costs_are_of_tenths_and_marked_where_they_are_not_0():
    results = synthetic_results(hidden=(25,), seeds=6, measures=("entropy",))
    correct = results["single_correct"]
    correct.values[:] = 15 + np.random.default_rng(0).integers(-1, 2, correct.shape)
    order = np.argsort(results["score"].values[:, 0], axis=1)
    for seed, last in enumerate(order[:, -2:]):
        correct.values[seed, :, last, 1] = 5
    figure = draw("class_costs", results, measure="entropy", clamp="zero")
    axes = panel(figure, "layer 1")
    values = np.asarray(axes.get_images()[0].get_array())
    assert values.shape == (2, 10)
    assert values[1, -1] == pytest.approx(-50)
    (dots,) = axes.get_lines()
    marked = np.asarray(dots.get_xydata()).tolist()
    assert [9, 1] in marked
    assert len(marked) < 10
    assert legend_texts(figure) == ["sign-flip test of the cell: p at most 0.05"]
    assert "; dots are not corrected for the number of cells" in title(figure)
    few = draw("class_costs", results.isel(seed=range(5)), measure="entropy")
    assert not few.legends
    assert not panel(few, "layer 1").get_lines()
    assert (
        "; there are no dots, as only the one-sided tests of hypotheses on curves can "
        "reach 5 %; with 6 all tests can, 1 more is needed"
    ) in title(few)


def test_dots_of_class_costs_of_sparse_counts_are_false_in_at_most_5_percent():
    """A network loses an example of the class, gains one, or most often neither."""
    rng = np.random.default_rng(0)
    cells, false = 0, 0
    for seeds in (6, 8, 12):
        results = synthetic_results(
            hidden=(10,) * 6, seeds=seeds, measures=("entropy",), random_orders=0
        )
        correct = results["single_correct"]
        moved = rng.choice([-1, 0, 1], correct.shape, p=[0.15, 0.7, 0.15])
        correct.values[:] = 15 + moved
        figure = draw("class_costs", results, measure="entropy", clamp="zero")
        for layer in range(1, 7):
            axes = panel(figure, f"layer {layer}")
            cells += np.asarray(axes.get_images()[0].get_array()).size
            false += sum(len(np.asarray(one.get_xdata())) for one in axes.get_lines())
    assert cells == 3 * 6 * 20
    assert false / cells <= 0.05


def test_panels_of_damage_to_classes_are_as_wide_as_there_is_space_for():
    """And the clamp in the title stays on one line."""
    figure = draw("class_damage", small())
    figure.draw_without_rendering()
    first, second = figure.axes[:2]
    between = second.get_window_extent().x0 - first.get_window_extent().x1
    assert between < 0.2 * first.get_window_extent().width
    assert "clamped to mean" in figure.get_suptitle()
