"""The built-in convolutional network: its figures, its training, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca

IMAGES = np.random.default_rng(0).normal(size=(24, 8, 8, 1)).astype(np.float32)
LABELS = np.arange(24, dtype=np.int32) % 3
NETWORK = ioca.CNN((3, 2), (4,), 3, (8, 8, 1), batch_norm=True)


def moved(variables):
    """Batch norm's parameters and statistics as after some training."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: a + rng.uniform(0.1, 0.5, a.shape), variables)


@pytest.fixture(scope="module")
def variables():
    return moved(NETWORK.init(jax.random.key(0), IMAGES))


def by_hand(variables, x: np.ndarray, keep: np.ndarray, clamp: np.ndarray):
    """Logits by a loop over pixels, channels clamped at each."""
    keeps, clamps = np.split(keep, [3, 5]), np.split(clamp, [3, 5])
    params, running = (
        jax.tree.map(np.asarray, variables[name]) for name in ("params", "batch_stats")
    )

    def layer(index, affine):
        norm, of = params[f"norm_{index}"], running[f"norm_{index}"]
        scaled = (affine - of["mean"]) / np.sqrt(of["var"] + 1e-5)
        outputs = np.maximum(scaled * norm["scale"] + norm["bias"], 0)
        return np.where(keeps[index], outputs, clamps[index])

    outputs, activations = x.astype(np.float64), []
    for index in range(2):
        weights = params[f"conv_{index}"]
        size = outputs.shape[1]
        padded = np.pad(outputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        affine = np.zeros((*outputs.shape[:3], weights["kernel"].shape[3]))
        for row in range(size):
            for column in range(size):
                window = padded[:, row : row + 3, column : column + 3]
                affine[:, row, column] = np.einsum(
                    "nijc,ijcd->nd", window, weights["kernel"]
                )
        outputs = layer(index, affine + weights["bias"])
        activations.append(outputs.mean(axis=(1, 2)))
        outputs = outputs.reshape(len(x), size // 2, 2, size // 2, 2, -1)
        outputs = outputs.mean(axis=(2, 4))
    dense = params["dense_0"]
    hidden = layer(2, outputs.reshape(len(x), -1) @ dense["kernel"] + dense["bias"])
    activations.append(hidden)
    last = params["dense_1"]
    return hidden @ last["kernel"] + last["bias"], np.concatenate(activations, axis=1)


def test_logits_and_activations_are_those_of_a_loop(variables):
    rng = np.random.default_rng(2)
    clamp = rng.normal(size=9).astype(np.float32)
    for keep in (np.ones(9, bool), rng.random(9) < 0.5, np.zeros(9, bool)):
        found = NETWORK.apply(variables, IMAGES, ioca.Ablation(keep, clamp))
        for ours, expected in zip(
            found, by_hand(variables, IMAGES, keep, clamp), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)


def test_it_is_the_network_that_tracing_finds(variables):
    traced = ioca.trace_network(
        lambda variables, x: NETWORK.apply(variables, x)[0], variables, IMAGES
    )
    shapes = [(layer.kind, layer.shape) for layer in NETWORK.layers]
    assert shapes == [("conv", (8, 8, 3)), ("conv", (4, 4, 2)), ("dense", (4,))]
    assert [(layer.kind, layer.shape) for layer in traced.layers] == shapes
    order = np.array([8, 0, 4, 1, 3, 7, 2, 6, 5], np.int32)
    clamp = np.full(9, 0.1, np.float32)
    curves = [
        ioca.ablation_curve(network, variables, order, clamp, IMAGES, LABELS)
        for network in (NETWORK, traced)
    ]
    assert curves[0].correct.tolist() == curves[1].correct.tolist()
    np.testing.assert_allclose(curves[0].loss, curves[1].loss, rtol=1e-5)


def test_means_over_pixels_are_measured_with_eight_codes(variables):
    found = ioca.measure_neurons(NETWORK, variables, IMAGES, LABELS)
    _, activations = NETWORK.apply(variables, IMAGES)
    codes = ioca.quantize(activations, "uniform:8")
    counts = ioca.joint_counts(codes, LABELS, num_codes=8, num_classes=3)
    np.testing.assert_array_equal(found.joint_counts, counts)
    config = ioca.StudyConfig(architecture="cnn", channels=(3,), hidden=(4,))
    assert config.quantizer == "uniform:8"
    assert ioca.StudyConfig(hidden=(4,)).quantizer == "threshold"


def test_it_is_trained_for_many_seeds_at_once():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 8, 8)).astype(np.float32)  # without an axis of colours
    y = (x[:, :4].mean(axis=(1, 2)) > x[:, 4:].mean(axis=(1, 2))).astype(np.int32)
    x[y == 1, :4] += 1
    data = ioca.Dataset.from_arrays(x, y, x[:30], y[:30], num_validation=10)
    network = ioca.CNN((2,), (3,), 2, (8, 8, 1), dropout_rate=0.1)
    config = ioca.TrainConfig(epochs=12, batch_size=10, learning_rate=0.03)
    trained = ioca.train(network, data, config, seeds=(0, 5))
    alone = ioca.train(network, data, config, seeds=(5,))
    for one, other in zip(
        jax.tree.leaves(trained.variables_of(1)),
        jax.tree.leaves(alone.variables_of(0)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    keep, clamp = np.ones(5, bool), np.zeros(5, np.float32)
    found = ioca.evaluate_masks(network, alone.variables_of(0), keep, clamp, *data.test)
    assert found.accuracy > 0.8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": ()}, "channels: expected one or more widths, .*, got \\[\\]"),
        ({"hidden": (0,)}, "hidden: expected .* a positive integer, got \\[0\\]"),
        ({"image_shape": (8, 8)}, "image_shape: expected height, width and number"),
        ({"image_shape": (3, 8, 1)}, "at least 4 pixels .*2 convol.*got \\[3, 8, 1\\]"),
        ({"activation": "swish"}, "activation: expected one of relu, .*got 'swish'"),
    ],
)
def test_fields_that_are_refused(fields, message):
    arguments = {"channels": (3, 2), "hidden": (4,), "num_classes": 3} | fields
    with pytest.raises(ValueError, match=message):
        ioca.CNN(**arguments)


def test_examples_and_variables_of_other_networks_are_refused(variables):
    with pytest.raises(ValueError, match=r"shape \[8, 8, 1\], got \[8, 8, 3\]"):
        NETWORK.apply(variables, jnp.zeros((2, 8, 8, 3)))
    other = ioca.CNN((3, 5), (4,), 3, (8, 8, 1), batch_norm=True)
    with pytest.raises(
        ValueError,
        match=r"^variables: expected those of one network, with batch_stats/norm_1/mean"
        r" float32 \[5\], as traced, got float32 \[2\]$",
    ):
        ioca.measure_neurons(other, variables, IMAGES, LABELS)
