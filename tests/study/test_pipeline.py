"""A whole study on real digits: the file's schema, and its figures recomputed."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import compilations, random_examples, random_network
from reference import evaluate, forward
from sklearn.metrics import mutual_info_score

import ioca_jax as ioca
from ioca_jax.ablation.greedy import greedy_orders
from ioca_jax.ablation.singles import single_ablations
from ioca_jax.measures import scores
from ioca_jax.networks.training import HISTORY
from ioca_jax.study import pipeline, plan
from ioca_jax.study.config import UNITS

CONFIG = ioca.StudyConfig(
    seeds=(3, 0),
    hidden=(12, 9),
    activation="sigmoid",
    epochs=2,
    random_orders=2,
    num_validation=500,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a study, and the programs that it compiled."""
    path = tmp_path_factory.mktemp("runs") / "small"
    with compilations() as programs:
        ioca.run_study(CONFIG, path)
    return path, programs


@pytest.fixture(scope="module")
def folder(run):
    return run[0]


@pytest.fixture(scope="module")
def results(folder):
    return ioca.load_results(folder)


@pytest.fixture(scope="module")
def networks(folder):
    return ioca.load_networks(folder)


@pytest.fixture(scope="module")
def data():
    return ioca.load_dataset("mnist5k", num_validation=500)


def one_network(networks, index):
    model, variables = networks
    return model, jax.tree.map(lambda leaf: leaf[index], variables)


def test_schema(results, mnist5k):
    assert dict(results.sizes) == {
        "seed": 2,
        "measure": 3,
        "neuron": 21,
        "code": 2,
        "class": 10,
        "scope": 3,
        "ordering": 8,
        "position": 21,
        "clamp": 2,
        "step": 22,
        "epoch": 2,
    }
    curve = ("seed", "clamp", "scope", "ordering", "step")
    dims = {
        "score": ("seed", "measure", "neuron"),
        "p_value": ("seed", "measure", "neuron"),
        "p_value_family": ("seed", "measure", "neuron"),
        "selective_class": ("seed", "neuron"),
        "single_correct": ("seed", "clamp", "neuron", "class"),
        "single_loss": ("seed", "clamp", "neuron"),
        "activation_mean": ("seed", "neuron"),
        "joint_count": ("seed", "neuron", "code", "class"),
        "order": ("seed", "scope", "ordering", "position"),
        "correct": (*curve, "class"),
        "loss": curve,
        "accuracy": curve,
        "diverged": ("seed",),
        "train_loss": ("seed", "epoch"),
        "train_accuracy": ("seed", "epoch"),
        "validation_loss": ("seed", "epoch"),
        "validation_accuracy": ("seed", "epoch"),
    }
    assert {name: variable.dims for name, variable in results.items()} == dims
    for name, variable in results.items():
        assert variable.attrs["units"], name
    assert results["score"].attrs["units"] == "bit"
    labels = {name: results[name].values.tolist() for name in results.coords}
    assert labels["seed"] == [3, 0]
    assert labels["measure"] == ["entropy", "mutual_information", "kl_selectivity"]
    assert labels["unit"] == ["bit"] * 3
    assert labels["class_size"] == np.bincount(mnist5k.test.y).tolist()
    assert labels["scope"] == ["network", "layer_1", "layer_2"]
    assert labels["clamp"] == ["zero", "mean"]
    assert labels["layer"] == [1] * 12 + [2] * 9
    assert labels["layer_name"] == ["layer_1"] * 12 + ["layer_2"] * 9
    assert labels["index_in_layer"] == [*range(12), *range(9)]
    assert labels["step"] == list(range(22))
    assert labels["ordering"][:3] == [
        "entropy_ascending",
        "entropy_descending",
        "mutual_information_ascending",
    ]
    assert labels["ranked_by"][-2:] == ["random", "random"]
    assert labels["direction"][-2:] == ["random", "random"]
    assert labels["draw"] == [0] * 6 + [0, 1]


def test_attributes_say_what_made_the_file(results):
    configuration = json.loads(results.attrs["configuration"])
    assert configuration == json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert set(json.loads(results.attrs["versions"])) >= {"jax", "flax", "optax"}
    seconds = json.loads(results.attrs["seconds"])
    moments = [seconds[n] for n in ("loaded", "trained", "first_curves", "computed")]
    assert 0 < seconds["compiling"] < moments[-1]
    assert moments == sorted(moments)
    assert results.attrs["quantizer"] == "threshold:0.5"
    assert results.attrs["network"] == "784-12-9-10 sigmoid"
    for name in ("source_revision", "device", "precision", "units", "created"):
        assert results.attrs[name], name


def test_scores_and_means_come_from_the_validation_split(results, networks, data):
    for index in range(2):
        model, variables = one_network(networks, index)
        _, activations = forward(model, variables, data.validation.x)
        here = results.isel(seed=index)
        # a mean of 500 float32 outputs in (0, 1)
        np.testing.assert_allclose(
            here["activation_mean"], activations.mean(axis=0), atol=1e-6
        )
        for neuron in range(21):
            codes = activations[:, neuron] > 0.5
            expected = mutual_info_score(codes, data.validation.y) / np.log(2)
            score = here["score"].sel(measure="mutual_information", neuron=neuron)
            np.testing.assert_allclose(score, expected, atol=1e-5)
            for code in range(2):
                np.testing.assert_array_equal(
                    here["joint_count"].isel(neuron=neuron, code=code),
                    np.bincount(data.validation.y[codes == code], minlength=10),
                )


def test_orders_sort_the_scores(results):
    assert (results["order"].sel(scope="layer_1")[..., 12:] == -1).all()
    neurons = {"network": range(21), "layer_1": range(12), "layer_2": range(12, 21)}
    for scope, members in neurons.items():
        for ordering in results["ordering"].values:
            orders = results["order"].sel(scope=scope, ordering=ordering)
            ranked = str(orders["ranked_by"].values)
            for index in range(2):
                order = orders.values[index][: len(members)]
                np.testing.assert_array_equal(np.sort(order), members)
                if ranked != "random":
                    scores = results["score"].sel(measure=ranked).values[index][order]
                    steps = np.diff(scores)
                    rising = str(orders["direction"].values) == "ascending"
                    assert (steps >= 0 if rising else steps <= 0).all()
    drawn = results["order"].sel(scope="network", ordering=["random_0", "random_1"])
    assert len(np.unique(drawn.values.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize("clamp", ["zero", "mean"])
@pytest.mark.parametrize("scope", ["network", "layer_1", "layer_2"])
def test_curves_recomputed(results, networks, data, clamp, scope):
    model, variables = one_network(networks, 1)
    here = results.isel(seed=1).sel(clamp=clamp, scope=scope)
    values = here["activation_mean"].values * (clamp == "mean")
    for ordering in ("mutual_information_descending", "random_1"):
        curve = here.sel(ordering=ordering)
        order = curve["order"].values[curve["order"].values >= 0]
        for k in (0, 1, len(order) // 2, len(order)):
            keep = ~np.isin(np.arange(21), order[:k])
            correct, loss, near_tie = evaluate(
                model, variables, keep, values, data.test.x, data.test.y
            )
            point = curve.sel(step=k)
            assert np.abs(point["correct"].values - correct).sum() <= 2 * near_tie
            # float32 logits and a mean of 1,000, against float64
            np.testing.assert_allclose(point["loss"], loss, rtol=1e-4)
            np.testing.assert_allclose(
                point["accuracy"], point["correct"].sum() / 1000, rtol=1e-6
            )
        assert np.isnan(curve["accuracy"].values[len(order) + 1 :]).all()
        assert (curve["correct"].values[len(order) + 1 :] == -1).all()


def test_the_folder_is_whole(folder):
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {
        *("study.nc", "flags.txt", "networks"),
        *("figures", "tables", "summary.txt", "report.html", "events.jsonl"),
    }
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert {f"ablation_curves.{kind}" for kind in ("png", "pdf")} <= figures
    assert len(figures) == 18
    # Two networks: too few for tables of tests.
    assert [path.name for path in (folder / "tables").iterdir()] == ["neurons.csv"]


def test_summary_says_the_numbers(folder, results):
    text = (folder / "summary.txt").read_text()
    assert text == ioca.summarize(results) + "\n"
    error = 100 * (1 - results["accuracy"].isel(clamp=0, scope=0, ordering=0, step=0))
    assert f"Test error: {float(error.mean()):.2f} ± " in text
    scores = results["score"].sel(measure="entropy", neuron=results["layer"] == 2)
    assert f"entropy             bit   {float(scores.min()):.3f}" in text
    curves = results["accuracy"].sel(scope="layer_2", clamp="mean").isel(step=range(10))
    drawn = curves.isel(ordering=[6, 7])
    areas = (drawn[..., 1:].values + drawn[..., :-1].values).mean(axis=(1, 2)) / 2
    _, few, *sections = text.rstrip().split("\n\n")
    (of_areas,) = (one for one in sections if one.startswith("Area under the accur"))
    assert of_areas.endswith(f"{areas.mean():.3f} ± {areas.std(ddof=1):.3f}")
    assert few == (
        "2 networks: no test over networks can reach 5 %; 6 can, 4 more are needed."
    )


def test_a_finished_folder_is_reported_not_computed_again(folder, results):
    before = (folder / "study.nc").stat().st_mtime_ns
    again = ioca.run_study(CONFIG, folder, draw=False)
    assert again.identical(results)
    assert (folder / "study.nc").stat().st_mtime_ns == before


def test_another_configuration_is_refused_and_what_stood_there_stands(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    other = dataclasses.replace(CONFIG, l2=0.5)
    with pytest.raises(
        ValueError,
        match="^workdir: expected a new folder or one of this configuration, got "
        f"{folder}, which holds a run with l2=1e-05, not 0.5; choose another workdir$",
    ):
        ioca.run_study(other, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_a_seed_is_the_same_alone_and_with_other_measures(results, tmp_path):
    config = dataclasses.replace(
        CONFIG, seeds=(0,), measures=("kl_selectivity",), clamps=("mean",)
    )
    alone = ioca.run_study(config, tmp_path / "alone", draw=False).isel(seed=0)
    beside = results.sel(seed=0, clamp=["mean"], ordering=alone["ordering"])
    np.testing.assert_array_equal(alone["order"], beside["order"])
    np.testing.assert_array_equal(alone["correct"], beside["correct"])


def test_diverged_networks_leave_no_numbers(tmp_path):
    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=1e30)
    results = ioca.run_study(config, tmp_path / "diverged", draw=False)
    assert results["diverged"].values.tolist() == [True, True]
    lines = (tmp_path / "diverged" / "events.jsonl").read_text().splitlines()
    (chunk,) = [line for line in map(json.loads, lines) if line["event"] == "chunk"]
    assert chunk["test_error"] is None
    assert "NaN" not in "".join(lines)
    for name in ("score", "p_value", "activation_mean", "loss", "single_loss"):
        assert np.isnan(results[name]).all(), name
    assert np.isnan(results["accuracy"]).all()
    for name in ("correct", "order", "joint_count", "selective_class"):
        assert (results[name] == -1).all(), name
    assert "Diverged in training, left out below: 2 of 2 networks (seeds 3, 0)" in (
        ioca.summarize(results)
    )


def test_single_ablations_and_what_chance_explains(results, networks, data):
    model, variables = one_network(networks, 1)
    here = results.isel(seed=1)
    _, activations = forward(model, variables, data.validation.x)
    for clamp, neuron in (("zero", 0), ("mean", 15)):
        values = here["activation_mean"].values * (clamp == "mean")
        keep = np.arange(21) != neuron
        correct, loss, near_tie = evaluate(
            model, variables, keep, values, data.test.x, data.test.y
        )
        alone = here.sel(clamp=clamp, neuron=neuron)
        np.testing.assert_allclose(alone["single_loss"], loss, rtol=1e-4)
        missed = np.abs(alone["single_correct"].values - correct).sum()
        assert missed <= 2 * near_tie
    p_values = here["p_value"].sel(measure="mutual_information").values
    assert np.isnan(here["p_value"].sel(measure="entropy")).all()
    assert (p_values >= np.float32(1 / 201)).all()
    assert (p_values <= here["p_value_family"].sel(measure="mutual_information")).all()
    table = here["joint_count"].values
    of_class = table.sum(axis=1)
    assert (here["selective_class"] >= -1).all()
    for neuron in range(21):
        codes = activations[:, neuron] > 0.5
        if codes.all() or not codes.any():
            assert here["selective_class"].values[neuron] == -1
            continue
        divergences = scipy.stats.entropy(
            table[neuron] / of_class[neuron], table[neuron].sum(1)[:, None] / 500
        )
        assert here["selective_class"].values[neuron] == divergences.argmax()


@pytest.mark.slow
@pytest.mark.parametrize("clamp", ["mean", "zero"])
def test_every_measure_flows_through_a_study(clamp, data, monkeypatch):
    """Scores of all kinds are stored, ordered by, and the same as computed alone."""
    other = {"mean": "_zero", "zero": "_mean"}[clamp]
    kept = (n for n in UNITS if n == "activation_mean" or not n.endswith(other))
    measures = tuple(kept)
    config = dataclasses.replace(
        CONFIG,
        measures=measures,
        clamps=(clamp,),
        seeds=(0,),
        epochs=1,
        robustness=True,
        activation="relu",
    )
    model = config.model(num_classes=10)
    several = plan.variants(model, config.quantizer, len(data.validation.y))
    assert len(several) == 10
    few = {name: several[name] for name in ("uniform:2", "first half")}
    monkeypatch.setattr(plan, "variants", lambda *_: few)
    trained = ioca.train(model, data, config.train_config(), config.seeds)
    study = plan.make_plan(config, data)
    model, results = study.network, pipeline.study_networks(study, trained)
    assert results["unit"].values.tolist() == [UNITS[name] for name in measures]
    assert results["score"].attrs["units"] == "as the coordinate unit says"
    assert np.isfinite(results["score"]).all()
    networks = trained.variables
    variables = jax.tree.map(lambda leaf: leaf[0], networks)
    x, y = data.validation
    score = results["score"].isel(seed=0)
    means = results["activation_mean"].values
    values = means * (clamp == "mean")
    expected = {
        "class_selectivity": scores.class_selectivity(model, variables, x, y),
        "activation_mean": means[0],
        "activation_variance": scores.activation_variance(
            *(model, variables, means[0], x, y)
        ),
        "outgoing_weight_norm": scores.outgoing_weight_norm(model, variables),
        f"taylor_{clamp}": scores.taylor(model, variables, values[0], x, y),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(
            score.sel(measure=name), wanted, rtol=1e-4, atol=1e-6, err_msg=name
        )
    single = single_ablations(model, networks, values, x, y)
    np.testing.assert_allclose(
        score.sel(measure=f"ablation_loss_{clamp}"),
        single.alone.loss[0] - single.intact.loss[0],
        atol=2e-6,
    )
    # Of a game: shares of what ablating the layer costs.
    for scope, where in (("layer_1", slice(0, 12)), ("layer_2", slice(12, 21))):
        drawn = results["order"].isel(seed=0).sel(scope=scope).values[-2:]
        curve = ioca.ablation_curve(
            model, variables, drawn[:, : where.stop - where.start], values[0], x, y
        )
        total = curve.accuracy[0, 0] - curve.accuracy[0, -1]
        found = results["score"].isel(seed=0).sel(measure=f"shapley_{clamp}")
        np.testing.assert_allclose(found[where].sum(), total, atol=1e-5)
        places = results["score"].isel(seed=0).sel(measure=f"greedy_{clamp}")[where]
        np.testing.assert_array_equal(np.sort(places), np.arange(len(places)))
        ordered = (
            results["order"]
            .isel(seed=0)
            .sel(scope=scope, ordering=f"greedy_{clamp}_ascending")
        )
        order = ordered.values[ordered.values >= 0]
        whole = results["score"].isel(seed=0).sel(measure=f"greedy_{clamp}")
        assert (np.diff(whole.values[order]) == 1).all()
    # Of the whole network, the game among all neurons.
    keys = jax.random.fold_in(jax.random.key(trained.seeds[0]), 0)[None]
    order = results["order"].isel(seed=0).sel(scope="network")
    np.testing.assert_array_equal(
        order.sel(ordering=f"greedy_{clamp}_ascending"),
        greedy_orders(model, networks, values, x, y, np.arange(21), keys=keys)[0],
    )
    # Measured on the first half, by the run's own quantiser.
    half = ioca.measure_neurons(model, variables, x[:250], y[:250])
    variant = results["variant_score"].isel(seed=0).sel(variant="first half")
    for name in ("entropy", "mutual_information"):
        np.testing.assert_allclose(
            variant.sel(measure=name), half.scores[name], atol=1e-5
        )
    coarse = ioca.measure_neurons(model, variables, x, y, quantizer="uniform:2")
    variant = results["variant_score"].isel(seed=0).sel(variant="uniform:2")
    np.testing.assert_allclose(
        variant.sel(measure="entropy"), coarse.scores["entropy"], atol=1e-5
    )
    assert np.isnan(variant.sel(measure=f"taylor_{clamp}")).all()


def test_a_single_class_is_refused(tmp_path):
    x = np.random.default_rng(0).uniform(size=(60, 5)).astype(np.float32)
    np.savez(
        tmp_path / "one.npz",
        x_train=x,
        x_test=x,
        y_train=np.arange(60) // 59,  # the only 1 is not among the ten of validation
        y_test=np.zeros(60, np.int32),
    )
    config = ioca.StudyConfig(
        dataset=str(tmp_path / "one.npz"), num_validation=10, hidden=(3,), seeds=(0,),
        epochs=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="two classes or more, got only class 0"):
        ioca.run_study(config, tmp_path / "run")


def test_counts_are_of_the_outputs_that_give_the_edges(monkeypatch):
    # Outputs of a saturated tanh coincide, and an edge lies on them. Another program,
    # here that of a chunk, may round all of them to the other side.
    model, variables = random_network(activation="tanh")
    variables = jax.tree.map(lambda leaf: 30 * leaf, variables)
    x, y = random_examples(num_examples=1100)
    apply = ioca.MLP.apply

    def rounded(self, variables, x):
        logits, outputs = apply(self, variables, x)
        return logits, outputs if len(x) == 1100 else jnp.nextafter(outputs, jnp.inf)

    monkeypatch.setattr(ioca.MLP, "apply", rounded)
    found = ioca.measure_neurons(model, variables, x, y, quantizer="quantile:4")
    # An edge is an output of a known rank: none below it, nor the output, is above it.
    not_above = np.asarray(found.joint_counts).sum(axis=2).cumsum(axis=1)[:, :-1]
    assert (not_above > np.arange(1, 4) * 1099 // 4).all()


def test_measuring_refuses_labels_that_are_not_classes(unchecked_shapes):
    model, variables = random_network()
    x, y = random_examples()
    with pytest.raises(ValueError, match=r"^y: expected values in \[0, 3\], got 4; "):
        ioca.measure_neurons(model, variables, x, y + 1)


@pytest.mark.parametrize("quantizer", ["threshold:0.2", "uniform:5", "quantile:4"])
def test_streamed_measuring_is_that_of_all_activations(data, networks, quantizer):
    model, variables = one_network(networks, 0)
    # 1,400 examples: more than one chunk, and not a whole number of them.
    x, y = data.train.x[:1400], data.train.y[:1400]
    streamed = ioca.measure_neurons(model, variables, x, y, quantizer=quantizer)
    _, activations = model.apply(variables, x)
    edges = ioca.quantizer_edges(activations, quantizer)
    np.testing.assert_allclose(streamed.edges, edges, rtol=1e-6, atol=1e-7)
    codes = ioca.encode(activations, streamed.edges)
    counts = ioca.joint_counts(
        codes, y, num_codes=streamed.joint_counts.shape[1], num_classes=10
    )
    assert streamed.joint_counts.sum() == 21 * 1400
    # An output within rounding of an edge may fall on either side.
    assert np.abs(np.asarray(counts - streamed.joint_counts)).sum() <= 4
    np.testing.assert_allclose(
        streamed.activation_mean, activations.mean(axis=0), rtol=1e-5
    )


def test_one_compilation_serves_all_orderings_and_seeds(run, networks, data, compiled):
    """One program for the curves of a scope, whatever is ordered how in it."""
    _, programs = run
    # One for each scope's curves, and one for each layer's single ablations.
    assert programs.count("jit(_apply)") == 3 + 2
    _, variables = networks
    study = plan.make_plan(CONFIG, data)
    history = {name: jnp.zeros((2, CONFIG.epochs)) for name in HISTORY}
    trained = ioca.Trained(variables, np.array([3, 0]), history)
    pipeline.study_networks(study, trained)
    compiled.clear()
    other = jax.tree.map(lambda leaf: leaf[::-1], variables)
    trained = ioca.Trained(other, np.array([8, 5]), history)
    pipeline.study_networks(study, trained)
    assert not compiled


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"measures": ("entropy", "variance")},
            "measures: expected one or more of entropy, mutual_information, "
            "kl_selectivity, .*, mrmr, jmi, .*each once, got 'entropy,variance'",
        ),
        (
            {"clamps": ("median",)},
            "clamps: expected one or more .*got 'median'; did you mean mean\\?",
        ),
        (
            {"clamps": ("zero", "zero")},
            "clamps: expected one or more of zero, .*, each once, got 'zero,zero'",
        ),
        (
            {"random_orders": -1},
            "random_orders: expected a number not negative, got -1",
        ),
        (
            {"permutations": -1},
            "permutations: expected a number not negative, got -1",
        ),
        (
            {"random_orders": 0, "measures": ("shapley_zero",)},
            "random_orders: expected at least 1, from which Shapley values are "
            "estimated, got 0; give more, or measures without them",
        ),
        (
            {"measures": "entropy"},
            r"measures: expected a sequence, got 'entropy'; a sequence of one value is "
            r"\('entropy',\)",
        ),
        (
            {"measures": (["entropy"],)},
            r"measures: .*, each once, got .\['entropy'\].; did you mean entropy\?",
        ),
        ({"clamps": 0}, r"clamps: expected a sequence, got 0; .* is \(0,\)"),
        ({"seeds": 5}, r"seeds: expected a sequence, got 5; .* is \(5,\)"),
        ({"hidden": 8}, r"hidden: expected a sequence, got 8; .* is \(8,\)"),
        (
            {"trajectory_epochs": 3},
            r"trajectory_epochs: expected a sequence, got 3; .* is \(3,\)",
        ),
        ({"epochs": 1.5}, r"epochs: expected an integer, got 1.5"),
        ({"permutations": 2.5}, "permutations: expected an integer, got 2.5"),
        ({"random_orders": True}, "random_orders: expected an integer, got True"),
        ({"num_test": 2.5}, "num_test: expected an integer, got 2.5"),
        (
            {"trajectory_epochs": (1.5,)},
            "trajectory_epochs: expected an integer, got 1.5",
        ),
        ({"split_seed": -1}, "split_seed: expected a number not negative, got -1"),
        ({"interactions": "no"}, "interactions: expected True or False, got 'no'"),
        ({"robustness": "False"}, "robustness: expected True or False, got 'False'"),
        ({"direct_effects": 1}, "direct_effects: expected True or False, got 1"),
        ({"batch_norm": "no"}, "batch_norm: expected True or False, got 'no'"),
        ({"memory_gb": "4"}, "memory_gb: expected a finite number, got '4'"),
        (
            {"learning_rate": "1e-3"},
            "learning_rate: expected a finite number, got '1e-3'",
        ),
        ({"label_noise": "0"}, "label_noise: expected a finite number, got '0'"),
        ({"l2": np.nan}, "l2: expected a finite number, got nan"),
        ({"memory_gb": 0.0}, "memory_gb: expected a positive number, got 0.0"),
        ({"seeds": ()}, r"seeds: expected one or more integers, got \[\]"),
        ({"quantizer": "kmeans:3"}, "quantizer: expected .* got 'kmeans:3'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_unusable_configurations(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ioca.StudyConfig(**fields)


def test_only_built_in_shapley_values_need_random_orders():
    own = ("package.module:shapley_of_mine",)
    assert ioca.StudyConfig(measures=own, random_orders=0).measures == own
    with pytest.raises(ValueError, match="^random_orders: expected at least 1, from"):
        ioca.StudyConfig(measures=("shapley_zero",), random_orders=0)


@pytest.mark.usefixtures("unchecked_shapes")
def test_fields_of_numpy_can_be_written_as_json():
    widths: Any = np.array([3, 4])
    config = ioca.StudyConfig(hidden=widths)
    assert json.loads(json.dumps(dataclasses.asdict(config)))["hidden"] == [3, 4]


@pytest.mark.usefixtures("unchecked_shapes")
def test_whole_numbers_of_a_float_field_are_floats():
    whole, floats = (
        ioca.StudyConfig(l2=zero, dropout_rate=zero, label_noise=zero, memory_gb=four)
        for zero, four in ((0, 4), (0.0, 4.0))
    )
    assert whole.flags() == floats.flags()
    assert "--l2=0.0" in whole.flags()


def test_a_score_by_ablation_is_refused_in_measuring():
    model = ioca.MLP(hidden=(3,), num_classes=2)
    with pytest.raises(ValueError, match="^measures: expected names out of") as error:
        ioca.measure_neurons(model, {}, *random_examples(), measures=["greedy_zero"])
    assert str(error.value).endswith(
        "taylor_mean, package.module:function, or a Score, got 'greedy_zero'; "
        "run_study computes scores by ablation"
    )


def test_folders_that_cannot_be(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(
        NotADirectoryError,
        match=f"^workdir: expected a directory, got {file}, which is a file; move it, "
        "or choose another workdir$",
    ):
        ioca.run_study(CONFIG, file)
    with pytest.raises(
        OSError, match=f"^workdir: expected a folder that can be written, got {file}/x"
    ):
        ioca.run_study(CONFIG, file / "x")
    with pytest.raises(
        FileNotFoundError,
        match="^expected the results of a finished run at .*study.nc, found none$",
    ):
        ioca.load_results(tmp_path)
    (tmp_path / "study.nc").write_bytes(b"not a results file")
    with pytest.raises(ValueError, match="expected a results file, got one that"):
        ioca.load_results(tmp_path)


def test_networks_are_not_measured_without_their_batch_norm():
    model, _ = random_network()
    _, variables = random_network(batch_norm=True)
    with pytest.raises(
        ValueError, match=r"^variables: .* batch_stats/norm_0/mean no such variable"
    ):
        ioca.measure_neurons(model, variables, *random_examples())
