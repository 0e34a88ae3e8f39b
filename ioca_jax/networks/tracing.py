"""Makes a network of any JAX function from variables and examples to logits.

``trace_network`` finds the layers in the function's jaxpr (``sites``), whatever library
the function is written with and without a change to it.

Limits: layers inside a ``while``, a ``cond`` or a ``scan`` that does not run over
stacked weights are not reached; ``print(network)`` lists them. A function with a
derivative of its own that holds products is differentiated as it is computed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ioca_jax.batching import count_examples
from ioca_jax.networks.jaxprs import Program
from ioca_jax.networks.network import SIZES, Network
from ioca_jax.networks.pooling import POOLS, Pooling, make_pooling
from ioca_jax.networks.sites import Found, choose_sites, find_sites
from ioca_jax.networks.traceable import (
    check_equations,
    check_figures,
    check_same_equations,
    checked_arguments,
    some_examples,
    trace_logits,
    uses_count,
)
from ioca_jax.networks.units import share_inputs
from ioca_jax.networks.walks import place_examples


def trace_network(
    apply: Callable[..., Any],
    variables: Any,
    x: Any,
    layers: str | Sequence[str] | None = None,
    pool: str = "mean",
    counts: Callable[[Any], Any] | None = None,
) -> "Network":
    """Finds the layers of a JAX function and makes it a network.

    Args:
        apply: a function ``apply(variables, x) -> logits [N, C]``, or [N, T, C] for T
            tokens, at inference: no dropout, running statistics in batch norm.
        variables: pytree of arrays, the variables of one network.
        x: [N, ...] some examples, or a pytree of arrays that all begin with N, such as
            a dictionary of token numbers and a mask. Their values are not used but to
            see, on the first of them, that examples do not influence each other.
        layers: names or glob patterns of what to measure and ablate: layers as
            ``print(network)`` lists them, ``NAME:input`` for a layer's input (attention
            heads are the input of the output projection), names given by
            ``jax.ad_checkpoint.checkpoint_name``. None takes all layers.
        pool: how a neuron's activations at several positions become one number:
            ``mean``, ``max``, ``share_active`` or ``last``.
        counts: a function ``counts(x) -> bool [N, T]``: the positions that enter the
            pooling and the means of clamps, in layers that have an axis of T positions;
            ``lambda x: x["mask"] > 0`` leaves padding out. None takes all of them,
            and where labels are of tokens those that have one.

    Returns:
        The network.

    Raises:
        ValueError: a function that is not one of variables and examples, returns
            anything but logits [N, C] or [N, T, C] of two classes or more
            (probabilities, one logit), is in training mode, or has no layers; names
            that match nothing; arrays of ``x`` of several N.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> def apply(variables, x):
        ...     return jax.nn.gelu(x @ variables["first"]) @ variables["second"]
        >>> variables = {"first": jnp.ones((4, 3)), "second": jnp.ones((3, 2))}
        >>> network = ioca.trace_network(apply, variables, jnp.ones((5, 4)))
        >>> [(layer.name, layer.num_neurons) for layer in network.layers]
        [('first', 3)]
        >>> logits, activations = network.apply(variables, jnp.ones((5, 4)))
        >>> logits.shape, activations.shape
        ((5, 2), (5, 3))
    """
    if pool not in POOLS:
        raise ValueError(f"pool: expected one of {', '.join(POOLS)}, got {pool!r}")
    shapes, example = checked_arguments(apply, variables, x)
    patterns = [layers] if isinstance(layers, str) else layers
    first, found = _trace(apply, shapes, example)
    pooling = make_pooling(pool, _tokens(first), counts, example)
    network = _make(apply, shapes, example, first, found, patterns, pooling)
    unassigned = _try_examples(network, variables, x)
    if not unassigned:
        return network
    found = found.without(unassigned)
    return _make(apply, shapes, example, first, found, patterns, pooling)


def trace_model(
    model: Any,
    apply: Callable[..., Any],
    variables: Any,
    example: Any,
) -> "Network":
    """Traces a network of this library, whose layers are known beforehand.

    Args:
        model: has ``layers``.
        apply: a function of variables and examples that returns logits.
        variables: shapes and types.
        example: shape and type of examples; their number is not used.

    Returns:
        The network, with the model's own layers.
    """
    first, found = _trace(apply, variables, example)
    pairs = zip(found.layers, model.layers, strict=True)
    layers = [site._replace(layer=layer) for site, layer in pairs]
    found = found._replace(layers=layers, unreachable=[])
    network = _make(apply, variables, example, first, found, None, Pooling("mean"))
    return dataclasses.replace(network, model=model)


def _trace(
    apply: Callable[..., Any], variables: Any, example: Any
) -> tuple[Program, Found]:
    """The program for the first number of examples, and what can be ablated in it."""
    first, second = (trace_logits(apply, variables, example, size) for size in SIZES)
    check_same_equations(first, second, SIZES)
    check_equations(first)
    return first, find_sites(place_examples(first, second, SIZES))


def _tokens(program: Program) -> int | None:
    """T of logits [N, T, C]; None of logits [N, C]."""
    _, *tokens, _ = program.values[program.output].shape
    return tokens[0] if tokens else None


def _make(
    apply: Callable[..., Any],
    variables: Any,
    example: Any,
    first: Program,
    found: Found,
    patterns: Sequence[str] | None,
    pooling: Pooling,
) -> "Network":
    sites = choose_sites(found, patterns)
    axes = [pooling.axis(site.layer) for site in sites]
    if pooling.counts is not None and axes == [None] * len(sites):
        sizes = {size for site in sites for size in site.layer.positions}
        raise ValueError(
            "counts: expected marks of as many positions as a layer has, "
            f"{', '.join(map(str, sorted(sizes))) or 'none here'}, got {pooling.length}"
        )
    return Network(
        layers=tuple(site.layer for site in sites),
        num_classes=first.values[first.output].shape[-1],
        pooling=pooling,
        unreachable=tuple(found.unreachable),
        model=None,
        _function=apply,
        _sites=tuple(sites),
        _variables=variables,
        _example=example,
        _programs={SIZES[0]: share_inputs(first, found.shared)},
        _shared=found.shared,
        _axes=found.axes,
        _chains={},
    )


def _try_examples(network: "Network", variables: Any, x: Any) -> list[str]:
    """Layers whose activations of an example depend on others; logits may not."""
    examples = some_examples(x, network.widest)
    number = count_examples(examples)
    first, other = (network._program(size) for size in (SIZES[0], number))
    counts = (*SIZES, number // 2) if uses_count(first, other) else ()
    run, parts = network.apply, network.layer_slices
    own = check_figures(run, variables, examples, parts, counts)
    pairs = zip(network.layers, own, strict=True)
    return [layer.name for layer, is_own in pairs if not is_own]
