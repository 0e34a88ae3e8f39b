"""What a study computes its results from."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from ioca_jax.devices import place_examples
from ioca_jax.networks.network import Network
from ioca_jax.networks.trained import Trained
from ioca_jax.study.plan import Plan


class Examples(NamedTuple):
    """A split on the devices: examples, and classes [N], or [N, T] of tokens."""

    x: Any
    y: Int[Array, "N *T"]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Networks of a plan, and the examples that they are measured and ablated on."""

    plan: Plan
    trained: Trained
    validation: Examples
    test: Examples

    @classmethod
    def of(cls, plan: Plan, trained: Trained) -> "Inputs":
        """Puts the examples on the devices."""
        validation = Examples(*jax.device_put(tuple(plan.data.validation)))
        return cls(
            plan, trained, validation, Examples(*place_examples(*plan.data.test))
        )

    @property
    def network(self) -> Network:
        """What all networks compute."""
        return self.plan.network

    @property
    def scopes(self) -> dict[str, np.ndarray]:
        """By name, the neurons int32 [K] that a scope orders."""
        return self.plan.scopes

    @property
    def seeds(self) -> UInt32[Array, " S"]:
        """uint32: the seeds of the networks' random choices."""
        return jnp.asarray(self.trained.seeds, jnp.uint32)

    def layers_of(self, scope: str) -> tuple[int, ...]:
        """The layers that a scope's neurons belong to, counted from 0."""
        layers = self.network.layer_of_neuron[self.scopes[scope]]
        return tuple(np.unique(layers).tolist())
