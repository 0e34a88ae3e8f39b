"""The computation of a study: trained networks in, labelled results out.

Networks are measured on the validation split, and ablated on the test split in every
order of every scope under every clamp. ``run`` trains them and stores what is
computed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.curves import ablation_curves, evaluate_masks
from ioca_jax.ablation.evaluation import Evaluation
from ioca_jax.ablation.points import points_of_scope
from ioca_jax.ablation.singles import single_ablations
from ioca_jax.batching import take_examples
from ioca_jax.checks import number_counted
from ioca_jax.measures.information import (
    MEASURES_OF_LABELS,
    selective_class,
)
from ioca_jax.measures.neurons import (
    NeuronStatistics,
    check_finite_activations,
    measure_neurons,
)
from ioca_jax.measures.scores import Score, check_finite_scores
from ioca_jax.networks.trained import Trained
from ioca_jax.results.variables import VARIABLES, make_results
from ioca_jax.study import annotations, interactions
from ioca_jax.study.clamps import (
    Ablated,
    ablated_networks,
    constant_clamps,
    over_clamps,
)
from ioca_jax.study.coordinates import all_steps, attributes, coordinates
from ioca_jax.study.inputs import Examples, Inputs
from ioca_jax.study.orders import draw_orders, ranked_orders
from ioca_jax.study.plan import Plan
from ioca_jax.study.scores import Scores, score_neurons


def study_networks(
    plan: Plan,
    trained: Trained,
    *,
    steps: Mapping[str, np.ndarray] | None = None,
    on_scope: Callable[[str], None] = lambda scope: None,
) -> xr.Dataset:
    """Measures and ablates trained networks; returns the results of their seeds.

    Args:
        plan: the study.
        trained: its networks, or some of them.
        steps: by scope, those at which other networks of the study were evaluated where
            ``plan.points`` is ``auto``; None chooses them.
        on_scope: called with the name of each scope when its curves are done.
    """
    steps = dict(steps or {})
    inputs = Inputs.of(plan, trained)
    statistics = _measure(
        inputs, inputs.validation, plan.quantizer, measures=plan.scores
    )
    about = annotations.score_annotations(inputs, statistics.edges)
    statistics = replace(statistics, scores=statistics.scores | about)
    constants = constant_clamps(inputs, statistics.clamp)
    ablated = ablated_networks(inputs, constants)
    drawn = {
        scope: draw_orders(inputs.seeds, neurons, plan.orderings, index)
        for index, (scope, neurons) in enumerate(inputs.scopes.items())
    }
    ranked = len(plan.orderings) - plan.random_orders
    at_random = {scope: own[:, ranked:] for scope, own in drawn.items()}
    scores = score_neurons(inputs, statistics, constants, at_random)
    orders = _orders(inputs, scores, drawn)

    arrays = _curves(inputs, ablated, orders, steps, on_scope)
    arrays |= over_clamps(inputs, ablated, partial(_total_effects, inputs))
    if plan.direct_effects:
        arrays |= over_clamps(inputs, ablated, partial(_direct_effects, inputs))
    arrays |= _measurements(inputs, statistics, scores)
    arrays |= _tests_of_measures(inputs, statistics)
    if plan.variants and plan.information_measures:
        arrays["variant_score"] = _scores_of_variants(inputs)
    if plan.interactions:
        along = interactions.measure_interactions(
            _quantised(inputs, trained.variables, statistics),
            inputs.validation,
            orders,
            trained.seeds.tolist(),
            permutations=plan.permutations,
            memory_gb=plan.memory_gb,
        )
        arrays |= {name: _at_steps(name, one, steps) for name, one in along.items()}
        arrays |= over_clamps(inputs, ablated, partial(_pair_effects, inputs))
        on_scope("pairs and groups")
    if plan.trajectory_epochs:
        arrays |= _trajectories(inputs)
    _blank_diverged(arrays, trained.diverged)
    arrays |= {name: np.array(values) for name, values in trained.history.items()}
    arrays["diverged"] = trained.diverged
    labels, attrs = coordinates(plan, trained.seeds, steps), attributes(plan)
    if plan.points == "auto":  # runs of other seeds may have chosen others
        attrs["steps"] = json.dumps({n: own.tolist() for n, own in steps.items()})
    return make_results(arrays, labels, attrs)


def _at_steps(
    name: str, values: np.ndarray, steps: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What is known after every number of ablated neurons, at the study's steps."""
    along = VARIABLES[name].dims[-1] == "step"
    return values[..., all_steps(steps)] if along else values


def _measure(
    inputs: Inputs,
    split: Examples,
    quantizer: str,
    variables: Any = None,
    measures: Sequence[str | Score] | None = None,
) -> NeuronStatistics:
    """``measure_neurons`` of every network, [S, ...], or of other variables.

    ``measures`` are those of information if not given.
    """
    if variables is None:
        variables = inputs.trained.variables
    if measures is None:
        measures = inputs.plan.information_measures
    number = number_counted(split.y)
    options = {"quantizer": quantizer, "measures": tuple(measures)}
    found = _measure_all(inputs.network, variables, split, number, **options)
    means, scores = jax.device_get((found.activation_mean, found.scores))
    trained = inputs.trained
    for place in np.flatnonzero(~trained.diverged):
        whose = f" for seed {trained.seeds[place]}"
        check_finite_activations(inputs.network, means[place], whose)
        check_finite_scores({n: score[place] for n, score in scores.items()}, whose)
    return found


@partial(jax.jit, static_argnames=("network", "number", "quantizer", "measures"))
def _measure_all(network, variables, split, number, *, quantizer, measures):
    """One network after another on the device."""
    options = {"quantizer": quantizer, "measures": measures, "num_counted": number}
    return jax.lax.map(
        lambda one: measure_neurons(network, one, *split, **options), variables
    )


def _orders(
    inputs: Inputs, scores: Scores, drawn: Mapping[str, Int[np.ndarray, "S O K"]]
) -> dict[str, Int[np.ndarray, "S O K"]]:
    """By scope, the orders of the axis ``ordering``: by scores, then random ones."""
    orders = {}
    for scope, own in drawn.items():
        of_scope = scores.of_layers
        if scope == "network":
            of_scope = of_scope | scores.of_network
        orders[scope] = ranked_orders(of_scope, own, inputs.plan.orderings)
    return orders


def _curves(
    inputs: Inputs,
    ablated: list[Ablated],
    orders: Mapping[str, Int[np.ndarray, "S O K"]],
    steps: dict[str, np.ndarray],
    on_scope: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """Orders and ablation curves of all scopes.

    Steps of scopes that have none yet are chosen, and put into ``steps``.
    """
    by_scope = []
    for scope, order in orders.items():
        curves_of = partial(_curves_of_scope, inputs, scope, order, steps)
        by_scope.append(over_clamps(inputs, ablated, curves_of))
        on_scope(scope)
    size, shared = inputs.network.num_neurons, all_steps(steps)
    padded = [_padded(order, 2, size) for order in orders.values()]
    found = {"order": np.stack(padded, axis=1)}
    for name in by_scope[0]:
        placed = [
            _placed(curves[name], np.searchsorted(shared, steps[scope]), len(shared))
            for scope, curves in zip(orders, by_scope, strict=True)
        ]
        found[name] = np.stack(placed, axis=2)
    return found


def _curves_of_scope(
    inputs: Inputs,
    scope: str,
    order: Int[np.ndarray, "S O K"],
    steps: dict[str, np.ndarray],
    ablated: Ablated,
) -> dict[str, np.ndarray]:
    """Curves [S, A, O, P, ...] under some clamps, at the steps of other ones."""
    plan = inputs.plan
    points = points_of_scope(plan.points, order.shape[-1])
    curve = ablation_curves(
        ablated.network,
        ablated.variables,
        order[:, None],  # [S, A, O, K] with the clamps
        ablated.clamp_of_orders,
        *ablated.test,
        points=steps[scope].tolist() if scope in steps else points,
        metrics=plan.metrics,
        groups=annotations.test_values(inputs),
        layers=inputs.layers_of(scope),
        memory_gb=plan.memory_gb,
    )
    steps[scope] = curve.steps
    found = {n: getattr(curve, n) for n in ("correct", "loss", "accuracy")}
    if plan.data.annotation_values:
        found["correct_by_value"] = annotations.correct_by_value(inputs, curve)
    if plan.metrics:
        of_metrics = [curve.metrics[metric.name] for metric in plan.metrics]
        found["metric_mean"] = jnp.stack(of_metrics, axis=-1)
    return {name: np.asarray(values) for name, values in found.items()}


def _placed(values: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """Values [S, A, O, P, ...] at their places of an axis, others blank."""
    shape = (*values.shape[:3], size, *values.shape[4:])
    whole = np.full(shape, _blank(values.dtype), values.dtype)
    whole[:, :, :, places] = values
    return whole


def _blank(dtype: np.dtype) -> int | float:
    """What stands where there is no value: NaN, or -1 for integers."""
    return np.nan if dtype.kind == "f" else -1


def _padded(values: ArrayLike, axis: int, size: int) -> np.ndarray:
    """An array extended along an axis by blank values."""
    values = np.asarray(values)
    widths: Any = [(0, 0)] * values.ndim
    widths[axis] = (0, size - values.shape[axis])
    return np.pad(values, widths, constant_values=_blank(values.dtype))


def _blank_diverged(arrays: Mapping[str, np.ndarray], diverged: np.ndarray) -> None:
    """Removes what the NaN of a diverged network was turned into, in place."""
    for array in arrays.values():
        array[diverged] = _blank(array.dtype)


def _single_ablations(inputs: Inputs, ablated: Ablated, *, direct: bool) -> Evaluation:
    """Each neuron ablated alone, on the test split."""
    return single_ablations(
        ablated.network,
        ablated.variables,
        ablated.clamp,
        *ablated.test,
        direct=direct,
        memory_gb=inputs.plan.memory_gb,
    ).alone


def _total_effects(inputs: Inputs, ablated: Ablated) -> dict[str, Array]:
    single = _single_ablations(inputs, ablated, direct=False)
    return {"single_correct": single.correct, "single_loss": single.loss}


def _direct_effects(inputs: Inputs, ablated: Ablated) -> dict[str, Array]:
    return {"direct_loss": _single_ablations(inputs, ablated, direct=True).loss}


def _pair_effects(inputs: Inputs, ablated: Ablated) -> dict[str, np.ndarray]:
    """All pairs of each layer ablated together, on the test split."""
    return interactions.ablate_pairs(
        ablated.network,
        ablated.variables,
        ablated.clamp,
        ablated.test,
        inputs.plan.memory_gb,
    )


def _measurements(
    inputs: Inputs, statistics: NeuronStatistics, scores: Scores
) -> dict[str, np.ndarray]:
    """Scores, and the counts and means that they come from."""
    return {
        "score": _by_measure(inputs, scores.of_layers),
        "activation_mean": np.array(statistics.activation_mean),
        "joint_count": np.array(statistics.joint_counts),
        "selective_class": np.array(selective_class(statistics.joint_counts)),
    }


def _tests_of_measures(
    inputs: Inputs, statistics: NeuronStatistics
) -> dict[str, np.ndarray]:
    """P-values of the measures that depend on labels; none without permutations."""
    plan, key = inputs.plan, jax.random.key(0)
    if not plan.permutations:
        return {}
    nulls = annotations.nulls_of_annotations(inputs, statistics.edges, key)
    tested = tuple(name for name in plan.measures if name in MEASURES_OF_LABELS)
    if tested:
        networks = _quantised(inputs, inputs.trained.variables, statistics)
        nulls |= annotations.nulls_of_networks(
            networks,
            inputs.validation,
            networks.permuted(inputs.validation, key, plan.permutations),
            measures=tested,
            num_values=inputs.network.num_classes,
        )
    if not nulls:
        return {}
    return {
        name: _by_measure(inputs, {n: getattr(null, name) for n, null in nulls.items()})
        for name in ("p_value", "p_value_family")
    }


def _scores_of_variants(inputs: Inputs) -> np.ndarray:
    """Information by other quantisers and on parts of the split, [S, variant, ...]."""
    x, y = inputs.validation
    others = inputs.plan.variants.values()
    return np.stack(
        [
            _by_measure(
                inputs,
                _measure(
                    inputs, Examples(take_examples(x, part), y[part]), quantizer
                ).scores,
            )
            for quantizer, part in others
        ],
        axis=1,
    )


def _by_measure(inputs: Inputs, values: Mapping[str, ArrayLike]) -> np.ndarray:
    """Values [S, measure, H]; NaN for measures that have none."""
    shape = (len(inputs.trained.seeds), inputs.network.num_neurons)
    blank = np.full(shape, np.nan, np.float32)
    rows = [np.asarray(values.get(name, blank)) for name in inputs.plan.units]
    return np.stack(rows, axis=1)


def _quantised(
    inputs: Inputs, variables: Any, statistics: NeuronStatistics
) -> interactions.Quantised:
    return interactions.Quantised(
        inputs.network,
        variables,
        statistics.edges,
        inputs.plan.num_codes,
        number_counted(inputs.validation.y),
    )


def _trajectories(inputs: Inputs) -> dict[str, np.ndarray]:
    """Measures of neurons and layers during training, [S, epochs, ...]."""
    at_epochs = []
    for variables in inputs.trained.snapshots:
        found = _measure(inputs, inputs.validation, inputs.plan.quantizer, variables)
        networks = _quantised(inputs, variables, found)
        accuracy = _intact_accuracy(inputs.network, variables, *inputs.test)
        at_epochs.append(
            {
                "trajectory_score": _by_measure(inputs, found.scores),
                "trajectory_accuracy": np.array(accuracy),
                **interactions.measure_layers(
                    networks, inputs.validation, inputs.trained.seeds.tolist()
                ),
            }
        )
    return jax.tree.map(lambda *epochs: np.stack(epochs, axis=1), *at_epochs)


@partial(jax.jit, static_argnames="network")
def _intact_accuracy(network, variables, x, y) -> Float[Array, " S"]:
    """Of every network without ablation."""
    keep_all = np.ones(network.num_neurons, bool)
    clamp = np.zeros(network.num_neurons, np.float32)

    def of_network(variables):
        return evaluate_masks(network, variables, keep_all, clamp, x, y).accuracy

    return jax.lax.map(of_network, variables)
