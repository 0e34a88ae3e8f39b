"""Cases of training many seeds, beside PyTorch.

They are checked after a few steps on one batch, whose order then does not matter, from
the same weights.
"""

import dataclasses
from functools import partial

import numpy as np

import ioca_jax as ioca
from experiments.benchmark import costs, peers
from experiments.benchmark.checks import TRAINING_CHECK_STEPS, check_losses
from experiments.benchmark.inputs import (
    DEFAULT,
    Case,
    Examples,
    Settings,
    affine_maps,
    examples,
    installed_peers,
)
from experiments.benchmark.timing import Contender
from ioca_jax.data import Split


def training_data(data: Examples, num_train: int) -> ioca.Dataset:
    """The first examples as a dataset that spends no time on validation.

    Args:
        data: the examples.
        num_train: of them, those to train on.

    Returns:
        The dataset.
    """
    x, y = np.asarray(data.x), np.asarray(data.y)
    few = Split(x[:1], y[:1])
    train = Split(x[:num_train], y[:num_train])
    return ioca.Dataset("benchmark", train, few, few, data.num_classes)


def training_case(batch_size: int, settings: Settings) -> Case:
    """One epoch of several networks: all at once, ours in a loop, PyTorch in a loop.

    Args:
        batch_size: examples a step.
        settings: shared by all cases.

    Returns:
        The case.

    Raises:
        ValueError: a batch larger than the examples.
    """
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    config = ioca.TrainConfig(epochs=1, batch_size=batch_size)
    seeds = tuple(range(preset.num_seeds))
    whole = training_data(data, preset.num_examples)
    # Every epoch of this one is a step on all of it: the shuffling does not matter.
    batch = training_data(data, batch_size)
    steps = dataclasses.replace(config, epochs=TRAINING_CHECK_STEPS)
    # So small a rate leaves the weights as they were drawn.
    frozen = dataclasses.replace(config, learning_rate=1e-30)
    initial = affine_maps(model, ioca.train(model, batch, frozen, seeds).variables)

    def at_once(data, config):
        return affine_maps(model, ioca.train(model, data, config, seeds).variables)

    def in_a_loop(data, config):
        trained = [ioca.train(model, data, config, (seed,)) for seed in seeds]
        return [affine_maps(model, one.variables)[0] for one in trained]

    def in_torch(data, config):
        return peers.torch_train(
            initial,
            settings.activation,
            data.train.x,
            data.train.y,
            config.batch_size,
            config.epochs,
            config.learning_rate,
            config.l2,
        )(None)

    def losses_after_check(train) -> np.ndarray:
        networks = train(batch, steps)
        hidden = np.ones((len(networks), 1, 1, model.num_neurons), bool)
        clamps = np.zeros((len(networks), model.num_neurons), np.float32)
        return peers.curve_oracle(
            peers.CurveInputs(
                networks, settings.activation, hidden, clamps, *batch.train
            )
        ).loss

    oracle = losses_after_check(in_a_loop)

    def check(name, train, results) -> dict[str, float]:
        del results
        return check_losses(name, losses_after_check(train), oracle)

    def ours(run):
        return lambda _: [one.variables for one in run()]

    contenders = [
        Contender(
            DEFAULT,
            ours(lambda: [ioca.train(model, whole, config, seeds)]),
            partial(check, DEFAULT, at_once),
            ours=True,
        ),
        Contender(
            "loop_over_seeds",
            ours(lambda: [ioca.train(model, whole, config, (s,)) for s in seeds]),
            partial(check, "loop_over_seeds", in_a_loop),
            ours=True,
        ),
    ]

    def torch_loop(name):
        run = peers.torch_train(
            initial,
            settings.activation,
            *whole.train,
            config.batch_size,
            config.epochs,
            config.learning_rate,
            config.l2,
        )
        return Contender(name, run, partial(check, name, in_torch))

    others, left_out = installed_peers(
        settings, peers.has_torch(), {"torch_loop": torch_loop}
    )
    widths = (data.x.shape[1], *model.hidden, model.num_classes)
    num_steps = preset.num_examples // batch_size
    return Case(
        f"training {len(seeds)} seeds, {'-'.join(map(str, widths))}, batch "
        f"{batch_size}, {num_steps} steps of Adam",
        {"seeds": len(seeds), "batch_size": batch_size, "steps": num_steps},
        num_steps * batch_size * len(seeds),
        costs.training_cost(widths, batch_size, num_steps, len(seeds)),
        (*contenders, *others),
        {"torch_loop": 4.0} if batch_size == 32 else {},
        left_out,
    )
