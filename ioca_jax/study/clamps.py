"""What ablated neurons output in a study: constants, or the outputs of donors.

Constants are computed, and donors drawn, on the measuring split; networks are ablated
on the test split.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ioca_jax.ablation.clamps import optimal_clamp
from ioca_jax.ablation.donors import (
    ResampledNetwork,
    check_donors,
    draw_donors,
    number_donors,
    pool_size,
)
from ioca_jax.networks.network import Network
from ioca_jax.study.config import CLAMPS
from ioca_jax.study.inputs import Examples, Inputs

_FIRST_KEY = 1_000_000  # beyond the keys of scopes' orders


class Ablated(NamedTuple):
    """Networks that are ablated in the same way.

    Attributes:
        names: of the clamps, A of them.
        network: the networks' shape.
        variables: leaves begin with S.
        clamps: float32 [S, A, H]; not used where there are donors.
        test: the examples to ablate the networks on.
    """

    names: tuple[str, ...]
    network: Network
    variables: Any
    clamps: Float[Array, "S A H"]
    test: Examples


def constant_clamps(
    inputs: Inputs, means: Float[Array, "S H"]
) -> dict[str, Float[Array, "S H"]]:
    """By name, ``zero``, ``mean`` and those fitted constants that are asked for."""
    # A curve cannot be computed with NaN; those of diverged networks are blanked later.
    finite = jnp.where(inputs.trained.diverged[:, None], 0, means)
    found = {"zero": jnp.zeros_like(means), "mean": finite}
    for name, jointly in (("optimal", True), ("optimal_alone", False)):
        if name in inputs.config.clamps:
            fit = _fit_all(
                inputs.network,
                inputs.trained.variables,
                finite,
                inputs.validation,
                _keys(inputs, name),
                jointly,
                inputs.config.memory_gb,
            )
            found[name] = jnp.nan_to_num(fit)
    return found


@partial(jax.jit, static_argnames=("network", "jointly", "memory_gb"))
def _fit_all(network, variables, means, split, keys, jointly, memory_gb):
    def fit(arrays):
        variables, means, key = arrays
        x, y = split
        return optimal_clamp(
            *(network, variables, means, x, y, key),
            jointly=jointly,
            memory_gb=memory_gb,
        )

    return jax.lax.map(fit, (variables, means, keys))


def ablated_networks(
    inputs: Inputs, constants: dict[str, Float[Array, "S H"]]
) -> list[Ablated]:
    """The study's networks under its clamps: one item for all constants together."""
    of_config = inputs.config.clamps
    names = tuple(name for name in of_config if name in constants)
    found = []
    if names:
        clamps = jnp.stack([constants[name] for name in names], axis=1)
        variables = inputs.trained.variables
        found.append(Ablated(names, inputs.network, variables, clamps, inputs.test))
    return found + [_resampled(inputs, name) for name in of_config if name not in names]


def _resampled(inputs: Inputs, name: str) -> Ablated:
    """The networks with donors, one pool for each network."""
    (x, y), network = inputs.test, inputs.network
    by_class, donors = name == "resample_class", inputs.validation.x
    labels = inputs.validation.y if by_class else None
    own = y if by_class else None
    staged = check_donors(network, x, donors, own, labels)
    size = pool_size(len(donors), network.num_classes, by_class=by_class)
    turn = size if name == "resample_neuron" else 0
    draw = jax.vmap(partial(draw_donors, network, donors, labels, size))
    pools = draw(_keys(inputs, name))
    num_networks = len(inputs.trained.seeds)
    return Ablated(
        (name,),
        ResampledNetwork(staged, x.shape[1:], turn),
        {"network": inputs.trained.variables, **pools},
        jnp.zeros((num_networks, 1, network.num_neurons)),
        Examples(number_donors(x, own, size), y),
    )


def _keys(inputs: Inputs, name: str) -> Array:
    """A key for each network; other clamps and orders have others."""
    number = _FIRST_KEY + CLAMPS.index(name)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), number))(
        inputs.seeds
    )


def over_clamps(
    inputs: Inputs,
    networks: list[Ablated],
    compute: Callable[[Ablated], dict[str, Any]],
) -> dict[str, np.ndarray]:
    """Results [S, A, ...] of all ways to ablate, A as the configuration has them."""
    names = [name for one in networks for name in one.names]
    places = np.array([names.index(name) for name in inputs.config.clamps])
    parts = [jax.tree.map(np.asarray, compute(one)) for one in networks]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1)[:, places]
        for name in parts[0]
    }
