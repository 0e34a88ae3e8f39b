"""What the engines for affine layers share: chunks of examples, and sums over neurons.

Arrays are feature-major, [width, n]. A curve is computed from its end: neurons are
restored, the last one ablated first. A sum over the kept neurons then only gains terms.
Taking terms out would leave their rounding behind, and an infinite output would leave
NaN.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.evaluation import score_logits, zero_scores
from ioca_jax.batching import fold_examples, number_that_fits
from ioca_jax.networks.mlp import (
    MLP,
    Affine,
    activate,
    folded_layers,
    multiply,
    pre_activations,
)


class Chunk(NamedTuple):
    """What all curves of some examples begin from; arrays are feature-major.

    Attributes:
        affine: the network's maps.
        outputs: float32 [v, n], of the lowest ablated layer.
        total: float32 [w, n], its product with the kernel above, without the bias.
        size: float32 [n], at least the sum of the absolute terms of any of its rows.
        intact: the scores of the intact network.
        y: int32 [n] labels.
    """

    affine: tuple[Affine, ...]
    outputs: Array
    total: Array
    size: Array
    intact: tuple[Array, Array]
    y: Array


class ExamplesAtOnce(NamedTuple):
    """Examples whose images are looked at together, and of these those ablated so."""

    images: int
    ablated: int


@runtime_checkable
class CurveEngine(Protocol):
    """Computes curves of one network whose layers are affine maps."""

    @property
    def model(self) -> MLP:
        """The network."""
        ...

    @property
    def sizes(self) -> ExamplesAtOnce:
        """Examples at once."""
        ...

    def curve(self, chunk: Chunk, order: Array, clamp: Array) -> tuple[Array, Array]:
        """One order [K]: correct [K, C] and summed losses [K], points 1 to K."""
        ...


def sum_curves(engine: CurveEngine, lowest: int, arrays, x, y):
    """Sums over examples, one network after another, each with orders of its own.

    Images are many inputs, so a copy of a chunk of them costs more than its outputs do:
    as many as the budget allows go through the lower layers at once.
    """
    model, sizes = engine.model, engine.sizes

    def of_network(network):
        variables, orders, clamps = network
        affine = folded_layers(model, variables)

        def images(carry, x_chunk, y_chunk):
            outputs = x_chunk  # example-major: images are read as they lie
            for kernel, bias in affine[: lowest + 1]:
                outputs = activate(model, multiply(model, outputs, kernel) + bias)
            # Or the product would be laid out for the transpose below: slower.
            outputs = jax.lax.optimization_barrier(outputs)
            return fold_examples(
                ablated, carry, outputs, y_chunk, chunk_size=sizes.ablated
            )

        def ablated(carry, outputs, y_chunk):
            chunk = _chunk(model, lowest, affine, outputs.T, y_chunk)
            sums = _score_chunk(engine, chunk, orders, clamps)
            return jax.tree.map(jnp.add, carry, sums)

        zeros = zero_scores(model.num_classes, len(orders), orders.shape[1] + 1)
        return fold_examples(images, zeros, x, y, chunk_size=sizes.images)

    return jax.lax.map(of_network, arrays)


def _score_chunk(engine: CurveEngine, chunk: Chunk, orders: Array, clamps: Array):
    """Scores [M, K+1, ...] of a chunk of examples: intact, then the order's points."""

    def curve(order_and_clamp):
        return jax.tree.map(
            lambda first, others: jnp.concatenate([first[None], others]),
            chunk.intact,
            engine.curve(chunk, *order_and_clamp),
        )

    return jax.lax.map(curve, (orders, clamps))


def _chunk(model: MLP, lowest: int, affine, outputs: Array, y: Array) -> Chunk:
    """Runs the intact network from the lowest ablated layer's outputs on."""
    kernel, bias = affine[lowest + 1]
    total = multiply(model, kernel.T, outputs)
    z = total + bias[:, None]
    for layer in affine[lowest + 2 :]:
        z = pre_activations(model, layer, activate(model, z))
    size = jnp.abs(kernel).max(axis=1) @ jnp.abs(outputs)
    return Chunk(affine, outputs, total, size, score_logits(z, y), y)


# The terms taken from a sum may be as large as this share of all its terms: of the 24
# binary digits of what is left, up to 4 are lost.
_MOST_TAKEN = 15 / 16


def sum_over_others(
    model: MLP, kernel: Array, chunk: Chunk, rows: Array, within: Array
) -> Array:
    """What the lowest layer's other neurons give the layer above, [w, n].

    Few ablated neurons are taken from the total, unless that loses too many digits.

    Args:
        model: the network's shape.
        kernel: [v, w] of the layer above.
        chunk: the examples; its ``total`` goes with the kernel.
        rows: int32 [K], the rows of the neurons ablated.
        within: bool [K], whether they are in the lowest layer.
    """
    width = len(kernel)
    rows = jnp.where(within, rows, width)

    others = jnp.ones(width, bool).at[rows].set(False, mode="drop")

    def product():
        return multiply(model, kernel.T, jnp.where(others[:, None], chunk.outputs, 0))

    if 4 * len(rows) > width:
        zeros = jnp.zeros_like(chunk.total)
        return jax.lax.cond(others.any(), product, lambda: zeros)
    taken = [
        array.at[rows].get(mode="fill", fill_value=0)
        for array in (kernel, chunk.outputs)
    ]
    rest = chunk.total - multiply(model, taken[0].T, taken[1])
    size = jnp.abs(taken[0]).max(axis=1) @ jnp.abs(taken[1])
    keeps_digits = (size <= _MOST_TAKEN * chunk.size) & jnp.isfinite(chunk.size)
    return jax.lax.cond(keeps_digits.all(), lambda: rest, product)


def rows_of(model: MLP, order: Array, layer: int) -> tuple[Array, Array]:
    """Where an order's neurons lie in a layer, [K], and whether they do; 0 if not."""
    where = model.layer_slices[layer]
    within = (order >= where.start) & (order < where.stop)
    return jnp.where(within, order - where.start, 0), within


def steps_of_neurons(order: Array, num_neurons: int) -> Array:
    """The step [H] that ablates each neuron; K where none does."""
    steps = jnp.arange(len(order))
    return jnp.full(num_neurons, len(order)).at[order].set(steps, unique_indices=True)


def inputs_at_once(
    model: MLP, lowest: int, num_examples: int, num_inputs: int, memory_gb: float
) -> int:
    """A copy of the image, and two of the lower layers' outputs."""
    lower = 2 * sum(model.hidden[: lowest + 1])
    return number_that_fits(memory_gb, num_inputs + lower, num_examples)
