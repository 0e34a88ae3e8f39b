"""How many examples, masks or points fit into a memory budget at once."""

import math

import jax
from jaxtyping import Array

from ioca_jax.checks import check_memory
from ioca_jax.devices import shares_at_once
from ioca_jax.networks.network import Network


def device_budget(memory_gb: float, x: Array) -> float:
    """The budget of each share of the examples; those of a CPU have one memory."""
    check_memory(memory_gb)
    on_cpu = jax.default_backend() == "cpu"
    return memory_gb / (shares_at_once(x) if on_cpu else 1)


# Beyond about this many floats in an array that each step rewrites, caches are left
# and nothing is gained; measured on two CPU cores with benchmark_ablation.
FLOATS_PER_STEP = 256 * 1024


def widest_value(network: Network, lowest: int = 0) -> int:
    """Numbers in one example's largest value from a layer on.

    Of a traced network, the largest of all that it computes, whichever its layers are.
    """
    sizes = [math.prod(layer.shape) for layer in network.layers[lowest:]]
    return max(*sizes, network.num_classes, getattr(network, "widest", 0))
