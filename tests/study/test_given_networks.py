"""Data and networks that the caller gives: told, told apart, and not trained."""

import dataclasses
import json
import shutil

import command_line
import jax
import numpy as np
import pytest
from conftest import random_network
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.plots import training_history
from ioca_jax.plots.save import drawable_figures
from ioca_jax.study import plan
from ioca_jax.study.folder import RunFolder


@pytest.fixture(scope="module")
def data():
    return own_data(0)


@pytest.fixture(scope="module")
def folder(tiny_run):
    return tiny_run


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.name != ".lock"]
    return {path: path.stat().st_mtime_ns for path in paths}


def refused(folder, *told: str, config=TINY, **given):
    """The answer to a call that must change nothing."""
    before = files_of(folder)
    with pytest.raises(ValueError, match=".") as caught:
        ioca.run_study(config, folder, draw=False, **given)
    assert before == files_of(folder)
    message = str(caught.value)
    assert "\n" not in message
    for text in told:
        assert text in message
    return message


def test_own_data_are_told_by_name_and_digest(folder, data):
    results = ioca.load_results(folder)
    assert json.loads(results.attrs["configuration"])["dataset"] == "own"
    assert results.attrs["data_digest"] == data.digest
    assert (folder / "summary.txt").read_text().startswith("own: 3 networks 12-4-3-4")
    flags = (folder / "flags.txt").read_text()
    assert "mnist5k" not in flags
    replay, seal, *_ = flags.splitlines()
    assert seal.startswith("# SHA-256 of the other lines: ")
    assert replay == (
        f"# Replay: from Python alone, as the data own (digest {data.digest}) came "
        "from the caller of ioca_jax.run_study"
    )
    assert "--dataset=own" in flags.splitlines()


def test_a_finished_folder_answers_for_its_own_data_only(folder, data):
    again = ioca.run_study(TINY, folder, data=data, draw=False)
    assert again.identical(ioca.load_results(folder))
    other = own_data(7)
    refused(
        *(folder, "holds a run on other data called own", data.digest, other.digest),
        data=other,
    )
    refused(folder, "holds a run on other data", data=own_data(0, num_inputs=9))
    refused(folder, "with dataset=own, not theirs", data=own_data(0, "theirs"))
    # Without data the configuration asks for real digits.
    refused(folder, "with dataset=own, not mnist5k")


def test_a_replay_refuses_rather_than_trains_on_other_data(folder, tmp_path):
    done = command_line.run(
        "experiments.run_study",
        f"--flagfile={folder / 'flags.txt'}", f"--workdir={tmp_path / 'again'}",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "or the path of an .npz file, got 'own'; own data is passed" in done.stderr
    assert not (tmp_path / "again").exists()


def test_changed_data_do_not_bear_a_name_that_loads(mnist5k):
    dark = dataclasses.replace(
        mnist5k, test=ioca.Split(mnist5k.test.x / 2, mnist5k.test.y)
    )
    describe = plan.describe_data
    told = describe(TINY, dark)
    assert told.dataset == "mnist5k, given by the caller"
    with pytest.raises(ValueError, match="^dataset: expected mnist5k, a dataset of"):
        ioca.load_dataset(told.dataset)
    # Loaded data tell how, whatever the configuration asks for.
    other = dataclasses.replace(TINY, dataset="mnist", split_seed=4)
    assert describe(other, mnist5k) == TINY
    noisy = ioca.load_dataset("mnist5k", num_validation=7, seed=2, label_noise=0.25)
    told = describe(TINY, noisy)
    assert told.data_arguments() == noisy.loaded_by
    with pytest.raises(ValueError, match="^label_noise: expected 0, that of the data"):
        describe(dataclasses.replace(TINY, label_noise=0.1), mnist5k)
    with pytest.raises(ValueError, match="^label_noise: expected 0 with data of your"):
        describe(dataclasses.replace(TINY, label_noise=0.1), dark)


def test_a_file_whose_content_changed_is_other_data(tmp_path):
    def write(seed):
        data = own_data(seed)
        both = zip(data.train, data.validation, strict=True)
        x_train, y_train = map(np.concatenate, both)
        x, y = data.test
        np.savez(
            tmp_path / "a.npz", x_train=x_train, y_train=y_train, x_test=x, y_test=y
        )

    config = dataclasses.replace(
        TINY, dataset=str(tmp_path / "a.npz"), seeds=(0,), num_validation=40
    )
    write(0)
    results = ioca.run_study(config, tmp_path / "run", draw=False)
    again = ioca.run_study(config, tmp_path / "run", draw=False)
    np.testing.assert_array_equal(again["loss"], results["loss"])
    write(1)
    refused(tmp_path / "run", "holds a run on other data", config=config)


@pytest.fixture(scope="module")
def networks():
    """Three networks 12-7-5-4 with batch norm, none of whose leaves is initial."""
    some = [random_network(seed, hidden=(7, 5), batch_norm=True) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[v for _, v in some])
    return some[0][0], stacked


def study_given(folder, networks, data, config=TINY, **more):
    network, variables = networks
    return ioca.run_study(
        config, folder, data=data, network=network, variables=variables, draw=False,
        seeds_at_once=1, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def given(tmp_path_factory, networks, data):
    path = tmp_path_factory.mktemp("given") / "networks"
    study_given(path, networks, data)
    return path


def test_given_networks_are_studied_and_not_trained(given, networks, data):
    results = ioca.load_results(given)
    assert results["seed"].values.tolist() == [5, 2, 8]
    assert not {"train_loss", "validation_accuracy"} & set(results.data_vars)
    assert "epoch" not in results.coords
    assert not results["diverged"].values.any()
    network, variables = networks
    for index in range(3):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], variables)
        here = results.isel(seed=index).sel(scope="network", clamp="mean")
        found = ioca.measure_neurons(network, one, *data.validation)
        np.testing.assert_allclose(
            here["score"].sel(measure="entropy"), found.scores["entropy"], atol=1e-6
        )
        order = here["order"].isel(ordering=0).values
        curve = ioca.ablation_curve(
            network, one, order, found.activation_mean, *data.test
        )
        np.testing.assert_array_equal(here["correct"].isel(ordering=0), curve.correct)
    text = (given / "summary.txt").read_text()
    assert text.startswith("own: 3 networks 12-7-5-4 relu batch norm, trained e")
    drawn = drawable_figures(results, {})
    assert "ablation_curves" in drawn
    assert "training_history" not in drawn
    with pytest.raises(
        ValueError, match="^training_history: expected results with tra"
    ):
        training_history(results)
    events = (given / "events.jsonl").read_text().splitlines()
    assert "epoch" not in [json.loads(line)["event"] for line in events]
    loaded, saved = ioca.load_networks(given)
    assert loaded == network
    np.testing.assert_equal(saved, variables)


@pytest.mark.slow
def test_given_networks_go_on_in_chunks_and_shards(given, networks, data, tmp_path):
    whole = ioca.load_results(given)
    of_time = {"created": "", "seconds": "", "source_revision": ""}

    def stop(event):
        if event["event"] == "chunk":
            raise InterruptedError

    arguments = (networks, data)
    with pytest.raises(InterruptedError):
        study_given(tmp_path / "run", *arguments, listeners=[stop])
    network, variables = networks
    refused(
        *(tmp_path / "run", "with some of a run with other data; choose another"),
        data=own_data(7), network=network, variables=variables,
    )  # fmt: skip
    like_them = dataclasses.replace(TINY, hidden=(7, 5), batch_norm=True)
    refused(tmp_path / "run", "variables_digest=", config=like_them, data=data)
    study_given(tmp_path / "run", *arguments)
    for index in range(2):
        shard = ioca.Shard(index, 2)
        study_given(tmp_path / f"{index}", *arguments, shard=shard)
    ioca.merge_runs([tmp_path / "1", tmp_path / "0"], tmp_path / "all")
    for folder in (tmp_path / "run", tmp_path / "all"):
        results = ioca.load_results(folder)
        assert results.assign_attrs(of_time).identical(whole.assign_attrs(of_time))
        np.testing.assert_equal(ioca.load_networks(folder)[1], networks[1])
        assert (folder / "flags.txt").read_text() == (given / "flags.txt").read_text()
        assert study_given(folder, *arguments).identical(results)
    moved = jax.tree.map(lambda leaf: leaf + 1e-3, networks[1])
    study_given(
        tmp_path / "moved", (networks[0], moved), data,
        shard=ioca.Shard(1, 2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="^expected parts of one set of networks, got"):
        ioca.merge_runs([tmp_path / "0", tmp_path / "moved"], tmp_path / "mixed")


def test_other_networks_are_refused_and_a_replay_says_how(given, networks, data):
    moved = jax.tree.map(np.copy, networks[1])
    moved["params"]["dense_2"]["bias"][1, 0] += 1e-6
    refused(
        *(given, "which holds a run with variables_digest="),
        data=data, network=networks[0], variables=moved,
    )  # fmt: skip
    flags = (given / "flags.txt").read_text()
    assert f"(digest {data.digest}) and the networks came from" in flags
    done = command_line.run(
        "experiments.run_study",
        f"--flagfile={given / 'flags.txt'}", f"--workdir={given}",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: variables_digest: expected none, as a comm")
    assert done.stderr.count("\n") == 1


def without_norm(variables):
    return {"params": {k: v for k, v in variables["params"].items() if k[0] == "d"}}


def with_nan(variables):
    changed = jax.tree.map(np.copy, variables)
    changed["params"]["dense_1"]["kernel"][2, 0, 0] = np.nan
    return changed


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (
            without_norm,
            {},
            "variables: expected those of 3 networks, with batch_stats/norm_0/mean "
            "float32 [3, 7], as traced, got no such variable",
        ),
        (
            lambda v: v,
            {"batch_norm": False},
            "norm_0/mean no such variable, as traced, got float32 [3, 7]",
        ),
        (
            lambda v: v,
            {"hidden": (7, 9)},
            "norm_1/mean float32 [3, 9], as traced, got float32 [3, 5]",
        ),
        (
            lambda v: v,
            {"num_classes": 5},
            "network: expected 4 classes, as own has, got 5",
        ),
        (
            with_nan,
            {},
            "variables: expected finite numbers in params/dense_1/kernel, got 1 NaN",
        ),
        (
            lambda v: jax.tree.map(lambda leaf: leaf[:2], v),
            {},
            "variables: expected leaves that begin with 3 networks, one for each of "
            "the configuration's seeds, got batch_stats/norm_0/mean of shape [2, 7]",
        ),
        (
            lambda v: None,
            {},
            "variables of trained ones, or neither, got MLP and NoneT",
        ),
    ],
)
def test_networks_that_do_not_fit(change, fields, message, networks, data, tmp_path):
    network, variables = networks
    network, variables = network.clone(**fields), change(variables)
    (tmp_path / "run").mkdir()
    refused(tmp_path / "run", message, data=data, network=network, variables=variables)


def test_there_is_no_training_to_look_at(networks, data, tmp_path):
    config = dataclasses.replace(TINY, trajectory_epochs=(0, 1))
    with pytest.raises(ValueError, match="^trajectory_epochs: expected none with net"):
        study_given(tmp_path / "run", networks, data, config)


@pytest.mark.parametrize(
    ("fields", "replay"),
    [
        (
            {"dataset": "mine"},
            "# Replay: from Python alone, as the data mine (digest d)",
        ),
        ({"dataset": "mine", "data_dir": "data"}, "# Replay: ioca run "),
    ],
)
def test_data_of_a_directory_are_replayed_from_there(fields, replay, tmp_path):
    RunFolder(tmp_path, plan.identify(ioca.StudyConfig(**fields)))._write_flags("d")
    assert (tmp_path / "flags.txt").read_text().startswith(replay)


def test_a_folder_from_before_a_flag_was_added_is_gone_on_with(tiny_run, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(tiny_run, older)
    flags = (older / "flags.txt").read_text().splitlines()
    assert "--direct_effects=False" in flags
    missing = ("# SHA-256", "--direct_effects", "--architecture", "--channels")
    kept = [line for line in flags if not line.startswith(missing)]
    (older / "flags.txt").write_text("\n".join(kept) + "\n")
    data = own_data()
    results = ioca.run_study(TINY, older, data=data, draw=False)
    assert results.identical(ioca.load_results(tiny_run))
    config = dataclasses.replace(TINY, direct_effects=True)
    with pytest.raises(ValueError, match="a run with direct_effects=None, not True"):
        ioca.run_study(config, older, data=data, draw=False)
