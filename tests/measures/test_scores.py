"""Published scores against NumPy loops, closed forms and finite differences."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network
from reference import evaluate, forward

import ioca_jax as ioca
from ioca_jax.measures import scores
from ioca_jax.networks.models import as_network

# float32 outputs and a mean of tens of them, against float64.
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(params=["relu", "sigmoid", "batch_norm"])
def network(request):
    fields = {"batch_norm": True} if request.param == "batch_norm" else {}
    activation = "relu" if request.param == "batch_norm" else request.param
    return random_network(activation=activation, **fields)


def network_of(model):
    return as_network(model, random_examples()[0])


def test_class_selectivity_is_a_loop(network):
    model, variables = network
    x, y = random_examples()
    y[y == 2] = 1  # an absent class
    _, outputs = forward(model, variables, x)
    found = scores.class_selectivity(network_of(model), variables, x, y)
    for neuron in range(model.num_neurons):
        means = np.array([outputs[y == label, neuron].mean() for label in (0, 1, 3)])
        most, others = means.max(), np.delete(means, means.argmax()).mean()
        size = most + others
        expected = (most - others) / size if size else 0
        np.testing.assert_allclose(found[neuron], expected, **CLOSE)


def test_no_class_is_selected_of_one(unchecked_shapes):
    model, variables = random_network()
    x, _ = random_examples()
    same = np.full(len(x), 3, np.int32)
    with pytest.raises(ValueError, match="^labels: .* got only class 3; "):
        scores.class_selectivity(network_of(model), variables, x, same)
    model = network_of(model)
    traced = jax.jit(scores.class_selectivity, static_argnums=0)
    found = traced(model, variables, x, same)
    assert np.isnan(found).any()  # not 1
    assert (np.isnan(found) | (np.asarray(found) == 0)).all()


@pytest.mark.parametrize(
    "score", ["class_selectivity", "activation_variance", "taylor"]
)
def test_scores_refuse_labels_that_are_not_classes(score, unchecked_shapes):
    model, variables = random_network()
    x, y = random_examples()
    mean = np.zeros(model.num_neurons, np.float32)
    arguments = () if score == "class_selectivity" else (mean,)
    for labels, message in (
        (y + 1, r"^y: expected values in \[0, 3\], got 4; "),
        (y - 1, r"^y: expected values in \[0, 3\], got -1; "),
        (y * 0.5, "^y: expected integers, got float64; "),
        (y[1:], "^y: expected 53, one for each example, got 52$"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(scores, score)(model, variables, *arguments, x, labels)


def test_a_dead_neuron_is_not_selective():
    model, variables = random_network()
    variables["params"]["dense_0"]["bias"] = jnp.full(7, -1e6)
    found = scores.class_selectivity(network_of(model), variables, *random_examples())
    np.testing.assert_array_equal(found[:7], 0)


def test_variance_is_numpys(network):
    model, variables = network
    x, y = random_examples()
    _, outputs = forward(model, variables, x)
    mean = outputs.mean(axis=0).astype(np.float32)
    found = scores.activation_variance(network_of(model), variables, mean, x, y)
    np.testing.assert_allclose(found, outputs.var(axis=0), **CLOSE)


def test_examples_in_chunks_are_all_counted_once(monkeypatch):
    model, variables = random_network()
    x, y = random_examples()
    mean = np.zeros(model.num_neurons, np.float32)
    functions = [
        lambda: scores.class_selectivity(network_of(model), variables, x, y),
        lambda: scores.activation_variance(network_of(model), variables, mean, x, y),
        lambda: scores.taylor(network_of(model), variables, mean, x, y),
    ]
    whole = [function() for function in functions]
    monkeypatch.setattr(scores, "_EXAMPLES_AT_ONCE", 20)  # 53 are not a multiple
    for function, expected in zip(functions, whole, strict=True):
        np.testing.assert_allclose(function(), expected, **CLOSE)


def test_weight_norms():
    model, variables = random_network()
    kernels = [
        np.asarray(variables["params"][f"dense_{i}"]["kernel"]) for i in range(4)
    ]
    incoming = np.concatenate([np.sqrt((k**2).sum(axis=0)) for k in kernels[:3]])
    outgoing = np.concatenate([np.sqrt((k**2).sum(axis=1)) for k in kernels[1:]])
    found = scores.incoming_weight_norm(network_of(model), variables)
    np.testing.assert_allclose(found, incoming, rtol=1e-6)
    found = scores.outgoing_weight_norm(network_of(model), variables)
    np.testing.assert_allclose(found, outgoing, rtol=1e-6)


def test_weight_norms_see_batch_norm():
    model, variables = random_network(batch_norm=True)
    norm, running = (variables[group]["norm_1"] for group in ("params", "batch_stats"))
    ratio = norm["scale"] / np.sqrt(running["var"] + 1e-5)
    kernel = np.asarray(variables["params"]["dense_1"]["kernel"]) * ratio
    found = scores.incoming_weight_norm(network_of(model), variables)[7:12]
    np.testing.assert_allclose(found, np.linalg.norm(kernel, axis=0), rtol=1e-5)


def example_losses(model, variables, x, y, neuron, move):
    """Loss [N] when a neuron's output is moved, in float64."""
    _, intact = forward(model, variables, x)
    losses = np.zeros(len(y))
    keep = np.arange(model.num_neurons) != neuron
    for index in range(len(y)):
        clamp = np.zeros(model.num_neurons)
        clamp[neuron] = intact[index, neuron] + move
        some = slice(index, index + 1)
        losses[index] = evaluate(model, variables, keep, clamp, x[some], y[some])[1]
    return losses


def test_taylor_is_finite_differences(network):
    model, variables = network
    x, y = random_examples(num_examples=20)
    clamp = np.random.default_rng(2).uniform(size=model.num_neurons).astype(np.float32)
    found = scores.taylor(network_of(model), variables, clamp, x, y)
    _, outputs = forward(model, variables, x)
    for neuron in (0, 6, 9, 17):
        step = 1e-6
        losses = [
            example_losses(model, variables, x, y, neuron, move)
            for move in (step, -step)
        ]
        slope = (losses[0] - losses[1]) / (2 * step)
        expected = np.abs(slope * (clamp[neuron] - outputs[:, neuron])).mean()
        np.testing.assert_allclose(found[neuron], expected, rtol=1e-4, atol=1e-5)


def test_taylor_is_exact_where_the_loss_is_nearly_linear():
    # Kernels of a thousandth: the second order is 1e-3 of the first.
    model, variables = random_network()
    x, y = random_examples()
    _, outputs = forward(model, variables, x)
    clamp = np.asarray(outputs.mean(axis=0), np.float32)
    scale = 1e-3
    variables["params"]["dense_3"]["kernel"] *= scale
    found = scores.taylor(network_of(model), variables, clamp, x, y)[12:]
    for index, neuron in enumerate(range(12, 18)):
        intact = np.array(
            [evaluate(model, variables, None, None, x[i : i + 1], y[i : i + 1])[1]
             for i in range(len(y))]
        )  # fmt: skip
        keep = np.arange(18) != neuron
        ablated = np.array(
            [evaluate(model, variables, keep, clamp, x[i : i + 1], y[i : i + 1])[1]
             for i in range(len(y))]
        )  # fmt: skip
        expected = np.abs(ablated - intact).mean()
        np.testing.assert_allclose(found[index], expected, rtol=5e-3, atol=1e-8)


def test_scores_are_measured_beside_information(network):
    model, variables = network
    x, y = random_examples()
    peak = ioca.Score("peak", "1", lambda found: found.activations.max(axis=0))
    measures = ("taylor_mean", peak, "entropy", "activation_variance")
    measured = ioca.measure_neurons(model, variables, x, y, measures=measures)
    assert list(measured.scores) == [
        *("taylor_mean", "peak", "entropy", "activation_variance")
    ]
    _, outputs = forward(model, variables, x)
    np.testing.assert_allclose(measured.scores["peak"], outputs.max(axis=0), **CLOSE)
    variances = measured.scores["activation_variance"]
    np.testing.assert_allclose(variances, outputs.var(axis=0), **CLOSE)
    mean = measured.activation_mean
    np.testing.assert_allclose(
        measured.scores["taylor_mean"],
        scores.taylor(network_of(model), variables, mean, x, y),
        **CLOSE,
    )


def test_a_score_is_handed_the_measuring_split_in_chunks(monkeypatch):
    monkeypatch.setattr(scores, "_EXAMPLES_AT_ONCE", 20)  # 53 are not a multiple
    model, variables = random_network()
    x, y = random_examples()
    found = []
    measured = ioca.measure_neurons(
        model,
        variables,
        x,
        y,
        quantizer="uniform:3",
        measures=[ioca.Score("kept", "1", lambda m: found.append(m) or m.edges[:, 0])],
    )
    (handed,) = found
    handed = dataclasses.replace(
        handed,
        variables=variables,
        x=jnp.asarray(x),
        y=jnp.asarray(y),
        activation_mean=measured.activation_mean,
        joint_counts=measured.joint_counts,
        edges=measured.edges,
    )
    _, outputs = forward(model, variables, x)
    np.testing.assert_allclose(handed.activations, outputs, **CLOSE)
    codes = (outputs[..., None] > np.asarray(measured.edges)).sum(axis=-1)
    np.testing.assert_array_equal(handed.codes, codes)
    counts = [(codes == code).sum(axis=0) for code in range(3)]
    np.testing.assert_array_equal(measured.joint_counts.sum(axis=-1).T, counts)


@pytest.mark.parametrize("name", ["", "random", "my score", "a,b", "module:peak"])
def test_names_of_scores_are_identifiers(name):
    with pytest.raises(ValueError, match="^name: ") as error:
        ioca.Score(name, "1", lambda measured: measured.activation_mean)
    assert str(error.value) == (
        "name: expected letters, digits and underscores, and not 'random', got "
        f"{name!r}"
    )
