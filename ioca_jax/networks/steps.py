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

from ioca_jax.networks.axes import Axes, Part, regroup
from ioca_jax.networks.elementwise import is_elementwise
from ioca_jax.networks.inlining import flat_body
from ioca_jax.networks.jaxprs import (
    PAIRED,
    Equation,
    Program,
    called_jaxpr,
    inner_jaxprs,
    is_affine_in,
    is_scale,
    split_scan,
    split_while,
    unclosed,
)


class State(NamedTuple):
    """What a value is to a layer.

    Attributes:
        on_x: whether it depends on the examples.
        axes: its axes if it belongs to the layer, else None.
    """

    on_x: bool
    axes: Axes | None = None


_OTHER = State(True)
_REDUCTIONS = [
    *("argmax", "argmin"),
    *(f"reduce_{name}" for name in ("and", "max", "min", "or", "prod", "sum", "xor")),
]


def is_whole(axes: Axes) -> bool:
    """Whether a value has no axes besides the layer's own."""
    return all(part.role != "extra" for axis in axes for part in axis)


# Takes an equation, one of its inputs that depends on the examples, the axes of the
# layer's values, and whether they are affine in the layer's first values so far.
Accepts = Callable[[Equation, int, Axes, bool], bool]


def walk(
    program: Program, found: dict[int, Axes], accepts: Accepts | None = None
) -> None:
    """Adds all values that belong to a layer to those found.

    Args:
        program: the equations.
        found: axes of the layer's first values, by number.
        accepts: whether another value that depends on the examples belongs to the
            layer, such as a scale; None takes none.
    """
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


def next_axes(
    program: Program,
    equation: Equation,
    found: Mapping[int, Axes],
    accepted: Set[int] = frozenset(),
) -> dict[int, Axes]:
    """The axes of those results of an equation that belong to a layer.

    Args:
        program: the equations.
        equation: one of them.
        found: axes of the layer's values, by number.
        accepted: values that count as if they did not depend on the examples.

    Returns:
        Axes by number.
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
    called = called_jaxpr(equation.primitive, equation.params, shapes)
    if equation.name in PAIRED:
        results = states
    elif inside is not None:
        results = inside(equation, shapes, states)
    elif called is not None:
        results = _through(called, states)
    elif len(equation.outputs) == 1 and _OTHER not in states:
        dtypes = _dtypes(program, equation)
        given = _Given(equation, shapes[0], shapes[1][0], dtypes)
        rule = _RULES.get(equation.name, _elementwise)
        results = [State(True, rule(given, [state.axes for state in states]))]
    else:
        return {}
    pairs = zip(equation.outputs, results, strict=True)
    return {number: state.axes for number, state in pairs if state.axes is not None}


def _through(jaxpr: Any, states: Sequence[State]) -> list[State]:
    """A jaxpr's outputs, from the states of its inputs."""
    program, inputs, outputs = flat_body(jaxpr, [state.on_x for state in states])
    pairs = zip(inputs, states, strict=True)
    found = {number: state.axes for number, state in pairs if state.axes is not None}
    walk(program, found)
    return [State(program.values[n].on_x, found.get(n)) for n in outputs]


def _join(one: State, other: State) -> State:
    """What is one of two values: the layer's, if the other is or depends on no x."""
    if one == other or not other.on_x:
        return one
    return other if not one.on_x else _OTHER


def _settle(
    step: Callable[[list[State]], list[State]], carry: list[State]
) -> list[State]:
    """What a loop carries, over all of its iterations."""
    while True:
        after = [_join(*pair) for pair in zip(carry, step(carry), strict=True)]
        if after == carry:
            return carry
        carry = after


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

    carry = _settle(step, carry)
    after = _through(body, consts + carry + slices)[num_carry:]
    size = _extra(equation.params["length"])
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
    carry = _settle(lambda carry: _through(body, consts + carry), states[first:])
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


class _Given(NamedTuple):
    """An equation of one result, with the shapes of its inputs and of its result."""

    equation: Equation
    shapes: Sequence[tuple[int, ...]]
    shape: tuple[int, ...]
    dtypes: Sequence[Any]


Inputs = Sequence[Axes | None]  # None for what the layer does not change


def _extra(size: int) -> tuple[Part, ...]:
    return (Part("extra", size, ()),) if size > 1 else ()


def _is_free(axis: tuple[Part, ...]) -> bool:
    """Whether numbers along an axis may be mixed: all are made of the same ones."""
    return all(part.role == "extra" for part in axis)


def _elementwise(given: _Given, inputs: Inputs) -> Axes | None:
    mine = {
        _spread(axes, shape, given.shape)
        for axes, shape in zip(inputs, given.shapes, strict=True)
        if axes is not None
    }
    known = given.shapes, [given.shape]
    primitive, params = given.equation.primitive, given.equation.params
    if len(mine) > 1 or not is_elementwise(primitive, params, known, given.dtypes):
        return None
    return mine.pop()


def _spread(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    """The axes of a value that is repeated along axes of size 1."""
    if len(before) != len(after):
        return None
    sizes = zip(before, after, strict=True)
    return tuple(
        axis if old == new else _extra(new)
        for axis, (old, new) in zip(axes, sizes, strict=True)
    )


def _transpose(given: _Given, inputs: Inputs) -> Axes | None:
    (axes,) = inputs
    return axes and tuple(axes[dim] for dim in given.equation.params["permutation"])


def _reshape(given: _Given, inputs: Inputs) -> Axes | None:
    axes = inputs[0]
    return axes and regroup([part for axis in axes for part in axis], given.shape)


def _broadcast(given: _Given, inputs: Inputs) -> Axes | None:
    axes, result = inputs[0], [_extra(size) for size in given.shape]
    dims = given.equation.params["broadcast_dimensions"]
    for dim, size, axis in zip(dims, given.shapes[0], axes or (), strict=True):
        if size == given.shape[dim]:
            result[dim] = axis
    return tuple(result)


def _reduce(given: _Given, inputs: Inputs) -> Axes | None:
    axes, reduced = inputs[0], given.equation.params["axes"]
    if len(inputs) > 1 or axes is None:
        return None
    if not all(_is_free(axes[dim]) for dim in reduced):
        return None
    return tuple(axis for dim, axis in enumerate(axes) if dim not in reduced)


def _accumulate(given: _Given, inputs: Inputs) -> Axes | None:
    (axes,) = inputs
    return axes if axes and _is_free(axes[given.equation.params["axis"]]) else None


def _concatenate(given: _Given, inputs: Inputs) -> Axes | None:
    """Several values along an axis of their own."""
    dim = given.equation.params.get("dimension", given.equation.params.get("axis"))
    is_new = given.equation.name == "stack"
    rest = set()
    for axes in inputs:
        if axes is not None and not is_new and not _is_free(axes[dim]):
            return None
        if axes is not None:
            rest.add(axes if is_new else axes[:dim] + axes[dim + 1 :])
    if len(rest) != 1:
        return None
    axes = rest.pop()
    return (*axes[:dim], _extra(given.shape[dim]), *axes[dim:])


def _cut(given: _Given, inputs: Inputs) -> Axes | None:
    """Parts of a value: of axes of its own alone."""
    axes, params = inputs[0], given.equation.params
    if axes is None or any(other is not None for other in inputs[1:]):
        return None
    reversed_, padded = params.get("dimensions", ()), params.get("padding_config")
    result = []
    for dim, axis in enumerate(axes):
        stays = given.shapes[0][dim] == given.shape[dim] and dim not in reversed_
        if padded is not None and any(padded[dim]):
            stays = False
        if not stays and not _is_free(axis):
            return None
        result.append(axis if stays else _extra(given.shape[dim]))
    return tuple(result)


def _look_up(given: _Given, inputs: Inputs) -> Axes | None:
    """Entries of a table that the layer does not change; its value is the index."""
    table, axes = inputs
    if table is not None or axes is None or not _is_free(axes[-1]):
        return None
    numbers, rest = given.equation.params["dimension_numbers"], iter(axes[:-1])
    return tuple(
        _extra(size) if dim in numbers.offset_dims else next(rest)
        for dim, size in enumerate(given.shape)
    )


def _product(given: _Given, inputs: Inputs) -> Axes | None:
    """A product that contracts nothing; other products end a walk."""
    equation, mine = given.equation, [axes for axes in inputs if axes is not None]
    known = given.shapes, [given.shape]
    if len(mine) > 1 or not is_scale(equation.primitive, equation.params, known):
        return None
    numbers = equation.params["dimension_numbers"]
    if equation.name != "dot_general":
        pairs = zip(numbers.out_spec, numbers.lhs_spec, strict=True)
        source = dict(pairs)
        axes = inputs[0]
        return axes and tuple(axes[source[dim]] for dim in range(len(axes)))
    batch = numbers[1]
    free = [
        [dim for dim in range(len(shape)) if dim not in dims]
        for shape, dims in zip(given.shapes, batch, strict=True)
    ]
    both = [
        axes or tuple(map(_extra, shape))
        for axes, shape in zip(inputs, given.shapes, strict=True)
    ]
    own = inputs.index(mine[0])
    first = [both[own][dim] for dim in batch[own]]
    return (*first, *(both[side][dim] for side in (0, 1) for dim in free[side]))


_RULES: dict[str, Callable[[_Given, Inputs], Axes | None]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "stack": _concatenate,
    "gather": _look_up,
    "dot_general": _product,
    "conv_general_dilated": _product,
    **dict.fromkeys(["slice", "dynamic_slice", "rev", "pad"], _cut),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin"], _accumulate),
    **dict.fromkeys(_REDUCTIONS, _reduce),
}


def is_elementwise_step(program: Program, equation: Equation) -> bool:
    """Whether each number of the results depends on one of each input that x changes.

    Args:
        program: the equations.
        equation: one of them.
    """
    shapes, dtypes = program.shapes(equation), _dtypes(program, equation)
    if is_elementwise(equation.primitive, equation.params, shapes, dtypes):
        return True
    shape = program.shape(equation.outputs[0])
    axes = tuple(
        (Part("position", size, (dim,)),) if size > 1 else ()
        for dim, size in enumerate(shape)
    )
    found = {n: axes for n in equation.numbers if program.values[n].on_x}
    has_body = any(True for _ in inner_jaxprs(equation.params))
    is_looked_into = has_body or equation.name in PAIRED
    if not is_looked_into or any(program.shape(number) != shape for number in found):
        return False
    results = next_axes(program, equation, found)
    return all(results.get(number) == axes for number in equation.outputs)


def _dtypes(program: Program, equation: Equation) -> list[Any]:
    return [
        program.values[item].dtype if isinstance(item, int) else item.aval.dtype
        for item in equation.inputs
    ]
