"""A printed evaluation is a short table; shapes alone while JAX traces."""

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca


def test_a_curve_is_printed_at_some_points_with_its_units():
    correct = jnp.arange(40, 0, -2)[:, None] + jnp.array([0, 10])
    loss = jnp.array(np.linspace(0.25, 2.15, 20), jnp.float32)
    steps = tuple(range(0, 100, 5))
    curve = ioca.Evaluation(correct, loss, 100, {"kl": loss * 2}, at=steps)
    assert str(curve) == repr(curve)
    lines = str(curve).splitlines()
    assert lines[0] == "20 points of a curve, 100 examples of 2 classes"
    names = "neurons ablated accuracy loss (nats) kl (nats)"
    assert " ".join(lines[1].split()) == names
    rows = [0, 3, 5, 8, 11, 14, 16, 19]  # evenly spaced, with both ends
    for row, text in zip(rows, lines[2:], strict=True):
        values = 0.9 - 0.04 * row, 0.25 + 0.1 * row, 0.5 + 0.2 * row
        numbers = [f"{value:.4f}" for value in values]
        assert text.split() == [str(5 * row), *numbers]


def test_many_curves_are_printed_as_their_mean():
    correct = jnp.array([[[4, 0], [0, 0]], [[2, 2], [2, 0]]])
    loss = jnp.array([[0.5, 1.5], [1.5, 2.5]])
    curves = ioca.Evaluation(correct, loss, 8, at=(0, 7))
    assert str(curves).splitlines() == [
        "2 points of a curve, mean of 2, 8 examples of 2 classes",
        "neurons ablated accuracy loss (nats)",
        "              0   0.5000      1.0000",
        "              7   0.1250      2.0000",
    ]
    one = jax.tree.map(lambda leaf: leaf[0, 0], ioca.Evaluation(correct, loss, 8))
    assert str(one).splitlines() == [
        "1 masks, 8 examples of 2 classes",
        "mask accuracy loss (nats)",
        "   0   0.5000      0.5000",
    ]


def test_traced_evaluations_are_printed_as_shapes():
    curves = ioca.Evaluation(
        jnp.zeros((3, 2, 4), jnp.int32), jnp.zeros((3, 2)), 8, at=(0, 7)
    )
    found = []
    jax.make_jaxpr(jax.jit(lambda one: found.append(repr(one))))(curves)
    jax.vmap(lambda one: found.append(repr(one)) or one)(curves)
    texts = [
        f"Evaluation(correct=int32{[*batch, 4]}, loss=float32{[*batch]}, "
        "num_examples=8, others={}, correct_by={}, bound=None, at=(0, 7))"
        for batch in ([3, 2], [2])
    ]
    assert found == texts
