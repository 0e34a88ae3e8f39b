"""The engine for any network that runs in parts: what lies below a step is kept.

Between two points of a cumulative ablation a few neurons change, most often one, so
nothing changes below the outputs of the lowest of their layers. The curve is a nest of
loops, one for each layer: the loop of a layer goes on for as long as neurons of this
layer or of one above are ablated, and holds what the network from this layer on depends
on. A point of a layer computes the layers above; one of the last layer only what leads
from there to the logits. All figures are recomputed, none is updated, so no rounding
adds up along a curve.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.evaluation import by_class
from ioca_jax.ablation.metrics import Batch, Labels, Scorer, Sums
from ioca_jax.batching import count_examples, fold_examples, number_that_fits
from ioca_jax.networks.layers import Ablation, Values, slices_of, split_by_layer
from ioca_jax.networks.network import Network


class _Curve(NamedTuple):
    """One curve of one chunk of examples.

    Attributes:
        variables: of one network.
        point_of: int32 [H], the first point at which each neuron is ablated; P where
            there is none.
        layer_of_point: int32 [P], the lowest layer of the neurons that a point ablates.
        clamp: of an ablation.
        labels: what logits are compared with.
    """

    variables: Any
    point_of: Array
    layer_of_point: Array
    clamp: Any
    labels: Labels

    def ablation(self, point: Array) -> Ablation:
        return Ablation(self.point_of > point, self.clamp)


@dataclasses.dataclass(frozen=True)
class IncrementalEngine:
    """Curves of orders that touch ``layers`` only, ``examples`` at once."""

    network: Network
    layers: tuple[int, ...]
    scorer: Scorer
    examples: int

    def orders(self, arrays, x, y):
        """Sums [S, M, P, ...] for orders [S, M, K] at steps [P]."""
        return _sum_chunks(self, arrays, x, y)

    def score_chunk(self, variables, orders, steps, replacement, batch: Batch, y):
        """Sums [M, P, ...] of one network and one chunk of examples."""
        network, lowest = self.network, self.layers[0]
        layers, num_points = jnp.asarray(network.layer_of_neuron), len(steps)
        values = network.prefix(variables, batch.x, lowest)
        replacement = replacement.of_examples(batch.row)
        labels = self.scorer.labels(
            y, batch, lambda: network.above(variables, lowest, values)[0]
        )
        # Of each place in an order, the first point that ablates it.
        points = jnp.searchsorted(steps, jnp.arange(orders.shape[1]), side="right")

        def curve(index):
            order, clamp = orders[index], replacement.at(index)
            point_of = jnp.full(network.num_neurons, num_points)
            point_of = point_of.at[order].set(points, unique_indices=True)
            lowest_of = jnp.full(num_points, len(network.layers))
            lowest_of = lowest_of.at[points].min(layers[order], mode="drop")
            one = _Curve(variables, point_of, lowest_of, clamp, labels)
            zeros = self.scorer.zeros(num_points)
            return self._run(one, 0, values, jnp.int32(0), zeros)[1]

        return jax.lax.map(curve, jnp.arange(len(orders)))

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
                new = self.scorer.score(by_class(logits), curve.labels)
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

    network: Network
    layer: int
    scorer: Scorer
    examples: int

    def orders(self, arrays, x, y):
        """Sums [S, M, P, ...] for orders [S, M, K] at steps [P]."""
        return _sum_chunks(self, arrays, x, y)

    def score_chunk(self, variables, orders, steps, replacement, batch: Batch, y):
        """Sums [M, P, ...] of one network and one chunk of examples."""
        network, layer = self.network, self.network.layers[self.layer]
        first = slices_of(network.layers)[self.layer].start
        terms, intact = self._terms(variables, batch.x)
        labels = self.scorer.labels(y, batch, lambda: intact)

        def curve(index):
            clamps = split_by_layer(network.layers, replacement.at(index))[layer.name]
            clamped = terms.slopes * clamps.reshape(*terms.slopes.shape[:2], 1, 1)
            clamped, rows = clamped.sum(axis=1), orders[index] - first
            scores = _score_prefix_sums(terms, rows, clamped[rows], score)
            return jax.tree.map(lambda leaf: leaf[steps], scores)

        def score(logits):
            return self.scorer.score(logits, labels)

        return jax.lax.map(curve, jnp.arange(len(orders)))

    def _terms(self, variables: Any, x: Any) -> tuple["_Terms", Array]:
        """Also returns the logits [n, C]."""
        network, layer = self.network, self.network.layers[self.layer]
        values = network.prefix(variables, x, self.layer)

        def logits(outputs):
            changed = dataclasses.replace(values, outputs=outputs)
            return network.above(variables, self.layer, changed)[0]

        def over_positions(outputs):
            shape = (len(outputs), math.prod(layer.positions), layer.num_neurons, -1)
            return jnp.moveaxis(outputs.reshape(shape).sum(axis=1), 0, -1)

        def of_class(index):
            one = jnp.zeros_like(constant).at[:, index].set(1)
            (slopes,) = pull_back(one)
            kept = over_positions(slopes * values.outputs).sum(axis=1)
            return kept, over_positions(slopes)

        zeros = jnp.zeros_like(values.outputs)
        constant, pull_back = jax.vjp(logits, zeros)
        kept, slopes = jax.lax.map(of_class, jnp.arange(network.num_classes))
        terms = _Terms(constant.T, kept.swapaxes(0, 1), jnp.moveaxis(slopes, 0, 2))
        return terms, logits(values.outputs)


def _sum_chunks(engine: IncrementalEngine | AffineEngine, arrays, x, y):
    """Scores of all examples, one network after another."""

    def of_network(arrays):
        variables, orders, replacement = arrays
        replacement = replacement.of_network(engine.network, variables)

        def chunk(carry, x_chunk, y_chunk):
            arguments = variables, orders, steps, replacement, x_chunk, y_chunk
            scores = engine.score_chunk(*arguments)
            return jax.tree.map(jnp.add, carry, scores)

        zeros = engine.scorer.zeros(len(orders), len(steps))
        return fold_examples(chunk, zeros, x, y, chunk_size=engine.examples)

    networks, steps = arrays
    return jax.lax.map(of_network, networks)


class _Terms(NamedTuple):
    """Logits by neuron: ``constant`` + sum of ``kept`` or of clamp times ``slopes``.

    ``constant`` is [C, n], ``kept`` [w, C, n], and ``slopes`` [w, vector, C, n].
    """

    constant: Array
    kept: Array
    slopes: Array


def _score_prefix_sums(
    terms: _Terms, rows: Array, clamped: Array, score: Callable[[Array], Sums]
) -> Sums:
    """Sums [K+1, ...] of a curve that clamps neurons [K] one after another.

    Clamped, they add [K, C, n]. What kept neurons add is summed from the end: nothing
    is subtracted, and a large output leaves no rounding behind.
    """

    def ablate(before, own):
        return before + own, before

    def restore(kept, step):
        row, before = step
        kept = kept + terms.kept[row]
        return kept, score(kept + before)

    none = jnp.zeros_like(terms.constant)
    everything, before = jax.lax.scan(ablate, none, clamped)
    others = jnp.ones(len(terms.kept), bool).at[rows].set(False)
    kept = terms.constant + jnp.where(others[:, None, None], terms.kept, 0).sum(axis=0)
    _, scores = jax.lax.scan(restore, kept, (rows, before), reverse=True)
    last = score(kept + everything)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), scores, last)


def _floats_held(
    network: Network, variables: Any, layers: tuple[int, ...], x: Any
) -> list[int]:
    """Numbers in one example's values at each layer."""
    num_examples = count_examples(x)

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
    floats = [sum(leaf.size for leaf in leaves) for leaves in shapes]
    return [-(-number // num_examples) for number in floats]


# More at once are no faster, measured on two CPU cores, and slower where the largest
# value of all of them leaves the caches.
_MOST_EXAMPLES, _MOST_FLOATS = 256, 2**20


def incremental_engine(
    network: Network,
    variables: Any,
    layers: tuple[int, ...],
    scorer: Scorer,
    x: Any,
    num_steps: int,
    memory_gb: float,
    *,
    takes_constants: bool,
) -> IncrementalEngine | AffineEngine:
    """The engine with as many examples at once as fit into the budget.

    An example holds its values at every layer of ``layers``, and what is computed from
    one to the next, for which four times the largest is allowed. Leaves of
    ``variables`` begin with S. Replacements are constants, or outputs for donors.
    """
    two = jax.tree.map(lambda leaf: leaf[:2], x)
    held = _floats_held(network, variables, layers, two)
    floats = sum(held) + 4 * max(*held, network.widest)
    most = min(count_examples(x), _MOST_EXAMPLES)
    if jax.default_backend() == "cpu":
        most = min(most, max(1, _MOST_FLOATS // network.widest))
    # Of tokens a logit depends on units at all positions: a pass for each, and class.
    is_affine = len(layers) == 1 and network.tokens is None
    is_affine = is_affine and network.is_affine_above(layers[0])
    if is_affine and takes_constants:
        floats += network.num_classes * (4 * num_steps + 2 * held[0])
        examples = number_that_fits(memory_gb, floats, most)
        return AffineEngine(network, layers[0], scorer, examples)
    examples = number_that_fits(memory_gb, floats, most)
    return IncrementalEngine(network, layers, scorer, examples)
