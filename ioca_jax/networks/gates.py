"""Gates: values through which alone a network sees a layer, affine in its outputs.

The pre-activations of the next layer are one, where nothing else passes by; so is a
residual stream after a block's last product. What each neuron adds to a gate does not
depend on the other neurons, so it is computed once for many ablations.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from ioca_jax.networks.axes import Site
from ioca_jax.networks.chain import find_path
from ioca_jax.networks.jaxprs import PRODUCTS, Equation, Program

# Of values that do not depend on the layer, only these may depend on the examples: what
# a neuron adds is then the same number for all examples while it outputs a constant.
_ADDITIVE = frozenset({"add", "add_any", "sub", "concatenate", "stack"})


class Gate(NamedTuple):
    """A value that is affine in a layer's outputs.

    Attributes:
        number: of the value in the program.
        axis: the axis of its examples.
        shape: of one example.
        operations: multiplications and additions from the outputs to it, of an example.
    """

    number: int
    axis: int
    shape: tuple[int, ...]
    operations: int

    @property
    def size(self) -> int:
        """How many numbers one example has."""
        return math.prod(self.shape)


def find_gate(
    first: Program, second: Program, sites: Sequence[Site], layer: int
) -> Gate | None:
    """The last gate above a layer that no later layer changes; None without one.

    Args:
        first: the network's program.
        second: the same for one more example.
        sites: of all layers.
        layer: counted from 0.
    """
    path = find_path(first, sites[layer].number, first.output)
    later = {site.number for site in sites[layer + 1 :]}
    later = first.dependents(later, frozenset())
    gate, operations, affine = None, 0, {sites[layer].number}
    for equation in path.equations:
        if not {*equation.outputs} <= {*path.affine} or not _is_alike(
            first, equation, affine
        ):
            break
        affine |= {*equation.outputs}
        operations += _operations(first, equation)
        (number, *more) = equation.outputs
        axis = _axis_of_examples(first, second, number)
        if more or axis is None or number not in path.gates or number in later:
            continue
        shape = first.values[number].shape
        shape = (*shape[:axis], *shape[axis + 1 :])
        examples = first.values[number].shape[axis]
        gate = Gate(number, axis, shape, operations // examples)
    return gate if gate and gate.operations else None


def _is_alike(program: Program, equation: Equation, affine: set[int]) -> bool:
    """Whether an equation treats all examples alike, in float32."""
    others = {*equation.numbers} - affine
    on_x = any(program.values[number].on_x for number in others)
    is_float32 = all(program.values[n].dtype == jnp.float32 for n in equation.outputs)
    return is_float32 and (not on_x or equation.name in _ADDITIVE)


def _axis_of_examples(first: Program, second: Program, number: int) -> int | None:
    """The one axis that is longer with one more example."""
    shapes = first.values[number].shape, second.values[number].shape
    changes = [b - a for a, b in zip(*shapes, strict=True)]
    return changes.index(1) if sorted(changes)[-1:] == [1] == [sum(changes)] else None


def _operations(program: Program, equation: Equation) -> int:
    """Of a product; what else there is takes little beside."""
    if equation.primitive not in PRODUCTS:
        return 0
    (_, weights), (result,) = program.shapes(equation)
    numbers = equation.params["dimension_numbers"]
    if hasattr(numbers, "rhs_spec"):  # of a convolution
        summed = math.prod(weights) // weights[numbers.rhs_spec[0]]
    else:
        summed = math.prod(weights[dim] for dim in numbers[0][1])
    return 2 * math.prod(result) * summed
