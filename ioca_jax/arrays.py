"""Arrays of examples and labels as they are given: checks, order, scale, a hash.

``data`` makes splits of them. Labels are the integers ``0, 1, ..., C-1``, each of which
occurs in the training labels; other labels are refused, not renumbered. Pixels are
found by their range and divided by 255; a pytree of arrays is never scaled.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from absl import logging
from jaxtyping import Float32

from ioca_jax.batching import count_examples, take_examples
from ioca_jax.checks import as_array, as_examples, named_arrays

_LARGEST_PIXEL = 255
_LARGEST_EXACT = 2**24  # integer of which all smaller ones are float32 too
_GROUPED = -4  # standard deviations from the mean number of runs
LARGEST_UNSCALED = 16  # integers up to here are not 8-bit pixels


class Arrays(NamedTuple):
    """What a source yields: examples [N, ...] and labels, not yet cut or scaled.

    ``annotations`` are pairs of arrays, of training and test examples, by name.
    """

    x_train: Any
    y_train: np.ndarray
    x_test: Any
    y_test: np.ndarray
    annotations: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}

    def take(self, split: str, rows: np.ndarray) -> "Arrays":
        """The same with some examples of ``train`` or ``test``, in some order."""
        place = ("train", "test").index(split)
        pairs = {name: [*pair] for name, pair in self.annotations.items()}
        for pair in pairs.values():
            pair[place] = pair[place][rows]
        return self._replace(
            annotations={name: (train, test) for name, (train, test) in pairs.items()},
            **{
                f"x_{split}": take_examples(getattr(self, f"x_{split}"), rows),
                f"y_{split}": getattr(self, f"y_{split}")[rows],
            },
        )


ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""What every source yields."""


def check_annotation(
    name: str, annotation: str, given: Any, sizes: Mapping[str, int]
) -> None:
    """Refuses what is not an integer, -1 or more, for each example of each split."""
    if not annotation.isidentifier():
        wanted = "annotations named by letters, digits and underscores"
        refuse(name, wanted, repr(annotation))
    expected = f"the annotation {annotation!r} to have integers"
    if not isinstance(given, (tuple, list)) or len(given) != len(sizes):
        refuse(name, f"{expected} for {', '.join(sizes)}", described_arrays(given))
    for (split, size), array in zip(sizes.items(), given, strict=True):
        known = np.asarray(as_array(f"{name}: {annotation}", array))
        if known.dtype.kind not in "ui" or known.shape != (size,):
            refuse(
                name,
                f"{expected} [{size}], one for each {split} example",
                f"{known.dtype} of shape {list(known.shape)}",
            )
        check_int32(name, expected, known)
        if known.min() < -1:
            refuse(
                name,
                f"{expected} from 0, or -1 where the value is unknown",
                f"{known.min()} in {split}",
            )


def check_int32(name: str, what: str, array: np.ndarray) -> None:
    """Refuses integers that would wrap around in int32."""
    bounds = np.iinfo(np.int32)
    for value in (array.min(), array.max()):
        if not bounds.min <= value <= bounds.max:
            refuse(name, f"{what} of int32", str(value))


def described_arrays(given: Any) -> str:
    """What was given instead of some arrays."""
    is_several = isinstance(given, (tuple, list))
    return f"{len(given)} arrays" if is_several else type(given).__name__


def describe_shape(x: Any) -> str:
    """The shape of an example: ``[28, 28, 1]``; of several arrays by their names."""
    if isinstance(x, np.ndarray):
        return str(list(x.shape[1:]))
    return ", ".join(f"{name} {list(a.shape[1:])}" for name, a in named_arrays("x", x))


def as_arrays(name: str, field: str, given: Any) -> Any:
    """An array, or of examples a pytree of arrays."""
    try:
        if field.startswith("x") and jax.tree.leaves(given):
            return jax.tree.map(np.asarray, as_examples(field, given))
        return np.asarray(as_array(field, given))
    except Exception as error:  # other libraries' arrays raise errors of their own
        raise ValueError(
            f"{name}: expected {field} to be an array, got {type(given).__name__} "
            f"({error})"
        ) from error


def refuse(name: str, expected: str, given: str, advice: str = "") -> NoReturn:
    """Raises the error of a dataset that cannot be used."""
    raise ValueError(f"{name}: expected {expected}, got {given}{advice}")


def kinds_of(x: Any) -> list[Any]:
    """The types that arrays of examples may have."""
    one = isinstance(x, np.ndarray)
    return [np.float32] if one else [np.float32, np.int32, np.bool_]


def check_finite_examples(name: str, field: str, x: Any) -> None:
    """Refuses examples that are not finite numbers [N, ...], of one N."""
    arrays = named_arrays(field, x)
    if not arrays:
        refuse(name, f"an array, or a pytree of arrays, in {field}", "none")
    for where, array in arrays:
        _check_numbers(name, where, array, least=2 if array is x else 1)
        if len(array) != len(arrays[0][1]):
            wanted = f"{len(arrays[0][1])} examples in {where}, as in {arrays[0][0]}"
            refuse(name, wanted, str(len(array)))


def _check_numbers(name: str, field: str, x: np.ndarray, least: int) -> None:
    if x.ndim < least or x.size == 0:
        refuse(name, f"{field} of shape [N, ...], not empty", f"{list(x.shape)}")
    if x.dtype.kind not in "buif":
        refuse(name, f"{field} to be numbers", str(x.dtype))
    # A minimum or maximum is NaN where a value is.
    if x.dtype.kind == "f" and not np.isfinite([x.min(), x.max()]).all():
        bad = x.size - int(np.isfinite(x).sum())
        refuse(name, f"finite numbers in {field}", f"{bad} NaN or infinite")


def check_shapes(name: str, examples: dict[str, Any]) -> None:
    """Refuses arrays whose examples have different shapes."""
    (first, x), *others = examples.items()
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(x)]
    for field, other in others:
        same = jax.tree.structure(other) == jax.tree.structure(x)
        if not same or [leaf.shape[1:] for leaf in jax.tree.leaves(other)] != shapes:
            refuse(
                name,
                f"examples of shape {describe_shape(x)} in {field}, as in {first}",
                f"shape {describe_shape(other)}",
            )


def checked_arrays(name: str, arrays: Arrays) -> Arrays:
    """Refuses arrays that are not a dataset; labels in a column become [N]."""
    for split in ("train", "test"):
        x, y = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        if y.ndim == 2 and y.shape[1] == 1:  # Keras lays out CIFAR-10's labels so
            y = y[:, 0]
            arrays = arrays._replace(**{f"y_{split}": y})
        if y.ndim not in (1, 2) or y.dtype.kind not in "ui":
            refuse(
                name,
                f"y_{split} to be integers of shape [N], or [N, T] of tokens",
                f"{y.dtype} of shape {list(y.shape)}",
            )
        check_finite_examples(name, f"x_{split}", x)
        if count_examples(x) != len(y):
            refuse(
                name,
                f"as many examples in x_{split} as labels in y_{split}",
                f"{count_examples(x)} and {len(y)}",
            )
    shapes = [list(y.shape[1:]) for y in (arrays.y_train, arrays.y_test)]
    if shapes[0] != shapes[1]:
        shape = ", ".join(map(str, ["N", *shapes[0]]))
        wanted = f"labels of shape [{shape}] in y_test, as in y_train"
        refuse(name, wanted, str(list(arrays.y_test.shape)))
    check_shapes(name, {"x_train": arrays.x_train, "x_test": arrays.x_test})
    _check_classes(name, arrays)
    return arrays


def _check_classes(name: str, arrays: Arrays) -> None:
    """Refuses labels that are not 0, 1, ..., C-1, each in the training labels."""
    ignored = [-1] if arrays.y_train.ndim > 1 else []
    classes = np.setdiff1d(arrays.y_train, ignored)
    if len(classes) < 2:
        found = f"only {classes[0]}" if len(classes) else "none"
        refuse(name, "two classes or more in y_train", found)
    if not np.array_equal(classes, np.arange(len(classes))):
        shown = [str(label) for label in classes]
        if len(shown) > 6:
            shown = [*shown[:3], "...", shown[-1]]
        refuse(
            name,
            "the labels 0, 1, ..., C-1 in y_train, each at least once",
            f"the {len(classes)} classes {', '.join(shown)}",
            "; renumber y_train and y_test: np.searchsorted(np.unique(y_train), y)",
        )
    outside = np.setdiff1d(arrays.y_test, [*classes, *ignored])
    if len(outside):
        refuse(
            name,
            f"y_test in [0, {classes[-1]}], the classes of y_train",
            f"{outside[0 if outside[0] < 0 else -1]}",
        )


def grouped_splits(arrays: Arrays) -> list[str]:
    """Those of ``train`` and ``test`` whose classes come in groups.

    A split in random order is called grouped once in 30,000 times.
    """
    return [
        split
        for split in ("train", "test")
        if _runs_score(getattr(arrays, f"y_{split}")) < _GROUPED
    ]


def _runs_score(labels: np.ndarray) -> float:
    """The number of runs of equal labels, standardised over all orders of them.

    Source: A. M. Mood, "The distribution theory of runs", Annals of Mathematical
    Statistics 11 (1940).
    """
    number = len(labels)
    if labels.ndim > 1:  # of tokens, each example has several
        return 0.0
    shares = np.unique(labels, return_counts=True)[1] / number
    squares, cubes = (shares**2).sum(), (shares**3).sum()
    mean = number * (1 - squares) + 1
    scaled = number**2 * (squares**2 + squares - 2 * cubes) - number * (1 - squares)
    runs = 1 + np.count_nonzero(labels[1:] != labels[:-1])
    if scaled <= 0:  # one class, or one example of each: all orders have as many runs
        return 0.0
    return float((runs - mean) / np.sqrt(scaled / (number - 1)))


def mix_classes(name: str, arrays: Arrays) -> Arrays:
    """Puts grouped splits in a fixed random order; other splits stay as they are."""
    for split in grouped_splits(arrays):
        # One order for every seed: the seed moves the cut and never the test split.
        number = len(getattr(arrays, f"y_{split}"))
        arrays = arrays.take(split, np.random.default_rng(0).permutation(number))
        logging.info("%s: %s is put in a fixed random order", name, split)
    return arrays


Conversion = Callable[[Any], Any]
"""Takes examples, or some of them, and returns them in a type that JAX takes."""


def scaling(name: str, arrays: Arrays) -> Conversion:
    """How examples become float32; only pixels are scaled."""
    examples = (arrays.x_train, arrays.x_test)
    types = " and ".join(dict.fromkeys(str(x.dtype) for x in examples))
    floats = {x.dtype.kind == "f" for x in examples}
    if len(floats) > 1:
        refuse(name, "x_train and x_test both of integers or both of floats", types)
    low = float(min(x.min() for x in examples))
    high = float(max(x.max() for x in examples))
    in_bytes = low >= 0 and LARGEST_UNSCALED < high <= _LARGEST_PIXEL
    small = low >= 0 and high <= LARGEST_UNSCALED
    if True in floats:
        divisor, unusual = 1, in_bytes  # pixels that were not divided?
    elif in_bytes:
        divisor, unusual = _LARGEST_PIXEL, False
    elif small:
        divisor, unusual = 1, high > 1
    else:
        refuse(
            name,
            "examples that are floats or integers in [0, 255]",
            f"{types} in [{low:g}, {high:g}]",
            "; convert them to floats on the scale that the network is to receive, or "
            "give scale=False to keep tokens as they are",
        )
    done = f"divided by {divisor}" if divisor > 1 else "used as given, not scaled"
    level = logging.WARNING if unusual else logging.INFO
    logging.log(
        level, "%s: %s examples in [%g, %g] are %s", name, types, low, high, done
    )
    return functools.partial(_divided, divisor=divisor)


def typing_of_trees(name: str, arrays: Arrays) -> Conversion:
    """How examples that are several arrays come into types that JAX takes."""
    for array in jax.tree.leaves((arrays.x_train, arrays.x_test)):
        if array.dtype.kind in "ui":
            check_int32(name, "integers", array)
    types = {"f": np.float32, "b": np.bool_}
    return functools.partial(
        jax.tree.map, lambda array: array.astype(types.get(array.dtype.kind, np.int32))
    )


def no_scaling(name: str, arrays: Arrays) -> Conversion:
    """How examples become float32, not scaled."""
    for x in (arrays.x_train, arrays.x_test):
        largest = max(abs(float(x.min())), abs(float(x.max())))
        if x.dtype.kind in "ui" and largest > _LARGEST_EXACT:
            most = f"integers up to {_LARGEST_EXACT}, exact in float32"
            refuse(name, most, f"{largest:.0f}")
    return functools.partial(_divided, divisor=1)


def _divided(x: np.ndarray, divisor: int) -> Float32[np.ndarray, "N ..."]:
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return np.divide(x, np.float32(divisor), dtype=np.float32)


def digest_arrays(*arrays: np.ndarray | np.generic) -> str:
    """A hash of arrays with their types and shapes, hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
