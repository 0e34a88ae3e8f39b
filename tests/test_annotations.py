"""Annotations of a dataset: cut, stored and permuted with their examples."""

import numpy as np
import pytest
from conftest import random_examples, random_network
from sklearn.metrics import mutual_info_score

import ioca_jax as ioca

X, Y = random_examples(num_examples=60)
NAMED = (np.arange(60) * 7) % 5  # follows from the place, so that cuts are seen


def places_of(x):
    """The places of examples in ``X``."""
    return [int(np.flatnonzero((one == X).all(axis=1))[0]) for one in x]


def test_they_are_cut_with_their_examples():
    data = ioca.Dataset.from_arrays(
        *(X[:40], Y[:40], X[40:], Y[40:]),
        num_validation=10, annotations={"named": (NAMED[:40], NAMED[40:])},
    )  # fmt: skip
    for split, found in zip(
        (data.train, data.validation, data.test), data.annotations["named"], strict=True
    ):
        assert found.dtype == np.int32
        assert found.tolist() == NAMED[places_of(split.x)].tolist()
    assert data.annotation_values == {"named": 5}
    without = ioca.Dataset.from_arrays(
        X[:40], Y[:40], X[40:], Y[40:], num_validation=10
    )
    assert without.annotations == {}
    other = {"other": data.annotations["named"]}
    digests = {
        ioca.Dataset(d.name, *d._splits, d.num_classes, a).digest
        for d, a in ((data, data.annotations), (data, other), (without, {}))
    }
    assert len(digests) == 3
    assert without.digest in digests


def test_a_file_has_them_in_the_order_of_its_examples(tmp_path):
    by_class = np.argsort(Y[:40], kind="stable")  # which is put in random order
    path = tmp_path / "own.npz"
    arrays = {
        "x_train": X[:40][by_class], "y_train": Y[:40][by_class],
        "x_test": X[40:], "y_test": Y[40:],
        "annotation_named_train": NAMED[:40][by_class],
        "annotation_named_test": NAMED[40:],
    }  # fmt: skip
    np.savez(path, **arrays)
    data = ioca.load_dataset(str(path), num_validation=10, num_test=12)
    for split, found in zip(data._splits, data.annotations["named"], strict=True):
        assert found.tolist() == NAMED[places_of(split.x)].tolist()
    assert [len(found) for found in data.annotations["named"]] == [30, 10, 12]
    del arrays["annotation_named_test"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="annotation_named_test") as caught:
        ioca.load_dataset(str(path))
    assert str(caught.value) == (
        f"{path}: expected the arrays x_train, y_train, x_test, y_test, "
        "annotation_named_train, annotation_named_test, got x_train, y_train, x_test, "
        "y_test, annotation_named_train; add annotation_named_test"
    )


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("pair", "expected", "got"),
    [
        ((NAMED[:39], NAMED[40:]), "[40], one for each training example",
         "int64 of shape [39]"),
        ((NAMED[:40], NAMED[40:] / 2), "[20], one for each test example",
         "float64 of shape [20]"),
        ((NAMED[:40], NAMED[40:] - 2), "from 0, or -1 where the value is unknown",
         "-2 in test"),
        ((NAMED[:40] + 2**32, NAMED[40:]), "of int32", str(NAMED[:40].min() + 2**32)),
        (NAMED, "for training, test", "ndarray"),
        ((NAMED,), "for training, test", "1 arrays"),
    ],
)  # fmt: skip
def test_what_is_no_annotation_is_refused(pair, expected, got):
    with pytest.raises(ValueError, match="annotation") as caught:
        ioca.Dataset.from_arrays(
            X[:40], Y[:40], X[40:], Y[40:], annotations={"named": pair}
        )
    assert str(caught.value) == (
        f"arrays: expected the annotation 'named' to have integers {expected}, got "
        f"{got}"
    )


def test_neurons_are_measured_about_another_variable():
    model, variables = random_network()
    x, _ = random_examples(num_examples=200)
    y = np.where(np.arange(200) % 9 == 0, -1, (x[:, 0] * 7).astype(np.int32))
    assert y.max() > model.num_classes
    measures = ("mutual_information", "activation_mean")
    found = ioca.measure_neurons(
        model, variables, x, y, measures=measures, num_classes=7
    )
    outputs = np.asarray(model.apply(variables, x)[1])
    known = y >= 0
    for neuron in range(model.num_neurons):
        codes = outputs[known, neuron] > 0
        expected = mutual_info_score(y[known], codes) / np.log(2)
        assert float(found.scores["mutual_information"][neuron]) == pytest.approx(
            expected, abs=1e-5
        )
    # Means are over all examples.
    np.testing.assert_allclose(found.activation_mean, outputs.mean(axis=0), rtol=1e-4)
    assert found.joint_counts.shape == (model.num_neurons, 2, 7)
    assert (found.joint_counts.sum(axis=(1, 2)) == known.sum()).all()


@pytest.mark.parametrize(
    ("labels", "arguments", "text"),
    [
        (np.array([0, 7] * 26 + [0]), {"num_classes": 7},
         "y: expected values in [0, 6], or -1 where one is unknown, got 7; num_classes "
         "is the number of values"),
        (np.array([0, 1] * 26 + [0]), {"num_classes": 2, "measures": ["taylor_mean"]},
         "measures: expected none of class_selectivity, taylor_zero, taylor_mean with "
         "num_classes, as these are of the network's own classes, got taylor_mean"),
    ],
)  # fmt: skip
def test_other_labels_are_refused(labels, arguments, text):
    model, variables = random_network()
    with pytest.raises(ValueError, match="expected") as caught:
        ioca.measure_neurons(
            model, variables, random_examples()[0], labels, **arguments
        )
    assert str(caught.value) == text


def test_quantiles_label_a_continuous_variable():
    values = np.random.default_rng(0).normal(size=101)
    labels = ioca.quantile_labels(values, 4)
    assert labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [26, 25, 25, 25]
    assert (np.diff(labels[np.argsort(values)]) >= 0).all()
    # The limits of other values, and an unknown one.
    limits = np.sort(values)[[25, 50, 75]]
    others = np.array([-9, limits[0], limits[0] + 1e-12, 9, np.nan])
    found = ioca.quantile_labels(others, 4, reference=values)
    assert found.tolist() == [0, 0, 1, 3, -1]


@pytest.mark.usefixtures("unchecked_shapes")
def test_values_without_quantiles_are_refused():
    for values, number, text in (
        (np.zeros(9), 2,
         "num_labels: expected groups that all have values, got 2 groups of which 1 "
         "are empty, as many values are equal or few are there; give fewer"),
        (np.full(3, np.nan), 2,
         "values: expected numbers [N], some of them not NaN, got float64 of shape "
         "[3]"),
        (np.arange(9.0), 1,
         "num_labels: expected at least 2, got 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected") as caught:
            ioca.quantile_labels(values, number)
        assert str(caught.value) == text
