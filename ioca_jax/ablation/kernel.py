"""The engine of one kernel for a curve: a tile of examples walks the order on chip.

A Pallas kernel holds a tile of examples in on-chip memory and restores the order's
neurons one after another: a rank-one update of the next layer's pre-activations, the
layers above, the scores. So a curve reads the activations once, where ``prefix_sums``
moves its state through device memory at every block of points. The layers above the
lowest ablated one must fit on chip; they do, on a TPU, up to about five of 512 neurons,
on a GPU, whose cores have less, up to two of 128 one above the other.

On TPUs the kernel is compiled by Mosaic, on GPUs by Triton. On CPUs Pallas interprets
it, which is slow: that is there for tests.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ioca_jax.ablation.affine import (
    Chunk,
    ExamplesAtOnce,
    inputs_at_once,
    rows_of,
    steps_of_neurons,
    sum_curves,
    sum_over_others,
)
from ioca_jax.ablation.budget import number_that_fits
from ioca_jax.batching import IGNORE_LABEL
from ioca_jax.networks.mlp import MLP, activate, multiply


class Chip(NamedTuple):
    """How a kernel is cut for a backend.

    Attributes:
        on_chip: bytes that a tile and the layers above may take.
        holds_all: whether all that a tile reads lies on chip throughout, not only
            what it works on.
        least: examples in the smallest tile.
        most: examples in the largest; a power of two times the smallest.
        rows: widths are filled up to a multiple of it, or, if 0, to a power of two.
        lanes: neighbouring columns of a table that lie in one vector.
    """

    on_chip: int
    holds_all: bool
    least: int
    most: int
    rows: int
    lanes: int

    def filled(self, width: int) -> int:
        """A width as it lies on chip."""
        if self.rows:
            return -(-width // self.rows) * self.rows
        return max(16, 1 << (width - 1).bit_length())  # no product has less


# A TPU core has 16 MB of vector memory or more, of which the compiler needs some. A
# multiprocessor of a GPU has about 100 kB or more of shared memory, and registers.
CHIPS = {
    "tpu": Chip(12 << 20, True, 128, 512, 8, 128),
    "gpu": Chip(128 << 10, False, 16, 64, 0, 1),
}


@dataclasses.dataclass(frozen=True)
class KernelEngine:
    """Sums over examples for orders [S, M, K], a curve in one kernel.

    ``backend`` is what the kernel is cut for, ``tile`` its examples; it is compiled
    unless it is to be interpreted.
    """

    model: MLP
    lowest: int
    sizes: ExamplesAtOnce
    backend: str
    tile: int
    interpret: bool

    def orders(self, arrays, x, y):
        """Correct [S, M, K+1, C] and summed losses [S, M, K+1]."""
        return sum_curves(self, self.lowest, arrays, x, y)

    def curve(self, chunk: Chunk, order: Array, clamp: Array):
        """One order [K]: correct [K, C] and summed losses [K], points 1 to K."""
        model, chip = self.model, CHIPS[self.backend]
        rows, within = rows_of(model, order, self.lowest)
        kernel = chunk.affine[self.lowest + 1].kernel
        others = sum_over_others(model, kernel, chunk, rows, within)
        # The pass over points goes from the last, K, down to 1.
        before = jnp.where(within, rows, -1)[:0:-1]
        restored = jnp.pad(before, (1, 0), constant_values=-1)
        ranks = jnp.minimum(jnp.cumsum(within)[::-1], len(kernel))
        examples = (
            _padded(chunk.outputs, (len(chunk.outputs), -self.tile)),
            _padded(others, (chip.filled(len(others)), -self.tile)),
            _padded(chunk.y[None], (1, -self.tile), IGNORE_LABEL),
        )
        tables = _tables(self, chunk, order, clamp)
        sums = _call(self, jnp.stack([restored, ranks]), examples, tables)
        sums = sums.sum(axis=0)[: len(order)][::-1]
        correct = sums[:, : model.num_classes].astype(jnp.int32)
        return correct, sums[:, model.num_classes]


def _padded(array: Array, shape: tuple[int, int], value=0) -> Array:
    """Filled up to a shape; -n stands for the next multiple of n."""
    widths = [
        (0, -size % -wanted if wanted < 0 else wanted - size)
        for size, wanted in zip(array.shape, shape, strict=True)
    ]
    return jnp.pad(array, widths, constant_values=value)


class _Tables(NamedTuple):
    """What all tiles of a curve share; widths are filled up.

    Attributes:
        terms: float32 [blocks, w, lanes]; its columns are the lowest layer's neurons,
            what each gives the layer above.
        constants: likewise, a column for every number of them that are ablated: the
            bias, and what these give.
        layers: of each layer above the lowest, ``(steps, clamp, kernel, bias)``: int32
            and float32 [w, 1], the kernel transposed, and the bias above, [w', 1].
    """

    terms: Array
    constants: Array
    layers: tuple[tuple[Array, Array, Array, Array], ...]


def _widths(model: MLP, lowest: int, chip: Chip) -> list[int]:
    """Filled widths above the lowest layer; the logits' last, with a row to spare."""
    widths = (*model.hidden[lowest + 1 :], model.num_classes + 1)
    return [chip.filled(width) for width in widths]


def _tables(engine: KernelEngine, chunk: Chunk, order: Array, clamp: Array) -> _Tables:
    model, lowest, chip = engine.model, engine.lowest, CHIPS[engine.backend]
    widths = _widths(model, lowest, chip)
    kernel, bias = chunk.affine[lowest + 1]
    rows, within = rows_of(model, order, lowest)
    terms = jnp.where(within, clamp[order], 0)[:, None] * kernel[rows]
    # By number of the lowest layer's neurons ablated; the other steps add nothing.
    clamped = jnp.zeros((len(kernel) + 1, kernel.shape[1]))
    clamped = clamped.at[jnp.cumsum(within)].set(jnp.cumsum(terms, axis=0))
    clamped = clamped.at[0].set(0)
    steps = steps_of_neurons(order, model.num_neurons)
    layers = []
    for layer, width, above in zip(
        range(lowest + 1, model.num_layers), widths[:-1], widths[1:], strict=True
    ):
        own, (kernel_above, bias_above) = (
            model.layer_slices[layer],
            chunk.affine[layer + 1],
        )
        # What fills a layer up is ablated from the beginning, at 0.
        steps_and_clamp = (
            _padded(steps[own, None], (width, 1), -1),
            _padded(clamp[own, None], (width, 1)),
        )
        kernel_and_bias = (
            _padded(kernel_above.T, (above, width)),
            _padded(bias_above[:, None], (above, 1)),
        )
        layers.append(steps_and_clamp + kernel_and_bias)
    blocks = (_in_blocks(table, widths[0], chip) for table in (kernel, bias + clamped))
    terms, constants = blocks
    return _Tables(terms, constants, tuple(layers))


def _in_blocks(rows: Array, width: int, chip: Chip) -> Array:
    """Rows [v, w] as the columns of a table [blocks, width, lanes]."""
    columns = _padded(rows.T, (width, -chip.lanes))
    return columns.reshape(width, -1, chip.lanes).transpose(1, 0, 2)


def _column(table, index):
    """One column [w, 1] of a table in blocks, whose lanes are not indexed."""
    lanes = table.shape[2]
    block = table[index // lanes]
    if lanes == 1:
        return block
    lane = jax.lax.broadcasted_iota(jnp.int32, block.shape, 1)
    chosen = jnp.where(lane == index % lanes, block, 0)
    return chosen.sum(axis=1, keepdims=True)


def _call(engine: KernelEngine, plan: Array, examples, tables: _Tables) -> Array:
    """Scores [tiles, points, C+1 or more] of all tiles, from point K down."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu, triton

    chip, num_points = CHIPS[engine.backend], plan.shape[1]
    num_tiles = examples[0].shape[1] // engine.tile
    blocks = -(-num_points // chip.lanes)
    height = _widths(engine.model, engine.lowest, chip)[-1]

    def whole(array):
        return pl.BlockSpec(array.shape, lambda tile: (0,) * array.ndim)

    def tiled(array):
        return pl.BlockSpec((array.shape[0], engine.tile), lambda tile: (0, tile))

    on_tpu = engine.backend == "tpu"
    of_plan = pl.BlockSpec(memory_space=tpu.SMEM) if on_tpu else whole(plan)
    scores = pl.pallas_call(
        partial(_kernel, engine),
        grid=(num_tiles,),
        in_specs=[of_plan, tuple(map(tiled, examples)), jax.tree.map(whole, tables)],
        out_specs=pl.BlockSpec(
            (None, blocks, height, chip.lanes), lambda tile: (tile, 0, 0, 0)
        ),
        out_shape=jax.ShapeDtypeStruct(
            (num_tiles, blocks, height, chip.lanes), jnp.float32
        ),
        interpret=engine.interpret,
        compiler_params=None if on_tpu else triton.CompilerParams(),
        name="ablation_curve",
    )(plan, examples, tables)
    return scores.transpose(0, 1, 3, 2).reshape(num_tiles, -1, height)


def _kernel(engine: KernelEngine, plan, examples, tables: _Tables, scores) -> None:
    """Walks the order with one tile of examples."""
    from jax.experimental import pallas as pl

    model, num_points = engine.model, plan.shape[1]
    outputs, others, y = examples
    labels = y[...]

    def step(index, from_kept):
        row, point = plan[0, index], num_points - index
        restored = jnp.maximum(row, 0)
        given = jnp.where(row >= 0, outputs[pl.ds(restored, 1), :], 0)
        from_kept = from_kept + _column(tables.terms, restored) * given
        z = from_kept + _column(tables.constants, plan[1, index])
        for steps, clamp, kernel, bias in tables.layers:
            kept = jnp.broadcast_to(steps[...], z.shape) >= point
            z = jnp.where(kept, activate(model, z), clamp[...])
            z = multiply(model, kernel[...], z) + bias[...]
        _write(scores, index, _scores(model.num_classes, z, labels))
        return from_kept

    jax.lax.fori_loop(0, num_points, step, others[...])


def _scores(num_classes: int, logits: Array, y: Array) -> Array:
    """Of a tile: correct by class, then the sum of losses; the rest is 0, [rows, 1].

    As ``score_logits``, of logits in the first C rows and labels [1, n].
    """
    row = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    logits = jnp.where(row < num_classes, logits, -jnp.inf)
    greatest = logits.max(axis=0, keepdims=True)
    is_greatest = logits == greatest
    first = jnp.where(is_greatest, row, num_classes).min(axis=0, keepdims=True)
    is_nan = jnp.where(logits != logits, 1, 0).max(axis=0, keepdims=True)
    own = jnp.where(row == y, logits, 0).sum(axis=0, keepdims=True)
    own = jnp.where((y >= 0) & (y < num_classes), own, jnp.nan)
    total = jnp.exp(logits - greatest).sum(axis=0, keepdims=True)
    losses = jnp.log(total) + greatest - own
    losses = jnp.where(y == IGNORE_LABEL, 0, losses)
    found = jnp.where(is_nan > 0, num_classes, first)
    right = jnp.where((row == y) & (found == y), 1.0, 0.0)
    both = jnp.where(row == num_classes, losses, right)
    return both.sum(axis=1, keepdims=True)


def _write(scores, index, column: Array) -> None:
    """Sets one column of a table in blocks."""
    lanes = scores.shape[2]
    if lanes > 1:
        old = scores[index // lanes]
        lane = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1)
        column = jnp.where(lane == index % lanes, column, old)
    scores[index // lanes] = column


def _bytes_on_chip(
    model: MLP, lowest: int, num_steps: int, backend: str, tile: int
) -> int:
    """What a tile and what it reads take; that twice, as the next is fetched early."""
    chip = CHIPS[backend]
    widths = _widths(model, lowest, chip)
    kernels = [a * b for a, b in zip(widths[:-1], widths[1:], strict=True)]
    rows = 4 * max(widths) + 2 * widths[0]  # values, and what a tile begins with
    floats = max(kernels, default=0)
    if chip.holds_all:
        width = model.hidden[lowest]
        rows += 2 * width
        columns = -(-width // chip.lanes) + -(-(width + 1) // chip.lanes)
        scores = -(-num_steps // chip.lanes) * widths[-1]
        layers = 2 * sum(widths[:-1]) + sum(widths[1:])
        columns = columns * widths[0] + scores + layers
        floats = 2 * (sum(kernels) + chip.lanes * columns)
    return 4 * (floats + rows * tile)


def kernel_engine(
    model: MLP,
    lowest: int,
    num_examples: int,
    num_inputs: int,
    num_steps: int,
    memory_gb: float,
    *,
    backend: str | None = None,
) -> KernelEngine:
    """Cut for JAX's backend unless told otherwise; on a CPU as for a TPU.

    Raises:
        ValueError: layers that do not fit on chip.
    """
    backend = jax.default_backend() if backend is None else backend
    cut = backend if backend in CHIPS else "tpu"
    chip, tile = CHIPS[cut], CHIPS[cut].most
    on_chip = partial(_bytes_on_chip, model, lowest, num_steps, cut)
    while tile > chip.least and (
        tile // 2 >= num_examples or on_chip(tile) > chip.on_chip
    ):
        tile //= 2
    if on_chip(tile) > chip.on_chip:
        needed, there = (
            f"{size / 1e6:.3g} MB" for size in (on_chip(tile), chip.on_chip)
        )
        raise ValueError(
            f"engine: expected prefix_sums, got kernel, which needs {needed} on chip "
            "for this network's layers from the lowest ablated one on, where a "
            f"{cut.upper()} is taken to have {there}"
        )
    images = inputs_at_once(model, lowest, num_examples, num_inputs, memory_gb / 2)
    above = _widths(model, lowest, chip)
    # The outputs, total and sum of others, once more filled up; a share of the scores.
    floats = 3 * (model.hidden[lowest] + above[0]) + 3 * num_steps * above[-1] // tile
    ablated = number_that_fits(memory_gb / 2, floats, images)
    sizes = ExamplesAtOnce(images, ablated)
    return KernelEngine(model, lowest, sizes, cut, tile, backend not in CHIPS)
