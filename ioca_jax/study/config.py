"""The configuration of a study; the command line's flags are its fields."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ioca_jax.ablation.metrics import ALWAYS, METRICS, parse_metrics
from ioca_jax.ablation.points import points_text
from ioca_jax.ablation.singles import ABLATION_SCORES
from ioca_jax.checks import (
    as_tuple,
    check_flag,
    check_integer,
    check_memory,
    check_number,
    nearest,
)
from ioca_jax.data import Dataset, check_label_noise
from ioca_jax.measures.forward_selection import SELECTIONS
from ioca_jax.measures.information import MEASURES_OF_LABELS, PAPER_MEASURES
from ioca_jax.measures.neurons import settled_quantizer
from ioca_jax.measures.quantization import parse_quantizer
from ioca_jax.measures.scores import SCORES, Score, another_name, parse_score
from ioca_jax.networks.models import CNN, MLP
from ioca_jax.networks.training import TrainConfig, check_epochs, checked_seeds
from ioca_jax.results.files import RESULTS_FILE
from ioca_jax.study import interactions

CLAMPS_OF_SCORES = ("zero", "mean")
CLAMPS = (
    *CLAMPS_OF_SCORES,
    *("optimal", "optimal_alone"),
    *("resample", "resample_neuron", "resample_class"),
)
UNITS = (
    {name: score.unit for name, score in SCORES.items()}
    | {
        f"{name}_{clamp}": unit
        for name, unit in ABLATION_SCORES.items()
        for clamp in CLAMPS_OF_SCORES
    }
    | dict.fromkeys(SELECTIONS, "rank")
    # Names are only added at the end: the place decides the key of ties.
    | {f"learned_{clamp}": "rank" for clamp in CLAMPS_OF_SCORES}
)
"""What neurons can be ranked by, with the unit of its values, beside users' scores."""
OF_NETWORKS = (
    *("hidden", "activation", "dropout_rate", "batch_norm", "matmul_precision"),
)
"""Fields that built-in networks of all kinds have."""
_CHANNELS = (32, 64)
_LEAST_PERMUTATIONS = 19  # the least p-value is then 0.05


def _field(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Everything that decides a run's results; the command line's flags are its fields.

    Each field's meaning is its help text, ``field.metadata["help"]``.

    Example:
        >>> import ioca_jax as ioca
        >>> config = ioca.StudyConfig(hidden=(30, 20), seeds=tuple(range(10)))
        >>> config.model(num_classes=10).num_neurons
        50
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
        0,
        "Seed of the cut between training and validation, of --num_test and of "
        "--label_noise.",
    )
    num_test: int | None = _field(
        None,
        "Test examples to ablate the networks on, drawn at random; all if not given.",
    )
    label_noise: float = _field(
        0.0,
        "Share of the training labels replaced by classes drawn uniformly, in [0, 1]; "
        "those of validation and test stay true.",
    )
    seeds: tuple[int, ...] = _field(
        (0, 1, 2, 3, 4, 5, 6, 7),
        "Networks to train: seeds as a list 0,1,2 or a range 0:8; seed 5 alone is 5,.",
    )
    network: str | None = _field(
        None,
        "Study trained networks of your own: package.module:function, a function "
        "without arguments that returns (network, variables) or (network, variables, "
        "dataset); the variables' leaves begin with the networks that --seeds label. "
        "The other flags of networks and of training then have no effect.",
    )
    architecture: str = _field(
        "mlp", "mlp (dense layers), or cnn (convolutions before the dense layers)."
    )
    channels: tuple[int, ...] = _field(
        (), "Channels of a cnn's convolutions; 32,64 if not given."
    )
    hidden: tuple[int, ...] = _field((100, 100), "Widths of the hidden dense layers.")
    activation: str = _field(
        "relu",
        "relu, sigmoid, tanh, gelu (the form with tanh, as in JAX) or gelu_exact (as "
        "in PyTorch).",
    )
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
        "threshold alone is at 0.5 if all neurons are sigmoids, else 0, and uniform:8 "
        "where neurons are channels or repeat over tokens.",
    )
    measures: tuple[str, ...] = _field(
        tuple(PAPER_MEASURES),
        f"What neurons are ranked by: {', '.join(UNITS)}; "
        f"one of {', '.join(MEASURES_OF_LABELS)} about an annotation of the data, "
        "such as mutual_information@parity; or a score of your own: "
        "package.module:function, a function of an ioca_jax.Measurement or an "
        "ioca_jax.Score.",
    )
    clamps: tuple[str, ...] = _field(
        CLAMPS_OF_SCORES,
        "What an ablated neuron outputs: zero; its mean over the validation split; "
        "optimal, the constant that minimises the validation loss, fitted for random "
        "subsets of neurons (optimal_alone for each neuron alone); resample, its "
        "output for one validation example for all ablated neurons (resample_neuron "
        "for each neuron its own, resample_class for one of the same class).",
    )
    metrics: tuple[str, ...] = _field(
        (),
        "What is followed along curves beside accuracy and loss, which always are: "
        f"{', '.join(METRICS)}; or a metric of your own: package.module:function, of "
        "logits, classes and the intact network's logits to numbers [n].",
    )
    points: str = _field(
        "all",
        "Numbers of ablated neurons at which curves are evaluated: all; how many, "
        "evenly spaced; a list such as 0,10,100, to which the end of each scope is "
        "added; or auto, where the first networks' curves bend.",
    )
    random_orders: int = _field(10, "Random orders for each network and scope.")
    permutations: int = _field(
        200,
        "Permutations of the labels that measures are tested against; 0 tests none. "
        f"With --interactions pairs take {interactions.PERMUTATIONS} of them at most, "
        f"groups and orders {interactions.PERMUTATIONS_OF_GROUPS}.",
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
    direct_effects: bool = _field(
        False,
        "Ablate each neuron alone also while later layers output what they did: direct "
        "effects, for networks with a residual stream.",
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
        """Checks the fields as far as possible without the dataset."""
        self._check_types()
        object.__setattr__(self, "seeds", tuple(checked_seeds(self.seeds).tolist()))
        for name, known in (("measures", tuple(UNITS)), ("clamps", CLAMPS)):
            given = as_tuple(name, getattr(self, name))
            object.__setattr__(self, name, given)
            own = [v for v in given if name == "measures" and ":" in str(v)]
            if name == "measures":
                own += [f"{base}@{of}" for base, of in split_measures(given)]
            unknown = [value for value in given if value not in (*known, *own)]
            if unknown or not given or len(set(given)) < len(given):
                raise ValueError(
                    f"{name}: expected one or more of {', '.join(known)}, each once, "
                    f"got {','.join(map(str, given))!r}{nearest(unknown, known)}"
                )
        metrics = as_tuple("metrics", self.metrics)
        parse_metrics(metrics)
        further = tuple(name for name in metrics if name not in ALWAYS)
        object.__setattr__(self, "metrics", further)
        object.__setattr__(self, "points", points_text(self.points))
        for name in ("random_orders", "permutations", "split_seed"):
            check_integer(name, getattr(self, name), least=0)
        # One of the user's own, package.module:function, may have any name.
        built_in = [name for name in self.measures if ":" not in name]
        if not self.random_orders and any("shapley" in name for name in built_in):
            raise ValueError(
                "random_orders: expected at least 1, from which Shapley values are "
                "estimated, got 0; give more, or measures without them"
            )
        if self.interactions and self.permutations < _LEAST_PERMUTATIONS:
            raise ValueError(
                f"permutations: expected at least {_LEAST_PERMUTATIONS} with "
                "interactions, whose chance level is a mean over them, got "
                f"{self.permutations}"
            )
        check_label_noise(self.label_noise)
        epochs = check_epochs("trajectory_epochs", self.trajectory_epochs, self.epochs)
        object.__setattr__(self, "trajectory_epochs", epochs)
        check_memory(self.memory_gb)
        self._check_network()
        self.train_config()
        parse_quantizer(self.quantizer, self.activation)

    def _check_types(self) -> None:
        """Numbers become Python's, 0 a float where one is expected: flags are equal."""
        check: dict[Any, Callable] = {
            bool: check_flag,
            int: check_integer,
            float: check_number,
        }
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind: Any = int if field.type == int | None else field.type
            if kind in check and not (value is None and field.default is None):
                check[kind](field.name, value)
                object.__setattr__(self, field.name, kind(value))

    def _check_network(self) -> None:
        if self.architecture not in ("mlp", "cnn"):
            raise ValueError(
                f"architecture: expected mlp or cnn, got {self.architecture!r}"
            )
        is_cnn = self.architecture == "cnn"
        channels = as_tuple("channels", self.channels) or _CHANNELS
        object.__setattr__(self, "channels", channels if is_cnn else ())
        smallest = 2 ** len(self.channels)
        network = self.model(num_classes=2, example_shape=(smallest, smallest))
        object.__setattr__(self, "hidden", network.hidden)
        quantizer = settled_quantizer(self.quantizer, network.layers)
        object.__setattr__(self, "quantizer", quantizer)

    def model(
        self, num_classes: int, example_shape: Sequence[int] = (28, 28)
    ) -> MLP | CNN:
        """The network that this configuration trains; a CNN needs images."""
        fields = {name: getattr(self, name) for name in OF_NETWORKS}
        if self.architecture == "mlp":
            return MLP(num_classes=num_classes, **fields)
        if len(example_shape) not in (2, 3):
            raise ValueError(
                "architecture: expected images [height, width] or [height, width, "
                f"colours] for a cnn, got examples of shape {list(example_shape)}"
            )
        image_shape = (*example_shape, 1)[:3]
        return CNN(
            num_classes=num_classes,
            channels=self.channels,
            image_shape=image_shape,
            **fields,
        )

    def train_config(self) -> TrainConfig:
        """The fields that concern training."""
        names = [field.name for field in dataclasses.fields(TrainConfig)]
        return TrainConfig(**{name: getattr(self, name) for name in names})

    @property
    def scores(self) -> tuple[Score, ...]:
        """The measures that need no ablation; those of the user's own are imported."""
        named = (name for name in self.measures if name in SCORES or ":" in name)
        scores = tuple(map(parse_score, named))
        for name in {score.name for score in scores} & (UNITS.keys() - SCORES.keys()):
            raise ValueError(another_name(name))
        return scores

    @property
    def units(self) -> dict[str, str]:
        """The unit of each measure, by its name in the results."""
        units = {}
        for name in self.measures:
            score = parse_score(name) if ":" in name else None
            base = name.partition("@")[0]
            units |= {score.name: score.unit} if score else {name: UNITS[base]}
        return units

    @property
    def num_codes(self) -> int:
        """B, of the quantiser."""
        return parse_quantizer(self.quantizer, self.activation).num_codes

    def data_arguments(self) -> dict[str, Any]:
        """By name, the arguments with which ``load_dataset`` loads the dataset."""
        return {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "num_validation": self.num_validation,
            "seed": self.split_seed,
            "num_test": self.num_test,
            "label_noise": self.label_noise,
        }

    def flags(self) -> list[str]:
        """The command-line flags ``--name=value`` of every field that is not None."""
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


def split_measures(names: Sequence[Any]) -> list[tuple[str, str]]:
    """The measures of annotations, ``measure@annotation``, and the annotations.

    Raises ValueError for a measure that labels do not decide.
    """
    found = []
    for name in map(str, names):
        base, at, annotation = name.partition("@")
        if not at or ":" in name:
            continue
        if base not in MEASURES_OF_LABELS or not annotation:
            raise ValueError(
                f"measures: expected one of {', '.join(MEASURES_OF_LABELS)} before @ "
                f"and an annotation of the data after it, got {name!r}"
            )
        found.append((base, annotation))
    return found


def measures_of(names: Sequence[str], annotation: str) -> tuple[str, ...]:
    """The measures about an annotation, without its name."""
    return tuple(base for base, of in split_measures(names) if of == annotation)


def check_annotations(names: Sequence[str], data: Dataset) -> None:
    """Refuses measures of annotations that the data do not have, or of one value."""
    there = data.annotations
    for measure, annotation in split_measures(names):
        name = f"{measure}@{annotation}"
        if annotation not in there:
            has = f"one of {', '.join(there)}" if there else "the data have none"
            raise ValueError(
                f"measures: expected an annotation of the data after @, {has}, got "
                f"{name}"
            )
        values = np.unique(there[annotation][1])
        if np.count_nonzero(values >= 0) < 2:
            raise ValueError(
                f"measures: expected validation examples of two values or more for "
                f"{name}, got {', '.join(map(str, values))}; no measure is defined"
            )


def config_of(results: xr.Dataset) -> StudyConfig:
    """The configuration that gave results."""
    fields = json.loads(results.attrs["configuration"])
    unknown = fields.keys() - {field.name for field in dataclasses.fields(StudyConfig)}
    if unknown:
        raise ValueError(
            f"{RESULTS_FILE}: expected a configuration of this version of ioca_jax, "
            f"got one with {', '.join(sorted(unknown))}; read it with the version that "
            "wrote it, or a newer one"
        )
    lists = {name: tuple(v) for name, v in fields.items() if isinstance(v, list)}
    return StudyConfig(**(fields | lists))
