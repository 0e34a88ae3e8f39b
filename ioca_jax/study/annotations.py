"""Information about annotations of the examples, and what they lose along curves."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.evaluation import Evaluation
from ioca_jax.batching import take_examples
from ioca_jax.checks import number_counted
from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.information import MEASURES, Null, null_of_labels
from ioca_jax.study.config import measures_of
from ioca_jax.study.inputs import Examples, Inputs
from ioca_jax.study.interactions import Quantised


def score_annotations(
    inputs: Inputs, edges: Float[Array, "S H edges"]
) -> dict[str, Float[Array, "S H"]]:
    """Scores ``measure@annotation``, of the validation examples whose value is known.

    ``edges`` are those of the codes that measures of the class have.
    """
    found = {}
    for annotation, sizes, split, networks in _measured(inputs, edges):
        scores = _score(networks, split, **sizes)
        found |= {f"{name}@{annotation}": own for name, own in scores.items()}
    return found


def _measured(
    inputs: Inputs, edges: Float[Array, "S H edges"]
) -> Iterator[tuple[str, dict[str, Any], Examples, Quantised]]:
    """Annotations with measures: these and the number of values, known examples."""
    for annotation, number in inputs.plan.data.annotation_values.items():
        measures = measures_of(inputs.plan.measures, annotation)
        if measures:
            split = _known_examples(inputs, annotation)
            sizes = {"measures": measures, "num_values": number}
            yield annotation, sizes, split, _quantised(inputs, edges, split)


@partial(jax.jit, static_argnames=("measures", "num_values"))
def _score(networks, split, *, measures, num_values) -> dict[str, Array]:
    def of_network(codes, labels):
        sizes = {"num_codes": networks.num_codes, "num_classes": num_values}
        counts = joint_counts(codes, labels, **sizes)
        return {name: MEASURES[name](counts) for name in measures}

    return networks.map(of_network, split)


def nulls_of_annotations(
    inputs: Inputs, edges: Float[Array, "S H edges"], key: Array
) -> dict[str, Null]:
    """Tests of ``score_annotations`` against permuted values of the annotation."""
    found = {}
    for annotation, sizes, split, networks in _measured(inputs, edges):
        permuted = networks.permuted(split, key, inputs.plan.permutations)
        nulls = nulls_of_networks(networks, split, permuted, **sizes)
        found |= {f"{name}@{annotation}": own for name, own in nulls.items()}
    return found


@partial(jax.jit, static_argnames=("measures", "num_values"))
def nulls_of_networks(
    networks: Quantised,
    split: Examples,
    permuted: Int[Array, "number samples"],
    *,
    measures: tuple[str, ...],
    num_values: int,
) -> dict[str, Null]:
    """Nulls of every network, one after another, of the same permutations."""
    return networks.map(
        lambda codes, labels: null_of_labels(
            codes,
            labels,
            permuted,
            num_codes=networks.num_codes,
            num_classes=num_values,
            measures=measures,
        ),
        split,
    )


def _known_examples(inputs: Inputs, annotation: str) -> Examples:
    """The validation examples whose value is known, with values as labels.

    Where classes are of tokens, those that count have the value of their example.
    """
    data = inputs.plan.data
    values, y = data.annotations[annotation][1], data.validation.y
    known = np.flatnonzero(values >= 0)
    labels = values[known]
    if y.ndim > 1:
        labels = np.where(y[known] >= 0, labels[:, None], -1)
    return Examples(take_examples(inputs.validation.x, known), jnp.asarray(labels))


def _quantised(inputs: Inputs, edges: Array, split: Examples) -> Quantised:
    number = number_counted(split.y)
    variables = inputs.trained.variables
    return Quantised(inputs.network, variables, edges, inputs.plan.num_codes, number)


def test_values(inputs: Inputs) -> dict[str, np.ndarray]:
    """By annotation, its values int32 [N] for the test examples."""
    return {name: of[-1] for name, of in inputs.plan.data.annotations.items()}


def correct_by_value(
    inputs: Inputs, curve: Evaluation
) -> Int[np.ndarray, "*batch values"]:
    """Correct examples by value, all annotations' values side by side."""
    parts = []
    for name, number in inputs.plan.data.annotation_values.items():
        counts = np.asarray(curve.correct_by[name])
        # Values that no test example has are not counted.
        widths = [(0, 0)] * (counts.ndim - 1) + [(0, number - counts.shape[-1])]
        parts.append(np.pad(counts, widths))
    return np.concatenate(parts, axis=-1)
