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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from ioca_jax.checks import as_tuple, check_classes, check_integer
from ioca_jax.data import Dataset
from ioca_jax.networks.models import CNN, MLP, Model
from ioca_jax.networks.network import Network
from ioca_jax.networks.training import Trained, check_fit, train
from ioca_jax.results.files import (
    RESULTS_FILE,
    load_results,
)
from ioca_jax.results.networks import read_networks
from ioca_jax.results.pieces import Chunk, FinishedRun, join_seeds
from ioca_jax.results.selection import intact_accuracy
from ioca_jax.sources import load_dataset
from ioca_jax.study.chunks import (
    count_finished,
    find_chunks,
    named_arrays,
    save_chunk,
)
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.events import EVENTS_FILE, Listener, json_lines
from ioca_jax.study.folder import (
    Progress,
    RunFolder,
    differing_field,
    explained,
)
from ioca_jax.study.given import (
    GivenNetworks,
    accept_networks,
    describe_data,
    import_networks,
)
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.pipeline import study_networks
from ioca_jax.study.resources import (
    Needs,
    check_depth,
    check_fits,
    count_needs,
    shapes_of_variables,
)
from ioca_jax.study.scores import check_scores
from ioca_jax.study.shard import Shard


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
    shard = shard or Shard()
    _check_seeds_at_once(seeds_at_once)
    if config.network:
        if network is not None or variables is not None:
            raise ValueError(
                "network: expected networks by config.network or as arguments, got both"
            )
        network, variables, own_data = import_networks(config.network)
        data = own_data if data is None else data
    config, given = accept_networks(config, network, variables)
    if data is None and os.path.isfile(config.dataset):
        data = load_dataset(**config.data_arguments())  # a file may have changed
    if data is not None:
        config = describe_data(config, data)
    elif given and not given.is_built_in:  # to see what they compute
        data = load_dataset(**config.data_arguments())
    seeds = shard.seeds(config)
    digests = given.digests(data, len(config.seeds)) if given else (None, None)
    folder = RunFolder(pathlib.Path(workdir), config, shard, *digests)
    run = _Run(config, seeds, folder, given, seeds_at_once, draw, listeners)
    if folder.is_finished():
        return folder.report(data and data.digest, draw, run.restored)
    return run.compute(data)


class Plan(NamedTuple):
    """What a run would do and take: its network, counts, and bytes that it needs."""

    network: Network | Model
    needs: Needs
    finished: int
    memory: int
    disk: int


def plan_run(
    config: StudyConfig,
    data: Dataset,
    given: GivenNetworks | None,
    num_seeds: int,
    path: pathlib.Path,
    *,
    seeds_at_once: int | None = None,
) -> Plan:
    """Plans a run in a folder, and refuses one that cannot run, before any training.

    Args:
        config: what to run.
        data: the dataset.
        given: networks that are not trained.
        num_seeds: of the run, or of its shard.
        path: of the folder, which need not exist yet.
        seeds_at_once: as in ``run_study``.
    """
    _check_seeds_at_once(seeds_at_once)
    network = _fitting_network(config, data, given)
    check_scores(config, network, shapes_of_variables(network, data, given), data)
    needs = count_needs(config, network, data, given, seeds_at_once)
    finished = count_finished(path)
    taken = check_fits(needs, num_seeds, path, finished)
    check_classes(data.validation.y)
    config.check_interactions(network, data)
    return Plan(network, needs, finished, *taken)


def _check_seeds_at_once(seeds_at_once: int | None) -> None:
    if seeds_at_once is not None:
        check_integer("seeds_at_once", seeds_at_once, least=1)


def _fitting_network(
    config: StudyConfig, data: Dataset, given: GivenNetworks | None
) -> Network | Model:
    """The network that is studied, once it is known to fit the data."""
    if given:
        given.check_fit(data, config.seeds, config.quantizer)
        return given.network
    model = config.model(data.num_classes, data.train.x.shape[1:])
    check_depth(model)
    check_fit(model, data, config.train_config())
    return model


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call of ``run_study``."""

    config: StudyConfig
    seeds: tuple[int, ...]
    folder: RunFolder
    given: GivenNetworks | None
    seeds_at_once: int | None
    draw: bool
    listeners: Sequence[Listener]

    def compute(self, data: Dataset | None) -> xr.Dataset:
        watch, config, folder = Stopwatch(), self.config, self.folder
        data = load_dataset(**config.data_arguments()) if data is None else data
        network, needs, *_ = plan_run(
            config,
            data,
            self.given,
            len(self.seeds),
            folder.path,
            seeds_at_once=self.seeds_at_once,
        )
        with explained(folder.path), contextlib.ExitStack() as stack:
            found = folder.open(stack, data.digest)
            if found is None:  # another process finished it meanwhile
                return folder.report(data.digest, self.draw, self.restored)
            watch.mark("loaded")
            with watch.listening():
                self._compute_chunks(network, data, found, needs, watch)
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
        self,
        network: Network | Model,
        data: Dataset,
        found: Progress,
        needs: Needs,
        watch: Stopwatch,
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
            epochs=0 if self.given else self.config.epochs,
            scopes=1 + len(network.layers) + self.config.interactions,
            estimated_seconds=round(needs.seconds(len(missing)), 1),
        )
        finished = len(found.seeds)
        for number, part in enumerate(parts, 1):
            seeds = part.tolist()
            chunk = self._compute_chunk(seeds, longest, number, network, data, watch)
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
        network: Network | Model,
        data: Dataset,
        watch: Stopwatch,
    ) -> Chunk:
        """Studies some seeds, filled up to a number of networks."""
        # Filled up with other seeds, whose results are dropped: one program for all.
        others = (seed for seed in itertools.count() if seed not in self.seeds)
        filled = [*seeds, *itertools.islice(others, length - len(seeds))]

        def on_scope(scope: str) -> None:
            watch.mark("first_curves")
            self._emit(event="scope", chunk=number, scope=scope)

        if self.given:
            trained = self.given.take(self.config.seeds, filled)
        else:
            trained = self._train(network, data, filled, seeds, number)
            watch.mark("trained")
        results = study_networks(self.config, network, data, trained, on_scope=on_scope)
        if self.given:
            results.attrs["variables_digest"] = self.given.digest
        if self.folder.fingerprint:
            results.attrs["fingerprint"] = self.folder.fingerprint
        variables = jax.tree.map(
            lambda leaf: leaf[: len(seeds)], named_arrays(trained.variables)
        )
        return Chunk(results.isel(seed=slice(len(seeds))), variables)

    def _train(
        self,
        model: Any,
        data: Dataset,
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

        return train(
            model,
            data,
            self.config.train_config(),
            filled,
            keep_epochs=self.config.trajectory_epochs,
            memory_gb=self.config.memory_gb,
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


def config_of(results: xr.Dataset) -> StudyConfig:
    """The configuration that gave results."""
    fields = json.loads(results.attrs["configuration"])
    unknown = fields.keys() - {field.name for field in dataclasses.fields(StudyConfig)}
    if unknown:
        raise ValueError(
            f"{RESULTS_FILE}: expected a configuration of this version of ioca_jax, "
            f"got one with {', '.join(sorted(unknown))}; read it with the version that "
            "wrote it, or a newer one"
        )
    lists = {name: tuple(v) for name, v in fields.items() if isinstance(v, list)}
    return StudyConfig(**(fields | lists))


def merge_runs(
    folders: Sequence[str | os.PathLike],
    workdir: str | os.PathLike,
    *,
    partial: bool = False,
) -> xr.Dataset:
    """Joins the runs of shards into the run of all their seeds.

    Args:
        folders: finished runs of one configuration, shards of its seeds.
        workdir: the folder to write, as ``run_study`` does.
        partial: write it also where seeds are missing, as a run of those there.

    Returns:
        The results.

    Raises:
        ValueError: no runs, runs of different configurations, data or networks, a seed
            in two of them, seeds missing, or a file that has changed since it was
            written.
        FileNotFoundError: a folder without a finished run.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> data = ioca.Dataset.from_arrays(x[:300], y[:300], x[300:], y[300:])
        >>> config = ioca.StudyConfig(hidden=(8,), seeds=(0, 1, 2, 3), permutations=0)
        >>> for i in range(2):
        ...     folder, shard = f"runs/shard_{i}", ioca.Shard(i, 2)
        ...     _ = ioca.run_study(config, folder, data=data, shard=shard, draw=False)
        >>> results = ioca.merge_runs(["runs/shard_0", "runs/shard_1"], "runs/all")
        >>> results["seed"].values.tolist()
        [0, 1, 2, 3]
    """
    if not folders:
        raise ValueError("expected the folders of one or more finished runs, got none")
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(FinishedRun.open(folder)) for folder in folders]
        return _merge(runs, folders, pathlib.Path(workdir), partial)


def _merge(
    parts: Sequence[FinishedRun],
    folders: Sequence[str | os.PathLike],
    workdir: pathlib.Path,
    partial: bool,
) -> xr.Dataset:
    """``merge_runs`` of opened runs."""
    _check_configurations(folders, parts)
    config = config_of(parts[0].results)
    if partial:
        there = {seed for part in parts for seed in part.seeds}
        seeds = tuple(seed for seed in config.seeds if seed in there)
        config = dataclasses.replace(config, seeds=seeds)
    seconds = [json.loads(part.attrs["seconds"]) for part in parts]
    joined = join_seeds(
        parts,
        config.seeds,
        configuration=json.dumps(dataclasses.asdict(config)),
        seconds=json.dumps(_slowest(seconds)),
    )
    folder = RunFolder(
        workdir,
        config,
        variables_digest=joined.attrs.get("variables_digest"),
        fingerprint=joined.attrs.get("fingerprint"),
    )
    data_digest = joined.attrs["data_digest"]
    unchanged = "the runs to join are unchanged", "joins them"
    with explained(workdir, unchanged), contextlib.ExitStack() as stack:
        if folder.open(stack, data_digest) is not None:
            return folder.write(joined, draw=True)
    if not (folder.path / "summary.txt").is_file():  # stopped while reporting
        return folder.report(data_digest, draw=True)
    raise ValueError(
        f"workdir: expected a new folder, got {workdir}, which holds a finished run"
    )


def _slowest(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of shards side by side; one that was only written at last lacks some moments."""
    names = dict.fromkeys(itertools.chain.from_iterable(seconds))
    return {name: max(of.get(name, 0.0) for of in seconds) for name in names}


def _check_configurations(
    folders: Sequence[str | os.PathLike], parts: Sequence[FinishedRun]
) -> None:
    """Refuses runs of different configurations."""
    configs = [json.loads(part.attrs["configuration"]) for part in parts]
    for folder, config in zip(folders, configs, strict=True):
        name = differing_field(config, configs[0])
        if name is not None:
            raise ValueError(
                "expected runs of one configuration, got "
                f"{name}={configs[0].get(name)} in {folders[0]} and "
                f"{name}={config.get(name)} in {folder}"
            )


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
