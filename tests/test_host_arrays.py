"""NumPy in place of JAX on a CPU: the same bits, and no programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network

import ioca_jax as ioca
from ioca_jax.checks import check_finite
from ioca_jax.host_arrays import divided, host_view


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,), (1, 3), (51,), (3, 1, 17)])
def test_a_quotient_has_the_bits_of_jax(shape):
    rng = np.random.default_rng(0)
    for number in (3, 7, 1000, 9999, 2**24 - 1):
        array = (number * rng.random(shape)).astype(np.float32)
        assert np.array_equal(divided(array, number), jnp.asarray(array) / number)
        on_device = divided(jnp.asarray(array), number)
        assert np.array_equal(on_device, jnp.asarray(array) / number)


def test_arrays_that_numpy_cannot_view_stay_as_they_are():
    array = jnp.arange(6.0)
    viewed = host_view(array)
    assert isinstance(viewed, np.ndarray)
    assert viewed.ctypes.data == array.unsafe_buffer_pointer()  # no copy
    key = jax.random.key(0)
    for other in (viewed, key, 1.5):
        assert host_view(other) is other
    seen = []
    jax.jit(lambda x: seen.append(host_view(x) is x) or x)(array)
    assert seen == [True]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("to_array", [np.asarray, jnp.asarray])
def test_finite_numbers_whose_sum_is_not_are_accepted(dtype, to_array):
    """And numbers that are not finite are refused, whatever their sum."""
    most = min(np.finfo(np.float32).max, np.finfo(dtype).max)
    check_finite("x", to_array(np.full(8, most, dtype)), "advice")
    for wrong in (np.nan, np.inf, -np.inf):
        for others in (0, most, -most):
            array = np.array([others, others, wrong, others], dtype)
            with pytest.raises(ValueError, match="^x: expected .*numbers"):
                check_finite("x", to_array(array), "advice")


def test_the_first_curve_compiles_one_program(compiled):
    """Of NumPy arrays and of arrays on the device; NumPy runs the network by hand."""
    model, variables = random_network(seed=5, hidden=(4, 3))
    x, y = random_examples(num_examples=37)
    order, clamp = np.array([5, 0, 3, 6]), np.full(7, 0.25, np.float32)
    ioca.ablation_curve(model, variables, order[:1], clamp, x, y)  # traces the model
    compiled.clear()
    curve = ioca.ablation_curve(model, variables, order, clamp, x, y)
    accuracy = np.asarray(curve.accuracy)
    assert len(compiled) == 1
    arrays = (jnp.asarray(array) for array in (order, clamp, x, y))
    again = ioca.ablation_curve(model, variables, *arrays)
    for one, other in zip(jax.tree.leaves(curve), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    first, second, last = jax.tree.map(np.asarray, variables["params"]).values()
    for point, share in enumerate(accuracy):
        keep = ~np.isin(np.arange(7), order[:point])
        values = np.maximum(x @ first["kernel"] + first["bias"], 0)
        values = np.where(keep[:4], values, clamp[:4])
        values = np.maximum(values @ second["kernel"] + second["bias"], 0)
        values = np.where(keep[4:], values, clamp[4:])
        found = (values @ last["kernel"] + last["bias"]).argmax(axis=1)
        assert share == pytest.approx(np.mean(found == y))
