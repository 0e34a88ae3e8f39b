"""What contenders must give, in float64 NumPy, and refusals of anything else.

Correct counts are equal but for examples whose two greatest logits are within 1e-4;
losses are within 1e-4 (1 + loss) nats.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NEAR_TIE = 1e-4  # examples whose two best logits are closer may be counted either way
_LOSS_TOLERANCE = 1e-4
_OUTPUTS = {
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}


class Affine(NamedTuple):
    """A layer's map before the activation, ``x @ kernel + bias``.

    Attributes:
        kernel: float32 [inputs, outputs].
        bias: float32 [outputs].
    """

    kernel: np.ndarray
    bias: np.ndarray


class CurveInputs(NamedTuple):
    """Networks and masks to evaluate, all NumPy arrays.

    Attributes:
        networks: for each seed, its L+1 affine maps.
        activation: relu, sigmoid or tanh.
        masks: bool [S, O, P, H]; False ablates.
        clamps: float32 [S, H].
        x: float32 [N, D].
        y: int32 [N].
    """

    networks: Sequence[Sequence[Affine]]
    activation: str
    masks: np.ndarray
    clamps: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def layers_of(self, of_neurons: Any) -> list[Any]:
        """Cuts [..., H] into the hidden layers' parts."""
        ends = np.cumsum([len(affine.bias) for affine in self.networks[0][:-1]])
        starts = [0, *ends[:-1]]
        return [
            of_neurons[..., a:b] for a, b in zip(starts, ends.tolist(), strict=True)
        ]


class CurveOracle(NamedTuple):
    """What masks must give.

    Attributes:
        correct: [S, O, P, C].
        loss: [S, O, P], nats.
        near_ties: [S, O, P], examples whose two best logits are within ``NEAR_TIE``.
    """

    correct: np.ndarray
    loss: np.ndarray
    near_ties: np.ndarray


def curve_oracle(inputs: CurveInputs) -> CurveOracle:
    """Evaluates masks of MLPs, one at a time."""
    output = _OUTPUTS[inputs.activation]
    x, y = np.asarray(inputs.x, np.float64), inputs.y
    figures = []
    for network, masks, clamp in zip(
        inputs.networks, inputs.masks, inputs.clamps, strict=True
    ):
        maps = [[np.asarray(a, np.float64) for a in affine] for affine in network]
        first = output(x @ maps[0][0] + maps[0][1])
        clamps = inputs.layers_of(clamp)
        for mask in masks.reshape(-1, masks.shape[-1]):
            z, keeps = first, inputs.layers_of(mask)
            for layer, (kernel, bias) in enumerate(maps[1:]):
                h = z if layer == 0 else output(z)
                z = np.where(keeps[layer], h, clamps[layer]) @ kernel + bias
            figures.append(score_oracle(z, y))
    return stack_oracles(figures, inputs.masks.shape[:-1])


def score_oracle(logits: np.ndarray, y: np.ndarray) -> CurveOracle:
    """The figures of one mask, of float64 logits [N, C]."""
    best = np.sort(logits, axis=1)
    shifted = logits - best[:, -1:]
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    right = y[logits.argmax(axis=1) == y]
    return CurveOracle(
        np.bincount(right, minlength=logits.shape[1]),
        losses.mean(),
        np.asarray(np.sum(best[:, -1] - best[:, -2] < NEAR_TIE)),
    )


def stack_oracles(
    figures: Sequence[CurveOracle], shape: tuple[int, ...]
) -> CurveOracle:
    """The figures of masks [*shape]."""
    columns = (np.asarray(column) for column in zip(*figures, strict=True))
    return CurveOracle(*(c.reshape(*shape, *c.shape[1:]) for c in columns))


def count_oracle(
    codes: np.ndarray, y: np.ndarray, num_codes: int, num_classes: int
) -> np.ndarray:
    """Joint counts [M, B, C] of codes [N, M], column by column."""
    size = num_codes * num_classes
    tables = [np.bincount(code * num_classes + y, minlength=size) for code in codes.T]
    return np.asarray(tables).reshape(-1, num_codes, num_classes)


def bits_oracle(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Measures [M], bits, of joint counts [M, B, C], by their formulas."""
    joint = counts / counts.sum(axis=(1, 2), keepdims=True)
    of_code = joint.sum(axis=2)
    of_class = joint.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        plogp = np.where(of_code > 0, of_code * np.log2(of_code), 0)
        given = joint / of_class[:, None, :]
        terms = np.where(joint > 0, given * np.log2(given / of_code[:, :, None]), 0)
    divergences = terms.sum(axis=1)
    return {
        "entropy": -plogp.sum(axis=1),
        "mutual_information": (of_class * divergences).sum(axis=1),
        "kl_selectivity": divergences.max(axis=1),
    }


def pair_bits_oracle(counts: np.ndarray, num_codes: int) -> dict[str, np.ndarray]:
    """Values of pairs [P], bits, of joint counts [P, B*B, C], by their formulas."""
    both = counts.reshape(len(counts), num_codes, num_codes, -1)
    first, second, joint = (
        bits_oracle(table)["mutual_information"]
        for table in (both.sum(axis=2), both.sum(axis=1), counts)
    )
    return {"joint_information": joint, "co_information": first + second - joint}


def check_curve(
    name: str, correct: Any, loss: Any, oracle: CurveOracle
) -> dict[str, float]:
    """Refuses correct [S, O, P, C] and loss [S, O, P] other than the oracle's.

    Returns the greatest differences: ``examples`` at one point, and ``loss`` in nats;
    and ``near_ties``, the most examples at one point that may differ.
    """
    off = np.abs(np.asarray(correct, np.int64) - oracle.correct).sum(axis=-1)
    # An example that changes sides is one correct answer more or less; nothing else is.
    wrong = off > oracle.near_ties
    if wrong.any():
        point = tuple(int(index[0]) for index in np.nonzero(wrong))
        raise ValueError(
            f"{name}: expected the oracle's correct counts but for examples near a "
            f"tie, got {off[point]} off at (seed, order, checked point) {point}, where "
            f"{oracle.near_ties[point]} are near a tie"
        )
    difference = np.abs(np.asarray(loss, np.float64) - oracle.loss)
    # Negated, so that NaN is refused.
    wrong = ~(difference <= _LOSS_TOLERANCE * (1 + oracle.loss))
    if wrong.any():
        raise ValueError(
            f"{name}: expected losses within {_LOSS_TOLERANCE:g} (1 + loss) of the "
            f"oracle's, got one {difference[wrong].max():.3g} nats off"
        )
    return {
        "examples": int(off.max()),
        "near_ties": int(oracle.near_ties.max()),
        "loss": float(difference.max()),
    }


def check_values(
    name: str, what: str, values: Any, oracle: Any, tolerance: float
) -> dict[str, float]:
    """Refuses values further than a tolerance from the oracle's, and NaN.

    ``what`` is the values' name or unit, such as ``bits``; returns the greatest
    difference by it.
    """
    difference = np.max(np.abs(np.asarray(values, np.float64) - np.asarray(oracle)))
    if not difference <= tolerance:
        raise ValueError(
            f"{name}: expected {what} within {tolerance:g} of the oracle's, got a "
            f"difference of {difference:.3g}"
        )
    return {what: float(difference)}
