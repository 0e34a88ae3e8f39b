"""Other people's scores of a neuron, to stand beside the three information measures.

What needs no ablation: class selectivity (A. Morcos et al., arXiv 1803.06959), norms of
incoming and outgoing weights, mean and variance of the output, and the first-order
Taylor criterion (P. Molchanov et al., arXiv 1611.06440). What ablation itself says: the
loss that ablating one neuron costs, the Shapley value that random orders estimate
(A. Ghorbani and J. Zou, "Neuron Shapley", arXiv 2002.09815), and a greedy order, the
oracle that bounds all others.

All come from the measuring split, never from the one that curves are read on. Batch
norm is folded into the weights. What depends on the clamp has its name in its own:
``taylor_zero``, ``taylor_mean``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.evaluation import Evaluation
from ioca_jax.ablation.orderings import random_order
from ioca_jax.batching import IGNORE_LABEL, fold_examples
from ioca_jax.checks import (
    check_classes,
    check_examples,
    is_known,
)
from ioca_jax.networks.mlp import (
    MLP,
    Affine,
    activate,
    folded_layers,
    multiply,
    pre_activations,
)

_EXAMPLES_AT_ONCE = 1000
_CANDIDATES_AT_ONCE = 8


def class_selectivity(
    model: MLP, variables: Any, x: Float[ArrayLike, "N D"], y: Int[ArrayLike, " N"]
) -> Float[Array, " H"]:
    """How much more a neuron outputs for its favourite class than for the others.

    ``(m - o) / (|m| + |o|)`` with m the greatest of the class means of its output and o
    the mean of the other classes' means; absent classes have none.

    Args:
        model: the network's shape.
        variables: the variables of one network.
        x: float32 [N, D] images that the network was not trained on.
        y: int32 [N] classes.

    Returns:
        float32 [H], in [0, 1] for outputs that are not negative; 0 for a dead neuron;
        NaN where a single class occurs, of labels that are traced.

    Raises:
        ValueError: labels that are not classes of the network, or of a single one.

    Source:
        A. Morcos et al., arXiv 1803.06959, section 2.3.
    """
    check_classes(y)

    def add(total, x_chunk, y_chunk):
        _, outputs = model.apply(variables, x_chunk)
        is_class = jax.nn.one_hot(y_chunk, model.num_classes)
        return total + jnp.matmul(is_class.T, outputs, precision="highest")

    zeros = jnp.zeros((model.num_classes, model.num_neurons))
    total = _fold(model, add, zeros, x, y)
    sizes = jnp.zeros(model.num_classes).at[jnp.asarray(y)].add(1)[:, None]
    present = sizes > 0
    means = total / jnp.maximum(sizes, 1)
    most = jnp.max(jnp.where(present, means, -jnp.inf), axis=0)
    everything = jnp.sum(jnp.where(present, means, 0), axis=0)
    number = jnp.where(present.sum() > 1, present.sum(), jnp.nan)
    others = (everything - most) / (number - 1)
    size = jnp.abs(most) + jnp.abs(others)
    return jnp.where(size == 0, 0, (most - others) / jnp.where(size == 0, 1, size))


def activation_variance(
    model: MLP,
    variables: Any,
    mean: Float[ArrayLike, " H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """Variance of the output over examples.

    Args:
        model: the network's shape.
        variables: the variables of one network.
        mean: float32 [H], of the output over the same examples.
        x: float32 [N, D] images.
        y: int32 [N] classes.

    Returns:
        float32 [H], not negative.
    """
    mean = jnp.asarray(mean)

    def add(total, x_chunk, y_chunk):
        _, outputs = model.apply(variables, x_chunk)
        weights = (y_chunk != IGNORE_LABEL).astype(outputs.dtype)
        squares = jnp.square(outputs - mean)
        return total + jnp.matmul(weights, squares, precision="highest")

    return _fold(model, add, jnp.zeros(model.num_neurons), x, y) / np.shape(y)[0]


def incoming_weight_norm(model: MLP, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights into each neuron.

    Args:
        model: the network's shape.
        variables: the variables of one network.

    Returns:
        float32 [H], not negative.
    """
    layers = folded_layers(model, variables)[:-1]
    return jnp.concatenate([jnp.linalg.norm(layer.kernel, axis=0) for layer in layers])


def outgoing_weight_norm(model: MLP, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights out of each neuron, into the next layer.

    Args:
        model: the network's shape.
        variables: the variables of one network.

    Returns:
        float32 [H], not negative.
    """
    layers = folded_layers(model, variables)[1:]
    return jnp.concatenate([jnp.linalg.norm(layer.kernel, axis=1) for layer in layers])


def taylor(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, " H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """What a neuron's ablation changes in an example's loss, to first order.

    The mean over examples of ``|dL/dt (c - t)|``: its output t moves to the clamp c.

    Args:
        model: the network's shape.
        variables: the variables of one network.
        clamp: float32 [H].
        x: float32 [N, D] images.
        y: int32 [N] classes.

    Returns:
        float32 [H], nats, not negative.

    Source:
        P. Molchanov et al., arXiv 1611.06440, equation 8, for one output.
    """
    layers = folded_layers(model, variables)
    clamp = jnp.asarray(clamp)

    def losses(moves, x_chunk, y_chunk):
        inputs, outputs = x_chunk, []
        for layer, where in zip(layers, model.layer_slices, strict=False):
            inputs = activate(model, _affine(model, layer, inputs)) + moves[:, where]
            outputs.append(inputs)
        logits = _affine(model, layers[-1], inputs)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, y_chunk)
        return each.sum(), jnp.concatenate(outputs, axis=1)

    def add(total, x_chunk, y_chunk):
        still = jnp.zeros((len(y_chunk), model.num_neurons))
        labels = jnp.maximum(y_chunk, 0)
        gradient, outputs = jax.grad(losses, has_aux=True)(still, x_chunk, labels)
        change = jnp.abs(gradient * (clamp - outputs))
        return total + jnp.where((y_chunk != IGNORE_LABEL)[:, None], change, 0).sum(
            axis=0
        )

    return _fold(model, add, jnp.zeros(model.num_neurons), x, y) / np.shape(y)[0]


class SingleAblations(NamedTuple):
    """Networks with each neuron ablated alone, and with none.

    Attributes:
        alone: [S, ..., H].
        intact: [S, ...].
    """

    alone: Evaluation
    intact: Evaluation


def single_ablations(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    *,
    memory_gb: float = 1.0,
) -> SingleAblations:
    """Evaluates many networks with each neuron ablated alone.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        clamp: float32 [S, ..., H].
        x: float32 [N, D] images.
        y: int32 [N] classes.
        memory_gb: as in ``ablation_curves``.

    Returns:
        The evaluations.
    """
    clamp = jnp.asarray(clamp)
    num_seeds, *clamps = clamp.shape[:-1]
    parts = []
    for layer, where in enumerate(model.layer_slices):
        neurons = np.arange(where.start, where.stop, dtype=np.int32)[:, None]
        evaluation = ablation_curves(
            model,
            variables,
            np.broadcast_to(neurons, (num_seeds, *[1] * len(clamps), *neurons.shape)),
            clamp[..., None, :],
            *(x, y),
            layers=(layer,),
            memory_gb=memory_gb,
        )
        parts.append(evaluation)
    axis = 1 + len(clamps)

    def point(step: int, *leaves: Array) -> Array:
        there = [jnp.take(leaf, step, axis=axis + 1) for leaf in leaves]
        return jnp.concatenate(there, axis=axis)

    alone = jax.tree.map(partial(point, 1), *parts)
    intact = jax.tree.map(partial(point, 0), parts[0])
    return SingleAblations(
        alone, jax.tree.map(lambda leaf: jnp.take(leaf, 0, axis=axis), intact)
    )


class ShapleyValues(NamedTuple):
    """What random orders say a neuron is worth.

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


@partial(jax.jit, static_argnames=("model", "neurons"))
def _greedy(model, variables, clamp, x, y, keys, neurons):
    """The greedy orders [S, K] of all networks."""

    def of_network(arrays):
        variables, clamp, key = arrays
        return _greedy_order(model, variables, clamp, key, x, y, neurons)

    return jax.lax.map(of_network, (variables, clamp, keys))


def greedy_orders(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, "S H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    neurons: Int[ArrayLike, " K"],
    *,
    keys: Array,
) -> Int[Array, "S K"]:
    """Orders that ablate, at every step, the neuron whose loss is felt least.

    An oracle: it looks at the loss itself, of all candidates at all steps, K (K+1) / 2
    evaluations of part of the network. Give it some hundreds of examples.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        clamp: float32 [S, H].
        x: float32 [N, D] images of the measuring split.
        y: int32 [N] classes.
        neurons: int32 [K] the neurons to order; not traced.
        keys: [S], break ties at random.

    Returns:
        int32 [S, K], the neuron that matters least first.
    """
    check_examples(x, y, model.num_classes)
    chosen = tuple(np.asarray(neurons).tolist())
    return _greedy(
        model, variables, jnp.asarray(clamp), jnp.asarray(x), jnp.asarray(y), keys,
        chosen,
    )  # fmt: skip


def _greedy_order(model, variables, clamp, key, x, y, neurons):
    """One network's; arrays are feature-major, [width, n]."""
    affine = folded_layers(model, variables)
    slices, last = model.layer_slices, model.num_layers - 1
    layers = sorted(set(model.layer_of_neuron[list(neurons)].tolist()))
    lowest = layers[0]
    raw = x
    for layer in affine[: lowest + 1]:
        raw = activate(model, _affine(model, layer, raw))
    raw = raw.T
    # Equal losses: the first in a random order goes.
    shuffled = random_order(jnp.asarray(neurons, jnp.int32), key=key)

    def losses(logits: Float[Array, "*batch C n"]) -> Float[Array, "*batch"]:
        own = jnp.take_along_axis(logits, y[(None,) * (logits.ndim - 1)], axis=-2)
        total = jax.nn.logsumexp(logits, axis=-2)
        return jnp.sum(total - own[..., 0, :], axis=-1)

    def above(layer, inputs, kept):
        """What a layer's pre-activations [..., width, n] make the next layer's."""
        where = slices[layer]
        outputs = jnp.where(
            kept[where, None], activate(model, inputs), clamp[where, None]
        )
        return pre_activations(model, affine[layer + 1], outputs)

    def of_candidates(layer, rows, outputs, inputs, kept):
        """Losses [b] without each of some neurons; ``inputs`` of the next layer."""
        where = slices[layer]
        change = clamp[where][rows][:, None] - outputs[rows]
        weights = affine[layer + 1].kernel[rows]
        moved = inputs + weights[:, :, None] * change[:, None, :]
        for upper in range(layer + 1, last + 1):
            moved = above(upper, moved, kept)
        return losses(moved)

    def step(kept, _):
        outputs = jnp.where(
            kept[slices[lowest], None], raw, clamp[slices[lowest], None]
        )
        inputs = {lowest + 1: pre_activations(model, affine[lowest + 1], outputs)}
        for layer in range(lowest + 1, last + 1):
            inputs[layer + 1] = above(layer, inputs[layer], kept)
        costs = jnp.full(model.num_neurons, jnp.inf)
        for layer in layers:
            where = slices[layer]
            width = where.stop - where.start
            size = min(_CANDIDATES_AT_ONCE, width)
            here = raw if layer == lowest else activate(model, inputs[layer])
            # Those that are there still come first, so that blocks beyond them need not
            # be looked at; the last block is filled up with some that are not.
            rows = jnp.argsort(~kept[where], stable=True)
            rows = jnp.pad(rows, (0, -width % size), mode="edge")

            def block(index, costs, layer=layer, here=here, rows=rows, size=size):
                some = jax.lax.dynamic_slice_in_dim(rows, index * size, size)
                found = of_candidates(layer, some, here, inputs[layer + 1], kept)
                return costs.at[slices[layer].start + some].set(found)

            number = -(-kept[where].sum() // size)
            costs = jax.lax.fori_loop(0, number, block, costs)
        costs = jnp.where(kept, costs, jnp.inf)[shuffled]
        chosen = shuffled[jnp.argmin(costs)]
        return kept.at[chosen].set(False), chosen

    everything = jnp.ones(model.num_neurons, bool)
    return jax.lax.scan(step, everything, None, length=len(neurons))[1]


class Score(NamedTuple):
    """A score that needs no ablation.

    Attributes:
        unit: of its values.
        function: takes a network's shape and variables, its mean outputs [H], images
            and classes; returns float32 [H].
    """

    unit: str
    function: Callable[..., Float[Array, " H"]]


SCORES = {
    "class_selectivity": Score(
        "1",
        lambda model, variables, mean, x, y: class_selectivity(model, variables, x, y),
    ),
    "activation_mean": Score("1", lambda model, variables, mean, x, y: mean),
    "activation_variance": Score("1", activation_variance),
    "incoming_weight_norm": Score(
        "1", lambda model, variables, mean, x, y: incoming_weight_norm(model, variables)
    ),
    "outgoing_weight_norm": Score(
        "1", lambda model, variables, mean, x, y: outgoing_weight_norm(model, variables)
    ),
    "taylor_zero": Score(
        "nat",
        lambda model, variables, mean, x, y: taylor(
            model, variables, jnp.zeros_like(mean), x, y
        ),
    ),
    "taylor_mean": Score("nat", taylor),
}
# What ablation itself says, under each clamp; the unit of its values.
ABLATION_SCORES = {"ablation_loss": "nat", "shapley": "1", "greedy": "rank"}


def _fold(model: MLP, step: Callable, carry: Any, x: ArrayLike, y: ArrayLike) -> Any:
    check_examples(x, y, model.num_classes)
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    return fold_examples(step, carry, x, y, chunk_size=_EXAMPLES_AT_ONCE)


def _affine(model: MLP, layer: Affine, inputs: Float[Array, "n v"]) -> Array:
    return multiply(model, inputs, layer.kernel) + layer.bias
