"""Transformers as they are published, small, each with a copy by hand.

As in ``published_cnns``, a copy calls ``cut(name, value)`` where units are ablated.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cuts import Cut
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name
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


def rotated(x: Any) -> jax.Array:
    """Rotary positions of [N, T, heads, width]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] / 100.0 ** (jnp.arange(half) / half)
    sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
    one, two = x[..., :half], x[..., half:]
    return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)


class DecoderBlock(nnx.Module):
    """Four query heads in two groups, a gated MLP."""

    def __init__(self, rngs: nnx.Rngs):
        def dense(width, out):
            return nnx.Linear(width, out, use_bias=False, rngs=rngs)

        self.norm1, self.norm2 = (nnx.RMSNorm(8, rngs=rngs) for _ in range(2))
        self.query, self.key, self.value = dense(8, 16), dense(8, 8), dense(8, 8)
        self.out = dense(16, 8)
        self.gate, self.up, self.down = dense(8, 12), dense(8, 12), dense(12, 8)

    def __call__(self, x):
        y = self.norm1(x)
        q = rotated(self.query(y).reshape(*x.shape[:2], 4, 4))
        k = rotated(self.key(y).reshape(*x.shape[:2], 2, 4))
        v = self.value(y).reshape(*x.shape[:2], 2, 4)
        k, v = (jnp.repeat(part, 2, axis=2) for part in (k, v))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2
        is_past = jnp.tri(x.shape[1], dtype=bool)
        share = jax.nn.softmax(jnp.where(is_past, scores, -jnp.inf))
        heads = jnp.einsum("nhqk,nkhd->nqhd", share, v)
        x = x + self.out(heads.reshape(*x.shape[:2], 16))
        y = self.norm2(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y))


class Decoder(nnx.Module):
    """Classes of each token, from it and those before."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.blocks = nnx.List([DecoderBlock(rngs) for _ in range(2)])
        self.norm = nnx.RMSNorm(8, rngs=rngs)
        self.logits = nnx.Linear(8, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x))


def decoder_by_hand(cut: Cut, weights: Any, x: Any) -> jax.Array:
    """Heads one by one, each with the keys and values of its group."""
    x = weights["embed"]["embedding"][x]
    is_later = np.triu(np.ones((x.shape[1], x.shape[1]), bool), 1)
    for index in range(2):
        own, name = weights["blocks"][index], f"blocks/{index}"
        y = rms_norm(x, own["norm1"]["scale"])
        q, k, v = (
            cut(f"{name}/{part}", y @ own[part]["kernel"])
            for part in ("query", "key", "value")
        )
        heads = []
        for head in range(4):
            own_q = rotated(q[:, :, None, 4 * head : 4 * head + 4])[:, :, 0]
            group = slice(4 * (head // 2), 4 * (head // 2) + 4)
            own_k = rotated(k[:, :, None, group])[:, :, 0]
            scores = jnp.einsum("nqd,nkd->nqk", own_q, own_k) / 2
            scores = scores.at[:, is_later].set(-1e9)
            heads.append(softmax(scores) @ v[..., group])
        heads = cut(f"{name}/out:input", jnp.stack(heads, axis=2), 2)
        y = heads.reshape(*x.shape[:2], 16) @ own["out"]["kernel"]
        x = x + cut(f"{name}/out", y)
        y = rms_norm(x, own["norm2"]["scale"])
        gate = y @ own["gate"]["kernel"]
        gate = cut(f"{name}/gate", gate / (1 + jnp.exp(-gate)))
        hidden = gate * cut(f"{name}/up", y @ own["up"]["kernel"])
        hidden = cut(f"{name}/down:input", hidden)
        x = x + cut(f"{name}/down", hidden @ own["down"]["kernel"])
    return rms_norm(x, weights["norm"]["scale"]) @ weights["logits"]["kernel"]


class Experts(linen.Module):
    """A router weighs the best two of four gated MLPs.

    All of them see every token, or those that are chosen for it do.
    """

    is_dense: bool

    @linen.compact
    def __call__(self, x):
        x = linen.gelu(linen.Dense(6, name="embed")(x))
        share = linen.softmax(linen.Dense(4, use_bias=False, name="router")(x))
        share, which = jax.lax.top_k(share, 2)
        share = share / share.sum(axis=-1, keepdims=True)
        init = linen.initializers.lecun_normal(batch_axis=0)
        shapes = {"gate": (4, 6, 5), "up": (4, 6, 5), "down": (4, 5, 6)}
        gate, up, down = (self.param(name, init, shapes[name]) for name in shapes)
        bias = self.param("bias", linen.initializers.normal(), (4, 5))
        experts = self.all_experts if self.is_dense else self.chosen_experts
        x = x + experts(x, share, which, gate, up, down, bias)
        return linen.Dense(3, name="logits")(x.mean(axis=1))

    def all_experts(self, x, share, which, gate, up, down, bias):
        share = (share[..., None] * jax.nn.one_hot(which, 4)).sum(axis=-2)
        hidden = linen.silu(jnp.einsum("ntd,edf->ntef", x, gate) + bias)
        hidden = hidden * jnp.einsum("ntd,edf->ntef", x, up)
        return jnp.einsum(
            "nted,nte->ntd", jnp.einsum("ntef,efd->nted", hidden, down), share
        )

    def chosen_experts(self, x, share, which, gate, up, down, bias):
        hidden = linen.silu(jnp.einsum("ntd,ntkdf->ntkf", x, gate[which]) + bias[which])
        hidden = hidden * jnp.einsum("ntd,ntkdf->ntkf", x, up[which])
        hidden = checkpoint_name(hidden, "hidden")
        return jnp.einsum(
            "ntkd,ntk->ntd", jnp.einsum("ntkf,ntkfd->ntkd", hidden, down[which]), share
        )


def experts_by_hand(is_dense: bool, cut: Cut, variables: Any, x: Any) -> jax.Array:
    """Experts one by one."""
    weights = variables["params"]
    x = dense(x, weights["embed"])
    x = x / 2 * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))
    x = cut("embed", x)
    share = softmax(cut("router", x @ weights["router"]["kernel"]))
    second = jnp.sort(share, axis=-1)[..., -2:-1]
    share = jnp.where(share >= second, share, 0)
    share = share / share.sum(axis=-1, keepdims=True)
    places = jnp.argsort(-share, axis=-1)[..., :2]  # [N, T, 2]

    def side_by_side(name, of_expert):
        every = jnp.stack([of_expert(expert) for expert in range(4)], axis=2)
        if not is_dense:  # [N, T, 2, F], as the places say
            return jnp.take_along_axis(every, places[..., None], axis=2)
        return cut(name, every.reshape(*x.shape[:2], -1)).reshape(every.shape)

    gate = side_by_side(
        "gate", lambda e: jax.nn.silu(x @ weights["gate"][e] + weights["bias"][e])
    )
    up = side_by_side("up", lambda e: x @ weights["up"][e])
    if is_dense:
        hidden = cut("down:input", (gate * up).reshape(*x.shape[:2], 20))
        hidden = hidden.reshape(gate.shape)
        y = side_by_side("down", lambda e: hidden[:, :, e] @ weights["down"][e])
        y = sum(y[:, :, e] * share[..., e : e + 1] for e in range(4))
    else:
        hidden, y = cut("hidden", gate * up), 0
        for place in range(2):
            for expert in range(4):
                mine = jnp.where(places[..., place] == expert, share[..., expert], 0)
                own = hidden[:, :, place] @ weights["down"][expert]
                y = y + own * mine[..., None]
    return dense((x + y).mean(axis=1), weights["logits"])
