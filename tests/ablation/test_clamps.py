"""Clamps beyond given constants: outputs of donors, and fitted constants."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import random_examples, random_network

import ioca_jax as ioca
from ioca_jax.ablation.pair_effects import pair_effects
from ioca_jax.ablation.singles import single_ablations

X, Y = random_examples()
DONORS, DONOR_LABELS = random_examples(seed=2, num_examples=31)
KEY = jax.random.key(3)


@pytest.mark.parametrize("kind", ["shared", "of its class", "per neuron"])
def test_ablated_neurons_output_what_their_donor_outputs(kind):
    model, variables = random_network()
    by_class = {"y": Y, "donor_labels": DONOR_LABELS} if kind == "of its class" else {}
    found = ioca.resample(
        *(model, X, DONORS, KEY), per_neuron=kind == "per neuron", **by_class
    )
    outputs = reference.forward(model, variables, found.donors)[1]
    donor = np.asarray(found.row)[:, None]
    if kind == "per neuron":
        shift = np.asarray(found.shift)
        assert len(set(shift.tolist())) > 10
        donor = (donor + shift) % len(outputs)
    of_neurons = np.broadcast_to(donor, (len(X), model.num_neurons))
    clamp = np.take_along_axis(outputs, of_neurons, axis=0).T  # [H, N]

    order = np.random.default_rng(0).permutation(model.num_neurons)
    masks = np.asarray(ioca.cumulative_masks(order, model.num_neurons))
    curve = ioca.ablation_curve(model, variables, order, found, X, Y, memory_gb=1e-4)
    for point in (0, 1, 7, 18):
        correct, loss, near_tie = reference.evaluate(
            model, variables, masks[point], clamp, X, Y
        )
        assert not near_tie
        np.testing.assert_array_equal(curve.correct[point], correct)
        np.testing.assert_allclose(curve.loss[point], loss, rtol=1e-5)


def test_a_donor_of_the_same_class_is_one():
    model, _ = random_network()
    found = ioca.resample(model, X, DONORS, KEY, y=Y, donor_labels=DONOR_LABELS)
    of_donor = found.donors[found.row]
    rows = (np.asarray(of_donor)[:, None] == DONORS).all(axis=-1)
    assert (rows.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(DONOR_LABELS[rows.argmax(axis=1)], Y)
    assert len(set(rows.argmax(axis=1).tolist())) > 15


def test_channels_output_their_donors_maps():
    model = ioca.CNN(channels=(3, 2), hidden=(4,), num_classes=4, image_shape=(4, 4, 1))
    x = X[:, :1] * np.ones((1, 16), np.float32) + np.arange(16, dtype=np.float32) / 16
    images, donors = x.reshape(-1, 4, 4, 1), 1 - x[:20].reshape(-1, 4, 4, 1)
    variables = model.init(jax.random.key(0), images)
    found = ioca.resample(model, images, donors, KEY)
    everything = np.zeros((1, model.num_neurons), bool)
    loss = ioca.evaluate_masks(model, variables, everything, found, images, Y).loss
    # With all neurons taken from donors, the network answers for the donors.
    of_donor = found.donors[found.row]
    keep = ~everything
    expected = ioca.evaluate_masks(model, variables, keep, np.zeros(9), of_donor, Y)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"donors": DONORS[:, :5]},
            r"donors: expected one or more examples of shape \[12\], got shape",
        ),
        (
            {"y": Y, "donor_labels": np.zeros(31, np.int32)},
            "donor_labels: expected a donor of every class, got none of class 1, 2, 3",
        ),
        ({"y": Y}, "y, donor_labels: expected both or none, got one"),
        (
            {"y": Y, "donor_labels": Y[:12]},
            "^donor_labels: expected 31, one for each example, got 12",
        ),
        (
            {"y": Y - 1, "donor_labels": np.resize(Y, 31)},
            r"^y: expected values in \[0, 3\], got -1; ",
        ),
        (
            {"y": np.eye(4, dtype=int)[Y], "donor_labels": np.resize(Y, 31)},
            r"^y: expected shape \[N\], one class for each example, got shape",
        ),
        (
            {"y": Y, "donor_labels": np.resize(Y, 31) * 1.0},
            "^donor_labels: expected integers, got float64; ",
        ),
        (
            {"donors": DONORS * np.nan},
            "^donors: expected numbers, got NaN for 372 of 372 values; leave such",
        ),
        ({"donors": DONORS + np.inf}, "^donors: expected finite numbers of float32"),
        (
            {"donors": np.full(DONORS.shape, 255, np.uint8)},
            "^donors: expected examples scaled as in training, got integers up to 255;",
        ),
    ],
)
def test_donors_that_do_not_fit_are_refused(arguments, message, unchecked_shapes):
    model, _ = random_network()
    given = {"x": X, "donors": DONORS, "key": KEY} | arguments
    with pytest.raises(ValueError, match=message):
        ioca.resample(model, **given)


def test_donors_of_more_classes_than_a_byte_counts():
    """With examples of 8 bits, a donor's number is no value of an example."""
    classes, rng = 300, np.random.default_rng(0)
    x = rng.integers(0, 2, (600, 12)).astype(np.uint8)
    y = np.arange(600) % classes
    network = ioca.trace_network(
        lambda v, x: jnp.maximum(x.astype(jnp.float32) @ v["a"], 0) @ v["b"],
        {"a": jnp.ones((12, 3)), "b": jnp.ones((3, classes))},
        x,
    )
    found = ioca.resample(network, x, x, KEY, y=y, donor_labels=y)
    of_donor = np.asarray(found.donors[found.row])
    for label in (0, 255, 256, 299):
        own = x[y == label]
        assert (own == of_donor[y == label][0]).all(axis=1).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r, r"shift \[2, 18\], a place for each neuron, got \[18\]; call "),
        (
            lambda r: dataclasses.replace(r.for_one_network(), row=r.row[:12]),
            "^clamp: expected a donor for each of 53 examples, got 12; call resample",
        ),
        (lambda r: r.for_one_network(), r"shift \[2, 18\], .*, got \[1, 18\]; call "),
    ],
)
@pytest.mark.parametrize("function", ["single", "pairs", "curves"])
def test_resamplings_of_other_networks_are_refused(change, message, function):
    model, variables = random_network()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    found = change(ioca.resample(model, X, DONORS, KEY))
    orders = np.zeros((2, 1), np.int32)
    calls = {
        "single": lambda: single_ablations(model, both, found, X, Y),
        "pairs": lambda: pair_effects(model, both, found, X, Y, 0),
        "curves": lambda: ioca.ablation_curves(model, both, orders, found, X, Y),
    }
    with pytest.raises(ValueError, match=message):
        calls[function]()


def test_a_resampling_is_of_its_examples():
    model, variables = random_network()
    found = ioca.resample(model, X, DONORS, KEY)
    order = np.arange(3, dtype=np.int32)
    with pytest.raises(
        ValueError,
        match="^clamp: expected a donor for each of 12 examples, got 53; call resample "
        "with these examples$",
    ):
        ioca.ablation_curve(model, variables, order, found, X[:12], Y[:12])


@pytest.fixture(scope="module")
def fitted():
    """A network of one input and two neurons, and its fitted constants by kind."""
    model = ioca.MLP(hidden=(2,), num_classes=2, activation="tanh")
    x = np.linspace(-2, 2, 200, dtype=np.float32)[:, None]
    y = (x[:, 0] > 0.5).astype(np.int32)
    kernels = [[1.5, -0.7]], [[-1.0, 2.0], [1.5, -0.5]]
    biases = [-0.6, 0.8], [0.3, 0.0]
    dense = {
        f"dense_{i}": {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
    }
    variables = {"params": dense}
    means = model.apply(variables, x)[1].mean(axis=0)
    constants = {
        jointly: ioca.optimal_clamp(
            model, variables, means, x, y, jax.random.key(0), jointly=jointly
        )
        for jointly in (True, False)
    }
    return model, variables, x, y, means, constants


def losses(fitted, clamps, masks):
    """Exact losses [clamps, masks], by the reference."""
    model, variables, x, y = fitted[:4]
    return np.array(
        [
            [reference.evaluate(model, variables, m, c, x, y)[1] for m in masks]
            for c in clamps
        ]
    )


def test_constants_alone_are_those_of_a_grid(fitted):
    constants = np.asarray(fitted[-1][False])
    for neuron in range(2):
        keep = np.arange(2) != neuron
        grid = np.linspace(-2, 2, 161)
        of_grid = losses(fitted, np.stack([grid, grid], axis=1), [keep])[:, 0]
        found = losses(fitted, [constants], [keep])[0, 0]
        assert abs(constants[neuron] - grid[of_grid.argmin()]) < 0.15
        assert found < of_grid.min() + 1e-3


def test_joint_constants_minimise_the_loss_over_subsets(fitted):
    masks = [np.array(keep) for keep in ([0, 1], [1, 0], [0, 0])]
    # Each of two neurons alone, or both, as often: shares are uniform.
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 41)] * 2), axis=-1).reshape(-1, 2)
    weights = np.array([1 / 6, 1 / 6, 1 / 3])
    of_grid = losses(fitted, grid, masks) @ weights
    found, of_means = losses(fitted, [fitted[-1][True], fitted[-2]], masks) @ weights
    assert found < of_grid.min() + 1e-3
    assert of_means > of_grid.min() + 0.01  # the fit had something to find


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": np.full(2, np.inf)}, "clamp: expected finite numbers of float32"),
        ({"x": np.full((200, 1), np.inf)}, "x: expected finite numbers of float32"),
        ({"x": np.full((200, 1), 17)}, "x: expected examples scaled as in training"),
    ],
)
def test_constants_are_fitted_to_finite_numbers(
    fitted, changes, message, unchecked_shapes
):
    model, variables, x, y, means, _ = fitted
    given = {"means": means, "x": x, "y": y, "key": KEY} | changes
    with pytest.raises(ValueError, match=f"^{message}"):
        ioca.optimal_clamp(model, variables, **given)


def test_too_few_examples_for_a_fit():
    model, variables = random_network()
    with pytest.raises(ValueError, match="x: expected at least 100 examples to fit"):
        ioca.optimal_clamp(model, variables, np.zeros(18), X, Y, KEY)
