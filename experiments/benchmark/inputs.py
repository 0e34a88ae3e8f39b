"""Sizes, examples and networks of the benchmark's cases."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca
from ioca_jax.networks.mlp import Affine, folded_layers

from . import costs
from .timing import Contender

DEFAULT = "default"
NUM_CLASSES = 10  # of synthetic data
NUM_CODES = 2  # of the one-bit quantiser


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of the table's cases, and how much time they may take.

    Attributes:
        num_examples: of all cases but the deep network's.
        num_inputs: D, likewise, of synthetic data.
        hidden: the hidden layers, likewise.
        deep_examples: of the deep network's case.
        deep_inputs: likewise.
        deep_hidden: likewise.
        num_seeds: networks trained, or ablated in many orders.
        num_orders: of each.
        sampled_pairs: pairs that scikit-learn measures.
        checked_points: points of curves held against the oracle.
        seconds_per_run: beyond it a peer works on a sample.
        repeats: timed rounds of each contender.
        matrix: rows of the matrix product that measures the ceiling.
        vector: entries of the arrays of the triad that measures the other.
    """

    num_examples: int
    num_inputs: int
    hidden: tuple[int, ...]
    deep_examples: int
    deep_inputs: int
    deep_hidden: tuple[int, ...]
    num_seeds: int
    num_orders: int
    sampled_pairs: int
    checked_points: int
    seconds_per_run: float
    repeats: int
    matrix: int
    vector: int


_STANDARD = Preset(
    num_examples=10_000,
    num_inputs=784,
    hidden=(100, 100),
    deep_examples=1000,
    deep_inputs=3072,
    deep_hidden=(512,) * 5,
    num_seeds=8,
    num_orders=32,
    sampled_pairs=300,
    checked_points=41,
    seconds_per_run=5.0,
    repeats=5,
    matrix=2048,
    vector=2**25,
)


PRESETS = {
    "standard": _STANDARD,
    "accelerator": dataclasses.replace(_STANDARD, matrix=8192, vector=2**29),
    "quick": dataclasses.replace(
        _STANDARD,
        num_examples=2000,
        deep_hidden=(128,) * 5,
        deep_inputs=784,
        sampled_pairs=50,
        checked_points=11,
        seconds_per_run=1.0,
        repeats=3,
        matrix=1024,
        vector=2**22,
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
        sampled_pairs=5,
        checked_points=4,
        seconds_per_run=0.5,
        repeats=1,
        matrix=64,
        vector=2**12,
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cases share.

    Attributes:
        preset: sizes.
        ceilings: of the machine.
        dataset: ``synthetic``, or as in ``ioca_jax.load_dataset``.
        data_dir: as in ``ioca_jax.load_dataset``.
        activation: of the networks.
        memory_gb: as in ``ioca_jax.ablation_curve``.
        with_peers: whether to prepare the peers at all.
    """

    preset: Preset
    ceilings: costs.Ceilings
    dataset: str = "synthetic"
    data_dir: str | None = None
    activation: str = "relu"
    memory_gb: float = 1.0
    with_peers: bool = True


class Case(NamedTuple):
    """Some work, ready to be done.

    Attributes:
        title: the work in words.
        sizes: the same in numbers.
        units: examples times steps, of all curves, neurons, pairs or networks.
        cost: the fewest operations and bytes.
        contenders: who does it; the first is ``default``.
        goals: by peer, how many times faster ``default`` should be.
        left_out: by name, why a contender is missing.
        most_seconds: what ``default`` should take at most, or None.
    """

    title: str
    sizes: dict[str, Any]
    units: int
    cost: costs.Cost
    contenders: tuple[Contender, ...]
    goals: Mapping[str, float] = {}
    left_out: Mapping[str, str] = {}
    most_seconds: float | None = None


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
    """Synthetic examples, or a dataset's.

    Args:
        settings: names the dataset.
        num_examples: N; a dataset's test examples repeat where they are fewer.
        num_inputs: D of synthetic images; a dataset has its own.

    Returns:
        The examples. Synthetic images are a mean for each class and noise, uniform,
        in [0, 1].
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
    """Untrained networks in which something happens.

    Args:
        model: their shape, without batch norm.
        x: float32 [N, D] images.
        num_seeds: S.

    Returns:
        Variables, whose leaves begin with S: random kernels, scaled and shifted so
        that every pre-activation and logit has mean 0 and deviation 1 over images,
        and logits a random bias besides. Predictions then differ between examples,
        and few are near a tie, even with every neuron at its mean.
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
        params[f"dense_{model.num_layers}"]["bias"] += bias / 2
        return {"params": params}

    # One after another, so that a network does not depend on how many there are.
    return jax.lax.map(network, jax.random.split(jax.random.key(1), num_seeds))


def one_network(variables: Any, seed: int) -> Any:
    """The variables of one of several networks."""
    return jax.tree.map(lambda leaf: leaf[seed], variables)


def affine_maps(model: ioca.MLP, variables: Any) -> list[list[Affine]]:
    """Each network's affine maps as NumPy arrays."""
    num_seeds = len(jax.tree.leaves(variables)[0])
    return [
        [
            Affine(np.asarray(kernel), np.asarray(bias))  # pyright: ignore[reportArgumentType]
            for kernel, bias in folded_layers(model, one_network(variables, seed))
        ]
        for seed in range(num_seeds)
    ]


def installed_peers(
    settings: Settings, there: bool, makers: Mapping[str, Callable[[str], Contender]]
) -> tuple[list[Contender], dict[str, str]]:
    """Peers that take part, and why the others do not.

    Args:
        settings: tell whether any should.
        there: whether what they need is installed.
        makers: by name, what prepares a peer of that name.

    Returns:
        The contenders, and by name why one is missing.
    """
    if not settings.with_peers:
        return [], {}
    if not there:
        return [], dict.fromkeys(makers, "not installed")
    return [make(name) for name, make in makers.items()], {}
