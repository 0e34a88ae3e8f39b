"""Networks of other kinds against copies with masks written into them, and loops."""

from typing import Any, NamedTuple

import cuts
import frameworks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca
from ioca_jax.ablation import gated, incremental, metrics, replacement
from ioca_jax.ablation.greedy import greedy_orders
from ioca_jax.ablation.singles import single_ablations
from ioca_jax.measures import scores
from ioca_jax.networks.layers import Layer, split_by_layer

NUM_EXAMPLES = 23
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


class Scores(NamedTuple):
    correct: np.ndarray  # [M, C]
    losses: np.ndarray  # [M, N], float64


class Written(NamedTuple):
    """A network, and the same one written with cuts."""

    case: cuts.Case
    network: ioca.Network
    x: np.ndarray
    y: np.ndarray
    clamp: np.ndarray
    by_hand: Any  # of masks [M, H]: logits [M, N, C]

    def scores(self, masks: np.ndarray) -> Scores:
        logits = np.asarray(self.by_hand(masks), np.float64)
        best = np.sort(logits, axis=-1)
        assert (best[..., -1] - best[..., -2] > 1e-4).all(), "near a tie: other seeds"
        shifted = logits - best[..., -1:]
        own = np.take_along_axis(shifted, self.y[None, :, None], axis=-1)[..., 0]
        right = logits.argmax(axis=-1) == self.y
        of_class = self.y[:, None] == np.arange(logits.shape[-1])
        losses = np.log(np.exp(shifted).sum(axis=-1)) - own
        return Scores(right.astype(int) @ of_class, losses)

    def keeping(self, *ablated: tuple[int, ...]) -> np.ndarray:
        keep = np.ones((len(ablated), self.network.num_neurons), bool)
        for row, neurons in enumerate(ablated):
            keep[row, list(neurons)] = False
        return keep

    @property
    def arguments(self) -> Any:
        return self.network, self.case.variables, self.clamp, self.x, self.y

    @property
    def of_one_seed(self) -> Any:
        variables = jax.tree.map(lambda leaf: leaf[None], self.case.variables)
        return self.network, variables, self.clamp[None], self.x, self.y


CASES = {
    "cnn": (frameworks.linen_cnn, ["one", "skip", "hidden"]),
    "transformer": (
        frameworks.scanned_transformer,
        ["blocks/0/mlp/up", "blocks/1/attn/o:input", "blocks/1/mlp/down"],
    ),
}


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest) -> Written:
    make, layers = CASES[request.param]
    case = make()
    network = ioca.trace_network(case.apply, case.variables, case.x, layers)
    rng = np.random.default_rng(0)
    shape = (NUM_EXAMPLES, *case.x.shape[1:])
    if np.issubdtype(case.x.dtype, np.integer):
        x = rng.integers(frameworks.TOKENS, size=shape).astype(case.x.dtype)
    else:
        x = rng.normal(size=shape).astype(case.x.dtype)
    y = rng.integers(network.num_classes, size=NUM_EXAMPLES).astype(np.int32)
    clamp = rng.normal(size=network.num_neurons).astype(np.float32)

    @jax.jit
    def by_hand(masks):
        def of_mask(keep):
            parts = (split_by_layer(network.layers, a) for a in (keep, clamp))
            return case.by_hand(cuts.clamping(*parts), case.variables, x)

        return jax.lax.map(of_mask, masks)

    return Written(case, network, x, y, clamp, by_hand)


def equal(found: ioca.Evaluation, expected: Scores) -> None:
    np.testing.assert_array_equal(found.correct, expected.correct)
    np.testing.assert_allclose(found.loss, expected.losses.mean(axis=-1), **CLOSE)


@pytest.mark.parametrize("memory_gb", [1.0, 2e-5])
def test_masks(written, memory_gb):
    network, variables, clamp, x, y = written.arguments
    masks = np.random.default_rng(1).random((6, network.num_neurons)) < 0.7
    found = ioca.evaluate_masks(
        network, variables, masks, clamp, x, y, memory_gb=memory_gb
    )
    equal(found, written.scores(masks))


# The network; its first and last layer, not that between; a layer; the last hidden.
@pytest.mark.parametrize(
    ("engine", "memory_gb", "layers"),
    [
        ("incremental", 1.0, (0, 1, 2)),
        ("incremental", 2e-5, (0, 2)),
        ("incremental", 1.0, (1,)),
        ("incremental", 2e-5, (2,)),
        ("masks", 2e-5, (0, 2)),
    ],
)
def test_curves(written, engine, memory_gb, layers):
    network, variables, clamp, x, y = written.arguments
    neurons = np.flatnonzero(np.isin(network.layer_of_neuron, layers))
    order = np.random.default_rng(1).permutation(neurons)[:-1].astype(np.int32)
    found = ioca.ablation_curve(
        *(network, variables, order, clamp, x, y),
        engine=engine,
        memory_gb=memory_gb,
    )
    masks = np.asarray(ioca.cumulative_masks(order, network.num_neurons))
    equal(found, written.scores(masks))


@pytest.mark.parametrize("layers", [(0, 1, 2), (1, 2)])
def test_curves_that_share_what_neurons_add(written, layers, monkeypatch):
    network, variables, clamp, x, y = written.arguments
    shared: list[int] = []

    def has_gate(network, layer, *numbers):
        return network.gates[layer] is not None

    def make(network, variables, layer, values):
        shared.append(layer)
        return gated.make_terms(network, variables, layer, values)

    monkeypatch.setattr(incremental, "is_worthwhile", has_gate)
    monkeypatch.setattr(incremental, "make_terms", make)
    neurons = np.flatnonzero(np.isin(network.layer_of_neuron, layers))
    rng = np.random.default_rng(1)
    # One neuron is kept to the end; points leave out steps and repeat one.
    orders = np.stack([rng.permutation(neurons)[:-1] for _ in range(2)])
    steps = np.array([1, 2, len(neurons) // 2, len(neurons) - 1, len(neurons) - 1])
    engine = incremental.incremental_engine(
        *(network, jax.tree.map(lambda leaf: leaf[None], variables), layers),
        *(metrics.Scorer(network.num_classes), x, len(neurons), 1.0),
        **{"takes_constants": True, "num_curves": 2, "num_points": 5},
    )
    arrays = (
        variables,
        orders,
        replacement.Constants(
            replacement.constants_of(network, np.stack([clamp, -clamp]))
        ),
    )
    sums = jax.jit(engine.orders)(
        (jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], arrays), steps),
        metrics.Batch(x, None, {}),
        y,
    )
    # No product follows the convolution ``skip``, so that there is nothing to save.
    lowest = layers[0]
    assert shared == ([] if network.layers[lowest].name == "skip" else [lowest])
    for curve, sign in enumerate((1, -1)):
        masks = ioca.cumulative_masks(orders[curve], network.num_neurons)[steps]
        expected = ioca.evaluate_masks(network, variables, masks, sign * clamp, x, y)
        np.testing.assert_array_equal(sums.correct[0, curve], expected.correct)
        losses = np.asarray(sums.loss[0, curve]) / len(y)
        np.testing.assert_allclose(losses, expected.loss, **CLOSE)


def test_many_orders_and_networks_at_once(written):
    network, variables, clamp, x, y = written.arguments
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 1.1]), variables)
    rng = np.random.default_rng(2)
    orders = [rng.permutation(network.num_neurons)[:4] for _ in range(6)]
    orders = np.reshape(orders, (2, 3, 4)).astype(np.int32)
    clamps = np.stack([clamp, -clamp])
    arguments = (network, both, orders, clamps, x, y)
    found, expected = (
        ioca.ablation_curves(*arguments, engine=engine) for engine in (None, "masks")
    )
    assert found.correct.shape == (2, 3, 5, network.num_classes)
    np.testing.assert_array_equal(found.correct, expected.correct)
    np.testing.assert_allclose(found.loss, expected.loss, **CLOSE)


def test_single_ablations(written):
    found = single_ablations(*written.of_one_seed, memory_gb=2e-5)
    expected = written.scores(~np.eye(written.network.num_neurons, dtype=bool))
    equal(jax.tree.map(lambda leaf: leaf[0], found.alone), expected)
    intact = written.scores(written.keeping(()))
    np.testing.assert_array_equal(found.intact.correct, intact.correct)


def test_greedy_orders_are_brute_force(written):
    network = written.network
    # Of the first layer and the last, not of that between.
    neurons = np.array([1, 4, 0, *range(network.num_neurons - 3, network.num_neurons)])
    (order,) = greedy_orders(
        *written.of_one_seed,
        neurons=neurons,
        keys=jax.random.split(jax.random.key(0), 1),
        memory_gb=2e-5,
    )
    assert sorted(order.tolist()) == sorted(neurons.tolist())
    ablated: list[int] = []
    for chosen in order.tolist():
        candidates = [n for n in neurons.tolist() if n not in ablated]
        keep = written.keeping(*[(*ablated, n) for n in candidates])
        costs = written.scores(keep).losses.mean(axis=-1)
        assert costs[candidates.index(chosen)] <= costs.min() * (1 + 1e-5)
        ablated.append(chosen)


def outputs_by_hand(written: Written, shifts: Any = None) -> tuple[Any, dict]:
    """Logits and each layer's outputs [N, ..., neurons] plus shifts."""
    seen = {}

    def cut(name, value, axis=-1):
        del axis
        if shifts is not None and name in shifts:
            value = value + shifts[name]
        seen[name] = value
        return value

    logits = written.case.by_hand(cut, written.case.variables, written.x)
    return logits, {layer.name: seen[layer.name] for layer in written.network.layers}


def neurons_first(layer: Layer, values: Any) -> np.ndarray:
    """[N, neurons, positions and vector]."""
    axis = 1 + len(layer.positions)
    moved = np.moveaxis(np.asarray(values, np.float64), axis, 1)
    return moved.reshape(*moved.shape[:2], -1)


def test_taylor_is_the_gradient_of_the_copy(written):
    network, *_, y = written.arguments
    _, outputs = outputs_by_hand(written)

    def loss(shifts):
        logits, _ = outputs_by_hand(written, shifts)
        return -jax.nn.log_softmax(logits)[np.arange(len(y)), y].sum()

    gradients = jax.grad(loss)(jax.tree.map(jnp.zeros_like, outputs))
    clamps = split_by_layer(network.layers, written.clamp)
    expected = []
    for layer in network.layers:
        gradient, output = (
            neurons_first(layer, values[layer.name]) for values in (gradients, outputs)
        )
        change = np.asarray(clamps[layer.name])[None, :, None] - output
        expected.append(np.abs((gradient * change).sum(axis=2)).mean(axis=0))
    found = scores.taylor(*written.arguments)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-3, atol=1e-5)


def test_scores_of_activations_are_numpys(written):
    network, variables, _, x, y = written.arguments
    _, outputs = outputs_by_hand(written)
    pooled = [
        neurons_first(layer, outputs[layer.name]).mean(axis=2)
        for layer in network.layers
    ]
    activations = np.concatenate(pooled, axis=1)
    mean = activations.mean(axis=0).astype(np.float32)
    found = scores.activation_variance(network, variables, mean, x, y)
    np.testing.assert_allclose(found, activations.var(axis=0), **CLOSE)
    means = np.stack([activations[y == c].mean(axis=0) for c in range(3)])
    most = means.max(axis=0)
    others = (means.sum(axis=0) - most) / 2
    expected = (most - others) / (np.abs(most) + np.abs(others))
    found = scores.class_selectivity(network, variables, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("score", ["incoming_weight_norm", "outgoing_weight_norm"])
def test_weight_norms_need_dense_layers_in_a_row(written, score):
    begin = "inputs" if score.startswith("incoming") else "first layer"
    with pytest.raises(
        ValueError,
        match="^weight norms: expected dense layers in a row, affine up to their "
        f"activations, from the {begin} to the logits, got "
        f"{', '.join(layer.name for layer in written.network.layers)}$",
    ):
        getattr(scores, score)(written.network, written.case.variables)


def test_engines_for_chains_refuse_it(written):
    network, variables, clamp, x, y = written.arguments
    order = np.arange(3, dtype=np.int32)
    with pytest.raises(
        ValueError,
        match="^engine: expected incremental or masks, got rank_one, which needs dense "
        f"layers in a row from {network.layers[0].name} on$",
    ):
        ioca.ablation_curve(network, variables, order, clamp, x, y, engine="rank_one")
