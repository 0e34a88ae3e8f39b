"""What each neuron of the lowest ablated layer adds to the layer's gate.

All curves of a network share the lowest layer's outputs, so what each of its neurons
adds to the gate (``networks.gates``) is computed once. A point then takes no product
up to the gate: a curve is computed from its end, and neurons are restored one by one. A
sum over the kept neurons only gains terms, so no rounding of a large one is left.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.networks.layers import Layer, Values, slices_of
from ioca_jax.networks.network import Network

# Sums of terms are read from memory: so many operations of a product take as long as
# reading one number, measured on two CPU cores.
OPERATIONS_A_READ = 30


class Terms(NamedTuple):
    """What the lowest layer's w neurons add to its gate.

    Attributes:
        none: float32 [n, *gate], the gate of outputs 0.
        kept: float32 [w, n, *gate], what each neuron's own outputs add.
        unit: float32 [w * vector, *gate], what an output of 1 at all positions adds.
    """

    none: Array
    kept: Array
    unit: Array


class Restored(NamedTuple):
    """Kept neurons, and the gate [n, *gate] that they and no others give."""

    number: Array
    total: Array


class Restoration(NamedTuple):
    """The order in which a curve restores neurons, from its end.

    Attributes:
        terms: of the lowest layer.
        rows: int32 [w], the lowest layer's neurons, those never ablated first.
        number: int32 [P], how many are kept at each point.
        clamped: float32 [P, *gate], what the others' constants add.
    """

    terms: Terms
    rows: Array
    number: Array
    clamped: Array

    def start(self) -> Restored:
        """No neuron is kept."""
        return Restored(jnp.int32(0), self.terms.none)

    def restore(self, restored: Restored, point: Array) -> Restored:
        """Adds the neurons that are kept at a point besides those restored already."""

        def add(index: Array, total: Array) -> Array:
            return total + self.terms.kept[self.rows[index]]

        first, number = restored.number, self.number[point]
        total = jax.lax.fori_loop(first, number, add, restored.total)
        return Restored(number, total)


def make_terms(network: Network, variables: Any, layer: int, values: Values) -> Terms:
    """The terms of a chunk of examples, whose values at a layer are given."""
    own, outputs = network.layers[layer], values.outputs
    none, linear = network.at_gate(variables, layer, values)
    _, of_two = network.at_gate(variables, layer, network.blank_values(layer))

    def kept(row: Array) -> Array:
        is_row = jnp.arange(own.num_neurons) == row
        return linear(jnp.where(_spread(own, is_row), outputs, 0))

    def unit(one: Array) -> Array:
        ones = one.reshape(own.num_neurons, *own.vector)
        return of_two(jnp.broadcast_to(ones, (2, *own.shape)))[0]

    rows, size = jnp.arange(own.num_neurons), own.num_neurons * math.prod(own.vector)
    return Terms(none, jax.lax.map(kept, rows), jax.lax.map(unit, jnp.eye(size)))


def _spread(layer: Layer, of_neuron: Array) -> Array:
    """One value a neuron, broadcast against the layer's outputs."""
    return of_neuron.reshape(-1, *[1] * len(layer.vector))


def make_restoration(
    network: Network,
    layer: int,
    terms: Terms,
    clamp: Array,
    point_of: Array,
    num_points: int,
) -> Restoration:
    """Of one curve, with the first point [H] at which each neuron is ablated."""
    first = point_of[slices_of(network.layers)[layer]]
    is_kept = first > jnp.arange(num_points)[:, None]
    constants = jnp.repeat(~is_kept, len(terms.unit) // len(first), axis=1) * clamp
    clamped = jnp.tensordot(constants, terms.unit, 1, precision="highest")
    return Restoration(terms, jnp.argsort(-first), is_kept.sum(axis=1), clamped)


def is_worthwhile(
    network: Network, layer: int, num_curves: int, num_points: int
) -> bool:
    """Whether so many curves of one network gain from terms of their lowest layer."""
    gate, width = network.gates[layer], network.layers[layer].num_neurons
    if gate is None:
        return False
    points = min(num_points, width)
    by_products = num_curves * points * gate.operations
    reads = num_curves * width * gate.size
    by_terms = width * gate.operations + OPERATIONS_A_READ * reads
    return 2 * by_terms < by_products


class FloatsOfTerms(NamedTuple):
    """Numbers that terms take: of each example, and once."""

    of_example: int
    once: int


def floats_of_terms(network: Network, layer: int, num_points: int) -> FloatsOfTerms:
    """What ``make_terms`` and ``make_restoration`` hold, and the sum."""
    gate: Any = network.gates[layer]
    own = network.layers[layer]
    outputs = own.num_neurons * math.prod(own.vector)
    return FloatsOfTerms(
        (own.num_neurons + 3) * gate.size, (outputs + 2 * num_points) * gate.size
    )
