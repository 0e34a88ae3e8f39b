"""Metrics and counts by annotation along curves, of all engines and masks."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network
from scipy import special, stats

import ioca_jax as ioca
from ioca_jax.ablation.engines import ENGINES
from ioca_jax.networks.models import as_network

METRICS = ("accuracy", "loss", "kl", "agreement", "margin", "brier")


@pytest.fixture(scope="module")
def case():
    """A network of three layers, and its logits at every point of an order, float64."""
    model, variables = random_network(hidden=(5, 4, 3))
    x, y = random_examples(num_examples=60)
    order = np.random.default_rng(0).permutation(12)[:7].astype(np.int32)
    clamp = np.random.default_rng(1).normal(size=12).astype(np.float32)
    logits = []
    for point in range(8):
        keep = ~np.isin(np.arange(12), order[:point])
        found, _ = model.apply(variables, x, ioca.Ablation(jnp.asarray(keep), clamp))
        logits.append(np.asarray(found, np.float64))
    return (model, variables, order, clamp, x, y), np.stack(logits)


def furthest(logits, y, intact):
    """The greatest change of a logit."""
    del y
    return jnp.abs(logits - intact).max(axis=1)


def expected_metrics(logits, y):
    """By SciPy, for logits [P, N, C]."""
    shares, is_class = special.softmax(logits, axis=-1), np.eye(logits.shape[-1])[y]
    same = logits.argmax(axis=-1) == logits[0].argmax(axis=-1)
    others = np.where(is_class == 1, -np.inf, logits).max(axis=-1)
    return {
        "accuracy": (logits.argmax(axis=-1) == y).mean(axis=1),
        "loss": -(special.log_softmax(logits, axis=-1) * is_class).sum(-1).mean(1),
        "kl": stats.entropy(shares[:1], shares, axis=-1).mean(axis=1),
        "agreement": same.mean(axis=1),
        "margin": ((logits * is_class).sum(axis=-1) - others).mean(axis=1),
        "brier": ((shares - is_class) ** 2).sum(axis=-1).mean(axis=1),
        "furthest": np.abs(logits - logits[0]).max(axis=-1).mean(axis=1),
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_metrics_are_scipys_at_every_point(case, engine):
    arguments, logits = case
    wanted = (*METRICS, furthest)
    curve = ioca.ablation_curve(*arguments, metrics=wanted, engine=engine)
    expected = expected_metrics(logits, arguments[-1])
    assert sorted(curve.metrics) == sorted(expected)
    for name, values in expected.items():
        found = curve.metrics[name]
        assert (found.shape, found.dtype) == ((8,), np.float32)
        np.testing.assert_allclose(found, values, rtol=2e-5, atol=2e-6, err_msg=name)


def test_masks_curves_of_networks_and_of_one_layer_have_them_too(case):
    (model, variables, order, clamp, x, y), logits = case
    masks = ioca.cumulative_masks(order, 12)
    found = ioca.evaluate_masks(
        *(model, variables, masks, clamp, x, y),
        metrics=["test_metrics:furthest", "kl"],
    )
    expected = expected_metrics(logits, y)
    for name in ("kl", "furthest"):
        np.testing.assert_allclose(
            found.metrics[name], expected[name], rtol=2e-5, atol=2e-6
        )
    # The last layer's curve by prefix sums of its effects on the logits.
    network, last = as_network(model, x), np.array([10, 9, 11])
    arguments = (network, variables, last, clamp, x, y)
    curves = [
        ioca.ablation_curve(*arguments, metrics=METRICS, engine=engine)
        for engine in ("incremental", "masks")
    ]
    for name in METRICS:
        one, other = (curve.metrics[name] for curve in curves)
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_correct_examples_are_counted_within_each_value(case):
    arguments, logits = case
    y = np.asarray(arguments[-1])
    parity, third = y % 2, np.arange(len(y)) % 4 - 1  # -1: unknown
    right = logits.argmax(axis=-1) == y
    for engine in ENGINES:
        curve = ioca.ablation_curve(
            *arguments, groups={"parity": parity, "third": third}, engine=engine
        )
        for name, values in (("parity", parity), ("third", third)):
            counts = [right[:, values == v].sum(axis=1) for v in range(max(values) + 1)]
            found = curve.correct_by[name]
            np.testing.assert_array_equal(found, np.stack(counts, axis=-1))


def wrong_shape(logits, y, intact):
    del y, intact
    return logits


def test_kl_is_infinite_where_a_possible_class_becomes_impossible():
    from ioca_jax.ablation.metrics import METRICS

    intact = jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])
    ablated = jnp.array([[0.0, -jnp.inf], [0.0, 0.0]])
    found = METRICS["kl"].of_examples(ablated, jnp.zeros(2, int), intact)
    np.testing.assert_allclose(found, [np.inf, np.log(2)], rtol=1e-6)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            {"metrics": ["klx"]},
            "metrics: expected names out of accuracy, loss, kl, agreement, margin, "
            "brier, a function (logits, y, intact_logits) -> [n], or "
            "package.module:function, got 'klx'; did you mean kl?",
        ),
        (
            {"metrics": "kl"},
            "metrics: expected a sequence, got 'kl'; a sequence of one value is "
            "('kl',)",
        ),
        (
            {"metrics": [wrong_shape]},
            "metrics: expected wrong_shape to return numbers [n], one for each "
            "example, got float32 of shape [5, 4] for n = 5",
        ),
        (
            {"metrics": ["kl", "kl"]},
            "metrics: expected each name once, got kl,kl",
        ),
        (
            {"metrics": [ioca.Metric("kl", "1", wrong_shape)]},
            "metrics: expected another name than kl, which is built in, for a metric "
            "of your own",
        ),
        (
            {"groups": {"parity": np.zeros(59, int)}},
            "groups: expected integers [60] for 'parity', a value for each example, "
            "got int64 of shape [59]",
        ),
        (
            {"groups": {"parity": np.full(60, 2**16)}},
            "groups: expected values of 'parity' from 0 to 65535, or -1 for none, got "
            "65536; number the values from 0",
        ),
        (
            {"metrics": [lambda logits, y, intact: logits[:, 0]]},
            "metrics: expected a function with a name, got <lambda>; name it by "
            "ioca_jax.Metric(name, unit, function)",
        ),
        (
            {"groups": np.zeros(60, int)},
            "groups: expected a mapping from names to values of annotations, got a "
            "ndarray",
        ),
        (
            {"groups": {"parity": np.zeros(60)}},
            "groups: expected integers [60] for 'parity', a value for each example, "
            "got float64 of shape [60]",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(case, arguments, error):
    for function, order in (
        (ioca.ablation_curve, case[0][2]),
        (ioca.evaluate_masks, np.ones((1, 12), bool)),
    ):
        model, variables, _, clamp, x, y = case[0]
        with pytest.raises(ValueError, match=f"^{re.escape(error)}"):
            function(model, variables, order, clamp, x, y, **arguments)


def test_a_failing_function_is_named_in_one_line(case):
    def fails(logits, y, intact):
        del y, intact
        return float(logits[0, 0])

    with pytest.raises(
        ValueError, match="metrics: expected fails to return .* jax.numpy"
    ):
        ioca.ablation_curve(*case[0], metrics=[fails])
