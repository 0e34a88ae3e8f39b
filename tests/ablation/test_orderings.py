"""Orders against NumPy, ties that are fair, masks written out, and every refusal."""

import itertools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import ioca_jax as ioca
from ioca_jax.ablation.orderings import checked_neurons

KEY = jax.random.key(0)
# Fixed keys: a frequency below is a fact about them, not a throw of the dice.
KEYS = jax.random.split(jax.random.key(1), 1200)


@pytest.fixture
def without_annotations():
    """As users run: without the checker of shapes, the first to object in tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("direction", ["ascending", "descending"])
def test_distinct_scores_are_sorted_as_numpy_sorts_them(direction):
    scores = np.random.default_rng(0).normal(size=40).astype(np.float32)
    expected = np.argsort(scores if direction == "ascending" else -scores)
    order = ioca.order_neurons(scores, direction=direction, key=KEY)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(order, expected)


def test_ascending_is_the_default():
    scores = np.array([3, 1, 2], np.float32)
    assert ioca.order_neurons(scores, key=KEY).tolist() == [1, 2, 0]


@pytest.mark.parametrize("direction", ["ascending", "descending"])
def test_the_neurons_of_a_layer(direction):
    scores = np.random.default_rng(0).normal(size=40).astype(np.float32)
    layer = np.arange(17, 29)
    order = ioca.order_neurons(scores, layer, direction, key=KEY)
    ranked = layer[np.argsort(scores[layer])]
    expected = ranked if direction == "ascending" else ranked[::-1]
    np.testing.assert_array_equal(order, expected)
    # The order in which they are listed, and the others' scores, do not matter.
    others = scores.copy()
    others[:17] = 9
    again = ioca.order_neurons(others, layer[::-1].copy(), direction, key=KEY)
    np.testing.assert_array_equal(again, order)


def test_infinite_scores_are_ordered():
    scores = np.array([np.inf, 0, -np.inf], np.float32)
    assert ioca.order_neurons(scores, key=KEY).tolist() == [2, 1, 0]
    order = ioca.order_neurons(scores, direction="descending", key=KEY)
    assert order.tolist() == [0, 1, 2]


@pytest.mark.parametrize("direction", ["ascending", "descending"])
def test_ties_are_broken_uniformly(direction):
    scores = np.array([1, 0, -0.0, 0, 2], np.float32)  # -0 and 0 are equal
    orders = jax.vmap(
        lambda key: ioca.order_neurons(scores, direction=direction, key=key)
    )(KEYS)
    if direction == "descending":
        orders = orders[:, ::-1]
    np.testing.assert_array_equal(np.unique(orders[:, 3:], axis=0), [[0, 4]])
    drawn = [tuple(order) for order in np.asarray(orders[:, :3]).tolist()]
    frequencies = [drawn.count(order) for order in itertools.permutations((1, 2, 3))]
    assert sum(frequencies) == len(KEYS)
    # 1,200 draws of six orders; fair ties fall below this once in 1,000 sets of keys.
    assert scipy.stats.chisquare(frequencies).pvalue > 1e-3


def test_the_same_key_breaks_ties_the_same_way():
    scores = np.zeros(30, np.float32)
    first, again = (ioca.order_neurons(scores, key=KEY) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = ioca.order_neurons(scores, key=jax.random.key(7))
    assert (first != other).any()
    assert (first != np.arange(30)).any()


def test_orders_under_jit_and_vmap():
    scores = np.random.default_rng(0).integers(0, 4, (3, 12)).astype(np.float32)
    layer = np.arange(2, 11)

    def order(scores, key):
        return ioca.order_neurons(scores, layer, key=key)

    looped = [order(*seed) for seed in zip(scores, KEYS[:3], strict=True)]
    np.testing.assert_array_equal(jax.vmap(order)(scores, KEYS[:3]), looped)
    np.testing.assert_array_equal(jax.jit(order)(scores[0], KEYS[0]), looped[0])


def test_a_random_order_is_a_uniform_permutation():
    neurons = np.array([4, 7, 9])
    drawn = jax.vmap(lambda key: ioca.random_order(neurons, key=key))(KEYS)
    assert drawn.dtype == jnp.int32
    listed = [tuple(order) for order in np.asarray(drawn).tolist()]
    frequencies = [listed.count(order) for order in itertools.permutations((4, 7, 9))]
    assert sum(frequencies) == len(KEYS)
    assert scipy.stats.chisquare(frequencies).pvalue > 1e-3  # as above
    again = ioca.random_order(neurons, key=KEYS[5])
    np.testing.assert_array_equal(again, drawn[5])


def test_masks_written_out():
    order = np.array([2, 0, 3])
    expected = [
        [True, True, True, True],
        [True, True, False, True],
        [False, True, False, True],
        [False, True, False, False],
    ]
    masks = ioca.cumulative_masks(order, 4)
    assert masks.dtype == jnp.bool_
    assert masks.tolist() == expected
    jitted = jax.jit(ioca.cumulative_masks, static_argnums=1)
    assert jitted(order, 4).tolist() == expected
    orders = np.stack([order, order[::-1]])
    mapped = jax.vmap(lambda order: ioca.cumulative_masks(order, 4))(orders)
    assert mapped[0].tolist() == expected
    assert mapped[1].tolist() == ioca.cumulative_masks(order[::-1].copy(), 4).tolist()


def test_an_empty_order_keeps_everything():
    masks = ioca.cumulative_masks(np.zeros(0, np.int32), 3)
    assert masks.tolist() == [[True, True, True]]


# Few lengths, so that JAX compiles few shapes.
@settings(max_examples=30)
@given(num_ablated=st.sampled_from([1, 5, 9]), seed=st.integers(0, 2**31 - 1))
def test_random_curves_are_cumulative(num_ablated, seed):
    # The public replication draws a fresh subset for every k.
    neurons = np.random.default_rng(seed).permutation(9)[:num_ablated]
    order = ioca.random_order(neurons, key=jax.random.key(seed))
    masks = np.asarray(ioca.cumulative_masks(order, 9))
    assert masks.shape == (num_ablated + 1, 9)
    ablated = ~masks
    np.testing.assert_array_equal(ablated.sum(axis=1), np.arange(num_ablated + 1))
    for before, after, neuron in zip(ablated[:-1], ablated[1:], order, strict=True):
        assert np.flatnonzero(before != after).tolist() == [int(neuron)]
    assert set(np.flatnonzero(ablated[-1])) == set(neurons)


SCORES = np.zeros(4, np.float32)


@pytest.mark.parametrize("nan", [[2], [0, 3]])
def test_nan_scores(nan):
    scores = SCORES.copy()
    scores[nan] = np.nan
    with pytest.raises(ValueError, match="scores") as error:
        ioca.order_neurons(scores, key=KEY)
    assert str(error.value) == (
        f"scores: expected numbers, got NaN for {len(nan)} of 4 neurons; such neurons "
        "have no place in an order"
    )


@pytest.mark.parametrize("direction", ["random", "Ascending", ""])
def test_unknown_directions(direction):
    with pytest.raises(ValueError, match="direction") as error:
        ioca.order_neurons(SCORES, direction=direction, key=KEY)
    assert str(error.value) == (
        "direction: expected one of ascending, descending (random_order draws at "
        f"random), got {direction!r}"
    )


@pytest.mark.usefixtures("without_annotations")
def test_scores_of_the_wrong_shape():
    with pytest.raises(ValueError, match="scores") as error:
        ioca.order_neurons(np.zeros((2, 4), np.float32), key=KEY)
    assert str(error.value) == "scores: expected shape [H], got [2, 4]"


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize(
    "scores",
    [
        np.array([3, 0, 200, 1], np.uint8),
        np.array([5, -128, 0, 127], np.int8),
        np.array([1, 2**40, 2**40 + 1, 0]),
        jnp.array([2**24 + 1, 2**24, -3, 0]),
    ],
)
def test_integers_are_ordered_as_they_are(scores):
    ascending = np.argsort(scores, kind="stable").tolist()
    order = ioca.order_neurons(scores, direction="descending", key=KEY)
    assert order.tolist() == ascending[::-1]
    assert ioca.order_neurons(scores, key=KEY).tolist() == ascending


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize(
    ("scores", "given"),
    [
        ([True, False], "bool"),
        ([1j, 2], "complex128"),
        (["a", "b"], "<U1"),
        ([None, 1.0], "object"),
    ],
)
def test_scores_that_are_no_numbers(scores, given):
    message = f"scores: expected float32 [H], a number for each neuron, got {given}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.order_neurons(np.array(scores), key=KEY)


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize(
    ("key", "given"),
    [(0, "0"), (None, "None"), (jax.random.split(KEY, 3), "key<fry> of shape [3]")],
)
def test_what_is_no_key(key, given):
    message = f"key: expected one key, as jax.random.key(0), got {given}"
    for call in (
        lambda: ioca.order_neurons(SCORES, key=key),
        lambda: ioca.random_order(np.arange(3), key=key),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


REFUSED = {
    "above": ([0, 4], "expected neuron indices in [0, 3], got 4"),
    "below": ([-1, 2], "expected neuron indices in [0, 3], got -1"),
    "twice": ([3, 1, 3], "expected every neuron once, got 3 twice"),
    "too long": (
        [0, 1, 2, 3, 0],
        "expected at most 4 neurons, all that the network has, got 5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("as_array", [np.array, jnp.array], ids=["numpy", "jax"])
def test_unusable_orders(case, as_array):
    order, expected = REFUSED[case]
    calls = (
        lambda: ioca.cumulative_masks(as_array(order), 4),
        lambda: ioca.order_neurons(SCORES, as_array(order), key=KEY),
        lambda: checked_neurons(np.array([[*range(len(order))][:4], order[:4]]), 4),
    )
    for call in calls[: 3 if case != "too long" else 2]:
        with pytest.raises(ValueError, match="order") as error:
            call()
        if call is not calls[2] or len(order) == 2:
            assert str(error.value) == f"order: {expected}"


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            np.array([0.0, 1.0]),
            "expected integers of shape [K], neuron indices, got float64 of shape [2]",
        ),
        (
            np.array([True, False]),
            "expected integers of shape [K], neuron indices, got bool of shape [2]",
        ),
        (
            np.array(3),
            "expected integers of shape [K], neuron indices, got int64 of shape []",
        ),
        (np.array([[0, 1], [2, 3]]), "expected shape [K], got [2, 2]"),
    ],
)
def test_orders_of_the_wrong_kind(order, expected):
    with pytest.raises(ValueError, match="order") as error:
        ioca.cumulative_masks(order, 4)
    assert str(error.value) == f"order: {expected}"


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize(
    ("neurons", "expected"),
    [
        (np.array([0.0, 1.5]), "expected integers of shape [K], neuron indices, got "),
        (np.array([[0, 1], [2, 3]]), "expected shape [K], got [2, 2]"),
        (np.array([3, 1, 3]), "expected every neuron once, got 3 twice"),
        (np.array([3, -1]), "expected neuron indices in [0, 2147483647], got -1"),
    ],
)
def test_what_no_random_order_is_drawn_of(neurons, expected):
    with pytest.raises(ValueError, match=f"^order: {re.escape(expected)}"):
        ioca.random_order(neurons, key=KEY)


@pytest.mark.usefixtures("without_annotations")
def test_neurons_to_order_have_one_axis():
    with pytest.raises(
        ValueError, match=r"^order: expected shape \[K\], got \[2, 1\]$"
    ):
        ioca.order_neurons(SCORES, np.array([[0], [1]]), key=KEY)


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("number", [3.0, "3", 0, True])
def test_numbers_of_neurons_that_are_none(number):
    with pytest.raises(ValueError, match="^num_neurons: expected a"):
        ioca.cumulative_masks(np.array([0]), number)


def test_static_refusals_while_tracing():
    trace = jax.jit(lambda order: ioca.cumulative_masks(order, 4))
    with pytest.raises(ValueError, match=r"^order: expected at most 4 neurons, all"):
        trace(np.arange(5))


def test_checked_orders_with_leading_axes():
    orders = checked_neurons(np.array([[0, 1], [1, 0]]), 2)
    assert orders.dtype == jnp.int32
    assert orders.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(
        ValueError, match=r"^order: expected every neuron once, got 1 twice$"
    ):
        checked_neurons(np.array([[0, 1], [1, 1]]), 2)
