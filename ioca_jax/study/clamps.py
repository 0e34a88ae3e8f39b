"""What ablated neurons output in a study: constants, or the outputs of donors.

Constants are computed, and donors drawn, on the measuring split; networks are ablated
on the test split.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ioca_jax.ablation.clamps import optimal_clamp
from ioca_jax.ablation.replacement import Resampled, resample
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
        clamp: constants float32 [S, A, P], or the outputs for donors.
        test: the examples to ablate the networks on.
    """

    names: tuple[str, ...]
    network: Network
    variables: Any
    clamp: Float[Array, "S A P"] | Resampled
    test: Examples

    @property
    def clamp_of_orders(self) -> Any:
        """The clamp with an axis for the orders."""
        if isinstance(self.clamp, Resampled):
            return self.clamp
        return self.clamp[:, :, None]


def constant_clamps(
    inputs: Inputs, means: Float[Array, "S P"]
) -> dict[str, Float[Array, "S P"]]:
    """By name, ``zero``, ``mean`` and those fitted constants that are asked for."""
    # A curve cannot be computed with NaN; those of diverged networks are blanked later.
    finite = jnp.where(inputs.trained.diverged[:, None], 0, means)
    found = {"zero": jnp.zeros_like(means), "mean": finite}
    for name, jointly in (("optimal", True), ("optimal_alone", False)):
        if name in inputs.plan.clamps:
            fit = _fit_all(
                inputs.network,
                inputs.trained.variables,
                finite,
                inputs.validation,
                _keys(inputs, name),
                jointly,
                inputs.plan.memory_gb,
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
    inputs: Inputs, constants: dict[str, Float[Array, "S P"]]
) -> list[Ablated]:
    """The study's networks under its clamps: one item for all constants together."""
    of_config = inputs.plan.clamps
    names = tuple(name for name in of_config if name in constants)
    found = []
    if names:
        clamps = jnp.stack([constants[name] for name in names], axis=1)
        variables = inputs.trained.variables
        found.append(Ablated(names, inputs.network, variables, clamps, inputs.test))
    return found + [_resampled(inputs, name) for name in of_config if name not in names]


def _resampled(inputs: Inputs, name: str) -> Ablated:
    """The networks with donors, one pool for each network."""
    (x, y), network, split = inputs.test, inputs.network, inputs.validation
    labels = {"y": y, "donor_labels": split.y} if name == "resample_class" else {}
    draw = partial(
        resample, network, x, split.x, per_neuron=name == "resample_neuron", **labels
    )
    keys = _keys(inputs, name)
    pools = jax.vmap(lambda key: draw(key).without_rows())(keys)
    clamp = dataclasses.replace(pools, row=draw(keys[0]).row)
    return Ablated((name,), network, inputs.trained.variables, clamp, inputs.test)


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
    places = np.array([names.index(name) for name in inputs.plan.clamps])
    parts = [jax.tree.map(np.asarray, compute(one)) for one in networks]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1)[:, places]
        for name in parts[0]
    }
