"""Scores of a neuron by ablation: alone, and by its Shapley value.

The loss that ablating one neuron alone costs, and the Shapley value estimated from
random orders (A. Ghorbani and J. Zou, "Neuron Shapley", arXiv 2002.09815).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from ioca_jax.ablation.budget import device_budget
from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.evaluation import Evaluation, make_evaluation
from ioca_jax.ablation.masks import MasksEngine, masks_engine
from ioca_jax.checks import check_clamp, is_known
from ioca_jax.devices import sum_over_examples
from ioca_jax.networks.inputs import check_inputs
from ioca_jax.networks.mlp import MLP
from ioca_jax.networks.network import Network

# Scores by ablation, under each clamp, and their units.
ABLATION_SCORES = {"ablation_loss": "nat", "shapley": "1", "greedy": "rank"}


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
