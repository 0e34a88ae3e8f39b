"""The reference engine: any network is run for each mask, as a ``vmap`` over masks.

What lies below the first layer that a mask touches is computed once, not once per mask.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ioca_jax.ablation.budget import FLOATS_PER_STEP
from ioca_jax.ablation.evaluation import by_class
from ioca_jax.ablation.metrics import Scorer, Sums
from ioca_jax.batching import fold_examples, number_that_fits
from ioca_jax.networks.layers import Ablation, split_by_layer
from ioca_jax.networks.network import Network


class AtOnce(NamedTuple):
    """How many examples, and how many ablations of them, fit into the budget."""

    examples: int
    ablations: int


def fit_budget(network: Network, num_examples: int, memory_gb: float) -> AtOnce:
    """Chunks of examples and ablations.

    A chunk of examples holds all its activations once; each ablation and example then
    hold two copies of the widest value, and of the logits.
    """
    sizes = [math.prod(layer.shape) for layer in network.layers]
    widest = network.widest
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

    Replacements are ``Constants`` or ``Resampled``. Examples are a ``Batch``.

    Attributes:
        network: the networks' shape.
        lowest: no ablation touches a layer below it.
        scorer: what is summed over examples.
        at_once: sizes of chunks.
        holds_later: layers above the ``lowest`` output what they do without ablation.
    """

    network: Network
    lowest: int
    scorer: Scorer
    at_once: AtOnce
    holds_later: bool = False

    def masks(self, arrays, x, y):
        """Sums [M, ...] for masks [M, H]."""
        variables, masks, replacement = arrays

        def keep_of(index):
            return masks[index]

        return self._sums(variables, keep_of, replacement, masks.shape[:1], x, y)

    def orders(self, arrays, x, y):
        """Sums [S, M, P, ...] for orders [S, M, K] at steps [P]."""
        networks, steps = arrays
        return jax.lax.map(lambda one: self._orders(one, steps, x, y), networks)

    def _orders(self, network, steps, x, y):
        variables, orders, replacement = network
        num_orders, num_steps = orders.shape
        num_neurons = self.network.num_neurons

        def keep_of(index, point):
            within = jnp.arange(num_steps) < steps[point]
            ablated = jnp.where(within, orders[index], num_neurons)
            return without(ablated, num_neurons)

        shape = num_orders, len(steps)
        return self._sums(variables, keep_of, replacement, shape, x, y)

    def singles(self, arrays, x, y):
        """Each neuron of layer ``lowest`` alone, after no neuron.

        Sums [S, A, 1+w, ...] under A replacements, or one, of donors.
        """
        return jax.lax.map(lambda network: self._singles(network, x, y), arrays)

    def _singles(self, network, x, y):
        variables, replacement = network
        num_neurons = self.network.num_neurons
        (neurons,) = np.nonzero(self.network.layer_of_neuron == self.lowest)
        ablated = jnp.array([[num_neurons], *neurons[:, None]])

        def keep_of(index, neuron):
            del index
            return without(ablated[neuron], num_neurons)

        shape = replacement.number, len(ablated)
        return self._sums(variables, keep_of, replacement, shape, x, y)

    def _ablation(self, keep: Array, clamp: Any, intact: Any) -> Ablation:
        """An ablation, with layers above the lowest held if that is asked for."""
        if intact is None:
            return Ablation(keep, clamp)
        layers, later = self.network.layers, self.network.layers[self.lowest + 1 :]
        if not isinstance(clamp, Mapping):
            clamp = split_by_layer(layers, clamp)
        held = {layer.name: jnp.zeros(layer.num_neurons, bool) for layer in later}
        return Ablation(
            {**split_by_layer(layers, keep), **held},
            {**clamp, **{name: intact[name] for name in held}},
        )

    def _score_chunk(self, variables, keep_of, replacement, indices, x, y):
        network, lowest, batch = self.network, self.lowest, x
        values = network.prefix(variables, batch.x, lowest)
        intact = network.outputs(variables, batch.x)[1] if self.holds_later else None
        replacement = replacement.of_examples(batch.row)
        labels = self.scorer.labels(
            y, batch, lambda: network.above(variables, lowest, values)[0]
        )

        def one_ablation(index):
            keep, clamp = keep_of(*index), replacement.at(index[0])
            ablation = self._ablation(keep, clamp, intact)
            logits, _ = network.above(variables, lowest, values, ablation)
            return self.scorer.score(by_class(logits), labels)

        return jax.lax.map(
            one_ablation, tuple(indices), batch_size=self.at_once.ablations
        )

    def _sums(self, variables, keep_of, replacement, shape, x, y) -> Sums:
        """Sums of one network, of the ablation of each index into a shape.

        The first axis of the shape is that of the replacements.
        """
        indices = jnp.indices(shape).reshape(len(shape), -1)
        replacement = replacement.of_network(self.network, variables)

        def chunk(carry, x_chunk, y_chunk):
            scores = self._score_chunk(
                variables, keep_of, replacement, indices, x_chunk, y_chunk
            )
            return jax.tree.map(jnp.add, carry, scores)

        zeros = self.scorer.zeros(indices.shape[1])
        sums = fold_examples(chunk, zeros, x, y, chunk_size=self.at_once.examples)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), sums)


def masks_engine(
    network: Network,
    lowest: int,
    scorer: Scorer,
    num_examples: int,
    memory_gb: float,
    *,
    holds_later: bool = False,
) -> MasksEngine:
    """The engine with chunks that keep to the budget."""
    at_once = fit_budget(network, num_examples, memory_gb)
    return MasksEngine(network, lowest, scorer, at_once, holds_later)
