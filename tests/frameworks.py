"""Five networks of five libraries, each with a copy that has masks written into it.

``cuts`` says what a cut is.
"""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import keras
import numpy as np
from cuts import Case, Cut, moved, no_cut
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name


class LinenCNN(linen.Module):
    """Batch norm, a residual block with a projection, pooling, dropout."""

    cut: Cut = no_cut
    train: bool = False

    @linen.compact
    def __call__(self, x):
        def norm(x):
            return linen.BatchNorm(use_running_average=not self.train)(x)

        x = linen.relu(norm(linen.Conv(4, (3, 3), use_bias=False, name="stem")(x)))
        x = self.cut("stem", x)
        y = linen.relu(norm(linen.Conv(6, (3, 3), strides=2, name="one")(x)))
        y = norm(linen.Conv(6, (3, 3), name="two")(self.cut("one", y)))
        skip = linen.Conv(6, (1, 1), strides=2, name="skip")(x)
        x = linen.relu(self.cut("two", y) + self.cut("skip", skip))
        x = linen.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = self.cut("hidden", linen.gelu(linen.Dense(7, name="hidden")(x)))
        x = linen.Dropout(0.5, deterministic=not self.train)(x)
        return linen.Dense(3, name="logits")(x)


def linen_cnn() -> Case:
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    variables = moved(LinenCNN().init(jax.random.key(0), x))
    return Case(
        LinenCNN().apply,
        lambda cut, variables, x: LinenCNN(cut).apply(variables, x),
        variables,
        x,
        {
            "stem": (8, 8, 4),
            "one": (4, 4, 6),
            "two": (4, 4, 6),
            "skip": (4, 4, 6),
            "hidden": (7,),
        },
        affine=("hidden",),
    )


class AttentionBlock(nnx.Module):
    """Attention and an MLP between residual sums; logits are a mean over tokens."""

    def __init__(self, rngs: nnx.Rngs):
        self.patch = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=8, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.Linear(12, 8, rngs=rngs)
        self.logits = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x)
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.silu(self.up(x)))
        return self.logits(x).mean(axis=1)

    def by_hand(self, cut, x):
        x = cut("patch", self.patch(x), -1)
        normed, attention = self.norm(x), self.attention
        q, k, v = (
            getattr(attention, name)(normed) for name in ("query", "key", "value")
        )
        weights = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k) / 2)
        heads = cut("attention/out:input", jnp.einsum("nhts,nshd->nthd", weights, v), 2)
        x = x + attention.out(heads)
        x = x + cut("down", self.down(cut("up", nnx.silu(self.up(x)), -1)), -1)
        return self.logits(x).mean(axis=1)


def nnx_attention() -> Case:
    graph, state = nnx.split(AttentionBlock(nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(5, 6, 4)).astype(np.float32)
    return Case(
        lambda state, x: nnx.merge(graph, state)(x),
        lambda cut, state, x: nnx.merge(graph, state).by_hand(cut, x),
        moved(state),
        x,
        {
            "patch": (6, 8),
            "attention/out:input": (6, 2, 4),
            "up": (6, 12),
            "down": (6, 8),
        },
        layers=["patch", "attention/out:input", "up", "down"],
        affine=("up", "down"),
    )


class EquinoxCNN(eqx.Module):
    """One example at a time, channels first."""

    conv: eqx.nn.Conv2d
    deep: eqx.nn.Conv2d
    dense: eqx.nn.Linear
    logits: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.conv = eqx.nn.Conv2d(1, 3, 3, key=keys[0])
        self.deep = eqx.nn.Conv2d(3, 4, 3, key=keys[1])
        self.dense = eqx.nn.Linear(4 * 2 * 3, 5, key=keys[2])
        self.logits = eqx.nn.Linear(5, 3, key=keys[3])

    def __call__(self, x):
        x = jax.nn.sigmoid(self.deep(jax.nn.relu(self.conv(x))))
        return self.logits(jnp.tanh(self.dense(x.reshape(-1))))

    def by_hand(self, cut, x):
        x = cut("conv", jax.nn.relu(jax.vmap(self.conv)(x)), 1)
        x = cut("deep", jax.nn.sigmoid(jax.vmap(self.deep)(x)), 1)
        x = jnp.tanh(jax.vmap(self.dense)(x.reshape(len(x), -1)))
        return jax.vmap(self.logits)(cut("dense", x, 1))


def equinox_cnn() -> Case:
    arrays, rest = eqx.partition(EquinoxCNN(jax.random.key(0)), eqx.is_array)
    x = np.random.default_rng(2).normal(size=(5, 1, 6, 7)).astype(np.float32)
    return Case(
        lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x),
        lambda cut, arrays, x: eqx.combine(arrays, rest).by_hand(cut, x),
        moved(arrays),
        x,
        {"conv": (4, 5, 3), "deep": (2, 3, 4), "dense": (5,)},
        affine=("dense",),
    )


TOKENS, DEPTH = 11, 2


def normed(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(x.var(axis=-1, keepdims=True) + 1e-5)


def transformer_block(x, weights, cut=no_cut, name=""):
    split = (*x.shape[:2], 2, 4)
    q, k, v = ((normed(x) @ weights["attn"][name]).reshape(split) for name in "qkv")
    scores = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k) / 2)
    heads = cut(name + "attn/o:input", jnp.einsum("nhts,nshd->nthd", scores, v), 2)
    x = x + cut(name + "attn/o", heads.reshape(x.shape) @ weights["attn"]["o"])
    up = weights["mlp"]["up"]
    hidden = jax.nn.gelu(normed(x) @ up["kernel"] + up["bias"])
    hidden = checkpoint_name(cut(name + "mlp/up", hidden), "mlp_hidden")
    return x + cut(name + "mlp/down", hidden @ weights["mlp"]["down"]["kernel"])


def transformer(variables, x):
    """Embedding, a scan over rematerialised blocks, a mean over tokens, transposed."""

    @jax.checkpoint
    def body(x, weights):
        return transformer_block(x, weights), None

    x, _ = jax.lax.scan(body, variables["embedding"][x], variables["blocks"])
    return (variables["head"].T @ normed(x).mean(axis=1).T).T


def transformer_by_hand(cut, variables, x):
    x = variables["embedding"][x]
    for index in range(DEPTH):
        weights = jax.tree.map(operator.itemgetter(index), variables["blocks"])
        x = transformer_block(x, weights, cut, f"blocks/{index}/")
    return normed(x).mean(axis=1) @ variables["head"]


def scanned_transformer() -> Case:
    rng = np.random.default_rng(3)

    def weights(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)

    variables = {
        "embedding": weights(TOKENS, 8),
        "blocks": {
            "attn": {name: weights(DEPTH, 8, 8) for name in "qkvo"},
            "mlp": {
                "up": {"kernel": weights(DEPTH, 8, 12), "bias": weights(DEPTH, 12)},
                "down": {"kernel": weights(DEPTH, 12, 8)},
            },
        },
        "head": weights(8, 3),
    }
    shapes = {}
    for index in range(DEPTH):
        shapes |= {
            f"blocks/{index}/attn/o:input": (6, 2, 4),
            f"blocks/{index}/attn/o": (6, 8),
            f"blocks/{index}/mlp/up": (6, 12),
            f"blocks/{index}/mlp/down": (6, 8),
        }
    x = rng.integers(TOKENS, size=(5, 6)).astype(np.int32)
    layers = ["blocks/*/attn/o:input", "*/o", "*/mlp/*"]
    return Case(transformer, transformer_by_hand, variables, x, shapes, layers)


def keras_functional() -> Case:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.MaxPooling2D()(keras.layers.Dropout(0.5)(x))
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(5, activation="gelu", name="dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))

    def apply(variables, x):
        trainable, rest = (
            [variables[variable.path] for variable in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        )
        return model.stateless_call(trainable, rest, x, training=False)[0]

    def by_hand(cut, variables, x):
        x = jax.lax.conv_general_dilated(
            x,
            variables["conv/kernel"],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + variables["conv/bias"])
        mean, variance, scale, offset = (
            variables[f"norm/{name}"]
            for name in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        x = (x - mean) / jnp.sqrt(variance + 1e-3) * scale + offset
        x = linen.max_pool(cut("conv", x), (2, 2), (2, 2)).reshape(len(x), -1)
        x = x @ variables["dense/kernel"] + variables["dense/bias"]
        x = cut("dense", jax.nn.gelu(x, approximate=False))
        return x @ variables["logits/kernel"] + variables["logits/bias"]

    variables = {variable.path: variable.value for variable in model.variables}
    x = np.random.default_rng(4).normal(size=(5, 8, 8, 1)).astype(np.float32)
    shapes = {"conv": (6, 6, 4), "dense": (5,)}
    return Case(apply, by_hand, moved(variables), x, shapes, affine=("dense",))


CASES = {
    "linen": linen_cnn,
    "nnx": nnx_attention,
    "equinox": equinox_cnn,
    "scan": scanned_transformer,
    "keras": keras_functional,
}
