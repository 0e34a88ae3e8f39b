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
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Int32
from numpy.typing import ArrayLike

from ioca_jax.arrays import (
    ARRAYS,
    Arrays,
    as_arrays,
    check_annotation,
    check_finite_examples,
    check_shapes,
    checked_arrays,
    describe_shape,
    digest_arrays,
    grouped_splits,
    kinds_of,
    no_scaling,
    refuse,
    scaling,
    typing_of_trees,
)
from ioca_jax.batching import count_examples, take_examples
from ioca_jax.checks import check_labels, check_num_classes, named_arrays


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        x: float32 [N, ...], finite; images [N, height, width, channels]. Or a pytree of
            arrays that begin with N, of float32, int32 and bool.
        y: int32 [N], class indices in [0, C); or of tokens [N, T], -1 where none
            counts.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x, y = np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32)
        >>> ioca.Split(x, y).y.tolist()
        [0, 1, 1]
    """

    x: Any
    y: Int32[np.ndarray, "N *T"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits without a common example, checked when made.

    Attributes:
        name: the name or path it was loaded by, or what the caller calls it.
        train: networks are fitted to it.
        validation: scores and clamp means are measured on it.
        test: accuracies are measured on it.
        num_classes: C, at least 2.
        annotations: further discrete variables of the examples, by name: int32 [N] of
            the training, validation and test examples, values from 0, -1 where one is
            unknown. Studies measure information about them and what they lose.
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
    annotations: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = (
        dataclasses.field(default_factory=dict)
    )
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
            arrays = named_arrays(f"{split}.x", x)
            for name, array in (*arrays, (f"{split}.y", y)):
                kinds = [np.int32] if array is y else kinds_of(x)
                given = getattr(array, "dtype", type(array).__name__)
                if given not in kinds:
                    known = ", ".join(np.dtype(kind).name for kind in kinds)
                    raise ValueError(
                        f"{self.name}: expected {name} to be an array of {known}, got "
                        f"{given}; Dataset.from_arrays converts"
                    )
            check_finite_examples(self.name, f"{split}.x", x)
            where = f"{self.name}: {split}.y"
            check_labels(
                *(y, self.num_classes, count_examples(x)),
                name=where,
                tokens=self.tokens,
            )
            examples[f"{split}.x"] = x
        check_shapes(self.name, examples)
        names = ("training", "validation", "test")
        sizes = {n: len(s.y) for n, s in zip(names, self._splits, strict=True)}
        for name, arrays in self.annotations.items():
            check_annotation(self.name, name, arrays, sizes)

    @property
    def annotation_values(self) -> dict[str, int]:
        """By annotation, the number of its values: the greatest of all splits and 1."""
        return {
            name: 1 + max(int(array.max()) for array in arrays)
            for name, arrays in self.annotations.items()
        }

    @property
    def tokens(self) -> int | None:
        """T, of labels [N, T]; None of labels [N]."""
        return self.train.y.shape[1] if self.train.y.ndim > 1 else None

    @classmethod
    def from_arrays(
        cls,
        x_train: Any,
        y_train: ArrayLike,
        x_test: Any,
        y_test: ArrayLike,
        *,
        num_validation: int | None = None,
        seed: int = 0,
        label_noise: float = 0.0,
        name: str = "arrays",
        scale: bool = True,
        annotations: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    ) -> "Dataset":
        """Makes a dataset of arrays: checks, scales, and cuts a validation split.

        The order of the examples is kept in the training and test splits. A warning is
        logged if their classes come in groups.

        Args:
            x_train: numbers [N, ...]: training examples, from which the validation
                split is cut. Integers from 0 to 255 with a value above 16, in
                ``x_train`` or ``x_test``, are pixels and are divided by 255; integers
                from 0 to 16 and floats are used as given. Or a pytree of arrays that
                begin with N, such as a dictionary: these are never scaled, and
                integers and booleans stay what they are.
            y_train: integers [N] or [N, 1]: classes 0, 1, ..., C-1, each at least once;
                or [N, T] of T tokens, -1 where none counts.
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
            annotations: by name, integers [N] of the training and of the test examples:
                further discrete variables, values from 0, -1 where one is unknown.

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
        given = zip(ARRAYS, (x_train, y_train, x_test, y_test), strict=True)
        arrays = Arrays(*(as_arrays(name, field, array) for field, array in given))
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
        sizes = {"training": num_train, "test": len(arrays.y_test)}
        annotated = {}
        for annotation, pair in (annotations or {}).items():
            check_annotation(name, annotation, pair, sizes)
            of_train, of_test = (np.asarray(array, np.int32) for array in pair)
            annotated[annotation] = of_train[kept], of_train[held_out], of_test
        if not isinstance(arrays.x_train, np.ndarray):
            convert = typing_of_trees(name, arrays)
        else:
            convert = (scaling if scale else no_scaling)(name, arrays)
        y_train = arrays.y_train.astype(np.int32)
        noisy = y_train[kept]
        counted = noisy >= 0
        noisy[counted] = corrupt_labels(noisy[counted], num_classes, label_noise, seed)
        return cls(
            name=name,
            # Cut first: pixels are smaller than the floats they become.
            train=Split(convert(take_examples(arrays.x_train, kept)), noisy),
            validation=Split(
                convert(take_examples(arrays.x_train, held_out)), y_train[held_out]
            ),
            test=Split(convert(arrays.x_test), arrays.y_test.astype(np.int32)),
            num_classes=num_classes,
            annotations=annotated,
        )

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all examples and labels, hexadecimal; computed once.

        Types, shapes and the number of classes enter it, the name does not.
        """
        arrays = [array for x, y in self._splits for array in (*jax.tree.leaves(x), y)]
        if not isinstance(self.train.x, np.ndarray):
            names = ",".join(name for name, _ in named_arrays("x", self.train.x))
            arrays.append(np.frombuffer(names.encode(), np.uint8))
        for name, of_splits in sorted(self.annotations.items()):
            arrays += [np.frombuffer(name.encode(), np.uint8), *of_splits]
        return digest_arrays(np.int64(self.num_classes), *arrays)

    @property
    def _splits(self) -> tuple[Split, Split, Split]:
        return self.train, self.validation, self.test

    def __str__(self) -> str:
        """What the dataset holds, in one line."""
        train, validation, test = (len(split.y) for split in self._splits)
        leaves = [leaf for split in self._splits for leaf in jax.tree.leaves(split.x)]
        low = float(min(leaf.min() for leaf in leaves))
        high = float(max(leaf.max() for leaf in leaves))
        of_tokens = f" of each of {self.tokens} tokens" if self.tokens else ""
        return (
            f"{self.name}: {train} training, {validation} validation and {test} test "
            f"examples of shape {describe_shape(self.train.x)} with values in "
            f"[{low:g}, {high:g}], {self.num_classes} classes{of_tokens}"
        )


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


def check_class_donors(data: Dataset) -> None:
    """Refuses data whose validation examples cannot be donors by class of test ones."""
    if data.tokens is not None:
        raise ValueError(
            "clamps: expected no donors by class with labels of tokens, got "
            "resample_class; resample and resample_neuron take any example's outputs"
        )
    missing = np.setdiff1d(data.test.y, data.validation.y)
    if len(missing):
        raise ValueError(
            "clamps: expected validation examples of every class of the test split "
            f"for resample_class, got none of class {missing[0]}"
        )


def check_label_noise(share: float) -> None:
    """Refuses a share that is not in [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"label_noise: expected a share in [0, 1], got {share}")


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"name: expected a name on one line, got {name!r}")


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
