"""Trained networks that the caller of a run gives, tried before anything is computed.

Digests distinguish them from others of the same name and shape.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ioca_jax.batching import take_examples
from ioca_jax.checks import described, import_named
from ioca_jax.data import Dataset
from ioca_jax.measures.neurons import check_finite_activations, measure_neurons
from ioca_jax.networks.inputs import check_counted
from ioca_jax.networks.layers import split_by_layer
from ioca_jax.networks.models import Model, as_network
from ioca_jax.networks.network import Network
from ioca_jax.networks.trained import Trained
from ioca_jax.results.fingerprint import make_fingerprint
from ioca_jax.results.trees import names_of, nested
from ioca_jax.study.chunks import storable
from ioca_jax.study.metadata import versions

_EXAMPLES_TRIED = 1000
_EXAMPLES = 64
_MOST_LOGITS = 1000  # of a network, to compare
_ROUNDING = 1e-5  # a share of how far logits are from their mean
_PACKAGES = ("ioca_jax", "jax", "jaxlib")


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
            x, y = take_examples(tuple(data.validation), slice(_EXAMPLES_TRIED))
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
        x = take_examples(data.train.x, slice(1))
        network = as_network(self.network, x)
        network.check_variables(self.variables, num_networks)
        one = jax.tree.map(lambda leaf: leaf[0], self.variables)
        jax.eval_shape(network.apply, one, x)  # refuses examples of other shapes
        _check_tokens(network, data)
        for split in ("validation", "test"):
            check_counted(network, f"{split}.x", getattr(data, split).x)

    def take(self, all_seeds: Sequence[int], seeds: Sequence[int]) -> Trained:
        """The networks of some seeds, without a history.

        The first network stands for seeds that are not among all.
        """
        place_of = {seed: place for place, seed in enumerate(all_seeds)}
        chosen = np.array([place_of.get(seed, 0) for seed in seeds])
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), self.variables)
        return Trained(variables, np.asarray(seeds, np.int32))


def _check_tokens(network: Network, data: Dataset) -> None:
    """Refuses labels of tokens for logits of examples, the reverse, and other T."""
    if network.tokens == data.tokens:
        return
    of_data, of_network = (
        f"{tokens} tokens" if tokens else "examples"
        for tokens in (data.tokens, network.tokens)
    )
    raise ValueError(
        f"network: expected logits of {of_data}, as {data.name} has labels, got logits "
        f"of {of_network}"
    )


def check_leaves(variables: Any, num_networks: int) -> None:
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


@partial(jax.jit, static_argnames="network")
def _run(network: Network, variables: Any, x: Any) -> Any:
    return network.apply(variables, x)


def check_networks(
    network: Network, variables: Any, seeds: Sequence[int], data: Dataset
) -> None:
    """Refuses activations that are not finite, and copies of a network.

    Args:
        network: what the networks compute.
        variables: leaves begin with S.
        seeds: of the networks.
        data: whose first validation examples are tried.
    """
    logits = []
    for place, seed in enumerate(seeds):
        of_one, activations = _run(network, *_first(variables, data, place))
        check_finite_activations(network, activations, f" for seed {seed}")
        few = max(2, _MOST_LOGITS // network.num_classes)
        of_one = np.asarray(of_one, np.float64).reshape(-1, network.num_classes)
        logits.append(of_one[:few])
    _check_functions(np.nan_to_num(logits), seeds)


def _check_functions(logits: np.ndarray, seeds: Sequence[int]) -> None:
    """Refuses two networks that compute one function, by logits [S, n, C].

    Networks whose units are permuted do, up to rounding. Networks whose logits are the
    same for all examples may agree without being copies.
    """
    scales = np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=(1, 2))
    weights = np.linspace(1, 2, logits[0].size).reshape(logits[0].shape)
    order = np.argsort((logits * weights).sum(axis=(1, 2)))  # copies are neighbours
    for pair in itertools.pairwise(order.tolist()):
        one, other = sorted(pair)
        apart = np.linalg.norm(logits[one] - logits[other])
        depends = scales[one] > _ROUNDING * np.linalg.norm(logits[one])
        if depends and apart <= _ROUNDING * scales[one]:
            raise ValueError(
                "variables: expected another network for each seed, got equal logits "
                f"for seeds {seeds[one]} and {seeds[other]}, as of copies and of "
                "networks that differ in the order of their units; leave one of the "
                "two out"
            )


def check_copies(variables: Any, seeds: Sequence[int]) -> None:
    """Refuses two networks with the same variables, whose leaves begin with S."""
    seed_of: dict[bytes, int] = {}
    for place, seed in enumerate(seeds):
        digest = hashlib.blake2b(digest_size=16)
        for leaf in jax.tree.leaves(variables):
            digest.update(storable(leaf[place]).tobytes())
        other = seed_of.setdefault(digest.digest(), seed)
        if other != seed:
            raise ValueError(
                "variables: expected another network for each seed, got equal "
                f"variables for seeds {other} and {seed}; train each from a seed of "
                "its own"
            )


def _first(variables: Any, data: Dataset, place: int) -> tuple[Any, Any]:
    """The variables of a network, and the examples that it is tried on."""
    one = jax.tree.map(lambda leaf: leaf[place], variables)
    return one, take_examples(data.validation.x, slice(_EXAMPLES))


def fingerprint_of(network: Network, variables: Any, data: Dataset) -> str:
    """What the first of some networks computes, for ``results.fingerprint``.

    Args:
        network: what the networks compute.
        variables: leaves begin with S.
        data: whose first validation examples are tried.
    """
    one, x = _first(variables, data, 0)
    logits, activations = _run(network, one, x)
    device = jax.local_devices()[0].device_kind

    def with_counts(variables: Any, x: Any) -> Any:
        return network.apply(variables, x), network.counted(x)

    program = network.apply if network.pooling.counts is None else with_counts
    return make_fingerprint(
        f"{versions(_PACKAGES)} on {device}",
        _program_digest(jax.make_jaxpr(program)(one, x)),
        logits,
        split_by_layer(network.layers, activations),
    )


def _program_digest(program: ClosedJaxpr) -> str:
    """A hash of equations and constants that is the same in every process."""
    # Functions and other objects are printed with their addresses.
    text = re.sub(r"0x[0-9a-f]+", "", str(program))
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for constant in _constants(program.jaxpr, program.consts):
        array = storable(constant)
        digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def _constants(program: Jaxpr, held: Any) -> Iterator[Any]:
    """Arrays that equations hold, also those inside of other equations.

    The text of a program shows their shapes, and few of their numbers.
    """
    yield from held
    for equation in program.eqns:
        yield from (v.val for v in equation.invars if isinstance(v, Literal))
        for inner in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner, ClosedJaxpr):
                yield from _constants(inner.jaxpr, inner.consts)
            elif isinstance(inner, Jaxpr):
                yield from _constants(inner, ())
