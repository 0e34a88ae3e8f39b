"""Networks of a study, pruned by each of its measures and trained again.

Of each layer the neurons of greatest score stay, by each measure in the study's results
and at random; layers are not compared with each other, as measures differ in level
between them. Accuracy is read on the test split, once pruned and again after
retraining.
"""

import dataclasses
import datetime
import hashlib
import itertools
import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from ioca_jax.ablation.curves import ablation_curves
from ioca_jax.ablation.pruning import kept_by_score, num_parameters, prune_networks
from ioca_jax.data import Dataset
from ioca_jax.devices import place_examples
from ioca_jax.inference.statistics import mean_interval
from ioca_jax.networks.models import MLP
from ioca_jax.networks.training import TrainConfig, train
from ioca_jax.report.pruning import LEAST_FOR_INTERVALS
from ioca_jax.report.sections import section
from ioca_jax.results.files import load_results
from ioca_jax.results.subsets import converged, intact_accuracy
from ioca_jax.study.metadata import source_revision, versions
from ioca_jax.study.run import load_networks

STAGES = ("pruned", "retrained")
_CLAMPS = ("zero", "mean")
_PLACE = ("versions", "source_revision", "device", "created")


class PrunedStudy(NamedTuple):
    """A finished study and its networks, without those that diverged."""

    results: xr.Dataset
    configuration: dict[str, Any]
    model: MLP
    variables: Any

    @property
    def measures(self) -> tuple[str, ...]:
        """What the study ranks neurons by."""
        return tuple(str(name) for name in self.results["measure"].values)

    @property
    def digest(self) -> str:
        """A hash of the networks and of their neurons' scores and means."""
        digest = hashlib.blake2b(digest_size=16)
        arrays = (self.results["score"].values, self.results["activation_mean"].values)
        for array in (*arrays, *jax.tree.leaves(self.variables)):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_study(folder: str | os.PathLike) -> PrunedStudy:
    """Reads a study's results and networks; refuses networks that are not dense."""
    results = load_results(folder)
    model, variables = load_networks(folder)
    if not isinstance(model, MLP):
        raise ValueError(
            "study: expected networks of dense layers (MLP), which can be pruned, got "
            f"{results.attrs['network']}"
        )
    of_study, kept = results["seed"].values, converged(results)
    if not kept.sizes["seed"]:
        raise ValueError(
            "study: expected a study with a network that converged, got "
            f"{len(of_study)} that diverged"
        )
    where = np.flatnonzero(np.isin(of_study, kept["seed"].values))
    variables = jax.tree.map(lambda leaf: leaf[where], variables)
    configuration = json.loads(results.attrs["configuration"])
    configuration["seeds"] = of_study.tolist()  # a shard's own
    return PrunedStudy(kept, configuration, model, variables)


@dataclasses.dataclass(frozen=True)
class Pruning:
    """How to prune: shares of each layer, measures, clamps, and how to train again."""

    keep: tuple[float, ...]
    measures: tuple[str, ...]
    clamps: tuple[str, ...]
    train: TrainConfig

    def check(self, study: PrunedStudy) -> None:
        """Refuses shares out of range, and measures that the study does not have."""
        in_range = all(0 < share <= 1 for share in self.keep)
        if not self.keep or not in_range or len(set(self.keep)) < len(self.keep):
            raise ValueError(
                "keep: expected one or more shares of a layer in (0, 1], each once, "
                f"such as 0.5,0.25, got {','.join(map(str, self.keep))!r}"
            )
        for name, known in (("measures", study.measures), ("clamps", _CLAMPS)):
            given = getattr(self, name)
            if not given or not set(given) <= {*known} or len({*given}) < len(given):
                raise ValueError(
                    f"{name}: expected one or more of {', '.join(known)}, each once, "
                    f"got {','.join(given)!r}"
                )

    @property
    def ranked_by(self) -> tuple[str, ...]:
        """The measures, and ``random``."""
        return (*self.measures, "random")

    def sizes(self, share: float, model: MLP) -> tuple[int, ...]:
        """How many neurons of each layer a share is, rounded up."""
        # 0.1 times 30 is a rounding more than 3.
        return tuple(math.ceil(round(share * width, 9)) for width in model.hidden)


def empty_results(study: PrunedStudy, pruning: Pruning) -> xr.Dataset:
    """The results before any combination is finished: ``accuracy`` is NaN."""
    model, results = study.model, study.results
    num_inputs = study.variables["params"]["dense_0"]["kernel"].shape[1]  # [S, D, w]
    sizes = [pruning.sizes(share, model) for share in pruning.keep]
    counts = [num_parameters(model.clone(hidden=s), num_inputs) for s in sizes]
    coordinates = {
        "seed": results["seed"].values,
        "ranked_by": list(pruning.ranked_by),
        "keep": list(pruning.keep),
        "clamp": list(pruning.clamps),
        "stage": list(STAGES),
    }
    shape = [len(values) for values in coordinates.values()]
    label = "share of the test split classified correctly"

    def about(unit: str, name: str) -> dict[str, str]:
        return {"units": unit, "long_name": name}

    variables = {
        "accuracy": (
            (*coordinates,),
            np.full(shape, np.nan, np.float32),
            about("1", label),
        ),
        "intact_accuracy": (
            "seed",
            intact_accuracy(results),
            about("1", f"{label}, before pruning"),
        ),
        "neurons": (
            ("keep", "layer"),
            np.array(sizes),
            about("count", "neurons kept of each hidden layer"),
        ),
        "parameters": (
            "keep",
            np.array(counts),
            about("count", "kernels, biases, batch norm's scales and offsets"),
        ),
        "intact_parameters": (
            (),
            num_parameters(model, num_inputs),
            about("count", "likewise, before pruning"),
        ),
        "finished": ((*coordinates,)[1:4], np.zeros(shape[1:4], bool)),
    }
    coordinates["layer"] = np.arange(1, model.num_layers + 1)
    return xr.Dataset(variables, coordinates, _attributes(study, pruning))


def _attributes(study: PrunedStudy, pruning: Pruning) -> dict[str, Any]:
    theirs = study.results.attrs
    devices = sorted({f"{d.platform} {d.device_kind}" for d in jax.devices()})
    num_networks = len(study.configuration["seeds"])
    return {
        **{name: theirs[name] for name in theirs if name not in (*_PLACE, "seconds")},
        **{f"study_{name}": theirs[name] for name in _PLACE},
        "title": "networks pruned by measures of their neurons, and retrained",
        "pruning": json.dumps(dataclasses.asdict(pruning)),
        "retrain_epochs": pruning.train.epochs,
        "learning_rate": pruning.train.learning_rate,
        "networks_digest": study.digest,
        "networks_left_out": num_networks - study.results.sizes["seed"],
        "versions": json.dumps(versions(json.loads(theirs["versions"]))),
        "source_revision": source_revision(),
        "device": ", ".join(devices),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "units": "accuracy as a share",
    }


def compute(
    study: PrunedStudy,
    pruning: Pruning,
    data: Dataset,
    results: xr.Dataset,
    memory_gb: float,
    save: Callable[[xr.Dataset], None],
) -> None:
    """Prunes, evaluates and retrains in every way that is not finished yet.

    Accuracies are added to ``results``, which ``save`` takes after every combination.
    """
    test, seeds = place_examples(*data.test), study.results["seed"].values.tolist()
    means = study.results["activation_mean"].values
    clamps = {"zero": np.zeros_like(means), "mean": means}

    def accuracy(model: MLP, variables: Any) -> np.ndarray:
        """Test accuracy [S]: the first point of a curve, where nothing is ablated."""
        # Wherever networks lay, the same program takes them.
        variables = jax.tree.map(np.asarray, variables)
        order = np.full((len(seeds), 1), model.num_neurons - 1, np.int32)
        clamp = np.zeros((len(seeds), model.num_neurons), np.float32)
        curve = ablation_curves(
            model, variables, order, clamp, *test, memory_gb=memory_gb
        )
        return np.asarray(curve.accuracy)[:, 0]

    # Sizes outermost: each has programs of its own.
    combinations = [*itertools.product(pruning.keep, pruning.ranked_by, pruning.clamps)]
    finished = results["finished"].transpose("keep", "ranked_by", "clamp").values
    left = [c for c, done in zip(combinations, finished.flat, strict=True) if not done]
    bar = tqdm(
        left,
        desc="pruning",
        total=len(combinations),
        initial=len(combinations) - len(left),
        unit="combination",
        disable=None,
    )
    for share, ranked_by, clamp in bar:
        bar.set_postfix_str(f"{100 * share:g} % by {ranked_by}, clamped to {clamp}")
        keep = kept_neurons(study, ranked_by, pruning.sizes(share, study.model))
        model, variables = prune_networks(
            study.model, study.variables, keep, clamps[clamp]
        )
        trained = train(
            *(model, data, pruning.train, seeds),
            initial=variables,
            memory_gb=memory_gb,
        )
        retrained = accuracy(model, trained.variables)
        found = [
            accuracy(model, variables),
            np.where(trained.diverged, np.nan, retrained),
        ]
        where = {"ranked_by": ranked_by, "keep": share, "clamp": clamp}
        results["accuracy"].loc[where] = np.stack(found, axis=-1)
        results["finished"].loc[where] = True
        save(results)


def kept_neurons(study: PrunedStudy, ranked_by: str, sizes: Sequence[int]) -> jax.Array:
    """Which neurons of every network stay, bool [S, H].

    It depends on the scores, the network's seed and the measure's name alone.
    """
    shape = (study.results.sizes["seed"], study.model.num_neurons)
    scores = np.zeros(shape, np.float32)  # equal ones are kept at random
    if ranked_by != "random":
        scores = study.results["score"].sel(measure=ranked_by).values
    name = jnp.uint32(zlib.crc32(ranked_by.encode()))
    seeds = jnp.asarray(study.results["seed"].values, jnp.uint32)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), name))(seeds)
    return kept_by_score(study.model, scores, sizes, key=keys)


def tidy(results: xr.Dataset) -> pd.DataFrame:
    """Means over networks: a row for each ranked_by, clamp, stage and keep.

    ``networks`` are those whose retraining did not diverge; differences are to random
    pruning of the same networks, from ``low`` to ``high`` at 95 %.
    """
    axes = ["ranked_by", "clamp", "stage", "keep"]
    accuracy = results["accuracy"].astype(np.float64)
    difference = accuracy - accuracy.sel(ranked_by="random", drop=True)
    difference = difference.where(results["ranked_by"] != "random")
    both = xr.Dataset({"accuracy": accuracy, "difference_to_random": difference})
    groups = both.to_dataframe(dim_order=[*axes, "seed"]).groupby(axes, sort=False)
    table = pd.DataFrame({"networks": groups["accuracy"].count()})
    for name in both:
        table[f"{name}_mean"] = groups[name].mean()
        table[f"{name}_sd"] = groups[name].std()
    low, high = _intervals(difference.transpose("seed", *axes))
    table["difference_to_random_low"] = low.ravel()
    table["difference_to_random_high"] = high.ravel()
    table = table.reset_index()
    parameters = results["parameters"].sel(keep=table["keep"].to_numpy()).values
    share = parameters / results["intact_parameters"].item()
    table.insert(4, "parameters", parameters)
    table.insert(5, "share_of_parameters", share)
    return table


def _intervals(difference: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals over networks; NaN where there are too few, or one diverged."""
    if difference.sizes["seed"] < LEAST_FOR_INTERVALS:
        nowhere = np.full(difference.shape[1:], np.nan)
        return nowhere, nowhere
    return mean_interval(difference.values)


def summary(results: xr.Dataset) -> str:
    """The text that is printed: accuracy, and its difference to random pruning."""
    config = json.loads(results.attrs["configuration"])
    trained = json.loads(results.attrs["pruning"])["train"]
    intact = 100 * results["intact_accuracy"].values.astype(np.float64)
    spread = intact.std(ddof=1) if len(intact) > 1 else np.nan
    left_out = int(results.attrs["networks_left_out"])
    table = tidy(results)
    shares = [f"{100 * share:g} %" for share in results["keep"].values]
    sizes = ["-".join(map(str, widths)) for widths in results["neurons"].values]
    kept = pd.DataFrame(
        {
            "share of each layer kept": shares,
            "neurons by layer": sizes,
            "parameters": [f"{number:,}" for number in results["parameters"].values],
        }
    )
    sections = [
        [
            f"{config['dataset']}: {results.sizes['seed']} networks "
            f"{results.attrs['network']}, of each layer the neurons of greatest score "
            f"kept; retrained for {trained['epochs']} "
            f"epoch{'s' if trained['epochs'] > 1 else ''} at learning rate "
            f"{trained['learning_rate']:g}",
            *([f"Diverged in the study, left out: {left_out}"] if left_out else []),
        ],
        section(
            f"Intact networks: {results['intact_parameters'].item():,} parameters, "
            f"test accuracy {_cell(intact.mean(), spread)} %",
            kept,
        ),
    ]
    for title, column, sign in (
        ("Test accuracy (%)", "accuracy", ""),
        (
            "Difference to random pruning (percentage points)",
            "difference_to_random",
            "+",
        ),
    ):
        rows = table if not sign else table[table["ranked_by"] != "random"]
        means, deviations = (100 * rows[f"{column}_{what}"] for what in ("mean", "sd"))
        cells = [_cell(*cell, sign) for cell in zip(means, deviations, strict=True)]
        by_share = rows.assign(cell=cells).pivot_table(
            index=["clamp", "stage", "ranked_by"],
            columns="keep",
            values="cell",
            aggfunc="first",
            sort=False,
        )
        by_share = by_share[results["keep"].values].set_axis(shares, axis=1)
        title = f"{title}, mean ± standard deviation over networks"
        sections.append(section(title, by_share.reset_index()))
    return "\n\n".join("\n".join(lines) for lines in sections)


def _cell(mean: float, deviation: float, sign: str = "") -> str:
    if np.isnan(mean):
        return "diverged"
    spread = "" if np.isnan(deviation) else f" ± {deviation:.2f}"
    return f"{mean:{sign}.2f}{spread}"
