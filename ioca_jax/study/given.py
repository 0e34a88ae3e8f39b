"""What the caller of a run gives: data of their own, trained networks.

The configuration then records what was given rather than what it asked for, and digests
distinguish data and networks from others of the same name and shape.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ioca_jax.checks import described, import_named
from ioca_jax.data import Dataset
from ioca_jax.measures.neurons import (
    measure_neurons,
    settled_quantizer,
    threshold_activation,
)
from ioca_jax.networks.models import CNN, Model, as_network
from ioca_jax.networks.network import Network
from ioca_jax.networks.training import Trained
from ioca_jax.results.trees import names_of, nested
from ioca_jax.sources import can_load
from ioca_jax.study.chunks import storable
from ioca_jax.study.config import OF_NETWORKS, StudyConfig
from ioca_jax.study.trial import check_copies, check_networks, fingerprint_of

_EXAMPLES_TRIED = 1000


def describe_data(config: StudyConfig, data: Dataset) -> StudyConfig:
    """A configuration that records the data that a run is given.

    It has the arguments that load these data again; data of the caller's own have their
    name, which loads none, and no label noise but the caller's.
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
    nothing = dict.fromkeys(("data_dir", "num_validation", "num_test"))
    return dataclasses.replace(config, dataset=name, split_seed=0, **nothing)


@functools.cache
def import_networks(name: str) -> tuple[Any, Any, Dataset | None]:
    """Calls a function ``package.module:function`` that returns trained networks.

    It returns ``(network, variables)`` or ``(network, variables, dataset)``; leaves of
    the variables begin with S.
    """
    make = import_named("network", name)
    try:
        made = make()
    except (Exception, SystemExit) as error:  # of the caller's own function
        raise ValueError(
            f"network: expected {name} to return (network, variables), got "
            f"{described(error)}; --verbosity=1 shows where"
        ) from error
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise ValueError(
            f"network: expected {name} to return (network, variables) or (network, "
            f"variables, dataset), got a {type(made).__name__}"
        )
    network, variables, data = (*made, None)[:3]
    if data is not None and not isinstance(data, Dataset):
        raise ValueError(
            f"network: expected {name} to return a Dataset third, got a "
            f"{type(data).__name__}; ioca_jax.Dataset.from_arrays makes one"
        )
    return network, variables, data


def check_digest(config: StudyConfig, digest: str) -> None:
    """Refuses to replay a run with other networks than it had."""
    if not config.network:
        raise ValueError(
            "variables_digest: expected none, as a command line trains its networks, "
            f"got {digest} of networks that were given from Python; call "
            "ioca_jax.run_study(config, workdir, data=, network=, variables=)"
        )
    _, given = accept_networks(config, *import_networks(config.network)[:2])
    if given and given.digest != digest:
        raise ValueError(
            f"variables_digest: expected {digest}, got {given.digest} of the networks "
            f"that {config.network} returns; they have changed since that run"
        )


@dataclasses.dataclass(frozen=True)
class GivenNetworks:
    """Networks that were trained elsewhere.

    Attributes:
        network: what they compute.
        variables: leaves begin with S, one for each of a run's seeds.
        digest: of the variables and, for traced networks, of the layers.
    """

    network: Network | Model
    variables: Any
    digest: str

    def check_fit(self, data: Dataset, seeds: Sequence[int], quantizer: str) -> None:
        """Refuses networks, or a quantiser, that do not fit the data, and copies.

        Networks are tried on some validation examples, the quantiser on the first one.
        """
        self._check_shapes(data, len(seeds))
        network = as_network(self.network, data.train.x)
        check_networks(network, self.variables, seeds, data)
        if quantizer == "threshold" and not self.is_built_in:
            one = jax.tree.map(lambda leaf: leaf[0], self.variables)
            x, y = (array[:_EXAMPLES_TRIED] for array in data.validation)
            measure_neurons(self.network, one, x, y)  # refuses one that tells nothing

    @property
    def is_built_in(self) -> bool:
        """Whether variables and configuration say all that the networks compute."""
        return isinstance(self.network, Model)

    def digests(
        self, data: Dataset | None, num_networks: int
    ) -> tuple[str, str | None]:
        """The variables' digest, and the fingerprint of others than built-in ones."""
        if self.is_built_in or data is None:
            return self.digest, None
        self._check_shapes(data, num_networks)
        network = as_network(self.network, data.train.x)
        return self.digest, fingerprint_of(network, self.variables, data)

    def _check_shapes(self, data: Dataset, num_networks: int) -> None:
        num_classes = self.network.num_classes
        if num_classes != data.num_classes:
            raise ValueError(
                f"network: expected {data.num_classes} classes, as {data.name} has, "
                f"got {num_classes}"
            )
        x = data.train.x
        network = as_network(self.network, x)
        network.check_variables(self.variables, num_networks)
        one = jax.tree.map(lambda leaf: leaf[0], self.variables)
        jax.eval_shape(network.apply, one, x[:1])  # refuses examples of other shapes

    def take(self, all_seeds: Sequence[int], seeds: Sequence[int]) -> Trained:
        """The networks of some seeds, without a history.

        The first network stands for seeds that are not among all.
        """
        place_of = {seed: place for place, seed in enumerate(all_seeds)}
        chosen = np.array([place_of.get(seed, 0) for seed in seeds])
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), self.variables)
        return Trained(variables, np.asarray(seeds, np.int32))


def accept_networks(
    config: StudyConfig, network: Any, variables: Any
) -> tuple[StudyConfig, GivenNetworks | None]:
    """Checks given networks as far as possible without the data.

    Returns the configuration with the networks' own fields, and the networks; both
    arguments are None if the run trains its own.
    """
    if network is None and variables is None:
        return config, None
    if not isinstance(network, (Network, Model)) or variables is None:
        raise ValueError(
            "network, variables: expected a network (MLP, CNN, or of trace_network) "
            "and the variables of trained ones, or neither, got "
            f"{type(network).__name__} and {type(variables).__name__}"
        )
    if config.trajectory_epochs:
        raise ValueError(
            "trajectory_epochs: expected none with networks trained elsewhere, got "
            f"{','.join(map(str, config.trajectory_epochs))}"
        )
    _check_leaves(variables, len(config.seeds))
    check_copies(variables, config.seeds)
    if isinstance(network, Model):
        as_float32 = jax.tree.map(lambda a: np.asarray(a, np.float32), variables)
        fields = {name: getattr(network, name) for name in OF_NETWORKS}
        is_cnn = isinstance(network, CNN)
        fields["architecture"] = "cnn" if is_cnn else "mlp"
        fields["channels"] = network.channels if is_cnn else ()
        given = GivenNetworks(network, as_float32, digest_of(as_float32))
        return dataclasses.replace(config, **fields), given
    if "network" in {layer.name for layer in network.layers}:
        raise ValueError(
            "network: expected layers with other names than 'network', the scope of "
            "all layers"
        )
    fields = {
        "architecture": "mlp",
        "hidden": tuple(layer.num_neurons for layer in network.layers),
        "activation": threshold_activation(network),
        "dropout_rate": 0.0,
        "batch_norm": False,
        "quantizer": settled_quantizer(config.quantizer, network.layers),
    }
    layers = [(layer.name, layer.shape) for layer in network.layers]
    described = f"{layers} {network.pool}"
    # Version 2 clamped these to other means: its folders are not continued.
    if network.num_outputs > network.num_neurons or network.pool != "mean":
        described += ", clamped by outputs"
    digest = digest_of(variables, described)
    return dataclasses.replace(config, **fields), GivenNetworks(
        network, variables, digest
    )


def _check_leaves(variables: Any, num_networks: int) -> None:
    """Refuses variables that are not finite numbers of so many networks, or meet."""
    nested((names_of(path), 0) for path, _ in jax.tree.leaves_with_path(variables))
    for path, leaf in jax.tree.leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array = storable(leaf)
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
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


def digest_of(variables: Any, layers: str = "") -> str:
    """A hash of variables by name, shape and value, and of layers as text."""
    digest = hashlib.blake2b(layers.encode(), digest_size=16)
    for path, leaf in jax.tree.leaves_with_path(variables):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        array = storable(leaf)
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
