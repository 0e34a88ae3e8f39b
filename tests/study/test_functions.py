"""Networks that are given are told apart by what they compute, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ioca_jax as ioca
from ioca_jax.study import given

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
        _, accepted = given.accept_networks(CONFIG, network, wide)
        assert accepted is not None
        found.append(accepted.digest)
    assert len(set(found)) == 3
