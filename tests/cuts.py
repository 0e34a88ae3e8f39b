"""Networks with copies that have masks written into them.

A ``cut`` is called by hand at each layer's place, ``cut(name, value, axis)``, and
returns what the next layer receives; ``axis`` is the neurons'.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Cut = Callable[..., jax.Array]  # of a name, a value and an axis, the last if left out


def no_cut(name: str, value: jax.Array, axis: int = -1) -> jax.Array:
    del name, axis
    return value


class Case(NamedTuple):
    apply: Callable[[Any, Any], Any]  # the network, as its author wrote it
    by_hand: Callable[[Cut, Any, Any], Any]  # cut, variables, x -> logits
    variables: Any
    x: np.ndarray
    shapes: dict[str, tuple[int, ...]]  # activation shapes by name, in order
    layers: list[str] | None = None
    affine: tuple[str, ...] = ()


def clamping(keep: Mapping[str, Any], clamp: Mapping[str, Any]) -> Cut:
    """A cut that ablates; neurons are one axis, an array per layer [num_neurons]."""

    def cut(name: str, value: jax.Array, axis: int = -1) -> jax.Array:
        if name not in keep:
            return value
        shape = [1] * value.ndim
        shape[axis] = -1
        mask, constant = (jnp.reshape(a[name], shape) for a in (keep, clamp))
        return jnp.where(mask, value, constant)

    return cut


def moved(variables: Any, seed: int = 0) -> Any:
    """Variables none of which is at its initial value; variances stay positive."""
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    noisy = [
        leaf if leaf.ndim > 1 else leaf + rng.uniform(0, 0.5, leaf.shape)
        for leaf in leaves
    ]
    noisy = [
        jnp.asarray(new, leaf.dtype) for new, leaf in zip(noisy, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def perturbed(variables: Any, name: str) -> Any:
    """Variables of which one leaf is another."""

    def change(path, leaf):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        if path != name:
            return leaf
        noise = 0.3 * np.sin(1 + np.arange(leaf.size)).reshape(leaf.shape)
        return np.asarray(leaf) + noise.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(change, variables)
