"""Orders or masks become evaluations: accuracy and loss of ablated networks.

Two ways to the same figures:

* ``evaluate_masks`` takes any masks and runs the network for each, as a ``vmap`` over
  masks: the reference. What lies below the first layer that a mask touches is computed
  once, not once per mask.
* ``ablation_curve`` takes orders. Between two steps of a cumulative ablation one neuron
  changes, so the next layer's pre-activations change by a rank-one term and nothing
  below them changes at all: a curve costs one forward pass, then per step a rank-one
  update and the layers above it. Arrays are feature-major, [width, n].

Both stream over chunks of examples and bound their memory by a budget; correct counts
do not depend on it. A prediction is the first greatest logit.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.mlp import ACTIVATIONS, MLP, Ablation, folded_layers
from ioca_jax.orderings import checked_neurons
from ioca_jax.streaming import SEEN, fold_examples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well ablated networks classify; a leading axis for each mask or step.

    Attributes:
        correct: int32 [..., C], examples classified correctly, by true class.
        loss: float32 [...], mean cross-entropy, nats.
        num_examples: N.
    """

    correct: Int[Array, "*batch C"]
    loss: Float[Array, "*batch"]
    num_examples: int = dataclasses.field(metadata={"static": True})

    @property
    def accuracy(self) -> Float[Array, "*batch"]:
        """Share of all examples classified correctly, float32 [...]."""
        return self.correct.sum(axis=-1) / jnp.float32(self.num_examples)


def evaluate_masks(
    model: MLP,
    variables: Any,
    masks: Bool[ArrayLike, "*masks H"],
    clamp: Float[ArrayLike, "*clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    *,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates a network under each of many masks.

    Args:
        model: the network's shape.
        variables: the variables of one network (``vmap`` for several).
        masks: bool [..., H]; True keeps a neuron, False ablates it.
        clamp: float32 [H], or [..., H] broadcast against ``masks``: the constant output
            of ablated neurons.
        x: float32 [N, D] images.
        y: int32 [N] classes.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The evaluation, with the leading axes of ``masks``.

    Raises:
        ValueError: arrays whose shapes do not fit the network or each other.
    """
    x, y = _checked_examples(x, y)
    _check_last_axis("masks", masks, model.num_neurons, "bool")
    clamp = _checked_clamp(clamp, model)
    shape = jnp.broadcast_shapes(jnp.shape(masks), clamp.shape)
    lowest = _lowest_ablated_layer(model, masks)
    flat_masks, flat_clamps = (
        jnp.broadcast_to(jnp.asarray(array), shape).reshape(-1, shape[-1])
        for array in (masks, clamp)
    )
    # Beside two copies of the widest upper layer for each mask and example, one of the
    # logits; and per example, the layers up to the lowest that is ablated.
    above = (*model.hidden[lowest:], model.num_classes)
    floats_per_cell = 2 * max(above) + 2 * model.num_classes
    examples = _chunk_of_examples(memory_gb, x, model, floats_per_cell)
    masks_at_once = _fit(memory_gb / 2, floats_per_cell * examples, len(flat_masks))
    correct, loss = _evaluate_masks(
        model, variables, flat_masks, flat_clamps, x, y, lowest, examples, masks_at_once
    )
    return Evaluation(
        correct.reshape(*shape[:-1], -1), loss.reshape(shape[:-1]), len(y)
    )


@partial(jax.jit, static_argnames=("model", "lowest", "examples", "masks_at_once"))
def _evaluate_masks(
    model, variables, masks, clamps, x, y, lowest, examples, masks_at_once
):
    """Sums over examples for masks [M, H], in chunks of both."""

    def chunk(carry, x_chunk, y_chunk):
        _, activations = model.apply(variables, x_chunk)
        raw = activations[:, model.layer_slices[lowest]]

        def one_mask(mask_and_clamp):
            ablation = Ablation(*mask_and_clamp)
            logits, _ = model.apply(variables, lowest, raw, ablation, method="above")
            return _score(logits.T, y_chunk)

        sums = jax.lax.map(one_mask, (masks, clamps), batch_size=masks_at_once)
        return jax.tree.map(jnp.add, carry, sums)

    zeros = _zero_score(model, len(masks))
    correct, loss = fold_examples(chunk, zeros, x, y, chunk_size=examples)
    return correct, loss / len(y)


def ablation_curve(
    model: MLP,
    variables: Any,
    order: Int[ArrayLike, "*orders K"],
    clamp: Float[ArrayLike, "*clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    *,
    layers: Sequence[int] | None = None,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates a network while neurons are ablated one after another.

    Gives the figures of ``evaluate_masks`` for ``cumulative_masks(order)``, by rank-one
    updates.

    Args:
        model: the network's shape.
        variables: the variables of one network (``vmap`` for several).
        order: int32 [K], or [..., K] for several curves, neuron indices.
        clamp: float32 [H], or [..., H] broadcast against ``order``: the constant output
            of ablated neurons.
        x: float32 [N, D] images.
        y: int32 [N] classes.
        layers: the layers, counted from 0, that the orders touch. None looks at the
            orders; while they are traced, it takes all layers, which costs time.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The evaluation [..., K+1]: point k has the first k neurons ablated.

    Raises:
        ValueError: an order with indices out of range or twice, or arrays whose shapes
            do not fit the network or each other.
    """
    x, y = _checked_examples(x, y)
    layers = _layers_of_order(model, order) if layers is None else tuple(layers)
    order = checked_neurons(order, model.num_neurons)
    clamp = _checked_clamp(clamp, model)
    shape = jnp.broadcast_shapes(order.shape[:-1], clamp.shape[:-1])
    orders = jnp.broadcast_to(order, (*shape, order.shape[-1]))
    clamps = jnp.broadcast_to(clamp, (*shape, model.num_neurons))
    floats_per_example = 3 * (sum(model.hidden) + model.num_classes)
    examples = _chunk_of_examples(memory_gb, x, model, floats_per_example)
    correct, loss = _ablation_curves(
        model,
        variables,
        orders.reshape(-1, order.shape[-1]),
        clamps.reshape(-1, model.num_neurons),
        x,
        y,
        layers,
        examples,
    )
    points = order.shape[-1] + 1
    return Evaluation(
        correct.reshape(*shape, points, -1), loss.reshape(*shape, points), len(y)
    )


@partial(jax.jit, static_argnames=("model", "layers", "examples"))
def _ablation_curves(model, variables, orders, clamps, x, y, layers, examples):
    """Sums over examples for orders [M, K]; ``layers`` is those they may touch."""
    affine = folded_layers(model, variables)
    activation = ACTIVATIONS[model.activation]
    lowest, slices = layers[0], model.layer_slices

    def matmul(kernel, inputs):
        """Feature-major: [w, n] to [w', n]."""
        return jnp.matmul(kernel.T, inputs, precision=model.matmul_precision)

    def upwards(layer, states, kept, clamp):
        """Recomputes the pre-activations above those of ``layer``."""
        states = list(states)
        for index in range(layer, model.num_layers):
            where = slices[index]
            outputs = activation(states[index - lowest])
            outputs = jnp.where(kept[where, None], outputs, clamp[where, None])
            states[index + 1 - lowest] = (
                matmul(affine[index + 1].kernel, outputs)
                + affine[index + 1].bias[:, None]
            )
        return tuple(states)

    def ablate_in(layer):
        """The step for a neuron of ``layer``."""

        def branch(states, kept, neuron, clamp):
            row = neuron - slices[layer].start
            before = activation(states[layer - lowest][row])
            weights = affine[layer + 1].kernel[row]
            states = list(states)
            states[layer + 1 - lowest] += weights[:, None] * (clamp[neuron] - before)
            return upwards(layer + 1, states, kept, clamp)

        return branch

    branches = [ablate_in(layer) for layer in layers]
    branch_of_neuron = jnp.asarray(np.searchsorted(layers, model.layer_of_neuron))

    def chunk(carry, x_chunk, y_chunk):
        hidden = x_chunk.T
        for index in range(lowest):
            hidden = activation(
                matmul(affine[index].kernel, hidden) + affine[index].bias[:, None]
            )
        first = matmul(affine[lowest].kernel, hidden) + affine[lowest].bias[:, None]
        intact = jnp.ones(model.num_neurons, bool)
        states = (first, *[None] * (model.num_layers - lowest))
        states = upwards(lowest, states, intact, jnp.zeros(model.num_neurons))

        def curve(order_and_clamp):
            order, clamp = order_and_clamp

            def step(carry, neuron):
                states, kept = carry
                kept = kept.at[neuron].set(False)
                states = jax.lax.switch(
                    branch_of_neuron[neuron], branches, states, kept, neuron, clamp
                )
                return (states, kept), _score(states[-1], y_chunk)

            _, scores = jax.lax.scan(step, (states, intact), order)
            return scores

        after = jax.lax.map(curve, (orders, clamps))
        before = _score(states[-1], y_chunk)
        sums = jax.tree.map(
            lambda a, b: jnp.concatenate(
                [jnp.broadcast_to(b, (len(a), 1, *b.shape)), a], axis=1
            ),
            after,
            before,
        )
        return jax.tree.map(jnp.add, carry, sums)

    zeros = _zero_score(model, len(orders), orders.shape[1] + 1)
    correct, loss = fold_examples(chunk, zeros, x, y, chunk_size=examples)
    return correct, loss / len(y)


def _score(logits: Float[Array, "C n"], y: Int[Array, " n"]) -> tuple[Array, Array]:
    """Correct by class, int32 [C], and the sum of cross-entropies."""
    classes = jnp.arange(len(logits))[:, None]
    is_label = y == classes
    hits = is_label & (jnp.argmax(logits, axis=0) == classes)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(y, 0), axis=0
    )
    return (
        hits.sum(axis=1, dtype=jnp.int32),
        jnp.sum(jnp.where(y == SEEN, 0, losses)),
    )


def _zero_score(model: MLP, *leading: int) -> tuple[Array, Array]:
    return (
        jnp.zeros((*leading, model.num_classes), jnp.int32),
        jnp.zeros(leading),
    )


def _lowest_ablated_layer(model: MLP, masks: ArrayLike) -> int:
    """The first layer that a mask touches; 0 where that is not known yet."""
    if isinstance(masks, Tracer):
        return 0
    ablated = ~np.asarray(masks).reshape(-1, model.num_neurons).all(axis=0)
    touched = model.layer_of_neuron[ablated]
    return int(touched.min()) if touched.size else model.num_layers - 1


def _layers_of_order(model: MLP, order: ArrayLike) -> tuple[int, ...]:
    """The layers that an order touches; all where that is not known yet."""
    if isinstance(order, Tracer):
        return tuple(range(model.num_layers))
    neurons = np.asarray(checked_neurons(order, model.num_neurons))
    touched = np.unique(model.layer_of_neuron[neurons.ravel()]).tolist()
    return tuple(touched) or (model.num_layers - 1,)


def _chunk_of_examples(memory_gb, x, model, floats_per_cell) -> int:
    """Examples at once: within half the budget, and no more than caches like."""
    below = x.shape[1] + 2 * max(model.hidden)
    return _fit(memory_gb / 2, below + floats_per_cell, min(len(x), 1000))


def _fit(memory_gb: float, floats: int, most: int) -> int:
    """How many times ``floats`` float32 fit into a budget: at least 1."""
    return max(1, min(most, int(memory_gb * 1e9 / (4 * floats))))


def _checked_examples(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(y):
        raise ValueError(
            "expected images x [N, D] and classes y [N] with N at least 1, got shapes "
            f"{list(x.shape)} and {list(y.shape)}"
        )
    return x, y


def _checked_clamp(clamp: ArrayLike, model: MLP) -> Array:
    _check_last_axis("clamp", clamp, model.num_neurons, "float32")
    return jnp.asarray(clamp, jnp.float32)


def _check_last_axis(name: str, array: ArrayLike, num_neurons: int, dtype: str):
    shape = jnp.shape(array)
    if not shape or shape[-1] != num_neurons:
        raise ValueError(
            f"{name}: expected {dtype} [..., {num_neurons}], a value for each hidden "
            f"neuron, got shape {list(shape)}"
        )
