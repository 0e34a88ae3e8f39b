"""Scores by ablation against loops, definitions and brute force."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network
from reference import evaluate

import ioca_jax as ioca
from ioca_jax.ablation import singles
from ioca_jax.ablation.greedy import greedy_orders

# float32 outputs and a mean of tens of them, against float64.
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}


def two_networks():
    model, first = random_network(0)
    _, second = random_network(1)
    return model, jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)


def test_single_ablations_are_a_loop():
    model, variables = two_networks()
    x, y = random_examples()
    rng = np.random.default_rng(3)
    clamp = rng.uniform(size=(2, 3, model.num_neurons)).astype(np.float32)
    found = singles.single_ablations(model, variables, clamp, x, y)
    assert found.alone.loss.shape == (2, 3, 18)
    assert found.alone.correct.shape == (2, 3, 18, 4)
    assert found.intact.loss.shape == (2, 3)
    for seed in range(2):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        _, loss, _ = evaluate(model, one, None, None, x, y)
        np.testing.assert_allclose(found.intact.loss[seed], loss, **CLOSE)
        for which, neuron in itertools.product(range(3), range(18)):
            keep = np.arange(18) != neuron
            correct, loss, near_tie = evaluate(
                model, one, keep, clamp[seed, which], x, y
            )
            here = (seed, which, neuron)
            np.testing.assert_allclose(found.alone.loss[here], loss, **CLOSE)
            missed = np.abs(np.asarray(found.alone.correct[here]) - correct).sum()
            assert missed <= 2 * near_tie


def test_shapley_values_of_all_orders_are_the_definition():
    # A game of four players: its value without a set of them.
    rng = np.random.default_rng(0)
    worth = {frozenset(): 1.0}
    for size in range(1, 5):
        for gone in itertools.combinations(range(4), size):
            worth[frozenset(gone)] = rng.uniform()
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    curves = [
        [worth[frozenset(order[:k].tolist())] for k in range(5)] for order in orders
    ]
    players = np.array([5, 2, 0, 7], np.int32)
    found = singles.shapley_values(np.asarray(curves, np.float32), players[orders], 8)
    for player in range(4):
        expected = 0.0
        for size in range(4):
            others = [p for p in range(4) if p != player]
            for before in itertools.combinations(others, size):
                weight = 1 / (4 * len(list(itertools.combinations(range(3), size))))
                gone = frozenset(before)
                expected += weight * (worth[gone] - worth[gone | {player}])
        np.testing.assert_allclose(found.value[players[player]], expected, atol=1e-6)
    assert np.isnan(np.asarray(found.value)[[1, 3, 4, 6]]).all()
    # They add up to what ablating all of them costs.
    total = 1 - worth[frozenset(range(4))]
    np.testing.assert_allclose(np.nansum(found.value), total, atol=1e-6)


def test_shapley_values_say_how_far_they_are_uncertain():
    rng = np.random.default_rng(0)
    curves = rng.uniform(size=(6, 4)).astype(np.float32)
    orders = np.tile(np.array([2, 0, 1], np.int32), (6, 1))
    found = singles.shapley_values(curves, orders, 3)
    costs = curves[:, :-1] - curves[:, 1:]
    np.testing.assert_allclose(found.value, costs.mean(axis=0)[[1, 2, 0]], atol=1e-6)
    errors = costs.std(axis=0, ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(found.standard_error, errors[[1, 2, 0]], atol=1e-6)
    alone = singles.shapley_values(curves[:1], orders[:1], 3)
    assert np.isnan(alone.standard_error).all()


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (
            [[0, 1], [2, 3]],
            "^orders: expected the same neurons in each, every one once",
        ),
        (
            [[0, 0], [0, 0]],
            "^orders: expected the same neurons in each, every one once",
        ),
        ([[0, 4], [4, 0]], r"^orders: expected neurons in \[0, 3\], got 4$"),
        ([[0, -1], [-1, 0]], r"^orders: expected neurons in \[0, 3\], got -1$"),
        ([[0, 1]], r"^expected accuracy \[M, K\+1\] of orders \[M, K\], got shapes "),
    ],
)
def test_orders_that_give_no_shapley_values(orders, message, unchecked_shapes):
    curves = np.array([[1, 0.5, 0], [1, 0.5, 0]], np.float32)
    with pytest.raises(ValueError, match=message):
        singles.shapley_values(curves, np.array(orders, np.int32), 4)


@pytest.mark.parametrize("neurons", [range(18), range(7), range(7, 12), [17, 1, 8, 3]])
def test_greedy_orders_are_brute_force(neurons):
    model, variables = two_networks()
    x, y = random_examples()
    neurons = np.array(neurons, np.int32)
    rng = np.random.default_rng(3)
    clamp = rng.uniform(size=(2, model.num_neurons)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    orders = greedy_orders(model, variables, clamp, x, y, neurons, keys=keys)
    assert orders.shape == (2, len(neurons))
    for seed in range(2):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        keep = np.ones(18, bool)
        for chosen in np.asarray(orders[seed]):
            costs = {}
            for neuron in neurons[keep[neurons]]:
                without = keep & (np.arange(18) != neuron)
                costs[neuron] = evaluate(model, one, without, clamp[seed], x, y)[1]
            # float32 losses: the chosen one is the least to within rounding.
            assert costs[chosen] <= min(costs.values()) * (1 + 1e-5)
            keep[chosen] = False


def test_greedy_ties_are_broken_by_the_key():
    model, variables = two_networks()
    for layer in range(4):  # nothing is felt
        variables["params"][f"dense_{layer}"]["kernel"] *= 0
    x, y = random_examples()
    clamp = jnp.zeros((2, 18))
    orders = [
        greedy_orders(
            model, variables, clamp, x, y, np.arange(18), keys=jax.random.split(key, 2)
        )
        for key in map(jax.random.key, (0, 0, 1))
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert len({tuple(np.asarray(order)) for order in (*orders[0], *orders[2])}) == 4


def test_the_greedy_order_bounds_the_rest(mnist5k):
    model = ioca.MLP(hidden=(20,), num_classes=10)
    trained = ioca.train(model, mnist5k, ioca.TrainConfig(epochs=2), (0,))
    x, y = mnist5k.validation
    clamp = jnp.zeros((1, 20))
    greedy = greedy_orders(
        model, trained.variables, clamp, x, y, np.arange(20),
        keys=jax.random.split(jax.random.key(0), 1),
    )  # fmt: skip
    key = jax.random.key(1)
    others = [
        ioca.random_order(np.arange(20), key=k) for k in jax.random.split(key, 20)
    ]
    orders = jnp.concatenate([greedy, jnp.stack(others)])[None]
    curves = ioca.ablation_curves(
        model, trained.variables, orders, clamp[:, None], x, y
    )
    losses = np.asarray(curves.loss[0]).mean(axis=-1)
    assert losses[0] < losses[1:].min()
