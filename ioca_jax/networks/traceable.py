"""What can be traced as a network: a function of variables and examples, at inference.

Whatever else is given is refused in one line. A function that draws random numbers is
found from its equations. Whether examples are independent is tried on given ones:
others are replaced, left out and put elsewhere, and no example's logits may change.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, primitives
from jax.typing import ArrayLike
from jaxtyping import Array

from ioca_jax.batching import count_examples, take_examples
from ioca_jax.checks import as_examples, check_same_number, named_arrays
from ioca_jax.networks.inlining import trace_program
from ioca_jax.networks.jaxprs import Program, equations_inside, named_leaves

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
_MIXED = (
    "apply: mixes examples: the logits of an example change with the others; switch "
    "batch norm to inference, and make what belongs together, such as the nodes of a "
    "graph, one example (jax.vmap over graphs)"
)
_PLACED = (
    "apply: the logits of an example change with its place among the examples; let "
    "apply compute them from the example alone, without its index in the batch"
)
_TOLERANCE = 1e-3  # of the greatest number; what one example does to another is larger
_ROUNDING = 16  # times what a change of all last digits does: sums in another order
_MOST_NUMBERS = 2**20  # in the widest value of the examples that are tried
_MOST, _FEWEST = 2**11, 4  # examples that are tried


def checked_arguments(apply: Callable, variables: Any, x: Any) -> tuple[Any, Any]:
    """Shapes and types of a function's arguments, for tracing it.

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
        if not inspect.isroutine(apply) and _takes(apply, x):
            raise ValueError(
                f"{wanted}, got a {type(apply).__name__}, a module that is called with "
                "x alone: split it into a function and its variables, as in "
                "docs/guides/networks.md, Flax NNX"
            ) from error
        raise ValueError(f"{wanted}, got one with other arguments: {error}") from error
    arrays = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    for name, leaf in named_leaves(variables):
        if not isinstance(leaf, arrays):
            raise ValueError(
                f"variables: expected arrays alone, got a {type(leaf).__name__} at "
                f"{name!r}; let apply hold what is no array"
            )
    x = as_examples("x", x)
    for name, leaf in named_arrays("x", x):
        shape = np.shape(leaf)
        if not shape or not shape[0]:
            raise ValueError(
                f"{name}: expected examples [N, ...], N >= 1, got {list(shape)}"
            )
    check_same_number(named_arrays("x", x))
    shapes = jax.eval_shape(lambda tree: tree, variables)
    return shapes, jax.eval_shape(lambda tree: jax.tree.map(jnp.asarray, tree), x)


def _takes(function: Callable, *arguments: Any) -> bool:
    """Whether a function can be called with such arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def trace_logits(
    apply: Callable, variables: Any, example: Any, num_examples: int
) -> Program:
    """Traces a function of some number of examples that returns logits.

    Args:
        apply: the function.
        variables: shapes and types of its variables.
        example: shape and type of examples, or a pytree of such; their number is not
            used.
        num_examples: N.

    Raises:
        ValueError: the function fails, or returns anything but logits [N, C], or [N, T,
            C] of tokens.
    """
    x = with_count(example, num_examples)
    try:
        program, output = trace_program(apply, variables, x)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"apply: failed on these variables and {described_arrays(x)}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    leaves = jax.tree.leaves(output)
    if len(leaves) != 1 or leaves[0] is not output:
        raise ValueError(
            f"apply: expected one output, the logits, got a {type(output).__name__} "
            f"of {len(leaves)}; return the logits alone"
        )
    is_float = jnp.issubdtype(output.dtype, jnp.floating)
    if is_float and output.shape in ((num_examples,), (num_examples, 1)):
        raise ValueError(
            "apply: expected logits [N, C] of two classes or more, got one number for "
            f"each example, {list(output.shape)} for N = {num_examples}; for a logit z "
            "[N, 1] return jnp.concatenate([jnp.zeros_like(z), z], 1)"
        )
    is_shape = output.ndim in (2, 3) and output.shape[0] == num_examples
    if not is_shape or not is_float or (output.ndim == 3 and output.shape[2] < 2):
        raise ValueError(
            "apply: expected logits [N, C], or [N, T, C] of T tokens, got "
            f"{output.dtype} {list(output.shape)} for N = {num_examples}"
        )
    if not program.values[program.output].on_x:
        raise ValueError("apply: expected logits that depend on x, got constants")
    return program


def checked_examples(x: Any, traced: Any) -> dict[str, Array]:
    """The arrays of examples by name, in the order of the traced ones.

    Args:
        x: an array, or a pytree of arrays.
        traced: shapes and types of the examples that were traced.

    Raises:
        ValueError: other arrays than were traced, or of several numbers of examples.
    """
    given = dict(named_arrays("x", as_examples("x", x)))
    expected = dict(named_arrays("x", traced))
    if given.keys() != expected.keys():
        raise ValueError(
            f"x: expected {', '.join(expected)}, as traced, got {', '.join(given)}"
        )
    arrays = {name: jnp.asarray(given[name]) for name in expected}
    for name, array in arrays.items():
        _check_traced(name, array, expected[name])
    check_same_number([*arrays.items()])
    return arrays


def _check_traced(name: str, x: Array, traced: jax.ShapeDtypeStruct) -> None:
    """Refuses examples of another type or shape than were traced."""
    wanted, sizes = traced.dtype, traced.shape[1:]
    if x.dtype != wanted or x.shape[1:] != sizes or not x.size:
        expected = ", ".join(["N >= 1", *map(str, sizes)])
        is_cast = jnp.issubdtype(wanted, jnp.integer) and x.dtype == jnp.float32
        remedy = f"; trace with float32 and cast in apply: {name}.astype(jnp.int32)"
        raise ValueError(
            f"{name}: expected {wanted} [{expected}], as traced, got {x.dtype} "
            f"{list(x.shape)}{remedy if is_cast else ''}"
        )


def with_count(example: Any, num_examples: int) -> Any:
    """The shapes and types of so many examples."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_examples, *leaf.shape[1:]), leaf.dtype),
        example,
    )


def described_arrays(x: Any) -> str:
    """The names, types and shapes of examples as text."""
    return ", ".join(
        f"{name} {leaf.dtype} {list(leaf.shape)}" for name, leaf in named_arrays("x", x)
    )


def check_leaves(
    traced: Any, variables: Any, num_networks: int | None, what: str
) -> None:
    """Refuses variables of other names, shapes or types than the traced ones.

    Args:
        traced: shapes and types of one network's variables.
        variables: of one network, or of many.
        num_networks: S, if leaves of ``variables`` begin with S.
        what: what the variables are called in the error.

    Raises:
        ValueError: the first difference.
    """
    leading = () if num_networks is None else (num_networks,)
    given = {name: _shape_of(leaf) for name, leaf in named_leaves(variables)}
    expected = {
        name: (str(leaf.dtype), (*leading, *leaf.shape))
        for name, leaf in named_leaves(traced)
    }
    if [*given.items()] == [*expected.items()]:
        return
    names = expected.keys() | given.keys()
    name = min(names, key=lambda n: (given.get(n) == expected.get(n), n))
    wanted, got = (
        f"{of[name][0]} {[*of[name][1]]}" if name in of else "no such variable"
        for of in (expected, given)
    )
    number = "one network" if num_networks is None else f"{num_networks} networks"
    raise ValueError(
        f"{what}: expected those of {number}, with {name} {wanted}, as traced, got "
        f"{got}"
    )


def _shape_of(leaf: Any) -> tuple[str, tuple[int, ...]]:
    """The type that JAX gives an array, and its shape."""
    dtype = jnp.result_type(leaf)  # also of random keys, such as a dropout's
    known = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    return str(known), np.shape(leaf)


def check_same_equations(one: Program, other: Program, sizes: tuple[int, int]) -> None:
    """Refuses programs of one function that differ by more than sizes of arrays."""
    if one.structure != other.structure:
        raise ValueError(
            "apply: expected the same equations for any number of examples, got others "
            f"for {sizes[0]} than for {sizes[1]}; let no step depend on N, and give "
            "jnp.einsum of three arrays or more a fixed order "
            "(optimize=[(0, 1), (0, 1)])"
        )


def check_equations(program: Program) -> None:
    """Refuses equations that draw random numbers."""
    for equation in program.equations:
        run = [equation, *equations_inside(equation)]
        if any(eqn.primitive in _DRAWS for eqn in run):
            raise ValueError(
                f"apply: draws random numbers ({equation.name}); {_REMEDY}"
            )


def uses_count(one: Program, other: Program) -> bool:
    """Whether programs of one function for two numbers of examples compute with them.

    Then they differ by other numbers than sizes of arrays, such as that of ``1 / N``.
    """
    pairs = itertools.zip_longest(*map(_numbers, (one, other)))
    return not all(a is b or np.array_equal(a, b) for a, b in pairs)


def _numbers(program: Program) -> Iterator[Any]:
    """The numbers that a program computes with besides its inputs."""
    yield from program.constants.values()
    for equation in program.equations:
        yield from (atom.val for atom in equation.inputs if isinstance(atom, Literal))
        for eqn in equations_inside(equation):
            yield from (atom.val for atom in eqn.invars if isinstance(atom, Literal))


def some_examples(x: Any, widest: int) -> Any:
    """Examples [n, ...] to try a network on: given ones, and others if those are few.

    The widest value of one example has ``widest`` numbers; n is 4 or more.
    """
    most = min(max(_MOST_NUMBERS // widest, _FEWEST), _MOST)
    x = take_examples(as_examples("x", x), slice(most))
    number = max(count_examples(x), _FEWEST)

    def made(leaf: ArrayLike) -> np.ndarray:
        leaf = np.asarray(jnp.asarray(leaf))
        turned = np.roll(leaf, 1, axis=-1) if leaf.ndim > 1 else leaf
        every = [leaf, _changed(leaf), turned, _changed(turned)]
        return np.concatenate(every)[:number]

    return jax.tree.map(made, x)


def _changed(x: Any) -> Any:
    return jax.tree.map(lambda leaf: np.where(leaf == 0, 1, 0).astype(leaf.dtype), x)


class _Trial(NamedTuple):
    """Examples, some of which must yield what they yield among the given ones."""

    x: Any
    rows: np.ndarray  # of x
    same: np.ndarray  # the given examples that these are
    error: str  # if they do not
    is_exact: bool  # the same sums in the same order


def _kept(count: int, rng: np.random.Generator) -> np.ndarray:
    """Which examples are kept in which trial, [trials, count].

    Each example is kept in another half of the trials, so that for any two of them
    there is a trial in which the first is kept and the second is replaced.
    """
    trials = next(m for m in itertools.count(2) if math.comb(m, m // 2) >= count)
    halves = list(itertools.combinations(range(trials), trials // 2))
    kept = np.zeros((trials, count), bool)
    for row, half in enumerate(rng.permutation(halves)[:count]):
        kept[half, row] = True
    return kept


def _trials(x: Any, counts: Sequence[int]) -> Iterator[_Trial]:
    count, rng = count_examples(x), np.random.default_rng(0)
    rows, changed = np.arange(count), _changed(x)
    for kept in _kept(count, rng):
        moved = rng.permutation(count)
        alike = _equal(take_examples(x, moved), x)

        def mixed(own, changed, moved=moved, kept=kept, alike=alike):
            chosen = np.where(alike, changed.T, own[moved].T)
            return np.where(kept, own.T, chosen).T

        other = jax.tree.map(mixed, x, changed)
        yield _Trial(other, rows[kept], rows[kept], _MIXED, True)
    for few in counts:
        some = take_examples(x, slice(few))
        yield _Trial(some, rows[:few], rows[:few], _MIXED, False)
    for order in (rows[::-1], rng.permutation(count)):
        yield _Trial(take_examples(x, order), rows, order, _PLACED, False)


def _equal(one: Any, other: Any) -> np.ndarray:
    """Which examples are the same, bool [n]."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    rows = [(a == b).reshape(len(a), -1).all(axis=1) for a, b in pairs]
    return np.all(rows, axis=0)


def check_figures(
    run: Callable,
    variables: Any,
    x: Any,
    layers: Sequence[slice],
    counts: Sequence[int],
) -> list[bool]:
    """Refuses probabilities, and logits of an example that others have a part in.

    Args:
        run: takes variables and examples; returns logits and activations.
        variables: its variables.
        x: [n, ...] examples, or a pytree of such.
        layers: where each layer lies on the axis of the neurons.
        counts: numbers of examples; the first so many of ``x`` are also run alone.

    Returns:
        For each layer whether its activations of an example are computed from it.

    Raises:
        ValueError: such a function.
    """
    run = jax.jit(run)
    variables = jax.tree.map(jnp.asarray, variables)

    def parts(variables: Any, x: Any) -> list[np.ndarray]:
        logits, neurons = (np.asarray(a, np.float64) for a in run(variables, x))
        return [logits, *(neurons[..., layer] for layer in layers)]

    expected = parts(variables, x)
    logits, rounded = expected[0], None
    if (logits >= 0).all() and np.allclose(logits.sum(axis=-1), 1, atol=_TOLERANCE):
        raise ValueError(
            "apply: expected logits, got probabilities, which sum to 1; return the "
            "logits, or jnp.log of the probabilities"
        )
    own = [True] * len(expected)
    for trial in _trials(x, counts):
        found = parts(variables, trial.x)
        for index, (one, two) in enumerate(zip(expected, found, strict=True)):
            one, two = one[trial.same], two[trial.rows]
            allowed = _TOLERANCE * _greatest(expected[index])
            if _is_close(one, two, allowed):
                continue
            if not trial.is_exact:
                rounded = rounded or parts(
                    *_last_digits_changed((variables, jax.tree.map(jnp.asarray, x)))
                )
                change = _greatest(rounded[index] - expected[index])
                if _is_close(one, two, max(allowed, _ROUNDING * change)):
                    continue
            own[index] = False
        if not own[0]:
            raise ValueError(trial.error)
    return own[1:]


def _greatest(array: np.ndarray) -> float:
    return np.max(np.abs(array), initial=0, where=np.isfinite(array))


def _is_close(one: np.ndarray, two: np.ndarray, allowed: float) -> bool:
    return bool(np.isclose(one, two, rtol=0, atol=allowed, equal_nan=True).all())


def _last_digits_changed(arrays: Any) -> Any:
    """Floating-point numbers a rounding error larger or smaller, in turn."""

    def change(array: Array) -> Array:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        signs = 1 - 2 * (jnp.arange(array.size) % 2).reshape(array.shape)
        factors = 1 + jnp.finfo(array.dtype).eps * signs.astype(array.dtype)
        return array * factors.astype(array.dtype)

    return jax.tree.map(change, arrays)
