"""Quantisers against NumPy: which side an edge is on, atoms, dead neurons, bad names"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ioca_jax as ioca
from ioca_jax.measures.quantization import parse_quantizer

NO_QUANTISER: Any = 8.5
SPECS = ["threshold:0.25", "uniform:5", "quantile:4"]
OUTPUTS = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.0, 0.5, -1.25])
def test_a_value_equal_to_the_threshold_is_off(threshold):
    t = np.float32(threshold)
    up, down = np.nextafter(t, np.float32(9)), np.nextafter(t, np.float32(-9))
    if threshold == 0:  # the neighbours of 0 are subnormal, which XLA takes for 0
        up, down = np.finfo(np.float32).tiny, -np.finfo(np.float32).tiny
    column = np.array([-7, down, t, up, 7], np.float32)[:, None]
    codes = ioca.quantize(column, f"threshold:{threshold}")
    assert codes.dtype == np.int32
    assert codes[:, 0].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("activation", "threshold"), [("relu", 0), ("tanh", 0), ("sigmoid", 0.5)]
)
def test_the_activation_function_gives_the_threshold(activation, threshold):
    codes = ioca.quantize(OUTPUTS, "threshold", activation)
    np.testing.assert_array_equal(codes, np.greater(OUTPUTS, threshold))


def test_a_given_threshold_overrides_the_activation_function():
    codes = ioca.quantize(OUTPUTS, "threshold:0.25", "sigmoid")
    np.testing.assert_array_equal(codes, OUTPUTS > 0.25)


@pytest.mark.parametrize("num_codes", [2, 5, 64, 256])
def test_uniform_agrees_with_digitize(num_codes):
    codes = np.asarray(ioca.quantize(OUTPUTS, f"uniform:{num_codes}"))
    edges = np.asarray(ioca.quantizer_edges(OUTPUTS, f"uniform:{num_codes}"))
    for neuron, outputs in enumerate(OUTPUTS.T):
        expected = np.linspace(outputs.min(), outputs.max(), num_codes + 1)[1:-1]
        # float32: 6e-8 of a range below 8, a few times over.
        np.testing.assert_allclose(edges[neuron], expected, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(
            codes[:, neuron], np.digitize(outputs, expected, right=True)
        )
    assert set(codes.min(axis=0)) == {0}
    assert set(codes.max(axis=0)) == {num_codes - 1}


def test_a_value_on_an_edge_has_the_lower_code():
    # 0 ... 8 in eight codes: the edges are 1 ... 7, exact in float32.
    column = np.arange(9, dtype=np.float32)[:, None]
    assert ioca.quantizer_edges(column, "uniform:8").tolist() == [[*range(1, 8)]]
    assert ioca.quantize(column, "uniform:8")[:, 0].tolist() == [0, 0, *range(1, 8)]


@pytest.mark.parametrize("num_codes", [2, 3, 4, 100, 256])
def test_quantile_edges_agree_with_numpy(num_codes):
    shares = np.arange(1, num_codes) / num_codes
    expected = np.quantile(OUTPUTS, shares, axis=0, method="lower").T
    edges = ioca.quantizer_edges(OUTPUTS, f"quantile:{num_codes}")
    assert edges.shape == (6, num_codes - 1)
    np.testing.assert_array_equal(edges, expected)


@pytest.mark.parametrize("num_codes", [4, 20, 100])
def test_quantile_edges_have_exact_ranks(num_codes):
    outputs = np.random.default_rng(0).permutation(10_001).astype(np.float32)[:, None]
    edges = np.asarray(ioca.quantizer_edges(outputs, f"quantile:{num_codes}"))[0]
    assert edges.tolist() == [10_000 * k // num_codes for k in range(1, num_codes)]


@pytest.mark.parametrize("num_codes", [2, 4, 10])
def test_quantile_codes_are_equally_frequent(num_codes):
    codes = np.asarray(ioca.quantize(OUTPUTS, f"quantile:{num_codes}"))
    for neuron in codes.T:
        frequencies = np.bincount(neuron, minlength=num_codes)
        assert frequencies.tolist() == [300 // num_codes] * num_codes


def test_an_atom_of_zeros_collapses_edges_and_leaves_codes_empty():
    outputs = np.maximum(OUTPUTS - np.quantile(OUTPUTS, 0.6, axis=0), 0)
    edges = np.asarray(ioca.quantizer_edges(outputs, "quantile:8"))
    assert (np.diff(edges, axis=1) >= 0).all()
    assert (edges[:, :4] == 0).all()  # 1/8 ... 4/8 are below the 0.6 of zeros
    assert (edges[:, 4:] > 0).all()
    codes = np.asarray(ioca.encode(outputs, edges))
    assert (codes[outputs == 0] == 0).all()
    assert set(np.unique(codes)) == {0, 4, 5, 6, 7}  # the codes between stay empty
    # An atom takes nothing from the codes above it.
    np.testing.assert_array_equal((codes > 4).sum(axis=0), [300 * 3 // 8 + 1] * 6)


@pytest.mark.parametrize("spec", SPECS)
def test_edges_encode_other_data(spec):
    edges = np.asarray(ioca.quantizer_edges(OUTPUTS, spec))
    other = 3 * np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    codes = np.asarray(ioca.encode(other, edges))
    for neuron in range(6):
        np.testing.assert_array_equal(
            codes[:, neuron], np.digitize(other[:, neuron], edges[neuron], right=True)
        )
    assert codes.min() == 0
    assert codes.max() == edges.shape[1]
    assert (codes != np.asarray(ioca.quantize(other, spec))).any() == (
        not spec.startswith("threshold")
    )


def test_a_range_greater_than_float32_holds_is_divided():
    column = np.linspace(-3e38, 3e38, 80).astype(np.float32)[:, None]
    codes = np.asarray(ioca.quantize(column, "uniform:8"))
    assert np.bincount(codes[:, 0]).tolist() == [10] * 8
    # The least numbers, whose halves are 0.
    tiny = np.finfo(np.float32).tiny
    column = np.array([[1, 1], [1, 2]], np.float32) * tiny
    assert ioca.quantize(column, "uniform:2").tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("spec", SPECS)
def test_activations_that_have_no_code(spec, unchecked_shapes):
    edges = ioca.quantizer_edges(OUTPUTS, spec)
    broken = OUTPUTS.copy()
    broken[3, 2] = np.nan
    for call in (
        lambda: ioca.quantize(broken, spec),
        lambda: ioca.quantizer_edges(broken, spec),
        lambda: ioca.encode(broken, edges),
    ):
        with pytest.raises(ValueError, match="^activations: expected numbers, got NaN"):
            call()
    with pytest.raises(ValueError, match=r"^activations: .* got shape \[0, 6\]$"):
        ioca.quantize(OUTPUTS[:0], spec)
    # Edges of one neuron would be those of all.
    with pytest.raises(
        ValueError, match=r"^edges: expected shape \[6, B-1\], .* \[1, "
    ):
        ioca.encode(OUTPUTS, edges[:1])
    wrong = {
        "float32 .*, got complex64": edges * 1j,
        "numbers, got NaN": edges * np.nan,
    }
    if edges.shape[1] > 1:
        wrong["them ascending for each neuron, got others"] = edges[:, ::-1]
    for message, others in wrong.items():
        with pytest.raises(ValueError, match=f"^edges: expected {message}"):
            ioca.encode(OUTPUTS, others)
    for others in (OUTPUTS * 1j, OUTPUTS.astype(str)):
        with pytest.raises(ValueError, match="^activations: expected float32 .N, H.,"):
            ioca.quantize(others, spec)
    broken[3, 2] = np.inf
    if spec.startswith("uniform"):
        with pytest.raises(ValueError, match="^activations: expected finite numbers"):
            ioca.quantize(broken, spec)
    else:
        codes = np.asarray(ioca.quantize(broken, spec))
        assert codes[3, 2] == codes.max()


@pytest.mark.parametrize(
    "spec", ["uniform:2", "uniform:7", "quantile:3", "quantile:64"]
)
def test_a_dead_neuron_has_the_single_code_0(spec):
    scales = 10.0 ** np.arange(-30, 30).repeat(10)
    constants = np.random.default_rng(2).normal(size=600) * scales
    outputs = np.repeat(constants[None].astype(np.float32), 30, axis=0)
    assert not np.asarray(ioca.quantize(outputs, spec)).any()


@settings(max_examples=30)
@given(
    outputs=hnp.arrays(
        np.float32,
        (16, 3),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    ),
    spec=st.sampled_from(SPECS),
)
def test_codes_are_in_range_and_keep_the_order(outputs, spec):
    num_codes = parse_quantizer(spec).num_codes
    edges = np.asarray(ioca.quantizer_edges(outputs, spec))
    assert edges.shape == (3, num_codes - 1)
    assert (np.diff(edges, axis=1) >= 0).all()
    codes = np.asarray(ioca.encode(np.sort(outputs, axis=0), edges))
    assert codes.min() >= 0
    assert codes.max() < num_codes
    assert (np.diff(codes, axis=0) >= 0).all()


@pytest.mark.parametrize("spec", SPECS)
def test_transforms_agree(spec):
    seeds = np.stack([OUTPUTS, OUTPUTS[::-1] * 2])

    def quantize(outputs):
        return ioca.quantize(outputs, spec)

    looped = [quantize(seed) for seed in seeds]
    np.testing.assert_array_equal(jax.vmap(quantize)(seeds), looped)
    np.testing.assert_array_equal(jax.jit(quantize)(OUTPUTS), looped[0])


def test_texts_name_quantisers():
    assert parse_quantizer("threshold:-1.5") == ioca.Threshold(-1.5)
    assert parse_quantizer("threshold", "sigmoid") == ioca.Threshold(0.5)
    assert parse_quantizer("uniform:256", "relu") == ioca.Uniform(256)
    assert parse_quantizer("quantile:4") == ioca.Quantile(4) != ioca.Uniform(4)
    for text in SPECS:
        assert str(parse_quantizer(text)) == text


@dataclasses.dataclass(frozen=True)
class Third:
    """Two codes: whether an output is among the highest third of the examples."""

    shape_is_wrong: bool = False
    num_codes: int = 2

    def edges(self, activations):
        edges = jnp.quantile(activations, 2 / 3, axis=0, method="lower")
        return edges if self.shape_is_wrong else edges[:, None]


def test_a_quantiser_of_ones_own():
    codes = ioca.quantize(OUTPUTS, Third())
    np.testing.assert_array_equal(codes, np.sort(OUTPUTS, axis=0)[199] < OUTPUTS)
    model = ioca.MLP(hidden=(4,), num_classes=2)
    variables = model.init(jax.random.key(0), OUTPUTS)
    y = np.arange(300) % 2
    measured = ioca.measure_neurons(model, variables, OUTPUTS, y, quantizer=Third())
    outputs = np.asarray(model.apply(variables, OUTPUTS)[1])
    on = outputs > np.sort(outputs, axis=0)[199]
    for label in (0, 1):
        found = measured.joint_counts[:, 1, label]
        np.testing.assert_array_equal(found, on[y == label].sum(axis=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ioca.Threshold(np.nan), "t: expected a finite number, got nan"),
        (
            lambda: ioca.Threshold(1e39),
            "t: expected a number that float32 holds, got 1e+39",
        ),
        (lambda: ioca.Uniform(1), "num_codes: expected at least 2, got 1"),
        (lambda: ioca.Quantile(257), "num_codes: expected at most 256, got 257"),
        (lambda: ioca.Uniform(NO_QUANTISER), "num_codes: expected an integer, got 8.5"),
        (
            lambda: ioca.quantize(OUTPUTS, NO_QUANTISER),
            "quantizer: expected a text or a hashable object with num_codes and edges, "
            "as ioca_jax.Threshold(0.5), got 8.5",
        ),
        (
            lambda: ioca.quantize(OUTPUTS, Third(shape_is_wrong=True)),
            "quantizer: expected edges of shape [6, 1], num_codes - 1 for each neuron, "
            "from Third(shape_is_wrong=True, num_codes=2), got shape [6]",
        ),
    ],
)
def test_quantisers_that_are_none(make, message, unchecked_shapes):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("spec", "activation"),
    [
        ("", None),
        ("", "relu"),
        ("threshold", None),
        ("threshold", "softmax"),
        ("threshold:", None),
        ("threshold:nan", "relu"),
        ("threshold:inf", None),
        ("threshold:1e39", None),  # inf in float32
        ("threshold:half", None),
        ("treshold:0", "relu"),
        ("uniform", None),
        ("uniform:", None),
        ("uniform:1", None),
        ("uniform:x", None),
        ("uniform:4.0", None),
        ("uniform:-4", None),
        ("quantile:257", None),
        ("quantile:4:4", None),
        ("Quantile:4", None),
    ],
)
def test_bad_names(spec, activation):
    with pytest.raises(ValueError, match="quantizer") as error:
        ioca.quantizer_edges(OUTPUTS, spec, activation)
    assert str(error.value) == (
        "quantizer: expected one of threshold, threshold:t, uniform:B, quantile:B "
        "(t a finite number; B codes, 2 to 256; t may be left out where the activation "
        f"function is known), got {spec!r}"
    )
