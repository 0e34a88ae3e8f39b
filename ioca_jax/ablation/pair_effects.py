"""What ablating two neurons costs beyond the sum of the single costs.

Positive is redundancy, negative synergy. Cross-entropy is convex in the logits, so
effects in loss are slightly positive even for unrelated neurons.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.budget import FLOATS_PER_STEP
from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.evaluation import right_and_losses
from ioca_jax.batching import IGNORE_LABEL, fold_examples
from ioca_jax.checks import (
    check_clamp,
    check_examples,
    check_memory,
    checked_groups,
)
from ioca_jax.devices import sum_over_examples
from ioca_jax.networks.mlp import (
    MLP,
    activate,
    folded_layers,
    multiply,
    pre_activations,
)


class PairEffects(NamedTuple):
    """What two ablations cost together beyond what they cost one by one.

    ``D(i,j) - D(i) - D(j)``, D being what an ablation costs: accuracy lost, or loss
    gained. Positive: the two stand in for each other, and only ablating both is felt,
    as of copies: redundancy. Negative: either one gone, the other is worth less, as of
    the inputs of an XOR: synergy.

    Cross-entropy is convex in the logits: two harms that have nothing to do with each
    other add up to a little more than their sum. So a small positive mean in loss is no
    redundancy yet; compare pairs with pairs.

    Attributes:
        accuracy: float32 [..., w, w] or [..., P], share of accuracy, in [-2, 2].
        loss: the same in mean cross-entropy, nats.
        accuracy_alone: float32 [..., w] or [..., P, 2], ``D(i)`` in accuracy, share.
        loss_alone: the same in mean cross-entropy, nats.
    """

    accuracy: Float[Array, "*batch"]
    loss: Float[Array, "*batch"]
    accuracy_alone: Float[Array, "*single"]
    loss_alone: Float[Array, "*single"]


def pair_effects(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    layer: int,
    *,
    memory_gb: float = 1.0,
) -> PairEffects:
    """Ablates every pair of neurons of a layer, of many networks.

    Two ablations in a layer change the next layer's pre-activations by two rank-one
    terms, so a pair costs what lies above that; in the last hidden layer that is the
    score alone. Each pair is looked at once. Losses are subtracted example by example,
    before they are summed: their difference is far less than they are.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        clamp: float32 [S, ..., H]: the constant output of ablated neurons.
        x: float32 [N, D] images.
        y: int32 [N] classes.
        layer: a hidden layer, counted from 0, of width w.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The effects [S, ..., w, w], symmetric, NaN on the diagonal, and those of each
        neuron alone [S, ..., w].

    Raises:
        ValueError: a layer that is not there, a budget that is not positive, or arrays
            whose shapes do not fit the network or each other.
    """
    if not 0 <= layer < model.num_layers:
        raise ValueError(
            f"layer: expected a hidden layer from 0 to {model.num_layers - 1}, got "
            f"{layer}"
        )
    x, y, clamp = checked_network(model, clamp, x, y)
    check_memory(memory_gb)
    width, num_examples = model.hidden[layer], len(y)
    above = (*model.hidden[layer + 1 :], model.num_classes)
    inputs = x.shape[1] + 2 * sum(model.hidden[:layer])
    held = inputs + 4 * width + 3 * sum(above)
    most = min(num_examples, max(256, FLOATS_PER_STEP // max(above)))
    examples = max(1, min(most, int(memory_gb * 1e9 / (4 * held))))
    clamps = clamp.reshape(clamp.shape[0], -1, clamp.shape[-1])
    engine = _PairEngine(model, layer, examples)
    sums = sum_over_examples(engine, (variables, clamps), x, y)
    right, loss, right_alone, loss_alone, right_intact = sums
    costs_alone = right_intact[..., None] - right_alone
    costs = (right_intact[..., None, None] - right).astype(jnp.float32)
    apart = costs_alone[..., :, None] + costs_alone[..., None, :]
    later = jnp.triu(jnp.ones((width, width), bool), 1)

    def both_ways(upper: Array) -> Array:
        upper = jnp.where(later, upper / num_examples, 0)
        whole = upper + jnp.swapaxes(upper, -1, -2)
        whole = jnp.where(jnp.eye(width, dtype=bool), jnp.nan, whole)
        return whole.reshape(*clamp.shape[:-1], width, width)

    return PairEffects(
        both_ways(costs - apart),
        both_ways(loss),
        (costs_alone / num_examples).reshape(*clamp.shape[:-1], width),
        (loss_alone / num_examples).reshape(*clamp.shape[:-1], width),
    )


# Beyond about this many floats in an array that each step rewrites, caches are left.


class _PairEngine(NamedTuple):
    """Sums over examples for all pairs i < j of a layer, of networks and clamps."""

    model: MLP
    layer: int
    examples: int

    def __call__(self, arrays, x, y):
        def of_network(network):
            variables, clamps = network
            affine = folded_layers(self.model, variables)
            return jax.lax.map(
                lambda clamp: self._all_pairs(affine, clamp, x, y), clamps
            )

        return jax.lax.map(of_network, arrays)

    def _all_pairs(self, affine, clamp, x, y):
        model = self.model
        width = model.hidden[self.layer]
        clamp = clamp[model.layer_slices[self.layer]]
        kernel = affine[self.layer + 1].kernel  # [w, next]

        def chunk(carry, x_chunk, y_chunk):
            outputs = x_chunk
            for weights, bias in affine[: self.layer + 1]:
                outputs = activate(model, multiply(model, outputs, weights) + bias)
            outputs = jax.lax.optimization_barrier(outputs).T  # [w, n]
            change = clamp[:, None] - outputs
            intact = pre_activations(model, affine[self.layer + 1], outputs)

            def without(inputs, neuron):
                return inputs + kernel[neuron][:, None] * change[neuron]

            def scored(inputs):
                for weights in affine[self.layer + 2 :]:
                    inputs = pre_activations(model, weights, activate(model, inputs))
                right, losses = right_and_losses(inputs, y_chunk)
                return jnp.sum(
                    right & (y_chunk != IGNORE_LABEL), dtype=jnp.int32
                ), losses

            def alone(neuron):
                return scored(without(intact, neuron))

            right_intact, losses_intact = scored(intact)
            right_alone, losses_alone = jax.lax.map(alone, jnp.arange(width))
            gains = jnp.where(y_chunk == IGNORE_LABEL, 0, losses_alone - losses_intact)

            def of_first(first, sums):
                inputs = without(intact, first)
                fixed = losses_intact + gains[first]

                def of_second(second, sums):
                    right, losses = scored(without(inputs, second))
                    beyond = jnp.where(
                        y_chunk == IGNORE_LABEL, 0, losses - fixed - gains[second]
                    )
                    return (
                        sums[0].at[second].add(right),
                        sums[1].at[second].add(beyond.sum()),
                    )

                rows = (sums[0][first], sums[1][first])
                rows = jax.lax.fori_loop(first + 1, width, of_second, rows)
                return tuple(
                    whole.at[first].set(row)
                    for whole, row in zip(sums, rows, strict=True)
                )

            right, loss, *single = carry
            right, loss = jax.lax.fori_loop(0, width, of_first, (right, loss))
            found = (right_alone, gains.sum(axis=1), right_intact)
            return (right, loss, *jax.tree.map(jnp.add, tuple(single), found))

        zeros = (
            jnp.zeros((width, width), jnp.int32),
            jnp.zeros((width, width)),
            jnp.zeros(width, jnp.int32),
            jnp.zeros(width),
            jnp.zeros((), jnp.int32),
        )
        return fold_examples(chunk, zeros, x, y, chunk_size=self.examples)


def chosen_pair_effects(
    model: MLP,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    pairs: Int[ArrayLike, "P 2"],
    *,
    memory_gb: float = 1.0,
) -> PairEffects:
    """Ablates chosen pairs of neurons, of any layers, of many networks.

    Each pair is two orders of two steps, either one first.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        clamp: float32 [S, ..., H]: the constant output of ablated neurons.
        x: float32 [N, D] images.
        y: int32 [N] classes.
        pairs: int32 [P, 2] neurons.
        memory_gb: as in ``ablation_curves``.

    Returns:
        The effects [S, ..., P], and those of the two alone [S, ..., P, 2].

    Raises:
        ValueError: pairs out of range or of one neuron, or as ``ablation_curves``.
    """
    x, y, clamp = checked_network(model, clamp, x, y)
    pairs = checked_groups("pairs", pairs, model.num_neurons, size=2)
    orders = jnp.stack([pairs, pairs[:, ::-1]], axis=1)  # [P, 2, 2]
    leading = (clamp.shape[0], *[1] * (clamp.ndim - 2))
    found = ablation_curves(
        model,
        variables,
        jnp.broadcast_to(orders, (*leading, *orders.shape)),
        clamp[..., None, None, :],
        x,
        y,
        layers=tuple(np.unique(model.layer_of_neuron[np.asarray(pairs)]).tolist())
        if not isinstance(pairs, Tracer)
        else None,
        memory_gb=memory_gb,
    )
    right = found.correct.sum(axis=-1)
    effects = []
    for cost in (
        (right[..., :1] - right) / jnp.float32(len(y)),
        found.loss - found.loss[..., :1],
    ):
        alone, both = cost[..., 1], cost[..., 0, 2]
        effects.append((both - alone.sum(axis=-1), alone))
    (accuracy, accuracy_alone), (loss, loss_alone) = effects
    return PairEffects(accuracy, loss, accuracy_alone, loss_alone)


def checked_network(
    model: MLP, clamp: ArrayLike, x: ArrayLike, y: ArrayLike
) -> tuple[Array, Array, Array]:
    """The network's inputs as arrays, refused unless they fit it."""
    check_examples(x, y, model.num_classes)
    check_clamp(clamp, model.num_neurons)
    if np.ndim(clamp) < 2:
        raise ValueError(
            f"clamp: expected float32 [S, ..., {model.num_neurons}], a value for each "
            f"hidden neuron of each network, got shape {list(np.shape(clamp))}"
        )
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    return x, y, jnp.asarray(clamp, jnp.float32)
