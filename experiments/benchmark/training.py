"""Cases of training many seeds, beside PyTorch.

They are checked after a few steps on one batch, whose order then does not matter, from
the same weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import ioca_jax as ioca

from . import in_torch
from .inputs import DEFAULT, Case, Examples, Settings, affine_maps, examples
from .oracles import Affine, CurveInputs, check_values, curve_oracle
from .timing import Contender

_CHECK_STEPS = 5
_TOLERANCE = 1e-3  # relative

# Trains networks on a dataset by a configuration; returns their affine maps.
_Train = Callable[[ioca.Dataset, ioca.TrainConfig], list[list[Affine]]]


def _dataset(data: Examples, num_train: int) -> ioca.Dataset:
    """The first examples as a dataset that spends no time on validation."""
    x, y = np.asarray(data.x), np.asarray(data.y)
    few = ioca.Split(x[:1], y[:1])
    train = ioca.Split(x[:num_train], y[:num_train])
    return ioca.Dataset("benchmark", train, few, few, data.num_classes)


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
        return affine_maps(ioca.train(self.model, data, config, self.seeds).variables)

    def in_a_loop(self, data: ioca.Dataset, config: ioca.TrainConfig) -> list[Any]:
        """Seed after seed."""
        return [
            network
            for seed in self.seeds
            for network in affine_maps(
                ioca.train(self.model, data, config, (seed,)).variables
            )
        ]

    @property
    def batch(self) -> ioca.Dataset:
        """One batch: every epoch is a step on all of it, however shuffled."""
        return _dataset(self.data, self.config.batch_size)

    def in_torch(self) -> _Train:
        """PyTorch, seed after seed, from the same weights."""
        # So small a rate leaves the weights as they were drawn.
        frozen = dataclasses.replace(self.config, learning_rate=1e-30)
        initial = self.at_once(self.batch, frozen)
        return lambda data, config: in_torch.torch_train(
            initial, self.model.activation, *data.train, config
        )

    def losses_after_steps(self, train: _Train) -> np.ndarray:
        """Losses [S] on the batch after a few steps on it."""
        steps = dataclasses.replace(self.config, epochs=_CHECK_STEPS)
        networks = train(self.batch, steps)
        keep = np.ones((len(networks), 1, 1, self.model.num_neurons), bool)
        clamps = np.zeros((len(networks), self.model.num_neurons), np.float32)
        activation, batch = self.model.activation, self.batch.train
        inputs = CurveInputs(networks, activation, keep, clamps, *batch)
        return curve_oracle(inputs).loss

    def contender(self, name: str, train: _Train, ours: bool = True) -> Contender:
        """One way to train on all examples."""
        whole = _dataset(self.data, len(self.data.y))

        def check(results) -> dict[str, float]:
            del results  # the order of the batches decides these
            expected = self.losses_after_steps(self.in_a_loop)
            ratios = self.losses_after_steps(train) / expected
            return check_values(
                name, "relative losses", ratios, np.ones_like(ratios), _TOLERANCE
            )

        return Contender(name, lambda _: train(whole, self.config), check, ours)


def training_case(batch_size: int, settings: Settings) -> Case:
    """One epoch of several networks: all at once, ours in a loop, PyTorch in a loop."""
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    config = ioca.TrainConfig(epochs=1, batch_size=batch_size)
    work = _Training(model, data, config, tuple(range(preset.num_seeds)))
    peers, left_out = settings.peers(
        in_torch.has_torch(),
        {"torch_loop": lambda: work.contender("torch_loop", work.in_torch(), False)},
    )
    widths = "-".join(map(str, (data.x.shape[1], *model.hidden, model.num_classes)))
    num_steps = preset.num_examples // batch_size
    return Case(
        f"training {preset.num_seeds} seeds, {widths}, batch {batch_size}, "
        f"{num_steps} steps of Adam",
        num_steps * batch_size * preset.num_seeds,
        (
            work.contender(DEFAULT, work.at_once),
            work.contender("loop_over_seeds", work.in_a_loop),
            *peers,
        ),
        left_out,
    )
