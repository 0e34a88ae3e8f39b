"""The instrument with known truth: what is planted is there, by editing weights."""

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from experiments.known_truth import measures, networks, page, weights
from experiments.known_truth.__main__ import Options, main

BASE = 500


def losses_by_hand(planted, place: int, gone: dict[int, float]) -> np.ndarray:
    """Each test example's loss in NumPy, where some units output constants.

    A unit outputs a constant by weights of 0 and that constant as its bias.
    """
    own = {
        n: np.array(leaf[place], np.float64) for n, leaf in planted.variables.items()
    }
    for unit, constant in gone.items():
        own["first"][:, unit], own["first_bias"][unit] = 0, constant
    x, y = (np.asarray(part) for part in planted.data.test)
    first = np.maximum(x[:, place] @ own["first"] + own["first_bias"], 0)
    second = np.maximum(first @ own["second"] + own["second_bias"], 0)
    logits = second @ own["out"] + own["out_bias"]
    if "direct" in own:
        logits += first @ own["direct"]
    odds = logits[:, 1] - logits[:, 0]
    return np.log1p(np.exp(np.where(y == 1, -odds, odds)))


@pytest.fixture(scope="module")
def dense():
    return networks.plant("dense", 2, BASE, 0)


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_units_do_what_is_planted(name):
    planted = networks.plant(name, 2, 4 * BASE, 3)
    for place in range(2):
        at = {kind: planted.places_of(kind)[place].tolist() for kind in weights.KINDS}
        intact = losses_by_hand(planted, place, {})

        def rise(*units, constant=0.0, place=place, intact=intact, planted=planted):
            gone = dict.fromkeys(units, constant)
            return (losses_by_hand(planted, place, gone) - intact).mean()

        nothing = [*at["decoy"], *at["irrelevant"], *at["dead"], *at["backup"]]
        assert [rise(unit) for unit in nothing] == [0] * len(nothing)
        (principal,), (backup,) = at["principal"], at["backup"]
        assert abs(rise(principal)) < 1e-6  # the backup makes up for it
        assert rise(principal, backup) > 0.1
        one, other = at["duplicate"]
        assert rise(one, other) > 1.5 * (rise(one) + rise(other)) > 0
        one, other = at["exclusive or"]
        assert rise(one, other) < 0.8 * (rise(one) + rise(other))
        # Zero moves the logit of constant units, which their own output does not.
        constant = at["constant"][0]
        output = planted.variables["first_bias"][place, constant]
        assert rise(constant) > 0
        assert rise(constant, constant=output) == 0
        graded = [
            rise(unit, constant=planted.variables["first"][place][:, unit].max() / 2)
            for unit in at["graded"]
        ]
        assert graded == sorted(graded)


def test_library_agrees_with_weights_edited_by_hand(dense):
    network, (x, y) = dense.network, dense.data.test
    one = jax.tree.map(lambda leaf: leaf[1], dense.variables)
    keep = np.ones(network.num_neurons, bool)
    gone = (
        dense.places_of("principal")[1].tolist() + dense.places_of("backup")[1].tolist()
    )
    keep[gone] = False
    zero = np.zeros(network.num_neurons, np.float32)
    found = measures.ioca.evaluate_masks(network, one, keep, zero, x, y)
    by_hand = losses_by_hand(dense, 1, dict.fromkeys(gone, 0.0)).mean()
    np.testing.assert_allclose(found.loss, by_hand, rtol=1e-4)


def test_features_have_the_logit_that_is_asked_for():
    rng = np.random.default_rng(0)
    labels = networks.draw_labels(rng, 20_000)
    bits = networks.draw_features(rng, labels)
    logit = networks.label_logit(bits)
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.02
    chance = 1 / (1 + np.exp(-logit))
    assert abs(chance - labels).mean() < 0.25
    for low in (-2.0, 0.0, 1.0):
        near = (logit > low) & (logit < low + 1)
        assert abs(chance[near].mean() - labels[near].mean()) < 0.04


def test_auroc_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 4, 30), np.arange(30) < 11
    expected = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert measures.auroc(scores, positive) == pytest.approx(expected / (11 * 19))
    assert measures.auroc(np.zeros(30), positive) == 0.5
    assert measures.auroc(positive.astype(float), positive) == 1
    drawn = [measures.auroc(rng.random(30), positive) for _ in range(2000)]
    assert abs(np.mean(drawn) - 0.5) < 0.01


def test_an_oracle_finds_everything_and_has_no_regret(dense, monkeypatch):
    monkeypatch.setattr(measures, "MEASURES", ("entropy", "mutual_information"))
    own = ("experiments.known_truth.networks:of_oracle",)
    monkeypatch.setattr(
        networks,
        "of_oracle",
        lambda m: abs(m.network.layer_of_neuron - 1.0),
        raising=False,
    )
    rows = pd.DataFrame(measures.find_planted(dense, own))
    table = rows.pivot_table(index="measure", columns="quantity", values="value")
    assert table.loc[measures.ORACLE, measures.ALL] == 1
    assert table.loc[measures.ORACLE, "tau of graded"] == pytest.approx(1)
    assert (table.loc[measures.ORACLE].filter(like="regret") == 0).all()
    assert table.loc["mutual_information", "graded"] > 0.9
    assert 0.2 < table.loc["mutual_information", "exclusive or"] < 0.95
    assert table.loc["of_oracle", measures.ALL] == 0.5  # one number for the whole layer
    # 12 units pass bits of one entropy, seven others have at most that.
    assert table.loc["entropy", "graded"] < 0.9
    text = page.write_page(
        {"measures": rows},
        {"version": "1", "seed": 0},
    )
    assert "| of_oracle" in text
    assert "nan" not in text


@pytest.mark.slow
def test_quick_run_writes_all_sections(tmp_path):
    options = Options(
        quick=True,
        processes=1,
        workdir=str(tmp_path),
        page=str(tmp_path / "page.md"),
    )
    main(options)
    text = (tmp_path / "page.md").read_text("utf-8")
    for section in (
        "find the planted units",
        "name the planted pairs",
        "False",
        "Power",
    ):
        assert section in text
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.csv")}
    main(options)  # goes on from what is there
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.csv")}
