"""How many examples, masks or points fit into a memory budget at once."""

import jax

from ioca_jax.checks import check_memory
from ioca_jax.devices import device_mesh


def device_budget(memory_gb: float) -> float:
    """The budget of each device; those of a CPU share one memory."""
    check_memory(memory_gb)
    on_cpu = jax.default_backend() == "cpu"
    return memory_gb / (device_mesh().size if on_cpu else 1)


# Beyond about this many floats in an array that each step rewrites, caches are left
# and nothing is gained; measured on two CPU cores with benchmark_ablation.
FLOATS_PER_STEP = 256 * 1024


def number_that_fits(memory_gb: float, floats: int, most: int) -> int:
    """How many times ``floats`` float32 fit into a budget: at least 1."""
    return max(1, min(most, int(memory_gb * 1e9 / (4 * floats))))
