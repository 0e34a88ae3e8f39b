"""Layers and their neurons, ablations, and what a network hands from layer to layer.

Neurons of all layers lie on one flat axis ``H``, first layer first. A neuron outputs
one number, or several: an attention head outputs a vector. These numbers of all neurons
lie on a flat axis ``P``, neuron by neuron; ``P`` is ``H`` where no neuron is a vector.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ioca_jax.checks import check_clamp


class Ablation(NamedTuple):
    """Which neurons to leave alone, and what the others output instead.

    ``MLP`` and ``CNN`` take flat arrays [H]; a ``Network`` takes all that follows.

    Attributes:
        keep: bool [H], False ablates; or a mapping from layers' names to arrays
            [num_neurons], where layers left out are not ablated.
        clamp: what an ablated neuron outputs: one number for all, [H], or [P], one for
            each number that a neuron outputs; or a mapping from layers' names to one
            number, [num_neurons], ``[num_neurons, *vector]``, ``Layer.shape``, or one
            for each example, ``[N, *Layer.shape]``. Values at kept neurons are not
            used.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> ablation = ioca.Ablation(keep=jnp.arange(5) > 0, clamp=jnp.full(5, 0.5))
        >>> logits, activations = model.apply(variables, x, ablation)
        >>> float(activations[0, 0])
        0.5
    """

    keep: Bool[ArrayLike, " H"] | Mapping[str, ArrayLike]
    clamp: Float[ArrayLike, " P"] | Mapping[str, ArrayLike]


class SoftAblation(Ablation):
    """An ablation by shares, for gradients with respect to the shares.

    A neuron outputs ``keep`` times its own output and ``1 - keep`` times its clamp.
    ``keep`` is a mapping from layers' names to floats [num_neurons], or [N,
    *Layer.shape]; it is not checked.
    """


@dataclasses.dataclass(frozen=True)
class Layer:
    """Neurons that are measured and ablated together.

    Attributes:
        name: unique in the network.
        num_neurons: how many neurons it has.
        kind: ``dense``, ``conv``, ``heads``, ``input`` (of a layer) or ``named`` (by
            ``jax.ad_checkpoint.checkpoint_name``).
        positions: the axes along which a neuron repeats, pixels or tokens; ``()`` if a
            neuron is one number per example.
        vector: the axes of a neuron that is a vector, as an attention head is.

    Example:
        >>> import ioca_jax as ioca
        >>> ioca.Layer("conv", 8, kind="conv", positions=(14, 14)).shape
        (14, 14, 8)
    """

    name: str
    num_neurons: int
    kind: str = "dense"
    positions: tuple[int, ...] = ()
    vector: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's activations: positions, then neurons, then the vector."""
        return (*self.positions, self.num_neurons, *self.vector)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Values:
    """All that the network above a layer depends on, for some examples.

    Attributes:
        outputs: [N, *layer.shape], the layer's own outputs before any ablation of it.
        rest: values that pass by the layer, such as a residual stream.
        num_examples: N.
        counted: bool [N, T], the positions that count; None: all.
        gate: [N, *shape], the layer's ``Gate`` in place of its outputs, which are then
            not looked at; None where it has yet to be computed.
    """

    outputs: Array
    rest: tuple[Array, ...]
    num_examples: int = dataclasses.field(metadata={"static": True})
    counted: Array | None = None
    gate: Array | None = None


def count_neurons(layers: Sequence[Layer]) -> int:
    """H, the number of neurons in all layers."""
    return sum(layer.num_neurons for layer in layers)


def neuron_layers(layers: Sequence[Layer]) -> np.ndarray:
    """int32 [H]: the layer of each neuron, counted from 0."""
    widths = [layer.num_neurons for layer in layers]
    return np.repeat(np.arange(len(layers), dtype=np.int32), widths)


def slices_of(layers: Sequence[Layer]) -> tuple[slice, ...]:
    """Where each layer lies on the neuron axis."""
    ends = np.cumsum([layer.num_neurons for layer in layers]).tolist()
    return tuple(
        slice(end - layer.num_neurons, end)
        for end, layer in zip(ends, layers, strict=True)
    )


def neuron_outputs(layers: Sequence[Layer]) -> np.ndarray:
    """int32 [P]: the neuron of each number that neurons output."""
    sizes = [[math.prod(layer.vector)] * layer.num_neurons for layer in layers]
    sizes = [size for of_layer in sizes for size in of_layer]
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def one_per_neuron(layers: Sequence[Layer], values: Array) -> Array:
    """The first of the numbers [..., P] of each neuron, [..., H]."""
    of_output = neuron_outputs(layers)
    if len(of_output) == count_neurons(layers):
        return values
    return values[..., np.unique(of_output, return_index=True)[1]]


def split_by_layer(layers: Sequence[Layer], values: ArrayLike) -> dict[str, Array]:
    """A flat array as one array per layer, by the layers' names.

    Args:
        layers: the network's layers.
        values: [..., H], or [..., P].

    Returns:
        Arrays [..., num_neurons], or [..., num_neurons, *vector].
    """
    values = jnp.asarray(values)
    if values.shape[-1] == count_neurons(layers):
        ends = [(layer.num_neurons,) for layer in layers]
    else:
        ends = [(layer.num_neurons, *layer.vector) for layer in layers]
    starts = np.cumsum([0, *map(math.prod, ends)])
    return {
        layer.name: values[..., start:stop].reshape(*values.shape[:-1], *end)
        for layer, end, start, stop in zip(
            layers, ends, starts[:-1], starts[1:], strict=True
        )
    }


def by_layer(
    layers: Sequence[Layer], ablation: Ablation
) -> dict[str, tuple[Array, Array]]:
    """An ablation's ``keep`` and ``clamp`` of each layer that may be ablated."""
    sizes = [count_neurons(layers), len(neuron_outputs(layers))]
    keep = _named_arrays("keep", layers, ablation.keep, sizes[:1])
    clamp = _named_arrays("clamp", layers, ablation.clamp, sizes)
    for layer in layers:
        if layer.name in keep and not isinstance(ablation, SoftAblation):
            _check_layer(layer, keep[layer.name], clamp.get(layer.name))
    return {name: (keep[name], clamp[name]) for name in keep}


def _check_layer(layer: Layer, keep: Array, clamp: Array | None) -> None:
    """Refuses what is no ablation of a layer."""
    if clamp is None:
        raise ValueError(f"clamp: lacks {layer.name}, which keep ablates")
    if keep.shape != (layer.num_neurons,):
        raise ValueError(
            f"keep: expected [{layer.num_neurons}] for {layer.name}, got "
            f"{list(keep.shape)}"
        )
    if keep.dtype != bool:
        raise ValueError(f"keep: expected bool, got {keep.dtype}; True keeps")
    shapes = {(layer.num_neurons,), (layer.num_neurons, *layer.vector), layer.shape}
    if clamp.ndim and clamp.shape not in shapes and clamp.shape[1:] != layer.shape:
        expected = " or ".join(str(list(shape)) for shape in sorted(shapes, key=len))
        raise ValueError(
            f"clamp: expected one number, {expected} for {layer.name}, or "
            f"{['N', *layer.shape]} with one for each example, got {list(clamp.shape)}"
        )


def _named_arrays(
    what: str,
    layers: Sequence[Layer],
    given: ArrayLike | Mapping[str, ArrayLike],
    sizes: Sequence[int],
) -> dict[str, Array]:
    """Arrays by layer, from such, from a flat array of a known size, or one number."""
    names = [layer.name for layer in layers]
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                known = ", ".join(names)
                raise ValueError(f"{what}: no layer {name!r}; layers: {known}")
        return {name: jnp.asarray(array) for name, array in given.items()}
    if isinstance(given, str):
        check_clamp(given, sizes[0])  # says how to get the means
    if what == "clamp" and np.shape(given) == ():
        return dict.fromkeys(names, jnp.asarray(given))
    if np.shape(given) not in [(size,) for size in sizes]:
        raise ValueError(
            f"{what}: expected [{sizes[0]}], a number per neuron, got "
            f"{list(np.shape(given))}"
        )
    return split_by_layer(layers, given)
