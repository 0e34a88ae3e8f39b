"""The values of one layer: a product with weights, followed through its equations.

A product's result is followed through elementwise equations, reshapes and transposes
for as long as nothing else that depends on the examples enters but the layer's own
scale (``scales``). The axis of the examples is the one whose size differs between two
traces with different numbers of examples. Where that axis holds positions too, reshapes
show which of the two is outer.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Set
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives

from ioca_jax.networks.axes import Axes, Part, with_role
from ioca_jax.networks.jaxprs import (
    LOOPS,
    PRODUCTS,
    Equation,
    Program,
    equations_inside,
    holds_products,
    is_foreign,
)
from ioca_jax.networks.rules import is_scale, rule_of
from ioca_jax.networks.steps import is_whole


class Traces(NamedTuple):
    """One function, traced with two numbers of examples.

    Attributes:
        first: the program for ``sizes[0]`` examples.
        second: the same equations for ``sizes[1]`` examples.
        sizes: the two numbers of examples.
        outer: for each value whose examples have an axis, the number of positions
            that are counted before the examples on that axis: T for rows [T * N].
    """

    first: Program
    second: Program
    sizes: tuple[int, int]
    outer: Mapping[int, int]

    def differing(self, number: int) -> list[int]:
        """The axes of a value whose size depends on the number of examples."""
        one, two = (program.values[number].shape for program in self[:2])
        return [
            axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b
        ]

    def axes(self, number: int) -> Axes:
        """A value's axes: all but the examples' are positions."""
        examples = self.differing(number) if number in self.outer else []
        result = []
        for axis, size in enumerate(self.first.values[number].shape):
            parts = [Part("position", size, (2 * axis,))]
            if axis in examples:
                before, count = self.outer[number], self.sizes[0]
                parts = [
                    Part("position", before, (2 * axis,)),
                    Part("example", count, ()),
                    Part("position", size // (before * count), (2 * axis + 1,)),
                ]
            result.append(tuple(part for part in parts if part.size > 1))
        return tuple(result)


def place_examples(first: Program, second: Program, sizes: tuple[int, int]) -> Traces:
    """Finds where the examples are on the axes of all values.

    Both programs have the same equations, for ``sizes`` examples each.
    """
    outer = dict.fromkeys(first.x, 1)
    traces = Traces(first, second, sizes, outer)
    for equation in first.equations:
        for number in equation.outputs:
            before = _positions_before(traces, equation, number)
            if before:
                outer[number] = before
    return traces


def _positions_before(traces: Traces, equation: Equation, number: int) -> int | None:
    """Positions counted before the examples on their axis; None without such an axis.

    An equation that is no reshape neither merges axes nor splits them.
    """
    differing, value = traces.differing(number), traces.first.values[number]
    if not value.on_x or len(differing) != 1:
        return None
    (axis,), shape = differing, value.shape
    repeats, rest = divmod(shape[axis], traces.sizes[0])
    if rest or traces.second.values[number].shape[axis] != repeats * traces.sizes[1]:
        return None
    for source in filter(traces.outer.__contains__, equation.numbers):
        (theirs,) = traces.differing(source)
        other = traces.first.values[source].shape
        if equation.name == "reshape":
            rows = math.prod(other[:theirs]) * traces.outer[source]
            before, rest = divmod(rows, math.prod(shape[:axis]))
            return None if rest or not before or repeats % before else before
        if other[theirs] == shape[axis]:
            return traces.outer[source]
    return 1  # the usual place, which the figures confirm or not


class Product(NamedTuple):
    """A product of data with weights.

    Attributes:
        equation: the product.
        weights: which of its operands the weights are, 0 or 1.
    """

    equation: Equation
    weights: int

    @property
    def output(self) -> int:
        """The number of the result."""
        return self.equation.outputs[0]

    @property
    def data(self) -> int:
        """The number of the other operand; nothing else uses it."""
        return self.equation.inputs[1 - self.weights]

    @property
    def kind(self) -> str:
        """Of layer."""
        is_conv = self.equation.primitive is primitives.conv_general_dilated_p
        return "conv" if is_conv else "dense"


def data_products(program: Program) -> Iterator[Product]:
    """Products of what depends on the examples and what does not, the weights."""
    for equation in program.equations:
        on_x = [program.values[number].on_x for number in equation.numbers]
        if equation.primitive in PRODUCTS and sorted(on_x) == [False, True]:
            yield Product(equation, on_x.index(False))


def find_products(program: Program) -> list[Product]:
    """All products of data with weights."""
    return [
        product
        for product in data_products(program)
        if program.values[product.equation.inputs[product.weights]].path is not None
        # The kernel of a convolution is its second operand.
        and (product.weights == 1 or product.kind == "dense")
        and not is_scale(product.equation, program.shapes(product.equation))
    ]


def weight_dims(program: Program, product: Product) -> tuple[list[int], list[int]]:
    """Axes of a product's result: of data and weights together, of weights alone."""
    numbers = product.equation.params["dimension_numbers"]
    if product.kind == "conv":
        return [], [numbers.out_spec[1]]
    (contracted, _), (batch, _) = numbers
    free = [
        len(program.values[operand].shape) - len(batch) - len(contracted)
        for operand in product.equation.numbers
    ]
    start = len(batch) + (free[0] if product.weights else 0)
    return [*range(len(batch))], [*range(start, start + free[product.weights])]


def output_axes(traces: Traces, product: Product) -> Axes:
    """The axes of a product's result: its neurons come from the weights."""
    program, number = traces.first, product.output
    batch, own = weight_dims(program, product)
    shape = program.values[number].shape
    return with_role(traces.axes(number), shape, batch + own, "neuron")


def unfollowed(program: Program, found: Mapping[int, Axes]) -> list[str]:
    """Names of the loops and foreign steps at which a layer's values end.

    Those that take variables besides are left out: the variables are listed.
    """
    users = {index for number in found for index in program.users.get(number, [])}
    ends = [
        program.equations[index]
        for index in sorted(users)
        if _leaves(program, program.equations[index], found.keys(), found)
        and not any(program.values[n].path for n in program.equations[index].numbers)
    ]
    return [*dict.fromkeys(name for end in ends for name in _hidden(end))]


def _leaves(
    program: Program,
    equation: Equation,
    numbers: Set[int],
    found: Mapping[int, Axes],
) -> bool:
    """Whether an equation computes from some values what is not the layer's."""
    return any(
        number not in found
        and not numbers.isdisjoint(sources)
        and (number in program.users or number == program.output)
        for number, sources in zip(equation.outputs, equation.sources, strict=True)
    )


def _hidden(equation: Equation) -> list[str]:
    """What in an equation cannot be looked into; products in it are listed apart."""
    if holds_products(equation):
        return []
    return [
        eqn.primitive.name
        for eqn in [equation, *equations_inside(equation)]
        if eqn.primitive in LOOPS or is_foreign(eqn)
    ][:1]


def is_float(program: Program, number: int) -> bool:
    """Whether a value is floating point: a clamp there is not rounded."""
    return jnp.issubdtype(program.values[number].dtype, jnp.floating)


def last_cut(
    program: Program, found: Mapping[int, Axes], starts: Collection[int]
) -> int | None:
    """The last of a layer's values through which all other equations see it.

    If that is not floating point, the last before it is rounded. None if several
    products are seen one by one.
    """
    numbers = sorted(found)
    outside = {
        number
        for number in numbers
        if number == program.output
        or any(
            _leaves(program, program.equations[user], {number}, found)
            for user in program.users.get(number, [])
        )
    }
    end = len(program.values)
    for cut in reversed(numbers):
        around = {*starts} - {cut}  # what the layer reaches without the cut
        for number in numbers:
            inputs = program.sources_of(number)
            if number != cut and not around.isdisjoint(inputs):
                around.add(number)
        if cut >= end or not is_whole(found[cut]) or not around.isdisjoint(outside):
            continue
        if is_float(program, cut):
            return cut
        rounded = [n for n in numbers if _name_of(program, n) == "round"]
        end = min([cut, *rounded])
    return numbers[0] if len(starts) == 1 else None


def _name_of(program: Program, number: int) -> str:
    equation = program.equation_of(number)
    return "" if equation is None else equation.name


def comes_of_sigmoid(program: Program, number: int) -> bool:
    """Whether a value is a logistic function's, in this or another shape."""
    *_, origin = with_same_numbers(program, number)
    return _name_of(program, origin) == "logistic"


def with_same_numbers(program: Program, number: int) -> Iterator[int]:
    """A value, and those above it of the same numbers in another shape or type."""
    yield number
    while rule_of(_name_of(program, number)).has_same_numbers:
        number = program.sources_of(number)[0]
        yield number
