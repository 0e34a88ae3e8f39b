"""The decomposition of BROJA: redundant, unique and synergistic information of a pair.

N. Bertschinger et al., arXiv 1311.4369. A convex programme for each pair, on the host.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
import threadpoolctl
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ioca_jax.checks import check_counts
from ioca_jax.measures.pairs import tables_of_each


class Decomposition(NamedTuple):
    """Four parts of I(Ti,Tj;Y) that add up to it, float64 [P], bits.

    ``unique_first`` is information that only the first neuron has; no part is further
    than ``gap`` from its exact value.
    """

    redundancy: Float[np.ndarray, " P"]
    unique_first: Float[np.ndarray, " P"]
    unique_second: Float[np.ndarray, " P"]
    synergy: Float[np.ndarray, " P"]
    gap: Float[np.ndarray, " P"]


# What a gap may be: the solver stops at some 1e-9 bits.
_GREATEST_GAP = 1e-6


def broja(counts: Int[ArrayLike, "P pair_codes C"]) -> Decomposition:
    """The decomposition of Bertschinger and others, of pairs' counts [P, B*B, C].

    ``I(Ti;Y) - R = min_Q I_Q(Ti;Y|Tj)`` over the laws Q with the pair laws of (Ti, Y)
    and of (Tj, Y) as observed. The convex dual, ``max sum_ty P(t,y) a(t,y) + sum_sy
    P(s,y) b(s,y)`` subject to ``log sum_y exp(a(t,y) + b(s,y)) <= 0`` for all codes t,
    s, has few variables and smooth constraints. SciPy's SLSQP solves it; its value is a
    bound from one side, and the law that its multipliers give, fitted to the margins,
    one from the other. A loop over pairs on the host: about 0.05 s each for one bit and
    ten classes. Raises ArithmeticError where the gap is greater than 1e-6 bits.

    Source: N. Bertschinger et al., "Quantifying unique information", arXiv 1311.4369,
    definition 1; the dual: A. Makkeh et al., "BROJA-2PID", arXiv 1803.05238.
    """
    check_counts(counts)
    tables = np.asarray(counts)
    if tables.ndim == 3:
        tables_of_each(jnp.asarray(tables))
    num_codes = math.isqrt(tables.shape[1]) if tables.ndim == 3 else 0
    if tables.ndim != 3 or not tables.sum(axis=(1, 2)).all():
        raise ValueError(
            "counts: expected int32 [P, B*B, C] with examples counted for every pair, "
            f"got shape {list(tables.shape)}"
            f"{' and a pair without examples' if tables.ndim == 3 else ''}"
        )
    parts = []
    for index, table in enumerate(tables):
        law = table.reshape(num_codes, num_codes, -1) / table.sum()
        # Of matrices of 40 rows threads make 50 times more work.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            lower, upper = _union_information(law)
        if abs(upper - lower) > _GREATEST_GAP:
            raise ArithmeticError(
                f"pair {index}: expected BROJA to at most {_GREATEST_GAP} bits, got a "
                f"gap of {abs(upper - lower):.1e}; merge codes or leave the pair out"
            )
        first, second = (_information_of_law(law.sum(axis=axis)) for axis in (1, 0))
        joint = _information_of_law(law.reshape(num_codes**2, -1))
        union = min(max(lower, first, second), joint)
        redundancy = max(first + second - union, 0)
        parts.append(
            (
                redundancy,
                union - second,
                union - first,
                joint - union,
                abs(upper - lower),
            )
        )
    return Decomposition(*np.reshape(parts, (-1, 5)).T)


def _entropy_of_law(law: np.ndarray) -> float:
    return float(np.sum(scipy.special.entr(law))) / math.log(2)


def _information_of_law(law: np.ndarray) -> float:
    """I(T;Y) of probabilities [B, C], bits, float64."""
    alone = _entropy_of_law(law.sum(axis=1)) + _entropy_of_law(law.sum(axis=0))
    return max(alone - _entropy_of_law(law), 0.0)


def _union_information(law: np.ndarray) -> tuple[float, float]:
    """Bounds of ``min_Q I_Q(Ti,Tj;Y)`` of probabilities [B, B, C], bits."""
    first, second = law.sum(axis=1), law.sum(axis=0)  # [B, C]
    in_first, in_second = first > 0, second > 0
    number = in_first.sum()
    together = (in_first[:, None] & in_second).any(axis=-1)  # codes that may meet
    weights = np.concatenate([first[in_first], second[in_second]])

    def exponents(variables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = np.full(first.shape, -np.inf), np.full(second.shape, -np.inf)
        a[in_first], b[in_second] = variables[:number], variables[number:]
        return a, b

    def slack(variables):
        a, b = exponents(variables)
        sums = scipy.special.logsumexp((a[:, None] + b)[together], axis=-1)
        return np.negative(sums)

    def slack_gradient(variables):
        a, b = exponents(variables)
        shares = np.zeros(law.shape)
        shares[together] = scipy.special.softmax((a[:, None] + b)[together], axis=-1)
        eye = np.eye(len(law))
        by_first = np.einsum("tsy,tu->tsuy", shares, eye)[:, :, in_first]
        by_second = np.einsum("tsy,su->tsuy", shares, eye)[:, :, in_second]
        return -np.concatenate([by_first, by_second], axis=-1)[together]

    given_first = first / np.maximum(first.sum(axis=1, keepdims=True), 1e-300)
    start = np.concatenate([np.log(given_first[in_first]), np.zeros(in_second.sum())])
    found = scipy.optimize.minimize(
        lambda variables: (-weights @ variables, -weights),
        start,
        jac=True,
        method="SLSQP",
        constraints={"type": "ineq", "fun": slack, "jac": slack_gradient},
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    a, b = exponents(found.x)
    # Moved to where every constraint holds, any value is a bound.
    excess = np.full(together.shape, -np.inf)
    excess[together] = -slack(found.x)
    a = a - np.where(together.any(axis=1), excess.max(axis=1), 0)[:, None]
    of_classes = _entropy_of_law(first.sum(axis=0))
    lower = first[in_first] @ a[in_first] + second[in_second] @ b[in_second]

    # A multiplier is the probability of its two codes. Where one is 0 some of the law
    # of independence given the class stays, so that the margins can be met.
    multipliers = np.zeros(together.shape)
    multipliers[together] = np.maximum(found.multipliers, 0)
    law = multipliers[..., None] * np.exp(a[:, None] + b)
    law = law + 1e-12 * (first[:, None] > 0) * (second > 0)
    for _ in range(1000):
        law = law * _ratio(first, law.sum(axis=1))[:, None]
        law = law * _ratio(second, law.sum(axis=0))
        if np.abs(law.sum(axis=1) - first).max() < 1e-13:
            break
    upper = of_classes + _entropy_of_law(law.sum(axis=-1)) - _entropy_of_law(law)
    return of_classes + float(lower) / math.log(2), upper


def _ratio(wanted: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.divide(wanted, there, out=np.zeros_like(wanted), where=there > 0)
