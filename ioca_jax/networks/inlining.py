"""Makes a function's jaxpr flat: calls are inlined, loops over layers unrolled.

A jaxpr nests: ``jit``, ``remat`` and functions with derivatives of their own are calls
of inner jaxprs, a loop over stacked layers is a ``scan``. Here calls are inlined, a
scan over stacked weights is unrolled, and every value has a number of its own, even
where one jaxpr is called twice. A function with a derivative of its own that holds no
product (``relu``) stays one equation, so that its derivative stays as it was.

Only JAX's public interface is used: ``jax.make_jaxpr`` and ``jax.extend.core``.
"""

import dataclasses
import posixpath
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, primitives

from ioca_jax.networks.dependence import output_sources
from ioca_jax.networks.jaxprs import (
    LOOPS,
    PRODUCTS,
    Equation,
    Program,
    Value,
    all_equations,
    bind,
    called_jaxpr,
    equations_inside,
    given_name,
    holds_products,
    named_leaves,
    shape_of,
    shapes_of,
    split_scan,
    unclosed,
)
from ioca_jax.networks.rules import is_scale

# By name: JAX before 0.7 calls jit pjit, and has no public name of remat's primitive.
_CALLS = frozenset(["jit", "pjit", "remat2", "closed_call", "call"])
MAX_UNROLLED = 64  # iterations of a scan over stacked layers


def trace_program(apply: Callable, variables: Any, x: Any) -> tuple[Program, Any]:
    """Traces a function of variables and examples.

    Products whose precision the function leaves open are in float32 (``highest``)
    unless ``jax_default_matmul_precision`` is set.

    Args:
        apply: the function; its output's first leaf is the program's output.
        variables: pytree of shapes and types.
        x: shape and type of the examples, or a pytree of such.

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
    examples = [
        builder.new(Value(tuple(leaf.shape), leaf.dtype, on_x=True))
        for leaf in jax.tree.leaves(x)
    ]
    outputs = builder.inline(closed.jaxpr, closed.consts, inputs + examples)
    output = builder.number(outputs[0]) if outputs else examples[0]
    program = builder.program(examples, output)
    needed = program.schedule([output], [])
    equations = tuple(equation for equation, _ in needed)
    return dataclasses.replace(program, equations=equations), shapes


def flat_body(jaxpr: Any, on_x: Sequence[bool]) -> tuple[Program, list[int], list[int]]:
    """A jaxpr that an equation holds, as a program of its own.

    Returns the program, the numbers of its inputs and those of its outputs.
    """
    builder, body = _Builder(), unclosed(jaxpr)
    inputs = [
        builder.new(Value(shape_of(var), var.aval.dtype, flag))
        for var, flag in zip(cast(list[Any], body.invars), on_x, strict=True)
    ]
    outputs = builder.inline(body, getattr(jaxpr, "consts", ()), inputs)
    numbers = [builder.number(output) for output in outputs]
    return builder.program((), -1), inputs, numbers


def _inlined(eqn: JaxprEqn) -> Any:
    """The jaxpr that an equation calls and that is to be inlined, or None."""
    called = called_jaxpr(eqn, shapes_of(eqn))
    if called is None or eqn.primitive.name in _CALLS:
        return called
    inside = list(all_equations(called))
    if eqn.primitive.name == "shard_map":
        return called if all(map(_runs_alone, inside)) else None
    is_needed = any(
        inner.primitive in PRODUCTS
        or _is_collective(inner)
        or given_name(inner, shapes_of(inner))
        for inner in inside
    )
    return called if is_needed else None


def _is_collective(eqn: JaxprEqn) -> bool:
    """Whether an equation is about the devices along named axes."""
    axes = eqn.params.get("axes", eqn.params.get("axis_name", ()))
    axes = axes if isinstance(axes, (tuple, list)) else (axes,)
    return any(isinstance(axis, str) for axis in axes)


def _runs_alone(eqn: JaxprEqn) -> bool:
    """Whether an equation inside a shard_map over one device is known without it."""
    if eqn.primitive in LOOPS:
        return not any(map(_is_collective, equations_inside(eqn)))
    inputs, outputs = shapes_of(eqn)
    is_index = eqn.primitive is primitives.axis_index_p
    return not _is_collective(eqn) or is_index or [*inputs] == [*outputs]


class _Builder:
    """Collects equations and numbers their values."""

    def __init__(self):
        self.equations: list[Equation] = []
        self.values: list[Value] = []
        self.constants: dict[int, Any] = {}
        self.on_one_device = False  # inside a shard_map
        # In a loop over weights that a counter indexes: their common key path.
        self.indexed: str | None = None

    def new(self, value: Value) -> int:
        """A new number for a value."""
        self.values.append(value)
        return len(self.values) - 1

    def program(self, x: Sequence[int], output: int) -> Program:
        """What was collected."""
        equations, values = tuple(self.equations), tuple(self.values)
        return Program(equations, values, self.constants, tuple(x), output)

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
        called = _inlined(eqn)
        if called is not None:
            outside = self.on_one_device
            self.on_one_device |= eqn.primitive.name == "shard_map"
            consts = getattr(called, "consts", ())
            outputs = self.inline(unclosed(called), consts, inputs)
            self.on_one_device = outside
            return outputs
        if _is_collective(eqn) and self.on_one_device:
            return self._alone(eqn, inputs)
        if eqn.primitive is primitives.scan_p and _can_be_unrolled(eqn):
            indexed = self._indexed(eqn, inputs)
            if indexed or self._scans_weights(eqn, inputs):
                outside = self.indexed
                self.indexed = _parent(indexed) if indexed else None
                outputs = self._unroll(eqn, inputs)
                self.indexed = outside
                return outputs
        if self.indexed is not None and self._is_counter(eqn, inputs):
            return self._compute(eqn, inputs)
        outputs = self._append(eqn, inputs)
        if self.indexed is not None and eqn.primitive is primitives.dynamic_slice_p:
            self._name_slice(inputs, outputs[0])
        return outputs

    def _alone(self, eqn: JaxprEqn, inputs: list) -> list:
        """What devices exchange, where there is one: its own values, and number 0."""
        if eqn.primitive is primitives.axis_index_p:
            return [self.constant(eqn.outvars[0], jnp.zeros((), jnp.int32))]
        return inputs

    def _is_counter(self, eqn: JaxprEqn, inputs: list) -> bool:
        """Whether an equation computes numbers from numbers known already."""
        known = all(not isinstance(n, int) or n in self.constants for n in inputs)
        scalar = all(shape == () for part in shapes_of(eqn) for shape in part)
        return known and scalar and bool(inputs)

    def _compute(self, eqn: JaxprEqn, inputs: list) -> list[int]:
        values = [self.constants[n] if isinstance(n, int) else n.val for n in inputs]
        with jax.ensure_compile_time_eval():
            results = bind(eqn.primitive, eqn.params, values)
        pairs = zip(eqn.outvars, results, strict=True)
        return [self.constant(var, result) for var, result in pairs]

    def _name_slice(self, inputs: list, output: int) -> None:
        """A slice of stacked weights gets the index in its key path."""
        stacked, index, value = self.values[inputs[0]], inputs[1], self.values[output]
        path, shape = stacked.path, stacked.shape
        whole = value.shape[0] == 1 < shape[0] and value.shape[1:] == shape[1:]
        is_known = isinstance(index, int) and index in self.constants
        if path and whole and is_known:
            path = _with_index(path, self.indexed or "", int(self.constants[index]))
            self.values[output] = value._replace(path=path)

    def _append(self, eqn: JaxprEqn, inputs: list) -> list[int]:
        known = [self.values[item] for item in inputs if isinstance(item, int)]
        is_layer = eqn.primitive in PRODUCTS and not is_scale(eqn, shapes_of(eqn))
        if is_layer and any(v.on_x for v in known) and any(v.path for v in known):
            # Give each layer its own copy of its input, so that replacing that input
            # affects no other layer.
            inputs = [self._own(item) for item in inputs]
        sources = tuple(
            tuple(inputs[p] for p in positions if isinstance(inputs[p], int))
            for positions in output_sources(eqn)
        )
        outputs = [
            self.new(self._result(var, [self.values[number] for number in numbers]))
            for var, numbers in zip(eqn.outvars, sources, strict=True)
        ]
        numbers = tuple(inputs), tuple(outputs)
        own = Equation(eqn.primitive, *numbers, eqn.params, sources, eqn.source_info)
        self.equations.append(own)
        return outputs

    def _result(self, var: Any, known: Sequence[Value]) -> Value:
        """An equation's output, from the values that it depends on."""
        on_x, path = any(value.on_x for value in known), None
        named = [value for value in known if value.path is not None]
        if named and not on_x:
            path = max(named, key=lambda value: np.prod(value.shape, dtype=int)).path
        return Value(shape_of(var), var.aval.dtype, on_x, path)

    def _own(self, item: Any) -> Any:
        if not isinstance(item, int) or not self.values[item].on_x:
            return item
        own = self.new(self.values[item])
        self.equations.append(Equation(None, (item,), (own,), {}, ((item,),)))
        return own

    def _scans_weights(self, eqn: JaxprEqn, inputs: list) -> bool:
        stacked = inputs[sum(_split(eqn)) :]
        return any(self.values[n].path for n in stacked if isinstance(n, int))

    def _indexed(self, eqn: JaxprEqn, inputs: list) -> list[str]:
        """Key paths of the weights that a scan indexes by what it carries."""
        num_consts = _split(eqn)[0]
        is_carried = [position >= num_consts for position in range(len(inputs))]
        program, numbers, _ = flat_body(eqn.params["jaxpr"], is_carried)
        outer = dict(zip(numbers[:num_consts], inputs, strict=False))
        paths = [
            self.values[outer[equation.inputs[0]]].path
            for equation in program.equations
            if equation.name == "dynamic_slice"
            and isinstance(outer.get(equation.inputs[0]), int)
            and any(program.values[number].on_x for number in equation.numbers)
        ]
        return [path for path in paths if path]

    def _unroll(self, eqn: JaxprEqn, inputs: list) -> list:
        """A scan's iterations, one after another."""
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        num_consts, num_carry = _split(eqn)
        first = num_consts + num_carry
        consts, carry = inputs[:num_consts], inputs[num_consts:first]
        scanned = [self.number(item) for item in inputs[first:]]
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
        common = _parent([path for path in paths if path])
        outputs = []
        for number, path in zip(stacked, paths, strict=True):
            output = self._derive(
                lambda array: jax.lax.index_in_dim(array, index, keepdims=False), number
            )
            if path is not None:
                path = _with_index(path, common, index)
                self.values[output] = self.values[output]._replace(path=path)
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


def _can_be_unrolled(eqn: JaxprEqn) -> bool:
    return eqn.params["length"] <= MAX_UNROLLED and holds_products(eqn)


def _split(eqn: JaxprEqn) -> tuple[int, int]:
    return split_scan(unclosed(eqn.params["jaxpr"]), shapes_of(eqn))


def _parent(paths: Sequence[str]) -> str:
    """The key path that the parents of some have in common."""
    parents = [posixpath.dirname(path) for path in paths]
    return posixpath.commonpath(parents) if all(parents) and parents else ""


def _with_index(path: str, common: str, index: int) -> str:
    """A key path with an iteration's index behind what paths have in common."""
    rest = path[len(common) + 1 :] if common else path
    return f"{common}/{index}/{rest}" if common else f"{rest}/{index}"
