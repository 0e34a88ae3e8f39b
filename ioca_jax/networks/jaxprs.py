"""A function's jaxpr as one flat list of equations that can be run in parts.

A jaxpr nests; ``inlining`` makes it flat. Here are the equations, what is known of
their values, and how some of them are run.

Only JAX's public interface is used: ``jax.make_jaxpr`` and ``jax.extend.core``.
"""

import contextlib
import dataclasses
import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, primitives

from ioca_jax.networks.rules import Shapes, rule_of

PRODUCTS = frozenset({primitives.dot_general_p, primitives.conv_general_dilated_p})

LOOPS = frozenset({primitives.scan_p, primitives.while_p, primitives.cond_p})

# Keys of the one array that a variable or a named array of a library holds.
_WRAPPERS = frozenset(
    [
        *map(jax.tree_util.GetAttrKey, ("value", "array", "data_array")),
        jax.tree_util.FlattenedIndexKey(0),
    ]
)


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
        sources: for each output, the numbers of the values that it depends on.
        written: where the function's author wrote it.
    """

    primitive: Primitive | None
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]
    params: Mapping[str, Any]
    sources: tuple[tuple[int, ...], ...]
    written: Any = None

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
        x: the numbers of the examples' arrays.
        output: the number of the output.
    """

    equations: tuple[Equation, ...]
    values: tuple[Value, ...]
    constants: dict[int, Any]
    x: tuple[int, ...]
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

    def sources_of(self, number: int) -> tuple[int, ...]:
        """The inputs of its equation that a value depends on."""
        equation = self.equation_of(number)
        if equation is None:
            return ()
        return equation.sources[equation.outputs.index(number)]

    def shapes(self, equation: Equation) -> Shapes:
        """The shapes of an equation's inputs and of its outputs."""
        inputs = [*map(self.shape, equation.inputs)]
        return inputs, [*map(self.shape, equation.outputs)]

    def shape(self, item: Any) -> tuple[int, ...]:
        """The shape of a value, given by its number, or of a literal."""
        return self.values[item].shape if isinstance(item, int) else shape_of(item)

    def dependents(self, numbers: Iterable[int], stops: Set[int]) -> set[int]:
        """Some values, and those that depend on them without passing ``stops``."""
        found = set(numbers)
        for equation in self.equations:
            if not found.isdisjoint(equation.numbers):
                found |= set(equation.outputs) - stops
        return found

    def below(self, bits: Mapping[int, int]) -> dict[int, int]:
        """For each value, the bits of all values that it is computed from, as one int.

        Args:
            bits: those of some values, by number.
        """
        below: dict[int, int] = {}
        for equation in self.equations:
            known = 0
            for number in equation.numbers:
                known |= below.get(number, 0)
            for number in equation.outputs:
                below[number] = known | bits.get(number, 0)
        return below

    @property
    def structure(self) -> list[tuple]:
        """What two programs of one function share for all numbers of examples."""
        return [
            (equation.name, equation.numbers, equation.outputs)
            for equation in self.equations
        ]

    def schedule(self, wanted: Iterable[int], given: Iterable[int]) -> "Schedule":
        """The equations that lead from given values to wanted ones, by their numbers.

        Each comes with the values that no later one uses. Variables and constants are
        given besides.
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

    An equation that fails shows the line of the function that it stands for, and keeps
    the function's name stack, as ``jax.core.eval_jaxpr`` does.

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
            with _as_written(equation):
                outputs = bind(equation.primitive, equation.params, inputs)
        for number, output in zip(equation.outputs, outputs, strict=True):
            values[number] = replace(number, output)
        for number in dead:
            values.pop(number, None)


def bind(
    primitive: Primitive, params: Mapping[str, Any], inputs: Iterable[Any]
) -> Sequence[Any]:
    """Runs a primitive, with the params that an equation has; one result is a list."""
    found = primitive.get_bind_params(dict(params))
    # JAX before 0.10 gives functions beside the params, and takes them as inputs.
    functions, params = found if isinstance(found, tuple) else ((), found)
    results = primitive.bind(*functions, *inputs, **params)
    return results if primitive.multiple_results else [results]


def _as_written(equation: Equation) -> Any:
    """The user's line and name stack, while an equation runs."""
    written = equation.written
    if written is None:
        return contextlib.nullcontext()
    stack = source_info_util.current_name_stack() + written.name_stack
    return source_info_util.user_context(written.traceback, name_stack=stack)


def is_affine(program: Program, number: int) -> bool:
    """Whether a program's output is an affine function of one of its values.

    Values of fewer than 32 bits count as not affine, since they are rounded coarsely.
    """
    moving = {number}
    for equation in program.equations:
        if moving.isdisjoint(equation.numbers):
            continue
        if not is_affine_in(equation, moving):
            return False
        moving |= set(equation.outputs)
    types = [program.values[n].dtype for n in moving]
    return all(jnp.issubdtype(t, jnp.inexact) and t.itemsize >= 4 for t in types)


def is_affine_in(equation: Equation, moving: set[int]) -> bool:
    """Whether an equation's result is affine in some of its inputs together."""
    positions = [
        position
        for position, item in enumerate(equation.inputs)
        if isinstance(item, int) and item in moving
    ]
    return rule_of(equation.name).is_affine_in(positions)


def named_leaves(variables: Any) -> list[tuple[str, Any]]:
    """Leaves with their key paths, keys joined by ``/``.

    The last keys are left out where they are those of wrappers that libraries put
    around one array, such as the ``value`` of a Flax NNX variable.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    inside = Counter(
        path[:length] for path, _ in leaves for length in range(1, len(path) + 1)
    )
    keys = []
    for path, _ in leaves:
        while len(path) > 1 and path[-1] in _WRAPPERS and inside[path[:-1]] == 1:
            path = path[:-1]
        keys.append(path)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, (_, leaf) in zip(keys, leaves, strict=True)
    ]


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal of a jaxpr."""
    return tuple(getattr(atom.aval, "shape", ()))


def shapes_of(eqn: JaxprEqn) -> Shapes:
    """The shapes of an equation's inputs and of its outputs."""
    return [*map(shape_of, eqn.invars)], [*map(shape_of, eqn.outvars)]


def _jaxprs(eqn: Any) -> Iterator[Any]:
    for param in eqn.params.values():
        for item in param if isinstance(param, (tuple, list)) else (param,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield item


def unclosed(jaxpr: Any) -> Jaxpr:
    """A jaxpr without its constants, if it has any."""
    return cast(Jaxpr, getattr(jaxpr, "jaxpr", jaxpr))


def all_equations(jaxpr: Any) -> Iterator[JaxprEqn]:
    """The equations of a jaxpr and of those inside it, however deep."""
    for eqn in unclosed(jaxpr).eqns:
        yield eqn
        yield from equations_inside(eqn)


def equations_inside(eqn: Any) -> Iterator[JaxprEqn]:
    """The equations of the jaxprs that an equation holds, however deep."""
    for jaxpr in _jaxprs(eqn):
        yield from all_equations(jaxpr)


def holds_products(eqn: Any) -> bool:
    """Whether a product is inside an equation, however deep."""
    return any(inner.primitive in PRODUCTS for inner in equations_inside(eqn))


def has_body(eqn: Any) -> bool:
    """Whether an equation holds a jaxpr."""
    return any(True for _ in _jaxprs(eqn))


def called_jaxpr(eqn: Any, shapes: Shapes) -> Any:
    """The jaxpr that an equation, flat or of a jaxpr, calls; None if it calls none.

    That is its only one, and takes and returns the equation's own values: what else an
    equation holds is run for parts of them, or many times.
    """
    inner = list(_jaxprs(eqn))
    devices = getattr(eqn.params.get("mesh"), "size", 1)
    if eqn.primitive in LOOPS or len(inner) != 1 or devices != 1:
        return None
    jaxpr = unclosed(inner[0])
    own = [list(map(shape_of, atoms)) for atoms in (jaxpr.invars, jaxpr.outvars)]
    return inner[0] if own == [*map(list, shapes)] else None


def split_scan(body: Jaxpr, shapes: Shapes) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many are carried.

    Inside, what is scanned lacks the leading axis.
    """
    inside = map(shape_of, body.invars), map(shape_of, body.outvars)
    same = [
        sum(map(operator.eq, outer, inner))
        for outer, inner in zip(shapes, inside, strict=True)
    ]
    return same[0] - same[1], same[1]


def split_while(condition: Jaxpr, body: Jaxpr) -> tuple[int, int]:
    """How many of a while's inputs are constants of its condition, and of its body."""
    carried = len(body.outvars)
    return len(condition.invars) - carried, len(body.invars) - carried


def settle(step: Callable[[list], list], carry: list, join: Callable) -> list:
    """What a loop carries, over all of its iterations: a fixed point."""
    while True:
        after = [join(*pair) for pair in zip(carry, step(carry), strict=True)]
        if after == carry:
            return carry
        carry = after


def given_name(eqn: Any, shapes: Shapes) -> str | None:
    """The name that an equation gives to its value, as ``checkpoint_name`` does.

    The primitive is another one in other versions of JAX; each takes one value, has it
    as its result, and keeps the name as ``name``.
    """
    name, (inputs, outputs) = eqn.params.get("name"), shapes
    is_mark = len(inputs) == 1 and [*inputs] == [*outputs]
    if not isinstance(name, str) or not is_mark or is_foreign(eqn) or has_body(eqn):
        return None
    return name


_SEEN = (np.generic, np.ndarray, jax.Array, type)  # have shapes and hide nothing


def is_foreign(eqn: Any) -> bool:
    """Whether an equation runs what JAX cannot see: a callback, a kernel.

    Such an equation holds a function, or says itself of what type its results are.
    """
    if eqn.primitive in LOOPS:
        return False
    items = [
        item
        for param in eqn.params.values()
        for item in (param if isinstance(param, (tuple, list)) else [param])
        if not isinstance(item, (*_SEEN, Jaxpr, ClosedJaxpr))
    ]
    return any(
        (hasattr(item, "shape") and hasattr(item, "dtype"))
        or hasattr(item, "out_avals")
        for item in items
    ) or (any(map(callable, items)) and not has_body(eqn))
