"""A study: what is asked of networks, and the answer, from trained ones.

Networks are measured on the validation split, and ablated on the test split in every
order of every scope under every clamp. ``runs`` trains them and keeps what comes.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
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
from ioca_jax.ablation.orderings import DIRECTIONS, order_neurons, random_order
from ioca_jax.batching import SEEN, fold_examples
from ioca_jax.checks import as_tuple, check_examples
from ioca_jax.data import Dataset, Split, check_label_noise
from ioca_jax.devices import place_examples
from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.information import (
    MEASURES,
    MEASURES_OF_LABELS,
    PAPER_MEASURES,
    null_of_labels,
    permuted_labels,
    selective_class,
)
from ioca_jax.measures.pairs import check_pairs
from ioca_jax.measures.quantization import encode, parse_quantizer, quantizer_edges
from ioca_jax.networks.mlp import MLP, check_variables
from ioca_jax.networks.training import TrainConfig, Trained, check_epochs, checked_seeds
from ioca_jax.results.files import make_results
from ioca_jax.study import joint
from ioca_jax.study.metadata import source_revision, versions

CLAMPS = ("zero", "mean")
UNITS = (
    dict.fromkeys(MEASURES, "bit")
    | {name: score.unit for name, score in SCORES.items()}
    | {f"{n}_{clamp}": unit for n, unit in ABLATION_SCORES.items() for clamp in CLAMPS}
)
"""Everything that neurons can be ranked by, with the unit of its values."""
# Of the measuring split, the first: enough to tell which neuron is felt least.
_EXAMPLES_OF_GREEDY = 1000
_LEAST_PERMUTATIONS = 19  # the least p-value is then 0.05
# Examples measured at a time. Fixed, so that clamp means do not depend on a budget.
_EXAMPLES_MEASURED_AT_ONCE = 1000


def _field(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Everything that decides a run's results; the command line's flags are its fields.

    Each field's meaning is its help text, ``field.metadata["help"]``.
    """

    dataset: str = _field(
        "mnist5k",
        "mnist5k (5,000 MNIST digits, no download), mnist, fashion_mnist, cifar10 "
        "(TensorFlow Datasets), or the path of an .npz file with x_train, y_train, "
        "x_test, y_test.",
    )
    data_dir: str | None = _field(
        None, "TensorFlow Datasets' directory; its own default if not given."
    )
    num_validation: int | None = _field(
        None,
        "Examples moved from training to validation; 10,000 for the TFDS datasets and "
        "1,000 for mnist5k if not given.",
    )
    split_seed: int = _field(
        0, "Seed of the cut between training and validation, and of --label_noise."
    )
    label_noise: float = _field(
        0.0,
        "Share of the training labels replaced by classes drawn uniformly, in [0, 1]; "
        "those of validation and test stay true.",
    )
    seeds: tuple[int, ...] = _field(
        (0, 1, 2, 3, 4),
        "Networks to train: seeds as a list 0,1,2 or a range 0:5; seed 5 alone is 5,.",
    )
    hidden: tuple[int, ...] = _field((100, 100), "Widths of the hidden layers.")
    activation: str = _field("relu", "relu, sigmoid or tanh.")
    dropout_rate: float = _field(
        0.0, "Share of hidden outputs dropped in training, in [0, 1)."
    )
    batch_norm: bool = _field(False, "Normalise pre-activations by batch norm.")
    l2: float = _field(
        1e-5, "Weight of the sum of squared kernel entries in the training loss."
    )
    optimizer: str = _field("adam", "adam, momentum (SGD with momentum 0.9) or sgd.")
    learning_rate: float = _field(1e-3, "Learning rate of the optimiser.")
    batch_size: int = _field(32, "Examples a training step.")
    epochs: int = _field(10, "Passes over the training split.")
    quantizer: str = _field(
        "threshold",
        "threshold:t (one bit, output > t), uniform:B or quantile:B (B codes); "
        "threshold alone is at 0 for relu and tanh, at 0.5 for sigmoid.",
    )
    measures: tuple[str, ...] = _field(
        tuple(PAPER_MEASURES), f"What neurons are ranked by: {', '.join(UNITS)}."
    )
    clamps: tuple[str, ...] = _field(
        CLAMPS, "What an ablated neuron outputs: zero, or its validation mean."
    )
    random_orders: int = _field(10, "Random orders for each network and scope.")
    permutations: int = _field(
        200,
        "Permutations of the labels that measures are tested against; 0 tests none. "
        f"With --interactions pairs take {joint.PERMUTATIONS} of them at most, groups "
        f"and orders {joint.PERMUTATIONS_OF_GROUPS}.",
    )
    interactions: bool = _field(
        False,
        "Measure and ablate neurons together too: all pairs, random groups, and what "
        "those ablated so far say jointly.",
    )
    trajectory_epochs: tuple[int, ...] = _field(
        (),
        "Epochs after which to measure neurons and layers, ascending; 0 is before "
        "training.",
    )
    robustness: bool = _field(
        False,
        "Measure information also by other quantisers and on parts of the validation "
        "split, to see whether neurons rank the same.",
    )
    memory_gb: float = _field(
        4.0, "About how much memory to use at once beside the data, in GB."
    )
    matmul_precision: str = _field(
        "highest",
        "Of matrix products: highest (float32 everywhere), high, or default (the "
        "backend's own).",
    )

    def __post_init__(self):
        """Checks the fields, but for what only the dataset can tell."""
        object.__setattr__(self, "seeds", tuple(checked_seeds(self.seeds).tolist()))
        for name, known in (("measures", tuple(UNITS)), ("clamps", CLAMPS)):
            given = as_tuple(name, getattr(self, name))
            object.__setattr__(self, name, given)
            unknown = [value for value in given if value not in known]
            if unknown or not given or len(set(given)) < len(given):
                raise ValueError(
                    f"{name}: expected one or more of {', '.join(known)}, each once, "
                    f"got {','.join(map(str, given))!r}"
                )
        for name in ("random_orders", "permutations"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name}: expected a number not negative, got {getattr(self, name)}"
                )
        if not self.random_orders and any("shapley" in n for n in self.measures):
            raise ValueError(
                "random_orders: expected at least 1, from which Shapley values are "
                "estimated, got 0; give more, or measures without them"
            )
        if self.interactions and self.permutations < _LEAST_PERMUTATIONS:
            raise ValueError(
                f"permutations: expected at least {_LEAST_PERMUTATIONS} with "
                "interactions, whose pairs are tested at 5 %, got "
                f"{self.permutations}"
            )
        check_label_noise(self.label_noise)
        epochs = check_epochs("trajectory_epochs", self.trajectory_epochs, self.epochs)
        object.__setattr__(self, "trajectory_epochs", epochs)
        if not (np.isfinite(self.memory_gb) and self.memory_gb > 0):
            raise ValueError(
                f"memory_gb: expected a positive number, got {self.memory_gb}"
            )
        object.__setattr__(self, "hidden", self.model(num_classes=2).hidden)
        self.train_config()
        parse_quantizer(self.quantizer, self.activation)

    def model(self, num_classes: int) -> MLP:
        """The network that this configuration describes.

        Args:
            num_classes: C, of the dataset.

        Returns:
            The network's shape.
        """
        return MLP(
            hidden=self.hidden,
            num_classes=num_classes,
            activation=self.activation,
            dropout_rate=self.dropout_rate,
            batch_norm=self.batch_norm,
            matmul_precision=self.matmul_precision,
        )

    def train_config(self) -> TrainConfig:
        """How this configuration trains.

        Returns:
            The training's own part of the configuration.
        """
        names = [field.name for field in dataclasses.fields(TrainConfig)]
        return TrainConfig(**{name: getattr(self, name) for name in names})

    @property
    def num_codes(self) -> int:
        """B, of the quantiser."""
        return parse_quantizer(self.quantizer, self.activation).num_codes

    def data_arguments(self) -> dict[str, Any]:
        """What ``load_dataset`` takes to load this configuration's dataset.

        Returns:
            By argument.
        """
        return {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "num_validation": self.num_validation,
            "seed": self.split_seed,
            "label_noise": self.label_noise,
        }

    def check_interactions(self, model: MLP, data: Dataset) -> None:
        """Refuses interactions that the data cannot support, before any training.

        Args:
            model: the networks' shape.
            data: the dataset.

        Raises:
            ValueError: too many codes for all pairs of neurons.
        """
        if self.interactions:
            check_pairs(
                model.num_neurons,
                len(data.validation.y),
                num_codes=self.num_codes,
                num_classes=model.num_classes,
                memory_gb=self.memory_gb,
            )

    def flags(self) -> list[str]:
        """This configuration as command-line flags.

        Returns:
            ``--name=value`` for every field that is not None.
        """
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                text = ",".join(str(item) for item in value)
                # One seed without its comma would be taken for a number of networks.
                alone = field.name == "seeds" and len(value) == 1
                value = f"{text}," if alone else text
            if value is not None:
                lines.append(f"--{field.name}={value}")
        return lines


class NeuronStatistics(NamedTuple):
    """What the measuring split says of every hidden neuron of one network.

    Attributes:
        scores: by measure, float32 [H], bits.
        activation_mean: float32 [H], the mean clamp.
        joint_counts: int32 [H, B, C].
        edges: float32 [H, B-1], the quantiser's.
    """

    scores: dict[str, Float[Array, " H"]]
    activation_mean: Float[Array, " H"]
    joint_counts: Int[Array, "H B C"]
    edges: Float[Array, "H edges"]


def measure_neurons(
    model: MLP,
    variables: Any,
    x: Float[ArrayLike, "N D"],
    y: Int[ArrayLike, " N"],
    *,
    quantizer: str = "threshold",
    measures: Sequence[str] = tuple(PAPER_MEASURES),
) -> NeuronStatistics:
    """Measures every hidden neuron, streaming over examples.

    Args:
        model: the network's shape.
        variables: the variables of one network (``vmap`` or ``jax.lax.map`` for
            several).
        x: float32 [N, D] images that the network was not trained on.
        y: int32 [N] classes.
        quantizer: as in ``parse_quantizer``. ``quantile:B`` holds all activations of
            the network at once, [N, H]; the others hold a chunk.
        measures: names out of ``information.MEASURES``.

    Returns:
        Scores, means, counts and edges.

    Raises:
        ValueError: an unusable quantiser, a measure that is not of joint counts, labels
            that are not one class for each example, or variables of another network.
    """
    unknown = [name for name in as_tuple("measures", measures) if name not in MEASURES]
    if unknown:
        raise ValueError(
            f"measures: expected names out of {', '.join(MEASURES)}, got "
            f"{unknown[0]!r}; run_study computes other scores"
        )
    check_examples(x, y, model.num_classes)
    x, y = jnp.asarray(x), jnp.asarray(y, jnp.int32)
    check_variables("variables", variables, model, num_inputs=x[0].size)
    spec = parse_quantizer(quantizer, model.activation)
    fold = partial(fold_examples, y=y, chunk_size=_EXAMPLES_MEASURED_AT_ONCE)

    def summarise(carry, x_chunk, y_chunk):
        total, low, high = carry
        _, outputs = model.apply(variables, x_chunk)
        weights = (y_chunk != SEEN).astype(outputs.dtype)
        return (
            total + jnp.matmul(weights, outputs, precision="highest"),
            jnp.minimum(low, outputs.min(axis=0)),
            jnp.maximum(high, outputs.max(axis=0)),
        )

    start = jnp.full(model.num_neurons, jnp.inf)
    first = (jnp.zeros(model.num_neurons), start, -start)
    total, low, high = fold(summarise, first, x=x)
    is_held = spec.kind == "quantile"
    if is_held:
        # Once: made again, they may round to the other side of an edge.
        outputs = jax.lax.optimization_barrier(model.apply(variables, x)[1])
    else:  # a quantiser of the other kinds needs no more than the range
        outputs = jnp.stack([low, high])
    edges = quantizer_edges(outputs, quantizer, model.activation)

    sizes = {"num_codes": spec.num_codes, "num_classes": model.num_classes}

    def count(carry, x_chunk, y_chunk):
        chunk = x_chunk if is_held else model.apply(variables, x_chunk)[1]
        return carry + joint_counts(encode(chunk, edges), y_chunk, **sizes)

    counts = fold(
        count,
        jnp.zeros((model.num_neurons, spec.num_codes, model.num_classes), jnp.int32),
        x=outputs if is_held else x,
    )
    scores = {name: MEASURES[name](counts) for name in measures}
    return NeuronStatistics(scores, total / len(y), counts, edges)


class Ordering(NamedTuple):
    """A way to order neurons.

    Attributes:
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.
        draw: counts random orders; 0 for the others.
    """

    ranked_by: str
    direction: str
    draw: int

    @property
    def label(self) -> str:
        """Its name on the axis ``ordering``."""
        if self.ranked_by == "random":
            return f"random_{self.draw}"
        return f"{self.ranked_by}_{self.direction}"


def _orderings(config: StudyConfig) -> list[Ordering]:
    ranked = [
        Ordering(measure, direction, 0)
        for measure in config.measures
        for direction in DIRECTIONS
    ]
    drawn = [Ordering("random", "random", d) for d in range(config.random_orders)]
    return ranked + drawn


def scopes_of(model: MLP) -> dict[str, np.ndarray]:
    """By name, the neurons that each scope orders.

    Args:
        model: the network's shape.

    Returns:
        ``network``, ``layer_1``, ...: int32 neuron indices.
    """
    everything = np.arange(model.num_neurons, dtype=np.int32)
    layers = {
        f"layer_{index + 1}": everything[where]
        for index, where in enumerate(model.layer_slices)
    }
    return {"network": everything, **layers}


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


def _key_of_scope(seed: Array, scope_index: int) -> Array:
    """An order's key depends on its seed, scope and ordering alone.

    So it is the same whatever else a run computes.
    """
    return jax.random.fold_in(jax.random.key(seed), 1 + scope_index)


def _key_of_ties(key: Array, measure: str, direction: str) -> Array:
    key = jax.random.fold_in(key, 1 + list(UNITS).index(measure))
    return jax.random.fold_in(key, DIRECTIONS.index(direction))


@partial(jax.jit, static_argnames=("draws", "scope_index"))
def _random_orders(seeds, neurons, draws, scope_index) -> Int[Array, "S draws K"]:
    """The random orders of one scope, for every network."""

    def of_network(seed):
        key = jax.random.fold_in(_key_of_scope(seed, scope_index), 0)
        drawn = [
            random_order(neurons, key=jax.random.fold_in(key, draw))
            for draw in range(draws)
        ]
        return jnp.stack(drawn) if drawn else jnp.zeros((0, len(neurons)), jnp.int32)

    return jax.vmap(of_network)(seeds)


@partial(jax.jit, static_argnames=("orderings", "scope_index"))
def _ranked_orders(
    scores, seeds, neurons, orderings, scope_index
) -> Int[Array, "S O K"]:
    """The orders of one scope that measures give, for every network."""

    def of_network(scores, seed):
        key = _key_of_scope(seed, scope_index)
        ranked = [
            order_neurons(
                scores[ordering.ranked_by],
                neurons,
                ordering.direction,
                key=_key_of_ties(key, ordering.ranked_by, ordering.direction),
            )
            for ordering in orderings
        ]
        return jnp.stack(ranked)

    return jax.vmap(of_network)(scores, seeds)


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
    orderings, scopes = tuple(_orderings(config)), scopes_of(model)
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
        scope: _random_orders(seeds, neurons, config.random_orders, index)
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
        ordered = _ranked_orders(among, seeds, neurons, ranked, index)
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
        arrays |= joint.ask_together(
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
    orderings = _orderings(config)
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
    widths = (data.train.x.shape[1], *model.hidden, model.num_classes)
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
