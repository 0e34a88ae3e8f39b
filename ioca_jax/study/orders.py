"""The orders that a study ablates in: scopes, measures and directions, random draws."""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

from ioca_jax.ablation.orderings import DIRECTIONS, random_order
from ioca_jax.devices import COMPILED_QUICKLY
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


def _folds(ordering: Ordering) -> tuple[int, int]:
    """What an ordering's key is made from: its measure, and its draw or direction."""
    if ordering.ranked_by == "random":
        return 0, ordering.draw
    known, measure = list(UNITS), ordering.ranked_by
    of_name = zlib.crc32(measure.encode())  # of the user's: the same in any run
    number = 1 + known.index(measure) if measure in known else of_name
    return number, DIRECTIONS.index(ordering.direction)


def draw_orders(
    seeds: ArrayLike,
    neurons: ArrayLike,
    orderings: Sequence[Ordering],
    scope_index: int,
) -> Int[np.ndarray, "S O K"]:
    """A random order of a scope for every network and ordering.

    Of random orderings it is the order; others break ties of scores by it. It depends
    on its seed, scope and ordering alone, so it is the same whatever else a run
    computes.
    """
    folds = np.array([_folds(ordering) for ordering in orderings], np.uint32)
    return np.asarray(_draw(seeds, neurons, folds, scope_index))


@partial(jax.jit, compiler_options=COMPILED_QUICKLY)
def _draw(seeds, neurons, folds, scope_index):
    def draw(seed, fold):
        key = jax.random.fold_in(jax.random.key(seed), 1 + scope_index)
        for number in fold:
            key = jax.random.fold_in(key, number)
        return random_order(neurons, key=key)

    of_network = jax.vmap(draw, in_axes=(None, 0))
    return jax.vmap(of_network, in_axes=(0, None))(seeds, folds)


def ranked_orders(
    scores: Mapping[str, ArrayLike],
    drawn: Int[np.ndarray, "S O K"],
    orderings: Sequence[Ordering],
) -> Int[np.ndarray, "S O K"]:
    """Orders by scores [S, H], on the host; equal scores stay as they were drawn.

    Those of random orderings are as drawn. NaN comes last.
    """
    orders = drawn.copy()
    for place, ordering in enumerate(orderings):
        if ordering.ranked_by == "random":
            continue
        shuffled = drawn[:, place]
        of_neurons = np.asarray(scores[ordering.ranked_by])
        ranks = np.take_along_axis(of_neurons, shuffled, axis=1)
        if ordering.direction == "descending":
            ranks = -ranks
        places = np.argsort(ranks, axis=1, stable=True)
        orders[:, place] = np.take_along_axis(shuffled, places, axis=1)
    return orders
