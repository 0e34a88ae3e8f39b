"""Scores of the neurons of many networks: from counts, and from ablation.

Ablation takes place on the validation split, on which scores are measured, never on the
test split, on which curves are read.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.greedy import greedy_orders
from ioca_jax.ablation.learned import learned_orders
from ioca_jax.ablation.singles import shapley_values, single_ablations
from ioca_jax.checks import number_counted
from ioca_jax.devices import place_examples
from ioca_jax.measures.forward_selection import SELECTIONS, selection_scores
from ioca_jax.measures.neurons import NeuronStatistics
from ioca_jax.study.config import CLAMPS_OF_SCORES
from ioca_jax.study.inputs import Examples, Inputs
from ioca_jax.study.interactions import Quantised

# The first examples of the validation split: greedy orders are costly, and these are
# enough to find the neuron whose ablation costs least.
_EXAMPLES_OF_GREEDY = 1000


class Scores(NamedTuple):
    """By measure, float32 [S, H].

    Scores that depend on which other neurons are ablated differ between the two:
    ``of_layers`` are among the neurons of a layer, ``of_network`` among all.
    """

    of_layers: dict[str, Float[Array, "S H"]]
    of_network: dict[str, Float[Array, "S H"]]


class _Ablated(NamedTuple):
    """What scores from ablation are computed from."""

    inputs: Inputs
    examples: Examples
    clamp: Float[Array, "S H"]
    random_orders: Mapping[str, Int[np.ndarray, "S draws K"]]


def score_neurons(
    inputs: Inputs,
    statistics: NeuronStatistics,
    clamps: Mapping[str, Float[Array, "S H"]],
    random_orders: Mapping[str, Int[np.ndarray, "S draws K"]],
) -> Scores:
    """All measures of the configuration; clamps are by name, orders by scope."""
    plan = inputs.plan
    of_layers, of_network = dict(statistics.scores), {}
    examples = Examples(*place_examples(*inputs.validation))
    for name in plan.measures:
        if name in SELECTIONS:
            by_scope = _selection(inputs, statistics, name)
        elif name in _SCORES_OF_ABLATION:
            score, clamp = _SCORES_OF_ABLATION[name]
            by_scope = score(_Ablated(inputs, examples, clamps[clamp], random_orders))
        else:
            continue
        if "network" in by_scope:
            of_network[name] = by_scope.pop("network")
        # A neuron's score is NaN in the scopes of other layers.
        of_layers[name] = jnp.nansum(jnp.stack(list(by_scope.values())), axis=0)
    return Scores(of_layers, of_network)


def _selection(
    inputs: Inputs, statistics: NeuronStatistics, criterion: str
) -> dict[str, Float[Array, "S H"]]:
    """Forward selections among the neurons of each scope."""
    plan, network = inputs.plan, inputs.network
    networks = Quantised(
        network,
        inputs.trained.variables,
        statistics.edges,
        plan.num_codes,
        number_counted(inputs.validation.y),
    )
    keys = jax.vmap(jax.random.key)(inputs.seeds)
    return _select_all(
        *(networks, inputs.validation, inputs.scopes, keys),
        criterion=criterion,
        memory_gb=plan.memory_gb,
    )


@partial(jax.jit, static_argnames=("criterion", "memory_gb"))
def _select_all(networks, split, scopes, keys, *, criterion, memory_gb):
    def select(codes, labels, key):
        return selection_scores(
            *(codes, labels, scopes, key),
            criterion=criterion,
            num_codes=networks.num_codes,
            num_classes=networks.network.num_classes,
            memory_gb=memory_gb,
        )

    return networks.map(select, split, keys)


def _ablation_loss(ablated: _Ablated) -> dict[str, Float[Array, "S H"]]:
    """The loss that ablating each neuron alone costs; the same in every scope."""
    inputs = ablated.inputs
    single = single_ablations(
        inputs.network,
        inputs.trained.variables,
        ablated.clamp,
        *ablated.examples,
        memory_gb=inputs.plan.memory_gb,
    )
    return {"every layer": single.alone.loss - single.intact.loss[:, None]}


def _shapley(ablated: _Ablated) -> dict[str, Float[Array, "S H"]]:
    """Shapley values estimated from the random orders of each scope."""
    inputs, found = ablated.inputs, {}
    values_of = partial(shapley_values, num_neurons=inputs.network.num_neurons)
    for scope, orders in ablated.random_orders.items():
        curves = ablation_curves(
            inputs.network,
            inputs.trained.variables,
            orders,
            ablated.clamp[:, None],
            *ablated.examples,
            layers=inputs.layers_of(scope),
            memory_gb=inputs.plan.memory_gb,
        )
        found[scope] = jax.vmap(values_of)(curves.accuracy, orders).value
    return found


def _greedy(ablated: _Ablated) -> dict[str, Float[Array, "S H"]]:
    """The places of neurons in the greedy order of each scope."""
    few = jax.tree.map(lambda array: array[:_EXAMPLES_OF_GREEDY], ablated.examples)
    return _places_in(greedy_orders, ablated._replace(examples=few))


def _learned(ablated: _Ablated) -> dict[str, Float[Array, "S H"]]:
    """The places of neurons in the learned order of each scope."""
    return _places_in(learned_orders, ablated)


def _places_in(
    find_orders: Callable[..., Int[Array, "S K"]], ablated: _Ablated
) -> dict[str, Float[Array, "S H"]]:
    """The places of neurons in an order of each scope, found by ablation."""
    inputs, found = ablated.inputs, {}
    keys = jax.vmap(jax.random.key)(inputs.seeds)
    places_of = partial(_places, inputs.network.num_neurons)
    for index, (scope, neurons) in enumerate(inputs.scopes.items()):
        orders = find_orders(
            inputs.network,
            inputs.trained.variables,
            ablated.clamp,
            *ablated.examples,
            neurons,
            keys=jax.vmap(partial(jax.random.fold_in, data=index))(keys),
            memory_gb=inputs.plan.memory_gb,
        )
        found[scope] = jax.vmap(places_of)(orders)
    return found


def _places(num_neurons: int, order: Int[Array, " K"]) -> Float[Array, " H"]:
    """The position of each neuron in an order; NaN for neurons that are not in it."""
    places = jnp.arange(len(order), dtype=jnp.float32)
    return jnp.full(num_neurons, jnp.nan).at[order].set(places)


_Score = Callable[[_Ablated], dict[str, Float[Array, "S H"]]]
_SCORES_OF_ABLATION: dict[str, tuple[_Score, str]] = {
    f"{name}_{clamp}": (score, clamp)
    for name, score in (
        ("ablation_loss", _ablation_loss),
        ("shapley", _shapley),
        ("greedy", _greedy),
        ("learned", _learned),
    )
    for clamp in CLAMPS_OF_SCORES
}
