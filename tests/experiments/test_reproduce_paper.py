"""The paper's settings, and what is said over all of them, from planted results."""

import json

import numpy as np
import pytest
from pages import Page
from synthetic import planted_results, with_accuracy

import ioca_jax as ioca
from experiments import reproduce_paper
from ioca_jax.inference import claims

SETTINGS = [
    f"{dataset}_{activation}_plain"
    for dataset in ("mnist", "cifar10")
    for activation in ("relu", "sigmoid")
]


def results_of(setting: str, **planted):
    dataset, activation, _ = setting.split("_")
    results = planted_results(**planted)
    results.attrs |= {
        "configuration": json.dumps({"dataset": dataset, "activation": activation}),
        "seconds": json.dumps({"computed": 90.0}),
    }
    return results


@pytest.fixture(scope="module")
def runs():
    """Of MNIST the mean clamp helps a sigmoid alone."""
    return {
        name: results_of(
            name, rng_seed=index, clamp_gain=0.1 * (name == "mnist_sigmoid_plain")
        )
        for index, name in enumerate(SETTINGS)
    }


def test_settings_are_all_combinations():
    settings = reproduce_paper.settings_of(reproduce_paper._DATASETS, "somewhere")
    assert len(settings) == 3 * 2 * 4
    assert "mnist_sigmoid_l2" in settings
    for name, config in settings.items():
        assert name.startswith(f"{config.dataset}_{config.activation}_")
        assert len(config.seeds) >= 10
        assert config.data_dir == "somewhere"
        assert (config.l2 > 0) == name.endswith("_l2")
        assert (config.dropout_rate > 0) == name.endswith("_dropout")
        assert config.batch_norm == name.endswith("_batch_norm")
        assert config.hidden == ((128,) * 3 if "cifar10" in name else (100, 100))


def test_bias_balancing_is_compared_between_activations(runs):
    table = reproduce_paper.compare_activations(runs).set_index(["setting", "scope"])
    assert len(table) == 2 * 3
    assert (table.loc["mnist_plain"]["q_value"] < 0.01).all()
    assert (table.loc["mnist_plain"]["difference"] < -0.05).all()
    assert (table.loc["cifar10_plain"]["q_value"] > 0.05).all()
    row = table.loc[("mnist_plain", "layer_1")]
    gains = [
        claims.clamp_gains(runs[f"mnist_{activation}_plain"], "mean", "zero")[
            "layer_1"
        ].mean()
        for activation in ("relu", "sigmoid")
    ]
    np.testing.assert_allclose(row[["relu", "sigmoid"]].astype(float), gains)


def test_published_points_are_beside_ours():
    results = planted_results()
    # Curves of 100 neurons, to read at 79: a straight line.
    straight = results.isel(step=[0] * 101).assign_coords(step=np.arange(101))
    line = np.broadcast_to(0.9 - 0.005 * np.arange(101), straight["accuracy"].shape)
    straight = with_accuracy(straight, line)
    table = reproduce_paper.published_points(straight)
    assert len(table) == 8 * 5
    of_layer = table.query("scope == 'layer_2' and clamp == 'mean' and step == 60")
    row = of_layer.query("ranked_by == 'random'").iloc[0]
    np.testing.assert_allclose(row["accuracy"], 0.95)
    np.testing.assert_allclose(row["ours"], 0.6, rtol=1e-6)
    np.testing.assert_allclose(row["difference"], -0.35, rtol=1e-6)
    assert np.isnan(table["accuracy"].to_numpy()).sum() == 1  # below the plot's edge


def test_the_job_writes_what_it_says(runs, tmp_path, monkeypatch, capsys):
    asked = {}

    def run_study(config, workdir, **_):
        asked[workdir.name] = config
        return runs[workdir.name.replace("fashion_mnist", "cifar10")]

    monkeypatch.setattr(reproduce_paper.ioca, "run_study", run_study)
    monkeypatch.setattr(reproduce_paper, "_REGULARISERS", {"plain": {"l2": 0.0}})
    monkeypatch.setattr(
        reproduce_paper, "_DATASETS", {"mnist": {}, "cifar10": {"epochs": 3}}
    )
    others = reproduce_paper.other_networks
    monkeypatch.setattr(others, "run_settings", lambda *told: f"others: {told}")
    reproduce_paper.main(
        reproduce_paper.Options(str(tmp_path), "data", other_networks=True)
    )
    assert list(asked) == SETTINGS
    assert asked["cifar10_relu_plain"].epochs == 3
    names = {path.name for path in tmp_path.iterdir()}
    tables = {f"{name}.csv" for name in ("claims", "hypotheses", "activations")}
    assert names == {*tables, "claims.png", "claims.pdf", "results.md", "report.html"}
    text = (tmp_path / "results.md").read_text()
    other = (list(others.SETTINGS), "data", tmp_path / "other_networks")
    assert capsys.readouterr().out == f"{text}\nothers: {other}\n"
    judged = ioca.load_table(tmp_path / "claims.csv")
    here = judged.query("claim == '5' and setting == 'mnist_sigmoid_plain'")
    assert set(here["verdict"]) == {"holds"}
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    shown = page.frame("claims")
    assert shown["verdict"].tolist() == judged["verdict"].tolist()
    np.testing.assert_allclose(shown["effect"].astype(float), judged["effect"])
    assert {f"{name}/report.html" for name in SETTINGS} < set(page.addresses)
    # Claim 5, the network mnist sigmoid: its three scopes hold.
    (line,) = [li for li in text.splitlines() if li.startswith("| 5: ")][:1]
    assert line.split(" | ")[2] == "3 / 0 / 0"
    assert "| cifar10_relu_plain | 5-4-3-2 relu | 10 |" in text
