"""Sentences of several lengths, and a small transformer with a class for each word."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WORDS, LONGEST, CLASSES, HEADS = 12, 8, 3, 2


def sentences(number: int, padding: int = 0, seed: int = 0):
    """Numbers of words with a mask [N, T], and labels [N, T], -1 in the padding.

    A word's class is that of the word before it, unless the word itself is one of four.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, WORDS, size=(number, LONGEST))
    lengths = rng.integers(3, LONGEST + 1, size=number)
    before = np.concatenate([ids[:, :1], ids[:, :-1]], axis=1)
    labels = np.where(ids < 4, 0, 1 + before % 2)
    mask = np.arange(LONGEST) < lengths[:, None]
    x = {"ids": np.where(mask, ids, 0), "mask": mask}
    y = np.where(mask, labels, -1)
    wider = ((0, 0), (0, padding))
    padded = {name: np.pad(part, wider) for name, part in x.items()}
    padded["ids"] = padded["ids"].astype(np.int32)
    return padded, np.pad(y, wider, constant_values=-1).astype(np.int32)


def random_variables(seed: int = 0, width: int = 8):
    """Of ``of_words``."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return np.asarray(rng.normal(size=shape) / np.sqrt(shape[-2]), np.float32)

    head = width // HEADS
    return {
        "words": 3 * normal(WORDS, width),
        "places": normal(LONGEST + 40, width),
        "query": normal(width, width),
        "key": normal(width, width),
        "value": normal(width, width),
        "project": normal(HEADS * head, width),
        "up": normal(width, 6),
        "down": normal(6, width),
        "classes": normal(width, CLASSES),
    }


LAYERS = ("project:input", "up")


def of_words(v, x, keep: Any = True, heads=None, clamp: Any = 0.0):
    """Attention of two heads and a layer of six units; by hand with an ablation.

    Masked words are not attended to. ``keep`` is of the units, ``heads`` of the heads,
    bool [2].
    """
    h = v["words"][x["ids"]] + v["places"][: x["ids"].shape[1]]

    def split(name):
        values = h @ v[name]
        return values.reshape(*values.shape[:2], HEADS, -1)

    query, key, value = map(split, ("query", "key", "value"))
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key)
    scores = jnp.where(x["mask"][:, None, None], scores, -1e9)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), value)
    if heads is not None:
        mixed = jnp.where(heads[:, None], mixed, clamp)
    h += mixed.reshape(*h.shape[:2], -1) @ v["project"]
    units = jnp.where(keep, jax.nn.relu(h @ v["up"]), clamp)
    return (h + units @ v["down"]) @ v["classes"]


def of_sentences(v, x):
    """One class for each sentence: the mean over its words."""
    logits, mask = of_words(v, x), x["mask"][:, :, None]
    return jnp.where(mask, logits, 0).sum(axis=1) / mask.sum(axis=1)


def mask_of(x):
    """Which positions are words."""
    return x["mask"]
