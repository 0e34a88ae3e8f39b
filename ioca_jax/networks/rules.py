"""What is known of each primitive: one table of rules, by the primitive's name.

A layer is followed from equation to equation by what is known of their primitives: how
the axes of a value pass through, and in which inputs a result is affine. A primitive
without a rule is followed if trying it shows that it treats each number by itself
(``elementwise``). ``register`` adds a rule, also for a primitive of the user:

>>> from jax.extend.core import Primitive
>>> from ioca_jax.networks import rules
>>> my_swish = Primitive("my_swish")
>>> rules.register(rules.Rule(axes=rules.elementwise_axes), my_swish.name)
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from jax.extend.core import Primitive, primitives

from ioca_jax.networks.axes import Axes, Part, regroup

# Of the inputs of an equation, and of its outputs.
Shapes = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]
Inputs = Sequence[Axes | None]  # None for what the layer does not change


class Given(NamedTuple):
    """An equation of one result.

    Attributes:
        primitive: of the equation.
        params: of the equation.
        shapes: of its inputs.
        shape: of its result.
    """

    primitive: Primitive | None
    params: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is known of a primitive.

    Attributes:
        axes: the axes of its result, from those of its inputs that belong to the layer;
            None where its result does not. Without this function, the primitive is
            tried: it may treat each number by itself.
        moved_dims: takes ``params``, the shapes of an input and of the result, and some
            dimensions of that input. It returns where these are in the result, or None
            where the result mixes their numbers. Without this function, dimensions stay
            where they are if each number is treated by itself, and are mixed otherwise.
        is_affine_in: whether its result is an affine function of the inputs at some
            positions together.
        has_same_numbers: whether its result has the numbers of its input, in this or
            another shape, order or type.
        is_paired: whether it hands each input on as the output at the same position.
        is_hidden: whether it calls a program that cannot be looked into.
    """

    axes: Callable[[Given, Inputs], Axes | None] | None = None
    moved_dims: Callable[..., Set[int] | None] | None = None
    is_affine_in: Callable[[Sequence[int]], bool] = lambda positions: False
    has_same_numbers: bool = False
    is_paired: bool = False
    is_hidden: bool = False


_RULES: dict[str, Rule] = {}
_UNKNOWN = Rule()


def register(rule: Rule, *names: str) -> None:
    """Makes a rule that of some primitives; a later rule replaces an earlier one.

    Rules are asked while a function is traced: networks traced before stay as they are.

    Args:
        rule: what is known of these primitives.
        names: of the primitives.
    """
    _RULES.update(dict.fromkeys(names, rule))


def rule_of(name: str) -> Rule:
    """The rule of a primitive, by its name; ``Rule()`` for an unknown one."""
    return _RULES.get(name, _UNKNOWN)


def is_scale(eqn: Any, shapes: Shapes) -> bool:
    """Whether a product contracts nothing: each result is made of one number.

    An outer product is none: it is a layer of one input.
    """
    params = eqn.params
    if eqn.primitive is primitives.dot_general_p:
        contracted, batch = params["dimension_numbers"]
        return not contracted[0] and bool(batch[0] or () in shapes[0])
    if eqn.primitive is not primitives.conv_general_dilated_p:
        return False
    numbers, (data, kernel) = params["dimension_numbers"], shapes[0]
    channels = data[numbers.lhs_spec[1]]
    moved = [*params["window_strides"], *itertools.chain(*params["padding"])]
    return (
        params["feature_group_count"] == channels == math.prod(kernel) > 1
        and kernel[numbers.rhs_spec[0]] == channels
        and moved == [1] * (len(data) - 2) + [0] * 2 * (len(data) - 2)
        and [data[axis] for axis in numbers.lhs_spec]
        == [shapes[1][0][axis] for axis in numbers.out_spec]
    )


def extra_axis(size: int) -> tuple[Part, ...]:
    """An axis that a value has besides the layer's own."""
    return (Part("extra", size, ()),) if size > 1 else ()


def _is_free(axis: Iterable[Part]) -> bool:
    """Whether numbers along an axis may be mixed: all are made of the same ones."""
    return all(part.role == "extra" for part in axis)


def elementwise_axes(given: Given, inputs: Inputs) -> Axes | None:
    """The axes of what treats each number by itself; axes of size 1 are repeated."""
    mine = {
        _repeated(axes, shape, given.shape)
        for axes, shape in zip(inputs, given.shapes, strict=True)
        if axes is not None
    }
    return mine.pop() if len(mine) == 1 else None


def _repeated(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    if len(before) != len(after):
        return None
    sizes = zip(before, after, strict=True)
    return tuple(
        axis if old == new else extra_axis(new)
        for axis, (old, new) in zip(axes, sizes, strict=True)
    )


def _end(given: Given, inputs: Inputs) -> None:
    """The result is of no layer; the primitive is not tried."""


def _transpose(given: Given, inputs: Inputs) -> Axes | None:
    (axes,) = inputs
    return axes and tuple(axes[dim] for dim in given.params["permutation"])


def _reshape(given: Given, inputs: Inputs) -> Axes | None:
    axes = inputs[0]
    return axes and regroup([part for axis in axes for part in axis], given.shape)


def _broadcast(given: Given, inputs: Inputs) -> Axes | None:
    axes, result = inputs[0], [extra_axis(size) for size in given.shape]
    dims = given.params["broadcast_dimensions"]
    for dim, size, axis in zip(dims, given.shapes[0], axes or (), strict=True):
        if size == given.shape[dim]:
            result[dim] = axis
    return tuple(result)


def _reduce(given: Given, inputs: Inputs) -> Axes | None:
    axes, reduced = inputs[0], given.params["axes"]
    if len(inputs) > 1 or axes is None:
        return None
    if not all(_is_free(axes[dim]) for dim in reduced):
        return None
    return tuple(axis for dim, axis in enumerate(axes) if dim not in reduced)


def _accumulate(given: Given, inputs: Inputs) -> Axes | None:
    (axes,) = inputs
    return axes if axes and _is_free(axes[given.params["axis"]]) else None


def _concatenate(given: Given, inputs: Inputs) -> Axes | None:
    """Several values along an axis of their own."""
    dim = given.params["dimension"]
    if any(axes is not None and not _is_free(axes[dim]) for axes in inputs):
        return None
    rest = {axes[:dim] + axes[dim + 1 :] for axes in inputs if axes is not None}
    return _with_axis(rest, dim, given.shape)


def _stack(given: Given, inputs: Inputs) -> Axes | None:
    known = {axes for axes in inputs if axes is not None}
    return _with_axis(known, given.params["axis"], given.shape)


def _with_axis(rest: set[Axes], dim: int, shape: Sequence[int]) -> Axes | None:
    if len(rest) != 1:
        return None
    axes = rest.pop()
    return (*axes[:dim], extra_axis(shape[dim]), *axes[dim:])


def _cut(given: Given, inputs: Inputs) -> Axes | None:
    """Parts of a value: of axes of its own alone."""
    axes, params = inputs[0], given.params
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
        result.append(axis if stays else extra_axis(given.shape[dim]))
    return tuple(result)


def _look_up(given: Given, inputs: Inputs) -> Axes | None:
    """Entries of a table that the layer does not change; its value is the index."""
    table, axes = inputs
    if table is not None or axes is None or not _is_free(axes[-1]):
        return None
    numbers, rest = given.params["dimension_numbers"], iter(axes[:-1])
    return tuple(
        extra_axis(size) if dim in numbers.offset_dims else next(rest)
        for dim, size in enumerate(given.shape)
    )


def _dot(given: Given, inputs: Inputs) -> Axes | None:
    """A product that contracts nothing; other products end a walk."""
    mine = [axes for axes in inputs if axes is not None]
    if len(mine) > 1 or not is_scale(given, (given.shapes, [given.shape])):
        return None
    batch = given.params["dimension_numbers"][1]
    free = [
        [dim for dim in range(len(shape)) if dim not in dims]
        for shape, dims in zip(given.shapes, batch, strict=True)
    ]
    both = [
        axes or tuple(map(extra_axis, shape))
        for axes, shape in zip(inputs, given.shapes, strict=True)
    ]
    own = inputs.index(mine[0])
    first = [both[own][dim] for dim in batch[own]]
    return (*first, *(both[side][dim] for side in (0, 1) for dim in free[side]))


def _convolve(given: Given, inputs: Inputs) -> Axes | None:
    """A convolution that multiplies each channel by a number; others end a walk."""
    axes, kernel = inputs
    if kernel or not axes or not is_scale(given, (given.shapes, [given.shape])):
        return None
    numbers = given.params["dimension_numbers"]
    source = dict(zip(numbers.out_spec, numbers.lhs_spec, strict=True))
    return tuple(axes[source[dim]] for dim in range(len(axes)))


def _stay(params: Any, before: Any, after: Any, dims: Set[int]) -> Set[int]:
    return dims


def _transposed(params: Any, before: Any, after: Any, dims: Set[int]) -> Set[int]:
    return {params["permutation"].index(dim) for dim in dims}


def _broadcasted(params: Any, before: Any, after: Any, dims: Set[int]) -> Set[int]:
    return {int(params["broadcast_dimensions"][dim]) for dim in dims}


def _stacked(params: Any, before: Any, after: Any, dims: Set[int]) -> Set[int]:
    return {dim + (dim >= params["axis"]) for dim in dims}


def _summed(params: Any, before: Any, after: Any, dims: Set[int]) -> Set[int] | None:
    axes = params["axes"]
    if not dims.isdisjoint(axes):
        return None
    return {dim - sum(axis < dim for axis in axes) for dim in dims}


def _reshaped(
    params: Any, before: Sequence[int], after: Sequence[int], dims: Set[int]
) -> Set[int]:
    """The dimensions that share strides with some before."""

    def strides(shape: Sequence[int], dim: int) -> tuple[int, int]:
        return math.prod(shape[:dim]), math.prod(shape[: dim + 1])

    ranges = [strides(before, dim) for dim in dims]
    return {
        dim
        for dim in range(len(after))
        for first, last in ranges
        if max(first, strides(after, dim)[0]) < min(last, strides(after, dim)[1])
    }


def _all(positions: Sequence[int]) -> bool:
    return True


def _one(positions: Sequence[int]) -> bool:
    return len(positions) == 1


def _first(positions: Sequence[int]) -> bool:
    return [*positions] == [0]


def _choices(positions: Sequence[int]) -> bool:
    """All but the first, which decides between the others."""
    return 0 not in positions


_EACH = Rule(axes=elementwise_axes)
_KEEPS = Rule(is_affine_in=_all, has_same_numbers=True)
_LINEAR = Rule(is_affine_in=_all)
_PLACED = dataclasses.replace(_LINEAR, axes=_cut, moved_dims=_stay)
_REDUCES = Rule(axes=_reduce)
_ACCUMULATES = Rule(axes=_accumulate)
_with = dataclasses.replace

# fmt: off
register(
    _EACH,
    "abs", "acos", "acosh", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "clamp", "complex", "cos", "cosh", "eq", "erf", "erf_inv", "erfc", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log",
    "log1p", "logistic", "lt", "max", "min", "ne", "nextafter", "not", "or", "pow",
    "reduce_precision", "rem", "round", "rsqrt", "sign", "sin", "sinh", "sqrt",
    "square", "stop_gradient", "tan", "tanh", "xor",
)
register(
    _with(_EACH, is_affine_in=_all),
    "add", "add_any", "conj", "imag", "neg", "real", "sub",
)
register(_with(_EACH, is_affine_in=_one), "mul")
register(_with(_EACH, is_affine_in=_first), "div")
register(_with(_EACH, is_affine_in=_choices), "select_n")

register(
    _with(_KEEPS, axes=elementwise_axes),
    "convert_element_type", "copy", "copy_p", "name", "sharding_constraint",
)
# A layer's own copy of its input, which ends other layers.
register(_with(_KEEPS, axes=_end, moved_dims=_stay), "same")
register(_with(_KEEPS, is_paired=True), "device_put", "optimization_barrier")
register(_with(_KEEPS, axes=_transpose, moved_dims=_transposed), "transpose")
register(_with(_KEEPS, axes=_reshape, moved_dims=_reshaped), "reshape", "squeeze")
register(_with(_KEEPS, axes=_broadcast, moved_dims=_broadcasted), "broadcast_in_dim")

register(_PLACED, "pad", "rev", "slice")
register(_with(_PLACED, is_affine_in=_first), "dynamic_slice")
register(_with(_PLACED, axes=_concatenate), "concatenate")
register(_with(_PLACED, axes=_stack, moved_dims=_stacked), "stack")
register(_with(_LINEAR, moved_dims=_stay), "split")
register(_LINEAR, "reduce_window_sum")
register(Rule(axes=_look_up, is_affine_in=_first), "gather")
register(Rule(axes=_dot, is_affine_in=_one), "dot_general")
register(Rule(axes=_convolve, is_affine_in=_one), "conv_general_dilated")
register(Rule(axes=_end), "dynamic_update_slice", "sort")

register(_with(_REDUCES, moved_dims=_summed, is_affine_in=_all), "reduce_sum")
register(
    _REDUCES,
    "argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or",
    "reduce_prod", "reduce_xor",
)
register(_with(_ACCUMULATES, is_affine_in=_all), "cumsum")
register(_ACCUMULATES, "cummax", "cummin", "cumprod")
register(
    Rule(is_hidden=True),
    "call_exported", "ffi_call", "io_callback", "pure_callback",
)
# fmt: on
