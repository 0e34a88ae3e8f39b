"""Results of the shapes that a run gives, without a run."""

import json

import numpy as np
import xarray as xr

from ioca_jax.results import make_results

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
    accuracy = generator.random(shape, np.float32)
    for index, size in enumerate(scopes.values()):
        accuracy[:, :, index, :, size + 1 :] = np.nan
    correct = generator.integers(0, 20, (*shape, 2)).astype(np.int32)
    correct[np.isnan(accuracy)] = -1
    loss = np.where(np.isnan(accuracy), accuracy, generator.random(shape, np.float32))
    # The intact network is the same whatever is ablated later.
    correct[:, :, :, :, 0], loss[..., 0] = 15, 0.5
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
    rng_seed: int = 0,
) -> xr.Dataset:
    """Results whose curves are one curve, moved by planted effects and noise by seed.

    Args:
        effects: by scope, measure and direction, what its accuracy is above random at
            its greatest.
        seeds: networks.
        clamp_gain: of the mean clamp above zero, everywhere.
        layer_gain: of layer 2 above layer 1.
        rng_seed: of the noise.
    """
    results = synthetic_results(
        hidden=HIDDEN, seeds=seeds, random_orders=4, measures=THREE
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
    results["accuracy"].values[:] = accuracy
    # Two classes: chance is one half, where curves end.
    results["loss"].values[..., 0] = 0.5
    return results
