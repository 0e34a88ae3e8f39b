"""Results of the shapes that a run gives, without a run."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from ioca_jax import Dataset, Split, StudyConfig
from ioca_jax.results.variables import make_results
from ioca_jax.study.interactions import PAIR_VALUES


def own_data(seed: int = 0, name: str = "own", num_inputs: int = 12) -> Dataset:
    """Data of a caller: nothing loads them. Splits of 60, 40 and 50 examples."""
    rng = np.random.default_rng(seed)
    splits = [
        Split(
            rng.uniform(size=(size, num_inputs)).astype(np.float32),
            rng.permutation(np.arange(size) % 4).astype(np.int32),
        )
        for size in (60, 40, 50)
    ]
    return Dataset(name, *splits, num_classes=4)


TINY = StudyConfig(
    seeds=(5, 2, 8), hidden=(4, 3), epochs=1, batch_size=10, random_orders=0,
    measures=("entropy",), clamps=("mean",), permutations=0,
)  # fmt: skip
"""A study that takes little: of ``own_data``, a network at a time."""

THREE = ("entropy", "mutual_information", "kl_selectivity")


def synthetic_results(
    *,
    hidden=(4, 3),
    seeds=3,
    measures=THREE,
    clamps=("zero", "mean"),
    random_orders=2,
    diverged=(),
    epochs=4,
    scores=None,
    dataset="mnist5k",
) -> xr.Dataset:
    """Results of the shapes that a run gives, with random numbers in them."""
    generator = np.random.default_rng(7)
    neurons = sum(hidden)
    scopes = {
        "network": neurons,
        **{f"layer_{index + 1}": width for index, width in enumerate(hidden)},
    }
    orderings = [(m, d, 0) for m in measures for d in ("ascending", "descending")]
    orderings += [("random", "random", draw) for draw in range(random_orders)]
    shape = (seeds, len(clamps), len(scopes), len(orderings), neurons + 1)
    correct = generator.integers(0, 20, (*shape, 2)).astype(np.int32)
    loss = generator.random(shape, np.float32)
    # The intact network is the same whatever is ablated later.
    correct[:, :, :, :, 0], loss[..., 0] = 15, 0.5
    for index, size in enumerate(scopes.values()):
        correct[:, :, index, :, size + 1 :] = -1
    accuracy = (correct.sum(axis=-1) / 40).astype(np.float32)
    past_end = correct[..., 0] < 0
    accuracy[past_end] = loss[past_end] = np.nan
    single = (seeds, len(clamps), neurons)
    if scores is None:
        scores = generator.random((seeds, len(measures), neurons), np.float32)
    history = {
        f"{split}_{quantity}": generator.random((seeds, epochs), np.float32)
        for split in ("train", "validation")
        for quantity in ("loss", "accuracy")
    }
    has_diverged = np.isin(np.arange(seeds), diverged)
    accuracy[has_diverged] = np.nan
    scores = np.where(has_diverged[:, None, None], np.float32(np.nan), scores)
    history["train_loss"][has_diverged, 1:] = np.inf
    history["validation_loss"][has_diverged, 1:] = np.nan
    return make_results(
        {
            "accuracy": accuracy,
            "correct": correct,
            "loss": loss,
            "single_correct": generator.integers(0, 20, (*single, 2)).astype(np.int32),
            "single_loss": generator.random(single, np.float32),
            "score": scores,
            "diverged": has_diverged,
            **history,
        },
        {
            "seed": np.arange(seeds),
            "clamp": list(clamps),
            "scope": list(scopes),
            "measure": list(measures),
            "unit": ("measure", ["bit"] * len(measures)),
            "class": [0, 1],
            "class_size": ("class", [20, 20]),
            "layer": ("neuron", np.repeat(np.arange(len(hidden)) + 1, hidden)),
            "neuron": np.arange(neurons),
            "ordering": [f"{m}_{d}_{draw}" for m, d, draw in orderings],
            "ranked_by": ("ordering", [m for m, _, _ in orderings]),
            "direction": ("ordering", [d for _, d, _ in orderings]),
            "draw": ("ordering", [draw for _, _, draw in orderings]),
            "step": np.arange(neurons + 1),
            "epoch": np.arange(1, epochs + 1),
        },
        {
            "configuration": json.dumps({"dataset": dataset}),
            "network": "5-4-3-2 relu",
            "quantizer": "threshold:0",
        },
    )


SEEDS = 10
HIDDEN = (30, 20)
SCOPES = {"network": 50, "layer_1": 30, "layer_2": 20}


def planted_results(
    effects: dict[tuple[str, str, str], float] | None = None,
    *,
    seeds: int = SEEDS,
    clamp_gain: float = 0.0,
    layer_gain: float = 0.0,
    random_orders: int = 4,
    rng_seed: int = 0,
) -> xr.Dataset:
    """Results whose curves are one curve, moved by planted effects and noise by seed.

    Args:
        effects: by scope, measure and direction, what its accuracy is above random at
            its greatest.
        seeds: networks.
        clamp_gain: of the mean clamp above zero, everywhere.
        layer_gain: of layer 2 above layer 1.
        random_orders: drawn.
        rng_seed: of the noise.
    """
    results = synthetic_results(
        hidden=HIDDEN, seeds=seeds, random_orders=random_orders, measures=THREE
    )
    rng = np.random.default_rng(rng_seed)
    shape = results["accuracy"].shape
    accuracy = np.full(shape, np.nan)
    for scope_index, (scope, size) in enumerate(SCOPES.items()):
        share = np.arange(size + 1) / size
        bump = np.sin(np.pi * share)
        falls = 0.95 - 0.45 * share**2
        for ordering in range(shape[3]):
            name = results["ranked_by"].values[ordering]
            direction = results["direction"].values[ordering]
            effect = (effects or {}).get((scope, name, direction), 0.0)
            noise = rng.normal(0, 0.01, (seeds, 2, 1))
            curve = falls + (effect + noise) * bump
            curve[:, 1] += clamp_gain * bump
            curve += layer_gain * bump * (scope == "layer_2")
            accuracy[:, :, scope_index, ordering, : size + 1] = curve
    # Two classes: chance is one half, where curves end.
    results["loss"].values[..., 0] = 0.5
    return with_accuracy(results, accuracy)


def with_accuracy(results: xr.Dataset, accuracy: np.ndarray) -> xr.Dataset:
    """The same with other curves, as counts of two classes of 50,000 examples each."""
    past_end = np.isnan(accuracy)
    counts = np.rint(np.where(past_end, 0, accuracy) * 100_000).astype(np.int32)
    correct = np.stack([counts // 2, counts - counts // 2], axis=-1)
    correct[past_end] = -1
    shares = np.where(past_end, np.nan, counts / 100_000).astype(np.float32)
    return results.assign(
        correct=results["correct"].copy(data=correct),
        accuracy=results["accuracy"].copy(data=shares),
    ).assign_coords(class_size=("class", [50_000, 50_000]))


def joint_results(
    *,
    groups: int = 12,
    group_sizes=(2, 3),
    trajectory_epochs=(0, 1, 4),
    along: int = 3,
    **fields,
) -> xr.Dataset:
    """``synthetic_results`` with interactions and trajectories, random numbers too.

    Args:
        groups: drawn of each size in each scope.
        group_sizes: of the groups.
        trajectory_epochs: looked at.
        along: points of an order that the examples support, after the first.
        fields: of ``synthetic_results``.
    """
    results = synthetic_results(**fields)
    rng = np.random.default_rng(11)
    sizes = {str(name): int(size) for name, size in results.sizes.items()}
    seeds, neurons, scopes = sizes["seed"], sizes["neuron"], sizes["scope"]
    layer = results["layer"].values
    layers = np.unique(layer)

    def floats(*shape, scale=1.0, shift=0.0):
        return (rng.normal(shift, scale, shape)).astype(np.float32)

    def symmetric(*leading, scale=1.0):
        upper = floats(*leading, neurons, neurons, scale=scale)
        return (upper + np.swapaxes(upper, -1, -2)) / 2

    apart = (layer[:, None] != layer) | np.eye(neurons, dtype=bool)
    effects = {
        f"pair_effect_{unit}": np.where(
            apart,
            np.float32(np.nan),
            symmetric(seeds, sizes["clamp"], scale=0.01),
        )
        for unit in ("accuracy", "loss")
    }
    order = (seeds, 2, scopes, sizes["ordering"], sizes["step"])
    step = np.arange(sizes["step"])
    ends = np.array([neurons, *(np.sum(layer == one) for one in layers)])[:, None, None]
    # Of the neurons ablated the first points are supported, of those left the last.
    shown = np.stack([step <= along + 0 * ends, (step >= ends - along)])
    shown &= step <= ends
    known = {
        name: np.where(shown, floats(*order, scale=0.1, shift=shift), np.nan)
        for name, shift in (
            ("joint_information", 1.5),
            ("joint_information_miller_madow", 1.4),
            ("joint_information_null", 0.1),
        )
    }
    known = {name: array.astype(np.float32) for name, array in known.items()}
    group = (seeds, scopes, len(group_sizes), groups)
    looked = (seeds, len(trajectory_epochs), len(layers))
    arrays = {
        "joint_count": rng.integers(50, 150, (seeds, neurons, 2, 2)).astype(np.int32),
        "pair_value": symmetric(seeds, len(PAIR_VALUES), scale=0.1),
        "pair_null": symmetric(seeds, scale=1e-3),
        **effects,
        **known,
        "joint_cells": np.where(step <= ends, 40, -1)[None, None].repeat(seeds, 0)
        + np.zeros(order, np.int32),
        "redundancy_index": floats(*group, scale=0.2, shift=1.3),
        "vulnerability": floats(*group, scale=0.2, shift=0.7),
        "o_information_with_class": floats(*group, scale=0.1),
        "trajectory_score": np.abs(
            floats(seeds, len(trajectory_epochs), sizes["measure"], neurons)
        ),
        "trajectory_accuracy": np.float32(
            rng.integers(0, 41, (seeds, len(trajectory_epochs))) / 40
        ),
        "layer_entropy": floats(*looked, scale=0.3, shift=9),
        "layer_information": np.full(looked, np.nan, np.float32),
        "layer_information_decoded": floats(*looked, scale=0.3, shift=2),
        "layer_redundancy_index": floats(*looked, groups, scale=0.2, shift=1.3),
    }
    arrays["joint_cells"] = arrays["joint_cells"].astype(np.int32)
    coordinates = {
        "other": np.arange(neurons),
        "pair_measure": list(PAIR_VALUES),
        "side": ["ablated", "left"],
        "group": np.arange(groups),
        "group_size": list(group_sizes),
        "trajectory_epoch": list(trajectory_epochs),
        "hidden_layer": layers,
    }
    return results.merge(make_results(arrays, coordinates, {})).assign_attrs(
        num_validation=1000, trajectory_group_size=3
    )


def planted_joint_results(
    *,
    co_information=(0.0, 0.0),
    pair_effect=(0.0, 0.0),
    redundancy=(0.0, 0.0),
    curves: dict[tuple[str, str, str], float] | None = None,
    seeds: int = SEEDS,
    rng_seed: int = 0,
) -> xr.Dataset:
    """``joint_results`` of ``planted_results``, with planted pairs and groups.

    Every network moves all of what is planted by a tenth of a standard unit of its own.

    Args:
        co_information: bits, mean over the pairs of each layer, Miller-Madow.
        pair_effect: of ablating both, over the pairs of each layer, in nats and in
            accuracy; twice that for pairs with a neuron of the quarter of lowest or of
            highest mutual information.
        redundancy: index of the first two to four neurons of any order, less 1, and of
            random groups, by layer.
        curves: effects of ``planted_results``.
        seeds: networks.
        rng_seed: of all noise.
    """
    results = joint_results(hidden=HIDDEN, seeds=seeds, random_orders=4)
    curves_alone = planted_results(curves, seeds=seeds, rng_seed=rng_seed)
    results = with_accuracy(results, curves_alone["accuracy"].values)
    results["loss"].values[..., 0] = 0.5
    rng = np.random.default_rng((1, rng_seed))
    neurons, orderings = sum(HIDDEN), results.sizes["ordering"]
    counts = rng.integers(50, 150, (seeds, neurons, 2, 2)).astype(np.int32)
    counts[:, :, [0, 1], [0, 1]] += 100
    results["joint_count"] = (("seed", "neuron", "code", "class"), counts)
    order = np.full((seeds, 3, orderings, neurons), -1, np.int32)
    layers = [slice(30), slice(30, 50)]
    own_neurons = [np.arange(neurons)[layer] for layer in (slice(None), *layers)]
    scores = results["score"].values
    for seed, index in np.ndindex(seeds, orderings):
        measure = results["ranked_by"].values[index]
        for scope, own in enumerate(own_neurons):
            ordered = rng.permutation(own)
            if measure != "random":
                ordered = own[np.argsort(scores[seed, THREE.index(measure), own])]
            if results["direction"].values[index] == "descending":
                ordered = ordered[::-1]
            order[seed, scope, index, : len(own)] = ordered
    results["order"] = (("seed", "scope", "ordering", "position"), order)
    alone = information_by_hand(counts)
    joint = np.full((seeds, 2, 3, orderings, neurons + 1), np.nan, np.float32)
    for layer, own in enumerate(layers):
        size = HIDDEN[layer]
        for name, planted, spread in (
            ("co_information_miller_madow", co_information[layer], 0.02),
            ("loss", pair_effect[layer], 0.002),
            ("accuracy", pair_effect[layer], 0.002),
        ):
            noise = rng.normal(0, spread, (seeds, size, size))
            noise = (noise + noise.swapaxes(1, 2)) / 2
            noise += rng.normal(0, spread / 10, (seeds, 1, 1))
            if name in ("loss", "accuracy"):
                noise[:, range(size), range(size)] = np.nan
                of_own = scores[:, THREE.index("mutual_information"), own]
                rank = of_own.argsort(axis=1).argsort(axis=1)
                ends = np.isin(
                    rank, [*range(size // 4), *range(size - size // 4, size)]
                )
                noise += planted * (ends[:, :, None] | ends[:, None])
                for clamp in range(2):
                    array = results[f"pair_effect_{name}"].values[:, clamp]
                    array[:, own, own] = planted + noise
            else:
                measure = PAIR_VALUES.index(name)
                bits = results["pair_value"].values
                bits[:, measure, own, own] = planted + noise
                chance = results["pair_null"].values[:, own, own]
                plug_in = PAIR_VALUES.index("co_information")
                bits[:, plug_in, own, own] = planted + noise + chance
        of_network = 1 + redundancy[layer] + rng.normal(0, 0.02, (seeds, 1))
        results["redundancy_index"].values[:, layer + 1] = of_network[:, :, None]
        for index in range(orderings):
            first = order[:, layer + 1, index, :4]
            summed = np.take_along_axis(alone, first, axis=1).cumsum(axis=1)
            joint[:, 0, layer + 1, index, 1:5] = summed / of_network
    results["joint_information_miller_madow"].values[:] = joint
    return results


def information_by_hand(counts: np.ndarray) -> np.ndarray:
    """Miller-Madow mutual information of tables of counts without zeros, bits."""
    total = counts.sum(axis=(-2, -1), keepdims=True)
    joint = counts / total
    apart = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    plain = (joint * np.log2(joint / apart)).sum(axis=(-2, -1))
    excess = (counts.shape[-2] - 1) * (counts.shape[-1] - 1)
    return plain - excess / (2 * np.log(2) * total[..., 0, 0])


def binomial_tolerance(share: float, *sizes: int) -> float:
    """Three standard errors of a share counted over so many independent samples.

    Several sizes: each is a source of error of its own (data sets; shared resamples).
    """
    return 3 * np.sqrt(share * (1 - share) * sum(1 / size for size in sizes))


def with_layer_names(results: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """The same of a network whose layers have names, which are the scopes' too."""
    of_neuron = np.asarray(names, str)[results["layer"].values - 1]
    return results.assign_coords(
        layer_name=("neuron", of_neuron), scope=["network", *names]
    )
