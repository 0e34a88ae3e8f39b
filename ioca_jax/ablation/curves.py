"""Orders or masks become evaluations: accuracy and loss of ablated networks.

Engines that give the same figures:

* ``masks`` takes any masks and runs the network for each, as a ``vmap`` over masks: the
  reference, ``evaluate_masks``. What lies below the first layer that a mask touches is
  computed once, not once per mask.
* ``rank_one`` takes orders, ``ablation_curve``. Between two points of a cumulative
  ablation one neuron changes, so the next layer's pre-activations change by a rank-one
  term and nothing below them changes at all: a curve costs one forward pass, then per
  point a rank-one update and the layers above it. In the last hidden layer that is an
  update of the logits alone, so those points run in a loop of their own that carries
  nothing else. Above, ablated neurons are left out of the products: the neurons of a
  layer are numbered by how long they are kept, and only leading blocks of kernels are
  multiplied.
* ``prefix_sums`` takes orders too, and many points at once, for devices on which a loop
  of small steps is launch-bound: the rank-one terms of a block of points are summed by
  one product.

In the last two, arrays are feature-major, [width, n], and a curve is computed from its
end: neurons are restored, the last one ablated first. A sum over the kept neurons then
only gains terms. Taking terms out would leave their rounding behind, and an infinite
output would leave NaN.

All engines stream over chunks of examples, bound their memory by a budget, and spread
the examples over this host's devices. A prediction is the first greatest logit. Equal
logits are decided alike by every engine and for every budget where they are equal
exactly, as where all outputs of a layer are 0; logits that differ by no more than the
rounding of their sums may be ordered either way.

Rounding: a layer's sum gains at most one term for each neuron of the layer beneath,
with an error of about ``6e-8 sqrt(width)`` of its size at that point.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Num

from ioca_jax.ablation.orderings import checked_neurons, cumulative_masks
from ioca_jax.batching import SEEN, fold_examples
from ioca_jax.checks import check_clamp, check_examples, check_keep, is_known
from ioca_jax.devices import device_mesh, sum_over_examples
from ioca_jax.networks.mlp import (
    MLP,
    Affine,
    activate,
    check_variables,
    folded_layers,
    multiply,
    pre_activations,
)
from ioca_jax.networks.network import Ablation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well ablated networks classify; a leading axis for each mask or step.

    Attributes:
        correct: int32 [..., C], examples classified correctly, by true class; -1 where
            an order that is none was traced.
        loss: float32 [...], mean cross-entropy, nats; NaN there.
        num_examples: N.
    """

    correct: Int[Array, "*batch C"]
    loss: Float[Array, "*batch"]
    num_examples: int = dataclasses.field(metadata={"static": True})

    @property
    def accuracy(self) -> Float[Array, "*batch"]:
        """Share of all examples classified correctly, float32 [...]."""
        number = self.correct.sum(axis=-1)
        share = number / jnp.float32(self.num_examples)
        return jnp.where(number < 0, jnp.nan, share)


def evaluate_masks(
    model: MLP,
    variables: Any,
    masks: Bool[ArrayLike, "*masks H"],
    clamp: Float[ArrayLike, "*clamps H"],
    x: Num[ArrayLike, "N *features"],
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
        x: float32 [N, ...] examples.
        y: int32 [N] classes.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The evaluation, with the leading axes of ``masks``.

    Raises:
        ValueError: arrays that do not fit the network or each other, masks that are not
            boolean, labels that are not classes, or NaN; variables of another network.
    """
    x, y = _checked_examples(model, x, y)
    memory_gb = _memory_of_a_device(memory_gb)
    check_keep(masks, model.num_neurons, name="masks")
    check_clamp(clamp, model.num_neurons)
    check_variables("variables", variables, model, num_inputs=x.shape[1])
    clamp = jnp.asarray(clamp, jnp.float32)
    shape = _broadcast_shapes("masks", jnp.shape(masks), clamp.shape)
    flat_masks, flat_clamps = (
        jnp.broadcast_to(jnp.asarray(array), shape).reshape(-1, shape[-1])
        for array in (masks, clamp)
    )
    run = _masks_engine(model, _lowest_ablated_layer(model, masks), len(y), memory_gb)
    sums = sum_over_examples(run, (variables, flat_masks, flat_clamps), x, y)
    return _evaluation(sums, shape[:-1], len(y))


ENGINES = ("rank_one", "prefix_sums", "masks")


def default_engine() -> str:
    """The engine that ``ablation_curve`` takes unless told otherwise.

    Returns:
        ``rank_one`` on a CPU, where it was measured to be the fastest at every size;
        ``prefix_sums`` elsewhere, where a loop of small steps is mostly waiting.
    """
    return "rank_one" if jax.default_backend() == "cpu" else "prefix_sums"


def ablation_curve(
    model: MLP,
    variables: Any,
    order: Int[ArrayLike, "*orders K"],
    clamp: Float[ArrayLike, "*clamps H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
    *,
    layers: Sequence[int] | None = None,
    engine: str | None = None,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates a network while neurons are ablated one after another.

    Gives the figures of ``evaluate_masks`` for ``cumulative_masks(order)``.

    Args:
        model: the network's shape.
        variables: the variables of one network (``ablation_curves`` takes several).
        order: int32 [K], or [..., K] for several curves, neuron indices.
        clamp: float32 [H], or [..., H] broadcast against ``order``: the constant output
            of ablated neurons.
        x: float32 [N, ...] examples.
        y: int32 [N] classes.
        layers: the layers, counted from 0, that the orders touch. None looks at the
            orders; while they are traced, it takes all layers, which costs time.
        engine: one of ``ENGINES``: ``rank_one``, ``prefix_sums``, or ``masks``, the
            slow reference. None takes ``default_engine()``.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The evaluation [..., K+1]: point k has the first k neurons ablated.

    Raises:
        ValueError: an order that is empty or with indices out of range or twice, layers
            that do not hold it, an unknown engine, a budget that is not positive, or
            arrays and variables that ``evaluate_masks`` refuses. A traced order is
            looked at where the program runs: its curve is NaN, its counts are -1.
    """
    check_variables("variables", variables, model, num_inputs=_num_inputs(x))
    check_clamp(clamp, model.num_neurons)
    shape = _broadcast_shapes("order", jnp.shape(order), jnp.shape(clamp))
    order, clamp = (
        _with_axes(array, 1 + len(shape) - jnp.ndim(array)) for array in (order, clamp)
    )
    evaluation = ablation_curves(
        model,
        jax.tree.map(_with_axes, variables),
        order,
        clamp,
        x,
        y,
        layers=layers,
        engine=engine,
        memory_gb=memory_gb,
    )
    return jax.tree.map(lambda leaf: leaf[0], evaluation)


def ablation_curves(
    model: MLP,
    variables: Any,
    order: Int[ArrayLike, "S *orders K"],
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
    *,
    layers: Sequence[int] | None = None,
    engine: str | None = None,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates many networks, each ablated in orders of its own, in one program.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        order: int32 [S, ..., K] neuron indices; [S, K] is one order for each network,
            under all its clamps.
        clamp: float32 [S, ..., H]; [S, H] is one clamp for each network, for all its
            orders. Otherwise the axes between are those of ``order``, each equal or 1.
        x: float32 [N, ...] examples.
        y: int32 [N] classes.
        layers: as in ``ablation_curve``.
        engine: as in ``ablation_curve``.
        memory_gb: as in ``ablation_curve``; it does not grow with S.

    Returns:
        The evaluation [S, ..., K+1].

    Raises:
        ValueError: as ``ablation_curve``.
    """
    engine = default_engine() if engine is None else engine
    if engine not in ENGINES:
        raise ValueError(
            f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}"
        )
    x, y = _checked_examples(model, x, y)
    memory_gb = _memory_of_a_device(memory_gb)
    is_known_order = is_known(order)
    order = checked_neurons(order, model.num_neurons)
    if not order.size:
        raise ValueError(
            f"order: expected one or more neurons, got shape {list(order.shape)}; "
            "evaluate_masks takes masks that keep all"
        )
    layers = _checked_layers(layers, model, order)
    check_clamp(clamp, model.num_neurons)
    orders, clamps, shape = _of_networks(order, jnp.asarray(clamp, jnp.float32))
    check_variables("variables", variables, model, shape[0], x.shape[1])
    num_inputs, num_steps = x.shape[1], order.shape[-1]
    if engine == "rank_one":
        run = _rank_one_engine(model, layers, len(y), num_inputs, memory_gb)
    elif engine == "prefix_sums":
        run = _prefix_sums_engine(
            model, layers[0], len(y), num_inputs, num_steps, memory_gb
        )
    else:
        run = _Cumulative(_masks_engine(model, layers[0], len(y), memory_gb))
    sums = sum_over_examples(run, (variables, orders, clamps), x, y)
    if not is_known_order:
        sums = _without_numbers(sums, ~_are_orders(model, layers, orders))
    return _evaluation(sums, (*shape, num_steps + 1), len(y))


def _of_networks(order: Array, clamp: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """Orders [S, M, K] and clamps [S, M, H], and the axes before K, H as given."""
    between = [array.shape[1:-1] for array in (order, clamp)]
    fits = order.ndim > 1 and clamp.ndim > 1 and len(order) == len(clamp)
    fits &= not all(between) or len(between[0]) == len(between[1])
    if all(between):
        fits &= all(1 in {a, b} or a == b for a, b in zip(*between, strict=False))
    if not fits:
        raise ValueError(
            "order, clamp: expected [S, ..., K] and [S, ..., H], networks first and "
            "then the same axes, each equal or 1, or none in one of them, got shapes "
            f"{list(order.shape)} and {list(clamp.shape)}"
        )
    rank = max(order.ndim, clamp.ndim)
    order, clamp = (
        array.reshape(len(array), *[1] * (rank - array.ndim), *array.shape[1:])
        for array in (order, clamp)
    )
    shape = jnp.broadcast_shapes(order.shape[:-1], clamp.shape[:-1])
    orders, clamps = (
        jnp.broadcast_to(array, (*shape, array.shape[-1])).reshape(
            len(array), -1, array.shape[-1]
        )
        for array in (order, clamp)
    )
    return orders, clamps, shape


def _are_orders(
    model: MLP, layers: tuple[int, ...], orders: Int[Array, "*batch K"]
) -> Bool[Array, "*batch"]:
    """Whether each lists neurons of the layers, every one once."""
    ordered = jnp.sort(orders, axis=-1)
    repeats = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    allowed = jnp.asarray(np.isin(model.layer_of_neuron, layers))
    # Beyond either end there are no neurons; a negative index would count from the end.
    within = allowed.at[jnp.where(orders < 0, len(allowed), orders)].get(
        mode="fill", fill_value=False
    )
    return within.all(axis=-1) & ~repeats


def _without_numbers(sums, where: Bool[Array, "S M"]):
    """Sums with -1 and NaN for some of the curves."""
    correct, loss = sums
    return (
        jnp.where(where[..., None, None], -1, correct),
        jnp.where(where[..., None], jnp.nan, loss),
    )


class _Masks(NamedTuple):
    """Sums over examples for masks [M, H] and clamps [M, H] of one network."""

    model: MLP
    lowest: int
    examples: int
    masks_at_once: int

    def __call__(self, arrays, x, y):
        variables, masks, clamps = arrays
        where = self.model.layer_slices[self.lowest]

        def chunk(carry, x_chunk, y_chunk):
            _, activations = self.model.apply(variables, x_chunk)

            def one_mask(mask_and_clamp):
                logits, _ = self.model.apply(
                    variables,
                    self.lowest,
                    activations[:, where],
                    Ablation(*mask_and_clamp),
                    method="run_above",
                )
                return _score(logits.T, y_chunk)

            sums = jax.lax.map(one_mask, (masks, clamps), batch_size=self.masks_at_once)
            return jax.tree.map(jnp.add, carry, sums)

        zeros = _zero_score(self.model, len(masks))
        return fold_examples(chunk, zeros, x, y, chunk_size=self.examples)


class _Cumulative(NamedTuple):
    """``_Masks`` for the cumulative masks of orders [S, M, K]."""

    engine: _Masks

    def __call__(self, arrays, x, y):
        def of_network(network):
            variables, orders, clamps = network

            def of_order(order_and_clamp):
                order, clamp = order_and_clamp
                masks = cumulative_masks(order, len(clamp))
                clamps = jnp.broadcast_to(clamp, masks.shape)
                return self.engine((variables, masks, clamps), x, y)

            return jax.lax.map(of_order, (orders, clamps))

        return jax.lax.map(of_network, arrays)


class _Chunk(NamedTuple):
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


class _ExamplesAtOnce(NamedTuple):
    """Examples whose images are looked at together, and of these those ablated so."""

    images: int
    ablated: int


def _curves_of_networks(engine: "_RankOne | _PrefixSums", lowest: int, arrays, x, y):
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

            def curve(order_and_clamp):
                ablated_points = engine.curve(chunk, *order_and_clamp)
                return jax.tree.map(
                    lambda first, others: jnp.concatenate([first[None], others]),
                    chunk.intact,
                    ablated_points,
                )

            sums = jax.lax.map(curve, (orders, clamps))
            return jax.tree.map(jnp.add, carry, sums)

        zeros = _zero_score(model, len(orders), orders.shape[1] + 1)
        return fold_examples(images, zeros, x, y, chunk_size=sizes.images)

    return jax.lax.map(of_network, arrays)


def _chunk(model: MLP, lowest: int, affine, outputs: Array, y: Array) -> _Chunk:
    """Runs the intact network from the lowest ablated layer's outputs on."""
    kernel, bias = affine[lowest + 1]
    total = multiply(model, kernel.T, outputs)
    z = total + bias[:, None]
    for layer in affine[lowest + 2 :]:
        z = pre_activations(model, layer, activate(model, z))
    size = jnp.abs(kernel).max(axis=1) @ jnp.abs(outputs)
    return _Chunk(affine, outputs, total, size, _score(z, y), y)


# The terms taken from a sum may be as large as this share of all its terms: of the 24
# binary digits of what is left, up to 4 are lost.
_MOST_TAKEN = 15 / 16


def _sum_over_others(
    model: MLP, kernel: Array, chunk: _Chunk, rows: Array, within: Array
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

    def product():
        others = jnp.ones(width, bool).at[rows].set(False, mode="drop")
        return multiply(model, kernel.T, jnp.where(others[:, None], chunk.outputs, 0))

    if 4 * len(rows) > width:
        return product()
    taken = [
        array.at[rows].get(mode="fill", fill_value=0)
        for array in (kernel, chunk.outputs)
    ]
    rest = chunk.total - multiply(model, taken[0].T, taken[1])
    size = jnp.abs(taken[0]).max(axis=1) @ jnp.abs(taken[1])
    keeps_digits = (size <= _MOST_TAKEN * chunk.size) & jnp.isfinite(chunk.size)
    return jax.lax.cond(keeps_digits.all(), lambda: rest, product)


class _RankOne(NamedTuple):
    """Sums over examples for orders [S, M, K] that touch ``layers`` only."""

    model: MLP
    layers: tuple[int, ...]
    sizes: _ExamplesAtOnce

    def __call__(self, arrays, x, y):
        return _curves_of_networks(self, self.layers[0], arrays, x, y)

    def curve(self, chunk: _Chunk, order: Array, clamp: Array):
        """One order [K]: correct [K, C] and summed losses [K], points 1 to K."""
        curve, total = _curve(self.model, self.layers, chunk, order, clamp)
        state = _last_point(curve, chunk._replace(total=total))
        state = _restore_in_last(curve, state)
        if self.layers[0] < self.model.num_layers - 1:
            state = jax.lax.while_loop(
                lambda state: state.point > 1, partial(_restore_below, curve), state
            )
        return state.scores


class _Curve(NamedTuple):
    """What stays the same along a curve.

    The neurons above the lowest layer are numbered by how long they are kept. So those
    kept at a point are the first of their layer, and products need no more than a
    leading block of each kernel.

    Attributes:
        model: the network's shape.
        layers: those that the order touches.
        kernels: float32 [v, w], of all maps.
        constants: by layer, float32 [K+1, w]: the bias and what the ablated neurons
            below give, at every point.
        outputs: float32 [v, n], of the lowest layer.
        order: int32 [K].
        steps: int32 [H], the step that ablates each neuron; K where none does.
        y: int32 [n] labels.
    """

    model: MLP
    layers: tuple[int, ...]
    kernels: tuple[Array, ...]
    constants: dict[int, Array]
    outputs: Array
    order: Array
    steps: Array
    y: Array


class _State(NamedTuple):
    """A point of a curve that is computed from its end to its beginning.

    Pre-activations are two parts, ``from_kept`` and a constant. Towards the beginning
    ``from_kept`` only gathers terms, so nothing large is ever taken out of it that
    would leave its rounding behind.

    Attributes:
        point: how many neurons are ablated.
        from_kept: by layer above the lowest, float32 [w, n]: what the kept neurons
            below give.
        scores: of this point and those after it.
    """

    point: Array
    from_kept: dict[int, Array]
    scores: tuple[Array, Array]


def _curve(
    model: MLP, layers: tuple[int, ...], chunk: _Chunk, order: Array, clamp: Array
) -> tuple[_Curve, Array]:
    """Numbers the neurons; also returns the chunk's total in these numbers."""
    lowest, kernels, biases = layers[0], *map(list, zip(*chunk.affine, strict=True))
    steps, total = _steps_of_neurons(order, model.num_neurons), chunk.total
    old_of_new = []
    for layer, where in enumerate(model.layer_slices):
        if layer <= lowest:
            old_of_new.append(jnp.arange(where.start, where.stop))
            continue
        first = jnp.argsort(-steps[where])
        old_of_new.append(where.start + first)
        kernels[layer] = kernels[layer][:, first]
        kernels[layer + 1] = kernels[layer + 1][first]
        biases[layer] = biases[layer][first]
        if layer == lowest + 1:
            total = total[first]
    old_of_new = jnp.concatenate(old_of_new)
    clamps, order = clamp[order], jnp.argsort(old_of_new)[order]
    constants = {}
    for layer in range(lowest, model.num_layers):
        rows, within = _rows_of(model, order, layer)
        terms = jnp.where(within, clamps, 0)[:, None] * kernels[layer + 1][rows]
        clamped = jnp.pad(jnp.cumsum(terms, axis=0), ((1, 0), (0, 0)))
        constants[layer + 1] = biases[layer + 1] + clamped
    curve = _Curve(
        model,
        layers,
        tuple(kernels),
        constants,
        chunk.outputs,
        order,
        steps[old_of_new],
        chunk.y,
    )
    return curve, total


def _rows_of(model: MLP, order: Array, layer: int) -> tuple[Array, Array]:
    """Where an order's neurons lie in a layer, [K], and whether they do; 0 if not."""
    where = model.layer_slices[layer]
    within = (order >= where.start) & (order < where.stop)
    return jnp.where(within, order - where.start, 0), within


def _last_point(curve: _Curve, chunk: _Chunk) -> _State:
    """Where all neurons of the order are ablated."""
    model, lowest, point = curve.model, curve.layers[0], jnp.int32(len(curve.order))
    kernel, rows = curve.kernels[lowest + 1], _rows_of(model, curve.order, lowest)
    others = _sum_over_others(model, kernel, chunk, *rows)
    state = _State(point, {lowest + 1: others}, _zero_score(model, len(curve.order)))
    return _with_layers_above(curve, state, lowest + 1)


def _pre_activations(
    curve: _Curve, state: _State, layer: int, rows: Any = slice(None)
) -> Array:
    """Of some neurons of a layer, [rows, n], or of one, [n]."""
    constant = curve.constants[layer][state.point][rows]
    return state.from_kept[layer][rows] + constant[..., None]


def _with_layers_above(curve: _Curve, state: _State, changed: int) -> _State:
    """Computes all layers above one that changed, and the score."""
    from_kept = dict(state.from_kept)
    for layer in range(changed, curve.model.num_layers):
        state = state._replace(from_kept=from_kept)
        from_kept[layer + 1] = _from_kept(curve, state, layer)
    state = state._replace(from_kept=from_kept)
    logits = _pre_activations(curve, state, curve.model.num_layers)
    return state._replace(scores=_record(curve, state, logits))


def _record(curve: _Curve, state: _State, logits: Array) -> tuple[Array, Array]:
    """The scores with those of a point, 1 or later."""
    return jax.tree.map(
        lambda whole, one: whole.at[state.point - 1].set(one),
        state.scores,
        _score(logits, curve.y),
    )


def _from_kept(curve: _Curve, state: _State, layer: int) -> Array:
    """What a layer's kept neurons give the next layer, [w, n]."""
    model, slices = curve.model, curve.model.layer_slices
    kept = curve.steps >= state.point

    def outputs(rows: int) -> Array:
        """Of this layer's first neurons, 0 where they are ablated."""
        raw = activate(model, _pre_activations(curve, state, layer, slice(rows)))
        return jnp.where(kept[slices[layer]][:rows, None], raw, 0)

    is_last = layer == model.num_layers - 1
    needed = model.num_classes if is_last else jnp.sum(kept[slices[layer + 1]])
    num_kept = jnp.sum(kept[slices[layer]])
    return _kept_product(model, curve.kernels[layer + 1], outputs, num_kept, needed)


def _from_neuron(curve: _Curve, state: _State, layer: int, neuron: Array) -> Array:
    """What a neuron gives the next layer, [w, n]: a matrix of rank one."""
    row = neuron - curve.model.layer_slices[layer].start
    outputs = (
        curve.outputs[row]
        if layer == curve.layers[0]
        else activate(curve.model, _pre_activations(curve, state, layer, row))
    )
    return curve.kernels[layer + 1][row][:, None] * outputs


def _restore_in_last(curve: _Curve, state: _State) -> _State:
    """Restores neurons for as long as they are in the last layer."""
    last = curve.model.num_layers - 1
    if last not in curve.layers:
        return state
    _, in_last = _rows_of(curve.model, curve.order, last)

    class Top(NamedTuple):  # what such a step changes; it would copy the rest
        point: Array
        from_kept: Array
        scores: tuple[Array, Array]

    def goes_on(top):
        return (top.point > 1) & in_last[top.point - 1]

    def restore(top):
        point = top.point - 1
        from_kept = top.from_kept + _from_neuron(curve, state, last, curve.order[point])
        logits = from_kept + curve.constants[last + 1][point][:, None]
        new = _State(point, {}, top.scores)
        return Top(point, from_kept, _record(curve, new, logits))

    top = Top(state.point, state.from_kept[last + 1], state.scores)
    point, from_kept, scores = jax.lax.while_loop(goes_on, restore, top)
    return _State(point, state.from_kept | {last + 1: from_kept}, scores)


def _restore_below(curve: _Curve, state: _State) -> _State:
    """Restores a neuron below the last layer, and then those in the last."""
    lower = [layer for layer in curve.layers if layer < curve.model.num_layers - 1]
    neuron = curve.order[state.point - 1]
    layer = jnp.asarray(curve.model.layer_of_neuron)[neuron]
    state = jax.lax.switch(
        jnp.searchsorted(jnp.asarray(lower), layer),
        [partial(_restore_in, curve, layer) for layer in lower],
        state,
        neuron,
    )
    return _restore_in_last(curve, state)


def _restore_in(curve: _Curve, layer: int, state: _State, neuron: Array) -> _State:
    """Restores a neuron of a layer below the last."""
    new = state.from_kept[layer + 1] + _from_neuron(curve, state, layer, neuron)
    from_kept = state.from_kept | {layer + 1: new}
    state = _State(state.point - 1, from_kept, state.scores)
    return _with_layers_above(curve, state, layer + 1)


def _kept_product(model: MLP, kernel: Array, inputs, num_inputs, num_outputs) -> Array:
    """A product of which only some inputs are not 0 and some outputs matter.

    Args:
        model: the network's shape.
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
            return multiply(model, kernel[:stop].T, outer)

        def block(index, outputs):
            start = jnp.minimum(index * columns, w - columns)
            some = jax.lax.dynamic_slice_in_dim(kernel[:stop], start, columns, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(
                outputs, multiply(model, some.T, outer), start, axis=0
            )

        zeros = jnp.zeros((w, outer.shape[1]))
        return jax.lax.fori_loop(0, -(-num_outputs // columns), block, zeros)

    stops = [*range(rows, v, rows), v]
    return jax.lax.switch(
        jnp.maximum(num_inputs - 1, 0) // rows,
        [partial(product, stop) for stop in stops],
    )


# Rows of a kernel's block: a finer one leaves more out, and is slower for what it does.
_BLOCK = 32


def _block(width: int) -> int:
    """Rows in one of at most eight blocks of a layer."""
    return min(width, max(_BLOCK, -(-width // 8)))


class _PrefixSums(NamedTuple):
    """``_RankOne``, many points at once: for launch-bound loops.

    The next layer's pre-activations at all points of a block are prefix sums of the
    rank-one terms, as one product; what lies above is computed for all of them.
    """

    model: MLP
    lowest: int
    sizes: _ExamplesAtOnce
    steps_at_once: int

    def __call__(self, arrays, x, y):
        return _curves_of_networks(self, self.lowest, arrays, x, y)

    def curve(self, chunk: _Chunk, order: Array, clamp: Array):
        """One order [K]: correct [K, C] and summed losses [K], points 1 to K."""
        size = min(self.steps_at_once, len(order))
        if size == 1:
            return self._curve(size, chunk, order, clamp)
        # A block's product has 0 for neurons that are ablated, and 0 times an infinite
        # output is not 0. Blocks of one point have no such 0.
        curves = (partial(self._curve, size, chunk, order, clamp) for size in (size, 1))
        return jax.lax.cond(jnp.isfinite(chunk.outputs).all(), *curves)

    def _curve(self, size: int, chunk: _Chunk, order: Array, clamp: Array):
        """``curve`` in blocks of so many points."""
        num_steps, (rows, within) = len(order), _rows_of(self.model, order, self.lowest)
        kernel = chunk.affine[self.lowest + 1].kernel
        others = _sum_over_others(self.model, kernel, chunk, rows, within)
        # From the last point, K, down to 1: the neuron that each restores. The last
        # restores none, nor do those below 1 that fill up the last block.
        filled = (1, -num_steps % size)
        points = num_steps - jnp.arange(num_steps + filled[1])
        restored = (
            jnp.pad(array[:0:-1], filled).reshape(-1, size) for array in (rows, within)
        )
        steps = _steps_of_neurons(order, self.model.num_neurons)
        block = partial(self._block, chunk, clamp, steps)
        blocks = (points.reshape(-1, size), *restored)
        _, scores = jax.lax.scan(block, others, blocks)
        return jax.tree.map(
            lambda score: score.reshape(-1, *score.shape[2:])[num_steps - 1 :: -1],
            scores,
        )

    def _block(self, chunk: _Chunk, clamp: Array, steps: Array, before: Array, block):
        """The sum [w, n] after a block of points, and their scores."""
        model, (points, rows, within) = self.model, block
        kernel = chunk.affine[self.lowest + 1].kernel[rows]
        outputs = jnp.where(within[:, None], chunk.outputs[rows], 0)
        until = jnp.tri(len(points))
        terms = jnp.einsum("ts,sw->wts", until, kernel)
        z = before[:, None] + multiply(model, terms, outputs)  # [w, t, n]
        after = z[:, -1]
        for layer in range(self.lowest, model.num_layers):
            own = model.layer_slices[layer]
            kernel, bias = chunk.affine[layer + 1]
            kept = steps[own, None] >= points
            if layer > self.lowest:
                z = jnp.where(kept[:, :, None], activate(model, z), 0)
                flat = multiply(model, kernel.T, z.reshape(len(z), -1))
                z = flat.reshape(-1, *z.shape[1:])
            clamped = jnp.where(kept, 0, clamp[own, None])
            constant = multiply(model, kernel.T, clamped) + bias[:, None]
            z = z + constant[:, :, None]
        return after, jax.vmap(_score, (1, None))(z, chunk.y)


def _steps_of_neurons(order: Array, num_neurons: int) -> Array:
    """The step [H] that ablates each neuron; K where none does."""
    steps = jnp.arange(len(order))
    return jnp.full(num_neurons, len(order)).at[order].set(steps, unique_indices=True)


def right_and_losses(
    logits: Float[Array, "C n"], y: Int[Array, " n"]
) -> tuple[Bool[Array, " n"], Float[Array, " n"]]:
    """Whether each example is classified correctly, and its cross-entropy.

    Args:
        logits: float32 [C, n].
        y: int32 [n] classes.

    Returns:
        bool [n]: the first greatest logit is the class's; float32 [n], nats. Anything
        where the label is ``SEEN``.
    """
    classes = jnp.arange(len(logits))[:, None]
    best = _over_classes(jnp.maximum, logits)
    own = _over_classes(jnp.add, jnp.where(y == classes, logits, 0))
    earlier = _over_classes(jnp.maximum, jnp.where(y > classes, logits, -jnp.inf))
    losses = jnp.log(_over_classes(jnp.add, jnp.exp(logits - best))) + best - own
    return (own >= best) & (own > earlier), losses


def _score(logits: Float[Array, "C n"], y: Int[Array, " n"]) -> tuple[Array, Array]:
    """Correct by class, int32 [C], and the sum of cross-entropies."""
    right, losses = right_and_losses(logits, y)
    is_label = (y == jnp.arange(len(logits))[:, None]).astype(logits.dtype)
    # A product counts exactly up to 2^24, and is faster than a sum of booleans.
    correct = jnp.matmul(is_label, right.astype(logits.dtype), precision="highest")
    return (
        correct.astype(jnp.int32),
        jnp.sum(jnp.where(y == SEEN, 0, losses)),
    )


def _over_classes(combine: Any, array: Float[Array, "C n"]) -> Float[Array, " n"]:
    """Reduces over classes row by row, which vectorises where ``jnp.sum`` does not.

    Beyond some classes the program would grow too long for it.
    """
    if len(array) <= 64:
        return reduce(combine, array)
    return combine.reduce(array, axis=0)


def _zero_score(model: MLP, *leading: int) -> tuple[Array, Array]:
    return (
        jnp.zeros((*leading, model.num_classes), jnp.int32),
        jnp.zeros(leading),
    )


def _evaluation(sums, shape: tuple[int, ...], num_examples: int) -> Evaluation:
    correct, loss = sums
    return Evaluation(
        correct.reshape(*shape, -1), loss.reshape(shape) / num_examples, num_examples
    )


def _lowest_ablated_layer(model: MLP, masks: ArrayLike) -> int:
    """The first layer that a mask touches; 0 where that is not known yet."""
    if not is_known(masks):
        return 0
    ablated = ~np.asarray(masks).reshape(-1, model.num_neurons).all(axis=0)
    touched = model.layer_of_neuron[ablated]
    return int(touched.min()) if touched.size else model.num_layers - 1


def _layers_of_order(model: MLP, order: ArrayLike) -> tuple[int, ...]:
    """The layers that an order touches; all where that is not known yet."""
    if not is_known(order):
        return tuple(range(model.num_layers))
    touched = np.unique(model.layer_of_neuron[np.asarray(order).ravel()]).tolist()
    return tuple(touched) or (model.num_layers - 1,)


def _checked_layers(
    layers: Sequence[int] | None, model: MLP, order: ArrayLike
) -> tuple[int, ...]:
    """The layers to look at, ascending; refused unless they hold the order."""
    touched = _layers_of_order(model, order)
    if layers is None:
        return touched
    given = tuple(sorted(set(layers)))
    within = given and given[0] >= 0 and given[-1] < model.num_layers
    known = is_known(order) and np.size(order)
    if not within or (known and not set(touched) <= set(given)):
        raise ValueError(
            f"layers: expected layers out of 0 to {model.num_layers - 1}, those of the "
            f"order among them, got {list(layers)}"
        )
    return given


def _memory_of_a_device(memory_gb: float) -> float:
    """The budget of each device; those of a CPU share one memory."""
    if not (np.isfinite(memory_gb) and memory_gb > 0):
        raise ValueError(f"memory_gb: expected a positive number, got {memory_gb}")
    on_cpu = jax.default_backend() == "cpu"
    return memory_gb / (device_mesh().size if on_cpu else 1)


# Beyond about this many floats in an array that each step rewrites, caches are left
# and nothing is gained; measured on two CPU cores with benchmark_ablation.
_FLOATS_AT_A_STEP = 256 * 1024


# More points than this in a block cost more in its product than they save in starts.
_POINTS_AT_ONCE = 32


def _masks_engine(
    model: MLP, lowest: int, num_examples: int, memory_gb: float
) -> _Masks:
    """The engine with chunks that keep to the budget.

    A chunk of examples holds all its activations once; each mask and example then hold
    two copies of the widest layer above, and of the logits.
    """
    above = 2 * (max((*model.hidden[lowest:], model.num_classes)) + model.num_classes)
    most = min(num_examples, 1000)
    examples = _fit(memory_gb / 2, above + 2 * model.num_neurons, most)
    at_once = _FLOATS_AT_A_STEP // (examples * above) + 1
    return _Masks(
        model, lowest, examples, _fit(memory_gb / 2, above * examples, at_once)
    )


def _rank_one_engine(
    model: MLP,
    layers: tuple[int, ...],
    num_examples: int,
    num_inputs: int,
    memory_gb: float,
) -> _RankOne:
    """An ablated example holds three copies of all above the lowest layer."""
    above = (*model.hidden[layers[0] :], model.num_classes)
    images = _images_at_once(model, layers[0], num_examples, num_inputs, memory_gb / 2)
    most = min(images, max(256, _FLOATS_AT_A_STEP // max(above)))
    ablated = _fit(memory_gb / 2, 3 * sum(above), most)
    return _RankOne(model, layers, _ExamplesAtOnce(images, ablated))


def _prefix_sums_engine(
    model: MLP,
    lowest: int,
    num_examples: int,
    num_inputs: int,
    num_steps: int,
    memory_gb: float,
) -> _PrefixSums:
    """A point of an ablated example holds three copies of the widest layer above."""
    above = (*model.hidden[lowest + 1 :], model.num_classes)
    images = _images_at_once(model, lowest, num_examples, num_inputs, memory_gb / 2)
    at_a_point = 3 * (max(above) + model.num_classes)
    ablated = _fit(memory_gb / 2, 2 * at_a_point, images)
    most = min(num_steps + 1, _POINTS_AT_ONCE)
    points = _fit(memory_gb / 2, at_a_point * ablated, most)
    return _PrefixSums(model, lowest, _ExamplesAtOnce(images, ablated), points)


def _images_at_once(
    model: MLP, lowest: int, num_examples: int, num_inputs: int, memory_gb: float
) -> int:
    """A copy of the image, and two of the lower layers' outputs."""
    lower = 2 * sum(model.hidden[: lowest + 1])
    return _fit(memory_gb, num_inputs + lower, num_examples)


def _fit(memory_gb: float, floats: int, most: int) -> int:
    """How many times ``floats`` float32 fit into a budget: at least 1."""
    return max(1, min(most, int(memory_gb * 1e9 / (4 * floats))))


def _checked_examples(model: MLP, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Examples float32 [N, D] and labels int32 [N]."""
    check_examples(x, y, model.num_classes)
    x = jnp.asarray(x, jnp.float32)
    return x.reshape(len(x), -1), jnp.asarray(y, jnp.int32)


def _num_inputs(x: ArrayLike) -> int:
    """D, the values of an example."""
    return math.prod(jnp.shape(x)[1:])


def _with_axes(array: ArrayLike, number: int = 1) -> Any:
    """The same behind new axes of length 1."""
    known = array if isinstance(array, jax.Array) else np.asarray(array)
    return known.reshape(*[1] * number, *known.shape)


def _broadcast_shapes(
    name: str, shape: tuple[int, ...], clamp: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape that clamps take for all masks or orders, [..., H]."""
    try:
        return (*jnp.broadcast_shapes(shape[:-1], clamp[:-1]), *clamp[-1:])
    except ValueError as error:
        raise ValueError(
            f"clamp: expected [..., H] that is broadcast against {name}, got shapes "
            f"{list(clamp)} and {list(shape)}"
        ) from error
