"""What is measured of a layer: one number for each neuron and example, or token.

A neuron repeats over positions, and a head is a vector besides. Where the network has
logits for each token, a layer that has the tokens' axis is measured at each token, and
pooled over what else it has; a layer without that axis has one value for all tokens of
an example. Otherwise all positions are pooled. Those that do not count, padding say,
take no part, neither here nor in the means that clamps are.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ioca_jax.batching import IGNORE_LABEL, count_examples
from ioca_jax.checks import described
from ioca_jax.networks.layers import Layer

POOLS = ("mean", "max", "share_active", "last")


class Activations(NamedTuple):
    """What neurons output for some examples.

    Attributes:
        pooled: [N, H], or [N, T, H] of tokens: what is measured.
        means: [N, P], each number that a neuron outputs, as its mean over the positions
            that count.
        weights: [N, P], over how many positions; None where all count.
    """

    pooled: Float[Array, "N *tokens H"]
    means: Float[Array, "N P"]
    weights: Float[Array, "N P"] | None


@dataclasses.dataclass(frozen=True)
class Pooling:
    """How numbers at several positions become one.

    Attributes:
        pool: ``mean`` and ``max`` over positions and vector, ``share_active``, the
            share of them that is positive, or ``last``, the mean over the vector at the
            last position.
        tokens: T of logits [N, T, C]; None if logits are of examples.
        counts: a function of examples to bool [N, T]: the positions that count; None
            where the labels decide, or all count.
        length: T, of logits or of ``counts``; None without either.
    """

    pool: str
    tokens: int | None = None
    counts: Callable[[Any], Any] | None = None
    length: int | None = None

    def axis(self, layer: Layer) -> int | None:
        """Which of a layer's positions are the T tokens; None if it has none.

        Raises:
            ValueError: several axes of that length.
        """
        axes = [i for i, size in enumerate(layer.positions) if size == self.length]
        if len(axes) > 1:
            raise ValueError(
                f"layers: expected one axis of {self.length} tokens in {layer.name}, "
                f"got positions {list(layer.positions)}; leave it out by layers="
            )
        return axes[0] if axes else None

    def counted(self, x: Any, y: ArrayLike | None = None) -> Bool[Array, "N T"] | None:
        """The positions that count, by ``counts`` or by labels of tokens; None: all."""
        if self.counts is not None:
            return jnp.asarray(self.counts(x))
        if self.tokens is None or y is None:
            return None
        return jnp.asarray(y) != IGNORE_LABEL

    def measured(
        self, layer: Layer, outputs: Array, counted: Array | None
    ) -> Float[Array, "N *T n"]:
        """One number per neuron, and example or token.

        Args:
            layer: the layer.
            outputs: [N, *layer.shape].
            counted: bool [N, T], of ``counts``; not used where tokens are measured.

        Returns:
            float32 (float64 if the outputs are); NaN where no position counts.
        """
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        axis, number = self.axis(layer), len(outputs)
        if self.tokens is not None:
            pooled = _pooled(_by_token(layer, outputs, axis), self.pool)
            return jnp.broadcast_to(pooled, (number, self.tokens, layer.num_neurons))
        if counted is None or axis is None:
            shape = (number, math.prod(layer.positions), layer.num_neurons, -1)
            return _pooled(outputs.reshape(shape), self.pool)
        return _pooled_where(_by_token(layer, outputs, axis), self.pool, counted)

    def all_measured(
        self,
        layers: Sequence[Layer],
        outputs: Mapping[str, Array],
        counted: Array | None,
    ) -> Float[Array, "N *T n"]:
        """The same of those layers whose outputs are given by name, side by side."""
        return _side_by_side(
            [
                self.measured(layer, outputs[layer.name], counted)
                for layer in layers
                if layer.name in outputs
            ]
        )

    def activations(
        self,
        layers: Sequence[Layer],
        outputs: Mapping[str, Array],
        pooled: Array | None,
        clamped: Array | None,
    ) -> Activations:
        """What is measured and what clamps replace.

        Args:
            layers: all layers.
            outputs: [N, *layer.shape] by name.
            pooled: bool [N, T], the positions that enter the pooling; None: all.
            clamped: the same of the means.
        """
        pairs = [self.means(lay, outputs[lay.name], clamped) for lay in layers]
        weights = None
        if clamped is not None:
            of_layers = [jnp.broadcast_to(n[:, None], mean.shape) for mean, n in pairs]
            weights = _side_by_side(of_layers)
        means = _side_by_side([mean for mean, _ in pairs])
        return Activations(self.all_measured(layers, outputs, pooled), means, weights)

    def at_counted(
        self, layers: Sequence[Layer], outputs: Mapping[str, Array], x: Any
    ) -> dict[str, Array]:
        """Outputs [N, *layer.shape] of which all tokens are ones that count, in turn.

        Padding of one example would else stand for a word of another.
        """
        counted = self.counted(x)
        if counted is None:
            return dict(outputs)
        first = jnp.argsort(~counted, axis=1, stable=True)
        turn = (
            jnp.arange(counted.shape[1]) % jnp.maximum(counted.sum(axis=1), 1)[:, None]
        )
        rows = jnp.take_along_axis(first, turn, axis=1)
        found = dict(outputs)
        for layer in layers:
            axis = self.axis(layer)
            if axis is not None:
                values = jnp.moveaxis(outputs[layer.name], 1 + axis, 1)
                own = rows.reshape(*rows.shape, *[1] * (values.ndim - 2))
                taken = jnp.take_along_axis(values, own, axis=1)
                found[layer.name] = jnp.moveaxis(taken, 1, 1 + axis)
        return found

    def means(
        self, layer: Layer, outputs: Array, counted: Array | None
    ) -> tuple[Float[Array, "N p"], Float[Array, " N"]]:
        """Each number that a neuron outputs, as its mean over positions that count.

        Args:
            layer: the layer.
            outputs: [N, *layer.shape].
            counted: bool [N, T]; None: all.

        Returns:
            float32 [N, num_neurons * vector] (float64 if the outputs are), and over how
            many positions of the tokens' axis it is the mean; 1 for layers without that
            axis, NaN where ``counts`` leaves none.
        """
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        axis, number = self.axis(layer), len(outputs)
        if counted is None or axis is None:
            flat = outputs.reshape(number, math.prod(layer.positions), -1)
            return flat.mean(axis=1), jnp.ones(number, outputs.dtype)
        each = _by_token(layer, outputs, axis).mean(axis=2)
        each = each.reshape(*counted.shape, -1)
        sizes = counted.sum(axis=1)
        total = jnp.where(counted[:, :, None], each, 0).sum(axis=1)
        weights = sizes.astype(outputs.dtype)
        if self.counts is not None:
            weights = jnp.where(sizes > 0, weights, jnp.nan)
        return total / jnp.maximum(sizes, 1)[:, None], weights


def _side_by_side(arrays: Sequence[Array]) -> Array:
    """Arrays [N, ..., n] of all layers as one, in the widest of their types."""
    dtype = jnp.result_type(*arrays)
    return jnp.concatenate([array.astype(dtype) for array in arrays], axis=-1)


def _by_token(layer: Layer, outputs: Array, axis: int | None) -> Array:
    """[N, T, other positions, neurons, vector]; T is 1 without an axis of tokens."""
    tokens = 1
    if axis is not None:
        outputs, tokens = jnp.moveaxis(outputs, 1 + axis, 1), layer.positions[axis]
    others = math.prod(layer.positions) // tokens
    return outputs.reshape(len(outputs), tokens, others, layer.num_neurons, -1)


def _pooled(values: Float[Array, "*batch positions n vector"], pool: str) -> Array:
    """Over positions and vector, [*batch, n]."""
    if pool == "max":
        return values.max(axis=(-3, -1))
    if pool == "share_active":
        values = (values > 0).astype(values.dtype)
    if pool == "last":
        values = values[..., -1:, :, :]
    return values.mean(axis=(-3, -1))


def _pooled_where(
    values: Float[Array, "N T positions n vector"],
    pool: str,
    counted: Bool[Array, "N T"],
) -> Float[Array, "N n"]:
    """The same over those of the tokens that count; NaN where none does."""
    where = counted[:, :, None, None, None]
    if pool == "last":
        last = counted.shape[1] - 1 - jnp.argmax(counted[:, ::-1], axis=1)
        at_last = last.reshape(-1, 1, 1, 1, 1)
        found = _pooled(jnp.take_along_axis(values, at_last, axis=1)[:, 0], pool)
    elif pool == "max":
        found = jnp.where(where, values, -jnp.inf).max(axis=(1, 2, 4))
    else:
        if pool == "share_active":
            values = (values > 0).astype(values.dtype)
        number = counted.sum(axis=1) * values.shape[2] * values.shape[4]
        total = jnp.where(where, values, 0).sum(axis=(1, 2, 4))
        found = total / jnp.maximum(number, 1)[:, None]
    return jnp.where(counted.any(axis=1)[:, None], found, jnp.nan)


def make_pooling(
    pool: str, tokens: int | None, counts: Callable[[Any], Any] | None, x: Any
) -> Pooling:
    """Checks ``pool`` and ``counts``.

    Args:
        pool: one of ``POOLS``.
        tokens: T of logits [N, T, C], or None.
        counts: a function of examples to bool [N, T], or None.
        x: shape and type of examples, or a pytree of such.

    Raises:
        ValueError: another pool, or a function that returns anything else.
    """
    if counts is None:
        return Pooling(pool, tokens, None, tokens)
    wanted = f"counts: expected a function counts(x) -> bool [N, {tokens or 'T'}]"
    try:
        marks = jax.eval_shape(counts, x)
    except Exception as error:  # of the caller's own function
        raise ValueError(f"{wanted}, got {described(error)}") from error
    shape: Any = getattr(marks, "shape", ())
    given = f"{marks.dtype} {list(shape)}" if shape else f"a {type(marks).__name__}"
    number = count_examples(x)
    is_marks = len(shape) == 2 and marks.dtype == bool
    if not is_marks or shape[0] != number or tokens not in (None, shape[1]):
        raise ValueError(f"{wanted}, got {given} for N = {number}")
    return Pooling(pool, tokens, counts, shape[1])
