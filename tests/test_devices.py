"""Several devices give what one gives: counts equal, floats to rounding."""

import json
import threading

import jax
import numpy as np
import processes
import pytest
from conftest import random_examples, random_network

import ioca_jax as ioca
from ioca_jax import devices

# Run in a process of its own, since a process has its devices for good.
PROGRAM = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
import ioca_jax as ioca
from ioca_jax import devices

devices._FEWEST_IN_A_SHARE = 8
rng = np.random.default_rng(0)
def split(n):
    x = rng.uniform(size=(n, 12)).astype(np.float32)
    return ioca.Split(x, (x[:, :4].argmax(1)).astype(np.int32))
data = ioca.Dataset("argmax", split(300), split(61), split(101), 4)
model = ioca.MLP(hidden=(9, 8), num_classes=4)
config = ioca.TrainConfig(epochs=3)
trained = ioca.train(model, data, config, (0, 1, 2, 3, 4))
# So little memory that images lie spread over the devices.
spread = ioca.train(model, data, config, (0, 1, 2, 3, 4), memory_gb=1e-9)
order = np.stack([rng.permutation(17) for _ in range(5)]).astype(np.int32)
clamp = np.zeros((5, 17), np.float32)
# The same networks everywhere, so that the counts can be compared.
fixed = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, trained.variables
)
curves = ioca.ablation_curves(model, fixed, order, clamp, *data.test)
jax.default_backend = lambda: "gpu"  # where devices are real
spread_out = ioca.ablation_curves(
    model, fixed, order, clamp, *data.test, engine="rank_one"
)
jax.default_backend = lambda: "cpu"
one = jax.tree.map(lambda leaf: leaf[0], fixed)
masks = ioca.cumulative_masks(order[0], 17)
evaluation = ioca.evaluate_masks(model, one, masks, clamp[0], *data.test)
print(json.dumps({
    "devices": len(jax.devices()),
    "history": np.asarray(trained.history["validation_loss"]).tolist(),
    "spread": np.asarray(spread.history["validation_loss"]).tolist(),
    "correct": np.asarray(curves.correct).tolist(),
    "loss": np.asarray(curves.loss).tolist(),
    "sharded": np.asarray(spread_out.correct).tolist(),
    "masks": np.asarray(evaluation.correct).tolist(),
}))
"""


def run(num_devices: int) -> dict:
    return json.loads(processes.call("-c", PROGRAM, num_devices))


@pytest.fixture(scope="module")
def on_one() -> dict:
    return run(1)


@pytest.mark.parametrize("num_devices", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_devices_change_nothing(on_one, num_devices):
    """Neither 5 seeds nor 101 examples are a multiple of 3 or 8."""
    here = run(num_devices)
    assert (on_one["devices"], here["devices"]) == (1, num_devices)
    np.testing.assert_array_equal(here["correct"], on_one["correct"])
    np.testing.assert_array_equal(here["sharded"], on_one["correct"])
    np.testing.assert_array_equal(here["masks"], on_one["masks"])
    np.testing.assert_array_equal(here["masks"], np.array(here["correct"])[0])
    # float32 sums in another order
    np.testing.assert_allclose(here["loss"], on_one["loss"], rtol=1e-5)
    # A network trains on one device, whichever it is.
    np.testing.assert_array_equal(here["history"], on_one["history"])
    np.testing.assert_array_equal(here["spread"], on_one["history"])


@pytest.fixture
def threads(monkeypatch) -> set[int]:
    """Three cores, of which each gets a few examples; the threads that meet at work."""
    monkeypatch.setattr(devices, "_cpu_devices_are_chosen", lambda: False)
    monkeypatch.setattr(devices, "_FEWEST_IN_A_SHARE", 8)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(3))
    block, seen = jax.block_until_ready, set()
    all_at_once = threading.Barrier(3, timeout=60)

    def watched(tree):
        all_at_once.wait()
        seen.add(threading.get_ident())
        return block(tree)

    monkeypatch.setattr(jax, "block_until_ready", watched)
    return seen


@pytest.mark.usefixtures("unchecked_shapes")
def test_examples_without_a_label_each_are_not_placed():
    with pytest.raises(ValueError, match=r"^y: expected shape \[4\], .*, got \[3\]$"):
        ioca.place_examples(np.zeros((4, 2), np.float32), np.zeros(3, np.int32))


def test_one_device_of_a_cpu_keeps_all_cores_busy(threads, compiled):
    """53 examples in three shares, the last of which repeats one."""
    model, variables = random_network(hidden=(5, 4))
    x, y = random_examples()

    def curve(seed: int, function=ioca.ablation_curve):
        order = np.random.default_rng(seed).permutation(9).astype(np.int32)
        clamp = np.full(9, seed, np.float32)
        return function(model, variables, order, clamp, x, y)

    traced = jax.jit(ioca.ablation_curve, static_argnums=0)
    whole = [curve(seed, traced) for seed in range(3)]
    assert not threads
    compiled.clear()
    for seed, expected in enumerate(whole):
        found = curve(seed)
        np.testing.assert_array_equal(found.correct, expected.correct)
        # float32 sums in another order
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert len(threads) >= 3
    assert compiled.count("jit(_apply)") == 1


def test_who_chose_one_device_keeps_to_it(threads):
    y = jax.numpy.asarray(random_examples()[1])
    assert devices.shares_at_once(y) == 3
    with devices.limited_devices(1):
        assert devices.shares_at_once(y) == 1


def test_more_devices_than_there_are_are_refused():
    there = len(jax.devices())  # from now on there are no more
    with (
        pytest.raises(
            ValueError,
            match=f"^num_devices: expected at most {there}, the cpu devices of this",
        ),
        devices.limited_devices(there + 8),
    ):
        pass
