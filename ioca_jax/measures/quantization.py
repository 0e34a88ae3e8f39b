"""Activations become codes: the finite alphabet on which information is counted.

Every quantiser here is a row of edges per neuron, and an output's code is the number of
edges it is strictly greater than. That one rule gives:

* ``threshold:t``: one bit, on or off. The paper's quantiser: t is 0 for ReLU ("t > 0")
  and 0.5 for the sigmoid. ``threshold`` alone takes t by activation function.
* ``uniform:B``: B codes of equal width between a neuron's least and greatest output.
* ``quantile:B``: B codes of equal frequency. Entropy is then constant by construction
  (so an order by entropy is noise), except where atoms such as a ReLU's zeros make
  edges coincide; the codes between them stay empty.

Edges come from the measuring split and are kept, so that other data can be encoded by
the same quantiser. A dead neuron has coinciding edges and the single code 0. Edges of
``quantile:B`` lie on outputs that occur. Where many outputs coincide, as those of a
saturated tanh, another program, which rounds them differently, may move all of them to
the other side: count the codes of the activations that the edges come from.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.checks import as_array, check_no_nan, is_known, is_real

DEFAULT_THRESHOLDS = {
    **dict.fromkeys(("relu", "tanh", "gelu", "gelu_exact"), 0.0),
    "sigmoid": 0.5,
}
_FORMS = "threshold, threshold:t, uniform:B, quantile:B"
_MAX_CODES = 256
_MAX_THRESHOLD = float(jnp.finfo(jnp.float32).max)


class QuantizerSpec(NamedTuple):
    """A parsed quantiser; the threshold is NaN for other kinds."""

    kind: str
    threshold: float
    num_codes: int


def parse_quantizer(spec: str, activation: str | None = None) -> QuantizerSpec:
    """Parses ``threshold``, ``threshold:t``, ``uniform:B`` or ``quantile:B``.

    B is from 2 to 256; ``threshold`` alone takes its t from the activation function.
    """
    kind, _, argument = str(spec).partition(":")
    try:
        if kind == "threshold" and not argument and activation in DEFAULT_THRESHOLDS:
            return QuantizerSpec(kind, DEFAULT_THRESHOLDS[activation], 2)
        # Finite in float32, and False for NaN; plain Python, so that it can be traced.
        if kind == "threshold" and abs(float(argument)) <= _MAX_THRESHOLD:
            return QuantizerSpec(kind, float(argument), 2)
        if kind in ("uniform", "quantile") and 2 <= int(argument) <= _MAX_CODES:
            return QuantizerSpec(kind, float("nan"), int(argument))
    except ValueError:
        pass
    raise ValueError(
        f"quantizer: expected one of {_FORMS} (t a finite number; B codes, 2 to "
        f"{_MAX_CODES}; t may be left out where the activation function is known), "
        f"got {spec!r}"
    )


def _checked_activations(activations: ArrayLike) -> Float[Array, "N H"]:
    given = as_array("activations", activations)
    if not (is_real(given) or given.dtype == bool):
        raise ValueError(f"activations: expected float32 [N, H], got {given.dtype}")
    outputs = jnp.asarray(given, jnp.float32)
    if outputs.ndim != 2 or not len(outputs):
        raise ValueError(
            "activations: expected float32 [N, H] with N at least 1, got shape "
            f"{list(outputs.shape)}"
        )
    check_no_nan("activations", outputs, "look at the network")
    return outputs


def quantizer_edges(
    activations: Float[ArrayLike, "N H"], spec: str, activation: str | None = None
) -> Float[Array, "H edges"]:
    """The edges between a quantiser's codes, for every neuron.

    Args:
        activations: float32 [N, H] outputs of the measuring split.
        spec: as in ``parse_quantizer``.
        activation: as in ``parse_quantizer``.

    Returns:
        float32 [H, B-1], ascending along the last axis.

    Raises:
        ValueError: an unusable ``spec``, no examples, or a NaN; an infinite output
            where the range counts.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> outputs = jnp.array([[0.0], [0.4], [2.0]])
        >>> ioca.quantizer_edges(outputs, "uniform:4").tolist()
        [[0.5, 1.0, 1.5]]
    """
    outputs = _checked_activations(activations)
    kind, threshold, num_codes = parse_quantizer(spec, activation)
    if kind == "threshold":
        return jnp.full((outputs.shape[1], 1), threshold, outputs.dtype)
    shares = jnp.arange(1, num_codes) / num_codes
    if kind == "uniform":
        low, high = outputs.min(axis=0)[:, None], outputs.max(axis=0)[:, None]
        if is_known(outputs) and jnp.isinf(low).any() | jnp.isinf(high).any():
            raise ValueError(
                "activations: expected finite numbers, whose range is divided, got "
                f"infinite ones; {spec} has no edges for them"
            )
        # Of halves: the range itself may overflow. A half may underflow, so clip.
        return jnp.clip(2 * (low / 2 + (high / 2 - low / 2) * shares), low, high)
    # Edges are outputs that occur: interpolating between equal ones could round below
    # them, and a dead neuron would not have code 0. Their ranks are exact integers.
    ranks = np.arange(1, num_codes) * (len(outputs) - 1) // num_codes
    ordered = jnp.sort(outputs, axis=0)  # NaN last
    return jnp.where(jnp.isnan(ordered[-1]), jnp.nan, ordered[ranks]).T


def encode(
    activations: Float[ArrayLike, "N H"], edges: Float[ArrayLike, "H edges"]
) -> Int[Array, "N H"]:
    """The code of every output: how many edges it is strictly greater than.

    Args:
        activations: float32 [N, H].
        edges: float32 [H, B-1] out of ``quantizer_edges``.

    Returns:
        int32 [N, H] in [0, B).

    Raises:
        ValueError: a NaN, edges of another number of neurons, or not ascending.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> outputs, edges = jnp.array([[0.0], [0.5], [3.0]]), jnp.array([[0.5, 1.0]])
        >>> ioca.encode(outputs, edges).tolist()
        [[0], [0], [2]]
    """
    outputs = _checked_activations(activations)
    given = as_array("edges", edges)
    if not is_real(given):
        raise ValueError(f"edges: expected float32 [H, B-1], got {given.dtype}")
    if given.ndim != 2 or len(given) != outputs.shape[1]:
        raise ValueError(
            f"edges: expected shape [{outputs.shape[1]}, B-1], those of each neuron, "
            f"got {list(given.shape)}"
        )
    check_no_nan("edges", given, "look at the network")
    # By NumPy: others may be traced.
    if is_known(given) and (np.diff(np.asarray(given, np.float64)) < 0).any():
        raise ValueError(
            "edges: expected them ascending for each neuron, got others; take those of "
            "quantizer_edges, or sort them"
        )
    return jnp.sum(outputs[:, :, None] > jnp.asarray(given), axis=-1, dtype=jnp.int32)


def quantize(
    activations: Float[ArrayLike, "N H"], spec: str, activation: str | None = None
) -> Int[Array, "N H"]:
    """Encodes activations by a quantiser fitted to them.

    Args:
        activations: float32 [N, H].
        spec: as in ``parse_quantizer``.
        activation: as in ``parse_quantizer``.

    Returns:
        int32 [N, H] in [0, B).

    Raises:
        ValueError: as ``quantizer_edges``.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> ioca.quantize(jnp.array([[0.0], [0.4], [2.0]]), "threshold:0").tolist()
        [[0], [1], [1]]
    """
    return encode(activations, quantizer_edges(activations, spec, activation))
