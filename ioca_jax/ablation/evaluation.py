"""Scores of ablated networks: correct examples by class, and loss."""

import dataclasses
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.batching import SEEN


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well ablated networks classify; a leading axis for each mask or step.

    Attributes:
        correct: int32 [..., C], examples classified correctly, by true class; -1 where
            an order that is none was traced.
        loss: float32 [...], mean cross-entropy, nats; NaN there.
        num_examples: N.
    """

    correct: Int[Array, "*batch C"]
    loss: Float[Array, "*batch"]
    num_examples: int = dataclasses.field(metadata={"static": True})

    @property
    def accuracy(self) -> Float[Array, "*batch"]:
        """Share of all examples classified correctly, float32 [...]."""
        number = self.correct.sum(axis=-1)
        share = number / jnp.float32(self.num_examples)
        return jnp.where(number < 0, jnp.nan, share)


def right_and_losses(
    logits: Float[Array, "C n"], y: Int[Array, " n"]
) -> tuple[Bool[Array, " n"], Float[Array, " n"]]:
    """Whether each example is classified correctly, and its cross-entropy.

    Args:
        logits: float32 [C, n].
        y: int32 [n] classes.

    Returns:
        bool [n]: the first greatest logit is the class's; float32 [n], nats. Anything
        where the label is ``SEEN``.
    """
    classes = jnp.arange(len(logits))[:, None]
    best = _over_classes(jnp.maximum, logits)
    own = _over_classes(jnp.add, jnp.where(y == classes, logits, 0))
    earlier = _over_classes(jnp.maximum, jnp.where(y > classes, logits, -jnp.inf))
    losses = jnp.log(_over_classes(jnp.add, jnp.exp(logits - best))) + best - own
    return (own >= best) & (own > earlier), losses


def score_logits(
    logits: Float[Array, "C n"], y: Int[Array, " n"]
) -> tuple[Array, Array]:
    """Correct by class, int32 [C], and the sum of cross-entropies."""
    right, losses = right_and_losses(logits, y)
    is_label = (y == jnp.arange(len(logits))[:, None]).astype(logits.dtype)
    # A product counts exactly up to 2^24, and is faster than a sum of booleans.
    correct = jnp.matmul(is_label, right.astype(logits.dtype), precision="highest")
    return (
        correct.astype(jnp.int32),
        jnp.sum(jnp.where(y == SEEN, 0, losses)),
    )


def _over_classes(combine: Any, array: Float[Array, "C n"]) -> Float[Array, " n"]:
    """Reduces over classes row by row, which vectorises where ``jnp.sum`` does not.

    Beyond some classes the program would grow too long for it.
    """
    if len(array) <= 64:
        return reduce(combine, array)
    return combine.reduce(array, axis=0)


def zero_scores(num_classes: int, *leading: int) -> tuple[Array, Array]:
    """Correct [..., C] and losses [...] to add to."""
    return (
        jnp.zeros((*leading, num_classes), jnp.int32),
        jnp.zeros(leading),
    )


def make_evaluation(sums, shape: tuple[int, ...], num_examples: int) -> Evaluation:
    """Sums over examples as an evaluation with the leading axes ``shape``."""
    correct, loss = sums
    return Evaluation(
        correct.reshape(*shape, -1), loss.reshape(shape) / num_examples, num_examples
    )
