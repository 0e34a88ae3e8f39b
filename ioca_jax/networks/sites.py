"""Where a traced network can be ablated: its layers, found in its equations.

A layer is a product, ``dot_general`` or ``conv_general_dilated``, of something that
depends on the examples and something that depends on variables alone. Its neurons are
the axes of its result that come from the weights. Its result is followed through
elementwise equations, reshapes and transposes for as long as nothing else that depends
on the examples enters: bias, batch norm, activation. The last value through which all
other equations see the layer is its *site*. A residual sum, a product of two layers or
a normalisation over neurons ends the walk. Products of two values that both depend on
the examples (attention) are no layers, nor are tables that are looked up.

The axis of the examples is the one whose size differs between two traces with different
numbers of examples.
"""

import fnmatch
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import Jaxpr, primitives

from ioca_jax.networks.axes import Axes, Part, Site, make_site, regroup, with_role
from ioca_jax.networks.jaxprs import (
    CALLS,
    PRODUCTS,
    RESHAPING,
    Equation,
    Program,
    holds,
    inner_jaxprs,
    shape_of,
)

# fmt: off
_ELEMENTWISE = frozenset([
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2",
    "atanh", "cbrt", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos",
    "cosh", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
    "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt",
    "max", "min", "mul", "name", "ne", "neg", "nextafter", "not", "or", "pow",
    "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh",
    "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor",
])
# Leave an axis where it is.
_IN_PLACE = frozenset([
    "concatenate", "dynamic_slice", "pad", "rev", "same", "slice", "split",
])
# fmt: on


class Traces(NamedTuple):
    """One function, traced with two numbers of examples.

    Attributes:
        first: the program for ``sizes[0]`` examples.
        second: the same equations for ``sizes[1]`` examples.
        sizes: the two numbers of examples.
    """

    first: Program
    second: Program
    sizes: tuple[int, int]

    def differing(self, number: int) -> list[int]:
        """The axes of a value whose size depends on the number of examples."""
        one, two = (program.values[number].shape for program in self[:2])
        return [
            axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b
        ]

    def axes(self, number: int) -> Axes:
        """A value's axes: all but the examples' are positions."""
        differing, result = self.differing(number), []
        for axis, size in enumerate(self.first.values[number].shape):
            parts = [Part("position", size, (axis,))]
            if axis in differing:
                repeats = Part("position", size // self.sizes[0], (axis,))
                parts = [Part("example", self.sizes[0], ()), repeats]
            result.append(tuple(part for part in parts if part.size > 1))
        return tuple(result)


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


class Found(NamedTuple):
    """What can be ablated in a network.

    Attributes:
        layers: sites of layers, taken unless others are named.
        others: sites taken if named: inputs of layers, named values.
        unreachable: what is no site and why, a line each.
    """

    layers: list[Site]
    others: list[Site]
    unreachable: list[str]


def find_sites(traces: Traces) -> Found:
    """Finds layers, their inputs, and values named by ``checkpoint_name``.

    Args:
        traces: the function.

    Returns:
        The sites, in the order of the equations.
    """
    program = traces.first
    products = _products(program)
    weights = [product.equation.inputs[product.weights] for product in products]
    names = _layer_names([program.values[number].path or "" for number in weights])
    has_layer_above = _with_layer_above(program, products)
    num_classes = program.values[program.output].shape[1]
    mixed = _mixed_axes(traces)
    layers, inputs, notes, followed = [], [], [], {}
    for name, product in zip(names, products, strict=True):
        inputs.append(_input_site(traces, product, name, mixed))
        axes = _follow(program, product.output, _output_axes(traces, product))
        followed |= axes
        number = _last_cut(program, axes)
        site = make_site(number, axes[number], name, product.kind)
        is_last = product.output not in has_layer_above and (
            site.layer.num_neurons == num_classes or _is_output(program, product)
        )
        if is_last:
            notes.append(f"{name}: makes the logits")
        elif not _is_float(program, number):
            notes.append(f"{name}: of integers, which no clamp replaces")
        else:
            layers.append(site)
    others = inputs + _named_sites(traces, followed)
    others = [site for site in others if _is_float(program, site.number)]
    return Found(layers, others, notes + _held(program) + _opaque(program))


def choose_sites(found: Found, patterns: Sequence[str] | None) -> list[Site]:
    """The sites of the layers named, in the order in which the network runs.

    Args:
        found: all sites.
        patterns: names or glob patterns; None takes all layers. Inputs of layers are
            meant only by patterns that end in ``:input``.

    Returns:
        Sites, ordered by the numbers of their values, each after those it depends on.

    Raises:
        ValueError: a pattern that matches nothing, or two names of one value.
    """
    chosen = found.layers
    if patterns is not None:
        known = {site.layer.name: site for site in found.layers + found.others}
        chosen = []
        for pattern in patterns:
            matches = [
                site
                for name, site in known.items()
                if fnmatch.fnmatchcase(name, pattern)
                and name.endswith(":input") == pattern.endswith(":input")
            ]
            if not matches:
                raise ValueError(
                    f"layers: {pattern!r} matches none of {', '.join(known)}"
                )
            chosen += [site for site in matches if site not in chosen]
    chosen = sorted(chosen, key=lambda site: site.number)
    for one, other in zip(chosen, chosen[1:], strict=False):
        if one.number == other.number:
            raise ValueError(
                f"layers: {one.layer.name} and {other.layer.name} name one value; "
                "expected one of them"
            )
    return chosen


def _products(program: Program) -> list[Product]:
    """All products of data with weights."""
    products = []
    for equation in program.equations:
        if equation.primitive not in PRODUCTS or len(equation.numbers) < 2:
            continue
        one, two = (program.values[number] for number in equation.numbers)
        # The kernel of a convolution is its second operand.
        first = equation.primitive is primitives.dot_general_p
        if one.on_x and not two.on_x and two.path is not None:
            products.append(Product(equation, 1))
        elif first and two.on_x and not one.on_x and one.path is not None:
            products.append(Product(equation, 0))
    return products


def _layer_names(paths: Sequence[str]) -> list[str]:
    """Unique names from the key paths of weights.

    The last key (``kernel``) is left out unless weights differ by it alone. So is Flax
    Linen's collection, ``params``. Layers that share weights are numbered.
    """
    paths = [_without_collection(path) for path in paths]
    siblings = Counter(path.rpartition("/")[0] for path in set(paths))
    siblings[""] = 2  # a key of its own at the top is the name
    parents = [path.rpartition("/")[0] for path in paths]
    return _numbered(
        [
            parent if siblings[parent] == 1 else path
            for path, parent in zip(paths, parents, strict=True)
        ]
    )


def _without_collection(path: str) -> str:
    return path.removeprefix("params/")


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that occur more than once get ``#0``, ``#1``, ..."""
    counts, seen, result = Counter(names), Counter(), []
    for name in names:
        result.append(f"{name}#{seen[name]}" if counts[name] > 1 else name)
        seen[name] += 1
    return result


def _with_layer_above(program: Program, products: Sequence[Product]) -> set[int]:
    """The results of products that another product depends on."""
    bits = {product.output: 1 << bit for bit, product in enumerate(products)}
    below: dict[int, int] = {}
    used = 0
    for equation in program.equations:
        layers = 0
        for number in equation.numbers:
            layers |= below.get(number, 0)
        own = bits.get(equation.outputs[0], 0)
        if own:
            used |= layers
        below |= dict.fromkeys(equation.outputs, layers | own)
    return {output for output, bit in bits.items() if used & bit}


def _weight_dims(program: Program, product: Product) -> tuple[list[int], list[int]]:
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


def _output_axes(traces: Traces, product: Product) -> Axes:
    """The axes of a product's result: its neurons come from the weights."""
    program, number = traces.first, product.output
    batch, own = _weight_dims(program, product)
    shape = program.values[number].shape
    return with_role(traces.axes(number), shape, batch + own, "neuron")


def _is_output(program: Program, product: Product) -> bool:
    """Whether a product's neurons become logits and are not summed or multiplied.

    Its values may be averaged over positions, or over networks of an ensemble.
    """
    neurons = {product.output: set(_weight_dims(program, product)[1])}
    for equation in program.equations[program.producer[product.output] + 1 :]:
        mine = [number for number in equation.numbers if number in neurons]
        if not mine:
            continue
        after = [_moved(program, equation, n, neurons[n]) for n in mine]
        if None in after:
            return False
        neurons |= dict.fromkeys(equation.outputs, set().union(*after))
    return True


def _moved(
    program: Program, equation: Equation, number: int, dims: set[int]
) -> set[int] | None:
    """Where axes of an input are in an equation's result; None if it mixes them."""
    params, shape = equation.params, program.values[number].shape
    if equation.name in _IN_PLACE or _is_elementwise(equation):
        return dims
    if equation.name == "transpose":
        return {params["permutation"].index(dim) for dim in dims}
    if equation.name == "broadcast_in_dim":
        return {params["broadcast_dimensions"][dim] for dim in dims}
    if equation.name == "stack":
        return {dim + (dim >= params["axis"]) for dim in dims}
    if equation.name == "reduce_sum" and not dims & set(params["axes"]):
        return {dim - sum(axis < dim for axis in params["axes"]) for dim in dims}
    if equation.name not in ("reshape", "squeeze"):
        return None
    after = program.values[equation.outputs[0]].shape
    ranges = [_strides(shape, dim) for dim in dims]
    return {
        dim
        for dim in range(len(after))
        for first, last in ranges
        if max(first, _strides(after, dim)[0]) < min(last, _strides(after, dim)[1])
    }


def _strides(shape: Sequence[int], dim: int) -> tuple[int, int]:
    """How many rows there are before an axis is counted, and after."""
    return math.prod(shape[:dim]), math.prod(shape[: dim + 1])


def _held(program: Program) -> list[str]:
    """Products with arrays that the function holds, a line each."""
    notes = []
    for equation in program.equations:
        if equation.primitive not in PRODUCTS or len(equation.numbers) < 2:
            continue
        values = [program.values[number] for number in equation.numbers]
        if sum(value.on_x for value in values) != 1:
            continue
        number, value = next(
            pair
            for pair in zip(equation.numbers, values, strict=True)
            if not pair[1].on_x
        )
        if value.path is None and _comes_of_constant(program, number):
            size = " x ".join(map(str, value.shape))
            notes.append(
                f"an array {size}: weights that apply holds; pass them in variables"
            )
    return notes


def _comes_of_constant(program: Program, number: int) -> bool:
    """Whether a value is computed from an array that was there before tracing."""
    equation = program.equation_of(number)
    if equation is None:
        return number in program.constants and len(program.values[number].shape) > 1
    return any(_comes_of_constant(program, n) for n in equation.numbers)


def _input_site(
    traces: Traces, product: Product, name: str, mixed: Mapping[int, Axes]
) -> Site:
    """The site of a product's data.

    Where two axes or more are contracted, the last is a neuron's vector and the others
    are neurons: heads. So is an axis that attention's heads were merged into.
    """
    program, number = traces.first, product.data
    shape = program.values[number].shape
    vector: list[int] = []
    if product.kind == "conv":
        neurons = [product.equation.params["dimension_numbers"].lhs_spec[1]]
    else:
        contracted, batch = (
            list(pair[1 - product.weights])
            for pair in product.equation.params["dimension_numbers"]
        )
        neurons, vector = (batch, contracted) if batch else (contracted, [])
        if not batch and len(contracted) > 1:
            neurons, vector = contracted[:-1], contracted[-1:]
    axes = with_role(traces.axes(number), shape, neurons, "neuron")
    axes = with_role(axes, shape, vector, "vector")
    heads = None
    count = len(neurons + vector)
    if sorted(neurons + vector) == [*range(len(shape) - count, len(shape))]:
        heads = _heads(program, number, count, mixed)
    if heads:
        axes = (*axes[:-count], *heads)
    kind = "heads" if vector or heads else "input"
    return make_site(number, axes, f"{name}:input", kind)


def _mixed_axes(traces: Traces) -> dict[int, Axes]:
    """By number, what attention computes: products of two values that depend on x.

    The first number of a part's rank says which of the product's operands it is of: 0
    both, such as heads, 1 or 2 one of them, such as a head's vector.
    """
    program, found = traces.first, {}
    for equation in program.equations:
        values = [program.values[number] for number in equation.numbers]
        is_mixed = len(values) == 2 and all(value.on_x for value in values)
        if not is_mixed or equation.primitive is not primitives.dot_general_p:
            continue
        (contracted, _), (batch, _) = equation.params["dimension_numbers"]
        own = len(values[0].shape) - len(contracted)  # the first operand's come first
        output = equation.outputs[0]
        axes = tuple(
            tuple(
                part._replace(rank=(0 if dim < len(batch) else 1 + (dim >= own), dim))
                for part in parts
            )
            for dim, parts in enumerate(traces.axes(output))
        )
        found |= _follow(program, output, axes)
    return found


def _heads(
    program: Program, number: int, count: int, mixed: Mapping[int, Axes]
) -> Axes | None:
    """An input's last axes as heads and their vector, if attention computes them.

    Looks upwards through elementwise equations for what attention mixes.
    """
    sizes, pending = program.values[number].shape[-count:], [number]
    while pending:
        number = pending.pop()
        if number in mixed and program.values[number].shape[-count:] == sizes:
            return _split_heads(mixed[number], count)
        equation = program.equation_of(number)
        passing = _ELEMENTWISE | RESHAPING | {"same", "transpose"}
        if equation is not None and equation.name in passing:
            pending += [n for n in equation.numbers if program.values[n].on_x]
    return None


def _split_heads(axes: Axes, count: int) -> Axes | None:
    """The last axes in the roles of heads and their vector; None if all are a vector.

    The vector is of the operand that has no other axes, the values; the rest is heads.
    """
    elsewhere = {part.rank[0] for axis in axes[:-count] for part in axis}
    operands = [part.rank[0] for axis in axes[-count:] for part in axis if part.rank[0]]
    operands = [operand for operand in operands if operand not in elsewhere] or operands
    if not operands:
        return None
    result, ranks, heads = [], itertools.count(), 0
    for axis in axes[-count:]:
        roles = ["vector" if p.rank[0] == operands[-1] else "neuron" for p in axis]
        heads += roles.count("neuron")
        parts = zip(roles, axis, strict=True)
        result.append(tuple(Part(r, p.size, (next(ranks),)) for r, p in parts))
    return tuple(result) if heads else None


def _named_sites(traces: Traces, followed: dict[int, Axes]) -> list[Site]:
    """Values that the network names; unless a layer's, their last axis is neurons."""
    program = traces.first
    named = [
        (str(equation.params["name"]), equation.outputs[0])
        for equation in program.equations
        if equation.name == "name" and program.values[equation.outputs[0]].on_x
    ]
    names = _numbered([name for name, _ in named])
    sites = []
    for name, (_, number) in zip(names, named, strict=True):
        shape, examples = program.values[number].shape, traces.differing(number)
        free = [axis for axis in range(len(shape)) if axis not in examples]
        axes = with_role(traces.axes(number), shape, free[-1:], "neuron")
        sites.append(make_site(number, followed.get(number, axes), name, "named"))
    return sites


def _follow(program: Program, number: int, axes: Axes) -> dict[int, Axes]:
    """A layer's values: what is computed from one product alone, number by number."""
    found = {number: axes}
    index = program.producer[number]
    last = max(program.users.get(number, [index]))
    while index < last:
        index += 1
        equation = program.equations[index]
        result = _next_axes(program, equation, found)
        if result is not None:
            output = equation.outputs[0]
            found[output] = result
            last = max(last, *program.users.get(output, [last]))
    return found


def _next_axes(
    program: Program, equation: Equation, found: dict[int, Axes]
) -> Axes | None:
    """The axes of an equation's result, or None if it does not belong to the layer."""
    mine = [number for number in equation.numbers if number in found]
    others = [n for n in equation.numbers if n not in found and program.values[n].on_x]
    if not mine or others or len(equation.outputs) != 1:
        return None
    axes = found[mine[0]]
    if any(found[number] != axes for number in mine):
        return None
    shape = program.values[equation.outputs[0]].shape
    if _is_elementwise(equation):
        shapes = {program.values[number].shape for number in mine}
        return axes if shapes == {shape} else None
    if equation.name == "transpose":
        return tuple(axes[axis] for axis in equation.params["permutation"])
    if equation.name in RESHAPING:
        return regroup([part for axis in axes for part in axis], shape)
    return None


def _is_elementwise(equation: Equation) -> bool:
    """Whether each number of the result depends on one number of each input."""
    return equation.name in _ELEMENTWISE or (
        equation.primitive in CALLS
        and all(_all_elementwise(inner) for inner in inner_jaxprs(equation.params))
    )


def _all_elementwise(jaxpr: Jaxpr) -> bool:
    """Whether all of a jaxpr is elementwise, but for scalars that are broadcast."""
    return all(
        eqn.primitive.name in _ELEMENTWISE
        or (
            eqn.primitive in CALLS
            and all(_all_elementwise(inner) for inner in inner_jaxprs(eqn.params))
        )
        or (eqn.primitive.name == "broadcast_in_dim" and not shape_of(eqn.invars[0]))
        for eqn in jaxpr.eqns
    )


def _is_float(program: Program, number: int) -> bool:
    return jnp.issubdtype(program.values[number].dtype, jnp.floating)


def _last_cut(program: Program, found: dict[int, Axes]) -> int:
    """The last of a layer's values through which all other equations see it.

    If that is not floating point, the last before it is rounded.
    """
    numbers = sorted(found)
    outside = {
        number
        for number in numbers
        if number == program.output
        or any(
            program.equations[user].outputs[0] not in found
            for user in program.users.get(number, [])
        )
    }
    end = len(program.values)
    for cut in reversed(numbers):
        around = {numbers[0]} - {cut}  # what the layer reaches without the cut
        for number in numbers[1:]:
            inputs = program.equations[program.producer[number]].numbers
            if number != cut and not around.isdisjoint(inputs):
                around.add(number)
        if cut >= end or not around.isdisjoint(outside):
            continue
        if _is_float(program, cut):
            return cut
        rounded = [n for n in numbers if _name_of(program, n) == "round"]
        end = min([cut, *rounded])
    return numbers[0]


def _name_of(program: Program, number: int) -> str:
    equation = program.equation_of(number)
    return "" if equation is None else equation.name


def comes_of_sigmoid(program: Program, number: int) -> bool:
    """Whether a value is a logistic function's, in this or another shape."""
    passing = RESHAPING | {"same", "transpose", "name", "copy", "convert_element_type"}
    while _name_of(program, number) in passing:
        number = program.equations[program.producer[number]].numbers[0]
    return _name_of(program, number) == "logistic"


def _opaque(program: Program) -> list[str]:
    """Loops and branches with products inside, a line each."""
    notes = []
    for equation in program.equations:
        known = [program.values[number] for number in equation.numbers]
        inside = any(holds(j, PRODUCTS) for j in inner_jaxprs(equation.params))
        if not inside or not any(value.on_x for value in known):
            continue
        paths = [
            _without_collection(value.path)
            for value in known
            if value.path is not None and len(value.shape) > 1
        ]
        length = equation.params.get("length")
        times = f" of {length} iterations" if length else ""
        weights = ", ".join(paths) or "no weights"
        notes.append(f"{weights}: inside a {equation.name}{times}, not reached")
    return notes
