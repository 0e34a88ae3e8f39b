"""Direct effects: a neuron is ablated while all later layers output what they did.

In a network with a residual stream an ablated neuron acts on the logits directly, and
through what later layers make of its absence. Where later layers make up for it, the
total effect is less than the direct one: self-repair. Source: T. McGrath et al., "The
Hydra Effect", arXiv 2307.15771.
"""

import dataclasses
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from ioca_jax.ablation.singles import SingleAblations, evaluate_singles
from ioca_jax.ablation.wrapped import WrappedNetwork, carry, split
from ioca_jax.networks.network import Ablation, Network, StagedNetwork, Values


def direct_ablations(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, "S *clamps H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
    *,
    memory_gb: float = 1.0,
) -> SingleAblations:
    """Evaluates networks with each neuron ablated alone and later layers held.

    Args:
        network: an ``MLP``, a ``CNN`` or one of ``trace_network``. Without a path
            around later layers, direct effects are 0 except in the last layer.
        variables: leaves begin with S.
        clamp: float32 [S, ..., H].
        x: [N, ...] examples.
        y: int32 [N] classes.
        memory_gb: bounds what is held beside examples and networks.

    Returns:
        Of each neuron ablated alone, and of the intact network.

    Raises:
        ValueError: a network that does not run in parts.
    """
    if not isinstance(network, StagedNetwork):
        raise ValueError(
            "direct_ablations: needs a network that runs in parts, as MLP and those of "
            f"trace_network do; this network is a {type(network).__name__}"
        )
    held = HeldNetwork(network)
    return evaluate_singles(held, variables, clamp, x, y, memory_gb=memory_gb)


@dataclasses.dataclass(frozen=True)
class HeldNetwork(WrappedNetwork):
    """A network of which every layer outputs what it outputs without any ablation."""

    def first_values(self, variables: Any, x: ArrayLike) -> Values:
        """The outputs of later layers are carried along."""
        first = intact = self.network.prefix(variables, x, 0)
        later = []
        for index in range(len(self.layers) - 1):
            intact = self.network.advance(variables, index, intact)
            later.append(intact.outputs)
        return carry(first, tuple(later))

    def advance(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> Values:
        """As ``StagedNetwork``."""
        inner, later = self._split(layer, values)
        inner = self.network.advance(variables, layer, inner, ablation)
        return carry(dataclasses.replace(inner, outputs=later[0]), later[1:])

    def above(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> tuple[Array, Array]:
        """As ``StagedNetwork``; activations are those of the intact network."""
        last = len(self.layers) - 1
        inner, _ = self._split(layer, values)
        _, activations = self.network.above(variables, layer, inner)
        for index in range(layer, last):
            values = self.advance(variables, index, values, ablation)
        logits, _ = self.network.above(variables, last, values, ablation)
        return logits, activations

    def _split(self, layer: int, values: Values) -> tuple[Values, tuple[Array, ...]]:
        return split(values, len(self.layers) - 1 - layer)
