"""Scores of a neuron by ablation: alone, and by its Shapley value.

The loss that ablating one neuron alone costs, and the Shapley value estimated from
random orders (A. Ghorbani and J. Zou, "Neuron Shapley", arXiv 2002.09815).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.budget import device_budget
from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.evaluation import Evaluation
from ioca_jax.ablation.masks import MasksEngine, masks_engine
from ioca_jax.ablation.metrics import Batch, Scorer, make_evaluation
from ioca_jax.ablation.replacement import of_networks
from ioca_jax.checks import is_known, number_counted
from ioca_jax.devices import examples_and_labels, sum_over_examples
from ioca_jax.networks.inputs import checked_network
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network

# Scores by ablation, under each clamp, and their units.
ABLATION_SCORES = {"ablation_loss": "nat", "shapley": "1", "greedy": "rank"}


class SingleAblations(NamedTuple):
    """Networks with each neuron ablated alone, [S, ..., H], and intact, [S, ...]."""

    alone: Evaluation
    intact: Evaluation


def single_ablations(
    network: Network | Model,
    variables: Any,
    clamp: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    *,
    direct: bool = False,
    memory_gb: float = 1.0,
) -> SingleAblations:
    """Evaluates many networks with each neuron ablated alone.

    Args:
        network: the networks' shape.
        variables: leaves begin with S.
        clamp: float32 [S, ..., H] or [S, ..., P]; or what ``resample`` returns, with an
            axis S before ``donors`` and ``shift``: results are then [S, 1, ...].
        x: [N, ...] examples.
        y: int32 [N] classes.
        direct: all later layers output what they do without any ablation, so that a
            neuron acts on the logits along residual streams alone. Where later layers
            make up for it, the total effect is less than the direct one: self-repair
            (T. McGrath et al., "The Hydra Effect", arXiv 2307.15771).
        memory_gb: bounds what is held beside examples and networks.

    Returns:
        Of each neuron ablated alone, and of the intact network.
    """
    network = checked_network(network, x, y)
    x, y = examples_and_labels(x, y)
    replaced = of_networks(network, variables, clamp, len(y))
    evaluate = partial(_of_layer, network, variables, replaced, x, y, direct, memory_gb)
    parts = [evaluate(layer) for layer in range(len(network.layers))]
    axis = parts[0].alone.loss.ndim - 1
    alone = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves, axis=axis),
        *(part.alone for part in parts),
    )
    return SingleAblations(alone, parts[0].intact)


def _of_layer(
    network, variables, replaced, x, y, direct, memory_gb, layer
) -> SingleAblations:
    replacement, row, shape = replaced
    if row is None and not direct and network.chain(layer) is not None:
        clamp = replacement.values.reshape(*shape, -1)
        return _as_curves(network, variables, clamp, x, y, layer, memory_gb)
    budget = device_budget(memory_gb, y)
    scorer = Scorer(network.num_classes)
    engine = masks_engine(network, layer, scorer, len(y), budget, holds_later=direct)
    arrays, batch = (variables, replacement), Batch(x, row, {})
    sums = sum_over_examples(MasksEngine.singles, engine, arrays, batch, y)
    width, number = network.layers[layer].num_neurons, number_counted(y)
    found = make_evaluation(sums, (*shape, 1 + width), number)
    return SingleAblations(
        Evaluation(found.correct[..., 1:, :], found.loss[..., 1:], number),
        Evaluation(found.correct[..., 0, :], found.loss[..., 0], number),
    )


def _as_curves(network, variables, clamp, x, y, layer, memory_gb) -> SingleAblations:
    """Each neuron of a layer is a curve of one step."""
    neurons = np.flatnonzero(network.layer_of_neuron == layer)
    neurons = neurons.astype(np.int32)[:, None]
    num_seeds, *clamps, _ = clamp.shape
    orders = np.broadcast_to(neurons, (num_seeds, *[1] * len(clamps), *neurons.shape))
    curves = ablation_curves(
        network,
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
