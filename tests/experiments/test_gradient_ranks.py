"""Gradient ranks and joint ablations, against networks run in NumPy."""

import itertools
import json
from typing import Any

import jax
import numpy as np
import pytest
import reference
import scipy.stats
import xarray as xr

import ioca_jax as ioca
from experiments.questions import gradient_ranks, studies
from experiments.questions.gradient_ranks import judge_ranks, judge_together

SEEDS, HIDDEN, CLASSES = 6, (5, 4), 3
H = sum(HIDDEN)
MEASURES = (
    "gradient_norm",
    *(
        f"{name}_{clamp}"
        for name in ("taylor", "ablation_loss")
        for clamp in studies.CLAMPS
    ),
)


@pytest.fixture(scope="module")
def networks() -> studies.Networks:
    rng = np.random.default_rng(0)
    model = ioca.MLP(hidden=HIDDEN, num_classes=CLASSES)
    x = rng.normal(size=(90, 6)).astype(np.float32)
    y = (np.arange(90) % CLASSES).astype(np.int32)
    keys = jax.random.split(jax.random.key(1), SEEDS)
    variables = jax.tree.map(
        lambda leaf: 2 * leaf, jax.vmap(lambda k: model.init(k, x))(keys)
    )
    score = rng.random((SEEDS, len(MEASURES), H)).astype(np.float32)
    results = xr.Dataset(
        {"score": (("seed", "measure", "neuron"), score)},
        {"measure": list(MEASURES)},
        {"network": "6-5-4-3 relu", "seconds": json.dumps({"computed": 60.0})},
    )
    clamps = rng.random((SEEDS, 2, H)).astype(np.float32)
    clamps[:, 0] = 0
    return studies.Networks(results, model, variables, clamps, ioca.Split(x, y))


def cost(networks: studies.Networks, seed: int, clamp: int, gone) -> np.ndarray:
    """Loss gained and accuracy lost without some units, by NumPy."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf[seed]), networks.variables)
    keep = np.ones(H, bool)
    intact, ablated = (
        reference.evaluate(
            networks.model, one, kept, networks.clamps[seed, clamp], *networks.test
        )
        for kept in (keep, ~np.isin(np.arange(H), gone))
    )
    number = len(networks.test.y)
    lost = (intact[0].sum() - ablated[0].sum()) / number
    return np.array([ablated[1] - intact[1], lost])


@pytest.fixture(scope="module")
def alone(networks) -> np.ndarray:
    """[S, A, H, 2]: loss and accuracy."""
    each = [
        [[cost(networks, seed, clamp, [unit]) for unit in range(H)] for clamp in (0, 1)]
        for seed in range(SEEDS)
    ]
    return np.array(each)


@pytest.fixture(scope="module")
def asked(networks):
    return gradient_ranks.ask(networks)


def test_ranks_are_those_of_numpy(networks, alone, asked):
    ranks, _ = asked
    assert len(ranks) == 2 * 2 * (3 + 2 + 1)
    scores = networks.results["score"].sel(measure="taylor_mean").values
    rows = ranks.query("gradient == 'taylor' and clamp == 'mean'").set_index(
        ["quantity", "scope"]
    )
    upper = slice(HIDDEN[0], None)
    taus = []
    for score, effect in zip(scores, alone[:, 1, :, 0], strict=True):
        found: Any = scipy.stats.kendalltau(score[upper], effect[upper])
        taus.append(found.statistic)
    assert rows.loc[("tau", "layer_2"), "effect"] == pytest.approx(np.mean(taus))
    difference = (
        np.array(
            [
                scipy.stats.rankdata(score) - scipy.stats.rankdata(effect)
                for score, effect in zip(scores, alone[:, 1, :, 0], strict=True)
            ]
        )
        / H
    )
    first, last = difference[:, : HIDDEN[0]].mean(), difference[:, upper].mean()
    found = rows.loc["overvaluation"]["effect"]
    assert found["layer_1"] == pytest.approx(first)
    contrast = found["first layer less last layer"]
    assert contrast == pytest.approx(first - last)


def test_joint_costs_and_sums_are_those_of_numpy(networks, alone, asked):
    _, together = asked
    scores = networks.results["score"]
    gradient, effect = (
        scipy.stats.rankdata(scores.sel(measure=name).values, axis=1)
        for name in ("gradient_norm", "ablation_loss_mean")
    )
    order = np.argsort(effect - gradient, axis=1)  # most overvalued first
    where = "scope == 'network' and units == 4 and clamp == 'mean'"
    for at, name in enumerate(("loss", "accuracy")):
        (row,) = together.query(
            f"{where} and cost == '{name}' and selection == 'most overvalued'"
        ).to_dict("records")
        chosen = order[:, :4]
        joint = [cost(networks, seed, 1, chosen[seed])[at] for seed in range(SEEDS)]
        summed = [alone[seed, 1, chosen[seed], at].sum() for seed in range(SEEDS)]
        assert row["joint"] == pytest.approx(np.mean(joint), abs=1e-6)
        assert row["summed"] == pytest.approx(np.mean(summed), abs=1e-6)
        assert row["effect"] == pytest.approx(
            np.mean(joint) - np.mean(summed), abs=1e-6
        )
    random = together.query(f"{where} and cost == 'loss' and selection == 'random'")
    over = together.query(
        f"{where} and cost == 'loss' and selection == 'most overvalued'"
    )
    beside = float(over["effect"].iloc[0] - random["effect"].iloc[0])
    assert over["beside_random"].iloc[0] == pytest.approx(beside)
    assert random["beside_random"].iloc[0] == 0
    words = {gradient_ranks.MORE, gradient_ranks.LESS, "undecided"}
    assert set(together["verdict_beside_random"]) <= words


def test_planted_inversions_and_joint_damage_are_called(networks):
    """Scores that follow the effects below, oppose them above; units that repair."""
    rng = np.random.default_rng(2)
    effects = rng.random((SEEDS, 2, H))
    effects[..., : HIDDEN[0]] /= 5
    of_measure = networks.results["score"].copy()
    lower = np.arange(H) < HIDDEN[0]
    for clamp, name in enumerate(studies.CLAMPS):
        score = np.where(lower, 10 + effects[:, clamp], -effects[:, clamp])
        of_measure.loc[{"measure": f"taylor_{name}"}] = score
    planted = networks._replace(results=networks.results.assign(score=of_measure))
    ranks = judge_ranks(planted, effects).query("gradient == 'taylor'")
    for clamp, name in itertools.product(studies.CLAMPS, ("layer_1", "layer_2")):
        of_layer = ranks.query(f"clamp == '{clamp}' and scope == '{name}'")
        expected = {
            "layer_1": ["positive", "overvalued"],
            "layer_2": ["negative", "undervalued"],
        }
        assert of_layer["verdict"].tolist() == expected[name]
    counted = gradient_ranks.count_inversions(ranks).query("gradient == 'taylor'")
    columns = ["positive below", "negative below", "the same", "undecided"]
    assert counted[columns].values.tolist() == [[1, 0, 0, 0]] * 2

    keep = np.ones((2, SEEDS, 2, H), bool)  # two draws, the same units
    keep[..., :2] = False
    about = {"scope": "layer_1", "selection": "random", "share": 0.5, "units": 2}
    singles = {name: effects for name in ("loss", "accuracy")}
    sums = effects[..., :2].sum(axis=-1, keepdims=True)
    for sign, verdict in ((3, "joint exceeds"), (0.5, "sum exceeds")):
        draws = np.concatenate([(sign - 1) * sums, (sign + 1) * sums], axis=-1)
        joint = {"loss": draws, "accuracy": draws}
        table = judge_together([(about, keep)], joint, singles)
        assert set(table["verdict"]) == {verdict}
        assert table["ratio"].tolist() == pytest.approx([sign] * 4)


def test_the_gradients_norm_is_that_of_numpy(networks):
    """Backwards by hand, over the one batch of 64 that 90 examples fill."""
    one = jax.tree.map(lambda leaf: leaf[0], networks.variables)
    x, y = networks.test
    found = ioca.measure_neurons(
        networks.model,
        one,
        x,
        y,
        measures=("experiments.questions.studies:gradient_norm",),
    ).scores["gradient_norm"]
    x, y = np.float64(x[:64]), y[:64]
    params = {
        name: np.float64(layer["kernel"]) for name, layer in one["params"].items()
    }
    logits, outputs = reference.forward(networks.model, one, x)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    outgoing = (shares - np.eye(CLASSES)[y]) / 64
    upper, lower = outputs[:, HIDDEN[0] :], outputs[:, : HIDDEN[0]]
    of_upper = outgoing @ params["dense_2"].T * (upper > 0)
    of_lower = of_upper @ params["dense_1"].T * (lower > 0)
    expected = [
        np.linalg.norm(inputs.T @ part, axis=0)
        for inputs, part in ((x, of_lower), (lower, of_upper))
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-7)


def test_settings_are_ones_that_a_study_takes():
    for fields in studies.SETTINGS.values():
        config = ioca.StudyConfig(**studies._COMMON | fields)
        assert len(config.seeds) >= 10
        assert {score.name for score in config.scores} <= set(MEASURES)


def test_the_job_writes_its_tables(networks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(studies, "SETTINGS", {"dense": {}})
    monkeypatch.setattr(studies, "study_networks", lambda setting, folder: networks)
    monkeypatch.setattr(
        gradient_ranks,
        "about_networks",
        lambda runs: runs["dense"]["score"].to_dataframe().head(1),
    )
    gradient_ranks.main(gradient_ranks.Options(workdir=str(tmp_path)))
    text = (tmp_path / "results.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    together = ioca.load_table(tmp_path / "together.csv")
    counted = together.query(
        "cost == 'loss' and selection == 'random' and clamp == 'zero' "
        "and scope == 'network'"
    )["verdict"]
    words = (gradient_ranks.JOINT, gradient_ranks.SUM, "undecided")
    cell = " / ".join(str((counted == word).sum()) for word in words)
    assert f"| loss | random | zero | {cell} |" in text
    assert len(ioca.load_table(tmp_path / "ranks.csv")) == 24
