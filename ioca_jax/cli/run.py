r"""Trains networks, measures their neurons, ablates them in every order, and reports.

The main job. For example, the paper's experiment on 5,000 real MNIST digits:

  ioca run --dataset=mnist5k --seeds=0:8 --hidden=100,100 \
      --activation=relu --epochs=20 --workdir=runs/demo

The run's folder then holds study.nc (everything, labelled; ioca_jax.load_results reads
it), report.html (everything on one page), networks/, figures/, tables/, summary.txt
(its findings as text), events.jsonl, and flags.txt, which replays the run:
--flagfile=runs/demo/flags.txt --workdir=runs/again. A folder that holds this run's
results is reported, not computed again; where it holds a part of them, the run goes on.
"""

import dataclasses
import pathlib

import ioca_jax as ioca
from ioca_jax.arrays import describe_shape
from ioca_jax.cli.command import Command, option
from ioca_jax.cli.ending import print_findings
from ioca_jax.inference.families import too_few_for_tests
from ioca_jax.study import chunks, events, folder, plan, resources, trackers
from ioca_jax.study.run import how_to_go_on
from ioca_jax.study.workers.engines import Workers

_TRACKERS = ("wandb", "mlflow", "tensorboard")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Flags of a run beside its configuration's."""

    workdir: str = option("runs/study", "The run's folder.")
    shard: str = option(
        "0/1",
        "i/n: run every n-th seed from the i-th on (from 0), in a workdir of its own; "
        "ioca merge joins the n.",
    )
    seeds_at_once: int | None = option(
        None,
        "Seeds in a chunk, the most that an interruption costs; some for each device "
        "if not given.",
    )
    tensorboard: bool = option(False, "Short for --tracker=tensorboard.")
    tracker: str | None = option(
        None,
        f"Log losses and errors there too: {', '.join(_TRACKERS)}. It logs in the "
        "run's folder, unless WANDB_MODE or MLFLOW_TRACKING_URI in the environment "
        "names a server.",
    )
    figures: bool = option(
        True,
        "Draw figures, seconds a run; the same command draws them later where the run "
        "is finished.",
    )
    dry_run: bool = option(
        False,
        "Say what would run, how large it is and, by order of magnitude, how long it "
        "takes; leave nothing behind.",
    )
    variables_digest: str | None = option(
        None,
        "Digest of the networks that --network must give; a run's flags.txt has it.",
    )

    def __post_init__(self):
        """Checks the tracker."""
        if self.tracker not in (None, *_TRACKERS):
            raise ValueError(
                f"tracker: expected one of {', '.join(_TRACKERS)}, got {self.tracker!r}"
            )

    def listeners(self, config: ioca.StudyConfig) -> list[events.Listener]:
        """Whom the run tells of its progress."""
        chosen = "tensorboard" if self.tensorboard else None
        names = filter(None, dict.fromkeys((chosen, self.tracker)))
        settings = dataclasses.asdict(config)
        made = (trackers.make_tracker(name, self.workdir, settings) for name in names)
        return [events.log_lines(few_seeds(config)), *made]


def few_seeds(config: ioca.StudyConfig) -> str:
    """A line if a study's seeds, of all shards, are too few for tests, or ``""``."""
    number = len(config.seeds)
    why = too_few_for_tests(number)
    return f"{number} seed{'s' * (number != 1)}: {why}" if why else ""


def describe(request: plan.Request, options: RunOptions, workers: Workers) -> str:
    """What a run would do and take, as text; refuses one that cannot run."""
    path = pathlib.Path(options.workdir)
    if folder.RunFolder(path, request.identity).is_finished():
        return f"{path} is finished; the same command reports it"
    workers.prepare(path)
    study, seeds = request.plan(options.seeds_at_once), len(request.identity.seeds)
    data, model = study.data, study.network
    needs, finished = resources.count_needs(study), chunks.count_finished(path)
    memory, disk = resources.check_fits(needs, seeds, path, finished)
    sizes = ", ".join(
        f"{len(getattr(data, name).y):,} {name}"
        for name in ("train", "validation", "test")
    )
    few = f"{few_seeds(request.config)}\n".lstrip()
    done = f"{study.epochs} epochs each" if study.training else "trained already"
    seconds = needs.seconds(seeds - finished)
    return (
        f"Data: {data.name}, {sizes} examples of shape {describe_shape(data.train.x)}, "
        f"{data.num_classes} classes\n"
        f"Networks: {seeds}, {finished} of them finished, {done}, {model.num_neurons} "
        f"neurons in {len(model.layers)} layers\n"
        f"Orders: of {', '.join(study.measures)}, both ways, and "
        f"{study.random_orders} at random, in {len(study.scopes)} scopes, "
        f"clamped to {', '.join(study.clamps)}\n"
        f"{few}"
        f"Takes at least {resources.size(memory)} of memory and {resources.size(disk)} "
        f"of disk, and about {events.duration(seconds)} by order of magnitude, without "
        "compiling: about a minute more where the machine has not compiled it yet"
    )


def main(options: RunOptions, config: ioca.StudyConfig, workers: Workers) -> None:
    """Runs the study that the flags describe, and prints findings."""
    shard = ioca.Shard.parse(options.shard)
    if options.dry_run or options.variables_digest is not None:
        request = plan.Request.of(config, shard=shard)
        if options.variables_digest is not None:
            request.check_digest(options.variables_digest)
        if options.dry_run:
            print(describe(request, options, workers))
            return
    path = pathlib.Path(options.workdir)
    results = ioca.run_study(
        config,
        path,
        shard=shard,
        seeds_at_once=options.seeds_at_once,
        workers=workers if workers.workers else None,
        draw=options.figures,
        progress=True,
        listeners=options.listeners(config),
    )
    print_findings(results, path)
    if not folder.can_write(path):
        print(f"\n{path} is finished and cannot be written: nothing is changed")
    else:
        print(f"Written to {options.workdir}: {folder.contents(path)}")


COMMAND = Command(
    main,
    (RunOptions, ioca.StudyConfig, Workers),
    when_interrupted=lambda options, *_: how_to_go_on(options.workdir),
)
