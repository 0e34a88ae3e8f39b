"""Studies the network of Flax's MNIST example, from images to results and figures.

    python -m experiments.flax_mnist --data_dir=data --workdir=runs/flax_mnist

The network (``experiments/flax_network.py``) contains nothing of this library. It is
trained here for each seed with AdamW, then traced and studied like any network of your
own; copy this file to begin.
The flags are those of a study; widths, activation and regularisers do not apply.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from flax import nnx

import ioca_jax as ioca
from experiments import config_flags
from experiments.flax_network import CNN
from ioca_jax.study import events
from ioca_jax.study.runner import how_to_go_on

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
NUM_TEST = flags.DEFINE_integer("num_test", 2000, "Examples of the test split to use.")
config_flags.define(ioca.StudyConfig)
flags.adopt_module_key_flags(config_flags)


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


def main() -> None:
    """Trains, studies and reports."""
    config = config_flags.parse(ioca.StudyConfig)
    data = ioca.load_dataset(**config.data_arguments())
    some = ioca.Split(*(array[: NUM_TEST.value] for array in data.test))
    data = dataclasses.replace(data, test=some, name=f"{NUM_TEST.value} of {data.name}")
    trained = [train(seed, config, data) for seed in config.seeds]
    graph = trained[0][0]
    variables = jax.tree.map(
        lambda *leaves: np.stack(leaves), *[state for _, state in trained]
    )

    def apply(state, x):
        return nnx.merge(graph, state)(x)

    network = ioca.trace_network(apply, trained[0][1], data.test.x)
    print(network)
    results = ioca.run_study(
        config,
        WORKDIR.value,
        data=data,
        network=network,
        variables=variables,
        listeners=[events.progress_bar(), events.log_lines()],
    )
    print(ioca.summarize(results))


if __name__ == "__main__":
    config_flags.run_main(main, when_interrupted=lambda: how_to_go_on(WORKDIR.value))
