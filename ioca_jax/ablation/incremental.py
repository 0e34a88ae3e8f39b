"""The engine for any network that runs in parts: what lies below a step is kept.

Between two points of a cumulative ablation one neuron changes, so nothing changes below
its layer's outputs. The curve is a nest of loops, one for each layer: the loop of a
layer goes on for as long as neurons of this layer or of one above are ablated, and
holds what the network from this layer on depends on. A step in a layer computes the
layers above; a step in the last layer only what leads from there to the logits. All
figures are recomputed, none is updated, so no rounding adds up along a curve.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.affine import steps_of_neurons
from ioca_jax.ablation.budget import widest_value
from ioca_jax.ablation.evaluation import score_logits, zero_scores
from ioca_jax.batching import fold_examples, number_that_fits
from ioca_jax.networks.network import (
    Ablation,
    StagedNetwork,
    Values,
    slices_of,
)


class _Curve(NamedTuple):
    """One curve of one chunk of examples.

    Attributes:
        variables: of one network.
        steps: int32 [H], the step that ablates each neuron; K where none does.
        layer_of_point: int32 [K+1], the layer of the neuron that a point ablates.
        clamp: float32 [H].
        y: int32 [n].
    """

    variables: Any
    steps: Array
    layer_of_point: Array
    clamp: Array
    y: Array

    def ablation(self, point: Array) -> Ablation:
        return Ablation(self.steps >= point, self.clamp)


@dataclasses.dataclass(frozen=True)
class IncrementalEngine:
    """Curves of orders that touch ``layers`` only, ``examples`` at once."""

    network: StagedNetwork
    layers: tuple[int, ...]
    examples: int

    def orders(self, arrays, x, y):
        """Correct [S, M, K+1, C] and summed losses [S, M, K+1] for orders [S, M, K]."""
        return _sum_chunks(self, arrays, x, y)

    def score_chunk(self, variables, orders, clamps, x, y):
        """Scores [M, K+1, ...] of one network and one chunk of examples."""
        network, layers = self.network, jnp.asarray(self.network.layer_of_neuron)
        values = network.prefix(variables, x, self.layers[0])

        def curve(order_and_clamp):
            order, clamp = order_and_clamp
            steps = steps_of_neurons(order, network.num_neurons)
            of_point = jnp.pad(layers[order], (1, 0))
            one = _Curve(variables, steps, of_point, clamp, y)
            zeros = zero_scores(network.num_classes, len(of_point))
            return self._run(one, 0, values, jnp.int32(0), zeros)[1]

        return jax.lax.map(curve, (orders, clamps))

    def _run(self, curve: _Curve, level: int, values: Values, start: Array, scores):
        """Points from ``start`` on, while steps are in this level's layer or above.

        Returns the first point beyond, and the scores with those of these points.
        """
        layer, is_last = self.layers[level], level == len(self.layers) - 1

        def goes_on(carry):
            point, _ = carry
            ours = curve.layer_of_point.at[point].get(mode="clip") >= layer
            return (point == start) | ((point < len(curve.layer_of_point)) & ours)

        def step(carry):
            point, scores = carry
            if is_last:
                logits, _ = self.network.above(
                    curve.variables, layer, values, curve.ablation(point)
                )
                new = score_logits(logits.T, curve.y)
                return point + 1, jax.tree.map(
                    lambda whole, one: whole.at[point].set(one), scores, new
                )
            above = values
            for index in range(layer, self.layers[level + 1]):
                ablation = curve.ablation(point)
                above = self.network.advance(curve.variables, index, above, ablation)
            return self._run(curve, level + 1, above, point, scores)

        return jax.lax.while_loop(goes_on, step, (start, scores))


@dataclasses.dataclass(frozen=True)
class AffineEngine:
    """Curves of one layer of which the logits are an affine function.

    The logits at a point are prefix sums of what each neuron of the order adds to them,
    from one forward pass and one backward pass for each class.
    """

    network: StagedNetwork
    layer: int
    examples: int

    def orders(self, arrays, x, y):
        """Correct [S, M, K+1, C] and summed losses [S, M, K+1] for orders [S, M, K]."""
        return _sum_chunks(self, arrays, x, y)

    def score_chunk(self, variables, orders, clamps, x, y):
        """Scores [M, K+1, ...] of one network and one chunk of examples."""
        first = slices_of(self.network.layers)[self.layer].start
        terms = self._terms(variables, x)

        def curve(order_and_clamp):
            order, clamp = order_and_clamp
            return _score_prefix_sums(terms, order - first, clamp[order], y)

        return jax.lax.map(curve, (orders, clamps))

    def _terms(self, variables: Any, x: Array) -> "_Terms":
        network, layer = self.network, self.network.layers[self.layer]
        values = network.prefix(variables, x, self.layer)

        def logits(outputs):
            changed = dataclasses.replace(values, outputs=outputs)
            return network.above(variables, self.layer, changed)[0]

        def of_neurons(outputs):
            shape = (len(x), math.prod(layer.positions), layer.num_neurons, -1)
            return outputs.reshape(shape).sum(axis=(1, 3)).T

        def of_class(index):
            one = jnp.zeros_like(constant).at[:, index].set(1)
            (slopes,) = pull_back(one)
            return of_neurons(slopes * values.outputs), of_neurons(slopes)

        zeros = jnp.zeros_like(values.outputs)
        constant, pull_back = jax.vjp(logits, zeros)
        terms = jax.lax.map(of_class, jnp.arange(network.num_classes))
        return _Terms(constant.T, *(term.swapaxes(0, 1) for term in terms))


def _sum_chunks(engine: IncrementalEngine | AffineEngine, arrays, x, y):
    """Scores of all examples, one network after another."""

    def of_network(arrays):
        variables, orders, clamps = arrays
        num_orders, num_steps = orders.shape

        def chunk(carry, x_chunk, y_chunk):
            scores = engine.score_chunk(variables, orders, clamps, x_chunk, y_chunk)
            return jax.tree.map(jnp.add, carry, scores)

        zeros = zero_scores(engine.network.num_classes, num_orders, num_steps + 1)
        return fold_examples(chunk, zeros, x, y, chunk_size=engine.examples)

    return jax.lax.map(of_network, arrays)


class _Terms(NamedTuple):
    """Logits by neuron: ``constant`` + sum of ``kept`` or of clamp times ``slopes``.

    ``constant`` is [C, n], the others are [w, C, n].
    """

    constant: Array
    kept: Array
    slopes: Array


def _score_prefix_sums(terms: _Terms, rows: Array, clamp: Array, y: Array):
    """Scores [K+1, ...] of a curve that clamps neurons [K] one after another.

    What kept neurons add is summed from the end: nothing is subtracted, and a large
    output leaves no rounding behind.
    """

    def ablate(clamped, step):
        row, value = step
        return clamped + value * terms.slopes[row], clamped

    def restore(kept, step):
        row, clamped = step
        kept = kept + terms.kept[row]
        return kept, score_logits(kept + clamped, y)

    none = jnp.zeros_like(terms.constant)
    everything, clamped = jax.lax.scan(ablate, none, (rows, clamp))
    others = jnp.ones(len(terms.kept), bool).at[rows].set(False)
    kept = terms.constant + jnp.where(others[:, None, None], terms.kept, 0).sum(axis=0)
    _, scores = jax.lax.scan(restore, kept, (rows, clamped), reverse=True)
    last = score_logits(kept + everything, y)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), scores, last)


def _floats_held(
    network: StagedNetwork, variables: Any, layers: tuple[int, ...], x: Array
) -> list[int]:
    """Numbers in one example's values at each layer."""

    def values_at_layers(variables, x):
        variables = jax.tree.map(lambda leaf: leaf[0], variables)
        values = network.prefix(variables, x, layers[0])
        found = [jax.tree.leaves(values)]
        for layer in range(layers[0], layers[-1]):
            values = network.advance(variables, layer, values)
            if layer + 1 in layers:
                found.append(jax.tree.leaves(values))
        return found

    shapes = jax.eval_shape(values_at_layers, variables, x)
    return [-(-sum(leaf.size for leaf in leaves) // len(x)) for leaves in shapes]


_MOST_EXAMPLES = 256  # more at once are no faster, measured on two CPU cores


def incremental_engine(
    network: StagedNetwork,
    variables: Any,
    layers: tuple[int, ...],
    x: Array,
    num_steps: int,
    memory_gb: float,
) -> IncrementalEngine | AffineEngine:
    """The engine with as many examples at once as fit into the budget.

    An example holds its values at every layer of ``layers``, and what is computed from
    one to the next, for which four times the largest is allowed. Leaves of
    ``variables`` begin with S.
    """
    held = _floats_held(network, variables, layers, x[:2])
    floats = sum(held) + 4 * max(*held, widest_value(network, layers[0]))
    most = min(len(x), _MOST_EXAMPLES)
    if len(layers) == 1 and network.is_affine_above(layers[0]):
        floats += network.num_classes * (4 * num_steps + 2 * held[0])
        examples = number_that_fits(memory_gb, floats, most)
        return AffineEngine(network, layers[0], examples)
    return IncrementalEngine(network, layers, number_that_fits(memory_gb, floats, most))
