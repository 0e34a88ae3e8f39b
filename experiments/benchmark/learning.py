"""Cases of training many seeds, beside PyTorch.

They are checked after a few steps on one batch, whose order then does not matter, from
the same weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import ioca_jax as ioca
from ioca_jax.data import Split

from . import costs, in_torch, peers
from .checks import TRAINING_CHECK_STEPS, check_losses
from .inputs import (
    DEFAULT,
    Case,
    Examples,
    Settings,
    affine_maps,
    examples,
    installed_peers,
)
from .timing import Contender


def training_data(data: Examples, num_train: int) -> ioca.Dataset:
    """The first examples as a dataset that spends no time on validation."""
    x, y = np.asarray(data.x), np.asarray(data.y)
    few = Split(x[:1], y[:1])
    train = Split(x[:num_train], y[:num_train])
    return ioca.Dataset("benchmark", train, few, few, data.num_classes)


# Trains a list of variables or networks on a dataset as a configuration tells.
_Train = Callable[[ioca.Dataset, ioca.TrainConfig], list[Any]]


@dataclasses.dataclass(frozen=True)
class _Training:
    """Several networks to train, in any of several ways.

    Attributes:
        model: the networks' shape.
        data: the examples.
        config: one epoch.
        seeds: of the networks.
    """

    model: ioca.MLP
    data: Examples
    config: ioca.TrainConfig
    seeds: tuple[int, ...]

    def at_once(self, data: ioca.Dataset, config: ioca.TrainConfig) -> list[Any]:
        """All seeds in one program."""
        return [ioca.train(self.model, data, config, self.seeds).variables]

    def in_a_loop(self, data: ioca.Dataset, config: ioca.TrainConfig) -> list[Any]:
        """Seed after seed."""
        return [
            ioca.train(self.model, data, config, (seed,)).variables
            for seed in self.seeds
        ]

    def networks(self, trained: list[Any]) -> list[Any]:
        """Each network's affine maps, of variables whose leaves begin with seeds."""
        return [maps for part in trained for maps in affine_maps(self.model, part)]

    @property
    def batch(self) -> ioca.Dataset:
        """One batch: every epoch is a step on all of it, however shuffled."""
        return training_data(self.data, self.config.batch_size)

    def in_torch(self) -> _Train:
        """PyTorch, seed after seed, from the same weights."""
        # So small a rate leaves the weights as they were drawn.
        frozen = dataclasses.replace(self.config, learning_rate=1e-30)
        initial = self.networks(self.at_once(self.batch, frozen))

        def train(data: ioca.Dataset, config: ioca.TrainConfig) -> list[Any]:
            return in_torch.torch_train(
                initial,
                self.model.activation,
                *data.train,
                config.batch_size,
                config.epochs,
                config.learning_rate,
                config.l2,
            )(None)

        return train

    def losses(self, networks: list[Any]) -> np.ndarray:
        """Of trained networks on the batch."""
        keep = np.ones((len(networks), 1, 1, self.model.num_neurons), bool)
        clamps = np.zeros((len(networks), self.model.num_neurons), np.float32)
        activation, batch = self.model.activation, self.batch.train
        inputs = peers.CurveInputs(networks, activation, keep, clamps, *batch)
        return peers.curve_oracle(inputs).loss

    def losses_after_steps(self, train: _Train, ours: bool) -> np.ndarray:
        """After a few steps on the batch."""
        steps = dataclasses.replace(self.config, epochs=TRAINING_CHECK_STEPS)
        trained = train(self.batch, steps)
        return self.losses(self.networks(trained) if ours else trained)

    def contender(self, name: str, train: _Train, ours: bool = True) -> Contender:
        """One way to train on all examples."""
        whole = training_data(self.data, len(self.data.y))

        def check(results) -> dict[str, float]:
            del results
            expected = self.losses_after_steps(self.in_a_loop, ours=True)
            return check_losses(name, self.losses_after_steps(train, ours), expected)

        return Contender(name, lambda _: train(whole, self.config), check, ours)


def training_case(batch_size: int, settings: Settings) -> Case:
    """One epoch of several networks: all at once, ours in a loop, PyTorch in a loop."""
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    config = ioca.TrainConfig(epochs=1, batch_size=batch_size)
    seeds = tuple(range(preset.num_seeds))
    work = _Training(model, data, config, seeds)
    others, left_out = installed_peers(
        settings,
        in_torch.has_torch(),
        {"torch_loop": lambda name: work.contender(name, work.in_torch(), ours=False)},
    )
    widths = (data.x.shape[1], *model.hidden, model.num_classes)
    num_steps = preset.num_examples // batch_size
    return Case(
        f"training {len(seeds)} seeds, {'-'.join(map(str, widths))}, batch "
        f"{batch_size}, {num_steps} steps of Adam",
        {"seeds": len(seeds), "batch_size": batch_size, "steps": num_steps},
        num_steps * batch_size * len(seeds),
        costs.training_cost(widths, batch_size, num_steps, len(seeds)),
        (
            work.contender(DEFAULT, work.at_once),
            work.contender("loop_over_seeds", work.in_a_loop),
            *others,
        ),
        {"torch_loop": 4.0} if batch_size == 32 else {},
        left_out,
    )
