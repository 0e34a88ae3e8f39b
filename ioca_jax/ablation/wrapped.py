"""A network around another, which carries a value for each of its later layers."""

import dataclasses
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ioca_jax.networks.network import Ablation, Layer, StagedNetwork, Values


@dataclasses.dataclass(frozen=True)
class WrappedNetwork(StagedNetwork):
    """What wrapped networks share; a subclass has ``advance`` and ``above``.

    Attributes:
        network: the network that is wrapped.
    """

    network: StagedNetwork

    @property
    def layers(self) -> tuple[Layer, ...]:
        """As ``Network``."""
        return self.network.layers

    @property
    def num_neurons(self) -> int:
        """As ``Network``."""
        return self.network.num_neurons

    @property
    def layer_of_neuron(self) -> np.ndarray:
        """As ``Network``."""
        return self.network.layer_of_neuron

    @property
    def num_classes(self) -> int:
        """As ``Network``."""
        return self.network.num_classes

    def is_affine_above(self, layer: int) -> bool:
        """No constant stands for what is carried, which differs between examples."""
        del layer
        return False

    def apply(
        self, variables: Any, x: ArrayLike, ablation: Ablation | None = None
    ) -> tuple[Array, Array]:
        """As ``Network``."""
        return self.above(variables, 0, self.prefix(variables, x, 0), ablation)

    def prefix(
        self,
        variables: Any,
        x: ArrayLike,
        layer: int,
        ablation: Ablation | None = None,
    ) -> Values:
        """As ``StagedNetwork``."""
        values = self.first_values(variables, x)
        for below in range(layer):
            values = self.advance(variables, below, values, ablation)
        return values

    def first_values(self, variables: Any, x: ArrayLike) -> Values:
        """Those at the first layer, with what is carried."""
        raise NotImplementedError


def carry(values: Values, carried: tuple[Array, ...]) -> Values:
    """Values of the wrapped network, with what is carried behind them."""
    return dataclasses.replace(values, rest=(*values.rest, *carried))


def split(values: Values, number: int) -> tuple[Values, tuple[Array, ...]]:
    """Values of the wrapped network, and the last ``number`` values, the carried."""
    end = len(values.rest) - number
    inner = dataclasses.replace(values, rest=values.rest[:end])
    return inner, values.rest[end:]
