"""A run: a configuration and a folder become results, and nothing finished is lost.

The seeds are worked on in chunks, each durable once it is done; the same call in the
same folder goes on where an earlier one stopped. Networks may come from elsewhere; the
seeds then only label them, and nothing is trained. The folder gets ``flags.txt``,
``events.jsonl``, ``networks/``, ``study.nc``, ``tables/``, ``figures/``,
``report.html`` and ``summary.txt``.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ioca_jax.checks import as_tuple
from ioca_jax.data import Dataset
from ioca_jax.networks.models import CNN, MLP, Model
from ioca_jax.networks.network import Network
from ioca_jax.results.files import (
    RESULTS_FILE,
    load_results,
)
from ioca_jax.results.networks import read_networks
from ioca_jax.results.pieces import join_seeds
from ioca_jax.results.subsets import intact_accuracy
from ioca_jax.study.chunks import count_finished, find_chunks, save_chunk
from ioca_jax.study.compute import Computation, mean
from ioca_jax.study.config import StudyConfig, config_of
from ioca_jax.study.events import EVENTS_FILE, Listener, ProgressLine, json_lines
from ioca_jax.study.folder import (
    Progress,
    RunFolder,
    explained,
)
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.plan import Plan, Request, Shard
from ioca_jax.study.resources import Needs, check_fits, count_needs
from ioca_jax.study.workers.engines import open_workers
from ioca_jax.study.workers.port import Counts, Engine, Unit, run_units
from ioca_jax.study.workers.unit import (
    check_sendable,
    run_unit,
    unit_of,
    write_job,
)


def run_study(
    config: StudyConfig,
    workdir: str | os.PathLike,
    *,
    data: Dataset | None = None,
    network: Network | Model | None = None,
    variables: Any = None,
    shard: Shard | None = None,
    seeds_at_once: int | None = None,
    workers: Any = None,
    draw: bool = True,
    progress: bool = False,
    listeners: Sequence[Listener] = (),
) -> xr.Dataset:
    """Runs a study, goes on with one, or returns what it left in the folder.

    With ``network`` nothing is trained: the seeds label the networks given. Fields of
    the configuration that describe networks then are the network's own (``hidden``: the
    sizes of its layers), those of training have no effect, and epochs of training
    (``trajectory_epochs``) are refused. Measures that need affine layers in a row
    (weight norms) are refused for networks other than ``MLP``.

    Args:
        config: what to run. The run records data and networks that are given rather
            than those that this configuration asks for.
        workdir: the run's folder.
        data: the dataset, if the caller has it already; also data of the caller's own.
        network: the network, ``MLP`` or any that ``trace_network`` found, with
            ``variables``; None trains networks.
        variables: of trained networks; leaves begin with S, in the order of
            ``config.seeds``.
        shard: the share of the seeds to run here; ``merge_runs`` joins shards.
        seeds_at_once: seeds in a chunk, the most that an interruption costs; None takes
            some for each device. Results do not depend on it, on a CPU to the last bit,
            but for the points that ``points="auto"`` chooses from the first chunk.
        workers: where chunks are computed: a number of processes of this machine,
            ``"ray"``, ``"submitit"``, ``"package.module:function"`` (which returns an
            executor), a ``study.workers.engines.Workers`` or an executor of the shape
            of ``concurrent.futures.Executor``; None is this process. Results depend on
            it no more than on ``seeds_at_once``.
        draw: whether to draw figures too, seconds a run; a later call that finds the
            results there draws them.
        progress: whether to show a line that ticks, on a terminal or in a notebook:
            networks, phase, time left. Elsewhere lines are written to stderr.
        listeners: called with every event, as in ``ioca_jax.study.events``.

    Returns:
        The results, as in ``study.nc``.

    Raises:
        ValueError: a configuration or networks that do not fit the dataset, a
            validation split of a single class, a folder that holds the results of
            another configuration, of other data or of other networks, a study that
            takes more memory or disk than there is, or workers that there are not.
        OSError: a folder that cannot be written or is in use, data that is not
            there, or workers that were lost again and again.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> data = ioca.Dataset.from_arrays(x[:300], y[:300], x[300:], y[300:])
        >>> config = ioca.StudyConfig(hidden=(8,), seeds=(0, 1), permutations=0)
        >>> results = ioca.run_study(config, "runs/small", data=data, draw=False)
        >>> results["accuracy"].dims
        ('seed', 'clamp', 'scope', 'ordering', 'step')
    """
    request = Request.of(
        config, data=data, network=network, variables=variables, shard=shard
    )
    folder = RunFolder(pathlib.Path(workdir), request.identity)
    with contextlib.ExitStack() as stack:
        if progress:
            listeners = (*listeners, stack.enter_context(ProgressLine()))
        run = _Run(folder, draw, listeners)
        if folder.is_finished():
            digest = request.data.digest if request.data else None
            return folder.report(digest, draw, run.restored)
        if workers is not None:
            check_sendable(request)
        engine = stack.enter_context(open_workers(workers, folder.path))
        return run.compute(request, seeds_at_once, engine)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call of ``run_study``."""

    folder: RunFolder
    draw: bool
    listeners: Sequence[Listener]

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.folder.run.seeds

    def compute(
        self, request: Request, seeds_at_once: int | None, engine: Engine | None
    ) -> xr.Dataset:
        watch, folder = Stopwatch(), self.folder
        plan, at_once = request.plan(seeds_at_once), 1
        if engine:
            plan, at_once = engine.shared(plan), engine.number or 1
        needs = count_needs(plan)
        finished = count_finished(folder.path)
        check_fits(needs, len(self.seeds), folder.path, finished, at_once)
        digest = plan.data.digest
        with explained(folder.path), contextlib.ExitStack() as stack:
            found = folder.open(stack, digest)
            if found is None:  # another process finished it meanwhile
                return folder.report(digest, self.draw, self.restored)
            watch.mark("loaded")
            shared = Computation(plan, folder.run, folder.path, self._emit, watch)
            with watch.listening():
                names = self._compute_chunks(shared, found, needs, request, engine)
            watch.mark("computed")
            return self._finish(watch, names)

    def _finish(self, watch: Stopwatch, names: Sequence[str]) -> xr.Dataset:
        """Joins the chunks with these names and writes the run."""
        chunks, _ = find_chunks(self.folder.path, names)
        seconds = json.dumps(watch.seconds)
        joined = join_seeds(chunks, self.seeds, seconds=seconds)
        results = self.folder.write(joined, self.draw)
        self._emit(event="end", seconds=watch.seconds)
        return results

    def _emit(self, **event: Any) -> None:
        events_file = self.folder.path / EVENTS_FILE
        for listener in (json_lines(events_file), *self.listeners):
            listener(event)

    def restored(self, file: str) -> None:
        """Tells that a damaged file is written again."""
        self._emit(event="damaged", file=file, remedy="written again")

    def _compute_chunks(
        self,
        shared: Computation,
        found: Progress,
        needs: Needs,
        request: Request,
        engine: Engine | None,
    ) -> list[str]:
        """Computes the seeds that no chunk has yet; returns the names of all chunks."""
        for file in found.damaged:
            self._emit(event="damaged", file=file)
        for file in found.restored:
            self.restored(file)
        already = set(found.seeds)
        missing = [seed for seed in self.seeds if seed not in already]
        parts = _split(missing, needs.chunk, engine)
        self._emit(
            event="start",
            seeds=len(self.seeds),
            finished=len(found.seeds),
            chunks=len(parts),
            epochs=shared.plan.epochs,
            scopes=len(shared.plan.scopes) + shared.plan.interactions,
            estimated_seconds=round(needs.seconds(len(missing)), 1),
        )
        # The first is the longest: all are filled up to its program.
        longest = max(map(len, parts), default=0)
        units = [
            unit_of(self.folder.path, part, longest, number)
            for number, part in enumerate(parts, 1)
        ]
        if engine and units:
            ended = self._on_engine(engine, request, shared.plan, units, already)
        else:
            ended = self._here(shared, units)
        finished = len(found.seeds)
        for unit, error in ended:
            finished += len(unit.seeds)
            self._emit(
                event="chunk",
                chunk=unit.number,
                finished=finished,
                seeds=len(self.seeds),
                test_error=error,
                seconds=shared.watch.now(),
            )
        return [*found.names, *(unit.place.name for unit in units)]

    def _here(
        self, shared: Computation, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, float | None]]:
        """Computes units in this process; returns each with its mean test error."""
        for unit in units:
            chunk = shared.chunk(unit.seeds, unit.length, unit.number)
            save_chunk(chunk, self.folder.path)
            # NaN where training diverged.
            yield unit, mean(1 - intact_accuracy(chunk.results))

    def _on_engine(
        self,
        engine: Engine,
        request: Request,
        plan: Plan,
        units: Sequence[Unit],
        already: Collection[int],
    ) -> Iterator[tuple[Unit, float | None]]:
        """Has units computed elsewhere; the first that fails is raised at the end."""
        job = write_job(request, plan, self.folder.path)
        # The first chunk chooses the points of all.
        alone = plan.points == "auto" and not already
        failed: list[Exception] = []
        for some in (units[:1], units[1:]) if alone else (units,):
            outcomes = run_units(engine, run_unit, job, some, self._count)
            for unit, error, lost in outcomes:
                if lost:
                    self._emit(event="lost", chunk=unit.number, reason=lost)
                elif error:
                    failed.append(error)
                    self._emit(event="failed", chunk=unit.number, reason=str(error))
                else:
                    yield unit, self._tell_events(unit)
            if failed and alone:
                break
        if failed:
            raise failed[0]

    def _count(self, counts: Counts) -> None:
        self._emit(event="units", **counts._asdict())

    def _tell_events(self, unit: Unit) -> float | None:
        """Emits the events of a unit; returns its mean test error."""
        error, text = None, ""
        with contextlib.suppress(FileNotFoundError):  # of a worker that was lost
            text = unit.events.read_text("utf-8")
        for line in text.splitlines():
            event = json.loads(line)
            if event["event"] == "chunk":
                error = event["test_error"]
            else:
                self._emit(**event)
        return error


def _split(seeds: Sequence[int], size: int, engine: Engine | None) -> list[list[int]]:
    """Seeds in chunks of nearly one length, at most ``size``, the longest first.

    Enough that no worker of this machine is idle.
    """
    if not seeds:
        return []
    number = max(-(-len(seeds) // size), (engine and engine.number) or 1)
    parts = np.array_split(seeds, min(number, len(seeds)))
    return [part.tolist() for part in parts]


def load_networks(
    workdir: str | os.PathLike, seeds: Sequence[int] | None = None
) -> tuple[MLP | CNN | None, Any]:
    """Reads a run's networks.

    Args:
        workdir: the run's folder.
        seeds: those whose networks are wanted, for a run larger than memory; None
            reads all.

    Returns:
        The network and the variables, whose leaves begin with S, in the order asked
        for. A traced network,
        which was given to the run, is not stored: None stands for it, and the variables
        are nested dictionaries by the names of their key paths.

    Raises:
        FileNotFoundError: no finished run there.
        ValueError: a seed that the run does not have, or a file that has changed since
            it was written.

    Example:
        >>> import ioca_jax as ioca
        >>> model, variables = ioca.load_networks("runs/demo")  # of make demo, say
        >>> len(variables["params"]["dense_0"]["bias"])  # networks
        8
    """
    with load_results(workdir, lazy=True) as results:
        places = None if seeds is None else _places(results["seed"].values, seeds)
        variables = read_networks(workdir, places)
        if results.attrs.get("architecture", "MLP") not in ("MLP", "CNN"):
            return None, variables
        shape = results.attrs.get("example_shape", "28,28").split(",")
        model = config_of(results).model(results.sizes["class"], [*map(int, shape)])
        return model, variables


def _places(there: np.ndarray, seeds: Sequence[int]) -> list[int]:
    """Where on the axis S of a run some seeds are."""
    place = {seed: index for index, seed in enumerate(there.tolist())}
    wanted = as_tuple("seeds", seeds)
    missing = [seed for seed in wanted if seed not in place]
    if missing:
        raise ValueError(
            f"seeds: expected seeds of the run, {', '.join(map(str, list(place)[:20]))}"
            f"{', ...' * (len(place) > 20)}, got {missing[0]}"
        )
    return [place[seed] for seed in wanted]


def how_to_go_on(workdir: str | os.PathLike) -> str:
    """After an interruption, what is finished and how to go on, in one line."""
    folder = pathlib.Path(workdir)
    finished = count_finished(folder)
    if not finished and (folder / RESULTS_FILE).is_file():
        return f"interrupted: {folder} is finished; the same command reports it"
    return (
        f"interrupted: {finished} networks are finished in {folder}; the same command "
        "goes on from there"
    )
