"""Constants that ablated neurons should output to do the least harm."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.ablation.replacement import constants_of
from ioca_jax.batching import (
    IGNORE_LABEL,
    count_labels,
    counted_examples,
    fold_examples,
    number_that_fits,
    numbers_in_example,
    take_examples,
)
from ioca_jax.checks import check_memory, device_examples
from ioca_jax.networks.inputs import checked_network
from ioca_jax.networks.layers import Ablation
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network

_LEAST_EXAMPLES = 100
_STEPS = 200
_BATCH = 256
_EXAMPLES_AT_ONCE = 1000
_LEARNING_RATE = 0.1  # in standard deviations of a neuron's output


def optimal_clamp(
    network: Network | Model,
    variables: Any,
    means: Float[ArrayLike, " P"],
    x: Any,
    y: Int[ArrayLike, "N *T"],
    key: Array,
    *,
    jointly: bool = True,
    memory_gb: float = 1.0,
) -> Float[Array, " P"]:
    """Fits the constants that minimise the expected loss of an ablated network.

    ``argmin_c E_S E_{x,y} loss(f with neurons S output c_S, y)``. Jointly, S is a
    random subset, with a share of neurons uniform in [0, 1], half of the time of the
    whole network and else of a random layer: one constant for each neuron serves all
    subsets, as one mean does. One by one, S is a single neuron; such constants are not
    optimal together. Adam takes 200 steps from the means, each of 256 examples with a
    subset of its own. Where the fit ends no better than the means, these are returned.

    Args:
        network: the network.
        variables: the variables of one network (``vmap`` for several).
        means: float32 [H] or [P], the mean of each number that a neuron outputs, over
            the examples: ``measure_neurons(...).clamp``.
        x: [N, ...] examples of the measuring split, at least 100.
        y: int32 [N] classes, or [N, T] of tokens, -1 where none counts: the loss is
            then the mean over tokens.
        key: decides the examples and subsets of each step.
        jointly: fit for random subsets; False fits each neuron alone.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        float32 [P], in units of the neurons' outputs.

    Raises:
        ValueError: fewer than 100 examples, or arrays that do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (200, 4)), jnp.arange(200) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> means = ioca.measure_neurons(model, variables, x, y).clamp
        >>> ioca.optimal_clamp(model, variables, means, x, y, jax.random.key(2)).shape
        (5,)

    Source: M. Li and L. Janson, "Optimal ablation", arXiv 2409.09951, who fit constants
    for one subset at a time.
    """
    network = checked_network(network, x, y)
    means = constants_of(network, means)
    x, y = device_examples("x", x), jnp.asarray(y, jnp.int32)
    if len(y) < _LEAST_EXAMPLES:
        raise ValueError(
            f"x: expected at least {_LEAST_EXAMPLES} examples to fit constants to, got "
            f"{len(y)}"
        )
    sizes = [math.prod(layer.shape) for layer in network.layers]
    held = 4 * (sum(sizes) + network.widest + numbers_in_example(x))
    check_memory(memory_gb)
    at_once = number_that_fits(memory_gb, held, _BATCH)
    return _fit(network, jointly, at_once, variables, means, x, y, key)


@partial(jax.jit, static_argnames=("network", "jointly", "at_once"))
def _fit(network, jointly, at_once, variables, means, x, y, key):
    scale = _deviations(network, variables, means, x, y)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, _STEPS))

    def loss(moved, example):
        image, label, keep = example
        ablation = Ablation(keep, means + scale * moved)
        image = jax.tree.map(lambda leaf: leaf[None], image)
        logits, _ = network.apply(variables, image, ablation)
        own = jnp.maximum(label, 0)
        each = optax.softmax_cross_entropy_with_integer_labels(logits[0], own)
        if label.ndim == 0:
            return each
        # An example's share of the tokens that count: the mean is over tokens.
        counted = jnp.where(label == IGNORE_LABEL, 0, each).sum()
        return counted * len(y) / count_labels(y)

    def draw(key):
        row_key, mask_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (_BATCH,), 0, len(y))
        masks = _random_masks(network, jointly, mask_key)
        return take_examples(x, rows), y[rows], masks

    def mean_of(function, moved, examples):
        each = jax.lax.map(partial(function, moved), examples, batch_size=at_once)
        return each.mean(axis=0)

    def step(carry, key):
        moved, state = carry
        gradient = mean_of(jax.grad(loss), moved, draw(key))
        updates, state = optimizer.update(gradient, state)
        return (moved + updates, state), None

    def final_loss(moved):
        losses = jax.lax.map(lambda key: mean_of(loss, moved, draw(key)), checks)
        return losses.mean()

    fit_key, check_key = jax.random.split(key)
    start, checks = jnp.zeros_like(means), jax.random.split(check_key, 8)
    carry = (start, optimizer.init(start))
    (moved, _), _ = jax.lax.scan(step, carry, jax.random.split(fit_key, _STEPS))
    is_better = final_loss(moved) < final_loss(start)
    return jnp.where(is_better, means + scale * moved, means)


def _deviations(network, variables, means, x, y) -> Float[Array, " P"]:
    """Standard deviations over examples of the numbers that neurons output."""

    def add(total, x_chunk, y_chunk):
        outputs = network.activations(variables, x_chunk, y_chunk).means
        weights = counted_examples(y_chunk).astype(outputs.dtype)
        squares = jnp.square(outputs - means)
        return total + jnp.matmul(weights, squares, precision="highest")

    floats = 4 * sum(math.prod(layer.shape) for layer in network.layers)
    size = number_that_fits(1.0, floats, _EXAMPLES_AT_ONCE)
    total = fold_examples(add, jnp.zeros_like(means), x, y, chunk_size=size)
    return jnp.sqrt(total / len(y))


def _random_masks(network: Network, jointly: bool, key: Array) -> Bool[Array, "n H"]:
    """For each example of a batch, the neurons that are kept."""
    shape = (_BATCH, network.num_neurons)
    if not jointly:
        neuron = jax.random.randint(key, (_BATCH, 1), 0, network.num_neurons)
        return jnp.arange(network.num_neurons) != neuron
    share_key, layer_key, neuron_key = jax.random.split(key, 3)
    share = jax.random.uniform(share_key, (_BATCH, 1))
    number = len(network.layers)
    # Numbers beyond the layers are the whole network.
    layer = jax.random.randint(layer_key, (_BATCH, 1), 0, 2 * number)
    within = (layer >= number) | (jnp.asarray(network.layer_of_neuron) == layer)
    return ~(within & (jax.random.uniform(neuron_key, shape) < share))
