"""Histories and trajectories are means over networks, and may be absent."""

import numpy as np
import pytest

from plots.drawn import (
    bands,
    draw,
    drawn,
    heights,
    labelled,
    least,
    legend_texts,
    line,
    small,
    title,
)

HISTORY = [f"{s}_{q}" for s in ("train", "validation") for q in ("loss", "accuracy")]
TRAINING = "training, mean over the epoch (loss with penalty)"


def test_history_draws_the_mean_and_every_network():
    loss, accuracy = drawn("training_history").axes
    assert loss.get_ylabel() == "loss (nats)"
    assert accuracy.get_ylabel() == "accuracy"
    for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        assert axes.get_xlabel() == "epochs of training"
        assert len(axes.get_lines()) == 2 * (1 + 3)
        for label, split in (
            (TRAINING, "train"),
            ("validation, at the end of the epoch", "validation"),
        ):
            values = small()[f"{split}_{quantity}"].values
            curve = line(axes, label)
            np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 3, 4])
            np.testing.assert_allclose(heights(curve), values.mean(axis=0), rtol=1e-6)


def test_the_last_of_twenty_epochs_has_a_tick():
    results = least(seeds=1)
    twenty = results.isel(epoch=np.arange(20) % results.sizes["epoch"])
    figure = draw("training_history", twenty.assign_coords(epoch=np.arange(1, 21)))
    low, high = figure.axes[0].get_xlim()
    ticks = [t for t in figure.axes[0].get_xticks() if low <= t <= high]
    assert ticks[-1] == 20


def test_history_of_one_network_has_no_thin_lines():
    history = draw("training_history", least(seeds=1))
    assert [len(axes.get_lines()) for axes in history.axes] == [2, 2]


def test_history_of_networks_that_all_diverged():
    figure = draw("training_history", least(diverged=(0, 1)))
    assert "2 networks, diverged" in title(figure)
    curve = line(figure.axes[0], TRAINING)
    # what is not finite is not drawn
    np.testing.assert_array_equal(np.isfinite(heights(curve)), [1, 0, 0, 0])


def test_networks_trained_elsewhere_have_no_history():
    results = small().drop_vars([*HISTORY, "epoch"])
    message = "^training_history: expected results with train_loss, .*, got results "
    with pytest.raises(ValueError, match=f"{message}without; only a study that train"):
        draw("training_history", results)
    figure = draw("trajectories", results)
    (test,) = labelled(figure, "error rate").get_lines()
    expected = 1 - results["trajectory_accuracy"].values.mean(axis=0)
    np.testing.assert_allclose(heights(test), expected, rtol=1e-5)
    assert not any("training error" in text for text in legend_texts(figure))


def test_trajectories_are_medians_of_neurons_and_means_of_networks():
    results = small().copy(deep=True)
    # This measure is not of information, and these groups have no index.
    results["trajectory_score"].values[:, :, 2] = np.nan
    results["layer_redundancy_index"].values[0, 0, 0] = np.nan
    results["layer_information"].values[:, 1:, 1] = 2.5
    figure = draw("trajectories", results)
    assert len(figure.axes) == 2 + 4
    scores = results["trajectory_score"].values[:, :, 1, 4:]
    axes = labelled(figure, "mutual information (bits)")
    median = axes.get_lines()[1]
    np.testing.assert_array_equal(median.get_xdata(), [0, 1, 4])
    expected = np.median(scores, axis=-1).mean(axis=0)
    np.testing.assert_allclose(heights(median), expected, rtol=1e-6)
    low, high = np.quantile(scores[:, 0], [0.25, 0.75], axis=-1).mean(axis=1)
    np.testing.assert_allclose(bands(axes)[1], [low, high], rtol=1e-6)
    axes = labelled(figure, "entropy of the\nquantised layer, plug-in (bits)")
    entropy = results["layer_entropy"].values.mean(axis=0)
    np.testing.assert_allclose(heights(axes.get_lines()[0]), entropy[:, 0], rtol=1e-6)
    np.testing.assert_allclose(heights(axes.get_lines()[2]), np.log2(1000))
    limit = "upper limit of an estimate from 1,000 examples"
    assert limit in legend_texts(figure)
    axes = labelled(figure, "I(layer; class) (bits)")
    bound, _, estimate = axes.get_lines()
    decoded = results["layer_information_decoded"].values.mean(axis=0)
    np.testing.assert_allclose(heights(bound), decoded[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(estimate.get_xydata(), [[1, 2.5], [4, 2.5]])
    axes = labelled(figure, "redundancy index\n(above 1: redundancy)")
    index = np.median(results["layer_redundancy_index"].values[:, :, 0], axis=-1)
    expected = np.nanmean(index, axis=0)
    np.testing.assert_allclose(heights(axes.get_lines()[0]), expected, rtol=1e-6)
    test, training = labelled(figure, "error rate").get_lines()
    for curve, name in ((test, "trajectory_accuracy"), (training, "train_accuracy")):
        expected = 1 - results[name].values.mean(axis=0)
        np.testing.assert_allclose(heights(curve), expected, rtol=1e-5)


def test_information_plane_has_a_line_per_layer_and_a_point_per_network():
    axes, bar = drawn("information_plane").axes
    x, y = (
        small()[name].values for name in ("layer_entropy", "layer_information_decoded")
    )
    *lines, ceiling = axes.get_lines()
    assert len(lines) == 2
    for layer, curve in enumerate(lines):
        means = np.stack([x[..., layer].mean(0), y[..., layer].mean(0)], axis=1)
        np.testing.assert_allclose(np.asarray(curve.get_xydata()), means, rtol=1e-6)
        networks, mean = axes.collections[2 * layer : 2 * layer + 2]
        every = np.stack([x[..., layer].ravel(), y[..., layer].ravel()], axis=1)
        np.testing.assert_array_equal(np.asarray(networks.get_offsets()), every)
        np.testing.assert_array_equal(mean.get_array(), [0, 1, 4])
    np.testing.assert_allclose(np.asarray(ceiling.get_xdata()), np.log2(1000))
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["epoch 0", "epoch 4"] * 2
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0", "1", "4"]
