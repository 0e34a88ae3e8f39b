"""Scores of ablated networks: correct examples by class, and loss."""

import dataclasses
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.batching import IGNORE_LABEL


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
        bool [n]: the first greatest logit is the class's; float32 [n], nats. Of a label
        that is no class, ``IGNORE_LABEL`` say: False, and NaN.
    """
    classes = range(len(logits))
    if len(logits) <= _MOST_UNROLLED:
        greatest, first = logits[0], jnp.zeros_like(y)
        for k in classes[1:]:
            first = jnp.where(logits[k] > greatest, k, first)
            greatest = jnp.maximum(greatest, logits[k])
        own = jnp.full_like(greatest, jnp.nan)
        for k in classes:
            own = jnp.where(y == k, logits[k], own)
        total = reduce(jnp.add, jnp.exp(logits - greatest))
    else:
        greatest, first = logits.max(axis=0), logits.argmax(axis=0)
        is_class = (y >= 0) & (y < len(logits))
        own = jnp.take_along_axis(logits, y[None], axis=0, mode="clip")[0]
        own = jnp.where(is_class, own, jnp.nan)
        total = jnp.exp(logits - greatest).sum(axis=0)
    right = (first == y) & ~jnp.isnan(greatest)
    return right, jnp.log(total) + greatest - own


# Over so many classes, row by row vectorises where a reduction does not. Beyond, the
# program would grow too long.
_MOST_UNROLLED = 64


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
        jnp.sum(jnp.where(y == IGNORE_LABEL, 0, losses)),
    )


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
