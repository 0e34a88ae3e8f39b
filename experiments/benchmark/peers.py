"""The same work as a researcher would otherwise write it, and an oracle in float64.

Here NumPy and scikit-learn, which is imported when it takes part; PyTorch is in
``in_torch``.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ioca_jax.networks.mlp import Affine

_OUTPUTS = {
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}
NEAR_TIE = 1e-4  # examples whose two best logits are closer may be counted either way


def has_sklearn() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


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
    """Evaluates masks in float64, one at a time.

    Args:
        inputs: what to evaluate.

    Returns:
        The figures.
    """
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


def stack_oracles(figures: Sequence[CurveOracle], shape: tuple[int, ...]):
    """The figures of masks [*shape]."""
    columns = (np.asarray(column) for column in zip(*figures, strict=True))
    return CurveOracle(*(c.reshape(*shape, *c.shape[1:]) for c in columns))


def sklearn_measures(codes: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """All measures, neuron by neuron, by scikit-learn and SciPy.

    Args:
        codes: int32 [N, H].
        y: int32 [N].

    Returns:
        By measure, float64 [H], bits.
    """
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
    """Mutual information with the class, code by code, by scikit-learn.

    Args:
        codes: int32 [N, M].
        y: int32 [N].

    Returns:
        float64 [M], bits.
    """
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    values = []
    for code in codes.T:
        counts: Any = contingency_matrix(code, y)
        values.append(mutual_info_score(None, None, contingency=counts))
    return np.asarray(values) / np.log(2)


def sklearn_pairs(
    codes: np.ndarray,
    y: np.ndarray,
    pairs: np.ndarray,
    num_codes: int,
    alone: np.ndarray | None = None,
) -> np.ndarray:
    """Co-information of pairs with the class, pair by pair, by scikit-learn.

    Args:
        codes: int32 [N, H].
        y: int32 [N].
        pairs: integers [P, 2], neurons.
        num_codes: B.
        alone: float64 [H], each neuron's mutual information with the class; without,
            those of both neurons are computed for every pair.

    Returns:
        float64 [P], bits.
    """
    first, second = pairs.T
    joint = sklearn_information(codes[:, first] * num_codes + codes[:, second], y)
    of_first, of_second = (
        sklearn_information(codes[:, members], y) if alone is None else alone[members]
        for members in (first, second)
    )
    return of_first + of_second - joint


def count_oracle(
    codes: np.ndarray, y: np.ndarray, num_codes: int, num_classes: int
) -> np.ndarray:
    """Joint counts, code column by code column.

    Args:
        codes: integers [N, M] in [0, B).
        y: integers [N].
        num_codes: B.
        num_classes: C.

    Returns:
        int64 [M, B, C].
    """
    size = num_codes * num_classes
    tables = [np.bincount(code * num_classes + y, minlength=size) for code in codes.T]
    return np.asarray(tables).reshape(-1, num_codes, num_classes)


def bits_oracle(counts: np.ndarray) -> dict[str, np.ndarray]:
    """All measures of joint counts, in float64, as their formulas stand.

    Args:
        counts: int64 [M, B, C].

    Returns:
        By measure, float64 [M], bits.
    """
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
    """Values of pairs from joint counts, in float64, as their formulas stand.

    Args:
        counts: int64 [P, B*B, C].
        num_codes: B.

    Returns:
        By name, float64 [P], bits: what follows from mutual informations, uncorrected.
    """
    both = counts.reshape(len(counts), num_codes, num_codes, -1)
    first, second, joint = (
        bits_oracle(table)["mutual_information"]
        for table in (both.sum(axis=2), both.sum(axis=1), counts)
    )
    redundancy, co_information = np.minimum(first, second), first + second - joint
    return {
        "joint_information": joint,
        "co_information": co_information,
        "redundancy_mmi": redundancy,
        "unique_mmi": first - redundancy,
        "synergy_mmi": redundancy - co_information,
    }
