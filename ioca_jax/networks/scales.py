"""Factors and offsets that depend on the examples and belong to a layer all the same.

A network that quantises activations as it runs divides a layer's input by a scale, one
number for each example or token, and multiplies the accumulator by the same number.
Such a scale depends on the examples, but it is no computation beside the layer: it says
in which unit the layer's outputs are written. So the walk from a product to its site
passes a factor or an offset that

- is constant along the layer's neurons, but for weights: it depends on the examples
  through numbers that all neurons share (a maximum over the features; a zero point
  times the sums of the columns of the weights);
- comes from below: it depends on no product with weights that the layer's input does
  not depend on. A gate of its own weights, ``sigmoid(x @ g)``, is a layer, and a
  normalisation over a layer's own neurons depends on the layer. Both end the walk;
- is no mask: what is left out for an example has to stay out when a neuron is clamped,
  so the site is before the mask;
- is met before anything that is not affine, or is the scale by which the integers or
  eight-bit floats of the layer were quantised. After an activation function, any other
  factor scales what the layer hands on, and the site is before it. So it is with a
  layer of one neuron, along which everything is constant.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from ioca_jax.networks.axes import Axes
from ioca_jax.networks.jaxprs import Equation, Program
from ioca_jax.networks.rules import rule_of
from ioca_jax.networks.steps import is_elementwise_step
from ioca_jax.networks.walks import Product, with_same_numbers

_ROUNDING = frozenset(["clamp", "convert_element_type", "max", "min", "round"])


class Lineage:
    """From what each value of a program is computed, and along which axes it varies.

    Args:
        program: the program.
        products: all products of data with weights.
    """

    def __init__(self, program: Program, products: Sequence[Product]):
        """Follows all equations once."""
        self.program = program
        self.offsets: set[int] = set()  # results of products with constant data
        self._bits = {product.output: 1 << n for n, product in enumerate(products)}
        self._below = program.below(self._bits)  # a bit for each product
        self._varying = {
            number: longer(value.shape if value.on_x else ())
            for number, value in enumerate(program.values)
            if number not in program.producer
        }
        weighted = {product.output: product for product in products}
        for equation in program.equations:
            product = weighted.get(equation.outputs[0])
            own = None if product is None else self._offset(product)
            if own is not None:
                self.offsets.add(equation.outputs[0])
            for number in equation.outputs:
                varying = self._moved(equation, number) if own is None else own
                self._varying[number] = varying

    def varying(self, number: int) -> frozenset[int]:
        """The axes along which a value depends on the examples."""
        return self._varying[number]

    def is_below(self, number: int, products: Sequence[Product]) -> bool:
        """Whether a value depends on no product but those below some products.

        Products whose data are constant where they contract may be zero points; they do
        not count unless they are among the products.
        """
        own = {product.output for product in products}
        below = sum(self._bits[output] for output in self.offsets - own)
        for product in products:
            below |= self._below.get(product.data, 0)
        return not self._below.get(number, 0) & ~below

    def is_mask(self, number: int) -> bool:
        """Whether a value is true or false, in this or another shape and type."""
        same = with_same_numbers(self.program, number)
        return any(self.program.values[n].dtype == bool for n in same)

    def moving(self, number: int, until: set[int]) -> list[int]:
        """Where elementwise equations take a value's dependence on the examples from.

        Returns values of ``until``, which are not followed further, or results of
        equations that are not elementwise.
        """
        program, pending, seen, ends = self.program, [number], set(), []
        while pending:
            number = pending.pop()
            if number in seen or not program.values[number].on_x:
                continue
            seen.add(number)
            equation = program.equation_of(number)
            if (
                number in until
                or equation is None
                or not treats_each(program, equation)
            ):
                ends.append(number)
            else:
                pending += program.sources_of(number)
        return ends

    def ancestors(self, number: int) -> set[int]:
        """All values that a value is computed from, and itself."""
        steps = self.program.schedule([number], [])
        return {number}.union(*(equation.numbers for equation, _ in steps))

    def _offset(self, product: Product) -> frozenset[int] | None:
        """The varying axes of a product whose data are constant where it contracts.

        None for all other products.
        """
        varying, params = self._varying[product.data], product.equation.params
        shape = self.program.values[product.data].shape
        numbers = params["dimension_numbers"]
        if product.kind == "conv":
            example = numbers.lhs_spec[0]
            is_constant = varying <= {example} and math.prod(shape) > shape[example]
            return frozenset({numbers.out_spec[0]}) if is_constant else None
        (contracted, batch) = (pair[1 - product.weights] for pair in numbers)
        size = math.prod(shape[axis] for axis in contracted)
        if size == 1 or not varying.isdisjoint(contracted):
            return None
        free = [a for a in range(len(shape)) if a not in (*contracted, *batch)]
        weights = self.program.values[product.equation.inputs[product.weights]]
        skipped = len(weights.shape) - len(contracted) - len(batch)
        start = len(batch) + (0 if product.weights else skipped)
        places = {axis: place for place, axis in enumerate(batch)}
        places |= {axis: start + place for place, axis in enumerate(free)}
        return frozenset(places[axis] for axis in varying)

    def _moved(self, equation: Equation, number: int) -> frozenset[int]:
        """The varying axes of an equation's result."""
        values = self.program.values
        shape = values[number].shape
        moving = [n for n in self.program.sources_of(number) if values[n].on_x]
        if not moving:
            return frozenset()
        rule = rule_of(equation.name)
        if rule.has_same_numbers and rule.moved_dims is not None:
            dims, before = self._varying[moving[0]], values[moving[0]].shape
            moved = rule.moved_dims(equation.params, before, shape, dims)
            return longer(shape) if moved is None else frozenset(moved)
        if treats_each(self.program, equation):
            return frozenset().union(*(self._varying[n] for n in moving))
        return longer(shape)


def treats_each(program: Program, equation: Equation) -> bool:
    """Whether an equation treats each number by itself, in this or another shape."""
    same = rule_of(equation.name).has_same_numbers
    return same or is_elementwise_step(program, equation)


def longer(shape: Sequence[int]) -> frozenset[int]:
    """The axes of a shape that have more than one entry."""
    return frozenset(axis for axis, size in enumerate(shape) if size > 1)


def _is_narrow(program: Program, number: int) -> bool:
    """Whether a value is of integers, or of floats of at most eight bits."""
    dtype = program.values[number].dtype
    if jnp.issubdtype(dtype, jnp.integer):
        return True
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits <= 8


class ScaleRule:
    """Which factors and offsets belong to one layer.

    Args:
        lineage: of the program.
        products: the layer's.
    """

    def __init__(self, lineage: Lineage, products: Sequence[Product]):
        """Nothing is accepted yet."""
        self.lineage = lineage
        self.products = products
        self.offsets: set[int] = set()  # products of zero points, once accepted
        self._has_scale = False

    def accepts(
        self, equation: Equation, number: int, axes: Axes, is_affine: bool
    ) -> bool:
        """Whether a value that depends on the examples belongs to the layer.

        Args:
            equation: combines the value with one of the layer's.
            number: the value.
            axes: those of the layer's value.
            is_affine: whether nothing has been passed that is not affine.
        """
        lineage, shape = self.lineage, self.lineage.program.values[number].shape
        neurons = {
            axis
            for axis, parts in enumerate(axes)
            if any(part.role == "neuron" and part.size > 1 for part in parts)
        }
        if not treats_each(lineage.program, equation) or len(shape) != len(axes):
            return False
        if not lineage.varying(number).isdisjoint(neurons):
            return False
        if lineage.is_mask(number) or not lineage.is_below(number, self.products):
            return False
        # All values are constant along one neuron: a residual is as well.
        if not (is_affine and neurons) and not self._undoes(number):
            return False
        self._has_scale = True
        self.offsets |= lineage.offsets & {*lineage.moving(number, set())}
        return True

    def not_accepted(self, number: int) -> str:
        """The equation that scales a layer that stays quantised, after its last value.

        Empty where the layer has its scale or needs none.
        """
        program = self.lineage.program
        if self._has_scale or not any(
            _is_narrow(program, product.data) for product in self.products
        ):
            return ""
        for user in program.users.get(number, []):
            equation = program.equations[user]
            others = {n for n in equation.numbers if program.values[n].on_x}
            if equation.name in ("mul", "div") and any(
                self._undoes(other) for other in others - {number}
            ):
                return equation.name
        return ""

    def _undoes(self, number: int) -> bool:
        """Whether a value is a scale by which the layer's data were quantised."""
        lineage = self.lineage
        for product in self.products:
            if _is_narrow(lineage.program, product.data):
                above = lineage.ancestors(product.data)
                if above.issuperset(lineage.moving(number, above)):
                    return True
        return False


def before_quantization(lineage: Lineage, number: int) -> int:
    """The value that was scaled and rounded to a product's data, or the data."""
    program, start = lineage.program, number
    is_rounded = _is_narrow(program, number)
    while (equation := program.equation_of(number)) is not None:
        full = longer(program.values[number].shape)
        main = [n for n in equation.numbers if lineage.varying(n) == full]
        if len(main) != 1:
            return start
        if equation.name in ("mul", "div") and is_rounded:
            return main[0]
        is_rounded |= equation.name == "round"
        if equation.name not in _ROUNDING | {"same", "add", "sub"}:
            return start
        number = main[0]
    return start
