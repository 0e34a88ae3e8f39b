"""The reference engine: the network is run for each mask, as a ``vmap`` over masks.

What lies below the first layer that a mask touches is computed once, not once per mask.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ioca_jax.ablation.budget import FLOATS_PER_STEP, number_that_fits
from ioca_jax.ablation.evaluation import score_logits, zero_scores
from ioca_jax.ablation.orderings import cumulative_masks
from ioca_jax.batching import fold_examples
from ioca_jax.networks.network import Ablation, StagedNetwork


class MasksEngine(NamedTuple):
    """Sums over examples for masks [M, H] and clamps [M, H] of one network."""

    model: StagedNetwork
    lowest: int
    examples: int
    masks_at_once: int

    def __call__(self, arrays, x, y):
        """Correct [M, C] and summed losses [M]."""
        variables, masks, clamps = arrays

        def chunk(carry, x_chunk, y_chunk):
            values = self.model.prefix(variables, x_chunk, self.lowest)

            def one_mask(mask_and_clamp):
                ablation = Ablation(*mask_and_clamp)
                logits, _ = self.model.above(variables, self.lowest, values, ablation)
                return score_logits(logits.T, y_chunk)

            sums = jax.lax.map(one_mask, (masks, clamps), batch_size=self.masks_at_once)
            return jax.tree.map(jnp.add, carry, sums)

        zeros = zero_scores(self.model.num_classes, len(masks))
        return fold_examples(chunk, zeros, x, y, chunk_size=self.examples)


class CumulativeEngine(NamedTuple):
    """``MasksEngine`` for the cumulative masks of orders [S, M, K]."""

    engine: MasksEngine

    def __call__(self, arrays, x, y):
        """Correct [S, M, K+1, C] and summed losses [S, M, K+1]."""

        def of_network(network):
            variables, orders, clamps = network

            def of_order(order_and_clamp):
                order, clamp = order_and_clamp
                masks = cumulative_masks(order, len(clamp))
                clamps = jnp.broadcast_to(clamp, masks.shape)
                return self.engine((variables, masks, clamps), x, y)

            return jax.lax.map(of_order, (orders, clamps))

        return jax.lax.map(of_network, arrays)


def masks_engine(
    model: StagedNetwork, lowest: int, num_examples: int, memory_gb: float
) -> MasksEngine:
    """The engine with chunks that keep to the budget.

    A chunk of examples holds all its activations once; each mask and example then hold
    two copies of the widest layer above, and of the logits.
    """
    sizes = [math.prod(layer.shape) for layer in model.layers]
    above = 2 * (max((*sizes[lowest:], model.num_classes)) + model.num_classes)
    most = min(num_examples, 1000)
    examples = number_that_fits(memory_gb / 2, above + 2 * sum(sizes), most)
    at_once = FLOATS_PER_STEP // (examples * above) + 1
    return MasksEngine(
        model,
        lowest,
        examples,
        number_that_fits(memory_gb / 2, above * examples, at_once),
    )
