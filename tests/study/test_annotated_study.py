"""Annotations: information about them, against scikit-learn, and what is lost where."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from synthetic import TINY, own_data

import ioca_jax as ioca

MEASURES = ("entropy", "mutual_information", "mutual_information@parity")
CONFIG = dataclasses.replace(
    TINY, measures=MEASURES, permutations=99, random_orders=1, epochs=30,
    learning_rate=0.03, activation="tanh",
)  # fmt: skip
GIVEN = own_data()
SPLITS = [GIVEN.train.x, GIVEN.validation.x, GIVEN.test.x]
PARITY = tuple((x[:, 0] > 0.5).astype(np.int32) for x in SPLITS)
BINS = tuple(np.digitize(x[:, 2], [0.3, 0.6]).astype(np.int32) for x in SPLITS)
PARITY[1][:5] = -1  # unknown
DATA = ioca.Dataset(
    "annotated",
    *(ioca.Split(x, (x[:, 0] > x[:, 1]).astype(np.int32)) for x in SPLITS),
    num_classes=2,
    annotations={"parity": PARITY, "bins": BINS},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "run"
    ioca.run_study(CONFIG, folder, data=DATA, draw=False)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return ioca.load_results(folder)


def test_scores_are_the_information_about_the_annotation(folder, results):
    model, variables = ioca.load_networks(folder)
    assert model is not None
    known = PARITY[1] >= 0
    for place in range(3):
        network = jax.tree.map(lambda leaf, place=place: leaf[place], variables)
        outputs = np.asarray(model.apply(network, DATA.validation.x)[1])
        found = results["score"].isel(seed=place).sel(measure=MEASURES[2]).values
        for neuron in range(7):
            codes = outputs[known, neuron] > 0
            expected = mutual_info_score(PARITY[1][known], codes) / np.log(2)
            assert found[neuron] == pytest.approx(expected, abs=1e-5)
        order = results["order"].isel(seed=place, scope=0)
        order = order.sel(ordering=f"{MEASURES[2]}_descending").values
        assert (np.diff(found[order]) <= 0).all()
    assert results["unit"].values.tolist() == ["bit"] * 3


def test_measures_of_annotations_are_tested_against_permuted_values(results):
    p_values = results["p_value"].sel(measure=MEASURES[2]).values
    assert ((p_values >= 1 / 100) & (p_values <= 1)).all()
    scores = results["score"].sel(measure=MEASURES[2]).values
    # The input decides it: the neurons that carry most of it are significant.
    assert (p_values[scores > 0.25] == 0.01).all()
    assert (scores > 0.25).any()
    assert (p_values[scores < 0.001] > 0.05).all()


def test_correct_examples_are_counted_by_value(folder, results):
    model, variables = ioca.load_networks(folder)
    assert model is not None
    axis = [*zip(results["annotation"].values, results["value"].values, strict=True)]
    assert axis == [("parity", 0), ("parity", 1)] + [("bins", v) for v in range(3)]
    sizes = [*np.bincount(PARITY[2]), *np.bincount(BINS[2], minlength=3)]
    assert results["value_size"].values.tolist() == sizes
    x, y = DATA.test
    one = results.isel(seed=1, clamp=0, scope=1)
    network = jax.tree.map(lambda leaf: leaf[1], variables)
    clamp = np.asarray(ioca.measure_neurons(model, network, *DATA.validation).clamp)
    order = one["order"].isel(ordering=2).values
    for step in (0, 2, 4):
        keep = ~np.isin(np.arange(7), order[:step])
        logits = model.apply(network, x, ioca.Ablation(keep, clamp))[0]
        right = np.asarray(logits).argmax(axis=1) == y
        expected = [(right & (PARITY[2] == v)).sum() for v in range(2)]
        expected += [(right & (BINS[2] == v)).sum() for v in range(3)]
        found = one["correct_by_value"].isel(ordering=2, step=step)
        assert found.values.tolist() == expected
    assert (one["correct_by_value"].isel(step=5) == -1).all()  # past the scope's end


def test_the_run_tells_what_is_lost_where(folder, results):
    table = ioca.load_table(folder / "tables" / "annotations.csv")
    assert len(table) == 3 * (2 + 3) * 7  # scopes, values, orders
    row = table.query(
        "scope == 'layer_1' and annotation == 'bins' and value == 2 and ranked_by == "
        "'entropy' and direction == 'ascending'"
    ).to_dict("records")[0]
    counts = results["correct_by_value"].isel(scope=1, clamp=0, step=slice(0, 5))
    counts = counts.sel(ordering="entropy_ascending").values
    sizes = results["value_size"].values

    def lost(places):
        share = counts[..., places].sum(axis=-1) / sizes[places].sum()
        return np.trapezoid(share[:, :1] - share, dx=1 / 4, axis=1)

    own, others = lost([4]), lost([2, 3])
    assert row["lost"] == pytest.approx(own.mean(), abs=1e-9)
    assert row["lost_others"] == pytest.approx(others.mean(), abs=1e-9)
    assert row["effect"] == pytest.approx((own - others).mean(), abs=1e-9)
    neurons = ioca.load_table(folder / "tables" / "neurons.csv")
    assert "family_mutual_information@parity" in neurons
    assert 'data-table="annotations"' in (folder / "report.html").read_text()
    assert "Accuracy that examples of a value" in (folder / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        (
            "mutual_information@size",
            "measures: expected an annotation of the data after @, one of parity, "
            "bins, got mutual_information@size",
        ),
        (
            "entropy@parity",
            "measures: expected one of mutual_information, kl_selectivity, "
            "mutual_information_miller_madow before @ and an annotation of the data "
            "after it, got 'entropy@parity'",
        ),
    ],
)
def test_unknown_measures_and_annotations_are_refused(measure, text, tmp_path):
    def run():
        config = dataclasses.replace(CONFIG, measures=(measure,))
        ioca.run_study(config, tmp_path / "run", data=DATA, draw=False)

    with pytest.raises(ValueError, match="measures") as caught:
        run()
    assert str(caught.value) == text
