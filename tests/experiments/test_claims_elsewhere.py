"""Claims by architecture and clamp, from results of the shapes that a run gives."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic import THREE, planted_joint_results, synthetic_results

import ioca_jax as ioca
from experiments import other_networks, other_tables
from ioca_jax.inference import claims
from ioca_jax.inference.interactions import CO_INFORMATION

CLAMPS = ("zero", "mean", "optimal", "resample")
ASKED = ["mnist_dense", "mnist_cnn", "fashion_mnist_cnn"]


def results_of(setting: str):
    results = synthetic_results(
        seeds=12, clamps=CLAMPS, measures=(*THREE, "mrmr", "jmi")
    )
    results.attrs["seconds"] = json.dumps({"computed": 90.0})
    if setting == "mnist_cnn":  # resampling harms, in every order and network
        at = {"clamp": "resample", "step": slice(1, None)}
        correct = results["correct"]
        harmed = (correct.loc[at] // 4).where(correct.loc[at] >= 0, -1)
        correct.loc[at] = harmed.astype(np.int32)
    return results


@pytest.fixture(scope="module")
def runs():
    return {name: results_of(name) for name in ASKED}


def test_settings_are_ones_that_a_study_takes():
    assert other_networks._COMMON["clamps"] == CLAMPS
    for name, fields in other_networks.SETTINGS.items():
        config = ioca.StudyConfig(**other_networks._COMMON | fields)
        assert name.startswith(config.dataset)
        assert len(config.seeds) >= 8
        of_library = other_networks.kind_of(name) != "transformer"
        assert not of_library or (config.architecture == "cnn") == ("cnn" in name)
        assert config.batch_norm == name.endswith("batch_norm")


def test_the_job_writes_what_it_says(runs, tmp_path, monkeypatch):
    asked = []

    def run_study(config, workdir, **_):
        asked.append(workdir.name)
        assert config.data_dir == "data"
        return runs[workdir.name]

    monkeypatch.setattr(ioca, "run_study", run_study)
    text = other_networks.run_settings(ASKED, "data", tmp_path)
    assert asked == ASKED
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"claims.csv", "orders.csv", "results.md"}
    assert (tmp_path / "results.md").read_text() == text

    judged = ioca.load_table(tmp_path / "claims.csv")
    again = claims.judge_claims(runs["mnist_cnn"])
    of_setting = judged[judged["setting"] == "mnist_cnn"]
    assert of_setting["verdict"].tolist() == again["verdict"].tolist()
    # Three scopes: the planted harm is found in the convolutional network alone.
    title = f"| 5, other clamps: {claims.CLAIMS['5, other clamps'].text} |"
    lines = text.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith(title))
    of_dense, of_convolution = (line.split(" | ")[1:] for line in lines[at : at + 2])
    assert of_dense == ["dense", "", "", "0 / 0 / 3", "0 / 0 / 3 |"]
    assert of_convolution == ["convolution", "", "", "0 / 0 / 6", "0 / 3 / 3 |"]


def test_selections_are_compared_with_mutual_information(runs):
    results = runs["mnist_dense"]
    table = other_tables.compare_with_mutual_information(results)
    assert len(table) == 3 * len(CLAMPS) * 2
    row = table.query("scope == 'layer_1' and clamp == 'mean' and ranked_by == 'jmi'")
    curves = results["accuracy"].sel(scope="layer_1", clamp="mean").isel(step=range(5))
    areas = [
        np.trapezoid(curves.sel(ordering=f"{name}_ascending_0"), dx=1 / 4, axis=-1)
        for name in ("jmi", "mutual_information")
    ]
    expected = ((areas[0] - areas[1]) / (0.75 - 0.5)).mean()  # intact, chance
    np.testing.assert_allclose(row["effect"].item(), expected, rtol=1e-5)


def test_pairs_are_told_by_layer():
    results = planted_joint_results(
        co_information=(0.01, 0.01), pair_effect=(0.001, -0.001), redundancy=(0.3, 0.3)
    )
    rows = other_tables.redundancy(results).to_dict("records")
    for row, layer, neurons in zip(
        rows, (1, 2), (range(30), range(30, 50)), strict=True
    ):
        assert row["layer"] == layer
        at = np.array([(i, j) for i in neurons for j in neurons if i < j]).T
        for clamp in ("zero", "mean"):
            effects = results["pair_effect_loss"].sel(clamp=clamp).values
            mean = 1e6 * effects[:, *at].mean()
            assert row[f"pair effect in loss, {clamp}, 10⁻⁶ nats"] == f"{mean:+.0f}*"
        measured = results["pair_value"].sel(pair_measure=CO_INFORMATION).values
        mean = 1e3 * measured[:, *at].mean()
        assert row["co-information, 10⁻³ bits"].strip("*") == f"{mean:+.1f}"
        assert abs(float(row["rank correlation, mean"].strip("*"))) < 0.2


def test_direct_effects_are_told_by_layer_and_clamp():
    results = synthetic_results(hidden=(4, 3), seeds=8)
    single = results["single_loss"].transpose("seed", "clamp", "neuron")
    results = results.assign(direct_loss=single + 0.25)
    table = other_tables.self_repair(results)
    assert table[["layer", "clamp"]].values.tolist() == [[1, "zero"], [1, "mean"]]
    assert table["direct less total"].tolist() == ["0.25*", "0.25*"]
    assert table["95 % interval"].tolist() == ["0.25 to 0.25"] * 2


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected some of mnist_dense.*mnist_dance"):
        other_networks.run_settings(["mnist_dance"], None, tmp_path)


def test_results_of_another_training_are_refused(tmp_path, monkeypatch):
    name = "mnist_transformer"
    config = ioca.StudyConfig(
        data_dir="data", **other_networks._COMMON | other_networks.SETTINGS[name]
    )
    stored = dataclasses.asdict(config)
    results = results_of(name)
    monkeypatch.setattr(ioca, "load_results", lambda folder: results)
    (tmp_path / "study.nc").write_text("")
    results.attrs["configuration"] = json.dumps(stored)
    assert other_networks.run_setting(name, "data", tmp_path) is results
    results.attrs["configuration"] = json.dumps(stored | {"epochs": 7})
    with pytest.raises(ValueError, match="with epochs=7, not 3; choose another"):
        other_networks.run_setting(name, "data", tmp_path)
