"""What the engines for affine layers share: chunks of examples, and sums over neurons.

Arrays are feature-major, [width, n]. A curve is computed from its end: neurons are
restored, the last one ablated first. A sum over the kept neurons then only gains terms.
Taking terms out would leave their rounding behind, and an infinite output would leave
NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.metrics import Batch, Labels, Scorer, Sums
from ioca_jax.batching import fold_examples, number_that_fits
from ioca_jax.networks.chain import Affine, AffineChain
from ioca_jax.networks.layers import one_per_neuron
from ioca_jax.networks.network import Network


class Chunk(NamedTuple):
    """What all curves of some examples begin from; arrays are feature-major.

    Attributes:
        maps: by layer, those into the layers above the lowest and to the logits.
        outputs: float32 [v, n], of the lowest ablated layer.
        total: float32 [w, n], its product with the kernel above, without the bias.
        size: float32 [n], at least the sum of the absolute terms of any of its rows.
        intact: the sums of the intact network.
        labels: what logits are compared with.
    """

    maps: dict[int, Affine]
    outputs: Array
    total: Array
    size: Array
    intact: Sums
    labels: Labels


class ExamplesAtOnce(NamedTuple):
    """Examples run together up to the lowest layer, and of these those ablated so."""

    below: int
    ablated: int


class Curves(NamedTuple):
    """What an engine for chains computes curves of.

    Attributes:
        network: the networks' shape.
        chain: the network from the lowest ablated layer on.
        curve: of a chunk of examples, an order [K] and a clamp [H]: sums [K, ...] at
            points 1 to K.
        scorer: what is summed over examples.
        sizes: examples at once.
    """

    network: Network
    chain: AffineChain
    curve: Callable[[Chunk, Array, Array], Sums]
    scorer: Scorer
    sizes: ExamplesAtOnce

    def sums(self, arrays, x, y):
        """Sums [S, M, P, ...] at steps [P], one network after another.

        Images are many inputs, so a copy of a chunk of them costs more than its outputs
        do: as many as the budget allows go through the lower layers at once.
        """
        networks, steps = arrays
        sums = jax.lax.map(lambda one: self._of_network(one, x, y), networks)
        return jax.tree.map(lambda leaf: leaf[:, :, steps], sums)

    def _of_network(self, network, batch: Batch, y):
        variables, orders, replacement = network
        maps, lowest = self.chain.maps(variables), self.chain.lowest
        clamps = one_per_neuron(self.network.layers, replacement.values)

        def run_below(carry, x_chunk, y_chunk):
            outputs = self.network.prefix(variables, x_chunk.x, lowest).outputs
            # Or the product would be laid out for the transpose below: slower.
            outputs = jax.lax.optimization_barrier(outputs)
            size = self.sizes.ablated
            some = x_chunk._replace(x=outputs)
            return fold_examples(ablated, carry, some, y_chunk, chunk_size=size)

        def ablated(carry, some, y_chunk):
            chunk = self._chunk(maps, some, y_chunk)
            sums = self._score_chunk(chunk, orders, clamps)
            return jax.tree.map(jnp.add, carry, sums)

        zeros = self.scorer.zeros(len(orders), orders.shape[1] + 1)
        return fold_examples(run_below, zeros, batch, y, chunk_size=self.sizes.below)

    def _chunk(self, maps: dict[int, Affine], some: Batch, y: Array) -> Chunk:
        """Runs the intact network from the lowest ablated layer's outputs on."""
        chain, outputs = self.chain, some.x.T
        first = maps[chain.lowest + 1]
        total = chain.multiply(first.kernel.T, outputs)
        z = total + first.bias[:, None]
        for layer in range(chain.lowest + 1, chain.num_layers):
            outputs_of_layer = chain.activate(layer, maps[layer].parameters, z)
            z = chain.pre_activations(maps[layer + 1], outputs_of_layer)
        size = jnp.abs(first.kernel).max(axis=1) @ jnp.abs(outputs)
        labels = self.scorer.labels(y, some, lambda: z.T)
        intact = self.scorer.score(z, labels)
        return Chunk(maps, outputs, total, size, intact, labels)

    def _score_chunk(self, chunk: Chunk, orders: Array, clamps: Array):
        """Sums [M, K+1, ...] of a chunk: intact, then the order's points."""

        def curve(order_and_clamp):
            return jax.tree.map(
                lambda first, others: jnp.concatenate([first[None], others]),
                chunk.intact,
                self.curve(chunk, *order_and_clamp),
            )

        return jax.lax.map(curve, (orders, clamps))


# The terms taken from a sum may be as large as this share of all its terms: of the 24
# binary digits of what is left, up to 4 are lost.
_MOST_TAKEN = 15 / 16


def sum_over_others(
    chain: AffineChain, kernel: Array, chunk: Chunk, rows: Array, within: Array
) -> Array:
    """What the lowest layer's other neurons give the layer above, [w, n].

    Few ablated neurons are taken from the total, unless that loses too many digits.

    Args:
        chain: the network.
        kernel: [v, w] of the layer above.
        chunk: the examples; its ``total`` goes with the kernel.
        rows: int32 [K], the rows of the neurons ablated.
        within: bool [K], whether they are in the lowest layer.
    """
    width = len(kernel)
    rows = jnp.where(within, rows, width)

    others = jnp.ones(width, bool).at[rows].set(False, mode="drop")

    def product():
        return chain.multiply(kernel.T, jnp.where(others[:, None], chunk.outputs, 0))

    if 4 * len(rows) > width:
        zeros = jnp.zeros_like(chunk.total)
        return jax.lax.cond(others.any(), product, lambda: zeros)
    taken = [
        array.at[rows].get(mode="fill", fill_value=0)
        for array in (kernel, chunk.outputs)
    ]
    rest = chunk.total - chain.multiply(taken[0].T, taken[1])
    size = jnp.abs(taken[0]).max(axis=1) @ jnp.abs(taken[1])
    keeps_digits = (size <= _MOST_TAKEN * chunk.size) & jnp.isfinite(chunk.size)
    return jax.lax.cond(keeps_digits.all(), lambda: rest, product)


def rows_of(chain: AffineChain, order: Array, layer: int) -> tuple[Array, Array]:
    """Where an order's neurons lie in a layer, [K], and whether they do; 0 if not."""
    where = chain.layer_slices[layer]
    within = (order >= where.start) & (order < where.stop)
    return jnp.where(within, order - where.start, 0), within


def steps_of_neurons(order: Array, num_neurons: int) -> Array:
    """The step [H] that ablates each neuron; K where none does."""
    steps = jnp.arange(len(order))
    return jnp.full(num_neurons, len(order)).at[order].set(steps, unique_indices=True)


def examples_below(network: Network, x: Any, memory_gb: float) -> int:
    """Examples that run up to a layer at once; each holds a few of its widest value."""
    leaves = jax.tree.leaves(x)
    inputs = sum(leaf.size // len(leaf) for leaf in leaves)
    return number_that_fits(memory_gb, inputs + 2 * network.widest, len(leaves[0]))
