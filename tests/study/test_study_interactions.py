"""Neurons asked together in a study: every array recomputed from the networks."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import entropy_of, evaluate, forward, information_of

import ioca_jax as ioca
from ioca_jax.measures.groups import random_groups
from ioca_jax.measures.information import permuted_labels
from ioca_jax.measures.pairs import pair_null
from ioca_jax.networks.models import as_network
from ioca_jax.study import interactions

CONFIG = ioca.StudyConfig(
    seeds=(3, 0),
    hidden=(7, 5),
    activation="sigmoid",
    measures=("mutual_information",),
    clamps=("mean",),
    epochs=2,
    num_validation=500,
    random_orders=1,
    permutations=20,
    interactions=True,
    trajectory_epochs=(0, 2),
)
WIDTHS = {"network": range(12), "layer_1": range(7), "layer_2": range(7, 12)}
# Miller-Madow values of float32 counts of 500 examples.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "together"
    ioca.run_study(CONFIG, path, seeds_at_once=1, draw=False)
    return path


@pytest.fixture(scope="module")
def results(folder):
    return ioca.load_results(folder)


@pytest.fixture(scope="module")
def data():
    return ioca.load_dataset(**CONFIG.data_arguments())


@pytest.fixture(scope="module")
def networks(folder):
    """Of each seed, the model, its variables, and codes of the validation split."""
    model, variables = ioca.load_networks(folder)
    found = []
    x, _ = ioca.load_dataset(**CONFIG.data_arguments()).validation
    for index in range(2):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], variables)
        found.append((model, one, (forward(model, one, x)[1] > 0.5).astype(int)))
    return found


def test_pairs_are_measured_on_the_validation_split(results, networks, data):
    labels = data.validation.y
    for index, (_, _, codes) in enumerate(networks):
        here = results.isel(seed=index)
        for i, j in ((0, 3), (2, 9), (10, 8)):
            pair = here["pair_value"].sel(neuron=i, other=j)
            for suffix, corrected in (("", False), ("_miller_madow", True)):
                alone = [
                    information_of(codes[:, [one]], labels, corrected=corrected)
                    for one in (i, j)
                ]
                together = information_of(codes[:, [i, j]], labels, corrected=corrected)
                found = float(pair.sel(pair_measure=f"co_information{suffix}"))
                assert found == pytest.approx(sum(alone) - together, abs=TOLERANCE)
                if not corrected:
                    mmi = float(pair.sel(pair_measure="redundancy_mmi"))
                    assert mmi == pytest.approx(min(alone), abs=TOLERANCE)
        assert results.attrs["permutations_of_pairs"] == 20
        null = pair_null(
            codes,
            labels,
            num_codes=2,
            num_classes=10,
            key=jax.random.key(0),
            permutations=20,
        )["co_information"]
        np.testing.assert_allclose(here["pair_null"], null, atol=TOLERANCE)


def test_pairs_are_ablated_on_the_test_split(results, networks, data):
    for index, (model, variables, _) in enumerate(networks):
        clamp = results["activation_mean"].isel(seed=index).values

        def cost(neurons, model=model, variables=variables, clamp=clamp):
            keep = ~np.isin(np.arange(12), neurons)
            arguments = (model, variables, keep, clamp, *data.test)
            correct, loss, near_tie = evaluate(*arguments)
            return np.array([-np.sum(correct) / 1000, loss]), near_tie

        for i, j in ((1, 4), (8, 11)):
            parts = [cost(group) for group in ((i, j), (i,), (j,), ())]
            sign = (1, -1, -1, 1)
            wanted = np.dot(sign, [part for part, _ in parts])
            near_ties = sum(near for _, near in parts)
            pair = results.isel(seed=index, clamp=0).sel(neuron=i, other=j)
            found = float(pair["pair_effect_loss"])
            assert found == pytest.approx(wanted[1], abs=1e-5)
            found = float(pair["pair_effect_accuracy"])
            assert abs(found - wanted[0]) <= (near_ties + 0.5) / 1000
    effects = results["pair_effect_loss"].values
    assert np.isnan(effects[..., :7, 7:]).all()
    assert np.isnan(effects[..., range(12), range(12)]).all()


def test_information_along_orders_stands_beside_the_curves(results, networks, data):
    labels = data.validation.y
    sizes = {scope: len(neurons) for scope, neurons in WIDTHS.items()}
    for index, scope, ordering in ((0, "layer_1", 0), (1, "network", 2)):
        codes = networks[index][2]
        here = results.isel(seed=index, ordering=ordering).sel(scope=scope)
        order = here["order"].values[: sizes[scope]]
        seen = here["joint_information_miller_madow"]
        for k in range(4):
            for side, group in (
                ("ablated", order[:k]),
                ("left", order[len(order) - k :]),
            ):
                at = k if side == "ablated" else len(order) - k
                wanted = (
                    information_of(codes[:, group], labels, corrected=True) if k else 0
                )
                found = float(seen.sel(side=side, step=at))
                assert found == pytest.approx(wanted, abs=TOLERANCE)
        cells = here["joint_cells"]
        assert (cells.isel(step=slice(len(order) + 1, None)) == -1).all()
        assert (
            ((cells * 5 > 500) == np.isnan(seen)).isel(step=slice(len(order) + 1)).all()
        )
        # Of what the 20 permutations that are the same for all give three neurons.
        shuffled = permuted_labels(jnp.asarray(labels), jax.random.key(0), 20)
        null = [information_of(codes[:, order[:3]], row) for row in np.array(shuffled)]
        point = here.sel(side="ablated", step=3)
        found = float(point["joint_information_null"])
        assert found == pytest.approx(np.mean(null), abs=TOLERANCE)


def members_of(scope, size, seed):
    """Groups [M, size] that a study draws for a seed, the smaller within the larger."""
    key = jax.random.fold_in(jax.random.key(seed), 0)
    neurons = np.array(WIDTHS[scope], np.int32)
    return np.asarray(random_groups(neurons, 3, 100, key=key))[:, :size]


def test_groups_are_drawn_of_their_scope(results, networks, data):
    labels = data.validation.y
    assert results["group_size"].values.tolist() == [2, 3]  # 500 / (5 * 10) >= 8
    for scope, neurons in WIDTHS.items():
        assert set(np.unique(members_of(scope, 3, 0))) == set(neurons)
    for index, size in ((0, 2), (1, 3)):
        group = results.isel(seed=index, group=5).sel(scope="layer_2", group_size=size)
        members = members_of("layer_2", size, CONFIG.seeds[index])[5]
        codes = networks[index][2][:, members]
        alone = sum(
            information_of(codes[:, [one]], labels, corrected=True)
            for one in range(size)
        )
        wanted = alone / information_of(codes, labels, corrected=True)
        assert float(group["redundancy_index"]) == pytest.approx(wanted, rel=1e-3)
    group = results.isel(seed=0, group=4).sel(scope="network", group_size=3)
    codes = networks[0][2][:, members_of("network", 3, CONFIG.seeds[0])[4]]
    columns = [*codes.T, labels]
    parts = [entropy_of(column, corrected=True) for column in columns]
    parts += [
        -entropy_of(*columns[:out], *columns[out + 1 :], corrected=True)
        for out in range(len(columns))
    ]
    whole = (len(columns) - 2) * entropy_of(*columns, corrected=True)
    found = float(group["o_information_with_class"])
    assert found == pytest.approx(whole + sum(parts), abs=1e-4)
    of_three = np.isfinite(results["o_information_with_class"]).sum("group")
    assert (of_three.sel(group_size=3) == interactions._GROUPS_WITH_O_INFORMATION).all()
    assert (of_three.sel(group_size=2) == 0).all()


def test_trajectories_end_where_training_does(results, networks, data):
    last, first = (results.sel(trajectory_epoch=epoch) for epoch in (2, 0))
    np.testing.assert_array_equal(last["trajectory_score"], results["score"])
    np.testing.assert_allclose(
        last["trajectory_accuracy"],
        results["accuracy"].isel(clamp=0, scope=0, ordering=0, step=0),
        atol=1e-6,
    )
    assert (last["trajectory_accuracy"] > first["trajectory_accuracy"]).all()
    for index, (_, _, codes) in enumerate(networks):
        for layer, where in ((1, slice(0, 7)), (2, slice(7, 12))):
            here = last.isel(seed=index).sel(hidden_layer=layer)
            own = codes[:, where]
            found = float(here["layer_entropy"])
            assert found == pytest.approx(entropy_of(*own.T), abs=TOLERANCE)
            rows = np.column_stack([own, data.validation.y])
            cells = len(np.unique(rows, axis=0))
            found = float(here["layer_information"])
            if 5 * cells > 500:
                assert np.isnan(found)
            else:
                wanted = information_of(own, data.validation.y, corrected=True)
                assert found == pytest.approx(wanted, abs=TOLERANCE)
            assert 0 < here["layer_information_decoded"] < np.log2(10)
    codes, labels = networks[1][2][:, 7:], data.validation.y
    alone = [
        information_of(codes[:, [one]], labels, corrected=True) for one in range(5)
    ]
    of_three = [
        sum(alone[one] for one in group)
        / information_of(codes[:, group], labels, corrected=True)
        for group in itertools.combinations(range(5), 3)
    ]
    found = last["layer_redundancy_index"].isel(seed=1).sel(hidden_layer=2).values
    distances = np.abs(found[:, None] - of_three)
    assert distances.min(axis=1).max() < 1e-3  # each is of one of the ten groups
    assert len(set(distances.argmin(axis=1))) > 5


@pytest.mark.slow
def test_a_shard_gives_the_same(results, tmp_path):
    shard = ioca.Shard(1, 2)
    part = ioca.run_study(CONFIG, tmp_path, shard=shard, seeds_at_once=1, draw=False)
    assert part["seed"].values.tolist() == [0]
    for name in part.data_vars:
        np.testing.assert_array_equal(part[name], results[name].sel(seed=[0]), name)


def test_codes_are_the_same_in_chunks(networks, data, monkeypatch):
    """Feature maps of all examples at once may not fit in memory."""
    model, variables, codes = networks[0]
    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    edges = np.full((1, 12, 1), 0.5, np.float32)
    quantised = interactions.Quantised(
        as_network(model, data.test.x), stacked, edges, 2, len(data.validation.y)
    )
    for num_examples in (160, 150):  # whole chunks of 16, and a rest
        monkeypatch.setattr(interactions, "_MOST_FLOATS", 16 * (784 + 12))
        split = tuple(array[:num_examples] for array in data.validation)
        found = quantised.map(lambda codes, labels: codes, split)[0]
        np.testing.assert_array_equal(found, codes[:num_examples])


@pytest.mark.slow
def test_layers_too_narrow_for_a_group_or_a_pair_have_none(data):
    model = ioca.MLP(hidden=(1, 2), num_classes=10)
    variables = jax.vmap(lambda key: model.init(key, data.test.x[:1]))(
        jax.random.split(jax.random.key(0), 1)
    )
    network = as_network(model, data.test.x)
    networks = interactions.Quantised(
        network,
        variables,
        np.zeros((1, 3, 1), np.float32),
        2,
        len(data.validation.y),
    )
    orders = {"layer_1": np.zeros((1, 1, 1), np.int32)}
    found = interactions.measure_interactions(
        *(networks, data.validation, orders, (0,)),
        permutations=1,
        memory_gb=1.0,
    )
    assert np.isnan(found["redundancy_index"]).all()
    layers = interactions.measure_layers(networks, data.validation, (0,))
    assert np.isnan(layers["layer_redundancy_index"]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"permutations": 0},
            "permutations: expected at least 19 with interactions, whose chance level "
            "is a mean over them, got 0",
        ),
        (
            {"label_noise": 1.5},
            "label_noise: expected a share in [0, 1], got 1.5",
        ),
        (
            {"trajectory_epochs": (0, 3)},
            "trajectory_epochs: expected ascending numbers from 0 (before training) to "
            "2, the epochs of training, got 3",
        ),
        (
            {"trajectory_epochs": (2, 1)},
            "trajectory_epochs: expected ascending numbers from 0 (before training) to "
            "2, the epochs of training, got 2,1",
        ),
    ],
)
def test_unusable_configurations(fields, message):
    with pytest.raises(ValueError, match=fields.copy().popitem()[0]) as error:
        dataclasses.replace(CONFIG, **fields)
    assert str(error.value) == message


def test_too_many_codes_for_pairs_are_refused_before_training(tmp_path):
    config = dataclasses.replace(CONFIG, quantizer="uniform:8")
    with pytest.raises(ValueError, match="num_codes") as error:
        ioca.run_study(config, tmp_path / "run")
    assert str(error.value) == (
        "num_codes: expected at most 3 codes for pairs of neurons with 500 examples, 5 "
        "for each of B*B*C cells, got 8; quantize more coarsely, or take 3200 examples"
    )
    assert not (tmp_path / "run").exists()
