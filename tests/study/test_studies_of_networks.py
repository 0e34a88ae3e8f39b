"""A study of networks that are no MLP: traced functions, with images as examples."""

import dataclasses
import json
import sys
import types

import command_line
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_network
from synthetic import own_data

import ioca_jax as ioca
from ioca_jax.plots.save import drawable_figures
from ioca_jax.report.tables import tabulate

CONFIG = ioca.StudyConfig(
    seeds=(5, 2, 8), random_orders=1, permutations=0, quantizer="quantile:2",
    measures=("mutual_information",), clamps=("mean",), direct_effects=True,
)  # fmt: skip
SIZES = {"filters": 3, "blocks/0/dense": 4}


def apply(variables, x):
    """Convolution 3 x 3 with ReLU, a dense layer of tanh, three classes."""
    kernel = variables["filters"]["kernel"]
    x = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + variables["filters"]["bias"]).reshape(len(x), -1)
    (block,) = variables["blocks"]
    x = jnp.tanh(x @ block["dense"]["kernel"] + block["dense"]["bias"])
    return x @ variables["logits"]


def random_variables(seed):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    return {
        "filters": {"kernel": normal(3, 3, 1, 3), "bias": normal(3)},
        "blocks": [{"dense": {"kernel": normal(27, 4), "bias": normal(4)}}],
        "logits": normal(4, 3),
    }


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6, 6, 1)).astype(np.float32)
    y = np.asarray(apply(random_variables(0), x).argmax(axis=1)).astype(np.int32)
    return ioca.Dataset.from_arrays(
        *(x[:300], y[:300], x[300:], y[300:]), num_validation=240, name="images"
    )


@pytest.fixture(scope="module")
def networks(data):
    one = random_variables(0)
    variables = jax.tree.map(
        lambda a, b: np.stack([a, a + 0.1 * b, a - 0.1 * b]), one, random_variables(1)
    )
    network = ioca.trace_network(apply, one, data.train.x[:2])
    return {"network": network, "variables": variables}


@pytest.fixture(scope="module")
def folder(networks, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "run"
    ioca.run_study(CONFIG, path, data=data, **networks, draw=False, seeds_at_once=1)
    return path


@pytest.fixture(scope="module")
def results(folder):
    return ioca.load_results(folder)


def test_layers_are_named(results, networks, folder):
    assert [layer.name for layer in networks["network"].layers] == [*SIZES]
    assert results["scope"].values.tolist() == ["network", *SIZES]
    names = [name for name, size in SIZES.items() for _ in range(size)]
    assert results["layer_name"].values.tolist() == names
    assert results["layer"].values.tolist() == [1] * 3 + [2] * 4
    assert results.attrs["network"] == "filters 3, blocks/0/dense 4"
    assert json.loads(results.attrs["configuration"])["hidden"] == [3, 4]
    text = (folder / "summary.txt").read_text()
    assert text.startswith("images: 3 networks filters 3, blocks/0/dense 4, tra")


def test_curves_are_those_of_masks(results, networks, data):
    for index in range(3):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], networks["variables"])
        here = results.isel(seed=index)
        for scope, size in {"network": 7, **SIZES}.items():
            curve = here.sel(scope=scope).isel(clamp=0, ordering=1)
            masks = ioca.cumulative_masks(curve["order"].values[:size], 7)
            masks = masks[np.minimum(np.arange(8), size)]  # one shape
            expected = ioca.evaluate_masks(
                networks["network"], one, masks, here["activation_mean"].values,
                *data.test,
            )  # fmt: skip
            np.testing.assert_array_equal(
                curve["correct"].values[: size + 1], expected.correct[: size + 1]
            )
            np.testing.assert_allclose(
                curve["loss"].values[: size + 1],
                expected.loss[: size + 1],
                rtol=1e-5,
            )


def test_direct_effects_are_stored(results):
    """Nothing leads around the second layer: it alone acts directly."""
    first, second = slice(0, 3), slice(3, 7)
    intact = results["loss"].isel(clamp=0, scope=0, ordering=0, step=0).values
    direct, total = (
        results[name].isel(clamp=0).values for name in ("direct_loss", "single_loss")
    )
    np.testing.assert_allclose(direct[:, second], total[:, second], rtol=1e-5)
    np.testing.assert_allclose(
        direct[:, first], np.repeat(intact[:, None], 3, axis=1), rtol=1e-5
    )
    assert np.abs(total[:, first] - intact[:, None]).max() > 1e-3
    assert "self_repair" not in tabulate(results)


def activations_by_hand(variables, x):
    """NumPy: means of the feature maps [N, 3], and dense outputs [N, 4]."""
    padded = np.zeros((len(x), 7, 7))
    padded[:, :6, :6] = x[..., 0]
    maps = np.stack(
        [
            np.stack(
                [
                    np.einsum(
                        "nij,ijc->nc",
                        padded[:, row : row + 3, column : column + 3],
                        variables["filters"]["kernel"][:, :, 0],
                    )
                    for column in range(0, 6, 2)
                ],
                axis=1,
            )
            for row in range(0, 6, 2)
        ],
        axis=1,
    )
    maps = np.maximum(maps + variables["filters"]["bias"], 0)
    dense = variables["blocks"][0]["dense"]
    outputs = np.tanh(maps.reshape(len(x), -1) @ dense["kernel"] + dense["bias"])
    return np.concatenate([maps.mean(axis=(1, 2)), outputs], axis=1)


def test_scores_are_those_of_numpy(results, networks, data):
    one = jax.tree.map(lambda leaf: leaf[1], networks["variables"])
    x, y = data.validation
    outputs = activations_by_hand(one, x)
    here = results.isel(seed=1)
    np.testing.assert_allclose(here["activation_mean"], outputs.mean(axis=0), atol=1e-5)
    codes = outputs > np.quantile(outputs, 0.5, axis=0, method="lower") + 1e-6
    for neuron in range(7):
        table = np.zeros((2, 3))
        np.add.at(table, (codes[:, neuron].astype(int), y), 1)
        np.testing.assert_array_equal(here["joint_count"].values[neuron], table)
        p = table / table.sum()
        apart = p.sum(axis=1, keepdims=True) * p.sum(axis=0)
        bits = np.sum(p[p > 0] * np.log2(p[p > 0] / apart[p > 0]))
        score = here["score"].sel(measure="mutual_information").values[neuron]
        assert score == pytest.approx(bits, abs=1e-5)


@pytest.mark.slow
def test_interactions_variants_and_all_figures(networks, data, tmp_path):
    measures = ("entropy", "taylor_mean", "shapley_zero", "greedy_zero")
    config = dataclasses.replace(
        CONFIG, measures=measures, interactions=True, permutations=20, robustness=True
    )
    results = ioca.run_study(config, tmp_path, data=data, **networks)
    # No thresholds: the activation functions are not known.
    quantizers = ["quantile:8", "uniform:2", "uniform:8"]
    assert results["variant"].values.tolist()[:3] == quantizers
    assert np.isfinite(results["pair_value"]).all()
    effects = results["pair_effect_loss"].values
    assert np.isfinite(effects[..., 0, 1]).all()
    assert np.isnan(effects[..., 0, 3]).all()
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn == set(drawable_figures(results, tabulate(results)))
    assert {"ablation_curves", "pair_matrices", "joint_information_curves"} <= drawn


@pytest.mark.slow
def test_a_run_goes_on_and_shards_are_joined(folder, results, networks, data, tmp_path):
    def stop(event):
        if event["event"] == "chunk":
            raise InterruptedError

    def run(path, **more):
        arguments = {"data": data, **networks, "draw": False, "seeds_at_once": 1}
        return ioca.run_study(CONFIG, path, **arguments | more)

    with pytest.raises(InterruptedError):
        run(tmp_path / "run", listeners=[stop])
    run(tmp_path / "run")
    for index in range(2):
        run(tmp_path / f"{index}", shard=ioca.Shard(index, 2))
    ioca.merge_runs([tmp_path / "1", tmp_path / "0"], tmp_path / "all")
    of_time = {"created": "", "seconds": "", "source_revision": ""}
    for name in ("run", "all"):
        found = ioca.load_results(tmp_path / name).assign_attrs(of_time)
        assert found.identical(results.assign_attrs(of_time))
        flags = (tmp_path / name / "flags.txt").read_text()
        assert flags == (folder / "flags.txt").read_text()
    network, variables = ioca.load_networks(tmp_path / "all")
    assert network is None
    found = variables["blocks"]["0"]["dense"]["kernel"]
    wanted = networks["variables"]["blocks"][0]["dense"]["kernel"]
    np.testing.assert_array_equal(found, wanted)
    # Pooled otherwise, the same variables are other networks.
    one = jax.tree.map(lambda leaf: leaf[0], networks["variables"])
    other = ioca.trace_network(apply, one, data.train.x[:2], pool="max")
    with pytest.raises(ValueError, match="holds a run with variables_digest="):
        run(folder, network=other)


@pytest.mark.slow
def test_an_mlp_as_a_function_gives_its_own_results(tmp_path):
    data = own_data()
    some = [random_network(seed, hidden=(7, 5)) for seed in range(2)]
    model = some[0][0]
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *[v for _, v in some])
    config = dataclasses.replace(CONFIG, seeds=(0, 1), quantizer="threshold")
    traced = ioca.trace_network(
        lambda variables, x: model.apply(variables, x)[0],
        some[0][1],
        data.train.x[:2],
    )
    own, other = (
        ioca.run_study(
            config, tmp_path / name, data=data, network=network, variables=variables,
            draw=False,
        )
        for name, network in (("mlp", model), ("traced", traced))
    )  # fmt: skip
    assert other["scope"].values.tolist() == ["network", "dense_0", "dense_1"]
    for name in ("joint_count", "order", "correct", "single_correct"):
        np.testing.assert_array_equal(other[name], own[name], err_msg=name)
    for name in ("score", "loss", "single_loss", "activation_mean"):
        np.testing.assert_allclose(other[name], own[name], atol=2e-6, err_msg=name)


def test_a_cnn_is_trained_and_its_folder_loads(data, tmp_path):
    config = dataclasses.replace(
        CONFIG, architecture="cnn", channels=(2,), hidden=(3,), seeds=(4,), epochs=1
    )
    results = ioca.run_study(config, tmp_path / "cnn", data=data, draw=False)
    assert results["scope"].values.tolist() == ["network", "conv_1", "dense_1"]
    assert results.attrs["network"] == "6x6x1-c2-3-3 relu"
    network, variables = ioca.load_networks(tmp_path / "cnn")
    assert network is not None
    assert network == ioca.CNN((2,), (3,), 3, image_shape=(6, 6, 1))
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    curve = results.isel(seed=0, clamp=0, scope=0, ordering=0)
    expected = ioca.evaluate_masks(
        network, one, ioca.cumulative_masks(curve["order"].values, 5),
        curve["activation_mean"].values, *data.test,
    )  # fmt: skip
    np.testing.assert_array_equal(curve["correct"], expected.correct)
    # Given instead of trained, it is the same.
    again = ioca.run_study(
        dataclasses.replace(CONFIG, seeds=(4,)), tmp_path / "given", data=data,
        network=network, variables=variables, draw=False,
    )  # fmt: skip
    np.testing.assert_array_equal(again["correct"], results["correct"])
    assert ioca.load_networks(tmp_path / "given")[0] == network
    affine = dataclasses.replace(config, measures=("incoming_weight_norm",))
    with pytest.raises(
        ValueError, match="^weight norms: expected dense layers in a row"
    ):
        ioca.run_study(affine, tmp_path / "affine", data=data)
    assert not (tmp_path / "affine").exists()
    with pytest.raises(ValueError, match="^architecture: expected images .* shape .12"):
        ioca.run_study(config, tmp_path / "flat", data=own_data())


def with_nan(variables):
    logits = variables["logits"].copy()
    logits[0, 0, 0] = np.nan
    return variables | {"logits": logits}


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        (
            {"measures": ("entropy", "incoming_weight_norm")},
            lambda variables: variables,
            "weight norms: expected dense layers in a row, affine up to their "
            "activations, from the inputs to the logits, got filters, ",
        ),
        (
            {"trajectory_epochs": (0,)},
            lambda variables: variables,
            "trajectory_epochs: expected none with networks trained elsewhere, got 0",
        ),
        (
            {"seeds": (1, 2)},
            lambda variables: variables,
            "variables: expected leaves that begin with 2 networks, one for each of "
            "the configuration's seeds, got blocks/0/dense/bias of shape [3, 4]; give "
            "seeds= as many as there are networks",
        ),
        ({}, with_nan, "variables: expected finite numbers in logits, got 1 NaN or"),
        (
            {},
            lambda variables: {**variables, "logits": variables["logits"][:, :3]},
            "variables: expected",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    fields, change, message, networks, data, tmp_path
):
    config = dataclasses.replace(CONFIG, **fields)
    variables = change(networks["variables"])
    with pytest.raises(ValueError, match=".") as caught:
        ioca.run_study(
            config, tmp_path / "run", data=data,
            network=networks["network"], variables=variables,
        )  # fmt: skip
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(networks, tmp_path):
    with pytest.raises(ValueError, match="^network: expected 4 classes, as own has"):
        ioca.run_study(CONFIG, tmp_path, data=own_data(), **networks)
    x, y = np.zeros((60, 5, 5, 1), np.float32), np.arange(60) % 3
    data = ioca.Dataset.from_arrays(x, y, x, y)
    with pytest.raises(ValueError, match=r"^x: expected float32 \[N >= 1, 6, 6, 1\]"):
        ioca.run_study(CONFIG, tmp_path, data=data, **networks)


@pytest.fixture
def module(networks, data, monkeypatch):
    """A module of the user's, with a function that makes networks."""
    made = types.ModuleType("own_networks")
    made.with_data = lambda: (*networks.values(), data)  # pyright: ignore[reportAttributeAccessIssue]
    made.alone = lambda: networks["network"]  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "own_networks", made)
    return made


def test_the_command_line_takes_a_function(module, results, tmp_path):
    flags = [
        "--network=own_networks:with_data", "--seeds=5,2,8", "--random_orders=1",
        "--measures=mutual_information", "--clamps=mean", "--quantizer=quantile:2",
        "--permutations=0", "--seeds_at_once=1", "--nofigures", "--direct_effects",
    ]  # fmt: skip
    run = "experiments.run_study"
    done = command_line.run(run, *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    found = ioca.load_results(tmp_path / "run")
    for name, values in results.data_vars.items():
        np.testing.assert_array_equal(found[name], values, err_msg=str(name))
    replay = [f"--flagfile={tmp_path / 'run' / 'flags.txt'}", "--nofigures"]
    assert command_line.run(run, *replay, f"--workdir={tmp_path / 'run'}")[0] == 0
    for name, told in (
        ("own_networks:alone", "expected own_networks:alone to return (network, var"),
        ("own_networks:none", "expected package.module:function, got 'own_networks:n"),
        ("nowhere", "expected package.module:function, got 'nowhere'"),
    ):
        done = command_line.run(run, f"--network={name}", f"--workdir={tmp_path / 'x'}")
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: network: {told}")
    digest = "--variables_digest=" + "0" * 32
    done = command_line.run(run, *replay, digest, f"--workdir={tmp_path / 'x'}")
    assert "variables_digest: expected 0000" in done.stderr
