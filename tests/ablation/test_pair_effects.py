"""Effects of pairs: a loop over masks as the oracle, copies and an XOR."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network

import ioca_jax as ioca
from ioca_jax.ablation.pair_effects import pair_effects


def stacked(*networks):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)


def loop_over_pairs(model, variables, clamp, x, y, neurons):
    """Effects by a mask for each pair, through the reference engine."""

    def costs(*ablated):
        keep = np.ones((len(ablated), model.num_neurons), bool)
        for row, group in enumerate(ablated):
            keep[row, list(group)] = False
        found = ioca.evaluate_masks(model, variables, keep, clamp, x, y)
        correct = np.asarray(found.correct).sum(axis=-1)
        return np.stack([-correct / len(y), np.float64(found.loss)])

    pairs = list(itertools.product(neurons, repeat=2))
    intact = costs(())
    alone = costs(*[(n,) for n in neurons]) - intact
    both = costs(*pairs).reshape(2, len(neurons), -1) - intact[..., None]
    return both - alone[:, :, None] - alone[:, None, :], alone


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"activation": "relu"}, marks=pytest.mark.slow),
        {"activation": "sigmoid", "batch_norm": True, "hidden": (7, 5)},
    ],
    ids=["relu", "sigmoid"],
)
def test_pair_effects_agree_with_a_loop_over_pairs_of_masks(fields):
    model, _ = random_network(**fields)
    networks = [
        # Weights are greater than biases, so that examples differ in their class.
        jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim == 2 else leaf, variables)
        for _, variables in (random_network(seed, **fields) for seed in (0, 1))
    ]
    variables = stacked(*networks)
    x, y = random_examples()
    rng = np.random.default_rng(0)
    clamp = rng.uniform(size=(2, 2, model.num_neurons)).astype(np.float32)
    clamp[:, 0] = 0
    for layer, where in enumerate(model.layer_slices):
        found = pair_effects(model, variables, clamp, x, y, layer)
        width = model.hidden[layer]
        assert found.loss.shape == (2, 2, width, width)
        apart = ~np.eye(width, dtype=bool)
        assert np.isnan(np.asarray(found.accuracy)[..., ~apart]).all()
        for seed, variant in np.ndindex(2, 2):
            (accuracy, loss), (accuracy_alone, loss_alone) = loop_over_pairs(
                model,
                networks[seed],
                clamp[seed, variant],
                *(x, y),
                range(where.start, where.stop),
            )
            where_found = (seed, variant)
            # Counts are the same but for ties. The loop's four losses are up to 20
            # nats, each right to 2e-7 of that.
            for field, expected, tolerance in (
                (found.accuracy, accuracy, 1e-6),
                (found.loss, loss, 2e-5),
            ):
                field = np.asarray(field[where_found])
                np.testing.assert_allclose(
                    field[apart], expected[apart], rtol=0, atol=tolerance
                )
            np.testing.assert_allclose(
                found.accuracy_alone[where_found], accuracy_alone, atol=1e-6
            )
            np.testing.assert_allclose(
                found.loss_alone[where_found], loss_alone, atol=2e-5
            )
        # Something happens here: two examples of 53 and more.
        assert np.nanmax(np.abs(found.accuracy)) > 0.03


def test_pair_effects_do_not_depend_on_chunks_and_trace():
    model, variables = random_network()
    # Greatest logits of either sign, so that an example that is left out, whose own is
    # 0, would be right under some ablations only.
    variables["params"]["dense_3"]["bias"] -= 2.5
    variables = stacked(variables)
    x, y = random_examples()
    clamp = np.full((1, 18), 0.1, np.float32)
    whole = pair_effects(model, variables, clamp, x, y, 1)
    # Chunks of 1, of some and of all but some of the 53 examples.
    for memory_gb in (1e-9, 3e-6, 1.5e-5):
        parts = pair_effects(model, variables, clamp, x, y, 1, memory_gb=memory_gb)
        np.testing.assert_array_equal(parts.accuracy, whole.accuracy)
        np.testing.assert_array_equal(parts.accuracy_alone, whole.accuracy_alone)
        # Each example's is right to the rounding of a logit, 1e-6.
        np.testing.assert_allclose(parts.loss, whole.loss, atol=1e-6)
    traced = jax.jit(partial(pair_effects, model, layer=1))(variables, clamp, x, y)
    np.testing.assert_allclose(traced.accuracy, whole.accuracy, atol=1e-6)
    np.testing.assert_allclose(traced.loss, whole.loss, atol=1e-6)


def hand_made(first, bias, second, second_bias):
    """A network of one hidden layer with given weights, and the four inputs."""
    model = ioca.MLP((len(bias),), 2)
    params = {
        "dense_0": {"kernel": jnp.array(first), "bias": jnp.array(bias)},
        "dense_1": {"kernel": jnp.array(second), "bias": jnp.array(second_bias)},
    }
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    return model, stacked({"params": params}), np.zeros((1, len(bias)), np.float32), x


def test_copies_stand_in_for_each_other_and_parts_of_an_xor_do_not():
    # Two copies of the first input, either enough; a third neuron says nothing.
    copies = hand_made(
        [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [0.0, 0.0, 0.0],
        [[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]],
        [0.0, 0.0],  # where both are gone logits are equal, and the first is taken
    )
    found = pair_effects(*copies, np.array([0, 0, 1, 1], np.int32), 0)
    # Only ablating both is felt: half of the examples.
    np.testing.assert_allclose(found.accuracy_alone, [[0, 0, 0]])
    np.testing.assert_allclose(found.accuracy[0, 0, 1:], [0.5, 0])
    assert found.loss[0, 0, 1] > 0.05
    np.testing.assert_allclose(found.loss[0, 2, :2], 0, atol=1e-6)
    # x1 XOR x2 = (x1 + x2) - 2 (x1 + x2 - 1)+
    xor = hand_made(
        [[1.0, 1.0], [1.0, 1.0]], [0.0, -1.0], [[0.0, 2.0], [0.0, -4.0]], [1.0, 0.0]
    )
    found = pair_effects(*xor, np.array([0, 1, 1, 0], np.int32), 0)
    np.testing.assert_allclose(found.accuracy_alone, [[0.5, 0.25]])
    # Both cost as much as the first alone.
    np.testing.assert_allclose(found.accuracy[0, 0, 1], -0.25)
    assert found.loss[0, 0, 1] < -0.05


def test_effects_refuse_what_is_not_there(unchecked_shapes):
    model, variables = random_network()
    x, y = random_examples()
    network = (model, stacked(variables))
    clamp = np.zeros((1, 18), np.float32)
    with pytest.raises(
        ValueError, match="^layer: expected a hidden layer from 0 to 2, got 3$"
    ):
        pair_effects(*network, clamp, x, y, 3)
    with pytest.raises(
        ValueError,
        match=r"^clamp: expected float32 \[S, ..., 18\], a value for each hidden "
        r"neuron of each network, got shape \[18\]$",
    ):
        pair_effects(*network, clamp[0], x, y, 0)
    with pytest.raises(
        ValueError,
        match="^y: expected 53, one for each example, got 52$",
    ):
        pair_effects(*network, clamp, x, y[1:], 0)
    with pytest.raises(ValueError, match="^clamp: expected numbers, got NaN"):
        pair_effects(*network, np.nan * clamp, x, y, 0)
    with pytest.raises(
        ValueError, match="^memory_gb: expected a positive number, got -1$"
    ):
        pair_effects(*network, clamp, x, y, 0, memory_gb=-1)
