"""Layers of several products: one unit, written as a sum.

``relu(x @ w + (x @ p) @ q)``, an adapter of low rank, is one layer: nothing that is not
affine stands between its input and the sum, so its neurons are what comes after the sum
and the activation. Addends that are affine in one and the same value, each through
products with weights of its own, are one unit, named by its largest weights. ``x @ p``
is inside it and no layer. A residual ``h + h @ w`` has an addend without a product of
its own, and a shortcut or the step of a recurrent network, ``x @ w + h @ u``, adds what
is affine in different values; these products stay layers of their own.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from ioca_jax.networks.axes import Axes
from ioca_jax.networks.jaxprs import Equation, Program, is_affine_in
from ioca_jax.networks.scales import (
    Lineage,
    ScaleRule,
    before_quantization,
    longer,
    treats_each,
)
from ioca_jax.networks.steps import follow
from ioca_jax.networks.walks import Product, Traces, last_cut, output_axes

_SUMS = frozenset(["add", "add_any", "sub"])


class Unit(NamedTuple):
    """The products of one layer.

    Attributes:
        products: those whose results are summed, the one with most weights first.
        inside: results of products inside the unit: of low rank, or of zero points.
        values: the axes of the layer's values, by number.
        cut: the number of the value that is its site.
        scale: the name of an equation that scales a quantised product by numbers that
            depend on the examples and differ between neurons; empty for most units.
    """

    products: tuple[Product, ...]
    inside: frozenset[int]
    values: dict[int, Axes]
    cut: int
    scale: str = ""


class _Form(NamedTuple):
    """A value as an affine function of another, through products with weights.

    Attributes:
        base: the number of the other value.
        passed: results of all products on the way.
        common: of those that all addends have passed, or that are below such a product.
        last: of the last of each addend.
    """

    base: int
    passed: frozenset[int] = frozenset()
    common: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


def find_units(traces: Traces, products: Sequence[Product]) -> list[Unit]:
    """The layers of a network, each of one product or more, in the products' order.

    Each product is one of a unit, or inside one.
    """
    program, lineage = traces.first, Lineage(traces.first, products)
    by_output = {product.output: product for product in products}
    units: list[Unit] = []
    for form in _sums(lineage, by_output):
        taken = {product.output for unit in units for product in unit.products}
        if form.last.isdisjoint(taken):
            members = [by_output[number] for number in sorted(form.last)]
            inside = form.passed - form.last - form.common
            units += _make_unit(traces, lineage, members, inside)
    taken = {product.output for unit in units for product in unit.products}
    for product in products:
        if product.output not in taken:
            units += _make_unit(traces, lineage, [product], frozenset())
    inside = _inside(program, units)
    units = [
        unit._replace(inside=unit.inside & inside)
        for unit in units
        if not inside.issuperset(product.output for product in unit.products)
    ]
    return sorted(units, key=lambda unit: unit.products[0].output)


def _make_unit(
    traces: Traces,
    lineage: Lineage,
    products: Sequence[Product],
    inside: frozenset[int],
) -> list[Unit]:
    """The unit of some products, or none if they are not seen as one value."""
    program, rule = traces.first, ScaleRule(lineage, products)
    starts = {product.output: output_axes(traces, product) for product in products}
    values = follow(program, starts, rule.accepts)
    cut = last_cut(program, values, starts)
    if cut is None:
        return []

    def size(product: Product) -> int:
        weights = product.equation.inputs[product.weights]
        return math.prod(program.values[weights].shape)

    by_size = tuple(sorted(products, key=size, reverse=True))
    scale = rule.not_accepted(cut)
    return [Unit(by_size, inside | rule.offsets, values, cut, scale)]


def _sums(lineage: Lineage, by_output: Mapping[int, Product]) -> list[_Form]:
    """Sums of two products or more that are affine in one value, the last first."""
    program, sums = lineage.program, []
    forms: dict[int, _Form] = {}
    for equation in program.equations:
        product = by_output.get(equation.outputs[0])
        moving = {n for n in equation.numbers if program.values[n].on_x}
        if product is not None:
            data = before_quantization(lineage, product.data)
            form, own = forms.get(data, _Form(data)), frozenset({product.output})
            form = _Form(form.base, form.passed | own, form.passed | own, own)
        elif _is_affine(program, equation, moving):
            known = [forms.get(number, _Form(number)) for number in sorted(moving)]
            form = known[0] if len(known) == 1 else _sum(equation, known)
            if len(known) > 1 and form is not None and len(form.last) > 1:
                sums.append(form)
        else:
            form = None
        if form is None and len(moving) > 1 and treats_each(program, equation):
            form = _scaled(lineage, equation, moving, forms)
        if form is not None:
            forms |= dict.fromkeys(equation.outputs, form)
    return sums[::-1]


def _is_affine(program: Program, equation: Equation, moving: set[int]) -> bool:
    """Whether an equation is affine in all that depends on the examples."""
    if not moving or not is_affine_in(equation, moving):
        return False
    types = [program.values[n].dtype for n in (*moving, *equation.outputs)]
    return jnp.issubdtype(types[-1], jnp.inexact) or not any(
        jnp.issubdtype(dtype, jnp.inexact) for dtype in types
    )


def _sum(equation: Equation, addends: Sequence[_Form]) -> _Form | None:
    """Several affine functions of one value together; None if they are no unit."""
    if len({form.base for form in addends}) > 1:
        return None
    if not any(form.passed for form in addends):
        return addends[0]
    if equation.name not in _SUMS or not all(form.passed for form in addends):
        return None
    union = frozenset[int]().union
    return _Form(
        addends[0].base,
        union(*(form.passed for form in addends)),
        frozenset.intersection(*(form.common for form in addends)),
        union(*(form.last for form in addends)),
    )


def _scaled(
    lineage: Lineage,
    equation: Equation,
    moving: set[int],
    forms: Mapping[int, _Form],
) -> _Form | None:
    """A layer's values with a scale or a zero point, as without it."""
    values = lineage.program.values
    shape = values[equation.outputs[0]].shape
    varying = {number: lineage.varying(number) for number in moving}
    full = longer(shape)
    layers = [n for n in moving if varying[n] == full and n in forms]
    scales = [number for number in moving if varying[number] < full]
    if equation.name not in _SUMS | {"mul", "div"} or len(layers) != 1:
        return None
    if len(scales) != len(moving) - 1:
        return None
    form = forms[layers[0]]
    return form if form.passed else None


def _inside(program: Program, units: Sequence[Unit]) -> set[int]:
    """Results of products that reach the output through their units alone."""
    candidates = frozenset[int]().union(*(unit.inside for unit in units))
    inside = set(candidates)
    for candidate in candidates:
        stops = set(candidates - {candidate})
        for unit in units:
            if candidate in unit.inside:
                stops |= unit.values.keys()
        reached = program.dependents({candidate}, stops)
        if program.output in reached:
            inside.discard(candidate)
    return inside


def values_of(program: Program, unit: Unit) -> set[int]:
    """The values up to a unit's site that are computed from its products."""
    values = unit.values.keys() | program.dependents(unit.inside, frozenset())
    return {*unit.inside, *(number for number in values if number <= unit.cut)}


def shared_inputs(program: Program, units: Sequence[Unit]) -> dict[int, int]:
    """Copies of one value that the products of one unit take, each by the first.

    Every product has a copy of its input of its own, so that ablating it affects no
    other layer. The products of one unit share one.
    """
    shared: dict[int, int] = {}
    for unit in units:
        members = {product.output for product in unit.products} | unit.inside
        first: dict[int, int] = {}
        for member in sorted(members):
            for number in program.equations[program.producer[member]].numbers:
                source = program.equation_of(number)
                if source is not None and source.name == "same":
                    kept = first.setdefault(source.numbers[0], number)
                    if kept != number:
                        shared[number] = kept
    return shared


def share_inputs(program: Program, shared: Mapping[int, int]) -> Program:
    """A program whose equations take the first of several copies of one value."""

    def moved(equation: Equation) -> Equation:
        inputs = (
            shared.get(item, item) if isinstance(item, int) else item
            for item in equation.inputs
        )
        sources = (tuple(shared.get(n, n) for n in own) for own in equation.sources)
        return equation._replace(inputs=tuple(inputs), sources=tuple(sources))

    kept = [e for e in program.equations if shared.keys().isdisjoint(e.outputs)]
    return dataclasses.replace(program, equations=tuple(map(moved, kept)))
