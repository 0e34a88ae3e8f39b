"""How many examples, masks or points fit into a memory budget at once."""

import jax

from ioca_jax.checks import check_memory
from ioca_jax.devices import shares_at_once
from ioca_jax.host_arrays import AnyArray


def device_budget(memory_gb: float, y: AnyArray) -> float:
    """The memory budget per share of the examples, whose labels are given.

    Shares on a CPU run in the same memory and divide it.
    """
    check_memory(memory_gb)
    on_cpu = jax.default_backend() == "cpu"
    return memory_gb / (shares_at_once(y) if on_cpu else 1)


# Beyond about this many floats in an array that each step rewrites, caches are left
# and nothing is gained; measured on two CPU cores with benchmark_ablation.
FLOATS_PER_STEP = 256 * 1024
