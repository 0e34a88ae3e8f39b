"""Measures of all neurons of a network, streaming over examples."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.batching import (
    IGNORE_LABEL,
    counted_examples,
    fold_examples,
    samples_of,
)
from ioca_jax.checks import (
    as_array,
    as_tuple,
    check_no_nan,
    check_num_classes,
    device_examples,
    is_known,
    number_counted,
)
from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.information import PAPER_MEASURES
from ioca_jax.measures.quantization import (
    Quantizer,
    encode,
    parse_quantizer,
    quantizer_edges,
)
from ioca_jax.measures.scores import (
    Measurement,
    Score,
    check_finite_scores,
    compute_scores,
    parse_score,
)
from ioca_jax.networks.inputs import checked_network
from ioca_jax.networks.layers import Layer, slices_of
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network
from ioca_jax.networks.printed import Table, as_text

# Examples measured at a time. Fixed, so that clamp means do not depend on a budget.
_EXAMPLES_MEASURED_AT_ONCE = 1000
_UNITS = {"bit": " (bits)", "nat": " (nats)"}
_OF_CLASSES = ("class_selectivity", "taylor_zero", "taylor_mean")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class NeuronStatistics:
    """Measures of every hidden neuron of one network on the measuring split.

    Attributes:
        scores: by measure, float32 [H]; information in bits.
        activation_mean: float32 [H], the mean of what is measured.
        clamp: float32 [P], the mean of each number that a neuron outputs, over
            examples and positions: what to clamp it to. It differs from
            ``activation_mean`` for neurons that are vectors, and where positions are
            pooled by anything but their mean.
        joint_counts: int32 [H, B, C].
        edges: float32 [H, B-1], the quantiser's.
        layers: name and number of neurons of each layer.
        units: by measure, ``bit``, ``nat`` or ``1``.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> measured = ioca.measure_neurons(model, variables, x, y)
        >>> measured.joint_counts.shape, measured.activation_mean.shape
        ((5, 2, 2), (5,))
        >>> asked = {"measures": ["entropy"]}
        >>> print(ioca.measure_neurons(model, variables, x * 0, y, **asked))
        5 neurons, 2 codes, 2 classes; median over neurons [least, greatest]
          layer neurons mean output entropy (bits)
        layer_1       3    0 [0, 0]       0 [0, 0]
        layer_2       2    0 [0, 0]       0 [0, 0]
    """

    scores: dict[str, Float[Array, "*S H"]]
    activation_mean: Float[Array, "*S H"]
    clamp: Float[Array, "*S P"]
    joint_counts: Int[Array, "*S H B C"]
    edges: Float[Array, "*S H edges"]
    layers: tuple[tuple[str, int], ...] = dataclasses.field(
        default=(), metadata={"static": True}
    )
    units: tuple[tuple[str, str], ...] = dataclasses.field(
        default=(), metadata={"static": True}
    )

    def __repr__(self) -> str:
        """A table of the layers; shapes while JAX traces."""
        return as_text(self, self._table)

    def _table(self) -> Table:
        """Of each layer, how the measures are distributed over its neurons."""
        *batch, neurons = self.activation_mean.shape
        layers = self.layers or (("all", neurons),)
        ends = np.cumsum([width for _, width in layers])[:-1]
        units = {name: _UNITS.get(unit, "") for name, unit in self.units}
        columns = {"mean output": self.activation_mean} | {
            name + units.get(name, ""): score for name, score in self.scores.items()
        }
        table = {
            "layer": [name for name, _ in layers],
            "neurons": [f"{width:,}" for _, width in layers],
        }
        for name, values in columns.items():
            parts = np.split(np.asarray(values), ends, axis=-1)
            table[name] = [
                f"{np.median(part):.3g} [{part.min():.3g}, {part.max():.3g}]"
                for part in parts
            ]
        networks = f" of {' x '.join(map(str, batch))} networks" if batch else ""
        codes, classes = self.joint_counts.shape[-2:]
        heading = (
            f"{neurons:,} neurons{networks}, {codes} codes, {classes} classes; median "
            "over neurons [least, greatest]"
        )
        return heading, table


def settled_quantizer(
    quantizer: str | Quantizer, layers: Sequence[Layer]
) -> str | Quantizer:
    """``threshold`` alone becomes ``uniform:8`` where neurons repeat over positions.

    The mean of a channel over its pixels is above 0 for nearly every example: one bit
    at 0 would be constant.
    """
    repeat = any(layer.positions for layer in layers)
    return "uniform:8" if quantizer == "threshold" and repeat else quantizer


def threshold_activation(network: Network) -> str:
    """The activation function whose threshold ``threshold`` alone takes.

    Neurons of networks without a known one are active above 0, as with ReLU.
    """
    return network.activation or "relu"


def measure_neurons(
    model: Network | Model,
    variables: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    *,
    quantizer: str | Quantizer = "threshold",
    measures: Sequence[str | Score] = tuple(PAPER_MEASURES),
    num_classes: int | None = None,
    num_counted: int | None = None,
) -> NeuronStatistics:
    """Measures every hidden neuron, streaming over examples.

    Args:
        model: the network, ``MLP`` or any that ``trace_network`` found.
        variables: the variables of one network (``vmap`` or ``jax.lax.map`` for
            several).
        x: [N, ...] examples that the network was not trained on, or a pytree of arrays.
        y: int32 [N] classes; of a network with logits of tokens [N, T], -1 where none
            counts. Each other token is then an example of its own.
        quantizer: as in ``quantize``; ``threshold`` alone as in ``settled_quantizer``,
            at 0.5 if all neurons are sigmoids, else at 0. ``Threshold`` and ``Uniform``
            hold a chunk of activations, all others those of all examples, [N, H].
        measures: names of scores that need no ablation, ``package.module:function``, or
            ``Score`` objects.
        num_classes: the number of values of ``y``, where these are not the network's
            classes but an annotation of the examples, 0, 1, ...; -1 is then an example
            whose value is unknown, which counts in means and edges alone. None is the
            network's C.
        num_counted: how many labels [N, T] are not -1, if they are traced.

    Returns:
        Scores, means, counts and edges.

    Raises:
        ValueError: activations that are NaN or infinite (while JAX traces, the scores
            of such neurons are NaN), an unusable quantiser, ``threshold`` alone where
            all outputs of a layer are on one side of it, an unknown measure or two of
            one name, a score of your own that is not a finite number for each neuron,
            labels that are not one class for each example, a measure of the network's
            classes for other labels, or variables of another network.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> measured = ioca.measure_neurons(model, variables, x, y)
        >>> {name: score.shape for name, score in measured.scores.items()}
        {'entropy': (5,), 'mutual_information': (5,), 'kl_selectivity': (5,)}
    """
    wanted = tuple(map(parse_score, as_tuple("measures", measures)))
    names = [score.name for score in wanted]
    if len(set(names)) < len(names):
        raise ValueError(f"measures: expected each name once, got {','.join(names)}")
    if num_classes is not None:
        check_num_classes(num_classes)
        _check_no_class_measure(names)
        y = _with_unknown(y, num_classes)
    # An unknown value is one more, which is not counted.
    more = 0 if num_classes is None else num_classes + 1
    network = checked_network(model, x, y, more or None)
    network.check_variables(variables)
    x, y = device_examples("x", x), jnp.asarray(y, jnp.int32)
    if num_counted is None:
        num_counted = number_counted(y)
    quantizer = settled_quantizer(quantizer, network.layers)
    sizes = num_classes or network.num_classes, num_counted
    found = _measure(network, quantizer, wanted, *sizes, variables, x, y)
    check_finite_activations(network, found.activation_mean)
    check_no_nan("edges", found.edges, "look at the quantizer")
    if quantizer == "threshold":
        _check_both_sides(network, found)
    scores = {name: found.scores[name] for name in names}  # jit sorts the names
    check_finite_scores(scores)
    return dataclasses.replace(found, scores=scores)


def _check_no_class_measure(names: Sequence[str]) -> None:
    """Refuses measures of the network's classes where labels are others."""
    wrong = [name for name in names if name in _OF_CLASSES]
    if wrong:
        raise ValueError(
            f"measures: expected none of {', '.join(_OF_CLASSES)} with num_classes, as "
            f"these are of the network's own classes, got {', '.join(wrong)}"
        )


def _with_unknown(y: ArrayLike, num_classes: int) -> ArrayLike:
    """Labels [N] with ``num_classes`` for -1; those of tokens as they are."""
    labels = as_array("y", y)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        return labels
    if is_known(labels) and np.max(labels, initial=0) >= num_classes:
        raise ValueError(
            f"y: expected values in [0, {num_classes - 1}], or -1 where one is "
            f"unknown, got {np.max(labels)}; num_classes is the number of values"
        )
    return jnp.where(jnp.asarray(labels) == -1, num_classes, labels)


def check_finite_activations(
    network: Network, activations: Float[ArrayLike, "... H"], whose: str = ""
) -> None:
    """Refuses activations, or means of them, that are NaN or infinite, by layer.

    The mean over examples is neither unless an activation is, or their sum overflows.
    ``whose`` ends the sentence. Nothing is checked while JAX traces.
    """
    if not is_known(activations):
        return
    finite = np.isfinite(np.asarray(activations)).reshape(-1, network.num_neurons)
    for layer, where in zip(network.layers, slices_of(network.layers), strict=True):
        number = int(np.sum(~np.all(finite[:, where], axis=0)))
        if number:
            raise ValueError(
                "activations: expected finite numbers, got NaN or infinite ones for "
                f"{number} of {layer.num_neurons} neurons of layer "
                f"{layer.name}{whose}; leave that layer out by layers=, or mask with a "
                "large negative number rather than -inf"
            )


def _check_both_sides(network: Network, found: NeuronStatistics) -> None:
    """Refuses ``threshold`` alone where all outputs of a layer are on one side of it.

    The built-in networks have the thresholds of the paper. Nothing is checked while JAX
    traces.
    """
    if network.model is not None or not is_known(found.edges):
        return
    threshold = found.edges[:, 0]
    above = found.joint_counts[:, 0].sum(axis=-1) == 0
    below = found.joint_counts[:, 1].sum(axis=-1) == 0
    below &= found.activation_mean < threshold  # a dead ReLU's outputs are at it
    for layer, where in zip(network.layers, slices_of(network.layers), strict=True):
        if above[where].all() or below[where].all():
            raise ValueError(
                f"quantizer: expected outputs on both sides of {threshold[0]:g}, where "
                f"'threshold' alone is, got all of layer {layer.name} "
                f"{'above' if above[where][0] else 'below'} it; name one that fits, "
                "such as threshold:0.5, uniform:8 or quantile:2"
            )


class _Sums(NamedTuple):
    """Of what neurons output: sums over examples, and the range."""

    total: Float[Array, " H"]
    clamp: Float[Array, " P"]
    weights: Float[Array, " P"]
    low: Float[Array, " H"]
    high: Float[Array, " H"]


def _summarise(model, variables, sums: _Sums, x, y) -> _Sums:
    """Adds a chunk of examples."""
    outputs, means, weights = model.activations(variables, x, y)
    samples, labels = samples_of(outputs, y)
    counts = labels != IGNORE_LABEL
    if y.ndim > 1:  # padding may be anything
        samples = jnp.where(counts[:, None], samples, 0)
    is_counted = counted_examples(y).astype(means.dtype)
    if weights is None:
        clamp, sizes = jnp.matmul(is_counted, means, precision="highest"), 0
    else:
        weights *= is_counted[:, None]
        clamp, sizes = (weights * means).sum(axis=0), weights.sum(axis=0)
    is_sample = counts.astype(samples.dtype)
    low, high = (
        jnp.where(counts[:, None], samples, end) for end in (jnp.inf, -jnp.inf)
    )
    return _Sums(
        sums.total + jnp.matmul(is_sample, samples, precision="highest"),
        sums.clamp + clamp,
        sums.weights + sizes,
        jnp.minimum(sums.low, low.min(axis=0)),
        jnp.maximum(sums.high, high.max(axis=0)),
    )


@partial(
    jax.jit,
    static_argnames=("model", "quantizer", "measures", "num_classes", "num_counted"),
)
def _measure(
    model, quantizer, measures, num_classes, num_counted, variables, x, y
) -> NeuronStatistics:
    """``measure_neurons`` of checked arguments."""
    spec = parse_quantizer(quantizer, threshold_activation(model))
    fold = partial(fold_examples, chunk_size=_EXAMPLES_MEASURED_AT_ONCE)
    start = jnp.full(model.num_neurons, jnp.inf)
    total, zeros = jnp.zeros(model.num_neurons), jnp.zeros(model.num_outputs)
    first = _Sums(total, zeros, zeros, start, -start)
    sums = fold(partial(_summarise, model, variables), first, x, y)
    is_held = not getattr(spec, "of_range", False)
    if is_held:
        # Once: made again, they may round to the other side of an edge.
        outputs = jax.lax.optimization_barrier(model.apply(variables, x)[1])
        held = samples_of(outputs, y, num_counted)
        outputs = held[0]
    else:
        outputs, held = jnp.stack([sums.low, sums.high]), None
    edges = quantizer_edges(outputs, spec)

    sizes = {"num_codes": spec.num_codes, "num_classes": num_classes}

    def count(carry, x_chunk, y_chunk):
        chunk = x_chunk if is_held else model.apply(variables, x_chunk)[1]
        samples, labels = samples_of(chunk, y_chunk)
        return carry + joint_counts(encode(samples, edges), labels, **sizes)

    none = jnp.zeros((model.num_neurons, spec.num_codes, num_classes), jnp.int32)
    counts = fold(count, none, *(held or (x, y)))
    number = len(y) if y.ndim == 1 else num_counted
    is_masked = y.ndim > 1 or model.pooling.counts is not None
    mean, clamp = (
        sums.total / number,
        sums.clamp / (sums.weights if is_masked else number),
    )
    measurement = Measurement(
        model, variables, x, y, mean, clamp, counts, edges, num_counted
    )
    found = compute_scores(measures, measurement)
    is_finite = jnp.isfinite(mean)  # NaN and infinite ones have codes, but no meaning
    scores = {n: jnp.where(is_finite, score, jnp.nan) for n, score in found.items()}
    layers = tuple((layer.name, layer.num_neurons) for layer in model.layers)
    units = tuple((score.name, score.unit) for score in measures)
    return NeuronStatistics(scores, mean, clamp, counts, edges, layers, units)
