"""Networks that are given, tried on a few examples before anything is computed."""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ioca_jax.data import Dataset
from ioca_jax.measures.neurons import check_finite_activations
from ioca_jax.networks.layers import split_by_layer
from ioca_jax.networks.network import Network
from ioca_jax.results.fingerprint import make_fingerprint
from ioca_jax.study.chunks import storable
from ioca_jax.study.metadata import versions

_EXAMPLES = 64
_MOST_LOGITS = 1000  # of a network, to compare
_ROUNDING = 1e-5  # a share of how far logits are from their mean
_PACKAGES = ("ioca_jax", "jax", "jaxlib")


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
        logits.append(np.asarray(of_one[:few], np.float64))
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
    return one, data.validation.x[:_EXAMPLES]


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
    return make_fingerprint(
        f"{versions(_PACKAGES)} on {device}",
        _program_digest(jax.make_jaxpr(network.apply)(one, x)),
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
