"""Peak memory of the engines, measured in processes of their own."""

import processes
import pytest

# 2 networks, 2 orders, 65 points, 40,000 examples, 256 neurons: 11 GB at once.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
import ioca_jax as ioca

engine, memory_gb = sys.argv[1], float(sys.argv[2])
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
model = ioca.MLP(hidden=(128, 128), num_classes=10)
rng = np.random.default_rng(0)

def run(num_examples, num_steps):
    x = jnp.asarray(rng.uniform(size=(num_examples, 16)), jnp.float32)
    y = jnp.asarray(rng.integers(10, size=num_examples), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.vmap(lambda key: model.init(key, x[:1]))(keys)
    orders = np.stack([[rng.permutation(256) for _ in range(2)] for _ in range(2)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    curves = ioca.ablation_curves(
        model, variables, orders[..., :num_steps].astype(np.int32),
        np.zeros((2, 1, 256), np.float32), x, y, layers=(0, 1), engine=engine,
        memory_gb=memory_gb,
    )
    jax.block_until_ready(curves)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

run(300, 2)  # compiling a program of the same kind takes its memory here
print(run(40_000, int(sys.argv[3])) / 1e6)
"""


@pytest.mark.parametrize(
    ("engine", "memory_gb", "num_steps", "num_devices"),
    [
        ("rank_one", 0.02, 64, 1),
        ("prefix_sums", 0.02, 64, 1),
        ("masks", 0.02, 8, 1),
        # Devices of a CPU share one memory, and so the budget.
        pytest.param("prefix_sums", 0.1, 64, 4, marks=pytest.mark.slow),
    ],
)
def test_engines_keep_to_the_budget(engine, memory_gb, num_steps, num_devices):
    given = (engine, memory_gb, num_steps, num_devices)
    done = processes.run("-c", PROGRAM, *given, check=True)
    # Beside the budget: compiling, and what the allocator keeps, tens of MB.
    assert float(done.stdout) < memory_gb + 0.08
