"""Networks that are given are told apart by what they compute, too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.ad_checkpoint import checkpoint_name

import ioca_jax as ioca
from ioca_jax.study import given_networks, plan

CONFIG = ioca.StudyConfig(
    seeds=(4, 7), random_orders=0, permutations=0, quantizer="uniform:4",
    measures=("entropy",), clamps=("mean",),
)  # fmt: skip


def relu(w, x):
    return jax.nn.relu(x @ w["a"]) @ w["b"]


def sine(w, x):
    return jnp.sin(3 * (x @ w["a"])) @ w["b"]


def scaled(constant):
    """The constant is an array inside of a program of its own."""
    held = np.full(4, constant, np.float32)
    inner = jax.jit(lambda h: h * held)
    return lambda w, x: inner(jax.nn.relu(x @ w["a"])) @ w["b"]


def rewritten(w, x):
    """Equal to ``relu``, in other equations."""
    return jnp.einsum("nh,hc->nc", jnp.maximum(jnp.dot(x, w["a"]), 0.0), w["b"])


def variables_of(*seeds):
    def normal(seed, *shape):
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    some = [{"a": normal(s, 5, 4), "b": normal(s + 100, 4, 2)} for s in seeds]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *some)


VARIABLES = variables_of(0, 1)


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(9).normal(size=(60, 5)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    return ioca.Dataset.from_arrays(x[:40], y[:40], x[40:], y[40:], num_validation=20)


def study(function, folder, data, variables=VARIABLES, layers=None, **more):
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    network = ioca.trace_network(function, one, data.train.x[:2], layers)
    return ioca.run_study(
        CONFIG, folder, data=data, network=network, variables=variables, draw=False,
        seeds_at_once=1, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def corrected(data, tmp_path_factory):
    """A run that is stopped, refused to another function, and finished."""
    folder = tmp_path_factory.mktemp("functions") / "run"

    def stop(event):
        if event["event"] == "chunk":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        study(relu, folder, data, listeners=[stop])
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=".") as caught:
        study(sine, folder, data)
    assert sorted(folder.rglob("*")) == before
    study(relu, folder, data)
    return folder, str(caught.value)


@pytest.fixture(scope="module")
def finished(corrected):
    return corrected[0]


def refusal(folder, differs="other logits"):
    return (
        f"workdir: expected a new folder or one of these networks, got {folder}, which "
        f"holds results of networks with the same variables and {differs}; give the "
        "function of that run, or choose another workdir"
    )


@pytest.mark.parametrize(
    "function", [sine, scaled(1.001), lambda w, x: relu(w, x) + 1e-3 * x[:, :2]]
)
def test_a_finished_folder_is_not_of_another_function(function, finished, data):
    with pytest.raises(ValueError, match=".") as caught:
        study(function, finished, data)
    assert str(caught.value) == refusal(finished)


def test_a_held_constant_may_change_what_is_measured_alone(finished, data, tmp_path):
    """Equal logits, and activations that are three times as large."""

    def grown(w, x):
        return (3 * jax.nn.relu(x @ w["a"])) @ w["b"] / 3

    with pytest.raises(ValueError, match=".") as caught:
        study(grown, finished, data)
    assert str(caught.value) == refusal(finished, "other activations of layer a")


def test_chunks_are_not_of_another_function(corrected):
    """One that was corrected after the first chunk, say."""
    folder, message = corrected
    assert message == refusal(folder)


def test_equal_functions_are_one_run(finished, data):
    found = study(rewritten, finished, data)
    assert found.identical(ioca.load_results(finished))
    for seed in range(2):
        weights = jax.tree.map(lambda leaf, i=seed: leaf[i], VARIABLES)
        logits = np.maximum(data.test.x @ weights["a"], 0) @ weights["b"]
        loss = np.log(np.exp(logits).sum(axis=1)) - logits[range(20), data.test.y]
        intact = found["loss"].isel(seed=seed, clamp=0, scope=0, ordering=0, step=0)
        np.testing.assert_allclose(intact, loss.mean(), rtol=1e-5)


def test_other_layers_and_another_pool_are_other_networks(data):
    def two(w, x):
        hidden = jax.nn.relu(x @ w["a"])
        return jax.nn.relu(hidden @ w["b"]) @ w["c"]

    wide = VARIABLES | {"c": np.ones((2, 2, 2), np.float32)}
    one = jax.tree.map(lambda leaf: leaf[0], wide)
    found = []
    for layers, pool in ((["a"], "mean"), (["b"], "mean"), (["b"], "max")):
        network = ioca.trace_network(two, one, data.train.x[:2], layers, pool)
        _, accepted = plan.accept_networks(CONFIG, network, wide)
        assert accepted is not None
        found.append(accepted.digest)
    assert len(set(found)) == 3


def test_copies_of_a_network_are_no_seeds(data, tmp_path):
    """A loop that forgot its seed: both have seed 0."""
    for variables, equal in (
        (variables_of(0, 0), "equal variables for seeds 4 and 7; train each from a "
         "seed of its own"),
        (permuted(), "equal logits for seeds 4 and 7, as of copies and of networks "
         "that differ in the order of their units; leave one of the two out"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=".") as caught:
            study(relu, tmp_path / "run", data, variables)
        assert str(caught.value) == (
            f"variables: expected another network for each seed, got {equal}"
        )
        assert not (tmp_path / "run").exists()


def permuted():
    """A network, and the same with its hidden units in another order."""
    one = jax.tree.map(lambda leaf: leaf[0], VARIABLES)
    other = {"a": one["a"][:, [2, 0, 3, 1]], "b": one["b"][[2, 0, 3, 1]]}
    return jax.tree.map(lambda *leaves: np.stack(leaves), one, other)


def test_only_logits_that_depend_on_the_example_show_a_copy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 9, 3))
    logits[[1, 3]] = [0.2, 0.1, -0.3]  # two networks whose units are dead
    given_networks._check_functions(logits, range(5))
    logits[4] = logits[0] * (1 + 1e-7)
    with pytest.raises(ValueError, match="got equal logits for seeds 0 and 4, as of"):
        given_networks._check_functions(logits, range(5))


def masked(w, x):
    """Scores that exclude a class of negative examples, before a softmax."""
    excluded = (jnp.arange(4) == 2) & (x[:, :1] < 0)
    scores = jnp.where(excluded, -jnp.inf, x @ w["a"])
    return jax.nn.softmax(checkpoint_name(scores, "scores")) @ w["b"]


NOT_FINITE = (
    "activations: expected finite numbers, got NaN or infinite ones for 1 of 4 neurons "
    "of layer scores{}; leave that layer out by layers=, or mask with a large negative "
    "number rather than -inf"
)


def test_infinite_activations_are_refused_before_anything_is_computed(data, tmp_path):
    with pytest.raises(ValueError, match=".") as caught:
        study(masked, tmp_path / "run", data, layers=["scores"])
    assert str(caught.value) == NOT_FINITE.format(" for seed 4")
    assert not (tmp_path / "run").exists()


def test_infinite_activations_of_late_examples_are_refused(data, tmp_path, monkeypatch):
    """Networks are tried on a few examples; the seed is named here too."""
    monkeypatch.setattr(given_networks, "_EXAMPLES", 2)
    late = dataclasses.replace(data, validation=sorted_by_sign(data.validation))
    with pytest.raises(ValueError, match=".") as caught:
        study(masked, tmp_path / "run", late, layers=["scores"])
    assert str(caught.value) == NOT_FINITE.format(" for seed 4")


def sorted_by_sign(split):
    order = np.argsort(-split.x[:, 0])
    return ioca.Split(split.x[order], split.y[order])


@pytest.mark.parametrize("quantizer", ["threshold", "threshold:0.5", "uniform:4"])
def test_infinite_activations_are_not_measured(data, quantizer):
    one = jax.tree.map(lambda leaf: leaf[0], VARIABLES)
    network = ioca.trace_network(masked, one, data.train.x[:2], ["scores"])
    assert np.isfinite(network.apply(one, data.test.x)[0]).all()

    def measure(variables, x):
        return ioca.measure_neurons(
            network, variables, x, data.validation.y, quantizer=quantizer
        )

    with pytest.raises(ValueError, match=".") as caught:
        measure(one, data.validation.x)
    assert str(caught.value) == NOT_FINITE.format("")
    # While JAX traces, neurons that have no number are NaN, and others keep theirs.
    scores = jax.jit(measure)(one, data.validation.x).scores["entropy"]
    assert np.isnan(scores).tolist() == [False, False, True, False]
    kept = (data.validation.x @ one["a"])[:, [0, 1, 3]]
    for column, found in zip(kept.T, scores[np.array([0, 1, 3])], strict=True):
        edges = {"threshold": [0], "threshold:0.5": [0.5]}.get(
            quantizer, np.linspace(column.min(), column.max(), 5)[1:-1]
        )
        shares = np.bincount(np.digitize(column, edges)) / len(column)
        np.testing.assert_allclose(
            found, scipy.stats.entropy(shares, base=2), rtol=1e-5
        )


def test_networks_come_back_under_their_own_names(data, tmp_path):
    """Two arrays of which the checkpoint library would save one, and an empty one."""
    names = {"block.0": VARIABLES["a"], "block": {"0": VARIABLES["b"]}}
    names |= {"a/b": np.zeros((2, 0), np.float32), "file": np.ones((2, 1), np.float32)}

    def apply(w, x):
        return jax.nn.relu(x @ w["block.0"]) @ w["block"]["0"] * w["file"]

    study(apply, tmp_path / "run", data, names)
    model, found = ioca.load_networks(tmp_path / "run")
    assert model is None
    np.testing.assert_equal(found, names)
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, names)
