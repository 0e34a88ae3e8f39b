"""The engine for accelerators: many points of a curve at once.

For devices on which a loop of small steps is launch-bound: the rank-one terms of a
block of points are summed by one product.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.affine import (
    Chunk,
    Curves,
    ExamplesAtOnce,
    examples_below,
    rows_of,
    steps_of_neurons,
    sum_over_others,
)
from ioca_jax.ablation.metrics import Scorer
from ioca_jax.batching import number_that_fits
from ioca_jax.networks.chain import AffineChain
from ioca_jax.networks.network import Network


@dataclasses.dataclass(frozen=True)
class PrefixSumsEngine:
    """``RankOneEngine``, many points at once: for launch-bound loops.

    The next layer's pre-activations at all points of a block are prefix sums of the
    rank-one terms, as one product; what lies above is computed for all of them.
    """

    network: Network
    chain: AffineChain
    scorer: Scorer
    sizes: ExamplesAtOnce
    steps_at_once: int

    def orders(self, arrays, x, y):
        """Sums [S, M, P, ...] for orders [S, M, K] at steps [P]."""
        curves = Curves(self.network, self.chain, self.curve, self.scorer, self.sizes)
        return curves.sums(arrays, x, y)

    def curve(self, chunk: Chunk, order: Array, clamp: Array):
        """One order [K]: sums [K, ...] at points 1 to K."""
        chain, lowest, num_steps = self.chain, self.chain.lowest, len(order)
        rows, within = rows_of(chain, order, lowest)
        size = min(self.steps_at_once, num_steps)
        kernel = chunk.maps[lowest + 1].kernel
        others = sum_over_others(chain, kernel, chunk, rows, within)
        # From the last point, K, down to 1: the neuron that each restores. The last
        # restores none, nor do those below 1 that fill up the last block.
        filled = (1, -num_steps % size)
        points = num_steps - jnp.arange(num_steps + filled[1])
        restored = (
            jnp.pad(array[:0:-1], filled).reshape(-1, size) for array in (rows, within)
        )
        steps = steps_of_neurons(order, chain.num_neurons)
        above = _layers_above(chain, chunk, steps, clamp)
        block = partial(self._block, chunk, clamp, steps, above)
        blocks = (points.reshape(-1, size), *restored)
        _, scores = jax.lax.scan(block, others, blocks)
        return jax.tree.map(
            lambda score: score.reshape(-1, *score.shape[2:])[num_steps - 1 :: -1],
            scores,
        )

    def _block(self, chunk: Chunk, clamp: Array, steps: Array, above, before, block):
        """The sum [w, n] after a block of points, and their scores."""
        chain, (points, rows, within) = self.chain, block
        kernel, bias, _ = chunk.maps[chain.lowest + 1]
        outputs = jnp.where(within[:, None], chunk.outputs[rows], 0)
        sums = _sums(chain, before, kernel[rows], outputs)  # [w, t, n]
        own = chain.layer_slices[chain.lowest]
        clamped = jnp.where(steps[own, None] >= points, 0, clamp[own, None])
        constant = chain.multiply(kernel.T, clamped) + bias[:, None]
        z = sums + constant[:, :, None]
        for index, alike in above:
            layer = partial(_layer, chain, index, points)
            if len(alike.bias) == 1:
                z, _ = layer(z, jax.tree.map(lambda array: array[0], alike))
            else:  # as a loop, whose one product is compiled once
                z, _ = jax.lax.scan(layer, z, alike)
        return sums[:, -1], jax.vmap(self.scorer.score, (1, None))(z, chunk.labels)


class _Layers(NamedTuple):
    """Neighbouring layers of one shape: ``steps`` and ``clamp`` are [layers, v]."""

    steps: Array
    clamp: Array
    parameters: tuple[Array, ...]
    kernel: Array
    bias: Array


def _layers_above(
    chain: AffineChain, chunk: Chunk, steps: Array, clamp: Array
) -> list[tuple[int, _Layers]]:
    """The layers above the lowest, those of one kind together, each with its first."""
    groups: list[tuple[int, list[_Layers]]] = []
    for index in range(chain.lowest + 1, chain.num_layers):
        own, affine = chain.layer_slices[index], chunk.maps[index + 1]
        parameters = chunk.maps[index].parameters
        layer = _Layers(steps[own], clamp[own], parameters, affine.kernel, affine.bias)
        first, others = groups[-1] if groups else (index, [])
        is_alike = others and others[0].kernel.shape == layer.kernel.shape
        if is_alike and chain.is_alike(first, index):
            others.append(layer)
        else:
            groups.append((index, [layer]))
    return [
        (first, jax.tree.map(lambda *arrays: jnp.stack(arrays), *alike))
        for first, alike in groups
    ]


def _layer(
    chain: AffineChain, index: int, points: Array, z: Array, layer: _Layers
) -> tuple[Array, None]:
    """From one layer's pre-activations [v, t, n] to the next layer's."""
    kept = layer.steps[:, None] >= points
    clamp = layer.clamp[:, None, None]
    outputs = chain.activate(index, layer.parameters, z)
    outputs = jnp.where(kept[:, :, None], outputs, clamp)
    flat = chain.multiply(layer.kernel.T, outputs.reshape(len(z), -1))
    return flat.reshape(-1, *z.shape[1:]) + layer.bias[:, None, None], None


def _sums(chain: AffineChain, before: Array, kernel: Array, outputs: Array) -> Array:
    """Sums [w, t, n] after each of t neurons, of kernel rows [t, w], is restored."""

    def together():
        terms = jnp.einsum("ts,sw->wts", jnp.tri(len(kernel)), kernel)
        return before[:, None] + chain.multiply(terms, outputs)

    def one_by_one():
        def restore(total, neuron):
            total = total + neuron[0][:, None] * neuron[1]
            return total, total

        _, sums = jax.lax.scan(restore, before, (kernel, outputs))
        return sums.swapaxes(0, 1)

    # The product has 0 for neurons that are ablated, and 0 times an infinite output is
    # not 0.
    return jax.lax.cond(jnp.isfinite(outputs).all(), together, one_by_one)


# More points than this in a block cost more in its product than they save in starts.
_POINTS_AT_ONCE = 32


def prefix_sums_engine(
    network: Network,
    chain: AffineChain,
    scorer: Scorer,
    x: Any,
    num_steps: int,
    memory_gb: float,
) -> PrefixSumsEngine:
    """A point of an ablated example holds three copies of the widest layer above."""
    above = (*chain.widths[chain.lowest + 1 :], chain.num_classes)
    below = examples_below(network, x, memory_gb / 2)
    at_a_point = 3 * (max(above) + chain.num_classes)
    ablated = number_that_fits(memory_gb / 2, 2 * at_a_point, below)
    most = min(num_steps + 1, _POINTS_AT_ONCE)
    points = number_that_fits(memory_gb / 2, at_a_point * ablated, most)
    sizes = ExamplesAtOnce(below, ablated)
    return PrefixSumsEngine(network, chain, scorer, sizes, points)
