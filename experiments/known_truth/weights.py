"""The units that are planted, and weights that plant them."""

from typing import Any, NamedTuple

import numpy as np


class Unit(NamedTuple):
    """A unit of the first layer: its kind, its feature (-1: none), its importance."""

    kind: str
    feature: int
    importance: float


GRADES = (0.4, 0.8, 1.2, 1.6, 2.0)
TOGETHER = 1.6  # of duplicates together, of exclusive or, of a principal
OF_DECOYS = 1.2
UNITS = (
    *(Unit("graded", index, grade) for index, grade in enumerate(GRADES)),
    *(Unit("duplicate", 5, TOGETHER / 2) for _ in range(2)),
    *(Unit("exclusive or", feature, TOGETHER) for feature in (6, 7)),
    Unit("principal", 8, TOGETHER),
    Unit("backup", 8, 0),
    *(Unit("decoy", feature, 0) for feature in (9, 10)),
    *(Unit("irrelevant", feature, 0) for feature in (11, 12)),
    *(Unit("constant", -1, 0) for _ in range(2)),
    *(Unit("dead", -1, 0) for _ in range(2)),
)
KINDS = tuple(dict.fromkeys(unit.kind for unit in UNITS))
NUM_FEATURES = 1 + max(unit.feature for unit in UNITS)
PAIRS = {"duplicate": "redundant", "exclusive or": "synergistic", "backup": "redundant"}
"""By kind, what two planted units are to each other; a backup to its principal."""
_SECOND = 11  # units of the second layer
HEAD = 2  # numbers that a head outputs


def _first_layer(rng: np.random.Generator, order: np.ndarray, scale: np.ndarray) -> Any:
    """Weights and biases: a unit outputs its scale where its feature is 1."""
    weights, bias = np.zeros((NUM_FEATURES, len(UNITS))), np.zeros(len(UNITS))
    for place, unit in zip(order, UNITS, strict=True):
        if unit.kind == "constant":
            bias[place] = scale[place]
        elif unit.kind == "dead":
            bias[place] = -3.0 * NUM_FEATURES
            weights[:, place] = rng.normal(size=NUM_FEATURES)
        else:
            weights[unit.feature, place] = scale[place]
    return weights, bias


def _second_weights(order: np.ndarray, scale: np.ndarray, residual: bool) -> Any:
    """Weights of the second layer and of what is read, by leaf."""
    second = np.zeros((len(UNITS), _SECOND))
    second_bias, read = np.zeros(_SECOND), np.zeros(_SECOND)
    row = {index: order[index] for index in range(len(UNITS))}

    def connect(target: int, parts: dict[int, float], weight: float) -> None:
        for index, part in parts.items():
            second[row[index], target] = part / scale[row[index]]
        read[target] = weight

    for index, grade in enumerate(GRADES):
        connect(index, {index: 1.0}, 2 * grade)
    connect(5, {5: 0.5, 6: 0.5}, 2 * TOGETHER)
    connect(6, {7: 1.0, 8: -1.0}, 2 * TOGETHER)
    connect(7, {8: 1.0, 7: -1.0}, 2 * TOGETHER)
    connect(8, {9: 1.0}, 2 * TOGETHER)
    connect(9, {10: 2.0, 9: -2.0}, 2 * TOGETHER)
    second_bias[9] = -1.0  # half of a principal, its mean, is not yet nothing
    connect(10, {15: 1.0, 16: 1.0}, 1.0)
    bias = -sum(GRADES) - 3 * TOGETHER - 2.0
    signs = np.array([-0.5, 0.5])
    found = {"second_bias": second_bias, "out_bias": bias * signs}
    direct = np.zeros(len(UNITS))
    if residual:  # the second layer keeps what needs two units
        passed = [0, 1, 2, 3, 4, 5, 8, 10]
        direct = second[:, passed] @ read[passed]
        read[passed] = 0
        second[:, passed] = 0
    return found | {
        "second": second,
        "out": np.outer(read, signs),
        "direct": np.outer(direct, signs),
    }


def write_weights(
    rng: np.random.Generator, *, residual: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One network's weights, and the places of its units; scales are drawn."""
    order = rng.permutation(len(UNITS))
    scale = rng.uniform(0.7, 1.4, len(UNITS))
    weights, bias = _first_layer(rng, order, scale)
    found = {"first": weights, "first_bias": bias}
    return found | _second_weights(order, scale, residual), order


def untrained_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of a network whose weights are drawn: nothing is planted."""
    return {
        "first": rng.normal(size=(NUM_FEATURES, len(UNITS))) / np.sqrt(NUM_FEATURES),
        "first_bias": np.zeros(len(UNITS)),
        "second": rng.normal(size=(len(UNITS), _SECOND)) / np.sqrt(len(UNITS)),
        "second_bias": np.zeros(_SECOND),
        "out": rng.normal(size=(_SECOND, 2)),
        "out_bias": np.zeros(2),
    }


def as_heads(rng: np.random.Generator, weights: dict[str, np.ndarray]) -> Any:
    """A head outputs its unit's number in a direction of its own."""
    number = len(UNITS)
    angle = rng.uniform(0, 2 * np.pi, number)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    dead = weights["first_bias"] < 0
    first = np.where(dead, 0, weights["first"])
    project = direction[:, :, None] * weights["second"][:, None]
    return weights | {
        "first": first,
        "first_bias": np.where(dead, 0, weights["first_bias"]),
        "direction": direction,
        "project": project.reshape(number * HEAD, _SECOND),
        "query": 0.1 * rng.normal(size=(NUM_FEATURES, number * HEAD)),
        "key": 0.1 * rng.normal(size=(NUM_FEATURES, number * HEAD)),
    }
