"""The activation of a layer, as a function of any of its neurons.

What stands between a layer's pre-activations and its outputs treats each number by
itself. Its equations were traced for arrays of one shape; here they run on arrays of
any shape whose first axis is some of the neurons, in any order. Parameters of the
activation, such as the slopes of a PReLU or a batch norm after the nonlinearity, are
arrays of one number for each neuron.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ioca_jax.networks.axes import Axes, Site, make_site
from ioca_jax.networks.elementwise import is_elementwise
from ioca_jax.networks.inlining import flat_body
from ioca_jax.networks.jaxprs import (
    Equation,
    Program,
    bind,
    called_jaxpr,
    evaluate,
)
from ioca_jax.networks.rules import rule_of


@dataclasses.dataclass(frozen=True)
class _Slot:
    """A value that is computed, by its place in the list of such values."""

    place: int


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A parameter, by its place among the parameters."""

    place: int


class _Number(NamedTuple):
    """A number known beforehand, and whether it fills an array; equal by its text."""

    text: str
    is_spread: bool
    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and self[:2] == other[:2]

    def __hash__(self) -> int:
        return hash(self[:2])


class _Step(NamedTuple):
    """One operation on slots, parameters and numbers."""

    primitive: Any
    params: tuple[tuple[str, Any], ...]
    inputs: tuple[_Slot | _Parameter | _Number, ...]

    def run(self, slots: Sequence[Array], parameters: Sequence[Array]) -> Array:
        """The operation's result, of the shape of the slots."""
        shape = slots[0].shape

        def read(item: Any) -> Any:
            if isinstance(item, _Slot):
                return slots[item.place]
            if isinstance(item, _Number):
                value = jnp.asarray(item.value)
                return jnp.broadcast_to(value, shape) if item.is_spread else value
            value = parameters[item.place]
            value = value.reshape(*value.shape, *[1] * (len(shape) - value.ndim))
            return jnp.broadcast_to(value, shape)

        return bind(self.primitive, dict(self.params), map(read, self.inputs))[0]


@dataclasses.dataclass(frozen=True)
class Activation:
    """The function of a layer; equal to others with the same steps.

    Attributes:
        steps: in order; slot 0 is the pre-activations.
        result: the slot of the outputs.
        sources: of each parameter, the number of its value and, where it has one number
            for each neuron, its site and the shape that it fills; these do not count
            when two are compared.
        width: the number of neurons.
    """

    steps: tuple[_Step, ...]
    result: int
    sources: tuple["_Source", ...] = dataclasses.field(compare=False)
    width: int = dataclasses.field(compare=False)

    def __call__(self, parameters: Sequence[Array], z: Array) -> Array:
        """The outputs; ``z`` begins with the neurons, as each parameter does."""
        slots = [z]
        for step in self.steps:
            slots.append(step.run(slots, parameters))
        return slots[self.result]

    def parameters_of(
        self, program: Program, known: Mapping[int, Any]
    ) -> tuple[Array, ...]:
        """The parameters of one network, [width] each.

        Args:
            program: the network's.
            known: variables and constants, by number.
        """
        values = dict(known)
        numbers = [source.number for source in self.sources]
        evaluate(program.schedule(numbers, []), values)
        found = []
        for number, site, shape in self.sources:
            value = jnp.broadcast_to(jnp.asarray(values[number]), shape)
            value = value if site is None else site.canonical(value)[0]
            found.append(jnp.broadcast_to(value, (self.width,)))
        return tuple(found)


class _Source(NamedTuple):
    """Where a parameter comes from."""

    number: int
    site: Site | None
    shape: tuple[int, ...]


def find_activation(
    program: Program, axes: Mapping[int, Axes], start: Site, end: Site
) -> Activation | None:
    """What stands between two sites of one layer; None if it cannot be run so.

    Args:
        program: the network's.
        axes: of the layer's values, by number.
        start: of the pre-activations.
        end: of the outputs.
    """
    builder = _Builder()
    slots = {start.number: 0}
    for equation, _ in program.schedule([end.number], [start.number]):
        if slots.keys().isdisjoint(equation.numbers):
            continue
        if not builder.add(program, equation, slots, axes):
            return None
    result = slots[end.number]
    width = end.layer.num_neurons
    return Activation(tuple(builder.steps), result, tuple(builder.sources), width)


class _Builder:
    """Collects the steps of an activation."""

    def __init__(self):
        self.steps: list[_Step] = []
        self.sources: list[_Source] = []

    def add(
        self,
        program: Program,
        equation: Equation,
        slots: dict[int, int],
        axes: Mapping[int, Axes] | None,
    ) -> bool:
        """Adds an equation, if it can be; slots are by number of a value.

        Inside an equation that calls another jaxpr there are no ``axes``, and nothing
        but numbers may enter besides the slots.
        """
        mine = [n for n in equation.numbers if n in slots]
        shapes = program.shapes(equation)
        if rule_of(equation.name).is_paired:
            pairs = zip(equation.inputs, equation.outputs, strict=True)
            slots |= {out: slots[item] for item, out in pairs if item in slots}
            return True
        if _is_handed_on(program, equation):
            output = equation.outputs[0]
            slots[output] = slots[mine[0]]
            return shapes[0] == shapes[1] if axes is None else output in axes
        called = called_jaxpr(equation, shapes)
        if called is not None:
            return self._add_called(program, equation, slots, called)
        if not is_elementwise(program, equation):
            return False
        inputs = []
        for item in equation.inputs:
            if isinstance(item, int) and item in slots:
                operand = _Slot(slots[item])
            else:
                operand = self._operand(program, item, mine[0], axes)
            if operand is None:
                return False
            inputs.append(operand)
        params = tuple(sorted(equation.params.items()))
        self.steps.append(_Step(equation.primitive, params, tuple(inputs)))
        slots[equation.outputs[0]] = len(self.steps)
        return True

    def _add_called(
        self, program: Program, equation: Equation, slots: dict[int, int], called: Any
    ) -> bool:
        is_mine = [isinstance(n, int) and n in slots for n in equation.inputs]
        body, inputs, outputs = flat_body(called, is_mine)
        pairs = list(zip(equation.inputs, inputs, is_mine, strict=True))
        if not all(mine for _, _, mine in pairs):
            return False
        inside = {number: slots[item] for item, number, _ in pairs}
        for inner in body.equations:
            if inside.keys().isdisjoint(inner.numbers):
                continue
            if not self.add(body, inner, inside, None):
                return False
        if not inside.keys() >= {*outputs}:
            return False
        found = zip(equation.outputs, outputs, strict=True)
        slots |= {number: inside[output] for number, output in found}
        return True

    def _operand(
        self,
        program: Program,
        item: Any,
        beside: int,
        axes: Mapping[int, Axes] | None,
    ) -> _Number | _Parameter | None:
        """What enters beside a slot: a number, or a parameter; None if neither."""
        shape, source = program.shape(item), item
        while isinstance(source, int):
            equation = program.equation_of(source)
            if equation is None or not _is_handed_on(program, equation):
                break
            source = equation.inputs[0]
        if program.shape(source) == ():
            if not isinstance(source, int):
                return _number(source.val, source.aval.dtype, shape)
            if source in program.constants:
                dtype = program.values[source].dtype
                return _number(program.constants[source], dtype, shape)
        if axes is None or beside not in axes or not isinstance(item, int):
            return None
        if program.values[item].on_x:
            return None
        site, full = None, program.shape(beside)
        if shape != ():
            fits = [a in (1, b) for a, b in zip(shape, full, strict=False)]
            if len(shape) != len(full) or not all(fits):
                return None
            parts = tuple((part,) for axis in axes[beside] for part in axis)
            site = make_site(item, parts, "", "dense")
        self.sources.append(_Source(item, site, full if site else ()))
        return _Parameter(len(self.sources) - 1)


def _is_handed_on(program: Program, equation: Equation) -> bool:
    """Whether the result is the input in another shape, of the same type."""
    rule = rule_of(equation.name)
    if rule.is_paired or not rule.has_same_numbers:
        return False
    item = equation.inputs[0]
    before = program.values[item] if isinstance(item, int) else item.aval
    return before.dtype == program.values[equation.outputs[0]].dtype


def _number(value: Any, dtype: Any, shape: tuple[int, ...]) -> _Number:
    # By NumPy: while something is traced, jnp would make a tracer.
    value = np.asarray(value, dtype)
    return _Number(f"{value} {dtype}", shape != (), value)
