"""What can be traced as a network: a function of variables and examples, at inference.

Whatever else is given is refused in one line. A network in training mode is found
twice: from its equations (it draws random numbers, or computes something that is one
for all examples), and from its figures (one example changes another's logits).
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.typing import ArrayLike
from jaxtyping import Array

from ioca_jax.networks.jaxprs import (
    Program,
    holds,
    inner_jaxprs,
    named_leaves,
    trace_program,
)
from ioca_jax.networks.walks import Traces

_DRAWS = frozenset(
    [
        primitives.random_bits_p,
        primitives.random_gamma_p,
        primitives.rng_bit_generator_p,
        primitives.rng_uniform_p,
        primitives.threefry2x32_p,
    ]
)
_REMEDY = "switch dropout and batch norm to inference"
_REMEDIES = (
    "switch batch norm to inference, and keep examples the leading axis (merge N and T "
    "as [N * T, ...], vmap over T inside of N)"
)
_TOLERANCE = 1e-3  # of the greatest number; what one example does to another is larger


def checked_arguments(
    apply: Callable, variables: Any, x: ArrayLike
) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Checks what is to be traced.

    Args:
        apply: the function.
        variables: its first argument.
        x: its second.

    Returns:
        Shapes and types of both arguments.

    Raises:
        ValueError: anything but a function of two arguments, a tree of arrays, and one
            or more examples.
    """
    wanted = "apply: expected a function apply(variables, x)"
    if not callable(apply):
        raise ValueError(f"{wanted}, got a {type(apply).__name__}")
    try:
        inspect.signature(apply).bind(variables, x)
    except TypeError as error:
        raise ValueError(f"{wanted}, got one with other arguments: {error}") from error
    arrays = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    for name, leaf in named_leaves(variables):
        if not isinstance(leaf, arrays):
            raise ValueError(
                f"variables: expected arrays alone, got a {type(leaf).__name__} at "
                f"{name!r}; let apply hold what is no array"
            )
    shape = np.shape(x)
    if not shape or not shape[0]:
        raise ValueError(f"x: expected examples [N, ...], N >= 1, got {list(shape)}")
    shapes = jax.eval_shape(lambda tree: tree, variables)
    return shapes, jax.eval_shape(jnp.asarray, x)


def trace_logits(
    apply: Callable, variables: Any, example: jax.ShapeDtypeStruct, num_examples: int
) -> Program:
    """Traces a function of some number of examples that returns logits.

    Args:
        apply: the function.
        variables: shapes and types of its variables.
        example: shape and type of examples; their number is not used.
        num_examples: N.

    Returns:
        The program.

    Raises:
        ValueError: the function fails, or returns anything but logits [N, C].
    """
    x = jax.ShapeDtypeStruct((num_examples, *example.shape[1:]), example.dtype)
    try:
        program, output = trace_program(apply, variables, x)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"apply: failed on these variables and x {x.dtype} {list(x.shape)}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    leaves = jax.tree.leaves(output)
    if len(leaves) != 1 or leaves[0] is not output:
        raise ValueError(
            f"apply: expected one output, logits [N, C], got a {type(output).__name__} "
            f"of {len(leaves)}; return the logits alone"
        )
    is_float = jnp.issubdtype(output.dtype, jnp.floating)
    if is_float and output.shape in ((num_examples,), (num_examples, 1)):
        raise ValueError(
            "apply: expected logits [N, C] of two classes or more, got one number for "
            f"each example, {list(output.shape)} for N = {num_examples}; for a logit z "
            "[N, 1] return jnp.concatenate([jnp.zeros_like(z), z], 1)"
        )
    if output.ndim != 2 or output.shape[0] != num_examples or not is_float:
        raise ValueError(
            f"apply: expected logits [N, C], got {output.dtype} {list(output.shape)} "
            f"for N = {num_examples}"
        )
    if not program.values[program.output].on_x:
        raise ValueError("apply: expected logits that depend on x, got constants")
    return program


def check_same_equations(one: Program, other: Program, sizes: tuple[int, int]) -> None:
    """Refuses programs of one function that differ by more than sizes of arrays.

    Args:
        one: the program for ``sizes[0]`` examples.
        other: that for ``sizes[1]``.
        sizes: two numbers of examples.

    Raises:
        ValueError: other equations.
    """
    if one.structure != other.structure:
        raise ValueError(
            "apply: expected the same equations for any number of examples, got others "
            f"for {sizes[0]} than for {sizes[1]}; let no step depend on N, and give "
            "jnp.einsum of three arrays or more a fixed order "
            "(optimize=[(0, 1), (0, 1)])"
        )


def check_equations(traces: Traces) -> None:
    """Refuses equations that draw random numbers or serve all examples at once.

    Args:
        traces: the function.

    Raises:
        ValueError: such an equation.
    """
    check_same_equations(traces.first, traces.second, traces.sizes)
    for equation in traces.first.equations:
        inner = inner_jaxprs(equation.params)
        if equation.primitive in _DRAWS or any(holds(j, _DRAWS) for j in inner):
            raise ValueError(
                f"apply: draws random numbers ({equation.name}); {_REMEDY}"
            )
        # What a loop carries may be the same for all examples, such as a counter.
        if equation.name in ("scan", "while", "cond"):
            continue
        for number in equation.outputs:
            value = traces.first.values[number]
            if value.on_x and len(traces.differing(number)) != 1:
                raise ValueError(
                    f"apply: mixes examples ({equation.name}), so that one changes the "
                    f"logits of others; {_REMEDIES}"
                )


def check_figures(run: Callable, variables: Any, example: Array) -> None:
    """Refuses probabilities, and examples that change what another one yields.

    Args:
        run: takes variables and examples; returns logits and activations.
        variables: its variables.
        example: [1, ...], one example.

    Raises:
        ValueError: such a function.
    """
    other = jnp.where(example == 0, 1, 0).astype(example.dtype)
    run = jax.jit(run)
    alike = run(variables, jnp.concatenate([example, example]))
    mixed = run(variables, jnp.concatenate([other, example]))
    for what, one, two in zip(("logits", "activations"), alike, mixed, strict=True):
        one, two = (np.asarray(array[1], np.float64) for array in (one, two))
        scale = np.max(np.abs(one), initial=0, where=np.isfinite(one))
        close = np.isclose(one, two, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)
        if not close.all():
            raise ValueError(
                f"apply: the {what} of an example change with the others; {_REMEDIES}"
            )
    logits = np.concatenate([alike[0], mixed[0]]).astype(np.float64)
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=_TOLERANCE):
        raise ValueError(
            "apply: expected logits, got probabilities, which sum to 1; return the "
            "logits, or jnp.log of the probabilities"
        )
