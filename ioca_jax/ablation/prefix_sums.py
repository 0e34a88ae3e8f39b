"""The engine for accelerators: many points of a curve at once.

For devices on which a loop of small steps is launch-bound: the rank-one terms of a
block of points are summed by one product.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.affine import (
    Chunk,
    ExamplesAtOnce,
    inputs_at_once,
    rows_of,
    steps_of_neurons,
    sum_curves,
    sum_over_others,
)
from ioca_jax.ablation.budget import number_that_fits
from ioca_jax.ablation.evaluation import score_logits
from ioca_jax.networks.mlp import (
    MLP,
    activate,
    multiply,
)


@dataclasses.dataclass(frozen=True)
class PrefixSumsEngine:
    """``RankOneEngine``, many points at once: for launch-bound loops.

    The next layer's pre-activations at all points of a block are prefix sums of the
    rank-one terms, as one product; what lies above is computed for all of them.
    """

    model: MLP
    lowest: int
    sizes: ExamplesAtOnce
    steps_at_once: int

    def orders(self, arrays, x, y):
        """Correct [S, M, K+1, C] and summed losses [S, M, K+1]."""
        return sum_curves(self, self.lowest, arrays, x, y)

    def curve(self, chunk: Chunk, order: Array, clamp: Array):
        """One order [K]: correct [K, C] and summed losses [K], points 1 to K."""
        size = min(self.steps_at_once, len(order))
        if size == 1:
            return self._curve(size, chunk, order, clamp)
        # A block's product has 0 for neurons that are ablated, and 0 times an infinite
        # output is not 0. Blocks of one point have no such 0.
        curves = (partial(self._curve, size, chunk, order, clamp) for size in (size, 1))
        return jax.lax.cond(jnp.isfinite(chunk.outputs).all(), *curves)

    def _curve(self, size: int, chunk: Chunk, order: Array, clamp: Array):
        """``curve`` in blocks of so many points."""
        num_steps, (rows, within) = len(order), rows_of(self.model, order, self.lowest)
        kernel = chunk.affine[self.lowest + 1].kernel
        others = sum_over_others(self.model, kernel, chunk, rows, within)
        # From the last point, K, down to 1: the neuron that each restores. The last
        # restores none, nor do those below 1 that fill up the last block.
        filled = (1, -num_steps % size)
        points = num_steps - jnp.arange(num_steps + filled[1])
        restored = (
            jnp.pad(array[:0:-1], filled).reshape(-1, size) for array in (rows, within)
        )
        steps = steps_of_neurons(order, self.model.num_neurons)
        block = partial(self._block, chunk, clamp, steps)
        blocks = (points.reshape(-1, size), *restored)
        _, scores = jax.lax.scan(block, others, blocks)
        return jax.tree.map(
            lambda score: score.reshape(-1, *score.shape[2:])[num_steps - 1 :: -1],
            scores,
        )

    def _block(self, chunk: Chunk, clamp: Array, steps: Array, before: Array, block):
        """The sum [w, n] after a block of points, and their scores."""
        model, (points, rows, within) = self.model, block
        kernel = chunk.affine[self.lowest + 1].kernel[rows]
        outputs = jnp.where(within[:, None], chunk.outputs[rows], 0)
        until = jnp.tri(len(points))
        terms = jnp.einsum("ts,sw->wts", until, kernel)
        z = before[:, None] + multiply(model, terms, outputs)  # [w, t, n]
        after = z[:, -1]
        for layer in range(self.lowest, model.num_layers):
            own = model.layer_slices[layer]
            kernel, bias = chunk.affine[layer + 1]
            kept = steps[own, None] >= points
            if layer > self.lowest:
                z = jnp.where(kept[:, :, None], activate(model, z), 0)
                flat = multiply(model, kernel.T, z.reshape(len(z), -1))
                z = flat.reshape(-1, *z.shape[1:])
            clamped = jnp.where(kept, 0, clamp[own, None])
            constant = multiply(model, kernel.T, clamped) + bias[:, None]
            z = z + constant[:, :, None]
        return after, jax.vmap(score_logits, (1, None))(z, chunk.y)


# More points than this in a block cost more in its product than they save in starts.
_POINTS_AT_ONCE = 32


def prefix_sums_engine(
    model: MLP,
    lowest: int,
    num_examples: int,
    num_inputs: int,
    num_steps: int,
    memory_gb: float,
) -> PrefixSumsEngine:
    """A point of an ablated example holds three copies of the widest layer above."""
    above = (*model.hidden[lowest + 1 :], model.num_classes)
    images = inputs_at_once(model, lowest, num_examples, num_inputs, memory_gb / 2)
    at_a_point = 3 * (max(above) + model.num_classes)
    ablated = number_that_fits(memory_gb / 2, 2 * at_a_point, images)
    most = min(num_steps + 1, _POINTS_AT_ONCE)
    points = number_that_fits(memory_gb / 2, at_a_point * ablated, most)
    return PrefixSumsEngine(model, lowest, ExamplesAtOnce(images, ablated), points)
