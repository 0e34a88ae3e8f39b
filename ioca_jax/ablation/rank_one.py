"""The engine for CPUs: a rank-one update at every point of a curve.

Between two points of a cumulative ablation one neuron changes, so the next layer's
pre-activations change by a rank-one term and nothing below them changes at all: a
curve costs one forward pass, then per point a rank-one update and the layers above it.
In the last hidden layer that is an update of the logits alone, so those points run in a
loop of their own that carries nothing else. Above, ablated neurons are left out of the
products: the neurons of a layer are numbered by how long they are kept, and only
leading blocks of kernels are multiplied.

Rounding: a layer's sum gains at most one term for each neuron of the layer beneath,
with an error of about ``6e-8 sqrt(width)`` of its size at that point.
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
from ioca_jax.ablation.budget import FLOATS_PER_STEP
from ioca_jax.ablation.evaluation import quick_exp
from ioca_jax.ablation.metrics import Labels, Scorer, Sums
from ioca_jax.batching import number_that_fits
from ioca_jax.networks.chain import AffineChain
from ioca_jax.networks.network import Network


@dataclasses.dataclass(frozen=True)
class RankOneEngine:
    """Sums over examples for orders [S, M, K] that touch ``layers`` only."""

    network: Network
    chain: AffineChain
    layers: tuple[int, ...]
    scorer: Scorer
    sizes: ExamplesAtOnce

    def orders(self, arrays, x, y):
        """Sums [S, M, P, ...] for orders [S, M, K] at steps [P]."""
        curves = Curves(self.network, self.chain, self.curve, self.scorer, self.sizes)
        return curves.sums(arrays, x, y)

    def curve(self, chunk: Chunk, order: Array, clamp: Array):
        """One order [K]: sums [K, ...] at points 1 to K."""
        curve, total = _curve(self, chunk, order, clamp)
        state = _start(curve, chunk._replace(total=total), order)
        scores = self.scorer.zeros(len(order))
        if self.layers[0] == self.chain.num_layers - 1:
            return _restore_in_last(curve, state, scores)[1]
        _, scores = jax.lax.while_loop(
            lambda carry: carry[0].point > 1,
            lambda carry: _restore_below(curve, *carry),
            (state, scores),
        )
        return scores


class _Curve(NamedTuple):
    """What stays the same along a curve.

    The neurons above the lowest layer are numbered by how long they are kept. So those
    kept at a point are the first of their layer, and products need no more than a
    leading block of each kernel.

    Attributes:
        chain: the network from the lowest of the layers on.
        layers: those that the order touches.
        kernels: by layer, float32 [v, w], of the maps into it.
        parameters: by layer, float32 [w] each, of its activation.
        constants: by layer, float32 [K+1, w]: the bias and what the ablated neurons
            below give, at every point.
        outputs: float32 [v, n], of the lowest layer.
        layer_at: int32 [K+1], the layer of the neuron that each step ablates; last, the
            lowest layer, of no neuron.
        row_at: int32 [K+1], the neuron's row in its layer; last, one past the end.
        steps: int32 [H], the step that ablates each neuron; K where none does.
        anew: by layer above the lowest, int32 [K+1]: the largest point below each
            point at which the layer's inputs are computed anew, because a neuron
            further below is restored there; 0 if there is none.
        scorer: what is summed over examples.
        labels: what logits are compared with.
    """

    chain: AffineChain
    layers: tuple[int, ...]
    kernels: dict[int, Array]
    parameters: dict[int, tuple[Array, ...]]
    constants: dict[int, Array]
    outputs: Array
    layer_at: Array
    row_at: Array
    steps: Array
    anew: dict[int, Array]
    scorer: Scorer
    labels: Labels

    def activated(self, state: "_State", layer: int, rows: Any) -> Array:
        """The outputs of some neurons of a layer, [rows, n], or of one, [n]."""
        parameters = [array[rows] for array in self.parameters[layer]]
        z = state.pre_activations(layer, rows)
        return self.chain.activate(layer, parameters, z)


class _State(NamedTuple):
    """A point of a curve that is computed from its end to its beginning.

    Pre-activations are two parts, ``from_kept`` and a constant. Towards the beginning
    ``from_kept`` only gathers terms, so nothing large is ever taken out of it that
    would leave its rounding behind.

    Attributes:
        point: how many neurons are ablated.
        constants: by layer, float32 [w]: the curve's, at this point.
        from_kept: by layer above the lowest, float32 [w, n]: what the kept neurons
            below give.
    """

    point: Array
    constants: dict[int, Array]
    from_kept: dict[int, Array]

    def pre_activations(self, layer: int, rows: Any = slice(None)) -> Array:
        """Of some neurons of a layer, [rows, n], or of one, [n]."""
        constant = self.constants[layer][rows]
        return self.from_kept[layer][rows] + constant[..., None]


def _curve(
    engine: RankOneEngine, chunk: Chunk, order: Array, clamp: Array
) -> tuple[_Curve, Array]:
    """Numbers the neurons; also returns the chunk's total in these numbers."""
    chain, layers = engine.chain, engine.layers
    lowest, total = layers[0], chunk.total
    steps = steps_of_neurons(order, chain.num_neurons)
    kernels = {layer: affine.kernel for layer, affine in chunk.maps.items()}
    biases = {layer: affine.bias for layer, affine in chunk.maps.items()}
    parameters = {layer: affine.parameters for layer, affine in chunk.maps.items()}
    old_of_new = []
    for layer, where in enumerate(chain.layer_slices):
        if layer <= lowest:
            old_of_new.append(jnp.arange(where.start, where.stop))
            continue
        first = jnp.argsort(-steps[where])
        old_of_new.append(where.start + first)
        kernels[layer] = kernels[layer][:, first]
        kernels[layer + 1] = kernels[layer + 1][first]
        biases[layer] = biases[layer][first]
        parameters[layer] = tuple(array[first] for array in parameters[layer])
        if layer == lowest + 1:
            total = total[first]
    old_of_new = jnp.concatenate(old_of_new)
    clamps, order = clamp[order], jnp.argsort(old_of_new)[order]
    layer_at = jnp.asarray(chain.layer_of_neuron)[order]
    first_of_layer = jnp.array([where.start for where in chain.layer_slices])
    row_at = order - first_of_layer[layer_at]
    points = jnp.arange(len(order))
    constants, anew = {}, {}
    for layer in range(lowest, chain.num_layers):
        below = jnp.where(order < chain.layer_slices[layer].start, points, 0)
        anew[layer + 1] = jnp.pad(jax.lax.cummax(below), (1, 0))
        rows, within = rows_of(chain, order, layer)
        terms = jnp.where(within, clamps, 0)[:, None] * kernels[layer + 1][rows]
        clamped = jnp.pad(jnp.cumsum(terms, axis=0), ((1, 0), (0, 0)))
        constants[layer + 1] = biases[layer + 1] + clamped
    curve = _Curve(
        chain,
        layers,
        kernels,
        parameters,
        constants,
        chunk.outputs,
        jnp.append(layer_at, lowest),
        jnp.append(row_at, len(kernels[lowest + 1])),
        steps[old_of_new],
        anew,
        engine.scorer,
        chunk.labels,
    )
    return curve, total


def _start(curve: _Curve, chunk: Chunk, order: Array) -> _State:
    """One past the last point.

    Going on from here restores no neuron, and computes what lies above the lowest
    layer's sums: the last point needs no program of its own.
    """
    chain, lowest = curve.chain, curve.layers[0]
    kernel = curve.kernels[lowest + 1]
    others = sum_over_others(chain, kernel, chunk, *rows_of(chain, order, lowest))
    from_kept = {
        layer: jnp.zeros((curve.constants[layer].shape[1], others.shape[1]))
        for layer in range(lowest + 2, chain.num_layers + 1)
    }
    constants = _constants_at(curve, jnp.int32(len(order)))
    past = jnp.int32(len(order) + 1)
    return _State(past, constants, {lowest + 1: others, **from_kept})


def _constants_at(curve: _Curve, point: Array) -> dict[int, Array]:
    return {layer: rows[point] for layer, rows in curve.constants.items()}


def _from_kept(curve: _Curve, state: _State, layer: int) -> Array:
    """What a layer's kept neurons give the next layer, [w, n]."""
    chain, slices = curve.chain, curve.chain.layer_slices
    kept = curve.steps >= state.point

    def outputs(rows: int) -> Array:
        """Of this layer's first neurons, 0 where they are ablated."""
        raw = curve.activated(state, layer, slice(rows))
        return jnp.where(kept[slices[layer]][:rows, None], raw, 0)

    is_last = layer == chain.num_layers - 1
    # The sums are read until they are computed anew, by then for more neurons.
    restored = curve.steps > curve.anew[layer + 1][state.point]
    needed = chain.num_classes if is_last else jnp.sum(restored[slices[layer + 1]])
    num_kept = jnp.sum(kept[slices[layer]])
    return _kept_product(chain, curve.kernels[layer + 1], outputs, num_kept, needed)


def _from_neuron(curve: _Curve, state: _State, layer: int, row: Array) -> Array:
    """What a neuron gives the next layer, [w, n]: a matrix of rank one."""
    kernel = curve.kernels[layer + 1]
    if layer > curve.layers[0]:
        return kernel[row][:, None] * curve.activated(state, layer, row)
    weights, outputs = (
        array.at[row].get(mode="fill", fill_value=0)  # past the end: of no neuron
        for array in (kernel, curve.outputs)
    )
    return weights[:, None] * outputs


def _restore_in_last(curve: _Curve, state: _State, scores) -> tuple[_State, Any]:
    """Restores neurons for as long as they are in the last layer.

    Takes and returns the scores of this point and those after it.
    """
    last = curve.chain.num_layers - 1
    if last not in curve.layers:
        return state, scores
    in_last = curve.layer_at == last

    class Top(NamedTuple):  # what such a step changes; it would copy the rest
        point: Array
        from_kept: Array
        scores: Sums

    def goes_on(top):
        return (top.point > 1) & in_last[top.point - 1]

    def restore(top):
        point = top.point - 1
        from_kept = top.from_kept + _from_neuron(
            curve, state, last, curve.row_at[point]
        )
        logits = from_kept + curve.constants[last + 1][point][:, None]
        return Top(point, from_kept, _record(curve, point, logits, top.scores))

    top = Top(state.point, state.from_kept[last + 1], scores)
    point, from_kept, scores = jax.lax.while_loop(goes_on, restore, top)
    from_kept = state.from_kept | {last + 1: from_kept}
    return _State(point, _constants_at(curve, point), from_kept), scores


def _restore_below(curve: _Curve, state: _State, scores) -> tuple[_State, Any]:
    """Restores a neuron below the last layer, and then those in the last."""
    lower = [layer for layer in curve.layers if layer < curve.chain.num_layers - 1]
    point = state.point - 1
    # The neuron's own layer has the same constants at both points.
    state = _State(point, _constants_at(curve, point), state.from_kept)
    state = jax.lax.switch(
        jnp.searchsorted(jnp.asarray(lower), curve.layer_at[point]),
        [partial(_restore_in, curve, layer) for layer in lower],
        state,
        curve.row_at[point],
    )
    logits = state.pre_activations(curve.chain.num_layers)
    return _restore_in_last(curve, state, _record(curve, point, logits, scores))


def _restore_in(curve: _Curve, layer: int, state: _State, row: Array) -> _State:
    """Restores a neuron of a layer below the last, and computes the layers above."""
    new = state.from_kept[layer + 1] + _from_neuron(curve, state, layer, row)
    from_kept = state.from_kept | {layer + 1: new}
    for above in range(layer + 1, curve.chain.num_layers):
        state = state._replace(from_kept=from_kept)
        from_kept = from_kept | {above + 1: _from_kept(curve, state, above)}
    return state._replace(from_kept=from_kept)


def _record(curve: _Curve, point: Array, logits: Array, scores: Sums) -> Sums:
    """The scores with those of a point, 1 or later."""
    return jax.tree.map(
        lambda whole, one: whole.at[point - 1].set(one),
        scores,
        curve.scorer.score(logits, curve.labels, quick_exp),
    )


def _kept_product(
    chain: AffineChain, kernel: Array, inputs, num_inputs, num_outputs
) -> Array:
    """A product of which only some inputs are not 0 and some outputs matter.

    Args:
        chain: the network.
        kernel: [v, w].
        inputs: a function of a number of rows: the first of the inputs [v, n].
        num_inputs: the inputs from here on are 0.
        num_outputs: the outputs from here on may be anything.

    Returns:
        [w, n].
    """
    v, w = kernel.shape
    rows, columns = _block(v), _block(w)

    def product(stop):
        outer = inputs(stop)
        if columns == w:
            return chain.multiply(kernel[:stop].T, outer)

        def block(index, outputs):
            start = jnp.minimum(index * columns, w - columns)
            some = jax.lax.dynamic_slice_in_dim(kernel[:stop], start, columns, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(
                outputs, chain.multiply(some.T, outer), start, axis=0
            )

        zeros = jnp.zeros((w, outer.shape[1]))
        return jax.lax.fori_loop(0, -(-num_outputs // columns), block, zeros)

    stops = [*range(rows, v, rows), v]
    return jax.lax.switch(
        jnp.maximum(num_inputs - 1, 0) // rows,
        [partial(product, stop) for stop in stops],
    )


# Rows of a kernel's block: a finer one leaves more out, and is slower for what it does.
_BLOCK = 16


def _block(width: int) -> int:
    """Rows in one of at most eight blocks of a layer."""
    return min(width, max(_BLOCK, -(-width // 8)))


def rank_one_engine(
    network: Network,
    chain: AffineChain,
    layers: tuple[int, ...],
    scorer: Scorer,
    x: Any,
    memory_gb: float,
) -> RankOneEngine:
    """An ablated example holds three copies of all above the lowest layer."""
    above = (*chain.widths[layers[0] :], chain.num_classes)
    below = examples_below(network, x, memory_gb / 2)
    most = min(below, max(256, FLOATS_PER_STEP // max(above)))
    ablated = number_that_fits(memory_gb / 2, 3 * sum(above), most)
    sizes = ExamplesAtOnce(below, ablated)
    return RankOneEngine(network, chain, layers, scorer, sizes)
