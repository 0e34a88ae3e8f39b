"""Transformers as they are published, small, each with a copy by hand.

As in ``published_cnns``, a copy calls ``cut(name, value)`` where units are ablated.
"""

from typing import Any

import jax
import jax.numpy as jnp
from cuts import Cut
from flax import linen, nnx
from published_cnns import dense, layer_norm


def softmax(x: Any) -> jax.Array:
    x = jnp.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def rms_norm(x: Any, scale: Any) -> jax.Array:
    return x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


class ViTBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """A class token, learned positions, two blocks that are normalised before."""

    def __init__(self, rngs: nnx.Rngs):
        self.patch = nnx.Conv(2, 8, (4, 4), (4, 4), rngs=rngs)
        self.token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, 8)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 5, 8)))
        self.blocks = nnx.List([ViTBlock(rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.logits = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x).reshape(len(x), 4, 8)
        token = jnp.broadcast_to(self.token[...], (len(x), 1, 8))
        x = jnp.concatenate([token, x], axis=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x)[:, 0])


def vit_by_hand(cut: Cut, weights: Any, x: Any) -> jax.Array:
    n = len(x)
    patches = x.reshape(n, 2, 4, 2, 4, 2).swapaxes(2, 3).reshape(n, 4, 32)
    kernel = weights["patch"]["kernel"].reshape(32, 8)
    x = cut("patch", patches @ kernel + weights["patch"]["bias"])
    token = jnp.broadcast_to(weights["token"], (n, 1, 8))
    x = jnp.concatenate([token, x], axis=1) + weights["positions"]
    for index in range(2):
        own, name = weights["blocks"][index], f"blocks/{index}"
        y, parts = layer_norm(x, own["norm1"]), []
        for part in ("query", "key", "value"):
            kernel, bias = (own["attention"][part][k] for k in ("kernel", "bias"))
            value = y @ kernel.reshape(8, 8) + bias.reshape(8)
            parts.append(cut(f"{name}/attention/{part}", value).reshape(n, 5, 2, 4))
        share = softmax(jnp.einsum("nqhd,nkhd->nhqk", parts[0], parts[1]) / 2)
        heads = jnp.einsum("nhqk,nkhd->nqhd", share, parts[2])
        heads = cut(f"{name}/attention/out:input", heads, 2)
        out = own["attention"]["out"]
        y = heads.reshape(n, 5, 8) @ out["kernel"].reshape(8, 8) + out["bias"]
        x = x + cut(f"{name}/attention/out", y)
        y = dense(layer_norm(x, own["norm2"]), own["up"])
        y = y / 2 * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (y + 0.044715 * y**3)))
        x = x + cut(f"{name}/down", dense(cut(f"{name}/up", y), own["down"]))
    return dense(layer_norm(x[:, 0], weights["norm"]), weights["logits"])


class DenseExperts(linen.Module):
    """All experts see every token; a router weighs the best two of four."""

    @linen.compact
    def __call__(self, x):
        x = linen.gelu(linen.Dense(6, name="embed")(x))
        share = linen.softmax(linen.Dense(4, use_bias=False, name="router")(x))
        best, which = jax.lax.top_k(share, 2)
        best = best / best.sum(axis=-1, keepdims=True)
        share = (best[..., None] * jax.nn.one_hot(which, 4)).sum(axis=-2)
        init = linen.initializers.lecun_normal(batch_axis=0)
        gate = self.param("gate", init, (4, 6, 5))
        up = self.param("up", init, (4, 6, 5))
        down = self.param("down", init, (4, 5, 6))
        hidden = linen.silu(jnp.einsum("ntd,edf->ntef", x, gate))
        hidden = hidden * jnp.einsum("ntd,edf->ntef", x, up)
        y = jnp.einsum("ntef,efd->nted", hidden, down)
        x = x + jnp.einsum("nted,nte->ntd", y, share)
        return linen.Dense(3, name="logits")(x.mean(axis=1))
