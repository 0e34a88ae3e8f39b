"""The axes of a traced layer's value: examples, positions, neurons, a neuron's vector.

A value's axes are products of parts, each with a role: an axis of ``N T`` tokens is a
part of N examples times a part of T positions. Reshapes and transposes move parts and
change none, so a layer can be followed through them, and every value of a layer can be
viewed as ``[N, *positions, neurons, *vector]``, whatever its own layout.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ioca_jax.networks.layers import Layer

ROLES = ("example", "position", "neuron", "vector")


class Part(NamedTuple):
    """A factor of an axis.

    Attributes:
        role: one of ``ROLES``.
        size: how long it is.
        rank: parts of one role are in the order of their ranks.
    """

    role: str
    size: int
    rank: tuple[int, ...]


Axes = tuple[tuple[Part, ...], ...]  # one tuple of parts for each axis


class Site(NamedTuple):
    """A value that is replaced where neurons are ablated.

    Attributes:
        number: the value's number in the program.
        layer: what it is to the user.
        parts: the factors of its axes in order; an axis of size 1 may have none.
    """

    number: int
    layer: Layer
    parts: tuple[Part, ...]

    @property
    def view(self) -> tuple[int, ...]:
        """The shape with one axis for each part, -1 for the examples."""
        return tuple(-1 if part.role == "example" else part.size for part in self.parts)

    @property
    def order(self) -> tuple[int, ...]:
        """The view's axes sorted: example, positions, neurons, vector."""

        def key(axis: int) -> tuple:
            return ROLES.index(self.parts[axis].role), self.parts[axis].rank

        return tuple(sorted(range(len(self.parts)), key=key))

    @property
    def has_examples(self) -> bool:
        """Whether one part is the examples, so that each row is of one of them."""
        return [part.role for part in self.parts].count("example") == 1

    def sizes(self, role: str) -> tuple[int, ...]:
        """The sizes of the parts of one role, in order."""
        parts = [self.parts[axis] for axis in self.order]
        return tuple(part.size for part in parts if part.role == role)

    def canonical(self, value: Array) -> Array:
        """The value as [N, *layer.shape]."""
        view = value.reshape(self.view).transpose(self.order)
        return view.reshape(-1, *self.layer.shape)

    def from_canonical(self, outputs: Array, shape: Sequence[int]) -> Array:
        """The inverse of ``canonical``, for a value of some shape."""
        sizes = [self.view[axis] for axis in self.order]
        return outputs.reshape(sizes).transpose(np.argsort(self.order)).reshape(shape)

    def ablate(self, value: Array, keep: Array, clamp: Array) -> Array:
        """The value with some neurons at their clamps, in the value's own type.

        Args:
            value: of any number of examples.
            keep: bool [num_neurons]; or, of a ``SoftAblation``, shares of the value
                that neurons keep, [num_neurons] or [N, *layer.shape].
            clamp: [], [num_neurons], [num_neurons, *vector], ``layer.shape`` or
                [N, *layer.shape].

        Returns:
            An array like ``value``.
        """
        clamped = self._spread(clamp).astype(value.dtype)
        view, keep = value.reshape(self.view), self._spread(keep)
        if keep.dtype == bool:
            ablated = jnp.where(keep, view, clamped)
        else:
            share = keep.astype(value.dtype)
            ablated = share * view + (1 - share) * clamped
        return ablated.reshape(value.shape)

    def _spread(self, array: Array) -> Array:
        """An array of the layer, broadcast against the view."""
        layer, examples = self.layer, 1
        positions, neurons, vector = map(self.sizes, ("position", "neuron", "vector"))
        if array.ndim > len(layer.shape):
            examples = len(array)
        elif array.shape != layer.shape:
            positions = (1,) * len(positions)
        if array.ndim == 0:
            neurons = (1,) * len(neurons)
        if array.ndim < 2 and array.shape != layer.shape:
            vector = (1,) * len(vector)
        shape = (examples, *positions, *neurons, *vector)
        return array.reshape(shape).transpose(np.argsort(self.order))


def make_site(number: int, axes: Axes, name: str, kind: str) -> Site:
    """A site from the axes of its value."""
    parts = tuple(part for axis in axes for part in axis)
    site = Site(number, Layer(name, 1), parts)
    # An axis that a reshape has split, into windows say, has the positions that it had.
    placed = [parts[axis] for axis in site.order if parts[axis].role == "position"]
    positions = tuple(
        math.prod(part.size for part in group)
        for _, group in itertools.groupby(placed, key=lambda part: part.rank[0])
    )
    neurons, vector = map(site.sizes, ("neuron", "vector"))
    layer = Layer(name, math.prod(neurons), kind, positions, vector)
    return site._replace(layer=layer)


def with_role(axes: Axes, shape: Sequence[int], dims: Sequence[int], role: str) -> Axes:
    """Axes of which some get another role, ranked in the order of ``dims``."""
    result = list(axes)
    for rank, axis in enumerate(dims):
        result[axis] = (Part(role, shape[axis], (rank,)),)
    return tuple(result)


def regroup(parts: list[Part], shape: Sequence[int]) -> Axes | None:
    """Parts put on the axes of a reshaped value; None where they do not fit."""
    result, rest = [], list(parts)
    for size in shape:
        group = []
        while size > 1 and rest:
            part = rest.pop(0)
            if size % part.size == 0:
                group.append(part)
                size //= part.size
            elif part.size % size == 0 and part.role != "example":
                inner = part.size // size
                group.append(part._replace(size=size, rank=(*part.rank, 0)))
                rest.insert(0, part._replace(size=inner, rank=(*part.rank, 1)))
                size = 1
            else:
                return None
        if size > 1:
            return None
        result.append(tuple(group))
    return None if rest else tuple(result)
