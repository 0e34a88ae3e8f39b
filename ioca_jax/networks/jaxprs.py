"""A function's jaxpr as one flat list of equations that can be run in parts.

A jaxpr nests: ``jit``, ``remat`` and functions with derivatives of their own are calls
of inner jaxprs, a loop over stacked layers is a ``scan``. Here calls are inlined, a
scan over stacked weights is unrolled, and every value has a number of its own, even
where one jaxpr is called twice. A function with a derivative of its own that holds no
product (``relu``) stays one equation, so that its derivative stays as it was.

Only JAX's public interface is used: ``jax.make_jaxpr`` and ``jax.extend.core``.
"""

import dataclasses
import functools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, primitives

MAX_UNROLLED = 64  # iterations of a scan over stacked layers
PRODUCTS = frozenset({primitives.dot_general_p, primitives.conv_general_dilated_p})

CUSTOM = frozenset({primitives.custom_jvp_call_p, primitives.custom_vjp_call_p})
CALLS = CUSTOM | {
    primitives.jit_p,
    primitives.remat_p,
    primitives.closed_call_p,
    primitives.call_p,
}
# fmt: off
RESHAPING = frozenset(["reshape", "squeeze", "broadcast_in_dim"])
# Linear in all of their inputs together.
_LINEAR = RESHAPING | {
    "add", "add_any", "concatenate", "convert_element_type", "copy", "copy_p",
    "cumsum", "name", "neg", "pad", "reduce_sum", "reduce_window_sum", "rev", "same",
    "slice", "split", "stack", "stop_gradient", "sub", "transpose",
}
# fmt: on


class Value(NamedTuple):
    """What is known of a value before it is computed.

    Attributes:
        shape: its shape.
        dtype: its type.
        on_x: whether it depends on the examples.
        path: for a value that depends on variables alone, the key path of the variable
            that it is mostly made of; None for other values.
    """

    shape: tuple[int, ...]
    dtype: Any
    on_x: bool = False
    path: str | None = None


class Equation(NamedTuple):
    """One operation on numbered values.

    Attributes:
        primitive: None hands the input on.
        inputs: numbers of values, or literals.
        outputs: numbers of values.
        params: of the primitive.
    """

    primitive: Primitive | None
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]
    params: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The primitive's name; ``same`` without one."""
        return "same" if self.primitive is None else self.primitive.name

    @property
    def numbers(self) -> tuple[int, ...]:
        """The inputs that are numbers of values."""
        return tuple(number for number in self.inputs if isinstance(number, int))


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A flat list of equations from variables and examples to one output.

    Attributes:
        equations: each after those that it depends on; none that the output does not
            depend on.
        values: of every number. The variables' leaves come first, then the examples.
        constants: values known at tracing, by number.
        x: the number of the examples.
        output: the number of the output.
    """

    equations: tuple[Equation, ...]
    values: tuple[Value, ...]
    constants: dict[int, Any]
    x: int
    output: int

    @functools.cached_property
    def users(self) -> dict[int, list[int]]:
        """Indices of the equations that use a value, by number."""
        users: dict[int, list[int]] = {}
        for index, equation in enumerate(self.equations):
            for number in set(equation.numbers):
                users.setdefault(number, []).append(index)
        return users

    @functools.cached_property
    def producer(self) -> dict[int, int]:
        """The index of the equation that computes a value, by number."""
        return {
            number: index
            for index, equation in enumerate(self.equations)
            for number in equation.outputs
        }

    def equation_of(self, number: int) -> Equation | None:
        """The equation that computes a value; None for variables and examples."""
        index = self.producer.get(number)
        return None if index is None else self.equations[index]

    @property
    def structure(self) -> list[tuple]:
        """What two programs of one function share for all numbers of examples."""
        return [
            (equation.name, equation.numbers, equation.outputs)
            for equation in self.equations
        ]

    def schedule(self, wanted: Iterable[int], given: Iterable[int]) -> "Schedule":
        """The equations that lead from given values to wanted ones.

        Args:
            wanted: numbers of values.
            given: numbers of values; variables and constants are given besides.

        Returns:
            Each equation with the values that no later one uses.
        """
        kept, given = set(wanted), set(given)
        missing, seen, steps = kept - given, set(kept), []
        for equation in reversed(self.equations):
            if missing.isdisjoint(equation.outputs):
                continue
            missing -= set(equation.outputs)
            missing |= set(equation.numbers) - given
            dead = (set(equation.numbers) | set(equation.outputs)) - seen
            seen |= set(equation.numbers)
            steps.append((equation, tuple(dead)))
        return tuple(reversed(steps))


Schedule = tuple[tuple[Equation, tuple[int, ...]], ...]


def evaluate(
    schedule: Schedule,
    values: dict[int, Any],
    replace: Callable[[int, Any], Any] = lambda number, value: value,
) -> None:
    """Runs equations; values that no later one uses are dropped.

    Args:
        schedule: the equations.
        values: by number; results are added.
        replace: takes a number and its value, and returns what later equations see.
    """
    for equation, dead in schedule:
        inputs = [
            values[item] if isinstance(item, int) else item.val
            for item in equation.inputs
        ]
        outputs = inputs
        if equation.primitive is not None:
            params = equation.primitive.get_bind_params(dict(equation.params))
            outputs = equation.primitive.bind(*inputs, **params)
            if not equation.primitive.multiple_results:
                outputs = [outputs]
        for number, output in zip(equation.outputs, outputs, strict=True):
            values[number] = replace(number, output)
        for number in dead:
            values.pop(number, None)


def trace_program(apply: Callable, variables: Any, x: Any) -> tuple[Program, Any]:
    """Traces a function of variables and examples.

    Products whose precision the function leaves open are in float32 (``highest``)
    unless ``jax_default_matmul_precision`` is set.

    Args:
        apply: the function; its output's first leaf is the program's output.
        variables: pytree of shapes and types.
        x: shape and type of the examples.

    Returns:
        The program, and the shapes of what the function returns.
    """
    config: Any = jax.config
    precision = config.jax_default_matmul_precision or "highest"
    with jax.default_matmul_precision(precision):
        closed, shapes = jax.make_jaxpr(apply, return_shape=True)(variables, x)
    builder = _Builder()
    inputs = [
        builder.new(Value(tuple(leaf.shape), leaf.dtype, path=path))
        for path, leaf in named_leaves(variables)
    ]
    inputs.append(builder.new(Value(tuple(x.shape), x.dtype, on_x=True)))
    outputs = builder.inline(closed.jaxpr, closed.consts, inputs)
    output = builder.number(outputs[0]) if outputs else inputs[-1]
    program = Program(
        tuple(builder.equations),
        tuple(builder.values),
        builder.constants,
        inputs[-1],
        output,
    )
    needed = program.schedule([output], [])
    equations = tuple(equation for equation, _ in needed)
    return dataclasses.replace(program, equations=equations), shapes


def is_affine(program: Program, number: int) -> bool:
    """Whether a program's output is an affine function of one of its values.

    Values of fewer than 32 bits count as not affine, since they are rounded coarsely.

    Args:
        program: the program.
        number: the value's number.

    Returns:
        True if every equation on the way is affine in the value.
    """
    moving = {number}
    for equation in program.equations:
        if moving.isdisjoint(equation.numbers):
            continue
        if not _is_affine_in(equation, moving):
            return False
        moving |= set(equation.outputs)
    types = [program.values[n].dtype for n in moving]
    return all(jnp.issubdtype(t, jnp.inexact) and t.itemsize >= 4 for t in types)


def _is_affine_in(equation: Equation, moving: set[int]) -> bool:
    positions = [
        position
        for position, item in enumerate(equation.inputs)
        if isinstance(item, int) and item in moving
    ]
    if equation.primitive in PRODUCTS or equation.name == "mul":
        return len(positions) == 1
    if equation.name in ("div", "dynamic_slice", "gather"):
        return positions == [0]
    if equation.name == "select_n":
        return 0 not in positions
    return equation.name in _LINEAR


def named_leaves(variables: Any) -> list[tuple[str, Any]]:
    """Leaves with their key paths, keys joined by ``/``.

    The ``value`` attribute that Flax NNX puts below every variable is left out.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    keys = [path[:-1] if _is_value(path) else path for path, _ in leaves]
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, (_, leaf) in zip(keys, leaves, strict=True)
    ]


def _is_value(path: tuple) -> bool:
    attribute = jax.tree_util.GetAttrKey("value")
    return len(path) > 1 and path[-1] == attribute


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal of a jaxpr."""
    return tuple(atom.aval.shape)


def inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among an equation's params."""
    for param in params.values():
        for item in param if isinstance(param, (tuple, list)) else (param,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield cast(Jaxpr, getattr(item, "jaxpr", item))


def holds(jaxpr: Jaxpr, wanted: Iterable[Primitive]) -> bool:
    """Whether any of some primitives is in a jaxpr, however deep."""
    wanted = frozenset(wanted)
    return any(
        eqn.primitive in wanted
        or any(holds(inner, wanted) for inner in inner_jaxprs(eqn.params))
        for eqn in jaxpr.eqns
    )


def _called(eqn: JaxprEqn) -> Any:
    """The jaxpr that an equation calls and that is to be inlined, or None."""
    if eqn.primitive not in CALLS:
        return None
    called: Any = eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))
    found = PRODUCTS | {primitives.name_p}
    if eqn.primitive in CUSTOM and not holds(getattr(called, "jaxpr", called), found):
        return None
    return called


class _Builder:
    """Collects equations and numbers their values."""

    def __init__(self):
        self.equations: list[Equation] = []
        self.values: list[Value] = []
        self.constants: dict[int, Any] = {}

    def new(self, value: Value) -> int:
        """A new number for a value."""
        self.values.append(value)
        return len(self.values) - 1

    def number(self, item: Any) -> int:
        """The number of a value; a literal becomes a constant."""
        return item if isinstance(item, int) else self.constant(item, item.val)

    def constant(self, atom: Any, array: Any) -> int:
        """The number of a new constant."""
        number = self.new(Value(shape_of(atom), atom.aval.dtype))
        self.constants[number] = array
        return number

    def inline(self, jaxpr: Jaxpr, consts: Sequence, inputs: Sequence) -> list:
        """Adds a jaxpr's equations; returns its outputs, numbers or literals."""
        numbers = map(self.constant, jaxpr.constvars, consts)
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, numbers, strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom):
            return atom if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            outputs = self.add(eqn, [read(atom) for atom in eqn.invars])
            known |= dict(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def add(self, eqn: JaxprEqn, inputs: list) -> list:
        """Adds one equation, inlined or unrolled where it can be."""
        called = _called(eqn)
        if called is not None:
            consts = getattr(called, "consts", ())
            return self.inline(getattr(called, "jaxpr", called), consts, inputs)
        if eqn.primitive is primitives.scan_p and self._scans_layers(eqn, inputs):
            return self._unroll(eqn, inputs)
        return self._append(eqn, inputs)

    def _append(self, eqn: JaxprEqn, inputs: list) -> list[int]:
        known = [self.values[item] for item in inputs if isinstance(item, int)]
        on_x = any(value.on_x for value in known)
        named = [value for value in known if value.path is not None]
        if eqn.primitive in PRODUCTS and on_x and named:
            # An operand of its own for every layer: its input can be replaced.
            inputs = [self._own(item) for item in inputs]
        path = None
        if named and not on_x:
            path = max(named, key=lambda value: np.prod(value.shape, dtype=int)).path
        outputs = [
            self.new(Value(shape_of(var), var.aval.dtype, on_x, path))
            for var in cast(list[Any], eqn.outvars)
        ]
        self.equations.append(
            Equation(eqn.primitive, tuple(inputs), tuple(outputs), eqn.params)
        )
        return outputs

    def _own(self, item: Any) -> Any:
        if not isinstance(item, int) or not self.values[item].on_x:
            return item
        own = self.new(self.values[item])
        self.equations.append(Equation(None, (item,), (own,), {}))
        return own

    def _scans_layers(self, eqn: JaxprEqn, inputs: list) -> bool:
        """Whether a scan runs over stacked weights."""
        if eqn.params["length"] > MAX_UNROLLED:
            return False
        stacked = inputs[len(inputs) - _num_scanned(eqn) :]
        paths = [self.values[item].path for item in stacked if isinstance(item, int)]
        return any(paths) and holds(eqn.params["jaxpr"].jaxpr, PRODUCTS)

    def _unroll(self, eqn: JaxprEqn, inputs: list) -> list:
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        num_scanned = _num_scanned(eqn)
        num_carry = sum(
            shape_of(outer) == shape_of(inner)
            for outer, inner in zip(eqn.outvars, body.jaxpr.outvars, strict=True)
        )
        num_consts = len(inputs) - num_carry - num_scanned
        consts, carry = inputs[:num_consts], inputs[num_consts:-num_scanned]
        scanned = [self.number(item) for item in inputs[-num_scanned:]]
        collected: list[list] = [[] for _ in eqn.outvars[num_carry:]]
        order = range(length)[::-1] if eqn.params["reverse"] else range(length)
        for index in order:
            slices = self._slices(scanned, index)
            outputs = self.inline(body.jaxpr, body.consts, consts + carry + slices)
            carry = outputs[:num_carry]
            for slot, output in zip(collected, outputs[num_carry:], strict=True):
                slot.insert(0 if eqn.params["reverse"] else index, output)
        return carry + [self._stack(slot) for slot in collected]

    def _slices(self, stacked: list[int], index: int) -> list[int]:
        """One iteration's slices; their key paths get the iteration's index."""
        paths = [self.values[number].path for number in stacked]
        parents = [posixpath.dirname(path) for path in paths if path]
        common = posixpath.commonpath(parents) if all(parents) and parents else ""
        outputs = []
        for number, path in zip(stacked, paths, strict=True):
            output = self._derive(
                lambda array: jax.lax.index_in_dim(array, index, keepdims=False), number
            )
            if path is not None:
                rest = path[len(common) + 1 :] if common else path
                pieces = (common, str(index), rest) if common else (rest, str(index))
                named = self.values[output]._replace(path="/".join(pieces))
                self.values[output] = named
            outputs.append(output)
        return outputs

    def _stack(self, items: list) -> int:
        numbers = [self.number(item) for item in items]
        return self._derive(lambda *arrays: jnp.stack(arrays), *numbers)

    def _derive(self, function: Callable, *numbers: int) -> int:
        """Adds the equations of a function of values already there."""
        values = [self.values[number] for number in numbers]
        closed = jax.make_jaxpr(function)(
            *(jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values)
        )
        return self.inline(closed.jaxpr, closed.consts, numbers)[0]


def _num_scanned(eqn: JaxprEqn) -> int:
    """How many of a scan's inputs are scanned: inside they lack the leading axis."""
    return sum(
        shape_of(outer) != shape_of(inner)
        for outer, inner in zip(
            eqn.invars, eqn.params["jaxpr"].jaxpr.invars, strict=True
        )
    )
