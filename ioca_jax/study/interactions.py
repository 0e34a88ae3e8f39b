"""Interactions of neurons in many networks: pairs, groups, orders and whole layers.

``measures`` and ``ablation`` define them for one network; here the networks of a study
are measured one after another on the device, as arrays for ``results`` to label.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.pair_effects import pair_effects
from ioca_jax.batching import (
    count_examples,
    numbers_in_example,
    samples_of,
    take_examples,
)
from ioca_jax.checks import device_examples
from ioca_jax.measures.groups import (
    information_along_order,
    random_groups,
    redundancy_index,
    vulnerability,
)
from ioca_jax.measures.information import permuted_samples
from ioca_jax.measures.o_information import o_information
from ioca_jax.measures.pairs import EXAMPLES_PER_CELL, pair_information, pair_null
from ioca_jax.measures.quantization import encode
from ioca_jax.measures.whole_layers import layer_information
from ioca_jax.networks.layers import slices_of
from ioca_jax.networks.network import Network

PAIR_VALUES = (
    "joint_information",
    "co_information",
    "co_information_miller_madow",
    "redundancy_i_min",
    "synergy_i_min",
    "redundancy_mmi",
    "synergy_mmi",
)
"""The measures of pairs that a study stores; the others follow from them."""
PERMUTATIONS = 50
"""Most label permutations for pairs; each costs as much as all pair values once."""
PERMUTATIONS_OF_GROUPS = 20
"""The same for groups and orders, of which there are many."""
_GROUPS = 100
_GROUP_SIZES = range(2, 6)
# O-information takes as many joint codes as a group has neurons.
_GROUPS_WITH_O_INFORMATION = 20
_LEAST_FOR_O_INFORMATION = 3  # of two it is 0
# Of groups along training: small, so that any quantiser of few codes supports them.
_SIZE_IN_LAYERS = 3
_MOST_FLOATS = 2**26  # examples and activations held at once


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("variables", "edges"),
    meta_fields=("network", "num_codes", "num_counted"),
)
@dataclasses.dataclass(frozen=True)
class Quantised:
    """Networks and how their activations become codes.

    Attributes:
        network: their shape.
        variables: the networks' variables; leaves begin with S.
        edges: float32 [S, H, B-1], the quantisers'.
        num_codes: B.
        num_counted: how many labels of the measuring split count.
    """

    network: Network
    variables: Any
    edges: Float[ArrayLike, "S H edges"]
    num_codes: int
    num_counted: int

    def map(self, function: Callable, split: tuple[Any, Any], *more: Any) -> Any:
        """Calls a function for each network, one after another.

        It takes the codes [N, H] and labels [N] of the examples of a split, or of those
        tokens that count, and what ``more`` has for the network.
        """
        x, y = device_examples("x", split[0]), jnp.asarray(split[1])

        def of_network(network: Any) -> Any:
            variables, edges, *own = network
            codes = self._codes(variables, edges, x)
            return function(*samples_of(codes, y, self.num_counted), *own)

        return jax.lax.map(of_network, (self.variables, self.edges, *more))

    def permuted(self, split: tuple[Any, Any], key: Array, number: int) -> Array:
        """Labels of all samples, in m random orders of the examples."""
        y = jnp.asarray(split[1])
        return permuted_samples(y, key, number, self.num_counted)

    def _codes(self, variables: Any, edges: Array, x: Any) -> Int[Array, "N *T H"]:
        """Codes of one network, in chunks if feature maps of all examples are large."""

        def encode_chunk(x: Any) -> Array:
            outputs = self.network.apply(variables, x)[1]
            flat = outputs.reshape(-1, outputs.shape[-1])
            return encode(flat, edges).reshape(outputs.shape)

        outputs = sum(math.prod(layer.shape) for layer in self.network.layers)
        size = max(1, _MOST_FLOATS // (numbers_in_example(x) + outputs))
        number = count_examples(x)
        if number <= size:
            return encode_chunk(x)
        end = number // size * size
        chunks = jax.tree.map(
            lambda leaf: leaf[:end].reshape(-1, size, *leaf.shape[1:]), x
        )
        codes = jax.lax.map(encode_chunk, chunks)
        codes = codes.reshape(end, *codes.shape[2:])
        is_whole = end == number
        rest = [] if is_whole else [encode_chunk(take_examples(x, slice(end, None)))]
        return jnp.concatenate([codes, *rest])


def group_sizes(num_examples: int, num_codes: int, num_classes: int) -> tuple[int, ...]:
    """Sizes of groups whose whole alphabet the examples support."""
    cells = num_examples // EXAMPLES_PER_CELL
    return tuple(n for n in _GROUP_SIZES if num_codes**n * num_classes <= cells)


def coordinates(network: Network, num_examples: int, num_codes: int) -> dict[str, Any]:
    """Labels of the axes of the arrays of ``measure_interactions``."""
    sizes = group_sizes(num_examples, num_codes, network.num_classes)
    return {
        "other": np.arange(network.num_neurons),
        "pair_measure": list(PAIR_VALUES),
        "side": ["ablated", "left"],
        "group": np.arange(_GROUPS),
        "group_size": list(sizes),
    }


def permutations_made(permutations: int) -> dict[str, int]:
    """How many permutations ``measure_interactions`` makes, by attribute."""
    return {
        "permutations_of_pairs": min(permutations, PERMUTATIONS),
        "permutations_of_groups": min(permutations, PERMUTATIONS_OF_GROUPS),
    }


def measure_interactions(
    networks: Quantised,
    validation: tuple[Any, ArrayLike],
    orders: Mapping[str, Int[ArrayLike, "S O K"]],
    seeds: Sequence[int],
    *,
    permutations: int,
    memory_gb: float,
) -> dict[str, np.ndarray]:
    """Pairs, groups and orders of many networks, by variable of ``results.VARIABLES``.

    The first of the orders is the whole network's; seeds decide which groups are drawn.
    """
    of_pairs, of_groups = permutations_made(permutations).values()
    key = jax.random.key(0)  # the same labels for all networks
    keys = jax.vmap(_key_of_groups)(jnp.asarray(seeds, jnp.uint32))
    pairs = _pairs(networks, validation, key, of_pairs, memory_gb)
    found = jax.tree.map(np.array, pairs)
    found |= _orders(networks, orders, validation, key, of_groups)
    found |= _groups(networks, list(orders.values()), validation, keys)
    return found


def _key_of_groups(seed: Array) -> Array:
    """Different from the keys of orders, which fold in a scope's number from 1 on."""
    return jax.random.fold_in(jax.random.key(seed), 0)


@partial(jax.jit, static_argnames=("permutations", "memory_gb"))
def _pairs(networks, split, key, permutations, memory_gb) -> dict[str, Array]:
    network, num_codes = networks.network, networks.num_codes
    sizes = {"num_codes": num_codes, "num_classes": network.num_classes}
    permuted = networks.permuted(split, key, permutations)

    def of_network(codes, labels):
        values = pair_information(
            codes, labels, **sizes, measures=PAIR_VALUES, memory_gb=memory_gb
        )
        null = pair_null(
            codes,
            labels,
            **sizes,
            key=key,
            permutations=permutations,
            memory_gb=memory_gb,
            permuted=permuted,
        )
        return {
            "pair_value": jnp.stack([values[name] for name in PAIR_VALUES]),
            "pair_null": null["co_information"],
        }

    return networks.map(of_network, split)


def ablate_pairs(
    network: Network,
    variables: Any,
    clamps: Any,
    test: tuple[Any, ArrayLike],
    memory_gb: float,
) -> dict[str, np.ndarray]:
    """Effects of all pairs of neurons of a layer; NaN across layers."""
    names, (x, y), found = ("accuracy", "loss"), test, {}
    size = network.num_neurons
    for layer, where in enumerate(slices_of(network.layers)):
        effects = pair_effects(
            *(network, variables, clamps, x, y, layer), memory_gb=memory_gb
        )
        for name in names:
            own, name = np.asarray(getattr(effects, name)), f"pair_effect_{name}"
            if name not in found:
                found[name] = np.full((*own.shape[:-2], size, size), np.nan, own.dtype)
            found[name][..., where, where] = own
    return found


def _orders(networks, orders, validation, key, permutations) -> dict[str, np.ndarray]:
    """Joint information along orders [S, side, scope, O, K+1]."""
    first = next(iter(orders.values()))
    shape = (len(first), 2, len(orders), first.shape[1], first.shape[2] + 1)
    fields = {
        "joint_information": "information",
        "joint_information_miller_madow": "information_miller_madow",
        "joint_information_null": "null_information",
    }
    found: dict[str, np.ndarray] = {
        name: np.full(shape, np.nan, np.float32) for name in fields
    }
    found["joint_cells"] = np.full(shape, -1, np.int32)
    for index, order in enumerate(orders.values()):
        sides = _along(networks, order, validation, key, permutations)
        points = order.shape[-1] + 1
        for side, values in enumerate(sides):
            for name, field in (*fields.items(), ("joint_cells", "cells")):
                found[name][:, side, index, :, :points] = getattr(values, field)
    return found


@partial(jax.jit, static_argnames=("permutations",))
def _along(networks, orders, split, key, permutations):
    sizes = {
        "num_codes": networks.num_codes,
        "num_classes": networks.network.num_classes,
    }

    permuted = networks.permuted(split, key, permutations)

    def of_network(codes, labels, order):
        return information_along_order(
            codes,
            labels,
            order,
            **sizes,
            key=key,
            permutations=permutations,
            permuted=permuted,
        )

    return networks.map(of_network, split, orders)


def _groups(networks, scopes, validation, keys) -> dict[str, np.ndarray]:
    """Groups drawn at random [S, scope, size, group], of the neurons of each scope."""
    num_classes = networks.network.num_classes
    sizes = group_sizes(networks.num_counted, networks.num_codes, num_classes)
    shape = (len(keys), len(scopes), len(sizes), _GROUPS)
    names = ("redundancy_index", "vulnerability", "o_information_with_class")
    found = {name: np.full(shape, np.nan, np.float32) for name in names}
    for index, orders in enumerate(scopes):
        # Of one order, sorted: the neurons of the scope.
        neurons = np.sort(np.asarray(orders[0, 0]))
        most = min(max(sizes, default=0), len(neurons))
        whole = _draw_groups(neurons, keys, most) if most > 1 else None
        for place, size in enumerate(sizes):
            if whole is None or size > most:
                continue
            where = (slice(None), index, place)
            # The first of each: a group of three is one of two and another neuron.
            drawn = whole[..., :size]
            for name, values in _of_groups(networks, drawn, validation, keys).items():
                found[name][*where, : values.shape[1]] = values
    return found


@partial(jax.jit, static_argnames="size")
def _draw_groups(neurons, keys, size) -> Int[Array, "S M size"]:
    draw = partial(random_groups, neurons, size, _GROUPS)
    return jax.vmap(lambda key: draw(key=key))(keys)


@jax.jit
def _of_groups(networks, groups, split, keys) -> dict[str, Array]:
    sizes = {
        "num_codes": networks.num_codes,
        "num_classes": networks.network.num_classes,
    }

    def of_network(codes, labels, groups, key):
        values = {
            "redundancy_index": redundancy_index(codes, labels, groups, **sizes),
            "vulnerability": vulnerability(codes, labels, groups, **sizes),
        }
        if groups.shape[1] >= _LEAST_FOR_O_INFORMATION:
            few = groups[:_GROUPS_WITH_O_INFORMATION]
            # Its null is not used: one permutation is the least that it takes.
            found = o_information(codes, labels, few, **sizes, key=key, permutations=1)
            values["o_information_with_class"] = found.with_class_miller_madow
        return values

    return networks.map(of_network, split, groups, keys)


def measure_layers(
    networks: Quantised,
    validation: tuple[Any, ArrayLike],
    seeds: Sequence[int],
) -> dict[str, np.ndarray]:
    """Information of each layer as a whole, by variable, [S, L, ...]."""
    keys = jax.vmap(_key_of_groups)(jnp.asarray(seeds, jnp.uint32))
    return jax.tree.map(np.array, _of_layers(networks, validation, keys))


@jax.jit
def _of_layers(networks, split, keys) -> dict[str, Array]:
    network = networks.network
    sizes = {"num_codes": networks.num_codes, "num_classes": network.num_classes}

    def of_layer(codes, labels, key, where):
        whole = layer_information(codes[:, where], labels, **sizes)
        width = where.stop - where.start
        size = group_size_in_layers(len(labels), **sizes)
        index = jnp.full(_GROUPS, jnp.nan)
        if 0 < size <= width:
            neurons = np.arange(where.start, where.stop)
            groups = random_groups(
                neurons, size, _GROUPS, key=jax.random.fold_in(key, where.start)
            )
            index = redundancy_index(codes, labels, groups, **sizes)
        return {
            "layer_entropy": whole.entropy,
            "layer_information": whole.information_miller_madow,
            "layer_information_decoded": whole.information_decoded,
            "layer_redundancy_index": index,
        }

    def of_network(codes, labels, key):
        slices = slices_of(network.layers)
        layers = [of_layer(codes, labels, key, where) for where in slices]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    return networks.map(of_network, split, keys)


def group_size_in_layers(num_examples: int, num_codes: int, num_classes: int) -> int:
    """Neurons in the groups of ``measure_layers``: 3 or 2, or 0 if N is too small."""
    sizes = group_sizes(num_examples, num_codes, num_classes)
    return max((n for n in sizes if n <= _SIZE_IN_LAYERS), default=0)
