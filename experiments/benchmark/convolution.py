"""Cases of curves of a convolutional network, traced, beside PyTorch with hooks.

The network is that of Flax's MNIST tutorial.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

import ioca_jax as ioca
from experiments.flax_network import CNN

from . import in_torch
from .curves import Points, Prepared
from .inputs import DEFAULT, Case, Settings, examples
from .oracles import CurveOracle, score_oracle, stack_oracles
from .timing import Contender

_SIDE = 28
_LAST_LAYER = 2
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


def weights_of(variables: Any) -> dict[str, np.ndarray]:
    """Float64 arrays by name, such as ``conv1/kernel``."""
    leaves: Any = traverse_util.flatten_dict(nnx.to_pure_dict(variables), sep="/")
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}


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
    weights: Mapping[str, np.ndarray], clamp: np.ndarray, x: Any, y: Any, masks: Any
) -> Prepared:
    """PyTorch, one full forward pass with hooks for each mask [1, 1, P, H]."""
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
    keeps = [
        shaped(layer, scorer.put(part))
        for layer, part in enumerate(_parts(masks[0, 0]))
    ]

    def scores():
        for of_layers in zip(*keeps, strict=True):
            current["keeps"] = of_layers
            yield scorer.score(network(images))

    return (lambda: None), lambda _: scorer.collect(scores(), masks.shape[:-1])


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


def cnn_curve(scope: str, settings: Settings) -> Case:
    """A curve of the network, or of its last hidden layer, in random order."""
    preset = settings.preset
    data = examples(settings, preset.deep_examples, _SIDE**2)
    x, y = data.x.reshape(-1, _SIDE, _SIDE, 1), np.asarray(data.y)
    network, variables = traced_cnn(x)
    layers = np.asarray(network.layer_of_neuron)
    neurons = np.flatnonzero((layers == _LAST_LAYER) | (scope == "network"))
    order = np.random.default_rng(1).permutation(neurons.astype(np.int32))
    clamp = jax.jit(network.apply)(variables, x)[1].mean(axis=0)
    weights, constants, images = weights_of(variables), np.asarray(clamp), np.asarray(x)

    def oracle_of(masks: np.ndarray) -> CurveOracle:
        clamps, doubles = _parts(constants), images.astype(np.float64)
        figures = [
            score_oracle(forward(weights, keeps, clamps, doubles), y)
            for keeps in zip(*_parts(masks[0, 0]), strict=True)
        ]
        return stack_oracles(figures, masks.shape[:-1])

    points = Points(
        order[None, None],
        network.num_neurons,
        preset.num_masks // 10,
        min(_MOST_CHECKED, preset.num_checked),
        oracle_of,
    )

    def figures(evaluation: ioca.Evaluation) -> tuple[jax.Array, jax.Array]:
        return evaluation.correct[None, None], evaluation.loss[None, None]

    common, memory_gb = (clamp, x, data.y), settings.memory_gb

    def default():
        arguments = (network, variables, order, *common)
        return figures(ioca.ablation_curve(*arguments, memory_gb=memory_gb))

    def evaluate_masks(masks: np.ndarray) -> Prepared:
        arguments = (network, variables, masks[0, 0], *common)
        return (lambda: None), lambda _: figures(
            ioca.evaluate_masks(*arguments, memory_gb=memory_gb)
        )

    def in_pytorch() -> Contender:
        prepare = partial(torch_loop, weights, constants, images, y)
        return points.by_mask("torch_loop", prepare)

    peers, left_out = settings.peers(in_torch.has_torch(), {"torch_loop": in_pytorch})
    return Case(
        f"{scope} curve of a traced CNN, 32 and 64 channels, 256 dense, {len(x)} "
        f"examples, {points.number} points, mean clamp",
        len(x) * points.number,
        (
            points.whole(DEFAULT, default),
            points.by_mask("masks", evaluate_masks, ours=True),
            *peers,
        ),
        left_out,
    )
