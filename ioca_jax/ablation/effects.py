"""Published scores of a neuron, to compare the three information measures with.

Without ablation: class selectivity (A. Morcos et al., arXiv 1803.06959), norms of
incoming and outgoing weights, mean and variance of the output, and the first-order
Taylor criterion (P. Molchanov et al., arXiv 1611.06440). By ablation: the loss that
ablating one neuron costs, the Shapley value estimated from random orders (A. Ghorbani
and J. Zou, "Neuron Shapley", arXiv 2002.09815), and a greedy order, an oracle that
bounds all others.

All are computed on the measuring split, never on the one that curves are evaluated on.
All take any network; weight norms need an ``MLP``, whose batch norm is folded into its
weights. Scores that depend on the clamp carry its name: ``taylor_zero``.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from ioca_jax.ablation.budget import device_budget, number_that_fits
from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.evaluation import (
    Evaluation,
    make_evaluation,
    right_and_losses,
    score_logits,
)
from ioca_jax.ablation.masks import MasksEngine, fit_budget, masks_engine, staged
from ioca_jax.ablation.orderings import random_order
from ioca_jax.batching import IGNORE_LABEL, fold_examples
from ioca_jax.checks import check_clamp, check_classes, is_known
from ioca_jax.devices import sum_over_examples
from ioca_jax.networks.inputs import check_inputs
from ioca_jax.networks.mlp import (
    MLP,
    activate,
    check_mlp,
    folded_layers,
    pre_activations,
)
from ioca_jax.networks.network import (
    Ablation,
    Layer,
    Network,
    StagedNetwork,
    slices_of,
)

_EXAMPLES_AT_ONCE = 1000
_CANDIDATES_AT_ONCE = 8


def class_selectivity(
    network: Network,
    variables: Any,
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """How much more a neuron outputs for its preferred class than for the others.

    ``(m - o) / (|m| + |o|)`` with m the greatest of the class means of its output and o
    the mean of the other classes' means; absent classes have none. In [0, 1] for
    outputs that are not negative; 0 for a dead neuron; NaN where a single class occurs
    among labels that are traced. Source: A. Morcos et al., arXiv 1803.06959, section
    2.3.
    """
    check_classes(y)

    def add(total, x_chunk, y_chunk):
        _, outputs = network.apply(variables, x_chunk)
        is_class = jax.nn.one_hot(y_chunk, network.num_classes)
        return total + jnp.matmul(is_class.T, outputs, precision="highest")

    zeros = jnp.zeros((network.num_classes, network.num_neurons))
    total = _fold(network, add, zeros, x, y)
    sizes = jnp.zeros(network.num_classes).at[jnp.asarray(y)].add(1)[:, None]
    present = sizes > 0
    means = total / jnp.maximum(sizes, 1)
    most = jnp.max(jnp.where(present, means, -jnp.inf), axis=0)
    everything = jnp.sum(jnp.where(present, means, 0), axis=0)
    number = jnp.where(present.sum() > 1, present.sum(), jnp.nan)
    others = (everything - most) / (number - 1)
    size = jnp.abs(most) + jnp.abs(others)
    return jnp.where(size == 0, 0, (most - others) / jnp.where(size == 0, 1, size))


def activation_variance(
    network: Network,
    variables: Any,
    mean: Float[ArrayLike, " H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """Variance of the output over examples; ``mean`` is over the same examples."""
    mean = jnp.asarray(mean)

    def add(total, x_chunk, y_chunk):
        _, outputs = network.apply(variables, x_chunk)
        weights = (y_chunk != IGNORE_LABEL).astype(outputs.dtype)
        squares = jnp.square(outputs - mean)
        return total + jnp.matmul(weights, squares, precision="highest")

    return _fold(network, add, jnp.zeros(network.num_neurons), x, y) / np.shape(y)[0]


def incoming_weight_norm(network: Network, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights into each neuron of an ``MLP``."""
    layers = folded_layers(check_mlp("incoming_weight_norm", network), variables)
    kernels = [layer.kernel for layer in layers[:-1]]
    return jnp.concatenate([jnp.linalg.norm(kernel, axis=0) for kernel in kernels])


def outgoing_weight_norm(network: Network, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights out of each neuron of an ``MLP``."""
    layers = folded_layers(check_mlp("outgoing_weight_norm", network), variables)
    kernels = [layer.kernel for layer in layers[1:]]
    return jnp.concatenate([jnp.linalg.norm(kernel, axis=1) for kernel in kernels])


def taylor(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, " H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """First-order estimate of how a neuron's ablation changes an example's loss, nats.

    The mean over examples of ``|sum dL/dt (c - t)|``, the sum over the positions at
    which its output t moves to the clamp c. Source: P. Molchanov et al., arXiv
    1611.06440, equation 8.
    """
    if not isinstance(network, StagedNetwork):
        raise ValueError(
            "taylor: needs gradients at the layers, as MLP and networks of "
            f"trace_network have; this network is a {type(network).__name__}"
        )
    clamp = jnp.asarray(clamp)
    layers = network.layers
    clamps = [
        _at_positions(layer, clamp[where])
        for layer, where in zip(layers, slices_of(layers), strict=True)
    ]

    def losses(shifts, x_chunk, y_chunk):
        values, outputs = network.prefix(variables, x_chunk, 0), []
        for index, shift in enumerate(shifts):
            if index:
                values = network.advance(variables, index - 1, values)
            outputs.append(values.outputs)
            shifted = values.outputs + shift.astype(values.outputs.dtype)
            values = dataclasses.replace(values, outputs=shifted)
        logits, _ = network.above(variables, len(layers) - 1, values)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, y_chunk)
        return each.sum(), outputs

    def add(total, x_chunk, y_chunk):
        shifts = [jnp.zeros((len(y_chunk), *layer.shape)) for layer in layers]
        labels = jnp.maximum(y_chunk, 0)
        gradients, outputs = jax.grad(losses, has_aux=True)(shifts, x_chunk, labels)
        changes = [
            jnp.abs(_sum_positions(layer, gradient * (constant - output)))
            for layer, gradient, constant, output in zip(
                layers, gradients, clamps, outputs, strict=True
            )
        ]
        counted = (y_chunk != IGNORE_LABEL)[:, None]
        change = jnp.where(counted, jnp.concatenate(changes, axis=1), 0)
        return total + change.sum(axis=0)

    return _fold(network, add, jnp.zeros(network.num_neurons), x, y) / np.shape(y)[0]


def _at_positions(layer: Layer, values: Float[Array, " n"]) -> Array:
    """A value per neuron, broadcast against ``layer.shape``."""
    positions, vector = (1,) * len(layer.positions), (1,) * len(layer.vector)
    return values.reshape(*positions, -1, *vector)


def _sum_positions(layer: Layer, values: Array) -> Float[Array, "N n"]:
    """Sums of [N, *layer.shape] over positions and a neuron's vector."""
    shape = (len(values), math.prod(layer.positions), layer.num_neurons, -1)
    return values.reshape(shape).sum(axis=(1, 3))


class SingleAblations(NamedTuple):
    """Networks with each neuron ablated alone, [S, ..., H], and intact, [S, ...]."""

    alone: Evaluation
    intact: Evaluation


def single_ablations(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
    *,
    memory_gb: float = 1.0,
) -> SingleAblations:
    """Evaluates many networks with each neuron ablated alone; ``variables`` has S."""
    evaluate = _singles_of_mlp if isinstance(network, MLP) else _singles
    return evaluate_singles(
        *(network, variables, clamp, x, y), memory_gb=memory_gb, evaluate=evaluate
    )


def evaluate_singles(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
    *,
    memory_gb: float,
    evaluate: Callable[..., SingleAblations] | None = None,
) -> SingleAblations:
    """``single_ablations``, a layer at a time; by runs of any network if not given."""
    clamp, evaluate = jnp.asarray(clamp, jnp.float32), evaluate or _singles
    parts = [
        evaluate(network, variables, clamp, x, y, layer, memory_gb)
        for layer in range(len(network.layers))
    ]
    axis = clamp.ndim - 1
    alone = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves, axis=axis),
        *(part.alone for part in parts),
    )
    return SingleAblations(alone, parts[0].intact)


def _singles_of_mlp(model, variables, clamp, x, y, layer, memory_gb) -> SingleAblations:
    """Each neuron of a layer is a curve of one step."""
    neurons = np.flatnonzero(model.layer_of_neuron == layer).astype(np.int32)[:, None]
    num_seeds, *clamps, _ = clamp.shape
    orders = np.broadcast_to(neurons, (num_seeds, *[1] * len(clamps), *neurons.shape))
    curves = ablation_curves(
        model,
        variables,
        orders,
        clamp[..., None, :],
        x,
        y,
        layers=(layer,),
        memory_gb=memory_gb,
    )
    number = curves.num_examples
    return SingleAblations(
        Evaluation(curves.correct[..., 1, :], curves.loss[..., 1], number),
        Evaluation(curves.correct[..., 0, 0, :], curves.loss[..., 0, 0], number),
    )


def _singles(network, variables, clamp, x, y, layer, memory_gb) -> SingleAblations:
    check_inputs(network, x, y)
    check_clamp(clamp, network.num_neurons)
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    clamps = clamp.reshape(len(clamp), -1, clamp.shape[-1])
    engine = masks_engine(network, layer, len(y), device_budget(memory_gb, x))
    sums = sum_over_examples(MasksEngine.singles, engine, (variables, clamps), x, y)
    width = network.layers[layer].num_neurons
    found = make_evaluation(sums, (*clamp.shape[:-1], 1 + width), len(y))
    return SingleAblations(
        Evaluation(found.correct[..., 1:, :], found.loss[..., 1:], len(y)),
        Evaluation(found.correct[..., 0, :], found.loss[..., 0], len(y)),
    )


class ShapleyValues(NamedTuple):
    """Shapley values of neurons, estimated from random orders.

    Attributes:
        value: float32 [H], share of accuracy; NaN for a neuron in no order. The values
            of all neurons of the orders add up to what ablating all of them costs.
        standard_error: float32 [H], over orders; NaN with fewer than two.
    """

    value: Float[Array, " H"]
    standard_error: Float[Array, " H"]


def shapley_values(
    accuracy: Float[ArrayLike, "M points"],
    orders: Int[ArrayLike, "M K"],
    num_neurons: int,
) -> ShapleyValues:
    """Estimates Shapley values from the curves of random orders.

    A neuron's value is what its ablation costs, on average over the random orders, when
    those before it are ablated already: permutation sampling.

    Args:
        accuracy: float32 [M, K+1] of curves.
        orders: int32 [M, K] of the same neurons, drawn at random.
        num_neurons: H.

    Returns:
        Values and how far they are uncertain.

    Raises:
        ValueError: orders of different neurons, with one twice or out of range, or
            curves that are not theirs.

    Source:
        J. Castro et al., "Polynomial calculation of the Shapley value based on
        sampling", 2009; A. Ghorbani and J. Zou, arXiv 2002.09815.
    """
    _check_orders(accuracy, orders, num_neurons)
    accuracy, orders = jnp.asarray(accuracy), jnp.asarray(orders)
    cost = accuracy[:, :-1] - accuracy[:, 1:]
    number = len(orders)
    sums = jnp.zeros(num_neurons).at[orders].add(cost)
    is_there = jnp.zeros(num_neurons).at[orders].add(1) > 0
    mean = jnp.where(is_there, sums / number, jnp.nan)
    squares = jnp.zeros(num_neurons).at[orders].add(jnp.square(cost - mean[orders]))
    variance = squares / (number - 1) if number > 1 else jnp.full(num_neurons, jnp.nan)
    error = jnp.sqrt(variance / number)
    return ShapleyValues(mean, jnp.where(is_there, error, jnp.nan))


def _check_orders(accuracy: ArrayLike, orders: ArrayLike, num_neurons: int) -> None:
    """Refuses orders that are not all of the same neurons, each once."""
    shape = np.shape(orders)
    if len(shape) != 2 or np.shape(accuracy) != (shape[0], shape[1] + 1):
        raise ValueError(
            "expected accuracy [M, K+1] of orders [M, K], got shapes "
            f"{list(np.shape(accuracy))} and {list(shape)}"
        )
    if not is_known(orders) or not np.size(orders):
        return
    neurons = np.sort(orders, axis=1)
    if neurons.min() < 0 or neurons.max() >= num_neurons:
        raise ValueError(
            f"orders: expected neurons in [0, {num_neurons - 1}], got "
            f"{neurons.min() if neurons.min() < 0 else neurons.max()}"
        )
    if (neurons != neurons[0]).any() or (np.diff(neurons[0]) == 0).any():
        raise ValueError(
            "orders: expected the same neurons in each, every one once, for a value is "
            "a mean over orders; estimate the values of other neurons apart"
        )


@partial(jax.jit, static_argnames=("network", "neurons", "memory_gb"))
def _greedy(network, variables, clamp, x, y, keys, neurons, memory_gb):
    """The greedy orders [S, K] of all networks."""
    losses_of = _losses_of_mlp if isinstance(network, MLP) else _losses

    def of_network(arrays):
        variables, clamp, key = arrays
        losses = losses_of(network, variables, clamp, x, y, neurons, memory_gb)
        return _greedy_order(losses, neurons, network.num_neurons, key)

    return jax.lax.map(of_network, (variables, clamp, keys))


def _greedy_order(losses: Callable, neurons, num_neurons: int, key: Array) -> Array:
    """One greedy order [K], by the losses without each kept neuron."""
    # Equal losses: the first in a random order goes.
    shuffled = random_order(jnp.asarray(neurons, jnp.int32), key=key)

    def step(kept, _):
        costs = jnp.where(kept, losses(kept), jnp.inf)[shuffled]
        chosen = shuffled[jnp.argmin(costs)]
        return kept.at[chosen].set(False), chosen

    everything = jnp.ones(num_neurons, bool)
    return jax.lax.scan(step, everything, None, length=len(neurons))[1]


def greedy_orders(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, "S H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
    neurons: Int[ArrayLike, " K"],
    *,
    keys: Array,
    memory_gb: float = 1.0,
) -> Int[Array, "S K"]:
    """Orders that ablate, at every step, the neuron that costs the least loss.

    An oracle: it evaluates the loss of all candidates at all steps, K (K+1) / 2
    evaluations of part of the network. Give it some hundreds of examples. ``neurons``
    must not be traced; ``keys`` [S] break ties at random.
    """
    check_inputs(network, x, y)
    chosen = tuple(np.asarray(neurons).tolist())
    clamp, x, y = jnp.asarray(clamp), jnp.asarray(x), jnp.asarray(y, jnp.int32)
    return _greedy(network, variables, clamp, x, y, keys, chosen, memory_gb)


def _layers_of(network: Network, neurons: tuple[int, ...]) -> list[int]:
    return np.unique(network.layer_of_neuron[list(neurons)]).tolist()


def _losses_of_kept(
    kept: Bool[Array, " w"], size: int, losses: Callable[[Array], Array]
) -> Float[Array, " w"]:
    """Losses without each kept neuron of a layer, by blocks of rows [size].

    Kept neurons come first, so that blocks beyond them need not be evaluated; the last
    block is filled up with others, whose losses are of no use.
    """
    rows = jnp.argsort(~kept, stable=True)
    rows = jnp.pad(rows, (0, -len(rows) % size), mode="edge")

    def block(index, costs):
        some = jax.lax.dynamic_slice_in_dim(rows, index * size, size)
        return costs.at[some].set(losses(some))

    number = -(-kept.sum() // size)
    return jax.lax.fori_loop(0, number, block, jnp.zeros(len(kept)))


def _losses(network, variables, clamp, x, y, neurons, memory_gb) -> Callable:
    """Of any network: a function of the kept neurons [H] to losses [H] without each."""
    slices, layers = slices_of(network.layers), _layers_of(network, neurons)
    at_once = fit_budget(network, layers[0], len(y), memory_gb)
    network = staged(network)

    def of_kept(kept):
        def chunk(total, x_chunk, y_chunk):
            values = network.prefix(variables, x_chunk, layers[0])
            for layer in range(layers[0], layers[-1] + 1):
                if layer > layers[0]:
                    ablation = Ablation(kept, clamp)
                    values = network.advance(variables, layer - 1, values, ablation)
                if layer in layers:
                    losses = partial(losses_without, layer, values, y_chunk)
                    size = min(at_once.ablations, network.layers[layer].num_neurons)
                    found = _losses_of_kept(kept[slices[layer]], size, losses)
                    total = total.at[slices[layer]].add(found)
            return total

        @partial(jax.vmap, in_axes=(None, None, None, 0))
        def losses_without(layer, values, y_chunk, row):
            ablation = Ablation(kept.at[slices[layer].start + row].set(False), clamp)
            logits, _ = network.above(variables, layer, values, ablation)
            return score_logits(logits.T, y_chunk)[1]

        zeros = jnp.zeros(len(kept))
        return fold_examples(chunk, zeros, x, y, chunk_size=at_once.examples)

    return of_kept


def _losses_of_mlp(model, variables, clamp, x, y, neurons, memory_gb) -> Callable:
    """As ``_losses``, by rank-one updates; arrays are feature-major, [width, n]."""
    del memory_gb
    affine, slices = folded_layers(model, variables), model.layer_slices
    layers, last = _layers_of(model, neurons), model.num_layers - 1
    lowest = layers[0]
    raw = x.reshape(len(x), -1).T
    for layer in affine[: lowest + 1]:
        raw = activate(model, pre_activations(model, layer, raw))

    @jax.vmap
    def losses(logits: Float[Array, "C n"]) -> Float[Array, ""]:
        return right_and_losses(logits, y)[1].sum()

    def above(layer, outputs, kept):
        """A layer's outputs [..., width, n] to the next layer's pre-activations."""
        where = slices[layer]
        outputs = jnp.where(kept[where, None], outputs, clamp[where, None])
        return pre_activations(model, affine[layer + 1], outputs)

    def without_each(kept, layer, outputs, inputs, rows):
        """Losses [b] without each of some neurons; ``inputs`` of the next layer."""
        change = clamp[slices[layer]][rows][:, None] - outputs[rows]
        weights = affine[layer + 1].kernel[rows]
        inputs = inputs + weights[:, :, None] * change[:, None, :]
        for upper in range(layer + 1, last + 1):
            inputs = above(upper, activate(model, inputs), kept)
        return losses(inputs)

    def of_kept(kept):
        costs, outputs = jnp.zeros(model.num_neurons), raw
        for layer in range(lowest, layers[-1] + 1):
            where = slices[layer]
            inputs = above(layer, outputs, kept)
            if layer in layers:
                of_rows = partial(without_each, kept, layer, outputs, inputs)
                size = min(_CANDIDATES_AT_ONCE, model.hidden[layer])
                found = _losses_of_kept(kept[where], size, of_rows)
                costs = costs.at[where].set(found)
            outputs = activate(model, inputs)
        return costs

    return of_kept


class Score(NamedTuple):
    """A score that needs no ablation.

    ``function`` takes a network, its variables, its mean outputs [H], examples and
    classes; it returns float32 [H].
    """

    unit: str
    function: Callable[..., Float[Array, " H"]]


SCORES = {
    "class_selectivity": Score(
        "1",
        lambda network, variables, mean, x, y: class_selectivity(
            network, variables, x, y
        ),
    ),
    "activation_mean": Score("1", lambda network, variables, mean, x, y: mean),
    "activation_variance": Score("1", activation_variance),
    "incoming_weight_norm": Score(
        "1",
        lambda network, variables, mean, x, y: incoming_weight_norm(network, variables),
    ),
    "outgoing_weight_norm": Score(
        "1",
        lambda network, variables, mean, x, y: outgoing_weight_norm(network, variables),
    ),
    "taylor_zero": Score(
        "nat",
        lambda network, variables, mean, x, y: taylor(
            network, variables, jnp.zeros_like(mean), x, y
        ),
    ),
    "taylor_mean": Score("nat", taylor),
}
# Scores by ablation, under each clamp, and their units.
ABLATION_SCORES = {"ablation_loss": "nat", "shapley": "1", "greedy": "rank"}


def _fold(
    network: Network, step: Callable, carry: Any, x: ArrayLike, y: ArrayLike
) -> Any:
    """Folds over chunks of examples whose activations fit in about 1 GB."""
    check_inputs(network, x, y)
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    floats = 4 * sum(math.prod(layer.shape) for layer in network.layers)
    size = number_that_fits(1.0, floats, _EXAMPLES_AT_ONCE)
    return fold_examples(step, carry, x, y, chunk_size=size)
