"""Which primitives treat each number by itself.

The usual ones have rules. Others are tried: if some of the numbers change, only the
results at the same places may. The places that change are those with some bit of their
index set, and those without it, for each bit, so that every pair is told apart.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

from ioca_jax.networks.jaxprs import Equation, Program, bind, has_body, is_foreign
from ioca_jax.networks.rules import elementwise_axes, rule_of

_LONGEST = 3  # axis that is tried


def is_elementwise(program: Program, equation: Equation) -> bool:
    """Whether each number of an equation's result depends on one of each input.

    Scalars may be inputs besides.
    """
    primitive, params = equation.primitive, equation.params
    axes = rule_of(equation.name).axes
    if primitive is None or axes is not None:
        return axes is elementwise_axes
    inputs, outputs = program.shapes(equation)
    if len(outputs) != 1 or outputs[0] not in inputs:
        return False
    if {*inputs} - {outputs[0], ()} or is_foreign(equation):
        return False
    if has_body(equation):
        return False
    tried = tuple(tuple(min(size, _LONGEST) for size in shape) for shape in inputs)
    dtypes = [
        program.values[item].dtype if isinstance(item, int) else item.aval.dtype
        for item in equation.inputs
    ]
    items = tuple(sorted(params.items()))
    try:
        return _is_local(primitive, items, tried, tuple(map(str, dtypes)))
    except TypeError:  # params that no cache takes
        return _is_local.__wrapped__(primitive, items, tried, tuple(map(str, dtypes)))


@functools.cache
def _is_local(
    primitive: Primitive,
    items: tuple[tuple[str, Any], ...],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[str, ...],
) -> bool:
    """Whether a change of some numbers changes results at the same places alone."""
    rng, shape = np.random.default_rng(0), max(shapes, key=len)
    params = dict(items)

    def run(inputs: list[np.ndarray]) -> np.ndarray:
        return np.asarray(bind(primitive, params, map(jnp.asarray, inputs))[0])

    def draw() -> list[np.ndarray]:
        kinds = zip(shapes, map(jnp.dtype, dtypes), strict=True)
        return [_random(rng, shape, dtype) for shape, dtype in kinds]

    size = math.prod(shape)
    index = np.arange(size).reshape(shape)
    try:
        before, other = draw(), draw()
        result = run(before)
        if result.shape != shape or np.isnan(result).all():
            return False
        for bit in range(max(size - 1, 0).bit_length()):
            for stays in (index >> bit & 1, ~index >> bit & 1):
                mixed = [
                    np.where(stays, one, two) if one.shape == shape else one
                    for one, two in zip(before, other, strict=True)
                ]
                same = np.isclose(run(mixed), result, rtol=0, atol=0, equal_nan=True)
                if not same[stays == 1].all():
                    return False
    except Exception:  # not of such shapes or types, whatever JAX raises
        return False
    return True


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers that most functions take; small whole ones for integers."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return np.asarray(rng.uniform(0.1, 0.9, shape)).astype(dtype)
    return np.asarray(rng.integers(0, 3, shape)).astype(dtype)
