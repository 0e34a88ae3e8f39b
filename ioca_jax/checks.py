"""Checks of arguments: labels, masks, clamps, codes, counts, names.

Values are checked where they are known. While JAX traces (``jit``, ``vmap``) an array
has a shape and a type but no values yet, so only these are checked, at no cost.
"""

import difflib
import importlib
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from ioca_jax.host_arrays import host_view

_MOST_COUNTED = 2**31 - 1
_MOST_MEMORY = 1e9  # GB: beyond any machine's, and a number that integers hold


def nearest(names: Iterable[str], known: Iterable[str]) -> str:
    """The end of an error message that suggests the known names nearest to others."""
    found = [
        difflib.get_close_matches(name.lower(), known, n=1) for name in map(str, names)
    ]
    meant = ", ".join(match[0] for match in found if match)
    return f"; did you mean {meant}?" if meant else ""


def import_extra(module: str, extra: str, needed_by: str) -> Any:
    """Imports a module of an optional package; one line names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise ImportError(
            f"{needed_by}: expected the package {package}, found none; install it with "
            f"pip install 'ioca_jax[{extra}]'"
        ) from None


def import_named(field: str, name: str) -> Any:
    """Imports what ``package.module:function`` names; one line if it cannot be."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # of the caller's own module
        raise ValueError(
            f"{field}: expected package.module:function, got {name!r}, which cannot be "
            f"imported ({described(error)}); --verbosity=1 shows where"
        ) from error


def described(error: BaseException) -> str:
    """The type of an error, and its text if it has one, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_known(array: Any) -> bool:
    """Whether an array's values can be read.

    Not while JAX traces, nor where other processes hold a part of the array.
    """
    if isinstance(array, Tracer):
        return False
    return not isinstance(array, jax.Array) or array.is_fully_addressable


def as_tuple(name: str, values: Any) -> tuple:
    """A sequence as a tuple; refuses a single value, or a text, in its place."""
    if isinstance(values, str) or not np.iterable(values):
        raise ValueError(
            f"{name}: expected a sequence, got {values!r}; a sequence of one value is "
            f"({values!r},)"
        )
    return tuple(values)


def check_integer(name: str, value: Any, *, least: int | None = None) -> None:
    """Refuses a value of another type than an integer, True and 2.0 too, or too few."""
    try:
        whole = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None:
        raise ValueError(f"{name}: expected an integer, got {value!r}")
    if least is not None and whole < least:
        wanted = "a number not negative" if least == 0 else f"at least {least}"
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def check_number(
    name: str, value: Any, *, least: float | None = None, positive: bool = False
) -> None:
    """Refuses texts and the like, NaN, infinities, and numbers below the least."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    size = float(value) if is_number else np.nan
    if not is_number or (least is None and not positive and not np.isfinite(size)):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    if positive and not 0 < size < np.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    if least is not None and not least <= size < np.inf:
        wanted = "a number not negative" if least == 0 else f"at least {least}"
        finite = ", finite" if size == np.inf else ""
        raise ValueError(f"{name}: expected {wanted}{finite}, got {value}")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither True nor False: any text would count as True."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: expected True or False, got {value!r}")


def check_key(key: Any) -> None:
    """Refuses what is not one key: a number, None, a stack of keys."""
    dtype, shape = getattr(key, "dtype", None), np.shape(key) if key is not None else ()
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    is_raw = dtype == np.uint32 and len(shape) == 1
    if not (is_raw or (is_typed and not shape)):
        given = f"{dtype} of shape {list(shape)}" if dtype is not None else repr(key)
        raise ValueError(f"key: expected one key, as jax.random.key(0), got {given}")


def check_num_classes(num_classes: int) -> None:
    """Refuses fewer than two classes."""
    check_integer("num_classes", num_classes)
    if num_classes < 2:
        raise ValueError(
            f"num_classes: expected at least 2 classes to tell apart, got {num_classes}"
        )


def check_labels(
    labels: ArrayLike,
    num_classes: int,
    num_examples: int | None = None,
    *,
    name: str = "labels",
    tokens: int | None = None,
) -> None:
    """Refuses labels that are not int [N] in [0, C), one for each example.

    With a number of ``tokens`` T they are [N, T] in [-1, C), at least one of a class.
    """
    array = _checked_integers(name, labels, "number classes from 0")
    if tokens is not None and array.shape[1:] != (tokens,):
        raise ValueError(
            f"{name}: expected shape [N, {tokens}], a class for each token of the "
            f"logits, or -1 where none counts, got shape {list(array.shape)}"
        )
    if tokens is None and array.ndim != 1:
        raise ValueError(
            f"{name}: expected shape [N], one class for each example, got shape "
            f"{list(array.shape)}"
        )
    if num_examples is not None and len(array) != num_examples:
        raise ValueError(
            f"{name}: expected {num_examples}, one for each example, got {len(array)}"
        )
    advice = "number classes from 0 to num_classes - 1"
    if tokens is None:
        _check_range(name, array, num_classes, advice)
    elif is_known(array):
        counted = np.asarray(array)[np.asarray(array) != -1]
        if not counted.size:
            raise ValueError(
                f"{name}: expected a class for one token or more, got -1 for all"
            )
        _check_range(name, counted, num_classes, f"{advice}, -1 where none counts")


def check_examples(
    x: Any, y: ArrayLike, num_classes: int, tokens: int | None = None
) -> None:
    """Refuses examples that are not finite numbers [N, ...], or their labels.

    Labels are [N], or [N, T] with a number of ``tokens`` T. In a pytree of arrays a
    number for each example, [N], and booleans are numbers too.
    """
    arrays = named_arrays("x", as_examples("x", x))
    is_tree = [name for name, _ in arrays] != ["x"]
    for name, array in arrays:
        shape = np.shape(array)
        is_number = is_real(array) or (is_tree and array.dtype == bool)
        if len(shape) < 2 - is_tree or not shape[0] or not is_number:
            raise ValueError(
                f"{name}: expected numbers of shape [N, ...] with N at least 1, got "
                f"{array.dtype} of shape {list(shape)}"
            )
    check_same_number(arrays)
    check_labels(y, num_classes, len(arrays[0][1]), name="y", tokens=tokens)
    for name, array in arrays:
        check_finite(name, array, "leave such examples out")


def check_same_number(arrays: Sequence[tuple[str, Any]]) -> None:
    """Refuses named arrays that do not begin with one number of examples, or none."""
    if not arrays:
        raise ValueError("x: expected an array, or a pytree of arrays, got none")
    (first, one), *others = arrays
    for name, other in others:
        if len(other) != len(one):
            raise ValueError(
                f"{name}: expected {len(one)} examples, as in {first}, got {len(other)}"
            )


def check_keep(keep: ArrayLike, num_neurons: int, *, name: str = "keep") -> None:
    """Refuses masks that are not bool [..., H]."""
    array = as_array(name, keep)
    if array.dtype != bool or array.shape[-1:] != (num_neurons,):
        raise ValueError(
            f"{name}: expected bool [..., {num_neurons}], True for each hidden neuron "
            f"that is kept, got {array.dtype} of shape {list(array.shape)}; it is "
            "neither the clamp nor a list of neurons"
        )


def check_clamp(
    clamp: ArrayLike,
    num_neurons: int,
    *,
    num_outputs: int | None = None,
    kept: ArrayLike | None = None,
) -> None:
    """Refuses clamps that are not numbers, finite where no neuron is kept.

    One number, [..., H], or [..., P] with P numbers that all neurons output.
    """
    array = as_array("clamp", clamp)
    sizes = dict.fromkeys(filter(None, (num_neurons, num_outputs)))
    if not is_real(array) or (array.ndim and array.shape[-1] not in sizes):
        got = f"{array.dtype} of shape {list(array.shape)}"
        if array.dtype.kind in "US":
            got = (
                f"{clamp!r}; the means are measure_neurons(...).clamp, zeros are 0, "
                "and resample gives the outputs for other examples"
            )
        raise ValueError(
            f"clamp: expected one number, or float32 [..., {num_neurons}], a value for "
            f"each hidden neuron, got {got}"
        )
    if kept is not None and is_known(kept) and is_known(array):
        array = np.where(kept, 0, array)
    check_finite("clamp", array, "an ablated neuron outputs a number")


def check_no_nan(name: str, array: ArrayLike, advice: str) -> None:
    """Refuses arrays with NaN, if their values are known."""
    given = as_array(name, array)
    if not is_known(given) or not given.size:
        return
    # A minimum is NaN where a value is, and needs no copy.
    if np.isnan(_reduced(given, "min")):
        number = int(np.isnan(np.asarray(given)).sum())
        raise ValueError(
            f"{name}: expected numbers, got NaN for {number} of {given.size} values; "
            f"{advice}"
        )


def _reduced(known: Any, how: str) -> float:
    """``min``, ``max`` or ``sum`` of values, also while something else is traced."""
    with jax.ensure_compile_time_eval(), np.errstate(over="ignore", invalid="ignore"):
        return float(getattr(host_view(known), how)())


def check_finite(name: str, array: ArrayLike, advice: str) -> None:
    """Refuses arrays with NaN or what float32 cannot hold, if their values are known.

    Of integers nothing is looked at.
    """
    given = as_array(name, array)
    if not is_known(given) or not given.size or not is_floating(given):
        return
    # A sum is not finite where a value is not: most arrays are read once.
    if given.dtype.itemsize <= 4 and np.isfinite(_reduced(given, "sum")):
        return
    most = float(np.finfo(np.float32).max)
    least, greatest = (_reduced(given, which) for which in ("min", "max"))
    if -most <= least and greatest <= most:  # NaN is neither
        return
    check_no_nan(name, array, advice)
    number = int((np.abs(np.asarray(given, np.float64)) > most).sum())
    raise ValueError(
        f"{name}: expected finite numbers of float32, got others for {number} of "
        f"{given.size} values; {advice}"
    )


def check_codes(codes: ArrayLike, num_codes: int) -> None:
    """Refuses codes that are not integers [N, H] in [0, B)."""
    array = _checked_integers("codes", codes, "quantize activations first")
    if array.ndim != 2:
        raise ValueError(
            "codes: expected shape [N, H], a code for each example and neuron, got "
            f"shape {list(array.shape)}"
        )
    check_integer("num_codes", num_codes, least=1)
    _check_range("codes", array, num_codes, "num_codes is the number of codes B")


def check_codes_and_labels(
    codes: ArrayLike, labels: ArrayLike, *, num_codes: int, num_classes: int
) -> None:
    """Refuses codes and labels that cannot be counted together."""
    check_codes(codes, num_codes)
    check_num_classes(num_classes)
    check_labels(labels, num_classes, np.shape(codes)[0])


def number_counted(y: Any) -> int:
    """N: the labels, or of labels per token those that are not -1."""
    if y.ndim == 1:
        return len(y)
    if not is_known(y):
        raise ValueError(
            "y: expected known labels per token, whose number decides accuracies, got "
            "traced ones; leave them out of the traced function's arguments"
        )
    return int((np.asarray(y) != -1).sum())


def check_classes(labels: ArrayLike) -> None:
    """Refuses labels of a single class: there is no information on it.

    The label -1 of a token counts as none.
    """
    if not is_known(labels):
        return
    present = np.setdiff1d(np.asarray(labels), [-1])
    if len(present) < 2:
        raise ValueError(
            "labels: expected examples of two classes or more, got "
            f"{f'only class {present[0]}' if len(present) else 'no examples'}; "
            "information on the class needs classes to tell apart"
        )


def check_counts(counts: ArrayLike) -> None:
    """Refuses counts that are not integers [..., B, C], none negative, below 2^31."""
    array = _checked_integers("counts", counts, "count with joint_counts")
    if array.ndim < 2:
        raise ValueError(
            "counts: expected shape [..., B, C], codes and classes, got shape "
            f"{list(array.shape)}"
        )
    if not is_known(array) or not array.size:
        return
    values = np.asarray(array)
    if values.min() < 0:
        raise ValueError(f"counts: expected none negative, got {values.min()}")
    # Of float64: a sum of integers could overflow before it is compared.
    most = values.sum(axis=(-2, -1), dtype=np.float64).max()
    if most > _MOST_COUNTED:
        raise ValueError(
            f"counts: expected at most {_MOST_COUNTED} examples, which int32 holds, "
            f"got {most:.0f}; take a part of them"
        )


def check_names(name: str, given: Sequence[str], allowed: Iterable[str]) -> None:
    """Refuses unknown names, or none."""
    allowed = tuple(allowed)
    unknown = [x for x in as_tuple(name, given) if x not in allowed]
    if unknown or not given:
        raise ValueError(
            f"{name}: expected some of {', '.join(allowed)}, got "
            f"{', '.join(map(repr, unknown)) or 'none'}"
        )


def _checked_integers(name: str, array: ArrayLike, advice: str) -> Any:
    """An array as it is, or a sequence as a NumPy array; refused unless of integers."""
    known = as_array(name, array)
    if not jnp.issubdtype(known.dtype, jnp.integer):
        raise ValueError(f"{name}: expected integers, got {known.dtype}; {advice}")
    return known


def as_array(name: str, array: Any) -> Any:
    """An array as it is, and anything else as a NumPy array; refuses masked values."""
    if np.ma.is_masked(array):
        raise ValueError(
            f"{name}: expected an array without masked values, got "
            f"{np.ma.count_masked(array)} masked; leave them out, or fill them"
        )
    return array if isinstance(array, jax.Array) else np.asarray(array)


def as_examples(name: str, x: Any) -> Any:
    """An array, or a pytree of arrays, as it is; lists of numbers become arrays."""

    def is_numbers(node: Any) -> bool:
        is_sequence = isinstance(node, (list, tuple))
        return is_sequence and all(map(np.isscalar, jax.tree.leaves(node)))

    return jax.tree.map_with_path(
        lambda path, leaf: as_array(f"{name}{jax.tree_util.keystr(path)}", leaf),
        x,
        is_leaf=is_numbers,
    )


def device_examples(name: str, x: Any) -> Any:
    """The same as JAX arrays."""
    return jax.tree.map(jnp.asarray, as_examples(name, x))


def named_arrays(name: str, x: Any) -> list[tuple[str, Any]]:
    """The arrays of a pytree, named ``x['ids']``; one array alone is ``x``."""
    leaves = jax.tree.leaves_with_path(x)
    return [(f"{name}{jax.tree_util.keystr(path)}", leaf) for path, leaf in leaves]


def is_real(array: Any) -> bool:
    """Whether an array is of integers or floats."""
    return is_floating(array) or jnp.issubdtype(array.dtype, jnp.integer)


def is_floating(array: Any) -> bool:
    """Whether an array is of floats."""
    return jnp.issubdtype(array.dtype, jnp.floating)


def _check_range(name: str, array: Any, number: int, advice: str) -> None:
    if not is_known(array) or not array.size:
        return
    values = np.asarray(array)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most >= number:
        raise ValueError(
            f"{name}: expected values in [0, {number - 1}], got "
            f"{least if least < 0 else most}; {advice}"
        )


def check_memory(memory_gb: float) -> None:
    """Refuses a memory budget that is not a positive, finite number."""
    check_number("memory_gb", memory_gb, positive=True)
    if memory_gb > _MOST_MEMORY:
        raise ValueError(
            f"memory_gb: expected at most {_MOST_MEMORY:g} GB, got {memory_gb:g}"
        )


def checked_groups(
    name: str,
    groups: ArrayLike,
    num_neurons: int,
    *,
    size: int | None = None,
    at_least: int = 1,
) -> Int[Array, "M size"]:
    """Groups as int32 [M, size], refused unless each lists distinct neurons."""
    array: Any = np.asarray(groups) if is_known(groups) else groups
    wanted = size or "size"
    if (
        array.ndim != 2
        or not jnp.issubdtype(array.dtype, jnp.integer)
        or (size is not None and array.shape[1] != size)
        or array.shape[1] < at_least
    ):
        raise ValueError(
            f"{name}: expected integers of shape [{'P' if size else 'M'}, {wanted}]"
            f"{f' with size at least {at_least}' if at_least > 1 else ''}, neuron "
            f"indices, got {array.dtype} of shape {list(array.shape)}"
        )
    if isinstance(array, np.ndarray) and array.size:
        outside = array[(array < 0) | (array >= num_neurons)]
        if outside.size:
            raise ValueError(
                f"{name}: expected neuron indices in [0, {num_neurons - 1}], got "
                f"{int(outside[0])}"
            )
        ordered = np.sort(array, axis=1)
        twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
        if twice.size:
            raise ValueError(
                f"{name}: expected every neuron once in each, got {int(twice[0])} twice"
            )
    return jnp.asarray(array, jnp.int32)
