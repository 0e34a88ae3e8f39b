"""Every engine at every point of a curve, against an independent network.

Networks have one to four layers whose widths lie on both sides of the engines' blocks;
orders touch any subset of the layers. The oracle is NumPy in float64, mask by mask.
"""

import jax
import numpy as np
import pytest
from conftest import random_examples, random_network
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import evaluate

import ioca_jax as ioca
from ioca_jax.ablation.engines import ENGINES

# One block of rank_one is 16 rows, or an eighth of a layer wider than 128.
WIDTHS = (1, 2, 3, 16, 17, 33)
NUM_ORDERS = 3


def curves_of(engine, model, variables, orders, clamps, x, y):
    """[clamps, orders, K+1, ...] by an engine, or by evaluate_masks."""
    if engine != "evaluate_masks":
        return ioca.ablation_curve(
            model, variables, orders, clamps[:, None], x, y, engine=engine
        )
    masks = jax.vmap(lambda order: ioca.cumulative_masks(order, model.num_neurons))
    clamps = clamps[:, None, None]
    return ioca.evaluate_masks(model, variables, masks(orders), clamps, x, y)


def check_every_point(engines, model, variables, orders, x, y, seed=0):
    """Counts equal the oracle's but for near ties, losses to 2e-5."""
    clamps = np.zeros((2, model.num_neurons), np.float32)
    clamps[1] = np.random.default_rng(seed).normal(size=model.num_neurons)
    found = {
        engine: (np.asarray(curve.correct), np.asarray(curve.loss))
        for engine in engines
        for curve in [curves_of(engine, model, variables, orders, clamps, x, y)]
    }
    for index in np.ndindex(2, *orders.shape[:-1]):
        for point in range(orders.shape[-1] + 1):
            keep = np.ones(model.num_neurons, bool)
            keep[orders[index[1]][:point]] = False
            correct, loss, near_tie = evaluate(
                model, variables, keep, clamps[index[0]], x, y
            )
            for engine, (hits, losses) in found.items():
                where = f"{engine}, {model.hidden}, order {index}, point {point}"
                moved = np.abs(hits[*index, point] - correct).sum()
                assert moved <= 2 * near_tie, where
                np.testing.assert_allclose(
                    losses[*index, point], loss, rtol=2e-5, err_msg=where
                )


@st.composite
def cases(draw, widths=WIDTHS):
    """Fields of a network, some of its layers, and a share of their neurons."""
    number = draw(st.sampled_from([4, 3, 2, 1]))
    width = st.sampled_from(widths)
    hidden = tuple(draw(st.lists(width, min_size=number, max_size=number)))
    layers = draw(st.sets(st.integers(0, number - 1), min_size=1))
    fields = {
        "hidden": hidden,
        "activation": draw(st.sampled_from(["relu", "sigmoid", "tanh"])),
        "batch_norm": draw(st.booleans()),
    }
    return fields, sorted(layers), draw(st.sampled_from([0.5, 1.0]))


def check_case(engines, case, seed=0):
    fields, layers, share = case
    model, variables = random_network(seed, **fields)
    x, y = random_examples(num_examples=30)
    rng = np.random.default_rng(seed)
    neurons = np.flatnonzero(np.isin(model.layer_of_neuron, layers))
    number = max(1, round(share * len(neurons)))
    orders = np.stack([rng.permutation(neurons)[:number] for _ in range(NUM_ORDERS)])
    orders[0] = np.sort(orders[0])  # the lowest layer first: the highest is restored
    orders[1] = np.sort(orders[1])[::-1]
    check_every_point(engines, model, variables, orders.astype(np.int32), x, y, seed)


ALL_LAYERS = {"activation": "relu", "batch_norm": False}


@settings(max_examples=3)
@example(({"hidden": (17, 33, 16, 130)} | ALL_LAYERS, [0, 1, 3], 1.0))
@given(cases())
def test_every_engine_is_right_at_every_point(case):
    check_case(["evaluate_masks", "rank_one", "prefix_sums", "incremental"], case)


def test_a_neuron_restored_before_a_lower_layer_is():
    """Rows of the third layer are read that were ablated when it was computed."""
    model, variables = random_network(hidden=(2, 2, 17))
    x, y = random_examples(num_examples=30)
    orders = np.array([[0, 4, 5], [0, 20, 4], [4, 0, 5]], np.int32)
    check_every_point(["rank_one"], model, variables, orders, x, y)


@pytest.mark.slow
@settings(max_examples=60)
@given(cases((1, 2, 16, 17, 33, 128, 130)), st.integers(0, 9))
def test_every_engine_is_right_at_every_point_of_many_networks(case, seed):
    check_case([*ENGINES, "evaluate_masks"], case, seed)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", ENGINES)
def test_engines_lower_for_accelerators(name, platform, monkeypatch):
    backend = {"tpu": "tpu", "cuda": "gpu"}[platform]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model, variables = random_network()

    @jax.jit
    def curve(order):
        clamp = np.zeros(18, np.float32)
        examples = random_examples()
        return ioca.ablation_curve(
            model, variables, order, clamp, *examples, engine=name
        )

    order = jax.ShapeDtypeStruct((18,), "int32")
    exported = jax.export.export(curve, platforms=[platform])(order)
    assert exported.platforms == (platform,)


def test_an_engine_that_is_gone_names_the_one_to_use():
    model, variables = random_network()
    order, clamp = np.arange(3), np.zeros(18)
    message = (
        "engine: expected one of rank_one, prefix_sums, incremental, masks, got "
        "'kernel'; kernel was removed in version 3: use prefix_sums"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        ioca.ablation_curve(
            model, variables, order, clamp, *random_examples(), engine="kernel"
        )
