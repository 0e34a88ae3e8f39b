"""Cases of measures of neurons and pairs, beside scikit-learn."""

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import ioca_jax as ioca
from ioca_jax.measures.pairs import PAIR_MEASURES, pair_information

from .curves import spaced
from .inputs import DEFAULT, Case, Settings, examples, one_network, random_networks
from .oracles import bits_oracle, check_values, count_oracle, pair_bits_oracle
from .timing import Contender

_NUM_CODES = 2  # of the one-bit quantiser
_BITS_TOLERANCE = 1e-5


def has_sklearn() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


class _Neurons(NamedTuple):
    """What counting starts from.

    Attributes:
        outputs: float32 [N, H], a network's activations, on one device.
        y: int32 [N], there too.
        codes: int32 [N, H], the peers' codes, in NumPy.
        labels: int32 [N], in NumPy.
        num_classes: C.
    """

    outputs: jax.Array
    y: jax.Array
    codes: np.ndarray
    labels: np.ndarray
    num_classes: int


def _draw(settings: Settings) -> _Neurons:
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    variables = one_network(random_networks(model, data.x, 1), 0)
    _, outputs = model.apply(variables, data.x)
    # Neurons are counted on one device.
    outputs, y = jax.device_put((outputs, data.y), jax.devices()[0])
    threshold = 0.5 if settings.activation == "sigmoid" else 0
    codes = (np.asarray(outputs) > threshold).astype(np.int32)
    return _Neurons(outputs, y, codes, np.asarray(y), data.num_classes)


def _check_bits(
    name: str, values: Mapping[str, Any], oracle: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Compares the measures that the oracle has."""
    found, expected = np.stack([values[key] for key in oracle]), [*oracle.values()]
    return check_values(name, "bits", found, np.stack(expected), _BITS_TOLERANCE)


def measures_case(settings: Settings) -> Case:
    """All measures of single neurons, from their activations."""
    neurons = _draw(settings)
    num_examples, num_neurons = neurons.codes.shape
    sizes = (_NUM_CODES, neurons.num_classes)
    counts = count_oracle(neurons.codes, neurons.labels, *sizes)
    oracle = bits_oracle(counts)

    @jax.jit
    def program(outputs, y):
        codes = ioca.quantize(outputs, "threshold", settings.activation)
        counts = ioca.joint_counts(
            codes, y, num_codes=_NUM_CODES, num_classes=neurons.num_classes
        )
        return counts, {name: getattr(ioca, name)(counts) for name in oracle}

    def check(results):
        found, bits = results
        return check_values(DEFAULT, "cells", found, counts, 0) | _check_bits(
            DEFAULT, bits, oracle
        )

    def in_sklearn():
        return Contender(
            "sklearn",
            lambda _: sklearn_measures(neurons.codes, neurons.labels),
            lambda bits: _check_bits("sklearn", bits, oracle),
        )

    peers, left_out = settings.peers(has_sklearn(), {"sklearn": in_sklearn})
    return Case(
        f"all measures of {num_neurons} neurons, {num_examples} examples",
        num_examples * num_neurons,
        (
            Contender(
                DEFAULT,
                lambda _: program(neurons.outputs, neurons.y),
                check,
                ours=True,
            ),
            *peers,
        ),
        left_out,
    )


def pairs_case(settings: Settings) -> Case:
    """All informational values of all pairs, from their activations.

    scikit-learn computes co-information alone, of three mutual informations a pair.
    """
    neurons = _draw(settings)
    codes, labels = neurons.codes, neurons.labels
    num_examples, num_neurons = codes.shape
    first, second = np.triu_indices(num_neurons, 1)
    joint = codes[:, first] * _NUM_CODES + codes[:, second]
    counts = count_oracle(joint, labels, _NUM_CODES**2, neurons.num_classes)
    oracle = pair_bits_oracle(counts, _NUM_CODES)
    sample = spaced(len(first), settings.preset.num_pairs)
    members = (codes[:, first[sample]], codes[:, second[sample]])

    def run(_):
        # Not jitted here: it has a program of its own, and looks at the codes first.
        return pair_information(
            ioca.quantize(neurons.outputs, "threshold", settings.activation),
            neurons.y,
            num_codes=_NUM_CODES,
            num_classes=neurons.num_classes,
            memory_gb=settings.memory_gb,
        )

    def check(values):
        upper = {key: np.asarray(values[key])[first, second] for key in oracle}
        return _check_bits(DEFAULT, upper, oracle)

    def co_information(_):
        of_first, of_second, of_both = (
            sklearn_information(codes, labels)
            for codes in (*members, members[0] * _NUM_CODES + members[1])
        )
        return of_first + of_second - of_both

    def in_sklearn():
        expected = oracle["co_information"][sample]
        return Contender(
            "sklearn",
            co_information,
            lambda bits: check_values(
                "sklearn", "bits", bits, expected, _BITS_TOLERANCE
            ),
            scale=len(first) / len(sample),
            note=f"{len(sample)} of {len(first)} pairs, time scaled",
        )

    peers, left_out = settings.peers(has_sklearn(), {"sklearn": in_sklearn})
    return Case(
        f"{len(PAIR_MEASURES)} values of {len(first)} pairs, {num_examples} examples",
        num_examples * len(first),
        (Contender(DEFAULT, run, check, ours=True), *peers),
        left_out,
    )


def sklearn_measures(codes: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Measures [H], bits, of codes [N, H], by scikit-learn and SciPy."""
    from scipy.stats import entropy
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    rows = []
    for code in codes.T:
        counts: Any = contingency_matrix(code, y)
        of_code = counts.sum(axis=1)
        divergences = entropy(counts, of_code[:, None], base=2)
        information = mutual_info_score(None, None, contingency=counts) / np.log(2)
        rows.append((entropy(of_code, base=2), information, np.max(divergences)))
    names = ("entropy", "mutual_information", "kl_selectivity")
    return dict(zip(names, np.asarray(rows).T, strict=True))


def sklearn_information(codes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mutual information [M], bits, of codes [N, M] with the class."""
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    values = []
    for code in codes.T:
        counts: Any = contingency_matrix(code, y)
        values.append(mutual_info_score(None, None, contingency=counts))
    return np.asarray(values) / np.log(2)
