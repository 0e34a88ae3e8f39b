"""Masks and curves against an independent network, one mask at a time."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_examples, random_network
from reference import evaluate

import ioca_jax as ioca
from ioca_jax.ablation.engines import ENGINES

SLOW = pytest.mark.slow
SCOPES = {"network": slice(0, 18), "first": slice(0, 7), "last": slice(12, 18)}


def assert_agrees(model, variables, masks, clamps, x, y, evaluation):
    """The same correct examples, but for those within 1e-4 of a tie."""
    clamps = np.broadcast_to(clamps, masks.shape)
    assert evaluation.correct.shape == (len(masks), model.num_classes)
    for row, (mask, clamp) in enumerate(zip(masks, clamps, strict=True)):
        correct, loss, near_tie = evaluate(model, variables, mask, clamp, x, y)
        difference = np.abs(np.asarray(evaluation.correct[row]) - correct).sum()
        assert difference <= 2 * near_tie
        # float32 logits and a mean of 53, against float64
        np.testing.assert_allclose(evaluation.loss[row], loss, rtol=2e-5)
        np.testing.assert_allclose(
            evaluation.accuracy[row],
            np.sum(evaluation.correct[row]) / len(y),
            rtol=1e-6,
        )


@pytest.mark.parametrize(
    ("activation", "batch_norm", "scope"),
    [
        ("relu", False, "network"),
        pytest.param("tanh", True, "network", marks=SLOW),
        pytest.param("relu", True, "network", marks=SLOW),
        pytest.param("sigmoid", False, "network", marks=SLOW),
        pytest.param("sigmoid", True, "network", marks=SLOW),
        pytest.param("tanh", False, "network", marks=SLOW),
        ("sigmoid", True, "first"),
        ("relu", True, "last"),
    ],
)
def test_curves_and_masks_agree_with_an_independent_network(
    activation, batch_norm, scope
):
    model, variables = random_network(activation=activation, batch_norm=batch_norm)
    x, y = random_examples()
    rng = np.random.default_rng(5)
    neurons = np.arange(model.num_neurons)[SCOPES[scope]]
    order = rng.permutation(neurons).astype(np.int32)
    masks = ioca.cumulative_masks(order, model.num_neurons)
    for clamp in (np.zeros(18, np.float32), rng.normal(size=18).astype(np.float32)):
        arguments = (model, variables, np.asarray(masks), clamp, x, y)
        assert_agrees(*arguments, ioca.evaluate_masks(*arguments))
        for engine in ENGINES:
            curve = ioca.ablation_curve(
                model, variables, order, clamp, x, y, engine=engine
            )
            assert_agrees(*arguments, curve)


@pytest.mark.parametrize(
    ("hidden", "activation", "batch_norm", "neurons"),
    [
        pytest.param((260, 130, 200), "sigmoid", True, slice(0, 590), marks=SLOW),
        pytest.param((260, 130, 200), "relu", False, slice(0, 590), marks=SLOW),
        # No step recomputes anything here: all updates add up.
        ((1500, 40), "sigmoid", True, slice(0, 1500)),
        pytest.param((40, 1500), "relu", True, slice(40, 1540), marks=SLOW),
    ],
)
@pytest.mark.parametrize("engine", ["rank_one", "prefix_sums"])
def test_hundreds_of_updates_do_not_drift(
    hidden, activation, batch_norm, neurons, engine
):
    model, variables = random_network(
        hidden=hidden, activation=activation, batch_norm=batch_norm
    )
    x, y = random_examples(num_examples=300)
    rng = np.random.default_rng(3)
    order = rng.permutation(np.arange(model.num_neurons)[neurons]).astype(np.int32)
    clamp = rng.uniform(size=model.num_neurons).astype(np.float32)
    curve = ioca.ablation_curve(model, variables, order, clamp, x, y, engine=engine)
    masks = np.asarray(ioca.cumulative_masks(order, model.num_neurons))
    some = np.linspace(0, len(order), 15).astype(int)
    at_some = ioca.Evaluation(curve.correct[some], curve.loss[some], len(y))
    assert_agrees(model, variables, masks[some], clamp, x, y, at_some)


def large_network(scale):
    """A network in which one neuron of each layer has large weights, two of them."""
    model, variables = random_network(hidden=(40, 30))
    for layer, neuron in enumerate(LARGE):
        kernel = np.array(variables["params"][f"dense_{layer}"]["kernel"])
        kernel[:, neuron] = 0
        kernel[:2, neuron] = scale
        variables["params"][f"dense_{layer}"]["kernel"] = kernel
    return model, variables


LARGE = (5, 7)  # in their layers
LARGE_ORDER = np.random.default_rng(1).permutation(70).astype(np.int32)


def after_large() -> int:
    """The first point at which both are ablated."""
    places = np.argsort(LARGE_ORDER)
    return int(max(places[5], places[40 + 7])) + 1


@pytest.mark.parametrize("engine", ["rank_one", "prefix_sums", "incremental"])
@pytest.mark.parametrize("scale", [1e9, 3e38])
def test_large_outputs_leave_no_rounding_behind(scale, engine):
    """A sum of two of 3e38 may be infinite."""
    model, variables = large_network(scale)
    x, y = random_examples()
    arguments = (model, variables, LARGE_ORDER, np.zeros(70, np.float32), x, y)
    curve = ioca.ablation_curve(*arguments, engine=engine)
    expected = ioca.ablation_curve(*arguments, engine="masks")
    np.testing.assert_array_equal(curve.correct, expected.correct)
    np.testing.assert_allclose(curve.loss, expected.loss, rtol=2e-6)
    assert np.isnan(curve.loss).any() == (scale > 1e30)
    first = after_large()
    assert first < 60
    masks = np.asarray(ioca.cumulative_masks(LARGE_ORDER, 70))[first:]
    after = ioca.Evaluation(curve.correct[first:], curve.loss[first:], len(y))
    model, variables = large_network(1)
    assert_agrees(model, variables, masks, np.zeros(70), x, y, after)


@pytest.mark.parametrize("engine", ["rank_one", "prefix_sums"])
@pytest.mark.parametrize("scale", [1e9, 3e38])
def test_single_neurons_with_large_outputs_leave_no_rounding_behind(scale, engine):
    model, variables = large_network(scale)
    x, y = random_examples()
    single = np.arange(40, dtype=np.int32)[:, None]
    common = (np.zeros(70, np.float32), x, y)
    curve = ioca.ablation_curve(
        model, variables, single, *common, layers=(0,), engine=engine
    )
    expected = ioca.evaluate_masks(
        model, variables, ~np.eye(40, 70, dtype=bool), *common
    )
    np.testing.assert_array_equal(curve.correct[:, 1], expected.correct)
    np.testing.assert_allclose(curve.loss[:, 1], expected.loss, rtol=2e-6)


@pytest.mark.parametrize("engine", ["rank_one", "prefix_sums"])
def test_clamps_of_kept_neurons_change_nothing(engine):
    model, variables = large_network(1)
    x, y = random_examples()
    order = np.random.default_rng(2).permutation(70).astype(np.int32)
    plain, large = np.zeros((2, 70), np.float32)
    large[order[-1]] = 1e9
    expected, curve = (
        ioca.ablation_curve(model, variables, order, clamp, x, y, engine=engine)
        for clamp in (plain, large)
    )
    np.testing.assert_array_equal(curve.loss[:-1], expected.loss[:-1])
    assert curve.loss[-1] != expected.loss[-1]


def test_equal_logits_are_decided_alike_for_every_budget():
    """Without biases, examples whose last outputs are all 0 have logits of 0."""
    model = ioca.MLP(hidden=(40, 30), num_classes=4)
    x, y = random_examples(num_examples=203)
    variables = model.init(jax.random.key(0), x[:1])
    order = np.random.default_rng(0).permutation(70).astype(np.int32)
    arguments = (model, variables, order, np.zeros(70, np.float32), x, y)
    expected = ioca.ablation_curve(*arguments, engine="masks")
    for engine, memory_gb in (
        ("rank_one", 1e-5),
        ("rank_one", 1.0),
        ("prefix_sums", 1.0),
    ):
        curve = ioca.ablation_curve(*arguments, engine=engine, memory_gb=memory_gb)
        np.testing.assert_array_equal(curve.correct, expected.correct)


def test_masks_need_not_be_cumulative():
    model, variables = random_network()
    x, y = random_examples()
    rng = np.random.default_rng(0)
    masks = rng.random((9, 18)) < 0.5
    clamps = rng.normal(size=(9, 18)).astype(np.float32)
    evaluation = ioca.evaluate_masks(model, variables, masks, clamps, x, y)
    assert_agrees(model, variables, masks, clamps, x, y, evaluation)


def test_ends_of_a_curve():
    """k = 0 is the intact network, and k = all the constant one."""
    model, variables = random_network()
    x, y = random_examples()
    order = np.arange(18, dtype=np.int32)[::-1].copy()
    clamp = np.full(18, 0.25, np.float32)
    curve = ioca.ablation_curve(model, variables, order, clamp, x, y)
    logits, _ = model.apply(variables, x)
    right = np.asarray(logits.argmax(axis=1)) == y
    np.testing.assert_array_equal(curve.correct[0], np.bincount(y[right], minlength=4))
    last = variables["params"]["dense_3"]
    constant = int(np.argmax(clamp[12:] @ last["kernel"] + last["bias"]))
    expected = np.zeros(4, int)
    expected[constant] = np.sum(y == constant)
    np.testing.assert_array_equal(curve.correct[-1], expected)


# Down to one example, or one mask, at a time; 53 examples divide into few sizes.
@pytest.mark.parametrize(
    "memory_gb",
    [1e-9, 5e-6, pytest.param(2e-6, marks=SLOW), pytest.param(3e-5, marks=SLOW)],
)
def test_budgets_change_no_count(memory_gb):
    model, variables = random_network(batch_norm=True)
    x, y = random_examples()
    order = np.random.default_rng(1).permutation(18).astype(np.int32)
    masks = ioca.cumulative_masks(order, 18)
    clamp = np.full(18, 0.5, np.float32)
    whole = ioca.evaluate_masks(model, variables, masks, clamp, x, y)
    for chunked in (
        ioca.evaluate_masks(model, variables, masks, clamp, x, y, memory_gb=memory_gb),
        *(
            ioca.ablation_curve(
                *(model, variables, order, clamp, x, y),
                memory_gb=memory_gb,
                engine=engine,
            )
            for engine in ENGINES
        ),
    ):
        np.testing.assert_array_equal(chunked.correct, whole.correct)
        # sums of 53 in another order
        np.testing.assert_allclose(chunked.loss, whole.loss, rtol=1e-5)


def test_many_orders_and_clamps_at_once():
    model, variables = random_network()
    x, y = random_examples()
    rng = np.random.default_rng(2)
    orders = np.stack([rng.permutation(18)[:11] for _ in range(3)]).astype(np.int32)
    clamps = rng.normal(size=(2, 18)).astype(np.float32)
    for engine in ENGINES:
        together = ioca.ablation_curve(
            model, variables, orders[None], clamps[:, None], x, y, engine=engine
        )
        assert together.correct.shape == (2, 3, 12, 4)
        assert together.loss.shape == together.accuracy.shape == (2, 3, 12)
        for c, o in itertools.product(range(2), range(3)):
            alone = ioca.ablation_curve(model, variables, orders[o], clamps[c], x, y)
            np.testing.assert_array_equal(together.correct[c, o], alone.correct)


def test_jit_and_vmap_over_networks():
    model, _ = random_network()
    networks = [random_network(seed)[1] for seed in range(3)]
    variables = jax.tree.map(lambda *leaf: jnp.stack(leaf), *networks)
    x, y = random_examples()
    rng = np.random.default_rng(2)
    orders = np.stack([rng.permutation(18) for _ in range(3)]).astype(np.int32)
    clamps = rng.normal(size=(3, 18)).astype(np.float32)

    @jax.jit
    @jax.vmap
    def curves(variables, order, clamp):
        masks = ioca.cumulative_masks(order, 18)
        return (
            ioca.ablation_curve(model, variables, order, clamp, x, y),
            ioca.evaluate_masks(model, variables, masks, clamp, x, y),
        )

    for together in curves(variables, orders, clamps):
        for seed in range(3):
            alone = ioca.ablation_curve(
                model, networks[seed], orders[seed], clamps[seed], x, y
            )
            np.testing.assert_array_equal(together.correct[seed], alone.correct)


@pytest.mark.parametrize("layers", [(0,), (), (0, 3), (-1, 0, 1, 2)])
def test_layers_that_do_not_hold_the_order_are_refused(layers):
    model, variables = random_network()
    x, y = random_examples()
    order = np.arange(18, dtype=np.int32)
    with pytest.raises(ValueError, match="^layers: expected layers from 0 to 2, those"):
        ioca.ablation_curve(
            model, variables, order, np.zeros(18, np.float32), x, y, layers=layers
        )


def test_layers_may_be_named_in_any_order():
    model, variables = random_network()
    x, y = random_examples()
    arguments = (model, variables, np.arange(9), np.zeros(18, np.float32), x, y)
    named = ioca.ablation_curve(*arguments, layers=(1, 0, 1))
    np.testing.assert_array_equal(
        named.correct, ioca.ablation_curve(*arguments).correct
    )


@pytest.mark.parametrize("memory_gb", [0.0, -1.0, np.inf, np.nan])
def test_unusable_budgets_are_refused(memory_gb):
    model, variables = random_network()
    x, y = random_examples()
    with pytest.raises(ValueError, match="^memory_gb: expected a positive number, got"):
        ioca.ablation_curve(
            *(model, variables, np.arange(9), np.zeros(18, np.float32), x, y),
            memory_gb=memory_gb,
        )


def test_one_compilation_serves_all_orders_masks_and_clamps(compiled):
    model, variables = random_network(hidden=(5, 4))
    x, y = random_examples()

    def run(seed: int):
        rng = np.random.default_rng(seed)
        order = rng.permutation(9).astype(np.int32)
        clamp = rng.normal(size=9).astype(np.float32)
        masks = np.asarray(ioca.cumulative_masks(order, 9))
        ioca.ablation_curve(model, variables, order, clamp, x, y)
        ioca.evaluate_masks(model, variables, masks, clamp, x, y)

    run(0)
    assert compiled
    compiled.clear()
    for seed in range(1, 6):
        run(seed)
    assert not compiled


def given_arrays():
    """Arguments by name, for the tests of what is refused."""
    x, y = random_examples()
    return {
        "masks": np.ones((2, 18), bool),
        "order": np.arange(18, dtype=np.int32),
        "clamp": np.zeros(18, np.float32),
        "x": x,
        "y": y,
    }


def with_nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


UNUSABLE = {
    "masks of another network": (
        {"masks": np.ones((2, 17), bool)},
        "masks: expected bool [..., 18], True for each hidden neuron that is kept, got "
        "bool of shape [2, 17]; it is neither the clamp nor a list of neurons",
    ),
    "masks and clamp swapped": (
        {"masks": np.zeros(18, np.float32), "clamp": np.ones(18, bool)},
        "masks: expected bool [..., 18], True for each hidden neuron that is kept, got "
        "float32 of shape [18]; it is neither the clamp nor a list of neurons",
    ),
    "clamps that do not go with the masks": (
        {"clamp": np.zeros((3, 18), np.float32)},
        "clamp: expected [..., H] that is broadcast against masks, got leading axes "
        "[3] and [2]",
    ),
    "clamp of another network": (
        {"clamp": np.zeros(19, np.float32)},
        "clamp: expected one number, or float32 [..., 18], a value for each "
        "hidden neuron, got "
        "float32 of shape [19]",
    ),
    "NaN in the clamp": (
        {"clamp": with_nan(np.zeros(18, np.float32))},
        "clamp: expected numbers, got NaN for 1 of 18 values; an ablated neuron "
        "outputs a number",
    ),
    "NaN in an example": (
        {"x": with_nan(random_examples()[0])},
        "x: expected numbers, got NaN for 1 of 636 values; leave such examples out",
    ),
    "infinity in the clamp": (
        {"clamp": np.full(18, 1e300)},
        "clamp: expected finite numbers of float32, got others for 18 of 18 values; an "
        "ablated neuron outputs a number",
    ),
    "infinity in an example": (
        {"x": np.where(random_examples()[0] > 0, np.inf, 0)[:1], "y": np.zeros(1, int)},
        "x: expected finite numbers of float32, got others for "
        f"{(random_examples()[0][:1] > 0).sum()} of 12 values; leave such examples out",
    ),
    "complex examples": (
        {"x": random_examples()[0] * 1j},
        "x: expected numbers of shape [N, ...] with N at least 1, got complex64 of "
        "shape [53, 12]",
    ),
    "pixels": (
        {"x": np.full((53, 12), 255, np.uint8)},
        "x: expected examples scaled as in training, got integers up to 255; divide "
        "pixels by 255, or take the arrays of the Dataset",
    ),
    "masked examples": (
        {"x": np.ma.masked_greater(random_examples()[0][:1], 0), "y": [0]},
        "x: expected an array without masked values, got "
        f"{(random_examples()[0][:1] > 0).sum()} masked; leave them out, or fill them",
    ),
    "masked labels": (
        {"y": np.ma.masked_equal(np.arange(53) % 4, 3)},
        "y: expected an array without masked values, got 13 masked; leave them out, or "
        "fill them",
    ),
    "variables of a network that diverged": (
        {"variables": jax.tree.map(lambda leaf: leaf * np.nan, random_network()[1])},
        "variables: expected numbers, got NaN for 7 of 7 values; the network diverged; "
        "train it otherwise",
    ),
    "examples of another width": (
        {"x": np.zeros((53, 13), np.float32)},
        "variables: expected those of one network, with params/dense_0/kernel float32 "
        "[13, 7], as traced, got float32 [12, 7]",
    ),
    "too few labels": (
        {"y": np.zeros(52, np.int32)},
        "y: expected 53, one for each example, got 52",
    ),
    "labels from 1": (
        {"y": random_examples()[1] + 1},
        "y: expected values in [0, 3], got 4; number classes from 0 to num_classes - 1",
    ),
    "too long an order": (
        {"order": np.arange(19, dtype=np.int32)},
        "order: expected at most 18 neurons, all that the network has, got 19",
    ),
    "an order out of range": (
        {"order": np.array([3, 18], np.int32)},
        "order: expected neuron indices in [0, 17], got 18",
    ),
    "an order with a repeat": (
        {"order": np.array([3, 5, 3], np.int32)},
        "order: expected every neuron once, got 3 twice",
    ),
    "an empty order": (
        {"order": np.zeros(0, np.int32)},
        "order: expected one or more neurons, got shape [1, 0]; evaluate_masks takes "
        "masks that keep all",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_arrays(case):
    changes, message = UNUSABLE[case]
    model, variables = random_network()
    given = given_arrays() | changes
    variables = given.get("variables", variables)
    common = (given["clamp"], given["x"], given["y"])
    calls = {
        "masks": lambda: ioca.evaluate_masks(model, variables, given["masks"], *common),
        "order": lambda: ioca.ablation_curve(model, variables, given["order"], *common),
    }
    only = {"masks", "order"} & set(changes) or calls
    if case == "clamps that do not go with the masks":
        only = {"masks"}
    for name in only:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            calls[name]()


@pytest.mark.parametrize("has_norm", [False, True])
def test_variables_with_or_without_batch_norm(has_norm):
    model, _ = random_network(batch_norm=not has_norm)
    _, variables = random_network(batch_norm=has_norm)
    given = given_arrays()
    common = (given["clamp"], given["x"], given["y"])
    wanted, got = "no such variable", "float32 [7]"
    message = (
        "variables: expected those of one network, with batch_stats/norm_0/mean "
        f"{wanted if has_norm else got}, as traced, got {got if has_norm else wanted}"
    )
    for function, name in (
        (ioca.evaluate_masks, "masks"),
        (ioca.ablation_curve, "order"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function(model, variables, given[name], *common)


NOT_ORDERS = {
    "repeat": [3, 5, 3, 1],
    "above": [3, 5, 7, 18],
    "below": [3, 5, -1, 1],
    "outside of the layers": [3, 5, 12, 1],
}


@pytest.mark.parametrize("engine", ENGINES)
def test_traced_orders_that_are_none_have_no_numbers(engine):
    model, variables = random_network()
    x, y = random_examples()
    orders = np.array([*NOT_ORDERS.values(), [3, 5, 7, 1]], np.int32)
    clamp = np.zeros(18, np.float32)

    @jax.jit
    def run(orders):
        curve = ioca.ablation_curve(
            model, variables, orders, clamp, x, y, engine=engine, layers=(0, 1)
        )
        return curve, curve.accuracy

    curve, accuracy = run(orders)
    assert (np.asarray(curve.correct[:-1]) == -1).all()
    assert np.isnan(curve.loss[:-1]).all()
    assert np.isnan(accuracy[:-1]).all()
    expected = ioca.ablation_curve(model, variables, orders[-1], clamp, x, y)
    np.testing.assert_array_equal(curve.correct[-1], expected.correct)
    np.testing.assert_allclose(curve.loss[-1], expected.loss, rtol=1e-5)


def three_networks():
    """Variables of three networks, with 3 orders and 2 clamps for each."""
    model, _ = random_network()
    networks = [random_network(seed)[1] for seed in range(3)]
    variables = jax.tree.map(lambda *leaf: jnp.stack(leaf), *networks)
    rng = np.random.default_rng(4)
    orders = np.array([[rng.permutation(18) for _ in range(3)] for _ in range(3)])
    clamps = rng.normal(size=(3, 2, 18)).astype(np.float32)
    return model, variables, networks, orders.astype(np.int32), clamps


@pytest.mark.parametrize(
    ("order_axes", "clamp_axes", "shape"),
    [
        (np.s_[:, :], np.s_[:, 0], (3, 3)),  # as many orders as networks
        (np.s_[:, 0], np.s_[:, :], (3, 2)),
        (np.s_[:, 0], np.s_[:, 0], (3,)),
        (np.s_[:, None], np.s_[:, :, None], (3, 2, 3)),
    ],
)
def test_the_first_axis_of_orders_and_clamps_is_the_network(
    order_axes, clamp_axes, shape
):
    model, variables, networks, orders, clamps = three_networks()
    x, y = random_examples()
    order, clamp = orders[order_axes], clamps[clamp_axes]
    curves = ioca.ablation_curves(model, variables, order, clamp, x, y, engine="masks")
    assert curves.loss.shape == (*shape, 19)
    for index in np.ndindex(*shape):
        alone = ioca.evaluate_masks(
            model,
            networks[index[0]],
            ioca.cumulative_masks(np.broadcast_to(order, (*shape, 18))[index], 18)
            if order.ndim != 2
            else ioca.cumulative_masks(order[index[0]], 18),
            np.broadcast_to(clamp, (*shape, 18))[index]
            if clamp.ndim != 2
            else clamp[index[0]],
            x,
            y,
        )
        np.testing.assert_array_equal(curves.correct[index], alone.correct)


@pytest.mark.parametrize(
    ("order_axes", "clamp_axes"),
    [
        (np.s_[:, :], np.s_[:, :]),  # 3 orders and 2 clamps
        (np.s_[:, :], np.s_[:2, 0]),
        (np.s_[:, :], np.s_[0, 0]),
        (np.s_[:, :], np.s_[:, None, :]),
        (np.s_[0, 0], np.s_[:, 0]),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_orders_and_clamps_that_do_not_go_together(order_axes, clamp_axes):
    model, variables, _, orders, clamps = three_networks()
    order, clamp = orders[order_axes], clamps[clamp_axes]
    message = (
        "order, clamp: expected [S, ..., K] and [S, ..., H], networks first and then "
        "the same axes, each equal or 1, or none in one of them, got shapes "
        f"{list(order.shape)} and {list(clamp.shape)}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.ablation_curves(model, variables, order, clamp, *random_examples())


@pytest.mark.usefixtures("unchecked_shapes")
def test_examples_of_any_shape_and_labels_of_any_integers():
    model, variables = random_network()
    x, y = random_examples()
    arguments = (model, variables, np.arange(18), np.zeros(18, np.float32))
    flat = ioca.ablation_curve(*arguments, x, y, memory_gb=1e-6)
    shaped = ioca.ablation_curve(
        *arguments, x.reshape(53, 3, 2, 2), y.astype(np.uint8), memory_gb=1e-6
    )
    np.testing.assert_array_equal(flat.correct, shaped.correct)
    np.testing.assert_array_equal(flat.loss, shaped.loss)
