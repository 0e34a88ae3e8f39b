"""How the axes of a layer's value pass through one equation.

The result belongs to the layer if each of its numbers depends on one number of the
layer's value, and on nothing else that depends on the examples. It may have axes of its
own besides (role ``extra``): conditions that are stacked, entries of a table. What such
an axis is reduced to belongs to the layer again. Loops, branches and calls are looked
into; what a loop carries is found by a fixed point.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from jax.extend.core import primitives

from ioca_jax.networks.axes import Axes, Part
from ioca_jax.networks.elementwise import is_elementwise
from ioca_jax.networks.inlining import flat_body
from ioca_jax.networks.jaxprs import (
    Equation,
    Program,
    called_jaxpr,
    has_body,
    is_affine_in,
    settle,
    split_scan,
    split_while,
    unclosed,
)
from ioca_jax.networks.rules import Given, elementwise_axes, extra_axis, rule_of


class State(NamedTuple):
    """What a value is to a layer.

    Attributes:
        on_x: whether it depends on the examples.
        axes: its axes if it belongs to the layer, else None.
    """

    on_x: bool
    axes: Axes | None = None


_OTHER = State(True)


def is_whole(axes: Axes) -> bool:
    """Whether a value has no axes besides the layer's own."""
    return all(part.role != "extra" for axis in axes for part in axis)


# Takes an equation, one of its inputs that depends on the examples, the axes of the
# layer's values, and whether they are affine in the layer's first values so far.
Accepts = Callable[[Equation, int, Axes, bool], bool]


def follow(
    program: Program, starts: Mapping[int, Axes], accepts: Accepts | None = None
) -> dict[int, Axes]:
    """A layer's values: what is computed from its products alone, number by number.

    Args:
        program: the equations.
        starts: the axes of the layer's first values, the results of its products.
        accepts: whether another value that depends on the examples belongs to the
            layer, such as a scale; None takes none.

    Returns:
        The axes of each value, the first values first.
    """
    found = dict(starts)
    affine = set(found)
    index = min((i for n in found for i in program.users.get(n, [])), default=0)
    last = max((i for n in found for i in program.users.get(n, [])), default=-1)
    while index <= last:
        equation = program.equations[index]
        mine = found.keys() & {*equation.numbers}
        is_affine = mine <= affine and is_affine_in(equation, mine)
        others: set[int] = set()
        if mine and accepts is not None:
            axes = found[min(mine)]
            others = {n for n in equation.numbers if program.values[n].on_x} - mine
            if not all(accepts(equation, n, axes, is_affine) for n in others):
                others = set()
        new = next_axes(program, equation, found, others)
        found |= new
        affine |= new.keys() if is_affine else set()
        last = max([last, *(i for n in new for i in program.users.get(n, []))])
        index += 1
    return found


def next_axes(
    program: Program,
    equation: Equation,
    found: Mapping[int, Axes],
    accepted: Set[int] = frozenset(),
) -> dict[int, Axes]:
    """The axes of those results of an equation that belong to a layer, by number.

    Values that are ``accepted`` count as if they did not depend on the examples.
    """
    if found.keys().isdisjoint(equation.numbers):
        return {}
    shapes = program.shapes(equation)
    states = [
        State(program.values[item].on_x and item not in accepted, found.get(item))
        if isinstance(item, int)
        else State(False)
        for item in equation.inputs
    ]
    inside = _INSIDE.get(equation.primitive)
    called = called_jaxpr(equation, shapes)
    if rule_of(equation.name).is_paired:
        results = states
    elif inside is not None:
        results = inside(equation, shapes, states)
    elif called is not None:
        results = _through(called, states)
    elif len(equation.outputs) == 1 and _OTHER not in states:
        results = [State(True, _axes_of_result(program, equation, states))]
    else:
        return {}
    pairs = zip(equation.outputs, results, strict=True)
    return {number: state.axes for number, state in pairs if state.axes is not None}


def _axes_of_result(
    program: Program, equation: Equation, states: Sequence[State]
) -> Axes | None:
    """By the primitive's rule; a primitive without one is tried."""
    axes = rule_of(equation.name).axes
    if axes is None and is_elementwise(program, equation):
        axes = elementwise_axes
    if axes is None:
        return None
    inputs, (shape,) = program.shapes(equation)
    given = Given(equation.primitive, equation.params, inputs, shape)
    return axes(given, [state.axes for state in states])


def _through(jaxpr: Any, states: Sequence[State]) -> list[State]:
    """A jaxpr's outputs, from the states of its inputs."""
    program, inputs, outputs = flat_body(jaxpr, [state.on_x for state in states])
    pairs = zip(inputs, states, strict=True)
    starts = {number: state.axes for number, state in pairs if state.axes is not None}
    found = follow(program, starts)
    return [State(program.values[n].on_x, found.get(n)) for n in outputs]


def _join(one: State, other: State) -> State:
    """What is one of two values: the layer's, if the other is or depends on no x."""
    if one == other or not other.on_x:
        return one
    return other if not one.on_x else _OTHER


def _scan(equation: Equation, shapes: Any, states: list[State]) -> list[State]:
    body = equation.params["jaxpr"]
    num_consts, num_carry = split_scan(unclosed(body), shapes)
    consts, rest = states[:num_consts], states[num_consts:]
    carry, scanned = rest[:num_carry], rest[num_carry:]
    # The axis that is scanned: inside, the layer's values lack it.
    leads = {state.axes[0] for state in scanned if state.axes is not None}
    if len(leads) > 1:
        return [_OTHER] * len(equation.outputs)
    lead = next(iter(leads), None)
    slices = [
        state if state.axes is None else State(True, state.axes[1:])
        for state in scanned
    ]
    is_mixed = bool(lead) and is_whole((lead,))  # if it is carried from slice to slice

    def step(carry: list[State]) -> list[State]:
        after = _through(body, consts + carry + slices)[:num_carry]
        return [_OTHER if is_mixed and s.axes is not None else s for s in after]

    carry = settle(step, carry, _join)
    after = _through(body, consts + carry + slices)[num_carry:]
    size = extra_axis(equation.params["length"])
    stacked = [
        state
        if state.axes is None
        else State(True, (_lead_of(state.axes, lead, size), *state.axes))
        for state in after
    ]
    return carry + stacked


def _lead_of(axes: Axes, lead: Any, size: tuple[Part, ...]) -> tuple[Part, ...]:
    """The axis along which a loop stacks a value: what it scans, or one of its own."""
    if lead is None or not set(lead).isdisjoint(p for axis in axes for p in axis):
        return size
    return lead


def _while(equation: Equation, shapes: Any, states: list[State]) -> list[State]:
    condition, body = (equation.params[f"{name}_jaxpr"] for name in ("cond", "body"))
    num_cond, num_body = split_while(unclosed(condition), unclosed(body))
    first = num_cond + num_body
    consts = states[num_cond:first]
    carry = settle(lambda carry: _through(body, consts + carry), states[first:], _join)
    (decides,) = _through(condition, states[:num_cond] + carry)
    return [_OTHER] * len(carry) if decides.on_x else carry


def _cond(equation: Equation, shapes: Any, states: list[State]) -> list[State]:
    if states[0].on_x:
        return [_OTHER] * len(equation.outputs)
    first, *rest = (_through(body, states[1:]) for body in equation.params["branches"])
    for branch in rest:
        first = [_join(*pair) for pair in zip(first, branch, strict=True)]
    return first


_INSIDE: dict[Any, Callable[[Equation, Any, list[State]], list[State]]] = {
    primitives.scan_p: _scan,
    primitives.while_p: _while,
    primitives.cond_p: _cond,
}


def is_elementwise_step(program: Program, equation: Equation) -> bool:
    """Whether each number of the results depends on one of each input on x."""
    if is_elementwise(program, equation):
        return True
    shape = program.shape(equation.outputs[0])
    axes = tuple(
        (Part("position", size, (dim,)),) if size > 1 else ()
        for dim, size in enumerate(shape)
    )
    found = {n: axes for n in equation.numbers if program.values[n].on_x}
    is_looked_into = has_body(equation) or rule_of(equation.name).is_paired
    if not is_looked_into or any(program.shape(number) != shape for number in found):
        return False
    results = next_axes(program, equation, found)
    return all(results.get(number) == axes for number in equation.outputs)
