"""What the caller of a run gives from Python: data of their own, trained networks.

The configuration then tells what was given rather than what it asked for, and digests
tell data and networks from others of the same name and shape.
"""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ioca_jax.data import Dataset
from ioca_jax.networks.layered import check_variables
from ioca_jax.networks.mlp import MLP
from ioca_jax.networks.training import Trained
from ioca_jax.sources import can_load
from ioca_jax.study.config import StudyConfig

_OF_THE_NETWORK = (
    *("hidden", "activation", "dropout_rate", "batch_norm", "matmul_precision"),
)


def describe_data(config: StudyConfig, data: Dataset) -> StudyConfig:
    """A configuration that tells which data a run is given.

    Args:
        config: the configuration asked for.
        data: the data given.

    Returns:
        The same with what loads these data again, or else with their own name, which
        loads none.

    Raises:
        ValueError: label noise asked for of the caller's own data, which have what they
            have.
    """
    if data.loaded_by is not None:
        loaded = dict(data.loaded_by)
        fields = {"dataset": loaded.pop("name"), "split_seed": loaded.pop("seed")}
        return dataclasses.replace(config, **fields, **loaded)
    if config.label_noise:
        raise ValueError(
            f"label_noise: expected 0 with data of your own, got {config.label_noise}; "
            "corrupt their training labels with corrupt_labels"
        )
    # Never a name that would load others.
    name = f"{data.name}, given by the caller" if can_load(data.name) else data.name
    return dataclasses.replace(
        config, dataset=name, data_dir=None, num_validation=None, split_seed=0
    )


@dataclasses.dataclass(frozen=True)
class GivenNetworks:
    """Networks that were trained elsewhere.

    Attributes:
        network: their shape.
        variables: NumPy arrays; leaves begin with S, one for each of a run's seeds.
        digest: of the variables.
    """

    network: MLP
    variables: Any
    digest: str

    def check_fit(self, data: Dataset, num_networks: int) -> None:
        """Refuses networks that do not fit the data, or whose number is another.

        Args:
            data: what they are to be measured and ablated on.
            num_networks: S.

        Raises:
            ValueError: another number of classes, or variables of other shapes.
        """
        num_classes = self.network.num_classes
        if num_classes != data.num_classes:
            raise ValueError(
                f"network: expected {data.num_classes} classes, as {data.name} has, "
                f"got {num_classes}"
            )
        check_variables(
            *("variables", self.variables, self.network, num_networks),
            math.prod(data.train.x.shape[1:]),
        )

    def take(self, places: list[int], seeds: np.ndarray) -> Trained:
        """Some of the networks, as if trained here.

        Args:
            places: which, counted from 0.
            seeds: their seeds.

        Returns:
            The networks, without a history.
        """
        chosen = np.array(places)
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), self.variables)
        return Trained(variables, np.asarray(seeds, np.int32))


def accept_networks(
    config: StudyConfig, network: Any, variables: Any
) -> tuple[StudyConfig, GivenNetworks | None]:
    """Checks networks that a run is given, as far as the data need not be known.

    Args:
        config: the configuration asked for; each of its seeds labels a network.
        network: their shape; None where the run trains its own.
        variables: leaves begin with S; None likewise.

    Returns:
        A configuration that tells of these networks, and the networks.

    Raises:
        ValueError: one of the two without the other, another number of networks than of
            seeds, epochs of training to look at, or variables that are not finite.
    """
    if network is None and variables is None:
        return config, None
    if not isinstance(network, MLP) or variables is None:
        raise ValueError(
            "network, variables: expected an MLP and the variables of trained ones, or "
            f"neither, got {type(network).__name__} and {type(variables).__name__}"
        )
    if config.trajectory_epochs:
        raise ValueError(
            "trajectory_epochs: expected none with networks trained elsewhere, got "
            f"{','.join(map(str, config.trajectory_epochs))}"
        )
    arrays = _checked(variables, len(config.seeds))
    fields = {name: getattr(network, name) for name in _OF_THE_NETWORK}
    config = dataclasses.replace(config, **fields)
    return config, GivenNetworks(network, arrays, digest_of(arrays))


def _checked(variables: Any, num_networks: int) -> Any:
    """Variables as float32 NumPy arrays."""
    for path, leaf in jax.tree.leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array = np.asarray(leaf)
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            wrong = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
            raise ValueError(
                f"variables: expected finite numbers in {name}, got "
                + (f"{wrong} NaN or infinite" if wrong else str(array.dtype))
            )
        if array.ndim < 1 or len(array) != num_networks:
            raise ValueError(
                f"variables: expected leaves that begin with {num_networks} networks, "
                f"one for each of the configuration's seeds, got {name} of shape "
                f"{list(array.shape)}; give seeds= as many as there are networks"
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)


def digest_of(variables: Any) -> str:
    """A hash of variables, by name, shape and value.

    Args:
        variables: a pytree of arrays.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {np.shape(leaf)} ".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
