r"""Prunes a study's networks by each of its measures, and trains what is left again.

Which measure tells best what a network can do without? For example, the networks of a
study of MNIST (its dataset, settings and networks are read from its folder):

  python -m experiments.prune --study=runs/mnist_relu --keep=0.75,0.5,0.25,0.1 \
      --retrain_epochs=1 --workdir=runs/pruned

Of each layer the neurons of greatest score stay, by each measure in the study's results
and at random; layers are not compared with each other, as measures differ in level
between them. What a removed neuron is clamped to goes into the next layer's biases:
zero, which changes none, or its validation mean, which is the paper's bias balancing
(the mean in the intact network: where layers below are pruned too, it is another).
Accuracy is read on the test split, once pruned and again after retraining, which takes
the study's own settings (--learning_rate goes before its learning rate) and each
network's own seed. The study's intact networks have not been trained as long: compare
measures with random pruning, which is treated alike, or keep all with --keep=1.
Networks that diverged in the study are left out.

The folder then holds pruning.nc (everything, labelled; xarray reads it, and so does
ioca_jax.load_results, given its path), pruning.csv (a row for each measure, clamp,
stage and share), summary.txt (what is printed), and pruning.png and .pdf. A folder that
holds these results is reported, not computed again; where it holds a part of them, in
unfinished.nc, the job goes on.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import math
import pathlib
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from absl import flags
from tqdm import tqdm

import ioca_jax as ioca
from ioca_jax.ablation.pruning import kept_by_score, num_parameters, prune_networks
from ioca_jax.plots import pruning_curves, save_figure
from ioca_jax.results.files import RESULTS_FILE, atomic_write, write_results
from ioca_jax.results.selection import converged, intact_accuracy
from ioca_jax.study.chunks import locked, signals_deferred
from ioca_jax.study.folder import can_write, check_places, explained, writable
from ioca_jax.study.metadata import source_revision, versions
from ioca_jax.study.runner import config_of

from . import config_flags

WORKDIR = flags.DEFINE_string("workdir", "runs/pruned", "Where the results go.")
STUDY = flags.DEFINE_string(
    "study",
    None,
    "The folder of the finished study whose networks to prune.",
    required=True,
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TensorFlow Datasets' directory; the study's if not given."
)
KEEP = flags.DEFINE_list(
    "keep",
    ["0.75", "0.5", "0.25", "0.1"],
    "Shares of each layer to keep, in (0, 1]; rounded up to whole neurons.",
)
RETRAIN_EPOCHS = flags.DEFINE_integer(
    "retrain_epochs", 1, "Epochs of training once pruned.", lower_bound=1
)
MEASURES = flags.DEFINE_list(
    "measures", None, "What to keep neurons by; all measures of the study if not given."
)
CLAMPS = flags.DEFINE_list(
    "clamps",
    ["zero", "mean"],
    "What removed neurons leave in the next layer's biases: zero (nothing), or mean.",
)
LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", None, "Of retraining; the study's if not given."
)
MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "As in a study; the study's if not given."
)
flags.adopt_module_key_flags(config_flags)  # --help lists them

RESULTS, UNFINISHED = "pruning.nc", "unfinished.nc"
_WRITTEN = (RESULTS, UNFINISHED, "pruning.csv", "pruning.png", "summary.txt")
STAGES = ("pruned", "retrained")
_OVER = ("ranked_by", "keep", "clamp")  # what a combination is


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Settings: shares of each layer, measures, clamps, and how to train again."""

    keep: tuple[float, ...]
    measures: tuple[str, ...]
    clamps: tuple[str, ...]
    train: ioca.TrainConfig

    @property
    def ranked_by(self) -> tuple[str, ...]:
        """The measures, and ``random``."""
        return (*self.measures, "random")

    def sizes(self, share: float, model: ioca.MLP) -> tuple[int, ...]:
        """How many neurons of each layer a share is, rounded up."""
        # 0.1 times 30 is a rounding more than 3.
        return tuple(math.ceil(round(share * width, 9)) for width in model.hidden)


class Study(NamedTuple):
    """A finished study and its networks, without those that diverged."""

    results: xr.Dataset
    configuration: dict[str, Any]
    model: ioca.MLP
    variables: Any

    @property
    def digest(self) -> str:
        """A hash of the networks and of their neurons' scores and means."""
        digest = hashlib.blake2b(digest_size=16)
        arrays = (self.results["score"].values, self.results["activation_mean"].values)
        for array in (*arrays, *jax.tree.leaves(self.variables)):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def read_study(folder: str) -> Study:
    """Reads a study's results and networks."""
    results = ioca.load_results(folder)
    model, variables = ioca.load_networks(folder)
    if not isinstance(model, ioca.MLP):
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
    return Study(kept, configuration, model, variables)


def read_flags(study: Study) -> Pruning:
    """The settings that the flags give."""
    measures = tuple(str(name) for name in study.results["measure"].values)
    settings = {field.name for field in dataclasses.fields(ioca.TrainConfig)}
    settings = {name: study.configuration[name] for name in settings}
    settings["epochs"] = RETRAIN_EPOCHS.value
    if LEARNING_RATE.value is not None:
        settings["learning_rate"] = LEARNING_RATE.value
    chosen = measures if MEASURES.value is None else MEASURES.value
    return Pruning(
        _shares(KEEP.value),
        _known_names("measures", chosen, measures),
        _known_names("clamps", CLAMPS.value, ("zero", "mean")),
        ioca.TrainConfig(**settings),
    )


def _shares(texts: Sequence[str]) -> tuple[float, ...]:
    try:
        shares = tuple(float(text) for text in texts)
    except ValueError:
        shares = ()
    in_range = all(0 < share <= 1 for share in shares)
    if not shares or not in_range or len(set(shares)) < len(shares):
        raise ValueError(
            "keep: expected one or more shares of a layer in (0, 1], each once, such as"
            f" 0.5,0.25, got {','.join(texts)!r}"
        )
    return shares


def _known_names(
    flag: str, given: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given)
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"{flag}: expected one or more of {', '.join(known)}, each once, got "
            f"{','.join(given)!r}"
        )
    return names


def empty_results(study: Study, pruning: Pruning) -> xr.Dataset:
    """The results before any combination is finished: ``accuracy`` is NaN."""
    model, results = study.model, study.results
    num_inputs = study.variables["params"]["dense_0"]["kernel"].shape[1]  # [S, D, w]
    sizes = [pruning.sizes(share, model) for share in pruning.keep]
    counts = [num_parameters(model.clone(hidden=s), num_inputs) for s in sizes]
    lengths = {
        "seed": results.sizes["seed"],
        "ranked_by": len(pruning.ranked_by),
        "keep": len(pruning.keep),
        "clamp": len(pruning.clamps),
    }
    over = [lengths[name] for name in _OVER]
    accuracy = np.full((*lengths.values(), len(STAGES)), np.nan, np.float32)
    label = "share of the test split classified correctly"
    unit = {"units": "1"}
    count = {"units": "count"}
    variables = {
        "accuracy": ((*lengths, "stage"), accuracy, unit | {"long_name": label}),
        "intact_accuracy": (
            "seed",
            intact_accuracy(results),
            unit | {"long_name": f"{label}, before pruning"},
        ),
        "neurons": (
            ("keep", "layer"),
            np.array(sizes),
            count | {"long_name": "neurons kept of each hidden layer"},
        ),
        "parameters": (
            "keep",
            np.array(counts),
            count | {"long_name": "kernels, biases, batch norm's scales and offsets"},
        ),
        "intact_parameters": ((), num_parameters(model, num_inputs), count),
        "finished": (_OVER, np.zeros(over, bool)),
    }
    coordinates = {
        "seed": results["seed"].values,
        "ranked_by": list(pruning.ranked_by),
        "keep": list(pruning.keep),
        "clamp": list(pruning.clamps),
        "stage": list(STAGES),
        "layer": np.arange(1, model.num_layers + 1),
    }
    return xr.Dataset(variables, coordinates, _attributes(study, pruning))


def _attributes(study: Study, pruning: Pruning) -> dict[str, Any]:
    theirs = study.results.attrs
    place = ("versions", "source_revision", "device", "created")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    devices = sorted({f"{d.platform} {d.device_kind}" for d in jax.devices()})
    return {
        **{name: theirs[name] for name in theirs if name not in (*place, "seconds")},
        **{f"study_{name}": theirs[name] for name in place},
        "title": "networks pruned by measures of their neurons, and retrained",
        "pruning": json.dumps(dataclasses.asdict(pruning)),
        "retrain_epochs": pruning.train.epochs,
        "learning_rate": pruning.train.learning_rate,
        "networks_digest": study.digest,
        "networks_left_out": len(study.configuration["seeds"])
        - study.results.sizes["seed"],
        "versions": json.dumps(versions(json.loads(theirs["versions"]))),
        "source_revision": source_revision(),
        "device": ", ".join(devices),
        "created": now,
        "units": "accuracy as a share",
    }


def read_progress(folder: pathlib.Path, ours: xr.Dataset) -> xr.Dataset:
    """The folder's results, or ours if it has none; refuses those of another job."""
    for name in (RESULTS, UNFINISHED):
        if not (folder / name).is_file():
            continue
        theirs = ioca.load_results(folder / name)
        for attribute, told in (
            ("pruning", "settings"),
            ("networks_digest", "networks"),
            ("data_digest", "data"),
        ):
            if theirs.attrs.get(attribute) != ours.attrs[attribute]:
                raise ValueError(
                    "workdir: expected a new folder or one of this pruning, got "
                    f"{folder}, which holds {name} of other {told}"
                    f"{_differing(theirs, ours)}; choose another workdir"
                )
        return theirs
    if (folder / RESULTS_FILE).exists():
        raise ValueError(
            f"workdir: expected a folder of its own, got {folder}, which holds a "
            "study; choose another workdir"
        )
    return ours


def _differing(theirs: xr.Dataset, ours: xr.Dataset) -> str:
    """The first setting that is not the same, with both values."""
    settings = [json.loads(r.attrs.get("pruning", "{}")) for r in (theirs, ours)]
    of_theirs, of_ours = (s | s.get("train", {}) for s in settings)
    for name in of_ours.keys() - {"train"}:
        if of_theirs.get(name) != of_ours[name]:
            return f" ({name} {of_theirs.get(name)}, not {of_ours[name]})"
    return ""


def load_data(study: Study) -> ioca.Dataset:
    """The study's dataset; refuses other images or labels."""
    arguments = config_of(study.results).data_arguments()
    if DATA_DIR.value is not None:
        arguments["data_dir"] = DATA_DIR.value
    data = ioca.load_dataset(**arguments)
    if data.digest != study.results.attrs["data_digest"]:
        raise ValueError(
            f"study: expected the images and labels of {data.name} that the study was "
            "run on, got others; see --data_dir, or run the study anew"
        )
    return data


def _intact_accuracy(
    model: ioca.MLP, variables: Any, *, test: tuple[Any, Any], memory_gb: float
) -> np.ndarray:
    """Test accuracy [S]: the first point of a curve, where no neuron is ablated yet."""
    # Wherever networks lay, the same program takes them.
    variables = jax.tree.map(np.asarray, variables)
    num_seeds = len(jax.tree.leaves(variables)[0])
    order = np.full((num_seeds, 1), model.num_neurons - 1, np.int32)
    clamp = np.zeros((num_seeds, model.num_neurons), np.float32)
    curve = ioca.ablation_curves(
        *(model, variables, order, clamp, *test),
        layers=[model.num_layers - 1],
        memory_gb=memory_gb,
    )
    return np.asarray(curve.accuracy)[:, 0]


def compute(
    study: Study,
    pruning: Pruning,
    data: ioca.Dataset,
    results: xr.Dataset,
    folder: pathlib.Path,
) -> None:
    """Prunes, evaluates and retrains in every way that is not finished yet.

    Accuracies are added to ``results``, which are saved after every combination.
    """
    memory_gb = MEMORY_GB.value
    if memory_gb is None:
        memory_gb = study.configuration["memory_gb"]
    test, seeds = ioca.place_examples(*data.test), study.results["seed"].values.tolist()
    means = study.results["activation_mean"].values
    clamps = {"zero": np.zeros_like(means), "mean": means}

    accuracy = partial(_intact_accuracy, test=test, memory_gb=memory_gb)

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
        trained = ioca.train(
            *(model, data, pruning.train, seeds),
            initial=variables,
            memory_gb=memory_gb,
        )
        retrained = accuracy(model, trained.variables)
        where = {"ranked_by": ranked_by, "keep": share, "clamp": clamp}
        results["accuracy"].loc[where | {"stage": "pruned"}] = accuracy(
            model, variables
        )
        results["accuracy"].loc[where | {"stage": "retrained"}] = np.where(
            trained.diverged, np.nan, retrained
        )
        results["finished"].loc[where] = True
        _write(results, folder / UNFINISHED)


def kept_neurons(study: Study, ranked_by: str, sizes: Sequence[int]) -> jax.Array:
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
    pruning of the same networks.
    """
    axes = ("ranked_by", "clamp", "stage", "keep")
    rows = []
    for place in itertools.product(*(results[axis].values for axis in axes)):
        where = dict(zip(axes, place, strict=True))
        accuracy, random = (
            pd.Series(results["accuracy"].sel(labels).values.astype(np.float64))
            for labels in (where, where | {"ranked_by": "random"})
        )
        is_random = where["ranked_by"] == "random"
        difference = accuracy - (np.nan if is_random else random)
        parameters = results["parameters"].sel(keep=where["keep"]).item()
        row = {
            "parameters": parameters,
            "share_of_parameters": parameters / results["intact_parameters"].item(),
            "networks": accuracy.count(),
            "accuracy_mean": accuracy.mean(),
            "accuracy_sd": accuracy.std(),
            "difference_to_random_mean": difference.mean(),
            "difference_to_random_sd": difference.std(),
        }
        rows.append(where | row)
    return pd.DataFrame(rows)


def summary(results: xr.Dataset) -> str:
    """The text that is printed: accuracy, and its difference to random pruning."""
    config = json.loads(results.attrs["configuration"])
    train = json.loads(results.attrs["pruning"])["train"]
    intact = 100 * results["intact_accuracy"].values.astype(np.float64)
    spread = intact.std(ddof=1) if len(intact) > 1 else np.nan
    left_out = int(results.attrs["networks_left_out"])
    table, shares = tidy(results), results["keep"].values
    parameters = results["parameters"].values
    header = [
        ["share of each layer kept", *(f"{100 * share:g} %" for share in shares)],
        [
            "neurons by layer",
            *("-".join(map(str, sizes)) for sizes in results["neurons"].values),
        ],
        ["parameters", *(f"{number:,}" for number in parameters)],
    ]
    text = [
        f"{config['dataset']}: {results.sizes['seed']} networks "
        f"{results.attrs['network']}, of each layer the neurons of greatest score "
        f"kept; retrained for {train['epochs']} "
        f"epoch{'s' if train['epochs'] > 1 else ''} at learning rate "
        f"{train['learning_rate']:g}",
        *([f"Diverged in the study, left out: {left_out}"] if left_out else []),
        f"Intact networks: {results['intact_parameters'].item():,} parameters, test "
        f"accuracy {_cell(intact.mean(), spread)} %",
    ]
    places = itertools.product(results["clamp"].values, results["stage"].values)
    headings = [(*place, "{1}, clamped to {0}".format(*place)) for place in places]
    for title, column, sign in (
        ("Test accuracy (%)", "accuracy", ""),
        (
            "Difference to random pruning (percentage points)",
            "difference_to_random",
            "+",
        ),
    ):
        lines = [*header]
        for clamp, stage, heading in headings:
            lines.append([heading])
            for name in results["ranked_by"].values[: -1 if sign else None]:
                chosen = table[["ranked_by", "clamp", "stage"]] == [name, clamp, stage]
                means, deviations = (
                    100 * table.loc[chosen.all(axis=1), f"{column}_{what}"].to_numpy()
                    for what in ("mean", "sd")
                )
                cells = zip(means, deviations, strict=True)
                lines.append([f"  {name}", *(_cell(*cell, sign) for cell in cells)])
        text += ["", f"{title}, mean ± standard deviation over networks"]
        text += _columns(lines)
    return "\n".join(text)


def _cell(mean: float, deviation: float, sign: str = "") -> str:
    if np.isnan(mean):
        return "diverged"
    spread = "" if np.isnan(deviation) else f" ± {deviation:.2f}"
    return f"{mean:{sign}.2f}{spread}"


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells below each other; a heading alone in its line widens the first column."""
    first = max(len(line[0]) for line in lines)
    rest = max(len(cell) for line in lines for cell in line[1:])
    return [
        (
            "  " + "  ".join([line[0].ljust(first), *(c.rjust(rest) for c in line[1:])])
        ).rstrip()
        for line in lines
    ]


def report(results: xr.Dataset, folder: pathlib.Path) -> str:
    """Writes everything that is made from the results alone."""
    text, table = summary(results), tidy(results)
    atomic_write(folder / "pruning.csv", lambda part: table.to_csv(part, index=False))
    save_figure(pruning_curves(results), folder / "pruning")
    atomic_write(
        folder / "summary.txt", lambda part: part.write_text(text + "\n", "utf-8")
    )
    return text


def _write(results: xr.Dataset, path: pathlib.Path) -> None:
    with signals_deferred():
        write_results(results, path)


def main() -> None:
    """Prunes what the flags describe, and prints a summary."""
    folder, study = pathlib.Path(WORKDIR.value), read_study(STUDY.value)
    pruning = read_flags(study)
    empty = empty_results(study, pruning)
    check_places(folder, files=_WRITTEN)
    results = read_progress(folder, empty)
    is_finished = "finished" not in results
    if is_finished and not can_write(folder):
        print(summary(results))
        return
    data = None if is_finished else load_data(study)
    safe = f"what is finished in {folder} is whole", "goes on from it"
    with explained(folder, safe), contextlib.ExitStack() as stack:
        with writable(folder):
            stack.enter_context(locked(folder, wait=is_finished))
        results = read_progress(folder, empty)  # of another process meanwhile
        if "finished" in results:
            data = data or load_data(study)
            compute(study, pruning, data, results, folder)
            results = results.drop_vars("finished")
            _write(results, folder / RESULTS)
        (folder / UNFINISHED).unlink(missing_ok=True)
        print(report(results, folder))
    print(
        f"\nWritten to {folder}: {RESULTS}, pruning.csv, pruning.png, pruning.pdf, "
        "summary.txt"
    )


def how_to_go_on() -> str:
    """The line that an interrupted job ends with."""
    return (
        "interrupted: the same command goes on from what is finished in "
        f"{WORKDIR.value}"
    )


if __name__ == "__main__":
    config_flags.run_main(main, when_interrupted=how_to_go_on)
