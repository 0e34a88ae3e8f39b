"""Studies at chosen points and with further metrics, beside the whole study."""

import dataclasses
import re

import numpy as np
import pytest
from synthetic import TINY

import ioca_jax as ioca
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.report.tables import tabulate
from ioca_jax.results.subsets import steps_of_scopes

CONFIG = dataclasses.replace(
    TINY, clamps=("zero", "resample"), permutations=19, epochs=3
)
RNG = np.random.default_rng(0)
DATA = ioca.Dataset(
    "own",
    *(
        ioca.Split(x, (x[:, 0] > x[:, 1]).astype(np.int32))
        for x in RNG.uniform(size=(3, 120, 6)).astype(np.float32)
    ),
    num_classes=2,
)


def study(folder, **fields):
    config = dataclasses.replace(CONFIG, **fields)
    return ioca.run_study(config, folder, data=DATA, draw=False, seeds_at_once=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return study(tmp_path_factory.mktemp("whole") / "run", metrics=("kl", "brier"))


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listed") / "run"
    return study(folder, points="0,2,5", metrics=("kl", "brier"))


@pytest.mark.parametrize("points", ["0,2,5", "auto"])
def test_chosen_points_are_those_of_the_whole_study(whole, listed, points, tmp_path):
    fields = {"points": points, "metrics": ("kl", "brier")}
    some = listed if points == "0,2,5" else study(tmp_path, **fields)
    assert some["metric"].values.tolist() == ["kl", "brier"]
    assert some["metric_unit"].values.tolist() == ["nat", "1"]
    steps = steps_of_scopes(some)
    for scope, own in steps.items():
        size = steps_of_scopes(whole)[scope][-1]
        if points == "0,2,5":
            assert own.tolist() == [*(step for step in (0, 2, 5) if step < size), size]
        assert (own[0], own[-1]) == (0, size)
        for name in ("correct", "loss", "accuracy", "metric_mean"):
            here, there = (
                run[name].sel(scope=scope, step=own) for run in (some, whole)
            )
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)
        others = np.setdiff1d(some["step"].values, own)
        assert np.isnan(some["loss"].sel(scope=scope, step=others)).all()
        assert (some["correct"].sel(scope=scope, step=others) == -1).all()
    for name in ("order", "score"):
        np.testing.assert_array_equal(some[name], whole[name])


@pytest.mark.slow
def test_joint_information_is_known_at_chosen_points(tmp_path):
    whole, some = (
        study(tmp_path / points, points=points, interactions=True)
        for points in ("all", "0,2,5")
    )
    for name in ("joint_information", "joint_cells"):
        expected = whole[name].sel(step=some["step"])
        np.testing.assert_array_equal(some[name], expected)
    assert {*tabulate(some)} == {*tabulate(whole)}


@pytest.mark.slow
def test_shards_whose_curves_bend_elsewhere_are_not_joined(tmp_path):
    folders = []
    for index in range(2):
        folders.append(tmp_path / str(index))
        fields = {"points": "auto", "clamps": ("zero",)}
        config = dataclasses.replace(CONFIG, hidden=(24, 3), **fields)
        shard = ioca.Shard(index, 2)
        ioca.run_study(config, folders[-1], data=DATA, draw=False, shard=shard)
    chosen = [ioca.load_results(folder).attrs["steps"] for folder in folders]
    assert chosen[0] != chosen[1]
    error = "expected parts of one choice of points, got some of another; give --points"
    with pytest.raises(ValueError, match=f"^{error} as a list$"):
        ioca.merge_runs(folders, tmp_path / "all")


def test_areas_are_those_of_the_points(whole, listed):
    steps = steps_of_scopes(listed)
    for (scope, ranked, direction), areas in areas_by_order(listed).items():
        own = steps[scope]
        chosen = (whole["ranked_by"] == ranked) & (whole["direction"] == direction)
        curves = whole["accuracy"].sel(scope=scope, step=own).isel(ordering=chosen)
        curves = curves.transpose("seed", "clamp", "ordering", "step").values
        expected = np.trapezoid(curves, own / own[-1], axis=-1).mean(axis=-1)
        np.testing.assert_allclose(areas, expected, rtol=1e-5)


def test_metrics_of_the_intact_network_are_known(whole):
    intact = whole["metric_mean"].isel(step=0)
    np.testing.assert_allclose(intact.sel(metric="kl"), 0, atol=1e-6)
    assert (intact.sel(metric="brier") > 0).all()
    # The Brier score of random guessing among C classes is 1 - 1 / C.
    assert (intact.sel(metric="brier") < 2).all()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (
            {"points": "1"},
            "points: expected all, auto, a number of points from 2, or ascending steps "
            "such as 0,10,100, got '1'",
        ),
        (
            {"points": "5,2"},
            "points: expected all, auto, a number of points from 2, or ascending steps "
            "such as 0,10,100, got '5,2'",
        ),
        (
            {"points": [0, 3.7, 10]},
            "points: expected all, auto, a number of points from 2, or ascending steps "
            "such as 0,10,100, got [0, 3.7, 10]",
        ),
        (
            {"metrics": ("brierr",)},
            "metrics: expected names out of accuracy, loss, kl, agreement, margin, "
            "brier, a function (logits, y, intact_logits) -> [n], or "
            "package.module:function, got 'brierr'; did you mean brier?",
        ),
    ],
)
def test_other_points_and_metrics_are_refused(fields, error):
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        dataclasses.replace(TINY, **fields)
