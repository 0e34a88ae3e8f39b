"""Networks with a class for each token, and padding: against NumPy and scikit-learn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentences import (
    LAYERS,
    mask_of,
    of_sentences,
    of_words,
    random_variables,
    sentences,
)
from sklearn.metrics import mutual_info_score

import ioca_jax as ioca
from ioca_jax.measures.scores import taylor

X, Y = sentences(60)
COUNTED = Y >= 0
VARIABLES = random_variables()
QUANTIZER = "quantile:3"
MEASURES = (
    "mutual_information",
    "class_selectivity",
    "activation_variance",
    "taylor_mean",
)


def traced(x, apply=of_words, **options):
    return ioca.trace_network(
        lambda v, x: apply(v, x), VARIABLES, x, layers=LAYERS, **options
    )


@pytest.fixture(scope="module")
def network():
    return traced(X)


@pytest.fixture(scope="module")
def measured(network):
    options = {"quantizer": QUANTIZER, "measures": MEASURES}
    return ioca.measure_neurons(network, VARIABLES, X, Y, **options)


@pytest.fixture(scope="module")
def outputs(network):
    """Of heads [N, T, 2, 4] and of units [N, T, 6]."""
    found = network.outputs(VARIABLES, X)[1]
    return [np.asarray(found[name], np.float64) for name in LAYERS]


@pytest.fixture(scope="module")
def samples(outputs):
    """What is measured of each word that counts, [samples, 8]."""
    heads, units = outputs
    return np.concatenate([heads.mean(axis=-1), units], axis=-1)[COUNTED]


def test_activations_are_of_each_token(network, outputs):
    heads, units = outputs
    logits, activations = network.apply(VARIABLES, X)
    assert logits.shape == (60, 8, 3)
    expected = np.concatenate([heads.mean(axis=-1), units], axis=-1)
    np.testing.assert_allclose(activations, expected, rtol=1e-5, atol=1e-6)


def test_information_is_that_of_the_tokens_that_count(measured, samples):
    labels = Y[COUNTED]
    codes = np.asarray(ioca.quantize(np.float32(samples), QUANTIZER))
    expected = [mutual_info_score(codes[:, h], labels) / np.log(2) for h in range(8)]
    found = measured.scores["mutual_information"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(measured.joint_counts).sum(axis=(1, 2)) == len(labels)).all()


def test_moments_and_clamps_are_means_over_tokens_that_count(
    measured, outputs, samples
):
    mean, variance = samples.mean(axis=0), samples.var(axis=0)
    np.testing.assert_allclose(measured.activation_mean, mean, rtol=1e-5, atol=1e-6)
    found = measured.scores["activation_variance"]
    np.testing.assert_allclose(found, variance, rtol=1e-4, atol=1e-6)
    clamp = np.concatenate([part[COUNTED].mean(axis=0).ravel() for part in outputs])
    np.testing.assert_allclose(measured.clamp, clamp, rtol=1e-5, atol=1e-6)


def test_class_selectivity_of_tokens(measured, samples):
    labels = Y[COUNTED]
    means = np.stack([samples[labels == c].mean(axis=0) for c in range(3)])
    most = means.max(axis=0)
    others = (means.sum(axis=0) - most) / 2
    expected = (most - others) / (np.abs(most) + np.abs(others))
    found = measured.scores["class_selectivity"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_taylor_is_of_each_tokens_loss(measured, outputs):
    """By a gradient for each token, with respect to the units at all positions."""
    clamp = np.asarray(measured.clamp)[8:]
    units = jnp.asarray(outputs[1], jnp.float32)
    network = traced(X)

    def loss(shift, n, t):
        shifts = {"up": shift}
        logits, _ = network.outputs(VARIABLES, X, shift=shifts)
        return -jax.nn.log_softmax(logits[n, t])[jnp.asarray(Y)[n, t]]

    total, some = np.zeros(6), [(0, 0), (7, 2)]
    gradient = jax.jit(jax.grad(loss))
    for n, t in some:
        moved = gradient(jnp.zeros_like(units), n, t) * (clamp - units)
        total += np.abs(np.asarray(moved).sum(axis=(0, 1)))
    few = {name: part[[0, 7]] for name, part in X.items()}
    labels = np.full((2, 8), -1)
    labels[0, 0], labels[1, 2] = Y[0, 0], Y[7, 2]
    found = taylor(network, VARIABLES, measured.clamp, few, labels)
    np.testing.assert_allclose(found[2:], total / 2, rtol=1e-4, atol=1e-6)


def test_a_users_score_sees_the_tokens_that_count(network, samples):
    peak = ioca.Score("peak", "1", lambda m: m.activations.max(axis=0))
    zeros = ioca.Score("zeros", "1", lambda m: jnp.full(8, (m.labels == 0).sum()))
    found = ioca.measure_neurons(
        network, VARIABLES, X, Y, measures=(peak, zeros), quantizer=QUANTIZER
    ).scores
    np.testing.assert_allclose(found["peak"], samples.max(axis=0), rtol=1e-5)
    assert (np.asarray(found["zeros"]) == (Y == 0).sum()).all()


@pytest.fixture(scope="module", params=[6, 30])
def padded(request):
    """The same sentences with more padding, and a network of such."""
    x, y = sentences(60, request.param)
    return traced(x), x, y


@pytest.mark.parametrize("quantizer", ["uniform:4", QUANTIZER])
def test_padding_changes_nothing_of_tokens(network, padded, quantizer):
    figures = []
    for of, x, y in ((network, X, Y), padded):
        found = ioca.measure_neurons(of, VARIABLES, x, y, quantizer=quantizer)
        masks = ~np.eye(8, dtype=bool)
        alone = ioca.evaluate_masks(of, VARIABLES, masks, found.clamp, x, y)
        figures.append((found, alone.correct, alone.loss, alone.num_examples))
    np.testing.assert_array_equal(
        figures[1][0].joint_counts, figures[0][0].joint_counts
    )
    for leaves in zip(*map(jax.tree.leaves, figures), strict=True):
        np.testing.assert_allclose(leaves[1], leaves[0], rtol=2e-5, atol=2e-6)


def test_padding_changes_nothing_of_examples():
    """Labels are of sentences; counts says which positions enter pooling and means."""
    labels, figures = np.arange(60) % 3, []
    for padding in (0, 6, 30):
        x, _ = sentences(60, padding)
        network = traced(x, of_sentences, counts=mask_of)
        found = ioca.measure_neurons(network, VARIABLES, x, labels, quantizer=QUANTIZER)
        order = np.array([4, 0, 2])
        curve = ioca.ablation_curve(network, VARIABLES, order, found.clamp, x, labels)
        figures.append((found, curve.correct, curve.loss))
    for leaves in zip(*map(jax.tree.leaves, figures), strict=True):
        for other in leaves[1:]:
            np.testing.assert_allclose(other, leaves[0], rtol=2e-5, atol=2e-6)


def test_pooling_over_positions_that_count_is_numpys():
    units = {}
    for pool in ("mean", "max", "share_active", "last"):
        network = traced(X, of_sentences, counts=mask_of, pool=pool)
        units[pool] = np.asarray(network.apply(VARIABLES, X)[1])[:, 2:]
    every = np.asarray(network.outputs(VARIABLES, X)[1]["up"])
    for n, mask in enumerate(X["mask"]):
        own = every[n][mask]
        for pool, expected in {
            "mean": own.mean(axis=0),
            "max": own.max(axis=0),
            "share_active": (own > 0).mean(axis=0),
            "last": own[-1],
        }.items():
            np.testing.assert_allclose(units[pool][n], expected, rtol=1e-5, atol=1e-6)


def test_clamps_count_positions_not_sentences(outputs):
    network = traced(X, of_sentences, counts=mask_of)
    y = np.arange(60) % 3
    found = ioca.measure_neurons(network, VARIABLES, X, y, quantizer=QUANTIZER)
    clamp = np.concatenate([p[X["mask"]].mean(axis=0).ravel() for p in outputs])
    np.testing.assert_allclose(found.clamp, clamp, rtol=1e-5, atol=1e-6)


ABLATED = {
    "units": (ioca.Ablation({"up": np.arange(6) != 1}, {"up": 0.3}), {"keep": 1}),
    "heads": (
        ioca.Ablation({"project:input": np.array([True, False])},
                      {"project:input": 0.3}),
        {"heads": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ABLATED)
def test_ablated_tokens_equal_a_copy_by_hand(network, case):
    ablation, changed = ABLATED[case]
    by_hand = {
        "keep": {"keep": np.arange(6) != 1},
        "heads": {"heads": np.array([True, False])},
    }
    (name,) = changed
    expected = of_words(VARIABLES, X, clamp=0.3, **by_hand[name])
    found, _ = network.apply(VARIABLES, X, ablation)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_curves_count_tokens(network, measured):
    order = np.array([3, 0, 5])
    found = ioca.ablation_curve(network, VARIABLES, order, measured.clamp, X, Y)
    masks = ioca.cumulative_masks(order, 8)
    for k, mask in enumerate(np.asarray(masks)):
        ablation = ioca.Ablation(mask, measured.clamp)
        logits = np.asarray(network.apply(VARIABLES, X, ablation)[0])
        right = (logits.argmax(axis=-1) == Y)[COUNTED]
        expected = [right[Y[COUNTED] == c].sum() for c in range(3)]
        np.testing.assert_array_equal(found.correct[k], expected)
    assert found.num_examples == COUNTED.sum()


def test_tokens_in_windows_are_the_tokens_that_they_were():
    rng = np.random.default_rng(5)
    v = {"w": rng.normal(size=(4, 5)), "c": rng.normal(size=(5, 2))}
    v = {name: leaf.astype(np.float32) for name, leaf in v.items()}
    x = rng.normal(size=(30, 6, 4)).astype(np.float32)
    y = np.where(rng.random((30, 6)) < 0.7, (x[..., 0] > 0).astype(int), -1)

    def apply(v, x):
        windows = jax.nn.relu(x @ v["w"]).reshape(-1, 3, 2, 5)
        windows = windows - windows.mean(axis=2, keepdims=True) / 2
        return windows.reshape(-1, 6, 5) @ v["c"]

    network = ioca.trace_network(apply, v, x)
    assert network.layers == (ioca.Layer("w", 5, "dense", (6,)),)
    outputs = np.maximum(x @ v["w"], 0)
    np.testing.assert_allclose(network.apply(v, x)[1], outputs, atol=1e-6)
    measured = ioca.measure_neurons(network, v, x, y, quantizer="threshold:0.5")
    np.testing.assert_allclose(measured.clamp, outputs[y >= 0].mean(axis=0), rtol=1e-5)
    codes = outputs[y >= 0] > 0.5
    expected = [mutual_info_score(y[y >= 0], code) / np.log(2) for code in codes.T]
    found = measured.scores["mutual_information"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_layers_without_the_tokens_axis_are_measured_once_for_each():
    """A sentence's vector enters all of its words."""

    def apply(v, x):
        whole = jnp.tanh(x.mean(axis=1) @ v["a"])
        return (x + whole[:, None]) @ v["out"]

    rng = np.random.default_rng(1)
    x = np.asarray(rng.normal(size=(9, 4, 5)), np.float32)
    y = rng.integers(-1, 3, size=(9, 4))
    v = {"a": rng.normal(size=(5, 5)), "out": rng.normal(size=(5, 3))}
    v = jax.tree.map(np.float32, v)
    network = ioca.trace_network(apply, v, x)
    found = ioca.measure_neurons(network, v, x, y, quantizer="quantile:2")
    whole = np.tanh(x.mean(axis=1) @ v["a"])
    each = np.repeat(whole[:, None], 4, axis=1)[y >= 0]
    np.testing.assert_allclose(found.activation_mean, each.mean(axis=0), rtol=1e-4)
    of_examples = whole[(y >= 0).any(axis=1)].mean(axis=0)
    np.testing.assert_allclose(found.clamp, of_examples, rtol=1e-4)


def test_no_number_where_no_position_counts():
    """Traced marks of none give NaN."""
    network = traced(X, of_sentences, counts=mask_of)
    none = X | {"mask": np.array(X["mask"]) & (np.arange(60) != 4)[:, None]}
    found = jax.jit(network.apply)(VARIABLES, none)[1]
    assert np.isnan(found[4]).all()
    assert np.isfinite(np.delete(found, 4, axis=0)).all()
    with pytest.raises(ValueError, match="^" + re.escape(
        "x: expected a position that counts in every example, got none in 1 of 60; "
        "leave such examples out"
    ) + "$"):  # fmt: skip
        ioca.measure_neurons(network, VARIABLES, none, np.arange(60) % 3)


REFUSED = {
    "one label an example": (
        np.arange(60) % 3,
        "y: expected shape [N, 8], a class for each token of the logits, or -1 where "
        "none counts, got shape [60]",
    ),
    "more tokens": (
        np.zeros((60, 9), int),
        "y: expected shape [N, 8], a class for each token of the logits, or -1 where "
        "none counts, got shape [60, 9]",
    ),
    "none counts": (
        np.full((60, 8), -1),
        "y: expected a class for one token or more, got -1 for all",
    ),
    "another class": (
        np.full((60, 8), 3),
        "y: expected values in [0, 2], got 3; number classes from 0 to num_classes - "
        "1, -1 where none counts",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_of_another_shape_are_refused(network, case):
    labels, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.measure_neurons(network, VARIABLES, X, labels)


def test_a_label_of_an_example_is_a_class():
    network = traced(X, of_sentences, counts=mask_of)
    with pytest.raises(ValueError, match=r"^y: expected values in \[0, 2\], got -1; "):
        ioca.measure_neurons(network, VARIABLES, X, np.arange(60) % 3 - 1)


COUNTS_REFUSED = {
    "a list": (
        lambda x: [1],
        "counts: expected a function counts(x) -> bool [N, 8], got a list for N = 60",
    ),
    "numbers": (
        lambda x: x["ids"],
        "counts: expected a function counts(x) -> bool [N, 8], got int32 [60, 8] for "
        "N = 60",
    ),
    "other tokens": (
        lambda x: x["mask"][:, :3],
        "counts: expected a function counts(x) -> bool [N, 8], got bool [60, 3] for "
        "N = 60",
    ),
    "fails": (
        lambda x: x["marks"],
        "counts: expected a function counts(x) -> bool [N, 8], got KeyError: 'marks'",
    ),
}


@pytest.mark.parametrize("case", COUNTS_REFUSED)
def test_counts_that_are_no_marks_are_refused(case):
    counts, message = COUNTS_REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        traced(X, counts=counts)


def test_marks_of_positions_that_no_layer_has_are_refused():
    message = "counts: expected marks of as many positions as a layer has, 8, got 3"
    with pytest.raises(ValueError, match=f"^{message}$"):
        traced(X, of_sentences, counts=lambda x: x["mask"][:, :3])
