"""Activations become codes: the finite alphabet on which information is counted.

Every quantiser gives a row of edges per neuron, and an output's code is the number of
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

import dataclasses
from collections.abc import Callable, Hashable
from typing import ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.checks import (
    as_array,
    check_integer,
    check_no_nan,
    check_number,
    is_known,
    is_real,
)

DEFAULT_THRESHOLDS = {
    **dict.fromkeys(("relu", "tanh", "gelu", "gelu_exact"), 0.0),
    "sigmoid": 0.5,
}
_FORMS = "threshold, threshold:t, uniform:B, quantile:B"
_MAX_CODES = 256
_MAX_THRESHOLD = float(jnp.finfo(jnp.float32).max)


@runtime_checkable
class Quantizer(Protocol):
    """What turns a neuron's outputs into codes; ``Threshold`` and your own classes.

    It has to be hashable, as a frozen dataclass is, so that programs are compiled once
    for each quantiser. Where ``of_range`` is True, its edges are the same if they are
    given the least and the greatest outputs alone, and activations need not be held.
    """

    @property
    def num_codes(self) -> int:
        """B, at least 2."""
        ...

    def edges(self, activations: Float[Array, "N H"]) -> Float[Array, "H edges"]:
        """The B-1 edges of each neuron, ascending, from its outputs."""
        ...


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One bit: whether an output is greater than ``t``; ``threshold:t`` as text.

    Raises:
        ValueError: a ``t`` that is not a finite number of float32.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> ioca.quantize(jnp.array([[0.0], [0.4], [2.0]]), ioca.Threshold(0)).tolist()
        [[0], [1], [1]]
    """

    t: float | int
    of_range: ClassVar[bool] = True

    def __post_init__(self):
        """Checks the threshold."""
        check_number("t", self.t)
        # Plain Python, so that it can be traced.
        if abs(self.t) > _MAX_THRESHOLD:
            raise ValueError(f"t: expected a number that float32 holds, got {self.t}")
        object.__setattr__(self, "t", float(self.t))

    def __str__(self) -> str:
        return f"threshold:{self.t:g}"

    @property
    def num_codes(self) -> int:
        """2."""
        return 2

    def edges(self, activations: Float[Array, "N H"]) -> Float[Array, "H 1"]:
        """The same edge for every neuron."""
        return jnp.full((activations.shape[1], 1), self.t, activations.dtype)


@dataclasses.dataclass(frozen=True)
class _Codes:
    num_codes: int

    def __post_init__(self):
        """Checks the number of codes."""
        check_integer("num_codes", self.num_codes, least=2)
        if self.num_codes > _MAX_CODES:
            raise ValueError(
                f"num_codes: expected at most {_MAX_CODES}, got {self.num_codes}"
            )
        object.__setattr__(self, "num_codes", int(self.num_codes))

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}:{self.num_codes}"


class Uniform(_Codes):
    """Codes of equal width between a neuron's least and greatest output.

    ``uniform:B`` as text.

    Raises:
        ValueError: a number of codes that is not from 2 to 256.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> ioca.quantize(jnp.array([[0.0], [0.4], [2.0]]), ioca.Uniform(8)).tolist()
        [[0], [1], [7]]
    """

    of_range: ClassVar[bool] = True

    def edges(self, activations: Float[Array, "N H"]) -> Float[Array, "H edges"]:
        """Edges at equal distances; the range must be finite."""
        low, high = activations.min(axis=0)[:, None], activations.max(axis=0)[:, None]
        if is_known(activations) and jnp.isinf(low).any() | jnp.isinf(high).any():
            raise ValueError(
                "activations: expected finite numbers, whose range is divided, got "
                f"infinite ones; {self} has no edges for them"
            )
        shares = jnp.arange(1, self.num_codes) / self.num_codes
        # Of halves: the range itself may overflow. A half may underflow, so clip.
        return jnp.clip(2 * (low / 2 + (high / 2 - low / 2) * shares), low, high)


class Quantile(_Codes):
    """Codes of equal frequency; ``quantile:B`` as text.

    Raises:
        ValueError: a number of codes that is not from 2 to 256.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> ioca.quantize(jnp.array([[0.0], [0.4], [2.0]]), ioca.Quantile(3)).tolist()
        [[0], [1], [2]]
    """

    of_range: ClassVar[bool] = False

    def edges(self, activations: Float[Array, "N H"]) -> Float[Array, "H edges"]:
        """Edges on outputs that occur, at equal distances in rank."""
        # Interpolating between equal outputs could round below them, and a dead neuron
        # would not have code 0. Ranks are exact integers.
        number = len(activations) - 1
        ranks = np.arange(1, self.num_codes) * number // self.num_codes
        ordered = jnp.sort(activations, axis=0)  # NaN last
        return jnp.where(jnp.isnan(ordered[-1]), jnp.nan, ordered[ranks]).T


_KINDS: dict[str, Callable[[str], Quantizer]] = {
    "threshold": lambda text: Threshold(float(text)),
    "uniform": lambda text: Uniform(int(text)),
    "quantile": lambda text: Quantile(int(text)),
}


def parse_quantizer(spec: str | Quantizer, activation: str | None = None) -> Quantizer:
    """The quantiser that a text names; a quantiser as it is.

    ``threshold``, ``threshold:t``, ``uniform:B`` or ``quantile:B``, B from 2 to 256;
    ``threshold`` alone takes its t from the activation function.
    """
    if not isinstance(spec, str):
        if isinstance(spec, Quantizer) and isinstance(spec, Hashable):
            return spec
        raise ValueError(
            "quantizer: expected a text or a hashable object with num_codes and edges, "
            f"as ioca_jax.Threshold(0.5), got {spec!r}"
        )
    kind, _, argument = spec.partition(":")
    try:
        if kind == "threshold" and not argument and activation in DEFAULT_THRESHOLDS:
            return Threshold(DEFAULT_THRESHOLDS[activation])
        return _KINDS[kind](argument)
    except (KeyError, ValueError):
        raise ValueError(
            f"quantizer: expected one of {_FORMS} (t a finite number; B codes, 2 to "
            f"{_MAX_CODES}; t may be left out where the activation function is known), "
            f"got {spec!r}"
        ) from None


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
    activations: Float[ArrayLike, "N H"],
    spec: str | Quantizer,
    activation: str | None = None,
) -> Float[Array, "H edges"]:
    """The edges between a quantiser's codes, for every neuron.

    Args:
        activations: float32 [N, H] outputs of the measuring split.
        spec: ``Threshold(t)``, ``Uniform(B)``, ``Quantile(B)``, one of your own, or
            as text ``threshold``, ``threshold:t``, ``uniform:B``, ``quantile:B``.
        activation: whose threshold ``threshold`` alone takes.

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
    outputs, quantizer = (
        _checked_activations(activations),
        parse_quantizer(spec, activation),
    )
    found = quantizer.edges(outputs)
    expected = (outputs.shape[1], quantizer.num_codes - 1)
    if np.shape(found) != expected:
        raise ValueError(
            f"quantizer: expected edges of shape {list(expected)}, num_codes - 1 for "
            f"each neuron, from {quantizer}, got shape {list(np.shape(found))}"
        )
    return jnp.asarray(found, jnp.float32)


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
    activations: Float[ArrayLike, "N H"],
    spec: str | Quantizer,
    activation: str | None = None,
) -> Int[Array, "N H"]:
    """Encodes activations by a quantiser fitted to them.

    Args:
        activations: float32 [N, H].
        spec: ``Threshold(t)``, ``Uniform(B)``, ``Quantile(B)``, one of your own, or
            as text ``threshold``, ``threshold:t``, ``uniform:B``, ``quantile:B``.
        activation: whose threshold ``threshold`` alone takes.

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


def quantile_labels(
    values: Float[ArrayLike, " N"],
    num_labels: int,
    reference: Float[ArrayLike, " M"] | None = None,
) -> Int[np.ndarray, " N"]:
    """Labels of a continuous variable: groups of equal frequency, by quantiles.

    What is then measured is information about the group, not about the variable: it
    depends on the number of groups, and differences within one do not count.

    Args:
        values: [N] numbers, NaN where unknown.
        num_labels: V, the number of groups, at least 2.
        reference: [M] numbers whose quantiles are the limits of the groups, those of
            the training examples for test examples, say; None is ``values``.

    Returns:
        int32 [N] in [0, V), ascending with the value; -1 where it is NaN.

    Raises:
        ValueError: not numbers [N], none that is known, or equal ones in so many cases
            that groups are empty.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> ioca.quantile_labels(np.array([3.5, 0.1, 2.0, np.nan, 9.0]), 2).tolist()
        [1, 0, 0, -1, 1]
    """
    given, limits = (
        np.asarray(values if array is None else array) for array in (values, reference)
    )
    for name, array in (("values", given), ("reference", limits)):
        if array.ndim != 1 or array.dtype.kind not in "fiu" or np.isnan(array).all():
            raise ValueError(
                f"{name}: expected numbers [N], some of them not NaN, got "
                f"{array.dtype} of shape {list(array.shape)}"
            )
    check_integer("num_labels", num_labels, least=2)
    ordered = np.sort(limits[~np.isnan(limits)].astype(np.float64))
    edges = ordered[np.arange(1, num_labels) * (len(ordered) - 1) // num_labels]
    sizes = np.bincount(np.searchsorted(edges, ordered), minlength=num_labels)
    empty = np.count_nonzero(sizes == 0)
    if empty:
        raise ValueError(
            "num_labels: expected groups that all have values, got "
            f"{num_labels} groups of which {empty} are empty, as many values are equal "
            "or few are there; give fewer"
        )
    labels = np.searchsorted(edges, given).astype(np.int32)
    return np.where(np.isnan(given), np.int32(-1), labels)
