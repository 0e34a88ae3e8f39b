"""Training: what a seed decides, what the loss is, and who poisons whom."""

import dataclasses
import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples
from reference import forward

import ioca_jax as ioca
from ioca_jax.devices import COMPILED_QUICKLY, device_mesh
from ioca_jax.networks import training


@pytest.fixture(scope="module")
def data() -> ioca.Dataset:
    """Two classes told apart by the sign of a sum of inputs."""

    def split(seed: int, num_examples: int) -> ioca.Split:
        x, _ = random_examples(seed, num_examples)
        return ioca.Split(x, (x[:, :6].sum(1) > x[:, 6:].sum(1)).astype(np.int32))

    return ioca.Dataset("sums", split(0, 203), split(1, 60), split(2, 60), 2)


MODEL = ioca.MLP(hidden=(8, 6), num_classes=2)
CONFIG = ioca.TrainConfig(epochs=3, batch_size=20, learning_rate=1e-2)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_seed_is_the_same_whatever_runs_beside_it(data):
    together = ioca.train(MODEL, data, CONFIG, (4, 9, 2))
    alone = ioca.train(MODEL, data, CONFIG, (9,))
    chunked = ioca.train(MODEL, data, CONFIG, (4, 9, 2), memory_gb=1e-9)
    for whole, one, chunk in zip(
        *(leaves((t.variables, t.history)) for t in (together, alone, chunked)),
        strict=True,
    ):
        np.testing.assert_array_equal(whole[1], one[0])
        np.testing.assert_array_equal(whole, chunk)
    np.testing.assert_array_equal(chunked.seeds, [4, 9, 2])
    first, other = (leaves(together.variables)[1][s] for s in (0, 1))
    assert np.abs(first - other).max() > 0.1


def test_snapshots_are_the_networks_of_shorter_trainings(data):
    whole = ioca.train(MODEL, data, CONFIG, (4, 9), keep_epochs=(0, 2, 3))
    plain = ioca.train(MODEL, data, CONFIG, (4, 9))
    chunked = ioca.train(
        MODEL, data, CONFIG, (4, 9), keep_epochs=(0, 2, 3), memory_gb=1e-9
    )
    shorter = dataclasses.replace(CONFIG, epochs=2)
    shorter = ioca.train(MODEL, data, shorter, (4, 9)).variables
    init = jax.vmap(lambda s: MODEL.init(jax.random.split(s)[0], data.train.x[:1]))
    before = jax.jit(init, compiler_options=COMPILED_QUICKLY)(
        jnp.stack([jax.random.key(4), jax.random.key(9)])
    )
    pairs = [
        (whole.variables, plain.variables),
        (whole.snapshots, chunked.snapshots),
        (whole.snapshots, (before, shorter, plain.variables)),
    ]
    for found, wanted in pairs:
        for a, b in zip(leaves(found), leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, b)
    assert plain.snapshots == ()


@pytest.mark.parametrize("epochs", [(4,), (-1,), (1, 1), (2, 0)])
def test_snapshots_past_the_end_are_refused(epochs, data):
    with pytest.raises(ValueError, match="keep_epochs: expected ascending numbers"):
        ioca.train(MODEL, data, CONFIG, (4,), keep_epochs=epochs)


def test_the_same_seeds_give_the_same_bits(data):
    first, second = (ioca.train(MODEL, data, CONFIG, (0, 1)) for _ in range(2))
    for a, b in zip(leaves(first), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_step_of_sgd_is_the_gradient_of_the_documented_loss(data):
    """One epoch of one batch: finite differences of an independent loss."""
    config = ioca.TrainConfig(
        epochs=1, batch_size=203, learning_rate=0.5, l2=0.05, optimizer="sgd"
    )
    model = ioca.MLP(hidden=(3,), num_classes=2, activation="tanh")
    state = training._initial_states(model, config, (12,), jnp.array([7], jnp.uint32))
    before = jax.tree.map(lambda leaf: np.float64(leaf[0]), state.variables["params"])
    trained = ioca.train(model, data, config, (7,))
    after = jax.tree.map(lambda leaf: np.float64(leaf[0]), trained.variables["params"])

    def loss(params):
        logits, _ = forward(model, {"params": params}, data.train.x)
        chosen = logits[np.arange(len(logits)), data.train.y]
        cross_entropy = np.log(np.exp(logits).sum(axis=1)) - chosen
        kernels = [params[name]["kernel"] for name in ("dense_0", "dense_1")]
        return cross_entropy.mean() + 0.05 * sum((k**2).sum() for k in kernels)

    for layer, name, index in (
        ("dense_0", "kernel", (3, 1)),
        ("dense_0", "bias", (2,)),
        ("dense_1", "kernel", (0, 1)),
        ("dense_1", "bias", (1,)),
    ):
        slopes = []
        for sign in (1, -1):
            moved = jax.tree.map(np.copy, before)
            moved[layer][name][index] += sign * 1e-5
            slopes.append(sign * loss(moved) / 2e-5)
        expected = before[layer][name][index] - 0.5 * sum(slopes)
        # float32 weights and gradients of order 1
        np.testing.assert_allclose(after[layer][name][index], expected, atol=2e-6)
    np.testing.assert_allclose(
        trained.history["train_loss"][0, 0], loss(before), rtol=1e-5
    )


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "sgd"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_learns(data, optimizer, batch_norm):
    model = ioca.MLP(
        hidden=(16,), num_classes=2, batch_norm=batch_norm, dropout_rate=0.1
    )
    rate = {"adam": 2e-2, "momentum": 0.05, "sgd": 0.3}[optimizer]
    config = ioca.TrainConfig(
        epochs=25, batch_size=20, learning_rate=rate, l2=0.0, optimizer=optimizer
    )
    trained = ioca.train(model, data, config, (0, 1))
    for name, values in trained.history.items():
        assert values.shape == (2, 25), name
    assert (trained.history["validation_accuracy"][:, -1] > 0.8).all()
    # The history is that of the networks returned, in inference mode.
    for seed in range(2):
        variables = jax.tree.map(lambda leaf, s=seed: leaf[s], trained.variables)
        logits, _ = forward(model, variables, data.validation.x)
        accuracy = np.mean(logits.argmax(1) == data.validation.y)
        np.testing.assert_allclose(
            trained.history["validation_accuracy"][seed, -1], accuracy, atol=1e-6
        )


def test_every_epoch_shuffles_anew_and_repeats_no_example(data):
    """Seen in the losses of networks that stand still."""
    still = dataclasses.replace(
        CONFIG, epochs=2, learning_rate=1e-30, l2=0.0, optimizer="sgd"
    )
    # 7 batches of 29 are all 203 examples: the mean of their losses is the mean of all.
    trained = ioca.train(MODEL, data, dataclasses.replace(still, batch_size=29), (0, 1))
    for seed in range(2):
        variables = jax.tree.map(lambda leaf, s=seed: leaf[s], trained.variables)
        logits, _ = forward(MODEL, variables, data.train.x)
        chosen = logits[np.arange(203), data.train.y]
        expected = (np.log(np.exp(logits).sum(axis=1)) - chosen).mean()
        # float32 means of 29 and of 7, against float64
        np.testing.assert_allclose(
            trained.history["train_loss"][seed], expected, rtol=1e-5
        )
    # 2 batches of 101 leave one example out, which is another in each epoch and seed.
    uneven = dataclasses.replace(still, batch_size=101)
    losses = ioca.train(MODEL, data, uneven, (0, 1)).history["train_loss"]
    assert (np.abs(np.diff(losses, axis=1)) > 1e-5).all()


def test_a_diverged_network_is_named_and_poisons_none(data):
    """A seed alone cannot be made to diverge, so its start is made NaN here."""
    seeds = jnp.array([0, 1], jnp.uint32)
    state = training._initial_states(MODEL, CONFIG, (12,), seeds)
    epoch = partial(training._train_epoch, MODEL, CONFIG, device_mesh(), False)
    rest = (0, *data.train, data.validation)
    healthy, _ = epoch(jax.tree.map(jnp.copy, state), *rest)
    params = state.variables["params"]
    params["dense_0"]["bias"] = params["dense_0"]["bias"].at[0, 0].set(jnp.nan)
    state, metrics = epoch(state, *rest)
    history = {name: values[:, None] for name, values in metrics.items()}
    trained = ioca.Trained(state.variables, np.array([0, 1]), history)
    np.testing.assert_array_equal(trained.diverged, [True, False])
    for sick, well in zip(
        leaves(state.variables), leaves(healthy.variables), strict=True
    ):
        np.testing.assert_array_equal(sick[1], well[1])


def test_trained_networks_are_printed_as_a_table_of_epochs():
    done = jnp.arange(9.0)
    history = {"train_loss": jnp.stack([done, 3 * done, jnp.nan * done])}
    history |= {name: history["train_loss"] / 10 for name in training.HISTORY[1:]}
    trained = ioca.Trained({"w": np.zeros((3, 50))}, np.array([4, 1, 0]), history)
    head, names, *rows = repr(trained).splitlines()
    assert head == (
        "3 networks (seeds 4, 1, 0), 1 diverged and left out, 9 epochs; mean of "
        "networks"
    )
    assert " ".join(names.split()) == (
        "epoch train loss (nats) train accuracy validation loss (nats) validation "
        "accuracy"
    )
    assert [row.split() for row in rows] == [
        ["1", "0.0000", "0.0000", "0.0000", "0.0000"],
        ["3", "4.0000", "0.4000", "0.4000", "0.4000"],
        ["5", "8.0000", "0.8000", "0.8000", "0.8000"],
        ["7", "12.0000", "1.2000", "1.2000", "1.2000"],
        ["9", "16.0000", "1.6000", "1.6000", "1.6000"],
    ]
    alone = ioca.Trained({"w": np.zeros((1, 2))}, np.array([7]))
    assert repr(alone) == "1 network (seeds 7)"
    many = ioca.Trained({"w": np.zeros((6, 2))}, np.arange(6))
    assert repr(many) == "6 networks (seeds 0, 1, 2, 3, 4, ...)"


def test_divergence_in_a_real_run(data):
    config = ioca.TrainConfig(
        epochs=2, batch_size=20, learning_rate=1e30, optimizer="sgd"
    )
    assert ioca.train(MODEL, data, config, (0, 1)).diverged.all()


def test_a_second_call_compiles_nothing(data, compiled):
    ioca.train(MODEL, data, CONFIG, (0, 1))
    compiled.clear()
    ioca.train(MODEL, data, CONFIG, (5, 6))
    assert not compiled


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"epochs": 2.0}, "epochs: expected an integer, got 2.0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (
            {"learning_rate": 0.0},
            "learning_rate: expected a positive number, got 0.0",
        ),
        (
            {"learning_rate": "1e-3"},
            "learning_rate: expected a finite number, got '1e-3'",
        ),
        ({"l2": float("nan")}, "l2: expected a number not negative, got nan"),
        (
            {"optimizer": "lion"},
            "optimizer: expected one of adam, momentum, sgd, got 'lion'",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_configurations(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ioca.TrainConfig(**fields)


@pytest.mark.usefixtures("unchecked_shapes")
def test_data_that_is_no_dataset():
    arrays: Any = (np.zeros((4, 3)), np.zeros(4, int))
    with pytest.raises(ValueError, match="^data: expected a Dataset, got a tuple; "):
        ioca.train(MODEL, arrays, CONFIG, (0,))


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ((), r"seeds: expected one or more integers, got \[\]"),
        ((0.5,), r"seeds: expected one or more integers, got \[0.5\]"),
        (5, r"seeds: expected a sequence, got 5; a sequence of one value is \(5,\)"),
        ((1, 2, 1), "seeds: expected distinct seeds, got 1 twice"),
        ((-1, 2), r"seeds: expected integers in \[0, 2\^31\), got -1"),
        ((2**31,), r"seeds: expected integers in \[0, 2\^31\), got 2147483648"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_seeds(data, seeds, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ioca.train(MODEL, data, CONFIG, seeds)


def test_labels_counted_from_1_are_refused(data):
    """Such a training once ended with 75 % accuracy and a loss that was no number."""
    x, y = data.train
    with pytest.raises(ValueError, match="expected the labels 0, 1, ..., C-1"):
        ioca.train(
            ioca.MLP(hidden=(3,), num_classes=2),
            ioca.Dataset.from_arrays(x, y + 1, x, y + 1),
            *(CONFIG, (0,)),
        )
    with pytest.raises(ValueError, match=r"train.y: expected values in .* got 2"):
        dataclasses.replace(data, train=ioca.Split(x, y + np.int32(1)))


def test_a_model_or_batch_that_does_not_fit_the_data(data):
    with pytest.raises(
        ValueError, match="^num_classes: expected 2, as sums has, got 3$"
    ):
        ioca.train(ioca.MLP(hidden=(3,), num_classes=3), data, CONFIG, (0,))
    config = dataclasses.replace(CONFIG, batch_size=204)
    with pytest.raises(
        ValueError,
        match="^batch_size: expected at most 203, the training split's size, got 204$",
    ):
        ioca.train(MODEL, data, config, (0,))


def fresh(seeds, model=MODEL, num_inputs=12):
    """The variables that the seeds start from."""
    numbers = jnp.array(seeds, jnp.uint32)
    return training._initial_states(model, CONFIG, (num_inputs,), numbers).variables


@pytest.mark.parametrize(
    ("memory_gb", "batch_norm"),
    [(4.0, True), (1e-9, False), pytest.param(1e-9, True, marks=pytest.mark.slow)],
)
def test_given_the_variables_of_a_seed_it_is_that_seed(data, memory_gb, batch_norm):
    """In chunks too; and what was given is there still.

    To the last bit where programs are compiled as by default, which the cheap way of
    most tests does not promise.
    """
    model = dataclasses.replace(MODEL, dropout_rate=0.2, batch_norm=batch_norm)
    given = fresh((4, 9, 2), model)
    before = jax.tree.map(np.array, given)
    expected = ioca.train(model, data, CONFIG, (4, 9, 2))
    trained = ioca.train(
        model, data, CONFIG, (4, 9, 2), initial=given, memory_gb=memory_gb
    )
    tolerance = 0 if os.environ.get("IOCA_SLOW") else 1e-6
    for a, b in zip(leaves(trained), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance)
    for a, b in zip(leaves(given), leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_seed_starts_from_its_own_variables_and_keeps_its_batches(data):
    """Networks that stand still are what was given; losses tell the batches."""
    still = dataclasses.replace(CONFIG, epochs=1, learning_rate=1e-30, optimizer="sgd")
    given = jax.tree.map(np.array, fresh((1, 0, 7)))
    trained = ioca.train(MODEL, data, still, (4, 9, 2), initial=given)
    for a, b in zip(leaves(trained.variables), leaves(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-25)  # ten steps of 1e-30
    alone = ioca.train(
        *(MODEL, data, still, (9,)),
        initial=jax.tree.map(lambda leaf: leaf[1:2], given),
    )
    other = ioca.train(
        *(MODEL, data, still, (3,)),
        initial=jax.tree.map(lambda leaf: leaf[1:2], given),
    )
    loss = trained.history["train_loss"][1, 0]
    assert loss == alone.history["train_loss"][0, 0]
    assert loss != other.history["train_loss"][0, 0]


def test_training_goes_on_from_trained_networks(data):
    """With one batch an epoch and no moments, two epochs are one and another."""
    one, two = (
        ioca.TrainConfig(
            epochs=epochs, batch_size=203, learning_rate=0.5, optimizer="sgd"
        )
        for epochs in (1, 2)
    )
    first = ioca.train(MODEL, data, one, (0, 1))
    again = ioca.train(MODEL, data, one, (0, 1), initial=first.variables)
    whole = ioca.train(MODEL, data, two, (0, 1))
    for a, b in zip(
        leaves(again.variables), leaves(whole.variables), strict=True
    ):  # the sums over examples are in another order
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert (again.history["train_loss"] < first.history["train_loss"]).all()


def test_variables_of_other_networks_are_refused(data):
    def without_a_bias(tree):
        del tree["params"]["dense_1"]["bias"]
        return tree

    cases = {
        "params/dense_0/bias float32 [2, 8], as traced, got float32 [3, 8]": fresh(
            (0, 1, 2)
        ),
        "params/dense_0/kernel float32 [2, 12, 8], as traced, got float32 [2, 11, 8]": (
            fresh((0, 1), num_inputs=11)
        ),
        "params/dense_1/bias float32 [2, 6], as traced, got no such variable": (
            without_a_bias(fresh((0, 1)))
        ),
        "batch_stats/norm_0/mean no such variable, as traced, got float32 [2, 8]": (
            fresh((0, 1), dataclasses.replace(MODEL, batch_norm=True))
        ),
    }
    for told, given in cases.items():
        with pytest.raises(ValueError, match="^initial: expected") as caught:
            ioca.train(MODEL, data, CONFIG, (0, 1), initial=given)
        text = f"initial: expected those of 2 networks, with {told}"
        assert str(caught.value) == text
