"""The engine for any network that runs in parts: what lies below a step is kept.

Between two points of a cumulative ablation a few neurons change, most often one, so
nothing changes below the outputs of the lowest of their layers. The curve is a nest of
loops, one for each layer, from the last point to the first: the loop of a layer goes on
for as long as neurons of this layer or of one above are restored, and holds what the
network from this layer on depends on. A point of a layer computes the layers above; one
of the last layer only what leads from there to the logits. Many curves share what the
neurons of the lowest layer add to the values above (``gated``); all other figures are
recomputed, none is updated, so no rounding adds up along a curve.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.evaluation import by_class
from ioca_jax.ablation.gated import (
    Restoration,
    floats_of_terms,
    is_worthwhile,
    make_restoration,
    make_terms,
)
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
        layer_of_point: int32 [P], the lowest layer of the neurons that are ablated at
            the next point and not at this one.
        clamp: of an ablation.
        labels: what logits are compared with.
        restoration: of the lowest layer's neurons; None computes what the layer gives
            anew at each point.
    """

    variables: Any
    point_of: Array
    layer_of_point: Array
    clamp: Any
    labels: Labels
    restoration: Restoration | None

    def ablation(self, point: Array) -> Ablation:
        return Ablation(self.point_of > point, self.clamp)


@dataclasses.dataclass(frozen=True)
class IncrementalEngine:
    """Curves of orders that touch ``layers`` only, ``examples`` at once.

    With ``adds_terms`` the lowest layer's gate is a sum of terms of its neurons.
    """

    network: Network
    layers: tuple[int, ...]
    scorer: Scorer
    examples: int
    adds_terms: bool = False

    def orders(self, arrays, x, y):
        """Sums [S, M, P, ...] for orders [S, M, K] at steps [P]."""
        return _sum_chunks(self, arrays, x, y)

    def score_chunk(self, variables, orders, steps, replacement, batch: Batch, y):
        """Sums [M, P, ...] of one network and one chunk of examples."""
        network, lowest = self.network, self.layers[0]
        values = network.prefix(variables, batch.x, lowest)
        replacement = replacement.of_examples(batch.row)
        labels = self.scorer.labels(
            y, batch, lambda: network.above(variables, lowest, values)[0]
        )
        terms, num_points = None, len(steps)
        if self.adds_terms:
            terms = make_terms(network, variables, lowest, values)

        def curve(index):
            clamp = replacement.at(index)
            one = self._curve(variables, orders[index], steps, clamp, labels, terms)
            scores, last = self.scorer.zeros(num_points), jnp.int32(num_points - 1)
            return self._run(one, 0, values, last, scores)[1]

        return jax.lax.map(curve, jnp.arange(len(orders)))

    def _curve(self, variables, order, steps, clamp, labels, terms) -> _Curve:
        network, num_points = self.network, len(steps)
        # Of each place in the order, the first point that ablates it.
        points = jnp.searchsorted(steps, jnp.arange(len(order)), side="right")
        point_of = jnp.full(network.num_neurons, num_points)
        point_of = point_of.at[order].set(points, unique_indices=True)
        layers = jnp.asarray(network.layer_of_neuron)[order]
        before = jnp.where(points > 0, points - 1, num_points)
        lowest_of = jnp.full(num_points, len(network.layers))
        lowest_of = lowest_of.at[before].min(layers, mode="drop")
        restoration = None
        if terms is not None:
            lowest = self.layers[0]
            own = split_by_layer(network.layers, clamp)[network.layers[lowest].name]
            restoration = make_restoration(
                network, lowest, terms, own.ravel(), point_of, num_points
            )
        return _Curve(variables, point_of, lowest_of, clamp, labels, restoration)

    def _run(self, curve: _Curve, level: int, values: Values, start: Array, scores):
        """Points down from ``start``, while neurons of this level or above change.

        Returns the first point beyond, and the scores with those of these points.
        """
        layer, shared = self.layers[level], curve.restoration if level == 0 else None

        def goes_on(carry):
            point, *_ = carry
            ours = curve.layer_of_point[point] >= layer
            return (point == start) | ((point >= 0) & ours)

        def step(carry):
            point, scores, restored = carry
            here = values
            if shared is not None:
                restored = shared.restore(restored, point)
                gate = restored.total + shared.clamped[point]
                here = dataclasses.replace(values, gate=gate)
            return *self._points(curve, level, here, point, scores), restored

        none = None if shared is None else shared.start()
        return jax.lax.while_loop(goes_on, step, (start, scores, none))[:2]

    def _points(self, curve: _Curve, level: int, values: Values, point: Array, scores):
        """The point, and those after it in which only layers above change."""
        network, layer, ablation = self.network, self.layers[level], curve.ablation
        if level == len(self.layers) - 1:
            logits, _ = network.above(curve.variables, layer, values, ablation(point))
            new = self.scorer.score(by_class(logits), curve.labels)
            return point - 1, jax.tree.map(
                lambda whole, one: whole.at[point].set(one), scores, new
            )
        for index in range(layer, self.layers[level + 1]):
            values = network.advance(curve.variables, index, values, ablation(point))
        return self._run(curve, level + 1, values, point, scores)


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
_FEWEST_WITH_TERMS = 16  # fewer at once are slower than computing products anew


def most_examples(network: Network, x: Any) -> int:
    """How many examples are run at once where memory does not limit them."""
    most = min(count_examples(x), _MOST_EXAMPLES)
    if jax.default_backend() != "cpu":
        return most
    return min(most, max(1, _MOST_FLOATS // network.widest))


def has_affine_engine(network: Network, layers: tuple[int, ...]) -> bool:
    """Whether ``AffineEngine`` computes curves of these layers under constants."""
    # Of tokens a logit depends on units at all positions: a pass for each, and class.
    is_one = len(layers) == 1 and network.tokens is None
    return is_one and network.is_affine_above(layers[0])


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
    num_curves: int,
    num_points: int,
) -> IncrementalEngine | AffineEngine:
    """The engine with as many examples at once as fit into the budget.

    An example holds its values at every layer of ``layers``, and what is computed from
    one to the next, for which four times the largest is allowed. Leaves of
    ``variables`` begin with S. Replacements are constants, or outputs for donors. So
    many curves of each network share what its lowest layer gives.
    """
    two = jax.tree.map(lambda leaf: leaf[:2], x)
    held = _floats_held(network, variables, layers, two)
    floats = sum(held) + 4 * max(*held, network.widest)
    most = most_examples(network, x)
    if takes_constants and has_affine_engine(network, layers):
        floats += network.num_classes * (4 * num_steps + 2 * held[0])
        examples = number_that_fits(memory_gb, floats, most)
        return AffineEngine(network, layers[0], scorer, examples)
    examples = number_that_fits(memory_gb, floats, most)
    engine = IncrementalEngine(network, layers, scorer, examples)
    if not takes_constants or not is_worthwhile(
        network, layers[0], num_curves, num_points
    ):
        return engine
    of_terms = floats_of_terms(network, layers[0], num_points)
    left = memory_gb - 4e-9 * of_terms.once
    examples = number_that_fits(left, floats + of_terms.of_example, most)
    if left <= 0 or examples < min(most, _FEWEST_WITH_TERMS):
        return engine
    return dataclasses.replace(engine, examples=examples, adds_terms=True)
