"""Convolutional architectures as they are published, small, each with a copy by hand.

A copy is written in ``jax.numpy`` on the same variables and calls ``cut(name, value)``
wherever units of the last axis are ablated; ``cuts`` says what a cut is.
"""

from typing import Any

import jax
import jax.numpy as jnp
from cuts import Cut
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name


def conv(x: Any, weights: Any, stride: int = 1, groups: int = 1) -> jax.Array:
    """A convolution [N, H, W, C] with padding that keeps sizes."""
    result = jax.lax.conv_general_dilated(
        x,
        weights["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return result + weights.get("bias", 0)


def dense(x: Any, weights: Any) -> jax.Array:
    return x @ weights["kernel"] + weights["bias"]


def layer_norm(x: Any, weights: Any) -> jax.Array:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * weights["scale"] + weights["bias"]


def batch_norm(x: Any, weights: Any, statistics: Any) -> jax.Array:
    x = (x - statistics["mean"]) / jnp.sqrt(statistics["var"] + 1e-5)
    return x * weights["scale"] + weights["bias"]


def max_pool(x: Any) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def mean_pool(x: Any) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class ResNet(linen.Module):
    """A basic block, one with a shortcut of its own, a bottleneck."""

    @linen.compact
    def __call__(self, x):
        def unit(x, name, width, size, stride=1):
            kernel = (size, size)
            x = linen.Conv(width, kernel, stride, use_bias=False, name=name)(x)
            return linen.BatchNorm(use_running_average=True, name=f"{name}_norm")(x)

        x = linen.relu(unit(x, "stem", 4, 3))
        x = linen.max_pool(x, (2, 2), (2, 2))
        y = linen.relu(unit(x, "basic_conv1", 4, 3))
        x = linen.relu(x + unit(y, "basic_out", 4, 3))
        x = checkpoint_name(x, "stream")
        y = linen.relu(unit(x, "wider_conv1", 6, 3, 2))
        y = unit(y, "wider_out", 6, 3)
        x = linen.relu(unit(x, "wider_shortcut", 6, 1, 2) + y)
        x = checkpoint_name(x, "stream")
        y = linen.relu(unit(x, "bottleneck_conv1", 3, 1))
        y = linen.relu(unit(y, "bottleneck_conv2", 3, 3))
        y = unit(y, "bottleneck_out", 8, 1)
        x = linen.relu(unit(x, "bottleneck_shortcut", 8, 1) + y)
        return linen.Dense(3, name="logits")(x.mean(axis=(1, 2)))


def resnet_by_hand(cut: Cut, variables: Any, x: Any) -> jax.Array:
    weights, statistics = variables["params"], variables["batch_stats"]

    def unit(x, name, stride=1, act=lambda x: x):
        norm = f"{name}_norm"
        x = conv(x, weights[name], stride)
        return cut(name, act(batch_norm(x, weights[norm], statistics[norm])))

    relu = jax.nn.relu
    x = max_pool(unit(x, "stem", act=relu))
    y = unit(unit(x, "basic_conv1", act=relu), "basic_out")
    x = cut("stream#0", relu(x + y))
    y = unit(unit(x, "wider_conv1", 2, relu), "wider_out")
    x = cut("stream#1", relu(y + unit(x, "wider_shortcut", 2)))
    y = unit(unit(x, "bottleneck_conv1", 1, relu), "bottleneck_conv2", 1, relu)
    x = relu(unit(y, "bottleneck_out") + unit(x, "bottleneck_shortcut"))
    return dense(x.mean(axis=(1, 2)), weights["logits"])


class VGG(linen.Module):
    """Convolutions, pooling, dense layers."""

    @linen.compact
    def __call__(self, x):
        for stage, width in enumerate((4, 6)):
            for place in range(2):
                name = f"stage{stage}_conv{place}"
                x = linen.relu(linen.Conv(width, (3, 3), name=name)(x))
            x = linen.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        x = linen.relu(linen.Dense(8, name="dense0")(x))
        x = linen.Dropout(0.5, deterministic=True)(x)
        x = linen.relu(linen.Dense(7, name="dense1")(x))
        return linen.Dense(3, name="logits")(x)


def vgg_by_hand(cut: Cut, variables: Any, x: Any) -> jax.Array:
    weights = variables["params"]
    for stage in range(2):
        for place in range(2):
            name = f"stage{stage}_conv{place}"
            x = cut(name, jnp.maximum(conv(x, weights[name]), 0))
        x = max_pool(x)
    x = x.reshape(len(x), -1)
    for name in ("dense0", "dense1"):
        x = cut(name, jnp.maximum(dense(x, weights[name]), 0))
    return dense(x, weights["logits"])


class DenseNet(linen.Module):
    """Two blocks of two layers that append features, a transition between them."""

    @linen.compact
    def __call__(self, x):
        def norm(x, name):
            norm = linen.BatchNorm(use_running_average=True, name=f"{name}_norm")
            return linen.relu(norm(x))

        def unit(x, name, width, size):
            return linen.Conv(width, (size, size), use_bias=False, name=name)(x)

        x = unit(x, "stem", 4, 3)
        for block in range(2):
            if block:
                x = unit(norm(x, "transition"), "transition", 4, 1)
                x = linen.avg_pool(x, (2, 2), (2, 2))
            for place in range(2):
                name = f"block{block}_layer{place}"
                y = unit(norm(x, f"{name}_conv1"), f"{name}_conv1", 5, 1)
                y = unit(norm(y, f"{name}_conv2"), f"{name}_conv2", 3, 3)
                x = jnp.concatenate([x, y], axis=-1)
            x = checkpoint_name(x, "features")
        x = norm(x, "last").mean(axis=(1, 2))
        return linen.Dense(3, name="logits")(x)


def densenet_by_hand(cut: Cut, variables: Any, x: Any) -> jax.Array:
    weights, statistics = variables["params"], variables["batch_stats"]

    def norm(x, name):
        name = f"{name}_norm"
        return jnp.maximum(batch_norm(x, weights[name], statistics[name]), 0)

    x = cut("stem", conv(x, weights["stem"]))
    for block in range(2):
        if block:
            x = conv(norm(x, "transition"), weights["transition"])
            x = mean_pool(cut("transition", x))
        for place in range(2):
            name = f"block{block}_layer{place}"
            y = conv(norm(x, f"{name}_conv1"), weights[f"{name}_conv1"])
            y = cut(f"{name}_conv1", norm(y, f"{name}_conv2"))
            y = cut(f"{name}_conv2", conv(y, weights[f"{name}_conv2"]))
            x = jnp.concatenate([x, y], axis=-1)
        x = cut(f"features#{block}", x)
    return dense(norm(x, "last").mean(axis=(1, 2)), weights["logits"])


class ConvNeXtBlock(nnx.Module):
    """A depthwise convolution, an inverted MLP, a scale for each channel."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.depthwise = nnx.Conv(
            width, width, (3, 3), feature_group_count=width, rngs=rngs
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.scale = nnx.Param(jnp.full(width, 0.7))

    def __call__(self, x):
        y = jax.nn.gelu(self.up(self.norm(self.depthwise(x))), approximate=False)
        return x + self.scale * self.down(y)


class ConvNeXt(nnx.Module):
    """Patches, two stages of one block, a reduction between them."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(2, 4, (2, 2), (2, 2), rngs=rngs)
        self.stem_norm = nnx.LayerNorm(4, rngs=rngs)
        self.first = ConvNeXtBlock(4, rngs)
        self.reduce_norm = nnx.LayerNorm(4, rngs=rngs)
        self.reduce = nnx.Conv(4, 6, (2, 2), (2, 2), rngs=rngs)
        self.second = ConvNeXtBlock(6, rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.logits = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.first(self.stem_norm(self.stem(x)))
        x = self.second(self.reduce(self.reduce_norm(x)))
        return self.logits(self.norm(x.mean(axis=(1, 2))))


def convnext_by_hand(cut: Cut, weights: Any, x: Any) -> jax.Array:
    def block(x, name):
        own = weights[name]
        y = conv(x, own["depthwise"], groups=x.shape[-1])
        y = layer_norm(cut(f"{name}/depthwise", y), own["norm"])
        y = dense(y, own["up"])
        y = cut(f"{name}/up", y * jax.scipy.stats.norm.cdf(y))
        return x + cut(f"{name}/down", dense(y, own["down"]) * own["scale"])

    x = layer_norm(cut("stem", conv(x, weights["stem"], 2)), weights["stem_norm"])
    x = layer_norm(block(x, "first"), weights["reduce_norm"])
    x = block(cut("reduce", conv(x, weights["reduce"], 2)), "second")
    x = layer_norm(x.mean(axis=(1, 2)), weights["norm"])
    return dense(x, weights["logits"])


class MBConv(nnx.Module):
    """Expansion, a depthwise convolution, squeeze and excitation, projection."""

    def __init__(self, width: int, out: int, ratio: int, stride: int, rngs: nnx.Rngs):
        wide = width * ratio
        if ratio > 1:
            self.expand = nnx.Conv(width, wide, (1, 1), use_bias=False, rngs=rngs)
            self.expand_norm = nnx.BatchNorm(wide, use_running_average=True, rngs=rngs)
        self.depthwise = nnx.Conv(
            *(wide, wide, (3, 3), stride),
            feature_group_count=wide,
            use_bias=False,
            rngs=rngs,
        )
        self.depthwise_norm = nnx.BatchNorm(wide, use_running_average=True, rngs=rngs)
        self.squeeze = nnx.Conv(wide, 2, (1, 1), rngs=rngs)
        self.excite = nnx.Conv(2, wide, (1, 1), rngs=rngs)
        self.project = nnx.Conv(wide, out, (1, 1), use_bias=False, rngs=rngs)
        self.project_norm = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)
        self.ratio, self.has_skip = ratio, stride == 1 and width == out

    def __call__(self, x):
        y = x
        if self.ratio > 1:
            y = nnx.silu(self.expand_norm(self.expand(y)))
        y = nnx.silu(self.depthwise_norm(self.depthwise(y)))
        gate = nnx.silu(self.squeeze(y.mean(axis=(1, 2), keepdims=True)))
        y = y * nnx.sigmoid(self.excite(gate))
        y = self.project_norm(self.project(y))
        return x + y if self.has_skip else y


class EfficientNet(nnx.Module):
    """A block without expansion, one with a stride, one with a skip."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        shapes = [(4, 4, 1, 2), (4, 5, 2, 2), (5, 5, 2, 1)]
        self.blocks = nnx.List([MBConv(*shape, rngs) for shape in shapes])
        self.head = nnx.Conv(5, 8, (1, 1), use_bias=False, rngs=rngs)
        self.head_norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.logits = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        x = nnx.silu(self.head_norm(self.head(x)))
        return self.logits(x.mean(axis=(1, 2)))


def efficientnet_by_hand(cut: Cut, weights: Any, x: Any) -> jax.Array:
    def swish(x):
        return x / (1 + jnp.exp(-x))

    def unit(x, own, name, act, prefix="", stride=1, groups=1):
        norm = own[f"{name}_norm"]
        x = act(batch_norm(conv(x, own[name], stride, groups), norm, norm))
        return cut(prefix + name, x)

    x = unit(x, weights, "stem", swish)
    for index, stride in enumerate((2, 2, 1)):
        own, name, y = weights["blocks"][index], f"blocks/{index}/", x
        if index:
            y = unit(y, own, "expand", swish, name)
        y = unit(y, own, "depthwise", swish, name, stride, y.shape[-1])
        gate = y.mean(axis=(1, 2), keepdims=True)
        gate = cut(f"{name}squeeze", swish(conv(gate, own["squeeze"])))
        gate = 1 / (1 + jnp.exp(-conv(gate, own["excite"])))
        y = cut(f"{name}project:input", y * cut(f"{name}excite", gate))
        y = unit(y, own, "project", lambda x: x, name)
        x = x + y if index == 2 else y
    x = unit(x, weights, "head", swish)
    return dense(x.mean(axis=(1, 2)), weights["logits"])
