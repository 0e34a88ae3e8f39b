"""Scores: numbers by which neurons are ordered, computed without ablation.

A ``Score`` is a name, a unit and a function of a ``Measurement``, which holds what may
be known of a network: its variables and the measuring split, never the one that curves
are evaluated on. The table ``SCORES`` has the measures of ``information``, class
selectivity (A. Morcos et al., arXiv 1803.06959), mean and variance of the output, norms
of incoming and outgoing weights, and the first-order Taylor criterion (P. Molchanov et
al., arXiv 1611.06440); users write others. All take any network; weight norms need
dense layers in a row, and batch norm is folded into the weights. A score that depends
on the clamp carries its name: ``taylor_zero``.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.batching import (
    IGNORE_LABEL,
    count_labels,
    fold_examples,
    number_that_fits,
    samples_of,
)
from ioca_jax.checks import (
    check_classes,
    described,
    device_examples,
    import_named,
    is_known,
    is_real,
)
from ioca_jax.measures.information import MEASURES
from ioca_jax.measures.quantization import encode
from ioca_jax.networks.chain import AffineChain
from ioca_jax.networks.inputs import checked_network
from ioca_jax.networks.layers import Layer, split_by_layer
from ioca_jax.networks.network import Network

_EXAMPLES_AT_ONCE = 1000


def _fold(network: Network, step: Callable, carry: Any, x: Any, y: ArrayLike) -> Any:
    """Folds over chunks of examples."""
    network = checked_network(network, x, y)
    x, y = device_examples("x", x), jnp.asarray(y, jnp.int32)
    return fold_examples(step, carry, x, y, chunk_size=_chunk_size(network))


def _chunk_size(network: Network) -> int:
    """Examples whose activations fit in about 1 GB."""
    floats = 4 * sum(math.prod(layer.shape) for layer in network.layers)
    return number_that_fits(1.0, floats, _EXAMPLES_AT_ONCE)


def class_selectivity(
    network: Network,
    variables: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
) -> Float[Array, " H"]:
    """How much more a neuron outputs for its preferred class than for the others.

    ``(m - o) / (|m| + |o|)`` with m the greatest of the class means of its output and o
    the mean of the other classes' means; absent classes have none. In [0, 1] for
    outputs that are not negative; 0 for a dead neuron; NaN where a single class occurs
    among labels that are traced. Source: A. Morcos et al., arXiv 1803.06959, section
    2.3.
    """
    check_classes(y)

    def add(total, x_chunk, y_chunk):
        outputs, labels = _counted_samples(network, variables, x_chunk, y_chunk)
        is_class = jax.nn.one_hot(labels, network.num_classes)
        return total + jnp.matmul(is_class.T, outputs, precision="highest")

    zeros = jnp.zeros((network.num_classes, network.num_neurons))
    total = _fold(network, add, zeros, x, y)
    labels = jnp.asarray(y).ravel()
    labels = jnp.where(labels == IGNORE_LABEL, network.num_classes, labels)
    sizes = jnp.zeros(network.num_classes).at[labels].add(1, mode="drop")[:, None]
    present = sizes > 0
    means = total / jnp.maximum(sizes, 1)
    most = jnp.max(jnp.where(present, means, -jnp.inf), axis=0)
    everything = jnp.sum(jnp.where(present, means, 0), axis=0)
    number = jnp.where(present.sum() > 1, present.sum(), jnp.nan)
    others = (everything - most) / (number - 1)
    size = jnp.abs(most) + jnp.abs(others)
    return jnp.where(size == 0, 0, (most - others) / jnp.where(size == 0, 1, size))


def activation_variance(
    network: Network,
    variables: Any,
    mean: Float[ArrayLike, " H"],
    x: Any,
    y: Int[ArrayLike, "N *T"],
) -> Float[Array, " H"]:
    """Variance of the output over examples; ``mean`` is over the same examples."""
    mean = jnp.asarray(mean)

    def add(total, x_chunk, y_chunk):
        outputs, labels = _counted_samples(network, variables, x_chunk, y_chunk)
        weights = (labels != IGNORE_LABEL).astype(outputs.dtype)
        squares = jnp.square(outputs - mean)
        return total + jnp.matmul(weights, squares, precision="highest")

    total = _fold(network, add, jnp.zeros(network.num_neurons), x, y)
    return total / count_labels(jnp.asarray(y))


def _counted_samples(network, variables, x, y) -> tuple[Array, Array]:
    """Outputs of examples or tokens, and labels; outputs of tokens with -1 are 0."""
    outputs, labels = samples_of(network.apply(variables, x)[1], y)
    if y.ndim > 1:  # padding may be anything
        outputs = jnp.where((labels != IGNORE_LABEL)[:, None], outputs, 0)
    return outputs, labels


def incoming_weight_norm(network: Network, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights into each neuron of dense layers in a row."""
    maps = _chain(network, -1).maps(variables)
    kernels = [maps[layer].kernel for layer in range(len(network.layers))]
    return jnp.concatenate([jnp.linalg.norm(kernel, axis=0) for kernel in kernels])


def outgoing_weight_norm(network: Network, variables: Any) -> Float[Array, " H"]:
    """Euclidean norm of the weights out of each neuron of dense layers in a row."""
    maps = _chain(network, 0).maps(variables)
    kernels = [maps[layer + 1].kernel for layer in range(len(network.layers))]
    return jnp.concatenate([jnp.linalg.norm(kernel, axis=1) for kernel in kernels])


def _chain(network: Network, lowest: int) -> AffineChain:
    chain = network.chain(lowest)
    if chain is None:
        raise ValueError(
            "weight norms: expected dense layers in a row, affine up to their "
            f"activations, from the {'inputs' if lowest < 0 else 'first layer'} to the "
            f"logits, got {', '.join(layer.name for layer in network.layers)}"
        )
    return chain


def taylor(
    network: Network,
    variables: Any,
    clamp: Float[ArrayLike, " P"],
    x: Any,
    y: Int[ArrayLike, "N *T"],
) -> Float[Array, " H"]:
    """First-order estimate of how a neuron's ablation changes an example's loss, nats.

    The mean over examples of ``|sum dL/dt (c - t)|``, the sum over the positions at
    which its output t moves to the clamp c. Of a network with logits of tokens each
    token's loss L is such an example, which takes a backward pass each. Source: P.
    Molchanov et al., arXiv 1611.06440, equation 8.
    """
    import optax  # takes long, and no other measure needs it

    layers = network.layers
    clamps = split_by_layer(layers, clamp)

    def losses(shifts, x_chunk, y_chunk, token):
        logits, outputs = network.outputs(variables, x_chunk, shift=shifts)
        logits = logits if token is None else logits[:, token]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, y_chunk)
        return each.sum(), outputs

    def changes(x_chunk, y_chunk, token):
        """Summed over examples, of the loss of one token of each or of the example."""
        shapes = {layer.name: (len(y_chunk), *layer.shape) for layer in layers}
        shifts = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        labels = jnp.maximum(y_chunk, 0)
        gradient = jax.grad(losses, has_aux=True)
        gradients, outputs = gradient(shifts, x_chunk, labels, token)

        def change_of(layer: Layer) -> Array:
            constant = _at_positions(layer, clamps[layer.name])
            moved = constant - outputs[layer.name]
            return jnp.abs(_sum_positions(layer, gradients[layer.name] * moved))

        every = jnp.concatenate([change_of(layer) for layer in layers], axis=1)
        counted = (y_chunk != IGNORE_LABEL)[:, None]
        return jnp.where(counted, every, 0).sum(axis=0)

    def add(total, x_chunk, y_chunk):
        if y_chunk.ndim == 1:
            return total + changes(x_chunk, y_chunk, None)
        of_token = lambda token: changes(x_chunk, y_chunk[:, token], token)  # noqa: E731
        return total + jax.lax.map(of_token, jnp.arange(y_chunk.shape[1])).sum(axis=0)

    total = _fold(network, add, jnp.zeros(network.num_neurons), x, y)
    return total / count_labels(jnp.asarray(y))


def _at_positions(layer: Layer, values: Array) -> Array:
    """Values [n] or [n, *vector], broadcast against ``layer.shape``."""
    positions, vector = (1,) * len(layer.positions), (1,) * len(layer.vector)
    shape = values.shape if values.ndim > 1 else (*values.shape, *vector)
    return values.reshape(*positions, *shape)


def _sum_positions(layer: Layer, values: Array) -> Float[Array, "N n"]:
    """Sums of [N, *layer.shape] over positions and a neuron's vector."""
    shape = (len(values), math.prod(layer.positions), layer.num_neurons, -1)
    return values.reshape(shape).sum(axis=(1, 3))


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A network and the measuring split: all that a score is computed from.

    Attributes:
        network: what it computes.
        variables: its variables.
        x: [N, ...] examples of the measuring split, or a pytree of arrays.
        y: int32 [N] classes; of a network with logits of tokens [N, T], -1 where none
            counts. N below is then the number of the others.
        activation_mean: float32 [H], over the examples.
        clamp: float32 [P], the mean of each number that a neuron outputs.
        joint_counts: int32 [H, B, C] of codes and classes.
        edges: float32 [H, B-1], the quantiser's.
        num_counted: the number of labels that are not -1.

    Example:
        >>> import ioca_jax as ioca
        >>> def share_of_highest_code(measured: ioca.Measurement):
        ...     return (measured.codes == measured.edges.shape[1]).mean(axis=0)
        >>> ioca.Score("share_of_highest_code", "1", share_of_highest_code).unit
        '1'
    """

    network: Network
    variables: Any
    x: Any
    y: Int[Array, "N *T"]
    activation_mean: Float[Array, " H"]
    clamp: Float[Array, " P"]
    joint_counts: Int[Array, "H B C"]
    edges: Float[Array, "H edges"]
    num_counted: int | None = None

    @property
    def labels(self) -> Int[Array, " N"]:
        """The classes of all examples, or of all tokens that count."""
        return samples_of(self.y[..., None], self.y, self.num_counted)[1]

    @property
    def activations(self) -> Float[Array, "N H"]:
        """Outputs of all neurons for all ``labels``; computed at each use."""

        def add(found, x_chunk, rows):
            _, outputs = self.network.apply(self.variables, x_chunk)
            rows = jnp.where(rows == IGNORE_LABEL, len(found), rows)  # dropped
            return found.at[rows].set(outputs, mode="drop")

        start = jnp.zeros((*self.y.shape, self.network.num_neurons))
        rows, size = jnp.arange(len(self.y)), _chunk_size(self.network)
        found = fold_examples(add, start, self.x, rows, chunk_size=size)
        return samples_of(found, self.y, self.num_counted)[0]

    @property
    def codes(self) -> Int[Array, "N H"]:
        """Codes of all activations by the quantiser; computed at each use."""
        return encode(self.activations, self.edges)


@dataclasses.dataclass(frozen=True)
class Score:
    """A number for each neuron, by which neurons are ordered.

    Any real numbers will do: orders ascend and descend by them, and ``prune`` keeps the
    neurons of the highest.

    Attributes:
        name: letters, digits and underscores; the score's label in results.
        unit: of its values, such as ``bit``, ``nat``, or ``1`` for none.
        compute: a function of a ``Measurement`` to float32 [H], in ``jax.numpy``.

    Raises:
        ValueError: a name with other characters, or ``random``.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> peak = ioca.Score("peak", "1", lambda found: found.activations.max(axis=0))
        >>> measures = ("entropy", peak)
        >>> measured = ioca.measure_neurons(model, variables, x, y, measures=measures)
        >>> measured.scores["peak"].shape
        (5,)
    """

    name: str
    unit: str
    compute: Callable[[Measurement], Any]

    def __post_init__(self):
        """Checks the name."""
        if not self.name.isidentifier() or self.name == "random":
            raise ValueError(
                "name: expected letters, digits and underscores, and not 'random', got "
                f"{self.name!r}"
            )


def _of_counts(measure: Callable[[Array], Array]) -> Callable[[Measurement], Array]:
    return lambda found: measure(found.joint_counts)


_SCORES = (
    *(Score(name, "bit", _of_counts(measure)) for name, measure in MEASURES.items()),
    Score(
        "class_selectivity",
        "1",
        lambda m: class_selectivity(m.network, m.variables, m.x, m.y),
    ),
    Score("activation_mean", "1", lambda m: m.activation_mean),
    Score(
        "activation_variance",
        "1",
        lambda m: activation_variance(
            m.network, m.variables, m.activation_mean, m.x, m.y
        ),
    ),
    Score(
        "incoming_weight_norm",
        "1",
        lambda m: incoming_weight_norm(m.network, m.variables),
    ),
    Score(
        "outgoing_weight_norm",
        "1",
        lambda m: outgoing_weight_norm(m.network, m.variables),
    ),
    Score(
        "taylor_zero",
        "nat",
        lambda m: taylor(m.network, m.variables, jnp.zeros_like(m.clamp), m.x, m.y),
    ),
    Score(
        "taylor_mean",
        "nat",
        lambda m: taylor(m.network, m.variables, m.clamp, m.x, m.y),
    ),
)
SCORES = {score.name: score for score in _SCORES}
"""Everything that neurons can be ranked by without ablation, by name."""


def parse_score(measure: str | Score) -> Score:
    """The score that a text names; a score as it is.

    A text is a name out of ``SCORES``, or ``package.module:function``: a ``Score`` of
    the user's, or a function ``compute``, whose name is the score's and whose unit is
    ``1``.
    """
    if isinstance(measure, str) and ":" in measure:
        found = import_named("measures", measure)
        if not isinstance(found, Score) and not callable(found):
            raise ValueError(
                f"measures: expected a function or a Score at {measure}, got {found!r}"
            )
        if not isinstance(found, Score):
            found = Score(measure.rpartition(":")[2], "1", found)
    else:
        found = SCORES.get(measure) if isinstance(measure, str) else measure
    if not isinstance(found, Score):
        raise ValueError(
            f"measures: expected names out of {', '.join(SCORES)}, "
            f"package.module:function, or a Score, got {measure!r}; run_study computes "
            "scores by ablation"
        )
    if SCORES.get(found.name, found) != found:
        raise ValueError(another_name(found.name))
    return found


def another_name(name: str) -> str:
    """The error of a user's score with the name of a built-in one."""
    return (
        f"measures: expected another name than {name}, which is built in, for a score "
        "of your own"
    )


def compute_scores(
    scores: Sequence[Score], measurement: Measurement
) -> dict[str, Float[Array, " H"]]:
    """Scores by name; one line refuses what a user's function must not return."""
    return {
        score.name: score.compute(measurement)
        if score.name in SCORES
        else _compute_users(score, measurement)
        for score in scores
    }


def _compute_users(score: Score, measurement: Measurement) -> Float[Array, " H"]:
    number = measurement.network.num_neurons
    expected = (
        f"measures: expected {score.name} to return float32 [{number}], a number for "
        "each neuron"
    )
    try:
        found = jnp.asarray(score.compute(measurement))
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise ValueError(
            f"measures: expected {score.name} to be written in jax.numpy, as it is "
            f"traced, got {type(error).__name__}; call what needs NumPy by "
            "jax.pure_callback"
        ) from error
    except Exception as error:  # of the caller's own function
        raise ValueError(
            f"{expected}, got {described(error)}; --verbosity=1 shows where"
        ) from error
    if found.shape != (number,) or not is_real(found):
        raise ValueError(f"{expected}, got {found.dtype} of shape {list(found.shape)}")
    return found.astype(jnp.float32)


def check_finite_scores(
    scores: Mapping[str, Float[ArrayLike, "... H"]], whose: str = ""
) -> None:
    """Refuses scores that are NaN or infinite; ``whose`` ends the first sentence.

    Nothing is checked while JAX traces.
    """
    for name, values in scores.items():
        wrong = ~np.isfinite(np.asarray(values)) if is_known(values) else np.zeros(1)
        if wrong.any():
            raise ValueError(
                f"measures: expected finite numbers from {name}, got NaN or infinite "
                f"ones for {int(wrong.sum())} of {wrong.size} neurons{whose}; neurons "
                "cannot be ordered by them"
            )
