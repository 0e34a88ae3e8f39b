"""Networks written by hand, whose units have known parts in what they compute.

A network reads binary features. Each unit of its first layer passes one feature, is
constant, or is dead. The second layer computes what needs two units: the exclusive or
of two features, and a backup that acts where its principal outputs nothing. The classes
are drawn from the logit that all of it computes, and from two features more, which
decoys report and nothing reads.

Every network reads features of its own, drawn given the classes that all share. So the
networks of a study are independent given its data. ``x`` has the features of all
networks, [N, S, ..., F], and a network takes its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float, Int

import ioca_jax as ioca
from ioca_jax.study.pipeline import study_networks
from ioca_jax.study.plan import Request

from .weights import (
    GRADES,
    HEAD,
    NUM_FEATURES,
    OF_DECOYS,
    TOGETHER,
    UNITS,
    as_heads,
    untrained_weights,
    write_weights,
)

_SIDE, _TOKENS = 5, 3
_NOISE = 0.3  # of pixels and tokens


def label_logit(bits: Float[np.ndarray, "N F"]) -> Float[np.ndarray, " N"]:
    """Log-odds of class 1, given features that are 0 or 1."""
    signs = 2 * bits - 1
    weights = np.array([*GRADES, TOGETHER, 0, 0, TOGETHER, OF_DECOYS, OF_DECOYS, 0, 0])
    return signs @ weights - TOGETHER * signs[:, 6] * signs[:, 7]


def draw_features(
    rng: np.random.Generator,
    labels: Int[np.ndarray, " N"],
    logit: Callable[[np.ndarray], np.ndarray] = label_logit,
    number: int = NUM_FEATURES,
) -> Float[np.ndarray, "N F"]:
    """Features, 0 or 1, given the classes, whose log-odds the features decide."""
    bits = rng.integers(0, 2, (4 * len(labels) + 100, number)).astype(np.float32)
    drawn = rng.random(len(bits)) < 1 / (1 + np.exp(-logit(bits)))
    found = np.empty((len(labels), number), np.float32)
    for label in (0, 1):
        wanted = labels == label
        found[wanted] = bits[drawn == label][: wanted.sum()]
    return found


def draw_labels(rng: np.random.Generator, number: int) -> Int[np.ndarray, " N"]:
    """Two classes, each of half the examples."""
    return rng.permutation(np.arange(number) % 2)


def _own(variables: Any, x: jax.Array) -> jax.Array:
    """The features that a network reads."""
    return jax.lax.dynamic_index_in_dim(x, variables["reads"], 1, keepdims=False)


def _second_layer(variables: Any, first: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(first @ variables["second"] + variables["second_bias"])
    return hidden @ variables["out"] + variables["out_bias"]


def apply_dense(variables: Any, x: jax.Array) -> jax.Array:
    """Two dense layers; also on each token by itself."""
    own = _own(variables, x)
    first = jax.nn.relu(own @ variables["first"] + variables["first_bias"])
    return _second_layer(variables, first)


def apply_residual(variables: Any, x: jax.Array) -> jax.Array:
    """As ``apply_dense``, and the first layer reaches the logits directly too."""
    own = _own(variables, x)
    first = jax.nn.relu(own @ variables["first"] + variables["first_bias"])
    return _second_layer(variables, first) + first @ variables["direct"]


def apply_conv(variables: Any, x: jax.Array) -> jax.Array:
    """A convolution, the mean over positions, and a dense layer."""
    own = _own(variables, x)
    kernel = variables["first"] / 9 * jnp.ones((3, 3, 1, 1))
    dims = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(
        own, kernel, (1, 1), "VALID", dimension_numbers=dims
    )
    first = jax.nn.relu(maps + variables["first_bias"])
    return _second_layer(variables, first.mean(axis=(1, 2)))


def apply_heads(variables: Any, x: jax.Array) -> jax.Array:
    """Attention over tokens, the mean over tokens, and a dense layer."""
    own = _own(variables, x)
    number = variables["first_bias"].shape[0]
    shape = (*own.shape[:2], number, HEAD)
    queries, keys = (
        (own @ variables[name]).reshape(shape) for name in ("query", "key")
    )
    bits = (1 + own) / 2 @ variables["first"] + variables["first_bias"]
    values = bits[..., None] * variables["direction"]
    weights = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", queries, keys))
    mixed = jnp.einsum("nhts,nshd->nthd", weights, values)
    written = mixed.reshape(*own.shape[:2], -1) @ variables["project"]
    hidden = jax.nn.relu(written.mean(axis=1) + variables["second_bias"])
    return hidden @ variables["out"] + variables["out_bias"]


@dataclasses.dataclass(frozen=True)
class Planted:
    """Networks with planted units.

    Attributes:
        name: of the architecture.
        network: what the networks compute.
        variables: theirs; leaves begin with S.
        data: what they are measured and ablated on.
        places: int [S, units], where on the axis of neurons each of ``UNITS`` is.
        quantizer: that fits their outputs.
    """

    name: str
    network: ioca.Network
    variables: Any
    data: ioca.Dataset
    places: Int[np.ndarray, "S units"]
    quantizer: str = "threshold"

    def importance(self) -> Float[np.ndarray, "S H1"]:
        """The planted importance of each unit of the first layer."""
        found = np.zeros(self.places.shape)
        planted = np.broadcast_to([unit.importance for unit in UNITS], found.shape)
        np.put_along_axis(found, self.places, planted, axis=1)
        return found

    def places_of(self, kind: str) -> Int[np.ndarray, "S n"]:
        """Where the units of a kind are."""
        return self.places[:, [unit.kind == kind for unit in UNITS]]


class _Architecture(NamedTuple):
    """How inputs look: further axes between networks and features, and noise."""

    apply: Callable
    axes: tuple[int, ...] = ()
    noise: float = 0.0
    labelled: bool = False  # each position has a class of its own
    layers: tuple[str, ...] | None = None


ARCHITECTURES = {
    "dense": _Architecture(apply_dense),
    "residual": _Architecture(apply_residual),
    "convolutional": _Architecture(apply_conv, (_SIDE, _SIDE), _NOISE),
    "heads": _Architecture(
        apply_heads, (_TOKENS,), _NOISE, layers=("project:input", "out:input")
    ),
    "tokens": _Architecture(apply_dense, (_TOKENS,), labelled=True),
    "untrained": _Architecture(apply_dense),
}


def plant(name: str, networks: int, examples: int, seed: int) -> Planted:
    """Networks of an architecture; so many examples to measure and to ablate on."""
    rng, form = np.random.default_rng(seed), ARCHITECTURES[name]
    total = 2 * examples + 8  # a few more to train on, which nothing does
    repeats = form.axes[0] if form.labelled else 1
    labels = draw_labels(rng, total * repeats)
    bits = [draw_features(rng, labels) for _ in range(networks)]
    x = 2 * np.stack(bits, axis=1) - 1
    if form.labelled:
        x = x.reshape(total, repeats, networks, -1).swapaxes(1, 2)
        labels = labels.reshape(total, repeats)
    elif form.axes:
        axes = tuple(range(2, 2 + len(form.axes)))
        shape = (total, networks, *form.axes, NUM_FEATURES)
        x = np.expand_dims(x, axes) + form.noise * rng.normal(size=shape)
    written = [write_weights(rng, residual=name == "residual") for _ in bits]
    weights = [one for one, _ in written]
    if name == "untrained":
        weights = [untrained_weights(rng) for _ in bits]
    if name == "heads":
        weights = [as_heads(rng, one) for one in weights]
    reads = {"reads": np.arange(networks, dtype=np.int32)}
    variables = reads | {
        leaf: np.stack([one[leaf] for one in weights]).astype(np.float32)
        for leaf in weights[0]
        if leaf != "direct" or name == "residual"
    }
    x = x.astype(np.float32)
    measured = examples + 8
    data = ioca.Dataset.from_arrays(
        *(x[:measured], labels[:measured], x[measured:], labels[measured:]),
        num_validation=examples,
        name=f"planted in {name}",
    )
    one = {leaf: values[0] for leaf, values in variables.items()}
    network = ioca.trace_network(form.apply, one, data.test.x[:64], layers=form.layers)
    places = np.stack([order for _, order in written])
    return Planted(name, network, variables, data, places)


def study(
    config: ioca.StudyConfig, data: ioca.Dataset, network: ioca.Network, variables: Any
) -> xr.Dataset:
    """What ``run_study`` computes of networks, without a folder."""
    request = Request.of(config, data=data, network=network, variables=variables)
    plan = request.plan()
    assert plan.given is not None
    return study_networks(plan, plan.given.take(config.seeds, config.seeds))
