r"""Prunes a study's networks by each of its measures, and trains what is left again.

Which measure tells best what a network can do without? For example, the networks of a
study of MNIST (its dataset, settings and networks are read from its folder):

  ioca prune --study=runs/mnist_relu --keep=0.75,0.5,0.25,0.1 \
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
stage and share), report.html (everything on one page), summary.txt (what is printed),
and pruning.png and .pdf. A folder that holds these results is reported, not computed
again; where it holds a part of them, in unfinished.nc, the job goes on.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import sys

import xarray as xr

import ioca_jax as ioca
from ioca_jax.cli.command import Command, option
from ioca_jax.plots import pruning_curves, save_figure
from ioca_jax.report.page import PAGE_FILE
from ioca_jax.report.pruning import pruning_page
from ioca_jax.results.files import RESULTS_FILE, atomic_write, write_results
from ioca_jax.study import pruned
from ioca_jax.study.chunks import locked, signals_deferred
from ioca_jax.study.config import config_of
from ioca_jax.study.folder import can_write, check_places, explained, writable

RESULTS, UNFINISHED = "pruning.nc", "unfinished.nc"
_FILES = (
    RESULTS,
    "pruning.csv",
    "pruning.png",
    "pruning.pdf",
    "summary.txt",
    PAGE_FILE,
)


@dataclasses.dataclass(frozen=True)
class PruneOptions:
    """Flags of a pruning."""

    workdir: str = option("runs/pruned", "Where the results go.")
    study: str | None = option(
        None, "The folder of the finished study whose networks to prune."
    )
    data_dir: str | None = option(
        None, "TensorFlow Datasets' directory; the study's if not given."
    )
    keep: tuple[str, ...] = option(
        ("0.75", "0.5", "0.25", "0.1"),
        "Shares of each layer to keep, in (0, 1]; rounded up to whole neurons.",
    )
    retrain_epochs: int = option(1, "Epochs of training once pruned.")
    measures: tuple[str, ...] | None = option(
        None, "What to keep neurons by; all measures of the study if not given."
    )
    clamps: tuple[str, ...] = option(
        ("zero", "mean"),
        "What removed neurons leave in the next layer's biases: zero (nothing), or "
        "mean.",
    )
    learning_rate: float | None = option(
        None, "Of retraining; the study's if not given."
    )
    memory_gb: float | None = option(None, "As in a study; the study's if not given.")

    def pruning(self, study: pruned.PrunedStudy) -> pruned.Pruning:
        """The settings that the flags give, checked."""
        fields = {field.name for field in dataclasses.fields(ioca.TrainConfig)}
        settings = {name: study.configuration[name] for name in fields}
        settings["epochs"] = self.retrain_epochs
        if self.learning_rate is not None:
            settings["learning_rate"] = self.learning_rate
        try:
            shares = tuple(map(float, self.keep))
        except ValueError:
            raise ValueError(
                "keep: expected shares of a layer such as 0.5,0.25, got "
                f"{','.join(self.keep)!r}"
            ) from None
        pruning = pruned.Pruning(
            shares,
            study.measures if self.measures is None else self.measures,
            self.clamps,
            ioca.TrainConfig(**settings),
        )
        pruning.check(study)
        return pruning


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
    of_theirs, of_ours = (s | s.pop("train", {}) for s in settings)
    for name in of_ours:
        if of_theirs.get(name) != of_ours[name]:
            return f" ({name} {of_theirs.get(name)}, not {of_ours[name]})"
    return ""


def load_data(study: pruned.PrunedStudy, data_dir: str | None) -> ioca.Dataset:
    """The study's dataset; refuses other images or labels."""
    arguments = config_of(study.results).data_arguments()
    if data_dir is not None:
        arguments["data_dir"] = data_dir
    data = ioca.load_dataset(**arguments)
    if data.digest != study.results.attrs["data_digest"]:
        raise ValueError(
            f"study: expected the images and labels of {data.name} that the study was "
            "run on, got others; see --data_dir, or run the study anew"
        )
    return data


def report(results: xr.Dataset, folder: pathlib.Path, study: str) -> str:
    """Writes everything that is made from the results alone; returns the summary.

    ``study`` is the folder of the study, which the page links to.
    """
    text, table = pruned.summary(results), pruned.tidy(results)
    atomic_write(folder / "pruning.csv", lambda part: table.to_csv(part, index=False))
    save_figure(pruning_curves(results), folder / "pruning")
    theirs = pathlib.Path(study).absolute()
    has_page = (theirs / PAGE_FILE).is_file()
    page = pruning_page(
        *(results, table, json.loads(results.attrs["configuration"]), folder),
        {theirs.name: os.path.relpath(theirs, folder)} if has_page else {},
        shlex.join(["ioca", "prune", *sys.argv[1:]]),
    )
    atomic_write(folder / PAGE_FILE, lambda part: part.write_text(page, "utf-8"))
    atomic_write(
        folder / "summary.txt", lambda part: part.write_text(text + "\n", "utf-8")
    )
    return text


def _write(results: xr.Dataset, path: pathlib.Path) -> None:
    with signals_deferred():
        write_results(results, path)


def main(options: PruneOptions) -> None:
    """Prunes what the flags describe, and prints a summary."""
    if options.study is None:
        raise ValueError("study: expected --study=FOLDER of a finished run, got none")
    folder, study = pathlib.Path(options.workdir), pruned.read_study(options.study)
    pruning = options.pruning(study)
    empty = pruned.empty_results(study, pruning)
    check_places(folder, files=(*_FILES, UNFINISHED))
    results = read_progress(folder, empty)
    is_finished = "finished" not in results
    if is_finished and not can_write(folder):
        print(pruned.summary(results))
        return
    data = None if is_finished else load_data(study, options.data_dir)
    memory_gb = options.memory_gb or study.configuration["memory_gb"]
    safe = f"what is finished in {folder} is whole", "goes on from it"
    with explained(folder, safe), contextlib.ExitStack() as stack:
        with writable(folder):
            stack.enter_context(locked(folder, wait=is_finished))
        results = read_progress(folder, empty)  # of another process meanwhile
        if "finished" in results:
            data = data or load_data(study, options.data_dir)
            pruned.compute(
                *(study, pruning, data, results, memory_gb),
                lambda results: _write(results, folder / UNFINISHED),
            )
            results = results.drop_vars("finished")
            _write(results, folder / RESULTS)
        (folder / UNFINISHED).unlink(missing_ok=True)
        print(report(results, folder, options.study))
    print(f"\nWritten to {folder}: {', '.join(_FILES)}")


COMMAND = Command(
    main,
    (PruneOptions,),
    when_interrupted=lambda options: (
        "interrupted: the same command goes on from what is finished in "
        f"{options.workdir}"
    ),
)
