"""What work must cost: counted operations and bytes, and this machine's ceilings.

The roofline: no program that does the counted work ends before
``max(operations / peak operations a second, bytes / peak bytes a second)``. Both peaks
are measured in the same run, the first by a large float32 matrix product, the second by
a triad (``a + 2 b``) of arrays that fit in no cache.

Counted, for one example:

* an affine map from v to w units: ``2 v w`` operations (its bias is the sum's start);
* an activation: 1 operation a unit;
* a score, argmax and cross-entropy of C logits: ``4 C`` operations;
* a rank-one update of w pre-activations: ``2 w`` operations.

In a curve by rank-one updates a neuron costs nothing once it is ablated. Bytes are the
compulsory ones: inputs read once and results written once, as if a cache held all the
rest. So a floor is a lower bound for its algorithm, and a share of it never flattered.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_BYTES = 4  # of a float32 or an int32
# Of Adam, for each parameter and step: two moments, their corrections, the update.
_ADAM_OPERATIONS = 12
_TRAINING_STATE = 3  # a weight and two moments


class Ceilings(NamedTuple):
    """The most that this machine does in a second.

    Attributes:
        operations: float32 operations a second, of a matrix product.
        bytes: bytes a second, of a triad.
    """

    operations: float
    bytes: float


class Cost(NamedTuple):
    """The fewest operations and bytes of some work.

    Attributes:
        operations: multiplications and additions, each one.
        bytes: read from and written to memory.
    """

    operations: float
    bytes: float

    def floor(self, ceilings: Ceilings) -> float:
        """The least time.

        Args:
            ceilings: of the machine.

        Returns:
            Seconds.
        """
        return max(
            self.operations / ceilings.operations, self.bytes / ceilings.bytes, 1e-12
        )


def measure_ceilings(matrix: int, vector: int, repeats: int = 5) -> Ceilings:
    """Measures what the default device does at its best.

    Args:
        matrix: rows and columns of the matrix product.
        vector: entries of the triad's arrays.
        repeats: the best of so many counts.

    Returns:
        The ceilings.
    """
    square = jnp.ones((matrix, matrix))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    arrays = jnp.ones(vector), jnp.ones(vector)
    triad = jax.jit(lambda a, b: a + 2 * b)
    return Ceilings(
        2 * matrix**3 / _best_seconds(lambda: product(square), repeats),
        3 * vector * _BYTES / _best_seconds(lambda: triad(*arrays), repeats),
    )


def _best_seconds(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def upper_operations(widths: Sequence[int], layer: int) -> int:
    """Operations for one example from a hidden layer's pre-activations to the score.

    Args:
        widths: D, those of the hidden layers, and C.
        layer: a hidden layer counted from 0; ``len(widths) - 2`` is the logits.

    Returns:
        The number of operations.
    """
    above = range(layer + 1, len(widths) - 1)
    return sum(widths[i] + 2 * widths[i] * widths[i + 1] for i in above) + (
        4 * widths[-1]
    )


def _lower_operations(widths: Sequence[int], layer: int) -> int:
    """Operations for one example from the input to a layer's pre-activations."""
    return forward_operations(widths) - upper_operations(widths, layer)


def rank_one_operations(
    widths: Sequence[int], layers: Sequence[int] | np.ndarray
) -> int:
    """Operations for one example of one curve by rank-one updates.

    Args:
        widths: D, those of the hidden layers, and C.
        layers: [K], the hidden layer of each ablated neuron, counted from 0, in order.

    Returns:
        The number: one forward pass, then for each step an update of the next layer's
        pre-activations and what lies above them, for the neurons still kept.
    """
    hidden = np.asarray(widths[1:-1])
    layers = np.asarray(layers, int)
    ablated = np.cumsum(layers[:, None] == np.arange(len(hidden)), axis=0)
    classes = np.full((len(layers), 1), widths[-1])
    kept = np.concatenate([hidden - ablated, classes], axis=1)  # [K, L+1]
    # To outputs and on to the next layer, or from the logits to the score.
    onward = np.concatenate([kept[:, :-1] * (1 + 2 * kept[:, 1:]), 4 * classes], axis=1)
    steps = np.arange(len(layers))
    from_next = np.cumsum(onward[:, ::-1], axis=1)[:, ::-1][steps, layers + 1]
    return forward_operations(widths) + int(
        np.sum(2 * kept[steps, layers + 1] + from_next)
    )


def prefix_sums_operations(
    widths: Sequence[int], layers: Sequence[int] | np.ndarray
) -> int:
    """Operations for one example of one curve by prefix sums.

    Args:
        widths: D, those of the hidden layers, and C.
        layers: [K], the hidden layer of each ablated neuron, counted from 0.

    Returns:
        The number: one forward pass, then for each step an update of what the lowest
        ablated layer feeds, and all that lies above.
    """
    above = int(np.min(layers, initial=len(widths) - 3)) + 1
    at_a_step = 2 * widths[above + 1] + upper_operations(widths, above)
    return forward_operations(widths) + len(layers) * at_a_step


def forward_operations(widths: Sequence[int]) -> int:
    """Operations for one example from the input to the score.

    Args:
        widths: D, those of the hidden layers, and C.

    Returns:
        The number of operations.
    """
    return 2 * widths[0] * widths[1] + upper_operations(widths, 0)


def masks_operations(widths: Sequence[int], layers: Sequence[int] | np.ndarray) -> int:
    """Operations for one example of one curve, mask by mask.

    Args:
        widths: D, those of the hidden layers, and C.
        layers: [K], the hidden layer of each ablated neuron, counted from 0.

    Returns:
        The number: what lies below the lowest ablated layer once, the rest for each of
        K+1 masks.
    """
    lowest = int(np.min(layers))
    upper = upper_operations(widths, lowest)
    return _lower_operations(widths, lowest) + (len(layers) + 1) * upper


def incremental_operations(
    widths: Sequence[int], layers: Sequence[int] | np.ndarray
) -> int:
    """Operations for one example of one curve: at each step, all above its layer."""
    upper = [upper_operations(widths, layer) for layer in range(len(widths) - 2)]
    return forward_operations(widths) + sum(upper[layer] for layer in layers)


_OPERATIONS = {
    "incremental": incremental_operations,
    "rank_one": rank_one_operations,
    "prefix_sums": prefix_sums_operations,
    "kernel": prefix_sums_operations,  # the same, kept on chip
    "masks": masks_operations,
}


def curve_cost(
    widths: Sequence[int],
    layers: Sequence[int] | np.ndarray,
    num_examples: int,
    num_orders: int = 1,
    num_seeds: int = 1,
    engine: str = "rank_one",
) -> Cost:
    """The cost of ablation curves.

    Args:
        widths: D, those of the hidden layers, and C.
        layers: [K], the hidden layer of each ablated neuron of an order.
        num_examples: N.
        num_orders: orders for each network; they share its forward pass.
        num_seeds: S.
        engine: as in ``ioca_jax.ablation_curve``.

    Returns:
        The cost.
    """
    count = _OPERATIONS[engine]
    shared = count(widths, layers[:0]) if engine != "masks" else 0
    curve = count(widths, layers) - shared
    results = num_orders * (len(layers) + 1) * (widths[-1] + 1)
    return Cost(
        num_examples * num_seeds * (shared + num_orders * curve),
        _BYTES
        * (
            num_examples * (widths[0] + 1)
            + num_seeds * (_num_weights(widths) + results)
        ),
    )


def _num_weights(widths: Sequence[int]) -> int:
    """Entries of all kernels and biases."""
    return sum((a + 1) * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def pair_effects_cost(widths: Sequence[int], layer: int, num_examples: int) -> Cost:
    """The cost of ablating every neuron and every pair of neurons of a layer.

    Args:
        widths: D, those of the hidden layers, and C.
        layer: a hidden layer, counted from 0, of w neurons.
        num_examples: N.

    Returns:
        The cost of one forward pass and of as many steps by prefix sums as there are
        neurons and pairs: each one more update of the next layer's pre-activations.
    """
    width = widths[layer + 1]
    steps = [layer] * (width * (width + 1) // 2)
    return curve_cost(widths, steps, num_examples, engine="prefix_sums")


def measures_cost(
    num_neurons: int, num_codes: int, num_classes: int, num_examples: int
) -> Cost:
    """The cost of counting single neurons and measuring them.

    Args:
        num_neurons: H.
        num_codes: B.
        num_classes: C.
        num_examples: N.

    Returns:
        The cost: a comparison and an increment for each activation, read once; ten
        operations for each cell of the counts, written once.
    """
    cells = num_neurons * num_codes * num_classes
    return _counting_cost(num_neurons, num_examples, num_neurons, cells, cells)


def pairs_cost(
    num_neurons: int,
    num_codes: int,
    num_classes: int,
    num_examples: int,
    num_measures: int,
) -> Cost:
    """The cost of counting all pairs and measuring them.

    Args:
        num_neurons: H.
        num_codes: B.
        num_classes: C.
        num_examples: N.
        num_measures: values of each pair.

    Returns:
        The cost: for each pair of neurons and of codes but the last (the margins give
        the others), products of indicators; ten operations for each cell, which all
        values share; a value of each measure for each pair.
    """
    pairs = num_neurons * (num_neurons - 1) // 2
    products, cells = pairs * (num_codes - 1) ** 2, pairs * num_codes**2 * num_classes
    return _counting_cost(
        num_neurons, num_examples, products, cells, pairs * num_measures
    )


def _counting_cost(
    num_neurons: int, num_examples: int, counted: int, cells: int, results: int
) -> Cost:
    """Of counting so many things in each example, and of measuring the cells."""
    return Cost(
        2 * num_examples * counted + 10 * cells,
        _BYTES * (num_examples * (num_neurons + 1) + results),
    )


def training_cost(
    widths: Sequence[int], batch_size: int, num_steps: int, num_seeds: int
) -> Cost:
    """The cost of training with Adam.

    Args:
        widths: D, those of the hidden layers, and C.
        batch_size: examples a step.
        num_steps: of each network.
        num_seeds: S.

    Returns:
        The cost: forwards, and backwards twice that but for the images' gradient; the
        images of each batch read, weights and moments read and written once.
    """
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    weights = _num_weights(widths)
    products = 2 * (3 * sum(a * b for a, b in pairs) - widths[0] * widths[1])
    steps = num_steps * num_seeds
    return Cost(
        steps * (batch_size * products + _ADAM_OPERATIONS * weights),
        _BYTES
        * (
            steps * batch_size * (widths[0] + 1)
            + 2 * num_seeds * _TRAINING_STATE * weights
        ),
    )
