"""Metrics: numbers for each example, whose means are followed along ablation curves.

Accuracy and loss are part of every evaluation. The others compare an ablated network's
logits with the class, or with the intact network's logits; users write their own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.evaluation import (
    Evaluation,
    by_class,
    right_and_losses,
    sum_by_class,
)
from ioca_jax.batching import IGNORE_LABEL
from ioca_jax.checks import (
    as_array,
    as_tuple,
    described,
    import_named,
    is_known,
    is_real,
    nearest,
)
from ioca_jax.host_arrays import AnyArray, divided, host_view

ALWAYS = ("accuracy", "loss")  # what every evaluation has
_MOST_VALUES = 2**16  # of an annotation: each has a count at every point


def _kl(logits: Array, y: Array, intact: Array) -> Array:
    """From the ablated network's output distribution to the intact network's, nats."""
    del y
    ours, theirs = jax.nn.log_softmax(intact), jax.nn.log_softmax(logits)
    # Where the intact network gives 0, the term is 0.
    terms = jnp.where(jnp.isneginf(ours), 0, jnp.exp(ours) * (ours - theirs))
    return jnp.maximum(terms.sum(axis=-1), 0)  # rounding may leave less


def _agreement(logits: Array, y: Array, intact: Array) -> Array:
    """1 where the prediction is the intact network's."""
    del y
    return logits.argmax(axis=-1) == intact.argmax(axis=-1)


def _margin(logits: Array, y: Array, intact: Array) -> Array:
    """The logit of the class less the greatest other."""
    del intact
    is_class = y[:, None] == jnp.arange(logits.shape[-1])
    own = jnp.where(is_class, logits, 0).sum(axis=-1)
    return own - jnp.where(is_class, -jnp.inf, logits).max(axis=-1)


def _brier(logits: Array, y: Array, intact: Array) -> Array:
    """Squared distance of the output distribution from the class, in [0, 2]."""
    del intact
    is_class = y[:, None] == jnp.arange(logits.shape[-1])
    return jnp.square(jax.nn.softmax(logits) - is_class).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number for each example, followed along curves as its mean.

    Attributes:
        name: letters, digits and underscores; its label in results.
        unit: of its values, ``nat`` or ``1``.
        function: of logits float32 [n, C], classes int32 [n] and the intact network's
            logits [n, C] to numbers [n], in ``jax.numpy``. Where a class is -1, as of
            padding, the number is left out.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> shift = ioca.Metric("shift", "1", lambda z, y, old: abs(z - old).max(1))
        >>> order, asked = jnp.array([3, 4, 0]), ("kl", shift)
        >>> curve = ioca.ablation_curve(
        ...     model, variables, order, 0.0, x, y, metrics=asked
        ... )
        >>> list(curve.metrics), curve.metrics["shift"].shape
        (['accuracy', 'loss', 'kl', 'shift'], (4,))
    """

    name: str
    unit: str
    function: Callable[[Array, Array, Array], Any]

    def __post_init__(self):
        """Checks the name."""
        if not self.name.isidentifier() or self.name in ALWAYS:
            raise ValueError(
                "name: expected letters, digits and underscores, and not accuracy or "
                f"loss, got {self.name!r}"
            )

    def of_examples(
        self, logits: Float[Array, "n C"], y: Int[Array, " n"], intact: Array
    ) -> Float[Array, " n"]:
        """The numbers; one line refuses what a user's function must not do."""
        expected = f"metrics: expected {self.name} to return numbers [n], one for each "
        expected += "example"
        try:
            found = jnp.asarray(self.function(logits, y, intact))
        except Exception as error:  # of the caller's own function
            raise ValueError(
                f"{expected}, got {described(error)}; it is traced, so write it in "
                "jax.numpy"
            ) from error
        if found.shape != y.shape or not (is_real(found) or found.dtype == bool):
            given = f"{found.dtype} of shape {list(found.shape)} for n = {len(y)}"
            raise ValueError(f"{expected}, got {given}")
        return found.astype(jnp.float32)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("kl", "nat", _kl),
        Metric("agreement", "1", _agreement),
        Metric("margin", "1", _margin),
        Metric("brier", "1", _brier),
    )
}
"""The metrics beside accuracy and loss, by name."""


def parse_metrics(metrics: Sequence[str | Metric | Callable]) -> tuple[Metric, ...]:
    """The metrics beside accuracy and loss that texts and functions stand for.

    A text is a name out of ``METRICS``, or ``package.module:function``: a ``Metric`` of
    the user's, or a function, whose name is the metric's and whose unit is ``1``.
    """
    given = [one for one in as_tuple("metrics", metrics) if one not in ALWAYS]
    found = tuple(map(_parsed, given))
    names = [metric.name for metric in found]
    for metric in found:
        if METRICS.get(metric.name, metric) != metric:
            raise ValueError(
                f"metrics: expected another name than {metric.name}, which is built "
                "in, for a metric of your own"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"metrics: expected each name once, got {','.join(names)}")
    return found


def _parsed(metric: str | Metric | Callable) -> Metric:
    if isinstance(metric, str) and ":" in metric:
        found, name = import_named("metrics", metric), metric.rpartition(":")[2]
    elif isinstance(metric, str):
        found, name = METRICS.get(metric), metric
    else:
        found, name = metric, getattr(metric, "__name__", type(metric).__name__)
    if callable(found) and not name.isidentifier():
        raise ValueError(
            f"metrics: expected a function with a name, got {name}; name it by "
            "ioca_jax.Metric(name, unit, function)"
        )
    if callable(found):
        return Metric(name, "1", found)
    if not isinstance(found, Metric):
        known = (*ALWAYS, *METRICS)
        raise ValueError(
            f"metrics: expected names out of {', '.join(known)}, a function (logits, "
            f"y, intact_logits) -> [n], or package.module:function, got {metric!r}"
            f"{nearest([str(metric)], known)}"
        )
    return found


class Batch(NamedTuple):
    """What engines know of examples beside the class.

    Attributes:
        x: [N, ...] examples, or a pytree of such.
        row: [N, ...], the donors of each example; None where clamps are constants.
        groups: by name, int32 [N], values of annotations.
    """

    x: Any
    row: Any
    groups: dict[str, Array]


class Labels(NamedTuple):
    """What a chunk's logits are compared with; tokens are examples of their own.

    Attributes:
        y: int32 [n] classes.
        groups: by name, int32 [n], values of annotations.
        intact: float32 [C, n], the intact network's logits; None where no metric is
            asked for.
    """

    y: Array
    groups: dict[str, Array]
    intact: Array | None


class Sums(NamedTuple):
    """Sums over examples, with leading axes.

    Attributes:
        correct: int32 [..., C], examples classified correctly.
        loss: float32 [...], cross-entropies.
        others: float32 [...], by metric.
        correct_by: int32 [..., V], by annotation: correct ones of each value.
    """

    correct: Array
    loss: Array
    others: dict[str, Array]
    correct_by: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Scorer:
    """What is summed over examples; equal ones share a compilation.

    Attributes:
        num_classes: C.
        metrics: those beside accuracy and loss.
        groups: annotations, each with the number of its values.
    """

    num_classes: int
    metrics: tuple[Metric, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()

    def zeros(self, *leading: int) -> Sums:
        """Sums to add to."""
        others = {metric.name: jnp.zeros(leading) for metric in self.metrics}
        correct = jnp.zeros((*leading, self.num_classes), jnp.int32)
        correct_by = {n: jnp.zeros((*leading, v), jnp.int32) for n, v in self.groups}
        return Sums(correct, jnp.zeros(leading), others, correct_by)

    def labels(
        self, y: Array, batch: Batch, intact: Callable[[], Float[Array, "n *T C"]]
    ) -> Labels:
        """Of a chunk; ``intact`` gives the intact network's logits."""
        known = by_class(intact()) if self.metrics else None
        groups = {name: values.ravel() for name, values in batch.groups.items()}
        return Labels(y.ravel(), groups, known)

    def score(
        self,
        logits: Float[Array, "C n"],
        labels: Labels,
        exp: Callable[[Array], Array] = jnp.exp,
    ) -> Sums:
        """The sums of a chunk, without leading axes."""
        right, losses = right_and_losses(logits, labels.y, exp)
        correct, loss = sum_by_class(right, losses, labels.y, self.num_classes)
        counted = labels.y != IGNORE_LABEL
        others, correct_by = {}, {}
        for metric in self.metrics:
            assert labels.intact is not None
            values = metric.of_examples(logits.T, labels.y, labels.intact.T)
            others[metric.name] = jnp.where(counted, values, 0).sum()
        for name, number in self.groups:
            has_value = labels.groups[name] == jnp.arange(number)[:, None]
            counts = jnp.sum(has_value & right & counted, axis=1, dtype=jnp.int32)
            correct_by[name] = counts
        return Sums(correct, loss, others, correct_by)


def check_metrics(metrics: Sequence[Metric], num_classes: int) -> None:
    """Refuses users' functions that fail or return another shape; computes nothing."""
    n = num_classes + 1  # so that one number for each class is not one for each example
    logits = jax.ShapeDtypeStruct((n, num_classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)
    for metric in metrics:
        if METRICS.get(metric.name) is not metric:
            jax.eval_shape(metric.of_examples, logits, labels, logits)


def checked_scorer(
    num_classes: int,
    metrics: Sequence[Any],
    groups: Mapping[str, ArrayLike] | None,
    y: AnyArray,
) -> tuple[Scorer, dict[str, Array]]:
    """The scorer that is asked for, and annotations as arrays of the shape of ``y``.

    Raises:
        ValueError: unknown metrics, a function that fails or returns another shape, or
            annotations that are not an integer for each example.
    """
    parsed = parse_metrics(metrics)
    check_metrics(parsed, num_classes)
    groups = {} if groups is None else groups
    if not isinstance(groups, Mapping):
        raise ValueError(
            "groups: expected a mapping from names to values of annotations, got a "
            f"{type(groups).__name__}"
        )
    arrays = {name: _annotation(name, values, y) for name, values in groups.items()}
    sizes = tuple(
        (name, int(np.max(array, initial=0)) + 1) for name, array in arrays.items()
    )
    return Scorer(num_classes, parsed, sizes), jax.tree.map(jnp.asarray, arrays)


def _annotation(name: str, values: ArrayLike, y: AnyArray) -> np.ndarray:
    if not is_known(values):
        raise ValueError(
            f"groups: expected known values of {name!r}, got traced ones; leave them "
            "out of the arguments of the function that is traced"
        )
    array = np.asarray(as_array(name, values))
    of_examples = y.shape[: array.ndim]
    if array.dtype.kind not in "iu" or not array.ndim or array.shape != of_examples:
        raise ValueError(
            f"groups: expected integers {list(of_examples or y.shape)} for {name!r}, a "
            f"value for each example, got {array.dtype} of shape {list(array.shape)}"
        )
    outside = array[(array < -1) | (array >= _MOST_VALUES)]
    if outside.size:
        raise ValueError(
            f"groups: expected values of {name!r} from 0 to {_MOST_VALUES - 1}, or -1 "
            f"for none, got {outside[0]}; number the values from 0"
        )
    array = array.reshape(*array.shape, *[1] * (y.ndim - array.ndim))
    return np.broadcast_to(array, y.shape).astype(np.int32)


def make_evaluation(
    sums: Sums, shape: tuple[int, ...], num_examples: int
) -> Evaluation:
    """Sums over examples as an evaluation with the leading axes ``shape``."""

    def shaped(counts: AnyArray) -> AnyArray:
        return counts.reshape(*shape, -1)

    def mean(total: AnyArray) -> Any:
        return divided(total.reshape(shape), num_examples)

    sums = jax.tree.map(host_view, sums)
    loss, others = jax.tree.map(mean, (sums.loss, sums.others))
    correct_by = jax.tree.map(shaped, sums.correct_by)
    found = (shaped(sums.correct), loss, others, correct_by)
    correct, loss, others, correct_by = jax.device_put(found)
    return Evaluation(correct, loss, num_examples, others, correct_by)
