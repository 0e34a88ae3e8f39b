"""A function's jaxpr as one flat list of equations that can be run in parts.

A jaxpr nests; ``inlining`` makes it flat. Here are the equations, what is known of
their values, and how some of them are run.

Only JAX's public interface is used: ``jax.make_jaxpr`` and ``jax.extend.core``.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive, primitives

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
