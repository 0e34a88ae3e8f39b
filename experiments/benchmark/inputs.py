"""Sizes, examples and networks of the benchmark's cases."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca

from .oracles import Affine
from .timing import Contender

DEFAULT = "default"
NUM_CLASSES = 10  # of synthetic data


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of the cases.

    Attributes:
        num_examples: of all cases but those of the deep and the convolutional network.
        num_inputs: D, likewise, of synthetic data.
        hidden: widths of the hidden layers, likewise.
        deep_examples: of the deep and the convolutional network's cases.
        deep_inputs: of the deep network's case.
        deep_hidden: likewise.
        num_seeds: networks trained, or ablated in many orders.
        num_orders: of each.
        num_masks: masks that a peer evaluates; its time is scaled to all of them.
        num_checked: points of curves that are compared with the oracle.
        num_pairs: pairs that scikit-learn measures.
        repeats: timed rounds of each contender.
    """

    num_examples: int
    num_inputs: int
    hidden: tuple[int, ...]
    deep_examples: int
    deep_inputs: int
    deep_hidden: tuple[int, ...]
    num_seeds: int
    num_orders: int
    num_masks: int
    num_checked: int
    num_pairs: int
    repeats: int


_STANDARD = Preset(
    num_examples=10_000,
    num_inputs=784,
    hidden=(100, 100),
    deep_examples=1000,
    deep_inputs=3072,
    deep_hidden=(512,) * 5,
    num_seeds=8,
    num_orders=32,
    num_masks=201,
    num_checked=41,
    num_pairs=300,
    repeats=5,
)
PRESETS = {
    "standard": _STANDARD,
    "quick": dataclasses.replace(
        _STANDARD,
        num_examples=2000,
        deep_hidden=(128,) * 5,
        deep_inputs=784,
        num_masks=41,
        num_checked=11,
        num_pairs=50,
        repeats=3,
    ),
    "tiny": Preset(
        num_examples=600,
        num_inputs=12,
        hidden=(6, 5),
        deep_examples=60,
        deep_inputs=14,
        deep_hidden=(5, 4, 6),
        num_seeds=2,
        num_orders=3,
        num_masks=8,
        num_checked=4,
        num_pairs=5,
        repeats=1,
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cases share.

    Attributes:
        preset: sizes.
        dataset: ``synthetic``, or as in ``ioca_jax.load_dataset``.
        data_dir: as in ``ioca_jax.load_dataset``.
        activation: of the networks.
        memory_gb: as in ``ioca_jax.ablation_curve``.
        with_peers: whether to prepare the peers at all.
    """

    preset: Preset
    dataset: str = "synthetic"
    data_dir: str | None = None
    activation: str = "relu"
    memory_gb: float = 1.0
    with_peers: bool = True

    def peers(
        self, installed: bool, makers: Mapping[str, Callable[[], Contender]]
    ) -> tuple[list[Contender], dict[str, str]]:
        """The peers that take part, and by name why the others do not."""
        if not self.with_peers:
            return [], {}
        if not installed:
            return [], dict.fromkeys(makers, "not installed")
        return [make() for make in makers.values()], {}


class Case(NamedTuple):
    """Some work, ready to be done.

    Attributes:
        title: the work as text.
        units: examples times steps, of all curves, neurons, pairs or networks.
        contenders: who does it; the first is ``default``.
        left_out: by name, why a contender is missing.
    """

    title: str
    units: int
    contenders: tuple[Contender, ...]
    left_out: Mapping[str, str] = {}


class Examples(NamedTuple):
    """Images and labels, on the device.

    Attributes:
        x: float32 [N, D].
        y: int32 [N].
        num_classes: C.
    """

    x: jax.Array
    y: jax.Array
    num_classes: int


def examples(settings: Settings, num_examples: int, num_inputs: int) -> Examples:
    """Synthetic examples, or a dataset's test examples, repeated as needed.

    Synthetic images are a mean for each class and noise, uniform, in [0, 1].
    """
    if settings.dataset != "synthetic":
        data = ioca.load_dataset(settings.dataset, settings.data_dir)
        which = np.arange(num_examples) % len(data.test.y)
        x, y = data.test.x[which], data.test.y[which]
        return Examples(*ioca.place_examples(x, y), data.num_classes)
    of_label, of_class, of_noise = jax.random.split(jax.random.key(0), 3)
    y = jax.random.randint(of_label, (num_examples,), 0, NUM_CLASSES)

    @jax.jit
    def images(y):
        means = jax.random.uniform(of_class, (NUM_CLASSES, num_inputs))
        noise = jax.random.uniform(of_noise, (num_examples, num_inputs))
        return 0.5 * means[y] + 0.5 * noise

    return Examples(*ioca.place_examples(images(y), y), NUM_CLASSES)


def random_networks(model: ioca.MLP, x: jax.Array, num_seeds: int) -> Any:
    """Variables of untrained networks whose neurons matter; leaves begin with S.

    Random kernels are scaled and shifted so that every pre-activation and logit has
    mean 0 and deviation 1 over images, and logits get a random bias besides.
    Predictions then differ between examples, and few are near a tie, even with every
    neuron at its mean.
    """
    some = x[:1000]

    @jax.jit
    def network(key):
        params, inputs = {}, some
        for index, width in enumerate((*model.hidden, model.num_classes)):
            key, sub_key = jax.random.split(key)
            kernel = jax.random.normal(sub_key, (inputs.shape[1], width))
            z = jnp.matmul(inputs, kernel, precision="highest")
            deviation = jnp.maximum(z.std(axis=0), 1e-6)
            params[f"dense_{index}"] = {
                "kernel": kernel / deviation,
                "bias": -z.mean(axis=0) / deviation,
            }
            inputs = getattr(jax.nn, model.activation)((z - z.mean(axis=0)) / deviation)
        bias = jax.random.normal(key, (model.num_classes,))
        params[f"dense_{len(model.hidden)}"]["bias"] += bias / 2
        return {"params": params}

    # One after another, so that a network does not depend on how many there are.
    return jax.lax.map(network, jax.random.split(jax.random.key(1), num_seeds))


def one_network(variables: Any, seed: int) -> Any:
    """The variables of one of several networks."""
    return jax.tree.map(lambda leaf: leaf[seed], variables)


def affine_maps(variables: Any) -> list[list[Affine]]:
    """The layers of each network, as NumPy arrays."""
    params = jax.tree.map(np.asarray, variables["params"])
    layers = [params[f"dense_{index}"] for index in range(len(params))]
    return [
        [Affine(layer["kernel"][seed], layer["bias"][seed]) for layer in layers]
        for seed in range(len(layers[0]["bias"]))
    ]
