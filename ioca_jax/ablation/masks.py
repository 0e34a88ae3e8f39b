"""The reference engine: any network is run for each mask, as a ``vmap`` over masks.

What lies below the first layer that a mask touches is computed once, not once per mask.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ioca_jax.ablation.budget import FLOATS_PER_STEP, widest_value
from ioca_jax.ablation.evaluation import score_logits, zero_scores
from ioca_jax.batching import fold_examples, number_that_fits
from ioca_jax.networks.network import Ablation, Layer, Network, StagedNetwork, Values


@dataclasses.dataclass(frozen=True)
class _Unstaged:
    """Any network, run from its examples every time."""

    network: Network

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.network.layers

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    def prefix(self, variables: Any, x: Array, layer: int) -> Values:
        del variables, layer
        return Values(x, (), len(x))

    def advance(self, variables: Any, layer: int, values: Values, ablation: Ablation):
        del variables, layer, ablation
        return values

    def above(self, variables: Any, layer: int, values: Values, ablation: Ablation):
        del layer
        return self.network.apply(variables, values.outputs, ablation)


def staged(network: Network) -> Any:
    """A network with ``prefix`` and ``above``, which then takes all of an ablation."""
    return network if isinstance(network, StagedNetwork) else _Unstaged(network)


class AtOnce(NamedTuple):
    """How many examples, and how many ablations of them, fit into the budget."""

    examples: int
    ablations: int


def fit_budget(
    network: Network, lowest: int, num_examples: int, memory_gb: float
) -> AtOnce:
    """Chunks of examples and ablations, for ablations of no layer below ``lowest``.

    A chunk of examples holds all its activations once; each ablation and example then
    hold two copies of the widest layer above, and of the logits.
    """
    sizes = [math.prod(layer.shape) for layer in network.layers]
    widest = widest_value(network, lowest)
    above = 2 * (widest + network.num_classes)
    most = min(num_examples, 1000)
    examples = number_that_fits(
        memory_gb / 2, above + 2 * max(sum(sizes), widest), most
    )
    at_once = FLOATS_PER_STEP // (examples * above) + 1
    ablations = number_that_fits(memory_gb / 2, above * examples, at_once)
    return AtOnce(examples, ablations)


def without(neurons: Int[Array, " k"], num_neurons: int) -> Bool[Array, " H"]:
    """A mask that ablates some neurons; indices of H ablate none."""
    return jnp.ones(num_neurons, bool).at[neurons].set(False, mode="drop")


@dataclasses.dataclass(frozen=True)
class MasksEngine:
    """Runs a network once for each ablation.

    Attributes:
        network: the networks' shape.
        lowest: no ablation touches a layer below it.
        at_once: sizes of chunks.
    """

    network: Network
    lowest: int
    at_once: AtOnce

    def masks(self, arrays, x, y):
        """Correct [M, C] and summed losses [M] for masks and clamps [M, H]."""
        variables, masks, clamps = arrays

        def ablation_of(index):
            return Ablation(masks[index], clamps[index])

        return self._sums(variables, ablation_of, masks.shape[:1], x, y)

    def orders(self, arrays, x, y):
        """Correct [S, M, K+1, C] and summed losses [S, M, K+1] for orders [S, M, K]."""
        return jax.lax.map(lambda network: self._orders(network, x, y), arrays)

    def _orders(self, network, x, y):
        variables, orders, clamps = network
        num_orders, num_steps = orders.shape
        num_neurons = self.network.num_neurons

        def ablation_of(index, point):
            within = jnp.arange(num_steps) < point
            ablated = jnp.where(within, orders[index], num_neurons)
            return Ablation(without(ablated, num_neurons), clamps[index])

        return self._sums(variables, ablation_of, (num_orders, num_steps + 1), x, y)

    def singles(self, arrays, x, y):
        """Each neuron of layer ``lowest`` alone, after no neuron.

        Correct [S, A, 1+w, C] and summed losses [S, A, 1+w] for clamps [S, A, H].
        """
        return jax.lax.map(lambda network: self._singles(network, x, y), arrays)

    def _singles(self, network, x, y):
        variables, clamps = network
        num_neurons = self.network.num_neurons
        (neurons,) = np.nonzero(self.network.layer_of_neuron == self.lowest)
        ablated = jnp.array([[num_neurons], *neurons[:, None]])

        def ablation_of(index, neuron):
            return Ablation(without(ablated[neuron], num_neurons), clamps[index])

        return self._sums(variables, ablation_of, (len(clamps), len(ablated)), x, y)

    def _score_chunk(self, variables, ablation_of, indices: Array, x, y):
        network, lowest = staged(self.network), self.lowest
        values = network.prefix(variables, x, lowest)

        def one_ablation(index):
            logits, _ = network.above(variables, lowest, values, ablation_of(*index))
            return score_logits(logits.T, y)

        return jax.lax.map(
            one_ablation, tuple(indices), batch_size=self.at_once.ablations
        )

    def _sums(self, variables, ablation_of: Callable[..., Ablation], shape, x, y):
        """Scores of one network, of the ablation of each index into a shape."""
        indices = jnp.indices(shape).reshape(len(shape), -1)

        def chunk(carry, x_chunk, y_chunk):
            scores = self._score_chunk(
                variables, ablation_of, indices, x_chunk, y_chunk
            )
            return jax.tree.map(jnp.add, carry, scores)

        zeros = zero_scores(self.network.num_classes, indices.shape[1])
        sums = fold_examples(chunk, zeros, x, y, chunk_size=self.at_once.examples)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), sums)


def masks_engine(
    network: Network, lowest: int, num_examples: int, memory_gb: float
) -> MasksEngine:
    """The engine with chunks that keep to the budget."""
    at_once = fit_budget(network, lowest, num_examples, memory_gb)
    return MasksEngine(network, lowest, at_once)
