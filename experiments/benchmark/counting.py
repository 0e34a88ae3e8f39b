"""Cases of measures of neurons and pairs, beside scikit-learn."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import ioca_jax as ioca
from ioca_jax.measures.information import MEASURES
from ioca_jax.measures.pairs import PAIR_MEASURES, pair_information

from . import costs, peers
from .checks import check_bits, check_counts
from .curves import spaced
from .inputs import (
    DEFAULT,
    NUM_CODES,
    Case,
    Examples,
    Settings,
    examples,
    installed_peers,
    one_network,
    random_networks,
)
from .timing import Contender


class CountedNeurons(NamedTuple):
    """What counting starts from.

    Attributes:
        outputs: float32 [N, H], a network's activations, on the device.
        data: the examples, there too.
        codes: int32 [N, H], the peers' codes, in NumPy.
        labels: int32 [N], in NumPy.
    """

    outputs: jax.Array
    data: Examples
    codes: np.ndarray
    labels: np.ndarray

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Neurons, codes, classes and examples."""
        num_examples, num_neurons = self.codes.shape
        return num_neurons, NUM_CODES, self.data.num_classes, num_examples

    def tables(self, codes: np.ndarray, num_codes: int) -> np.ndarray:
        """The oracle's joint counts of codes [N, M], [M, B, C]."""
        return peers.count_oracle(codes, self.labels, num_codes, self.data.num_classes)


def _counted_neurons(settings: Settings) -> CountedNeurons:
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    variables = one_network(random_networks(model, data.x, 1), 0)
    _, outputs = model.apply(variables, data.x)
    # Neurons are counted on one device.
    outputs, y = jax.device_put((outputs, data.y), jax.devices()[0])
    threshold = 0.5 if settings.activation == "sigmoid" else 0
    codes = (np.asarray(outputs) > threshold).astype(np.int32)
    return CountedNeurons(outputs, data._replace(y=y), codes, np.asarray(y))


def _check_measures(
    name: str, measures: Mapping[str, Any], oracle: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """As ``check_bits``, of the measures that the oracle has."""
    found = np.stack([measures[key] for key in oracle])
    return check_bits(name, found, np.stack(list(oracle.values())))


def measures_case(settings: Settings) -> Case:
    """All measures of single neurons, from their activations.

    Args:
        settings: shared by all cases.

    Returns:
        The case.
    """
    neurons = _counted_neurons(settings)
    num_neurons, *_, num_examples = neurons.sizes
    counts = neurons.tables(neurons.codes, NUM_CODES)
    oracle = peers.bits_oracle(counts)

    @jax.jit
    def program(outputs, y):
        codes = ioca.quantize(outputs, "threshold", settings.activation)
        counts = ioca.joint_counts(
            codes, y, num_codes=NUM_CODES, num_classes=neurons.data.num_classes
        )
        return counts, {name: measure(counts) for name, measure in MEASURES.items()}

    def check(results):
        found, measures = results
        return check_counts(DEFAULT, found, counts) | _check_measures(
            DEFAULT, measures, oracle
        )

    def in_sklearn(name):
        return Contender(
            name,
            lambda _: peers.sklearn_measures(neurons.codes, neurons.labels),
            lambda measures: _check_measures(name, measures, oracle),
        )

    others, left_out = installed_peers(
        settings, peers.has_sklearn(), {"sklearn": in_sklearn}
    )
    return Case(
        f"all measures of {num_neurons} neurons, {num_examples} examples",
        {"neurons": num_neurons, "examples": num_examples},
        num_examples * num_neurons,
        costs.measures_cost(*neurons.sizes),
        (
            Contender(
                DEFAULT,
                lambda _: program(neurons.outputs, neurons.data.y),
                check,
                ours=True,
            ),
            *others,
        ),
        {"sklearn": 100.0},
        left_out,
    )


def pairs_case(settings: Settings) -> Case:
    """All informational values of all pairs, from their activations.

    Args:
        settings: shared by all cases.

    Returns:
        The case. scikit-learn gives co-information alone: with three mutual
        informations for each pair, and with those of the neurons once.
    """
    neurons = _counted_neurons(settings)
    num_neurons, *_, num_examples = neurons.sizes
    codes, labels = neurons.codes, neurons.labels
    first, second = np.triu_indices(num_neurons, 1)
    counts = neurons.tables(
        codes[:, first] * NUM_CODES + codes[:, second], NUM_CODES**2
    )
    oracle = peers.pair_bits_oracle(counts, NUM_CODES)
    sample = spaced(len(first), settings.preset.sampled_pairs)
    pairs = np.stack([first[sample], second[sample]], axis=1)

    def run(_):
        # Not under jit: it has a program of its own, and looks at codes first.
        return pair_information(
            ioca.quantize(neurons.outputs, "threshold", settings.activation),
            neurons.data.y,
            num_codes=NUM_CODES,
            num_classes=neurons.data.num_classes,
            memory_gb=settings.memory_gb,
        )

    def check(measures):
        upper = {key: np.asarray(measures[key])[first, second] for key in oracle}
        return _check_measures(DEFAULT, upper, oracle)

    def in_sklearn(setup, name):
        return Contender(
            name,
            lambda alone: peers.sklearn_pairs(codes, labels, pairs, NUM_CODES, alone),
            lambda bits: check_bits(name, bits, oracle["co_information"][sample]),
            setup=setup,
            scale=len(first) / len(sample),
            note=f"{len(sample)} of {len(first)} pairs, time scaled",
        )

    setups = {
        "sklearn": lambda: None,
        "sklearn_hoisted": lambda: peers.sklearn_information(codes, labels),
    }
    others, left_out = installed_peers(
        settings,
        peers.has_sklearn(),
        {name: partial(in_sklearn, setup) for name, setup in setups.items()},
    )
    return Case(
        f"{len(PAIR_MEASURES)} values of {len(first)} pairs, {num_examples} examples",
        {"neurons": num_neurons, "pairs": len(first), "examples": num_examples},
        num_examples * len(first),
        costs.pairs_cost(*neurons.sizes, len(PAIR_MEASURES)),
        (Contender(DEFAULT, run, check, ours=True), *others),
        {"sklearn": 500.0},
        left_out,
        most_seconds=1.0,
    )
