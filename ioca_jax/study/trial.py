"""Networks that are given, tried on a few examples before anything is computed."""

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ioca_jax.data import Dataset
from ioca_jax.networks.network import Network, split_by_layer
from ioca_jax.results.fingerprint import make_fingerprint
from ioca_jax.study.chunks import storable
from ioca_jax.study.metadata import versions

_EXAMPLES = 64
_PACKAGES = ("ioca_jax", "jax", "jaxlib")


@partial(jax.jit, static_argnames="network")
def _run(network: Network, variables: Any, x: Any) -> Any:
    return network.apply(variables, x)


def fingerprint_of(network: Network, variables: Any, data: Dataset) -> str:
    """What the first of some networks computes, for ``results.fingerprint``.

    Args:
        network: what the networks compute.
        variables: leaves begin with S.
        data: whose first validation examples are tried.
    """
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    x = data.validation.x[:_EXAMPLES]
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
