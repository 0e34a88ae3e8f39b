r"""Studies a small vision transformer: its attention heads and MLP units are layers.

  python -m experiments.vision_transformer --dataset=mnist --data_dir=data \
      --num_test=1000 --epochs=5 --workdir=runs/vision_transformer

The network, in plain JAX, has two blocks over 16 patches of 7 by 7 pixels, 32 channels,
4 heads and 64 MLP units a block, with layer norm, a residual stream and no dropout. All
seeds are trained at once with Adam, on batches in the same order. Widths, activation
and regularisers of the flags do not apply.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import ioca_jax as ioca
from ioca_jax.cli.command import Command

from . import traced_study

CHANNELS, HEADS, UNITS, BLOCKS, PATCH = 32, 4, 64, 2, 7
LAYERS = ("blocks/*/up", "blocks/*/out:input")


def initialise(key: jax.Array, num_classes: int, num_patches: int, pixels: int) -> Any:
    """Variables of one network; those of the blocks are stacked."""
    keys = iter(jax.random.split(key, 9))

    def dense(*shape):
        return jax.random.normal(next(keys), shape) / jnp.sqrt(shape[-2])

    def in_blocks(width, features):
        return dense(BLOCKS, width, features)

    return {
        "patch": dense(pixels, CHANNELS),
        "position": 0.1 * jax.random.normal(next(keys), (num_patches, CHANNELS)),
        "blocks": {
            "query": in_blocks(CHANNELS, CHANNELS),
            "key": in_blocks(CHANNELS, CHANNELS),
            "value": in_blocks(CHANNELS, CHANNELS),
            "out": in_blocks(CHANNELS, CHANNELS),
            "up": in_blocks(CHANNELS, UNITS),
            "down": in_blocks(UNITS, CHANNELS),
        },
        "logits": dense(CHANNELS, num_classes),
    }


def _normalised(tokens):
    return jax.nn.standardize(tokens, axis=-1, epsilon=1e-5)


def _block(tokens, weights):  # [N, tokens, channels]
    heads = (*tokens.shape[:2], HEADS, CHANNELS // HEADS)
    inputs = _normalised(tokens)
    q, k, v = ((inputs @ weights[n]).reshape(heads) for n in ("query", "key", "value"))
    scores = jnp.einsum("nthd,nshd->nhts", q, k) / jnp.sqrt(heads[-1])
    mixed = jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores), v)
    tokens = tokens + mixed.reshape(tokens.shape) @ weights["out"]
    units = jax.nn.gelu(_normalised(tokens) @ weights["up"])
    return tokens + units @ weights["down"], None


def apply(variables: Any, x: jax.Array) -> jax.Array:
    """Images [N, height, width, colours] to logits [N, C]."""
    num, height, width, colours = x.shape
    rows, columns = height // PATCH, width // PATCH
    patches = x.reshape(num, rows, PATCH, columns, PATCH * colours).swapaxes(2, 3)
    patches = patches.reshape(num, rows * columns, -1)
    tokens = patches @ variables["patch"] + variables["position"]
    tokens, _ = jax.lax.scan(_block, tokens, variables["blocks"])
    return _normalised(tokens).mean(axis=1) @ variables["logits"]


def train(config: ioca.StudyConfig, data: ioca.Dataset, epochs: int) -> Any:
    """The variables of the networks of all seeds after so many epochs."""
    x, y = map(jnp.asarray, data.train)
    _, height, width, colours = x.shape
    if height % PATCH or width % PATCH:
        raise ValueError(
            f"dataset: expected images whose sides are multiples of {PATCH}, got "
            f"{height} by {width}"
        )
    sizes = (height // PATCH) * (width // PATCH), PATCH * PATCH * colours
    optimizer = optax.adam(config.learning_rate)
    steps = len(y) // config.batch_size

    def loss(variables, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            apply(variables, x[batch]), y[batch]
        )
        return losses.mean()

    def step(carry, batch):
        variables, state = carry
        updates, state = optimizer.update(jax.grad(loss)(variables, batch), state)
        return (optax.apply_updates(variables, updates), state), None

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def train_epoch(carry, key):
        order = jax.random.permutation(key, len(y))[: steps * config.batch_size]
        return jax.lax.scan(step, carry, order.reshape(steps, -1))[0]

    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds])
    variables = jax.vmap(lambda key: initialise(key, data.num_classes, *sizes))(keys)
    carry = variables, jax.vmap(optimizer.init)(variables)
    for epoch in range(epochs):
        carry = train_epoch(carry, jax.random.key(epoch))
    return carry[0]


def train_all(config: ioca.StudyConfig, data: ioca.Dataset) -> tuple[Any, Any]:
    """The traced network, and the variables of the networks of all seeds."""
    variables = train(config, data, config.epochs)
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    return ioca.trace_network(apply, one, data.test.x, layers=LAYERS), variables


def main(options: traced_study.Options, config: ioca.StudyConfig) -> None:
    """Trains the networks of all seeds, and studies them."""
    traced_study.run(options, config, train_all)


COMMAND = Command(
    main,
    (traced_study.Options, ioca.StudyConfig),
    when_interrupted=traced_study.when_interrupted,
)

if __name__ == "__main__":
    COMMAND.run()
