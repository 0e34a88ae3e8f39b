"""A study of token classifiers that are trained here: heads, units, several inputs."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pages import Page
from sentences import LAYERS, of_words, random_variables, sentences
from sklearn.metrics import mutual_info_score

import ioca_jax as ioca
from ioca_jax.measures.information import permuted_samples
from ioca_jax.report.page import run_page
from ioca_jax.report.tables import tabulate

SEEDS = tuple(range(5))
CONFIG = ioca.StudyConfig(
    seeds=SEEDS, random_orders=1, permutations=19, quantizer="quantile:2",
    measures=("mutual_information",), clamps=("mean",),
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    (x, y), (x_test, y_test) = sentences(300), sentences(80, seed=1)
    return ioca.Dataset.from_arrays(
        *(x, y, x_test, y_test), num_validation=100, name="sentences"
    )


@partial(jax.jit, static_argnames="steps")
def trained(variables, x, y, steps):
    """One network, by Adam on all sentences at once."""
    optimizer = optax.adam(0.02)

    def loss(variables):
        each = optax.softmax_cross_entropy_with_integer_labels(
            of_words(variables, x), jnp.maximum(y, 0)
        )
        return jnp.where(y >= 0, each, 0).sum() / (y >= 0).sum()

    def step(carry, _):
        variables, state = carry
        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return (optax.apply_updates(variables, updates), state), None

    start = variables, optimizer.init(variables)
    return jax.lax.scan(step, start, length=steps)[0][0]


@pytest.fixture(scope="module")
def networks(data):
    each = [trained(random_variables(seed), *data.train, 150) for seed in SEEDS]
    network = ioca.trace_network(
        lambda v, x: of_words(v, x), each[0], data.train.x, layers=LAYERS
    )
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    return {"network": network, "variables": stacked}


@pytest.fixture(scope="module")
def folder(networks, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "run"
    ioca.run_study(CONFIG, path, data=data, **networks, draw=False)
    return path


@pytest.fixture(scope="module")
def results(folder):
    return ioca.load_results(folder)


def of_seed(networks, place):
    return jax.tree.map(lambda leaf: leaf[place], networks["variables"])


def test_counts_and_accuracies_are_over_tokens(results, networks, data):
    y = data.test.y
    sizes = [(y == label).sum() for label in range(3)]
    assert results["class_size"].values.tolist() == sizes
    assert results.attrs["num_test"] == (y >= 0).sum()
    assert results.attrs["num_validation"] == (data.validation.y >= 0).sum()
    assert results.attrs["example_shape"] == "x['ids'] [8], x['mask'] [8]"
    intact = results["accuracy"].isel(clamp=0, scope=0, ordering=0, step=0)
    for place in (0, 1):
        guess = of_words(of_seed(networks, place), data.test.x).argmax(axis=-1)
        right = (np.asarray(guess) == y)[y >= 0]
        assert right.mean() > 0.7  # trained, not at chance
        np.testing.assert_allclose(intact[place], right.mean(), rtol=1e-6)


def test_curves_are_those_of_a_copy_by_hand(results, networks, data):
    """The units alone, in ascending order of information, at their means."""
    y, here = data.test.y, results.sel(scope="up").isel(clamp=0, ordering=0)
    for place in (0, 1):
        variables, curve = of_seed(networks, place), here.isel(seed=place)
        outputs = networks["network"].outputs(variables, data.validation.x)[1]["up"]
        means = np.asarray(outputs)[data.validation.y >= 0].mean(axis=0)
        order = curve["order"].values[:6] - 2
        assert sorted(order) == [*range(6)]
        for k in range(7):
            keep = ~np.isin(np.arange(6), order[:k])
            logits = of_words(variables, data.test.x, keep=keep, clamp=means)
            right = np.asarray(logits.argmax(axis=-1)) == y
            expected = [(right & (y == label)).sum() for label in range(3)]
            np.testing.assert_array_equal(curve["correct"][k], expected)


def test_information_of_units_is_scikit_learns(results, networks, data):
    x, y = data.validation
    labels = y[y >= 0]
    for place in (0, 1):
        _, outputs = networks["network"].apply(of_seed(networks, place), x)
        codes = np.asarray(ioca.quantize(np.asarray(outputs)[y >= 0], CONFIG.quantizer))
        here = results.isel(seed=place)
        alone = [mutual_info_score(codes[:, h], labels) / np.log(2) for h in range(8)]
        found = here["score"].sel(measure="mutual_information")
        np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_information_of_pairs_is_scikit_learns(networks, data, tmp_path):
    config = dataclasses.replace(CONFIG, interactions=True)
    results = ioca.run_study(config, tmp_path, data=data, **networks, draw=False)
    x, y = data.validation
    labels = y[y >= 0]
    for place in (0, 1):
        _, outputs = networks["network"].apply(of_seed(networks, place), x)
        codes = np.asarray(ioca.quantize(np.asarray(outputs)[y >= 0], CONFIG.quantizer))
        here = results.isel(seed=place)
        both = mutual_info_score(2 * codes[:, 1] + codes[:, 6], labels) / np.log(2)
        pair = here["pair_value"].sel(pair_measure="joint_information")
        np.testing.assert_allclose(pair[1, 6], both, rtol=1e-4)


def test_tables_and_page(results, folder):
    tables = tabulate(results)
    assert {"neurons", "orders", "differences", "faithfulness"} <= tables.keys()
    assert Page(run_page(results, {})).tables.keys()
    assert "sentences: 5 networks" in (folder / "summary.txt").read_text()


def test_permutations_move_whole_sentences(data):
    y = jnp.asarray(data.validation.y)
    counted = int((y >= 0).sum())
    rows, places = np.nonzero(np.asarray(y) >= 0)
    permuted = permuted_samples(y, jax.random.key(3), 5, counted)
    for labels in np.asarray(permuted):
        taken = []
        for row in range(len(y)):
            own = labels[rows == row]
            fits = (np.asarray(y)[:, places[rows == row]] == own).all(axis=1)
            assert fits.any()  # a whole row of labels, at the places of its own
            taken.append(fits)
        matched = np.array(taken)
        # Whole rows are a permutation: the sum over them is the sum over all rows.
        assert (matched.sum(axis=0) > 0).all()


REFUSED = {
    "built-in networks": (
        {},
        {},
        "x: expected one array, as an MLP or CNN takes, got x['ids'], x['mask']; give "
        "trained networks of your own: run_study(network=, variables=)",
    ),
    "donors by class": (
        {"clamps": ("mean", "resample_class")},
        None,
        "clamps: expected no donors by class with labels of tokens, got "
        "resample_class; resample and resample_neuron take any example's outputs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_runs(case, networks, data, tmp_path):
    changed, given, message = REFUSED[case]
    config = ioca.StudyConfig(
        seeds=SEEDS, permutations=0, quantizer="quantile:2", **changed
    )
    given = networks if given is None else given
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.run_study(config, tmp_path, data=data, **given)


def test_labels_of_other_tokens_than_the_logits_are_refused(networks, data, tmp_path):
    x, y = sentences(60)
    examples = ioca.Dataset.from_arrays(
        x, np.arange(60) % 3, x, np.arange(60) % 3, name="examples"
    )
    message = (
        "network: expected logits of examples, as examples has labels, got logits of 8 "
        "tokens"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ioca.run_study(CONFIG, tmp_path, data=examples, **networks)
