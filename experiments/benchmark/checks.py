"""Contenders are compared with float64 NumPy before they are timed.

Correct counts are equal but for examples whose two greatest logits are within 1e-4;
losses are within 1e-4 (1 + loss) nats, effects of pairs within 1e-6 nats, measures
within 1e-5 bits, losses after a few training steps within 1e-3 (relative); counts are
equal.
"""

from typing import Any

import numpy as np

from ioca_jax.ablation.pair_effects import PairEffects

from . import peers

_BITS_TOLERANCE = 1e-5
_LOSS_TOLERANCE = 1e-4
_EFFECT_TOLERANCE = 1e-6
_TRAINING_TOLERANCE = 1e-3
TRAINING_CHECK_STEPS = 5


def check_curve(
    name: str, correct: Any, loss: Any, oracle: peers.CurveOracle
) -> dict[str, float]:
    """Refuses figures other than the oracle's.

    Args:
        name: whose they are.
        correct: [S, O, P, C]; [S, O, P] without the loss.
        loss: [S, O, P], or None.
        oracle: what is right.

    Returns:
        How far they are off: ``examples`` at one point, ``loss`` in nats if given; and
        ``near_ties``, the most examples at one point that may be.

    Raises:
        ValueError: another count, beyond the examples near a tie, or another loss.
    """
    correct = np.asarray(correct, np.int64)
    if loss is None:
        correct, expected = correct[..., None], oracle.correct.sum(axis=-1)[..., None]
    else:
        expected = oracle.correct
    off = np.abs(correct - expected).sum(axis=-1)
    # An example that changes sides is one correct answer more or less; nothing else is.
    wrong = off > oracle.near_ties
    if wrong.any():
        point = tuple(int(index[0]) for index in np.nonzero(wrong))
        raise ValueError(
            f"{name}: expected the oracle's correct counts but for examples near a "
            f"tie, got {off[point]} off at (seed, order, checked point) {point}, where "
            f"{oracle.near_ties[point]} are near a tie"
        )
    agreement: dict[str, float] = {
        "examples": int(off.max()),
        "near_ties": int(oracle.near_ties.max()),
    }
    if loss is None:
        return agreement
    difference = np.abs(np.asarray(loss, np.float64) - oracle.loss)
    # Negated, so that NaN is refused.
    wrong = ~(difference <= _LOSS_TOLERANCE * (1 + oracle.loss))
    if wrong.any():
        raise ValueError(
            f"{name}: expected losses within {_LOSS_TOLERANCE:g} (1 + loss) of the "
            f"oracle's, got one {difference[wrong].max():.3g} nats off"
        )
    return agreement | {"loss": float(difference.max())}


def check_bits(name: str, values: Any, oracle: Any) -> dict[str, float]:
    """Refuses measures other than the oracle's.

    Args:
        name: whose they are.
        values: bits, any shape.
        oracle: bits, the same shape.

    Returns:
        ``bits``, how far they are off.

    Raises:
        ValueError: one that is more than 1e-5 bits off.
    """
    difference = np.max(np.abs(np.asarray(values, np.float64) - np.asarray(oracle)))
    if not difference <= _BITS_TOLERANCE:
        raise ValueError(
            f"{name}: expected measures within {_BITS_TOLERANCE:g} bits of the "
            f"oracle's, got one {difference:.3g} bits off"
        )
    return {"bits": float(difference)}


def check_counts(name: str, counts: Any, oracle: np.ndarray) -> dict[str, float]:
    """Refuses counts other than the oracle's.

    Args:
        name: whose they are.
        counts: integers.
        oracle: integers, the same shape.

    Returns:
        ``cells``, how many are off: none.

    Raises:
        ValueError: one that differs.
    """
    cells = int(np.sum(np.asarray(counts) != oracle))
    if cells:
        raise ValueError(
            f"{name}: expected the oracle's joint counts, got {cells} of {oracle.size} "
            "cells different"
        )
    return {"cells": 0}


def check_effects(
    name: str, effects: PairEffects, oracle: peers.CurveOracle, num_examples: int
) -> dict[str, float]:
    """Refuses effects of pairs other than the oracle's.

    Args:
        name: whose they are.
        effects: of P pairs, [P].
        oracle: of 1 + 3 P masks, [1, 1, 1 + 3 P]: the intact network, the first neuron
            of each pair ablated, the second, and both.
        num_examples: N.

    Returns:
        As ``check_curve``; near a tie may be an example of any of a pair's four masks.

    Raises:
        ValueError: another effect on accuracy, beyond the examples near a tie, or on
            the loss.
    """

    def of_pairs(of_masks: np.ndarray) -> list[np.ndarray]:
        return [of_masks[0, 0, :1], *of_masks[0, 0, 1:].reshape(3, -1)]

    intact, first, second, both = of_pairs(oracle.correct.sum(axis=-1))
    near_ties = sum(of_pairs(oracle.near_ties))
    found = np.asarray(effects.accuracy, np.float64) * num_examples
    off = np.abs(found - (first + second - intact - both))
    wrong = ~(off <= near_ties + 0.5)
    if wrong.any():
        raise ValueError(
            f"{name}: expected the oracle's effects on accuracy but for examples near "
            f"a tie, got one {off[wrong].max():.0f} examples off"
        )
    intact, first, second, both = of_pairs(oracle.loss)
    difference = np.abs(
        np.asarray(effects.loss, np.float64) - (both - first - second + intact)
    ).max()
    if not difference <= _EFFECT_TOLERANCE:
        raise ValueError(
            f"{name}: expected effects on the loss within {_EFFECT_TOLERANCE:g} nats "
            f"of the oracle's, got one {difference:.3g} nats off"
        )
    return {
        "examples": int(off.max().round()),
        "near_ties": int(np.max(near_ties)),
        "loss": float(difference),
    }


def check_losses(name: str, losses: Any, oracle: Any) -> dict[str, float]:
    """Refuses networks trained to another loss.

    Args:
        name: who trained them.
        losses: of each network, nats.
        oracle: what they should be.

    Returns:
        ``relative_loss``, how far they are off.

    Raises:
        ValueError: one more than 1e-3 off, relatively.
    """
    difference = np.max(np.abs(np.asarray(losses) / np.asarray(oracle) - 1))
    if not difference <= _TRAINING_TOLERANCE:
        raise ValueError(
            f"{name}: expected losses after {TRAINING_CHECK_STEPS} steps within "
            f"{_TRAINING_TOLERANCE:g} (relative) of training seed by seed, got one "
            f"{difference:.3g} off"
        )
    return {"relative_loss": float(difference)}
