"""Resample ablation: an ablated neuron outputs what it outputs for another example.

``resample`` wraps a network so that every engine for networks that run in parts can
ablate it so. The wrapped network takes a pool of donors as variables, and examples that
carry the number of their donor as one more value; an ablation's clamp is not used.

Source: the resample ablation of L. Chan et al., "Causal scrubbing", 2022; M. Li and L.
Janson, arXiv 2409.09951, compare it with constants.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Num

from ioca_jax.ablation.wrapped import WrappedNetwork, carry, split
from ioca_jax.checks import check_finite, check_labels, is_known
from ioca_jax.networks.inputs import check_scaled
from ioca_jax.networks.network import (
    Ablation,
    Layer,
    Network,
    StagedNetwork,
    Values,
    pool_activations,
    slices_of,
)

# A number of a donor then fits into one value of an example of any type, uint8 too.
_MOST_DONORS = 256


class Resampled(NamedTuple):
    """Arguments of ``evaluate_masks``, ``ablation_curve`` and the like.

    Attributes:
        network: the wrapped network.
        variables: those of the network, and its donors.
        x: [N, D+1], the examples, flattened, and the number of each one's donor.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, donors = jax.random.normal(jax.random.key(0), (2, 40, 4))
        >>> variables, y = model.init(jax.random.key(1), x), jnp.arange(40) % 2
        >>> resampled = ioca.resample(model, variables, x, donors, jax.random.key(2))
        >>> resampled.network.num_neurons, resampled.x.shape
        (5, (40, 5))
    """

    network: "ResampledNetwork"
    variables: dict[str, Any]
    x: Num[Array, "N values"]


def resample(
    network: Network,
    variables: Any,
    x: Num[ArrayLike, "N *features"],
    donors: Num[ArrayLike, "D *features"],
    key: Array,
    *,
    per_neuron: bool = False,
    y: Int[ArrayLike, " N"] | None = None,
    donor_labels: Int[ArrayLike, " D"] | None = None,
) -> Resampled:
    """Lets ablated neurons output what they output for a randomly drawn donor.

    The mean over examples and donors is estimated by one donor for each example, out
    of a pool of at most 256. All ablated neurons of an example share its donor, which
    keeps their dependence, unless ``per_neuron``. The cost is that of a network of
    which every neuron is recomputed: an ``MLP`` loses its faster engines.

    Args:
        network: the network, an ``MLP``, a ``CNN`` or one of ``trace_network``.
        variables: the variables of one network.
        x: [N, ...] examples to ablate the network on.
        donors: [D, ...] examples to take outputs from, as the measuring split.
        key: decides who is in the pool.
        per_neuron: each neuron has a donor of its own, which takes the neurons'
            dependence away.
        y: int32 [N] classes; with ``donor_labels`` an example's donor is of its class.
        donor_labels: int32 [D] classes of the donors.

    Returns:
        The wrapped network, its variables and its examples; hand it any finite clamp.

    Raises:
        ValueError: a network that does not run in parts, donors of another shape or
            not finite, labels that are not classes, one for each, or an example of a
            class that no donor has.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, donors = jax.random.normal(jax.random.key(0), (2, 40, 4))
        >>> variables, y = model.init(jax.random.key(1), x), jnp.arange(40) % 2
        >>> resampled = ioca.resample(model, variables, x, donors, jax.random.key(2))
        >>> network, variables, x = resampled
        >>> order, clamp = jnp.array([0, 4]), jnp.zeros(5)  # any finite clamp
        >>> curve = ioca.ablation_curve(network, variables, order, clamp, x, y)
        >>> curve.accuracy.shape
        (3,)
    """
    x, donors = jnp.asarray(x), jnp.asarray(donors)
    staged = check_donors(network, x, donors, y, donor_labels)
    size = pool_size(len(donors), network.num_classes, by_class=y is not None)
    wrapped = ResampledNetwork(staged, x.shape[1:], size if per_neuron else 0)
    pool = draw_donors(network, donors, donor_labels, size, key)
    return Resampled(wrapped, {"network": variables, **pool}, number_donors(x, y, size))


def pool_size(num_donors: int, num_classes: int, *, by_class: bool) -> int:
    """How many donors an example has to be given one of; by class, of its class."""
    if by_class:
        return max(1, _MOST_DONORS // num_classes)
    return min(num_donors, _MOST_DONORS)


def number_donors(x: Array, y: ArrayLike | None, size: int) -> Num[Array, "N values"]:
    """Examples, flattened, and the number of each one's donor in a pool.

    Donors are numbered in turn: the pool is in random order.
    """
    donor = jnp.arange(len(x)) % size
    if y is not None:
        donor += jnp.asarray(y, jnp.int32) * size
    return jnp.concatenate([x.reshape(len(x), -1), donor[:, None].astype(x.dtype)], 1)


def draw_donors(
    network: Network, donors: Array, labels: ArrayLike | None, size: int, key: Array
) -> dict[str, Array]:
    """A pool of donors, by class if labels are given, and the neurons' shifts in it."""
    pool_key, shift_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, (network.num_neurons,), 0, size)
    mixed = jax.random.permutation(pool_key, len(donors))
    if labels is None:
        return {"donors": donors[mixed[:size]], "shift": shift}
    labels = jnp.asarray(labels)[mixed]
    number = jnp.zeros(network.num_classes, jnp.int32).at[labels].add(1)
    first = jnp.cumsum(number) - number
    turn = jnp.arange(size) % jnp.maximum(number, 1)[:, None]
    rows = mixed[jnp.argsort(labels)][first[:, None] + turn]
    return {"donors": donors[rows.ravel()], "shift": shift}


def check_donors(
    network: Network,
    x: ArrayLike,
    donors: ArrayLike,
    y: ArrayLike | None,
    donor_labels: ArrayLike | None,
) -> StagedNetwork:
    """Refuses what ``resample`` refuses, and returns the network."""
    if not isinstance(network, StagedNetwork):
        raise ValueError(
            "resample: needs a network that runs in parts, as MLP and those of "
            f"trace_network do; this network is a {type(network).__name__}"
        )
    if np.shape(x)[1:] != np.shape(donors)[1:] or not np.shape(donors)[0]:
        raise ValueError(
            f"donors: expected one or more examples of shape {list(np.shape(x)[1:])}, "
            f"got shape {list(np.shape(donors))}"
        )
    for name, array in (("x", x), ("donors", donors)):
        check_finite(name, array, "leave such examples out")
        check_scaled(network, name, array)
    if (y is None) != (donor_labels is None):
        raise ValueError("y, donor_labels: expected both or none, got one")
    for name, labels, of in (("y", y, x), ("donor_labels", donor_labels, donors)):
        if labels is not None:
            check_labels(labels, network.num_classes, np.shape(of)[0], name=name)
    missing = []
    if y is not None and donor_labels is not None and is_known(y):
        missing = np.setdiff1d(y, donor_labels) if is_known(donor_labels) else []
    if len(missing):
        raise ValueError(
            "donor_labels: expected a donor of every class, got none of class "
            f"{', '.join(map(str, missing))}"
        )
    return network


@dataclasses.dataclass(frozen=True)
class ResampledNetwork(WrappedNetwork):
    """A network whose ablated neurons output what they output for a donor.

    An ablation's clamp is not used.

    Attributes:
        network: the network that is wrapped.
        example_shape: of an example without its donor's number.
        turn: with a donor for each neuron, the length of the part of the pool in which
            a neuron's donor is ``shift`` places from the example's; 0 without.
    """

    example_shape: tuple[int, ...]
    turn: int

    def first_values(self, variables: Any, x: ArrayLike) -> Values:
        """What the donors' neurons output is carried along."""
        x = jnp.asarray(x)
        examples = x[:, :-1].reshape(len(x), *self.example_shape)
        inner = self.network.prefix(variables["network"], examples, 0)
        donors = self._donor_outputs(variables, x[:, -1].astype(jnp.int32))
        return carry(inner, tuple(donors))

    def advance(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> Values:
        """As ``StagedNetwork``."""
        inner, donors = self._ablated(layer, values, ablation)
        inner = self.network.advance(variables["network"], layer, inner)
        return carry(inner, donors[1:])

    def above(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> tuple[Array, Array]:
        """As ``StagedNetwork``."""
        last, activations = len(self.layers) - 1, []
        pool = getattr(self.network, "pool", "mean")
        for index in range(layer, last):
            inner, _ = self._ablated(index, values, ablation)
            activations.append(
                pool_activations(self.layers[index], inner.outputs, pool)
            )
            values = self.advance(variables, index, values, ablation)
        inner, _ = self._ablated(last, values, ablation)
        logits, of_last = self.network.above(variables["network"], last, inner)
        return logits, jnp.concatenate([*activations, of_last], axis=1)

    def _ablated(
        self, layer: int, values: Values, ablation: Ablation | None
    ) -> tuple[Values, tuple[Array, ...]]:
        """The wrapped network's values with a layer ablated, and what donors output."""
        inner, donors = split(values, len(self.layers) - layer)
        if ablation is None:
            return inner, donors
        keep = jnp.asarray(ablation.keep)[slices_of(self.layers)[layer]]
        vector = [1] * len(self.layers[layer].vector)
        outputs = jnp.where(keep.reshape(-1, *vector), inner.outputs, donors[0])
        return dataclasses.replace(inner, outputs=outputs), donors

    def _donor_outputs(self, variables: Any, donor: Array) -> list[Array]:
        """What each layer outputs for every example's donor, [N, *layer.shape]."""
        values = self.network.prefix(variables["network"], variables["donors"], 0)
        found = []
        for index, (layer, where) in enumerate(
            zip(self.layers, slices_of(self.layers), strict=True)
        ):
            if index:
                values = self.network.advance(variables["network"], index - 1, values)
            if self.turn:
                of_neurons = self._of_neurons(donor, variables["shift"][where])
                found.append(_take_by_neuron(layer, values.outputs, of_neurons))
            else:
                found.append(values.outputs[donor])
        return found

    def _of_neurons(self, donor: Array, shift: Array) -> Int[Array, "N n"]:
        """The donor of each neuron: the example's, moved in its part of the pool."""
        start = donor // self.turn * self.turn
        return start[:, None] + (donor[:, None] + shift) % self.turn


def _take_by_neuron(layer: Layer, outputs: Array, donors: Int[Array, "N n"]) -> Array:
    """Outputs [D, *layer.shape] of each neuron's own donor, [N, *layer.shape]."""
    positions, width = math.prod(layer.positions), layer.num_neurons
    of_pool = outputs.reshape(len(outputs), positions, width, -1)
    taken = of_pool[donors, :, jnp.arange(width)]  # [N, n, positions, vector]
    return jnp.moveaxis(taken, 1, 2).reshape(len(donors), *layer.shape)
