"""A run: a configuration and a folder become results, and nothing finished is lost.

The seeds are worked on in chunks, each durable once it is done; the same call in the
same folder goes on where an earlier one stopped. Networks may come from elsewhere; the
seeds then only label them, and nothing is trained. The folder gets ``flags.txt``,
``events.jsonl``, ``networks/``, ``study.nc``, ``tables/``, ``figures/``,
``report.html`` and ``summary.txt``.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from ioca_jax.checks import as_tuple
from ioca_jax.data import Dataset
from ioca_jax.networks.models import CNN, MLP, Model
from ioca_jax.networks.network import Network
from ioca_jax.networks.training import Trained, train
from ioca_jax.results.files import (
    RESULTS_FILE,
    load_results,
)
from ioca_jax.results.networks import read_networks
from ioca_jax.results.pieces import Chunk, join_seeds
from ioca_jax.results.subsets import intact_accuracy, steps_of_scopes
from ioca_jax.study.chunks import (
    count_finished,
    find_chunks,
    named_arrays,
    save_chunk,
)
from ioca_jax.study.config import StudyConfig, config_of
from ioca_jax.study.events import EVENTS_FILE, Listener, json_lines
from ioca_jax.study.folder import (
    Progress,
    RunFolder,
    explained,
)
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.pipeline import study_networks
from ioca_jax.study.plan import Plan, Request, Shard
from ioca_jax.study.resources import Needs, check_fits, count_needs


def run_study(
    config: StudyConfig,
    workdir: str | os.PathLike,
    *,
    data: Dataset | None = None,
    network: Network | Model | None = None,
    variables: Any = None,
    shard: Shard | None = None,
    seeds_at_once: int | None = None,
    draw: bool = True,
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
            some for each device. Results do not depend on it, on a CPU to the last bit.
        draw: whether to draw figures too, seconds a run; a later call that finds the
            results there draws them.
        listeners: called with every event, as in ``ioca_jax.study.events``.

    Returns:
        The results, as in ``study.nc``.

    Raises:
        ValueError: a configuration or networks that do not fit the dataset, a
            validation split of a single class, a folder that holds the results of
            another configuration, of other data or of other networks, or a study that
            takes more memory or disk than there is.
        OSError: a folder that cannot be written or is in use, or data that is not
            there.

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
    run = _Run(folder, draw, listeners)
    if folder.is_finished():
        digest = request.data.digest if request.data else None
        return folder.report(digest, draw, run.restored)
    return run.compute(request, seeds_at_once)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call of ``run_study``."""

    folder: RunFolder
    draw: bool
    listeners: Sequence[Listener]

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.folder.run.seeds

    def compute(self, request: Request, seeds_at_once: int | None) -> xr.Dataset:
        watch, folder = Stopwatch(), self.folder
        plan = request.plan(seeds_at_once)
        needs = count_needs(plan)
        check_fits(needs, len(self.seeds), folder.path, count_finished(folder.path))
        digest = plan.data.digest
        with explained(folder.path), contextlib.ExitStack() as stack:
            found = folder.open(stack, digest)
            if found is None:  # another process finished it meanwhile
                return folder.report(digest, self.draw, self.restored)
            watch.mark("loaded")
            with watch.listening():
                self._compute_chunks(plan, found, needs, watch)
            watch.mark("computed")
            return self._finish(watch)

    def _finish(self, watch: Stopwatch) -> xr.Dataset:
        """Joins all chunks and writes the run."""
        chunks, _ = find_chunks(self.folder.path)
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
        self, plan: Plan, found: Progress, needs: Needs, watch: Stopwatch
    ) -> None:
        """Computes and saves the seeds that no chunk has yet."""
        for file in found.damaged:
            self._emit(event="damaged", file=file)
        for file in found.restored:
            self.restored(file)
        already = set(found.seeds)
        missing = [seed for seed in self.seeds if seed not in already]
        number = -(-len(missing) // needs.chunk)
        parts = np.array_split(missing, number) if missing else []
        # The first is the longest: all are filled up to its program.
        longest = max(map(len, parts), default=0)
        self._emit(
            event="start",
            seeds=len(self.seeds),
            finished=len(found.seeds),
            chunks=len(parts),
            epochs=plan.epochs,
            scopes=len(plan.scopes) + plan.interactions,
            estimated_seconds=round(needs.seconds(len(missing)), 1),
        )
        finished = len(found.seeds)
        for number, part in enumerate(parts, 1):
            seeds = part.tolist()
            chunk = self._compute_chunk(seeds, longest, number, plan, watch)
            finished += len(seeds)
            save_chunk(chunk, self.folder.path)
            accuracy = intact_accuracy(chunk.results)  # NaN where training diverged
            self._emit(
                event="chunk",
                chunk=number,
                finished=finished,
                seeds=len(self.seeds),
                test_error=_mean(1 - accuracy),
                seconds=watch.now(),
            )

    def _compute_chunk(
        self,
        seeds: Sequence[int],
        length: int,
        number: int,
        plan: Plan,
        watch: Stopwatch,
    ) -> Chunk:
        """Studies some seeds, filled up to a number of networks."""
        # Filled up with other seeds, whose results are dropped: one program for all.
        others = (seed for seed in itertools.count() if seed not in self.seeds)
        filled = [*seeds, *itertools.islice(others, length - len(seeds))]

        def on_scope(scope: str) -> None:
            watch.mark("first_curves")
            self._emit(event="scope", chunk=number, scope=scope)

        if plan.given:
            trained = plan.given.take(plan.fields["seeds"], filled)
        else:
            trained = self._train(plan, filled, seeds, number)
            watch.mark("trained")
        steps = self._known_steps() if plan.points == "auto" else {}
        results = study_networks(plan, trained, steps=steps, on_scope=on_scope)
        run = self.folder.run
        digests = {
            "variables_digest": run.variables_digest,
            "fingerprint": run.fingerprint,
        }
        results.attrs |= {name: digest for name, digest in digests.items() if digest}
        variables = jax.tree.map(
            lambda leaf: leaf[: len(seeds)], named_arrays(trained.variables)
        )
        return Chunk(results.isel(seed=slice(len(seeds))), variables)

    def _known_steps(self) -> dict[str, np.ndarray]:
        """The steps that the run's first chunk chose; none before it is finished."""
        chunks, _ = find_chunks(self.folder.path)
        return steps_of_scopes(chunks[0].load().results) if chunks else {}

    def _train(
        self,
        plan: Plan,
        filled: Sequence[int],
        seeds: Sequence[int],
        chunk: int,
    ) -> Trained:
        """Trains some seeds, and those that fill the chunk up."""

        def on_epoch(epoch: int, metrics: dict[str, np.ndarray]) -> None:
            means = {
                name: _mean(values[: len(seeds)]) for name, values in metrics.items()
            }
            self._emit(
                event="epoch", chunk=chunk, first_seed=seeds[0], epoch=epoch, **means
            )

        model: Any = plan.model
        assert plan.training is not None
        return train(
            model,
            plan.data,
            plan.training,
            filled,
            keep_epochs=plan.trajectory_epochs,
            memory_gb=plan.memory_gb,
            on_epoch=on_epoch,
        )


def _mean(values: np.ndarray) -> float | None:
    """The mean over networks that have not diverged; None, as JSON has no NaN."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


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
