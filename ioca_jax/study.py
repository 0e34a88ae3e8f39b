"""A study: what is asked of networks, and the answer, from trained ones.

Networks are measured on the validation split, and ablated on the test split in every
order of every scope under every clamp. ``runs`` trains them and keeps what comes.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation import ablation_curves
from ioca_jax.datasets import Dataset
from ioca_jax.histograms import joint_counts
from ioca_jax.information import MEASURES
from ioca_jax.mlp import MLP
from ioca_jax.orderings import DIRECTIONS, order_neurons, random_order
from ioca_jax.parallel import place_examples
from ioca_jax.provenance import source_revision, versions
from ioca_jax.quantization import encode, parse_quantizer, quantizer_edges
from ioca_jax.results import make_results
from ioca_jax.streaming import SEEN, fold_examples
from ioca_jax.training import TrainConfig, Trained, checked_seeds

CLAMPS = ("zero", "mean")
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
    split_seed: int = _field(0, "Seed of the cut between training and validation.")
    seeds: tuple[int, ...] = _field(
        (0, 1, 2, 3, 4), "Networks to train: seeds as a list 0,1,2 or a range 0:5."
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
        tuple(MEASURES), f"What neurons are ranked by: {', '.join(MEASURES)}."
    )
    clamps: tuple[str, ...] = _field(
        CLAMPS, "What an ablated neuron outputs: zero, or its validation mean."
    )
    random_orders: int = _field(10, "Random orders for each network and scope.")
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
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name, known in (("measures", tuple(MEASURES)), ("clamps", CLAMPS)):
            given = tuple(getattr(self, name))
            object.__setattr__(self, name, given)
            unknown = [value for value in given if value not in known]
            if unknown or not given or len(set(given)) < len(given):
                raise ValueError(
                    f"{name}: expected one or more of {', '.join(known)}, each once, "
                    f"got {','.join(given)!r}"
                )
        if self.random_orders < 0:
            raise ValueError(
                f"random_orders: expected a number not negative, got "
                f"{self.random_orders}"
            )
        if not (np.isfinite(self.memory_gb) and self.memory_gb > 0):
            raise ValueError(
                f"memory_gb: expected a positive number, got {self.memory_gb}"
            )
        self.model(num_classes=2)
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

    def flags(self) -> list[str]:
        """This configuration as command-line flags.

        Returns:
            ``--name=value`` for every field that is not None.
        """
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                value = ",".join(str(item) for item in value)
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
    measures: Sequence[str] = tuple(MEASURES),
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
        measures: names out of entropy, mutual_information, kl_selectivity.

    Returns:
        Scores, means, counts and edges.

    Raises:
        ValueError: an unusable quantiser.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    spec = parse_quantizer(quantizer, model.activation)
    fold = partial(fold_examples, x=x, y=y, chunk_size=_EXAMPLES_MEASURED_AT_ONCE)

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
    total, low, high = fold(summarise, (jnp.zeros(model.num_neurons), start, -start))
    if spec.kind == "quantile":
        _, outputs = model.apply(variables, x)
    else:  # a quantiser of the other kinds needs no more than the range
        outputs = jnp.stack([low, high])
    edges = quantizer_edges(outputs, quantizer, model.activation)

    def count(carry, x_chunk, y_chunk):
        codes = encode(model.apply(variables, x_chunk)[1], edges)
        return carry + joint_counts(codes, y_chunk, spec.num_codes, model.num_classes)

    counts = fold(
        count,
        jnp.zeros((model.num_neurons, spec.num_codes, model.num_classes), jnp.int32),
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


@partial(jax.jit, static_argnames=("orderings", "scope_index"))
def _orders(scores, seeds, neurons, orderings, scope_index) -> Int[Array, "S O K"]:
    """The orders of one scope, for every network.

    An order's key depends on its seed, scope and ordering alone, so that it is the
    same whatever else a run computes.
    """

    def of_network(scores, seed):
        key = jax.random.fold_in(jax.random.key(seed), 1 + scope_index)

        def one(ordering: Ordering):
            if ordering.ranked_by == "random":
                draw_key = jax.random.fold_in(jax.random.fold_in(key, 0), ordering.draw)
                return random_order(neurons, key=draw_key)
            measure = 1 + list(MEASURES).index(ordering.ranked_by)
            tie_key = jax.random.fold_in(
                jax.random.fold_in(key, measure), DIRECTIONS.index(ordering.direction)
            )
            return order_neurons(
                scores[ordering.ranked_by], neurons, ordering.direction, key=tie_key
            )

        return jnp.stack([one(ordering) for ordering in orderings])

    return jax.vmap(of_network)(scores, seeds)


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
        trained: the networks.
        on_scope: called with the name of each scope whose curves are done.

    Returns:
        Results of the networks' seeds.
    """
    orderings, scopes = tuple(_orderings(config)), scopes_of(model)
    validation, test = jax.device_put(data.validation), place_examples(*data.test)
    statistics = _measure(
        model, trained.variables, validation, config.quantizer, config.measures
    )
    means = statistics.activation_mean
    clamps = {"zero": jnp.zeros_like(means), "mean": means}
    clamps = jnp.stack([clamps[name] for name in config.clamps], axis=1)
    seeds = jnp.asarray(trained.seeds, jnp.uint32)

    num_seeds, most = len(trained.seeds), model.num_neurons
    curves = (num_seeds, len(config.clamps), len(scopes), len(orderings), most + 1)
    arrays = {
        "order": np.full((num_seeds, len(scopes), len(orderings), most), -1, np.int32),
        "correct": np.full((*curves, model.num_classes), -1, np.int32),
        "loss": np.full(curves, np.nan, np.float32),
        "accuracy": np.full(curves, np.nan, np.float32),
    }
    for index, (scope, neurons) in enumerate(scopes.items()):
        orders = _orders(statistics.scores, seeds, neurons, orderings, index)
        layers = tuple(np.unique(model.layer_of_neuron[neurons]).tolist())
        curve = ablation_curves(
            model,
            trained.variables,
            orders[:, None],  # [S, A, O, K] with the clamps
            clamps[:, :, None],
            *test,
            layers=layers,
            memory_gb=config.memory_gb,
        )
        size = len(neurons)
        arrays["order"][:, index, :, :size] = orders
        arrays["correct"][:, :, index, :, : size + 1] = curve.correct
        arrays["loss"][:, :, index, :, : size + 1] = curve.loss
        arrays["accuracy"][:, :, index, :, : size + 1] = curve.accuracy
        on_scope(scope)

    arrays["score"] = np.stack(
        [np.asarray(statistics.scores[name]) for name in config.measures], axis=1
    )
    arrays["activation_mean"] = np.array(means)
    arrays["joint_count"] = np.array(statistics.joint_counts)
    arrays |= {name: np.array(values) for name, values in trained.history.items()}
    arrays["diverged"] = trained.diverged
    # What a diverged network would give is the code of NaN, not a result.
    for name in ("score", "activation_mean", "loss", "accuracy"):
        arrays[name][trained.diverged] = np.nan
    for name in ("joint_count", "correct", "order"):
        arrays[name][trained.diverged] = -1
    return make_results(
        arrays,
        _coordinates(config, model, trained.seeds),
        _attributes(config, model, data),
    )


def _coordinates(config: StudyConfig, model: MLP, seeds: np.ndarray) -> dict[str, Any]:
    orderings = _orderings(config)
    in_layer = np.concatenate([np.arange(width) for width in model.hidden])
    return {
        "seed": np.array(seeds, np.int64),
        "measure": list(config.measures),
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
        "epoch": np.arange(1, config.epochs + 1),
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
        "versions": json.dumps(versions(packages)),
        "source_revision": source_revision(),
        "device": ", ".join(
            sorted({f"{d.platform} {d.device_kind}" for d in jax.devices()})
        ),
        "precision": f"float32, matrix products {config.matmul_precision}",
        "units": "information in bits, loss in nats, accuracy as a share",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
