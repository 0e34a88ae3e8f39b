"""Examples and labels in three splits, checked.

The three splits never share an example: networks are fitted to the training split,
scores and clamp means are measured on the validation split, accuracies on the test
split. Test sets are the official ones; the validation split is cut at random out of the
training examples, as in the paper (Amjad, Liu, Geiger, arXiv 1804.06679).

Labels are the integers ``0, 1, ..., C-1``, each
of which occurs in the training labels; other labels are refused, not renumbered.
Examples are scaled only if they are integers from 0 to 255 with a value above 16: these
are pixels and are divided by 255. Integers from 0 to 16 (0/1 images, say) and floats
are used as given; other integers are refused.

Where the classes of a split come in groups, as in a table that is sorted by class, a
part of the split such as ``test.x[:200]`` is not a sample of it. ``load_dataset`` mixes
such splits; ``Dataset.from_arrays`` keeps the caller's order and warns.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
from absl import logging
from jaxtyping import Float32, Int32
from numpy.typing import ArrayLike

from ioca_jax.checks import check_labels, check_num_classes

_LARGEST_PIXEL = 255
_LARGEST_EXACT = 2**24  # integer of which all smaller ones are float32 too
_GROUPED = -4  # standard deviations from the mean number of runs
LARGEST_UNSCALED = 16  # integers up to here are not 8-bit pixels


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        x: float32 [N, ...], finite; images [N, height, width, channels].
        y: int32 [N], class indices in [0, C).

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x, y = np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32)
        >>> ioca.Split(x, y).y.tolist()
        [0, 1, 1]
    """

    x: Float32[np.ndarray, "N ..."]
    y: Int32[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits without a common example, checked when made.

    Attributes:
        name: the name or path it was loaded by, or what the caller calls it.
        train: networks are fitted to it.
        validation: scores and clamp means are measured on it.
        test: accuracies are measured on it.
        num_classes: C, at least 2.
        loaded_by: the arguments of ``load_dataset`` that give these arrays again; None
            for arrays of the caller's own, loaded and then changed ones included.

    Raises:
        ValueError: a split is empty, its arrays are not of the types above or not of
            one length, an example is not finite, a label is out of [0, C), or the
            examples of two splits have different shapes.

    Example:
        >>> import ioca_jax as ioca
        >>> data = ioca.load_dataset("mnist5k")
        >>> data.train.x.shape, data.validation.x.shape, data.num_classes
        ((3000, 28, 28, 1), (1000, 28, 28, 1), 10)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    # Not an argument: dataclasses.replace, which may change arrays, leaves it out.
    loaded_by: Mapping[str, Any] | None = dataclasses.field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        """Checks the splits."""
        _check_name(self.name)
        check_num_classes(self.num_classes)
        examples = {}
        for split in ("train", "validation", "test"):
            part = getattr(self, split)
            if not isinstance(part, Split):
                given = type(part).__name__
                refuse(self.name, f"{split} to be a Split(x, y)", given)
            x, y = part
            for name, array, dtype in (("x", x, np.float32), ("y", y, np.int32)):
                given = getattr(array, "dtype", type(array).__name__)
                if given != dtype:
                    raise ValueError(
                        f"{self.name}: expected {split}.{name} to be an array of "
                        f"{np.dtype(dtype)}, got {given}; Dataset.from_arrays converts"
                    )
            _check_examples(self.name, f"{split}.x", x)
            where = f"{self.name}: {split}.y"
            check_labels(y, self.num_classes, len(x), name=where)
            examples[f"{split}.x"] = x
        _check_shapes(self.name, examples)

    @classmethod
    def from_arrays(
        cls,
        x_train: ArrayLike,
        y_train: ArrayLike,
        x_test: ArrayLike,
        y_test: ArrayLike,
        *,
        num_validation: int | None = None,
        seed: int = 0,
        label_noise: float = 0.0,
        name: str = "arrays",
        scale: bool = True,
    ) -> "Dataset":
        """Makes a dataset of arrays: checks, scales, and cuts a validation split.

        The order of the examples is kept in the training and test splits. A warning is
        logged if their classes come in groups.

        Args:
            x_train: numbers [N, ...]: training examples, from which the validation
                split is cut. Integers from 0 to 255 with a value above 16, in
                ``x_train`` or ``x_test``, are pixels and are divided by 255; integers
                from 0 to 16 and floats are used as given.
            y_train: integers [N] or [N, 1]: classes 0, 1, ..., C-1, each at least once.
            x_test: test examples, shaped as the training examples.
            y_test: their classes, out of those of ``y_train``.
            num_validation: examples moved from training to validation. None is a sixth
                of the training examples, 10,000 at most.
            seed: of the random cut between training and validation, and of the noise.
            label_noise: share of the training labels to corrupt, as ``corrupt_labels``
                does; those of validation and test stay true.
            name: of the dataset, in messages, results and reports.
            scale: False uses all numbers as given: tokens, counts. They become float32
                all the same, which is exact for integers up to 2^24.

        Returns:
            The dataset, examples float32 [N, ...] of the shape given, labels int32 [N].
            The arrays given are not changed and not kept.

        Raises:
            ValueError: arrays that are none of these, examples that are not finite, a
                validation split that leaves nothing to train on, or a share of noise
                that is not in [0, 1].

        Example:
            >>> import numpy as np, ioca_jax as ioca
            >>> x, y = np.linspace(0, 1, 400).reshape(100, 4), np.arange(100) % 3
            >>> data = ioca.Dataset.from_arrays(x[:60], y[:60], x[60:], y[60:])
            >>> print(len(data.train.y), len(data.validation.y), len(data.test.y))
            50 10 40
        """
        _check_name(name)
        given = zip(Arrays._fields, (x_train, y_train, x_test, y_test), strict=True)
        arrays = Arrays(*(_as_array(name, field, array) for field, array in given))
        arrays = checked_arrays(name, arrays)
        grouped = grouped_splits(arrays)
        if grouped:
            logging.warning(
                "%s: the classes come in groups in %s, so that a part of such a split, "
                "test.x[:200] for example, is not a sample of it; the order is kept: "
                "shuffle examples and labels together before you take parts",
                *(name, " and ".join(f"y_{split}" for split in grouped)),
            )
        num_train, num_classes = len(arrays.y_train), int(arrays.y_train.max()) + 1
        kept, held_out = _cut(name, num_train, num_validation, seed)
        x_train, x_test = _scaled(name, arrays) if scale else _as_given(name, arrays)
        y_train = arrays.y_train.astype(np.int32)
        noisy = corrupt_labels(y_train[kept], num_classes, label_noise, seed)
        return cls(
            name=name,
            train=Split(x_train[kept], noisy),
            validation=Split(x_train[held_out], y_train[held_out]),
            test=Split(x_test, arrays.y_test.astype(np.int32)),
            num_classes=num_classes,
        )

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all examples and labels, hexadecimal; computed once.

        Types, shapes and the number of classes enter it, the name does not.
        """
        arrays = [array for split in self._splits for array in split]
        return digest_arrays(np.int64(self.num_classes), *arrays)

    @property
    def _splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.validation, self.test

    def __str__(self) -> str:
        """What the dataset holds, in one line."""
        train, validation, test = (len(split.y) for split in self._splits)
        low = min(split.x.min() for split in self._splits)
        high = max(split.x.max() for split in self._splits)
        return (
            f"{self.name}: {train} training, {validation} validation and {test} test "
            f"examples of shape {list(self.train.x.shape[1:])} with values in "
            f"[{low:g}, {high:g}], {self.num_classes} classes"
        )


class Arrays(NamedTuple):
    """What a source yields: examples [N, ...] and labels, not yet cut or scaled."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def corrupt_labels(
    labels: Int32[np.ndarray, " N"], num_classes: int, share: float, seed: int
) -> Int32[np.ndarray, " N"]:
    """Replaces a share of labels by classes drawn uniformly.

    Of a share p, ``round(p N)`` examples are drawn. A drawn class may be the true one:
    about ``1 - p + p / C`` of the labels stay true, and with p = 1 labels are
    independent of examples. A greater share corrupts the labels that a lesser one does,
    in the same way, and others. Source: C. Zhang et al., "Understanding deep learning
    requires rethinking generalization", arXiv 1611.03530, section 2.
    """
    check_label_noise(share)
    # A stream of its own, not that of the cut.
    rng = np.random.default_rng([seed, 1])
    drawn = rng.permutation(len(labels))[: round(share * len(labels))]
    classes = rng.integers(num_classes, size=len(labels), dtype=np.int32)
    noisy = labels.copy()
    noisy[drawn] = classes[drawn]
    return noisy


def check_label_noise(share: float) -> None:
    """Refuses a share that is not in [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"label_noise: expected a share in [0, 1], got {share}")


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"name: expected a name on one line, got {name!r}")


def _as_array(name: str, field: str, given: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # other libraries' arrays raise errors of their own
        raise ValueError(
            f"{name}: expected {field} to be an array, got {type(given).__name__} "
            f"({error})"
        ) from error


def refuse(name: str, expected: str, given: str, advice: str = "") -> NoReturn:
    """Raises the error of a dataset that cannot be used."""
    raise ValueError(f"{name}: expected {expected}, got {given}{advice}")


def _check_examples(name: str, field: str, x: np.ndarray) -> None:
    """Refuses examples that are not finite numbers [N, ...]."""
    if x.ndim < 2 or x.size == 0:
        refuse(name, f"{field} of shape [N, ...], not empty", f"{list(x.shape)}")
    if x.dtype.kind not in "buif":
        refuse(name, f"{field} to be numbers", str(x.dtype))
    # A minimum or maximum is NaN where a value is.
    if x.dtype.kind == "f" and not np.isfinite([x.min(), x.max()]).all():
        bad = x.size - int(np.isfinite(x).sum())
        refuse(name, f"finite numbers in {field}", f"{bad} NaN or infinite")


def _check_shapes(name: str, examples: dict[str, np.ndarray]) -> None:
    """Refuses arrays whose examples have different shapes."""
    (first, x), *others = examples.items()
    for field, other in others:
        if other.shape[1:] != x.shape[1:]:
            refuse(
                name,
                f"examples of shape {list(x.shape[1:])} in {field}, as in {first}",
                f"shape {list(other.shape[1:])}",
            )


def checked_arrays(name: str, arrays: Arrays) -> Arrays:
    """Refuses arrays that are not a dataset; labels in a column become [N]."""
    for split in ("train", "test"):
        x, y = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        if y.ndim == 2 and y.shape[1] == 1:  # Keras lays out CIFAR-10's labels so
            y = y[:, 0]
            arrays = arrays._replace(**{f"y_{split}": y})
        if y.ndim != 1 or y.dtype.kind not in "ui":
            refuse(
                name,
                f"y_{split} to be integers of shape [N]",
                f"{y.dtype} of shape {list(y.shape)}",
            )
        _check_examples(name, f"x_{split}", x)
        if len(x) != len(y):
            refuse(
                name,
                f"as many examples in x_{split} as labels in y_{split}",
                f"{len(x)} and {len(y)}",
            )
    _check_shapes(name, {"x_train": arrays.x_train, "x_test": arrays.x_test})
    _check_classes(name, arrays)
    return arrays


def _check_classes(name: str, arrays: Arrays) -> None:
    """Refuses labels that are not 0, 1, ..., C-1, each in the training labels."""
    classes = np.unique(arrays.y_train)
    if len(classes) < 2:
        refuse(name, "two classes or more in y_train", f"only {classes[0]}")
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
    outside = np.setdiff1d(arrays.y_test, classes)
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
        x, y = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        # One order for every seed: the seed moves the cut and never the test split.
        order = np.random.default_rng(0).permutation(len(y))
        arrays = arrays._replace(**{f"x_{split}": x[order], f"y_{split}": y[order]})
        logging.info("%s: %s is put in a fixed random order", name, split)
    return arrays


def _cut(
    name: str, num_train: int, num_validation: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the training and of the validation examples."""
    count = min(10_000, num_train // 6) if num_validation is None else num_validation
    if not isinstance(count, (int, np.integer)) or not 1 <= count < num_train:
        raise ValueError(
            f"num_validation: expected between 1 and {num_train - 1} (the dataset "
            f"{name} has {num_train} training examples to cut it from), got {count}"
        )
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected an integer not negative, got {seed!r}")
    shuffled = np.random.default_rng(seed).permutation(num_train)
    # Held out in random order, whatever the source's: any part of them is a sample.
    return np.sort(shuffled[count:]), shuffled[:count]


def _scaled(name: str, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Training and test examples as float32; only pixels are scaled."""
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
    return _divided(arrays.x_train, divisor), _divided(arrays.x_test, divisor)


def _as_given(name: str, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Training and test examples as float32, not scaled."""
    for x in (arrays.x_train, arrays.x_test):
        largest = max(abs(float(x.min())), abs(float(x.max())))
        if x.dtype.kind in "ui" and largest > _LARGEST_EXACT:
            most = f"integers up to {_LARGEST_EXACT}, exact in float32"
            refuse(name, most, f"{largest:.0f}")
    return _divided(arrays.x_train, 1), _divided(arrays.x_test, 1)


def _divided(x: np.ndarray, divisor: int) -> Float32[np.ndarray, "N ..."]:
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        x = x.astype(np.float32)
    x /= np.float32(divisor)
    return x


def digest_arrays(*arrays: np.ndarray | np.generic) -> str:
    """A hash of arrays with their types and shapes, hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
