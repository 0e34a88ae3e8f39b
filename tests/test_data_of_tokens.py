"""Datasets of several arrays, and with labels of tokens."""

import re

import numpy as np
import pytest
from sentences import sentences

import ioca_jax as ioca

(X, Y), (X_TEST, Y_TEST) = sentences(60), sentences(20, seed=1)


def made(x=X, y=Y, x_test=X_TEST, y_test=Y_TEST, **options):
    options = {"num_validation": 25, "name": "own"} | options
    return ioca.Dataset.from_arrays(x, y, x_test, y_test, **options)


def test_rows_of_all_arrays_stay_together_and_types_stay():
    wide = X | {"ids": X["ids"].astype(np.int64) + 300, "scale": np.arange(60) / 7}
    test = X_TEST | {"scale": np.arange(20) / 7}
    data = made(wide, Y, test)
    assert [leaf.dtype for leaf in data.train.x.values()] == [
        np.dtype(kind) for kind in ("int32", "bool", "float32")
    ]
    for split in (data.train, data.validation):
        rows = np.rint(split.x["scale"] * 7).astype(int)
        np.testing.assert_array_equal(split.x["ids"], X["ids"][rows] + 300)
        np.testing.assert_array_equal(split.x["mask"], X["mask"][rows])
        np.testing.assert_array_equal(split.y, Y[rows])
    assert (len(data.train.y), len(data.validation.y), data.tokens) == (35, 25, 8)
    assert str(made()) == (
        "own: 35 training, 25 validation and 20 test examples of shape x['ids'] [8], "
        "x['mask'] [8] with values in [0, 11], 3 classes of each of 8 tokens"
    )


def test_digests_depend_on_values_and_names():
    changed = X | {"ids": np.where(X["ids"] == 3, 4, X["ids"])}
    swapped = [{"mask": x["ids"], "ids": x["mask"]} for x in (X, X_TEST)]
    found = [made(), made(changed), made(swapped[0], Y, swapped[1])]
    assert len({data.digest for data in found}) == 3
    assert made().digest == made().digest


def test_only_labels_that_count_are_corrupted():
    data, noisy = made(), made(label_noise=1.0)
    np.testing.assert_array_equal(noisy.train.y == -1, data.train.y == -1)
    assert (noisy.train.y != data.train.y).mean() > 0.1
    np.testing.assert_array_equal(noisy.validation.y, data.validation.y)


REFUSED = {
    "numbers of examples": (
        {"x": X | {"mask": X["mask"][:9]}},
        "own: expected 60 examples in x_train['mask'], as in x_train['ids'], got 9",
    ),
    "other arrays": (
        {"x_test": X_TEST["ids"]},
        "own: expected examples of shape x['ids'] [8], x['mask'] [8] in x_test, as in "
        "x_train, got shape [8]",
    ),
    "other tokens": (
        {"y_test": Y_TEST[:, :7]},
        "own: expected labels of shape [N, 8] in y_test, as in y_train, got [20, 7]",
    ),
    "one class that counts": (
        {"y": np.minimum(Y, 0)},
        "own: expected two classes or more in y_train, got only 0",
    ),
    "none counts": (
        {"y_test": np.full((20, 8), -1)},
        "own: test.y: expected a class for one token or more, got -1 for all",
    ),
    "a label below -1": (
        {"y_test": Y_TEST - 1},
        "own: expected y_test in [0, 2], the classes of y_train, got -2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case):
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        made(**arguments)


def test_minus_one_is_no_class_of_an_example():
    message = "own: expected the labels 0, 1, ..., C-1 in y_train, each at least once, "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        made(X, np.arange(60, dtype=np.int32) % 3 - 1, X_TEST, np.zeros(20, np.int32))
