"""What every part of the library asks of a network, and what a layer is.

A network is a pure function of its variables, some examples and an optional ablation;
it returns its logits and one number per example and neuron. Neurons of all layers lie
on one flat axis ``H``, first layer first. Anything with the attributes of ``Network``
is one: nothing is inherited.

``StagedNetwork`` is for engines that run many ablations of one network: what lies below
an ablated layer is computed once, what lies above it once per ablation.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ioca_jax.checks import check_clamp, check_keep


class Ablation(NamedTuple):
    """Which neurons to leave alone, and what the others output instead.

    Attributes:
        keep: bool [H]; False ablates. For traced networks also a mapping from layers'
            names to arrays [num_neurons]; layers left out are not ablated.
        clamp: float32 [H]; the constant output of an ablated neuron. Values at kept
            neurons are not used. For traced networks also a mapping from layers' names
            to arrays: [num_neurons], ``[num_neurons, *vector]`` or ``Layer.shape``.

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
    clamp: Float[ArrayLike, " H"] | Mapping[str, ArrayLike]


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


@runtime_checkable
class Network(Protocol):
    """What measures and ablations need of a network.

    Networks are static arguments under ``jit``, so they hash.

    Example:
        >>> import ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> isinstance(model, ioca.Network), model.num_neurons
        (True, 5)
    """

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The hidden layers, first layer first."""
        ...

    @property
    def num_neurons(self) -> int:
        """H, the number of neurons in all layers."""
        ...

    @property
    def layer_of_neuron(self) -> np.ndarray:
        """int32 [H]: the layer of each neuron, counted from 0."""
        ...

    @property
    def num_classes(self) -> int:
        """C, the number of logits."""
        ...

    def apply(
        self, variables: Any, x: ArrayLike, ablation: Ablation | None = None
    ) -> tuple[Float[Array, "N C"], Float[Array, "N H"]]:
        """Logits, and one number per example and neuron."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Values:
    """All that the network above a layer depends on, for some examples.

    Attributes:
        outputs: [N, *layer.shape], the layer's own outputs before any ablation of it.
        rest: values that pass by the layer, such as a residual stream.
        num_examples: N.
    """

    outputs: Array
    rest: tuple[Array, ...]
    num_examples: int = dataclasses.field(metadata={"static": True})


@runtime_checkable
class StagedNetwork(Network, Protocol):
    """A network that can be stopped at a layer and resumed from there."""

    def prefix(
        self,
        variables: Any,
        x: ArrayLike,
        layer: int,
        ablation: Ablation | None = None,
    ) -> Values:
        """Runs up to a layer; of the ablation, only layers below it count."""
        ...

    def advance(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> Values:
        """Runs from one layer to the next; of the ablation, only that layer counts."""
        ...

    def above(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> tuple[Float[Array, "N C"], Float[Array, "N upper"]]:
        """Runs from a layer to the logits; returns activations from that layer on."""
        ...

    def is_affine_above(self, layer: int) -> bool:
        """Whether the logits are an affine function of the layer's outputs."""
        ...


def check_ablation(ablation: Ablation, num_neurons: int) -> None:
    """Refuses what is not an ablation of a network.

    Args:
        ablation: of one network; NaN may stand where a neuron is kept.
        num_neurons: H.

    Raises:
        ValueError: ``keep`` is not bool [H], or the clamp not float32 [H].
    """
    keep: Any = ablation.keep
    clamp: Any = ablation.clamp
    check_keep(keep, num_neurons)
    check_clamp(clamp, num_neurons, kept=keep)
    for name, array in (("keep", keep), ("clamp", clamp)):
        if jnp.ndim(array) > 1:
            raise ValueError(
                f"{name}: expected shape [{num_neurons}], got {list(jnp.shape(array))};"
                " vmap over ablations, or evaluate_masks, takes many"
            )


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


def split_by_layer(layers: Sequence[Layer], values: ArrayLike) -> dict[str, Array]:
    """A flat array as one array per layer, by the layers' names.

    Args:
        layers: the network's layers.
        values: [..., H].

    Returns:
        Arrays [..., num_neurons].
    """
    values = jnp.asarray(values)
    return {
        layer.name: values[..., where]
        for layer, where in zip(layers, slices_of(layers), strict=True)
    }


POOLS = ("mean", "max", "share_active", "last")


def pool_activations(layer: Layer, outputs: Array, pool: str) -> Float[Array, "N n"]:
    """One number per example and neuron.

    Args:
        layer: the layer.
        outputs: [N, *layer.shape].
        pool: ``mean`` and ``max`` over positions and vector, ``share_active``, the
            share of them that is positive, or ``last``, the mean over the vector at the
            last position.

    Returns:
        float32 [N, num_neurons] (float64 if the outputs are).
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    shape = (len(outputs), math.prod(layer.positions), layer.num_neurons, -1)
    outputs = outputs.reshape(shape)
    if pool == "max":
        return outputs.max(axis=(1, 3))
    if pool == "share_active":
        outputs = (outputs > 0).astype(outputs.dtype)
    if pool == "last":
        outputs = outputs[:, -1:]
    return outputs.mean(axis=(1, 3))
