"""Learned orders, a ceiling for orders that measures give.

One nested order is fitted to the measuring split by gradient: each neuron has a score,
and for a random number k of ablated neurons those of the lowest scores are ablated
softly, by shares that a sigmoid gives. The order of the scores is then compared with
the greedy one, where that can be afforded, and the better of the two is taken.

Source: one nested order learned by gradient is the idea of arXiv 2609.25518; there it
is of the parts of a language model's circuit.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.greedy import greedy_orders
from ioca_jax.ablation.orderings import checked_neurons, order_neurons
from ioca_jax.ablation.replacement import constants_of
from ioca_jax.batching import IGNORE_LABEL, count_examples, take_examples
from ioca_jax.checks import as_examples, check_key
from ioca_jax.networks.inputs import check_converged, checked_network
from ioca_jax.networks.layers import SoftAblation, split_by_layer
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network

_STEPS = 500
_BATCH = 256
_LEARNING_RATE = 0.3  # in widths of the sigmoid
_MOST_GREEDY = 256  # neurons: the greedy order takes K (K+1) / 2 evaluations
_MOST_EXAMPLES_OF_GREEDY = 1000
_NEWTON_STEPS = 3
_LEAST_SLOPE = 1e-3


def learned_order(
    model: Network | Model,
    variables: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    clamp: Any,
    *,
    key: Array,
    neurons: Int[ArrayLike, " K"] | None = None,
    memory_gb: float = 1.0,
) -> Int[Array, " K"]:
    """An order of ablation that is fitted to do the least harm, as a ceiling.

    Adam minimises the expected loss over examples and over the number k of ablated
    neurons, uniform in [0, K], with respect to one score for each neuron. For a k the
    neurons of the K - k highest scores keep their outputs softly: a neuron of score s
    outputs the share ``sigmoid(s - t)`` of its own output and else its clamp, where the
    threshold t makes the shares add up to K - k. As scores move apart, the shares
    become 0 and 1. Of up to 256 neurons the greedy order is computed too, and the order
    of the greater area under the accuracy curve of these examples is returned.

    Args:
        model: the network, ``MLP`` or any that ``trace_network`` found.
        variables: the variables of one network.
        x: [N, ...] examples of the measuring split: never those of the curves.
        y: int32 [N] classes.
        clamp: what ablated neurons output: one number, float32 [H], or [P]; or by
            layers' names.
        key: decides the examples of each step, and ties.
        neurons: int32 [K] indices of the neurons to order, those of a layer, say; None
            is all.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        int32 [K], the neurons in the order of ablation, the least important first.

    Raises:
        ValueError: arrays that do not fit the network, indices out of range or twice,
            or no key.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> key = jax.random.key(2)
        >>> order = ioca.learned_order(model, variables, x, y, jnp.zeros(5), key=key)
        >>> sorted(order.tolist())
        [0, 1, 2, 3, 4]
    """
    network = checked_network(model, x, y)
    network.check_variables(variables)
    check_converged(variables)
    check_key(key)
    if neurons is None:
        neurons = np.arange(network.num_neurons)
    neurons = checked_neurons(neurons, network.num_neurons)
    orders = learned_orders(
        network,
        jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables),
        constants_of(network, clamp)[None],
        jax.tree.map(jnp.asarray, as_examples("x", x)),
        jnp.asarray(y, jnp.int32),
        neurons,
        keys=key[None],
        memory_gb=memory_gb,
    )
    return orders[0]


def learned_orders(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, "S P"],
    x: Any,
    y: Int[Array, "N *T"],
    neurons: Int[ArrayLike, " K"],
    *,
    keys: Array,
    memory_gb: float = 1.0,
) -> Int[Array, "S K"]:
    """``learned_order`` of many networks, whose variables' leaves begin with S."""
    clamp = constants_of(network, clamp)
    chosen = tuple(np.asarray(neurons).tolist())
    fitted = _fit_all(network, chosen, variables, clamp, x, y, keys)
    if len(chosen) > _MOST_GREEDY:
        return fitted
    few = slice(_MOST_EXAMPLES_OF_GREEDY)
    greedy = greedy_orders(
        *(network, variables, clamp, take_examples(x, few), y[few], neurons),
        keys=keys,
        memory_gb=memory_gb,
    )
    both = jnp.stack([fitted, greedy], axis=1)
    layers = np.unique(network.layer_of_neuron[list(chosen)]).tolist()
    curves = ablation_curves(
        *(network, variables, both, clamp, x, y), layers=layers, memory_gb=memory_gb
    )
    # Twice the trapezoidal area, whole: equal areas are equal, and fitted ones stay.
    correct = curves.correct.sum(axis=-1)
    area = 2 * correct.sum(axis=-1) - correct[..., 0] - correct[..., -1]
    return jnp.take_along_axis(both, area.argmax(axis=1)[:, None, None], axis=1)[:, 0]


@partial(jax.jit, static_argnames=("network", "neurons"))
def _fit_all(network, neurons, variables, clamp, x, y, keys) -> Int[Array, "S K"]:
    """The orders of fitted scores, one network after another."""

    def of_network(arrays):
        variables, clamp, key = arrays
        return _fit(network, np.array(neurons), variables, clamp, x, y, key)

    return jax.lax.map(of_network, (variables, clamp, keys))


def _fit(network, neurons, variables, clamp, x, y, key) -> Int[Array, " K"]:
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))
    clamps = split_by_layer(network.layers, clamp)
    num_examples, size = count_examples(x), len(neurons)

    def loss(scores, key):
        row_key, number_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (_BATCH,), 0, num_examples)
        # A number in each of as many parts of [0, K] as there are examples.
        part = jnp.arange(_BATCH) + jax.random.uniform(number_key, (_BATCH,))
        keep = jnp.ones((_BATCH, network.num_neurons))
        keep = keep.at[:, neurons].set(soft_keep(scores, part * (size / _BATCH)))
        ablation = SoftAblation(_at_positions(network, keep), clamps)
        logits, _ = network.outputs(variables, take_examples(x, rows), ablation)
        return _mean_loss(logits, y[rows])

    def step(carry, key):
        scores, state = carry
        updates, state = optimizer.update(jax.grad(loss)(scores, key), state)
        return (scores + updates, state), None

    fit_key, tie_key = jax.random.split(key)
    start = jnp.zeros(size)
    keys = jax.random.split(fit_key, _STEPS)
    (scores, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    of_all = jnp.zeros(network.num_neurons).at[neurons].set(scores)
    return order_neurons(of_all, neurons, key=tie_key)


def _at_positions(network: Network, keep: Float[Array, "n H"]) -> dict[str, Array]:
    """Shares by layer, [n, *layer.shape], the same at all positions of a neuron."""
    found = {}
    of_layers = split_by_layer(network.layers, keep)
    for layer in network.layers:
        positions, vector = len(layer.positions), len(layer.vector)
        shape = (len(keep), *[1] * positions, layer.num_neurons, *[1] * vector)
        shares = of_layers[layer.name].reshape(shape)
        found[layer.name] = jnp.broadcast_to(shares, (len(keep), *layer.shape))
    return found


def _mean_loss(logits: Float[Array, "n *T C"], y: Int[Array, "n *T"]) -> Array:
    """Mean cross-entropy over the labels that count."""
    counted = y != IGNORE_LABEL
    of_class = optax.softmax_cross_entropy_with_integer_labels
    losses = of_class(logits.astype(jnp.float32), jnp.where(counted, y, 0))
    return jnp.where(counted, losses, 0).sum() / jnp.maximum(counted.sum(), 1)


def soft_keep(
    scores: Float[Array, " K"], kept: Float[Array, " n"]
) -> Float[Array, "n K"]:
    """Shares in [0, 1] that add up to numbers of neurons, the greatest score's first.

    ``sigmoid(scores - t)``: the threshold t comes by Newton's steps from where the
    sorted scores have it. The last step is differentiated, so that raising all scores
    alike changes nothing, and the gradient is of what neurons do beside each other.
    """
    fixed = jax.lax.stop_gradient
    descending = -jnp.sort(-fixed(scores))
    place = jnp.clip(kept - 0.5, 0, len(scores) - 1)
    threshold = jnp.interp(place, jnp.arange(len(scores)), descending)

    def shares(threshold: Array) -> Array:
        return jax.nn.sigmoid(scores - threshold[:, None])

    for _ in range(_NEWTON_STEPS):
        share = shares(fixed(threshold))
        slope = fixed(share * (1 - share)).sum(axis=1)
        excess = share.sum(axis=1) - kept
        # The sum is steepest where it is linear: a step of its width is enough.
        step = jnp.clip(excess / jnp.maximum(slope, _LEAST_SLOPE), -1, 1)
        threshold = fixed(threshold) + step
    return shares(threshold)
