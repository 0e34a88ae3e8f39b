"""The computation of a study: trained networks in, labelled results out.

Networks are measured on the validation split, and ablated on the test split in every
order of every scope under every clamp. ``runner`` trains them and stores what is
computed.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.curves import ablation_curves, evaluate_masks
from ioca_jax.ablation.effects import (
    ABLATION_SCORES,
    SCORES,
    greedy_orders,
    shapley_values,
    single_ablations,
)
from ioca_jax.data import Dataset, Split
from ioca_jax.devices import place_examples
from ioca_jax.measures.information import (
    MEASURES,
    MEASURES_OF_LABELS,
    null_of_labels,
    permuted_labels,
    selective_class,
)
from ioca_jax.measures.neurons import NeuronStatistics, measure_neurons
from ioca_jax.measures.quantization import parse_quantizer
from ioca_jax.networks.mlp import MLP
from ioca_jax.networks.training import Trained
from ioca_jax.results.variables import make_results
from ioca_jax.study import joint
from ioca_jax.study.config import UNITS, StudyConfig
from ioca_jax.study.metadata import source_revision, versions
from ioca_jax.study.orders import (
    orderings_of_study,
    random_orders,
    ranked_orders,
    scopes_of,
)

# Of the measuring split, the first: enough to tell which neuron is felt least.
_EXAMPLES_OF_GREEDY = 1000


@partial(jax.jit, static_argnames=("model", "quantizer", "measures"))
def _measure(model, variables, split, quantizer, measures) -> NeuronStatistics:
    """``measure_neurons`` of every network, one after another on the device."""
    return jax.lax.map(
        lambda one: measure_neurons(
            model, one, *split, quantizer=quantizer, measures=measures
        ),
        variables,
    )


@partial(jax.jit, static_argnames=("measures",))
def _test_measures(networks, split, permuted, measures):
    """Nulls of every network, one after another, of the same permutations."""
    return networks.map(
        lambda codes: null_of_labels(
            codes,
            split.y,
            permuted,
            num_codes=networks.num_codes,
            num_classes=networks.model.num_classes,
            measures=measures,
        ),
        split.x,
    )


@partial(jax.jit, static_argnames=("model", "names"))
def _score(model, variables, means, split, names) -> dict[str, Float[Array, "S H"]]:
    """Scores that need no ablation, one network after another."""

    def of_network(network):
        return {name: SCORES[name].function(model, *network, *split) for name in names}

    return jax.lax.map(of_network, (variables, means))


class _Scores(NamedTuple):
    """By measure, float32 [S, H]: among the neurons of a layer, and among all."""

    of_layers: dict[str, Float[Array, "S H"]]
    of_network: dict[str, Float[Array, "S H"]]


def _ablation_scores(
    config: StudyConfig,
    model: MLP,
    trained: Trained,
    clamps: dict[str, Float[Array, "S H"]],
    split: tuple[Array, Array],
    drawn: dict[str, Int[Array, "S draws K"]],
) -> _Scores:
    """What ablation on the measuring split says of neurons."""
    of_layers, of_network = {}, {}
    x, y = split
    keys = jax.vmap(jax.random.key)(jnp.asarray(trained.seeds, jnp.uint32))
    for name in config.measures:
        kind, _, clamp_name = name.rpartition("_")
        if kind not in ABLATION_SCORES:
            continue
        clamp = clamps[clamp_name]
        if kind == "ablation_loss":
            single = single_ablations(
                *(model, trained.variables, clamp, x, y), memory_gb=config.memory_gb
            )
            of_layers[name] = single.alone.loss - single.intact.loss[:, None]
            continue
        found = {}
        for index, (scope, neurons) in enumerate(scopes_of(model).items()):
            if kind == "shapley":
                curves = ablation_curves(
                    *(model, trained.variables, drawn[scope]),
                    *(clamp[:, None], x, y),
                    layers=_layers_of(model, neurons),
                    memory_gb=config.memory_gb,
                )
                estimate = jax.vmap(
                    partial(shapley_values, num_neurons=model.num_neurons)
                )
                found[scope] = estimate(curves.accuracy, drawn[scope]).value
            else:
                some = (x[:_EXAMPLES_OF_GREEDY], y[:_EXAMPLES_OF_GREEDY])
                orders = greedy_orders(
                    *(model, trained.variables, clamp, *some, neurons),
                    keys=jax.vmap(partial(jax.random.fold_in, data=index))(keys),
                )
                found[scope] = jax.vmap(partial(_places, model.num_neurons))(orders)
        of_network[name] = found.pop("network")
        of_layers[name] = jnp.nansum(jnp.stack(list(found.values())), axis=0)
    return _Scores(of_layers, of_network)


def _places(num_neurons: int, order: Int[Array, " K"]) -> Float[Array, " H"]:
    """Where each neuron stands in an order, NaN where it does not."""
    places = jnp.arange(len(order), dtype=jnp.float32)
    return jnp.full(num_neurons, jnp.nan).at[order].set(places)


def _layers_of(model: MLP, neurons: np.ndarray) -> tuple[int, ...]:
    return tuple(np.unique(model.layer_of_neuron[neurons]).tolist())


def variants(config: StudyConfig, num_validation: int) -> dict[str, tuple[str, slice]]:
    """Other ways to measure information, for robustness.

    Args:
        config: the study.
        num_validation: examples of the measuring split.

    Returns:
        By name, quantiser and part of the split.
    """
    everything, half = slice(None), num_validation // 2
    thresholds = {"relu": (0.5, 1), "sigmoid": (0.25, 0.75), "tanh": (-0.5, 0.5)}
    quantizers = [
        *(f"threshold:{t:g}" for t in thresholds[config.activation]),
        *("quantile:2", "quantile:8", "uniform:2", "uniform:8"),
    ]
    parts = {
        "first half": slice(half),
        "second half": slice(half, 2 * half),
        "first fifth": slice(max(1, num_validation // 5)),
        "first twentieth": slice(max(1, num_validation // 20)),
    }
    return {q: (q, everything) for q in quantizers if q != config.quantizer} | {
        name: (config.quantizer, part) for name, part in parts.items()
    }


def study_networks(
    config: StudyConfig,
    model: MLP,
    data: Dataset,
    trained: Trained,
    *,
    on_scope: Callable[[str], None] = lambda scope: None,
) -> xr.Dataset:
    """Measures and ablates trained networks.

    Args:
        config: how. Its seeds are not looked at.
        model: the networks' shape.
        data: the dataset.
        trained: the networks; those trained elsewhere have no history.
        on_scope: called with the name of each scope whose curves are done.

    Returns:
        Results of the networks' seeds.
    """
    orderings, scopes = tuple(orderings_of_study(config)), scopes_of(model)
    ranked = tuple(o for o in orderings if o.ranked_by != "random")
    validation, test = jax.device_put(data.validation), place_examples(*data.test)
    informative = tuple(name for name in config.measures if name in MEASURES)
    statistics = _measure(
        model, trained.variables, validation, config.quantizer, informative
    )
    means = statistics.activation_mean
    finite = jnp.where(trained.diverged[:, None], 0, means)  # no curve of NaN
    by_clamp = {"zero": jnp.zeros_like(means), "mean": finite}
    clamps = jnp.stack([by_clamp[name] for name in config.clamps], axis=1)
    seeds = jnp.asarray(trained.seeds, jnp.uint32)
    drawn = {
        scope: random_orders(seeds, neurons, config.random_orders, index)
        for index, (scope, neurons) in enumerate(scopes.items())
    }
    plain = tuple(name for name in config.measures if name in SCORES)
    found = _ablation_scores(
        config, model, trained, by_clamp, place_examples(*data.validation), drawn
    )
    scores = _Scores(
        statistics.scores
        | _score(model, trained.variables, means, validation, plain)
        | found.of_layers,
        found.of_network,
    )

    num_seeds, most = len(trained.seeds), model.num_neurons
    curves = (num_seeds, len(config.clamps), len(scopes), len(orderings), most + 1)
    arrays = {
        "order": np.full((num_seeds, len(scopes), len(orderings), most), -1, np.int32),
        "correct": np.full((*curves, model.num_classes), -1, np.int32),
        "loss": np.full(curves, np.nan, np.float32),
        "accuracy": np.full(curves, np.nan, np.float32),
    }
    ordered_by_scope = {}
    for index, (scope, neurons) in enumerate(scopes.items()):
        among = scores.of_layers | (scores.of_network if scope == "network" else {})
        ordered = ranked_orders(among, seeds, neurons, ranked, index)
        orders = jnp.concatenate([ordered, drawn[scope]], axis=1)
        ordered_by_scope[scope] = orders
        curve = ablation_curves(
            model,
            trained.variables,
            orders[:, None],  # [S, A, O, K] with the clamps
            clamps[:, :, None],
            *test,
            layers=_layers_of(model, neurons),
            memory_gb=config.memory_gb,
        )
        size = len(neurons)
        arrays["order"][:, index, :, :size] = orders
        arrays["correct"][:, :, index, :, : size + 1] = curve.correct
        arrays["loss"][:, :, index, :, : size + 1] = curve.loss
        arrays["accuracy"][:, :, index, :, : size + 1] = curve.accuracy
        on_scope(scope)
    single = single_ablations(
        model, trained.variables, clamps, *test, memory_gb=config.memory_gb
    ).alone
    arrays["single_correct"] = np.array(single.correct)
    arrays["single_loss"] = np.array(single.loss)
    arrays |= _measured(config, model, validation, trained, statistics, scores)
    if config.interactions:
        arrays |= joint.measure_interactions(
            _quantised(config, model, trained.variables, statistics),
            *(validation, test, clamps, ordered_by_scope, trained.seeds.tolist()),
            permutations=config.permutations,
            memory_gb=config.memory_gb,
        )
        on_scope("pairs and groups")
    if config.trajectory_epochs:
        arrays |= _trajectories(config, model, trained, validation, test)
    arrays |= {name: np.array(values) for name, values in trained.history.items()}
    arrays["diverged"] = trained.diverged
    # What a diverged network would give is the code of NaN, not a result.
    for name, array in arrays.items():
        if name not in (*trained.history, "diverged"):
            blank = np.nan if array.dtype.kind == "f" else -1
            array[trained.diverged] = blank
    return make_results(
        arrays,
        _coordinates(config, model, data, trained),
        _attributes(config, model, data),
    )


def _measured(
    config: StudyConfig,
    model: MLP,
    split: Split,
    trained: Trained,
    statistics: NeuronStatistics,
    scores: _Scores,
) -> dict[str, np.ndarray]:
    """What was measured, and how sure it is, as the results' arrays."""
    variables = trained.variables
    stacked = partial(_stacked, config, model, trained)
    arrays = {
        "score": stacked(scores.of_layers),
        "activation_mean": np.array(statistics.activation_mean),
        "joint_count": np.array(statistics.joint_counts),
        "selective_class": np.array(selective_class(statistics.joint_counts)),
    }
    if scores.of_network:
        arrays["network_score"] = stacked(scores.of_network)
    tested = tuple(name for name in config.measures if name in MEASURES_OF_LABELS)
    if config.permutations and tested:
        permuted = permuted_labels(split.y, jax.random.key(0), config.permutations)
        networks = _quantised(config, model, variables, statistics)
        nulls = _test_measures(networks, split, permuted, tested)
        for name in ("p_value", "p_value_family"):
            arrays[name] = stacked(
                {n: getattr(null, name) for n, null in nulls.items()}
            )
    informative = tuple(name for name in config.measures if name in MEASURES)
    if config.robustness and informative:
        arrays["variant_score"] = np.stack(
            [
                stacked(
                    _measure(
                        *(model, variables, (split.x[part], split.y[part])),
                        *(quantizer, informative),
                    ).scores
                )
                for quantizer, part in variants(config, len(split.y)).values()
            ],
            axis=1,
        )
    return arrays


def _quantised(
    config: StudyConfig, model: MLP, variables: Any, statistics: NeuronStatistics
) -> joint.Quantised:
    return joint.Quantised(model, variables, statistics.edges, config.num_codes)


def _stacked(
    config: StudyConfig,
    model: MLP,
    trained: Trained,
    by_measure: Mapping[str, ArrayLike],
) -> np.ndarray:
    """Values [S, measure, H], NaN of the measures that have none."""
    blank = np.full((len(trained.seeds), model.num_neurons), np.nan, np.float32)
    rows = [np.asarray(by_measure.get(name, blank)) for name in config.measures]
    return np.stack(rows, axis=1)


def _trajectories(
    config: StudyConfig,
    model: MLP,
    trained: Trained,
    validation: tuple[Array, Array],
    test: tuple[Array, Array],
) -> dict[str, np.ndarray]:
    """What was to be seen along training, [S, epochs looked at, ...]."""
    informative = tuple(name for name in config.measures if name in MEASURES)
    seen = []
    for variables in trained.snapshots:
        found = _measure(model, variables, validation, config.quantizer, informative)
        networks = _quantised(config, model, variables, found)
        seen.append(
            {
                "trajectory_score": _stacked(config, model, trained, found.scores),
                "trajectory_accuracy": np.array(_accuracy(model, variables, *test)),
                **joint.ask_layers(networks, validation, trained.seeds.tolist()),
            }
        )
    return jax.tree.map(lambda *epochs: np.stack(epochs, axis=1), *seen)


@partial(jax.jit, static_argnames="model")
def _accuracy(model, variables, x, y) -> Float[Array, " S"]:
    """Of every network, intact."""
    keep_all = np.ones(model.num_neurons, bool)
    clamp = np.zeros(model.num_neurons, np.float32)

    def of_network(variables):
        return evaluate_masks(model, variables, keep_all, clamp, x, y).accuracy

    return jax.lax.map(of_network, variables)


def _coordinates(
    config: StudyConfig, model: MLP, data: Dataset, trained: Trained
) -> dict[str, Any]:
    orderings = orderings_of_study(config)
    together: dict[str, Any] = {}
    if config.interactions:
        num_validation = len(data.validation.y)
        together |= joint.coordinates(model, num_validation, config.num_codes)
    if config.trajectory_epochs:
        together |= {
            "trajectory_epoch": list(config.trajectory_epochs),
            "hidden_layer": np.arange(model.num_layers) + 1,
        }
    in_layer = np.concatenate([np.arange(width) for width in model.hidden])
    return {
        "seed": np.array(trained.seeds, np.int64),
        "measure": list(config.measures),
        "unit": ("measure", [UNITS[name] for name in config.measures]),
        "neuron": np.arange(model.num_neurons),
        "layer": (
            "neuron",
            model.layer_of_neuron + 1,
            {"long_name": "hidden layer, counted from 1 as in the scopes' names"},
        ),
        "index_in_layer": ("neuron", in_layer),
        "clamp": list(config.clamps),
        "scope": list(scopes_of(model)),
        "ordering": [ordering.label for ordering in orderings],
        "ranked_by": ("ordering", [ordering.ranked_by for ordering in orderings]),
        "direction": ("ordering", [ordering.direction for ordering in orderings]),
        "draw": ("ordering", [ordering.draw for ordering in orderings]),
        "position": np.arange(model.num_neurons),
        "step": np.arange(model.num_neurons + 1),
        "class": np.arange(model.num_classes),
        "class_size": (
            "class",
            np.bincount(data.test.y, minlength=model.num_classes),
            {"long_name": "test examples of each class"},
        ),
        **({"variant": list(variants(config, 1))} if config.robustness else {}),
        **({"epoch": np.arange(1, config.epochs + 1)} if trained.history else {}),
        **together,
    }


def _attributes(config: StudyConfig, model: MLP, data: Dataset) -> dict[str, Any]:
    packages = ("ioca_jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray")
    spec = parse_quantizer(config.quantizer, config.activation)
    quantizer = config.quantizer
    if spec.kind == "threshold":
        quantizer = f"threshold:{spec.threshold:g}"
    widths = (data.train.x[0].size, *model.hidden, model.num_classes)
    parts = [
        "-".join(str(width) for width in widths),
        model.activation,
        *([f"dropout {model.dropout_rate:g}"] if model.dropout_rate else []),
        *(["batch norm"] if model.batch_norm else []),
    ]
    return {
        "title": "information-ordered cumulative ablation",
        "configuration": json.dumps(dataclasses.asdict(config)),
        "network": " ".join(parts),
        "quantizer": quantizer,
        "num_train": len(data.train.y),
        "num_validation": len(data.validation.y),
        "num_test": len(data.test.y),
        "data_digest": data.digest,
        # Of the groups drawn along training; 0 is too many codes for any.
        "trajectory_group_size": joint.group_size_in_layers(
            len(data.validation.y), config.num_codes, model.num_classes
        ),
        **(joint.permutations_made(config.permutations) if config.interactions else {}),
        "versions": json.dumps(versions(packages)),
        "source_revision": source_revision(),
        "device": ", ".join(
            sorted({f"{d.platform} {d.device_kind}" for d in jax.devices()})
        ),
        "precision": f"float32, matrix products {config.matmul_precision}",
        "units": "information in bits, loss in nats, accuracy as a share",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
