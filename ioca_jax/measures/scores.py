"""Published scores of a neuron that need no ablation.

Class selectivity (A. Morcos et al., arXiv 1803.06959), norms of incoming and outgoing
weights, mean and variance of the output, and the first-order Taylor criterion (P.
Molchanov et al., arXiv 1611.06440). All take any network; weight norms need an ``MLP``,
whose batch norm is folded into its weights. A score that depends on the clamp carries
its name: ``taylor_zero``.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from ioca_jax.batching import IGNORE_LABEL, fold_examples, number_that_fits
from ioca_jax.checks import check_classes
from ioca_jax.networks.inputs import check_inputs
from ioca_jax.networks.mlp import check_mlp, folded_layers
from ioca_jax.networks.network import Layer, Network, StagedNetwork, slices_of

_EXAMPLES_AT_ONCE = 1000


def class_selectivity(
    network: Network,
    variables: Any,
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """How much more a neuron outputs for its preferred class than for the others.

    ``(m - o) / (|m| + |o|)`` with m the greatest of the class means of its output and o
    the mean of the other classes' means; absent classes have none. In [0, 1] for
    outputs that are not negative; 0 for a dead neuron; NaN where a single class occurs
    among labels that are traced. Source: A. Morcos et al., arXiv 1803.06959, section
    2.3.
    """
    check_classes(y)

    def add(total, x_chunk, y_chunk):
        _, outputs = network.apply(variables, x_chunk)
        is_class = jax.nn.one_hot(y_chunk, network.num_classes)
        return total + jnp.matmul(is_class.T, outputs, precision="highest")

    zeros = jnp.zeros((network.num_classes, network.num_neurons))
    total = _fold(network, add, zeros, x, y)
    sizes = jnp.zeros(network.num_classes).at[jnp.asarray(y)].add(1)[:, None]
    present = sizes > 0
    means = total / jnp.maximum(sizes, 1)
    most = jnp.max(jnp.where(present, means, -jnp.inf), axis=0)
    everything = jnp.sum(jnp.where(present, means, 0), axis=0)
    number = jnp.where(present.sum() > 1, present.sum(), jnp.nan)
    others = (everything - most) / (number - 1)
    size = jnp.abs(most) + jnp.abs(others)
    return jnp.where(size == 0, 0, (most - others) / jnp.where(size == 0, 1, size))


def activation_variance(
    network: Network,
    variables: Any,
    mean: Float[ArrayLike, " H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """Variance of the output over examples; ``mean`` is over the same examples."""
    mean = jnp.asarray(mean)

    def add(total, x_chunk, y_chunk):
        _, outputs = network.apply(variables, x_chunk)
        weights = (y_chunk != IGNORE_LABEL).astype(outputs.dtype)
        squares = jnp.square(outputs - mean)
        return total + jnp.matmul(weights, squares, precision="highest")

    return _fold(network, add, jnp.zeros(network.num_neurons), x, y) / np.shape(y)[0]


def incoming_weight_norm(network: Network, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights into each neuron of an ``MLP``."""
    layers = folded_layers(check_mlp("incoming_weight_norm", network), variables)
    kernels = [layer.kernel for layer in layers[:-1]]
    return jnp.concatenate([jnp.linalg.norm(kernel, axis=0) for kernel in kernels])


def outgoing_weight_norm(network: Network, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights out of each neuron of an ``MLP``."""
    layers = folded_layers(check_mlp("outgoing_weight_norm", network), variables)
    kernels = [layer.kernel for layer in layers[1:]]
    return jnp.concatenate([jnp.linalg.norm(kernel, axis=1) for kernel in kernels])


def taylor(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, " H"],
    x: Num[ArrayLike, "N *features"],
    y: Int[ArrayLike, " N"],
) -> Float[Array, " H"]:
    """First-order estimate of how a neuron's ablation changes an example's loss, nats.

    The mean over examples of ``|sum dL/dt (c - t)|``, the sum over the positions at
    which its output t moves to the clamp c. Source: P. Molchanov et al., arXiv
    1611.06440, equation 8.
    """
    if not isinstance(network, StagedNetwork):
        raise ValueError(
            "taylor: needs gradients at the layers, as MLP and networks of "
            f"trace_network have; this network is a {type(network).__name__}"
        )
    clamp = jnp.asarray(clamp)
    layers = network.layers
    clamps = [
        _at_positions(layer, clamp[where])
        for layer, where in zip(layers, slices_of(layers), strict=True)
    ]

    def losses(shifts, x_chunk, y_chunk):
        values, outputs = network.prefix(variables, x_chunk, 0), []
        for index, shift in enumerate(shifts):
            if index:
                values = network.advance(variables, index - 1, values)
            outputs.append(values.outputs)
            shifted = values.outputs + shift.astype(values.outputs.dtype)
            values = dataclasses.replace(values, outputs=shifted)
        logits, _ = network.above(variables, len(layers) - 1, values)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, y_chunk)
        return each.sum(), outputs

    def add(total, x_chunk, y_chunk):
        shifts = [jnp.zeros((len(y_chunk), *layer.shape)) for layer in layers]
        labels = jnp.maximum(y_chunk, 0)
        gradients, outputs = jax.grad(losses, has_aux=True)(shifts, x_chunk, labels)
        changes = [
            jnp.abs(_sum_positions(layer, gradient * (constant - output)))
            for layer, gradient, constant, output in zip(
                layers, gradients, clamps, outputs, strict=True
            )
        ]
        counted = (y_chunk != IGNORE_LABEL)[:, None]
        change = jnp.where(counted, jnp.concatenate(changes, axis=1), 0)
        return total + change.sum(axis=0)

    return _fold(network, add, jnp.zeros(network.num_neurons), x, y) / np.shape(y)[0]


def _at_positions(layer: Layer, values: Float[Array, " n"]) -> Array:
    """A value per neuron, broadcast against ``layer.shape``."""
    positions, vector = (1,) * len(layer.positions), (1,) * len(layer.vector)
    return values.reshape(*positions, -1, *vector)


def _sum_positions(layer: Layer, values: Array) -> Float[Array, "N n"]:
    """Sums of [N, *layer.shape] over positions and a neuron's vector."""
    shape = (len(values), math.prod(layer.positions), layer.num_neurons, -1)
    return values.reshape(shape).sum(axis=(1, 3))


class Score(NamedTuple):
    """A score that needs no ablation.

    ``function`` takes a network, its variables, its mean outputs [H], examples and
    classes; it returns float32 [H].
    """

    unit: str
    function: Callable[..., Float[Array, " H"]]


SCORES = {
    "class_selectivity": Score(
        "1",
        lambda network, variables, mean, x, y: class_selectivity(
            network, variables, x, y
        ),
    ),
    "activation_mean": Score("1", lambda network, variables, mean, x, y: mean),
    "activation_variance": Score("1", activation_variance),
    "incoming_weight_norm": Score(
        "1",
        lambda network, variables, mean, x, y: incoming_weight_norm(network, variables),
    ),
    "outgoing_weight_norm": Score(
        "1",
        lambda network, variables, mean, x, y: outgoing_weight_norm(network, variables),
    ),
    "taylor_zero": Score(
        "nat",
        lambda network, variables, mean, x, y: taylor(
            network, variables, jnp.zeros_like(mean), x, y
        ),
    ),
    "taylor_mean": Score("nat", taylor),
}


def _fold(
    network: Network, step: Callable, carry: Any, x: ArrayLike, y: ArrayLike
) -> Any:
    """Folds over chunks of examples whose activations fit in about 1 GB."""
    check_inputs(network, x, y)
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    floats = 4 * sum(math.prod(layer.shape) for layer in network.layers)
    size = number_that_fits(1.0, floats, _EXAMPLES_AT_ONCE)
    return fold_examples(step, carry, x, y, chunk_size=size)
