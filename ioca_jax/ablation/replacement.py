"""What an ablated neuron outputs instead: constants, or its outputs for a donor.

Constants are one number for every neuron, or for every number that it outputs. Under
resample ablation an ablated neuron outputs what it outputs for another example, its
donor. Both are arguments of every function that takes a ``clamp``. Engines follow three
steps: ``of_network`` prepares what one network needs, ``of_examples`` what a chunk of
examples needs, and ``at`` gives the clamp of an ``Ablation``.

Source: the resample ablation of L. Chan et al., "Causal scrubbing", 2022; M. Li and L.
Janson, arXiv 2409.09951, compare it with constants.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.batching import count_examples, take_examples
from ioca_jax.checks import (
    as_array,
    check_clamp,
    check_finite,
    check_labels,
    check_same_number,
    device_examples,
    is_known,
    named_arrays,
)
from ioca_jax.host_arrays import AnyArray, host_view, module_of
from ioca_jax.networks.inputs import check_counted, check_scaled
from ioca_jax.networks.layers import Layer, neuron_outputs, slices_of
from ioca_jax.networks.models import as_network
from ioca_jax.networks.network import Network

_MOST_DONORS = 256  # each is run with every chunk of networks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constants:
    """Constants float32 [..., P], one for every number that a neuron outputs."""

    values: Any  # an array, or what stands for one while JAX lowers a program

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.values)

    def of_network(self, network: Network, variables: Any) -> "Constants":
        """The same for every network."""
        del network, variables
        return self

    def of_examples(self, row: Array | None) -> "Constants":
        """The same for every example."""
        del row
        return self

    def at(self, *index: Any) -> Float[Array, " P"]:
        """Those of one curve or mask."""
        return self.values[index]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resampled:
    """The outputs for donors; made by ``resample``, an argument as a clamp is.

    Attributes:
        donors: [D, ...] examples; under many networks [S, D, ...], a pool for each.
        shift: int32 [H], how many places a neuron's donor is from the example's; [S, H]
            for many networks; not used unless ``turn``.
        row: int32 [N], each example's donor.
        turn: with a donor for each neuron, the length of the part of the pool in which
            donors are shifted; 0 without.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, donors = jax.random.normal(jax.random.key(0), (2, 40, 4))
        >>> ioca.resample(model, x, donors, jax.random.key(2)).row.shape
        (40,)
    """

    donors: Any
    shift: Any
    row: Any
    turn: int = dataclasses.field(metadata={"static": True})

    @property
    def number(self) -> int:
        """How many replacements there are."""
        return 1

    def without_rows(self) -> "Resampled":
        """The pool alone: the rows travel with the examples."""
        return dataclasses.replace(self, row=None)

    def for_one_network(self) -> "Resampled":
        """The same with an axis of one network before the pool's others."""
        return dataclasses.replace(
            self,
            donors=jax.tree.map(lambda leaf: leaf[None], self.donors),
            shift=self.shift[None],
        )

    def of_network(self, network: Network, variables: Any) -> "_DonorOutputs":
        """What all neurons output for all donors."""
        _, outputs = network.outputs(variables, self.donors)
        outputs = network.pooling.at_counted(network.layers, outputs, self.donors)
        return _DonorOutputs(outputs, self.shift, network, self.turn)


@dataclasses.dataclass(frozen=True)
class _DonorOutputs:
    """Outputs [D, *layer.shape] by layer."""

    outputs: Mapping[str, Array]
    shift: Int[Array, " H"]
    network: Network
    turn: int

    def of_examples(self, row: Int[Array, " n"]) -> "_Given":
        """The donors' outputs for each example, [n, *layer.shape]."""
        found = {}
        parts = slices_of(self.network.layers)
        for layer, where in zip(self.network.layers, parts, strict=True):
            outputs = self.outputs[layer.name]
            if self.turn:
                donors = self._of_neurons(row, self.shift[where])
                found[layer.name] = _take_by_neuron(layer, outputs, donors)
            else:
                found[layer.name] = outputs[row]
        return _Given(found)

    def _of_neurons(self, row: Array, shift: Array) -> Int[Array, "n w"]:
        """The donor of each neuron: the example's, moved in its part of the pool."""
        start = row // self.turn * self.turn
        return start[:, None] + (row[:, None] + shift) % self.turn


@dataclasses.dataclass(frozen=True)
class _Given:
    """Clamps [n, *layer.shape] by layer, the same for all curves."""

    outputs: Mapping[str, Array]

    def at(self, *index: Any) -> Mapping[str, Array]:
        del index
        return self.outputs


def _take_by_neuron(layer: Layer, outputs: Array, donors: Int[Array, "n w"]) -> Array:
    """Outputs [D, *layer.shape] of each neuron's own donor, [n, *layer.shape]."""
    positions, width = math.prod(layer.positions), layer.num_neurons
    of_pool = outputs.reshape(len(outputs), positions, width, -1)
    taken = of_pool[donors, :, jnp.arange(width)]  # [n, w, positions, vector]
    return jnp.moveaxis(taken, 1, 2).reshape(len(donors), *layer.shape)


def constants_of(network: Network, clamp: Any) -> Float[AnyArray, "*batch P"]:
    """Clamps as one number for every number that a neuron outputs.

    Args:
        network: the network.
        clamp: one number, float32 [..., H] or [..., P]; or a mapping from all layers'
            names to one number, [..., num_neurons] or [..., num_neurons, *vector].

    Returns:
        float32 [..., P]; [P] of one number.

    Raises:
        ValueError: anything else.
    """
    of_output = neuron_outputs(network.layers)
    if isinstance(clamp, Mapping):
        clamp = _joined(network, clamp)
    check_clamp(clamp, network.num_neurons, num_outputs=len(of_output))
    clamp = host_view(as_array("clamp", clamp))
    module = module_of(clamp)
    clamp = module.asarray(clamp, np.float32)
    if clamp.ndim == 0:
        return module.full(len(of_output), clamp)
    return clamp if clamp.shape[-1] == len(of_output) else clamp[..., of_output]


def donors_rows(
    clamp: Resampled, network: Network, num_examples: int, num_networks: int | None
) -> Array:
    """The rows of the examples' donors, of a resampling that fits.

    Args:
        clamp: with an axis S before ``donors`` and ``shift`` for many networks.
        network: the network.
        num_examples: N.
        num_networks: S; None for one network.

    Raises:
        ValueError: made for other examples, another network, or other networks.
    """
    if jnp.shape(clamp.row) != (num_examples,):
        raise ValueError(
            f"clamp: expected a donor for each of {num_examples} examples, got "
            f"{jnp.size(clamp.row)}; call resample with these examples"
        )
    leading = () if num_networks is None else (num_networks,)
    wanted, got = [*leading, network.num_neurons], [*jnp.shape(clamp.shift)]
    donors = jnp.shape(jax.tree.leaves(clamp.donors)[0])
    if got != wanted or donors[: len(leading)] != leading:
        raise ValueError(
            f"clamp: expected a resampling with shift {wanted}, a place for each "
            f"neuron, got {got}; call resample with this network, and put an axis of "
            "networks before donors and shift where there are many"
        )
    return clamp.row


def of_networks(
    network: Network, variables: Any, clamp: Any, num_examples: int
) -> tuple[Constants | Resampled, Array | None, tuple[int, ...]]:
    """Replacements of many networks, [S, A, ...].

    Args:
        network: the networks' shape.
        variables: leaves begin with S.
        clamp: float32 [S, ..., H] or [S, ..., P]; or what ``resample`` returns, with an
            axis S before ``donors`` and ``shift``.
        num_examples: N.

    Returns:
        Replacements, the rows of the examples' donors (None for constants), and the
        axes [S, ...] of results: [S, 1] for donors.

    Raises:
        ValueError: a clamp that is not for each network, or variables of other ones.
    """
    number = jnp.shape(jax.tree.leaves(variables)[0])[0]
    network.check_variables(variables, number)
    if isinstance(clamp, Resampled):
        row = donors_rows(clamp, network, num_examples, number)
        return clamp.without_rows(), row, (number, 1)
    clamps = constants_of(network, clamp)
    if np.ndim(clamp) < 2 or len(clamps) != number:
        first = "S" if np.ndim(clamp) < 2 else number
        raise ValueError(
            f"clamp: expected float32 [{first}, ..., {network.num_neurons}], a value "
            "for each hidden neuron of each network, got shape "
            f"{list(np.shape(clamp))}"
        )
    flat = Constants(clamps.reshape(number, -1, clamps.shape[-1]))
    return flat, None, clamps.shape[:-1]


def _joined(network: Network, clamp: Mapping[str, ArrayLike]) -> Array:
    """Clamps by layer, side by side [..., P]."""
    names = [layer.name for layer in network.layers]
    if {*clamp} != {*names}:
        raise ValueError(
            f"clamp: expected a number or array for each of {', '.join(names)}, got "
            f"{', '.join(clamp) or 'none'}"
        )
    parts = []
    for layer in network.layers:
        part, full = jnp.asarray(clamp[layer.name]), (layer.num_neurons, *layer.vector)
        axes = len(full) if part.shape[-len(full) :] == full else min(part.ndim, 1)
        if part.shape[part.ndim - axes :] not in (full, (layer.num_neurons,), ()):
            raise ValueError(
                f"clamp: expected one number, [..., {layer.num_neurons}] or [..., "
                f"{', '.join(map(str, full))}] for {layer.name}, got {list(part.shape)}"
            )
        leading = part.shape[: part.ndim - axes]
        if axes == 1:
            part = part.reshape(*leading, -1, *[1] * len(layer.vector))
        part = jnp.broadcast_to(part, (*leading, *full))
        parts.append(part.reshape(*leading, -1))
    leading = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    parts = [jnp.broadcast_to(part, (*leading, part.shape[-1])) for part in parts]
    return jnp.concatenate(parts, axis=-1)


def resample(
    network: Any,
    x: Any,
    donors: Any,
    key: Array,
    *,
    per_neuron: bool = False,
    y: Int[ArrayLike, " N"] | None = None,
    donor_labels: Int[ArrayLike, " D"] | None = None,
) -> Resampled:
    """Lets ablated neurons output what they output for a randomly drawn donor.

    The mean over examples and donors is estimated by one donor for each example, out
    of a pool of at most 256 (with labels, 256 over the number of classes, at least one,
    for each class). All ablated neurons of an example share its donor, which keeps
    their dependence, unless ``per_neuron``. Every neuron above an ablated one is
    computed anew: the engines for constants, which are faster, do not apply.

    Args:
        network: the network.
        x: [N, ...] the examples that the network will be ablated on.
        donors: [D, ...] examples to take outputs from, as the measuring split. Where
            the network has ``counts``, the positions of a donor that count take turns.
        key: decides who is in the pool.
        per_neuron: each neuron has a donor of its own, which takes the neurons'
            dependence away.
        y: int32 [N] classes; with ``donor_labels`` an example's donor is of its class.
        donor_labels: int32 [D] classes of the donors.

    Returns:
        What to hand as the clamp, with just these examples.

    Raises:
        ValueError: donors of another shape or not finite, labels that are not classes,
            one for each, or an example of a class that no donor has.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, donors = jax.random.normal(jax.random.key(0), (2, 40, 4))
        >>> variables, y = model.init(jax.random.key(1), x), jnp.arange(40) % 2
        >>> resampled = ioca.resample(model, x, donors, jax.random.key(2))
        >>> order = jnp.array([0, 4])
        >>> curve = ioca.ablation_curve(model, variables, order, resampled, x, y)
        >>> curve.accuracy.shape
        (3,)
    """
    network = as_network(network, x)
    x, donors = device_examples("x", x), device_examples("donors", donors)
    _check_donors(network, x, donors, y, donor_labels)
    classes, by_class = network.num_classes, y is not None
    size = max(1, _MOST_DONORS // classes) if by_class else _MOST_DONORS
    size = size if by_class else min(size, count_examples(donors))
    # The pool is in random order.
    row = jnp.arange(count_examples(x), dtype=jnp.int32) % size
    if y is not None:
        row += jnp.asarray(y, jnp.int32) * size
    pool_key, shift_key = jax.random.split(key)
    pool = _draw_pool(donors, donor_labels, classes, size, pool_key)
    shift = jax.random.randint(shift_key, (network.num_neurons,), 0, size)
    return Resampled(pool, shift, row, size if per_neuron else 0)


def _draw_pool(
    donors: Any, labels: ArrayLike | None, num_classes: int, size: int, key: Array
) -> Any:
    """Donors in random order, ``size`` in all, or of each class if labels are given."""
    mixed = jax.random.permutation(key, count_examples(donors))
    if labels is None:
        return take_examples(donors, mixed[:size])
    labels = jnp.asarray(labels)[mixed]
    number = jnp.zeros(num_classes, jnp.int32).at[labels].add(1)
    first = jnp.cumsum(number) - number
    turn = jnp.arange(size) % jnp.maximum(number, 1)[:, None]
    rows = mixed[jnp.argsort(labels)][first[:, None] + turn]
    return take_examples(donors, rows.ravel())


def _check_donors(
    network: Network,
    x: Any,
    donors: Any,
    y: ArrayLike | None,
    donor_labels: ArrayLike | None,
) -> None:
    ours, theirs = named_arrays("x", x), named_arrays("donors", donors)
    if jax.tree.structure(x) != jax.tree.structure(donors):
        names = [", ".join(name for name, _ in arrays) for arrays in (ours, theirs)]
        raise ValueError(f"donors: expected arrays as {names[0]}, got {names[1]}")
    for (_, own), (name, other) in zip(ours, theirs, strict=True):
        if np.shape(own)[1:] != np.shape(other)[1:] or not np.shape(other)[0]:
            raise ValueError(
                f"{name}: expected one or more examples of shape "
                f"{list(np.shape(own)[1:])}, got shape {list(np.shape(other))}"
            )
    for arrays in (ours, theirs):
        check_same_number(arrays)
        for name, array in arrays:
            check_finite(name, array, "leave such examples out")
            check_scaled(network, name, array)
    check_counted(network, "donors", donors)
    if (y is None) != (donor_labels is None):
        raise ValueError("y, donor_labels: expected both or none, got one")
    for name, labels, of in (("y", y, x), ("donor_labels", donor_labels, donors)):
        if labels is not None:
            number = count_examples(of)
            check_labels(labels, network.num_classes, number, name=name)
    missing = []
    if y is not None and donor_labels is not None and is_known(y):
        missing = np.setdiff1d(y, donor_labels) if is_known(donor_labels) else []
    if len(missing):
        raise ValueError(
            "donor_labels: expected a donor of every class, got none of class "
            f"{', '.join(map(str, missing))}"
        )
