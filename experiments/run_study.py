r"""Trains networks, measures their neurons, ablates them in every order, and reports.

The main job. For example, the paper's experiment on 5,000 real MNIST digits:

  python -m experiments.run_study --dataset=mnist5k --seeds=0:8 --hidden=100,100 \
      --activation=relu --epochs=20 --workdir=runs/demo

The run's folder then holds study.nc (everything, labelled; ioca_jax.load_results reads
it), report.html (everything on one page), networks/, figures/, tables/, summary.txt
(what is printed), events.jsonl, and flags.txt, which replays the run:
--flagfile=runs/demo/flags.txt --workdir=runs/again. A folder that holds this run's
results is reported, not computed again; where it holds a part of them, the run goes on.
"""

import dataclasses
import pathlib

from absl import flags

import ioca_jax as ioca
from ioca_jax.study import events, folder, given, resources, runner, trackers

from . import config_flags

WORKDIR = flags.DEFINE_string("workdir", "runs/study", "The run's folder.")
SHARD = flags.DEFINE_string(
    "shard",
    "0/1",
    "i/n: run every n-th seed from the i-th on (from 0), in a workdir of its own; "
    "experiments.merge joins the n.",
)
SEEDS_AT_ONCE = flags.DEFINE_integer(
    "seeds_at_once",
    None,
    "Seeds in a chunk, the most that an interruption costs; some for each device if "
    "not given.",
)
TENSORBOARD = flags.DEFINE_boolean(
    "tensorboard", False, "Short for --tracker=tensorboard."
)
TRACKER = flags.DEFINE_enum(
    "tracker",
    None,
    ["wandb", "mlflow", "tensorboard"],
    "Log losses and errors there too: in the run's folder, unless WANDB_MODE or "
    "MLFLOW_TRACKING_URI in the environment names a server.",
)
FIGURES = flags.DEFINE_boolean(
    "figures",
    True,
    "Draw figures, seconds a run; the same command draws them later where the run is "
    "finished.",
)
DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Say what would run, how large it is and, by order of magnitude, how long it "
    "takes; leave nothing behind.",
)
VARIABLES_DIGEST = flags.DEFINE_string(
    "variables_digest",
    None,
    "Digest of the networks that --network must give; a run's flags.txt has it.",
)
config_flags.define(ioca.StudyConfig)
flags.adopt_module_key_flags(config_flags)  # --help lists them

_SPLITS = ("train", "validation", "test")


def describe(config: ioca.StudyConfig, path: pathlib.Path) -> str:
    """What a run of a configuration would do and take; refuses one that cannot run."""
    network, variables, data = None, None, None
    if config.network:
        network, variables, data = given.import_networks(config.network)
    config, theirs = given.accept_networks(config, network, variables)
    data = data or ioca.load_dataset(**config.data_arguments())
    shape = data.train.x.shape[1:]
    shard = ioca.Shard.parse(SHARD.value)
    if folder.RunFolder(path, config, shard, theirs and theirs.digest).is_finished():
        return f"{path} is finished; the same command reports it"
    seeds = len(shard.seeds(config))
    model, needs, finished, memory, disk = runner.plan_run(
        config, data, theirs, seeds, path, seeds_at_once=SEEDS_AT_ONCE.value
    )
    splits = {name: len(getattr(data, name).y) for name in _SPLITS}
    sizes = ", ".join(f"{size:,} {name}" for name, size in splits.items())
    done = "trained already" if theirs else f"{config.epochs} epochs each"
    seconds = needs.seconds(seeds - finished)
    return (
        f"Data: {data.name}, {sizes} examples of shape {list(shape)}, "
        f"{data.num_classes} classes\n"
        f"Networks: {seeds}, {finished} of them finished, {done}, {model.num_neurons} "
        f"neurons in {len(model.layers)} layers\n"
        f"Orders: of {', '.join(config.measures)}, both ways, and "
        f"{config.random_orders} at random, in {len(model.layers) + 1} scopes, "
        f"clamped to {', '.join(config.clamps)}\n"
        f"Takes at least {resources.size(memory)} of memory and {resources.size(disk)} "
        f"of disk, and about {events.duration(seconds)} without compiling, by order of "
        "magnitude"
    )


def main() -> None:
    """Runs the study that the flags describe, and prints its summary."""
    config = config_flags.parse(ioca.StudyConfig)
    if VARIABLES_DIGEST.value is not None:
        given.check_digest(config, VARIABLES_DIGEST.value)
    if DRY_RUN.value:
        print(describe(config, pathlib.Path(WORKDIR.value)))
        return
    listeners = [events.progress_bar(), events.log_lines()]
    chosen = "tensorboard" if TENSORBOARD.value else None
    for name in filter(None, dict.fromkeys((chosen, TRACKER.value))):
        settings = dataclasses.asdict(config)
        listeners.append(trackers.make_tracker(name, WORKDIR.value, settings))
    folder_of_run = pathlib.Path(WORKDIR.value)
    ioca.run_study(
        config,
        folder_of_run,
        shard=ioca.Shard.parse(SHARD.value),
        seeds_at_once=SEEDS_AT_ONCE.value,
        draw=FIGURES.value,
        listeners=listeners,
    )
    summary = folder_of_run / "summary.txt"
    print(summary.read_text("utf-8") if summary.is_file() else "", end="")
    if not folder.can_write(folder_of_run):
        print(
            f"\n{folder_of_run} is finished and cannot be written: nothing is changed"
        )
    else:
        drawn = " figures," if FIGURES.value else ""
        print(
            f"\nWritten to {WORKDIR.value}: report.html, study.nc, networks,{drawn} "
            "tables, summary.txt, events.jsonl, flags.txt"
        )


if __name__ == "__main__":
    config_flags.run_main(
        main, when_interrupted=lambda: runner.how_to_go_on(WORKDIR.value)
    )
