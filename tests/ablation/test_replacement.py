"""What ablated neurons output: vectors, pools, mappings, single numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca

RNG = np.random.default_rng(0)
Y = (np.arange(30) % 3).astype(np.int32)
ENGINES = ("masks", "incremental", None)


@pytest.fixture(scope="module")
def heads():
    """Two heads [N, heads, vector]; the first always outputs (2, -2, 2, -2)."""
    x = RNG.normal(size=(30, 3, 5)).astype(np.float32)
    variables = {
        "v": RNG.normal(size=(5, 2, 4)).astype(np.float32),
        "o": RNG.normal(size=(2, 4, 3)).astype(np.float32),
    }
    vector = jnp.array([2.0, -2.0, 2.0, -2.0])

    def apply(v, x):
        values = jnp.einsum("ntd,dhk->nthk", x, v["v"])
        mixed = jnp.einsum(
            "nst,nthk->nshk", jax.nn.softmax(x @ x.swapaxes(1, 2)), values
        )
        mixed = mixed.at[:, :, 0].set(0 * mixed[:, :, 0] + vector)
        return jnp.einsum("nshk,hkc->nsc", mixed, v["o"]).mean(axis=1)

    network = ioca.trace_network(apply, variables, x, layers="o:input")
    (layer,) = network.layers
    assert (layer.kind, layer.num_neurons, layer.vector) == ("heads", 2, (4,))
    y = np.asarray(apply(variables, x)).argmax(axis=1).astype(np.int32)
    return network, variables, x, y


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_that_is_constant_does_not_matter_at_its_mean(heads, engine):
    network, variables, x, y = heads
    measured = ioca.measure_neurons(network, variables, x, y, quantizer="uniform:2")
    assert measured.clamp.shape == (8,)
    np.testing.assert_allclose(measured.clamp[:4], [2, -2, 2, -2], rtol=1e-6)
    outputs = network.outputs(variables, x)[1]["o:input"]
    np.testing.assert_allclose(
        measured.clamp, np.mean(outputs, axis=(0, 1)).ravel(), rtol=1e-5, atol=1e-6
    )
    order = np.array([0, 1], np.int32)
    curve = ioca.ablation_curve(
        *(network, variables, order, measured.clamp, x, y), engine=engine
    )
    assert curve.accuracy[:2].tolist() == [1, 1]
    # One number for the whole vector, as the mean of a neuron's numbers is.
    one = ioca.ablation_curve(
        *(network, variables, order, measured.activation_mean, x, y), engine=engine
    )
    assert one.accuracy[1] < 0.95
    logits, _ = network.apply(
        variables,
        x,
        ioca.Ablation({"o:input": jnp.zeros(2, bool)}, measured.clamp),
    )
    expected = np.einsum("hk,hkc->c", measured.clamp.reshape(2, 4), variables["o"])
    np.testing.assert_allclose(logits, np.tile(expected, (30, 1)), rtol=1e-4, atol=1e-5)


def test_pairs_singles_and_fitted_constants_take_vectors(heads):
    network, variables, x, y = heads
    from ioca_jax.ablation.pair_effects import pair_effects
    from ioca_jax.ablation.singles import single_ablations

    measured = ioca.measure_neurons(network, variables, x, y, quantizer="uniform:2")
    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    clamp = measured.clamp[None]
    single = single_ablations(network, stacked, clamp, x, y)
    assert single.alone.accuracy[0, 0] == 1
    pairs = pair_effects(network, stacked, clamp, x, y, 0)
    assert abs(pairs.loss[0, 0, 1]) < 1e-6
    many = np.tile(x, (4, 1, 1)), np.tile(y, 4)
    fitted = ioca.optimal_clamp(
        *(network, variables, measured.clamp, *many, jax.random.key(0))
    )
    assert fitted.shape == (8,)
    np.testing.assert_allclose(fitted[:4], [2, -2, 2, -2], rtol=1e-5)  # never varies


@pytest.mark.parametrize("pool", ["max", "share_active", "last", "mean"])
def test_what_is_clamped_is_the_mean_output_however_it_is_pooled(pool):
    x = RNG.normal(size=(30, 6, 4)).astype(np.float32)
    variables = {
        "up": RNG.normal(size=(4, 5)).astype(np.float32),
        "down": RNG.normal(size=(5, 3)).astype(np.float32),
    }
    network = ioca.trace_network(
        lambda v, x: (jax.nn.relu(x @ v["up"]) @ v["down"]).mean(axis=1),
        *(variables, x),
        pool=pool,
    )
    measured = ioca.measure_neurons(network, variables, x, Y, quantizer="uniform:4")
    outputs = np.maximum(x @ variables["up"], 0)
    np.testing.assert_allclose(measured.clamp, outputs.mean(axis=(0, 1)), rtol=1e-5)
    pooled = {
        "max": outputs.max(axis=1),
        "share_active": (outputs > 0).mean(axis=1),
        "last": outputs[:, -1],
        "mean": outputs.mean(axis=1),
    }[pool]
    np.testing.assert_allclose(measured.activation_mean, pooled.mean(axis=0), rtol=1e-5)


def test_clamps_in_every_form_are_one(heads):
    network, variables, x, y = heads
    masks = np.array([[False, True], [False, False]])

    def loss(clamp):
        return ioca.evaluate_masks(network, variables, masks, clamp, x, y).loss

    number, flat = loss(0.5), loss(np.full(8, 0.5, np.float32))
    np.testing.assert_array_equal(number, flat)
    np.testing.assert_array_equal(loss(np.array([0.5, 0.5])), flat)
    np.testing.assert_array_equal(loss({"o:input": 0.5}), flat)
    clamp = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(loss({"o:input": clamp.reshape(2, 4)}), loss(clamp))


@pytest.mark.parametrize(
    ("clamp", "message"),
    [
        (
            "mean",
            "clamp: expected one number, or float32 [..., 2], a value for each hidden "
            "neuron, got 'mean'; the means are measure_neurons(...).clamp, zeros are "
            "0, and resample gives the outputs for other examples",
        ),
        (
            np.zeros(3),
            "clamp: expected one number, or float32 [..., 2], a value for each hidden "
            "neuron, got float64 of shape [3]",
        ),
        (
            {"o": 0},
            "clamp: expected a number or array for each of o:input, got o",
        ),
        (
            {"o:input": np.zeros(3)},
            "clamp: expected one number, [..., 2] or [..., 2, 4] for o:input, got [3]",
        ),
    ],
)
def test_clamps_that_do_not_fit(heads, clamp, message, unchecked_shapes):
    network, variables, x, y = heads
    masks = np.zeros((1, 2), bool)
    with pytest.raises(ValueError, match="^clamp") as caught:
        ioca.evaluate_masks(network, variables, masks, clamp, x, y)
    assert str(caught.value) == message


@pytest.mark.usefixtures("unchecked_shapes")
def test_the_name_of_a_clamp_is_no_output(heads):
    network, variables, x, _ = heads
    ablation = ioca.Ablation(np.ones(2, bool), "mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"got 'mean'; the means are measure_neurons"):
        network.apply(variables, x, ablation)
