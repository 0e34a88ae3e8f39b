"""Curves of single networks are drawn at their steps, several as mean and band."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import ioca_jax as ioca
from plots.drawn import bands, heights, line

CORRECT = jnp.array([[[6, 2], [4, 0], [1, 0]], [[6, 2], [2, 2], [3, 0]]])
LOSS = jnp.array([[0.25, 0.5, 2], [0.75, 0.5, 1]])
STEPS = (0, 4, 10)
CURVES = ioca.Evaluation(CORRECT, LOSS, 10, at=STEPS)
ONE = ioca.Evaluation(CORRECT[0], LOSS[0], 10, at=STEPS)


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def test_one_curve_is_its_accuracy_at_its_steps():
    axes = ioca.plot_curve(ONE)
    (curve,) = axes.get_lines()
    expected = [[0, 0.8], [4, 0.4], [10, 0.1]]
    np.testing.assert_allclose(np.asarray(curve.get_xydata()), expected, rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("neurons ablated", "accuracy")
    assert axes.get_legend() is None
    assert not axes.collections
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    assert tuple(figure.get_size_inches()) == (3.25, 0.75 * 3.25)


def test_several_curves_are_a_mean_and_a_band_in_axes_that_are_given():
    axes = pyplot.subplots()[1]
    drawn = ioca.plot_curve({"both": CURVES, "one": ONE}, "loss", ax=axes)
    assert drawn is axes
    assert axes.get_ylabel() == "loss (nats)"
    np.testing.assert_allclose(heights(line(axes, "both")), [0.5, 0.5, 1.5])
    np.testing.assert_allclose(heights(line(axes, "one")), [0.25, 0.5, 2])
    spread = np.std([0.25, 0.75], ddof=1)
    (ends,) = bands(axes)
    np.testing.assert_allclose(ends, [0.5 - spread, 0.5 + spread], rtol=1e-6)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["both", "one"]


def test_masks_and_unknown_metrics_are_refused():
    masks = ioca.Evaluation(CORRECT, LOSS, 10)
    message = "^steps: expected a curve, got the evaluation of masks$"
    with pytest.raises(ValueError, match=message):
        ioca.plot_curve(masks)
    message = (
        r"^metric: expected one of accuracy, loss, got 'kl'; ablation_curve\(..., "
        r"metrics=\) evaluates others$"
    )
    with pytest.raises(ValueError, match=message):
        ioca.plot_curve(ONE, "kl")
    assert not pyplot.get_fignums()
