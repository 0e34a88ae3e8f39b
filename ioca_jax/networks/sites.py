"""Where a traced network can be ablated: its layers, found in its equations.

A layer is a product, ``dot_general`` or ``conv_general_dilated``, of something that
depends on the examples and something that depends on variables alone. Its neurons are
the axes of its result that come from the weights. Its result is followed through
elementwise equations, reshapes and transposes for as long as nothing else that depends
on the examples enters: bias, batch norm, activation, the scale of quantised numbers
(``scales``). Products that are summed before anything that is not affine are one layer
(``units``). The last value through which all other equations see the layer is its
*site*. A residual sum, a product of two layers or a normalisation over neurons ends the
walk. Products of two values that both depend on the examples (attention) are no layers,
nor are tables that are looked up.
"""

import fnmatch
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import primitives

from ioca_jax.networks.axes import Axes, Part, Site, make_site, with_role
from ioca_jax.networks.exclusions import (
    UNASSIGNED,
    grouped,
    held_arrays,
    makes_logits,
    variables_elsewhere,
    with_layer_above,
    without_collection,
)
from ioca_jax.networks.jaxprs import Program, given_name
from ioca_jax.networks.scales import treats_each
from ioca_jax.networks.steps import follow, is_whole
from ioca_jax.networks.units import (
    Unit,
    find_units,
    shared_inputs,
    values_of,
)
from ioca_jax.networks.walks import (
    Product,
    Traces,
    find_products,
    is_float,
    unfollowed,
)

_COMPLEX = (
    "complex, and clamps are real; name a real value that is computed from it "
    "(checkpoint_name), or choose the next layer's NAME:input"
)


class Found(NamedTuple):
    """What can be ablated in a network.

    Attributes:
        layers: sites of layers, taken unless others are named.
        others: sites taken if named: inputs of layers, named values.
        unreachable: what is no site and why, a line each.
        shared: copies of inputs that the sites take for one, by number.
        axes: of the values of all layers, by number.
    """

    layers: list[Site]
    others: list[Site]
    unreachable: list[str]
    shared: dict[int, int]
    axes: dict[int, Axes]

    def without(self, names: Collection[str]) -> "Found":
        """Without sites whose rows turned out not to be the examples'."""
        layers, others = (
            [site for site in sites if site.layer.name not in names]
            for sites in (self.layers, self.others)
        )
        notes = [f"{name}: {UNASSIGNED}" for name in names]
        return self._replace(
            layers=layers, others=others, unreachable=notes + self.unreachable
        )


def find_sites(traces: Traces) -> Found:
    """Finds layers, their inputs, and values named by ``checkpoint_name``.

    Args:
        traces: the function.

    Returns:
        The sites, in the order of the equations.
    """
    program = traces.first
    products = find_products(program)
    units = find_units(traces, products)
    names = _names_of_products(program, products, units)
    has_layer_above = with_layer_above(program, products)
    num_classes = program.values[program.output].shape[-1]
    layers, notes, followed = [], [], {}
    for unit in units:
        product = unit.products[0]
        name = names[product.output]
        followed |= {n: a for n, a in unit.values.items() if is_whole(a)}
        site = make_site(unit.cut, unit.values[unit.cut], name, product.kind)
        is_last = product.output not in has_layer_above and (
            site.layer.num_neurons == num_classes or makes_logits(program, product)
        )
        reason = "makes the logits" if is_last else _reason(program, unit, site)
        if reason:
            notes.append(f"{name}: {reason}")
        else:
            layers.append(site)
            notes += [
                f"{name}: taken before a {step}, which cannot be followed"
                for step in unfollowed(program, unit.values)
            ]
        notes += _parts(program, products, unit, names)
    shared = shared_inputs(program, units)
    others = _input_sites(traces, products, units, names, shared, followed)
    others += _named_sites(traces, followed)
    others = [
        site for site in others if is_float(program, site.number) and site.has_examples
    ]
    own = [values_of(program, unit) for unit in units]
    notes += held_arrays(program) + variables_elsewhere(program, own)
    return Found(layers, others, notes, shared, followed)


def _reason(program: Program, unit: Unit, site: Site) -> str:
    """Why a layer's site cannot be ablated; empty where it can."""
    if jnp.issubdtype(program.values[site.number].dtype, jnp.complexfloating):
        return _COMPLEX
    if not is_float(program, site.number):
        return "of integers, which no clamp replaces"
    if not site.has_examples:
        return UNASSIGNED
    if unit.scale:
        return (
            f"of quantised numbers, whose scale ({unit.scale}) differs between both "
            "examples and neurons"
        )
    return ""


def _names_of_products(
    program: Program, products: Sequence[Product], units: Sequence[Unit]
) -> dict[int, str]:
    """Names by the products' results: those of layers, else of the product's own."""

    def named(some: Sequence[Product]) -> dict[int, str]:
        weights = [product.equation.inputs[product.weights] for product in some]
        names = _layer_names([program.values[n].path or "" for n in weights])
        return {product.output: n for product, n in zip(some, names, strict=True)}

    return named(products) | named([unit.products[0] for unit in units])


def _parts(
    program: Program,
    products: Sequence[Product],
    unit: Unit,
    names: Mapping[int, str],
) -> list[str]:
    """Weights of a layer of several products that do not name it, a line each."""
    first, *summed = unit.products
    outputs = {product.output for product in summed}
    notes, seen = [], {_weights_of(program, first)}
    for product in products:
        path = _weights_of(program, product)
        if product.output not in outputs | unit.inside or path in seen:
            continue
        seen.add(path)
        layer, part = names[first.output], names[product.output]
        if product.output in outputs:
            notes.append(f"{part}: summed into {layer}, one layer")
        else:
            notes.append(f"{part}: inside {layer}, affine from its input to its sum")
    return notes


def _weights_of(program: Program, product: Product) -> str | None:
    return program.values[product.equation.inputs[product.weights]].path


def _input_sites(
    traces: Traces,
    products: Sequence[Product],
    units: Sequence[Unit],
    names: Mapping[int, str],
    shared: Mapping[int, int],
    followed: Mapping[int, Axes],
) -> list[Site]:
    """The sites of all products' data; one that several share has the layer's name."""
    mixed, layers = _mixed_axes(traces), {unit.products[0].output for unit in units}
    sites: dict[int, Site] = {}
    for product in products:
        number = shared.get(product.data, product.data)
        if number not in sites or product.output in layers:
            name = f"{names[product.output]}:input"
            site = _input_site(traces, product, name, mixed, followed)
            sites[number] = site._replace(number=number)
    return [*sites.values()]


def choose_sites(found: Found, patterns: Sequence[str] | None) -> list[Site]:
    """The sites of the layers named, in the order in which the network runs.

    Args:
        found: all sites.
        patterns: names or glob patterns; None takes all layers. Inputs of layers are
            meant only by patterns that end in ``:input``.

    Returns:
        Sites, ordered by the numbers of their values, each after those it depends on.

    Raises:
        ValueError: no layers, a pattern that matches nothing, or two names of one
            value.
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
                notes = [n for n in found.unreachable if n.startswith(f"{pattern}: ")]
                known = "; ".join([", ".join(known), *notes])
                raise ValueError(f"layers: {pattern!r} matches none of {known}")
            chosen += [site for site in matches if site not in chosen]
    if not chosen:
        reached = "; ".join(grouped(found.unreachable)) or "none at all"
        raise ValueError(
            "apply: no hidden layers found; expected products of the examples with "
            f"weights from variables, got: {reached}"
        )
    chosen = sorted(chosen, key=lambda site: site.number)
    for one, other in zip(chosen, chosen[1:], strict=False):
        if one.number == other.number:
            raise ValueError(
                f"layers: {one.layer.name} and {other.layer.name} name one value; "
                "expected one of them"
            )
    return chosen


def _layer_names(paths: Sequence[str]) -> list[str]:
    """Unique names from the key paths of weights.

    The last key (``kernel``) is left out unless weights differ by it alone. So is Flax
    Linen's collection, ``params``. Layers that share weights are numbered.
    """
    paths = [without_collection(path) for path in paths]
    siblings = Counter(path.rpartition("/")[0] for path in set(paths))
    siblings[""] = 2  # a key of its own at the top is the name
    parents = [path.rpartition("/")[0] for path in paths]
    return _numbered(
        [
            parent if siblings[parent] == 1 else path
            for path, parent in zip(paths, parents, strict=True)
        ]
    )


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that occur more than once get ``#0``, ``#1``, ..."""
    counts, seen, result = Counter(names), Counter(), []
    for name in names:
        result.append(f"{name}#{seen[name]}" if counts[name] > 1 else name)
        seen[name] += 1
    return result


def _input_site(
    traces: Traces,
    product: Product,
    name: str,
    mixed: Mapping[int, Axes],
    followed: Mapping[int, Axes],
) -> Site:
    """The site of a product's data.

    Each number along the axes that the weights have too is a neuron, but for the vector
    of an attention head. Where the heads are not seen, the last of several axes that
    are contracted is their vector, unless it holds neurons: hidden units of experts.
    """
    program, number = traces.first, product.data
    shape = program.values[number].shape
    contracted, batch = [], []
    if product.kind == "conv":
        contracted = [product.equation.params["dimension_numbers"].lhs_spec[1]]
    else:
        contracted, batch = (
            sorted(pair[1 - product.weights])  # einsum's follow the letters
            for pair in product.equation.params["dimension_numbers"]
        )
    dims, vector = batch + contracted, []
    heads = _heads(program, number, dims, mixed)
    if len(contracted) > 1 and not batch and not heads:
        is_neurons = _has_neurons(program, number, dims, followed)
        vector = [] if is_neurons else [dims.pop()]
    axes = with_role(traces.axes(number), shape, dims, "neuron")
    axes = with_role(axes, shape, vector, "vector")
    if heads:
        axes = tuple(heads.get(dim, axis) for dim, axis in enumerate(axes))
    kind = "heads" if vector or heads else "input"
    return make_site(number, axes, name, kind)


def _made_of(program: Program, number: int) -> Iterator[int]:
    """A value, and all that it is computed from number by number, in any shape."""
    pending, seen = [number], set()
    while pending:
        number = pending.pop()
        if number in seen:
            continue
        seen.add(number)
        yield number
        equation = program.equation_of(number)
        if equation is not None and treats_each(program, equation):
            sources = program.sources_of(number)
            pending += [n for n in sources if program.values[n].on_x]


def _has_neurons(
    program: Program, number: int, dims: Sequence[int], followed: Mapping[int, Axes]
) -> bool:
    """Whether some axes of a value are those of a layer's neurons."""
    shape = program.values[number].shape
    return any(
        part.role == "neuron"
        for source in _made_of(program, number)
        if source in followed and program.values[source].shape == shape
        for part in followed[source][dims[-1]]
    )


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
        values = follow(program, {output: axes})
        found |= {number: a for number, a in values.items() if is_whole(a)}
    return found


def _heads(
    program: Program, number: int, dims: Sequence[int], mixed: Mapping[int, Axes]
) -> dict[int, tuple[Part, ...]] | None:
    """Some axes of an input as heads and their vector, if attention computes them.

    Looks upwards through elementwise equations for what attention mixes.
    """
    shape = program.values[number].shape
    is_last = sorted(dims) == [*range(len(shape) - len(dims), len(shape))]
    sizes = shape[-len(dims) :] if is_last else shape
    for source in _made_of(program, number):
        own = program.values[source].shape
        if source in mixed and own[-len(sizes) :] == sizes:
            shift = len(own) - len(shape)
            found = _split_heads(mixed[source], [dim + shift for dim in dims])
            return found and {dim - shift: parts for dim, parts in found.items()}
    return None


def _split_heads(axes: Axes, dims: Sequence[int]) -> dict[int, tuple[Part, ...]] | None:
    """Some axes in the roles of heads and their vector; None if all are a vector.

    The vector is of the operand that has no other axes, the values; the rest is heads.
    """
    others = [axis for dim, axis in enumerate(axes) if dim not in dims]
    elsewhere = {part.rank[0] for axis in others for part in axis}
    own = [part.rank[0] for dim in sorted(dims) for part in axes[dim] if part.rank[0]]
    operands = [operand for operand in own if operand not in elsewhere] or own
    if not operands:
        return None
    result, ranks, heads = {}, itertools.count(), 0
    for dim in sorted(dims):
        axis = axes[dim]
        roles = ["vector" if p.rank[0] == operands[-1] else "neuron" for p in axis]
        heads += roles.count("neuron")
        parts = zip(roles, axis, strict=True)
        result[dim] = tuple(Part(r, p.size, (next(ranks),)) for r, p in parts)
    return result if heads else None


def _named_sites(traces: Traces, followed: dict[int, Axes]) -> list[Site]:
    """Values that the network names; unless a layer's, their last axis is neurons."""
    program = traces.first
    named = [
        (name, equation.outputs[0])
        for equation in program.equations
        if program.values[equation.outputs[0]].on_x
        and (name := given_name(equation, program.shapes(equation))) is not None
    ]
    names = _numbered([name for name, _ in named])
    sites = []
    for name, (_, number) in zip(names, named, strict=True):
        shape, examples = program.values[number].shape, traces.differing(number)
        free = [axis for axis in range(len(shape)) if axis not in examples]
        axes = with_role(traces.axes(number), shape, free[-1:], "neuron")
        sites.append(make_site(number, followed.get(number, axes), name, "named"))
    return sites
