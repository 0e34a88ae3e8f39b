"""The kernel, interpreted, against masks; and every engine lowered for accelerators."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import random_examples, random_network
from jax.export import DisabledSafetyCheck
from jax.sharding import AbstractDevice, AbstractMesh

import ioca_jax as ioca
from ioca_jax.ablation import curves
from ioca_jax.ablation.affine import ExamplesAtOnce
from ioca_jax.ablation.kernel import kernel_engine

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("hidden", "lowest", "backend", "batch_norm", "activation"),
    [
        ((7, 5, 6), 0, "tpu", True, "sigmoid"),
        ((9, 6), 1, "gpu", False, "relu"),
        pytest.param((9, 6), 0, "gpu", False, "relu", marks=SLOW),
        pytest.param((9, 6), 1, "tpu", False, "tanh", marks=SLOW),
        pytest.param((7, 5, 6), 1, "gpu", True, "relu", marks=SLOW),
        # More neurons than a vector has lanes.
        pytest.param((140, 150, 6), 0, "tpu", True, "relu", marks=SLOW),
    ],
)
def test_the_kernel_agrees_with_masks(
    hidden, lowest, backend, batch_norm, activation, monkeypatch
):
    """In tiles, the last not full, and in chunks, the last of which overlaps."""
    model, variables = random_network(
        hidden=hidden, batch_norm=batch_norm, activation=activation
    )
    x, y = random_examples(num_examples=280)
    engine = kernel_engine(model, lowest, 280, 12, 200, 1.0, backend=backend)
    engine = dataclasses.replace(
        engine, interpret=True, sizes=ExamplesAtOnce(280, 150), tile=128
    )
    monkeypatch.setattr(curves, "kernel_engine", lambda *_: engine)
    rng = np.random.default_rng(5)
    first, total = model.layer_slices[lowest].start, model.num_neurons
    order = rng.permutation(np.arange(first, total))[:200].astype(np.int32)
    clamps = np.stack([np.zeros(total), rng.normal(size=total)]).astype(np.float32)
    curve = ioca.ablation_curve(model, variables, order, clamps, x, y, engine="kernel")
    masks = ioca.cumulative_masks(order, total)
    expected = ioca.evaluate_masks(model, variables, masks, clamps[:, None], x, y)
    np.testing.assert_array_equal(curve.correct, expected.correct)
    np.testing.assert_allclose(curve.loss, expected.loss, rtol=1e-6)


def test_large_outputs_leave_no_rounding_behind():
    """An infinite output is that of a neuron that is ablated first."""
    model, variables = random_network(hidden=(7, 5))
    kernel = variables["params"]["dense_0"]["kernel"]
    variables["params"]["dense_0"]["kernel"] = kernel.at[:, 3].set(3e38)
    x, y = random_examples()
    order = np.array([3, 8, 1, 0, 9, 5, 11, 2], np.int32)
    common = (model, variables, order, np.zeros(12, np.float32), x, y)
    curve = ioca.ablation_curve(*common, engine="kernel")
    expected = ioca.ablation_curve(*common, engine="masks")
    np.testing.assert_array_equal(curve.correct, expected.correct)
    np.testing.assert_allclose(curve.loss, expected.loss, rtol=1e-6)
    assert np.isnan(curve.loss[0])
    assert np.isfinite(curve.loss[1:]).all()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", curves.ENGINES)
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

    device = {
        "tpu": AbstractDevice("TPU v5e", 1, "tpu"),
        "cuda": AbstractDevice("NVIDIA H100", 1, "gpu"),
    }[platform]
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        exported = jax.export.export(
            curve,
            platforms=[platform],
            disabled_checks=[DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
        )(jax.ShapeDtypeStruct((18,), "int32"))
    kernel = {"tpu": "tpu_custom_call", "cuda": "triton"}[platform]
    assert (kernel in exported.mlir_module()) == (name == "kernel")


@pytest.mark.parametrize(
    ("hidden", "backend", "message"),
    [
        ((784, 2048, 1024), "tpu", "60.7 MB on chip for this network's layers from "),
        ((9, 500, 500), "gpu", "1.25 MB on chip for this network's layers from the "),
    ],
)
def test_layers_that_do_not_fit_on_chip_are_refused(hidden, backend, message):
    message = f"^engine: expected prefix_sums, got kernel, which needs {message}"
    with pytest.raises(ValueError, match=message):
        kernel_engine(ioca.MLP(hidden, 10), 0, 100, 784, 9, 1.0, backend=backend)


def test_tiles_are_as_large_as_fits():
    def tile(width, num_examples, backend):
        model, steps = ioca.MLP((width, width), 10), 2 * width
        make = kernel_engine
        return make(model, 0, num_examples, 784, steps, 1.0, backend=backend).tile

    assert [tile(100, number, "tpu") for number in (9, 129, 10_000)] == [128, 256, 512]
    assert [tile(width, 10_000, "gpu") for width in (32, 128)] == [64, 32]
