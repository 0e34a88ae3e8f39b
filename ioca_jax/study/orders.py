"""The orders that a study ablates in: scopes, measures and directions, random draws."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ioca_jax.ablation.orderings import DIRECTIONS, order_neurons, random_order
from ioca_jax.networks.layers import slices_of
from ioca_jax.networks.network import Network
from ioca_jax.study.config import UNITS


class Ordering(NamedTuple):
    """A way to order neurons.

    Attributes:
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.
        draw: counts random orders; 0 for the others.
    """

    ranked_by: str
    direction: str
    draw: int

    @property
    def label(self) -> str:
        """Its name on the axis ``ordering``."""
        if self.ranked_by == "random":
            return f"random_{self.draw}"
        return f"{self.ranked_by}_{self.direction}"


def orderings_of(measures: Sequence[str], random_orders: int) -> list[Ordering]:
    """Two orders for each measure, then the random ones."""
    ranked = [
        Ordering(measure, direction, 0)
        for measure in measures
        for direction in DIRECTIONS
    ]
    drawn = [Ordering("random", "random", d) for d in range(random_orders)]
    return ranked + drawn


def scopes_of(network: Network) -> dict[str, np.ndarray]:
    """By name, the neurons int32 [K] of each scope: ``network``, then each layer."""
    everything = np.arange(network.num_neurons, dtype=np.int32)
    layers = {
        layer.name: everything[where]
        for layer, where in zip(network.layers, slices_of(network.layers), strict=True)
    }
    return {"network": everything, **layers}


def _key_of_scope(seed: Array, scope_index: int) -> Array:
    """An order's key depends on its seed, scope and ordering alone.

    So it is the same whatever else a run computes.
    """
    return jax.random.fold_in(jax.random.key(seed), 1 + scope_index)


def _key_of_ties(key: Array, measure: str, direction: str) -> Array:
    known = list(UNITS)
    of_name = zlib.crc32(measure.encode())  # of the user's: the same in any run
    key = jax.random.fold_in(
        key, 1 + known.index(measure) if measure in known else of_name
    )
    return jax.random.fold_in(key, DIRECTIONS.index(direction))


@partial(jax.jit, static_argnames=("draws", "scope_index"))
def random_orders(seeds, neurons, draws, scope_index) -> Int[Array, "S draws K"]:
    """The random orders of one scope, for every network."""

    def of_network(seed):
        key = jax.random.fold_in(_key_of_scope(seed, scope_index), 0)
        drawn = [
            random_order(neurons, key=jax.random.fold_in(key, draw))
            for draw in range(draws)
        ]
        return jnp.stack(drawn) if drawn else jnp.zeros((0, len(neurons)), jnp.int32)

    return jax.vmap(of_network)(seeds)


@partial(jax.jit, static_argnames=("orderings", "scope_index"))
def ranked_orders(
    scores, seeds, neurons, orderings, scope_index
) -> Int[Array, "S O K"]:
    """The orders of one scope that measures give, for every network."""

    def of_network(scores, seed):
        key = _key_of_scope(seed, scope_index)
        ranked = [
            order_neurons(
                scores[ordering.ranked_by],
                neurons,
                ordering.direction,
                key=_key_of_ties(key, ordering.ranked_by, ordering.direction),
            )
            for ordering in orderings
        ]
        return jnp.stack(ranked)

    return jax.vmap(of_network)(scores, seeds)
