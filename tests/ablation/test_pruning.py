"""Pruned networks are the ablated ones, smaller; masks keep what they should."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network
from hypothesis import given
from hypothesis import strategies as st
from reference import forward

import ioca_jax as ioca
from ioca_jax.ablation.pruning import (
    kept_by_score,
    num_parameters,
    prune,
    prune_networks,
)

# float32 sums of at most 12 terms of order 1, in another order or against float64
assert_close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


def random_mask(model, seed=0, share=0.6):
    """Which neurons to keep, one of each layer at least."""
    rng = np.random.default_rng(seed)
    keep = rng.random(model.num_neurons) < share
    for where in model.layer_slices:
        keep[where.start] = True
    return keep


@pytest.mark.parametrize(
    ("activation", "batch_norm", "hidden"),
    [
        *itertools.product(["relu", "sigmoid", "tanh"], [False, True], [(7, 5, 6)]),
        *[("sigmoid", True, hidden) for hidden in ((9,), (4, 3, 5, 4))],
    ],
)
def test_gives_the_logits_of_the_ablated_network(activation, batch_norm, hidden):
    model, variables = random_network(
        activation=activation, batch_norm=batch_norm, hidden=hidden, dropout_rate=0.3
    )
    x, _ = random_examples()
    keep = random_mask(model)
    _, activations = model.apply(variables, x)
    arbitrary = np.random.default_rng(1).normal(size=len(keep)).astype(np.float32)
    for clamp in (np.zeros_like(arbitrary), activations.mean(axis=0), arbitrary):
        smaller, pruned = prune(model, variables, keep, clamp)
        logits, outputs = smaller.apply(pruned, x)
        expected, all_outputs = model.apply(variables, x, ioca.Ablation(keep, clamp))
        assert_close(logits, expected)
        assert_close(outputs, all_outputs[:, keep])
        assert_close(logits, forward(model, variables, x, keep, np.asarray(clamp))[0])
        assert_close(logits, forward(smaller, pruned, x)[0])
    assert smaller == ioca.MLP(
        hidden=tuple(int(keep[where].sum()) for where in model.layer_slices),
        num_classes=4,
        activation=activation,
        batch_norm=batch_norm,
        dropout_rate=0.3,
    )
    # It can be trained: these are the variables of a network of that shape.
    expected = jax.eval_shape(smaller.init, jax.random.key(0), jnp.asarray(x[:1]))
    assert jax.tree.map(jnp.shape, pruned) == jax.tree.map(jnp.shape, expected)


def test_zeros_leave_the_biases_and_kernels_as_they_are():
    model, variables = random_network(batch_norm=True)
    keep = random_mask(model)
    _, pruned = prune(model, variables, keep, np.zeros(len(keep), np.float32))
    below: np.ndarray | slice = slice(None)
    for layer in range(4):
        own = keep[model.layer_slices[layer]] if layer < 3 else slice(None)
        before, after = (v["params"][f"dense_{layer}"] for v in (variables, pruned))
        np.testing.assert_array_equal(after["kernel"], before["kernel"][below][:, own])
        np.testing.assert_array_equal(after["bias"], before["bias"][own])
        below = own


def test_nothing_removed_is_the_network_and_clamps_of_the_kept_are_not_used():
    model, variables = random_network(batch_norm=True)
    keep = np.ones(model.num_neurons, bool)
    smaller, pruned = prune(model, variables, keep, np.full(18, np.nan, np.float32))
    assert smaller == model
    jax.tree.map(np.testing.assert_array_equal, pruned, variables)


@pytest.fixture(scope="module")
def networks():
    """Three networks of a shape, and for each what to keep, equally many."""
    model, _ = random_network(batch_norm=True, activation="tanh")
    each = [random_network(s, batch_norm=True, activation="tanh")[1] for s in range(3)]
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    rng = np.random.default_rng(0)
    keep = np.zeros((3, model.num_neurons), bool)
    for row, (where, size) in itertools.product(
        keep, zip(model.layer_slices, (3, 1, 4), strict=True)
    ):
        row[rng.choice(np.arange(where.start, where.stop), size, replace=False)] = True
    clamp = rng.normal(size=keep.shape).astype(np.float32)
    return model, variables, keep, clamp


def test_many_networks_are_a_loop_and_compile_once(networks, compiled):
    model, variables, keep, clamp = networks
    smaller, pruned = prune_networks(model, variables, keep, clamp)
    assert smaller.hidden == (3, 1, 4)
    compiled.clear()
    prune_networks(model, variables, keep[::-1].copy(), clamp)
    assert not compiled
    for network in range(3):
        one = jax.tree.map(lambda leaf, n=network: leaf[n], variables)
        alone, expected = prune(model, one, keep[network], clamp[network])
        assert alone == smaller
        own = jax.tree.map(lambda leaf, n=network: leaf[n], pruned)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), own, expected)


def test_variables_may_be_traced(networks):
    model, variables, keep, clamp = networks
    _, expected = prune_networks(model, variables, keep, clamp)
    _, pruned = jax.jit(lambda v: (0, prune_networks(model, v, keep, clamp)[1]))(
        variables
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), pruned, expected)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_parameters_are_counted(batch_norm):
    model, variables = random_network(batch_norm=batch_norm)
    leaves = jax.tree.leaves(variables["params"])
    assert num_parameters(model, 12) == sum(leaf.size for leaf in leaves)
    assert num_parameters(ioca.MLP(hidden=(100, 100), num_classes=10), 784) == 89610


MODEL = ioca.MLP(hidden=(4, 1, 6), num_classes=3)
# Few values, so that there are ties.
SCORES = st.lists(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=11, max_size=11),
    min_size=2,
    max_size=2,
)
SIZES = st.tuples(*(st.integers(1, width) for width in MODEL.hidden))


@given(SCORES, SIZES, SIZES, st.integers(0, 99))
def test_what_is_kept_is_of_greatest_score_and_nested(scores, sizes, others, seed):
    key = jax.random.key(seed)
    scores = np.array(scores, np.float32)
    keep = np.asarray(kept_by_score(MODEL, scores, sizes, key=key))
    for where, size in zip(MODEL.layer_slices, sizes, strict=True):
        for row, kept in zip(scores[:, where], keep[:, where], strict=True):
            assert kept.sum() == size
            # Whatever goes is no greater than what stays.
            assert row[~kept].max(initial=-2) <= row[kept].min()
    smaller = kept_by_score(MODEL, scores, np.minimum(sizes, others).tolist(), key=key)
    assert not (np.asarray(smaller) & ~keep).any()


def test_ties_are_broken_at_random_by_each_networks_key(compiled):
    scores = np.zeros((2000, 11), np.float32)
    keep = kept_by_score(MODEL, scores, (1, 1, 3), key=jax.random.key(0))
    shares = np.asarray(keep).mean(axis=0)
    # 2,000 draws: a standard deviation is 0.011 at most.
    np.testing.assert_allclose(shares, [0.25] * 4 + [1] + [0.5] * 6, atol=0.05)
    # Layers draw independently: a quarter of a half.
    assert abs(np.mean(keep[:, 0] & keep[:, 5]) - 0.125) < 0.04
    keys = jax.vmap(jax.random.key)(np.array([7, 3]))
    both = kept_by_score(MODEL, scores[:2], (2, 1, 3), key=keys)
    compiled.clear()
    turned = kept_by_score(MODEL, scores[:2], (2, 1, 3), key=keys[::-1])
    kept_by_score(MODEL, scores[:2], (1, 1, 2), key=keys)
    assert "_first_of_every_layer" not in str(compiled)
    np.testing.assert_array_equal(both, turned[::-1])


KEEP, CLAMP = np.ones((2, 11), bool), np.zeros((2, 11), np.float32)
EMPTY, UNEQUAL = KEEP.copy(), KEEP.copy()
EMPTY[1, 4] = False
UNEQUAL[0, 6:8] = False
REMOVED = np.broadcast_to(np.arange(11) != 6, (2, 11))


def initial(networks):
    return jax.vmap(lambda key: MODEL.init(key, jnp.zeros((1, 5))))(
        jax.random.split(jax.random.key(0), networks)
    )


@pytest.mark.parametrize(
    ("keep", "clamp", "message"),
    [
        (
            EMPTY,
            CLAMP,
            "keep: expected at least one neuron kept in every layer, got 0 of 1 in "
            "hidden layer 2 in network 1; keep one or more there, or ablate the layer "
            "instead of pruning it",
        ),
        (
            UNEQUAL,
            CLAMP,
            "keep: expected all networks to keep the same number of neurons in a layer,"
            " got 4 and 6 of 6 in hidden layer 3 (networks 0 and 1); prune networks of "
            "different sizes in calls of their own",
        ),
        (
            KEEP[:, :-1],
            CLAMP,
            "keep: expected shape [2, 11], a value for each hidden neuron, got [2, 10]",
        ),
        (
            KEEP[0],
            CLAMP,
            "keep: expected shape [S, 11], a value for each hidden neuron, got [11]",
        ),
        (
            KEEP,
            CLAMP[0],
            "clamp: expected shape [2, 11], a value for each hidden neuron, got [11]",
        ),
        (
            KEEP.astype(int),
            CLAMP,
            "keep: expected bool, True for what stays, got int64",
        ),
        (
            KEEP[[0, 1, 1]],
            CLAMP[[0, 1, 1]],
            "variables: expected those of 3 networks, with params/dense_0/bias float32 "
            "[3, 4], as traced, got float32 [2, 4]",
        ),
        (
            REMOVED,
            np.full_like(CLAMP, np.nan),
            "clamp: expected numbers, got NaN for 2 of 22 values; an ablated neuron "
            "outputs a number",
        ),
        (
            REMOVED,
            np.full_like(CLAMP, np.inf),
            "clamp: expected finite numbers of float32, got others for 2 of 22 values; "
            "an ablated neuron outputs a number",
        ),
        (
            KEEP,
            KEEP,
            "clamp: expected one number, or float32 [..., 11], a value for each "
            "hidden neuron, got "
            "bool of shape [2, 11]",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_pruned(keep, clamp, message):
    with pytest.raises(ValueError, match="expected") as caught:
        prune_networks(MODEL, initial(2), keep, clamp)
    assert str(caught.value) == message


@pytest.mark.usefixtures("unchecked_shapes")
def test_one_network_that_cannot_be_pruned():
    variables = jax.tree.map(lambda leaf: leaf[0], initial(1))
    for keep, clamp, message in (
        (EMPTY[1], CLAMP[0], "got 0 of 1 in hidden layer 2; keep one or more there"),
        (KEEP, CLAMP[0], r"keep: expected shape \[11\], a value .*, got \[2, 11\]"),
        (KEEP[0], CLAMP, r"clamp: expected shape \[11\], a value .*, got \[2, 11\]"),
    ):
        with pytest.raises(ValueError, match=message):
            prune(MODEL, variables, keep, clamp)
    normed = dataclasses.replace(MODEL, batch_norm=True)
    with pytest.raises(
        ValueError, match="^variables: .* batch_stats/norm_0/mean float32"
    ):
        prune(normed, variables, KEEP[0], CLAMP[0])
    with pytest.raises(ValueError, match="^keep: .* got a traced array; prune outside"):
        jax.jit(lambda keep: prune(MODEL, variables, keep, CLAMP[0])[1])(KEEP[0])


@pytest.mark.parametrize(
    ("scores", "sizes", "message"),
    [
        *(
            (
                CLAMP,
                sizes,
                "sizes: expected for each of 3 layers how many neurons to keep, from 1 "
                "(an empty layer lets nothing through) to its width out of [4, 1, 6], "
                f"got {sizes}",
            )
            for sizes in ([4, 0, 6], [4, 2, 6], [4, 1], [2.5, 1, 6])
        ),
        (
            CLAMP[:, 1:],
            [1, 1, 1],
            "scores: expected shape [S, 11], a value for each hidden neuron, got "
            "[2, 10]",
        ),
        (
            np.where(EMPTY, CLAMP, np.float32(np.nan)),
            [1, 1, 1],
            "scores: expected numbers, got NaN for 1 of 22 neurons; leave out networks "
            "that diverged",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_kept(scores, sizes, message):
    with pytest.raises(ValueError, match="expected") as caught:
        kept_by_score(MODEL, scores, sizes, key=jax.random.key(0))
    assert str(caught.value) == message
