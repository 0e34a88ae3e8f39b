"""What is no layer of a traced network, and why.

Products that make the logits, products with arrays that the function holds, loops,
branches and calls that are not looked into, and every variable that the logits depend
on without being part of a layer: embedding tables, weights chosen for each example,
scales of a normalisation over neurons.
"""

from collections.abc import Collection, Iterator, Sequence, Set
from typing import Any

from ioca_jax.networks.axes import Part
from ioca_jax.networks.inlining import MAX_UNROLLED
from ioca_jax.networks.jaxprs import (
    PRODUCTS,
    Equation,
    Program,
    equations_inside,
    holds_products,
    split_scan,
    unclosed,
)
from ioca_jax.networks.rules import is_scale, rule_of
from ioca_jax.networks.steps import follow, is_elementwise_step
from ioca_jax.networks.walks import Product, data_products, weight_dims

_LOOKUPS = frozenset(["dynamic_slice", "gather"])
UNASSIGNED = (
    "rows cannot be assigned to examples; write apply for one example and jax.vmap it"
)
_SHOWN = 2  # names in a line of the table, if more share its reason


def with_layer_above(program: Program, products: Sequence[Product]) -> set[int]:
    """The results of products that another product depends on."""
    bits = {product.output: 1 << bit for bit, product in enumerate(products)}
    below, used = program.below(bits), 0
    for product in products:
        used |= below.get(product.data, 0)
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
    program: Program, equation: Equation, number: int, dims: Set[int]
) -> Set[int] | None:
    """Where axes of an input are in an equation's result; None if it mixes them."""
    move = rule_of(equation.name).moved_dims
    if move is None:
        return dims if is_elementwise_step(program, equation) else None
    after = program.shape(equation.outputs[0])
    return move(equation.params, program.shape(number), after, dims)


def held_arrays(program: Program) -> list[str]:
    """Products with arrays that the function holds, a line each; scales are none."""
    notes = []
    for product in data_products(program):
        number = product.equation.inputs[product.weights]
        if is_scale(product.equation, program.shapes(product.equation)):
            continue
        if program.values[number].path is None and _comes_of_constant(program, number):
            size = " x ".join(map(str, program.shape(number)))
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


def variables_elsewhere(program: Program, layers: Sequence[Collection[int]]) -> list:
    """Variables that the logits depend on and that are part of no layer, a line each.

    Loops, branches, and calls of other programs that take no variable are listed too. A
    variable that takes part in computing a value of ``layers`` is not listed.
    """
    notes: dict[str, str] = {}
    met = list(_meetings(program))
    known = {
        leaf
        for equation, leaves in met
        if any(n in values for values in layers for n in equation.outputs)
        for leaf in leaves
    }
    for equation, leaves in met:
        name = _opaque_name(equation)
        if name and not leaves:
            notes.setdefault(f"no weights: {_reason(program, equation)}", "")
        for leaf in sorted(leaves - (set() if name else known)):
            path = without_collection(program.values[leaf].path or "variables")
            notes.setdefault(path, _reason(program, equation))
    return [f"{path}: {reason}" if reason else path for path, reason in notes.items()]


def _meetings(program: Program) -> Iterator[tuple[Equation, set[int]]]:
    """Equations that depend on the examples, with the variables that they add."""
    behind = {number: {number} for number in range(min(program.x))}
    for equation in program.equations:
        leaves = set().union(*(behind.get(n, ()) for n in equation.numbers))
        on_x = [program.values[number].on_x for number in equation.outputs]
        if any(on_x):
            yield equation, leaves
        pairs = zip(equation.outputs, on_x, strict=True)
        behind |= {number: leaves for number, moves in pairs if not moves}


def _reason(program: Program, equation: Equation) -> str:
    """Why a variable that is used by an equation is part of no layer."""
    name = _opaque_name(equation)
    if name:
        return not_reached(program, equation, name)
    if equation.name in _LOOKUPS and equation.numbers[1:]:
        if _is_multiplied(program, equation.outputs[0]):
            return (
                "weights chosen for each example, so that a neuron is another unit for "
                "another example; name the result by checkpoint_name to take it"
            )
        return "looked up by index, not multiplied"
    if equation.name.startswith("ragged_dot"):
        return (
            "multiplied by groups of rows (ragged_dot), not reached; what works: "
            "einsum over all experts, weighed"
        )
    if is_elementwise_step(program, equation):
        return "combined number by number with values of no single layer, no product"
    return f"enters by {equation.name}, not as the weights of a product"


def _is_multiplied(program: Program, number: int) -> bool:
    """Whether a value is multiplied, as it is, with another that depends on x."""
    shape = program.values[number].shape
    axes = tuple((Part("position", size, (i,)),) for i, size in enumerate(shape))
    values = follow(program, {number: axes})
    users = {user for value in values for user in program.users.get(value, [])}
    return any(
        program.equations[user].primitive in PRODUCTS
        and all(program.values[n].on_x for n in program.equations[user].numbers)
        for user in users
    )


def _opaque_name(equation: Equation) -> str:
    """The name of a loop, branch or call that has products or may; else nothing."""
    if rule_of(equation.name).is_hidden:
        return equation.name
    if holds_products(equation):
        return equation.name
    names = (eqn.primitive.name for eqn in equations_inside(equation))
    return next((name for name in names if rule_of(name).is_hidden), "")


def grouped(notes: Sequence[str]) -> list[str]:
    """Lines ``name: reason``, one for each reason; many names are counted."""
    names: dict[str, list[str]] = {}
    for note in notes:
        name, _, reason = note.partition(": ")
        names.setdefault(reason, []).append(name)
    result = []
    for reason, group in names.items():
        shown = len(group) if len(group) <= _SHOWN + 1 else _SHOWN
        more = f" and {len(group) - shown} more" if len(group) > shown else ""
        result.append(f"{', '.join(group[:shown])}{more}: {reason}")
    return result


def described(network: Any) -> str:
    """A network as text: a table of the layers, and what is no layer."""
    import pandas as pd  # half a second, for this text alone

    rows = [
        (layer.name, layer.kind, " x ".join(map(str, layer.shape)), layer.num_neurons)
        for layer in network.layers
    ]
    names = ["layer", "kind", "activation shape", "neurons"]
    table = pd.DataFrame(rows, columns=pd.Index(names))
    of_tokens = f" of each of {network.tokens} tokens" if network.tokens else ""
    lines = [
        table.to_string(index=False),
        f"{network.num_neurons} neurons, {network.num_classes} classes{of_tokens}; "
        f"positions pooled by {network.pool}",
    ]
    if network.unreachable:
        notes = grouped(network.unreachable)
        lines += ["Not among the layers:", *(f"  {note}" for note in notes)]
    return "\n".join(lines)


def not_reached(program: Program, equation: Equation, name: str) -> str:
    """That products inside a loop, branch or call are no layers, and what to do."""
    if rule_of(name).is_hidden:
        return f"inside a {name}, not reached"
    length, limit = equation.params.get("length"), ""
    times = f" of {length} iterations" if length else ""
    if length and runs_over_weights(program, equation) and length > MAX_UNROLLED:
        limit = f", more than the {MAX_UNROLLED} that are unrolled"
    return (
        f"inside a {name}{times}{limit}, not reached; what works: products "
        "with its inputs before it, a name (checkpoint_name) after it, NAME:input of "
        "the next layer"
    )


def runs_over_weights(program: Program, scan: Equation) -> bool:
    """Whether a scan is over stacked weights rather than over time."""
    body = unclosed(scan.params["jaxpr"])
    scanned = scan.inputs[sum(split_scan(body, program.shapes(scan))) :]
    return any(program.values[n].path for n in scanned if isinstance(n, int))


def without_collection(path: str) -> str:
    """A variable's key path without Flax Linen's collection."""
    return path.removeprefix("params/")
