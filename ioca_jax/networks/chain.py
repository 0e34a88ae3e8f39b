"""Chains: the layers of a network as affine maps with activations between them.

A network is a chain from a layer on if every layer above is dense without positions,
nothing else passes by, and each stretch from a layer's outputs is affine up to the next
layer's pre-activations, and treats each neuron by itself from there on. Who wrote the
network, and in which framework, is of no matter. Kernel and bias of a stretch are its
linear map, applied to the identity, and its value at 0: batch norm at inference,
scales, and products in a row fold themselves into them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ioca_jax.networks.activations import Activation, find_activation
from ioca_jax.networks.axes import Axes, Part, Site
from ioca_jax.networks.jaxprs import (
    PRODUCTS,
    Equation,
    Program,
    evaluate,
    is_affine_in,
)
from ioca_jax.networks.layers import Layer


class Affine(NamedTuple):
    """One layer's map, ``outputs = activation(inputs @ kernel + bias)``.

    ``parameters`` are those of the activation, [outputs] each; empty for most layers
    and for the map to the logits, which has no activation.
    """

    kernel: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]
    parameters: tuple[Float[Array, " outputs"], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """From a layer's outputs to the next layer's, or to the logits.

    Attributes:
        start: the site of the layer.
        end: the site of the next layer's pre-activations, or of the logits.
        activation: from the pre-activations to the next layer's outputs.
        precision: of its products.
    """

    start: Site
    end: Site
    activation: Activation
    precision: Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AffineChain:
    """A network from one layer on, as affine maps; equal to itself alone.

    Layers are counted from 0, as in the network; layer ``len(widths)`` is the logits.
    Arrays are feature-major: neurons first, then examples.

    Attributes:
        lowest: the first layer of the chain; -1 for the inputs.
        widths: numbers of neurons of all layers, those below the chain included.
        num_classes: C.
    """

    lowest: int
    widths: tuple[int, ...]
    num_classes: int
    _program: Program
    _stretches: tuple[_Stretch, ...]
    _known: Callable[[Any, Program], dict[int, Any]]

    @property
    def num_layers(self) -> int:
        """L, the number of layers of the network."""
        return len(self.widths)

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each layer lies on the neuron axis."""
        ends = np.cumsum(self.widths).tolist()
        pairs = zip(ends, self.widths, strict=True)
        return tuple(slice(end - width, end) for end, width in pairs)

    @property
    def layer_of_neuron(self) -> np.ndarray:
        """int32 [H]: the layer of each neuron, counted from 0."""
        return np.repeat(np.arange(self.num_layers, dtype=np.int32), self.widths)

    @property
    def num_neurons(self) -> int:
        """H."""
        return sum(self.widths)

    def maps(self, variables: Any) -> dict[int, Affine]:
        """By layer, the maps into the layers above the lowest and to the logits.

        Args:
            variables: of one network.
        """
        known = self._known(variables, self._program)
        maps = [self._map(known, stretch) for stretch in self._stretches]
        return dict(enumerate(maps, self.lowest + 1))

    def activate(self, layer: int, parameters: Sequence[Array], z: Array) -> Array:
        """The outputs of some neurons of a layer.

        Args:
            layer: counted from 0.
            parameters: of the activation, of these neurons: [rows] each, or numbers.
            z: pre-activations [rows, ...], or [...] of one neuron.
        """
        return self._stretches[layer - self.lowest - 1].activation(parameters, z)

    def is_alike(self, layer: int, other: int) -> bool:
        """Whether two layers have the same activation function."""
        keys = [self._stretches[k - self.lowest - 1].activation for k in (layer, other)]
        return keys[0] == keys[1]

    def multiply(self, a: Array, b: Array) -> Array:
        """A matrix product in the network's precision."""
        return jnp.matmul(a, b, precision=self._stretches[0].precision)

    def pre_activations(self, affine: Affine, outputs: Array) -> Array:
        """One layer's pre-activations, or logits, of outputs [..., inputs, n]."""
        return self.multiply(affine.kernel.T, outputs) + affine.bias[:, None]

    def _map(self, known: Mapping[int, Any], stretch: _Stretch) -> Affine:
        start, end, program = stretch.start, stretch.end, self._program
        schedule = program.schedule([end.number], [start.number])
        shape = program.values[start.number].shape

        def pair(outputs: Float[Array, "2 inputs"]) -> Float[Array, "2 outputs"]:
            values = {**known, start.number: start.from_canonical(outputs, shape)}
            evaluate(schedule, values)
            return end.canonical(values[end.number])

        # Examples go by two, the number that the program was traced with.
        width = start.layer.num_neurons
        identity = jnp.eye(width + width % 2, width).reshape(-1, 2, width)
        zeros = jnp.zeros((2, width))
        bias, linear = jax.linearize(pair, zeros)
        kernel = jax.vmap(linear)(identity).reshape(-1, bias.shape[1])[:width]
        parameters = stretch.activation.parameters_of(program, known)
        return Affine(kernel, bias[0], parameters)


def find_chain(
    program: Program,
    sites: Sequence[Site],
    axes: Mapping[int, Axes],
    lowest: int,
    known: Callable[[Any, Program], dict[int, Any]],
) -> AffineChain | None:
    """The chain from a layer on; None where the network is none.

    Args:
        program: the network's, of two examples.
        sites: of its layers.
        axes: of the values of all layers, by number.
        lowest: the first layer of the chain, counted from 0; -1 for the inputs.
        known: variables and constants by number, from a network's variables.
    """
    layers = sites[max(lowest, 0) :]
    if len(program.values[program.output].shape) > 2:  # logits of tokens
        return None
    if lowest < 0 and len(program.x) > 1:
        return None
    if any(site.layer.positions or site.layer.vector for site in layers):
        return None
    if not all(_is_gate(program, site.number) for site in layers):
        return None
    num_classes = program.values[program.output].shape[1]
    logits = _flat_site(program, program.output)
    starts = [*layers] if lowest >= 0 else [_flat_site(program, *program.x), *layers]
    ends = [*starts[1:], logits]
    stretches = []
    for start, end in zip(starts, ends, strict=True):
        stretch = _find_stretch(program, axes, start, end, is_last=end is logits)
        if stretch is None:
            return None
        stretches.append(stretch)
    if len({str(stretch.precision) for stretch in stretches}) > 1:
        return None
    widths = tuple(site.layer.num_neurons for site in sites)
    return AffineChain(lowest, widths, num_classes, program, tuple(stretches), known)


def _flat_site(program: Program, number: int) -> Site:
    """The inputs or the logits, [N, ...], as one layer."""
    count, *rest = program.values[number].shape
    size = int(np.prod(rest))
    parts = (Part("example", count, ()), Part("neuron", size, (0,)))
    return Site(number, Layer("", size), parts)


class Path(NamedTuple):
    """The equations from one value to another.

    Attributes:
        equations: those that depend on the first value.
        affine: numbers of the values that are affine in it, in order.
        gates: of these, values through which alone all later equations depend on it.
    """

    equations: list[Equation]
    affine: list[int]
    gates: list[int]


def find_path(program: Program, start: int, end: int) -> Path:
    """What leads from one value to another, by their numbers."""
    schedule = program.schedule([end], [start])
    moving, affine, equations = {start: 0}, {start}, []
    last_use: dict[int, int] = {}
    for equation, _ in schedule:
        mine = moving.keys() & {*equation.numbers}
        if not mine:
            continue
        equations.append(equation)
        index = len(equations)
        last_use |= dict.fromkeys(mine, index)
        if mine <= affine and is_affine_in(equation, mine):
            affine |= {*equation.outputs}
        moving |= dict.fromkeys(equation.outputs, index)
    gates = [
        number
        for number, born in moving.items()
        if number in affine
        and all(
            last_use.get(other, 0) <= born
            for other, other_born in moving.items()
            if other != number and other_born <= born
        )
    ]
    return Path(equations, [n for n in moving if n in affine], gates)


def _find_stretch(
    program: Program, axes: Mapping[int, Axes], start: Site, end: Site, is_last: bool
) -> _Stretch | None:
    """The stretch from one site to the next, if it can be one of a chain."""
    path = find_path(program, start.number, end.number)
    known = [n for n in path.gates if n == end.number or n in axes]
    if not known or (is_last and known[-1] != end.number):
        return None
    number = known[-1]
    affine = path.affine[: path.affine.index(number) + 1]
    if any(program.values[n].dtype != jnp.float32 for n in affine):
        return None
    pre = end
    if number != end.number:
        pre = Site(number, end.layer, tuple(p for axis in axes[number] for p in axis))
    activation = find_activation(program, axes, pre, end)
    products = [e for e in path.equations if e.primitive in PRODUCTS]
    precisions = {str(e.params["precision"]): e.params["precision"] for e in products}
    if activation is None or len(precisions) != 1:
        return None
    return _Stretch(start, pre, activation, next(iter(precisions.values())))


def _is_gate(program: Program, number: int) -> bool:
    """Whether the logits depend on the examples through one value alone."""
    found = {*program.x} - {number}
    for equation in program.equations:
        for output, inputs in zip(equation.outputs, equation.sources, strict=True):
            if output != number and not found.isdisjoint(inputs):
                found.add(output)
    return program.output not in found
