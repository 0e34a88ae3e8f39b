"""Orders or masks become evaluations: accuracy and loss of ablated networks.

Engines that give the same figures:

* ``masks`` takes any masks and runs the network for each, as a ``vmap`` over masks: the
  reference, ``evaluate_masks``. What lies below the first layer that a mask touches is
  computed once, not once per mask.
* ``rank_one`` takes orders, ``ablation_curve``. Between two steps of a cumulative
  ablation one neuron changes, so the next layer's pre-activations change by a rank-one
  term and nothing below them changes at all: a curve costs one forward pass, then per
  step a rank-one update and the layers above it. In the last hidden layer that is an
  update of the logits alone, so those steps run in a loop of their own that carries
  nothing else. Above, ablated neurons are left out of the products: the neurons of a
  layer are numbered by how long they are kept, and only leading blocks of kernels are
  multiplied.
* ``prefix_sums`` takes orders too, and many steps at once, for devices that starve in a
  loop of small steps: the rank-one terms of a block of steps are summed by one product.

In the last two, arrays are feature-major, [width, n].

All stream over chunks of examples, bound their memory by a budget, and spread the
examples over this host's devices; correct counts do not depend on any of it. A
prediction is the first greatest logit.

Rounding: a layer's pre-activations are computed anew whenever a neuron two or more
layers below is ablated. Between such steps they gather the rounding of at most one
update for each neuron of the layer beneath: about ``6e-8 sqrt(width)`` of their size.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.ablation.orderings import checked_neurons, cumulative_masks
from ioca_jax.batching import SEEN, fold_examples
from ioca_jax.devices import device_mesh, sum_over_examples
from ioca_jax.networks.mlp import (
    MLP,
    Ablation,
    Affine,
    activate,
    folded_layers,
    multiply,
    pre_activations,
)


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
    memory_gb = _memory_of_a_device(memory_gb)
    _check_last_axis("masks", masks, model.num_neurons, "bool")
    clamp = _checked_clamp(clamp, model)
    shape = jnp.broadcast_shapes(jnp.shape(masks), clamp.shape)
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
    x: Float[ArrayLike, "N D"],
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
        x: float32 [N, D] images.
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
            arrays whose shapes do not fit the network or each other.
    """
    evaluation = ablation_curves(
        model,
        jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables),
        _with_axis(order),
        _with_axis(clamp),
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
    x: Float[ArrayLike, "N D"],
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
        order: int32 [S, ..., K] neuron indices.
        clamp: float32 [S, ..., H], broadcast against ``order``.
        x: float32 [N, D] images.
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
    x, y = _checked_examples(x, y)
    memory_gb = _memory_of_a_device(memory_gb)
    order = checked_neurons(order, model.num_neurons)
    if not order.size:
        raise ValueError(
            f"order: expected one or more neurons, got shape {list(order.shape)}; "
            "evaluate_masks takes masks that keep all"
        )
    layers = _checked_layers(layers, model, order)
    clamp = _checked_clamp(clamp, model)
    shape = jnp.broadcast_shapes(order.shape[:-1], clamp.shape[:-1])
    orders, clamps = (
        jnp.broadcast_to(array, (*shape, array.shape[-1])).reshape(
            shape[0], -1, array.shape[-1]
        )
        for array in (order, clamp)
    )
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
    return _evaluation(sums, (*shape, order.shape[-1] + 1), len(y))


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
                    method="above",
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


class _RankOne(NamedTuple):
    """Sums over examples for orders [S, M, K] that touch ``layers`` only."""

    model: MLP
    layers: tuple[int, ...]
    sizes: "_ExamplesAtOnce"

    def __call__(self, arrays, x, y):
        return _curves_of_networks(self, self.layers[0], arrays, x, y)

    def curve_of(self, affine, outputs, above, y):
        """What gives a curve on some examples, of an order and a clamp."""
        model, lowest = self.model, self.layers[0]
        # What a step can change, by layer: the pre-activations [width, n] above the
        # lowest ablated layer, the logits last.
        states = {lowest + 1: above}
        for layer in range(lowest + 1, model.num_layers):
            above = pre_activations(model, affine[layer + 1], activate(model, above))
            states[layer + 1] = above
        return partial(self._curve, affine, outputs, states, y)

    def _curve(self, affine, lowest_outputs, states, y, order, clamp):
        """One order [K]: correct [K+1, C] and summed losses [K+1]."""
        model, lowest, last = self.model, self.layers[0], self.model.num_layers - 1
        slices, num_steps = model.layer_slices, len(order)
        affine, states, order, clamp = self._kept_first(affine, states, order, clamp)
        clamps = [clamp[where] for where in slices]
        # The next layer's pre-activations with every neuron of a layer at its clamp.
        constants = [
            Affine(above.kernel, pre_activations(model, above, values[:, None])[:, 0])
            for above, values in zip(affine[1:], clamps, strict=True)
        ]
        layer_of_step = jnp.asarray(model.layer_of_neuron)[order]

        def change(layer, states, neuron):
            """How much the next layer's pre-activations change, [width, n]."""
            row = neuron - slices[layer].start
            before = (
                lowest_outputs[row]
                if layer == lowest
                else activate(model, states[layer][row])
            )
            weights = affine[layer + 1].kernel[row]
            return weights[:, None] * (clamp[neuron] - before)

        def above(layer, states, kept):
            """Pre-activations of the next layer, those of this one given."""
            where = slices[layer]
            num_kept = jnp.sum(kept[where])

            def excess(rows):
                """How far this layer's first outputs are from their clamps."""
                outputs = activate(model, states[layer][:rows])
                difference = outputs - clamps[layer][:rows, None]
                return jnp.where(kept[where][:rows, None], difference, 0)

            wanted = (
                jnp.sum(kept[slices[layer + 1]]) if layer < last else model.num_classes
            )
            return self._kept_product(constants[layer], excess, num_kept, wanted)

        def record(scores, step, logits):
            return jax.tree.map(
                lambda whole, one: whole.at[step + 1].set(one),
                scores,
                _score(logits, y),
            )

        def steps_in_last(step, states, kept, scores):
            """The steps from ``step`` on, for as long as they are in the last layer."""
            if last not in self.layers:
                return step, kept, scores

            def goes_on(carry):
                step = carry[0]
                here = layer_of_step[jnp.minimum(step, num_steps - 1)] == last
                return (step < num_steps) & here

            def one(carry):
                step, logits, kept, scores = carry
                neuron = order[step]
                logits += change(last, states, neuron)
                kept = kept.at[neuron].set(False)
                return step + 1, logits, kept, record(scores, step, logits)

            step, _, kept, scores = jax.lax.while_loop(
                goes_on, one, (step, states[last + 1], kept, scores)
            )
            return step, kept, scores

        def step_in(layer):
            """A step in ``layer``, below the last."""

            def branch(states, kept, neuron):
                new = states[layer + 1] + change(layer, states, neuron)
                states = states | {layer + 1: new}
                for index in range(layer + 1, last + 1):
                    states[index + 1] = above(index, states, kept)
                return states

            return branch

        lower = [layer for layer in self.layers if layer < last]

        def step_below_last(carry):
            step, states, kept, scores = carry
            neuron = order[step]
            kept = kept.at[neuron].set(False)
            which = jnp.searchsorted(jnp.asarray(lower), layer_of_step[step])
            states = jax.lax.switch(
                which, [step_in(layer) for layer in lower], states, kept, neuron
            )
            scores = record(scores, step, states[last + 1])
            step, kept, scores = steps_in_last(step + 1, states, kept, scores)
            return step, states, kept, scores

        scores = _zero_score(model, num_steps + 1)
        scores = record(scores, -1, states[last + 1])
        kept = jnp.ones(model.num_neurons, bool)
        if not num_steps:
            return scores
        step, kept, scores = steps_in_last(0, states, kept, scores)
        if lower:
            carry = (step, states, kept, scores)
            carry = jax.lax.while_loop(
                lambda carry: carry[0] < num_steps, step_below_last, carry
            )
            scores = carry[-1]
        return scores

    def _kept_first(self, affine, states, order, clamp):
        """Numbers the neurons of each recomputed layer by how long they are kept.

        Those kept at a step are then the first of their layer, so that products need no
        more than a leading block of each kernel.
        """
        model, lowest = self.model, self.layers[0]
        steps = _steps_of_neurons(order, model.num_neurons)
        affine, states, old_of_new = list(affine), dict(states), []
        for layer, where in enumerate(model.layer_slices):
            if layer <= lowest:
                old_of_new.append(jnp.arange(where.start, where.stop))
                continue
            first = jnp.argsort(-steps[where])
            old_of_new.append(where.start + first)
            below, above = affine[layer : layer + 2]
            affine[layer] = Affine(below.kernel[:, first], below.bias[first])
            affine[layer + 1] = Affine(above.kernel[first], above.bias)
            states[layer] = states[layer][first]
        old_of_new = jnp.concatenate(old_of_new)
        new_of_old = jnp.argsort(old_of_new)
        return affine, states, new_of_old[order], clamp[old_of_new]

    def _kept_product(self, layer: Affine, inputs, num_inputs, num_outputs):
        """An affine map of which only some inputs are not 0 and some outputs matter.

        Args:
            layer: kernel [v, w] and bias [w].
            inputs: a function of a number of rows: the first of the inputs [v, n].
            num_inputs: the inputs from here on are 0.
            num_outputs: the outputs from here on may be anything finite.

        Returns:
            Pre-activations [w, n].
        """
        v, w = layer.kernel.shape
        rows, columns = _block(v), _block(w)

        def product(stop):
            outer = inputs(stop)
            if columns == w:
                return pre_activations(
                    self.model, Affine(layer.kernel[:stop], layer.bias), outer
                )

            def block(index, outputs):
                start = jnp.minimum(index * columns, w - columns)
                kernel, bias = (
                    jax.lax.dynamic_slice_in_dim(array, start, columns, axis=-1)
                    for array in (layer.kernel[:stop], layer.bias)
                )
                some = pre_activations(self.model, Affine(kernel, bias), outer)
                return jax.lax.dynamic_update_slice_in_dim(outputs, some, start, axis=0)

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
    """``_RankOne``, many steps at once: for devices that starve in a loop of steps.

    The next layer's pre-activations at all steps of a block are prefix sums of the
    rank-one terms, as one product; what lies above is computed for all of them.
    """

    model: MLP
    lowest: int
    sizes: "_ExamplesAtOnce"
    steps_at_once: int

    def __call__(self, arrays, x, y):
        return _curves_of_networks(self, self.lowest, arrays, x, y)

    def curve_of(self, affine, outputs, above, y):
        """What gives a curve on some examples, of an order and a clamp."""
        return partial(self._curve, affine, outputs, above, y)

    def _curve(self, affine, outputs, above, y, order, clamp):
        """One order [K]: correct [K+1, C] and summed losses [K+1]."""
        model, lowest, num_points = self.model, self.lowest, len(order) + 1
        size = min(self.steps_at_once, num_points)
        where = model.layer_slices[lowest]
        steps = _steps_of_neurons(order, model.num_neurons)
        # Point k has steps below k done; the first and those past the end change none.
        neurons = jnp.pad(order, (1, -num_points % size), constant_values=-1)
        points = jnp.arange(len(neurons)).reshape(-1, size)
        until = jnp.tri(size)

        def block(before, block_of_points):
            points, neurons = block_of_points
            rows = neurons - where.start
            changes = (neurons >= where.start) & (neurons < where.stop)
            rows = jnp.where(changes, rows, 0)
            change = jnp.where(
                changes[:, None], clamp[neurons][:, None] - outputs[rows], 0
            )
            terms = jnp.einsum("ts,sw->wts", until, affine[lowest + 1].kernel[rows])
            z = before[:, None] + multiply(model, terms, change)  # [w, t, n]
            last = z[:, -1]
            for layer in range(lowest + 1, model.num_layers):
                own = model.layer_slices[layer]
                kept = (steps[own, None] >= points)[:, :, None]
                z = jnp.where(kept, activate(model, z), clamp[own, None, None])
                kernel, bias = affine[layer + 1]
                flat = multiply(model, kernel.T, z.reshape(len(z), -1))
                z = flat.reshape(-1, size, len(y)) + bias[:, None, None]
            return last, jax.vmap(_score, (1, None))(z, y)

        _, scores = jax.lax.scan(block, above, (points, neurons.reshape(-1, size)))
        return jax.tree.map(
            lambda score: score.reshape(-1, *score.shape[2:])[:num_points], scores
        )


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
            outputs = outputs.T
            above = pre_activations(model, affine[lowest + 1], outputs)
            curve = engine.curve_of(affine, outputs, above, y_chunk)
            sums = jax.lax.map(lambda pair: curve(*pair), (orders, clamps))
            return jax.tree.map(jnp.add, carry, sums)

        zeros = _zero_score(model, len(orders), orders.shape[1] + 1)
        return fold_examples(images, zeros, x, y, chunk_size=sizes.images)

    return jax.lax.map(of_network, arrays)


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


def _with_axis(array: ArrayLike) -> ArrayLike:
    return array[None] if isinstance(array, Tracer) else np.asarray(array)[None]


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
    known = not isinstance(order, Tracer) and np.size(order)
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
