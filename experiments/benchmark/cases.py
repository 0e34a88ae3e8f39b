"""The benchmark's work: who does it, what is right, and what it must cost.

A case holds its contenders, this library's and its peers, each with its inputs in
place. Peers that would take too long evaluate evenly spaced masks, or the first pairs
of neurons, and their time is scaled; their note says so. What is right is decided by
float64 NumPy (``benchmark_peers.curve_oracle`` and others), never by a contender:

* correct counts are the same but for examples whose two best logits are within 1e-4;
* losses are within 1e-4 (1 + loss) nats, what two ablations cost beyond each one within
  1e-6 nats, measures within 1e-5 bits; counts are equal;
* training: after a few steps on one batch, whose order then does not matter, from the
  same weights, the losses of all networks are within 1e-3 (relative).
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca
from experiments.benchmark import costs, peers
from experiments.benchmark.timing import Contender
from ioca_jax.ablation.curves import ENGINES, ablation_curves, default_engine
from ioca_jax.data import Split
from ioca_jax.measures.information import MEASURES
from ioca_jax.measures.interactions import (
    PAIR_MEASURES,
    PairEffects,
    pair_effects,
    pair_information,
)
from ioca_jax.networks.mlp import Affine, folded_layers

DEFAULT = "default"
NUM_CLASSES = 10  # of synthetic data
NUM_CODES = 2  # of the one-bit quantiser
_BITS_TOLERANCE = 1e-5
_LOSS_TOLERANCE = 1e-4
_EFFECT_TOLERANCE = 1e-6
_TRAINING_TOLERANCE = 1e-3
_TRAINING_CHECK_STEPS = 5
# What a peer is taken to reach of the peak when its sample is chosen.
_PEER_SHARE = 0.5
_FEWEST_POINTS = 16
_EXAMPLES_FOR_MEANS = 10_000


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
        num_seeds: networks trained.
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


@dataclasses.dataclass(frozen=True)
class CurveWork:
    """Ablation curves to compute.

    Attributes:
        hidden: widths.
        num_examples: N.
        num_inputs: D of synthetic images.
        scope: ``network``, ``layer_1`` ..., or ``last_layer``.
        num_seeds: S.
        num_orders: random orders for each network.
        clamp: ``zero`` or ``mean``.
        engines: those side by side with the default.
        goals: by peer.
    """

    hidden: tuple[int, ...]
    num_examples: int
    num_inputs: int
    scope: str = "network"
    num_seeds: int = 1
    num_orders: int = 1
    clamp: str = "mean"
    engines: tuple[str, ...] = ENGINES
    goals: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Checks the names."""
        names = ("network", "last_layer", *self._layer_names())
        for field, known, given in (
            ("scopes", names, self.scope),
            ("clamps", ("zero", "mean"), self.clamp),
            *(("engines", ENGINES, engine) for engine in self.engines),
        ):
            if given not in known:
                raise ValueError(
                    f"{field}: expected one or more of {', '.join(known)}, got "
                    f"{given!r}"
                )

    def _layer_names(self) -> list[str]:
        return [f"layer_{index + 1}" for index in range(len(self.hidden))]

    @property
    def layers(self) -> tuple[int, ...]:
        """The scope's hidden layers, counted from 0."""
        if self.scope == "network":
            return tuple(range(len(self.hidden)))
        if self.scope == "last_layer":
            return (len(self.hidden) - 1,)
        return (self._layer_names().index(self.scope),)


class CurveArrays(NamedTuple):
    """What curves are computed from.

    Attributes:
        model: the networks' shape.
        variables: leaves begin with S.
        orders: int32 [S, O, K].
        clamps: float32 [S, H].
        data: the examples.
    """

    model: ioca.MLP
    variables: Any
    orders: jax.Array
    clamps: jax.Array
    data: Examples

    @property
    def widths(self) -> tuple[int, ...]:
        """D, the hidden layers', C."""
        return self.data.x.shape[1], *self.model.hidden, self.model.num_classes


def curve_arrays(work: CurveWork, settings: Settings) -> CurveArrays:
    """Draws networks and orders.

    Args:
        work: what curves.
        settings: the dataset and the activation.

    Returns:
        Everything on the device.
    """
    data = examples(settings, work.num_examples, work.num_inputs)
    model = ioca.MLP(work.hidden, data.num_classes, settings.activation)
    variables = random_networks(model, data.x, work.num_seeds)
    neurons = np.flatnonzero(np.isin(model.layer_of_neuron, work.layers))
    keys = jax.random.split(jax.random.key(2), (work.num_seeds, work.num_orders))
    draw = partial(ioca.random_order, jnp.asarray(neurons))
    orders = jax.vmap(jax.vmap(lambda key: draw(key=key)))(keys)
    some = data.x[:_EXAMPLES_FOR_MEANS]
    means = jax.jit(
        partial(jax.lax.map, lambda one: model.apply(one, some)[1].mean(axis=0))
    )(variables)
    clamps = means if work.clamp == "mean" else jnp.zeros_like(means)
    return CurveArrays(model, variables, orders, clamps, data)


def curve_program(
    arrays: CurveArrays,
    layers: tuple[int, ...],
    engine: str,
    memory_gb: float,
) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """This library's curves of all networks, in one call.

    Args:
        arrays: what from.
        layers: the hidden layers that orders touch.
        engine: as in ``ioca_jax.ablation_curve``.
        memory_gb: likewise.

    Returns:
        A function of nothing of note that returns correct [S, O, K+1, C] and loss
        [S, O, K+1].
    """

    def run(_):
        # Not under jit: it chooses its programs and devices itself.
        curves = ablation_curves(
            arrays.model,
            arrays.variables,
            arrays.orders,
            arrays.clamps[:, None],
            *arrays.data[:2],
            layers=layers,
            engine=engine,
            memory_gb=memory_gb,
        )
        return curves.correct, curves.loss

    return run


def spaced(number: int, at_most: float) -> np.ndarray:
    """Evenly spaced indices below a number, its first and last among them.

    Args:
        number: of all.
        at_most: how many to choose; all where there are no more.

    Returns:
        Integers, ascending.
    """
    chosen = int(min(number, max(2, at_most)))
    return np.unique(np.linspace(0, number - 1, chosen).round().astype(int))


def masks_at(orders: np.ndarray, points: np.ndarray, num_neurons: int) -> np.ndarray:
    """Cumulative masks at some points of orders.

    Args:
        orders: integers [S, O, K].
        points: integers [P], how many neurons are ablated.
        num_neurons: H.

    Returns:
        bool [S, O, P, H]; False ablates.
    """
    steps = np.full((*orders.shape[:2], num_neurons), orders.shape[2])
    np.put_along_axis(steps, orders, np.arange(orders.shape[2])[None, None], axis=2)
    return steps[:, :, None, :] >= points[:, None]


def check_curve(
    name: str, correct: Any, loss: Any, oracle: peers.CurveOracle
) -> dict[str, float]:
    """Refuses figures other than the oracle's.

    Args:
        name: whose they are.
        correct: [S, O, P, C].
        loss: [S, O, P].
        oracle: what is right.

    Returns:
        How far they are off: ``examples`` at one point, ``loss`` in nats; and
        ``near_ties``, the most examples at one point that may be.

    Raises:
        ValueError: another count, beyond the examples near a tie, or another loss.
    """
    off = np.abs(np.asarray(correct, np.int64) - oracle.correct).sum(axis=-1)
    # An example that changes sides is one correct answer more or less; nothing else is.
    wrong = off > oracle.near_ties
    if wrong.any():
        point = tuple(int(index[0]) for index in np.nonzero(wrong))
        raise ValueError(
            f"{name}: expected the oracle's correct counts but for examples near a "
            f"tie, got {off[point]} off at (seed, order, checked point) {point}, where "
            f"{oracle.near_ties[point]} are near a tie"
        )
    difference = np.abs(np.asarray(loss, np.float64) - oracle.loss)
    # Negated, so that NaN is refused.
    wrong = ~(difference <= _LOSS_TOLERANCE * (1 + oracle.loss))
    if wrong.any():
        raise ValueError(
            f"{name}: expected losses within {_LOSS_TOLERANCE:g} (1 + loss) of the "
            f"oracle's, got one {difference[wrong].max():.3g} nats off"
        )
    return {
        "examples": int(off.max()),
        "near_ties": int(oracle.near_ties.max()),
        "loss": float(difference.max()),
    }


def check_bits(name: str, values: Any, oracle: Any) -> dict[str, float]:
    """Refuses measures other than the oracle's.

    Args:
        name: whose they are.
        values: bits, any shape.
        oracle: bits, the same shape.

    Returns:
        ``bits``, how far they are off.

    Raises:
        ValueError: one that is more than 1e-5 bits off.
    """
    difference = np.max(np.abs(np.asarray(values, np.float64) - np.asarray(oracle)))
    if not difference <= _BITS_TOLERANCE:
        raise ValueError(
            f"{name}: expected measures within {_BITS_TOLERANCE:g} bits of the "
            f"oracle's, got one {difference:.3g} bits off"
        )
    return {"bits": float(difference)}


def check_counts(name: str, counts: Any, oracle: np.ndarray) -> dict[str, float]:
    """Refuses counts other than the oracle's.

    Args:
        name: whose they are.
        counts: integers.
        oracle: integers, the same shape.

    Returns:
        ``cells``, how many are off: none.

    Raises:
        ValueError: one that differs.
    """
    cells = int(np.sum(np.asarray(counts) != oracle))
    if cells:
        raise ValueError(
            f"{name}: expected the oracle's joint counts, got {cells} of {oracle.size} "
            "cells different"
        )
    return {"cells": 0}


def check_effects(
    name: str, effects: PairEffects, oracle: peers.CurveOracle, num_examples: int
) -> dict[str, float]:
    """Refuses effects of pairs other than the oracle's.

    Args:
        name: whose they are.
        effects: of P pairs, [P].
        oracle: of 1 + 3 P masks, [1, 1, 1 + 3 P]: the intact network, the first neuron
            of each pair ablated, the second, and both.
        num_examples: N.

    Returns:
        As ``check_curve``; near a tie may be an example of any of a pair's four masks.

    Raises:
        ValueError: another effect on accuracy, beyond the examples near a tie, or on
            the loss.
    """

    def of_pairs(of_masks: np.ndarray) -> list[np.ndarray]:
        return [of_masks[0, 0, :1], *of_masks[0, 0, 1:].reshape(3, -1)]

    intact, first, second, both = of_pairs(oracle.correct.sum(axis=-1))
    near_ties = sum(of_pairs(oracle.near_ties))
    found = np.asarray(effects.accuracy, np.float64) * num_examples
    off = np.abs(found - (first + second - intact - both))
    wrong = ~(off <= near_ties + 0.5)
    if wrong.any():
        raise ValueError(
            f"{name}: expected the oracle's effects on accuracy but for examples near "
            f"a tie, got one {off[wrong].max():.0f} examples off"
        )
    intact, first, second, both = of_pairs(oracle.loss)
    difference = np.abs(
        np.asarray(effects.loss, np.float64) - (both - first - second + intact)
    ).max()
    if not difference <= _EFFECT_TOLERANCE:
        raise ValueError(
            f"{name}: expected effects on the loss within {_EFFECT_TOLERANCE:g} nats "
            f"of the oracle's, got one {difference:.3g} nats off"
        )
    return {
        "examples": int(off.max().round()),
        "near_ties": int(np.max(near_ties)),
        "loss": float(difference),
    }


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


@dataclasses.dataclass(frozen=True)
class MaskWork:
    """Masks to evaluate one by one, or a sample of them where that takes long.

    Attributes:
        arrays: of what networks, and on what examples.
        settings: shared by all cases.
        number: P, masks for each network and order.
        masks_at: makes bool [S, O, Q, H] of indices [Q] below P.
        checked: indices held against the oracle.
    """

    arrays: CurveArrays
    settings: Settings
    number: int
    masks_at: Callable[[np.ndarray], np.ndarray]
    checked: np.ndarray

    @cached_property
    def inputs(self) -> peers.CurveInputs:
        """The masks to check, and what they are evaluated on."""
        arrays = self.arrays
        return peers.CurveInputs(
            affine_maps(arrays.model, arrays.variables),
            self.settings.activation,
            self.masks_at(self.checked),
            np.asarray(arrays.clamps),
            np.asarray(arrays.data.x),
            np.asarray(arrays.data.y),
        )

    @cached_property
    def oracle(self) -> peers.CurveOracle:
        """What the masks to check must give."""
        return peers.curve_oracle(self.inputs)

    def _affordable(self) -> np.ndarray:
        """Indices of the masks for whose forward passes there is time."""
        settings, inputs = self.settings, self.inputs
        operations = costs.forward_operations(self.arrays.widths)
        operations *= len(inputs.y) * inputs.masks.shape[0] * inputs.masks.shape[1]
        seconds = operations / (_PEER_SHARE * settings.ceilings.operations)
        most = max(_FEWEST_POINTS, settings.preset.seconds_per_run / seconds)
        return spaced(self.number, most)

    def _contender(self, prepare: Any, name: str, ours: bool = False) -> Contender:
        """Someone who evaluates as many masks as there is time for."""
        indices = self._affordable()
        setup, run = prepare(self.inputs._replace(masks=self.masks_at(indices)))

        def check(results):
            if not np.array_equal(indices, self.checked):
                setup_of_checked, run_checked = prepare(self.inputs)
                results = run_checked(setup_of_checked())
            correct, loss = results
            return check_curve(name, correct, loss, self.oracle)

        few = len(indices) < self.number
        note = f"{len(indices)} of {self.number} masks, time scaled" if few else ""
        scale = self.number / len(indices)
        return Contender(name, run, check, ours, setup, scale, note)

    def masks_engine(self) -> Contender:
        """This library, mask by mask."""
        return self._contender(self._on_device, "masks", ours=True)

    def _on_device(self, inputs: peers.CurveInputs) -> Any:
        arrays, masks = self.arrays, jnp.asarray(inputs.masks)

        def run(_):
            curves = [
                ioca.evaluate_masks(
                    arrays.model,
                    one_network(arrays.variables, seed),
                    of_seed,
                    arrays.clamps[seed],
                    *arrays.data[:2],
                    memory_gb=self.settings.memory_gb,
                )
                for seed, of_seed in enumerate(masks)
            ]
            return (
                jnp.stack([curve.correct for curve in curves]),
                jnp.stack([curve.loss for curve in curves]),
            )

        return (lambda: None), run

    def torch(self) -> tuple[list[Contender], dict[str, str]]:
        """PyTorch three times, or why it is missing."""
        makers = {
            kind: partial(self._contender, partial(peers.torch_curve, kind))
            for kind in peers.TORCH_CURVES
        }
        return installed_peers(self.settings, peers.has_torch(), makers)


def curve_case(work: CurveWork, settings: Settings) -> Case:
    """Ablation curves: the default, each engine, and PyTorch three times.

    Args:
        work: what curves.
        settings: shared by all cases.

    Returns:
        The case.
    """
    arrays = curve_arrays(work, settings)
    model, widths, preset = arrays.model, arrays.widths, settings.preset
    num_curves = work.num_seeds * work.num_orders
    orders = np.asarray(arrays.orders)
    num_points = orders.shape[2] + 1
    layers_of_steps = model.layer_of_neuron[orders[0, 0]]
    checked = spaced(num_points, preset.checked_points // num_curves)
    by_mask = MaskWork(
        arrays,
        settings,
        num_points,
        lambda points: masks_at(orders, points, model.num_neurons),
        checked,
    )
    cost_by = partial(
        costs.curve_cost,
        widths,
        layers_of_steps,
        work.num_examples,
        work.num_orders,
        work.num_seeds,
    )

    def whole(name: str, engine: str) -> Contender:
        run = curve_program(arrays, work.layers, engine, settings.memory_gb)

        def check(results):
            correct, loss = (np.asarray(array)[:, :, checked] for array in results)
            return check_curve(name, correct, loss, by_mask.oracle)

        note = engine if name == DEFAULT else ""
        return Contender(name, run, check, ours=True, note=note)

    contenders, left_out = [whole(DEFAULT, default_engine())], {}
    for engine in work.engines:
        if engine == default_engine():
            continue
        if cost_by(engine).floor(settings.ceilings) <= preset.seconds_per_run:
            contenders.append(whole(engine, engine))
        elif engine == "masks":
            contenders.append(by_mask.masks_engine())
        else:
            left_out[engine] = (
                f"needs more than {preset.seconds_per_run:g} s a run; the default is "
                "timed"
            )
    in_torch, missing = by_mask.torch()
    return Case(
        f"{work.scope} curve, {'-'.join(map(str, widths))} {settings.activation}, "
        f"{work.num_examples} examples, {num_points} points, {work.clamp} clamp"
        + (f", {work.num_seeds} seeds" if work.num_seeds > 1 else "")
        + (f", {work.num_orders} orders" if work.num_orders > 1 else ""),
        dataclasses.asdict(work) | {"widths": widths, "points": num_points},
        work.num_examples * num_points * num_curves,
        cost_by(),
        (*contenders, *in_torch),
        work.goals,
        left_out | missing,
    )


def pair_effects_case(layer: int, settings: Settings) -> Case:
    """What ablating two neurons of a layer costs beyond each one, of all pairs.

    Args:
        layer: a hidden layer, counted from 0; -1 is the last.
        settings: shared by all cases.

    Returns:
        The case. Others evaluate the intact network, every neuron and every pair.
    """
    preset = settings.preset
    layer %= len(preset.hidden)
    arrays = curve_arrays(
        CurveWork(preset.hidden, preset.num_examples, preset.num_inputs), settings
    )
    model, num_examples = arrays.model, preset.num_examples
    neurons = np.flatnonzero(model.layer_of_neuron == layer)
    width = len(neurons)
    first, second = np.triu_indices(width, 1)
    masks = np.ones((1 + width + len(first), model.num_neurons), bool)
    masks[1 + np.arange(width), neurons] = False
    for of_pairs in (first, second):
        masks[1 + width + np.arange(len(first)), neurons[of_pairs]] = False
    some = spaced(len(first), preset.checked_points // 3)
    by_mask = MaskWork(
        arrays,
        settings,
        len(masks),
        lambda indices: masks[None, None, indices],
        np.concatenate([[0], 1 + first[some], 1 + second[some], 1 + width + some]),
    )

    def run(_):
        # Not under jit: it chooses its programs and devices itself.
        return pair_effects(
            model,
            arrays.variables,
            arrays.clamps,
            *arrays.data[:2],
            layer,
            memory_gb=settings.memory_gb,
        )

    def check(effects):
        at_some = [np.asarray(e)[0, first[some], second[some]] for e in effects[:2]]
        of_some = effects._replace(accuracy=at_some[0], loss=at_some[1])
        return check_effects(DEFAULT, of_some, by_mask.oracle, num_examples)

    in_torch, left_out = by_mask.torch()
    return Case(
        f"ablations of {len(first)} pairs in hidden layer {layer + 1}, "
        f"{'-'.join(map(str, arrays.widths))} {settings.activation}, {num_examples} "
        f"examples, {len(masks)} masks, mean clamp",
        {"layer": layer, "pairs": len(first), "examples": num_examples},
        num_examples * len(masks),
        costs.pair_effects_cost(arrays.widths, layer, num_examples),
        (
            Contender(DEFAULT, run, check, ours=True),
            by_mask.masks_engine(),
            *in_torch,
        ),
        left_out=left_out,
        most_seconds=10.0,
    )


class CountedNeurons(NamedTuple):
    """What counting starts from.

    Attributes:
        outputs: float32 [N, H], a network's activations, on the device.
        data: the examples, there too.
        codes: int32 [N, H], the peers' codes, in NumPy.
        labels: int32 [N], in NumPy.
    """

    outputs: jax.Array
    data: Examples
    codes: np.ndarray
    labels: np.ndarray

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Neurons, codes, classes and examples."""
        num_examples, num_neurons = self.codes.shape
        return num_neurons, NUM_CODES, self.data.num_classes, num_examples

    def tables(self, codes: np.ndarray, num_codes: int) -> np.ndarray:
        """The oracle's joint counts of codes [N, M], [M, B, C]."""
        return peers.count_oracle(codes, self.labels, num_codes, self.data.num_classes)


def _counted_neurons(settings: Settings) -> CountedNeurons:
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    variables = one_network(random_networks(model, data.x, 1), 0)
    _, outputs = model.apply(variables, data.x)
    # Neurons are counted on one device.
    outputs, y = jax.device_put((outputs, data.y), jax.devices()[0])
    threshold = 0.5 if settings.activation == "sigmoid" else 0
    codes = (np.asarray(outputs) > threshold).astype(np.int32)
    return CountedNeurons(outputs, data._replace(y=y), codes, np.asarray(y))


def _check_measures(
    name: str, measures: Mapping[str, Any], oracle: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """As ``check_bits``, of the measures that the oracle has."""
    found = np.stack([measures[key] for key in oracle])
    return check_bits(name, found, np.stack(list(oracle.values())))


def measures_case(settings: Settings) -> Case:
    """All measures of single neurons, from their activations.

    Args:
        settings: shared by all cases.

    Returns:
        The case.
    """
    neurons = _counted_neurons(settings)
    num_neurons, *_, num_examples = neurons.sizes
    counts = neurons.tables(neurons.codes, NUM_CODES)
    oracle = peers.bits_oracle(counts)

    @jax.jit
    def program(outputs, y):
        codes = ioca.quantize(outputs, "threshold", settings.activation)
        counts = ioca.joint_counts(codes, y, NUM_CODES, neurons.data.num_classes)
        return counts, {name: measure(counts) for name, measure in MEASURES.items()}

    def check(results):
        found, measures = results
        return check_counts(DEFAULT, found, counts) | _check_measures(
            DEFAULT, measures, oracle
        )

    def in_sklearn(name):
        return Contender(
            name,
            lambda _: peers.sklearn_measures(neurons.codes, neurons.labels),
            lambda measures: _check_measures(name, measures, oracle),
        )

    others, left_out = installed_peers(
        settings, peers.has_sklearn(), {"sklearn": in_sklearn}
    )
    return Case(
        f"all measures of {num_neurons} neurons, {num_examples} examples",
        {"neurons": num_neurons, "examples": num_examples},
        num_examples * num_neurons,
        costs.measures_cost(*neurons.sizes),
        (
            Contender(
                DEFAULT,
                lambda _: program(neurons.outputs, neurons.data.y),
                check,
                ours=True,
            ),
            *others,
        ),
        {"sklearn": 100.0},
        left_out,
    )


def pairs_case(settings: Settings) -> Case:
    """All informational values of all pairs, from their activations.

    Args:
        settings: shared by all cases.

    Returns:
        The case. scikit-learn gives co-information alone: with three mutual
        informations for each pair, and with those of the neurons once.
    """
    neurons = _counted_neurons(settings)
    num_neurons, *_, num_examples = neurons.sizes
    codes, labels = neurons.codes, neurons.labels
    first, second = np.triu_indices(num_neurons, 1)
    counts = neurons.tables(
        codes[:, first] * NUM_CODES + codes[:, second], NUM_CODES**2
    )
    oracle = peers.pair_bits_oracle(counts, NUM_CODES)
    sample = spaced(len(first), settings.preset.sampled_pairs)
    pairs = np.stack([first[sample], second[sample]], axis=1)

    def run(_):
        # Not under jit: it has a program of its own, and looks at codes first.
        return pair_information(
            ioca.quantize(neurons.outputs, "threshold", settings.activation),
            neurons.data.y,
            NUM_CODES,
            neurons.data.num_classes,
            memory_gb=settings.memory_gb,
        )

    def check(measures):
        upper = {key: np.asarray(measures[key])[first, second] for key in oracle}
        return _check_measures(DEFAULT, upper, oracle)

    def in_sklearn(setup, name):
        return Contender(
            name,
            lambda alone: peers.sklearn_pairs(codes, labels, pairs, NUM_CODES, alone),
            lambda bits: check_bits(name, bits, oracle["co_information"][sample]),
            setup=setup,
            scale=len(first) / len(sample),
            note=f"{len(sample)} of {len(first)} pairs, time scaled",
        )

    setups = {
        "sklearn": lambda: None,
        "sklearn_hoisted": lambda: peers.sklearn_information(codes, labels),
    }
    others, left_out = installed_peers(
        settings,
        peers.has_sklearn(),
        {name: partial(in_sklearn, setup) for name, setup in setups.items()},
    )
    return Case(
        f"{len(PAIR_MEASURES)} values of {len(first)} pairs, {num_examples} examples",
        {"neurons": num_neurons, "pairs": len(first), "examples": num_examples},
        num_examples * len(first),
        costs.pairs_cost(*neurons.sizes, len(PAIR_MEASURES)),
        (Contender(DEFAULT, run, check, ours=True), *others),
        {"sklearn": 500.0},
        left_out,
        most_seconds=1.0,
    )


def training_data(data: Examples, num_train: int) -> ioca.Dataset:
    """The first examples as a dataset that spends no time on validation.

    Args:
        data: the examples.
        num_train: of them, those to train on.

    Returns:
        The dataset.
    """
    x, y = np.asarray(data.x), np.asarray(data.y)
    few = Split(x[:1], y[:1])
    train = Split(x[:num_train], y[:num_train])
    return ioca.Dataset("benchmark", train, few, few, data.num_classes)


def training_case(batch_size: int, settings: Settings) -> Case:
    """One epoch of several networks: all at once, ours in a loop, PyTorch in a loop.

    Args:
        batch_size: examples a step.
        settings: shared by all cases.

    Returns:
        The case.

    Raises:
        ValueError: a batch larger than the examples.
    """
    preset = settings.preset
    data = examples(settings, preset.num_examples, preset.num_inputs)
    model = ioca.MLP(preset.hidden, data.num_classes, settings.activation)
    config = ioca.TrainConfig(epochs=1, batch_size=batch_size)
    seeds = tuple(range(preset.num_seeds))
    whole = training_data(data, preset.num_examples)
    # Every epoch of this one is a step on all of it: the shuffling does not matter.
    batch = training_data(data, batch_size)
    steps = dataclasses.replace(config, epochs=_TRAINING_CHECK_STEPS)
    # So small a rate leaves the weights as they were drawn.
    frozen = dataclasses.replace(config, learning_rate=1e-30)
    initial = affine_maps(model, ioca.train(model, batch, frozen, seeds).variables)

    def at_once(data, config):
        return affine_maps(model, ioca.train(model, data, config, seeds).variables)

    def in_a_loop(data, config):
        trained = [ioca.train(model, data, config, (seed,)) for seed in seeds]
        return [affine_maps(model, one.variables)[0] for one in trained]

    def in_torch(data, config):
        return peers.torch_train(
            initial,
            settings.activation,
            data.train.x,
            data.train.y,
            config.batch_size,
            config.epochs,
            config.learning_rate,
            config.l2,
        )(None)

    def losses_after_check(train) -> np.ndarray:
        networks = train(batch, steps)
        hidden = np.ones((len(networks), 1, 1, model.num_neurons), bool)
        clamps = np.zeros((len(networks), model.num_neurons), np.float32)
        return peers.curve_oracle(
            peers.CurveInputs(
                networks, settings.activation, hidden, clamps, *batch.train
            )
        ).loss

    oracle = losses_after_check(in_a_loop)

    def check(name, train, results) -> dict[str, float]:
        del results
        return check_losses(name, losses_after_check(train), oracle)

    def ours(run):
        return lambda _: [one.variables for one in run()]

    contenders = [
        Contender(
            DEFAULT,
            ours(lambda: [ioca.train(model, whole, config, seeds)]),
            partial(check, DEFAULT, at_once),
            ours=True,
        ),
        Contender(
            "loop_over_seeds",
            ours(lambda: [ioca.train(model, whole, config, (s,)) for s in seeds]),
            partial(check, "loop_over_seeds", in_a_loop),
            ours=True,
        ),
    ]

    def torch_loop(name):
        run = peers.torch_train(
            initial,
            settings.activation,
            *whole.train,
            config.batch_size,
            config.epochs,
            config.learning_rate,
            config.l2,
        )
        return Contender(name, run, partial(check, name, in_torch))

    others, left_out = installed_peers(
        settings, peers.has_torch(), {"torch_loop": torch_loop}
    )
    widths = (data.x.shape[1], *model.hidden, model.num_classes)
    num_steps = preset.num_examples // batch_size
    return Case(
        f"training {len(seeds)} seeds, {'-'.join(map(str, widths))}, batch "
        f"{batch_size}, {num_steps} steps of Adam",
        {"seeds": len(seeds), "batch_size": batch_size, "steps": num_steps},
        num_steps * batch_size * len(seeds),
        costs.training_cost(widths, batch_size, num_steps, len(seeds)),
        (*contenders, *others),
        {"torch_loop": 4.0} if batch_size == 32 else {},
        left_out,
    )


def check_losses(name: str, losses: Any, oracle: Any) -> dict[str, float]:
    """Refuses networks trained to another loss.

    Args:
        name: who trained them.
        losses: of each network, nats.
        oracle: what they should be.

    Returns:
        ``relative_loss``, how far they are off.

    Raises:
        ValueError: one more than 1e-3 off, relatively.
    """
    difference = np.max(np.abs(np.asarray(losses) / np.asarray(oracle) - 1))
    if not difference <= _TRAINING_TOLERANCE:
        raise ValueError(
            f"{name}: expected losses after {_TRAINING_CHECK_STEPS} steps within "
            f"{_TRAINING_TOLERANCE:g} (relative) of training seed by seed, got one "
            f"{difference:.3g} off"
        )
    return {"relative_loss": float(difference)}


def _network_curve(settings: Settings, scope: str, goals: dict[str, float]) -> Case:
    preset = settings.preset
    return curve_case(
        CurveWork(
            preset.hidden, preset.num_examples, preset.num_inputs, scope, goals=goals
        ),
        settings,
    )


def _deep_curve(settings: Settings) -> Case:
    preset = settings.preset
    return curve_case(
        CurveWork(
            preset.deep_hidden,
            preset.deep_examples,
            preset.deep_inputs,
            goals={"torch_hoisted": 2.0},
        ),
        settings,
    )


def sharding_case(settings: Settings) -> Case:
    """The same curve through the device mesh, and on one device without it.

    Args:
        settings: shared by all cases.

    Returns:
        The case. On one device the difference is what the mesh costs.
    """
    preset = settings.preset
    work = CurveWork(preset.hidden, preset.num_examples, preset.num_inputs)
    arrays = curve_arrays(work, settings)
    run = curve_program(arrays, work.layers, default_engine(), settings.memory_gb)
    on_one = arrays._replace(
        data=jax.device_put(arrays.data, jax.devices()[0])  # where jit finds them all
    )
    # While it is traced nothing is spread over devices.
    unsharded = jax.jit(
        lambda variables, orders, clamps, x, y: curve_program(
            CurveArrays(
                arrays.model, variables, orders, clamps, arrays.data._replace(x=x, y=y)
            ),
            *(work.layers, default_engine(), settings.memory_gb),
        )(None)
    )
    expected = run(None)

    def check(name: str, results) -> dict[str, float]:
        return check_counts(name, results[0], np.asarray(expected[0]))

    points = arrays.model.num_neurons + 1
    return Case(
        f"the whole-network curve on {len(jax.devices())} devices by the mesh, and on "
        "one without it",
        {"devices": len(jax.devices()), "points": points},
        work.num_examples * points,
        costs.curve_cost(
            arrays.widths, arrays.model.layer_of_neuron, work.num_examples
        ),
        (
            Contender(DEFAULT, run, partial(check, DEFAULT), ours=True),
            Contender(
                "unsharded",
                lambda _: unsharded(
                    *(on_one.variables, on_one.orders, on_one.clamps),
                    *on_one.data[:2],
                ),
                partial(check, "unsharded"),
                ours=True,
            ),
        ),
    )


CASES: dict[str, Callable[[Settings], Case]] = {
    "network_curve": partial(
        _network_curve, scope="network", goals={"torch_loop": 60, "torch_hoisted": 10}
    ),
    "last_layer_curve": partial(
        _network_curve, scope="last_layer", goals={"torch_loop": 50}
    ),
    "deep_curve": _deep_curve,
    "measures": measures_case,
    "pairs": pairs_case,
    "pair_effects": partial(pair_effects_case, 0),
    "last_layer_pair_effects": partial(pair_effects_case, -1),
    "training_32": partial(training_case, 32),
    "training_128": partial(training_case, 128),
    "training_512": partial(training_case, 512),
    "sharding": sharding_case,
}
