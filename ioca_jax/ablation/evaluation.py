"""Scores of ablated networks: correct examples by class, and loss."""

import dataclasses
from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.batching import IGNORE_LABEL
from ioca_jax.host_arrays import divided, host_view, module_of
from ioca_jax.networks.printed import Table, as_text

UNITS = {"loss": "nats", "kl": "nats"}
_MOST_ROWS = 8  # of a printed table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """How well ablated networks classify; a leading axis for each mask or step.

    Where labels are per token, each token that counts is an example.

    Attributes:
        correct: int32 [..., C], examples classified correctly, by true class; -1 for a
            traced order that turned out to be invalid.
        loss: float32 [...], mean cross-entropy, nats; NaN there.
        num_examples: N, those whose label counts.
        others: by name, float32 [...], means of metrics beside accuracy and loss.
        correct_by: by annotation, int32 [..., V], correct examples of each value.
        bound: float32 [...] without the last axis, for chosen points: how far the area
            under the accuracy curve may be from that of all points, if accuracy is
            monotone between them; None for other points.
        at: how many neurons are ablated at each point of a curve; None for masks.

    Example:
        >>> import jax.numpy as jnp, ioca_jax as ioca
        >>> correct, loss = jnp.array([[40, 35], [40, 10]]), jnp.array([0.3, 0.9])
        >>> found = ioca.Evaluation(correct, loss, num_examples=100, at=(0, 3))
        >>> found.accuracy.tolist()
        [0.75, 0.5]
        >>> print(found)
        2 points of a curve, 100 examples of 2 classes
        neurons ablated accuracy loss (nats)
                      0   0.7500      0.3000
                      3   0.5000      0.9000
    """

    correct: Int[Array, "*batch C"]
    loss: Float[Array, "*batch"]
    num_examples: int = dataclasses.field(metadata={"static": True})
    others: dict[str, Float[Array, "*batch"]] = dataclasses.field(default_factory=dict)
    correct_by: dict[str, Int[Array, "*batch V"]] = dataclasses.field(
        default_factory=dict
    )
    bound: Float[Array, "*curves"] | None = None
    at: tuple[int, ...] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    @property
    def accuracy(self) -> Float[Array, "*batch"]:
        """Share of all examples classified correctly, float32 [...]."""
        number = host_view(self.correct).sum(axis=-1)
        share = divided(number.astype(np.float32), self.num_examples)
        blank = np.float32(np.nan)
        return jax.device_put(module_of(number).where(number < 0, blank, share))

    @property
    def metrics(self) -> dict[str, Float[Array, "*batch"]]:
        """By name, float32 [...]: accuracy, loss, and what else was asked for."""
        return {"accuracy": self.accuracy, "loss": self.loss, **self.others}

    @property
    def steps(self) -> Int[np.ndarray, " P"]:
        """How many neurons are ablated at each point of a curve, int32 [P]."""
        if self.at is None:
            raise ValueError("steps: expected a curve, got the evaluation of masks")
        return np.array(self.at, np.int32)

    def __repr__(self) -> str:
        """A table of some points; shapes while JAX traces."""
        return as_text(self, self._table)

    def _table(self) -> Table:
        """The first point, the last, and some between, each a mean of all curves."""
        *batch, points = self.loss.shape or (1,)
        rows = np.linspace(0, points - 1, min(points, _MOST_ROWS)).round().astype(int)
        name, places = "mask", np.arange(points)
        if self.at is not None:
            name, places = "neurons ablated", self.steps
        table = {name: places[rows].astype(str).tolist()}
        for metric, values in self.metrics.items():
            means = np.asarray(values).reshape(-1, points)[:, rows].mean(axis=0)
            unit = f" ({UNITS[metric]})" if metric in UNITS else ""
            table[metric + unit] = [f"{mean:.4f}" for mean in means]
        of = f"{points:,} points of a curve" if self.at else f"{points:,} masks"
        if batch:
            of += f", mean of {' x '.join(map(str, batch))}"
        of += f", {self.num_examples:,} examples of {self.correct.shape[-1]} classes"
        return of, table


# 2^f is this polynomial in f, |f| <= 1/2, to 9e-8; exactly 1 at 0.
_POWER_OF_TWO = (
    *(0.0013264729394031312, 0.009671513070580118, 0.055507337350698224),
    *(0.2402224207599075, 0.6931469776065176, 1.0),
)


def quick_exp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``exp(x)``, x at most 0, to ``2e-7 + 8e-8 |x|``: half of XLA's time on a CPU.

    ``2^(k+f)``, k an integer: 2^f is a polynomial, to whose exponent k is added.
    Numbers below 1e-38 are not 0.
    """
    scaled = jnp.maximum(x * jnp.float32(1.4426950408889634), -126)
    power = scaled - jnp.round(scaled)
    of_power = jnp.zeros_like(x)
    for coefficient in _POWER_OF_TWO:
        of_power = of_power * power + jnp.float32(coefficient)
    # Adding 3 * 2^22 moves the integer k into the low bits of the mantissa.
    k, of_power = (
        jax.lax.bitcast_convert_type(part, jnp.int32)
        for part in (scaled + 3 * 2**22, of_power)
    )
    return jax.lax.bitcast_convert_type(of_power + (k << 23), jnp.float32)


def right_and_losses(
    logits: Float[Array, "C n"],
    y: Int[Array, " n"],
    exp: Callable[[Array], Array] = jnp.exp,
) -> tuple[Bool[Array, " n"], Float[Array, " n"]]:
    """Whether each example is classified correctly, and its cross-entropy.

    Args:
        logits: float32 [C, n].
        y: int32 [n] classes.
        exp: of numbers up to 0.

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
        # A loop takes these out as one array, not as one for each class.
        is_class = jax.lax.optimization_barrier(y == jnp.arange(len(logits))[:, None])
        for k in classes:
            own = jnp.where(is_class[k], logits[k], own)
        powers = exp(logits - greatest)
        others = reduce(jnp.add, [powers[k] - (first == k) for k in classes])
    else:
        greatest, first = logits.max(axis=0), logits.argmax(axis=0)
        is_class = (y >= 0) & (y < len(logits))
        own = jnp.take_along_axis(logits, y[None], axis=0, mode="clip")[0]
        own = jnp.where(is_class, own, jnp.nan)
        is_first = first == jnp.arange(len(logits))[:, None]
        others = (exp(logits - greatest) - is_first).sum(axis=0)
    right = (first == y) & ~jnp.isnan(greatest)
    # The greatest logit's own term, exactly 1, would round the others' sum away.
    return right, greatest - own + jnp.log1p(others)


# Over so many classes, row by row vectorises where a reduction does not. Beyond, the
# program would grow too long.
_MOST_UNROLLED = 64


def sum_by_class(
    right: Bool[Array, " n"],
    losses: Float[Array, " n"],
    y: Int[Array, " n"],
    num_classes: int,
) -> tuple[Int[Array, " C"], Float[Array, ""]]:
    """Correct examples by class, and the sum of cross-entropies."""
    is_label = (y == jnp.arange(num_classes)[:, None]).astype(losses.dtype)
    # A product counts exactly up to 2^24, and is faster than a sum of booleans.
    correct = jnp.matmul(is_label, right.astype(losses.dtype), precision="highest")
    losses = jnp.where(y == IGNORE_LABEL, 0, losses)
    return correct.astype(jnp.int32), jnp.sum(losses)


def by_class(logits: Float[Array, "N *T C"]) -> Float[Array, "C n"]:
    """Logits with classes first, and tokens as examples of their own.

    Those of 16 bits are scored in 32: sums of counts and losses need them.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return logits.reshape(-1, logits.shape[-1]).T
