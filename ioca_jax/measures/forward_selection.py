"""Orders that take redundancy into account: each neuron is chosen given those before.

Both are the forward selections of the literature on choosing features, on the neurons
of a layer or a network. A score is how many neurons are chosen after a neuron, so
descending order ablates in the order of the selection.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.measures.counts import joint_counts, pair_counts
from ioca_jax.measures.information import mutual_information
from ioca_jax.measures.pairs import checked_codes, pair_information

SELECTIONS = ("mrmr", "jmi")


def neuron_dependence(
    codes: Int[ArrayLike, "N H"], *, num_codes: int
) -> Float[Array, "H H"]:
    """Mutual information of each two neurons' codes, ``I(Ti;Tj)``, in bits."""
    codes = jnp.asarray(codes, jnp.int32)
    alone = jnp.zeros(len(codes), jnp.int32)
    counts = pair_counts(codes, alone, num_codes=num_codes, num_classes=1)
    size = codes.shape[1]
    return mutual_information(counts.reshape(size, size, num_codes, num_codes))


def selection_scores(
    codes: Int[ArrayLike, "N H"],
    labels: Int[ArrayLike, " N"],
    groups: dict[str, Int[ArrayLike, " K"]],
    key: Array,
    *,
    criterion: str,
    num_codes: int,
    num_classes: int,
    memory_gb: float = 1.0,
) -> dict[str, Float[Array, " H"]]:
    """Scores neurons by greedy forward selection, each group of neurons by itself.

    The first choice is the neuron of highest ``I(Ti;Y)``. Then, with S the neurons
    chosen so far, ``mrmr`` takes the highest ``I(Ti;Y) - mean over S of I(Ti;Tj)`` and
    ``jmi`` the highest ``sum over S of I(Ti,Tj;Y)``. Equal ones come in random order.

    Args:
        codes: int32 [N, H] quantised outputs.
        labels: int32 [N] classes.
        groups: by name, the neurons to choose among.
        key: decides between equal neurons.
        criterion: one of ``SELECTIONS``.
        num_codes: B.
        num_classes: C.
        memory_gb: bounds the counts of pairs.

    Returns:
        By group, float32 [H]: the number of neurons chosen later; NaN outside.

    Source: H. Peng, F. Long, C. Ding, "Feature selection based on mutual information",
    2005 (mRMR); H. Yang and J. Moody, 1999 (JMI).
    """
    codes, labels = checked_codes(codes, labels, num_codes, num_classes)
    sizes = {"num_codes": num_codes, "num_classes": num_classes}
    information = mutual_information(joint_counts(codes, labels, **sizes))
    if criterion == "mrmr":
        of_pairs = neuron_dependence(codes, num_codes=num_codes)
    else:
        names = ("joint_information",)
        pairs = pair_information(
            *(codes, labels), **sizes, measures=names, memory_gb=memory_gb
        )
        of_pairs = pairs["joint_information"]
    return {
        name: _select(criterion, information, of_pairs, jnp.asarray(neurons), key)
        for name, neurons in groups.items()
    }


@partial(jax.jit, static_argnames="criterion")
def _select(criterion, information, of_pairs, neurons, key) -> Float[Array, " H"]:
    neurons = jax.random.permutation(key, neurons)  # the first of equal ones is taken
    alone, pairs = information[neurons], of_pairs[neurons][:, neurons]
    size = len(neurons)

    def choose(step, carry):
        scores, total = carry
        mean = total / jnp.maximum(step, 1)
        value = alone - mean if criterion == "mrmr" else mean
        value = jnp.where(step == 0, alone, value)
        best = jnp.argmax(jnp.where(jnp.isnan(scores), value, -jnp.inf))
        return scores.at[best].set(size - 1.0 - step), total + pairs[best]

    start = jnp.full(size, jnp.nan), jnp.zeros(size)
    scores, _ = jax.lax.fori_loop(0, size, choose, start)
    return jnp.full(len(information), jnp.nan).at[neurons].set(scores)
