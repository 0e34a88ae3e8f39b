"""Greedy orders, an oracle that bounds all other orders of ablation.

At every step the neuron goes whose ablation costs the least loss, on the measuring
split.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.ablation.evaluation import by_class, right_and_losses
from ioca_jax.ablation.masks import fit_budget
from ioca_jax.ablation.orderings import random_order
from ioca_jax.ablation.replacement import constants_of
from ioca_jax.batching import IGNORE_LABEL, fold_examples
from ioca_jax.checks import device_examples
from ioca_jax.networks.inputs import checked_network
from ioca_jax.networks.layers import Ablation, one_per_neuron, slices_of
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network

_CANDIDATES_AT_ONCE = 8


@partial(jax.jit, static_argnames=("network", "neurons", "memory_gb"))
def _greedy(network, variables, clamp, x, y, keys, neurons, memory_gb):
    """The greedy orders [S, K] of all networks."""
    is_chain = network.chain(_layers_of(network, neurons)[0]) is not None
    losses_of = _losses_of_chain if is_chain else _losses

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
    network: Network | Model,
    variables: Any,
    clamp: Float[ArrayLike, "S H"],
    x: Any,
    y: Int[ArrayLike, "N *T"],
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
    network = checked_network(network, x, y)
    chosen = tuple(np.asarray(neurons).tolist())
    clamp, x = constants_of(network, clamp), device_examples("x", x)
    y = jnp.asarray(y, jnp.int32)
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
    at_once = fit_budget(network, len(y), memory_gb)

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
            _, losses = right_and_losses(by_class(logits), y_chunk.ravel())
            return jnp.where(y_chunk.ravel() == IGNORE_LABEL, 0, losses).sum()

        zeros = jnp.zeros(len(kept))
        return fold_examples(chunk, zeros, x, y, chunk_size=at_once.examples)

    return of_kept


def _losses_of_chain(network, variables, clamp, x, y, neurons, memory_gb) -> Callable:
    """As ``_losses``, by rank-one updates; arrays are feature-major, [width, n]."""
    del memory_gb
    layers = _layers_of(network, neurons)
    lowest, last = layers[0], len(network.layers) - 1
    chain, slices = network.chain(lowest), slices_of(network.layers)
    maps, clamp = chain.maps(variables), one_per_neuron(network.layers, clamp)
    raw = network.prefix(variables, x, lowest).outputs.T

    @jax.vmap
    def losses(logits: Float[Array, "C n"]) -> Float[Array, ""]:
        return right_and_losses(logits, y)[1].sum()

    def activated(layer, z):
        return chain.activate(layer, maps[layer].parameters, z)

    def above(layer, outputs, kept):
        """A layer's outputs [width, n] to the next layer's pre-activations."""
        where = slices[layer]
        outputs = jnp.where(kept[where, None], outputs, clamp[where, None])
        return chain.pre_activations(maps[layer + 1], outputs)

    def without_each(kept, layer, outputs, inputs, rows):
        """Losses [b] without each of some neurons; ``inputs`` of the next layer."""
        change = clamp[slices[layer]][rows][:, None] - outputs[rows]
        weights = maps[layer + 1].kernel[rows]
        inputs = inputs + weights[:, :, None] * change[:, None, :]
        for upper in range(layer + 1, last + 1):
            outputs_above = jax.vmap(partial(activated, upper))(inputs)
            inputs = jax.vmap(partial(above, upper, kept=kept))(outputs_above)
        return losses(inputs)

    def of_kept(kept):
        costs, outputs = jnp.zeros(network.num_neurons), raw
        for layer in range(lowest, layers[-1] + 1):
            where = slices[layer]
            inputs = above(layer, outputs, kept)
            if layer in layers:
                of_rows = partial(without_each, kept, layer, outputs, inputs)
                size = min(_CANDIDATES_AT_ONCE, chain.widths[layer])
                found = _losses_of_kept(kept[where], size, of_rows)
                costs = costs.at[where].set(found)
            if layer < layers[-1]:
                outputs = activated(layer + 1, inputs)
        return costs

    return of_kept
