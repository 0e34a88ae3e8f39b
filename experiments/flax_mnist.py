r"""Studies the network of Flax's MNIST example, from images to results and figures.

  python -m experiments.flax_mnist --dataset=mnist --data_dir=data --num_test=2000 \
      --workdir=runs/flax_mnist

The network (``experiments/flax_network.py``) contains nothing of this library. It is
trained here for each seed with AdamW, then traced and studied like any network of your
own; copy this file to begin.
The flags are those of a study; widths, activation and regularisers do not apply.
"""

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import ioca_jax as ioca
from ioca_jax.cli.command import Command

from . import traced_study
from .flax_network import CNN


@nnx.jit
def train_step(model: CNN, optimizer: nnx.Optimizer, rngs: nnx.Rngs, x, y) -> None:
    """Changes the network and the optimiser's moments by one batch."""

    def loss_of(model: CNN, rngs: nnx.Rngs):
        losses = optax.softmax_cross_entropy_with_integer_labels(model(x, rngs), y)
        return losses.mean()

    optimizer.update(model, nnx.grad(loss_of)(model, rngs))


def train(seed: int, config: ioca.StudyConfig, data: ioca.Dataset) -> tuple[Any, Any]:
    """The graph and the state of one trained network, at inference."""
    model = CNN(rngs=nnx.Rngs(seed))
    model.train()
    optimizer = nnx.Optimizer(model, optax.adamw(config.learning_rate), wrt=nnx.Param)
    dropout, shuffle = nnx.Rngs(dropout=seed), np.random.default_rng(seed)
    x, y = data.train
    steps = len(y) // config.batch_size
    for _ in range(config.epochs):
        order = shuffle.permutation(len(y))[: steps * config.batch_size]
        for batch in order.reshape(steps, -1):
            train_step(model, optimizer, dropout, x[batch], y[batch])
    model.eval()
    return nnx.split(model)


def train_all(config: ioca.StudyConfig, data: ioca.Dataset) -> tuple[Any, Any]:
    """The traced network, and the variables of the networks of all seeds."""
    trained = [train(seed, config, data) for seed in config.seeds]
    graph, one = trained[0]
    variables = jax.tree.map(
        lambda *leaves: np.stack(leaves), *[state for _, state in trained]
    )

    def apply(state, x):
        return nnx.merge(graph, state)(x)

    return ioca.trace_network(apply, one, data.test.x), variables


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
