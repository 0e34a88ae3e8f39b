"""Cases of curves at chosen points: a residual network and a vision transformer.

Both have the sizes that CIFAR-10 calls for, random weights, and their own predictions
as labels. Curves are of all channels, or all units of the MLPs, in random order.
"""

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

import ioca_jax as ioca

from . import in_torch
from .inputs import DEFAULT, Case, Settings
from .timing import Contender

_POINTS, _NUM_CLASSES = 50, 10
_CHECKED, _OF_TORCH = 6, 12  # points compared with the reference, and run in PyTorch


class ResNet(nn.Module):
    """A stem, and stages of basic blocks of 16, 32, ... channels."""

    blocks: int = 3  # in each of three stages, or 1: in two

    @nn.compact
    def __call__(self, x, *, train: bool = False):  # noqa: D102
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.0)
        x = nn.relu(norm()(nn.Conv(16, (3, 3), use_bias=False)(x)))
        for stage, block in np.ndindex(min(3, self.blocks + 1), self.blocks):
            width, stride = 16 << stage, 2 if stage and not block else 1
            conv = partial(nn.Conv, width, use_bias=False)
            y = nn.relu(norm()(conv((3, 3), (stride, stride))(x)))
            y = norm()(conv((3, 3))(y))
            if stride == 2:
                x = norm()(conv((1, 1), (2, 2))(x))
            x = nn.relu(x + y)
        return nn.Dense(_NUM_CLASSES, name="head")(x.mean(axis=(1, 2)))


class Transformer(nn.Module):
    """Patches of 4 by 4 pixels, pre-norm blocks of 4 heads, mean over tokens."""

    blocks: int = 4

    @nn.compact
    def __call__(self, x):  # noqa: D102
        x = nn.Conv(64, (4, 4), (4, 4))(x).reshape(len(x), -1, 64)
        x = x + self.param("places", nn.initializers.normal(0.5), x.shape[1:])
        for _ in range(self.blocks):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(y, y)
            y = nn.gelu(nn.Dense(256)(nn.LayerNorm()(x)))
            x = x + nn.Dense(64)(y)
        return nn.Dense(_NUM_CLASSES, name="head")(nn.LayerNorm()(x).mean(axis=1))


class _Setting:
    """A network, examples, a random order, and what ablated units output."""

    def __init__(self, name: str, settings: Settings):  # noqa: D107
        is_tiny, rng = settings.preset.deep_examples < 100, np.random.default_rng(0)
        side, parts = (8, {"blocks": 1}) if is_tiny else (32, {})
        number = 6 if is_tiny else {"resnet": 100, "transformer": 200}[name]
        self.memory_gb = settings.memory_gb
        self.x = jnp.asarray(rng.normal(size=(number, side, side, 3)), jnp.float32)
        model = {"resnet": ResNet, "transformer": Transformer}[name](**parts)
        self.apply: Any = jax.jit(model.apply)
        self.variables = _variables(model, self.x)
        network = ioca.trace_network(model.apply, self.variables, self.x)
        mlps = [layer.name for layer in network.layers if layer.num_neurons == 256]
        self.network = ioca.trace_network(
            *(model.apply, self.variables, self.x), layers=mlps or None
        )
        self.y = np.asarray(self.apply(self.variables, self.x).argmax(1), np.int32)
        self.order = rng.permutation(self.network.num_neurons).astype(np.int32)
        outputs = jax.jit(self.network.activations)(self.variables, self.x)
        self.clamp = np.asarray(outputs.means.mean(axis=0))

    def curve(self, points: Any = None) -> ioca.Evaluation:
        """The curve, by default at all points."""
        arguments = (self.network, self.variables, self.order, self.clamp)
        return ioca.ablation_curve(
            *(*arguments, self.x, self.y), points=points, memory_gb=self.memory_gb
        )

    def masks(self, steps: np.ndarray) -> np.ndarray:
        """Masks [P, H] after some numbers of ablated neurons."""
        return np.argsort(self.order) >= steps[:, None]

    def by_masks(self, steps: np.ndarray) -> ioca.Evaluation:
        """The reference at some steps."""
        arguments = (self.network, self.variables, self.masks(steps), self.clamp)
        return ioca.evaluate_masks(*arguments, self.x, self.y)

    @cached_property
    def whole(self) -> ioca.Evaluation:
        """The curve at all points, computed once."""
        return self.curve()

    def check(self, steps: np.ndarray, found: Any) -> dict[str, float]:
        """How many examples differ from the reference at some steps."""
        some = steps[np.linspace(0, len(steps) - 1, _CHECKED).round().astype(int)]
        expected = np.asarray(self.by_masks(np.unique(some)).correct)
        correct = np.asarray(found)[np.isin(steps, some)]
        differing = np.abs(correct - expected).sum()
        if differing > 2 * len(expected):  # logits that are nearly equal
            raise ValueError(f"{differing} counts differ from the reference")
        return {"examples": float(differing) / len(expected)}

    def check_area(self, found: ioca.Evaluation) -> dict[str, float]:
        """Also how far the area is from that of all points."""
        areas = [
            float(ioca.area_under_curve(curve.accuracy, curve.steps))
            for curve in (found, self.whole)
        ]
        return self.check(found.steps, found.correct) | {
            "area": abs(areas[0] - areas[1]),
            "points": float(len(found.steps)),
        }


def _variables(model: nn.Module, x: jax.Array) -> Any:
    """Random weights, batch norm's statistics of the examples, logits of mean 0."""
    variables = jax.jit(model.init)(jax.random.key(0), x)
    if "batch_stats" in variables:
        run = partial(model.apply, train=True, mutable=["batch_stats"])
        variables |= jax.jit(run)(variables, x)[1]
    head = variables["params"]["head"]
    logits: Any = jax.jit(model.apply)(variables, x)
    head["bias"] -= logits.mean(axis=0)
    return variables


def points_case(name: str, settings: Settings) -> Case:
    """All points, 50, and where the curve bends, beside one plain pass."""
    setting = _Setting(name, settings)
    number = len(setting.order) + 1
    steps = np.round(np.linspace(0, number - 1, min(_POINTS, number))).astype(int)
    of_torch = np.round(np.linspace(0, number - 1, _OF_TORCH)).astype(int)
    run_torch = partial(_torch_counts, name, setting, of_torch)

    def plain(_: Any) -> jax.Array:
        return setting.apply(setting.variables, setting.x)

    def check_plain(logits: jax.Array) -> dict[str, float]:
        return {"examples": float((logits.argmax(axis=1) != setting.y).sum())}

    def by_torch() -> Contender:
        return Contender(
            "torch_loop",
            lambda _: run_torch(),
            partial(setting.check, of_torch),
            scale=number / _OF_TORCH,
            note=f"{_OF_TORCH} of {number} masks, time scaled",
        )

    peers, left_out = settings.peers(in_torch.has_torch(), {"torch_loop": by_torch})
    contenders = (
        Contender(DEFAULT, lambda _: setting.curve(), setting.check_area, ours=True),
        Contender("plain_pass", plain, check_plain),
        Contender(
            f"points_{_POINTS}",
            lambda _: setting.curve(_POINTS),
            setting.check_area,
            ours=True,
        ),
        Contender("auto", lambda _: setting.curve("auto"), setting.check_area, True),
        Contender(
            "masks",
            lambda _: setting.by_masks(steps).correct,
            partial(setting.check, steps),
            ours=True,
            note=f"{len(steps)} points",
        ),
        *peers,
    )
    title = f"{name}, {len(setting.order)} units, {len(setting.x)} images, {number}"
    return Case(
        f"{title} points in random order, mean clamp",
        number * len(setting.x),
        contenders,
        left_out,
    )


def _torch_counts(name: str, setting: _Setting, steps: np.ndarray) -> np.ndarray:
    """Correct [P, C] by a full pass of PyTorch for each mask."""
    scorer = in_torch.Scorer(setting.y, _NUM_CLASSES)
    torch, put, channels = scorer.torch, scorer.put, name == "resnet"
    leaves = traverse_util.flatten_dict(jax.device_get(setting.variables), sep="/")
    weights = {path.partition("/")[2]: put(leaf) for path, leaf in leaves.items()}
    ends = np.cumsum([layer.num_neurons for layer in setting.network.layers])[:-1]
    shape = (-1, 1, 1) if channels else (-1,)
    clamps = [put(part).reshape(shape) for part in np.split(setting.clamp, ends)]
    forward = _torch_resnet if channels else _torch_transformer
    x = put(setting.x).permute(0, 3, 1, 2)

    def scores():
        for mask in setting.masks(steps):
            keeps = map(put, np.split(mask, ends))
            of_layers = zip(keeps, clamps, strict=True)

            def ablate(value, of_layers=of_layers):
                keep, clamp = next(of_layers)
                return torch.where(keep.reshape(shape), value, clamp)

            yield scorer.score(forward(torch, weights, x, ablate))

    return scorer.collect(scores(), (len(steps),))[0]


def _torch_resnet(torch: Any, weights: Any, x: Any, ablate: Callable) -> Any:
    """The residual network; units in the order in which it runs."""
    functional, count = torch.nn.functional, iter(range(len(weights)))

    def convolve(x, stride=1):
        name = next(count)
        kernel = weights[f"Conv_{name}/kernel"]
        padding = kernel.shape[0] // 2
        if stride == 2 and padding:  # Flax pads at the end alone
            x, padding = functional.pad(x, (0, 1, 0, 1)), 0
        x = functional.conv2d(x, kernel.permute(3, 2, 0, 1), None, stride, padding)
        fields = ("mean", "var", "scale", "bias")
        norm = (weights[f"BatchNorm_{name}/{field}"] for field in fields)
        return functional.batch_norm(x, *norm, eps=1e-5)

    x = ablate(functional.relu(convolve(x)))
    while f"Conv_{(first := next(count))}/kernel" in weights:
        count = iter(range(first, len(weights)))
        stride = 2 if weights[f"Conv_{first}/kernel"].shape[3] > x.shape[1] else 1
        y = ablate(functional.relu(convolve(x, stride)))
        y = ablate(convolve(y))
        x = functional.relu(y + (ablate(convolve(x, 2)) if stride == 2 else x))
    return x.mean((2, 3)) @ weights["head/kernel"] + weights["head/bias"]


def _torch_transformer(torch: Any, weights: Any, x: Any, ablate: Callable) -> Any:
    """The vision transformer; only the units of the MLPs are ablated."""
    functional = torch.nn.functional

    def affine(name, x):
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        inputs = math.prod(kernel.shape) // math.prod(bias.shape)
        return x @ kernel.reshape(inputs, -1) + bias.ravel()

    def normalise(name, x):
        scale, bias = (
            weights[f"LayerNorm_{name}/scale"],
            weights[f"LayerNorm_{name}/bias"],
        )
        return functional.layer_norm(x, x.shape[-1:], scale, bias, 1e-6)

    def heads(name, x):
        return affine(name, x).unflatten(-1, (4, -1)).transpose(1, 2)

    kernel = weights["Conv_0/kernel"].permute(3, 2, 0, 1)
    x = functional.conv2d(x, kernel, weights["Conv_0/bias"], 4).flatten(2)
    x = x.transpose(1, 2) + weights["places"]
    block = 0
    while (
        attention := f"MultiHeadDotProductAttention_{block}"
    ) + "/out/bias" in weights:
        y = normalise(2 * block, x)
        parts = [heads(f"{attention}/{n}", y) for n in ("query", "key", "value")]
        mixed = functional.scaled_dot_product_attention(*parts)
        x = x + affine(f"{attention}/out", mixed.transpose(1, 2).flatten(2))
        y = affine(f"Dense_{2 * block}", normalise(2 * block + 1, x))
        y = ablate(functional.gelu(y, approximate="tanh"))
        x, block = x + affine(f"Dense_{2 * block + 1}", y), block + 1
    return affine("head", normalise(2 * block, x).mean(1))
