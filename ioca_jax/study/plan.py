"""What is run: a configuration, data and networks become checked objects and sizes.

This is the only place that reads a configuration. ``Request`` is what a caller asks
for, which a finished folder answers; ``Plan`` is what is computed, once the data are
there.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from ioca_jax.ablation.metrics import Metric, check_metrics, parse_metrics
from ioca_jax.checks import check_classes, check_integer, number_counted
from ioca_jax.data import Dataset, check_class_donors
from ioca_jax.measures.forward_selection import SELECTIONS
from ioca_jax.measures.information import MEASURES
from ioca_jax.measures.neurons import (
    measure_neurons,
    settled_quantizer,
    threshold_activation,
)
from ioca_jax.measures.pairs import check_pairs
from ioca_jax.measures.scores import Score
from ioca_jax.networks.models import CNN, Model, as_network
from ioca_jax.networks.network import Network
from ioca_jax.networks.training import TrainConfig, check_fit, check_single
from ioca_jax.sources import can_load, load_dataset
from ioca_jax.study.config import OF_NETWORKS, StudyConfig, check_annotations
from ioca_jax.study.given_networks import (
    GivenNetworks,
    check_copies,
    check_leaves,
    digest_of,
    import_networks,
)
from ioca_jax.study.orders import Ordering, orderings_of, scopes_of

_MOST_LAYERS = 500
_THRESHOLDS = {
    **dict.fromkeys(("relu", "gelu", "gelu_exact"), (0.5, 1)),
    "sigmoid": (0.25, 0.75),
    "tanh": (-0.5, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Shard:
    """A share of a run's seeds: every ``number``-th, from the ``index``-th on.

    Attributes:
        index: counted from 0.
        number: of shards.

    Raises:
        ValueError: an index out of range.

    Example:
        >>> import ioca_jax as ioca
        >>> ioca.Shard.parse("1/4").seeds(ioca.StudyConfig(seeds=(0, 1, 2, 3, 4, 5)))
        (1, 5)
    """

    index: int = 0
    number: int = 1

    def __post_init__(self):
        """Checks the range."""
        if not 0 <= self.index < self.number:
            raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {self}")

    def __str__(self):
        """``i/n``, as the command line takes it."""
        return f"{self.index}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads ``i/n``, such as ``0/4``."""
        index, _, number = text.partition("/")
        try:
            numbers = int(index), int(number)
        except ValueError:
            raise ValueError(
                f"shard: expected i/n, such as 0/4, got {text!r}"
            ) from None
        return cls(*numbers)

    def seeds(self, config: StudyConfig) -> tuple[int, ...]:
        """This share of a run's seeds; refuses more shards than seeds."""
        if self.number > len(config.seeds):
            raise ValueError(
                f"shard: expected at most {len(config.seeds)} shards, one for each "
                f"seed, got {self}"
            )
        return config.seeds[self.index :: self.number]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which run a folder belongs to.

    Attributes:
        fields: of the configuration, as JSON holds them.
        flags: of the command line, ``--name=value``.
        seeds: of the run, or of its shard.
        variables_digest: of networks that were given; None if they are trained.
        fingerprint: of what these compute; None if their variables and the
            configuration say so.
    """

    fields: Mapping[str, Any]
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    variables_digest: str | None = None
    fingerprint: str | None = None


def identify(
    config: StudyConfig,
    shard: Shard | None = None,
    variables_digest: str | None = None,
    fingerprint: str | None = None,
) -> Identity:
    """The identity of a run, or of a shard of it."""
    shard, flags = shard or Shard(), config.flags()
    if shard != Shard():
        flags.append(f"--shard={shard}")
    if variables_digest:
        flags.append(f"--variables_digest={variables_digest}")
    return Identity(
        _as_json(config),
        tuple(flags),
        shard.seeds(config),
        variables_digest,
        fingerprint,
    )


def _as_json(config: StudyConfig) -> dict[str, Any]:
    """The fields as they are read back from results."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


@dataclasses.dataclass(frozen=True)
class Request:
    """A study that is asked for; its configuration records the networks given.

    Attributes:
        config: what to run.
        given: networks that are not trained; None trains some.
        data: if they had to be loaded, or the caller has them.
        identity: of the run.
    """

    config: StudyConfig
    given: GivenNetworks | None
    data: Dataset | None
    identity: Identity

    @classmethod
    def of(
        cls,
        config: StudyConfig,
        *,
        data: Dataset | None = None,
        network: Network | Model | None = None,
        variables: Any = None,
        shard: Shard | None = None,
    ) -> "Request":
        """Checks what ``run_study`` is given, as far as that needs no data."""
        if config.network:
            if network is not None or variables is not None:
                raise ValueError(
                    "network: expected networks by config.network or as arguments, got "
                    "both"
                )
            network, variables, own_data = import_networks(config.network)
            data = own_data if data is None else data
        config, given = accept_networks(config, network, variables)
        if data is None and os.path.isfile(config.dataset):
            data = load_dataset(**config.data_arguments())  # a file may have changed
        if data is not None:
            config = describe_data(config, data)
        elif given and not given.is_built_in:  # to see what they compute
            data = load_dataset(**config.data_arguments())
        digests = given.digests(data, len(config.seeds)) if given else (None, None)
        return cls(config, given, data, identify(config, shard, *digests))

    def check_digest(self, digest: str) -> None:
        """Refuses to replay a run with other networks than it had."""
        if not self.config.network:
            raise ValueError(
                "variables_digest: expected none, as a command line trains its "
                f"networks, got {digest} of networks that were given from Python; call "
                "ioca_jax.run_study(config, workdir, data=, network=, variables=)"
            )
        found = self.identity.variables_digest
        if found != digest:
            raise ValueError(
                f"variables_digest: expected {digest}, got {found} of the networks "
                f"that {self.config.network} returns; they have changed since that run"
            )

    def plan(self, seeds_at_once: int | None = None) -> "Plan":
        """Loads the data, unless they are there, and plans the study."""
        data = self.data
        if data is None:
            data = load_dataset(**self.config.data_arguments())
        return make_plan(self.config, data, self.given, seeds_at_once)


def describe_data(config: StudyConfig, data: Dataset) -> StudyConfig:
    """A configuration that records the data that a run is given.

    It has the arguments that load these data again; data of the caller's own have their
    name, which loads none, and no label noise but the caller's.
    """
    if data.loaded_by is not None:
        loaded = dict(data.loaded_by)
        if config.label_noise not in (0, loaded["label_noise"]):
            raise ValueError(
                f"label_noise: expected {loaded['label_noise']:g}, that of the data, "
                f"got {config.label_noise:g}; load them with it, or give no data"
            )
        fields = {"dataset": loaded.pop("name"), "split_seed": loaded.pop("seed")}
        return dataclasses.replace(config, **fields, **loaded)
    if config.label_noise:
        raise ValueError(
            f"label_noise: expected 0 with data of your own, got {config.label_noise}; "
            "corrupt their training labels with corrupt_labels"
        )
    # Never a name that would load others.
    name = f"{data.name}, given by the caller" if can_load(data.name) else data.name
    nothing = dict.fromkeys(("data_dir", "num_validation", "num_test"))
    return dataclasses.replace(config, dataset=name, split_seed=0, **nothing)


def accept_networks(
    config: StudyConfig, network: Any, variables: Any
) -> tuple[StudyConfig, GivenNetworks | None]:
    """Checks given networks as far as possible without the data.

    Returns the configuration with the networks' own fields, and the networks; both
    arguments are None if the run trains its own.
    """
    if network is None and variables is None:
        return config, None
    if not isinstance(network, (Network, Model)) or variables is None:
        raise ValueError(
            "network, variables: expected a network (MLP, CNN, or of trace_network) "
            "and the variables of trained ones, or neither, got "
            f"{type(network).__name__} and {type(variables).__name__}"
        )
    if config.trajectory_epochs:
        raise ValueError(
            "trajectory_epochs: expected none with networks trained elsewhere, got "
            f"{','.join(map(str, config.trajectory_epochs))}"
        )
    check_leaves(variables, len(config.seeds))
    check_copies(variables, config.seeds)
    if isinstance(network, Model):
        as_float32 = jax.tree.map(lambda a: np.asarray(a, np.float32), variables)
        fields = {name: getattr(network, name) for name in OF_NETWORKS}
        is_cnn = isinstance(network, CNN)
        fields["architecture"] = "cnn" if is_cnn else "mlp"
        fields["channels"] = network.channels if is_cnn else ()
        given = GivenNetworks(network, as_float32, digest_of(as_float32))
        return dataclasses.replace(config, **fields), given
    if "network" in {layer.name for layer in network.layers}:
        raise ValueError(
            "network: expected layers with other names than 'network', the scope of "
            "all layers"
        )
    fields = {
        "architecture": "mlp",
        "hidden": tuple(layer.num_neurons for layer in network.layers),
        "activation": threshold_activation(network),
        "dropout_rate": 0.0,
        "batch_norm": False,
        "quantizer": settled_quantizer(config.quantizer, network.layers),
    }
    layers = [(layer.name, layer.shape) for layer in network.layers]
    described = f"{layers} {network.pool}"
    # Version 2 clamped these to other means: its folders are not continued.
    if network.num_outputs > network.num_neurons or network.pool != "mean":
        described += ", clamped by outputs"
    digest = digest_of(variables, described)
    return dataclasses.replace(config, **fields), GivenNetworks(
        network, variables, digest
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study of networks on data that fit each other.

    Attributes:
        fields: of the configuration, as results record them.
        model: what is studied: an ``MLP`` or ``CNN``, or a network that is given.
        data: what it is trained, measured and ablated on.
        given: networks that are not trained.
        training: how networks are trained; None for given ones.
        trajectory_epochs: after which trained networks are measured.
        quantizer: of activations, as text.
        num_codes: B, of the quantiser.
        measures: what neurons are ranked by, as the configuration names it.
        scores: the measures that need no ablation.
        units: of the measures, by their names in results.
        clamps: what ablated neurons output.
        random_orders: in each scope.
        metrics: beside accuracy and loss, along curves.
        points: at which curves are evaluated, as text.
        variants: other quantisers, and parts of the validation split, to measure
            information by; empty without robustness.
        permutations: of the labels.
        interactions: whether pairs and groups are studied.
        direct_effects: whether neurons are ablated with later layers held too.
        memory_gb: to use at once, beside the data.
        seeds_at_once: in a chunk; None takes some for each device.
    """

    fields: Mapping[str, Any]
    model: Any
    data: Dataset
    given: GivenNetworks | None
    training: TrainConfig | None
    trajectory_epochs: tuple[int, ...]
    quantizer: str
    num_codes: int
    measures: tuple[str, ...]
    scores: tuple[Score, ...]
    units: Mapping[str, str]
    clamps: tuple[str, ...]
    random_orders: int
    metrics: tuple[Metric, ...]
    points: str
    variants: Mapping[str, tuple[str, slice]]
    permutations: int
    interactions: bool
    direct_effects: bool
    memory_gb: float
    seeds_at_once: int | None = None

    @cached_property
    def network(self) -> Network:
        """What the model computes of such examples."""
        return as_network(self.model, self.data.train.x)

    @property
    def epochs(self) -> int:
        """Of training; 0 for given networks."""
        return self.training.epochs if self.training else 0

    @property
    def num_orderings(self) -> int:
        """Of ``orderings``, which may be too many to be listed."""
        return 2 * len(self.measures) + self.random_orders

    @cached_property
    def orderings(self) -> list[Ordering]:
        """On the axis ``ordering``: two for each measure, then the random ones."""
        return orderings_of(list(self.units), self.random_orders)

    @cached_property
    def scopes(self) -> dict[str, np.ndarray]:
        """By name, the neurons int32 [K] that a scope orders."""
        return scopes_of(self.network)

    def shapes_of_variables(self) -> Any:
        """Shapes of the variables of one network."""
        if self.given:
            return jax.eval_shape(
                lambda leaves: jax.tree.map(lambda leaf: leaf[0], leaves),
                self.given.variables,
            )
        x = self.data.train.x
        example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        return jax.eval_shape(self.model.init, jax.random.key(0), example)

    @property
    def information_measures(self) -> tuple[str, ...]:
        """The measures that joint counts give."""
        return tuple(name for name in self.measures if name in MEASURES)


def make_plan(
    config: StudyConfig,
    data: Dataset,
    given: GivenNetworks | None = None,
    seeds_at_once: int | None = None,
) -> Plan:
    """Plans a study; refuses networks and settings that do not fit the data."""
    if seeds_at_once is not None:
        check_integer("seeds_at_once", seeds_at_once, least=1)
    model = _fitting_model(config, data, given)
    check_classes(data.validation.y)
    if "resample_class" in config.clamps:
        check_class_donors(data)
    num_validation, num_codes = number_counted(data.validation.y), config.num_codes
    if config.interactions or set(SELECTIONS) & set(config.measures):
        check_pairs(
            model.num_neurons,
            num_validation,
            num_codes=num_codes,
            num_classes=model.num_classes,
            memory_gb=config.memory_gb,
        )
    others = variants(model, config.quantizer, len(data.validation.y))
    plan = Plan(
        fields=_as_json(config),
        model=model,
        data=data,
        given=given,
        training=None if given else config.train_config(),
        trajectory_epochs=config.trajectory_epochs,
        quantizer=config.quantizer,
        num_codes=num_codes,
        measures=config.measures,
        scores=config.scores,
        units=config.units,
        clamps=config.clamps,
        random_orders=config.random_orders,
        metrics=parse_metrics(config.metrics),
        points=config.points,
        variants=others if config.robustness else {},
        permutations=config.permutations,
        interactions=config.interactions,
        direct_effects=config.direct_effects,
        memory_gb=config.memory_gb,
        seeds_at_once=seeds_at_once,
    )
    check_annotations(config.measures, data)
    _check_scores(plan)
    check_metrics(plan.metrics, model.num_classes)
    return plan


def _check_scores(plan: Plan) -> None:
    """Refuses scores that the network does not have, or that return no score.

    Nothing is computed but the shapes.
    """
    if any(score.name not in MEASURES for score in plan.scores):
        counted = number_counted(plan.data.validation.y)
        asked = {"measures": plan.scores, "num_counted": counted}
        measure = partial(measure_neurons, quantizer=plan.quantizer, **asked)
        jax.eval_shape(
            lambda *given: measure(plan.network, *given).scores,
            *(plan.shapes_of_variables(), *plan.data.validation),
        )


def _fitting_model(
    config: StudyConfig, data: Dataset, given: GivenNetworks | None
) -> Network | Model:
    """What is studied, once it is known to fit the data."""
    if given:
        given.check_fit(data, config.seeds, config.quantizer)
        return given.network
    check_single(data)
    model = config.model(data.num_classes, data.train.x.shape[1:])
    # To count what deep networks take takes minutes; each layer is a scope too.
    layers = len(model.layers)
    if layers > _MOST_LAYERS:
        raise ValueError(
            f"hidden: expected at most {_MOST_LAYERS} layers, each of them a scope "
            f"with all orders, got {layers}; give fewer"
        )
    check_fit(model, data, config.train_config())
    return model


def variants(
    network: Network | Model, quantizer: str, num_validation: int
) -> dict[str, tuple[str, slice]]:
    """Other quantisers, and parts of the validation split, to measure information by.

    Thresholds are tried where the network's activation function is known, whose range
    decides which are reasonable.
    """
    everything, half = slice(None), num_validation // 2
    thresholds = _THRESHOLDS.get(getattr(network, "activation", ""), ())
    quantizers = [
        *(f"threshold:{threshold:g}" for threshold in thresholds),
        *("quantile:2", "quantile:8", "uniform:2", "uniform:8"),
    ]
    parts = {
        "first half": slice(half),
        "second half": slice(half, 2 * half),
        "first fifth": slice(max(1, num_validation // 5)),
        "first twentieth": slice(max(1, num_validation // 20)),
    }
    return {q: (q, everything) for q in quantizers if q != quantizer} | {
        name: (quantizer, part) for name, part in parts.items()
    }
