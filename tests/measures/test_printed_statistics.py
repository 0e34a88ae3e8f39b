"""Printed measures are a table of the layers; shapes alone while JAX traces."""

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca

SCORES = jnp.array([[0.5, 0, 1, 3, 4, 2, 7], [1, 0, 0.25, 9, 1, 5, 6]])
STATISTICS = ioca.NeuronStatistics(
    scores={"entropy": SCORES, "own": -SCORES},
    activation_mean=SCORES / 2,
    clamp=SCORES,
    joint_counts=jnp.zeros((2, 7, 4, 3), jnp.int32),
    edges=jnp.zeros((2, 7, 3)),
    layers=(("conv", 3), ("dense", 4)),
    units=(("entropy", "bit"), ("own", "1")),
)


def test_measures_are_printed_by_layer_with_their_units():
    one = jax.tree.map(lambda leaf: leaf[0], STATISTICS)
    assert str(one).splitlines() == [
        "7 neurons, 4 codes, 3 classes; median over neurons [least, greatest]",
        "layer neurons   mean output entropy (bits)           own",
        " conv       3 0.25 [0, 0.5]     0.5 [0, 1] -0.5 [-1, -0]",
        "dense       4 1.75 [1, 3.5]     3.5 [2, 7] -3.5 [-7, -2]",
    ]
    both = str(STATISTICS).splitlines()
    assert both[0].startswith("7 neurons of 2 networks, 4 codes, 3 classes; ")
    assert "4.5 [1, 9]" in both[3]  # 3 4 2 7 9 1 5 6


def test_measured_networks_know_their_layers_and_units():
    model = ioca.MLP(hidden=(3, 2), num_classes=2)
    x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
    variables = model.init(jax.random.key(1), x)
    score = ioca.Score("thrice", "nat", lambda m: 3 * m.activation_mean)
    found = ioca.measure_neurons(model, variables, x, y, measures=["entropy", score])
    assert found.layers == (("layer_1", 3), ("layer_2", 2))
    assert found.units == (("entropy", "bit"), ("thrice", "nat"))
    low, high = (f"{np.min(one):.3g}" for one in np.split(found.scores["thrice"], [3]))
    header, first, second = str(found).splitlines()[1:]
    names = "layer neurons mean output entropy (bits) thrice (nats)"
    assert " ".join(header.split()) == names
    assert f"[{low}, " in first
    assert f"[{high}, " in second


def test_traced_statistics_are_printed_as_shapes():
    found = []
    jax.vmap(lambda one: found.append(repr(one)) or one)(STATISTICS)
    jax.make_jaxpr(jax.jit(lambda one: found.append(repr(one))))(STATISTICS)
    for text, batch in zip(found, ([], [2]), strict=True):
        assert text.startswith("NeuronStatistics(scores={'entropy': 'float32[")
        assert f"joint_counts=int32{[*batch, 7, 4, 3]}, " in text
        assert text.endswith("units=(('entropy', 'bit'), ('own', '1')))")
