"""Joint counts become bits: entropy, mutual information, Kullback-Leibler selectivity.

All three are plug-in values: the joint law is the empirical one (arXiv 1804.06679,
section III). A measure sees counts and nothing else, so it is tested with hand-made
tables. ``0 log 0 = 0``: empty codes and absent classes contribute nothing, and a dead
neuron has entropy 0 and mutual information 0 exactly.

Limits: the plug-in mutual information of N examples is too high by about
``(B-1)(C-1) / (2 N ln 2)`` bits, 6.5e-4 for one bit, ten classes and N = 10,000. KL
selectivity favours rare classes: its ceiling is ``log2(1 / min_y P(y))``.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int


def entropy(counts: Int[ArrayLike, "*batch B C"]) -> Float[Array, "*batch"]:
    """Entropy of a neuron's code.

    ``H(T) = - sum_t P(t) log2 P(t)``

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [0, log2 B]; 0 where nothing was counted.
    """
    of_code, _ = _probabilities(jnp.asarray(counts))
    return jnp.maximum(-jnp.sum(_x_log2_ratio(of_code, 1.0), axis=-1), 0)


def mutual_information(counts: Int[ArrayLike, "*batch B C"]) -> Float[Array, "*batch"]:
    """Mutual information between a neuron's code and the class.

    ``I(T;Y) = H(T) - H(T|Y) = sum_y P(y) D(P(T|Y=y) || P(T))``

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [0, min(H(T), H(Y))].
    """
    table = jnp.asarray(counts)
    of_class = table.sum(axis=-2).astype(jnp.float32)
    weights = of_class / jnp.maximum(of_class.sum(axis=-1, keepdims=True), 1)
    return jnp.sum(weights * class_divergences(table), axis=-1)


def kl_selectivity(counts: Int[ArrayLike, "*batch B C"]) -> Float[Array, "*batch"]:
    """Kullback-Leibler selectivity: how far one class moves the neuron's code.

    ``max_y D(P(T|Y=y) || P(T))``, over the classes that occur.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [...], bits, in [I(T;Y), log2(1 / min_y P(y))].
    """
    return jnp.max(class_divergences(counts), axis=-1)


def class_divergences(
    counts: Int[ArrayLike, "*batch B C"],
) -> Float[Array, "*batch C"]:
    """``D(P(T|Y=y) || P(T))`` for every class y.

    Args:
        counts: int32 [..., B, C] joint counts of code and class.

    Returns:
        float32 [..., C], bits, not negative; 0 for a class that does not occur.
    """
    of_code, given_class = _probabilities(jnp.asarray(counts))
    terms = _x_log2_ratio(given_class, of_code[..., None])
    return jnp.maximum(jnp.sum(terms, axis=-2), 0)


def _probabilities(counts: Array) -> tuple[Array, Array]:
    """P(t) [..., B] and P(t|y) [..., B, C]; zeros where nothing was counted."""
    of_class = counts.sum(axis=-2, keepdims=True).astype(jnp.float32)
    of_code = counts.sum(axis=-1).astype(jnp.float32)
    total = of_code.sum(axis=-1, keepdims=True)
    given_class = counts.astype(jnp.float32) / jnp.maximum(of_class, 1)
    return of_code / jnp.maximum(total, 1), given_class


def _x_log2_ratio(x: Array, y: Array | float) -> Array:
    """``x log2(x / y)``, 0 where x is 0 (there y may be 0 too)."""
    occurs = x > 0
    ratio = jnp.where(occurs, x, 1) / jnp.where(occurs, y, 1)
    return jnp.where(occurs, x * jnp.log2(ratio), 0)


MEASURES = {
    "entropy": entropy,
    "mutual_information": mutual_information,
    "kl_selectivity": kl_selectivity,
}
