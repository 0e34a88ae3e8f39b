"""The time that a study's curves take, from short runs of the network on this machine.

A curve of a network that is no chain runs what lies above the lowest changed layer at
each of its points. Each layer's part is run for this a few times, on as many examples
as an engine has at once.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ioca_jax.ablation.gated import OPERATIONS_A_READ, is_worthwhile
from ioca_jax.ablation.incremental import has_affine_engine, most_examples
from ioca_jax.ablation.points import number_of_points, points_of_scope
from ioca_jax.batching import take_examples
from ioca_jax.networks.layers import Ablation, Values
from ioca_jax.networks.network import Network
from ioca_jax.study.plan import Plan

_RUNS = 4  # of a layer's part, one after another in one program


class Pass(NamedTuple):
    """Seconds of processor time for one example, from a layer to the logits.

    Attributes:
        outputs: from the layer's outputs.
        gate: from the layer's gate, which a sum gives; as ``outputs`` without a gate.
    """

    outputs: float
    gate: float


def seconds_of_curves(plan: Plan) -> float:
    """Processor time of one network's curves and single ablations."""
    network = plan.network
    variables = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), plan.shapes_of_variables()
    )
    examples = most_examples(network, plan.data.test.x)
    x = jax.tree.map(jnp.asarray, take_examples(plan.data.test.x, slice(examples)))
    passes = [
        _time_layer(network, variables, x, layer, examples)
        for layer in range(len(network.layers))
    ]
    return len(plan.data.test.y) * seconds_of_example(plan, passes)


def seconds_of_example(plan: Plan, passes: list[Pass]) -> float:
    """Processor time of one example under all ablations, from that of its passes."""
    network, resampled = plan.network, 0
    for clamp in plan.clamps:
        resampled += clamp.startswith("resample")
    constant = len(plan.clamps) - resampled
    total = 0.0
    for neurons in plan.scopes.values():
        total += _of_scope(plan, passes, neurons, resampled, takes_constants=False)
        total += _of_scope(plan, passes, neurons, constant, takes_constants=True)
    for index, (layer, one) in enumerate(zip(network.layers, passes, strict=True)):
        clamps = resampled if network.chain(index) is not None else len(plan.clamps)
        total += clamps * (layer.num_neurons + 1) * one.outputs
    return total


def _of_scope(
    plan: Plan,
    passes: list[Pass],
    neurons: np.ndarray,
    clamps: int,
    *,
    takes_constants: bool,
) -> float:
    """One example's curves of a scope, in all orders under some clamps."""
    network, curves = plan.network, clamps * plan.num_orderings
    layers = network.layer_of_neuron[neurons]
    touched = tuple(np.unique(layers).tolist())
    lowest, number = touched[0], len(neurons)
    of_affine = network.chain(lowest) is not None or has_affine_engine(network, touched)
    if not curves or (takes_constants and of_affine):  # about one pass a curve
        return curves * passes[lowest].outputs
    points = number_of_points(points_of_scope(plan.points, number), number)
    points = points or number + 1
    shares = takes_constants and is_worthwhile(network, lowest, curves, points)
    total = 0.0
    if shares:
        gate: Any = network.gates[lowest]
        first, width = passes[lowest], network.layers[lowest].num_neurons
        of_product = first.outputs - first.gate
        of_term = OPERATIONS_A_READ * gate.size / gate.operations * of_product
        total += width * (of_product + curves * of_term)
    each = number / (points - 1)  # neurons between two points of a random order
    for layer in touched:
        share = np.mean(layers >= layer) ** each - np.mean(layers > layer) ** each
        one = passes[layer]
        own = one.gate if shares and layer == lowest else one.outputs
        total += curves * points * float(share) * own
    return total


def _time_layer(
    network: Network, variables: Any, x: Any, layer: int, examples: int
) -> Pass:
    """Times a layer's part of the network, on some examples."""
    values = jax.jit(network.prefix, static_argnums=2)(variables, x, layer)

    def score(values: Values, ablation: Ablation | None = None) -> Array:
        logits, _ = network.above(variables, layer, values, ablation)
        return jax.nn.logsumexp(logits, axis=-1).sum() + logits.argmax(axis=-1).sum()

    def from_outputs(values: Values, neuron: Array) -> Array:
        keep = jnp.arange(network.num_neurons) != neuron
        return score(values, Ablation(keep, jnp.zeros(network.num_neurons)))

    def from_gate(values: Values, number: Array) -> Array:
        given: Any = values.gate
        return score(dataclasses.replace(values, gate=given + number))

    outputs, gate = _seconds(from_outputs, values) / examples, network.gates[layer]
    if gate is None:
        return Pass(outputs, outputs)
    there = dataclasses.replace(values, gate=jnp.zeros((examples, *gate.shape)))
    return Pass(outputs, _seconds(from_gate, there) / examples)


def _seconds(function: Callable[[Values, Array], Array], values: Values) -> float:
    """Processor time of one run: the least of three, without compilation."""
    run = jax.jit(
        lambda values: jax.lax.map(partial(function, values), jnp.arange(_RUNS))
    )
    jax.block_until_ready(run(values))
    found = []
    for _ in range(3):
        began = time.process_time()
        jax.block_until_ready(run(values))
        found.append(time.process_time() - began)
    return min(found) / _RUNS
