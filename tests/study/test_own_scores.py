"""Scores of the user's own, through a whole study, against NumPy."""

import dataclasses
import re
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from reference import evaluate, forward
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.cli import command
from ioca_jax.plots import measure_distributions

CONFIG = dataclasses.replace(
    TINY,
    measures=("entropy", "own_scores:peak", "own_scores:spread"),
    random_orders=1,
    epochs=30,
    learning_rate=0.03,
)
GIVEN = own_data()
DATA = ioca.Dataset(
    "own",
    *(
        ioca.Split(x, x[:, :4].argmax(axis=1).astype(np.int32))
        for x in (GIVEN.train.x, GIVEN.validation.x, GIVEN.test.x)
    ),
    num_classes=4,
)
NAMES = ["entropy", "peak", "spread_of_codes"]


def spread(measured):
    """How many more examples have a neuron's second code than its first, and labels."""
    codes = measured.codes.sum(axis=0)
    return 2 * codes - len(measured.y) - measured.joint_counts[:, 0, 0]


@pytest.fixture(scope="module", autouse=True)
def module():
    made = types.ModuleType("own_scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "own_scores", made)
        vars(made).update(
            peak=lambda measured: measured.activations.max(axis=0),
            spread=ioca.Score("spread_of_codes", "examples", spread),
            matrix=lambda measured: measured.activations,
            numpy=lambda measured: np.asarray(measured.activation_mean),
            broken=lambda measured: measured.weights,
            undefined=lambda measured: jnp.log(measured.activation_mean - 9),
            number=3,
            entropy=lambda measured: measured.activation_mean,
            again=ioca.Score("peak", "1", lambda measured: measured.activation_mean),
            greedy_mean=lambda measured: measured.activation_mean,
        )
        yield made


@pytest.fixture(scope="module")
def run(tmp_path_factory, module):
    folder = tmp_path_factory.mktemp("own_scores") / "run"
    results = ioca.run_study(CONFIG, folder, data=DATA, draw=False)
    return folder, results


def test_scores_of_the_users_own_are_stored_and_ordered_by(run):
    folder, results = run
    assert results["measure"].values.tolist() == NAMES
    assert results["unit"].values.tolist() == ["bit", "1", "examples"]
    model, networks = ioca.load_networks(folder)
    for place in range(3):
        variables = ioca.Trained(networks, np.array(CONFIG.seeds)).variables_of(place)
        _, outputs = forward(model, variables, DATA.validation.x)
        on = outputs > 0
        here = results.isel(seed=place)
        found = here["score"].sel(measure="peak").values
        np.testing.assert_allclose(found, outputs.max(axis=0), rtol=1e-5)
        spreads = 2 * on.sum(axis=0) - 40 - (~on)[DATA.validation.y == 0].sum(axis=0)
        np.testing.assert_array_equal(
            here["score"].sel(measure="spread_of_codes"), spreads
        )
        curves = here.sel(scope="network", clamp="mean")
        curve = curves.sel(ordering="peak_descending")
        order = curve["order"].values
        assert (np.diff(outputs.max(axis=0)[order]) <= 1e-6).all()
        keep = np.ones(7, bool)
        keep[order[:3]] = False
        clamp = outputs.mean(axis=0)
        correct, loss, ties = evaluate(model, variables, keep, clamp, *DATA.test)
        assert np.abs(curve["correct"].values[3] - correct).sum() <= 2 * ties
        np.testing.assert_allclose(curve["loss"].values[3], loss, rtol=1e-4)


def test_tables_the_page_and_the_summary_name_them(run):
    folder, results = run
    effects = ioca.load_table(folder / "tables" / "effects.csv")
    assert set(effects["measure"]) == set(NAMES)
    text, page = ((folder / n).read_text() for n in ("summary.txt", "report.html"))
    values = results["score"].sel(
        measure="spread_of_codes", neuron=results["layer"] == 2
    )
    assert f"spread_of_codes examples {float(values.min()):.3f}" in re.sub(
        " +", " ", text
    )
    assert "spread of codes" in page
    figure = measure_distributions(results)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels[-2:] == ["peak (no unit)", "spread of codes (examples)"]


def test_flags_replay_them(run):
    folder, _ = run
    values = flags.FlagValues()
    command.define(ioca.StudyConfig, values)
    lines = (folder / "flags.txt").read_text().splitlines()
    values(["run_study", *(line for line in lines if "--measures" in line)])
    replayed = command.parse(ioca.StudyConfig, values)
    assert replayed.measures == CONFIG.measures


NEURONS = "a number for each neuron"


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (
            "matrix",
            f"measures: expected matrix to return float32 [7], {NEURONS}, got float32 "
            "of shape [40, 7]",
        ),
        (
            "numpy",
            "measures: expected numpy to be written in jax.numpy, as it is traced, got "
            "TracerArrayConversionError; call what needs NumPy by jax.pure_callback",
        ),
        (
            "broken",
            f"measures: expected broken to return float32 [7], {NEURONS}, got "
            "AttributeError: 'Measurement' object has no attribute 'weights'; "
            "--verbosity=1 shows where",
        ),
        (
            "nowhere",
            "measures: expected package.module:function, got 'own_scores:nowhere', "
            "which cannot be imported (AttributeError: module 'own_scores' has no "
            "attribute 'nowhere'); --verbosity=1 shows where",
        ),
        (
            "number",
            "measures: expected a function or a Score at own_scores:number, got 3",
        ),
        (
            "entropy",
            "measures: expected another name than entropy, which is built in, for a "
            "score of your own",
        ),
        (
            "again",
            "measures: expected each name once, got entropy,peak,peak",
        ),
        (
            "greedy_mean",
            "measures: expected another name than greedy_mean, which is built in, for "
            "a score of your own",
        ),
    ],
)
def test_what_is_no_score_is_refused_before_the_work(measure, message, tmp_path):
    measures = ("entropy", "own_scores:peak", f"own_scores:{measure}")
    config = dataclasses.replace(CONFIG, measures=measures)
    with pytest.raises(ValueError, match="^measures: ") as caught:
        ioca.run_study(config, tmp_path / "run", data=DATA)
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


def test_scores_that_are_nan_are_refused(tmp_path):
    config = dataclasses.replace(CONFIG, measures=("own_scores:undefined",))
    with pytest.raises(
        ValueError,
        match="^measures: expected finite numbers from undefined, got NaN or infinite "
        "ones for 7 of 7 neurons for seed 5; neurons cannot be ordered by them$",
    ):
        ioca.run_study(config, tmp_path / "run", data=DATA, draw=False)
