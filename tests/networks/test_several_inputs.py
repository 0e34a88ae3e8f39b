"""Examples of several arrays, and logits of tokens, against networks by hand."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca

RNG = np.random.default_rng(0)
LEFT, RIGHT = (np.asarray(RNG.normal(size=(9, n)), np.float32) for n in (3, 4))
WEIGHTS = {
    "a": np.asarray(RNG.normal(size=(7, 6)), np.float32),
    "out": np.asarray(RNG.normal(size=(6, 3)), np.float32),
}
PAIR = {"left": LEFT, "right": RIGHT}


def of_one(v, x):
    return jax.nn.relu(x @ v["a"]) @ v["out"]


def of_pair(v, x):
    return of_one(v, jnp.concatenate([x["left"], x["right"]], axis=1))


def test_several_arrays_give_what_one_does():
    one = ioca.trace_network(of_one, WEIGHTS, np.hstack([LEFT, RIGHT]))
    several = ioca.trace_network(of_pair, WEIGHTS, PAIR)
    as_tuple = ioca.trace_network(
        lambda v, x: of_pair(v, {"left": x[0], "right": x[1]}), WEIGHTS, (LEFT, RIGHT)
    )
    assert several.layers == as_tuple.layers == one.layers
    ablation = ioca.Ablation(np.arange(6) % 2 == 0, np.full(6, 0.3))
    for of_several, x in ((several, PAIR), (as_tuple, (LEFT, RIGHT))):
        for given in (None, ablation):
            expected = one.apply(WEIGHTS, np.hstack([LEFT, RIGHT]), given)
            found = of_several.apply(WEIGHTS, x, given)
            jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert several.chain(0) is not None
    assert several.chain(-1) is None  # two arrays are no single input


def test_a_mask_and_numbers_of_each_example_are_arrays_too():
    x = {"values": LEFT, "mask": LEFT > 0, "scale": np.abs(LEFT[:, 0])}

    def apply(v, x):
        values = jnp.where(x["mask"], x["values"], 0) * x["scale"][:, None]
        return jax.nn.relu(values @ v["a"][:3]) @ v["out"]

    network = ioca.trace_network(apply, WEIGHTS, x)
    found, _ = network.apply(WEIGHTS, x)
    hidden = np.maximum(np.maximum(LEFT, 0) * x["scale"][:, None] @ WEIGHTS["a"][:3], 0)
    np.testing.assert_allclose(found, hidden @ WEIGHTS["out"], rtol=1e-5, atol=1e-6)


REFUSED = {
    "numbers": (
        PAIR | {"left": LEFT[:4]},
        "x['right']: expected 4 examples, as in x['left'], got 9",
    ),
    "no examples": (
        PAIR | {"right": RIGHT[:0]},
        "x['right']: expected examples [N, ...], N >= 1, got [0, 4]",
    ),
    "nothing": ({}, "x: expected an array, or a pytree of arrays, got none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_of_several_numbers_of_examples_are_refused(case: str):
    x, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.trace_network(of_pair, WEIGHTS, x)


RUN_REFUSED = {
    "other names": (LEFT, "x: expected x['left'], x['right'], as traced, got x"),
    "another shape": (
        PAIR | {"left": RIGHT},
        "x['left']: expected float32 [N >= 1, 3], as traced, got float32 [9, 4]",
    ),
    "numbers": (
        PAIR | {"right": RIGHT[:4]},
        "x['right']: expected 9 examples, as in x['left'], got 4",
    ),
}


@pytest.mark.parametrize("case", RUN_REFUSED)
def test_other_arrays_than_traced_are_refused(case: str):
    x, message = RUN_REFUSED[case]
    network = ioca.trace_network(of_pair, WEIGHTS, PAIR)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        network.apply(WEIGHTS, x)


@pytest.mark.parametrize("name", PAIR)
def test_examples_mixed_through_any_of_the_arrays_are_refused(name: str):
    def apply(v, x):
        return of_pair(v, x | {name: x[name] - x[name].mean(axis=0)})

    with pytest.raises(ValueError, match="^apply: mixes examples: "):
        ioca.trace_network(apply, WEIGHTS, PAIR)


def test_a_built_in_network_takes_one_array():
    model = ioca.MLP(hidden=(3,), num_classes=2)
    variables = model.init(jax.random.key(0), LEFT)
    message = (
        "x: expected one array, as an MLP or CNN takes, got x['left'], x['right']; "
        "trace_network takes a function of several"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.measure_neurons(model, variables, PAIR, np.arange(9) % 2)


TOKENS = np.asarray(RNG.normal(size=(5, 4, 7)), np.float32)


def of_tokens(v, x, keep: Any = True, clamp=0.0):
    """Tokens that see the mean of all: a hidden layer, by hand with an ablation."""
    hidden = jax.nn.relu((x + x.mean(axis=1, keepdims=True)) @ v["a"])
    return jnp.where(keep, hidden, clamp) @ v["out"]


def test_logits_of_tokens():
    network = ioca.trace_network(lambda v, x: of_tokens(v, x), WEIGHTS, TOKENS)
    assert (network.num_classes, network.tokens, network.num_neurons) == (3, 4, 6)
    assert "6 neurons, 3 classes of each of 4 tokens" in str(network)
    keep = np.arange(6) != 2
    for ablation in (None, ioca.Ablation(keep, np.full(6, 0.3))):
        by_hand = (keep, 0.3) if ablation else ()
        found, _ = network.apply(WEIGHTS, TOKENS, ablation)
        expected = of_tokens(WEIGHTS, TOKENS, *by_hand)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_dense_layers_before_logits_of_tokens_are_no_chain():
    def apply(v, x):
        return of_one(v, x).reshape(len(x), 1, 3)

    network = ioca.trace_network(apply, WEIGHTS, np.hstack([LEFT, RIGHT]))
    assert network.tokens == 1
    assert network.chain(0) is None
