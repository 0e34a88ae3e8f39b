"""The cost of ablating two neurons of a layer, beyond the sum of their single costs.

Positive is redundancy, negative synergy. Cross-entropy is convex in the logits, so
effects in loss are slightly positive even for unrelated neurons: compare pairs with
pairs.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.budget import FLOATS_PER_STEP, device_budget
from ioca_jax.ablation.evaluation import by_class, right_and_losses
from ioca_jax.ablation.replacement import of_networks
from ioca_jax.batching import (
    IGNORE_LABEL,
    count_examples,
    fold_examples,
    number_that_fits,
    numbers_in_example,
)
from ioca_jax.checks import number_counted
from ioca_jax.devices import examples_and_labels, sum_over_examples
from ioca_jax.networks.inputs import checked_network
from ioca_jax.networks.layers import Ablation, one_per_neuron, slices_of
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network


class PairEffects(NamedTuple):
    """``D(i,j) - D(i) - D(j)``, where D is the cost of an ablation.

    The cost is the accuracy lost, or the loss gained. Positive (redundancy): the two
    substitute for each other, as copies do. Negative (synergy): once one is ablated,
    the other is worth less, as with the inputs of an XOR.

    Attributes:
        accuracy: float32 [..., w, w], share of accuracy, in [-2, 2].
        loss: the same in mean cross-entropy, nats.
        accuracy_alone: float32 [..., w], ``D(i)`` in accuracy, share.
        loss_alone: the same in mean cross-entropy, nats.
    """

    accuracy: Float[Array, "*batch w w"]
    loss: Float[Array, "*batch w w"]
    accuracy_alone: Float[Array, "*batch w"]
    loss_alone: Float[Array, "*batch w"]


def pair_effects(
    network: Network | Model,
    variables: Any,
    clamp: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    layer: int,
    *,
    memory_gb: float = 1.0,
) -> PairEffects:
    """Ablates every pair of neurons of a layer (counted from 0), of many networks.

    Leaves of ``variables`` begin with S. The clamp is float32 [S, ..., H] or [S, ...,
    P], or what ``resample`` returns, with an axis S before ``donors`` and ``shift``:
    results are then [S, 1, ...]. What lies below the layer is computed once. In a chain
    of affine maps two ablations of constants change the next layer's pre-activations by
    two rank-one terms; otherwise the layers above are run for each pair. Losses are
    subtracted example by example before they are summed: the differences are far
    smaller than the losses. Results are symmetric, with NaN on the diagonal.
    """
    network = checked_network(network, x, y)
    if not 0 <= layer < len(network.layers):
        raise ValueError(
            f"layer: expected a hidden layer from 0 to {len(network.layers) - 1}, got "
            f"{layer}"
        )
    x, y = examples_and_labels(x, y)
    replacement, row, shape = of_networks(network, variables, clamp, len(y))
    examples = _examples_at_once(network, layer, x, device_budget(memory_gb, y))
    is_chain = row is None and network.chain(layer) is not None
    engine = _PairEngine(network, layer, examples, is_chain)
    arrays = (variables, replacement)
    sums = sum_over_examples(_PairEngine.sums, engine, arrays, (x, row), y)
    return _effects(sums, shape, number_counted(y))


def _examples_at_once(network: Network, layer: int, x: Any, memory_gb: float) -> int:
    """Inputs, two copies of the outputs below, four of the layer, three above."""
    sizes = [math.prod(layer.shape) for layer in network.layers]
    above = [*sizes[layer + 1 :], network.num_classes]
    inputs = numbers_in_example(x)
    held = inputs + 2 * sum(sizes[:layer]) + 4 * sizes[layer] + 3 * sum(above)
    most = min(count_examples(x), max(256, FLOATS_PER_STEP // max(above)))
    return number_that_fits(memory_gb, held, most)


class _PairSums(NamedTuple):
    """Sums over examples; pairs are the upper triangle.

    ``right`` counts examples classified correctly, ``beyond`` sums each example's
    ``loss(i,j) - loss(i) - loss(j) + loss()``, and ``gains`` its ``loss(i) - loss()``.
    """

    right: Int[Array, "*batch w w"]
    beyond: Float[Array, "*batch w w"]
    right_alone: Int[Array, "*batch w"]
    gains: Float[Array, "*batch w"]
    right_intact: Int[Array, "*batch"]


def _effects(sums: _PairSums, leading: tuple[int, ...], num_examples: int):
    """Sums of networks and clamps [S, A, ...] as effects [*leading, ...]."""
    width = sums.gains.shape[-1]
    costs_alone = sums.right_intact[..., None] - sums.right_alone
    costs = (sums.right_intact[..., None, None] - sums.right).astype(jnp.float32)
    separate = costs_alone[..., :, None] + costs_alone[..., None, :]
    is_pair = jnp.triu(jnp.ones((width, width), bool), 1)

    def symmetric(upper: Array) -> Array:
        upper = jnp.where(is_pair, upper / num_examples, 0)
        whole = upper + jnp.swapaxes(upper, -1, -2)
        whole = jnp.where(jnp.eye(width, dtype=bool), jnp.nan, whole)
        return whole.reshape(*leading, width, width)

    return PairEffects(
        symmetric(costs - separate),
        symmetric(sums.beyond),
        (costs_alone / num_examples).reshape(*leading, width),
        (sums.gains / num_examples).reshape(*leading, width),
    )


@dataclasses.dataclass(frozen=True)
class _PairEngine:
    """Sums over examples for all pairs of a layer, of networks and replacements."""

    network: Network
    layer: int
    examples: int
    is_chain: bool

    def sums(self, arrays, x, y) -> _PairSums:
        """Sums [S, A, ...] of variables [S, ...] and A replacements."""

        def of_network(network):
            variables, replacement = network
            number = replacement.number
            replacement = replacement.of_network(self.network, variables)
            if self.is_chain:
                chain: Any = self.network.chain(self.layer)
                variables = variables, chain.maps(variables)
            of_clamp = partial(self._of_clamp, variables, replacement, x, y)
            return jax.lax.map(of_clamp, jnp.arange(number))

        return jax.lax.map(of_network, arrays)

    def _of_clamp(self, variables, replacement, x, y, index) -> _PairSums:
        """Sums of one network and one replacement."""
        width = self.network.layers[self.layer].num_neurons
        ablate = _rank_one if self.is_chain else _run_above

        def add_chunk(sums, x_chunk, y_chunk):
            images, row = x_chunk
            clamp = replacement.of_examples(row).at(index)
            ablated = ablate(self.network, variables, self.layer, clamp, images)
            return jax.tree.map(jnp.add, sums, _sum_chunk(ablated, width, y_chunk))

        zeros = _PairSums(
            jnp.zeros((width, width), jnp.int32),
            jnp.zeros((width, width)),
            jnp.zeros(width, jnp.int32),
            jnp.zeros(width),
            jnp.zeros((), jnp.int32),
        )
        return fold_examples(add_chunk, zeros, x, y, chunk_size=self.examples)


class _Ablated(NamedTuple):
    """How a chunk of examples runs with some neurons of a layer ablated.

    A state stands for the neurons ablated so far: ``intact`` for none of them,
    ``ablate(state, neuron)`` for one more; ``logits(state)`` are [C, n].
    """

    intact: Array
    ablate: Callable[[Array, Array], Array]
    logits: Callable[[Array], Array]


def _rank_one(network: Network, variables, layer: int, clamp, x) -> _Ablated:
    """States are the next layer's pre-activations [w, n]."""
    (variables, maps), chain = variables, network.chain(layer)
    assert chain is not None
    outputs = network.prefix(variables, x, layer).outputs
    outputs = jax.lax.optimization_barrier(outputs).T
    where = chain.layer_slices[layer]
    clamp = one_per_neuron(network.layers, clamp)[where]
    change, kernel = clamp[:, None] - outputs, maps[layer + 1].kernel

    def ablate(inputs, neuron):
        return inputs + kernel[neuron][:, None] * change[neuron]

    def logits(z):
        for upper in range(layer + 1, chain.num_layers):
            outputs = chain.activate(upper, maps[upper].parameters, z)
            z = chain.pre_activations(maps[upper + 1], outputs)
        return z

    return _Ablated(chain.pre_activations(maps[layer + 1], outputs), ablate, logits)


def _run_above(network: Network, variables, layer: int, clamp, x) -> _Ablated:
    """States are masks, bool [H], of the neurons kept."""
    start = slices_of(network.layers)[layer].start
    values = network.prefix(variables, x, layer)

    def ablate(keep, neuron):
        return keep.at[start + neuron].set(False)

    def logits(keep):
        above = network.above(variables, layer, values, Ablation(keep, clamp))
        return by_class(above[0])

    return _Ablated(jnp.ones(network.num_neurons, bool), ablate, logits)


def _sum_chunk(ablated: _Ablated, width: int, y: Int[Array, "n *T"]) -> _PairSums:
    """Sums over the examples of a chunk, or their tokens."""
    y = y.ravel()
    counted = y != IGNORE_LABEL

    def score(state):
        right, losses = right_and_losses(ablated.logits(state), y)
        return jnp.sum(right & counted, dtype=jnp.int32), losses

    def alone(neuron):
        return score(ablated.ablate(ablated.intact, neuron))

    right_intact, losses_intact = score(ablated.intact)
    right_alone, losses_alone = jax.lax.map(alone, jnp.arange(width))
    gains = jnp.where(counted, losses_alone - losses_intact, 0)

    def of_first(first):
        """The pairs of a neuron and each of those after it, [w]."""
        state = ablated.ablate(ablated.intact, first)
        separate = losses_intact + gains[first]

        def add_second(second, row):
            right, losses = score(ablated.ablate(state, second))
            beyond = jnp.where(counted, losses - separate - gains[second], 0)
            return row[0].at[second].set(right), row[1].at[second].set(beyond.sum())

        zeros = jnp.zeros(width, jnp.int32), jnp.zeros(width)
        return jax.lax.fori_loop(first + 1, width, add_second, zeros)

    right, beyond = jax.lax.map(of_first, jnp.arange(width))
    return _PairSums(right, beyond, right_alone, gains.sum(axis=1), right_intact)
