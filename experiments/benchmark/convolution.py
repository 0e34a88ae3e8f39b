"""Cases of curves of a convolutional network, traced, beside PyTorch with hooks.

The network is that of Flax's MNIST tutorial.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx

import ioca_jax as ioca
from ioca_jax.networks.jaxprs import named_leaves

from ..flax_network import CNN
from . import costs, in_torch, peers
from .checks import check_curve
from .curves import masks_at, spaced
from .inputs import (
    DEFAULT,
    Case,
    Settings,
    examples,
    installed_peers,
)
from .timing import Contender

_SIDE = 28
# Operations for one example from each layer's outputs to the score, and of all.
_PRODUCTS = np.array([18 * 28**2 * 32, 18 * 14**2 * 32 * 64, 2 * 3136 * 256, 20 * 256])
_ABOVE = _PRODUCTS[::-1].cumsum()[::-1]
_MOST_CHECKED = 6


def traced_cnn(x: Any) -> tuple[ioca.Network, Any]:
    """The network, and variables of which none is at its initial value."""
    model = CNN(rngs=nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.2, leaf.shape).astype(leaf.dtype), state
    )
    return ioca.trace_network(lambda s, x: nnx.merge(graph, s)(x), state, x), state


@dataclasses.dataclass(frozen=True)
class _Curve:
    """One curve of the network.

    Attributes:
        network: traced.
        variables: its state.
        x: float32 [N, 28, 28, 1].
        y: int32 [N].
        order: int32 [K].
        clamp: float32 [H].
        settings: of all cases.
    """

    network: Any
    variables: Any
    x: jax.Array
    y: jax.Array
    order: np.ndarray
    clamp: jax.Array
    settings: Settings

    @property
    def number(self) -> int:
        """Points, K+1."""
        return len(self.order) + 1

    @property
    def checked(self) -> np.ndarray:
        """Points held against the oracle."""
        most = min(_MOST_CHECKED, self.settings.preset.checked_points)
        return spaced(self.number, most)

    @cached_property
    def oracle(self) -> peers.CurveOracle:
        """The figures of the checked points."""
        clamps, x = _parts(np.asarray(self.clamp)), np.asarray(self.x, np.float64)
        figures = [
            peers.score_oracle(
                forward(self.weights, keeps, clamps, x), np.asarray(self.y)
            )
            for keeps in zip(*_parts(self.masks(self.checked)), strict=True)
        ]
        return peers.stack_oracles(figures, (1, 1, len(figures)))

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The network's, as NumPy arrays."""
        return weights_of(self.variables)

    def masks(self, points: np.ndarray) -> np.ndarray:
        """bool [P, H]."""
        orders = self.order[None, None]
        return masks_at(orders, points, self.network.num_neurons)[0, 0]

    def default(self) -> Contender:
        """This library's engine for any network."""

        def run(_):
            curve = ioca.ablation_curve(
                self.network,
                self.variables,
                self.order,
                self.clamp,
                self.x,
                self.y,
                memory_gb=self.settings.memory_gb,
            )
            return curve.correct, curve.loss

        def check(results):
            return self._check(DEFAULT, *(np.asarray(r)[self.checked] for r in results))

        return Contender(DEFAULT, run, check, ours=True)

    def by_mask(
        self, name: str, evaluate: Callable[[np.ndarray], Any], ours: bool
    ) -> Contender:
        """Who takes points [P] one by one, or a sample of them that there is time for.

        Returns correct [P, C] and loss [P].
        """
        seconds = _ABOVE[0] * len(self.y) / self.settings.ceilings.operations
        most = max(_MOST_CHECKED, self.settings.preset.seconds_per_run / (4 * seconds))
        points = spaced(self.number, most)

        def check(results):
            del results
            return self._check(name, *evaluate(self.checked))

        few = len(points) < self.number
        note = f"{len(points)} of {self.number} masks, time scaled" if few else ""
        return Contender(
            name,
            lambda _: evaluate(points),
            check,
            ours,
            scale=self.number / len(points),
            note=note,
        )

    def evaluate_masks(self, points: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """This library, mask by mask."""
        found = ioca.evaluate_masks(
            self.network,
            self.variables,
            self.masks(points),
            self.clamp,
            self.x,
            self.y,
            memory_gb=self.settings.memory_gb,
        )
        return found.correct, found.loss

    def in_torch(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """PyTorch, mask by mask."""
        run = torch_loop(self.weights, np.asarray(self.clamp), self.x, self.y)
        return lambda points: run(_parts(self.masks(points)))

    def _check(self, name: str, correct: Any, loss: Any) -> dict[str, float]:
        correct, loss = (np.asarray(array)[None, None] for array in (correct, loss))
        return check_curve(name, correct, loss, self.oracle)


def weights_of(variables: Any) -> dict[str, np.ndarray]:
    """Float64 arrays by name, such as ``conv1/kernel``."""
    leaves = named_leaves(variables)
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves}


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """Cuts [..., H] into the layers' parts."""
    return np.split(values, [32, 96], axis=-1)


def forward(weights: Mapping[str, np.ndarray], keeps, clamps, x: np.ndarray):
    """The network in float64 NumPy, logits [N, 10]; masks and clamps by layer."""

    def convolve(name, x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        kernel = weights[f"{name}/kernel"]
        axes = [4, 5, 3], [0, 1, 2]
        return np.tensordot(windows, kernel, axes) + weights[f"{name}/bias"]

    def normalise(name, x):
        mean, var, scale, bias = (
            weights[f"{name}/{field}"] for field in ("mean", "var", "scale", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def ablate(layer, x):
        return np.where(keeps[layer], np.maximum(x, 0), clamps[layer])

    def pool(x):
        n, side, _, channels = x.shape
        return x.reshape(n, side // 2, 2, side // 2, 2, channels).mean(axis=(2, 4))

    logits = []
    for some in np.array_split(x, -(-len(x) // 100)):  # windows take memory
        some = pool(ablate(0, normalise("batch_norm1", convolve("conv1", some))))
        some = pool(ablate(1, normalise("batch_norm2", convolve("conv2", some))))
        some = some.reshape(len(some), -1) @ weights["linear1/kernel"]
        some = ablate(2, some + weights["linear1/bias"])
        logits.append(some @ weights["linear2/kernel"] + weights["linear2/bias"])
    return np.concatenate(logits)


def torch_loop(
    weights: Mapping[str, np.ndarray], clamp: np.ndarray, x: Any, y: Any
) -> Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]:
    """PyTorch: takes the masks [P, n] of each layer, one full forward pass for each."""
    scorer = in_torch.Scorer(y, 10)
    torch = scorer.torch

    def shaped(layer, values):  # PyTorch's maps have channels first
        return values.reshape(*values.shape[:-1], *((-1, 1, 1) if layer < 2 else (-1,)))

    network, current = _torch_cnn(torch, weights), {}
    relus = [module for module in network if isinstance(module, torch.nn.ReLU)]
    for layer, (relu, part) in enumerate(zip(relus, _parts(clamp), strict=True)):
        constant = shaped(layer, scorer.put(part))
        in_torch.add_hook(torch, relu, current, layer, constant)
    network, images = network.to(scorer.device), scorer.put(x).permute(0, 3, 1, 2)

    def evaluate(parts):
        masks = [shaped(layer, scorer.put(part)) for layer, part in enumerate(parts)]

        def scores():
            for keeps in zip(*masks, strict=True):
                current["keeps"] = keeps
                yield scorer.score(network(images))

        return scorer.collect(scores(), (len(masks[0]),))

    return evaluate


def _torch_cnn(torch: Any, weights: Mapping[str, np.ndarray]) -> Any:
    nn = torch.nn

    def fill(module, weight, name):
        module.weight.copy_(torch.as_tensor(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.as_tensor(weights[f"{name}/bias"]))
        return module

    def convolution(number):
        kernel, norm = weights[f"conv{number}/kernel"], f"batch_norm{number}"
        conv = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
        fill(conv, kernel.transpose(3, 2, 0, 1), f"conv{number}")
        batch_norm = fill(
            nn.BatchNorm2d(conv.out_channels), weights[f"{norm}/scale"], norm
        )
        batch_norm.running_mean.copy_(torch.as_tensor(weights[f"{norm}/mean"]))
        batch_norm.running_var.copy_(torch.as_tensor(weights[f"{norm}/var"]))
        return conv, batch_norm, nn.ReLU(), nn.AvgPool2d(2)

    kernel = weights["linear1/kernel"].reshape(7, 7, 64, 256).transpose(2, 0, 1, 3)
    with torch.no_grad():
        network = nn.Sequential(
            *convolution(1),
            *convolution(2),
            nn.Flatten(),
            fill(nn.Linear(3136, 256), kernel.reshape(3136, 256).T, "linear1"),
            nn.ReLU(),
            fill(nn.Linear(256, 10), weights["linear2/kernel"].T, "linear2"),
        )
    return network.eval()


def cnn_case(scope: str, goals: Mapping[str, float], settings: Settings) -> Case:
    """A curve of the network, or of its last hidden layer, in random order."""
    data = examples(settings, settings.preset.deep_examples, _SIDE**2)
    x = data.x.reshape(-1, _SIDE, _SIDE, 1)
    network, variables = traced_cnn(x)
    layers = network.layer_of_neuron
    neurons = np.flatnonzero((layers == 2) | (scope == "network")).astype(np.int32)
    order = np.random.default_rng(1).permutation(neurons)
    _, activations = jax.jit(network.apply)(variables, x)
    curve = _Curve(
        network, variables, x, data.y, order, activations.mean(axis=0), settings
    )
    others, left_out = installed_peers(
        settings,
        in_torch.has_torch(),
        {"torch_loop": lambda name: curve.by_mask(name, curve.in_torch(), ours=False)},
    )
    operations = len(x) * (_PRODUCTS.sum() + _ABOVE[layers[order] + 1].sum())
    return Case(
        f"{scope} curve of a traced CNN, 32 and 64 channels, 256 dense, {len(x)} "
        f"examples, {curve.number} points, mean clamp",
        {"scope": scope, "examples": len(x), "points": curve.number},
        len(x) * curve.number,
        costs.Cost(float(operations), 4.0 * x.size),
        (
            curve.default(),
            curve.by_mask("masks", curve.evaluate_masks, ours=True),
            *others,
        ),
        goals,
        left_out,
    )
