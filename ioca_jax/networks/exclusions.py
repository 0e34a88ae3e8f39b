"""What is no layer of a traced network, and why.

Products that make the logits, products with arrays that the function holds, loops and
branches.
"""

import math
from collections.abc import Sequence

from ioca_jax.networks.jaxprs import (
    PRODUCTS,
    Equation,
    Program,
    holds,
    inner_jaxprs,
)
from ioca_jax.networks.walks import Product, is_elementwise, weight_dims

# Leave an axis where it is.
_IN_PLACE = frozenset(
    ["concatenate", "dynamic_slice", "pad", "rev", "same", "slice", "split"]
)


def with_layer_above(program: Program, products: Sequence[Product]) -> set[int]:
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


def makes_logits(program: Program, product: Product) -> bool:
    """Whether a product's neurons become logits and are not summed or multiplied.

    Its values may be averaged over positions, or over networks of an ensemble.
    """
    neurons = {product.output: set(weight_dims(program, product)[1])}
    for equation in program.equations[program.producer[product.output] + 1 :]:
        mine = [number for number in equation.numbers if number in neurons]
        for number in mine:
            after = _moved(program, equation, number, neurons[number])
            if after is None:
                return False
            for output in equation.outputs:
                neurons[output] = neurons.get(output, set()) | after
    return True


def _moved(
    program: Program, equation: Equation, number: int, dims: set[int]
) -> set[int] | None:
    """Where axes of an input are in an equation's result; None if it mixes them."""
    params, shape = equation.params, program.values[number].shape
    if equation.name in _IN_PLACE or is_elementwise(equation):
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


def held_arrays(program: Program) -> list[str]:
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


def opaque_equations(program: Program) -> list[str]:
    """Loops and branches with products inside, a line each."""
    notes = []
    for equation in program.equations:
        known = [program.values[number] for number in equation.numbers]
        inside = any(holds(j, PRODUCTS) for j in inner_jaxprs(equation.params))
        if not inside or not any(value.on_x for value in known):
            continue
        paths = [
            without_collection(value.path)
            for value in known
            if value.path is not None and len(value.shape) > 1
        ]
        length = equation.params.get("length")
        times = f" of {length} iterations" if length else ""
        weights = ", ".join(paths) or "no weights"
        notes.append(f"{weights}: inside a {equation.name}{times}, not reached")
    return notes


def without_collection(path: str) -> str:
    """A variable's key path without Flax Linen's collection."""
    return path.removeprefix("params/")
