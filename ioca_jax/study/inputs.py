"""What a study computes its results from."""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from ioca_jax.data import Dataset
from ioca_jax.devices import place_examples
from ioca_jax.measures.information import MEASURES
from ioca_jax.networks.models import Model, as_network
from ioca_jax.networks.network import Network
from ioca_jax.networks.training import Trained
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.orders import scopes_of


class Examples(NamedTuple):
    """A split on the devices: examples [N, ...] and classes [N]."""

    x: Float[Array, "N *features"]
    y: Int[Array, " N"]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Trained networks and the examples that they are measured and ablated on."""

    config: StudyConfig
    network: Network
    trained: Trained
    validation: Examples
    test: Examples

    @classmethod
    def of(
        cls,
        config: StudyConfig,
        network: Network | Model,
        data: Dataset,
        trained: Trained,
    ):
        """Puts the examples on the devices."""
        validation = Examples(*jax.device_put(tuple(data.validation)))
        test = Examples(*place_examples(*data.test))
        network = as_network(network, test.x)
        return cls(config, network, trained, validation, test)

    @cached_property
    def scopes(self) -> dict[str, np.ndarray]:
        """By name, the neurons int32 [K] that a scope orders."""
        return scopes_of(self.network)

    @property
    def seeds(self) -> UInt32[Array, " S"]:
        """uint32: the seeds of the networks' random choices."""
        return jnp.asarray(self.trained.seeds, jnp.uint32)

    @property
    def information_measures(self) -> tuple[str, ...]:
        """The configuration's measures that joint counts give."""
        return tuple(name for name in self.config.measures if name in MEASURES)

    def layers_of(self, scope: str) -> tuple[int, ...]:
        """The layers that a scope's neurons belong to, counted from 0."""
        layers = self.network.layer_of_neuron[self.scopes[scope]]
        return tuple(np.unique(layers).tolist())
